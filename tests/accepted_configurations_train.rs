//! A configuration either is refused, with what to do, or trains: whatever `RunConfig::validate` accepts makes a step with a
//! finite loss. Each setting is tried at its edges and beyond, alone and in pairs.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rand::RngExt;
use stop_mim::data::{Normalization, Shapes, Splits, shapes::Task};
use stop_mim::lab::small;
use stop_mim::methods::MethodConfig;
use stop_mim::nn::LinearInit;
use stop_mim::paper::Sigma;
use stop_mim::paper::masking::{MultiBlock, Sampler, Truncation};
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::{EmaMomentum, LearningRate, Masking, RunConfig, WeightDecay, pretrain};
use stop_mim::{DType, Error};

type Change = Box<dyn Fn(&mut RunConfig)>;

/// Every setting at values that are usual, at an edge, and impossible, each with what it is called.
fn changes() -> Vec<(String, Change)> {
    let mut all: Vec<(String, Change)> = Vec::new();
    macro_rules! each {
        (|$config:ident| $place:expr, [$($value:expr),+ $(,)?]) => {
            $(all.push((
                format!("{} = {}", stringify!($place), stringify!($value)),
                Box::new(move |$config: &mut RunConfig| $place = $value),
            ));)+
        };
    }
    const BAD: [f64; 4] = [-1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY];
    each!(|c| c.model.encoder.image_size, [0, 8, 12, 15, 16, 2048, usize::MAX]);
    each!(|c| c.model.encoder.patch_size, [0, 1, 2, 3, 8, 16, 32, usize::MAX]);
    each!(|c| c.model.encoder.dim, [0, 4, 6, 24, usize::MAX]);
    each!(|c| c.model.encoder.depth, [0, 1, 3, usize::MAX]);
    each!(|c| c.model.encoder.heads, [0, 1, 4, 5, 12, usize::MAX]);
    each!(|c| c.model.encoder.class_token, [false, true]);
    each!(|c| c.model.encoder.patch_std, [0.0, BAD[0], BAD[1], BAD[2], BAD[3]]);
    each!(|c| c.model.encoder.position_scale, [0.0, BAD[0], BAD[1], BAD[2], BAD[3]]);
    each!(|c| c.model.predictor.dim, [0, 4, 6, usize::MAX]);
    each!(|c| c.model.predictor.depth, [0, 1, usize::MAX]);
    each!(|c| c.model.predictor.heads, [0, 1, 3, 8]);
    each!(|c| c.model.predictor.learned_positions, [true]);
    each!(|c| c.model.predictor.embed_std, [0.0, BAD[0], BAD[1], BAD[2]]);
    each!(|c| c.model.linear_init, [LinearInit::Normal, LinearInit::Xavier]);
    let random = |ratio| Masking::Random { ratio };
    each!(|c| c.masking, [random(0.75), random(0.0), random(1.0), random(-0.5), random(f64::NAN)]);
    each!(|c| c.masking, [Masking::Blocks(MultiBlock::for_small_grid((4, 4))), blocks(|_| ())]);
    let published = |side| Masking::Blocks(MultiBlock::published((side, side)));
    each!(|c| c.masking, [published(4), published(14)]);
    each!(|c| c.masking, [blocks(|b| b.grid = (2, 2)), blocks(|b| b.min_keep = 0), blocks(|b| b.min_keep = 17)]);
    each!(|c| c.masking, [blocks(|b| b.target.count = 0), blocks(|b| b.target.count = 7)]);
    each!(|c| c.masking, [blocks(|b| b.context.count = 0), blocks(|b| b.context.count = 2)]);
    each!(|c| c.masking, [blocks(|b| b.target.scale = (0.0, 1.0)), blocks(|b| b.target.scale = (0.5, f64::NAN))]);
    each!(|c| c.masking, [blocks(|b| b.target.aspect = (1e-9, 1e9)), blocks(|b| b.target.aspect = (2.0, 1.0))]);
    each!(|c| c.masking, [blocks(|b| b.allow_overlap = true), blocks(|b| b.truncation = Truncation::Raster)]);
    each!(|c| c.masking, [blocks(|b| b.sampler = Sampler::Official)]);
    each!(|c| c.augment.scale, [(0.0, 1.0), (1.0, 1.0), (0.5, 0.4), (f32::NAN, 1.0), (1e-9, 1e-9)]);
    each!(|c| c.augment.flip, [0.0, 1.0, 1.5, f64::NAN]);
    each!(|c| c.batch, [0, 1, 64, 65, usize::MAX]);
    each!(|c| c.steps, [0, 1, usize::MAX]);
    each!(|c| c.lr.warmup, [0, 2, 3, usize::MAX]);
    let lr = |start, peak, end| LearningRate { start, peak, end, warmup: 1 };
    let (decay, ema) = (|start, end| WeightDecay { start, end }, |start, end| EmaMomentum { start, end });
    each!(|c| c.lr, [lr(0.0, 0.0, 0.0), lr(0.0, 1e-3, 0.0), lr(-1.0, 1e-3, 0.0), lr(0.0, f64::NAN, 0.0)]);
    each!(|c| c.lr.peak, [0.0, 1e-3, f64::INFINITY]);
    each!(|c| c.weight_decay, [decay(0.0, 0.0), decay(1e9, 0.0), decay(0.0, f64::NAN), decay(-1.0, 0.0)]);
    each!(|c| c.ema, [ema(0.0, 1.0), ema(1.0, 0.0), ema(-0.1, 1.0), ema(0.9, 1.1), ema(f64::NAN, 1.0)]);
    let statistics = |mean, std| Some(Normalization::new([mean; 3], [std; 3]));
    for (mean, std) in [(0.5, 0.25), (0.5, 0.0), (0.5, -1.0), (f32::NAN, 0.25), (0.5, f32::NAN), (0.5, f32::INFINITY)] {
        let set = move |c: &mut RunConfig| c.normalization = statistics(mean, std);
        all.push((format!("normalized by {mean} and {std}"), Box::new(set)));
    }
    for k in [0, 1, 3, usize::MAX] {
        let set = move |c: &mut RunConfig| match &mut c.model.method {
            MethodConfig::Ijepa { target_blocks, .. } | MethodConfig::Stop { target_blocks, .. } => *target_blocks = k,
            MethodConfig::Mae { .. } => {}
        };
        all.push((format!("targets of {k} blocks"), Box::new(set)));
    }
    for std in [0.0, 1e3] {
        let set = move |c: &mut RunConfig| {
            if let MethodConfig::Stop { sigma, .. } = &mut c.model.method {
                *sigma = Sigma::from_std(std);
            }
        };
        all.push((format!("sigma of {std}"), Box::new(set)));
    }
    all
}

fn blocks(change: impl Fn(&mut MultiBlock)) -> Masking {
    let mut blocks = MultiBlock { min_keep: 1, ..MultiBlock::for_small_grid((4, 4)) };
    change(&mut blocks);
    Masking::Blocks(blocks)
}

/// Whether it was accepted. `what` says what was changed.
fn refused_or_trains(config: &RunConfig, what: &str) -> bool {
    if let Err(error) = config.validate() {
        let Error::Config { problem, hint } = &error else { panic!("{what}: {error:?}") };
        assert!(problem.len() > 10 && hint.len() > 10, "{what}: {error}");
        return false;
    }
    let images = |seed| Arc::new(Shapes::new(seed, 64, config.model.encoder.image_size, Task::Class));
    let splits = Splits::new(images(0), images(1)).with_normalization(Normalization::CIFAR10);
    let mut losses = Vec::new();
    let trained = catch_unwind(AssertUnwindSafe(|| {
        pretrain(config, &splits, usize::MAX, &mut |report, _| {
            losses.push(report.loss);
            Ok(if report.step == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
    }));
    match trained.unwrap_or_else(|_| panic!("{what}: passes validate, and then panics")) {
        Ok(_) => assert!(!losses.is_empty() && losses.iter().all(|loss| loss.is_finite()), "{what}: {losses:?}"),
        // Whether there are as many images as a batch has is for the data to say.
        Err(error) => assert!(config.batch > 64, "{what}: passes validate, and then: {error}"),
    }
    true
}

/// Two steps of a small model, and the diagnostics behind the last.
fn base(method: MethodConfig) -> RunConfig {
    RunConfig { batch: 4, steps: 2, ..small::run(&small::trainer(method, false, DType::F32)) }
}

#[test]
fn every_setting_alone() {
    let (mut accepted, mut refused) = (0, 0);
    for method in small::every_method() {
        for (what, change) in changes() {
            let mut config = base(method.clone());
            change(&mut config);
            let trained = refused_or_trains(&config, &format!("{method:?}, {what}"));
            *(if trained { &mut accepted } else { &mut refused }) += 1;
        }
    }
    assert!(accepted > 300 && refused > 300, "{accepted} accepted, {refused} refused");
}

#[test]
fn pairs_of_settings() {
    let (changes, methods) = (changes(), small::every_method());
    let mut rng = stream(0, Purpose::Eval, [0, 0]);
    let mut accepted = 0;
    for _ in 0..2000 {
        let method = &methods[rng.random_range(0..methods.len())];
        let [first, second] = [(); 2].map(|()| &changes[rng.random_range(0..changes.len())]);
        let mut config = base(method.clone());
        first.1(&mut config);
        second.1(&mut config);
        accepted += usize::from(refused_or_trains(&config, &format!("{method:?}, {}, {}", first.0, second.0)));
    }
    assert!(accepted > 200, "{accepted} accepted");
}

/// What cannot work is refused, by name.
#[test]
fn what_learns_the_wrong_thing_is_refused() {
    let message = |method: &MethodConfig, change: &dyn Fn(&mut RunConfig)| {
        let mut config = base(method.clone());
        change(&mut config);
        config.validate().expect_err("must be refused").to_string()
    };
    for method in small::every_method() {
        let mae = method.class_token();
        let error = message(&method, &|c| c.model.encoder.class_token = !mae);
        let expected = format!("set class_token to {mae}");
        assert!(error.contains(&expected), "{method:?}: {error}");
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            assert!(message(&method, &|c| c.model.encoder.patch_std = bad).contains("patch_std"));
            assert!(message(&method, &|c| c.model.encoder.position_scale = bad).contains("position_scale"));
            assert!(message(&method, &|c| c.model.predictor.embed_std = bad).contains("embed_std"));
        }
    }
}

/// A σ that no draw can have is not read from a file.
#[cfg(feature = "checkpoint")]
#[test]
fn a_negative_sigma_is_not_read() {
    let text = serde_json::to_string(&Sigma::OFFICIAL).unwrap();
    assert_eq!(serde_json::from_str::<Sigma>(&text).unwrap(), Sigma::OFFICIAL);
    for bad in ["-0.25", "1e999", "null"] {
        assert!(serde_json::from_str::<Sigma>(&text.replace("0.25", bad)).is_err(), "{bad}");
    }
    let error = serde_json::from_str::<Sigma>(&text.replace("0.25", "-0.25")).unwrap_err().to_string();
    assert!(error.contains("a standard deviation that is not negative"), "{error}");
}
