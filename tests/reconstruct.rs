//! What a model predicts, looked at: the numbers behind the pictures, and the command that draws them.

mod common;

use common::{SMALL, Scratch};
use stop_mim::DType;
use stop_mim::data::shapes::Task;
use stop_mim::data::{Normalization, Shapes, evaluation_images};
use stop_mim::eval::resemblance;
use stop_mim::lab::small;
use stop_mim::methods::stop::TokenForm;
use stop_mim::methods::{Chunk, MethodConfig, TokenPrediction};
use stop_mim::paper::{NoiseOn, Sigma, TargetResolution};
use stop_mim::report::predictions::prediction_sheet;
use stop_mim::tensor::{Indices, Tensor};
use stop_mim::train::predictions::{HeatMaps, Predicted, Prediction, predictions};
use stop_mim::train::{Batch, Noise, Trainer};

const NORMALIZATION: Normalization = Normalization::CIFAR10;

fn trainer(method: MethodConfig) -> Trainer {
    small::trainer(method, false, DType::F32)
}

fn stop(std: f64, tokens: TokenForm) -> MethodConfig {
    MethodConfig::stop(Sigma::from_std(std), tokens)
}

fn predicting(trainer: &Trainer) -> TokenPrediction<'_> {
    TokenPrediction::of(&*trainer.method).unwrap()
}

fn images(n: usize) -> Shapes {
    Shapes::new(3, n, 16, Task::Class)
}

/// What such a trainer's model predicts of so many images.
fn look(trainer: &Trainer, n: usize, seed: u64) -> Vec<Prediction> {
    let masking = small::run(trainer).masking;
    predictions((&*trainer.method, &trainer.params), &masking, (&images(n), &NORMALIZATION), seed).unwrap()
}

fn maps(prediction: &Prediction) -> &[HeatMaps] {
    match &prediction.predicted {
        Predicted::Features(maps) => maps,
        Predicted::Pixels(_) => panic!("no feature maps"),
    }
}

/// Image `i` under the masks of its prediction, as a step of training cuts it, with noise that is 0.
fn chunk(trainer: &Trainer, i: usize, prediction: &Prediction) -> Chunk {
    let row = |tokens: &Vec<u32>| Indices::from_rows(std::slice::from_ref(tokens));
    let pixels = evaluation_images(&images(i + 1), i..i + 1, &NORMALIZATION).unwrap();
    let (on, width) = (trainer.method.noise_on(), trainer.method.noise_width());
    let silence = |tokens: &Vec<u32>| Tensor::zeros([1, tokens.len(), width], DType::F32);
    let targets = prediction.targets.iter().map(row).collect();
    let masked = prediction.targets.iter().filter(|_| on.masked());
    let context = Some(&prediction.context).filter(|_| on.context());
    let noise = Noise::Given(masked.chain(context).map(silence).collect());
    let batch = Batch::masked(Tensor::new([1, 3, 16, 16], pixels), vec![row(&prediction.context)], targets, noise);
    trainer.chunk(&batch, 0..1)
}

/// ŝ_y of a chunk, \[P, N_t, outputs\].
fn answers(trainer: &Trainer, chunk: &Chunk) -> Vec<f64> {
    predicting(trainer).predictions(&trainer.params.constants(), chunk).value().to_f64_vec()
}

#[test]
fn heat_maps_are_of_what_algorithm_1_predicts() {
    let methods = [
        MethodConfig::ijepa(2),
        stop(0.5, TokenForm::Official),
        stop(0.5, TokenForm::Paper),
        stop(0.5, TokenForm::PositionsOnly),
    ];
    let variants = small::every_method().into_iter().filter(|method| match method {
        MethodConfig::Stop { noise_on, .. } => *noise_on != NoiseOn::Masked,
        MethodConfig::Ijepa { target_resolution, .. } => *target_resolution != TargetResolution::Full,
        _ => false,
    });
    let methods = methods.into_iter().chain(variants);
    for method in methods {
        let trainer = trainer(method.clone());
        for (i, prediction) in look(&trainer, 3, 1).iter().enumerate() {
            let chunk = chunk(&trainer, i, prediction);
            let answers = answers(&trainer, &chunk);
            let everywhere = chunk.with_targets(Indices::all(1, 16));
            let s_y = predicting(&trainer).targets(&trainer.params.constants(), &everywhere).value().to_f64_vec();
            let (shown, length) = (maps(prediction), prediction.targets[0].len());
            assert!(!shown.is_empty());
            for HeatMaps { query, predicted, drawn, target } in shown {
                let same = |found: &[f64], expected: Vec<f64>| {
                    found.len() == 16 && found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6)
                };
                // Blocks may overlap, and each predicts its tokens anew: the query is a token of one of them.
                let of_some_block = prediction.targets.iter().enumerate().any(|(block, tokens)| {
                    let at = tokens.iter().position(|token| token == query).map(|k| (block * length + k) * 12);
                    at.is_some_and(|at| same(predicted, resemblance(&answers[at..at + 12], &s_y, 1.0)))
                });
                assert!(of_some_block, "{method:?}, image {i}, token {query}");
                let of_query = &s_y[*query as usize * 12..][..12];
                assert!(same(target, resemblance(of_query, &s_y, 1.0)));
                let greatest = target.iter().copied().fold(0.0, f64::max);
                assert_eq!(target[*query as usize], greatest, "a token resembles itself most");
                for map in [Some(predicted), drawn.as_ref(), Some(target)].into_iter().flatten() {
                    assert!((map.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                }
                assert_eq!(drawn.is_some(), trainer.method.sigma().is_some());
            }
        }
    }
}

#[test]
fn a_draw_is_as_far_from_the_mean_as_the_noise_is_large() {
    let apart = |std: f64| -> Option<f64> {
        let predictions = look(&trainer(stop(std, TokenForm::Official)), 3, 1);
        let distance = |maps: &HeatMaps| -> Option<f64> {
            let drawn = maps.drawn.as_ref()?;
            Some(drawn.iter().zip(&maps.predicted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max))
        };
        predictions.iter().flat_map(maps).map(distance).try_fold(0.0, |most, x| Some(f64::max(most, x?)))
    };
    assert_eq!(apart(0.0), None, "without noise there is no draw to show");
    let (little, much) = (apart(1e-4).unwrap(), apart(1.0).unwrap());
    assert!(0.0 < little && little < 1e-4 && much > 1e-3, "{little}, {much}");
}

#[test]
fn reconstructions_are_predicted_pixels_in_the_removed_patches() {
    for normalize_patches in [false, true] {
        let trainer = trainer(MethodConfig::Mae { normalize_patches, sigma: None });
        for (i, prediction) in look(&trainer, 3, 1).iter().enumerate() {
            let Predicted::Pixels(filled) = &prediction.predicted else { panic!("no pixels") };
            let chunk = chunk(&trainer, i, prediction);
            let (image, answers) = (chunk.images().to_f64_vec(), answers(&trainer, &chunk));
            for (p, (found, pixel)) in filled.iter().zip(&prediction.pixels).enumerate() {
                let (c, y, x) = (p / 256, p / 16 % 16, p % 16);
                let token = (y / 4 * 4 + x / 4) as u32;
                let Some(k) = prediction.targets[0].iter().position(|t| *t == token) else {
                    assert!(prediction.context.contains(&token));
                    assert_eq!(found, pixel, "a visible patch stays");
                    continue;
                };
                // (py, px, c) inside a patch, of 48 numbers.
                let mut value = answers[k * 48 + (y % 4 * 4 + x % 4) * 3 + c];
                if normalize_patches {
                    let inside = |q: &usize| q / 16 % 16 / 4 == y / 4 && q % 16 / 4 == x / 4;
                    let patch: Vec<f64> = (0..768).filter(inside).map(|q| image[q]).collect();
                    let mean = patch.iter().sum::<f64>() / 48.0;
                    let variance = patch.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 47.0;
                    value = value * (variance + 1e-6).sqrt() + mean;
                }
                let byte = 255.0 * (value * f64::from(NORMALIZATION.std[c]) + f64::from(NORMALIZATION.mean[c]));
                assert!((f64::from(*found) - byte.clamp(0.0, 255.0)).abs() < 0.51, "pixel {p}: {found}, not {byte}");
            }
        }
    }
}

/// A checkpoint may have them so, as a program that uses the library can train it.
#[test]
fn any_method_has_a_picture_under_any_masks() {
    let (of_mae, of_stop) = (trainer(small::every_method().pop().unwrap()), trainer(small::stop()));
    let exchanged = [(&of_mae, &of_stop), (&of_stop, &of_mae)];
    for (trainer, other) in exchanged {
        let masking = small::run(other).masking;
        let found =
            predictions((&*trainer.method, &trainer.params), &masking, (&images(3), &NORMALIZATION), 1).unwrap();
        let sheet = prediction_sheet(&found, 16, 4, 8);
        assert_eq!(sheet.height(), 3 * (128 + 8) + 8);
        let removed =
            |p: usize, of: &Prediction| of.targets.concat().contains(&((p / 16 % 16 / 4 * 4 + p % 16 / 4) as u32));
        for of in &found {
            let Predicted::Pixels(filled) = &of.predicted else { continue };
            assert!((0..768).all(|p| removed(p, of) || filled[p] == of.pixels[p]));
            assert!((0..768).any(|p| filled[p] != of.pixels[p]));
        }
    }
}

#[test]
fn the_seed_decides_and_neither_threads_nor_other_images_do() {
    for method in small::every_method() {
        let trainer = trainer(method.clone());
        let one = small::with_threads(1, || look(&trainer, 5, 1));
        assert!(small::with_threads(3, || look(&trainer, 5, 1)) == one, "{method:?} on three threads");
        assert!(one.windows(2).any(|w| w[0].context != w[1].context), "each image has masks of its own");
        assert!(look(&trainer, 2, 1) == one[..2], "{method:?}: fewer images");
        assert!(look(&trainer, 5, 2) != one, "{method:?}: another seed");
    }
}

const RUN: &str = "--image-size 16 --patch 2 --batch 4 --steps 2";

#[test]
fn a_run_leaves_the_picture_that_the_command_draws() {
    let scratch = Scratch::new();
    // Columns of tiles of 128 pixels, and their gaps of half a patch but at most 8; for features one of one pixel too.
    let wide = |tiles: u32, narrow: u32| 128 * tiles + narrow + 8 * (tiles + narrow + 1);
    // At least and at most: one query if all blocks of an image are at the same place, two if not.
    let widths = [("mae", wide(3, 0), wide(3, 0)), ("ijepa", wide(4, 1), wide(6, 2)), ("stop", wide(5, 1), wide(8, 2))];
    for (method, least, most) in widths {
        let said = scratch.succeeds(&format!("{SMALL} {RUN} --method {method} --name {method}"));
        assert!(said.contains(&format!("runs/{method}/predictions.png")), "{said}");
        let at_the_end = scratch.read(format!("runs/{method}/predictions.png"));
        let picture = image::load_from_memory(&at_the_end).unwrap();
        assert_eq!(picture.height(), 6 * (128 + 8) + 8);
        assert!((least..=most).contains(&picture.width()), "{method}: {} pixels wide", picture.width());

        let draw = |flags: &str| {
            let command = format!("reconstruct runs/{method}/checkpoint.safetensors {flags}");
            assert!(scratch.succeeds(&command).contains(&format!("{method} after 2 steps")));
            scratch.read("predictions.png")
        };
        assert!(draw("") == at_the_end, "{method}: the same picture");
        assert!(draw("--threads 1") == at_the_end, "{method} on one thread");
        assert!(draw("--seed 9") != at_the_end, "{method}: other masks");
        let other_masks = if method == "mae" { "--mask-ratio 0.5" } else { "--targets 1" };
        assert!(draw(other_masks) != at_the_end, "{method}: other masks");
        let two = image::load_from_memory(&draw("--images 2 --data shapes:count")).unwrap();
        assert_eq!(two.height(), 2 * (128 + 8) + 8);
    }
    assert_eq!(scratch.entries(), 2, "runs, the picture, and nothing else");
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let scratch = Scratch::new();
    for method in ["mae", "stop"] {
        scratch.succeeds(&format!("{SMALL} {RUN} --method {method} --name {method}"));
    }
    let (mae, stop) = ("runs/mae/checkpoint.safetensors", "runs/stop/checkpoint.safetensors");
    scratch.write("text", b"this is not a checkpoint at all");
    let cases: &[(&str, &[&str])] = &[
        ("", &["<CHECKPOINT>"]),
        ("text", &["text", "not a safetensors file"]),
        ("missing", &["missing", "No such file"]),
        ("runs/mae", &["runs/mae", "is a folder, not a file"]),
        (&format!("{mae} --images 0"), &["--images", "0"]),
        (&format!("{mae} --images 65"), &["--images", "65"]),
        (&format!("{mae} --data imagenet"), &["'imagenet' names no data set"]),
        (&format!("{mae} --data folder:nowhere"), &["nowhere"]),
        (&format!("{mae} --data cifar10:nowhere"), &["nowhere/data_batch_1.bin: there is no such file"]),
        (&format!("{mae} --targets 3"), &["--targets means nothing", "leave it out"]),
        (&format!("{stop} --mask-ratio 0.5"), &["--mask-ratio means nothing", "leave it out"]),
        (&format!("{mae} --mask-ratio 1"), &["ratio"]),
        (&format!("{stop} --min-keep 60"), &["min_keep"]),
        // Before the checkpoint is read.
        ("missing --out nowhere/picture.png", &["cannot write", "nowhere/picture.png"]),
        ("missing --out runs", &["runs: a picture is written as PNG"]),
    ];
    for (args, words) in cases {
        scratch.refuses(&format!("reconstruct {args}"), words);
    }
    assert_eq!(scratch.entries(), 2, "refused before anything is written");
}
