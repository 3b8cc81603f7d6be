use std::ops::Range;

use super::Products;
use super::gemm::{COLUMNS, Epilogue, Mat, MatMut, gemm, gemm_by_columns};
use super::rounded::Rounded;
use crate::kernels::buffer::room;
use crate::kernels::elementwise::cpu::gelu_and_backward;
use crate::kernels::launch::Typed::{Narrow, Wide};
use crate::kernels::launch::{Read, Written};
use crate::kernels::team::share_rows;
use crate::kernels::{Element, Real};

/// The most rows of a product whose sums wait for what more is added, or for what is made of them: as many as the micro-kernel has
/// in a block.
const ROWS: usize = 528;

/// These rows in runs of at most so many, which differ in length by at most one.
fn blocks(rows: Range<usize>, at_a_time: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = rows.len().div_ceil(at_a_time);
    let start = move |part| rows.start + rows.len() * part / parts;
    (0..parts).map(move |part| start(part)..start(part + 1))
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
    let at_a_time = if C::IS_NARROW { ROWS } else { m.max(1) };
    share_rows(m, m * k * n, (c, &mut [(); 0]), |rows, c, _| {
        let mut room = C::room(rows.len().min(at_a_time) * n);
        for some in blocks(rows.clone(), at_a_time) {
            let plus = Epilogue { residual: plus.residual.map(|r| r.below(some.start)), ..plus };
            let to = (room.as_mut_slice(), MatMut::new(&mut c[numbers_of(&some, rows.start, n)], n));
            C::gemm_to(S::gemm, [some.len(), k, n], S::Computed::ONE, a.below(some.start), b, plus, to);
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

/// z ← GELU(h) and dh ← GELU′(h) ⊙ dy W, both of `rows` rows of `inputs` numbers.
pub(super) fn gelu_backward<S: Element>(
    [rows, inputs, outputs]: [usize; 3],
    [dy, w, h]: [&[S]; 3],
    z: &mut [S],
    dh: &mut [S],
) {
    let (dy, w) = (Mat::new(dy, outputs, false), Mat::new(w, inputs, false));
    share_rows(rows, rows * inputs * outputs, (z, dh), |rows, z, dh| {
        let mut sums = room::<S::Computed>(rows.len().min(ROWS) * inputs);
        for some in blocks(rows.clone(), ROWS) {
            let dz = &mut sums.as_mut_slice()[..some.len() * inputs];
            let (dims, dy) = ([some.len(), outputs, inputs], dy.below(some.start));
            gemm(dims, S::Computed::ONE, dy, w, Epilogue::NOTHING, MatMut::new(dz, inputs));
            let here = numbers_of(&some, rows.start, inputs);
            gelu_and_backward(&h[numbers_of(&some, 0, inputs)], dz, &mut z[here.clone()], &mut dh[here]);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::team::in_a_team;
    use crate::kernels::testing::numbers;
    use crate::kernels::{Bf16, Precision, times_shared};

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
}
