//! y[r, k] = x[r, index[r, k]]: picking tokens, the paper's x = {pᵢ | i ∈ B_x}.
//!
//! dx[r, t] = Σ of dy[r, k] over the k with index[r, k] = t: a token picked twice gets both gradients, one that was
//! not picked gets none.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::tokens;
use crate::tensor::{Indices, Shape, Tensor};

#[track_caller]
fn forward(x: &Tensor, indices: &Indices) -> (Tensor, Shape) {
    let [sources, n, dim] = x.dims("gather_tokens");
    let rows = indices.rows();
    let fits = sources > 0 && rows.is_multiple_of(sources);
    assert!(fits, "gather_tokens: {rows} rows of indices into {} (they must be a multiple of its rows)", x.shape());
    let y = tokens::gather(x.buffer(), n, dim, indices.buffer(), indices.per_row());
    (Tensor::from_buffer([rows, indices.per_row(), dim], y), *x.shape())
}

fn backward(shape: &Shape, indices: &Indices, dy: &Tensor) -> Tensor {
    let (n, dim) = (shape[1], shape[2]);
    let dx = tokens::scatter_add(dy.buffer(), n, dim, indices.buffer(), indices.per_row(), shape.elements());
    Tensor::from_buffer(*shape, dx)
}

/// Tokens by index: x \[S, T, D\], `indices` of R rows of K → \[R, K, D\].
///
/// R is a multiple of S; row r reads x's row r mod S. So a position table \[1, T, D\] serves every image, and a batch
/// serves several masks of each image.
///
/// # Panics
/// When an index is not below T or R is not a multiple of S.
#[track_caller]
pub fn gather_tokens(x: &Var, indices: &Indices) -> Var {
    let (y, shape) = forward(x.value(), indices);
    let indices = indices.clone();
    record("gather_tokens", [x], y, move |dy, _| [Some(backward(&shape, &indices, &dy))])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn values() {
        let x = Tensor::new([2, 3, 2], (0..12).map(f64::from).collect());
        let two_rows = Indices::from_rows(&[vec![2, 0], vec![1, 1]]);
        same(&forward(&x, &two_rows).0, [2, 2, 2], &[4., 5., 0., 1., 8., 9., 8., 9.]);
        // Four rows of indices into two images: the images come round again.
        let four = Indices::from_rows(&[vec![0], vec![0], vec![1], vec![1]]);
        same(&forward(&x, &four).0, [4, 1, 2], &[0., 1., 6., 7., 2., 3., 8., 9.]);
        same(&forward(&x, &Indices::new(2, 0, vec![])).0, [2, 0, 2], &[]);
    }

    #[test]
    fn gradient() {
        let indices = Indices::from_rows(&[vec![2, 0, 2], vec![1, 1, 0], vec![0, 1, 2], vec![2, 2, 2]]);
        assert_op("gather_tokens", |x| gather_tokens(&x[0], &indices), &[random([2, 3, 5], 1)]);
        assert_op("gather_tokens from a table", |x| gather_tokens(&x[0], &indices), &[random([1, 4, 2], 1)]);
    }

    #[test]
    #[should_panic(expected = "gather_tokens: index 3 into 3 tokens")]
    fn an_index_out_of_range() {
        gather_tokens(&random([1, 3, 2], 1).into(), &Indices::from_rows(&[vec![3]]));
    }
}
