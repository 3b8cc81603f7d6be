use super::Products;
use super::gemm::{COLUMNS, Epilogue, Mat, MatMut, gemm, gemm_by_columns, gemm_with};
use crate::kernels::team::share_rows;
use crate::kernels::{Element, Real};

/// c ← a b + what `plus` says, for row-major operands, each optionally read transposed.
fn product<S: Element>(
    dims: [usize; 3],
    t: [bool; 2],
    a: &[S],
    b: &[S],
    plus: Epilogue<'_, S::Computed>,
    c: &mut [S::Computed],
) {
    let [m, k, n] = dims;
    let a = Mat::new(a, if t[0] { m } else { k }, t[0]);
    let b = Mat::new(b, if t[1] { k } else { n }, t[1]);
    // Each thread of a team reads its part of one operand, and all of the other: of the smaller one, if there are columns enough
    // for all.
    if n > m.max(8 * COLUMNS) {
        return gemm_with(gemm_by_columns, dims, S::Computed::ONE, a, b, plus, MatMut::new(c, n));
    }
    share_rows(m, m * k * n, (c, &mut [(); 0]), |rows, c, _| {
        let plus = Epilogue { residual: plus.residual.map(|r| r.below(rows.start)), ..plus };
        gemm([rows.len(), k, n], S::Computed::ONE, a.below(rows.start), b, plus, MatMut::new(c, n));
    });
}

/// Every product: shared out by products where there are many, by [rows or columns](product) where there is one.
pub(super) fn products<S: Element>(
    of: &Products,
    a: &[S],
    b: &[S],
    bias: Option<&[S::Computed]>,
    residual: Option<&[S::Computed]>,
    c: &mut [S::Computed],
) {
    let Products { batch, dims, steps, transposed, own } = *of;
    let [m, k, n] = dims;
    let plus = Epilogue { own, bias, residual: residual.map(|r| Mat::new(r, n, false)) };
    let one = |i: usize, c: &mut [S::Computed]| {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::team::in_a_team;
    use crate::kernels::testing::numbers;
    use crate::kernels::{Precision, times_shared};

    /// How a is read, and so the order of sums, goes by the columns of the product, not by those that a thread computes.
    #[test]
    #[cfg_attr(miri, ignore = "large")]
    fn some_columns_of_a_product_have_the_bits_of_all() {
        let narrow = |n, seed| numbers(n, seed).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let [m, k, n] = [64, 500, 320];
        let (a, b) = (narrow(m * k, 1), narrow(k * n, 2));
        for t in [[true, false], [true, true], [false, false]] {
            let whole = || {
                let (before, mut c) = (times_shared(), vec![0.0; m * n]);
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
        let narrow = |n, seed| numbers(n, seed).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let ([m, k, n], batch) = ([512, 512, 512], 4);
        let (a, b) = (narrow(batch * m * k, 1), narrow(k * n, 2));
        let whole = |precision: Precision| {
            let (_products, mut c) = (precision.enter(), vec![0.0; batch * m * n]);
            gemm(
                [batch * m, k, n],
                1.0,
                Mat::new(&a, k, false),
                Mat::new(&b, n, false),
                Epilogue::NOTHING,
                MatMut::new(&mut c, n),
            );
            c
        };
        let expected = whole(Precision::Bf16);
        assert!(whole(Precision::F32) != expected);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        let found = pool.install(|| {
            let _products = Precision::Bf16.enter();
            let (steps, t) = ([m * k, 0, m * n], [false; 2]);
            let in_batch = Products { steps, ..Products::new(batch, [m, k, n], t) };
            let found = [Products::new(1, [batch * m, k, n], t), in_batch].map(|of| {
                let mut c = vec![0.0; batch * m * n];
                products(&of, &a, &b, None, None, &mut c);
                c
            });
            assert_eq!(Precision::here(), Precision::Bf16);
            found
        });
        assert!(found[0] == expected, "rows in parallel");
        assert!(found[1] == expected, "a batch in parallel");
    }
}
