//! The world of the small demonstrations: a field on a ring, and a multilayer perceptron that reads it off.

use rand::Rng;

use crate::autograd::{Var, ops};
use crate::nn::{Init, Linear, LinearInit, Params, Weights};
use crate::paper::stochastic_position;
use crate::tensor::{DType, Tensor};

/// Positions on the ring.
pub const POSITIONS: usize = 12;

/// Dimensions that the positions span.
pub const RANK: usize = 4;

/// ψ_j = (cos t, sin t, cos 2t, sin 2t, 0, …) at t = 2πj/12: \[12, d_p\], of rank 4.
///
/// # Panics
/// When `d_p` is less than 4.
pub fn positions(d_p: usize) -> Tensor {
    assert!(d_p >= RANK, "ring: positions of rank {RANK} in {d_p} dimensions");
    Tensor::from_fn([POSITIONS, d_p], DType::F64, |i| {
        let t = std::f64::consts::TAU * (i / d_p) as f64 / POSITIONS as f64;
        match i % d_p {
            0 => t.cos(),
            1 => t.sin(),
            2 => (2.0 * t).cos(),
            3 => (2.0 * t).sin(),
            _ => 0.0,
        }
    })
}

/// The value at each position of the field with these coefficients on its four harmonics: y_j = ⟨ψ_j, h⟩ / √2, for h
/// \[R, 4\] → \[R, 12, 1\]. With E hhᵀ = I, the mean of y² over positions and images is 1.
pub fn field(coefficients: &Tensor) -> Tensor {
    let [rows, _] = coefficients.dims("ring: coefficients");
    let (psi, h) = (positions(RANK).into(), coefficients.to_dtype(DType::F64).into());
    let y = std::f64::consts::FRAC_1_SQRT_2 * ops::matmul_nt(&h, &psi);
    y.value().reshape([rows, POSITIONS, 1]).to_dtype(coefficients.dtype())
}

/// F(u, v) = w · GELU(W_u u + W_v v + b) + b′.
#[derive(Clone, Debug)]
pub struct Mlp {
    masked: Linear,
    context: Linear,
    out: Linear,
}

impl Mlp {
    /// A perceptron with fresh parameters, for tokens of width `d_p`.
    pub fn new(d_p: usize, hidden: usize, dtype: DType, params: &mut Params, rng: &mut impl Rng) -> Self {
        let mut init = Init { params, rng, dtype, linear: LinearInit::Xavier };
        Mlp {
            masked: init.linear("masked", d_p, hidden),
            context: init.linear("context", d_p, hidden),
            out: init.linear("out", hidden, 1),
        }
    }

    /// u \[R, N, d_p\], v \[R, 1, d_p\] → \[R, N, 1\].
    pub fn forward(&self, w: &Weights, u: &Var, v: &Var) -> Var {
        self.out.forward(w, &ops::gelu(&(self.masked.forward(w, u) + self.context.forward(w, v))))
    }

    /// F(An_j + ψ_j, Bx) at every position, with the noise `n` \[R, 12, d_e\] and features x \[R, 1, d_e\] → \[R, 12, 1\].
    /// The shared token m is not added: the bias of F's first layer does what it would.
    pub fn predict(&self, w: &Weights, (a, b): (&Var, &Var), x: &Var, n: Tensor) -> Var {
        let [d_p, _] = a.dims("ring: A");
        let psi = Var::constant(positions(d_p).to_dtype(a.dtype()));
        self.forward(w, &stochastic_position(a, &n.into(), &psi), &ops::linear(x, b, None))
    }
}
