//! XᵀX of a matrix with many rows.

use rayon::prelude::*;

use crate::kernels::matmul::linear_backward;
use crate::tensor::{DType, Tensor};

/// Rows of the result that one task computes.
const PART: usize = 64;

/// XᵀX, row-major `[dim, dim]`, in f64, of a matrix X that comes as blocks of its rows, each `[rows, dim]`: products of
/// f32 numbers are exact in f64, so that small eigenvalues survive.
///
/// Blocks one after the other, parts of the result in parallel: nothing larger than the result is held, and every entry
/// is summed in the order of the rows.
///
/// # Errors
/// The first of `cancel`, which is asked before each block.
///
/// # Panics
/// When a block is not `[rows, dim]`.
#[track_caller]
pub fn gram<E>(
    blocks: impl IntoIterator<Item = Tensor>,
    dim: usize,
    cancel: impl Fn() -> Result<(), E>,
) -> Result<Vec<f64>, E> {
    let width = |part: usize| PART.min(dim - part * PART);
    let mut parts: Vec<Tensor> =
        (0..dim.div_ceil(PART)).map(|part| Tensor::zeros([width(part), dim], DType::F64)).collect();
    for block in blocks {
        cancel()?;
        let block = block.to_dtype(DType::F64);
        let [rows, cols] = block.dims("gram: a block");
        assert_eq!(cols, dim, "gram: a block of {} in a matrix of {dim} columns", block.shape());
        parts.par_iter_mut().enumerate().for_each(|(i, part)| {
            let columns = block.as_slice::<f64>().chunks_exact(dim).flat_map(|row| row[i * PART..][..width(i)].iter());
            let columns = Tensor::new([rows, width(i)], columns.copied().collect());
            let sum = std::mem::replace(part, Tensor::zeros([0], DType::F64)).into_buffer();
            let dims = [width(i), rows, dim];
            let sum = linear_backward(Some(sum), dims, columns.buffer(), true, block.buffer(), false);
            *part = Tensor::from_buffer([width(i), dim], sum);
        });
    }
    Ok(parts.iter().flat_map(|part| part.as_slice::<f64>()).copied().collect())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::rng::{Purpose, stream};

    #[test]
    fn the_sum_over_rows_on_any_number_of_threads() {
        for (rows, dim) in [(1000, 3), (5, 1), (300, 2 * PART + 3)] {
            let x = Tensor::normal([rows, dim], 1.0, DType::F32, &mut stream(1, Purpose::Eval, [0, 0]));
            let all = x.to_f64_vec();
            let exact = |i: usize, j: usize| all.chunks(dim).map(|row| row[i] * row[j]).sum::<f64>();
            let blocks = || (0..rows).step_by(256).map(|at| x.rows(at..(at + 256).min(rows)));
            let on = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let Ok(found) = pool.install(|| gram(blocks(), dim, || Ok::<_, Infallible>(())));
                found
            };
            assert!(on(1).iter().enumerate().all(|(ij, g)| (g - exact(ij / dim, ij % dim)).abs() < 1e-9), "{rows}");
            assert_eq!(on(1), on(3));
        }
    }
}
