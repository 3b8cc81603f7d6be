//! The masks are drawn from the distributions that the papers, or in `official` mode the official code, define.
//!
//! What is expected was not drawn but counted, by `tests/parity/make_mask_distributions.py`: the probability of every
//! block size and of every context length, of one image and of the shortest of a batch. What the samplers draw is
//! compared with it by χ² tests. The seeds are fixed, so that a test passes always or never; a right sampler would fail
//! with fewer than one seed in fifty.

use std::collections::BTreeMap;

use serde_json::Value;
use stop_mim::Indices;
use stop_mim::paper::masking::{Blocks, MultiBlock, Sampler, Truncation, random_masks};
use stop_mim::rng::{Purpose, stream};

/// Settings, and what follows from them.
struct Case {
    settings: MultiBlock,
    /// Rows `[height, width, offsets down, offsets across, probability]`.
    target_sizes: Vec<[f64; 5]>,
    context_sizes: Vec<[f64; 5]>,
    /// For each size of batch `[length, probability]` of the contexts after truncation.
    context_lengths: BTreeMap<usize, Vec<[f64; 2]>>,
}

fn cases() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/mask_distributions.json");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let read = |case: &Value| {
        let [side, min_keep] = ["grid", "min_keep"].map(|key| case[key].as_u64().unwrap() as usize);
        let published = MultiBlock::published((side, side));
        let target =
            Blocks { scale: serde_json::from_value(case["target_scale"].clone()).unwrap(), ..published.target };
        let settings = MultiBlock { target, min_keep, ..published };
        let sizes = |key: &str| serde_json::from_value(case[key].clone()).unwrap();
        Case {
            settings: if case["sampler"] == "official" { settings.as_official() } else { settings },
            target_sizes: sizes("target_sizes"),
            context_sizes: sizes("context_sizes"),
            context_lengths: serde_json::from_value(case["context_lengths"].clone()).unwrap(),
        }
    };
    let cases: Vec<Case> = all["cases"].as_array().unwrap().iter().map(read).collect();
    for settings in [MultiBlock::published((14, 14)), MultiBlock::for_small_grid((8, 8))] {
        for settings in [settings.clone(), settings.as_official()] {
            assert!(cases.iter().any(|case| case.settings == settings), "no case of {settings:?}");
        }
    }
    cases
}

/// Pearson's χ² test of how often what was `observed`, where `expected` gives everything its probability.
fn assert_distributed<K: Ord>(what: &str, observed: &BTreeMap<K, usize>, expected: &BTreeMap<K, f64>) {
    let draws = observed.values().sum::<usize>() as f64;
    let stray: usize = observed.iter().filter(|(key, _)| !expected.contains_key(key)).map(|(_, count)| count).sum();
    // What is expected fewer than five times is counted together, strays included.
    let (mut chi_squared, mut cells, mut rare) = (0.0f64, 0, (stray as f64, 0.0f64));
    for (key, probability) in expected {
        let (count, mean) = (observed.get(key).copied().unwrap_or(0) as f64, draws * probability);
        if mean < 5.0 {
            rare = (rare.0 + count, rare.1 + mean);
        } else {
            chi_squared += (count - mean).powi(2) / mean;
            cells += 1;
        }
    }
    if rare.1 >= 1.0 {
        chi_squared += (rare.0 - rare.1).powi(2) / rare.1;
        cells += 1;
    } else {
        assert!(rare.0 <= 6.0, "{what}: {} of {draws} draws are next to impossible", rare.0);
    }
    if cells == 1 {
        assert_eq!(rare.0, 0.0, "{what}: one thing only can happen");
        return;
    }
    // Wilson and Hilferty: the cube root of χ²/k is nearly normal.
    let k = f64::from(cells - 1);
    let z = ((chi_squared / k).cbrt() - (1.0 - 2.0 / (9.0 * k))) / (2.0 / (9.0 * k)).sqrt();
    println!("{what}: {draws} draws, χ² = {chi_squared:.1} with {k} degrees of freedom, z = {z:.1}");
    assert!(z < 4.0, "{what}: χ² = {chi_squared:.1} with {k} degrees of freedom, z = {z:.1}");
}

fn count<K: Ord>(keys: impl IntoIterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    keys.into_iter().for_each(|key| *counts.entry(key).or_default() += 1);
    counts
}

/// Height, width, top and left of a rectangle given by its tokens.
fn rectangle(tokens: &[u32], columns: usize) -> [usize; 4] {
    let place = |token: u32| (token as usize / columns, token as usize % columns);
    let ((top, left), (bottom, right)) = (place(tokens[0]), place(tokens[tokens.len() - 1]));
    let inside = (top..=bottom).flat_map(|row| (left..=right).map(move |column| (row * columns + column) as u32));
    assert!(tokens.iter().copied().eq(inside), "{tokens:?} is no rectangle");
    [bottom + 1 - top, right + 1 - left, top, left]
}

/// The probability of each rectangle: its size's, shared by the offsets alike.
fn rectangles(sizes: &[[f64; 5]]) -> BTreeMap<[usize; 4], f64> {
    let all = sizes.iter().flat_map(|&[height, width, down, across, p]| {
        let offsets = (0..down as usize).flat_map(move |top| (0..across as usize).map(move |left| (top, left)));
        offsets.map(move |(top, left)| ([height as usize, width as usize, top, left], p / (down * across)))
    });
    all.collect()
}

#[test]
fn sizes_and_places_of_blocks() {
    for (seed, case) in (0..).zip(cases()) {
        // With the targets left in, a context is a whole block, and nothing is placed twice.
        let settings = MultiBlock { allow_overlap: true, ..case.settings };
        let name = format!("{:?}, {:?}, min_keep {}", settings.grid, settings.sampler, settings.min_keep);
        let mut rng = stream(seed, Purpose::Mask, [1, 0]);
        let masks: Vec<_> = (0..20_000).map(|_| settings.sample(1, &mut rng)).collect();
        let of = |tokens: &Indices| rectangle(tokens.row(0), settings.grid.1);
        for block in 0..4 {
            let observed = count(masks.iter().map(|masks| of(&masks.targets[block])));
            assert_distributed(&format!("{name}: target {block}"), &observed, &rectangles(&case.target_sizes));
        }
        let observed = count(masks.iter().map(|masks| of(&masks.context[0])));
        assert_distributed(&format!("{name}: context"), &observed, &rectangles(&case.context_sizes));
    }
}

#[test]
fn lengths_of_contexts() {
    for (seed, case) in (0..).zip(cases()) {
        let settings = &case.settings;
        let mean = |law: &[[f64; 2]]| law.iter().map(|[length, p]| length * p).sum::<f64>();
        for (&batch, law) in &case.context_lengths {
            let mut rng = stream(seed, Purpose::Mask, [2, batch as u64]);
            let draws = if batch == 1 { 20_000 } else { 1_000 };
            let lengths: Vec<usize> =
                (0..draws).map(|_| settings.sample(batch, &mut rng).context[0].per_row()).collect();
            let name =
                format!("{:?}, {:?}, min_keep {}, batch {batch}", settings.grid, settings.sampler, settings.min_keep);
            let expected = law.iter().map(|&[length, p]| (length as usize, p)).collect();
            assert_distributed(&name, &count(lengths.iter().copied()), &expected);
            // The mean sees a shift that χ² spreads over many cells.
            let variance = law.iter().map(|[length, p]| p * (length - mean(law)).powi(2)).sum::<f64>();
            let found = lengths.iter().sum::<usize>() as f64 / draws as f64;
            let z = (found - mean(law)) / (variance / draws as f64).sqrt();
            assert!(z.abs() < 4.0, "{name}: mean {found:.2}, expected {:.2}: z = {z:.1}", mean(law));
        }
        // What truncation to the shortest of a batch costs.
        let (one, many) =
            (case.context_lengths.first_key_value().unwrap(), case.context_lengths.last_key_value().unwrap());
        let lost = 1.0 - mean(many.1) / mean(one.1);
        let percent = match (settings.grid.0, settings.min_keep, settings.sampler) {
            (14, 10, Sampler::Inclusive) => 32, // batches of 64
            (14, 10, Sampler::Official) => 35,
            (8, 4, Sampler::Inclusive) => 44, // batches of 256
            (8, 4, Sampler::Official) => 52,
            (8, 8, Sampler::Inclusive) => 42,
            (8, 8, Sampler::Official) => 47,
            _ => panic!("no figure for {settings:?}"),
        };
        assert_eq!((100.0 * lost).round() as i32, percent, "{settings:?}");
    }
}

/// How often each token is in a row of `parts`.
fn visits(tokens: usize, parts: &[Indices]) -> Vec<usize> {
    let mut count = vec![0; tokens];
    parts.iter().flat_map(Indices::as_slice).for_each(|&token| count[token as usize] += 1);
    count
}

#[test]
fn only_the_inclusive_sampler_visits_every_token() {
    for (settings, never) in [(MultiBlock::published((14, 14)), 27), (MultiBlock::for_small_grid((8, 8)), 15)] {
        let ((rows, columns), mut rng) = (settings.grid, stream(0, Purpose::Mask, [3, 0]));
        let tokens = rows * columns;
        let ours = settings.sample(2000, &mut rng);
        assert!(visits(tokens, &ours.targets).iter().all(|&n| n > 0));
        assert!(visits(tokens, &ours.context).iter().all(|&n| n > 0));

        let official = settings.as_official().sample(2000, &mut rng);
        let edge = |token| token / columns == rows - 1 || token % columns == columns - 1;
        assert_eq!((0..tokens).filter(|&token| edge(token)).count(), never);
        let (targets, context) = (visits(tokens, &official.targets), visits(tokens, &official.context));
        assert!((0..tokens).all(|token| (targets[token] == 0) == edge(token)));
        assert!((0..tokens).all(|token| context[token] == 0 || !edge(token)));
    }
}

/// The official context is the top-left square that leaves out the last row and column, without the targets; so it is
/// known whole from the targets, and with it what truncation took.
#[test]
fn truncation_takes_the_end_or_a_random_part() {
    let (batch, side) = (64, 14);
    let raster = MultiBlock::published((side, side)).as_official();
    let random = MultiBlock { truncation: Truncation::RandomSubset, ..raster.clone() };
    let mut rng = stream(0, Purpose::Mask, [4, 0]);
    let (mut surplus, mut variance) = (vec![0.0; side * side], vec![0.0; side * side]);
    for settings in [raster, random].iter().cycle().take(800) {
        let masks = settings.sample(batch, &mut rng);
        for image in 0..batch {
            let hidden = |token: &u32| masks.targets.iter().any(|part| part.row(image).contains(token));
            let square = (0..side as u32 - 1).flat_map(|row| (0..side as u32 - 1).map(move |c| row * side as u32 + c));
            let whole: Vec<u32> = square.filter(|token| !hidden(token)).collect();
            let kept = masks.context[0].row(image);
            assert!(kept.is_sorted_by(|a, b| a < b) && kept.iter().all(|token| whole.contains(token)));
            if settings.truncation == Truncation::Raster {
                assert_eq!(kept, &whole[..kept.len()]);
                continue;
            }
            let share = kept.len() as f64 / whole.len() as f64;
            for token in whole {
                surplus[token as usize] += f64::from(u8::from(kept.contains(&token))) - share;
                variance[token as usize] += share * (1.0 - share);
            }
        }
    }
    for (token, (surplus, variance)) in surplus.iter().zip(&variance).enumerate().filter(|(_, (_, v))| **v > 0.0) {
        let z = surplus / variance.sqrt();
        assert!(z.abs() < 5.0, "token {token} is kept too often or too rarely: z = {z:.1}");
    }
}

#[test]
fn mae_masks_are_uniform() {
    // Every order of five tokens is as likely as any other.
    let masks = random_masks(60_000, 5, 0.6, &mut stream(0, Purpose::Mask, [5, 0])).unwrap();
    let orders = (0..60_000).map(|b| [masks.kept.row(b), masks.removed.row(b)].concat());
    let observed = count(orders);
    let expected: BTreeMap<Vec<u32>, f64> = observed.keys().map(|order| (order.clone(), 1.0 / 120.0)).collect();
    assert_eq!(expected.len(), 120, "5! orders");
    assert_distributed("orders of five tokens", &observed, &expected);

    // On MAE's grid: every token, and every two tokens, are kept equally often.
    let (tokens, kept, images, mut rng) = (196, 49, 100_000, stream(0, Purpose::Mask, [6, 0]));
    let mut together = vec![0usize; tokens * tokens];
    for _ in 0..100 {
        let masks = random_masks(images / 100, tokens, 0.75, &mut rng).unwrap();
        for row in masks.kept.as_slice().chunks_exact(kept) {
            row.iter().for_each(|&i| row.iter().for_each(|&j| together[i as usize * tokens + j as usize] += 1));
        }
    }
    let (alone, both) = (kept as f64 / tokens as f64, (kept * (kept - 1)) as f64 / (tokens * (tokens - 1)) as f64);
    for (pair, &n) in together.iter().enumerate() {
        let (i, j) = (pair / tokens, pair % tokens);
        let p = if i == j { alone } else { both };
        let z = (n as f64 - images as f64 * p) / (images as f64 * p * (1.0 - p)).sqrt();
        assert!(z.abs() < 5.0, "tokens {i} and {j}: {n} of {images}, z = {z:.1}");
    }
}
