//! Predictors to try the proofs on: a linear map, a multilayer perceptron, one block of attention, and the predictor
//! that the training loop uses, each with random weights large enough that its gradients are not small.

use crate::rng::Generator;

use crate::autograd::{Var, ops};
use crate::nn::{Init, LinearInit, Params, Role, Weights};
use crate::paper::prop_3_1::{RegressionTask, Regressor};
use crate::paper::{Quadrature, Sigma};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor};
use crate::vit::{Block, Names, Predictor, PredictorConfig};

/// R images, N_c context and N_t masked tokens.
const ROWS: usize = 6;
const CONTEXT: usize = 3;
const MASKED: usize = 2;
/// Width of the features.
const D_E: usize = 4;

/// An F and a task for it.
pub struct Subject {
    /// What F is.
    pub name: &'static str,
    /// F
    pub f: Box<Regressor<'static>>,
    /// Random positions, features and targets, of F's sizes.
    pub task: RegressionTask,
}

/// The four of them.
pub fn subjects() -> Vec<Subject> {
    vec![linear(), perceptron(), attention_block(), vit_predictor()]
}

/// F = p·u_j + Σᵢ q·vᵢ.
pub fn linear() -> Subject {
    let d_p = 5;
    let mut rng = rng(1);
    let (p, q) = (normal(&[1, d_p], 1.0, &mut rng), normal(&[1, d_p], 1.0, &mut rng));
    let ones = Var::constant(Tensor::full([1, CONTEXT], 1.0, DType::F64));
    let f = move |u: &Var, v: &Var| {
        let rows = v.shape()[0];
        let seen = ops::reshape(&ops::linear(v, &q, None), [rows, CONTEXT]);
        ops::add(&ops::linear(u, &p, None), &ops::reshape(&ops::linear(&seen, &ones, None), [rows, 1, 1]))
    };
    Subject { name: "linear map", f: Box::new(f), task: task(d_p, 1, &mut rng) }
}

/// F = w·GELU(U u_j + C vec(v) + b).
pub fn perceptron() -> Subject {
    let (d_p, hidden) = (5, 8);
    let mut rng = rng(2);
    let (u_weight, bias) = (normal(&[hidden, d_p], 0.5, &mut rng), normal(&[hidden], 0.5, &mut rng));
    let v_weight = normal(&[hidden, CONTEXT * d_p], 0.5, &mut rng);
    let out = normal(&[1, hidden], 1.0, &mut rng);
    let f = move |u: &Var, v: &Var| {
        let rows = v.shape()[0];
        let seen = ops::linear(&ops::reshape(v, [rows, 1, CONTEXT * d_p]), &v_weight, None);
        ops::linear(&ops::gelu(&ops::add(&ops::linear(u, &u_weight, Some(&bias)), &seen)), &out, None)
    };
    Subject { name: "perceptron", f: Box::new(f), task: task(d_p, 1, &mut rng) }
}

/// One pre-norm block with one head over the context, at its positions, and the masked tokens; then a linear map.
pub fn attention_block() -> Subject {
    let d_p = 5;
    let mut rng = rng(3);
    let mut params = Params::new();
    let mut init = Init { params: &mut params, rng: &mut rng, dtype: DType::F64, linear: LinearInit::Normal };
    let block = Block::new(&mut init, "block", d_p, 1, 2 * d_p);
    let w = shaken(params, &mut rng);
    let (psi, out) = (normal(&[CONTEXT, d_p], 1.0, &mut rng), normal(&[1, d_p], 1.0, &mut rng));
    let f = move |u: &Var, v: &Var| {
        let y = block.forward(&w, &ops::concat_tokens(&[&ops::add(v, &psi), u]));
        ops::linear(&ops::slice_tokens(&y, CONTEXT, MASKED), &out, None)
    };
    Subject { name: "attention block", f: Box::new(f), task: task(d_p, 1, &mut rng) }
}

/// The predictor of [`crate::vit`], two blocks deep, with two heads and three outputs a token.
pub fn vit_predictor() -> Subject {
    let (d_p, outputs) = (8, 3);
    let mut rng = rng(4);
    let mut params = Params::new();
    let mut init = Init { params: &mut params, rng: &mut rng, dtype: DType::F64, linear: LinearInit::Normal };
    let config = PredictorConfig { dim: d_p, depth: 2, heads: 2, learned_positions: false, embed_std: 0.3 };
    let predictor = Predictor::new(&config, (D_E, outputs), 3, Names::Predictor, Role::Fixed, &mut init);
    let w = shaken(params, &mut rng);
    let psi = normal(&[CONTEXT, d_p], 1.0, &mut rng);
    let f = move |u: &Var, v: &Var| predictor.forward(&w, &ops::add(v, &psi), u);
    Subject { name: "ViT predictor", f: Box::new(f), task: task(d_p, outputs, &mut rng) }
}

fn rng(index: u64) -> Generator {
    stream(0, Purpose::Eval, [0x1ab, index])
}

fn normal(shape: &[usize], std: f64, rng: &mut Generator) -> Var {
    Tensor::normal(shape, std, DType::F64, rng).into()
}

/// Parameters moved off their initial values, so that no gain is 1, no bias 0 and no weight small.
fn shaken(mut params: Params, rng: &mut Generator) -> Weights {
    for param in params.iter_mut() {
        param.value.add_assign(&Tensor::normal(*param.value.shape(), 0.3, DType::F64, rng));
    }
    params.constants()
}

fn task(d_p: usize, outputs: usize, rng: &mut Generator) -> RegressionTask {
    let mut normal = |shape: &[usize]| Tensor::normal(shape, 1.0, DType::F64, rng);
    RegressionTask {
        psi: normal(&[MASKED, d_p]),
        m: normal(&[d_p]),
        x: normal(&[ROWS, CONTEXT, D_E]),
        y: normal(&[ROWS, MASKED, outputs]),
    }
}

/// σ of these tests: the paper's 0.25, taken as a variance.
pub(super) const VARIANCE: f64 = 0.25;

pub(super) fn sigma() -> Sigma {
    Sigma::from_variance(VARIANCE)
}

pub(super) fn random(shape: &[usize], seed: u64) -> Tensor {
    Tensor::normal(shape, 1.0, DType::F64, &mut stream(seed, Purpose::Eval, [0x3e1, 0]))
}

pub(super) fn number(x: f64) -> Tensor {
    Tensor::new([1, 1], vec![x])
}

/// 2d points that have the Gaussian's first three moments, for all masked tokens of a task at once.
pub(super) fn cubature(task: &RegressionTask) -> Quadrature {
    let ([tokens, _], [.., d_e]) = (task.psi.dims("psi"), task.x.dims::<3>("x"));
    Quadrature::cubature(tokens, d_e, sigma())
}

/// One draw of the noise, and its mirror image.
pub(super) fn pair(task: &RegressionTask) -> Quadrature {
    let ([tokens, _], [_, _, d_e]) = (task.psi.dims("psi"), task.x.dims("x"));
    Quadrature::antithetic(&random(&[tokens, d_e], 1).scaled(VARIANCE.sqrt()))
}

/// Half of a pair: one draw alone, whose gradients are what the pair has to cancel.
pub(super) fn draw(task: &RegressionTask) -> Quadrature {
    let pair = pair(task);
    Quadrature { noise: pair.noise.rows(0..1), weights: Tensor::full([1], 1.0, DType::F64) }
}

pub(super) fn largest(x: &Tensor) -> f64 {
    x.to_f64_vec().iter().fold(0.0, |m, x| m.max(x.abs()))
}

/// p and q of the linear F = p·u_j + Σᵢ q·vᵢ, read off F itself.
pub(super) fn coefficients(Subject { f, task, .. }: &Subject) -> (Vec<f64>, Vec<f64>) {
    let ([_, context, _], [_, d_p]) = (task.x.dims("x"), task.psi.dims("psi"));
    let unit = |tokens: usize, at: Option<usize>| {
        let entry = |i| if Some(i) == at { 1.0 } else { 0.0 };
        Var::constant(Tensor::from_fn([1, tokens, d_p], DType::F64, entry))
    };
    let p = (0..d_p).map(|k| f(&unit(1, Some(k)), &unit(context, None)).item()).collect();
    let q = (0..d_p).map(|k| f(&unit(1, None), &unit(context, Some(k))).item()).collect();
    (p, q)
}

pub(super) fn matrix(task: &RegressionTask, seed: u64) -> Tensor {
    random(&task.zero().shape()[..], seed).scaled(0.3)
}

/// One position, one context token, one number each.
pub(super) fn one_number(psi: f64, x: &[f64], y: &[f64]) -> RegressionTask {
    RegressionTask {
        psi: number(psi),
        m: Tensor::zeros([1], DType::F64),
        x: Tensor::new([x.len(), 1, 1], x.to_vec()),
        y: Tensor::new([y.len(), 1, 1], y.to_vec()),
    }
}
