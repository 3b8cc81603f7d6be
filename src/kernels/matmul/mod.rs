//! Products of matrices: alone, in batches, and as linear maps.
//!
//! | file | |
//! |---|---|
//! | `gemm.rs` | one product inside slices: the checks that the `unsafe` code below leans on |
//! | `microkernel.rs`, `registers.rs` | f32 on x86-64, by hand; elsewhere, and in f64, `matrixmultiply` |
//! | `bf16.rs` | its operands rounded to bf16, see [`Precision`](super::Precision) |

#[cfg(target_arch = "x86_64")]
pub(super) mod bf16;
mod cpu;
pub(crate) mod gemm;
#[cfg(target_arch = "x86_64")]
pub(super) mod microkernel;
mod reference;
#[cfg(target_arch = "x86_64")]
mod registers;

use super::{Buffer, check_len, check_optional, launch};

/// How the matrices of one operand of a batch of products lie in its buffer.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Elements from one matrix to the next; 0 when a single one serves the whole batch.
    step: usize,
    /// Whether each is read transposed.
    transposed: bool,
}

impl Layout {
    fn new(step: usize, transposed: bool) -> Self {
        Layout { step, transposed }
    }
}

/// a b for each of `batch` pairs of matrices; a is (m, k) or, transposed, (k, m), and b alike. An operand with a
/// single matrix serves the whole batch.
#[track_caller]
pub fn matmul(batch: usize, dims: [usize; 3], a: &Buffer, ta: bool, b: &Buffer, tb: bool) -> Buffer {
    let [m, k, n] = dims;
    let layout = |name, buffer: &Buffer, size: usize, transposed| {
        if buffer.len() == size && batch != 1 {
            return Layout::new(0, transposed);
        }
        check_len("matmul", name, buffer, batch * size);
        Layout::new(size, transposed)
    };
    let (of_a, of_b) = (layout("a", a, m * k, ta), layout("b", b, k * n, tb));
    let mut c = a.like(batch * m * n);
    launch!("matmul", [a, b], [c] => batch_of_products(dims, a, of_a, b, of_b, c));
    c
}

/// Σ over the batch of a b: the gradient of an operand that served a whole batch of products.
#[track_caller]
pub fn matmul_sum(batch: usize, dims: [usize; 3], a: &Buffer, ta: bool, b: &Buffer, tb: bool) -> Buffer {
    let [m, k, n] = dims;
    check_len("matmul", "a", a, batch * m * k);
    check_len("matmul", "b", b, batch * k * n);
    let mut c = a.like(m * n);
    launch!("matmul", [a, b], [c] => sum_of_products(batch, dims, a, ta, b, tb, c));
    c
}

/// x Wᵀ + b + residual for `rows` rows: x is (rows, inputs), W (outputs, inputs), b (outputs), the residual
/// (rows, outputs).
#[track_caller]
pub fn linear(dims: [usize; 3], x: &Buffer, w: &Buffer, bias: Option<&Buffer>, residual: Option<&Buffer>) -> Buffer {
    let [rows, inputs, outputs] = dims;
    check_len("linear", "x", x, rows * inputs);
    check_len("linear", "weight", w, outputs * inputs);
    check_optional("linear", "bias", bias, outputs);
    check_optional("linear", "residual", residual, rows * outputs);
    let mut y = x.like(rows * outputs);
    launch!("linear", [x, w, bias, residual], [y] => linear(dims, x, w, bias, residual, y));
    y
}

/// A gradient of [`linear`]: a b, as [`matmul`] for one pair, added to `sum` if there is one.
#[track_caller]
pub fn linear_backward(sum: Option<Buffer>, dims: [usize; 3], a: &Buffer, ta: bool, b: &Buffer, tb: bool) -> Buffer {
    let [m, k, n] = dims;
    check_len("linear", "a", a, m * k);
    check_len("linear", "b", b, k * n);
    let add = sum.is_some();
    let mut c = sum.unwrap_or_else(|| a.like(m * n));
    check_len("linear", "the sum", &c, m * n);
    launch!("linear", [a, b], [c] => product_onto(dims, a, ta, b, tb, add, c));
    c
}
