//! The gradient of a whole training step, every method, against central differences in f64.
//!
//! Single operations are checked where they are written (`src/autograd/ops`); here is everything together: encoder,
//! the paper's equations, predictor, loss, the cut into chunks and the sum over them.

mod common;

use rand::RngExt;
use stop_mim::nn::Role;
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::Trainer;
use stop_mim::{DType, Error, Tensor};

/// Each trained parameter of the trainer moved by h times its direction.
fn moved(trainer: &Trainer, directions: &[Tensor], h: f64) -> Trainer {
    let mut moved = trainer.clone();
    let modules = [&mut moved.params.encoder, &mut moved.params.predictor];
    let trained = modules.into_iter().flat_map(|m| m.iter_mut()).filter(|p| p.role == Role::Trained);
    for (param, direction) in trained.zip(directions) {
        param.value.add_assign(&direction.scaled(h));
    }
    moved
}

#[test]
fn a_training_step_of_every_method() {
    for (i, method) in common::every_method().into_iter().enumerate() {
        // Learned positions add one parameter, to whichever method.
        for learned_positions in if i == 0 { &[false, true][..] } else { &[false] } {
            let mut trainer = common::tiny(method.clone(), *learned_positions, DType::F64);
            trainer.chunk_images = 3; // two chunks of three images and one of one
            let batch = common::batch(&trainer);
            let gradients = trainer.gradients(&batch).unwrap().gradients;
            let inner = |directions: &[Tensor]| -> f64 {
                let products = gradients
                    .iter()
                    .zip(directions)
                    .map(|(g, d)| g.to_f64_vec().iter().zip(d.to_f64_vec()).map(|(g, d)| g * d).sum::<f64>());
                products.sum()
            };
            let mut rng = stream(1, Purpose::Eval, [0, 0]);
            let compare = |what: &str, directions: Vec<Tensor>| {
                // A step of fixed length, whatever the number of parameters.
                let h = 1e-5 / directions.iter().map(|d| d.norm().powi(2)).sum::<f64>().sqrt();
                let loss = |h: f64| moved(&trainer, &directions, h).gradients(&batch).unwrap().loss;
                let (analytic, numeric) = (inner(&directions), (loss(h) - loss(-h)) / (2.0 * h));
                let scale = gradients.iter().map(|g| g.norm().powi(2)).sum::<f64>().sqrt();
                // Differences of a loss near 1 in f64 are good to about 10⁻¹⁰; a dropped term is off by 10⁻³ or more.
                let error = (analytic - numeric).abs() / scale.max(1e-3);
                assert!(error < 1e-7, "{method:?}, {what}: analytic {analytic:e}, numeric {numeric:e}");
            };
            // All parameters at once, then each on its own: its gradient cannot hide behind larger ones.
            let random = |g: &Tensor, rng: &mut rand::rngs::StdRng| {
                Tensor::from_fn(*g.shape(), DType::F64, |_| rng.random_range(-1.0..1.0))
            };
            compare("all parameters", gradients.iter().map(|g| random(g, &mut rng)).collect());
            for i in 0..gradients.len() {
                let zero = |g: &Tensor| Tensor::zeros(*g.shape(), DType::F64);
                let only =
                    gradients.iter().enumerate().map(|(k, g)| if k == i { random(g, &mut rng) } else { zero(g) });
                compare(&format!("parameter {i}"), only.collect());
            }
        }
    }
}

#[test]
fn a_parameter_without_a_gradient_is_named() {
    let stop = common::every_method().remove(2); // official form: the mask token is not read
    let mut trainer = common::tiny(stop, false, DType::F64);
    let batch = common::batch(&trainer);
    assert!(trainer.gradients(&batch).is_ok());
    let mask_token = trainer.model.predictor.mask_token;
    trainer.params.predictor.set_role(mask_token, Role::Trained);
    match trainer.gradients(&batch) {
        Err(Error::Training { problem, .. }) => assert!(problem.contains("mask_token"), "{problem}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn chunks_do_not_change_what_is_computed() {
    for method in common::every_method() {
        // Given noise, so that the draws do not depend on the cut.
        let mut trainer = common::tiny(method, false, DType::F64);
        let mut batch = common::batch(&trainer);
        trainer.chunk_images = 7;
        if let Some(noise) = trainer.cut(&batch, 0..7).noise {
            let blocks = batch.targets.len();
            let rows = noise.shape()[0] / blocks;
            let given = (0..blocks).map(|i| noise.rows(i * rows..(i + 1) * rows)).collect();
            batch.noise = stop_mim::train::Noise::Given(given);
        }
        let whole = trainer.gradients(&batch).unwrap();
        for chunk_images in [1, 2, 3, 5] {
            trainer.chunk_images = chunk_images;
            let cut = trainer.gradients(&batch).unwrap();
            assert!((cut.loss - whole.loss).abs() < 1e-14);
            for (x, y) in cut.gradients.iter().zip(&whole.gradients) {
                assert!(x.max_abs_diff(y) < 1e-13);
            }
        }
    }
}
