//! Functions of one number, element by element: y = f(x), dx = f′(x) dy.
//!
//! | y | f′(x) |
//! |---|---|
//! | eˣ | y |
//! | ln x | 1/x |
//! | tanh x | 1 − y² |
//! | max(x, 0) | 1 where x > 0, else 0 |
//! | \|x\| | sign x, 0 at 0 (the subgradient of least size) |
//! | √x | 1/2y |
//! | x Φ(x), Φ the normal distribution function (exact GELU, by erf) | Φ(x) + x φ(x), φ = Φ′ the normal density |

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::elementwise::{self, Unary};
use crate::tensor::Tensor;

#[track_caller]
fn unary(f: Unary, x: &Var) -> Var {
    let y = Tensor::from_buffer(*x.shape(), elementwise::unary(f, x.value().buffer()));
    let saved = if f.slope_reads_result() { y.clone() } else { x.value().clone() };
    record(f.name(), [x], y, move |dy, _| {
        let dx = elementwise::unary_backward(f, saved.buffer(), dy.buffer());
        [Some(Tensor::from_buffer(*saved.shape(), dx))]
    })
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $f:ident;)*) => {$(
        $(#[$doc])*
        #[track_caller]
        pub fn $name(x: &Var) -> Var {
            unary(Unary::$f, x)
        }
    )*};
}

functions! {
    /// eˣ
    exp = Exp;
    /// ln x; NaN below 0.
    ln = Ln;
    /// tanh x
    tanh = Tanh;
    /// max(x, 0)
    relu = Relu;
    /// |x|
    abs = Abs;
    /// √x; NaN below 0.
    sqrt = Sqrt;
    /// GELU(x) = x Φ(x).
    gelu = Gelu;
}
