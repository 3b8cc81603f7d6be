//! |x|₁ = Σ |xᵢ| with gradient sign(x) (0 at 0, the subgradient of least norm), and |x|₂ = √Σ xᵢ² with gradient
//! x / |x|₂ (0 where the norm is 0).

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels;
use crate::tensor::Tensor;

/// Σ |x|, a scalar.
#[track_caller]
pub fn l1_norm(x: &Var) -> Var {
    let saved = x.value().clone();
    let y = Tensor::scalar(kernels::sum_abs(saved.buffer()), saved.dtype());
    record("l1_norm", [x], y, move |dy, _| {
        [Some(Tensor::from_buffer(*saved.shape(), kernels::sign_times(saved.buffer(), dy.item())))]
    })
}

/// √ Σ x², a scalar: the Euclidean norm of a vector, the Frobenius norm of a matrix.
#[track_caller]
pub fn l2_norm(x: &Var) -> Var {
    let saved = x.value().clone();
    let norm = saved.norm();
    record("l2_norm", [x], Tensor::scalar(norm, saved.dtype()), move |dy, _| {
        [Some(saved.scaled(if norm == 0.0 { 0.0 } else { dy.item() / norm }))]
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::autograd::Tape;

    #[test]
    fn value_and_gradient() {
        let x = Tensor::new([3], vec![3.0, 0.0, -4.0]);
        assert_eq!(l1_norm(&x.clone().into()).item(), 7.0);
        assert_eq!(l2_norm(&x.into()).item(), 5.0);
        assert_op("l1_norm", |x| l1_norm(&x[0]), &[random([3, 4], 1)]);
        assert_op("l2_norm", |x| l2_norm(&x[0]), &[random([3, 4], 1)]);
    }

    #[test]
    fn gradients_at_zero_are_zero() {
        for norm in [l1_norm, l2_norm] {
            let tape = Tape::new();
            let x = tape.leaf(Tensor::zeros([2], crate::DType::F64));
            assert_eq!(tape.backward(&norm(&x)).of(&x).unwrap().to_f64_vec(), [0.0, 0.0]);
        }
    }
}
