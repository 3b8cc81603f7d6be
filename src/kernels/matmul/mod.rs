//! Products of matrices: alone, in batches, and as linear maps.
//!
//! | file | |
//! |---|---|
//! | `gemm.rs` | one product inside slices: the checks that the `unsafe` code below leans on |
//! | `rounded.rs` | operands and results in bf16 |
//! | `microkernel.rs`, `copies.rs`, `registers.rs`, `avx.rs`, `neon.rs` | f32 on x86-64 and arm64, by hand; else `matrixmultiply` |
//! | `bf16.rs`, `amx.rs` | in bf16, by AVX512-BF16, by AMX: see [`Precision`] |
//! | `matmul.cu`, `tensor_cores.cu` | on a GPU: in the elements' own precision, and rounded to bf16 or tf32 |
//! | `hopper.cu` | large ones of bf16 matrices on a GPU of compute capability 9.0 |

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx;
#[cfg(target_arch = "x86_64")]
pub(super) mod bf16;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod copies;
mod cpu;
#[cfg(feature = "cuda")]
pub(super) mod cuda;
pub(crate) mod gemm;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) mod microkernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod reference;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod registers;
pub(super) mod rounded;

use super::elementwise::{self, Unary, to_dtype};
use super::{Bf16, Buffer, DType, Device, Precision, Stored, StoredMut, check_device, check_len, launch, meter};

/// Products as a loop takes them: c ← a b + what is added, for each of a batch.
#[derive(Clone, Copy, Debug)]
struct Products {
    batch: usize,
    /// m, k, n: a is (m, k), b (k, n), c (m, n).
    dims: [usize; 3],
    /// Elements from one matrix to the next of a, of b and of c; 0 where a single one serves the whole batch.
    steps: [usize; 3],
    /// Whether those of a and of b are read transposed.
    transposed: [bool; 2],
    /// Whether c is added to.
    own: bool,
}

impl Products {
    fn new(batch: usize, dims: [usize; 3], transposed: [bool; 2]) -> Self {
        let [m, k, n] = dims;
        Products { batch, dims, steps: [m * k, k * n, m * n], transposed, own: false }
    }
}

#[track_caller]
fn products(
    op: &'static str,
    of: &Products,
    ab: [&Buffer; 2],
    plus: [Option<&Buffer>; 2],
    mut result: Buffer,
) -> Buffer {
    let ([bias, residual], device) = (plus, result.device());
    #[cfg(feature = "cuda")]
    let narrow = ab.iter().any(|x| x.dtype() == DType::Bf16);
    let [a, b] = ab.map(|x| match (device, x.dtype()) {
        (Device::Cpu, dtype) => to_dtype(x, Precision::read_on_cpu(dtype)),
        (Device::Reference, dtype) => to_dtype(x, dtype.computed()),
        #[cfg(feature = "cuda")]
        (_, DType::F32) if narrow => to_dtype(x, DType::Bf16),
        #[cfg(feature = "cuda")]
        _ => x.clone(),
    });
    let (a, b, mut c) = (Stored(&a), Stored(&b), StoredMut(&mut result));
    launch!(op, [a, b, bias, residual], [c] => products(of, a, b, bias, residual, c));
    result
}

/// a b for each of `batch` pairs of matrices; a is (m, k) or, transposed, (k, m), and b alike. An operand with a
/// single matrix serves the whole batch.
#[track_caller]
pub fn matmul(batch: usize, dims: [usize; 3], a: &Buffer, ta: bool, b: &Buffer, tb: bool) -> Buffer {
    let mut of = Products::new(batch, dims, [ta, tb]);
    for (step, name, buffer) in [(0, "a", a), (1, "b", b)] {
        if buffer.len() == of.steps[step] && batch != 1 {
            of.steps[step] = 0;
        } else {
            check_len("matmul", name, buffer, batch * of.steps[step]);
        }
    }
    products("matmul", &of, [a, b], [None; 2], a.wide(batch * of.steps[2]))
}

/// Σ over the batch of a b: the gradient of an operand that served a whole batch of products.
#[track_caller]
pub fn matmul_sum(batch: usize, dims: [usize; 3], a: &Buffer, ta: bool, b: &Buffer, tb: bool) -> Buffer {
    let [m, k, n] = dims;
    check_len("matmul", "a", a, batch * m * k);
    check_len("matmul", "b", b, batch * k * n);
    let of = Products { steps: [m * k, k * n, 0], own: true, ..Products::new(batch, dims, [ta, tb]) };
    products("matmul", &of, [a, b], [None; 2], Buffer::full(m * n, 0.0, a.dtype().computed(), a.device()))
}

/// x Wᵀ + b + residual for `rows` rows: x is (rows, inputs), W (outputs, inputs), b (outputs), the residual
/// (rows, outputs).
#[track_caller]
pub fn linear(dims: [usize; 3], x: &Buffer, w: &Buffer, bias: Option<&Buffer>, residual: Option<&Buffer>) -> Buffer {
    linear_to(x.dtype().computed(), dims, x, w, bias, residual)
}

/// Whether products on this device write bf16: on a GPU, and on a CPU where they read it.
fn write_bf16(device: Device) -> bool {
    device.is_gpu() || device == Device::Cpu && Precision::here() == Precision::Bf16
}

/// What products of x write, where a result of this type is asked for.
fn written(len: usize, dtype: DType, x: &Buffer) -> Buffer {
    Buffer::unspecified(len, if write_bf16(x.device()) { dtype } else { dtype.computed() }, x.device())
}

/// [`linear`] with a result of this type.
#[track_caller]
pub fn linear_to(
    dtype: DType,
    dims: [usize; 3],
    x: &Buffer,
    w: &Buffer,
    bias: Option<&Buffer>,
    residual: Option<&Buffer>,
) -> Buffer {
    let [rows, inputs, outputs] = dims;
    check_len("linear", "x", x, rows * inputs);
    check_len("linear", "weight", w, outputs * inputs);
    check_len("linear", "bias", bias, outputs);
    check_len("linear", "residual", residual, rows * outputs);
    let y = written(rows * outputs, dtype, x);
    to_dtype(&products("linear", &Products::new(1, dims, [false, true]), [x, w], [bias, residual], y), dtype)
}

/// A gradient of [`linear`]: a b, as [`matmul`] for one pair, added to `sum` if there is one.
#[track_caller]
pub fn linear_backward(sum: Option<Buffer>, dims: [usize; 3], a: &Buffer, ta: bool, b: &Buffer, tb: bool) -> Buffer {
    let [m, k, n] = dims;
    check_len("linear", "a", a, m * k);
    check_len("linear", "b", b, k * n);
    let of = Products { own: sum.is_some(), ..Products::new(1, dims, [ta, tb]) };
    let c = sum.unwrap_or_else(|| a.wide(m * n));
    check_len("linear", "the sum", &c, m * n);
    products("linear", &of, [a, b], [None; 2], c)
}

/// The gradient dy W of [`linear`] with respect to x, of this type: dy is (rows, outputs), W (outputs, inputs).
#[track_caller]
pub fn linear_backward_to(dtype: DType, dims: [usize; 3], dy: &Buffer, w: &Buffer) -> Buffer {
    let [rows, inputs, outputs] = dims;
    check_len("linear", "dy", dy, rows * outputs);
    check_len("linear", "weight", w, outputs * inputs);
    let (dx, of) = (written(rows * inputs, dtype, dy), Products::new(1, [rows, outputs, inputs], [false; 2]));
    to_dtype(&products("linear", &of, [dy, w], [None; 2], dx), dtype)
}

/// Of a [`linear`] map that reads z = GELU(h): z, in the type that its products read, and the gradient with respect to h,
/// of h's type. Where h is bf16, the product dy W is not kept: both are made of some rows of it at a time.
#[track_caller]
pub fn gelu_backward(dims: [usize; 3], dy: &Buffer, w: &Buffer, h: &Buffer) -> (Buffer, Buffer) {
    let [rows, inputs, outputs] = dims;
    check_len("linear", "h", h, rows * inputs);
    if h.dtype() != DType::Bf16 || !write_bf16(h.device()) {
        return elementwise::unary_and_backward(w.dtype(), Unary::Gelu, h, linear_backward_to(h.dtype(), dims, dy, w));
    }
    check_len("linear", "dy", dy, rows * outputs);
    check_len("linear", "weight", w, outputs * inputs);
    let _metered = meter::op("linear");
    let [dy, w] = [dy, w].map(|x| elementwise::stored_as(x, h));
    let (mut z, mut dh) = (h.like(h.len()), h.like(h.len()));
    #[cfg(feature = "cuda")]
    if h.device().is_gpu() {
        let of = Products::new(1, [rows, outputs, inputs], [false; 2]);
        cuda::gelu_backward(&of, [&dy, &w, h], [&mut z, &mut dh]);
        return (z, dh);
    }
    [&dy, &w].into_iter().for_each(|x| check_device("linear", h.device(), x.device()));
    let read = [&dy, &w, h].map(|x| x.as_slice::<Bf16>("linear"));
    cpu::gelu_backward(dims, read, z.make_mut("linear"), dh.make_mut("linear"));
    (z, dh)
}
