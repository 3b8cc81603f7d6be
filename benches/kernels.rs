//! How fast each kernel runs, at the sizes at which a training step calls it.
//!
//! ```text
//! cargo bench --bench kernels                      everything, about ten seconds
//! cargo bench --bench kernels -- products          a group: products, attention, rows, elements, tokens, update
//! cargo bench --bench kernels -- products::dw      one kernel
//! cargo bench --bench kernels -- '256 × 192'       one size of every kernel that has it
//! cargo bench --bench kernels -- --max-time 1      longer, for steadier numbers
//! ```
//!
//! Every kernel is called through the door, [`stop_mim::kernels`], in f32 and on one thread, as a chunk of images calls
//! it; its result is made and dropped in each call, so that the recycler is part of what is measured. Below the times,
//! the harness prints two rates for each benchmark:
//!
//! - **B/s**: bytes of elements that have to be read or written, each operand once. What lies in a cache moves faster
//!   than main memory, and operands of these sizes do.
//! - **item/s**: an item is one floating-point operation, a multiply-add being two: Gitem/s are GFLOP/s. GELU and
//!   softmax, whose operations nobody agrees to count, and kernels that only move tokens count elements instead.

use std::fmt;
use std::hint::black_box;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use rand::RngExt;
use stop_mim::kernels::{Buffer, DType, Device, elementwise, loss, matmul, optim, reduce};
use stop_mim::rng::{Purpose, stream};

fn main() {
    divan::main();
}

/// `len` numbers between −1 and 1.
fn numbers(len: usize) -> Buffer {
    let mut rng = stream(0, Purpose::Eval, [len as u64, 0]);
    Buffer::from_vec::<f32>((0..len).map(|_| rng.random_range(-1.0..1.0)).collect())
}

/// Times `kernel`, which touches `elements` numbers and does `items` operations. The result is dropped at once: kept
/// until the end of a sample, as the harness would, each call would write to cold memory.
fn measure<R>(bencher: Bencher<'_, '_>, elements: usize, items: usize, mut kernel: impl FnMut() -> R) {
    let bytes = elements * size_of::<f32>();
    bencher.counter(BytesCount::new(bytes)).counter(ItemsCount::new(items)).bench_local(|| {
        black_box(kernel());
    });
}

/// `rows` tokens of `cols` features.
#[derive(Clone, Copy)]
struct Rows {
    rows: usize,
    cols: usize,
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {}", self.rows, self.cols)
    }
}

/// Tokens of 4 images, half a chunk: of 36 of the context each, of all 64, and of 4 targets with 48 each.
const CHUNKS: [usize; 3] = [144, 256, 768];

#[divan::bench_group(max_time = 0.1)]
mod products {
    //! x is (rows, inputs), W (outputs, inputs), dy (rows, outputs).

    use super::*;

    /// A linear layer, applied to `rows` tokens.
    #[derive(Clone, Copy)]
    struct Layer {
        rows: usize,
        inputs: usize,
        outputs: usize,
    }

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} × {} → {}", self.rows, self.inputs, self.outputs)
        }
    }

    /// The layers of blocks 96, 128, 192 and 384 wide: qkv, projection, and the two of the MLP.
    fn layers() -> impl Iterator<Item = Layer> {
        let wide = |d: usize| [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)];
        let of_blocks = [96, 128, 192].into_iter().flat_map(wide).chain([(384, 384)]);
        let sizes: Vec<(usize, usize)> = of_blocks.collect();
        CHUNKS.into_iter().flat_map(move |rows| {
            sizes.clone().into_iter().map(move |(inputs, outputs)| Layer { rows, inputs, outputs })
        })
    }

    impl Layer {
        fn measure(self, bencher: Bencher<'_, '_>, product: impl FnMut() -> Buffer) {
            let Layer { rows, inputs, outputs } = self;
            let elements = rows * inputs + outputs * inputs + rows * outputs;
            measure(bencher, elements, 2 * rows * inputs * outputs, product);
        }
    }

    /// x Wᵀ
    #[divan::bench(args = layers())]
    fn forward(bencher: Bencher<'_, '_>, layer: Layer) {
        let Layer { rows, inputs, outputs } = layer;
        let (x, w) = (numbers(rows * inputs), numbers(outputs * inputs));
        layer.measure(bencher, || matmul::linear([rows, inputs, outputs], &x, &w, None, None));
    }

    /// dx = dy W
    #[divan::bench(args = layers())]
    fn dx(bencher: Bencher<'_, '_>, layer: Layer) {
        let Layer { rows, inputs, outputs } = layer;
        let (dy, w) = (numbers(rows * outputs), numbers(outputs * inputs));
        layer.measure(bencher, || matmul::matmul(1, [rows, outputs, inputs], &dy, false, &w, false));
    }

    /// dW = dyᵀ x
    #[divan::bench(args = layers())]
    fn dw(bencher: Bencher<'_, '_>, layer: Layer) {
        let Layer { rows, inputs, outputs } = layer;
        let (dy, x) = (numbers(rows * outputs), numbers(rows * inputs));
        layer.measure(bencher, || matmul::matmul(1, [outputs, rows, inputs], &dy, true, &x, false));
    }
}

#[divan::bench_group(max_time = 0.2)]
mod attention {
    //! Of N tokens with h heads of width d, for the images of one chunk. Bytes are those of Q, K, V and the output: the
    //! probabilities stay in the cache.

    use super::*;
    use stop_mim::kernels::attention::{self, Sizes};

    #[derive(Clone)]
    struct Heads(Sizes);

    impl fmt::Display for Heads {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let Sizes { batch, tokens, heads, head_dim, .. } = self.0;
            write!(f, "N {tokens}, d {head_dim} (B {batch}, h {heads})")
        }
    }

    /// Context, target blocks with their context, the whole image; a ViT's 196 tokens.
    fn sizes() -> impl Iterator<Item = Heads> {
        let tokens = [(36, 8), (48, 32), (64, 8), (196, 1)];
        let heads = [(32, 3), (64, 3)];
        tokens.into_iter().flat_map(move |(tokens, batch)| {
            heads.map(|(head_dim, heads)| Heads(Sizes { batch, tokens, queries: 0..tokens, heads, head_dim }))
        })
    }

    /// Multiply-adds of one N × N × d product for every image and head.
    fn product(s: &Sizes) -> usize {
        s.batch * s.heads * s.tokens * s.tokens * s.head_dim
    }

    #[divan::bench(args = sizes())]
    fn forward(bencher: Bencher<'_, '_>, Heads(s): &Heads) {
        let tokens = s.batch * s.tokens * s.dim();
        let qkv = numbers(3 * tokens);
        // Q Kᵀ and P V.
        measure(bencher, 4 * tokens, 2 * 2 * product(s), || attention::forward(s, &qkv));
    }

    #[divan::bench(args = sizes())]
    fn backward(bencher: Bencher<'_, '_>, Heads(s): &Heads) {
        let tokens = s.batch * s.tokens * s.dim();
        let (qkv, dout) = (numbers(3 * tokens), numbers(tokens));
        // Q Kᵀ again, dV, dP, dQ and dK.
        measure(bencher, 7 * tokens, 5 * 2 * product(s), || attention::backward(s, &qkv, &dout));
    }
}

#[divan::bench_group(max_time = 0.2)]
mod rows {
    //! What works on a token at a time.

    use super::*;

    const EPS: f64 = 1e-6;

    fn sizes() -> impl Iterator<Item = Rows> {
        CHUNKS.into_iter().flat_map(|rows| [96, 192, 768].map(|cols| Rows { rows, cols }))
    }

    /// Operations an element: 1 for the mean, 3 for the variance, 2 to normalize, 2 for γ and β.
    #[divan::bench(args = sizes())]
    fn layer_norm(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let (x, gamma, beta) = (numbers(rows * cols), numbers(cols), numbers(cols));
        let n = rows * cols;
        measure(bencher, 2 * n + 2 * cols + 2 * rows, 8 * n, || {
            stop_mim::kernels::layer_norm::forward(cols, &x, Some((&gamma, &beta)), EPS)
        });
    }

    /// dx = (dy γ − mean(dy γ) − x̂ mean(dy γ x̂)) / σ.
    #[divan::bench(args = sizes())]
    fn layer_norm_dx(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let (x, gamma, beta, dy) = (numbers(rows * cols), numbers(cols), numbers(cols), numbers(rows * cols));
        let (_, stats) = stop_mim::kernels::layer_norm::forward(cols, &x, Some((&gamma, &beta)), EPS);
        let n = rows * cols;
        // It uses up dy; the copy is part of the time.
        measure(bencher, 5 * n + cols + 2 * rows, 10 * n, || {
            let dy = stop_mim::kernels::tokens::slice(1, n, 0, n, &dy);
            stop_mim::kernels::layer_norm::backward_input(None, cols, &x, Some(&gamma), &stats, dy)
        });
    }

    /// dγ = Σ dy x̂, dβ = Σ dy.
    #[divan::bench(args = sizes())]
    fn layer_norm_dgamma_dbeta(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let (x, dy) = (numbers(rows * cols), numbers(rows * cols));
        let (_, stats) = stop_mim::kernels::layer_norm::forward(cols, &x, None, EPS);
        let n = rows * cols;
        measure(bencher, 2 * n + 2 * cols + 2 * rows, 5 * n, || {
            stop_mim::kernels::layer_norm::backward_affine(cols, &x, &stats, &dy)
        });
    }

    /// The rows of attention probabilities: h N rows of N for each image.
    fn probabilities() -> impl Iterator<Item = Rows> {
        [(8, 36), (32, 48), (8, 64), (1, 196)].into_iter().map(|(batch, n)| Rows { rows: batch * 3 * n, cols: n })
    }

    #[divan::bench(args = probabilities())]
    fn softmax(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let x = numbers(rows * cols);
        measure(bencher, 2 * rows * cols, rows * cols, || stop_mim::kernels::softmax::forward(cols, &x));
    }

    #[divan::bench(args = probabilities())]
    fn softmax_backward(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let (y, dy) = (stop_mim::kernels::softmax::forward(cols, &numbers(rows * cols)), numbers(rows * cols));
        measure(bencher, 3 * rows * cols, rows * cols, || stop_mim::kernels::softmax::backward(cols, &y, &dy));
    }
}

#[divan::bench_group(max_time = 0.2)]
mod elements {
    //! What works on an element at a time.

    use super::*;

    /// An MLP's hidden layer, 96 and 192 wide.
    fn hidden() -> impl Iterator<Item = Rows> {
        CHUNKS.into_iter().flat_map(|rows| [384, 768].map(|cols| Rows { rows, cols }))
    }

    #[divan::bench(args = hidden())]
    fn gelu(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let x = numbers(rows * cols);
        measure(bencher, 2 * rows * cols, rows * cols, || elementwise::unary(elementwise::Unary::Gelu, &x));
    }

    #[divan::bench(args = hidden())]
    fn gelu_backward(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let (x, dy) = (numbers(rows * cols), numbers(rows * cols));
        measure(bencher, 3 * rows * cols, rows * cols, || {
            elementwise::unary_backward(elementwise::Unary::Gelu, &x, &dy)
        });
    }

    fn features() -> impl Iterator<Item = Rows> {
        CHUNKS.into_iter().flat_map(|rows| [192, 768].map(|cols| Rows { rows, cols }))
    }

    /// The residual connection.
    #[divan::bench(args = features())]
    fn add(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let (a, b) = (numbers(rows * cols), numbers(rows * cols));
        measure(bencher, 3 * rows * cols, rows * cols, || {
            elementwise::binary(elementwise::Binary::Add, None, rows * cols, &a, &b)
        });
    }

    /// A bias's gradient.
    #[divan::bench(args = features())]
    fn sum_rows(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let dy = numbers(rows * cols);
        measure(bencher, rows * cols + cols, rows * cols, || reduce::accumulate_rows(None, cols, &dy));
    }

    const SMOOTH_L1: loss::Regression = loss::Regression::SmoothL1 { beta: 1.0 };

    /// Difference, square, half, sum.
    #[divan::bench(args = features())]
    fn smooth_l1(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let (x, y) = (numbers(rows * cols), numbers(rows * cols));
        measure(bencher, 2 * rows * cols, 4 * rows * cols, || loss::regression(SMOOTH_L1, &x, &y));
    }

    /// Difference, clamped, times a number.
    #[divan::bench(args = features())]
    fn smooth_l1_backward(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let (x, y) = (numbers(rows * cols), numbers(rows * cols));
        let dy = numbers(1);
        measure(bencher, 3 * rows * cols, 2 * rows * cols, || loss::regression_backward(SMOOTH_L1, &x, &y, &dy));
    }
}

#[divan::bench_group(max_time = 0.2)]
mod tokens {
    //! What only moves numbers.

    use super::*;
    use stop_mim::kernels::{IndexBuffer, tokens};

    /// Picks `kept` of `of` tokens of each of `rows` images.
    #[derive(Clone, Copy)]
    struct Pick {
        rows: usize,
        kept: usize,
        of: usize,
        dim: usize,
    }

    impl fmt::Display for Pick {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} × {} of {} tokens × {}", self.rows, self.kept, self.of, self.dim)
        }
    }

    impl Pick {
        /// Every row its own tokens.
        fn indices(self) -> IndexBuffer {
            let Pick { rows, kept, of, .. } = self;
            let of_row = |r| (0..kept).map(move |k| ((7 * r + k * of / kept) % of) as u32);
            IndexBuffer::new((0..rows).flat_map(of_row).collect::<Vec<u32>>())
        }
    }

    /// Patches of the context, targets of the features, context and targets of a ViT-B/16.
    const PICKS: [Pick; 4] = [
        Pick { rows: 8, kept: 36, of: 64, dim: 48 },
        Pick { rows: 32, kept: 12, of: 64, dim: 192 },
        Pick { rows: 1, kept: 72, of: 196, dim: 768 },
        Pick { rows: 4, kept: 34, of: 196, dim: 768 },
    ];

    #[divan::bench(args = PICKS)]
    fn gather(bencher: Bencher<'_, '_>, pick: Pick) {
        let Pick { rows, kept, of, dim } = pick;
        let (x, indices) = (numbers(rows * of * dim), pick.indices());
        let moved = rows * kept * dim;
        measure(bencher, 2 * moved, moved, || tokens::gather(&x, of, dim, &indices, kept));
    }

    /// The sums are read and written, and all of the result is cleared.
    #[divan::bench(args = PICKS)]
    fn scatter_add(bencher: Bencher<'_, '_>, pick: Pick) {
        let Pick { rows, kept, of, dim } = pick;
        let (dy, indices) = (numbers(rows * kept * dim), pick.indices());
        let (moved, len) = (rows * kept * dim, rows * of * dim);
        measure(bencher, 3 * moved + len, moved, || tokens::scatter_add(&dy, of, dim, &indices, kept, len));
    }

    #[divan::bench(args = [(8, 32, 4), (1, 224, 16)])]
    fn patchify(bencher: Bencher<'_, '_>, (batch, side, patch): (usize, usize, usize)) {
        let (grid, len) = (side / patch, batch * 3 * side * side);
        let (shape, images) = ([batch, 3, grid, patch, grid, patch], numbers(len));
        measure(bencher, 2 * len, len, || tokens::permute("patchify", &shape, &[0, 2, 4, 1, 3, 5], &images));
    }
}

#[divan::bench_group(max_time = 0.2)]
mod update {
    //! What happens to a parameter once a step: fc1 of blocks 192 and 768 wide. The latter lies in main memory.

    use super::*;
    use stop_mim::kernels::optim::{AdamWStep, AdamWUpdate, EmaStep};

    fn weights() -> impl Iterator<Item = Rows> {
        [192, 768].into_iter().map(|d| Rows { rows: 4 * d, cols: d })
    }

    /// Two moments, two corrections, a root, a division, weight decay: some fourteen operations an element.
    #[divan::bench(args = weights())]
    fn adamw(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let n = rows * cols;
        let (g, zeros) = (numbers(n), || Buffer::full(n, 0.0, DType::F32, Device::Cpu));
        let (mut m, mut v, mut w) = (zeros(), zeros(), numbers(n));
        let update = AdamWUpdate { betas: (0.9, 0.999), eps: 1e-8, step: 10 };
        measure(bencher, 7 * n, 14 * n, || {
            let (gradient, weight, average) = (g.clone(), &mut w, None);
            let step = AdamWStep { gradient, m: &mut m, v: &mut v, weight, lr: 1e-3, weight_decay: 0.05, average };
            optim::adamw(&update, None, vec![step]);
        });
    }

    #[divan::bench(args = weights())]
    fn ema(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let n = rows * cols;
        let (online, mut target) = (numbers(n), numbers(n));
        measure(bencher, 3 * n, 3 * n, || {
            optim::ema(vec![EmaStep { momentum: 0.996, weight: &online, average: &mut target }]);
        });
    }

    /// A gradient to the sum over chunks.
    #[divan::bench(args = weights())]
    fn accumulate(bencher: Bencher<'_, '_>, Rows { rows, cols }: Rows) {
        let n = rows * cols;
        let (mut sum, g) = (numbers(n), numbers(n));
        measure(bencher, 3 * n, n, || elementwise::accumulate(&mut sum, &g));
    }
}
