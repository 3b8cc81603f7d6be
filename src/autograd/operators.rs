//! `+ - * /` and unary minus for [`Var`]s and numbers, and the common operations as methods: thin, so that formulas read as
//! formulas. `&x * &y + 1.0` is `ops::add(&ops::mul(&x, &y), …)`.
//!
//! ```
//! use stop_mim::Tensor;
//! use stop_mim::autograd::Tape;
//!
//! let tape = Tape::new();
//! let x = tape.leaf(Tensor::new([2], vec![3.0, 4.0]));
//! let y = ((&x * &x).sum() + 11.0).sqrt() / 2.0; // ½ √(Σ x² + 11)
//! assert_eq!(y.item(), 3.0);
//! assert_eq!(tape.backward(&y).of(&x).unwrap().to_f64_vec(), [0.25, 4.0 / 12.0]);
//! ```

use std::ops::{Add, Div, Mul, Neg, Range, Sub};

use super::{Var, ops};
use crate::tensor::Shape;

impl Var {
    /// A scalar of this value's type, on its device.
    fn number(&self, x: f64) -> Var {
        self.value().number(x).into()
    }
}

/// An operator for each pair of references and values, and for a number on either side.
macro_rules! operator {
    ($($Op:ident $op:ident $f:expr;)*) => {
        $(
            operator!(@pair $Op $op $f, Var, Var);
            operator!(@pair $Op $op $f, &Var, Var);
            operator!(@pair $Op $op $f, Var, &Var);
            operator!(@pair $Op $op $f, &Var, &Var);
            operator!(@number $Op $op $f, Var);
            operator!(@number $Op $op $f, &Var);
        )*
    };
    (@pair $Op:ident $op:ident $f:expr, $A:ty, $B:ty) => {
        impl $Op<$B> for $A {
            type Output = Var;
            #[track_caller]
            fn $op(self, other: $B) -> Var {
                $f(&self, &other)
            }
        }
    };
    (@number $Op:ident $op:ident $f:expr, $A:ty) => {
        impl $Op<f64> for $A {
            type Output = Var;
            #[track_caller]
            fn $op(self, other: f64) -> Var {
                $f(&self, &self.number(other))
            }
        }
        impl $Op<$A> for f64 {
            type Output = Var;
            #[track_caller]
            fn $op(self, other: $A) -> Var {
                $f(&other.number(self), &other)
            }
        }
    };
}

operator! {
    Add add ops::add;
    Sub sub ops::sub;
    Mul mul ops::mul;
    Div div ops::div;
}

impl Neg for &Var {
    type Output = Var;
    #[track_caller]
    fn neg(self) -> Var {
        ops::scale(self, -1.0)
    }
}

impl Neg for Var {
    type Output = Var;
    #[track_caller]
    fn neg(self) -> Var {
        -&self
    }
}

/// Operations as methods, for chains of them.
macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident($($argument:ident: $T:ty),*);)*) => {
        impl Var {
            $(
                $(#[$doc])*
                #[track_caller]
                pub fn $name(&self $(, $argument: $T)*) -> Var {
                    ops::$name(self $(, $argument)*)
                }
            )*
        }
    };
}

methods! {
    /// [`ops::matmul`]: A B.
    matmul(other: &Var);
    /// [`ops::exp`]: eˣ.
    exp();
    /// [`ops::ln`]: ln x.
    ln();
    /// [`ops::tanh`]: tanh x.
    tanh();
    /// [`ops::relu`]: max(x, 0).
    relu();
    /// [`ops::abs`]: |x|.
    abs();
    /// [`ops::sqrt`]: √x.
    sqrt();
    /// [`ops::scale`]: factor · x.
    scale(factor: f64);
    /// [`ops::sum`]: Σ of all elements, a scalar.
    sum();
    /// [`ops::mean`]: the mean of all elements, a scalar.
    mean();
    /// [`ops::sum_axis`]: Σ along an axis.
    sum_axis(axis: usize);
    /// [`ops::mean_axis`]: the mean along an axis.
    mean_axis(axis: usize);
    /// [`ops::transpose`]: two axes exchanged.
    transpose(a: usize, b: usize);
    /// [`ops::reshape`]: the same elements in another shape.
    reshape(shape: impl Into<Shape>);
    /// [`ops::slice`]: the part of an axis in `range`.
    slice(axis: usize, range: Range<usize>);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;
    use crate::autograd::check::assert_op;

    type Formula = (fn(&Var, &Var) -> Var, fn(f64, f64) -> f64);

    #[test]
    fn formulas_are_what_they_say() {
        let (a, b) = (Tensor::new([2], vec![3.0, -1.5]), Tensor::new([2], vec![2.0, 4.0]));
        let formulas: [Formula; 6] = [
            (|a, b| a + b - a * b, |a, b| a + b - a * b),
            (|a, b| a / b + b / a, |a, b| a / b + b / a),
            (|a, b| 2.0 * a - 1.0 / b + 3.0, |a, b| 2.0 * a - 1.0 / b + 3.0),
            (|a, b| 1.0 - a / 4.0 + b * 0.5 - 2.0, |a, b| 1.0 - a / 4.0 + b * 0.5 - 2.0),
            (|a, b| -(a.clone() * b) - -a, |a, b| -(a * b) + a),
            (
                |a, b| 5.0 + b.clone() * a.clone() - a.clone() + 2.0 * b.clone() / 3.0,
                |a, b| 5.0 + b * a - a + 2.0 * b / 3.0,
            ),
        ];
        for (i, (of_vars, of_numbers)) in formulas.into_iter().enumerate() {
            let found = of_vars(&a.clone().into(), &b.clone().into());
            assert!(found.value().max_abs_diff(&a.zip_map(&b, of_numbers)) < 1e-15, "formula {i}");
            assert_op("formula", |x| of_vars(&x[0], &x[1]), &[a.clone(), b.clone()]);
        }
        let of_f32 = &Var::from(Tensor::new([1], vec![1.0f32])) + 1.0;
        assert_eq!((of_f32.dtype(), of_f32.item()), (crate::DType::F32, 2.0));
    }
}
