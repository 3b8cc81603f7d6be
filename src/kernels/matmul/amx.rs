//! Products in bf16 on AMX, the matrix unit of Intel's server processors (Sapphire Rapids, 2023, and later).
//!
//! It has eight registers of 16 rows of 64 bytes, *tiles*, and one instruction, `tdpbf16ps`, that multiplies 16 rows of 32
//! numbers of a by 32 rows of 16 numbers of b and adds the products to 16 × 16 sums: 8192 multiply-adds, where
//! `vdpbf16ps` does 32. Four tiles hold 32 × 32 sums, two of a and two of b are multiplied with one another.
//!
//! - **b** is packed as for `vdpbf16ps`, [`super::bf16`]: rows of 32 pairs, of k and of k + 1. Sixteen of these rows are
//!   two tiles.
//! - **a** is packed row by row, so that 32 values of k, one after the other, are a row of a tile.
//! - **c** is on its way while tiles are multiplied.
//! - **Edges** are filled up: with zeros where k ends, as anything else there would reach a sum; with whatever is there beyond
//!   the last row and column, whose sums nobody reads.
//! - **Order.** An instruction adds the 16 products of even k, one after the other, each fused with its addition; those of odd
//!   k likewise; then both to each other, and that to the sum. It takes and gives 0 for what is smaller than the least normal
//!   number. (Intel's Software Developer's Manual, TDPBF16PS.) The tests compute it so.
//!
//! The compiler knows the instructions only as text.

use std::arch::asm;
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::bf16::pair;
use super::copies::copy_panel;
use super::gemm::{Product, Target};
use super::microkernel::{A_ROWS, Aligned, even_cuts, prefetch};
use super::registers::{Operand, Register};
use crate::kernels::buffer::Storage;
use crate::kernels::simd::has_amx;
use crate::kernels::{Bf16, Device};

/// Rows and columns of a tile of sums, and pairs of values of k in one of a or b.
const SIDE: usize = 16;
/// Rows and columns of the sums that are computed at once.
const BLOCK: usize = 2 * SIDE;
/// Values of k in a pass: so many of the columns of b that are at hand, in pairs, fill 32 KiB of a level-1 cache. Each pass reads and
/// writes c.
const DEPTH: usize = 512;
/// Pairs from one row of the copy of a to the next: a whole number of cache lines, and an odd one, so that rows fall on different
/// sets of the cache.
const A_PITCH: usize = DEPTH / 2 + SIDE;

/// What `ldtilecfg` reads: eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

static ALL_OF_EVERY_TILE: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_of_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// While it lives the thread's tiles can be used. Without tiles in use, the system has less to save when it switches threads.
struct Tiles;

impl Tiles {
    /// # Safety
    /// The processor has AMX, and the system allows it: [`has_amx`](crate::kernels::simd::has_amx).
    unsafe fn of_this_thread() -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const ALL_OF_EVERY_TILE, options(nostack, preserves_flags, readonly));
        }
        Tiles
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: who made it had AMX.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

/// sums ← a b, 32 × 32, for `steps` times 16 pairs of k.
///
/// # Safety
/// As of [`Tiles::of_this_thread`], of which there is one; the operands are there, [`A_PITCH`] and [`BLOCK`] lanes a row, and
/// room for all sums.
#[inline(always)]
unsafe fn multiply(steps: usize, a: *const f32, b: *const f32, sums: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + 1*{a_pitch}]",
            "tileloadd tmm6, [{b} + 1*{b_pitch}]",
            "tileloadd tmm7, [{b} + 1*{b_pitch} + 64]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{lower} + 1*{a_pitch}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {a}, 64",
            "add {lower}, 64",
            "add {b}, {b_step}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + 1*{b_pitch}], tmm0",
            "tilestored [{sums} + 1*{b_pitch} + 64], tmm1",
            "tilestored [{lower_sums} + 1*{b_pitch}], tmm2",
            "tilestored [{lower_sums} + 1*{b_pitch} + 64], tmm3",
            a = inout(reg) a => _,
            lower = inout(reg) a.wrapping_add(SIDE * A_PITCH) => _,
            a_pitch = in(reg) 4 * A_PITCH,
            b = inout(reg) b => _,
            b_pitch = in(reg) 4 * BLOCK,
            b_step = const 4 * BLOCK * SIDE,
            lower_sums = in(reg) sums.wrapping_add(SIDE * BLOCK),
            steps = inout(reg) steps => _,
            sums = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Multiplies tiles, `rounds` times over: what is timed to find the limit of arithmetic, see [`peak`](crate::kernels::peak). All
/// operands are bf16 numbers of one value, `a` and `b`; the sum of all 4 × 16 × 16 sums.
///
/// # Panics
/// When the processor has no AMX.
pub(in crate::kernels) fn chains(rounds: usize, a: f32, b: f32, _fused: bool) -> f32 {
    assert!(has_amx());
    // SAFETY: the processor was just asked.
    unsafe { chains_of_tiles(rounds, a, b) }
}

/// [`chains`].
///
/// # Safety
/// As of [`Tiles::of_this_thread`].
unsafe fn chains_of_tiles(rounds: usize, a: f32, b: f32) -> f32 {
    let [a, b] = [a, b].map(Bf16::from_f32).map(|x| Aligned([pair(x, x); SIDE * SIDE]));
    let mut sums = Aligned([0.0f32; 4 * SIDE * SIDE]);
    // SAFETY: the caller's promise; tiles of rows of 64 bytes, all inside these arrays.
    unsafe {
        let _tiles = Tiles::of_this_thread();
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tileloadd tmm4, [{a} + 1*{pitch}]",
            "tileloadd tmm6, [{b} + 1*{pitch}]",
            "2:",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm6",
            "tdpbf16ps tmm2, tmm4, tmm6",
            "tdpbf16ps tmm3, tmm4, tmm6",
            "dec {rounds}",
            "jnz 2b",
            "tilestored [{sums} + 1*{pitch}], tmm0",
            "tilestored [{sums} + 1*{pitch} + 1024], tmm1",
            "tilestored [{sums} + 1*{pitch} + 2048], tmm2",
            "tilestored [{sums} + 1*{pitch} + 3072], tmm3",
            a = in(reg) &raw const a,
            b = in(reg) &raw const b,
            sums = in(reg) &raw mut sums,
            pitch = in(reg) 64usize,
            rounds = inout(reg) rounds.max(1) => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm6") _,
            options(nostack),
        );
    }
    sums.0.iter().sum()
}

/// Computes the product.
///
/// # Safety
/// As [`Product`] promises; the processor has AMX, and the system allows it: [`has_amx`](crate::kernels::simd::has_amx).
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512bf16")]
pub(super) unsafe fn product(product: &Product<Bf16>) {
    let [m, k, n] = product.dims;
    let ((a, a_strides), (b, (b_row, b_column))) = (product.a, product.b);
    // SAFETY: the caller's promise.
    let _tiles = unsafe { Tiles::of_this_thread() };
    let blocks = m.div_ceil(A_ROWS);
    let a_rows = m.div_ceil(blocks.max(1)).next_multiple_of(BLOCK);
    let mut a_panel = Storage::<f32>::unspecified(a_rows * A_PITCH, Device::Cpu);
    let a_panel = a_panel.as_mut_slice().as_mut_ptr();
    let mut b_panel = Aligned(MaybeUninit::<[f32; DEPTH / 2 * BLOCK]>::uninit());
    let b_panel = b_panel.0.as_mut_ptr().cast::<f32>();
    let mut sums = Aligned([0.0; BLOCK * BLOCK]);
    // With k = 0 there is one pass of depth 0: it writes what is added.
    let passes = even_cuts(k, k.div_ceil(DEPTH).max(1));
    for (rows, cut) in even_cuts(m, blocks).flat_map(|rows| passes.clone().map(move |cut| (rows.clone(), cut))) {
        let (top, height, from, depth) = (rows.start, rows.len(), cut.start, cut.len());
        let steps = depth.div_ceil(2 * SIDE);
        let rounded = product.target.rounded.filter(|_| cut.end == k);
        let here = a.wrapping_add(top * a_strides.0 + from * a_strides.1);
        // SAFETY: these elements of a are promised, and the panel has room for its rows, rounded up to whole tiles.
        unsafe { copy_rows(here, a_strides, [height, depth], a_panel) };
        for j in (0..n).step_by(BLOCK) {
            let columns = BLOCK.min(n - j);
            let here = b.wrapping_add(from * b_row + j * b_column);
            // SAFETY: these elements of b are promised, and the panel has DEPTH / 2 rows.
            unsafe {
                copy_panel::<Bf16, __m512, 2>(here, (b_row, b_column), [depth, columns], (b_panel, BLOCK));
                for l in depth.div_ceil(2)..steps * SIDE {
                    b_panel.add(l * BLOCK).cast::<[f32; BLOCK]>().write([0.0; BLOCK]);
                }
            }
            for i in (0..height).step_by(BLOCK) {
                let rows = BLOCK.min(height - i);
                // What will be written comes while tiles are multiplied: to wait for it would take longer than to multiply.
                for r in 0..rows {
                    if let Some((c, row)) = rounded {
                        prefetch::<2>(c.wrapping_add((top + i + r) * row + j));
                    }
                    if rounded.is_none() || from > 0 || product.target.own {
                        let c = product.target.c.0.wrapping_add((top + i + r) * product.target.c.1 + j);
                        prefetch::<2>(c);
                        prefetch::<2>(c.wrapping_add(columns - 1));
                    }
                }
                if steps > 0 {
                    // SAFETY: AMX is there; all rows of both panels were written, but for what is beyond the last.
                    unsafe { multiply(steps, a_panel.add(i * A_PITCH), b_panel, sums.0.as_mut_ptr()) };
                }
                // SAFETY: these rows and columns of c, and of what is added, are promised.
                unsafe { write(&product.target, rounded, (top + i, j), [rows, columns], from == 0, &sums.0) };
            }
        }
    }
}

/// Copies rows of a, each of `depth` numbers and zeros up to a whole tile.
///
/// # Safety
/// These elements of `from` can be read, and as many rows of [`A_PITCH`] lanes, rounded up to [`SIDE`], be written. The
/// processor has AVX512-BF16.
#[inline(always)]
unsafe fn copy_rows(from: *const Bf16, (row, column): (usize, usize), [rows, depth]: [usize; 2], to: *mut f32) {
    // SAFETY: the caller's promise; masks hide what is beyond a row.
    unsafe {
        if column == 1 {
            for i in 0..rows {
                for l in (0..depth).step_by(2 * SIDE) {
                    neighbors(from.wrapping_add(i * row + l), depth - l).store(to.add(i * A_PITCH + l / 2), !0);
                }
            }
            return;
        }
        // Numbers of a row of tiles are far apart, mostly those of a column neighbors: a tile is copied as one of b, and then
        // transposed.
        let mut tile = Aligned([0.0f32; SIDE * SIDE]);
        for (i, l) in (0..rows).step_by(SIDE).flat_map(|i| (0..depth).step_by(2 * SIDE).map(move |l| (i, l))) {
            let (rows, depth) = (SIDE.min(rows - i), (2 * SIDE).min(depth - l));
            let tile = tile.0.as_mut_ptr();
            copy_panel::<Bf16, __m512, 2>(from.add(i * row + l * column), (column, row), [depth, rows], (tile, SIDE));
            (tile.add(depth.div_ceil(2) * SIDE)).write_bytes(0, (SIDE - depth.div_ceil(2)) * SIDE);
            for four in (0..SIDE).step_by(4) {
                let to = to.add((i + four) * A_PITCH + l / 2);
                __m512::transpose(tile.add(four), 4 * SIDE, SIDE - 1, to, A_PITCH);
            }
        }
    }
}

/// The first `n` of 32 neighbors, two in each lane, and 0 in the place of those that are missing.
///
/// # Safety
/// They can be read; the processor has AVX-512.
#[inline(always)]
unsafe fn neighbors(from: *const Bf16, n: usize) -> __m512 {
    let mask = if n >= 32 { !0 } else { (1 << n) - 1 };
    // SAFETY: the caller's promise; the mask hides what is missing. Bits are bits.
    unsafe { _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(mask, from.cast())) }
}

/// Writes c from rows of sums, with all that is added, as a tile of registers does.
///
/// # Safety
/// As [`Product`] promises for these rows and columns; the processor has AVX-512.
#[inline(always)]
unsafe fn write(
    target: &Target<f32>,
    rounded: Option<(*mut Bf16, usize)>,
    (i, j): (usize, usize),
    [rows, columns]: [usize; 2],
    first: bool,
    sums: &[f32; BLOCK * BLOCK],
) {
    /// In the place of what is not added: to add it changes no bit, and no row has to ask.
    static NOTHING: Aligned<[f32; BLOCK]> = Aligned([-0.0; BLOCK]);
    let or_nothing = |x: Option<(*const f32, usize)>| match x {
        Some((x, row)) => (x.wrapping_add(i * row + j), row),
        None => (NOTHING.0.as_ptr(), 0),
    };
    let c = (target.c.0.wrapping_add(i * target.c.1 + j), target.c.1);
    let own = or_nothing((!first || target.own).then_some((target.c.0.cast_const(), target.c.1)));
    let bias = or_nothing(target.bias.filter(|_| first).map(|bias| (bias, 0)));
    let residual = or_nothing(target.residual.filter(|_| first));
    let halves = [(0, __m512::first(columns)), (SIDE, __m512::first(columns.saturating_sub(SIDE)))];
    let halves = &halves[..columns.div_ceil(SIDE)];
    // SAFETY: the caller's promise; the masks hide what is beyond the last column.
    unsafe {
        let alpha = __m512::splat(target.alpha);
        for r in 0..rows {
            for &(v, mask) in halves {
                let at = |(x, row): (*const f32, usize)| x.wrapping_add(r * row + v);
                let mut sum = __m512::load(sums.as_ptr().add(r * BLOCK + v), !0).times(alpha);
                for added in [own, bias, residual] {
                    sum = sum.plus(__m512::load(at(added), mask));
                }
                match rounded {
                    None => sum.store(c.0.wrapping_add(r * c.1 + v), mask),
                    Some((c, row)) => Operand::<2>::store_rounded(sum, c.wrapping_add((i + r) * row + j + v), mask),
                }
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod emulator;

#[cfg(test)]
mod tests {
    use super::super::bf16::tests::{assert_subnormal_is_zero, plus_product, rounded_to_bf16, without_subnormal};
    use super::super::gemm::{Epilogue, Mat, MatMut, gemm_with};
    use super::super::microkernel::tests::{Dot, Kernel, assert_every_edge_shape, assert_large_shapes, assert_shapes};
    use super::*;
    #[cfg(target_os = "linux")]
    use crate::kernels::simd::has_avx512_bf16;

    /// The kernel, where there is AMX, and else where it can be played: the copies are made by AVX512-BF16.
    fn kernel() -> Option<(&'static str, Kernel<Bf16>)> {
        let amx: Kernel<Bf16> = |multiplied| {
            // SAFETY: the caller's promise; there is AMX, or it is played.
            unsafe { product(multiplied) };
            true
        };
        if has_amx() {
            return Some(("amx", amx));
        }
        #[cfg(target_os = "linux")]
        if has_avx512_bf16() {
            super::emulator::play_amx();
            return Some(("amx, played", amx));
        }
        println!("skipped: this processor has neither AMX nor, on Linux, the AVX512-BF16 beside which it is played");
        None
    }

    /// What one instruction adds to a sum: 16 products of even k and 16 of odd k, each a chain of its own.
    pub fn in_chains(sum: f32, pairs: impl Iterator<Item = [[f32; 2]; 2]>) -> f32 {
        let chains = pairs
            .fold([0.0f32; 2], |chains, pair| std::array::from_fn(|i| plus_product(chains[i], pair[i][0], pair[i][1])));
        without_subnormal(sum + without_subnormal(chains[0] + chains[1]))
    }

    const DOT: Dot = (dot, |_, _| DEPTH);

    /// 32 values of k at a time; those that are missing are 0.
    fn dot(factors: &[[f32; 2]]) -> f32 {
        factors.chunks(2 * SIDE).fold(0.0, |sum, factors| {
            let at = |l: usize| factors.get(l).map_or([0.0; 2], |factors| factors.map(rounded_to_bf16));
            in_chains(sum, (0..SIDE).map(|pair| [at(2 * pair), at(2 * pair + 1)]))
        })
    }

    #[test]
    #[cfg_attr(miri, ignore = "instructions")]
    fn every_edge_shape_equals_the_definition_bit_for_bit() {
        let Some((name, kernel)) = kernel() else { return };
        assert_every_edge_shape(name, kernel, DOT);
        // Around one and two tiles of every side.
        let around = |side: usize| [side - 1, side, side + 1, 2 * side - 1, 2 * side, 2 * side + 1];
        let shapes = around(BLOCK).into_iter().flat_map(|m| around(2 * SIDE).map(|k| [m, k, m % 7 * 8 + 1]));
        assert_shapes(name, kernel, DOT, &shapes.collect::<Vec<_>>());
    }

    /// By the manual: 2²⁴ is the sum of even k, 1 + 1 that of odd k. One after the other, 2²⁴ would swallow each 1.
    #[test]
    #[cfg_attr(miri, ignore = "instructions")]
    fn even_and_odd_k_are_summed_apart() {
        let Some((_, kernel)) = kernel() else { return };
        let ([a, b], mut c) = ([[16_777_216.0f32, 1.0, 0.0, 1.0], [1.0; 4]].map(|x| x.map(Bf16::from_f32)), [0.0]);
        let (a, b) = (Mat::new(&a, 4, false), Mat::new(&b, 1, false));
        gemm_with(kernel, [1, 4, 1], 1.0, a, b, Epilogue::NOTHING, (MatMut::new(&mut c, 1), None));
        assert_eq!(c, [16_777_218.0]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "instructions")]
    fn what_is_smaller_than_the_least_normal_number_is_zero() {
        kernel().into_iter().for_each(|(name, kernel)| assert_subnormal_is_zero(name, kernel));
    }

    #[test]
    #[cfg_attr(miri, ignore = "instructions")]
    fn large_products_equal_the_definition_bit_for_bit() {
        kernel().into_iter().for_each(|(name, kernel)| assert_large_shapes(name, kernel, DOT));
    }

    /// What fills up a tile is multiplied too: it has to be 0, or an infinite number beside it becomes none.
    #[test]
    #[cfg_attr(miri, ignore = "instructions")]
    fn an_infinite_number_stays_in_its_row_or_column() {
        let Some((_, kernel)) = kernel() else { return };
        let (m, n) = (40, 20);
        let all = (0..2).flat_map(|which| [[false; 2], [true; 2]].map(|transposed| (which, transposed)));
        // The second finds, beyond its k, what the first has left.
        for ((which, transposed), k) in all.flat_map(|case| [64, 41].map(|k| (case, k))) {
            let mut data = [m * k, k * n].map(|len| vec![Bf16::from_f32(1.0); len]);
            let by_rows = transposed[which] == (which == 1);
            for l in 0..k {
                data[which][if by_rows { l } else { l * [m, n][which] }] = Bf16::from_f32(f32::INFINITY);
            }
            let mut c = vec![f32::NAN; m * n];
            let a = Mat::new(&data[0], if transposed[0] { m } else { k }, transposed[0]);
            let b = Mat::new(&data[1], if transposed[1] { k } else { n }, transposed[1]);
            gemm_with(kernel, [m, k, n], 1.0, a, b, Epilogue::NOTHING, (MatMut::new(&mut c, n), None));
            for (at, c) in c.iter().enumerate() {
                let infinite = [at / n, at % n][which] == 0;
                assert_eq!(
                    *c,
                    if infinite { f32::INFINITY } else { k as f32 },
                    "{which}, {transposed:?}, k = {k}, {at}"
                );
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "instructions")]
    fn chains_compute_what_they_are_timed_for() {
        if kernel().is_some() {
            // Three rounds of 32 products of ½ · 1 in each of 4 × 256 sums.
            // SAFETY: there is AMX, or it is played.
            assert_eq!(unsafe { chains_of_tiles(3, 0.5, 1.0) }, 1024.0 * 3.0 * 16.0);
        }
    }
}
