//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use super::Finite;
use crate::kernels::Real;
use crate::kernels::launch::Read;

/// y ← factor · Σ over the middle axis.
pub(super) fn sum<T: Real>([outer, n, inner]: [usize; 3], factor: f64, x: &[T], y: &mut [T]) {
    for o in 0..outer {
        for i in 0..inner {
            let sum: f64 = (0..n).map(|k| x[(o * n + k) * inner + i].to_f64()).sum();
            y[o * inner + i] = T::from_f64(factor * sum);
        }
    }
}

/// dx ← factor · dy all along the middle axis.
pub(super) fn sum_backward<T: Real>([outer, n, inner]: [usize; 3], factor: f64, dy: &[T], dx: &mut [T]) {
    for o in 0..outer {
        for k in 0..n {
            for i in 0..inner {
                dx[(o * n + k) * inner + i] = T::from_f64(factor * dy[o * inner + i].to_f64());
            }
        }
    }
}

fn norm_of<T: Real>(x: &[T]) -> f64 {
    x.iter().map(|x| x.to_f64() * x.to_f64()).sum::<f64>().sqrt()
}

/// y ← √ Σ x².
pub(super) fn norm<T: Real>(x: &[T], y: &mut [T]) {
    y[0] = T::from_f64(norm_of(x));
}

/// dx ← x dy / √ Σ x², or 0.
pub(super) fn norm_backward<T: Real>(x: &[T], dy: &[T], dx: &mut [T]) {
    let norm = norm_of(x);
    for i in 0..x.len() {
        dx[i] = if norm == 0.0 { T::ZERO } else { T::from_f64(x[i].to_f64() * dy[0].to_f64() / norm) };
    }
}

/// y ← y + Σ over the rows of x.
pub(super) fn accumulate_rows<T: Real>(cols: usize, x: Read<'_, T>, y: &mut [T]) {
    let x = x.wide();
    for i in 0..cols {
        let sum: f64 = (0..x.len() / cols).map(|r| x[r * cols + i].to_f64()).sum();
        y[i] = T::from_f64(y[i].to_f64() + sum);
    }
}

/// count ← how many are NaN or infinite.
pub(super) fn count_non_finite<T: Real>(of: &[Finite], buffers: &[&[T]], count: &mut [T]) {
    let mut found = 0.0;
    for (of, x) in of.iter().zip(buffers) {
        for &x in x.iter() {
            // In T: what overflows there is what is asked.
            let x = if *of == Finite::Squares { x * x } else { x };
            if !x.is_finite() {
                found += 1.0;
            }
        }
    }
    count[0] = T::from_f64(found);
}
