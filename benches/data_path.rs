//! From stored bytes to the network: what an image costs on its way, and whether training has to wait for it.
//!
//! ```text
//! cargo bench --bench data_path                    some forty seconds
//! cargo bench --bench data_path -- --quick         two seconds, without workload T
//! cargo bench --bench data_path -- --cifar FOLDER  on the real CIFAR-10 instead of random bytes in its layout
//! ```
//!
//! Three tables, each for the drawn `shapes` and for CIFAR-10 (by default 12,000 records of random bytes, written to a
//! temporary folder and read back as the published files are):
//!
//! 1. **The way of an image**, in µs, on one thread: *decode* (draw or copy its bytes), *augment* (draw a crop and a
//!    flip, stretch, normalize), and *loader*: both, shuffled, in batches of 64, from its own thread to this one.
//! 2. **Training**, batches of 64: *step*, in µs an image, on images that are there already; *loop*, with images from
//!    the loader; and the share of the loop that is spent *waiting* for the next batch. The loader's thread takes
//!    its time from the same cores, so the loop is slower than the step even if it never waits. Two models: the preset
//!    `toy`, and workload T of the other benches.
//! 3. **Probing**: features of held-out images by the target encoder, decoded and normalized on the way.

mod common;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Effort, HYPER, Sizes, check_args, flag, is_bench, median, option, threads};
use stop_mim::Tensor;
use stop_mim::data::{self, Augment, Crop, Dataset, Loader, LoaderOptions, Splits, Subset};
use stop_mim::eval::pooled_features;
use stop_mim::report::table::table;
use stop_mim::rng::{Purpose, stream};
use stop_mim::vit::Preset;

const BATCH: usize = Sizes::T.images;
const SIDE: usize = Sizes::T.side;

fn main() {
    check_args(&["--cifar"], &["--quick"], 0, "the top of benches/data_path.rs has the command lines");
    // `cargo test --benches` takes the short way too.
    let quick = flag("--quick") || !is_bench();
    let scratch = tempfile::tempdir().unwrap_or_else(|e| panic!("cannot make a temporary folder: {e}"));
    let folder = option::<PathBuf>("--cifar").unwrap_or_else(|| {
        write_cifar(scratch.path());
        scratch.path().to_owned()
    });
    let open = |spec: &str| data::open(spec, SIDE).unwrap_or_else(|e| panic!("{e}"));
    let sources = [("shapes", open("shapes")), ("CIFAR-10", open(&format!("cifar10:{}", folder.display())))];

    println!("the way of an image, µs on one thread\n\n{}", ways(&sources, quick));
    println!("training, µs an image, {} threads\n\n{}", threads(), training(&sources, quick));
    println!("probing, {} threads\n\n{}", threads(), probing(&sources, quick));
}

type Source = (&'static str, Splits);

fn options(splits: &Splits) -> LoaderOptions {
    LoaderOptions {
        batch_size: BATCH,
        seed: 0,
        first_step: 0,
        views: vec![Some(Augment::STOP)],
        labels: false,
        normalization: splits.normalization().unwrap(),
        part: None,
        threads: 1,
    }
}

fn loader(splits: &Splits) -> impl Iterator<Item = Tensor> {
    let loader = Loader::new(splits.train.clone(), options(splits)).unwrap_or_else(|e| panic!("{e}"));
    loader.map(|batch| batch.unwrap_or_else(|e| panic!("{e}")).views.swap_remove(0))
}

fn ways(sources: &[Source], quick: bool) -> String {
    let rounds = Effort { least: 3, most: if quick { 3 } else { 15 }, budget: Duration::from_secs(2) };
    let images = if quick { 256 } else { 4096 };
    let an_image = |times: Vec<f64>| 1e6 * median(times) / images as f64;
    let row = |(name, splits): &Source| {
        let (train, normalization) = (&*splits.train, splits.normalization().expect("statistics"));
        let (mut pixels, mut out) = (vec![0; 3 * SIDE * SIDE], vec![0.0; 3 * SIDE * SIDE]);
        let decode = an_image(rounds.times(|| {
            for i in 0..images {
                train.pixels(i, &mut pixels).expect("an image");
                black_box(&pixels);
            }
        }));
        let augment = an_image(rounds.times(|| {
            for i in 0..images as u64 {
                let crop: Crop = Augment::STOP.draw(SIDE, &mut stream(0, Purpose::Augment, [0, i]));
                crop.apply((&pixels[..], 255.0), SIDE, &normalization, &mut out);
                black_box(&out);
            }
        }));
        let mut batches = loader(splits);
        let loader = an_image(rounds.times(|| (0..images / BATCH).for_each(|_| drop(batches.next()))));
        let numbers = [decode, augment, loader].map(|us| format!("{us:.2}"));
        [vec![(*name).to_owned()], numbers.to_vec(), vec![format!("{:.0}", 1e6 / loader)]].concat()
    };
    let rows: Vec<Vec<String>> = sources.iter().map(row).collect();
    table(&["images", "decode", "augment", "loader", "images/s"], &rows)
}

/// The models, by name.
fn models(quick: bool) -> Vec<(&'static str, Sizes)> {
    let (encoder, predictor) = Preset::Toy.sizes();
    let toy = Sizes {
        encoder: [encoder.dim, encoder.depth, encoder.heads],
        predictor: [predictor.dim, predictor.depth, predictor.heads],
        ..Sizes::T
    };
    let models = [("toy", toy), ("T", Sizes::T)];
    models[..if quick { 1 } else { 2 }].to_vec()
}

fn training(sources: &[Source], quick: bool) -> String {
    let steps = if quick { 1 } else { 12 };
    let an_image = |seconds: f64| format!("{:.1}", 1e6 * seconds / BATCH as f64);
    let mut rows = Vec::new();
    for (model, sizes) in models(quick) {
        let (mut trainer, mut batch) = sizes.prepare();
        let effort = Effort { least: steps, most: steps, budget: Duration::ZERO };
        let alone = median(effort.times(|| assert!(trainer.step(&batch, &HYPER).expect("a step").loss.is_finite())));
        for (name, splits) in sources {
            let mut batches = loader(splits);
            let mut waits = Vec::new();
            let times = effort.times(|| {
                let start = Instant::now();
                let images = batches.next().expect("the loader never ends");
                waits.push(start.elapsed().as_secs_f64());
                batch.views[0].images = images;
                trainer.step(&batch, &HYPER).expect("a step");
            });
            // The first wait is for a thread that has just begun, and belongs to a step that is not timed.
            let share = waits[1..].iter().sum::<f64>() / times.iter().sum::<f64>();
            let waiting = format!("{:.2} %", 100.0 * share);
            rows.push(vec![model.to_owned(), (*name).to_owned(), an_image(alone), an_image(median(times)), waiting]);
        }
    }
    table(&["model", "images", "step", "loop", "waiting"], &rows)
}

fn probing(sources: &[Source], quick: bool) -> String {
    let images = if quick { 64 } else { 1024 };
    let effort = Effort { least: 1, most: 3, budget: Duration::from_secs(2) };
    let mut rows = Vec::new();
    for (model, sizes) in models(quick) {
        let (trainer, _) = Sizes { images: 1, ..sizes }.prepare();
        for (name, splits) in sources {
            let (sample, normalization) =
                (Subset::even(splits.test.clone(), images), splits.normalization().expect("statistics"));
            let (encoder, params) = (trainer.method.encoder(), trainer.params.evaluated());
            let seconds = median(effort.times(|| {
                let features = pooled_features(encoder, params, (&sample, &normalization), 1, &|_| Ok(()));
                assert_eq!(features.expect("features")[0].shape()[0], sample.len());
            }));
            let rate = sample.len() as f64 / seconds;
            rows.push(vec![model.to_owned(), (*name).to_owned(), format!("{rate:.0}"), format!("{:.1}", 1e6 / rate)]);
        }
    }
    table(&["model", "images", "images/s", "µs an image"], &rows)
}

/// Random bytes in CIFAR-10's layout: five training files and one for testing, 2,000 records each.
fn write_cifar(folder: &Path) {
    use rand::Rng;
    let files = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];
    for (k, file) in files.into_iter().enumerate() {
        let mut records = vec![0; 2000 * (1 + 3 * SIDE * SIDE)];
        stream(0, Purpose::Eval, [k as u64, 0]).fill_bytes(&mut records);
        records.chunks_exact_mut(1 + 3 * SIDE * SIDE).for_each(|record| record[0] %= 10);
        let path = folder.join(file).with_extension("bin");
        std::fs::write(&path, records).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }
}
