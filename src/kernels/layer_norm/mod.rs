//! Layer normalization along rows (Ba, Kiros and Hinton, 2016): y = γ ⊙ x̂ + β, x̂ = (x − μ) / √(v + ε), with the
//! mean μ and the biased variance v of the row.

mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
mod reference;

use super::elementwise::to_dtype;
use super::{Buffer, DType, Device, Precision, StoredMut, check_len, launch, rows};

/// Layer norm of rows of `cols`, without γ and β as if they were 1 and 0; the second buffer holds (μ, 1/√(v + ε)) for
/// each row.
#[track_caller]
pub fn forward(cols: usize, x: &Buffer, affine: Option<(&Buffer, &Buffer)>, eps: f64) -> (Buffer, Buffer) {
    forward_to(x.dtype(), cols, x, affine, eps)
}

/// [`forward`] for a product to read: y in the type of [operands](Precision::of_operands).
#[track_caller]
pub fn forward_operand(cols: usize, x: &Buffer, affine: (&Buffer, &Buffer), eps: f64) -> (Buffer, Buffer) {
    forward_to(Precision::of_operands(x), cols, x, Some(affine), eps)
}

#[track_caller]
fn forward_to(dtype: DType, cols: usize, x: &Buffer, affine: Option<(&Buffer, &Buffer)>, eps: f64) -> (Buffer, Buffer) {
    let (gamma, beta) = affine.unzip();
    check_len("layer_norm", "gamma", gamma, cols);
    check_len("layer_norm", "beta", beta, cols);
    let mut z = Buffer::unspecified(x.len(), dtype, x.device());
    let (mut y, mut stats) = (StoredMut(&mut z), x.like(2 * rows("layer_norm", x, cols)));
    launch!("layer_norm", [x, gamma, beta], [stats, y] => forward(cols, x, gamma, beta, eps, y, stats));
    (z, stats)
}

/// The result of [`forward`] again, from what it said about each row, in this type.
#[track_caller]
pub fn recompute(dtype: DType, cols: usize, x: &Buffer, (gamma, beta): (&Buffer, &Buffer), stats: &Buffer) -> Buffer {
    check_len("layer_norm", "gamma", gamma, cols);
    check_len("layer_norm", "beta", beta, cols);
    check_len("layer_norm", "the statistics", stats, 2 * rows("layer_norm", x, cols));
    let written = if x.device() == Device::Reference || x.dtype() != DType::F32 { x.dtype() } else { dtype };
    let mut z = Buffer::unspecified(x.len(), written, x.device());
    let mut y = StoredMut(&mut z);
    launch!("layer_norm", at x.device(), x.dtype(), [x, gamma, beta, stats], [y] => recompute(cols, x, gamma, beta, stats, y));
    to_dtype(&z, dtype)
}

/// The gradient of [`forward`] with respect to x, added to `sum` if there is one. The memory of `dy` serves as scratch.
#[track_caller]
pub fn backward_input(
    sum: Option<Buffer>,
    cols: usize,
    x: &Buffer,
    gamma: Option<&Buffer>,
    stats: &Buffer,
    mut dy: Buffer,
) -> Buffer {
    let mut dx = sum.unwrap_or_else(|| Buffer::full(x.len(), 0.0, x.dtype(), x.device()));
    check_len("layer_norm", "the sum", &dx, x.len());
    check_len("layer_norm", "dy", &dy, x.len());
    check_len("layer_norm", "the statistics", stats, 2 * rows("layer_norm", x, cols));
    check_len("layer_norm", "gamma", gamma, cols);
    launch!("layer_norm", [x, gamma, stats], [dy, dx] => backward_input(cols, x, gamma, stats, dy, dx));
    dx
}

/// The gradients of [`forward`] with respect to γ and β.
#[track_caller]
pub fn backward_affine(cols: usize, x: &Buffer, stats: &Buffer, dy: &Buffer) -> (Buffer, Buffer) {
    check_len("layer_norm", "dy", dy, x.len());
    check_len("layer_norm", "the statistics", stats, 2 * rows("layer_norm", x, cols));
    let (mut dgamma, mut dbeta) = (x.like(cols), x.like(cols));
    launch!("layer_norm", [x, stats, dy], [dgamma, dbeta] => backward_affine(cols, x, stats, dy, dgamma, dbeta));
    (dgamma, dbeta)
}
