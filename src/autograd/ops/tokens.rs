//! y[r, k] = x[r, index[r, k]]: picking tokens, the paper's x = {pᵢ | i ∈ B_x}.
//!
//! dx[r, t] = Σ of dy[r, k] over the k with index[r, k] = t: a token picked twice gets both gradients, one that was
//! not picked gets none.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::tokens;
use crate::tensor::{Indices, Tensor};

/// Tokens by index: x \[S, T, D\], `indices` of R rows of K → \[R, K, D\].
///
/// R is a multiple of S; row r reads x's row r mod S. So a position table \[1, T, D\] serves every image, and a batch
/// serves several masks of each image.
///
/// # Panics
/// When an index is not below T or R is not a multiple of S.
#[track_caller]
pub fn gather_tokens(x: &Var, indices: &Indices) -> Var {
    let (shape, [sources, n, dim]) = (*x.shape(), x.dims("gather_tokens"));
    let (rows, per_row) = (indices.rows(), indices.per_row());
    let fits = sources > 0 && rows.is_multiple_of(sources);
    assert!(fits, "gather_tokens: {rows} rows of indices into {shape} (they must be a multiple of its rows)");
    let indices = indices.buffer().clone();
    let y = Tensor::from_buffer([rows, per_row, dim], tokens::gather(x.value().buffer(), n, dim, &indices, per_row));
    record("gather_tokens", [x], y, move |dy, _| {
        let dx = tokens::scatter_add(dy.buffer(), n, dim, &indices, per_row, shape.elements());
        [Some(Tensor::from_buffer(shape, dx))]
    })
}
