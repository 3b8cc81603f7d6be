//! The most that a core can do: chains of multiply-adds that stay in registers.
//!
//! Each of 12 chains is as wide as a vector register and depends on nothing but itself. A core that starts two
//! multiply-adds in a cycle and has each done four cycles later needs eight of them to be busy all the time.
//! No memory is touched: this is the limit of arithmetic, which a product of matrices comes near to and nothing passes.
//! It is the limit of what this compiler makes of a plain loop, in the vector width that the other kernels use.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::simd::{has_fma, vectorized};
use crate::kernels::Real;

/// Independent chains.
const CHAINS: usize = 12;

/// x ← a x + b in every lane of every chain, `rounds` times over.
#[inline(always)]
fn chains<T: Real, const LANES: usize>(rounds: usize, a: T, b: T, fused: bool) -> T {
    let mut x = [[T::ONE; LANES]; CHAINS];
    if fused {
        for _ in 0..rounds {
            x.iter_mut().flatten().for_each(|x| *x = x.mul_add(a, b));
        }
    } else {
        for _ in 0..rounds {
            x.iter_mut().flatten().for_each(|x| *x = *x * a + b);
        }
    }
    x.into_iter().flatten().sum()
}

vectorized! {
    /// Chains as wide as the registers of AVX-512.
    fn wide<T>(rounds: usize, a: T, b: T, fused: bool) -> T {
        chains::<T, 16>(rounds, a, b, fused)
    }

    /// Chains as wide as the registers of AVX2.
    fn middle<T>(rounds: usize, a: T, b: T, fused: bool) -> T {
        chains::<T, 8>(rounds, a, b, fused)
    }

    /// Chains as wide as the registers of SSE and NEON.
    fn narrow<T>(rounds: usize, a: T, b: T, fused: bool) -> T {
        chains::<T, 4>(rounds, a, b, fused)
    }
}

type Chains = fn(usize, f32, f32, bool) -> f32;

/// Operations a second (f32, a multiply-add is two) that this thread reaches in `time`, with the best width.
pub fn flops_per_second(time: Duration) -> f64 {
    let widths: [(Chains, usize); 3] = [(wide, 16), (middle, 8), (narrow, 4)];
    let rates = widths.map(|(chains, lanes)| rate(chains, lanes, time / 3));
    rates.into_iter().fold(0.0, f64::max)
}

fn rate(chains: Chains, lanes: usize, time: Duration) -> f64 {
    const ROUNDS: usize = 10_000;
    let start = Instant::now();
    let mut times = 0;
    while start.elapsed() < time {
        // a = b = ½ keeps x at 1: nothing overflows, and nothing becomes so small that it is slow.
        black_box(chains(ROUNDS, black_box(0.5), black_box(0.5), has_fma()));
        times += 1;
    }
    (times * ROUNDS * CHAINS * lanes * 2) as f64 / start.elapsed().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_computes_what_it_is_timed_for() {
        // x ← x / 2 + 1 from 1: 2 − 2⁻ⁿ after n rounds.
        let expected = |lanes: usize| (lanes * CHAINS) as f32 * (2.0 - 0.125);
        for fused in [false, true] {
            assert_eq!(wide(3, 0.5f32, 1.0, fused), expected(16));
            assert_eq!(middle(3, 0.5f32, 1.0, fused), expected(8));
            assert_eq!(narrow(3, 0.5f32, 1.0, fused), expected(4));
        }
    }
}
