use std::ops::Range;

use rayon::prelude::*;

use super::Finite;
use crate::kernels::Real;
use crate::kernels::launch::{Read, with_elements};
use crate::kernels::simd::vectorized;
use crate::kernels::team::{OF_AN_ELEMENT, share_rows};

/// Of so many numbers a sum is taken at a time: a sum of sums rounds less than one of all numbers in turn.
const TERMS: usize = 256;

pub(super) fn sum<T: Real>([_, n, inner]: [usize; 3], factor: f64, x: &[T], y: &mut [T]) {
    if inner == 1 {
        for (i, y) in y.iter_mut().enumerate() {
            let sums = x[i * n..(i + 1) * n].chunks(TERMS).map(|x| x.iter().map(|x| x.to_f64()).sum::<f64>());
            *y = T::from_f64(factor * sums.sum::<f64>());
        }
        return;
    }
    let mut sums = vec![0.0; inner];
    for (i, y) in y.chunks_exact_mut(inner.max(1)).enumerate() {
        sums.fill(0.0);
        for x in x[i * n * inner..][..n * inner].chunks_exact(inner) {
            sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x.to_f64());
        }
        y.iter_mut().zip(&sums).for_each(|(y, sum)| *y = T::from_f64(factor * sum));
    }
}

pub(super) fn sum_backward<T: Real>([outer, n, inner]: [usize; 3], factor: f64, dy: &[T], dx: &mut [T]) {
    let scaled = |dy: &T| T::from_f64(factor * dy.to_f64());
    for o in 0..outer {
        let (dy, dx) = (&dy[o * inner..][..inner], &mut dx[o * n * inner..][..n * inner]);
        if let [dy] = dy {
            dx.fill(scaled(dy));
        } else if inner > 0 {
            dx.chunks_exact_mut(inner).for_each(|dx| dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx = scaled(dy)));
        }
    }
}

fn norm_of<T: Real>(x: &[T]) -> f64 {
    x.iter().map(|x| x.to_f64().powi(2)).sum::<f64>().sqrt()
}

pub(super) fn norm<T: Real>(x: &[T], y: &mut [T]) {
    y[0] = T::from_f64(norm_of(x));
}

/// dx ← x dy / √ Σ x².
pub(super) fn norm_backward<T: Real>(x: &[T], dy: &[T], dx: &mut [T]) {
    let norm = norm_of(x);
    let factor = T::from_f64(if norm == 0.0 { 0.0 } else { dy[0].to_f64() / norm });
    dx.iter_mut().zip(x).for_each(|(dx, &x)| *dx = factor * x);
}

vectorized! {
    /// Some columns of [`accumulate_rows`].
    fn accumulate_columns<T, U>(cols: usize, some: Range<usize>, x: &[U], y: &mut [T]) {
        if cols > 0 {
            x.chunks_exact(cols).for_each(|row| y.iter_mut().zip(&row[some.clone()]).for_each(|(y, &x)| *y += x.to()));
        }
    }

    /// Whether none is NaN or infinite. No early end: that would keep it out of vector registers.
    fn all_finite<T>(of: Finite, x: &[T]) -> bool {
        match of {
            Finite::Elements => x.iter().fold(true, |finite, &x| finite & x.is_finite()),
            Finite::Squares => x.iter().fold(true, |finite, &x| finite & (x * x).is_finite()),
        }
    }
}

/// y ← y + Σ over the rows of x: the gradient of a bias.
pub(super) fn accumulate_rows<T: Real>(cols: usize, x: Read<'_, T>, y: &mut [T]) {
    with_elements!(x, x => {
        share_rows(cols, x.len() * OF_AN_ELEMENT, (y, &mut [(); 0]), |some, y, _| accumulate_columns(cols, some, x, y));
    });
}

/// How many are NaN or infinite: of a run where some are, which is rare.
fn count<T: Real>(of: Finite, x: &[T]) -> usize {
    if all_finite(of, x) {
        return 0;
    }
    x.chunks(1).filter(|x| !all_finite(of, x)).count()
}

/// Elements that are worth a task: finding out takes as long as reading them.
const COUNTED: usize = 128 << 10;

/// count ← how many are NaN or infinite, in parallel.
pub(super) fn count_non_finite<T: Real>(of: &[Finite], buffers: &[&[T]], count: &mut [T]) {
    let parts = of.par_iter().zip(buffers).flat_map(|(of, x)| x.par_chunks(COUNTED).map(|x| (*of, x)));
    let found = parts.map(|(of, x)| self::count(of, x)).sum::<usize>();
    count[0] = T::from_f64(found as f64);
}
