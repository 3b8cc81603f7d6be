//! y = x Φ(x), Φ the normal distribution function (exact GELU, by erf).
//!
//! dx = (Φ(x) + x φ(x)) dy, φ = Φ′ the normal density.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels;
use crate::tensor::Tensor;

fn forward(x: &Tensor) -> (Tensor, Tensor) {
    (Tensor::from_buffer(*x.shape(), kernels::gelu(x.buffer())), x.clone())
}

fn backward(x: &Tensor, dy: &Tensor) -> Tensor {
    Tensor::from_buffer(*x.shape(), kernels::gelu_backward(x.buffer(), dy.buffer()))
}

/// GELU(x) = x Φ(x), element by element.
#[track_caller]
pub fn gelu(x: &Var) -> Var {
    let (y, x_saved) = forward(x.value());
    record("gelu", [x], y, move |dy, _| [Some(backward(&x_saved, &dy))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::DType;

    #[test]
    fn values() {
        // x Φ(x) at 0, ±1 and 2, from a table of Φ.
        let x = Tensor::new([4], vec![0.0, 1.0, -1.0, 2.0]);
        same(&forward(&x).0, [4], &[0.0, 0.841_344_746_068_543, -0.158_655_253_931_457, 1.954_499_736_103_64]);
        let far = forward(&Tensor::new([2], vec![-40.0f32, 40.0])).0.to_f64_vec();
        assert!(far[0].abs() < 1e-30 && far[1] == 40.0, "{far:?}");
    }

    #[test]
    fn f32_and_f64_agree() {
        let x = Tensor::from_fn([2001], DType::F64, |i| (i as f64 - 1000.0) * 0.01);
        let (exact, fast) = (forward(&x).0, forward(&x.to_dtype(DType::F32)).0);
        assert!(exact.max_abs_diff(&fast) < 1e-6);
        let ones = Tensor::full([2001], 1.0, DType::F64);
        let (exact, fast) = (backward(&x, &ones), backward(&x.to_dtype(DType::F32), &ones.to_dtype(DType::F32)));
        assert!(exact.max_abs_diff(&fast) < 1e-6);
    }

    #[test]
    fn gradient() {
        assert_op("gelu", |x| gelu(&x[0]), &[random([37], 1).scaled(4.0)]);
    }
}
