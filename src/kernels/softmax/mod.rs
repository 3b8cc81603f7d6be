//! Softmax along rows: yᵢ = e^{xᵢ} / Σⱼ e^{xⱼ}.

pub(super) mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod reference;

use super::{Buffer, check_len, launch, rows};

/// Softmax of rows of `cols`.
#[track_caller]
pub fn forward(cols: usize, x: &Buffer) -> Buffer {
    rows("softmax", x, cols);
    let mut y = x.like(x.len());
    launch!("softmax", [x], [y] => forward(cols, x, y));
    y
}

/// y ⊙ (dy − ⟨y, dy⟩): the gradient of [`forward`], given its result y.
#[track_caller]
pub fn backward(cols: usize, y: &Buffer, dy: &Buffer) -> Buffer {
    rows("softmax", y, cols);
    check_len("softmax", "dy", dy, y.len());
    let mut dx = y.like(y.len());
    launch!("softmax", [y, dy], [dx] => backward(cols, y, dy, dx));
    dx
}
