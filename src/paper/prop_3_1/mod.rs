//! Appendix A: the losses with and without noise, tied and untied, and their gradients at A = 0.
//!
//! All of it works on any F: a closure from masked tokens and projected context to predictions, made of operations on
//! the tape. The paper's F is a function of one masked and one context token; here it sees all N_t and N_c tokens of an
//! image, so that an attention network is an F too. The context positions ψᵢ of Eq. (1) are left out of the appendix;
//! an F that needs them adds them itself.
//!
//! What the proposition says, what it does not, and the derivations: docs/derivations/collapse.md.

mod eq8_eq9_eq10_eq11_eq12_appendix_a;

use super::masked_token;
use crate::autograd::{Tape, Var, ops};
use crate::tensor::{DType, Tensor};

pub use eq8_eq9_eq10_eq11_eq12_appendix_a::{
    deterministic_loss, expected_loss, expected_loss_under, gradient_at_zero, tied_loss, untied_gradient,
};

/// F: masked tokens \[R, N_t, d_p\] and projected context \[R, N_c, d_p\] → predictions \[R, N_t, D\].
///
/// Each of the R rows on its own: no row may see another.
pub type Regressor<'f> = dyn Fn(&Var, &Var) -> Var + 'f;

/// What F is to predict, and from what: "some target y_j given a stochastic position and projected context".
#[derive(Clone, Debug)]
pub struct RegressionTask {
    /// ψ_j: \[N_t, d_p\], the same in every row.
    pub psi: Tensor,
    /// m: \[d_p\]
    pub m: Tensor,
    /// xᵢ: \[R, N_c, d_e\], features of the context.
    pub x: Tensor,
    /// y_j: \[R, N_t, D\]
    pub y: Tensor,
}

/// The sizes of a [`RegressionTask`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSizes {
    /// R, images.
    pub rows: usize,
    /// N_t, masked tokens of an image.
    pub tokens: usize,
    /// N_c, context tokens of an image.
    pub context: usize,
    /// Width of a token.
    pub d_p: usize,
    /// Width of a feature.
    pub d_e: usize,
}

impl RegressionTask {
    /// The sizes that `psi` and `x` have.
    #[track_caller]
    pub fn sizes(&self) -> TaskSizes {
        let [tokens, d_p] = self.psi.dims("regression task: psi");
        let [rows, context, d_e] = self.x.dims("regression task: x");
        TaskSizes { rows, tokens, context, d_p, d_e }
    }

    /// A matrix A or B of zeros: \[d_p, d_e\].
    pub fn zero(&self) -> Tensor {
        let TaskSizes { d_p, d_e, .. } = self.sizes();
        Tensor::zeros([d_p, d_e], DType::F64)
    }

    /// ψ_j + m in every row: \[R, N_t, d_p\].
    pub fn positions(&self) -> Var {
        let TaskSizes { rows, tokens, d_p, .. } = self.sizes();
        let psi = Var::constant(self.psi.reshape([1, tokens, d_p]));
        ops::repeat_batch(&masked_token(&psi, &self.m.clone().into()), rows)
    }

    /// B xᵢ: \[R, N_c, d_p\].
    pub fn context(&self, b: &Var) -> Var {
        ops::linear(&self.x.clone().into(), b, None)
    }
}

/// G(u, v) = Σ_{r,j} |F(u, v)_{rj} − y_{rj}|², a scalar: the squared error at given tokens.
///
/// Its [gradients](gradient) with respect to u and v are 2(F − y)∇₁F and 2(F − y)∇₂F, the factors that the appendix's
/// gradients are made of.
pub fn squared_error(f: &Regressor<'_>, y: &Tensor, u: &Var, v: &Var) -> Var {
    let error = f(u, v) - Var::constant(y.clone());
    (&error * &error).sum()
}

/// The gradient of a scalar function of one matrix, by the tape; zero where it does not depend on it.
#[track_caller]
pub fn gradient(f: impl Fn(&Var) -> Var, at: &Tensor) -> Tensor {
    let tape = Tape::new();
    let x = tape.leaf(at.clone());
    let y = f(&x);
    let found = if y.is_tracked() { tape.backward(&y).take(&x) } else { None };
    found.unwrap_or_else(|| Tensor::zeros(*at.shape(), at.dtype()))
}

/// Σ over rows and tokens of a bᵀ: \[R, N, p\], \[R, N, q\] → \[p, q\].
fn outer_products(a: &Tensor, b: &Tensor) -> Tensor {
    let flat = |x: &Tensor| Var::constant(x.reshape([x.elements() / x.last_dim(), x.last_dim()]));
    ops::matmul_tn(&flat(a), &flat(b)).value().clone()
}
