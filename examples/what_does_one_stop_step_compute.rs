//! What does one StoP step compute?
//!
//! `cargo run --release --example what_does_one_stop_step_compute`
//!
//! Algorithm 1 of the paper on an image of four patches, by a model small enough to print every tensor of it. The lines
//! are those of [`stop_mim::train::Trainer`], which does the same to batches, in parallel.

use stop_mim::autograd::Tape;
use stop_mim::methods::stop::TokenForm;
use stop_mim::methods::{Chunk, MethodConfig, ModelConfig};
use stop_mim::nn::{AdamW, Ema, LinearInit};
use stop_mim::paper::{Sigma, masked_loss, sample_noise};
use stop_mim::rng::{Purpose, stream};
use stop_mim::vit::{EncoderConfig, PredictorConfig};
use stop_mim::{DType, Indices, Tensor};

fn main() -> stop_mim::Result<()> {
    let sigma = Sigma::from_std(1.0);
    let encoder = EncoderConfig {
        image_size: 4,
        patch_size: 2,
        channels: 3,
        dim: 4,
        depth: 1,
        heads: 1,
        mlp_ratio: 4.0,
        class_token: false,
        mask_token: false,
        patch_std: 0.3,
        position_scale: 1.0,
    };
    let predictor = PredictorConfig { dim: 4, depth: 1, heads: 1, learned_positions: false, embed_std: 0.5 };
    let method = MethodConfig::stop(sigma, TokenForm::Paper);
    let config = ModelConfig { method, encoder, predictor, linear_init: LinearInit::Xavier };
    let (method, mut params) = config.build(DType::F64, &mut stream(0, Purpose::Init, [0, 0]))?;
    let method = method.as_masked_prediction().expect("StoP predicts masked tokens");
    let mut optimizer = AdamW::new(&params.trained().collect::<Vec<_>>());

    let show = |line: &str, what: &str, x: &Tensor| println!("{line:>5}  {what}\n{x:.3}\n");
    let mut rng = stream(0, Purpose::Noise, [0, 0]);

    println!("An image of 2 x 2 patches, each of 2 x 2 pixels. Features have {} numbers, so have positions.\n", 4);
    let image = Tensor::normal([1, 3, 4, 4], 1.0, DType::F64, &mut rng);
    show("4", "I_x ~ S: an image [1, 3, 4, 4]", &image);

    let (context, targets) = (Indices::from_rows(&[vec![0, 1]]), Indices::from_rows(&[vec![2]]));
    println!("    6  (x, B_x), (y, B_y) = mask(p): patches {context:?} are seen, {targets:?} are to be predicted\n");

    let noise = sample_noise([1, 1, 4], sigma, DType::F64, &mut rng);
    let chunk = Chunk::masked(image, context, targets, Some(noise.clone()));
    let tape = Tape::new();
    let weights = params.on(&tape); // the target encoder's stay off it
    let (theta, phi) = (&weights["encoder"], &weights["predictor"]);

    let s_x = method.encode(theta, &chunk);
    show("5, 7", "s_x = f_θ(x): the context's features [1, 2, 4]", s_x.value());
    show("9", "n ~ N(0, σI): the noise [1, 1, 4]", &noise);
    let a = method.predictor().embed.weight;
    show("", "A: one matrix for noise and context [4, 4]", phi[a].value());
    show("", "ψ: the predictor's four positions [1, 4, 4]", phi[method.predictor().position].value());

    let (c, m) = method.tokens(phi, &s_x, &chunk);
    show("11", "m = A n + ψ_By + m: the masked token, at a stochastic position [1, 1, 4]", m.value());
    show("12", "c = A s_x + ψ_Bx: the context tokens [1, 2, 4]", c.value());

    let s_y_hat = method.predict(phi, &c, &m);
    show("14", "ŝ_y = g_φ(c, m): what the predictor says of patch 2 [1, 1, 4]", s_y_hat.value());
    let s_y = method.targets(&weights, &chunk);
    show("15", "s_y = get_target(y): what the target encoder sees there [1, 1, 4]", s_y.value());
    let loss = masked_loss(method.loss(), &s_y_hat, &s_y);
    println!("   16  loss = L(ŝ_y, s_y): smooth L1, {:.6}\n", loss.item());

    println!("The tape holds {} entries, from the leaves (parameters) to the loss. Swept backward:\n", tape.len());
    let mut found = tape.backward(&loss);
    let mut gradients = Vec::new();
    for (param, leaf) in params.trained_params().zip(weights.leaves()) {
        let gradient = found.take(leaf).expect("every trained parameter is read");
        println!("       |∂loss/∂{}| = {:.2e}", param.name, gradient.norm());
        gradients.push(gradient);
    }

    let before = params["predictor"].value(a).clone();
    let ema = |target| Ema { momentum: 0.996, target };
    let modules = params.trained_and_average().into_iter().map(|(module, average)| (module, average.map(ema)));
    optimizer.update_averaged(modules, gradients, 1e-2, 0.05);
    let after = params["predictor"].value(a);
    show("17", "sgd_step (AdamW): A afterwards", after);
    println!(
        "       A moved by at most {:.4}: about the learning rate, whatever the gradient.",
        before.max_abs_diff(after)
    );
    println!("       And the target encoder follows the encoder: 0.996 of it stays, 0.004 is new.");
    Ok(())
}
