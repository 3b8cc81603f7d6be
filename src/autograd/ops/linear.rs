//! y = f(x) Wᵀ + b + r for every row, with W stored (outputs, inputs) as PyTorch does.
//!
//! f is nothing, a layer norm, or GELU: what stands before a linear map in a transformer block. r is the residual that
//! its result is added to, if there is one.
//!
//! With z = f(x):  dz = dy W,  dW = dyᵀ z and db = Σ dy (sums over rows),  dr = dy,  dx = f′(x)ᵀ dz.
//!
//! z is not kept but computed from x again, a pass over numbers that are in the cache at that moment. In a ViT block z
//! would be two fifths of what is kept for the backward pass; GELU and its derivative even share their exponential.
//!
//! Under [`Precision::Bf16`](crate::kernels::Precision::Bf16) all that the products read is in bf16: z as it is made, and copies
//! of W, and of dy where that is in f32. The sums over rows are of dy as it comes.

use crate::autograd::Var;
use crate::autograd::tape::{Slot, record_adding};
use crate::kernels::elementwise::{self, Unary};
use crate::kernels::{Buffer, DType, Precision, layer_norm as norm_kernel, matmul as kernel, reduce};
use crate::tensor::Tensor;

/// f(x): what a linear map reads.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// x
    Plain(&'a Var),
    /// Layer norm of x: γ ⊙ x̂ + β, see [`layer_norm`](super::layer_norm).
    Norm {
        /// \[…, inputs\]
        x: &'a Var,
        /// \[inputs\]
        gamma: &'a Var,
        /// \[inputs\]
        beta: &'a Var,
        /// Added to the variance.
        eps: f64,
    },
    /// x Φ(x), see [`gelu`](super::gelu).
    Gelu(&'a Var),
}

impl Input<'_> {
    fn x(&self) -> &Var {
        match self {
            Input::Plain(x) | Input::Gelu(x) | Input::Norm { x, .. } => x,
        }
    }
}

/// What is needed to compute f(x) again.
enum Function {
    Plain,
    Norm { gamma: Tensor, beta: Tensor, stats: Buffer },
    Gelu,
}

/// x (as the product reads it, where f is nothing), its own type, W as the product reads it, and f.
struct Saved {
    x: Tensor,
    dtype: DType,
    weight: Tensor,
    function: Function,
}

impl Saved {
    /// [rows, inputs, outputs]
    fn sizes(&self) -> [usize; 3] {
        let [outputs, inputs] = self.weight.dims("linear: the weight");
        [self.x.shape()[..self.x.shape().len() - 1].iter().product(), inputs, outputs]
    }
}

#[track_caller]
fn forward(
    input: Input<'_>,
    weight: &Tensor,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    dtype: DType,
) -> (Tensor, Saved) {
    let [outputs, inputs] = weight.dims("linear: the weight");
    let x = input.x().value();
    let rank = x.shape().len();
    let fits = rank >= 1 && x.last_dim() == inputs;
    assert!(fits, "linear: x is {} but the weight {} takes rows of {inputs}", x.shape(), weight.shape());
    let shape = x.shape().with(rank - 1, outputs);
    if let Some(residual) = residual {
        assert_eq!(*residual.shape(), shape, "linear: the residual is {}, the result {shape}", residual.shape());
    }
    let narrow = Precision::of_operands(x.buffer());
    let (z, function) = match input {
        Input::Plain(_) => (elementwise::to_dtype(x.buffer(), narrow), Function::Plain),
        Input::Gelu(_) => (elementwise::unary_to(narrow, Unary::Gelu, x.buffer()), Function::Gelu),
        Input::Norm { gamma, beta, eps, .. } => {
            let (gamma, beta) = (gamma.value().clone(), beta.value().clone());
            let (z, stats) = norm_kernel::forward_operand(inputs, x.buffer(), (gamma.buffer(), beta.buffer()), eps);
            (z, Function::Norm { gamma, beta, stats })
        }
    };
    let kept = if let Function::Plain = function { Tensor::from_buffer(*x.shape(), z.clone()) } else { x.clone() };
    let weight = Tensor::from_buffer(*weight.shape(), elementwise::operand(weight.buffer()));
    let saved = Saved { x: kept, dtype: x.dtype(), weight, function };
    let [bias, residual] = [bias, residual].map(|x| x.map(Tensor::buffer));
    let y = kernel::linear_to(dtype, saved.sizes(), &z, saved.weight.buffer(), bias, residual);
    (Tensor::from_buffer(shape, y), saved)
}

/// The inputs of the operation, each with `T` for it: absent ones are `None`.
struct Each<T> {
    x: T,
    weight: T,
    bias: Option<T>,
    affine: Option<[T; 2]>,
    residual: Option<T>,
}

fn backward(saved: &Saved, dy: &Tensor, mut to: Each<&mut Slot>) {
    let Saved { x, dtype, weight, function } = saved;
    let dims @ [rows, inputs, outputs] = saved.sizes();
    if let Some(residual) = to.residual {
        residual.add(dy.clone());
    }
    if let Some(bias) = to.bias {
        let add = |sum: Option<Tensor>| reduce::accumulate_rows(sum.map(Tensor::into_buffer), outputs, dy.buffer());
        bias.add_by(|sum| Tensor::from_buffer([outputs], add(sum)));
    }
    let dy = dy.to_dtype(weight.dtype()); // as products read it
    let add_weight = |to: &mut Slot, z: &Buffer| {
        let dims = [outputs, rows, inputs];
        let add = |sum: Option<Tensor>| {
            kernel::linear_backward(sum.map(Tensor::into_buffer), dims, dy.buffer(), true, z, false)
        };
        to.add_by(|sum| Tensor::from_buffer(*weight.shape(), add(sum)));
    };
    let dz = |sum| kernel::linear_backward(sum, [rows, outputs, inputs], dy.buffer(), false, weight.buffer(), false);
    let like_x = |buffer| Tensor::from_buffer(*x.shape(), buffer);
    match function {
        Function::Plain => {
            add_weight(to.weight, x.buffer());
            to.x.add_by(|sum| match sum {
                // What only products read has one reader.
                None => like_x(kernel::linear_backward_to(*dtype, dims, dy.buffer(), weight.buffer())),
                sum => like_x(dz(sum.map(Tensor::into_buffer))),
            });
        }
        Function::Gelu => {
            let (z, dx) = if to.x.wanted() {
                let (z, dx) = kernel::gelu_backward(dims, dy.buffer(), weight.buffer(), x.buffer());
                (z, Some(dx))
            } else {
                (elementwise::unary_to(weight.dtype(), Unary::Gelu, x.buffer()), None)
            };
            add_weight(to.weight, &z);
            if let Some(dx) = dx {
                to.x.add(like_x(dx));
            }
        }
        Function::Norm { gamma, beta, stats } => {
            let z = norm_kernel::recompute(weight.dtype(), inputs, x.buffer(), (gamma.buffer(), beta.buffer()), stats);
            add_weight(to.weight, &z);
            drop(z);
            let affine = to.affine.take().filter(|[gamma, beta]| gamma.wanted() || beta.wanted());
            if !to.x.wanted() && affine.is_none() {
                return;
            }
            let dz = dz(None);
            if let Some([to_gamma, to_beta]) = affine {
                let (dgamma, dbeta) = norm_kernel::backward_affine(inputs, x.buffer(), stats, &dz);
                to_gamma.add(Tensor::from_buffer([inputs], dgamma));
                to_beta.add(Tensor::from_buffer([inputs], dbeta));
            }
            to.x.add_by(|sum| {
                let (sum, gamma) = (sum.map(Tensor::into_buffer), Some(gamma.buffer()));
                like_x(norm_kernel::backward_input(sum, inputs, x.buffer(), gamma, stats, dz))
            });
        }
    }
}

/// f(x) Wᵀ + b + r: x \[…, inputs\], W \[outputs, inputs\], b \[outputs\], r and the result \[…, outputs\].
#[track_caller]
pub fn linear_of(input: Input<'_>, weight: &Var, bias: Option<&Var>, residual: Option<&Var>) -> Var {
    linear_to(weight.dtype(), input, weight, bias, residual)
}

/// f(x) Wᵀ + b for attention, a linear map or GELU before one, and nobody else: in the type of
/// [operands](crate::kernels::Precision::of_operands), as then its gradient is.
#[track_caller]
pub fn linear_operand(input: Input<'_>, weight: &Var, bias: Option<&Var>) -> Var {
    linear_to(Precision::of_operands(weight.value().buffer()), input, weight, bias, None)
}

#[track_caller]
fn linear_to(dtype: DType, input: Input<'_>, weight: &Var, bias: Option<&Var>, residual: Option<&Var>) -> Var {
    let (y, saved) = forward(input, weight.value(), bias.map(Var::value), residual.map(Var::value), dtype);
    let (name, affine) = match input {
        Input::Plain(_) => ("linear", None),
        Input::Norm { gamma, beta, .. } => ("norm_linear", Some([gamma, beta])),
        Input::Gelu(_) => ("gelu_linear", None),
    };
    let (has_bias, has_affine, has_residual) = (bias.is_some(), affine.is_some(), residual.is_some());
    let inputs: Vec<&Var> =
        [input.x(), weight].into_iter().chain(bias).chain(affine.into_iter().flatten()).chain(residual).collect();
    record_adding(name, &inputs, y, move |dy, slots| {
        let mut slots = slots.iter_mut();
        let mut next = || slots.next().expect("a slot for each input");
        let to = Each {
            x: next(),
            weight: next(),
            bias: has_bias.then(&mut next),
            affine: has_affine.then(|| [next(), next()]),
            residual: has_residual.then(&mut next),
        };
        backward(&saved, &dy, to);
    })
}

/// x Wᵀ + b: x \[…, inputs\], W \[outputs, inputs\], b \[outputs\] → \[…, outputs\].
#[track_caller]
pub fn linear(x: &Var, weight: &Var, bias: Option<&Var>) -> Var {
    linear_of(Input::Plain(x), weight, bias, None)
}
