//! StoP's and I-JEPA's variants: Table 7, Fig. 3, section 6, Table 8 and the penalties of section 4.3, as a step of training
//! computes them and as the program runs them. (Their equations are tested in tests/paper_equations.rs; gradients, threads,
//! chunks, devices and checkpoints with those of every method; numbers against PyTorch in tests/parity.)

mod common;

use common::Scratch;
use stop_mim::lab::small;
use stop_mim::methods::stop::TokenForm;
use stop_mim::methods::{Chunk, MethodConfig};
use stop_mim::paper::variants::context_rms;
use stop_mim::paper::{Covariance, NoiseOn, Penalty, PenaltyNorm, Sigma, TargetResolution};
use stop_mim::train::{Noise, StepParams, Trainer};
use stop_mim::{DType, Tensor};

/// A step that changes no weight.
const STILL: StepParams = StepParams { lr: 0.0, weight_decay: 0.0, ema_momentum: 1.0 };

fn stop(noise_on: NoiseOn, covariance: Covariance) -> Trainer {
    let (target_blocks, sigma, tokens) = (1, Sigma::from_std(0.5), TokenForm::Official);
    let method = MethodConfig::Stop { target_blocks, sigma, tokens, noise_on, covariance };
    small::trainer(method, false, DType::F64)
}

/// Table 7 and Fig. 3: what the noise adds to c and to m, beside the same chunk with noise that is 0.
#[test]
fn noise_moves_the_tokens_that_it_is_on_and_as_far_as_it_should() {
    let moved = [(NoiseOn::Masked, true, false), (NoiseOn::Context, false, true), (NoiseOn::Both, true, true)];
    for (noise_on, on_masked, on_context) in moved {
        for covariance in Covariance::ALL {
            let trainer = stop(noise_on, covariance);
            let chunk = trainer.chunk(&small::batch(&trainer), 0..3);
            let silence = |noise: &Option<Tensor>| noise.as_ref().map(|n| Tensor::zeros(*n.shape(), n.dtype()));
            let (noise, context_noise) = (silence(&chunk.noise), silence(&chunk.context_noise));
            let silent = Chunk { noise, context_noise, ..chunk.clone() };
            let (method, w) = (trainer.method.as_masked_prediction().unwrap(), trainer.params.constants());
            let (phi, s_x) = (&w["predictor"], method.encode(&w["encoder"], &chunk));
            let ((c, m), (c_0, m_0)) = (method.tokens(phi, &s_x, &chunk), method.tokens(phi, &s_x, &silent));
            let (a, h) = (phi[method.predictor().embed.weight].value().to_f64_vec(), context_rms(&s_x));
            let h = h.value().to_f64_vec();

            for (wanted, moved, still, noise) in
                [(on_masked, &m, &m_0, &chunk.noise), (on_context, &c, &c_0, &chunk.context_noise)]
            {
                let change = moved.value().zip_map(still.value(), |moved, still| moved - still);
                let Some(noise) = noise else {
                    assert!(!wanted && change.norm() == 0.0, "{noise_on} {covariance}");
                    continue;
                };
                assert!(wanted, "{noise_on} {covariance}");
                let ([rows, tokens, d_p], [.., width]) = (change.dims::<3>("change"), noise.dims::<3>("noise"));
                let n = noise.to_f64_vec();
                let exact = Tensor::from_fn([rows, tokens, d_p], DType::F64, |i| {
                    let (token, k) = (i / d_p, i % d_p);
                    let n = &n[token * width..(token + 1) * width];
                    let projected = || n.iter().zip(&a[k * width..]).map(|(n, a)| n * a).sum::<f64>();
                    match covariance {
                        Covariance::Fixed => n[k],
                        Covariance::Learned => projected(),
                        Covariance::Conditioned => h[token / tokens % h.len()] * projected(),
                    }
                });
                assert!(change.max_abs_diff(&exact) < 1e-14, "{noise_on} {covariance}");
            }
        }
    }
}

/// What is reported as noise on a position is what the draws have, to what chance leaves of 12,000 numbers and more.
#[test]
fn the_noise_that_is_reported_is_the_noise_that_is_drawn() {
    for covariance in Covariance::ALL {
        let mut trainer = stop(NoiseOn::Both, covariance);
        // A context that is far from 1, and so h(x).
        let norm = trainer.params["encoder"].iter_mut().filter(|p| p.name.starts_with("norm."));
        norm.for_each(|p| p.value = p.value.scaled(3.0));
        let batch = small::batch(&trainer);
        let (method, w) = (trainer.method.clone(), trainer.params.constants());
        let method = method.as_masked_prediction().unwrap();
        let mut squares = Vec::new();
        for step in 0..60 {
            let mut batch = batch.clone();
            batch.noise = Noise::Drawn { seed: 1, step };
            let chunk = trainer.chunk(&batch, 0..7);
            let silent = Chunk { noise: chunk.noise.as_ref().map(|n| n.scaled(0.0)), ..chunk.clone() };
            let s_x = method.encode(&w["encoder"], &chunk);
            let [m, still] = [&chunk, &silent].map(|chunk| method.tokens(&w["predictor"], &s_x, chunk).1);
            squares.extend(m.value().zip_map(still.value(), |m, still| (m - still).powi(2)).to_f64_vec());
        }
        let drawn = (squares.iter().sum::<f64>() / squares.len() as f64).sqrt();
        let reported = trainer.step(&batch, &STILL).unwrap().numbers["noise_rms"];
        assert!((drawn / reported - 1.0).abs() < 0.05, "{covariance}: {drawn} drawn, {reported} reported");
    }
}

/// In the loss, its gradient and the log a penalty is what it is of the whole matrix, however the batch is cut.
#[test]
fn a_penalty_is_counted_once() {
    for (norm, weight) in [(PenaltyNorm::L1, 0.3), (PenaltyNorm::L2, 0.2)] {
        let method =
            |penalty| MethodConfig::Ijepa { target_blocks: 1, target_resolution: TargetResolution::Full, penalty };
        let [mut plain, mut penalized] =
            [None, Some(Penalty { norm, weight })].map(|penalty| small::trainer(method(penalty), false, DType::F64));
        let b = &penalized.params["predictor"].get("predictor_embed.weight").unwrap().value.clone();
        let at = penalized.params.trained_params().position(|p| p.name == "predictor_embed.weight").unwrap();
        let entries = b.to_f64_vec();
        let (exact, slope): (f64, Vec<f64>) = match norm {
            PenaltyNorm::L1 => (
                weight * entries.iter().map(|b| b.abs()).sum::<f64>(),
                entries.iter().map(|b| weight * b.signum()).collect(),
            ),
            PenaltyNorm::L2 => (
                weight * entries.iter().map(|b| b * b).sum::<f64>(),
                entries.iter().map(|b| 2.0 * weight * b).collect(),
            ),
        };
        for chunk_images in [1, 2, 3, 8] {
            (plain.chunk_images, penalized.chunk_images) = (chunk_images, chunk_images);
            let batch = small::batch(&plain);
            let (without, with) = (plain.gradients(&batch).unwrap(), penalized.gradients(&batch).unwrap());
            assert!((with.loss.item() - without.loss.item() - exact).abs() < 1e-13, "{norm}, chunks of {chunk_images}");
            for (i, (with, without)) in with.gradients.iter().zip(&without.gradients).enumerate() {
                let added = with.zip_map(without, |with, without| with - without);
                if i == at {
                    assert!(added.max_abs_diff(&Tensor::new(*added.shape(), slope.clone())) < 1e-13, "{norm}");
                } else {
                    assert!(added.norm() < 1e-13, "{norm}: the gradient of another parameter");
                }
            }
            let hyper = StepParams { lr: 1e-3, weight_decay: 0.0, ema_momentum: 0.9 };
            let logged = penalized.clone().step(&batch, &hyper).unwrap().numbers["penalty"];
            assert!((logged - exact).abs() < 1e-13, "what was part of the loss, not what is left after the step");
        }
        let without = plain.step(&small::batch(&plain), &STILL).unwrap().numbers;
        assert!(without.get("penalty").is_none());
    }
}

const SMALL: &str = "pretrain --image-size 16 --patch 4 --min-keep 1 --dim 16 --depth 1 --heads 2 --predictor-dim 8 \
    --predictor-depth 1 --predictor-heads 1 --batch 4 --checkpoint-every 1 --keep 100";

/// Each variant through the program: it trains, says what it is, logs what is its own, and a run that was interrupted goes
/// on to the same bits.
#[test]
fn each_variant_trains_and_goes_on() {
    let scratch = Scratch::new();
    let variants = [
        ("stop", "--noise-on context", ", noise on context tokens", "noise_rms"),
        ("stop", "--noise-on both --covariance conditioned", " context tokens, conditioned covariance", "noise_rms"),
        ("stop", "--covariance fixed", ", fixed covariance", "noise_rms"),
        ("ijepa", "--target-resolution bilinear --penalty l1:0.01", ", bilinear targets, penalty l1:0.01", "penalty"),
        ("ijepa", "--target-resolution max-pool --penalty l2:0.1", ", max-pool targets, penalty l2:0.1", "penalty"),
        ("ijepa", "--learned-positions", "ijepa", "norm_a"),
    ];
    for (i, (method, flags, name, column)) in variants.into_iter().enumerate() {
        let args = format!("{SMALL} --method {method} {flags}");
        scratch.says(&format!("{args} --steps 4 --name whole{i}"));
        let said = scratch.says(&format!("reconstruct runs/whole{i}/checkpoint.safetensors"));
        assert!(said.contains(&format!("{name} after 4 steps")), "{flags}: {said}");
        let log = String::from_utf8(scratch.read(format!("runs/whole{i}/log.csv"))).unwrap();
        assert!(log.lines().next().unwrap().split(',').any(|cell| cell == column), "{log}");
        // As if it had been killed after its second step.
        let checkpoints = scratch.path(format!("runs/whole{i}/checkpoints"));
        let whole = scratch.read(format!("runs/whole{i}/checkpoint.safetensors"));
        let mut later: Vec<_> = std::fs::read_dir(&checkpoints).unwrap().map(|entry| entry.unwrap().path()).collect();
        later.sort();
        later.into_iter().skip(3).for_each(|path| std::fs::remove_file(path).unwrap());
        std::fs::remove_file(scratch.path(format!("runs/whole{i}/checkpoint.safetensors"))).unwrap();
        scratch.says(&format!("pretrain --resume runs/whole{i}"));
        assert!(scratch.read(format!("runs/whole{i}/checkpoint.safetensors")) == whole, "{flags}: other bits");
    }
}

#[test]
fn a_variant_that_means_nothing_is_refused() {
    let scratch = Scratch::new();
    let cases: &[(&str, &[&str])] = &[
        ("--method ijepa --noise-on both", &["--noise-on means nothing to ijepa", "--method stop"]),
        ("--method mae --covariance fixed", &["--covariance means nothing to mae", "--method stop"]),
        ("--method stop --target-resolution bilinear", &["--target-resolution means nothing", "--method ijepa"]),
        ("--method stop --penalty l1:0.01", &["--penalty means nothing to stop", "--method ijepa"]),
        ("--method ijepa --penalty l1", &["'l1' is no penalty", "as in l1:0.01"]),
        ("--method ijepa --penalty l2:-1", &["weight of -1", "not negative"]),
        ("--method ijepa --penalty huber:1", &["no penalty is called 'huber'", "l1, l2"]),
        ("--noise-on every", &["every", "masked", "context", "both"]),
        ("--stop-tokens positions-only --noise-on both", &["positions-only", "--noise-on", "--stop-tokens"]),
    ];
    for (flags, words) in cases {
        scratch.refuses(&format!("{SMALL} --steps 1 {flags}"), words);
    }
    let odd = SMALL.replace("--image-size 16", "--image-size 20");
    let words = ["--target-resolution max-pool", "grid of 5x5 tokens", "even number"];
    scratch.refuses(&format!("{odd} --steps 1 --method ijepa --target-resolution max-pool"), &words);
    assert_eq!(scratch.entries(), 0, "refused before anything is written");
}

/// The settings of before say what they said, and are written as they were.
#[test]
fn an_older_configuration_is_still_read() {
    let older = r#"[{"ijepa":{"target_blocks":2}},
        {"stop":{"target_blocks":1,"sigma":{"std":0.25},"tokens":"official"}}]"#;
    let methods: Vec<MethodConfig> = serde_json::from_str(older).unwrap();
    let same = [MethodConfig::ijepa(2), MethodConfig::stop(Sigma::OFFICIAL, TokenForm::Official)];
    assert_eq!(methods, same);
    assert_eq!(serde_json::to_string(&methods).unwrap(), older.split_whitespace().collect::<String>());
    for method in small::every_method() {
        let text = serde_json::to_string(&method).unwrap();
        assert_eq!(serde_json::from_str::<MethodConfig>(&text).unwrap(), method, "{text}");
    }
    let wrong = r#"{"ijepa":{"target_blocks":1,"penalty":{"norm":"l1","weight":1,"more":2}}}"#;
    assert!(serde_json::from_str::<MethodConfig>(wrong).is_err());
}
