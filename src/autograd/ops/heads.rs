//! Splitting tokens into heads, (B, N, h d) → (B, h, N, d), and merging them back.
//!
//! Both are permutations of the elements, each the inverse and so the transpose of the other: the gradient of one is
//! the other.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels;
use crate::tensor::Tensor;

fn swap(x: &Tensor, [outer, a, b, inner]: [usize; 4]) -> kernels::Buffer {
    kernels::swap_middle(x.buffer(), [outer, a, b, inner])
}

#[track_caller]
fn split(x: &Tensor, heads: usize) -> Tensor {
    let [b, n, width] = x.dims("split_heads");
    assert!(heads > 0 && width % heads == 0, "split_heads: {heads} heads do not divide a width of {width}");
    let d = width / heads;
    Tensor::from_buffer([b, heads, n, d], swap(x, [b, n, heads, d]))
}

#[track_caller]
fn merge(x: &Tensor) -> Tensor {
    let [b, heads, n, d] = x.dims("merge_heads");
    Tensor::from_buffer([b, n, heads * d], swap(x, [b, heads, n, d]))
}

/// \[B, N, h d\] → \[B, h, N, d\].
///
/// # Panics
/// When `heads` does not divide the last dimension.
#[track_caller]
pub fn split_heads(x: &Var, heads: usize) -> Var {
    record("split_heads", [x], split(x.value(), heads), |dy, _| [Some(merge(&dy))])
}

/// \[B, h, N, d\] → \[B, N, h d\].
#[track_caller]
pub fn merge_heads(x: &Var) -> Var {
    let heads = x.shape().get(1).copied().unwrap_or(0);
    record("merge_heads", [x], merge(x.value()), move |dy, _| [Some(split(&dy, heads))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn values() {
        let [b, n, h, d] = [2, 3, 2, 5];
        let x = random([b, n, h * d], 1);
        let xs = x.to_f64_vec();
        let mut exact = Vec::new();
        for i in 0..b {
            for head in 0..h {
                for token in 0..n {
                    exact.extend((0..d).map(|k| xs[(i * n + token) * h * d + head * d + k]));
                }
            }
        }
        same(&split(&x, h), [b, h, n, d], &exact);
        same(&merge(&split(&x, h)), [b, n, h * d], &xs);
    }

    #[test]
    fn gradient() {
        assert_op("split_heads", |x| split_heads(&x[0], 3), &[random([2, 5, 6], 1)]);
        assert_op("merge_heads", |x| merge_heads(&x[0]), &[random([2, 3, 5, 2], 1)]);
    }

    #[test]
    #[should_panic(expected = "4 heads do not divide a width of 6")]
    fn heads_that_do_not_divide() {
        split_heads(&random([1, 1, 6], 1).into(), 4);
    }
}
