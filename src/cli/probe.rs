//! `stop-mim probe`

use std::sync::Arc;

use clap::Args as ClapArgs;

use super::encoder::EncoderArgs;
use super::options::OpenArgs;
use super::progress::Progress;
use super::signals;
use crate::data::{self, Dataset, Splits, Subset};
use crate::eval::{self, Features, KnnConfig, ProbeConfig};
use crate::nn::Params;
use crate::report::table::table;
use crate::train::weights::fresh_encoder;
use crate::vit::Encoder;
use crate::{Error, Result};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Images to probe on, as for pretrain [default: those a checkpoint was trained on].
    #[arg(long, value_name = "DATA")]
    data: Option<String>,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    probe: ProbeArgs,
}

pub fn run(args: &Args) -> Result<()> {
    signals::listen();
    let found = args.encoder.load()?;
    let Some(spec) = args.data.as_ref().or(found.data.as_ref()) else {
        let problem = "a file of weights does not say on which images it is to be judged";
        return Err(Error::config(problem, "give some: --data folder:DIR"));
    };
    let splits = data::open_with(spec, found.encoder.config().image_size, args.open.options())?;
    println!("{}, on {}", found.what, splits.train.describe());
    let untrained = fresh_encoder(found.encoder.config(), found.linear_init, found.seed)?;
    let splits = Splits { published: found.normalization.or(splits.published), ..splits };
    probe(&args.probe, (&found.encoder, &found.params), untrained, &splits)
}

/// The labels of images that are to be probed.
fn labelled(images: &dyn Dataset) -> Result<Vec<u32>> {
    let unlabelled =
        || Error::config(format!("{}: no labels to probe with", images.describe()), "give images in class folders");
    eval::labels(images).ok_or_else(unlabelled)
}

/// What is probed: a name, and the features of the training and test images.
struct Probed {
    name: &'static str,
    train: Vec<Features>,
    test: Vec<Features>,
}

/// How much of a data set is probed.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct ProbeArgs {
    /// Probe on this many training and test images [default: all].
    #[arg(long, value_name = "TRAIN,TEST", value_parser = counts)]
    probe_images: Option<(usize, usize)>,
}

fn counts(text: &str) -> std::result::Result<(usize, usize), String> {
    let number =
        |s: &str| s.trim().parse::<usize>().ok().filter(|n| *n > 0).ok_or(format!("'{s}' is not a number above 0"));
    let (a, b) = text.split_once(',').ok_or("two numbers with a comma between, as in 5000,1000")?;
    Ok((number(a)?, number(b)?))
}

/// Probes a model, its untrained self and raw pixels, and prints the table. The last blocks of the encoder that are
/// concatenated are four, or all there are.
pub fn probe(
    args: &ProbeArgs,
    trained: (&Encoder, &Params),
    untrained: (Encoder, Params),
    splits: &Splits,
) -> Result<()> {
    let (most_train, most_test) = args.probe_images.unwrap_or((usize::MAX, usize::MAX));
    let (train, test) =
        (Subset::even(Arc::clone(&splits.train), most_train), Subset::even(Arc::clone(&splits.test), most_test));
    let (train, test, normalization): (&dyn Dataset, &dyn Dataset, _) = (&train, &test, &splits.normalization()?);
    let k = trained.0.config().depth.min(4);
    let progress = Progress::new(2 * (train.len() + test.len()), "features");
    let features = |encoder: &Encoder, params: &Params, data: &dyn Dataset| {
        eval::pooled_features(encoder, params, (data, normalization), k, &|n| {
            progress.advance(n, String::new);
            signals::go_on()
        })
    };
    let of = |name, (encoder, params): (&Encoder, &Params)| -> Result<Probed> {
        Ok(Probed { name, train: features(encoder, params, train)?, test: features(encoder, params, test)? })
    };
    let mut probed = vec![of("trained encoder", trained)?, of("untrained encoder", (&untrained.0, &untrained.1))?];
    drop(untrained);
    progress.finish();
    let pixels = |data: &dyn Dataset| eval::pixel_features(data, normalization);
    probed.push(Probed { name: "raw pixels", train: vec![pixels(train)?], test: vec![pixels(test)?] });

    let (train_labels, test_labels) = (labelled(train)?, labelled(test)?);
    let classes = train.class_names().len();
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let mut rows = Vec::new();
    for Probed { name, train, test } in &probed {
        let linear = |train: &Features, test: &Features| {
            let config = ProbeConfig::default();
            eval::linear_probe((train, &train_labels), (test, &test_labels), classes, &config)
        };
        let (last_train, last_test) = (&train[train.len() - 1], &test[test.len() - 1]);
        let knn = eval::knn_top1((last_train, &train_labels), (last_test, &test_labels), classes, KnnConfig::default());
        let last = linear(last_train, last_test);
        let concatenated = match train.len() {
            1 => "-".to_owned(),
            _ => percent(linear(&Features::concat(train), &Features::concat(test)).test_top1),
        };
        let rank = format!("{:.1} of {}", eval::rank_me(last_test), last_test.dim());
        rows.push(vec![name.to_string(), percent(last.test_top1), concatenated, percent(knn), rank]);
    }
    let last = format!("linear, last {k}");
    println!("{} images, tested on {}; chance is {}", train.len(), test.len(), percent(1.0 / classes as f64));
    println!("{}", table(&["features", "linear, last block", &last, "20-NN", "rank (RankMe)"], &rows));
    Ok(())
}
