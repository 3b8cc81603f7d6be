use clap::{CommandFactory, Parser};

use super::*;
use crate::train::LearningRate;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    masks: MaskArgs,
    #[command(flatten)]
    length: LengthArgs,
    #[command(flatten)]
    train: TrainArgs,
}

fn parsed(args: &str) -> Line {
    Line::parse_from(std::iter::once("x").chain(args.split_whitespace()))
}

fn config(args: &str) -> RunConfig {
    let line = parsed(args);
    line.train.apply(recipe(&line.model, &line.masks).unwrap(), line.length.length(), 50_000).unwrap()
}

/// Of every method and preset; and with flags, what they change and nothing else.
#[test]
fn without_flags_a_run_is_its_recipe() {
    let methods = [
        ("stop", MethodConfig::stop(Sigma::OFFICIAL, TokenForm::Official)),
        ("ijepa", MethodConfig::ijepa(1)),
        ("mae", MethodConfig::Mae { normalize_patches: false, sigma: None }),
        ("data2vec", MethodConfig::Data2vec { target_blocks: 2 }),
        ("simmim", MethodConfig::Simmim),
    ];
    for (name, method) in &methods {
        for preset in Preset::ALL {
            let recipe = RunConfig::for_method(method.clone(), preset);
            assert_eq!(config(&format!("--method {name} --preset {preset}")), recipe);
        }
    }
    let stop = RunConfig::for_method(methods[0].1.clone(), Preset::Toy);
    assert_eq!(config(""), stop);
    let lr = LearningRate { start: 2e-4, peak: 1e-3, end: 1e-5, warmup: 1250 };
    assert_eq!((stop.steps, stop.lr), (12_496, lr));
    let slower = RunConfig { lr: LearningRate { start: 1e-3, ..lr }, seed: 3, ..stop.clone() };
    assert_eq!(config("--lr-start 1e-3 --seed 3"), slower);
    let shorter = RunConfig { batch: 100, steps: 750, lr: LearningRate { warmup: 150, ..lr }, ..stop };
    assert_eq!(config("--batch 100 --epochs 1.5 --warmup 0.2"), shorter);
    assert_eq!(config("--batch 100 --steps 750 --warmup 0.2"), shorter);
}

#[test]
fn the_flags_of_a_model_are_a_group() {
    let command = ModelArgs::augment_args(clap::Command::new("x"));
    let sizes = SizeArgs::augment_args(clap::Command::new("x"));
    let of_sizes = |id: &clap::Id| sizes.get_arguments().any(|arg| arg.get_id() == id);
    let own = command.get_arguments().map(clap::Arg::get_id).filter(|id| !of_sizes(id));
    assert_eq!(own.map(clap::Id::as_str).collect::<Vec<_>>(), OF_MODEL);
}

/// What the help says is the default, is: a flag with that value changes nothing, and with another it does.
#[test]
fn the_help_has_the_recipes_defaults() {
    let flags = [
        ("method", "stop", "ijepa"),
        ("preset", "toy", "vit-t16"),
        ("sigma-std", "0.25", "1"),
        ("sigma-variance", "0.0625", "1"),
        ("stop-tokens", "official", "paper"),
        ("noise-on", "masked", "both"),
        ("covariance", "learned", "fixed"),
        ("target-blocks", "1", "2"),
        ("targets", "4", "3"),
        ("target-scale", "0.15,0.25", "0.15,0.2"),
        ("target-aspect", "0.75,1.5", "1,1.5"),
        ("context-scale", "0.85,1", "0.9,1"),
        ("min-keep", "4", "3"),
        ("epochs", "16", "3"),
        ("batch", "64", "32"),
        ("warmup", "0.1", "0"),
        ("lr", "0.001", "0.0005"),
        ("weight-decay", "0.05,0.05", "0.04,0.4"),
        ("ema", "0.996,1", "0.9995,1"),
        ("crop-scale", "0.3,1", "0.2,1"),
        ("precision", "f32", ""),
        ("seed", "0", "1"),
    ];
    let line = Line::command();
    for (flag, default, other) in flags {
        assert_eq!(config(&format!("--{flag} {default}")), config(""), "--{flag}");
        assert!(other.is_empty() || config(&format!("--{flag} {other}")) != config(""), "--{flag}");
        let arg = line.get_arguments().find(|arg| arg.get_long() == Some(flag)).unwrap();
        let help = arg.get_help().unwrap().to_string();
        assert!(help.contains(&format!("[default: {default}")), "--{flag}: {help}");
    }
    let others = "lr-start 1, lr-end 1, no-flip, official-masks, image-size 64, patch 2, dim 64, depth 2, heads 4, \
        predictor-dim 32, predictor-depth 1, predictor-heads 1, learned-positions, linear-init xavier, patch-std 1, \
        position-scale 0.5, embed-std 1";
    for other in others.split(", ") {
        assert_ne!(config(&format!("--{other}")), config(""), "--{other}");
    }
    let ijepa = config("--method ijepa");
    assert_eq!(config("--method ijepa --target-resolution full"), ijepa);
    assert_ne!(config("--method ijepa --target-resolution max-pool"), ijepa);
    assert_ne!(config("--method ijepa --penalty l2:0.5"), ijepa);
    let mae = config("--method mae");
    assert_eq!(config("--method mae --mask-ratio 0.75"), mae);
    assert_ne!(config("--method mae --mask-ratio 0.5"), mae);
    assert_ne!(config("--method mae --normalize-patches"), mae);
    let noisy = config("--method mae --sigma-std 0.5");
    assert_eq!(noisy, config("--method mae --sigma-variance 0.25"));
    assert_ne!(noisy, mae);
    for method in ["data2vec", "simmim"] {
        let plain = config(&format!("--method {method}"));
        assert_eq!(config(&format!("--method {method} --mask-ratio 0.6 --mask-unit 2")), plain);
        assert_ne!(config(&format!("--method {method} --mask-unit 1")), plain);
    }
    assert_eq!(config("--method data2vec --target-blocks 2"), config("--method data2vec"));
    assert_ne!(config("--method data2vec --target-blocks 4"), config("--method data2vec"));
}
