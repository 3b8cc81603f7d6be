use super::*;

fn rng(seed: u64) -> Generator {
    stream(seed, Purpose::Mask, [0, 0])
}

/// Settings for grids of all kinds, each possible.
fn assorted() -> Vec<MultiBlock> {
    let lone = |grid| MultiBlock { min_keep: 1, ..MultiBlock::for_small_grid(grid) };
    let mut all = vec![MultiBlock::published((14, 14)), MultiBlock::published((16, 16)), lone((3, 3)), lone((1, 24))];
    all.extend([(8, 8), (7, 5), (5, 7), (6, 12)].map(MultiBlock::for_small_grid));
    // Contexts of these never need D5, which would let targets leak.
    all.extend([(14, 14), (8, 8)].map(|grid| MultiBlock::for_small_grid(grid).as_official()));
    let two = MultiBlock::for_small_grid((8, 8));
    all.push(MultiBlock { context: Blocks { count: 2, scale: (0.5, 0.9), aspect: (0.6, 1.6) }, ..two });
    all
}

#[test]
fn a_seed_repeats_and_an_image_has_its_blocks_whatever_else_is_in_the_batch() {
    for settings in assorted() {
        assert_eq!(settings.sample(3, &mut rng(1)), settings.sample(3, &mut rng(1)));
        assert_ne!(settings.sample(30, &mut rng(1)), settings.sample(30, &mut rng(2)));
        assert_eq!(settings.sample(0, &mut rng(1)).context[0].rows(), 0);
        // Also where images are placed again and again.
        let [few, many] = [3, 20].map(|batch| settings.sample(batch, &mut rng(1)).targets);
        for (few, many) in few.iter().zip(&many) {
            assert!((0..3).all(|image| few.row(image) == many.row(image)), "{settings:?}");
        }
    }
}

#[test]
fn targets_are_rectangles_of_the_configured_area_and_aspect() {
    for settings in assorted() {
        let ((rows, columns), blocks) = (settings.grid, &settings.target);
        for seed in 0..100 {
            let masks = settings.sample(2, &mut rng(seed));
            let corners = |row: &[u32]| {
                let (first, last) = (row[0] as usize, row[row.len() - 1] as usize);
                (first / columns, first % columns, last / columns + 1, last % columns + 1)
            };
            let (top, left, bottom, right) = corners(masks.targets[0].row(0));
            let (h, w) = (bottom - top, right - left);
            for row in masks.targets.iter().flat_map(|part| [part.row(0), part.row(1)]) {
                let (top, left, ..) = corners(row);
                assert_eq!(row, Block { top, left, height: h, width: w }.tokens_outside(&[], columns));
                assert!(top + h <= rows && left + w <= columns);
            }
            // A budget and an aspect in range lie within rounding of these sides, where the grid has cut none.
            let (h, w, tokens) = (h as f64, w as f64, (rows * columns) as f64);
            if h + 1.0 < rows as f64 && w + 1.0 < columns as f64 {
                assert!((h - 0.5) * (w - 0.5) <= tokens * blocks.scale.1);
                assert!((h + 0.5) * (w + 0.5) >= (tokens * blocks.scale.0).floor());
                assert!((h - 0.5) / (w + 0.5) <= blocks.aspect.1 && (h + 0.5) / (w - 0.5) >= blocks.aspect.0);
            }
        }
    }
}

#[test]
fn validation_knows_the_sizes_that_are_drawn() {
    for settings in assorted() {
        let mut rng = rng(4);
        for blocks in [&settings.target, &settings.context] {
            let drawn: BTreeSet<_> = (0..50_000).map(|_| settings.draw_size(blocks, &mut rng)).collect();
            let drawable = BTreeSet::from_iter(settings.drawable_sizes(blocks));
            assert!(drawn.is_subset(&drawable), "{settings:?}");
            // A whole budget at the upper end of the scale needs that very end to be drawn. Else, the sets agree.
            let most = (settings.grid.0 * settings.grid.1) as f64 * blocks.scale.1;
            assert!(most.fract() == 0.0 || drawn == drawable, "{settings:?}");
        }
    }
}

#[test]
fn contexts_avoid_targets_and_are_long_enough() {
    for settings in assorted() {
        for seed in 0..60 {
            let masks = settings.sample(8, &mut rng(seed));
            for context in &masks.context {
                assert_eq!((context.rows(), context.per_row()), (8, masks.context[0].per_row()));
                assert!(settings.is_enough(context.per_row()));
                for b in 0..8 {
                    assert!(context.row(b).is_sorted_by(|a, b| a < b), "raster order, no repetition");
                    let hidden = |t| masks.targets.iter().any(|part| part.row(b).contains(t));
                    assert!(!context.row(b).iter().any(hidden), "{settings:?}");
                }
            }
        }
    }
}

#[test]
fn a_context_that_cannot_be_had_is_relaxed_without_a_leak() {
    // Sixteen 5×5 targets nearly fill an 8×8 grid; 25 tokens are left where most of them stand in one place.
    let target = Blocks { count: 16, scale: (0.4, 0.4), aspect: (1.0, 1.0) };
    let context = Blocks { count: 1, scale: (1.0, 1.0), aspect: (1.0, 1.0) };
    let settings = MultiBlock { target, context, min_keep: 25, ..MultiBlock::for_small_grid((8, 8)) };
    let masks = settings.sample(20, &mut rng(12));
    assert!(masks.context[0].per_row() >= 25);
    for b in 0..20 {
        let places: BTreeSet<_> = masks.targets.iter().map(|part| part.row(b)).collect();
        assert!(places.len() < 16, "the last targets repeat the first");
        assert!(masks.context[0].row(b).iter().all(|token| places.iter().all(|place| !place.contains(token))));
    }

    // The official code ends with the whole 7×7 square, targets included: 24 tokens beside a target are too few.
    let official = MultiBlock { min_keep: 24, ..settings.clone().as_official() }.sample(20, &mut rng(12));
    assert_eq!(official.context[0].per_row(), 49);

    // `allow_overlap` leaves the targets in by choice.
    let overlap = MultiBlock { allow_overlap: true, min_keep: 16, ..settings };
    assert_eq!(overlap.sample(2, &mut rng(12)).context[0].per_row(), 64);
    assert_eq!(overlap.as_official().sample(2, &mut rng(12)).context[0].per_row(), 49);
}

#[test]
fn impossible_settings_are_errors() {
    let small = || MultiBlock::for_small_grid((8, 8));
    let target = |scale, aspect| MultiBlock { target: Blocks { count: 4, scale, aspect }, ..small() };
    let none = Blocks { count: 0, ..small().target };
    let published = MultiBlock::published((8, 8)); // min_keep 10: the official code's endless loop
    for (settings, says) in [
        (published.clone(), "8x8 a target block of 3x3 = 9 tokens can be drawn"),
        (published.clone().as_official(), "but a block needs more than min_keep = 10"),
        (MultiBlock { min_keep: 9, ..published.as_official() }, "more than min_keep = 9"),
        (MultiBlock { min_keep: 0, ..small() }, "min_keep 0"),
        (MultiBlock { min_keep: 40, ..target((0.7, 0.8), (1.0, 1.0)) }, "a target of 7x7 can leave 0 tokens"),
        (MultiBlock { min_keep: 1, grid: (1, 24), ..small().as_official() }, "a target block of 0x"),
        (MultiBlock { min_keep: 1, ..target((0.001, 0.1), (1.0, 1.0)) }, "a target block of 0x0"),
        (MultiBlock { grid: (0, 8), ..small() }, "a grid of 0x8"),
        (MultiBlock { target: none.clone(), ..small() }, "the number of target blocks is 0"),
        (MultiBlock { context: none, ..small() }, "the number of context blocks is 0"),
        (target((0.3, 0.2), (1.0, 1.0)), "target scale (0.3, 0.2)"),
        (target((0.0, 0.2), (1.0, 1.0)), "target scale (0, 0.2)"),
        (target((0.5, 1.2), (1.0, 1.0)), "target scale (0.5, 1.2)"),
        (target((f64::NAN, 0.2), (1.0, 1.0)), "target scale (NaN"),
        (target((0.2, 0.3), (-1.0, 1.0)), "target aspect (-1, 1)"),
        (target((0.2, 0.3), (1.0, f64::INFINITY)), "target aspect (1, inf)"),
    ] {
        let Err(Error::Config { problem, hint }) = settings.validate() else { panic!("accepted: {settings:?}") };
        assert!(problem.contains(says) && !hint.is_empty(), "{problem}");
    }
    assorted().iter().for_each(|settings| settings.validate().unwrap());
}

#[test]
#[should_panic(expected = "can be drawn, but a block needs")]
fn sampling_what_was_never_validated_panics_instead_of_looping() {
    MultiBlock::published((8, 8)).as_official().sample(1, &mut rng(0));
}
