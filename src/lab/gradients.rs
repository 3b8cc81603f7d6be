//! Every derivative that training rests on, against central differences in f64: each operation, each layer, and the
//! whole training step of every method.

use rand::RngExt;

use super::{Finding, small};
use crate::Result;
use crate::autograd::check::{Options, Report, Verdict, check_op, check_value, step_sweep};
use crate::autograd::ops::PatchOrder;
use crate::autograd::{Tape, Var, ops};
use crate::methods::{MethodConfig, Update};
use crate::nn::{Init, LinearInit, Params, Role, Weights};
use crate::paper::masked_token;
use crate::rng::{Generator, Purpose, stream};
use crate::tensor::{DType, Device, Indices, Tensor};
use crate::train::Trainer;
use crate::vit::{Block, Encoder, EncoderConfig, Names, Predictor, PredictorConfig, Visible};

/// What several reports on one statement found: the worst comparison of all. A report that is not a pass is no pass
/// here, and neither is one that says nothing about some input.
fn finding(statement: &str, compared: &str, reports: &[Report]) -> Finding {
    let worst = reports.iter().filter_map(|r| r.worst).max_by(|a, b| a.error.total_cmp(&b.error));
    let comparisons: usize = reports.iter().map(|r| r.comparisons).sum();
    let silent = reports.iter().any(|r| r.verdict == Verdict::NotChecked || !r.silent.is_empty());
    let broken = reports.iter().any(|r| r.nondeterminism.is_some() || r.inconsistent_subset.is_some());
    let (scale, error) = match worst {
        Some(worst) if !silent => (worst.scale, if broken { f64::INFINITY } else { worst.error * worst.scale }),
        _ => (0.0, 0.0), // not checked
    };
    let compared = format!("{compared}; {comparisons} differences");
    let tolerance = reports.iter().map(|r| r.tolerance).fold(f64::INFINITY, f64::min);
    let mut found = Finding { statement: statement.to_owned(), compared, scale, error, tolerance };
    if found.verdict() != Verdict::Pass {
        let reports = reports.iter().filter(|r| r.verdict != Verdict::Pass || !r.silent.is_empty());
        found.compared = reports.map(|r| r.to_string().replace('\n', " ")).collect::<Vec<_>>().join("; ");
    }
    found
}

fn normal(shape: &[usize], seed: u64) -> Tensor {
    Tensor::normal(shape, 1.0, DType::F64, &mut stream(seed, Purpose::Eval, [1, 0]))
}

/// Each operation of [`ops`]: every element of every input; each input alone on the tape; the inputs used twice. The
/// statement is the operation's name.
pub fn operations() -> Vec<Finding> {
    operations_on(Device::Cpu)
}

/// [`operations`] that compute on this device; what they are given and give is on the CPU, where it is compared.
pub fn operations_on(device: Device) -> Vec<Finding> {
    let op = |name: &str, of: &str, f: &dyn Fn(&[Var]) -> Var, shapes: &[&[usize]]| {
        let inputs: Vec<Tensor> = shapes.iter().zip(1..).map(|(shape, seed)| normal(shape, seed)).collect();
        let there = |x: &[Var]| f(&x.iter().map(|x| x.to_device(device)).collect::<Vec<_>>()).to_device(Device::Cpu);
        finding(name, of, &check_op(name, there, &inputs))
    };
    let picked = Indices::from_rows(&[vec![2, 0, 2], vec![1, 1, 0], vec![0, 1, 2], vec![2, 2, 2]]).to_device(device);
    let (first, last) = (PatchOrder::ChannelFirst, PatchOrder::ChannelLast);
    let affine = |x: &[Var]| ops::layer_norm(&x[0], Some((&x[1], &x[2])), 1e-3);
    let norm_linear = |x: &[Var]| {
        let norm = ops::Input::Norm { x: &x[0], gamma: &x[3], beta: &x[4], eps: 1e-3 };
        ops::linear_of(norm, &x[1], Some(&x[2]), Some(&x[5]))
    };
    let gelu_linear = |x: &[Var]| ops::linear_of(ops::Input::Gelu(&x[0]), &x[1], Some(&x[2]), Some(&x[0]));
    vec![
        op("add", "equal shapes", &|x| ops::add(&x[0], &x[1]), &[&[2, 3, 5], &[2, 3, 5]]),
        op("add", "broadcast both ways", &|x| ops::add(&x[0], &x[1]), &[&[2, 1, 3], &[4, 1]]),
        op("attention", "2 images, 5 tokens, 3 heads of 2", &|x| ops::attention(&x[0], 3), &[&[2, 5, 18]]),
        op("attention_of", "tokens 1 to 3 of 5", &|x| ops::attention_of(&x[0], 2, 1..4), &[&[2, 5, 12]]),
        op(
            "cross_entropy",
            "3 rows of 5 classes",
            &|x| ops::cross_entropy(&x[0], &Indices::new(3, 1, vec![1, 0, 4]).to_device(device)),
            &[&[3, 5]],
        ),
        op("gather_tokens", "tokens picked twice", &|x| ops::gather_tokens(&x[0], &picked), &[&[2, 3, 5]]),
        op("gather_tokens", "from one table", &|x| ops::gather_tokens(&x[0], &picked), &[&[1, 4, 2]]),
        op("gelu", "37 numbers", &|x| ops::gelu(&x[0]), &[&[37]]),
        op("split_heads", "3 heads of 2", &|x| ops::split_heads(&x[0], 3), &[&[2, 5, 6]]),
        op("merge_heads", "3 heads of 2", &|x| ops::merge_heads(&x[0]), &[&[2, 3, 5, 2]]),
        op("layer_norm", "with γ and β, rows of 7", &affine, &[&[5, 7], &[7], &[7]]),
        op("layer_norm", "without, rows of 20", &|x| ops::layer_norm(&x[0], None, 1e-3), &[&[5, 20]]),
        op("linear", "with bias", &|x| ops::linear(&x[0], &x[1], Some(&x[2])), &[&[2, 3, 4], &[5, 4], &[5]]),
        op("linear", "without", &|x| ops::linear(&x[0], &x[1], None), &[&[2, 3, 4], &[5, 4]]),
        op(
            "linear_of",
            "of a norm, onto a residual",
            &norm_linear,
            &[&[2, 3, 4], &[5, 4], &[5], &[4], &[4], &[2, 3, 5]],
        ),
        op("linear_of", "of GELU, onto its own input", &gelu_linear, &[&[3, 4], &[4, 4], &[4]]),
        op(
            "linear_operand",
            "with bias",
            &|x| ops::linear_operand(ops::Input::Plain(&x[0]), &x[1], Some(&x[2])),
            &[&[2, 3, 4], &[5, 4], &[5]],
        ),
        op("matmul", "batches", &|x| ops::matmul(&x[0], &x[1]), &[&[3, 2, 3], &[3, 3, 4]]),
        op("matmul", "one matrix for a batch", &|x| ops::matmul(&x[0], &x[1]), &[&[2, 3], &[3, 3, 4]]),
        op("matmul_nt", "a batch by one matrix", &|x| ops::matmul_nt(&x[0], &x[1]), &[&[3, 2, 3], &[4, 3]]),
        op("matmul_tn", "batches", &|x| ops::matmul_tn(&x[0], &x[1]), &[&[3, 3, 2], &[3, 3, 4]]),
        op("mul", "equal shapes", &|x| ops::mul(&x[0], &x[1]), &[&[2, 5], &[2, 5]]),
        op("mul", "broadcast both ways", &|x| ops::mul(&x[0], &x[1]), &[&[3, 1], &[2, 1, 4]]),
        op("sub", "broadcast both ways", &|x| ops::sub(&x[0], &x[1]), &[&[3, 1], &[2, 1, 4]]),
        op("div", "broadcast, by a positive", &|x| ops::div(&x[0], &x[1].exp()), &[&[3, 1], &[2, 1, 4]]),
        op("exp", "37 numbers", &|x| ops::exp(&x[0]), &[&[37]]),
        op("ln", "of 1 + eˣ", &|x| ops::ln(&(1.0 + x[0].exp())), &[&[37]]),
        op("sqrt", "of 1 + eˣ", &|x| ops::sqrt(&(1.0 + x[0].exp())), &[&[37]]),
        op("tanh", "37 numbers", &|x| ops::tanh(&x[0]), &[&[37]]),
        op("relu", "away from 0", &|x| ops::relu(&x[0]), &[&[12]]),
        op("abs", "away from 0", &|x| ops::abs(&x[0]), &[&[12]]),
        op("l1_norm", "away from 0", &|x| ops::l1_norm(&x[0]), &[&[3, 4]]),
        op("l2_norm", "away from 0", &|x| ops::l2_norm(&x[0]), &[&[3, 4]]),
        op("patchify", "channel first", &|x| ops::patchify(&x[0], 2, first), &[&[1, 2, 4, 2]]),
        op("patchify", "channel last", &|x| ops::patchify(&x[0], 2, last), &[&[1, 2, 4, 2]]),
        op("unpatchify", "channel first", &|x| ops::unpatchify(&x[0], [2, 4, 2], 2, first), &[&[1, 2, 8]]),
        op("unpatchify", "channel last", &|x| ops::unpatchify(&x[0], [2, 4, 2], 2, last), &[&[1, 2, 8]]),
        op("sum", "21 numbers", &|x| ops::sum(&x[0]), &[&[3, 7]]),
        op("mean", "21 numbers", &|x| ops::mean(&x[0]), &[&[3, 7]]),
        op("sum_axis", "the middle of three", &|x| ops::sum_axis(&x[0], 1), &[&[2, 3, 4]]),
        op("mean_axis", "the middle of three", &|x| ops::mean_axis(&x[0], 1), &[&[2, 3, 4]]),
        op("mse", "prediction and target", &|x| ops::mse(&x[0], &x[1]), &[&[3, 5], &[3, 5]]),
        op("smooth_l1", "β = 1", &|x| ops::smooth_l1(&x[0], &x[1], 1.0), &[&[3, 5], &[3, 5]]),
        op("smooth_l1", "β = 0.3", &|x| ops::smooth_l1(&x[0], &x[1], 0.3), &[&[3, 5], &[3, 5]]),
        op("reshape", "[2, 6] to [3, 4]", &|x| ops::reshape(&x[0], [3, 4]), &[&[2, 6]]),
        op("scale", "by −1.7", &|x| ops::scale(&x[0], -1.7), &[&[3, 2]]),
        op("softmax", "rows of 5", &|x| ops::softmax(&x[0]), &[&[3, 5]]),
        op("transpose", "the outer of three", &|x| ops::transpose(&x[0], 0, 2), &[&[2, 3, 4]]),
        op("concat", "along the last", &|x| ops::concat(&[&x[0], &x[1]], 1), &[&[2, 3], &[2, 1]]),
        op("slice", "1 of 3 along the last", &|x| ops::slice(&x[0], 1, 1..2), &[&[2, 3]]),
        op(
            "concat_tokens",
            "three parts, one twice",
            &|x| ops::concat_tokens(&[&x[0], &x[1], &x[2], &x[0]]),
            &[&[2, 3, 2], &[2, 1, 2], &[2, 2, 2]],
        ),
        op("slice_tokens", "2 of 3", &|x| ops::slice_tokens(&x[0], 1, 2), &[&[2, 3, 2]]),
        op("repeat_batch", "3 times", &|x| ops::repeat_batch(&x[0], 3), &[&[2, 3, 2]]),
    ]
}

/// The parameters with other values for those that are trained, in order.
fn with_trained<'a>(params: &Params, values: &mut impl Iterator<Item = &'a Tensor>) -> Params {
    let mut params = params.clone();
    for (param, value) in params.iter_mut().filter(|p| p.role == Role::Trained).zip(values) {
        param.value = value.clone();
    }
    params
}

fn trained(params: &Params) -> impl Iterator<Item = Tensor> {
    params.iter().filter(|p| p.role == Role::Trained).map(|p| p.value.clone())
}

/// A layer, as a function of its weights and its input.
type Forward = Box<dyn Fn(&Weights, &Var) -> Var>;

/// A layer: its input and its trained parameters are what is differentiated.
fn layer(name: &str, of: &str, input: Tensor, make: impl FnOnce(&mut Init<'_, Generator>) -> Forward) -> Finding {
    let (mut params, mut rng) = (Params::new(), stream(1, Purpose::Init, [0, 0]));
    let linear = LinearInit::Normal;
    let forward = make(&mut Init { params: &mut params, rng: &mut rng, dtype: DType::F64, linear });
    small::perturb(&mut params, 0.3, 4);

    let tape = Tape::new();
    let (weights, x) = (params.on(&tape), tape.leaf(input.clone()));
    let y = forward(&weights, &x);
    let u = normal(y.shape(), 5);
    let mut found = tape.backward_from(&y, u.clone());
    let gradient = |v: &Var| found.take(v).unwrap_or_else(|| Tensor::zeros(*v.shape(), DType::F64));
    let leaves = std::iter::once(&x).chain(weights.iter().filter(|w| w.is_tracked()));
    let gradients: Vec<Tensor> = leaves.map(gradient).collect();

    let value = |point: &[Tensor]| {
        let weights = with_trained(&params, &mut point[1..].iter()).constants();
        (forward(&weights, &point[0].clone().into()) * Var::from(u.clone())).sum().item()
    };
    let point: Vec<Tensor> = std::iter::once(input).chain(trained(&params)).collect();
    let options = Options { max_elements: 20, ..Options::default() };
    let compared = format!("{of}, {} parameters", point.len() - 1);
    finding(name, &compared, &[check_value(&options, name, value, &gradients, &point)])
}

/// Each layer of [`nn`](crate::nn) and [`vit`](crate::vit), with respect to its inputs and all its parameters. The
/// statement is the layer's name.
pub fn layers() -> Vec<Finding> {
    let keep = Indices::from_rows(&[vec![0, 3, 1], vec![2, 2, 3]]);
    let sizes = |class_token, mask_token| EncoderConfig {
        image_size: 8,
        patch_size: 4,
        channels: 3,
        dim: 8,
        depth: 2,
        heads: 2,
        mlp_ratio: 4.0,
        class_token,
        mask_token,
        patch_std: 0.3,
        position_scale: 0.5,
    };
    let encoder = |class_token, keep: Option<Indices>, masked: Option<Indices>| {
        move |init: &mut Init<'_, Generator>| -> Forward {
            let encoder = Encoder::new(&sizes(class_token, masked.is_some()), init);
            Box::new(move |w, x| {
                let visible = masked.as_ref().map_or_else(|| keep.as_ref().into(), Visible::Except);
                encoder.forward(w, x, visible)
            })
        }
    };
    let images = normal(&[2, 3, 8, 8], 6);
    vec![
        layer("linear", "with bias", normal(&[2, 3, 4], 7), |init| {
            let linear = init.linear("linear", 4, 5);
            Box::new(move |w, x| linear.forward(w, x))
        }),
        layer("layer_norm", "γ, β and x", normal(&[2, 3, 6], 8), |init| {
            let norm = init.layer_norm("norm", 6);
            Box::new(move |w, x| norm.forward(w, x))
        }),
        layer("block", "2 heads", normal(&[2, 3, 6], 9), |init| {
            let block = Block::new(init, "block", 6, 2, 24);
            Box::new(move |w, x| block.forward(w, x))
        }),
        layer("encoder", "3 of 4 patches", images.clone(), encoder(false, Some(keep.clone()), None)),
        layer("encoder", "class token", images.clone(), encoder(true, None, None)),
        layer("encoder", "masked patches", images, encoder(false, None, Some(keep))),
        layer("predictor", "context, m, learned ψ", normal(&[2, 2, 6], 10), |init| {
            let config = PredictorConfig { dim: 8, depth: 1, heads: 2, learned_positions: true, embed_std: 0.3 };
            let p = Predictor::new(&config, (6, 5), 2, Names::Predictor, Role::Trained, init);
            Box::new(move |w, x| {
                let psi = |tokens: &[Vec<u32>]| ops::gather_tokens(&w[p.position], &Indices::from_rows(tokens));
                let context = p.embed.forward(w, x) + psi(&[vec![0, 1], vec![2, 1]]);
                p.forward(w, &context, &masked_token(&psi(&[vec![3, 2, 0], vec![0, 3, 3]]), &w[p.mask_token]))
            })
        }),
    ]
}

/// The trainer with other values for its trained parameters, θ then φ.
fn at(trainer: &Trainer, values: &[Tensor]) -> Trainer {
    let (mut trainer, mut values) = (trainer.clone(), values.iter());
    for module in trainer.params.modules_mut().iter_mut().filter(|module| module.update == Update::Trained) {
        module.params = with_trained(&module.params, &mut values);
    }
    trainer
}

fn point(trainer: &Trainer) -> Vec<Tensor> {
    trainer.params.trained().flat_map(trained).collect()
}

fn loss(trainer: &Trainer, values: &[Tensor]) -> f64 {
    let trainer = at(trainer, values);
    trainer.gradients(&small::batch(&trainer)).map_or(f64::NAN, |found| found.loss.item())
}

/// The whole training step of every method: from images through encoder, equations, predictor and loss, cut into chunks
/// and summed over them, along random directions of all parameters at once and of each on its own (where its gradient
/// cannot hide behind larger ones).
pub fn training_steps() -> Vec<Finding> {
    let first = small::every_method().into_iter().next().into_iter().map(|method| (method, true)); // adds ψ to whichever
    let cases = small::every_method().into_iter().map(|method| (method, false)).chain(first);
    cases.map(|(method, learned_positions)| training_step(&method, learned_positions)).collect()
}

fn training_step(method: &MethodConfig, learned_positions: bool) -> Finding {
    let positions = if learned_positions { ", learned ψ" } else { "" };
    let statement = format!("training step, {method}{positions}");
    let trainer = small::trainer(method.clone(), learned_positions, DType::F64);
    let (point, compared) = (point(&trainer), "θ and φ, each parameter");
    match trainer.gradients(&small::batch(&trainer)) {
        Ok(found) => {
            let options = Options { max_elements: 0, ..Options::default() };
            let report = check_value(&options, &statement, |x| loss(&trainer, x), &found.gradients, &point);
            finding(&statement, compared, &[report])
        }
        Err(problem) => Finding::vanishes(&statement, problem.to_string(), &f64::NAN, 1.0, 0.0),
    }
}

/// How the error of a central difference depends on the step, and what that says.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// (h, error), the error relative to the length of the gradient, h from 1 down to 10⁻¹³.
    pub errors: Vec<(f64, f64)>,
    /// The round-off to be expected: (h, ε |L| / h), in the same unit.
    pub round_off: Vec<(f64, f64)>,
    /// The truncation to be expected, (h, c h²) with c from the error at h = 10⁻².
    pub truncation: Vec<(f64, f64)>,
    /// That truncation falls as h², round-off grows, and between them the derivative is right to 10⁻¹⁰.
    pub findings: Vec<Finding>,
}

/// The derivative of a StoP training step's loss along one random direction of all parameters, |v| = 1, by central
/// differences with steps from 1 to 10⁻¹³.
///
/// # Errors
/// When a trained parameter got no gradient.
pub fn sweep() -> Result<Sweep> {
    let method = small::stop();
    let trainer = small::trainer(method, false, DType::F64);
    let found = trainer.gradients(&small::batch(&trainer))?;
    let point = point(&trainer);
    // A direction along which no prediction's distance from its target passes 1 within h = 10⁻²: there smooth L1 has
    // no third derivative, and the error would not fall as h².
    let mut rng = stream(4, Purpose::Eval, [0, 0]);
    let v: Vec<Tensor> =
        point.iter().map(|x| Tensor::from_fn(*x.shape(), DType::F64, |_| rng.random_range(-1.0..1.0))).collect();
    let length = |x: &[Tensor]| x.iter().map(|x| x.norm().powi(2)).sum::<f64>().sqrt();
    let (unit, scale) = (1.0 / length(&v), length(&found.gradients));
    let products = found.gradients.iter().zip(&v).flat_map(|(g, v)| g.to_f64_vec().into_iter().zip(v.to_f64_vec()));
    let slope = unit * products.map(|(g, v)| g * v).sum::<f64>();
    let along = |h: f64| {
        let mut moved = point.clone();
        moved.iter_mut().zip(&v).for_each(|(x, v)| x.add_assign(&v.scaled(h * unit)));
        loss(&trainer, &moved)
    };
    let steps: Vec<f64> = (0..=26).map(|k| 10f64.powf(-0.5 * f64::from(k))).collect();
    let relative = |(h, error): (f64, f64)| (h, error / scale);
    let errors: Vec<(f64, f64)> = step_sweep(along, slope, &steps).into_iter().map(relative).collect();

    let at = |exponent: usize| errors[2 * exponent].1; // at h = 10^−exponent
    let best = errors.iter().map(|(_, error)| *error).fold(f64::INFINITY, f64::min);
    let statement = "step sweep";
    let findings = vec![
        Finding::equal(statement, "error at h = 10⁻² over that at 10⁻³, with 100", &[at(2) / at(3)], &[100.0], 0.05),
        Finding::vanishes(statement, "least error at any h", &[best], 1.0, 1e-10),
        Finding::below(statement, "least error, with that at h = 10⁻¹²", 1e3 * best, at(12)),
    ];
    let round_off = steps.iter().map(|h| (*h, f64::EPSILON * found.loss.item() / h / scale)).collect();
    let truncation = steps.iter().map(|h| (*h, at(2) * 1e4 * h * h)).collect();
    Ok(Sweep { errors, round_off, truncation, findings })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The functions that a file exports by `pub use module::{a, b};`, from this crate's folder.
    fn exported(file: &str) -> BTreeSet<String> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let source = std::fs::read_to_string(path).unwrap();
        let lines = source.lines().filter_map(|line| line.strip_prefix("pub use ")?.strip_suffix(';'));
        let own = lines.filter(|line| !line.starts_with("crate::")).map(|line| line.split_once("::").unwrap().1);
        let names = own.flat_map(|names| names.trim_matches(['{', '}']).split(", "));
        names.filter(|name| !name.starts_with(char::is_uppercase)).map(str::to_owned).collect()
    }

    fn statements(findings: &[Finding]) -> BTreeSet<String> {
        findings.iter().map(|f| f.statement.clone()).collect()
    }

    #[test]
    fn no_operation_is_forgotten() {
        let operations = exported("src/autograd/ops/mod.rs");
        assert!(operations.len() > 20, "{operations:?}: is this test still reading the source?");
        assert_eq!(statements(&super::operations()), operations);
    }

    #[test]
    fn no_layer_is_forgotten() {
        let mut layers = BTreeSet::new();
        for folder in ["src/nn", "src/vit"] {
            for file in std::fs::read_dir(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap() {
                let path = file.unwrap().path();
                if std::fs::read_to_string(&path).unwrap().contains("pub fn forward") {
                    layers.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        assert_eq!(statements(&super::layers()), layers);
    }

    #[test]
    fn a_wrong_rule_does_not_pass_as_a_finding() {
        let x = [normal(&[3], 1)];
        let report = |factor: f64| {
            let gradient = [x[0].scaled(2.0 * factor)];
            let square = |x: &[Tensor]| x[0].norm().powi(2);
            check_value(&Options::default(), "square", square, &gradient, &x)
        };
        assert_eq!(finding("", "", &[report(1.0)]).verdict(), Verdict::Pass);
        let wrong = finding("", "", &[report(1.0), report(1.0001)]);
        assert_eq!(wrong.verdict(), Verdict::Mismatch);
        assert!(wrong.compared.contains("does not depend on the step"), "{}", wrong.compared);
        let nan = Report { worst: report(f64::NAN).worst, ..report(1.0) };
        assert_eq!(finding("", "", &[report(1.0), nan]).verdict(), Verdict::Mismatch);
        let silent = Report { silent: vec![0], ..report(1.0) };
        assert_eq!(finding("", "", &[silent]).verdict(), Verdict::NotChecked);
        let wobbling = Report { nondeterminism: Some(1.0), ..report(1.0) };
        assert_eq!(finding("", "", &[wobbling]).verdict(), Verdict::Mismatch);
        assert_eq!(finding("", "", &[]).verdict(), Verdict::NotChecked);
    }
}
