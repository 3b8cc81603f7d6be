//! What the kernels' unit tests share.

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

#[cfg(feature = "cuda")]
#[path = "../../tests/cuda_on_cpu/mod.rs"]
mod cuda_on_cpu;

/// The devices whose kernels are compared with the reference's: the CPU and, where it can be, a GPU or what plays one.
pub fn devices() -> Vec<crate::Device> {
    #[cfg(feature = "cuda")]
    return [crate::Device::Cpu].into_iter().chain(cuda_on_cpu::device()).collect();
    #[cfg(not(feature = "cuda"))]
    vec![crate::Device::Cpu]
}
