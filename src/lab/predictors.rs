//! Predictors to try the proofs on: a linear map, a multilayer perceptron, one block of attention, and the predictor
//! that the training loop uses, each with random weights large enough that its gradients are not small; or
//! [one's own](Subject::new).

use super::Finding;
use crate::autograd::{Var, ops};
use crate::nn::{Init, LinearInit, Params, Role, Weights};
use crate::paper::prop_3_1::{RegressionTask, Regressor, TaskSizes};
use crate::paper::{Quadrature, Sigma};
use crate::rng::{Generator, Purpose, stream};
use crate::tensor::{DType, Tensor};
use crate::vit::{Block, Names, Predictor, PredictorConfig};

/// An F and a task for it.
pub struct Subject {
    /// What F is.
    pub name: String,
    /// F
    pub f: Box<Regressor<'static>>,
    /// Positions, features and targets, of F's sizes.
    pub task: RegressionTask,
}

impl Subject {
    /// One's own F, to be put to the statements of [`prop_3_1`](super::prop_3_1::of).
    ///
    /// # Panics
    /// When the task is not in f64, or F computes in f32: the statements are compared to 10⁻¹³, which f32 does not reach.
    #[track_caller]
    pub fn new(name: impl Into<String>, f: impl Fn(&Var, &Var) -> Var + 'static, task: RegressionTask) -> Self {
        let name = name.into();
        let need_f64 = |what: &str, dtype: DType| {
            let hint = "propositions are compared in f64; make tensors and parameters with DType::F64";
            assert!(dtype == DType::F64, "{name}: {what} is in {dtype}: {hint}");
        };
        for (what, tensor) in [("psi", &task.psi), ("m", &task.m), ("x", &task.x), ("y", &task.y)] {
            need_f64(what, tensor.dtype());
        }
        let predicted = f(&task.positions(), &task.context(&task.zero().into()));
        need_f64("what F predicts", predicted.dtype());
        assert_eq!(predicted.shape(), task.y.shape(), "{name}: the shape of what F predicts, and that of y");
        Subject { name, f: Box::new(f), task }
    }
}

/// Random positions, features and targets of N(0, 1), of which each token has `outputs` numbers.
pub fn random_task(sizes: TaskSizes, outputs: usize, rng: &mut Generator) -> RegressionTask {
    let TaskSizes { rows, tokens, context, d_p, d_e } = sizes;
    let mut normal = |shape: &[usize]| Tensor::normal(shape, 1.0, DType::F64, rng);
    RegressionTask {
        psi: normal(&[tokens, d_p]),
        m: normal(&[d_p]),
        x: normal(&[rows, context, d_e]),
        y: normal(&[rows, tokens, outputs]),
    }
}

/// Sizes of the tasks here.
const SIZES: TaskSizes = TaskSizes { rows: 6, tokens: 2, context: 3, d_p: 5, d_e: 4 };

/// The four of them.
pub fn subjects() -> Vec<Subject> {
    vec![linear(), perceptron(), attention_block(), vit_predictor()]
}

/// What a test says of each of them.
pub fn on_all(test: impl Fn(&Subject) -> Vec<Finding>) -> Vec<Finding> {
    subjects().iter().flat_map(test).collect()
}

/// F = p·u_j + Σᵢ q·vᵢ.
pub fn linear() -> Subject {
    let mut rng = rng(1);
    let [p, q] = [(); 2].map(|()| normal(&[1, SIZES.d_p], 1.0, &mut rng));
    let f = move |u: &Var, v: &Var| {
        ops::linear(u, &p, None) + ops::linear(v, &q, None).sum_axis(1).reshape([v.shape()[0], 1, 1])
    };
    Subject::new("linear map", f, random_task(SIZES, 1, &mut rng))
}

/// F = w·GELU(U u_j + C vec(v) + b).
pub fn perceptron() -> Subject {
    let TaskSizes { context, d_p, .. } = SIZES;
    let (hidden, mut rng) = (8, rng(2));
    let (u_weight, bias) = (normal(&[hidden, d_p], 0.5, &mut rng), normal(&[hidden], 0.5, &mut rng));
    let v_weight = normal(&[hidden, context * d_p], 0.5, &mut rng);
    let out = normal(&[1, hidden], 1.0, &mut rng);
    let f = move |u: &Var, v: &Var| {
        let seen = ops::linear(&v.reshape([v.shape()[0], 1, context * d_p]), &v_weight, None);
        ops::linear(&ops::gelu(&(ops::linear(u, &u_weight, Some(&bias)) + seen)), &out, None)
    };
    Subject::new("perceptron", f, random_task(SIZES, 1, &mut rng))
}

/// One pre-norm block with one head over the context, at its positions, and the masked tokens; then a linear map.
pub fn attention_block() -> Subject {
    let TaskSizes { context, tokens, d_p, .. } = SIZES;
    let mut rng = rng(3);
    let mut params = Params::new();
    let mut init = Init { params: &mut params, rng: &mut rng, dtype: DType::F64, linear: LinearInit::Normal };
    let block = Block::new(&mut init, "block", d_p, 1, 2 * d_p);
    let w = shaken(params, &mut rng);
    let (psi, out) = (normal(&[context, d_p], 1.0, &mut rng), normal(&[1, d_p], 1.0, &mut rng));
    let f = move |u: &Var, v: &Var| {
        let y = block.forward(&w, &ops::concat_tokens(&[&(v + &psi), u]));
        ops::linear(&ops::slice_tokens(&y, context, tokens), &out, None)
    };
    Subject::new("attention block", f, random_task(SIZES, 1, &mut rng))
}

/// The predictor of [`crate::vit`], two blocks deep, with two heads and three outputs a token.
pub fn vit_predictor() -> Subject {
    let (sizes, outputs, mut rng) = (TaskSizes { d_p: 8, ..SIZES }, 3, rng(4));
    let mut params = Params::new();
    let mut init = Init { params: &mut params, rng: &mut rng, dtype: DType::F64, linear: LinearInit::Normal };
    let config = PredictorConfig { dim: sizes.d_p, depth: 2, heads: 2, learned_positions: false, embed_std: 0.3 };
    let predictor = Predictor::new(&config, (sizes.d_e, outputs), 3, Names::Predictor, Role::Fixed, &mut init);
    let w = shaken(params, &mut rng);
    let psi = normal(&[sizes.context, sizes.d_p], 1.0, &mut rng);
    let f = move |u: &Var, v: &Var| predictor.forward(&w, &(v + &psi), u);
    Subject::new("ViT predictor", f, random_task(sizes, outputs, &mut rng))
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

/// σ of these tests: the paper's 0.25, taken as a variance.
pub(super) const VARIANCE: f64 = 0.25;

pub(super) fn sigma() -> Sigma {
    Sigma::from_variance(VARIANCE)
}

pub(super) fn random(shape: &[usize], seed: u64) -> Tensor {
    Tensor::normal(shape, 1.0, DType::F64, &mut stream(seed, Purpose::Eval, [0x3e1, 0]))
}

/// A random A or B.
pub(super) fn matrix(task: &RegressionTask, seed: u64) -> Tensor {
    random(&task.zero().shape()[..], seed).scaled(0.3)
}

/// 2d points that have the Gaussian's first three moments, for all masked tokens of a task at once.
pub(super) fn cubature(task: &RegressionTask) -> Quadrature {
    Quadrature::cubature(task.sizes().tokens, task.sizes().d_e, sigma())
}

/// One draw of the noise, and its mirror image.
pub(super) fn pair(task: &RegressionTask) -> Quadrature {
    Quadrature::antithetic(&random(&[task.sizes().tokens, task.sizes().d_e], 1).scaled(VARIANCE.sqrt()))
}

/// Half of a pair: one draw alone, whose gradients are what the pair has to cancel.
pub(super) fn draw(task: &RegressionTask) -> Quadrature {
    Quadrature { noise: pair(task).noise.rows(0..1), weights: Tensor::full([1], 1.0, DType::F64) }
}

/// p and q of the linear F = p·u_j + Σᵢ q·vᵢ, read off F itself.
pub(super) fn coefficients(Subject { f, task, .. }: &Subject) -> (Vec<f64>, Vec<f64>) {
    let TaskSizes { context, d_p, .. } = task.sizes();
    let unit = |tokens: usize, at: Option<usize>| {
        Var::constant(Tensor::from_fn([1, tokens, d_p], DType::F64, |i| f64::from(Some(i) == at)))
    };
    let p = (0..d_p).map(|k| f(&unit(1, Some(k)), &unit(context, None)).item()).collect();
    (p, (0..d_p).map(|k| f(&unit(1, None), &unit(context, Some(k))).item()).collect())
}

pub(super) fn number(x: f64) -> Tensor {
    Tensor::new([1, 1], vec![x])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_f32_or_of_another_shape_is_refused() {
        let refused = |task: RegressionTask, f: fn(&Var, &Var) -> Var| {
            let message = std::panic::catch_unwind(|| Subject::new("mine", f, task)).err().expect("refused");
            message.downcast_ref::<String>().expect("a message").clone()
        };
        let task = || random_task(SIZES, SIZES.d_p, &mut rng(5));
        let in_f32 = refused(RegressionTask { x: task().x.to_dtype(DType::F32), ..task() }, |u, _| u.clone());
        assert!(in_f32.contains("mine: x is in f32: propositions are compared in f64"), "{in_f32}");
        let computed = refused(task(), |u, _| u.value().to_dtype(DType::F32).into());
        assert!(computed.contains("mine: what F predicts is in f32"), "{computed}");
        let shape = refused(task(), |u, _| u.sum_axis(1));
        assert!(shape.contains("mine: the shape of what F predicts"), "{shape}");
    }
}
