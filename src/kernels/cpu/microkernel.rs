//! The matrix product of f32 on x86-64 by hand: c ← α a b + …, all products of a training step.
//!
//! A general product packs both operands into an order that suits its innermost loop. Ours are small (some hundred
//! rows, some hundred columns) and packing took a quarter of the whole step. Here almost nothing is packed:
//!
//! - **The tile.** 12 × 32 numbers of c stay in 24 of the 32 registers of AVX-512 while k runs. For each k, two
//!   registers are loaded with 32 neighbouring numbers of a row of b, and each of 12 numbers of a column of a is
//!   spread over a register and multiplied in: 14 loads for 24 multiply-adds, where the processor can do one load for
//!   each multiply-add. 24 independent sums also hide the latency of 4 cycles on two units. AVX2 has 16 registers of
//!   half the width: 6 × 16.
//! - **a is read where it lies,** one number at a time, by any two strides: a transpose costs nothing.
//! - **b is read where it lies** if its columns are neighbours. If it is transposed (x Wᵀ, Q Kᵀ), or its rows are so
//!   far apart that they fall on each other in the cache, the 32 columns at hand are copied to the stack, [`DEPTH`]
//!   rows at a time; all tiles of these columns read the copy.
//! - **What comes next is asked for early:** while the tiles of some columns are computed, a part of the next columns of
//!   b is prefetched with each. Weights come from far: a chunk of images reads all of them once.
//! - **What is left over** at the lower edge is spread: 64 rows are not five tiles of 12 and one of 4, but two of 10
//!   and four of 11. At the right edge a mask hides what is not there.
//!
//! Every number of c is one chain of fused multiply-adds in the order of k, whatever the tile: AVX-512, AVX2 and the
//! portable twin in the tests give the same bits.

use std::arch::x86_64::*;

use super::matmul::Product;
use super::simd::{has_avx2, has_avx512};

/// Rows of b that are worked through before the next tile: 32 KiB of b at 32 columns, which a level-1 cache holds.
const DEPTH: usize = 256;
/// Numbers of b that are at hand at once: [`DEPTH`] rows of two of the widest registers.
const PANEL: usize = DEPTH * 2 * 16;
/// From this many elements between its rows on, b is copied: 2 KiB are half of the period of a level-1 cache.
const FAR: usize = 512;

/// A vector register of f32. All functions but `transpose` compile to one instruction, inside a function that has the
/// target feature.
trait Register: Copy {
    /// Numbers in it.
    const LANES: usize;
    /// Rows of a tile two registers wide, so that sums, one row of b and one number of a fit the register file.
    const ROWS: usize;
    /// Which lanes are there.
    type Mask: Copy;

    /// The first `n` lanes; all of them when there are fewer.
    fn first(n: usize) -> Self::Mask;
    /// x in all lanes.
    unsafe fn splat(x: f32) -> Self;
    /// The lanes of the mask from memory, 0 in the others.
    unsafe fn load(from: *const f32, mask: Self::Mask) -> Self;
    /// The lanes of the mask to memory.
    unsafe fn store(self, to: *mut f32, mask: Self::Mask);
    /// self + a b, rounded once.
    unsafe fn plus_product(self, a: Self, b: Self) -> Self;
    /// self + x.
    unsafe fn plus(self, x: Self) -> Self;
    /// The transpose of `LANES` rows of four numbers, `gap` apart, to four rows of `LANES`, `width` apart.
    unsafe fn transpose(from: *const f32, gap: usize, to: *mut f32, width: usize);
}

/// The numbers of one column of registers that a tile adds to and writes: where, and by which mask.
#[derive(Clone, Copy)]
struct Columns<R: Register> {
    start: usize,
    mask: R::Mask,
}

/// One tile: `M` rows, `V` registers wide, of c ← α a b + what `product` adds, for `depth` values of k.
///
/// # Safety
/// As [`Product`] promises for rows `i` to `i + M`, columns from `j` on and the values of k from `k` on; b's rows there
/// are at `b`, `b_row` apart. The processor has what `R` needs.
#[inline(always)]
unsafe fn tile<R: Register, const M: usize, const V: usize>(
    product: &Product<f32>,
    (i, j): (usize, usize),
    (k, depth): (usize, usize),
    (mut b, b_row): (*const f32, usize),
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
    let mut columns = [Columns::<R> { start: j, mask: R::first(R::LANES) }; V];
    for (v, columns) in columns.iter_mut().enumerate() {
        columns.start = j + v * R::LANES;
        columns.mask = R::first(product.dims[2] - columns.start);
    }
    let (row, column) = product.a.1;
    // SAFETY: the caller's promise; every address is of an element (i + r, k + l), (k + l, j + v) or (i + r, j + v)
    // inside the matrices, and the masks hide the columns beyond the last.
    unsafe {
        let c = product.c.0.add(i * product.c.1);
        if k > 0 || product.own {
            each!(r, v, prefetch(c.wrapping_add(r * product.c.1 + columns[v].start)));
        }
        let mut a = product.a.0.wrapping_add(i * row + k * column); // with k = 0 there may be no element there
        let mut sums = [[R::splat(0.0); V]; M];
        for _ in 0..depth {
            let mut b_here = [R::splat(0.0); V];
            for v in 0..V {
                b_here[v] = R::load(b.add(v * R::LANES), columns[v].mask);
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let a = R::splat(*a.add(r * row));
                for v in 0..V {
                    sums[v] = sums[v].plus_product(a, b_here[v]);
                }
            }
            a = a.wrapping_add(column);
            b = b.wrapping_add(b_row);
        }
        // What is added, one kind after the other: the sums stay in their registers.
        let (first, row) = (k == 0, product.c.1);
        if product.alpha != 1.0 {
            let (alpha, zero) = (R::splat(product.alpha), R::splat(0.0));
            each!(r, v, sums[r][v] = zero.plus_product(alpha, sums[r][v]));
        }
        if !first || product.own {
            each!(r, v, sums[r][v] = sums[r][v].plus(R::load(c.add(r * row + columns[v].start), columns[v].mask)));
        }
        if let (true, Some(bias)) = (first, product.bias) {
            each!(r, v, sums[r][v] = sums[r][v].plus(R::load(bias.add(columns[v].start), columns[v].mask)));
        }
        if let (true, Some((residual, row))) = (first, product.residual) {
            let residual = residual.add(i * row);
            each!(
                r,
                v,
                sums[r][v] = sums[r][v].plus(R::load(residual.add(r * row + columns[v].start), columns[v].mask))
            );
        }
        each!(r, v, sums[r][v].store(c.add(r * row + columns[v].start), columns[v].mask));
    }
}

/// Asks for one of some parts of `depth` rows and `columns` columns.
#[inline(always)]
fn prefetch_part(
    (from, (row, column)): (*const f32, (usize, usize)),
    (depth, columns): (usize, usize),
    (part, parts): (usize, usize),
) {
    let (runs, length, gap) = if column == 1 { (depth, columns, row) } else { (columns, depth, column) };
    for i in runs * part / parts..runs * (part + 1) / parts {
        for at in (0..length).step_by(16) {
            prefetch(from.wrapping_add(i * gap + at));
        }
    }
}

/// Asks for the line of the cache around `x`, which will be wanted soon.
#[inline(always)]
fn prefetch(x: *const f32) {
    // SAFETY: a hint; the address is not read.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(x.cast()) };
}

/// [`tile`] for a number of rows known at run time only.
///
/// # Safety
/// As [`tile`]; `rows` is at most `R::ROWS`.
#[inline(always)]
unsafe fn rows<R: Register, const V: usize>(
    rows: usize,
    product: &Product<f32>,
    at: (usize, usize),
    k: (usize, usize),
    b: (*const f32, usize),
) {
    macro_rules! one_of {
        ($($m:literal)*) => {
            match rows {
                // The first condition is a constant: no more tiles are compiled than `R` can have.
                // SAFETY: the caller's promise.
                $($m if $m <= R::ROWS => unsafe { tile::<R, $m, V>(product, at, k, b) },)*
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
unsafe fn run<R: Register>(product: &Product<f32>) {
    let [m, k, n] = product.dims;
    let (b, (b_row, b_column)) = product.b;
    let mut panel = std::mem::MaybeUninit::<[f32; PANEL]>::uninit();
    let panel = panel.as_mut_ptr().cast::<f32>();
    let (tiles, width) = (m.div_ceil(R::ROWS), 2 * R::LANES);
    // Rows far apart are worth a copy if it is read often, or if all of b does not fit the next cache anyway.
    let copied = b_column != 1 || (b_row >= FAR && (tiles >= 32 || k > DEPTH));
    // With k = 0 there is one pass of depth 0: it writes what is added.
    for (from, to) in even_cuts(k, k.div_ceil(DEPTH).max(1)) {
        let depth = to - from;
        for j in (0..n).step_by(width) {
            let columns = width.min(n - j);
            // SAFETY: rows `from` to `to` and columns `j` to `j + columns` of b are promised, and the panel holds
            // `depth` ≤ DEPTH rows of `width` ≤ 32; tiles stay inside a, b and c.
            unsafe {
                let b = b.wrapping_add(from * b_row + j * b_column);
                let next = b;
                let b = match copied {
                    true => {
                        copy_panel::<R>(b, (b_row, b_column), depth, columns, width, panel);
                        (panel.cast_const(), width)
                    }
                    false => (b, b_row),
                };
                for (t, (i, end)) in even_cuts(m, tiles).enumerate() {
                    if j + columns < n {
                        let next = next.wrapping_add(columns * b_column);
                        prefetch_part((next, (b_row, b_column)), (depth, width.min(n - j - columns)), (t, tiles));
                    }
                    match columns > R::LANES {
                        true => rows::<R, 2>(end - i, product, (i, j), (from, depth), b),
                        false => rows::<R, 1>(end - i, product, (i, j), (from, depth), b),
                    }
                }
            }
        }
    }
}

/// 0 … n in this many runs that differ in length by at most one.
fn even_cuts(n: usize, parts: usize) -> impl Iterator<Item = (usize, usize)> {
    let (length, longer) = (n / parts.max(1), n % parts.max(1));
    let start = move |part: usize| part * length + part.min(longer);
    (0..parts).map(move |part| (start(part), start(part + 1)))
}

/// Copies `depth` rows of `columns` numbers, with these strides, into rows of `width` at `to`.
///
/// # Safety
/// All of these elements can be read, and `depth * width` written.
#[inline(always)]
unsafe fn copy_panel<R: Register>(
    from: *const f32,
    (row, column): (usize, usize),
    depth: usize,
    columns: usize,
    width: usize,
    to: *mut f32,
) {
    // Of a transpose, whole registers as far as they go.
    let whole = if row == 1 { (depth & !3, columns / R::LANES * R::LANES) } else { (0, 0) };
    // SAFETY: the indices stay below `depth` and `columns`.
    unsafe {
        if column == 1 {
            for l in 0..depth {
                std::ptr::copy_nonoverlapping(from.add(l * row), to.add(l * width), columns);
            }
            return;
        }
        for j in (0..whole.1).step_by(R::LANES) {
            for l in (0..whole.0).step_by(4) {
                R::transpose(from.add(l + j * column), column, to.add(l * width + j), width);
            }
        }
        for l in 0..depth {
            for j in if l < whole.0 { whole.1 } else { 0 }..columns {
                *to.add(l * width + j) = *from.add(l * row + j * column);
            }
        }
    }
}

/// Computes the product if this processor has AVX-512, or AVX2 with FMA; says whether it did.
///
/// # Safety
/// As [`Product`] promises.
pub unsafe fn sgemm(product: &Product<f32>) -> bool {
    if has_avx512() {
        // SAFETY: the caller's promise, and the processor was just asked.
        unsafe { avx512(product) };
    } else if has_avx2_and_fma() {
        // SAFETY: the caller's promise, and the processor was just asked.
        unsafe { avx2(product) };
    } else {
        return false;
    }
    true
}

fn has_avx2_and_fma() -> bool {
    has_avx2() && is_x86_feature_detected!("fma")
}

/// # Safety
/// As [`run`].
#[target_feature(enable = "avx512f,avx512vl,avx512dq")]
unsafe fn avx512(product: &Product<f32>) {
    // SAFETY: the caller's promise.
    unsafe { run::<__m512>(product) }
}

/// # Safety
/// As [`run`].
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(product: &Product<f32>) {
    // SAFETY: the caller's promise.
    unsafe { run::<__m256>(product) }
}

// SAFETY, for both: each function asks of its caller what its intrinsic asks, the processor's feature and (load,
// store) that the lanes of the mask are inside one allocation. No alignment is needed.
impl Register for __m512 {
    const LANES: usize = 16;
    const ROWS: usize = 12;
    type Mask = __mmask16;

    #[inline(always)]
    fn first(n: usize) -> __mmask16 {
        if n >= 16 { !0 } else { (1 << n) - 1 }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32, mask: __mmask16) -> Self {
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, mask: __mmask16) {
        unsafe { _mm512_mask_storeu_ps(to, mask, self) }
    }
    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        unsafe { _mm512_fmadd_ps(a, b, self) }
    }
    #[inline(always)]
    unsafe fn plus(self, x: Self) -> Self {
        unsafe { _mm512_add_ps(self, x) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, gap: usize, to: *mut f32, width: usize) {
        unsafe {
            // Quarter q of register i holds row 4q + i; then each quarter is transposed on its own.
            let mut x = [_mm512_setzero_ps(); 4];
            for (i, x) in x.iter_mut().enumerate() {
                let row = |q: usize| _mm_loadu_ps(from.add((4 * q + i) * gap));
                *x = _mm512_insertf32x4::<1>(_mm512_castps128_ps512(row(0)), row(1));
                *x = _mm512_insertf32x4::<3>(_mm512_insertf32x4::<2>(*x, row(2)), row(3));
            }
            let (low01, high01) = (_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
            let (low23, high23) = (_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
            _mm512_storeu_ps(to, _mm512_shuffle_ps::<0x44>(low01, low23));
            _mm512_storeu_ps(to.add(width), _mm512_shuffle_ps::<0xEE>(low01, low23));
            _mm512_storeu_ps(to.add(2 * width), _mm512_shuffle_ps::<0x44>(high01, high23));
            _mm512_storeu_ps(to.add(3 * width), _mm512_shuffle_ps::<0xEE>(high01, high23));
        }
    }
}

// SAFETY: as for `__m512`.
impl Register for __m256 {
    const LANES: usize = 8;
    const ROWS: usize = 6;
    type Mask = __m256i;

    #[inline(always)]
    fn first(n: usize) -> __m256i {
        /// Eight lanes that are there, then eight that are not.
        const LANES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: eight numbers from index 8 − min(n, 8) on; AVX2 is there where `Register` is used.
        unsafe { _mm256_loadu_si256(LANES.as_ptr().add(8 - n.min(8)).cast()) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32, mask: __m256i) -> Self {
        unsafe { _mm256_maskload_ps(from, mask) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, mask: __m256i) {
        unsafe { _mm256_maskstore_ps(to, mask, self) }
    }
    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        unsafe { _mm256_fmadd_ps(a, b, self) }
    }
    #[inline(always)]
    unsafe fn plus(self, x: Self) -> Self {
        unsafe { _mm256_add_ps(self, x) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, gap: usize, to: *mut f32, width: usize) {
        unsafe {
            // Half q of register i holds row 4q + i; then each half is transposed on its own.
            let mut x = [_mm256_setzero_ps(); 4];
            for (i, x) in x.iter_mut().enumerate() {
                let row = |q: usize| _mm_loadu_ps(from.add((4 * q + i) * gap));
                *x = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(row(0)), row(1));
            }
            let (low01, high01) = (_mm256_unpacklo_ps(x[0], x[1]), _mm256_unpackhi_ps(x[0], x[1]));
            let (low23, high23) = (_mm256_unpacklo_ps(x[2], x[3]), _mm256_unpackhi_ps(x[2], x[3]));
            _mm256_storeu_ps(to, _mm256_shuffle_ps::<0x44>(low01, low23));
            _mm256_storeu_ps(to.add(width), _mm256_shuffle_ps::<0xEE>(low01, low23));
            _mm256_storeu_ps(to.add(2 * width), _mm256_shuffle_ps::<0x44>(high01, high23));
            _mm256_storeu_ps(to.add(3 * width), _mm256_shuffle_ps::<0xEE>(high01, high23));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::matmul::{Mat, MatMut, Plus, gemm_with};
    use crate::kernels::cpu::testing::numbers;

    /// The portable twin: a register of four numbers in plain memory, tiles of 3 × 8.
    impl Register for [f32; 4] {
        const LANES: usize = 4;
        const ROWS: usize = 3;
        type Mask = usize;

        fn first(n: usize) -> usize {
            n.min(4)
        }
        unsafe fn splat(x: f32) -> Self {
            [x; 4]
        }
        unsafe fn load(from: *const f32, mask: usize) -> Self {
            // SAFETY: the caller's promise for the lanes of the mask.
            std::array::from_fn(|i| if i < mask { unsafe { *from.add(i) } } else { 0.0 })
        }
        unsafe fn store(self, to: *mut f32, mask: usize) {
            // SAFETY: the caller's promise for the lanes of the mask.
            (0..mask).for_each(|i| unsafe { *to.add(i) = self[i] });
        }
        unsafe fn plus_product(self, a: Self, b: Self) -> Self {
            std::array::from_fn(|i| a[i].mul_add(b[i], self[i]))
        }
        unsafe fn plus(self, x: Self) -> Self {
            std::array::from_fn(|i| self[i] + x[i])
        }
        unsafe fn transpose(from: *const f32, gap: usize, to: *mut f32, width: usize) {
            for (l, j) in (0..4).flat_map(|l| (0..4).map(move |j| (l, j))) {
                // SAFETY: the caller's promise.
                unsafe { *to.add(l * width + j) = *from.add(j * gap + l) };
            }
        }
    }

    type Kernel = unsafe fn(&Product<f32>) -> bool;

    /// SAFETY: the caller's promise; the twin needs nothing of the processor.
    unsafe fn twin(product: &Product<f32>) -> bool {
        unsafe { run::<[f32; 4]>(product) };
        true
    }

    /// The kernels that this machine can run.
    fn kernels() -> Vec<(&'static str, Kernel)> {
        let mut all: Vec<(&'static str, Kernel)> = vec![("twin", twin)];
        // SAFETY: the caller's promise, and the processor was asked before its kernel is listed.
        if has_avx512() {
            all.push(("avx512", |product| {
                unsafe { avx512(product) };
                true
            }));
        }
        if has_avx2_and_fma() {
            all.push(("avx2", |product| {
                unsafe { avx2(product) };
                true
            }));
        }
        all
    }

    /// A product with a random matrix of every operand, laid out at random with a margin around it.
    struct Case {
        dims: [usize; 3],
        transposed: [bool; 2],
        alpha: f32,
        own: bool,
        bias: Option<Vec<f32>>,
        residual: Option<Vec<f32>>,
        data: [Vec<f32>; 3],
        margin: usize,
    }

    impl Case {
        fn new(dims: [usize; 3], transposed: [bool; 2], margin: usize, seed: u64) -> Self {
            let [m, k, n] = dims;
            let f32s = |len: usize, s: u64| numbers(len, s).iter().map(|x| *x as f32).collect::<Vec<_>>();
            let size =
                |rows: usize, cols: usize, t: bool| if t { cols * (rows + margin) } else { rows * (cols + margin) };
            let bit = |i: u64| seed >> i & 1 == 1;
            Case {
                dims,
                transposed,
                alpha: if bit(0) { 1.0 } else { -0.37 },
                own: bit(1),
                bias: bit(2).then(|| f32s(n, seed + 3)),
                residual: bit(3).then(|| f32s(m * n, seed + 4)),
                data: [
                    f32s(size(m, k, transposed[0]), seed),
                    f32s(size(k, n, transposed[1]), seed + 1),
                    f32s(m * (n + margin), seed + 2),
                ],
                margin,
            }
        }

        fn operand(&self, which: usize) -> Mat<'_, f32> {
            let [m, k, n] = self.dims;
            let (rows, cols) = [(m, k), (k, n)][which];
            Mat::new(
                &self.data[which],
                self.margin + if self.transposed[which] { rows } else { cols },
                self.transposed[which],
            )
        }

        fn plus(&self) -> Plus<'_, f32> {
            let n = self.dims[2];
            let residual = self.residual.as_deref().map(|r| Mat::new(r, n, false));
            Plus { own: self.own, bias: self.bias.as_deref(), residual }
        }

        fn by(&self, kernel: Kernel) -> Vec<f32> {
            let mut c = self.data[2].clone();
            let out = MatMut::new(&mut c, self.dims[2] + self.margin);
            gemm_with(kernel, self.dims, self.alpha, self.operand(0), self.operand(1), self.plus(), out);
            c
        }

        /// The definition, in the order in which a tile adds: fused, one k after the other, and a pause at each cut.
        fn naive(&self) -> Vec<f32> {
            let [m, k, n] = self.dims;
            let mut c = self.data[2].clone();
            let at = |x: Mat<'_, f32>, i: usize, j: usize| x.data[i * x.strides.0 + j * x.strides.1];
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let c = &mut c[i * (n + self.margin) + j];
                for (from, to) in even_cuts(k, k.div_ceil(DEPTH).max(1)) {
                    let chain = |s: f32, l: usize| at(self.operand(0), i, l).mul_add(at(self.operand(1), l, j), s);
                    let sum = self.alpha.mul_add((from..to).fold(0.0, chain), 0.0);
                    *c = match from {
                        0 => {
                            let own = if self.own { *c } else { -0.0 };
                            let bias = self.bias.as_ref().map_or(-0.0, |b| b[j]);
                            sum + own + bias + self.residual.as_ref().map_or(-0.0, |r| r[i * n + j])
                        }
                        _ => sum + *c,
                    };
                }
            }
            c
        }
    }

    /// Every number of rows and columns up to two tiles and a bit, both operands as they are and transposed, with all
    /// that can be added: the same bits as the definition, and what lies between the rows of c stays as it was.
    #[test]
    fn every_edge_shape_equals_the_definition_bit_for_bit() {
        let lanes = if cfg!(miri) { 4 } else { 16 };
        let rows = if cfg!(miri) { 3 } else { 12 };
        let mut seed = 0;
        for (name, kernel) in kernels() {
            for m in (0..=2 * rows + 2).filter(|m| !cfg!(miri) || m % 2 == 0) {
                for n in (0..=4 * lanes + 3).filter(|n| n % (lanes / 4) < 2) {
                    for k in [0, 1, 2, 7, 8] {
                        seed += 1;
                        let transposed = [seed & 1 == 1, seed & 2 == 2];
                        let case = Case::new([m, k, n], transposed, seed as usize % 3, seed >> 2);
                        let (c, exact) = (case.by(kernel), case.naive());
                        let same = c.iter().zip(&exact).all(|(x, y)| x.to_bits() == y.to_bits());
                        assert!(same, "{name}: [{m}, {k}] × [{k}, {n}], transposed {transposed:?}");
                    }
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "large")]
    fn deep_and_far_products_equal_the_definition_bit_for_bit() {
        for (name, kernel) in kernels() {
            for (i, [m, k, n]) in
                [[13, 257, 33], [70, 600, 40], [61, 300, FAR + 5], [5, 511, FAR]].into_iter().enumerate()
            {
                for transposed in [[false, false], [true, false], [false, true], [true, true]] {
                    let case = Case::new([m, k, n], transposed, i, 5 * i as u64);
                    let same = case.by(kernel).iter().zip(&case.naive()).all(|(x, y)| x.to_bits() == y.to_bits());
                    assert!(same, "{name}: [{m}, {k}] × [{k}, {n}], transposed {transposed:?}");
                }
            }
        }
    }
}
