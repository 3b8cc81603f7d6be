//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use super::Layout;
use crate::kernels::Real;

/// Element (i, j) of a row-major matrix of `rows` × `cols`, stored so or transposed.
fn at<T: Real>(x: &[T], [rows, cols]: [usize; 2], transposed: bool, i: usize, j: usize) -> f64 {
    let index = if transposed { j * rows + i } else { i * cols + j };
    x[index].to_f64()
}

/// For each matrix p of the batch: c_ij ← Σ_l a_il b_lj.
pub(super) fn batch_of_products<T: Real>(
    [m, k, n]: [usize; 3],
    a: &[T],
    of_a: Layout,
    b: &[T],
    of_b: Layout,
    c: &mut [T],
) {
    for p in 0..c.len() / (m * n).max(1) {
        let (a, b) = (&a[p * of_a.step..], &b[p * of_b.step..]);
        product_onto([m, k, n], a, of_a.transposed, b, of_b.transposed, false, &mut c[p * m * n..(p + 1) * m * n]);
    }
}

/// c_ij ← Σ_p Σ_l a_pil b_plj.
pub(super) fn sum_of_products<T: Real>(
    batch: usize,
    [m, k, n]: [usize; 3],
    a: &[T],
    transpose_a: bool,
    b: &[T],
    transpose_b: bool,
    c: &mut [T],
) {
    for i in 0..m {
        for j in 0..n {
            let mut sum = 0.0;
            for p in 0..batch {
                for l in 0..k {
                    let a = at(&a[p * m * k..], [m, k], transpose_a, i, l);
                    sum += a * at(&b[p * k * n..], [k, n], transpose_b, l, j);
                }
            }
            c[i * n + j] = T::from_f64(sum);
        }
    }
}

/// y_ro ← Σ_i x_ri W_oi + b_o + residual_ro.
pub(super) fn linear<T: Real>(
    [rows, inputs, outputs]: [usize; 3],
    x: &[T],
    w: &[T],
    bias: Option<&[T]>,
    residual: Option<&[T]>,
    y: &mut [T],
) {
    for r in 0..rows {
        for o in 0..outputs {
            let mut sum = bias.map_or(0.0, |b| b[o].to_f64()) + residual.map_or(0.0, |s| s[r * outputs + o].to_f64());
            for i in 0..inputs {
                sum += x[r * inputs + i].to_f64() * w[o * inputs + i].to_f64();
            }
            y[r * outputs + o] = T::from_f64(sum);
        }
    }
}

/// c_ij ← Σ_l a_il b_lj, or c_ij plus that.
pub(super) fn product_onto<T: Real>(
    [m, k, n]: [usize; 3],
    a: &[T],
    transpose_a: bool,
    b: &[T],
    transpose_b: bool,
    add: bool,
    c: &mut [T],
) {
    for i in 0..m {
        for j in 0..n {
            let mut sum = if add { c[i * n + j].to_f64() } else { 0.0 };
            for l in 0..k {
                sum += at(a, [m, k], transpose_a, i, l) * at(b, [k, n], transpose_b, l, j);
            }
            c[i * n + j] = T::from_f64(sum);
        }
    }
}
