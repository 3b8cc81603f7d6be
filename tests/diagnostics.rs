//! The diagnostics of training, on models whose answers are known.

use approx::assert_relative_eq;
use stop_mim::data::{self, Subset};
use stop_mim::lab::small;
use stop_mim::methods::stop::TokenForm;
use stop_mim::methods::{MethodConfig, Numbers};
use stop_mim::paper::{Covariance, NoiseOn, Sigma};
use stop_mim::train::{StepParams, Trainer};
use stop_mim::{DType, Tensor};

fn diagnose(trainer: &Trainer) -> Numbers {
    let (config, splits) = (small::run(trainer), data::open("shapes", 16).unwrap());
    trainer.diagnose(&config, (&Subset::even(splits.test.clone(), 70), &splits.normalization().unwrap())).unwrap()
}

fn stop() -> Trainer {
    small::trainer(small::stop(), false, DType::F32)
}

fn scale_a(trainer: &mut Trainer, factor: f64) {
    for p in trainer.params["predictor"].iter_mut().filter(|p| p.name == "predictor_embed.weight") {
        p.value = p.value.scaled(factor);
    }
}

#[test]
fn without_noise_nothing_is_hidden_and_nothing_moves() {
    for method in small::every_method() {
        let trainer = small::trainer(method.clone(), false, DType::F32);
        let noisy = trainer.method.sigma().is_some();
        let found = diagnose(&trainer);
        assert!(found["target_std"] > 0.0, "{method:?} {found:?}");
        let of_a = ["context_rms", "visible_norm_a"].map(|name| found.get(name));
        assert_eq!(of_a.map(|x| x.is_some()), [method.has_predictor(); 2], "{method:?} {found:?}");
        assert!(of_a.iter().flatten().all(|x| *x > 0.0), "{method:?} {found:?}");
        let gamma = &trainer.params["encoder"].get("norm.weight").unwrap().value;
        assert_eq!(found["norm_gamma"], gamma.norm());
        for name in ["noise_sensitivity", "neighbor_distance", "position_accuracy"] {
            assert_eq!(noisy, found.get(name).is_some(), "{name}: {method:?} {found:?}");
        }
        if noisy {
            assert!(found["noise_sensitivity"] > 0.0 && found["position_accuracy"] < 1.0, "{found:?}");
        }
    }
}

/// The gauge escape: (A, γ, β) → (A/c, cγ, cβ) leaves the context as it was and makes the noise c times smaller. |A|
/// falls, and it says nothing; |A| · |γ| does not move.
#[test]
fn the_gauge_escape_is_seen() {
    let mut trainer = stop();
    let (before, norm_a) = (diagnose(&trainer), trainer.positions().unwrap().a.value().norm());
    let c = 4.0; // a power of two: nothing is rounded
    scale_a(&mut trainer, 1.0 / c);
    for p in trainer.params["encoder"].iter_mut().filter(|p| p.name.starts_with("norm.")) {
        p.value = p.value.scaled(c);
    }
    let after = diagnose(&trainer);
    assert_relative_eq!(trainer.positions().unwrap().a.value().norm(), norm_a / c, max_relative = 1e-12);
    assert_relative_eq!(
        after["visible_norm_a"] * after["norm_gamma"],
        before["visible_norm_a"] * before["norm_gamma"],
        max_relative = 1e-12
    );
    assert_relative_eq!(after["context_rms"], before["context_rms"], max_relative = 1e-6);
    assert_relative_eq!(after["neighbor_distance"], c * before["neighbor_distance"], max_relative = 1e-12);
    assert_relative_eq!(after["min_neighbor_distance"], c * before["min_neighbor_distance"], max_relative = 1e-12);
    assert!(after["position_accuracy"] > before["position_accuracy"], "{before:?} {after:?}");
    assert!(after["noise_sensitivity"] < before["noise_sensitivity"] / 2.0, "{before:?} {after:?}");
    assert_eq!(
        (after["target_std"], after["rank_me"]),
        (before["target_std"], before["rank_me"]),
        "of the target encoder"
    );
}

/// Noise that the context scales is as many times larger as the context, and so is what it hides.
#[test]
fn noise_that_the_context_scales_hides_as_much_more() {
    let (target_blocks, sigma, tokens) = (1, Sigma::from_std(0.5), TokenForm::Official);
    let (noise_on, covariance) = (NoiseOn::Masked, Covariance::Conditioned);
    let method = MethodConfig::Stop { target_blocks, sigma, tokens, noise_on, covariance };
    let mut trainer = small::trainer(method, false, DType::F32);
    let before = diagnose(&trainer);
    for p in trainer.params["encoder"].iter_mut().filter(|p| p.name.starts_with("norm.")) {
        p.value = p.value.scaled(4.0);
    }
    let after = diagnose(&trainer);
    for name in ["neighbor_distance", "min_neighbor_distance"] {
        assert_relative_eq!(4.0 * after[name], before[name], max_relative = 1e-6);
    }
}

/// However the images are cut into chunks, of which the last may be smaller.
#[test]
fn a_diagnosis_is_of_all_images_alike() {
    for method in small::every_method() {
        let trainer = small::trainer(method.clone(), false, DType::F32);
        let [cut, whole] = [5, 64].map(|chunk_images| diagnose(&Trainer { chunk_images, ..trainer.clone() }));
        assert_eq!(cut.0.len(), whole.0.len());
        for (a, b) in cut.0.iter().zip(&whole.0) {
            // A guess between two positions as near as each other may turn.
            let tolerance = if a.name == "position_accuracy" { 5e-4 } else { 1e-5 * b.value.abs() };
            assert!((a.value - b.value).abs() <= tolerance, "{method:?}: {a:?} {b:?}");
        }
    }
}

/// The class token of MAE has zeros, and stands on no patch.
#[test]
fn positions_are_those_of_patches() {
    for method in small::every_method() {
        let trainer = small::trainer(method.clone(), false, DType::F32);
        let Some(positions) = trainer.positions() else { continue };
        let psi = positions.psi.value().to_f64_vec();
        assert_eq!(psi.len(), 16 * 8);
        assert!(psi.chunks(8).all(|psi| psi.iter().any(|x| *x != 0.0)), "{method:?}");
    }
}

#[test]
fn the_context_is_measured_after_the_projection() {
    let mut trainer = stop();
    let before = diagnose(&trainer);
    scale_a(&mut trainer, 2.0);
    assert_relative_eq!(diagnose(&trainer)["context_rms"], 2.0 * before["context_rms"], max_relative = 1e-6);
    // γ = 0 and β = (1, …, 1): every s_x is ones, and A s_x the sums of A's rows.
    let d_e = trainer.config().encoder.dim;
    for p in trainer.params["encoder"].iter_mut().filter(|p| p.name.starts_with("norm.")) {
        p.value = Tensor::full([d_e], f64::from(p.name == "norm.bias"), DType::F32);
    }
    let a = trainer.positions().unwrap().a.value().to_f64_vec();
    let sums: Vec<f64> = a.chunks(d_e).map(|row| row.iter().sum()).collect();
    let rms = (sums.iter().map(|s| s * s).sum::<f64>() / sums.len() as f64).sqrt();
    let found = diagnose(&trainer);
    assert_relative_eq!(found["context_rms"], rms, max_relative = 1e-6);
    assert_eq!(found["norm_gamma"], 0.0);
}

#[test]
fn targets_that_only_say_where_they_are_do_not_vary() {
    let mut trainer = stop();
    assert!(diagnose(&trainer)["target_std"] > 0.1);
    // A target encoder that sees no pixels.
    let target = &mut trainer.params["target_encoder"];
    for p in target.iter_mut().filter(|p| p.name == "patch_embed.proj.weight") {
        p.value = p.value.scaled(0.0);
    }
    let found = diagnose(&trainer);
    assert!(found["target_std"] < 1e-6 && found["feature_std"] < 1e-6 && found["rank_me"] < 1.01, "{found:?}");
    // MAE's are the pixels, whatever the encoder.
    let mae = diagnose(&small::trainer(MethodConfig::Mae { normalize_patches: true, sigma: None }, false, DType::F32));
    assert!(mae["target_std"] > 0.5 && mae["target_std"] < 1.0, "{mae:?}");
}

#[test]
fn a_diagnosis_repeats_and_follows_the_weights() {
    let mut trainer = stop();
    let before = diagnose(&trainer);
    assert_eq!(diagnose(&trainer), before);
    trainer.step(&small::batch(&trainer), &StepParams { lr: 1e-2, weight_decay: 0.0, ema_momentum: 0.9 }).unwrap();
    let after = diagnose(&trainer);
    assert!(
        after["context_rms"] != before["context_rms"] && after["target_std"] != before["target_std"],
        "{before:?} {after:?}"
    );
}
