//! I-JEPA's multi-block masks: predict a few rectangles from one large rectangle that has them cut out.
//!
//! 1. **Sizes.** Draw one target size and one context size for the whole batch. A token budget K = ⌊L·scale⌋ and
//!    an aspect a give the sides: height = √(K·a) and width = √(K/a), rounded, and cut down to the grid.
//! 2. **Places.** For each image, place every target block and every context block at a random offset.
//! 3. **Cut out.** Remove the image's targets from its contexts. If too little is left, place again.
//! 4. **Truncate.** Shorten every context to the shortest of the batch, so that they stack.
//!
//! Source: Assran et al. (2023), §3 and `src/masks/multiblock.py` of I-JEPA; StoP's paper (§2, "Masking") takes them
//! over unchanged. The official code ([`MultiBlock::as_official`]) and the default here ([`Sampler::Inclusive`] with
//! [`Truncation::RandomSubset`]) differ, and the comments below refer to these numbers:
//!
//! - **D1 sizes.** Official: one uniform draw gives scale *and* aspect, so that the large targets are always the tall
//!   ones. Here: two independent draws.
//! - **D2 sides.** Official: a side as long as the grid's, or longer, is cut to one less. Here: to the whole side.
//! - **D3 offsets.** Official: the last offset is never drawn. No target ever touches the last row or column, and the
//!   published context is always the same top-left square (13×13 of 14×14). Here: every offset, equally likely.
//! - **D4 least size.** Official: *more* than `min_keep` tokens in every block. Here: at least `min_keep`.
//! - **D5 too small a context.** Official: after every 20 failures one target fewer is cut out, so that the context may
//!   *contain* targets. Here: after every 20 failures one target more repeats the place of the first; no target leaks.
//! - **D6 impossible settings.** Official: a block that cannot exceed `min_keep` loops for ever (8×8 grid, 3×3 blocks,
//!   `min_keep` 10). Here: an error from [`MultiBlock::validate`], with either sampler.
//! - **D7 truncation.** Official: the first tokens in raster order stay, the bottom rows go. Here: a random subset.
//!
//! `tests/masks_have_the_published_distribution.rs` compares both with probabilities that were counted out.
//!
//! Left out: the seed shared between workers (the caller passes the generator), the 24-bit steps of the official
//! uniform draws, and the branch in StoP's copy for contexts smaller than the targets, which no published setting
//! reaches.

use std::collections::BTreeSet;

use rand::seq::index;
use rand::{Rng, RngExt};

use crate::error::{Error, Result};
use crate::rng::{Generator, Purpose, stream};
use crate::tensor::Indices;

/// Failed placements of one image before the demands on its context are relaxed (D5).
const TRIES: usize = 20;

/// What blocks of one kind are like.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Blocks {
    /// How many such blocks each image has.
    pub count: usize,
    /// Lowest and highest share of the grid's tokens that a block covers, before rounding.
    pub scale: (f64, f64),
    /// Lowest and highest height / width of a block, before rounding.
    pub aspect: (f64, f64),
}

/// How sizes and places are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Sampler {
    /// Independent scale and aspect, sides up to the grid's, every offset: see "here" in D1–D5.
    #[default]
    Inclusive,
    /// The distribution of the official code: see "official" in D1–D5.
    Official,
}

/// Which tokens a context loses when another image of the batch has a shorter one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum Truncation {
    /// Random ones, so that no region is lost systematically. The rest stays in raster order.
    #[default]
    RandomSubset,
    /// The last in raster order, as in the official code.
    Raster,
}

/// The settings of multi-block masking. The [module](self) describes the procedure.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct MultiBlock {
    /// Rows and columns of the token grid: image sides divided by the patch side.
    pub grid: (usize, usize),
    /// The blocks to predict.
    pub target: Blocks,
    /// The blocks to predict from.
    pub context: Blocks,
    /// Fewest tokens of a block after step 3 (D4).
    pub min_keep: usize,
    /// How sizes and places are drawn.
    pub sampler: Sampler,
    /// How contexts are brought to one length.
    pub truncation: Truncation,
    /// Leave the targets in the contexts: step 3 removes nothing.
    pub allow_overlap: bool,
}

/// The masks of one batch of B images. Rows are in raster order, without repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockMasks {
    /// For each context block its tokens `[B, N_c]` (B_x). N_c is the same for all.
    pub context: Vec<Indices>,
    /// For each target block its tokens `[B, N_t]` (B_y). Targets of one image may overlap. N_t is the same for all.
    pub targets: Vec<Indices>,
}

impl MultiBlock {
    /// The numbers of the configurations published with I-JEPA and StoP, which suit grids of 14×14 and more.
    pub fn published(grid: (usize, usize)) -> Self {
        MultiBlock {
            grid,
            target: Blocks { count: 4, scale: (0.15, 0.2), aspect: (0.75, 1.5) },
            context: Blocks { count: 1, scale: (0.85, 1.0), aspect: (1.0, 1.0) },
            min_keep: 10,
            sampler: Sampler::default(),
            truncation: Truncation::default(),
            allow_overlap: false,
        }
    }

    /// Settings that suit grids near 8×8 (32×32 images in patches of 4), where the published ones are impossible (D6).
    pub fn for_small_grid(grid: (usize, usize)) -> Self {
        let published = Self::published(grid);
        MultiBlock { target: Blocks { scale: (0.15, 0.25), ..published.target }, min_keep: 4, ..published }
    }

    /// The same numbers, drawn and truncated as the official code does.
    pub fn as_official(self) -> Self {
        MultiBlock { sampler: Sampler::Official, truncation: Truncation::Raster, ..self }
    }

    fn official(&self) -> bool {
        self.sampler == Sampler::Official
    }

    /// Whether [`sample`](Self::sample) can always meet these settings.
    ///
    /// # Errors
    /// [`Error::Config`] when the grid or a count is zero; when a range is out of order or out of bounds; when a block
    /// can be drawn with fewer tokens than `min_keep` demands (none, for example); or, with [`Sampler::Inclusive`],
    /// when one target can take so much of a context that fewer are left (the other sampler lets targets leak, D5).
    pub fn validate(&self) -> Result<()> {
        let (rows, columns) = self.grid;
        let grid = format!("a grid of {rows}x{columns}");
        let check = |fine: bool, problem: &dyn Fn() -> String, hint: &str| {
            if fine { Ok(()) } else { Err(Error::config(problem(), hint)) }
        };
        let no_tokens = || format!("{grid} has no tokens to mask");
        check(rows > 0 && columns > 0, &no_tokens, "use images of at least one patch a side")?;
        // Beyond this, products of sides overflow, here and where tokens are numbered by u32.
        const MOST: usize = 1 << 14;
        check(
            rows.max(columns) <= MOST,
            &|| format!("{grid} tokens; {MOST} a side is the most"),
            "use larger patches",
        )?;
        let empty = || "with min_keep 0 a context could be left empty".to_owned();
        check(!self.is_enough(0), &empty, "set `min_keep` to at least 1")?;
        let demand = format!("{} min_keep = {}", if self.official() { "more than" } else { "at least" }, self.min_keep);
        for (kind, blocks) in [("target", &self.target), ("context", &self.context)] {
            blocks.validate(kind)?;
            let many = || format!("{} {kind} blocks on {grid}", blocks.count);
            check(blocks.count <= rows * columns, &many, "ask for no more blocks than there are tokens")?;
            for (h, w) in self.drawable_sizes(blocks) {
                let small = || {
                    let block = format!("a {kind} block of {h}x{w} = {} tokens", h * w);
                    format!("on {grid} {block} can be drawn, but a block needs {demand}")
                };
                let hint = format!("lower `min_keep`, raise `{kind}.scale`, or use smaller patches");
                check(self.is_enough(h * w), &small, &hint)?;
            }
        }
        if self.official() || self.allow_overlap {
            return Ok(());
        }
        let contexts = self.drawable_sizes(&self.context);
        for (h, w) in self.drawable_sizes(&self.target) {
            for &(ch, cw) in &contexts {
                let left = ch * cw - h.min(ch) * w.min(cw); // when the smaller of the two lies inside the other
                let got = || {
                    format!(
                        "a target of {h}x{w} can leave {left} tokens of a context of {ch}x{cw}, which needs {demand}"
                    )
                };
                check(self.is_enough(left), &got, "lower `min_keep` or `target.scale`, or raise `context.scale`")?;
            }
        }
        Ok(())
    }

    /// Masks for `batch` images.
    ///
    /// # Panics
    /// When [`validate`](Self::validate) refuses these settings; call it where they are read.
    #[track_caller]
    pub fn sample(&self, batch: usize, rng: &mut impl Rng) -> BlockMasks {
        // Microseconds, where sampling takes hundreds; and the searches below rely on it.
        if let Err(error) = self.validate() {
            panic!("MultiBlock::sample: {error}");
        }
        // (1) Sizes.
        let target = self.draw_size(&self.target, rng);
        let context = self.draw_size(&self.context, rng);
        // (2) Places, and (3) cut out.
        let mut targets = vec![Vec::with_capacity(batch); self.target.count];
        let mut contexts = vec![Vec::with_capacity(batch); self.context.count];
        // A generator for each image: how often one is placed again moves no block of another.
        let seed = rng.random();
        let mut rngs: Vec<Generator> = (0..batch as u64).map(|i| stream(seed, Purpose::Mask, [i, 0])).collect();
        for rng in &mut rngs {
            let place = if self.official() { Self::place_image_as_official } else { Self::place_image };
            let (blocks, visible) = place(self, target, context, rng);
            targets.iter_mut().zip(&blocks).for_each(|(rows, block)| rows.push(block.tokens_outside(&[], self.grid.1)));
            contexts.iter_mut().zip(visible).for_each(|(rows, tokens)| rows.push(tokens));
        }
        // (4) Truncate. Targets need none: nothing was cut out of them.
        let shortest = contexts.iter().flatten().map(Vec::len).min().unwrap_or(0);
        for rows in &mut contexts {
            rows.iter_mut().zip(&mut rngs).for_each(|(tokens, rng)| self.truncate(tokens, shortest, rng));
        }
        let stack = |blocks: Vec<Vec<Vec<u32>>>| blocks.iter().map(|rows| Indices::from_rows(rows)).collect();
        BlockMasks { context: stack(contexts), targets: stack(targets) }
    }

    /// (1) The height and width that all blocks of one kind have in one batch.
    fn draw_size(&self, blocks: &Blocks, rng: &mut impl Rng) -> (usize, usize) {
        let u: f64 = rng.random();
        let v = if self.official() { u } else { rng.random() }; // D1
        self.size(self.budget(between(blocks.scale, u)), between(blocks.aspect, v))
    }

    /// K = ⌊L·scale⌋.
    fn budget(&self, scale: f64) -> usize {
        ((self.grid.0 * self.grid.1) as f64 * scale) as usize
    }

    /// The height and width nearest to `budget` tokens with this aspect; halves round to even, as in Python.
    fn size(&self, budget: usize, aspect: f64) -> (usize, usize) {
        let side = |area: f64, grid_side: usize| {
            let longest = if self.official() { grid_side - 1 } else { grid_side }; // D2
            (area.sqrt().round_ties_even() as usize).min(longest)
        };
        (side(budget as f64 * aspect, self.grid.0), side(budget as f64 / aspect, self.grid.1))
    }

    /// Every size that [`draw_size`](Self::draw_size) can return, both ends of the scale included.
    ///
    /// For one budget a side changes only at the aspects where its square root passes a half, so a look between each
    /// two neighbors of these sees every size.
    fn drawable_sizes(&self, blocks: &Blocks) -> Vec<(usize, usize)> {
        let mut sizes = BTreeSet::new();
        for budget in self.budget(blocks.scale.0)..=self.budget(blocks.scale.1) {
            let k = budget as f64;
            let (low, high) = self.aspects_drawn_with(budget, blocks);
            // Height passes s + ½ at aspect (s + ½)²/K, width at K/(s + ½)². Sides beyond the grid are cut anyway.
            let halves = |from: f64, to: f64, grid_side: usize| {
                (from.sqrt() as usize..=(to.sqrt() as usize).min(grid_side)).map(|s| (s as f64 + 0.5).powi(2))
            };
            let heights = halves(k * low, k * high, self.grid.0).map(|square| square / k);
            let widths = halves(k / high, k / low, self.grid.1).map(|square| k / square);
            let mut cuts: Vec<f64> =
                heights.chain(widths).filter(|&a| low < a && a < high).chain([low, high]).collect();
            cuts.sort_by(f64::total_cmp);
            sizes.extend(cuts.windows(2).map(|pair| self.size(budget, (pair[0] + pair[1]) / 2.0)));
        }
        sizes.into_iter().collect()
    }

    /// The range of aspects that can be drawn together with this budget: a part of them if both share one draw u (D1).
    fn aspects_drawn_with(&self, budget: usize, blocks: &Blocks) -> (f64, f64) {
        let (low, high) = blocks.scale;
        if !self.official() || low == high {
            return blocks.aspect;
        }
        let share = |tokens: usize| tokens as f64 / (self.grid.0 * self.grid.1) as f64;
        let u = |scale: f64| ((scale - low) / (high - low)).clamp(0.0, 1.0);
        (between(blocks.aspect, u(share(budget))), between(blocks.aspect, u(share(budget + 1))))
    }

    /// (2) and (3) for one image: its target blocks, and the tokens of each context.
    ///
    /// Ends after at most `TRIES`·(targets − 1) failures: [`validate`](Self::validate) has made sure that a context
    /// keeps enough when all targets stand in one place.
    fn place_image(
        &self,
        target: (usize, usize),
        context: (usize, usize),
        rng: &mut impl Rng,
    ) -> (Vec<Block>, Vec<Vec<u32>>) {
        let mut failures = 0;
        loop {
            let places = self.target.count.saturating_sub(failures / TRIES).max(1);
            let mut targets: Vec<Block> = (0..places).map(|_| self.place(target, rng)).collect();
            targets.resize(self.target.count, targets[0]); // D5
            let removed = if self.allow_overlap { &[] } else { &targets[..places] };
            let contexts: Vec<_> = (0..self.context.count)
                .map(|_| self.place(context, rng).tokens_outside(removed, self.grid.1))
                .collect();
            if places == 1 || contexts.iter().all(|tokens| self.is_enough(tokens.len())) {
                return (targets, contexts);
            }
            failures += 1;
        }
    }

    /// [`place_image`](Self::place_image) as the official code has it: the targets stay where they are, and each
    /// context is placed until enough of it lies outside the targets still cut out of it (D5); in the end, none is.
    fn place_image_as_official(
        &self,
        target: (usize, usize),
        context: (usize, usize),
        rng: &mut impl Rng,
    ) -> (Vec<Block>, Vec<Vec<u32>>) {
        let targets: Vec<Block> = (0..self.target.count).map(|_| self.place(target, rng)).collect();
        let removable = if self.allow_overlap { 0 } else { targets.len() };
        let place_context = |_| {
            let mut failures = 0;
            loop {
                let removed = &targets[..removable.saturating_sub(failures / TRIES)];
                let tokens = self.place(context, rng).tokens_outside(removed, self.grid.1);
                if removed.is_empty() || self.is_enough(tokens.len()) {
                    return tokens;
                }
                failures += 1;
            }
        };
        let contexts = (0..self.context.count).map(place_context).collect();
        (targets, contexts)
    }

    /// (2) One block of this size at a random offset.
    fn place(&self, (height, width): (usize, usize), rng: &mut impl Rng) -> Block {
        let last = usize::from(self.official()); // D3; D2 leaves room for one
        let mut offset = |room: usize| rng.random_range(0..=room - last);
        Block { top: offset(self.grid.0 - height), left: offset(self.grid.1 - width), height, width }
    }

    /// Whether a block of this many tokens may be used (D4).
    fn is_enough(&self, tokens: usize) -> bool {
        tokens >= self.min_keep + usize::from(self.official())
    }

    /// (4) Leaves `keep` of these tokens, in their order (D7).
    fn truncate(&self, tokens: &mut Vec<u32>, keep: usize, rng: &mut impl Rng) {
        match self.truncation {
            Truncation::RandomSubset => {
                let mut chosen = index::sample(rng, tokens.len(), keep).into_vec();
                chosen.sort_unstable();
                *tokens = chosen.into_iter().map(|k| tokens[k]).collect();
            }
            Truncation::Raster => tokens.truncate(keep),
        }
    }
}

impl Blocks {
    /// Whether the ranges are ranges; `kind` names the blocks in the error.
    fn validate(&self, kind: &str) -> Result<()> {
        if self.count == 0 {
            let hint = format!("ask for at least one {kind} block");
            return Err(Error::config(format!("the number of {kind} blocks is 0"), hint));
        }
        for (name, (low, high), most) in [("scale", self.scale, 1.0), ("aspect", self.aspect, f64::MAX)] {
            // Written so that NaN fails.
            if !(0.0 < low && low <= high && high <= most) {
                let limit = if most == 1.0 { " <= 1" } else { "" };
                let hint = format!("give the lower bound first: 0 < low <= high{limit}");
                return Err(Error::config(format!("{kind} {name} ({low}, {high}) is no usable range"), hint));
            }
        }
        Ok(())
    }
}

/// The point of a range at u in [0, 1).
fn between((low, high): (f64, f64), u: f64) -> f64 {
    low + u * (high - low)
}

/// A rectangle of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Block {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Block {
    fn contains(&self, row: usize, column: usize) -> bool {
        (self.top..self.top + self.height).contains(&row) && (self.left..self.left + self.width).contains(&column)
    }

    /// The tokens of this block that are in none of `removed`, in raster order on a grid of `columns`.
    fn tokens_outside(&self, removed: &[Block], columns: usize) -> Vec<u32> {
        let rows = self.top..self.top + self.height;
        let places = rows.flat_map(|row| (self.left..self.left + self.width).map(move |column| (row, column)));
        let outside = places.filter(|&(row, column)| !removed.iter().any(|block| block.contains(row, column)));
        outside.map(|(row, column)| (row * columns + column) as u32).collect()
    }
}

#[cfg(test)]
mod tests;
