use std::ops::Range;

use super::Products;
use super::gemm::{COLUMNS, Epilogue, Mat, MatMut, gemm_by_columns};
use super::rounded::Rounded;
use crate::kernels::buffer::room;
use crate::kernels::elementwise::Unary;
use crate::kernels::elementwise::cpu::{gelu_and_backward, unary_part};
use crate::kernels::launch::Typed::{Narrow, Wide};
use crate::kernels::launch::{Read, Written};
use crate::kernels::team::{OF_AN_ELEMENT, share_rows};
use crate::kernels::{DType, Element, Real, meter};

/// The most rows of a product that are computed at a time where something else is done with them, before or after, in the cache.
/// As many as the micro-kernel has in a block.
const ROWS: usize = 528;

/// These rows in runs of at most so many, which differ in length by at most one.
fn blocks(rows: Range<usize>, at_a_time: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = rows.len().div_ceil(at_a_time);
    let start = move |part| rows.start + rows.len() * part / parts;
    (0..parts).map(move |part| start(part)..start(part + 1))
}

/// Shares out the rows of a product of GELU, or for its derivative, and of z: `of_block` gets some of them at a time. In f32 they
/// fill 528 KiB of the level-2 cache, but are not so few that b is read too often; in bf16 products are soon done with them, and
/// copy b each time. All of them where the weights would come from beyond that cache again: then they are shared out inside.
fn share_blocks<S: Element, T: Send, U: Send>(
    rows: usize,
    [inputs, outputs]: [usize; 2],
    (y, z): (&mut [T], &mut [U]),
    of_block: impl Fn(Range<usize>, &mut [T], &mut [U]) + Sync,
) {
    let weights = inputs * outputs;
    if weights > 1 << 18 {
        return of_block(0..rows, y, z);
    }
    let at_a_time = match S::DTYPE {
        DType::Bf16 => ROWS,
        _ => ((528 << 10) / (size_of::<S>() * inputs.max(1))).clamp(ROWS / 4, ROWS),
    };
    let [of_y, of_z] = [y.len(), z.len()].map(|len| len / rows.max(1));
    share_rows(rows, rows * weights, (y, z), |part, y, z| {
        for some in blocks(part.clone(), at_a_time) {
            let [y_here, z_here] = [of_y, of_z].map(|cols| numbers_of(&some, part.start, cols));
            of_block(some, &mut y[y_here], &mut z[z_here]);
        }
    });
}

/// The numbers of these rows, in a slice that begins with row `first`.
fn numbers_of(rows: &Range<usize>, first: usize, cols: usize) -> Range<usize> {
    (rows.start - first) * cols..(rows.end - first) * cols
}

/// c ← a b + what `plus` says.
fn product<S: Element, C: Rounded<Computed = S::Computed>>(
    dims: [usize; 3],
    t: [bool; 2],
    a: &[S],
    b: &[S],
    plus: Epilogue<'_, S::Computed>,
    c: &mut [C],
) {
    let [m, k, n] = dims;
    let a = Mat::new(a, if t[0] { m } else { k }, t[0]);
    let b = Mat::new(b, if t[1] { k } else { n }, t[1]);
    assert!(!(C::IS_NARROW && plus.own), "sums go on in the type that they are computed in");
    // Each thread of a team reads its part of one operand, and all of the other: of the smaller one, if there are columns enough
    // for all.
    if n > m.max(8 * COLUMNS) {
        let mut room = C::room(m * n);
        let c = (room.as_mut_slice(), MatMut::new(c, n));
        return C::gemm_to(gemm_by_columns, dims, S::Computed::ONE, a, b, plus, c);
    }
    let some_rows = |some: Range<usize>, room: &mut [S::Computed], c: &mut [C]| {
        let plus = Epilogue { residual: plus.residual.map(|r| r.below(some.start)), ..plus };
        let to = (room, MatMut::new(c, n));
        C::gemm_to(S::gemm, [some.len(), k, n], S::Computed::ONE, a.below(some.start), b, plus, to);
    };
    let at_a_time = if C::IS_NARROW { ROWS } else { m.max(1) };
    share_rows(m, m * k * n, (c, &mut [(); 0]), |rows, c, _| {
        let mut room = C::room(rows.len().min(at_a_time) * n);
        for some in blocks(rows.clone(), at_a_time) {
            let here = numbers_of(&some, rows.start, n);
            some_rows(some, room.as_mut_slice(), &mut c[here]);
        }
    });
}

/// Every product: shared out by products where there are many, by [rows or columns](product) where there is one.
fn products_of<S: Element, C: Rounded<Computed = S::Computed>>(
    of: &Products,
    a: &[S],
    b: &[S],
    bias: Option<&[S::Computed]>,
    residual: Option<&[S::Computed]>,
    c: &mut [C],
) {
    let Products { batch, dims, steps, transposed, own } = *of;
    let [m, k, n] = dims;
    let plus = Epilogue { own, bias, residual: residual.map(|r| Mat::new(r, n, false)) };
    let one = |i: usize, c: &mut [C]| {
        let (a, b) = (&a[i * steps[0]..][..m * k], &b[i * steps[1]..][..k * n]);
        product(dims, transposed, a, b, plus, c);
    };
    if batch == 1 || steps[2] == 0 {
        (0..batch).for_each(|i| one(i, &mut c[i * steps[2]..][..m * n]));
    } else {
        share_rows(batch, batch * m * k * n, (c, &mut [(); 0]), |some, c, _| {
            some.zip(c.chunks_exact_mut(m * n)).for_each(|(i, c)| one(i, c));
        });
    }
}

/// [`products_of`] operands of one type, with sums that stay as they are or are rounded.
pub(super) fn products<T: Real>(
    of: &Products,
    a: Read<'_, T>,
    b: Read<'_, T>,
    bias: Option<&[T]>,
    residual: Option<&[T]>,
    c: Written<'_, T>,
) {
    match (a, b, c) {
        (Wide(a), Wide(b), Wide(c)) => products_of(of, a, b, bias, residual, c),
        (Narrow(a), Narrow(b), Wide(c)) => products_of(of, a, b, bias, residual, c),
        (Narrow(a), Narrow(b), Narrow(c)) => products_of(of, a, b, bias, residual, c),
        (a, b, c) => unreachable!("a product of mixed types: {a:?} {b:?} {c:?}"),
    }
}

/// y ← GELU(h) Wᵀ + bias + residual; what the product reads are some rows of GELU(h) at a time.
pub(super) fn gelu_linear<T: Real>(
    dims: [usize; 3],
    h: Read<'_, T>,
    w: Read<'_, T>,
    bias: Option<&[T]>,
    residual: Option<&[T]>,
    y: &mut [T],
) {
    match (h, w) {
        (Wide(h), Wide(w)) => gelu_linear_of(dims, h, w, bias, residual, y),
        (Wide(h), Narrow(w)) => gelu_linear_of(dims, h, w, bias, residual, y),
        (Narrow(h), Narrow(w)) => gelu_linear_of(dims, h, w, bias, residual, y),
        (h, w) => unreachable!("weights in more digits than what they weigh: {h:?} {w:?}"),
    }
}

fn gelu_linear_of<S: Element, H: Element<Computed = S::Computed>>(
    [rows, inputs, outputs]: [usize; 3],
    h: &[H],
    w: &[S],
    bias: Option<&[S::Computed]>,
    residual: Option<&[S::Computed]>,
    y: &mut [S::Computed],
) {
    share_blocks::<S, _, _>(rows, [inputs, outputs], (y, &mut [(); 0]), |some, y, _| {
        let mut z = room::<S>(some.len() * inputs);
        let (z, h) = (z.as_mut_slice(), &h[numbers_of(&some, 0, inputs)]);
        let metered = meter::op(Unary::Gelu.name());
        share_rows(some.len(), z.len() * OF_AN_ELEMENT, (&mut *z, &mut [(); 0]), |rows, z, _| {
            unary_part::<S::Computed, _, _>(Unary::Gelu, &h[numbers_of(&rows, 0, inputs)], z);
        });
        drop(metered);
        let _metered = meter::op("linear");
        let residual = residual.map(|r| Mat::new(&r[numbers_of(&some, 0, outputs)], outputs, false));
        product([some.len(), inputs, outputs], [false, true], z, w, Epilogue { own: false, bias, residual }, y);
    });
}

/// z ← GELU(h) and dh ← GELU′(h) ⊙ dy W, made of some rows of dy W at a time.
pub(super) fn gelu_backward<T: Real>(
    dims: [usize; 3],
    dy: Read<'_, T>,
    w: Read<'_, T>,
    h: Read<'_, T>,
    z: Written<'_, T>,
    dh: Written<'_, T>,
) {
    match ((dy, w, z), (h, dh)) {
        ((Wide(dy), Wide(w), Wide(z)), (Wide(h), Wide(dh))) => gelu_backward_of(dims, dy, w, h, z, dh),
        ((Narrow(dy), Narrow(w), Narrow(z)), (Wide(h), Wide(dh))) => gelu_backward_of(dims, dy, w, h, z, dh),
        ((Narrow(dy), Narrow(w), Narrow(z)), (Narrow(h), Narrow(dh))) => gelu_backward_of(dims, dy, w, h, z, dh),
        (operands, h) => unreachable!("the gradient of a GELU of mixed types: {operands:?} {h:?}"),
    }
}

fn gelu_backward_of<S: Element, H: Element<Computed = S::Computed>>(
    [rows, inputs, outputs]: [usize; 3],
    dy: &[S],
    w: &[S],
    h: &[H],
    z: &mut [S],
    dh: &mut [H],
) {
    share_blocks::<S, _, _>(rows, [inputs, outputs], (z, dh), |some, z, dh| {
        let mut dz = room::<S::Computed>(some.len() * inputs);
        let (dz, h) = (dz.as_mut_slice(), &h[numbers_of(&some, 0, inputs)]);
        let (dims, metered) = ([some.len(), outputs, inputs], meter::op("linear"));
        product(dims, [false; 2], &dy[numbers_of(&some, 0, outputs)], w, Epilogue::NOTHING, dz);
        drop(metered);
        let _metered = meter::op(Unary::Gelu.name());
        share_rows(some.len(), dz.len() * OF_AN_ELEMENT, (z, dh), |rows, z, dh| {
            let here = numbers_of(&rows, 0, inputs);
            gelu_and_backward(&h[here.clone()], &dz[here], z, dh);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::elementwise;
    use crate::kernels::matmul::gemm::gemm;
    use crate::kernels::team::in_a_team;
    use crate::kernels::testing::numbers;
    use crate::kernels::{Bf16, Buffer, Precision, matmul, times_shared};

    /// How a is read, and so the order of sums, goes by the columns of the product, not by those that a thread computes.
    #[test]
    #[cfg_attr(miri, ignore = "large")]
    fn some_columns_of_a_product_have_the_bits_of_all() {
        let narrow = |n, seed| numbers(n, seed).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let [m, k, n] = [64, 500, 320];
        let (a, b) = (narrow(m * k, 1), narrow(k * n, 2));
        for t in [[true, false], [true, true], [false, false]] {
            let whole = || {
                let (before, mut c) = (times_shared(), vec![0f32; m * n]);
                product([m, k, n], t, &a, &b, Epilogue::NOTHING, &mut c);
                (c, times_shared() - before)
            };
            let (expected, shared) = whole();
            assert_eq!(shared, 0);
            let (found, shared) = in_a_team(3, whole);
            assert_eq!(shared, 1);
            assert!(found == expected, "transposed {t:?}");
        }
    }

    /// The threads that help compute in the precision of the one that asked.
    #[test]
    #[cfg_attr(miri, ignore = "large")]
    fn helping_threads_compute_in_bf16_too() {
        if !Precision::Bf16.is_available() {
            return;
        }
        let narrow = |n, seed| numbers(n, seed).into_iter().map(|x| Bf16::from_f32(x as f32)).collect::<Vec<Bf16>>();
        let ([m, k, n], batch) = ([512, 512, 512], 4);
        let (a, b) = (narrow(batch * m * k, 1), narrow(k * n, 2));
        let expected = {
            let (_products, mut c) = (Precision::Bf16.enter(), vec![0.0; batch * m * n]);
            let (a, b) = (Mat::new(&a, k, false), Mat::new(&b, n, false));
            gemm([batch * m, k, n], 1.0, a, b, Epilogue::NOTHING, MatMut::new(&mut c, n));
            c
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let found = pool.install(|| {
            let _products = Precision::Bf16.enter();
            let (steps, t) = ([m * k, 0, m * n], [false; 2]);
            let in_batch = Products { steps, ..Products::new(batch, [m, k, n], t) };
            let found = [Products::new(1, [batch * m, k, n], t), in_batch].map(|of| {
                let mut c = vec![0f32; batch * m * n];
                products_of(&of, &a, &b, None, None, &mut c);
                c
            });
            assert_eq!(Precision::here(), Precision::Bf16);
            found
        });
        assert!(found[0] == expected, "rows in parallel");
        assert!(found[1] == expected, "a batch in parallel");
    }

    /// What is made some rows at a time, to be read or written at once, has the bits of what is made first of all rows, alone and
    /// in a team.
    #[test]
    #[cfg_attr(miri, ignore = "large")]
    fn gelu_is_computed_where_it_is_read() {
        for [rows, inputs, outputs] in [[1100, 400, 24], [300, 520, 600]] {
            let narrow = |len, seed| Buffer::from_vec(numbers(len, seed).into_iter().map(|x| x as f32).collect());
            let [h, w, dy, bias] = [(rows * inputs, 1), (inputs * outputs, 2), (rows * outputs, 3), (outputs, 4)]
                .map(|(len, seed)| narrow(len, seed));
            let bits = |x: &Buffer| elementwise::to_dtype(x, DType::F64).as_slice::<f64>("test").to_vec();
            let (dims, plus) = ([rows, inputs, outputs], [Some(&bias), Some(&dy)]);
            for precision in [Precision::F32, Precision::Bf16].into_iter().filter(|precision| precision.is_available())
            {
                let at_once = || {
                    let _products = precision.enter();
                    let (z, dh) = matmul::gelu_backward(dims, &dy, &w, &h);
                    [matmul::gelu_linear(DType::F32, dims, &h, &w, plus[0], plus[1]), z, dh].map(|x| bits(&x))
                };
                let expected = {
                    let _products = precision.enter();
                    let z = elementwise::unary_to(Precision::of_operands(&h), Unary::Gelu, &h);
                    let y = matmul::linear(dims, &z, &elementwise::operand(&w), plus[0], plus[1]);
                    let dz = matmul::linear_backward(None, [rows, outputs, inputs], &dy, false, &w, false);
                    let (z, dh) = elementwise::unary_and_backward(z.dtype(), Unary::Gelu, &h, dz);
                    [y, z, dh].map(|x| bits(&x))
                };
                assert!(at_once() == expected, "{precision}");
                let (found, shared) = in_a_team(3, || {
                    let before = times_shared();
                    (at_once(), times_shared() - before)
                });
                assert!(found == expected && shared > 0, "{precision}, in a team");
            }
        }
    }
}
