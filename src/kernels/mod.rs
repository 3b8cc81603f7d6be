//! Floor 0: kernels, and the one door to them.
//!
//! A function here takes [`Buffer`]s and sizes, checks that they fit, and matches on what the elements are and
//! where they live; behind it [`cpu`] has the loops. Nothing outside this module sees a slice's element type.
//! A second device is one more arm of the same match.

mod buffer;
pub mod cpu;
pub mod meter;
mod precision;
mod real;

use cpu::matmul::{Epilogue, Mat, MatMut, gemm};
pub use cpu::peak;

pub use buffer::{Buffer, Storage, live_bytes};
pub use cpu::attention::Sizes as AttentionSizes;
pub use cpu::elementwise::Broadcast;
pub use cpu::patchify::{PatchGrid, PatchOrder};
pub use precision::{Precision, Scope};
pub use real::{DType, Real};

use rayon::prelude::*;

/// The most dimensions a tensor may have.
pub const MAX_RANK: usize = 6;

/// Evaluates `$body` with `$T` the element type of the first buffer and every named buffer as a slice of it. The meter
/// knows it as `$op`.
///
/// # Panics
/// When another buffer has another element type; the message names `$op`.
macro_rules! dispatch {
    ($op:literal, $T:ident, [$first:ident $(, $x:ident)*], $body:expr) => {{
        let _op = meter::op($op);
        match $first.dtype() {
            DType::F32 => {
                type $T = f32;
                let $first = $first.as_slice::<$T>($op);
                $(let $x = $x.as_slice::<$T>($op);)*
                $body
            }
            DType::F64 => {
                type $T = f64;
                let $first = $first.as_slice::<$T>($op);
                $(let $x = $x.as_slice::<$T>($op);)*
                $body
            }
        }
    }};
}

/// A new buffer of `len` elements that `fill` writes, all of them.
fn filled<T: Real>(len: usize, fill: impl FnOnce(&mut [T])) -> Buffer {
    let mut storage = Storage::unspecified(len);
    fill(storage.as_mut_slice());
    T::into_buffer(storage)
}

/// A new buffer of `len` zeros to which `add` adds.
fn accumulated<T: Real>(len: usize, add: impl FnOnce(&mut [T])) -> Buffer {
    filled(len, |y| {
        y.fill(T::ZERO);
        add(y);
    })
}

#[track_caller]
fn check_len(op: &str, what: &str, buffer: &Buffer, len: usize) {
    assert_eq!(buffer.len(), len, "{op}: {what} has {} elements, its shape says {len}", buffer.len());
}

/// How many rows of `cols` elements a buffer holds.
#[track_caller]
fn rows(op: &str, buffer: &Buffer, cols: usize) -> usize {
    let len = buffer.len();
    assert!(len == 0 || (cols > 0 && len.is_multiple_of(cols)), "{op}: {len} elements are no rows of {cols}");
    len / cols.max(1)
}

/// That `width` elements from `start` on lie within a row.
#[track_caller]
fn check_run(row: usize, start: usize, width: usize) {
    let fits = start.checked_add(width).is_some_and(|end| end <= row);
    assert!(fits, "slice: {width} elements from {start} on of a row of {row}");
}

/// `len` elements, all `value`.
pub fn full(len: usize, value: f64, dtype: DType) -> Buffer {
    match dtype {
        DType::F32 => f32::into_buffer(Storage::full(len, value as f32)),
        DType::F64 => f64::into_buffer(Storage::full(len, value)),
    }
}

/// `x` with elements of another type; the same buffer when they already are of it.
pub fn to_dtype(x: &Buffer, dtype: DType) -> Buffer {
    if x.dtype() == dtype {
        return x.clone();
    }
    dispatch!(
        "to_dtype",
        T,
        [x],
        match dtype {
            DType::F32 => filled::<f32>(x.len(), |y| cpu::elementwise::convert::<T, f32>(x, y)),
            DType::F64 => filled::<f64>(x.len(), |y| cpu::elementwise::convert::<T, f64>(x, y)),
        }
    )
}

/// a b for each of `batch` pairs of matrices; a is (m, k) or, transposed, (k, m), and b alike. An operand with a
/// single matrix serves the whole batch.
#[track_caller]
pub fn matmul(batch: usize, dims: [usize; 3], a: &Buffer, ta: bool, b: &Buffer, tb: bool) -> Buffer {
    let [m, k, n] = dims;
    let step = |name, buffer: &Buffer, size: usize| {
        if buffer.len() == size && batch != 1 {
            return 0;
        }
        check_len("matmul", name, buffer, batch * size);
        size
    };
    let (step_a, step_b) = (step("a", a, m * k), step("b", b, k * n));
    dispatch!(
        "matmul",
        T,
        [a, b],
        filled::<T>(batch * m * n, |c| cpu::matmul::batched(dims, (a, step_a, ta), (b, step_b, tb), c))
    )
}

/// Σ over the batch of a b: the gradient of an operand that served a whole batch of products.
#[track_caller]
pub fn matmul_sum(batch: usize, dims: [usize; 3], a: &Buffer, ta: bool, b: &Buffer, tb: bool) -> Buffer {
    let [m, k, n] = dims;
    check_len("matmul", "a", a, batch * m * k);
    check_len("matmul", "b", b, batch * k * n);
    dispatch!(
        "matmul",
        T,
        [a, b],
        accumulated::<T>(m * n, |c| {
            for i in 0..batch {
                let a = Mat::new(&a[i * m * k..][..m * k], if ta { m } else { k }, ta);
                let b = Mat::new(&b[i * k * n..][..k * n], if tb { k } else { n }, tb);
                gemm(dims, 1.0, a, b, Epilogue::OWN, MatMut::new(c, n));
            }
        })
    )
}

/// x Wᵀ + b + residual for `rows` rows: x is (rows, inputs), W (outputs, inputs), b (outputs), the residual
/// (rows, outputs).
#[track_caller]
pub fn linear(
    [rows, inputs, outputs]: [usize; 3],
    x: &Buffer,
    w: &Buffer,
    bias: Option<&Buffer>,
    residual: Option<&Buffer>,
) -> Buffer {
    check_len("linear", "x", x, rows * inputs);
    check_len("linear", "weight", w, outputs * inputs);
    if let Some(bias) = bias {
        check_len("linear", "bias", bias, outputs);
    }
    if let Some(residual) = residual {
        check_len("linear", "residual", residual, rows * outputs);
    }
    dispatch!("linear", T, [x, w], {
        let plus = Epilogue {
            own: false,
            bias: bias.map(|bias| bias.as_slice::<T>("linear")),
            residual: residual.map(|r| Mat::new(r.as_slice::<T>("linear"), outputs, false)),
        };
        filled::<T>(rows * outputs, |y| cpu::matmul::matmul([rows, inputs, outputs], x, false, w, true, plus, y))
    })
}

/// A gradient of [`linear`]: a b, as [`matmul`] for one pair, added to `sum` if there is one.
#[track_caller]
pub fn linear_backward(sum: Option<Buffer>, dims: [usize; 3], a: &Buffer, ta: bool, b: &Buffer, tb: bool) -> Buffer {
    let [m, k, n] = dims;
    check_len("linear", "a", a, m * k);
    check_len("linear", "b", b, k * n);
    dispatch!("linear", T, [a, b], {
        let add = |plus, c: &mut [T]| cpu::matmul::matmul(dims, a, ta, b, tb, plus, c);
        match sum {
            None => filled::<T>(m * n, |c| add(Epilogue::NOTHING, c)),
            Some(mut sum) => {
                check_len("linear", "the sum", &sum, m * n);
                add(Epilogue::OWN, sum.make_mut::<T>("linear"));
                sum
            }
        }
    })
}

/// Σ over the rows, each of `cols` elements, added to `sum` if there is one.
#[track_caller]
pub fn accumulate_rows(sum: Option<Buffer>, cols: usize, x: &Buffer) -> Buffer {
    let mut sum = sum.unwrap_or_else(|| full(cols, 0.0, x.dtype()));
    check_len("sum_rows", "the sum", &sum, cols);
    rows("sum_rows", x, cols);
    dispatch!("sum_rows", T, [x], cpu::elementwise::add_rows(x, sum.make_mut::<T>("sum_rows")));
    sum
}

/// That two operands have as many elements as how they meet says.
#[track_caller]
fn check_operands(op: &str, how: Option<&Broadcast>, len: usize, a: &Buffer, b: &Buffer) {
    let [of_a, of_b, of_y] = how.map_or([len; 3], Broadcast::elements);
    assert_eq!(of_y, len, "{op}: a result of {len} elements, its shape says {of_y}");
    check_len(op, "a", a, of_a);
    check_len(op, "b", b, of_b);
}

/// a + b with broadcasting; the result has `len` elements.
#[track_caller]
pub fn add(how: Option<&Broadcast>, len: usize, a: &Buffer, b: &Buffer) -> Buffer {
    check_operands("add", how, len, a, b);
    dispatch!(
        "add",
        T,
        [a, b],
        filled::<T>(len, |y| match how {
            None => cpu::elementwise::add(a, b, y),
            Some(how) => cpu::elementwise::broadcast(how, a, b, y, |a, b| a + b),
        })
    )
}

/// a ⊙ b with broadcasting; the result has `len` elements.
#[track_caller]
pub fn mul(how: Option<&Broadcast>, len: usize, a: &Buffer, b: &Buffer) -> Buffer {
    check_operands("mul", how, len, a, b);
    dispatch!(
        "mul",
        T,
        [a, b],
        filled::<T>(len, |y| match how {
            None => cpu::elementwise::mul(a, b, y),
            Some(how) => cpu::elementwise::broadcast(how, a, b, y, |a, b| a * b),
        })
    )
}

/// Sums `dy` of shape `from` down to shape `to`, which had been broadcast.
#[track_caller]
pub fn reduce_to(dy: &Buffer, from: &[usize], to: &[usize]) -> Buffer {
    check_len("reduce_to", "dy", dy, from.iter().product());
    let len = to.iter().product();
    dispatch!("reduce_to", T, [dy], accumulated::<T>(len, |dx| cpu::elementwise::reduce_to(dy, from, dx, to)))
}

/// y ← y + x.
#[track_caller]
pub fn accumulate(y: &mut Buffer, x: &Buffer) {
    check_len("accumulate", "x", x, y.len());
    dispatch!("accumulate", T, [x], cpu::elementwise::accumulate(x, y.make_mut::<T>("accumulate")))
}

/// factor · x.
pub fn scale(x: &Buffer, factor: f64) -> Buffer {
    dispatch!("scale", T, [x], filled::<T>(x.len(), |y| cpu::elementwise::scale(x, T::from_f64(factor), y)))
}

/// Σ x.
pub fn sum(x: &Buffer) -> f64 {
    dispatch!("sum", T, [x], cpu::elementwise::sum::<T>(x))
}

/// Σ |x|.
pub fn sum_abs(x: &Buffer) -> f64 {
    dispatch!("l1_norm", T, [x], cpu::elementwise::sum_abs::<T>(x))
}

/// Σ x².
pub fn sum_squares(x: &Buffer) -> f64 {
    dispatch!("l2_norm", T, [x], cpu::elementwise::sum_squares::<T>(x))
}

/// Whether every x² is neither NaN nor infinite. In parallel where x is long.
pub fn squares_are_finite(x: &Buffer) -> bool {
    dispatch!("squares_are_finite", T, [x], {
        // A run is long enough to be worth a task: finding out takes as long as reading it.
        x.par_chunks(8 * WEIGHTS).all(cpu::elementwise::squares_are_finite::<T>)
    })
}

/// sign(x) dy, with 0 at 0.
pub fn sign_times(x: &Buffer, dy: f64) -> Buffer {
    dispatch!("l1_norm", T, [x], filled::<T>(x.len(), |y| cpu::elementwise::sign_times(x, T::from_f64(dy), y)))
}

/// x Φ(x).
pub fn gelu(x: &Buffer) -> Buffer {
    dispatch!("gelu", T, [x], filled::<T>(x.len(), |y| cpu::gelu::forward(x, y)))
}

/// (Φ(x) + x φ(x)) dy.
pub fn gelu_backward(x: &Buffer, dy: &Buffer) -> Buffer {
    check_len("gelu", "dy", dy, x.len());
    dispatch!("gelu", T, [x, dy], filled::<T>(x.len(), |dx| cpu::gelu::backward(x, dy, dx)))
}

/// GELU(x), and its gradient in the place of `dy`: [`gelu`] and [`gelu_backward`] in one pass.
pub fn gelu_and_backward(x: &Buffer, mut dy: Buffer) -> (Buffer, Buffer) {
    check_len("gelu", "dy", &dy, x.len());
    let y = dispatch!("gelu", T, [x], {
        let dy = dy.make_mut::<T>("gelu");
        filled::<T>(x.len(), |y| cpu::gelu::forward_and_backward(x, y, dy))
    });
    (y, dy)
}

/// Layer norm of rows of `cols`; the second buffer holds (mean, 1/standard deviation) per row.
#[track_caller]
pub fn layer_norm(cols: usize, x: &Buffer, affine: Option<(&Buffer, &Buffer)>, eps: f64) -> (Buffer, Buffer) {
    if let Some((gamma, beta)) = affine {
        check_len("layer_norm", "gamma", gamma, cols);
        check_len("layer_norm", "beta", beta, cols);
    }
    let mut stats = full(2 * rows("layer_norm", x, cols), 0.0, x.dtype());
    let y = dispatch!("layer_norm", T, [x], {
        let affine = affine.map(|(g, b)| (g.as_slice::<T>("layer_norm"), b.as_slice::<T>("layer_norm")));
        let stats = stats.make_mut::<T>("layer_norm").as_chunks_mut().0;
        filled::<T>(x.len(), |y| cpu::layer_norm::forward(x, affine, cols, T::from_f64(eps), y, stats))
    });
    (y, stats)
}

/// [`layer_norm`] again, from what it said about each row.
#[track_caller]
pub fn layer_norm_recompute(cols: usize, x: &Buffer, affine: (&Buffer, &Buffer), stats: &Buffer) -> Buffer {
    let (gamma, beta) = affine;
    check_len("layer_norm", "gamma", gamma, cols);
    check_len("layer_norm", "beta", beta, cols);
    check_len("layer_norm", "the statistics", stats, 2 * rows("layer_norm", x, cols));
    dispatch!("layer_norm", T, [x, gamma, beta, stats], {
        let stats = stats.as_chunks().0;
        filled::<T>(x.len(), |y| cpu::layer_norm::recompute(x, Some((gamma, beta)), stats, cols, y))
    })
}

/// The gradient of [`layer_norm`] with respect to x, added to `sum` if there is one. The memory of `dy` serves as scratch.
#[track_caller]
pub fn layer_norm_backward_input(
    sum: Option<Buffer>,
    cols: usize,
    x: &Buffer,
    gamma: Option<&Buffer>,
    stats: &Buffer,
    mut dy: Buffer,
) -> Buffer {
    let mut sum = sum.unwrap_or_else(|| full(x.len(), 0.0, x.dtype()));
    check_len("layer_norm", "the sum", &sum, x.len());
    check_len("layer_norm", "dy", &dy, x.len());
    check_len("layer_norm", "the statistics", stats, 2 * rows("layer_norm", x, cols));
    if let Some(gamma) = gamma {
        check_len("layer_norm", "gamma", gamma, cols);
    }
    dispatch!("layer_norm", T, [x, stats], {
        let gamma = gamma.map(|g| g.as_slice::<T>("layer_norm"));
        let (dy, dx) = (dy.make_mut::<T>("layer_norm"), sum.make_mut::<T>("layer_norm"));
        cpu::layer_norm::backward_input(x, gamma, stats.as_chunks().0, dy, cols, dx);
    });
    sum
}

/// The gradients of [`layer_norm`] with respect to γ and β.
#[track_caller]
pub fn layer_norm_backward_affine(cols: usize, x: &Buffer, stats: &Buffer, dy: &Buffer) -> (Buffer, Buffer) {
    check_len("layer_norm", "dy", dy, x.len());
    check_len("layer_norm", "the statistics", stats, 2 * rows("layer_norm", x, cols));
    dispatch!("layer_norm", T, [x, stats, dy], {
        let (mut dgamma, mut dbeta) = (Storage::unspecified(cols), Storage::unspecified(cols));
        let stats = stats.as_chunks().0;
        cpu::layer_norm::backward_affine::<T>(x, stats, dy, dgamma.as_mut_slice(), dbeta.as_mut_slice());
        (T::into_buffer(dgamma), T::into_buffer(dbeta))
    })
}

/// Softmax of rows of `cols`.
#[track_caller]
pub fn softmax(cols: usize, x: &Buffer) -> Buffer {
    rows("softmax", x, cols);
    dispatch!(
        "softmax",
        T,
        [x],
        filled::<T>(x.len(), |y| {
            y.copy_from_slice(x);
            cpu::softmax::forward_in_place(y, cols);
        })
    )
}

/// The gradient of [`softmax`] given its result y.
#[track_caller]
pub fn softmax_backward(cols: usize, y: &Buffer, dy: &Buffer) -> Buffer {
    rows("softmax", y, cols);
    check_len("softmax", "dy", dy, y.len());
    dispatch!(
        "softmax",
        T,
        [y, dy],
        filled::<T>(y.len(), |dx| {
            dx.copy_from_slice(dy);
            cpu::softmax::backward_in_place::<T>(y, dx, cols);
        })
    )
}

#[track_caller]
fn check_qkv(sizes: &AttentionSizes, qkv: &Buffer) {
    let AttentionSizes { queries, tokens, .. } = sizes;
    assert!(queries.end <= *tokens, "attention: queries {queries:?} of {tokens} tokens");
    check_len("attention", "qkv", qkv, sizes.qkv());
}

/// Multi-head attention on a fused projection (B, N, 3, h, d), of the queries that are asked for: (B, M, h d).
#[track_caller]
pub fn attention(sizes: &AttentionSizes, qkv: &Buffer) -> Buffer {
    check_qkv(sizes, qkv);
    dispatch!("attention", T, [qkv], {
        let mut scratch = Storage::<T>::unspecified(sizes.scratch());
        filled(sizes.out(), |out| cpu::attention::forward(sizes, qkv, scratch.as_mut_slice(), out))
    })
}

/// The gradient of [`attention`] with respect to its fused projection.
#[track_caller]
pub fn attention_backward(sizes: &AttentionSizes, qkv: &Buffer, dout: &Buffer) -> Buffer {
    check_qkv(sizes, qkv);
    check_len("attention", "dout", dout, sizes.out());
    dispatch!("attention", T, [qkv, dout], {
        let mut scratch = [0, 1].map(|_| Storage::<T>::unspecified(sizes.scratch()));
        let [p, ds] = &mut scratch;
        filled(qkv.len(), |dqkv| {
            cpu::attention::backward(sizes, qkv, dout, [p.as_mut_slice(), ds.as_mut_slice()], dqkv);
        })
    })
}

/// Tokens of x, (rows, `tokens`, `dim`), by index; see [`cpu::tokens::gather`].
#[track_caller]
pub fn gather(x: &Buffer, tokens: usize, dim: usize, indices: &[u32], per_row: usize) -> Buffer {
    rows("gather_tokens", x, tokens * dim);
    check_indices(indices, per_row, tokens);
    dispatch!(
        "gather_tokens",
        T,
        [x],
        filled::<T>(indices.len() * dim, |y| {
            cpu::tokens::gather(x, tokens, dim, indices, per_row, y);
        })
    )
}

/// The transpose of [`gather`], into a buffer of `len` elements.
#[track_caller]
pub fn scatter_add(dy: &Buffer, tokens: usize, dim: usize, indices: &[u32], per_row: usize, len: usize) -> Buffer {
    check_len("gather_tokens", "dy", dy, indices.len() * dim);
    let sources = tokens * dim;
    assert!(
        len == 0 || (sources > 0 && len.is_multiple_of(sources)),
        "gather_tokens: {len} elements of {sources} each"
    );
    check_indices(indices, per_row, tokens);
    dispatch!(
        "gather_tokens",
        T,
        [dy],
        accumulated::<T>(len, |dx| {
            cpu::tokens::scatter_add(dy, tokens, dim, indices, per_row, dx);
        })
    )
}

#[track_caller]
fn check_indices(indices: &[u32], per_row: usize, tokens: usize) {
    let whole = indices.is_empty() || (per_row > 0 && indices.len().is_multiple_of(per_row));
    assert!(whole, "gather_tokens: {} indices are no rows of {per_row}", indices.len());
    if let Some(bad) = indices.iter().find(|&&i| i as usize >= tokens) {
        panic!("gather_tokens: index {bad} into {tokens} tokens");
    }
}

/// For each of `rows`, the runs of all parts one after the other: parts are (buffer, run length).
///
/// # Panics
/// Without any part, or when one has not `rows` runs of its length.
#[track_caller]
pub fn concat_runs(rows: usize, parts: &[(&Buffer, usize)]) -> Buffer {
    parts.iter().for_each(|(x, width)| check_len("concat", "a part", x, rows * width));
    let total: usize = parts.iter().map(|p| p.1).sum();
    let Some((first, _)) = parts.first() else { panic!("concat: nothing to concatenate") };
    dispatch!("concat", T, [first], {
        let _: &[T] = first;
        filled::<T>(rows * total, |y| {
            let mut at = 0;
            for &(x, width) in parts {
                cpu::tokens::copy_runs(rows, width, (x.as_slice::<T>("concat"), width, 0), (y, total, at));
                at += width;
            }
        })
    })
}

/// From each of `rows` rows of `row` elements, the `width` elements from `start` on.
#[track_caller]
pub fn slice_runs(rows: usize, row: usize, start: usize, width: usize, x: &Buffer) -> Buffer {
    check_len("slice", "x", x, rows * row);
    check_run(row, start, width);
    dispatch!(
        "slice",
        T,
        [x],
        filled::<T>(rows * width, |y| {
            cpu::tokens::copy_runs(rows, width, (x, row, start), (y, width, 0));
        })
    )
}

/// The transpose of [`slice_runs`]: rows of zeros but for `width` elements from `start` on.
#[track_caller]
pub fn unslice_runs(rows: usize, row: usize, start: usize, width: usize, dy: &Buffer) -> Buffer {
    check_len("slice", "dy", dy, rows * width);
    check_run(row, start, width);
    dispatch!(
        "slice",
        T,
        [dy],
        accumulated::<T>(rows * row, |dx| {
            cpu::tokens::copy_runs(rows, width, (dy, width, 0), (dx, row, start));
        })
    )
}

/// (outer, a, b, inner) → (outer, b, a, inner).
#[track_caller]
pub fn swap_middle(x: &Buffer, dims: [usize; 4]) -> Buffer {
    check_len("swap_middle", "x", x, dims.iter().product());
    dispatch!("swap_middle", T, [x], filled::<T>(x.len(), |y| cpu::tokens::swap_middle(x, dims, y)))
}

/// Images → patches.
#[track_caller]
pub fn patchify(cut: &PatchGrid, images: &Buffer) -> Buffer {
    check_len("patchify", "images", images, cut.elements());
    dispatch!("patchify", T, [images], filled::<T>(images.len(), |y| cpu::patchify::patchify(cut, images, y)))
}

/// Patches → images.
#[track_caller]
pub fn unpatchify(cut: &PatchGrid, patches: &Buffer) -> Buffer {
    check_len("unpatchify", "patches", patches, cut.elements());
    dispatch!("unpatchify", T, [patches], filled::<T>(patches.len(), |y| cpu::patchify::unpatchify(cut, patches, y)))
}

/// Σ smooth L1 of x − y.
#[track_caller]
pub fn smooth_l1(x: &Buffer, y: &Buffer, beta: f64) -> f64 {
    check_len("smooth_l1", "target", y, x.len());
    dispatch!("smooth_l1", T, [x, y], cpu::loss::smooth_l1(x, y, T::from_f64(beta)))
}

/// The gradient of [`smooth_l1`] with respect to x, times dy.
#[track_caller]
pub fn smooth_l1_backward(x: &Buffer, y: &Buffer, beta: f64, dy: f64) -> Buffer {
    check_len("smooth_l1", "target", y, x.len());
    dispatch!(
        "smooth_l1",
        T,
        [x, y],
        filled::<T>(x.len(), |dx| {
            cpu::loss::smooth_l1_backward(x, y, T::from_f64(beta), T::from_f64(dy), dx);
        })
    )
}

/// Σ (x − y)².
#[track_caller]
pub fn squared_error(x: &Buffer, y: &Buffer) -> f64 {
    check_len("mse", "target", y, x.len());
    dispatch!("mse", T, [x, y], cpu::loss::squared_error::<T>(x, y))
}

/// The gradient of [`squared_error`] with respect to x, times dy.
#[track_caller]
pub fn squared_error_backward(x: &Buffer, y: &Buffer, dy: f64) -> Buffer {
    check_len("mse", "target", y, x.len());
    dispatch!(
        "mse",
        T,
        [x, y],
        filled::<T>(x.len(), |dx| {
            cpu::loss::squared_error_backward(x, y, T::from_f64(dy), dx);
        })
    )
}

/// Σ −ln softmax(x)\[class\] over rows of `cols`.
#[track_caller]
pub fn cross_entropy(cols: usize, x: &Buffer, classes: &[u32]) -> f64 {
    check_classes(cols, x, classes);
    dispatch!("cross_entropy", T, [x], cpu::loss::cross_entropy::<T>(x, classes, cols))
}

#[track_caller]
fn check_classes(cols: usize, x: &Buffer, classes: &[u32]) {
    check_len("cross_entropy", "logits", x, classes.len() * cols);
    if let Some(bad) = classes.iter().find(|&&c| c as usize >= cols) {
        panic!("cross_entropy: class {bad} of {cols}");
    }
}

/// The gradient of [`cross_entropy`] with respect to x, times dy.
#[track_caller]
pub fn cross_entropy_backward(cols: usize, x: &Buffer, classes: &[u32], dy: f64) -> Buffer {
    check_classes(cols, x, classes);
    let mut dx = softmax(cols, x);
    dispatch!("cross_entropy", T, [x], {
        let _: &[T] = x;
        cpu::loss::cross_entropy_backward(dx.make_mut::<T>("cross_entropy"), classes, cols, T::from_f64(dy));
    });
    dx
}

/// The hyperparameters of one AdamW update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWUpdate {
    /// Learning rate.
    pub lr: f64,
    /// Weight decay λ (0 for biases and other vectors).
    pub weight_decay: f64,
    /// β₁, β₂.
    pub betas: (f64, f64),
    /// ε.
    pub eps: f64,
    /// t, counted from 1.
    pub step: u64,
}

/// Weights that a thread updates at a time: they, their moments, gradients and average fill a third of a level-2 cache.
/// Each weight is updated for itself, so no bit depends on the cut.
const WEIGHTS: usize = 16 << 10;

/// One AdamW update in place of the moments m, v and the weight w, given the gradient g. With a momentum and an average
/// of the weight, [`ema`] of the new weight in the same pass over memory.
#[track_caller]
pub fn adamw(update: &AdamWUpdate, g: &Buffer, [m, v, w]: [&mut Buffer; 3], average: Option<(f64, &mut Buffer)>) {
    check_len("adamw", "the gradient", g, w.len());
    check_len("adamw", "m", m, w.len());
    check_len("adamw", "v", v, w.len());
    let AdamWUpdate { lr, weight_decay, betas: (beta1, beta2), eps, step } = *update;
    // In f64 throughout: 1 − 0.999ᵗ in f32 would be off by 10⁻⁴ at the first step.
    let t = step as f64;
    dispatch!("adamw", T, [g], {
        let f = T::from_f64;
        let step = cpu::optim::AdamWStep {
            beta1: (f(beta1), f(1.0 - beta1)),
            beta2: (f(beta2), f(1.0 - beta2)),
            step_size: f(lr / (1.0 - beta1.powf(t))),
            inverse_sqrt_correction2: f(1.0 / (1.0 - beta2.powf(t)).sqrt()),
            eps: f(eps),
            keep: f(1.0 - lr * weight_decay),
        };
        let [m, v, w] = [m, v, w].map(|x| x.make_mut::<T>("adamw").par_chunks_mut(WEIGHTS));
        let weights = g.par_chunks(WEIGHTS).zip(m).zip(v).zip(w);
        match average {
            None => weights.for_each(|(((g, m), v), w)| cpu::optim::adamw(&step, g, m, v, w)),
            Some((momentum, average)) => {
                check_len("ema", "the online weight", average, g.len());
                let average = average.make_mut::<T>("ema").par_chunks_mut(WEIGHTS);
                weights.zip(average).for_each(|((((g, m), v), w), average)| {
                    cpu::optim::adamw_and_ema(&step, f(momentum), g, m, v, w, average);
                });
            }
        }
    })
}

/// target ← momentum · target + (1 − momentum) · online, in place.
#[track_caller]
pub fn ema(momentum: f64, online: &Buffer, target: &mut Buffer) {
    check_len("ema", "the online weight", online, target.len());
    dispatch!("ema", T, [online], {
        let target = target.make_mut::<T>("ema").par_chunks_mut(WEIGHTS);
        let weights = online.par_chunks(WEIGHTS).zip(target);
        weights.for_each(|(online, target)| cpu::optim::ema(T::from_f64(momentum), online, target));
    })
}
