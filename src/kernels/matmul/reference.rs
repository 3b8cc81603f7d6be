//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use super::Products;
use crate::kernels::Real;
use crate::kernels::launch::{Read, Written};

/// Element (i, j) of a row-major matrix of `rows` × `cols`, stored so or transposed.
fn at<T: Real>(x: &[T], [rows, cols]: [usize; 2], transposed: bool, i: usize, j: usize) -> f64 {
    let index = if transposed { j * rows + i } else { i * cols + j };
    x[index].to_f64()
}

/// For each p of the batch: c_pij ← Σ_l a_pil b_plj + what is added.
pub(super) fn products<T: Real>(
    of: &Products,
    a: Read<'_, T>,
    b: Read<'_, T>,
    bias: Option<&[T]>,
    residual: Option<&[T]>,
    c: Written<'_, T>,
) {
    let (a, b, c) = (a.wide(), b.wide(), c.wide());
    let Products { batch, dims: [m, k, n], steps, transposed, own } = *of;
    for p in 0..batch {
        let (a, b, c) = (&a[p * steps[0]..], &b[p * steps[1]..], &mut c[p * steps[2]..]);
        for i in 0..m {
            for j in 0..n {
                let mut sum = if own { c[i * n + j].to_f64() } else { 0.0 };
                sum += bias.map_or(0.0, |b| b[j].to_f64()) + residual.map_or(0.0, |r| r[i * n + j].to_f64());
                for l in 0..k {
                    sum += at(a, [m, k], transposed[0], i, l) * at(b, [k, n], transposed[1], l, j);
                }
                c[i * n + j] = T::from_f64(sum);
            }
        }
    }
}
