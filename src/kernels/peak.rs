//! The most that a core can do: multiply-adds that stay in registers.
//!
//! Each of 192 lanes (or fewer, for narrower registers) is a chain of its own: 12 vectors, of which a core that starts
//! two multiply-adds in a cycle and has each done four cycles later needs eight to be busy all the time. No memory is
//! touched: this is the limit of arithmetic, which a product of matrices comes near to and nothing passes. It is
//! measured with what this compiler makes of a plain loop (for bf16, of its one instruction), on the processor and at the
//! clock of the moment; where there is no FMA instruction, with a multiplication and an addition.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::simd::{has_fma, vectorized};
use crate::kernels::{Precision, Real};

/// x ← a x + b in every lane, `rounds` times over; the sum of the lanes.
///
/// Plain loops on one array: what the compiler keeps in vector registers.
#[inline(always)]
fn chains<T: Real, const LANES: usize>(rounds: usize, a: T, b: T, fused: bool) -> T {
    let mut lanes = [T::ONE; LANES];
    if fused {
        for _ in 0..rounds {
            for x in &mut lanes {
                *x = x.mul_add(a, b);
            }
        }
    } else {
        for _ in 0..rounds {
            for x in &mut lanes {
                *x = *x * a + b;
            }
        }
    }
    let mut sum = T::ZERO;
    for x in lanes {
        sum += x;
    }
    sum
}

vectorized! {
    /// 12 registers of AVX-512.
    fn wide<T>(rounds: usize, a: T, b: T, fused: bool) -> T {
        chains::<T, 192>(rounds, a, b, fused)
    }

    /// 12 registers of AVX2.
    fn middle<T>(rounds: usize, a: T, b: T, fused: bool) -> T {
        chains::<T, 96>(rounds, a, b, fused)
    }

    /// 12 registers of SSE or NEON.
    fn narrow<T>(rounds: usize, a: T, b: T, fused: bool) -> T {
        chains::<T, 48>(rounds, a, b, fused)
    }
}

type Chains = fn(usize, f32, f32, bool) -> f32;

/// Operations a second (a multiply-add is two) of this thread, with the best width; measured for about `time`.
pub fn flops_per_second(precision: Precision, time: Duration) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if precision == Precision::Bf16 {
        return match super::simd::has_amx() {
            true => rate(super::matmul::amx::chains, 4 * 16 * 16 * 32, time),
            false => rate(super::matmul::bf16::chains, 2 * 192, time),
        };
    }
    debug_assert_eq!(precision, Precision::F32, "no other is available here");
    let widths: [(Chains, usize); 3] = [(wide, 192), (middle, 96), (narrow, 48)];
    let rates = widths.map(|(chains, lanes)| rate(chains, lanes, time / 3));
    rates.into_iter().fold(0.0, f64::max)
}

/// How many times as many operations of this precision as of f32 this thread does: measured in some milliseconds.
pub fn gain(precision: Precision) -> f64 {
    let rate = |precision| flops_per_second(precision, Duration::from_millis(6));
    rate(precision) / rate(Precision::F32)
}

fn rate(chains: Chains, lanes: usize, time: Duration) -> f64 {
    const ROUNDS: usize = 20_000;
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.is_empty() || start.elapsed() < time {
        let now = Instant::now();
        // a = b = ½ keeps x at 1, or lets it grow by ½ a round: nothing overflows, and nothing becomes so small that it is slow.
        black_box(chains(ROUNDS, black_box(0.5), black_box(0.5), has_fma()));
        times.push(now.elapsed().as_secs_f64());
    }
    // The median of many short runs: those in which the system gave the core to another program do not count.
    times.sort_by(f64::total_cmp);
    (ROUNDS * lanes * 2) as f64 / times[times.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_computes_what_it_is_timed_for() {
        // x ← x / 2 + 1 from 1: 2 − 2⁻ⁿ after n rounds.
        for fused in [false, true] {
            for (chains, lanes) in [(wide as Chains, 192.0), (middle, 96.0), (narrow, 48.0)] {
                assert_eq!(chains(3, 0.5, 1.0, fused), lanes * (2.0 - 0.125));
            }
        }
        // Two products of ½ a lane and round, from 0.
        #[cfg(target_arch = "x86_64")]
        if Precision::Bf16.is_available() {
            assert_eq!(super::super::matmul::bf16::chains(3, 0.5, 1.0, true), 192.0 * 3.0);
        }
    }
}
