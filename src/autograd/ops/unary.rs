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

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    type Function = fn(&Var) -> Var;

    #[test]
    fn known_values() {
        let known: [(Function, &[f64], &[f64]); 7] = [
            (exp, &[0.0, 1.0], &[1.0, std::f64::consts::E]),
            (ln, &[1.0, std::f64::consts::E], &[0.0, 1.0]),
            (tanh, &[0.0, 0.549_306_144_334_054_8], &[0.0, 0.5]), // ½ ln 3
            (relu, &[-2.0, 0.0, 3.0], &[0.0, 0.0, 3.0]),
            (abs, &[-2.0, 0.0, 3.0], &[2.0, 0.0, 3.0]),
            (sqrt, &[0.0, 9.0], &[0.0, 3.0]),
            // From a table of Φ.
            (gelu, &[0.0, 1.0, -1.0, 2.0], &[0.0, 0.841_344_746_068_543, -0.158_655_253_931_457, 1.954_499_736_103_64]),
        ];
        for (f, x, y) in known {
            same(f(&Tensor::new([x.len()], x.to_vec()).into()).value(), [x.len()], y);
        }
        assert!([relu, abs, exp, gelu].iter().all(|f| f(&Tensor::new([1], vec![f32::NAN]).into()).item().is_nan()));
        let far = gelu(&Tensor::new([2], vec![-40.0f32, 40.0]).into()).value().to_f64_vec();
        assert!(far[0].abs() < 1e-30 && far[1] == 40.0, "{far:?}");
    }

    #[test]
    fn gradient() {
        let away_from_0 = random([37], 1).map(|x| x + x.signum());
        for (name, f) in [("exp", exp as Function), ("tanh", tanh), ("relu", relu), ("abs", abs)] {
            assert_op(name, |x| f(&x[0]), std::slice::from_ref(&away_from_0));
        }
        for (name, f) in [("ln", ln as Function), ("sqrt", sqrt)] {
            assert_op(name, |x| f(&x[0]), &[away_from_0.map(f64::abs)]);
        }
        assert_op("gelu", |x| gelu(&x[0]), &[random([37], 1).scaled(4.0)]);
    }

    #[test]
    fn there_is_no_slope_at_a_corner() {
        for f in [relu, abs] {
            let tape = crate::autograd::Tape::new();
            let x = tape.leaf(Tensor::zeros([2], crate::DType::F64));
            let found = tape.backward_from(&f(&x), Tensor::new([2], vec![1.0, 1.0]));
            assert_eq!(found.of(&x).unwrap().to_f64_vec(), [0.0, 0.0]);
        }
    }
}
