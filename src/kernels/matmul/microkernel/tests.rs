use super::*;
use crate::kernels::matmul::gemm::{Epilogue, Mat, MatMut, gemm_with};
use crate::kernels::testing::numbers;
use crate::kernels::{Bf16, Buffer, DType};

/// The portable twin: a register of four numbers in plain memory, tiles of 3 × 8.
// SAFETY: but for the lanes of a mask, which are to lie in memory as those of a register, it asks nothing.
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
    unsafe fn read(from: *const f32) -> Self {
        // SAFETY: the caller's promise for all lanes.
        std::array::from_fn(|i| unsafe { *from.add(i) })
    }
    unsafe fn store(self, to: *mut f32, mask: usize) {
        // SAFETY: the caller's promise for the lanes of the mask.
        (0..mask).for_each(|i| unsafe { *to.add(i) = self[i] });
    }
    unsafe fn plus(self, x: Self) -> Self {
        std::array::from_fn(|i| self[i] + x[i])
    }
    unsafe fn times(self, x: Self) -> Self {
        std::array::from_fn(|i| self[i] * x[i])
    }
    unsafe fn transpose(from: *const f32, gap: usize, last: usize, to: *mut f32, width: usize) {
        for (l, j) in (0..4).flat_map(|l| (0..4).map(move |j| (l, j))) {
            // SAFETY: the caller's promise.
            unsafe { *to.add(l * width + j) = from.byte_add(j.min(last) * gap).add(l).read_unaligned() };
        }
    }
}

// SAFETY: as above.
impl Operand<1> for [f32; 4] {
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        std::array::from_fn(|i| a[i].mul_add(b[i], self[i]))
    }
}

pub type Kernel<S = f32> = unsafe fn(&Product<S>) -> bool;
/// Σ a b over some values of k, given as pairs (a, b), and over how many of them at a time, by a's strides and c's columns.
pub type Dot = (fn(&[[f32; 2]]) -> f32, fn(Strides, usize) -> usize);

/// SAFETY: the caller's promise; the twin needs nothing of the processor.
unsafe fn twin(product: &Product<f32>) -> bool {
    unsafe { run::<f32, [f32; 4], 1>(product) };
    true
}

/// The kernels that this machine can run.
fn kernels() -> Vec<(&'static str, Kernel)> {
    let mut all: Vec<(&'static str, Kernel)> = vec![("twin", twin)];
    #[cfg(target_arch = "aarch64")]
    all.push(("neon", sgemm));
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        all.push(("avx512", |product| {
            // SAFETY: the caller's promise; the processor was asked.
            unsafe { avx512(product) };
            true
        }));
    }
    #[cfg(target_arch = "x86_64")]
    if has_avx2() {
        all.push(("avx2", |product| {
            // SAFETY: the caller's promise; the processor was asked.
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
        let size = |rows: usize, cols: usize, t: bool| if t { cols * (rows + margin) } else { rows * (cols + margin) };
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

    fn operand<'a, S>(&self, which: usize, data: &'a [S]) -> Mat<'a, S> {
        let [m, k, n] = self.dims;
        let (rows, cols) = [(m, k), (k, n)][which];
        Mat::new(data, self.margin + if self.transposed[which] { rows } else { cols }, self.transposed[which])
    }

    fn plus(&self) -> Epilogue<'_, f32> {
        let n = self.dims[2];
        let residual = self.residual.as_deref().map(|r| Mat::new(r, n, false));
        Epilogue { own: self.own, bias: self.bias.as_deref(), residual }
    }

    fn by<S: Element<Computed = f32>>(&self, kernel: Kernel<S>, rounded: Option<&mut [Bf16]>) -> Vec<f32> {
        let [a, b, mut c] = self.data.clone();
        let [a, b] = [a, b].map(|data| Buffer::from_vec(data.into_iter().map(S::nearest).collect()));
        let [a, b] = [(0, &a), (1, &b)].map(|(which, data)| self.operand(which, data.as_slice::<S>("test")));
        let row = self.dims[2] + self.margin;
        let to = (MatMut::new(&mut c, row), rounded.map(|rounded| MatMut::new(rounded, row)));
        gemm_with(kernel, self.dims, self.alpha, a, b, self.plus(), to);
        c
    }

    /// The definition, in the order in which a tile adds: `dot` between two cuts of k, and then the next.
    fn naive(&self, (dot, depth): Dot) -> Vec<f32> {
        let [m, k, n] = self.dims;
        let mut c = self.data[2].clone();
        let [a, b] = [0, 1].map(|which| self.operand(which, &self.data[which]));
        let at = |x: Mat<'_, f32>, i: usize, j: usize| x.data[i * x.strides.0 + j * x.strides.1];
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let c = &mut c[i * (n + self.margin) + j];
            for cut in even_cuts(k, k.div_ceil(depth(a.strides, n)).max(1)) {
                let factors: Vec<[f32; 2]> = cut.clone().map(|l| [at(a, i, l), at(b, l, j)]).collect();
                let sum = self.alpha * dot(&factors);
                *c = match cut.start {
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

    fn assert<S: Element<Computed = f32>>(&self, name: &str, kernel: Kernel<S>, dot: Dot) {
        let ([m, k, n], transposed) = (self.dims, self.transposed);
        let what = format!("{name}, {}: [{m}, {k}] × [{k}, {n}], transposed {transposed:?}", S::DTYPE);
        let expected = self.naive(dot);
        assert!(self.by(kernel, None).iter().zip(&expected).all(|(x, y)| x.to_bits() == y.to_bits()), "{what}");
        if S::DTYPE == DType::Bf16 {
            const UNTOUCHED: Bf16 = Bf16(0x1234);
            let mut rounded = vec![UNTOUCHED; expected.len()];
            self.by(kernel, Some(&mut rounded));
            let expected = expected.iter().enumerate().map(|(i, x)| match i % (n + self.margin) < n {
                true => Bf16::from_f32(*x),
                false => UNTOUCHED,
            });
            assert!(rounded.iter().copied().eq(expected), "{what}, rounded");
        }
    }
}

/// Every number of rows and columns up to two tiles and a bit, both operands as they are and transposed, with all
/// that can be added: the same bits as the definition, and what lies between the rows of c stays as it was.
pub fn assert_every_edge_shape<S: Element<Computed = f32>>(name: &str, kernel: Kernel<S>, dot: Dot) {
    let (lanes, rows) = if cfg!(miri) { (4, 3) } else { (16, 12) };
    let mut seed = 0u64;
    for m in (0..=2 * rows + 2).filter(|m| !cfg!(miri) || m % 2 == 0) {
        for n in (0..=4 * lanes + 3).filter(|n| n % (lanes / 4) < 2) {
            for k in [0, 1, 2, 7, 8, 17] {
                seed += 1;
                if cfg!(miri) && !seed.is_multiple_of(23) {
                    continue; // few of them, of every kind
                }
                // Not by the lowest bits of the seed, which follow k.
                let mixed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 62;
                let transposed = [mixed & 1 == 1, mixed & 2 == 2];
                Case::new([m, k, n], transposed, seed as usize % 3, seed >> 2).assert(name, kernel, dot);
            }
        }
    }
}

/// Several cuts of k, several copies of a, an a that is packed, rows of b that are far apart; passes first and columns first, in
/// one block of rows and in several.
pub fn assert_large_shapes<S: Element<Computed = f32>>(name: &str, kernel: Kernel<S>, dot: Dot) {
    let least = [[2, 257, 5], [5, 3, 257]];
    let tall = [2 * A_ROWS + 5, 19, 33];
    let (columns_first, passes_first) =
        ([[70, 600, 40], [A_ROWS + 13, 600, 33]], [[100, 3000, 35], [A_ROWS + 13, 1500, 5]]);
    let shapes = least.into_iter().chain([[13, 257, 33], [61, 300, 517], [5, 511, 512], tall]);
    let packed = [[40, 300, 256], [2 * A_ROWS + 5, 19, 300], [70, 600, 270], [100, 1500, 257], [23, 130, 255]];
    let shapes: Vec<_> =
        shapes.chain(packed).chain(columns_first).chain(passes_first).chain([[1, A_ROWS * DEPTH + 1, 1]]).collect();
    assert_shapes(name, kernel, dot, if cfg!(miri) { &shapes[..least.len()] } else { &shapes[..] });
}

#[test]
fn columns_come_first_where_that_moves_less() {
    assert_eq!(order::<1>([384, 192], 1), (1, false), "one pass: it makes no difference");
    assert_eq!(order::<1>([768, 512], 4), (3, true), "a gradient of weights");
    assert_eq!(order::<1>([512, 768], 3), (1, false), "b would be read three times");
    assert_eq!(order::<1>([A_ROWS + 13, 1500], 6), (2, false));
    assert_eq!(order::<2>([A_ROWS + 13, 600], 3), (2, false), "a copy of a is of one pass");
}

/// Tiles of fewer rows give the same bits.
#[test]
fn rows_that_fall_on_each_other_make_shorter_tiles() {
    #[cfg(target_arch = "x86_64")]
    for (strides, rows) in [((1024, 1), 6), ((3072, 1), 6), ((1025, 1), 12), ((1, 1024), 12)] {
        assert_eq!(most_rows::<__m512, 1>(strides), rows, "{strides:?}");
        assert_eq!(most_rows::<__m512, 2>(strides), 12, "{strides:?}");
    }
    #[cfg(target_arch = "aarch64")]
    assert_eq!(most_rows::<float32x4_t, 1>((1024, 1)), 9);
    for (m, n) in [(7, 5), (1, 5), (6, 33), (30, 64)].into_iter().take(if cfg!(miri) { 1 } else { 4 }) {
        for (name, kernel) in kernels() {
            Case::new([m, 1000, n], [false, m % 2 == 1], 24, 7 * m as u64).assert(name, kernel, FUSED);
        }
    }
}

/// These shapes, both operands as they are and transposed.
pub fn assert_shapes<S: Element<Computed = f32>>(name: &str, kernel: Kernel<S>, dot: Dot, shapes: &[[usize; 3]]) {
    for (i, &dims) in shapes.iter().enumerate() {
        for transposed in [[false, false], [true, false], [false, true], [true, true]] {
            Case::new(dims, transposed, i, 5 * i as u64).assert(name, kernel, dot);
        }
    }
}

fn fused(factors: &[[f32; 2]]) -> f32 {
    factors.iter().fold(0.0, |sum, [a, b]| a.mul_add(*b, sum))
}

const FUSED: Dot = (fused, |(row, _), columns| if row == 1 && columns < 256 { 128 } else { 256 });

#[test]
fn every_edge_shape_equals_the_definition_bit_for_bit() {
    kernels().into_iter().for_each(|(name, kernel)| assert_every_edge_shape(name, kernel, FUSED));
}

#[test]
fn large_products_equal_the_definition_bit_for_bit() {
    kernels().into_iter().for_each(|(name, kernel)| assert_large_shapes(name, kernel, FUSED));
}

/// A tile reads whole registers of the copy: every lane of them is written, with the number that belongs there or (beyond
/// the last column) with some number of the same row; and nothing beyond.
pub fn assert_copies<S: Element, R: MadeOf<S, K>, const K: usize>(
    copy: unsafe fn(*const S, Strides, [usize; 2], (*mut f32, usize)),
) {
    const UNTOUCHED: f32 = -1e30;
    let width = 2 * R::LANES;
    let depths: &[usize] = if cfg!(miri) { &[1, 8, 17] } else { &[1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17] };
    for (depth, columns) in depths.iter().flat_map(|&depth| (1..=width).map(move |columns| (depth, columns))) {
        if cfg!(miri) && columns % 7 != 1 && columns != width {
            continue;
        }
        for strides in [(columns, 1), (columns + 3, 1), (1, depth), (1, depth + 2), (2 * columns, 2)] {
            let at = |l: usize, j: usize| l * strides.0 + j * strides.1;
            let from: Vec<S> = (0..=at(depth - 1, columns - 1))
                .map(|i| S::nearest(f32::from_bits((0x3f80 + i as u32) << 16)))
                .collect();
            let steps = depth.div_ceil(K);
            let mut to = vec![UNTOUCHED; (steps + 1) * width];
            // SAFETY: `from` ends with the last of these elements, `to` has a row more than there are steps.
            unsafe { copy(from.as_ptr(), strides, [depth, columns], (to.as_mut_ptr(), width)) };
            let written = columns.next_multiple_of(R::LANES);
            for (i, found) in to.iter().enumerate() {
                let (step, j) = (i / width, i % width);
                let number = |l: usize| if l < depth { from[at(l, j)] } else { S::default() };
                let what = format!("step {step}, column {j} of {depth} × {columns} by {strides:?}");
                match (step < steps && j < written, j < columns) {
                    (false, _) => assert_eq!(*found, UNTOUCHED, "{what}"),
                    (true, false) => assert_ne!(*found, UNTOUCHED, "{what}"),
                    (true, true) => {
                        let expected = R::lane(number(step * K), number(step * K + K - 1));
                        assert_eq!(found.to_bits(), expected.to_bits(), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn copies_fill_whole_registers() {
    assert_copies::<f32, [f32; 4], 1>(copy_panel::<f32, [f32; 4], 1>);
    #[cfg(target_arch = "aarch64")]
    assert_copies::<f32, float32x4_t, 1>(copy_panel::<f32, float32x4_t, 1>);
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! with {
            ($has:ident, $features:literal, $register:ty) => {
                if $has() {
                    // SAFETY: as of `copy_panel`; the processor was just asked.
                    #[target_feature(enable = $features)]
                    unsafe fn copy(from: *const f32, strides: Strides, dims: [usize; 2], to: (*mut f32, usize)) {
                        // SAFETY: the caller's promise.
                        unsafe { copy_panel::<f32, $register, 1>(from, strides, dims, to) }
                    }
                    assert_copies::<f32, $register, 1>(copy);
                }
            };
        }
        with!(has_avx512, "avx512f,avx512vl,avx512dq", __m512);
        with!(has_avx2, "avx2,fma", __m256);
    }
}
