//! The CPU kernels: plain loops over plain slices, one file per kind, generic over `f32` and `f64`.
//!
//! No threads in here (but for one product that is too big for a single core's patience, see [`matmul`]): a
//! training step runs many chunks of images at once, each on one thread. Lengths are checked at the door,
//! [`crate::kernels`]; here they are asserted only where an `unsafe` block leans on them.

pub mod attention;
#[cfg(target_arch = "x86_64")]
mod bf16;
pub mod elementwise;
pub mod gelu;
pub mod layer_norm;
pub mod loss;
pub mod matmul;
#[cfg(target_arch = "x86_64")]
pub(in crate::kernels) mod microkernel;
pub mod optim;
pub mod patchify;
pub mod peak;
#[cfg(target_arch = "x86_64")]
mod registers;
pub(crate) mod simd;
pub mod softmax;
pub mod special;
pub mod tokens;

/// What the kernels' unit tests share.
#[cfg(test)]
pub(crate) mod testing {
    /// `n` different numbers between −1 and 1 that look random and are the same every time.
    pub fn numbers(n: usize, seed: u64) -> Vec<f64> {
        use rand::RngExt;
        let mut rng = crate::rng::stream(seed, crate::rng::Purpose::Eval, [n as u64, 0]);
        (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
    }

    /// Equal up to `tolerance`, relative above 1 and absolute below.
    #[track_caller]
    pub fn close(x: f64, y: f64, tolerance: f64) {
        assert!((x - y).abs() <= tolerance * y.abs().max(1.0), "{x} is not {y} (within {tolerance:e})");
    }
}
