//! `stop-mim probe`

use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Args as ClapArgs;

use super::encoder::{EncoderArgs, normalization};
use super::flags::{counts, flag};
use super::options::{DeviceArgs, OpenArgs};
use super::progress::Progress;
use super::signals;
use crate::data::{self, Dataset, Normalization, Splits, Subset};
use crate::eval::{self, KnnConfig, PIXEL_SIDE, ProbeConfig, ProbeReport, pooled_features_together as features};
use crate::nn::Params;
use crate::processes::world;
use crate::report::table::Layout;
use crate::train::weights::{PretrainedEncoder, fresh_encoder};
use crate::vit::Encoder;
use crate::{Error, Result, Tensor};

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
    #[command(flatten)]
    device: DeviceArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let found = args.encoder.load()?;
    let Some(spec) = args.data.as_ref().or(found.data.as_ref()) else {
        let problem = "a file of weights does not say on which images it is to be judged";
        return Err(Error::config(problem, "give some: --data folder:DIR"));
    };
    let PretrainedEncoder { encoder, params } = &found.model.to_device(device);
    let splits = data::open_with(spec, encoder.config().image_size, args.open.options())?;
    Chosen::new(&args.probe, &splits)?;
    signals::listen(); // not before: nothing asks while images are listed, or decoded with --strict
    println!("{}, on {}", found.what, splits.train.describe());
    let normalization = normalization(&found.preprocessing, &splits)?;
    let untrained = || fresh_encoder(encoder.config(), found.linear_init, found.seed);
    probe(&args.probe, (encoder, params), &untrained, (&splits, &normalization))
}

/// How much of a data set is probed.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct ProbeArgs {
    /// Probe on this many training and test images, as many of each class as can be [default: all].
    #[arg(long, value_name = "TRAIN,TEST", value_parser = counts)]
    probe_images: Option<[usize; 2]>,
}

/// The images that are probed, and their classes: those of the training images, numbered from 0.
pub struct Chosen {
    train: Arc<dyn Dataset>,
    test: Arc<dyn Dataset>,
    train_labels: Vec<u32>,
    test_labels: Vec<u32>,
    classes: usize,
}

impl Chosen {
    /// An error if these images cannot be probed: to be known before hours of training.
    pub fn new(args: &ProbeArgs, splits: &Splits) -> Result<Self> {
        let [most_train, most_test] = args.probe_images.unwrap_or([usize::MAX; 2]);
        let (train, train_labels) = labeled(&splits.train, most_train)?;
        let (test, test_labels) = labeled(&splits.test, most_test)?;
        let classes = Vec::from_iter(BTreeSet::from_iter(train_labels.iter().copied()));
        let unseen: BTreeSet<u32> =
            test_labels.iter().filter(|label| classes.binary_search(label).is_err()).copied().collect();
        if !unseen.is_empty() {
            let mut names: Vec<&str> =
                unseen.iter().take(5).map(|&label| &*splits.test.class_names()[label as usize]).collect();
            if unseen.len() > names.len() {
                names.push("…");
            }
            let problem = format!(
                "the probe's {} training images are of {} classes, and it would be tested on {} others: {}",
                train.len(),
                classes.len(),
                unseen.len(),
                names.join(", ")
            );
            // Of fewer images than classes, an even choice has none of some.
            let all = BTreeSet::from_iter((0..splits.train.len()).filter_map(|i| splits.train.label(i))).len();
            let hint = if train.len() < all {
                format!("give at least one image of each class: --probe-images {all},{}", test.len())
            } else {
                "add training images of them, or leave them out of the test images".to_owned()
            };
            return Err(Error::config(problem, hint));
        }
        if classes.len() < 2 {
            let problem = format!("{}: images of one class, and nothing to tell apart", splits.train.describe());
            let hint = "give images of at least two classes; perhaps the folders lie further down";
            return Err(Error::config(problem, hint));
        }
        let place = |label: &u32| classes.partition_point(|class| class < label) as u32;
        let [train_labels, test_labels] = [train_labels, test_labels].map(|labels| labels.iter().map(place).collect());
        Ok(Chosen { train, test, train_labels, test_labels, classes: classes.len() })
    }

    fn images(&self) -> usize {
        self.train.len() + self.test.len()
    }
}

/// An even choice of `most` images, and their labels.
fn labeled(images: &Arc<dyn Dataset>, most: usize) -> Result<(Arc<dyn Dataset>, Vec<u32>)> {
    let chosen = Subset::even(Arc::clone(images), most);
    let in_folders = "give images in class folders, as in DIR/train/CLASS/name.jpg and DIR/test/CLASS/name.jpg";
    let (problem, hint) = match eval::labels(&chosen) {
        Some(labels) if !labels.is_empty() => return Ok((Arc::new(chosen), labels)),
        Some(_) => ("no images to probe with", in_folders),
        None if chosen.class_names().is_empty() => ("a probe needs labels, and these images have none", in_folders),
        None => (
            "some of these images are of classes that no training image has",
            "add training images of these classes, or take them out of the test images",
        ),
    };
    Err(Error::config(format!("{}: {problem}", images.describe()), hint))
}

/// Probes a model, its untrained self and raw pixels, and prints the table, row by row as they are found. The last
/// blocks of the encoder that are concatenated are four, or all there are. Only the features of one row are held at a
/// time.
/// A baseline that cannot be had is a row of dashes, and the reason stands below the table.
pub fn probe(
    args: &ProbeArgs,
    (encoder, params): (&Encoder, &Params),
    untrained: &dyn Fn() -> Result<(Encoder, Params)>,
    (splits, normalization): (&Splits, &Normalization),
) -> Result<()> {
    let chosen = Chosen::new(args, splits)?;
    let Chosen { train, test, train_labels, test_labels, classes } = &chosen;
    let (k, world) = (encoder.config().depth.min(4), world());
    let encoded = |(encoder, params): (&Encoder, &Params), progress: &Tick| {
        let of = |data: &Arc<dyn Dataset>| features(&world, (encoder, params), (&**data, normalization), k, progress);
        Ok([of(train)?, of(test)?])
    };
    let pixels = |progress: &Tick| {
        let of = |data| Ok(vec![eval::pixel_features(data, normalization, progress)?]);
        Ok([of(train)?, of(test)?])
    };
    let untrained = |progress: &Tick| {
        let (encoder, fresh) = untrained()?;
        encoded((&encoder, &fresh.to_device(params.device())), progress)
    };
    let side = train.image_size();
    let raw = if side > PIXEL_SIDE { format!("raw pixels, {PIXEL_SIDE} x {PIXEL_SIDE}") } else { "raw pixels".into() };
    let trained = |progress: &Tick| encoded((encoder, params), progress);
    let rows: [(&str, &Source); 3] =
        [("trained encoder", &trained), ("untrained encoder", &untrained), (&raw, &pixels)];

    if !world.is_first() {
        // The features of some images; the first process has the rest to do.
        return rows[..2].iter().try_for_each(|(_, source)| source(&|_| signals::check()).map(|_| ()));
    }

    let chance = percent(eval::chance(train_labels, test_labels, *classes));
    println!("{} images of {classes} classes, tested on {}; chance is {chance}", train.len(), test.len());
    let last = format!("linear, last {k}");
    let header = ["features", "linear, last block", &last, "20-NN", "rank (RankMe)"];
    let most = encoder.config().dim.max(3 * side.min(PIXEL_SIDE).pow(2));
    let rank = format!("{most}.0 of {most}");
    let widest = rows.map(|(name, _)| [name, "*100.0 %", "*100.0 %", "100.0 %", &rank].map(str::to_owned).to_vec());
    let layout = Layout::of(&header, &widest);
    print!("{}", layout.header(&header));
    let mut notes = BTreeSet::new();
    for (i, (name, source)) in rows.into_iter().enumerate() {
        let progress = Progress::beside_results(chosen.images(), "features");
        let row = judge(name, source, &chosen, &progress, &mut notes);
        progress.clear();
        let cells = match row {
            Ok(cells) => cells,
            Err(Error::Interrupted) => {
                println!("stopped before the row of the {name} was found");
                return Err(Error::Interrupted);
            }
            Err(error) if i == 0 => return Err(error),
            Err(error) => {
                notes.insert(format!("{name}: {}", error.renamed(flag)));
                ["-"; 4].map(str::to_owned)
            }
        };
        let row = [&[name.to_owned()][..], &cells].concat();
        print!("{}", layout.row(&row));
    }
    for note in &notes {
        println!("{note}");
    }
    println!();
    Ok(())
}

/// Is told how many more images are done.
type Tick<'a> = dyn Fn(usize) -> Result<()> + Sync + 'a;

/// Makes the features of training and test images, of one block or several.
type Source<'a> = dyn Fn(&Tick) -> Result<[Vec<Tensor>; 2]> + 'a;

/// The cells of a row but the first. What is to be said below the table is added to `notes`.
fn judge(
    name: &str,
    source: &Source,
    chosen: &Chosen,
    progress: &Progress,
    notes: &mut BTreeSet<String>,
) -> Result<[String; 4]> {
    let [train, test] = source(&|n| {
        progress.advance(n, || name.to_owned());
        signals::check()
    })?;
    for (features, images) in [(&train, "training"), (&test, "test")] {
        features.iter().try_for_each(|block| eval::check_finite(block, &format!("{name}, {images} images")))?;
    }
    let Chosen { train_labels, test_labels, classes, .. } = chosen;
    let config = ProbeConfig::default();
    let mut linear = |train: &Tensor, test: &Tensor| -> Result<String> {
        let (train, test) = ((train, &train_labels[..]), (test, &test_labels[..]));
        let ProbeReport { test_top1, converged, .. } =
            eval::linear_probe(train, test, *classes, &config, &signals::check)?;
        let mark = if converged { "" } else { "*" };
        if !converged {
            let most = config.max_iterations;
            notes.insert(format!("* the fit did not converge, in {most} steps or to what f32 can tell: a lower bound"));
        }
        Ok(format!("{mark}{}", percent(test_top1)))
    };
    let doing = |what: &str| progress.note(format!("{name}: {what}"));
    let last = train.len() - 1;
    doing("linear probe of the last block");
    let of_last = linear(&train[last], &test[last])?;
    doing("nearest neighbors");
    let (labeled_train, labeled_test) = ((&train[last], &train_labels[..]), (&test[last], &test_labels[..]));
    let knn = eval::knn_top1(labeled_train, labeled_test, *classes, KnnConfig::default(), &signals::check)?;
    doing("rank");
    let rank = format!("{:.1} of {}", eval::rank_me(&test[last], &signals::check)?, test[last].last_dim());
    let of_all = if last == 0 {
        "-".to_owned()
    } else {
        doing("linear probe of the last blocks");
        let [train, test] =
            [train, test].map(|blocks: Vec<Tensor>| Tensor::concat(&blocks.iter().collect::<Vec<_>>(), 1));
        linear(&train, &test)?
    };
    Ok([of_last, of_all, percent(knn), rank])
}

fn percent(x: f64) -> String {
    format!("{:.1} %", 100.0 * x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Made;
    use crate::nn::LinearInit;
    use crate::vit::Preset;

    /// Images of 8×8, each of noise of its own, with these labels.
    fn splits(train: &[Option<usize>], test: &[Option<usize>]) -> Splits {
        let noise = |index: usize, _: bool, out: &mut [u8]| {
            out.iter_mut().enumerate().for_each(|(i, v)| *v = (i * i * (index + 3) % 251) as u8);
            Ok(())
        };
        let [train, test] = [train, test].map(|labels| Arc::new(Made::labeled(labels.to_vec(), 8, noise)));
        Splits::new(train, test).with_normalization(Normalization::IMAGENET)
    }

    const ALL: ProbeArgs = ProbeArgs { probe_images: None };

    #[test]
    fn a_probe_that_cannot_be_made_says_why() {
        let [a, b, c] = [0, 1, 2].map(Some);
        let message = |args: ProbeArgs, train: &[Option<usize>], test: &[Option<usize>]| {
            Chosen::new(&args, &splits(train, test)).err().unwrap().to_string()
        };
        // A test image of a class that no training image has is without a label.
        let hidden = message(ALL, &[a, b], &[a, None]);
        assert!(hidden.contains("of classes that no training image has"), "{hidden}");
        let alike = message(ALL, &[a, a], &[a]);
        assert!(alike.contains("images of one class"), "{alike}");
        assert!(message(ALL, &[a], &[]).contains("0 images: no images to probe with"));
        let unseen = message(ALL, &[a, b, b], &[a, c]);
        assert!(unseen.contains("1 others: 2") && unseen.contains("add training images of them"), "{unseen}");
        let many: Vec<_> = (1..8).map(Some).collect();
        let unseen = message(ALL, &[a], &many);
        assert!(unseen.contains("7 others: 1, 2, 3, 4, 5, …"), "{unseen}");
        let few = ProbeArgs { probe_images: Some([2, 9]) };
        let unseen = message(few, &[a, a, b, c], &[a, b, c]);
        assert!(unseen.contains("1 others") && unseen.contains("--probe-images 3,3"), "{unseen}");
        Chosen::new(&ProbeArgs { probe_images: Some([3, 3]) }, &splits(&[a, a, b, c], &[a, b, c])).unwrap();
    }

    #[test]
    fn classes_are_those_of_the_training_images_numbered_anew() {
        let labels = |labels: &[usize]| labels.iter().copied().map(Some).collect::<Vec<_>>();
        let chosen = Chosen::new(&ALL, &splits(&labels(&[7, 2, 5, 2]), &labels(&[5, 7]))).unwrap();
        assert_eq!((chosen.classes, chosen.train_labels, chosen.test_labels), (3, vec![2, 0, 1, 0], vec![1, 2]));
    }

    #[test]
    fn without_a_baseline_the_rest_is_found_and_without_the_encoder_nothing() {
        let labels: Vec<_> = (0..20).map(|i| Some(i % 2)).collect();
        let splits = splits(&labels, &labels);
        let sizes = crate::vit::EncoderConfig { image_size: 8, depth: 1, ..Preset::Toy.sizes().0 };
        let fresh = || fresh_encoder(&sizes, LinearInit::Normal, 0);
        let (encoder, params) = fresh().unwrap();
        let probed = |params: &Params, untrained: &dyn Fn() -> Result<(Encoder, Params)>| {
            probe(&ALL, (&encoder, params), untrained, (&splits, &Normalization::IMAGENET))
        };
        probed(&params, &fresh).unwrap();
        probed(&params, &|| Err(Error::config("no memory", "buy some"))).unwrap();
        assert!(matches!(probed(&params, &|| Err(Error::Interrupted)), Err(Error::Interrupted)));
        let mut broken = params.clone();
        broken.iter_mut().for_each(|p| p.value.as_mut_slice::<f32>().fill(f32::NAN));
        let message = probed(&broken, &fresh).unwrap_err().to_string();
        assert!(message.contains("trained encoder, training images: feature 0 of image 0 is NaN"), "{message}");
    }
}
