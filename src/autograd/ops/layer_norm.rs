//! y = γ ⊙ x̂ + β along the last dimension, x̂ = (x − μ)/s, with mean μ and s = √(variance + ε) of n entries.
//!
//! With g = γ ⊙ dy:  dx = (g − mean(g) − x̂ mean(g ⊙ x̂)) / s.  The second term is what flows through μ, the third
//! what flows through s.  dγ = Σ dy ⊙ x̂ and dβ = Σ dy over all rows.

use crate::autograd::Var;
use crate::autograd::tape::record_adding;
use crate::kernels::{Buffer, layer_norm as kernel};
use crate::tensor::Tensor;

/// x, γ if there is one, and each row's (μ, 1/s).
struct Saved {
    x: Tensor,
    gamma: Option<Tensor>,
    stats: Buffer,
}

#[track_caller]
fn forward(x: &Tensor, affine: Option<(&Tensor, &Tensor)>, eps: f64) -> (Tensor, Saved) {
    let buffers = affine.map(|(gamma, beta)| (gamma.buffer(), beta.buffer()));
    let (y, stats) = kernel::forward(x.last_dim(), x.buffer(), buffers, eps);
    let gamma = affine.map(|(gamma, _)| gamma.clone());
    (Tensor::from_buffer(*x.shape(), y), Saved { x: x.clone(), gamma, stats })
}

fn backward_input(Saved { x, gamma, stats }: &Saved, sum: Option<Tensor>, dy: Tensor) -> Tensor {
    let (sum, gamma) = (sum.map(Tensor::into_buffer), gamma.as_ref().map(Tensor::buffer));
    let dx = kernel::backward_input(sum, x.last_dim(), x.buffer(), gamma, stats, dy.into_buffer());
    Tensor::from_buffer(*x.shape(), dx)
}

fn backward_affine(Saved { x, stats, .. }: &Saved, dy: &Tensor) -> [Tensor; 2] {
    let n = x.last_dim();
    let (dgamma, dbeta) = kernel::backward_affine(n, x.buffer(), stats, dy.buffer());
    [Tensor::from_buffer([n], dgamma), Tensor::from_buffer([n], dbeta)]
}

/// Layer normalization along the last dimension, with γ and β (each of that length) or without.
///
/// ε is 10⁻⁶ in the encoder and predictor, 10⁻⁵ (and no affine part) on the targets, as in the official code.
///
/// # Panics
/// When γ or β has another length than the last dimension.
#[track_caller]
pub fn layer_norm(x: &Var, affine: Option<(&Var, &Var)>, eps: f64) -> Var {
    let (y, saved) = forward(x.value(), affine.map(|(gamma, beta)| (gamma.value(), beta.value())), eps);
    let inputs: Vec<&Var> = [x].into_iter().chain(affine.into_iter().flat_map(|(gamma, beta)| [gamma, beta])).collect();
    record_adding("layer_norm", &inputs, y, move |dy, slots| {
        if let [_, to_gamma, to_beta] = slots
            && (to_gamma.wanted() || to_beta.wanted())
        {
            let [dgamma, dbeta] = backward_affine(&saved, &dy);
            to_gamma.add(dgamma);
            to_beta.add(dbeta);
        }
        slots[0].add_by(|sum| backward_input(&saved, sum, dy));
    })
}
