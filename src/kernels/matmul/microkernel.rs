//! The matrix product of f32 on x86-64 and arm64 by hand: c ← α a b + …, all products of a training step.
//!
//! A general product packs both operands into an order that suits its innermost loop. Ours are small (some hundred
//! rows, some hundred columns) and packing took a quarter of the whole step. Here almost nothing is packed:
//!
//! - **The tile.** 12 × 32 numbers of c stay in 24 of the 32 registers of AVX-512 while k runs. For each k, two
//!   registers are loaded with 32 neighboring numbers of a row of b, and each of 12 numbers of a column of a is
//!   spread over a register and multiplied in: 14 loads (and a prefetch) for 24 multiply-adds, where the processor
//!   can do one load for each multiply-add. 24 independent sums also hide the latency of 4 cycles on two units. AVX2
//!   has 16 registers of half the width: 6 × 16; NEON has 32 of a quarter: 9 × 8.
//! - **a is read where it lies,** one number at a time, by any two strides. If it is transposed, and c has [`PACKED_FROM`] columns
//!   or more, its first columns do that; then each tile's part is copied, step after step, for the others to read.
//! - **b is read where it lies** by a few tiles if its columns are neighbors and fill registers. If they are not, as
//!   it is transposed (x Wᵀ, Q Kᵀ), or do not, or are read by [`MANY`] tiles, the 32 columns at hand are copied to
//!   the stack, [`DEPTH`] rows at a time; all tiles of these columns read the copy.
//! - **bf16** is one more kind of operand, [`super::bf16`], which holds two numbers of 16 bits in a lane. For it a
//!   is copied too.
//! - **What comes next is asked for early,** a few lines at a time: while the tiles of some columns are computed, a part of
//!   the next columns of b is prefetched with each. Weights come from far: a chunk of images reads all of them once. Of c, a
//!   tile prefetches what it will write, to the level-2 cache: its sums take longer than the lines take to come. Of a
//!   transposed a, whose rows are pages apart, so that the processor foresees nothing, it prefetches what the next
//!   tile will read.
//! - **Shorter tiles**, of six rows, are computed on x86-64 where rows of a are a multiple of 4 KiB apart ([`most_rows`]).
//! - **What is left over** at the lower edge is spread: 64 rows are not five tiles of 12 and one of 4, but two of 10
//!   and four of 11. At the right edge a mask hides what is not there.
//!
//! Every number of c is one chain of fused multiply-adds in the order of k (for at most [`DEPTH`] of them, half as many if a is
//! transposed and not packed; these are added one after the other), whatever the tile, and whichever columns of a product a
//! thread computes: AVX-512, AVX2, NEON and the portable twin in the tests give the same bits.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::ops::Range;

use super::copies::{copy_panel, pack_tile};
use super::gemm::{Product, Target};
use super::registers::{MadeOf, Operand, Register};
use crate::kernels::buffer::Storage;
use crate::kernels::real::Strides;
#[cfg(target_arch = "x86_64")]
use crate::kernels::simd::{has_avx2, has_avx512};
use crate::kernels::{Device, Element};

/// Rows of b that are worked through before the next tile: 32 KiB of b at 32 columns, which a level-1 cache holds.
pub(super) const DEPTH: usize = 256;
/// Numbers of b that are at hand at once: [`DEPTH`] rows of two of the widest registers.
const PANEL: usize = DEPTH * 2 * 16;
/// Rows of a that are worked through before the next columns of b: 44 tiles of 12, and of [`DEPTH`] columns of them 528 KiB (a
/// copy in bf16 264 KiB; on AMX, whose passes are longer, 578), which a level-2 cache holds. In f32 as many as make 528 KiB
/// ([`order`]). An odd number of cache lines to a step of the copy (33) lets the steps fall on different sets of the cache.
pub(super) const A_ROWS: usize = 528;
/// From this many tiles on, b is copied even if its columns are neighbors: in the copy its rows are too, and do not fall
/// on each other in the cache, as rows a multiple of some kilobytes apart do.
const MANY: usize = 4;
/// From this many columns of c on, a transposed a is packed: with fewer, the copy costs more than it saves.
const PACKED_FROM: usize = 256;

/// Bytes in a line of the cache.
const LINE: usize = 64;

/// Beginning with a line of the cache: a register, or a row of a tile, loaded from there touches one line, not two.
#[repr(C, align(64))]
pub(super) struct Aligned<T>(pub(super) T);

/// What a tile multiplies.
struct Operands {
    /// Its first row of a.
    a: *const f32,
    /// Lanes to the next row and to the next step.
    a_strides: Strides,
    /// Its first columns of b, whole registers of them.
    b: *const f32,
    /// Lanes to the next step.
    b_row: usize,
    /// Values of k, `K` at a time.
    steps: usize,
    /// Columns of the tile.
    columns: usize,
    /// Whether they begin with k = 0.
    first: bool,
    /// Whether they end with the last one.
    last: bool,
    /// What is asked for meanwhile.
    coming: Lines,
}

/// Lines of the cache that will be read soon: runs of some of them, with gaps.
#[derive(Clone, Copy)]
struct Lines {
    at: *const u8,
    /// All lines, and those in a run.
    count: usize,
    run: usize,
    /// Bytes from the last line of a run to the first of the next.
    gap: usize,
}

impl Lines {
    const NONE: Self = Lines { at: std::ptr::null(), count: 0, run: 0, gap: 0 };

    /// One of some parts of `depth` rows and `columns` columns.
    #[inline(always)]
    fn part<S>(
        (from, (row, column)): (*const S, Strides),
        [depth, columns]: [usize; 2],
        (part, parts): (usize, usize),
    ) -> Self {
        let (runs, length, stride) = if column == 1 { (depth, columns, row) } else { (columns, depth, column) };
        let [length, stride] = [length, stride].map(|numbers| numbers.wrapping_mul(size_of::<S>()));
        let (here, run) = (even_cut(runs, parts, part), length.div_ceil(LINE));
        let gap = stride.wrapping_sub(LINE * run.saturating_sub(1));
        Lines { at: from.cast::<u8>().wrapping_add(here.start * stride), count: here.len() * run, run, gap }
    }
}

/// The numbers of one column of registers that a tile adds to and writes: where, and by which mask.
#[derive(Clone, Copy)]
struct Columns<R: Register> {
    start: usize,
    mask: R::Mask,
}

/// One tile: `M` rows, `V` registers wide, of c ← α a b + what `target` adds, for the values of k in `operands`.
///
/// # Safety
/// As [`Product`] promises for rows `i` to `i + M` and the tile's columns from `j` on; the operands are there for all of them, of b
/// for `V` whole registers. The processor has what `R` needs.
#[inline(always)]
unsafe fn tile<R: Operand<K>, const K: usize, const M: usize, const V: usize>(
    target: &Target<f32>,
    (i, j): (usize, usize),
    operands: &Operands,
) {
    // Plain loops, no closures: a closure would be compiled without the features of the function it ends up in.
    macro_rules! each {
        ($r:ident, $v:ident, $body:expr) => {
            for $r in 0..M {
                for $v in 0..V {
                    $body;
                }
            }
        };
    }
    let Operands { mut a, a_strides, mut b, b_row, steps, columns: width, first, last, coming } = *operands;
    let Lines { at: mut coming, count, run, gap } = coming;
    let mut columns = [Columns::<R> { start: j, mask: R::first(R::LANES) }; V];
    for (v, columns) in columns.iter_mut().enumerate() {
        columns.start = j + v * R::LANES;
        columns.mask = R::first(width - v * R::LANES);
    }
    // SAFETY: the caller's promise; every address is of an element (r, l) of a, (l, v) of b or (i + r, j + v) of c inside
    // the matrices, and of c the masks hide the columns beyond the last.
    unsafe {
        let c = target.c.0.add(i * target.c.1);
        let rounded = target.rounded.filter(|_| K > 1 && last).map(|(c, row)| (c.add(i * row), row));
        // Of a transposed a, what the next tile will read of this step's row: its last number is on the line that is new. (Of
        // another a, what is read now: that costs nothing, and nothing else was of use.)
        let ahead = if a_strides.0 == 1 { 2 * M - 1 } else { 0 };
        // Row r of a is an odd number of strides further, times 1, 2, 4 or 8: an address of x86 can say that. The compiler is not to
        // see it: it would add stride to stride, and run out of registers with all that happens between the turns.
        let mut odd_strides = [0usize; 6];
        for (i, odd_stride) in odd_strides.iter_mut().enumerate() {
            *odd_stride = std::hint::black_box((2 * i + 1).wrapping_mul(a_strides.0).wrapping_mul(size_of::<f32>()));
        }
        let mut sums = [[R::splat(0.0); V]; M];
        let mut left_of_run = run;
        // What comes next is asked for in turns: the processor can wait for some 16 lines, and what is read at once wants some of
        // them. Registers of which a tile has fewer rows at most leave it fewer lines to ask for, and less time.
        let turns = R::ROWS.div_ceil(2);
        for turn in 0..turns {
            for r in even_cut(M, turns, turn) {
                if let Some((c, row)) = rounded {
                    prefetch::<2>(c.wrapping_add(r * row + j));
                }
                if rounded.is_none() || !first || target.own {
                    for columns in &columns {
                        prefetch::<2>(c.wrapping_add(r * target.c.1 + columns.start));
                    }
                }
            }
            for _ in even_cut(count, turns, turn) {
                prefetch::<2>(coming);
                left_of_run -= 1;
                coming = coming.wrapping_add(if left_of_run > 0 { LINE } else { gap });
                left_of_run = if left_of_run > 0 { left_of_run } else { run };
            }
            for _ in even_cut(steps, turns, turn) {
                prefetch::<1>(a.wrapping_add(ahead));
                let mut b_here = [R::splat(0.0); V];
                for (v, b_here) in b_here.iter_mut().enumerate() {
                    *b_here = R::read(b.add(v * R::LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let doublings = r.trailing_zeros();
                    let a = if r == 0 { a } else { a.byte_add(odd_strides[r >> doublings >> 1] << doublings) };
                    let a = R::splat(*a);
                    for v in 0..V {
                        sums[v] = sums[v].plus_product(a, b_here[v]);
                    }
                }
                a = a.wrapping_add(a_strides.1);
                b = b.wrapping_add(b_row);
            }
        }
        // What is added, one kind after the other: the sums stay in their registers.
        let row = target.c.1;
        if target.alpha != 1.0 {
            let alpha = R::splat(target.alpha);
            each!(r, v, sums[r][v] = sums[r][v].times(alpha));
        }
        if !first || target.own {
            each!(r, v, sums[r][v] = sums[r][v].plus(R::load(c.add(r * row + columns[v].start), columns[v].mask)));
        }
        if let (true, Some(bias)) = (first, target.bias) {
            each!(r, v, sums[r][v] = sums[r][v].plus(R::load(bias.add(columns[v].start), columns[v].mask)));
        }
        if let (true, Some((residual, row))) = (first, target.residual) {
            let residual = residual.add(i * row);
            each!(
                r,
                v,
                sums[r][v] = sums[r][v].plus(R::load(residual.add(r * row + columns[v].start), columns[v].mask))
            );
        }
        match rounded {
            None => each!(r, v, sums[r][v].store(c.add(r * row + columns[v].start), columns[v].mask)),
            Some((c, row)) => each!(r, v, sums[r][v].store_rounded(c.add(r * row + columns[v].start), columns[v].mask)),
        }
    }
}

/// Asks for the line of the cache around `x`: to the first level, where it will be read at once, or to the second, near enough to
/// be written, which nothing waits for, or copied, and out of the way of what is read.
#[inline(always)]
pub(super) fn prefetch<const LEVEL: u8>(x: *const impl Sized) {
    // SAFETY: a hint; the address is not read.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        match LEVEL {
            1 => _mm_prefetch::<_MM_HINT_T0>(x.cast()),
            _ => _mm_prefetch::<_MM_HINT_T1>(x.cast()),
        }
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        std::arch::asm!("prfm pldl{}keep, [{}]", const LEVEL, in(reg) x, options(nostack, preserves_flags, readonly));
    }
}

/// [`tile`] for a number of rows known at run time only.
///
/// # Safety
/// As [`tile`]; `rows` is at most `R::ROWS`.
#[inline(always)]
unsafe fn rows<R: Operand<K>, const K: usize, const V: usize>(
    rows: usize,
    target: &Target<f32>,
    at: (usize, usize),
    operands: &Operands,
) {
    macro_rules! one_of {
        ($($m:literal)*) => {
            match rows {
                // The first condition is a constant: no more tiles are compiled than `R` can have.
                // SAFETY: the caller's promise.
                $($m if $m <= R::ROWS => unsafe { tile::<R, K, $m, V>(target, at, operands) },)*
                _ => unreachable!("a tile of {rows} rows"),
            }
        };
    }
    one_of!(1 2 3 4 5 6 7 8 9 10 11 12)
}

/// The whole product, tile by tile: the columns of b that are at hand stay in the level-1 cache while the rows of a
/// pass by.
///
/// # Safety
/// As [`Product`] promises. The processor has what `R` needs.
#[inline(always)]
pub(super) unsafe fn run<S, R, const K: usize>(product: &Product<S>)
where
    S: Element<Computed = f32>,
    R: MadeOf<S, K>,
{
    let [m, k, n] = product.dims;
    let ((a, a_strides), (b, (b_row, b_column))) = (product.a, product.b);
    let mut panel = Aligned(std::mem::MaybeUninit::<[f32; PANEL]>::uninit());
    let panel = panel.0.as_mut_ptr().cast::<f32>();
    let width = 2 * R::LANES;
    // With k = 0 there is one pass of depth 0: it writes what is added.
    let (panels, passes) = (n.div_ceil(width), k.div_ceil(depth::<K>(a_strides, product.whole)).max(1));
    let mut a_panel = (K > 1).then(|| Storage::<f32>::unspecified(DEPTH.div_ceil(K) * A_ROWS, Device::Cpu));
    let (blocks, columns_first) = order::<K>([m, k], passes);
    let at = |turn: usize| match columns_first {
        true => (even_cut(k, passes, turn % passes), turn / passes * width),
        false => (even_cut(k, passes, turn / panels), turn % panels * width),
    };
    // Tiles of a transposed a, of one pass or, where they are needed again for the next columns, of all.
    let most_rows = most_rows::<R, K>(a_strides);
    let (most_tiles, tile_len) = (m.div_ceil(blocks).div_ceil(most_rows), R::ROWS * DEPTH + R::LANES);
    let mut packed = (is_packed::<K>(a_strides, product.whole) && panels > 1).then(|| {
        let tiles = if columns_first { passes } else { 1 } * most_tiles;
        Storage::<f32>::unspecified(tiles * tile_len, Device::Cpu)
    });
    let blocks = even_cuts(m, blocks);
    for (Range { start: top, end: bottom }, turn) in
        blocks.flat_map(|rows| (0..panels * passes).map(move |turn| (rows.clone(), turn)))
    {
        let (Range { start: from, end: to }, j) = at(turn);
        let (height, depth) = (bottom - top, to - from);
        let tiles = height.div_ceil(most_rows);
        // With k = 0 there may be no element there.
        let a = a.wrapping_add(top * a_strides.0 + from * a_strides.1);
        let (a, a_strides) = match &mut a_panel {
            None => (a.cast::<f32>(), a_strides), // a lane is a number
            Some(panel) => {
                let panel = panel.as_mut_slice().as_mut_ptr();
                if j == 0 {
                    // SAFETY: these elements of a are promised, and the panel has a row for each step of `depth` ≤ DEPTH.
                    unsafe { copy_panel::<S, R, K>(a, (a_strides.1, a_strides.0), [depth, height], (panel, A_ROWS)) };
                }
                (panel.cast_const(), (1, A_ROWS))
            }
        };
        let columns = width.min(n - j);
        let here = b.wrapping_add(from * b_row + j * b_column);
        let (b_here, b_here_row, whole) = if K > 1 || b_column != 1 || tiles >= MANY || columns % R::LANES > 0 {
            // SAFETY: these rows and columns of b are promised, and the panel has DEPTH rows of `width` ≤ 32.
            unsafe { copy_panel::<S, R, K>(here, (b_row, b_column), [depth, columns], (panel, width)) };
            (panel.cast_const(), width, width)
        } else {
            (here.cast::<f32>(), b_row, columns)
        };
        debug_assert!(columns.next_multiple_of(R::LANES) <= whole, "a tile reads whole registers of b");
        let next = (turn + 1 < panels * passes).then(|| {
            let (cut, j) = at(turn + 1);
            (b.wrapping_add(cut.start * b_row + j * b_column), [cut.len(), width.min(n - j)])
        });
        for (t, Range { start: i, end }) in even_cuts(height, tiles).enumerate() {
            let coming = match next {
                Some((next, size)) => Lines::part((next, (b_row, b_column)), size, (t, tiles)),
                None => Lines::NONE,
            };
            let in_place = (a.wrapping_add(i * a_strides.0), a_strides);
            let packed = packed.as_mut().map(|tiles| {
                let pass = if columns_first { turn % passes } else { 0 };
                tiles.as_mut_slice().as_mut_ptr().wrapping_add((pass * most_tiles + t) * tile_len)
            });
            let (a, a_strides) = match packed {
                Some(tile) if j > 0 => (tile.cast_const(), (1, end - i)),
                _ => in_place,
            };
            let (b, b_row, steps) = (b_here, b_here_row, depth.div_ceil(K));
            let operands = Operands { a, a_strides, b, b_row, steps, columns, first: from == 0, last: to == k, coming };
            // SAFETY: the operands are those of these rows and columns, inside a and b or their copies; what is not a whole
            // register of b's columns is copied, to one.
            unsafe {
                if columns > R::LANES {
                    rows::<R, K, 2>(end - i, &product.target, (top + i, j), &operands)
                } else {
                    rows::<R, K, 1>(end - i, &product.target, (top + i, j), &operands)
                }
            }
            if let (Some(tile), 0) = (packed, j) {
                // SAFETY: these elements of a are promised, have just been read, and `tile_len` has room for them and a register.
                unsafe { pack_tile::<R>(in_place, [end - i, depth], tile) };
            }
        }
    }
}

/// Into how many blocks m rows are cut, and whether columns come first: all passes over k for some columns of c, which are then
/// written once, before the next columns.
///
/// Passes first, each over all columns, write c once a pass. But they need no more of a in the level-2 cache than a pass does, so
/// that blocks have more rows, and b is read less often. Columns come first where the reading of b (k numbers a column) for more
/// blocks is less than the writing of c (m numbers a column) for more passes. Where a is copied, pass by pass, passes come first.
fn order<const K: usize>([m, k]: [usize; 2], passes: usize) -> (usize, bool) {
    let blocks_within = |columns: usize| m.div_ceil((A_ROWS * DEPTH / columns.max(1)).max(1));
    if K > 1 {
        return (m.div_ceil(A_ROWS), false);
    }
    let (passes_first, columns_first) = (blocks_within(k.min(DEPTH)), blocks_within(k));
    if (columns_first - passes_first).saturating_mul(k) < m * (passes - 1) {
        (columns_first, true)
    } else {
        (passes_first, false)
    }
}

/// Rows of a tile: at most six where rows of a are a multiple of 4 KiB apart, as then a step reads them all from one set of x86-64's
/// level-1 caches, which has 8 ways or 12. (Those of arm64 begin anew after 16 KiB. Where `K` is 2, a is copied.)
fn most_rows<R: Register, const K: usize>(a_strides: Strides) -> usize {
    let fall_on_each_other =
        cfg!(target_arch = "x86_64") && K == 1 && a_strides.0.is_multiple_of(4096 / size_of::<f32>());
    if fall_on_each_other { R::ROWS.min(6) } else { R::ROWS }
}

/// Values of k that are worked through at a time: half of [`DEPTH`] where a is read by columns and not packed, as then each step
/// is on a line, and a page, of its own, and the level-1 cache holds fewer of them.
fn depth<const K: usize>(a_strides: Strides, columns: usize) -> usize {
    let is_read_by_columns = K == 1 && a_strides.0 == 1 && !is_packed::<K>(a_strides, columns);
    if is_read_by_columns { DEPTH / 2 } else { DEPTH }
}

/// Whether a is packed, tile by tile, in a product of so many columns.
fn is_packed<const K: usize>(a_strides: Strides, columns: usize) -> bool {
    K == 1 && a_strides.0 == 1 && columns >= PACKED_FROM
}

/// 0 … n in this many runs that differ in length by at most one.
pub(super) fn even_cuts(n: usize, parts: usize) -> impl Iterator<Item = Range<usize>> + Clone {
    (0..parts).map(move |part| even_cut(n, parts, part))
}

/// One of them.
#[inline(always)]
fn even_cut(n: usize, parts: usize, part: usize) -> Range<usize> {
    let (length, longer) = (n / parts, n % parts);
    part * length + part.min(longer)..(part + 1) * length + (part + 1).min(longer)
}

/// Computes the product.
///
/// # Safety
/// As [`Product`] promises.
#[cfg(target_arch = "aarch64")]
pub unsafe fn sgemm(product: &Product<f32>) -> bool {
    // SAFETY: the caller's promise; every arm64 has NEON.
    unsafe { run::<f32, float32x4_t, 1>(product) };
    true
}

/// Computes the product if this processor has AVX-512, or AVX2 with FMA; says whether it did.
///
/// # Safety
/// As [`Product`] promises.
#[cfg(target_arch = "x86_64")]
pub unsafe fn sgemm(product: &Product<f32>) -> bool {
    if has_avx512() {
        // SAFETY: the caller's promise, and the processor was just asked.
        unsafe { avx512(product) };
    } else if has_avx2() {
        // SAFETY: the caller's promise, and the processor was just asked.
        unsafe { avx2(product) };
    } else {
        return false;
    }
    true
}

/// # Safety
/// As [`run`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq")]
unsafe fn avx512(product: &Product<f32>) {
    // SAFETY: the caller's promise.
    unsafe { run::<f32, __m512, 1>(product) }
}

/// # Safety
/// As [`run`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(product: &Product<f32>) {
    // SAFETY: the caller's promise.
    unsafe { run::<f32, __m256, 1>(product) }
}

#[cfg(test)]
pub(super) mod tests;
