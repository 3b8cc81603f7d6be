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
