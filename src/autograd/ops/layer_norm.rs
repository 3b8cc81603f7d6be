//! y = γ ⊙ x̂ + β along the last dimension, x̂ = (x − μ)/s, with mean μ and s = √(variance + ε) of n entries.
//!
//! With g = γ ⊙ dy:  dx = (g − mean(g) − x̂ mean(g ⊙ x̂)) / s.  The second term is what flows through μ, the third
//! what flows through s.  dγ = Σ dy ⊙ x̂ and dβ = Σ dy over all rows.

use crate::autograd::Var;
use crate::autograd::tape::record_adding;
use crate::kernels::layer_norm as kernel;
use crate::tensor::Tensor;

/// Layer normalization along the last dimension, with γ and β (each of that length) or without.
///
/// ε is 10⁻⁶ in the encoder and predictor, 10⁻⁵ (and no affine part) on the targets, as in the official code.
#[track_caller]
pub fn layer_norm(x: &Var, affine: Option<(&Var, &Var)>, eps: f64) -> Var {
    let (saved, n) = (x.value().clone(), x.value().last_dim());
    let buffers = affine.map(|(gamma, beta)| (gamma.value().buffer(), beta.value().buffer()));
    let (y, stats) = kernel::forward(n, saved.buffer(), buffers, eps);
    let saved_gamma = affine.map(|(gamma, _)| gamma.value().clone());
    let inputs: Vec<&Var> = [x].into_iter().chain(affine.into_iter().flat_map(|(gamma, beta)| [gamma, beta])).collect();
    record_adding("layer_norm", &inputs, Tensor::from_buffer(*x.shape(), y), move |dy, slots| {
        if let [_, to_gamma, to_beta] = slots
            && (to_gamma.wanted() || to_beta.wanted())
        {
            let (dgamma, dbeta) = kernel::backward_affine(n, saved.buffer(), &stats, dy.buffer());
            to_gamma.add(Tensor::from_buffer([n], dgamma));
            to_beta.add(Tensor::from_buffer([n], dbeta));
        }
        slots[0].add_by(|sum| {
            let (sum, gamma) = (sum.map(Tensor::into_buffer), saved_gamma.as_ref().map(Tensor::buffer));
            let dx = kernel::backward_input(sum, n, saved.buffer(), gamma, &stats, dy.into_buffer());
            Tensor::from_buffer(*saved.shape(), dx)
        });
    })
}
