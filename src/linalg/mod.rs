//! Linear algebra on small dense matrices, in f64: row-major slices, and one copy of each algorithm.
//!
//! | function | what | source |
//! |---|---|---|
//! | [`Cholesky`] | a positive definite M as LLᵀ, to solve MX = B | Golub and Van Loan, section 4.2 |
//! | [`pivoted_cholesky`] | the same of a semi-definite M, with as many columns as M has rank | Higham (1990) |
//! | [`orthonormal_rows`] | a basis of what rows span | Gram–Schmidt, each row twice |
//! | [`symmetric_eigenvalues`] | all eigenvalues of a symmetric matrix | Householder, then bisection |
//! | [`gram`] | XᵀX of f32 rows | |
//! | [`lbfgs`] | the minimum of a smooth function | Liu and Nocedal (1989) |
//!
//! Products that may be large go through the doors of [`crate::kernels`].

mod cholesky;
mod eigen;
mod gram;
pub mod lbfgs;
mod orthonormal;

pub use cholesky::{Cholesky, pivoted_cholesky};
pub use eigen::symmetric_eigenvalues;
pub use gram::gram;
pub use orthonormal::orthonormal_rows;

/// ⟨a, b⟩
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// ‖a‖₂
pub fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

/// a ← a + c b
pub fn add_scaled(a: &mut [f64], c: f64, b: &[f64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += c * b);
}
