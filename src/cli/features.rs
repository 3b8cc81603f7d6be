//! `stop-mim features`

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args as ClapArgs;
use rayon::prelude::*;

use super::encoder::{EncoderArgs, Opened};
use super::options::OpenArgs;
use super::progress::Progress;
use super::signals;
use crate::autograd::Var;
use crate::data::{self, BadImages, Dataset, Normalization, OpenOptions, Splits, evaluation_images, folder};
use crate::eval::mean_over_tokens;
use crate::tensor::{DType, Tensor};
use crate::train::safetensors::{Beside, TensorFile, write_rows};
use crate::{Error, Result, files};

#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Images to encode: every one under DIR with folder:DIR; of the other data sets of pretrain those for training, then
    /// those for testing.
    #[arg(long, value_name = "DATA", required_unless_present = "images", conflicts_with = "images")]
    data: Option<String>,
    /// A safetensors file with a tensor `images` of [B, 3, S, S], normalized already: pixels from 0 to 1, less the mean, over
    /// the standard deviation that the program prints.
    #[arg(long, value_name = "FILE")]
    images: Option<PathBuf>,
    /// Every token after the last norm, [B, N, D], a class token first: what --images gives.
    #[arg(long, conflicts_with = "pooled")]
    tokens: bool,
    /// The mean of an image's tokens but the class token, [B, D]: what --data gives.
    #[arg(long)]
    pooled: bool,
    #[command(flatten)]
    open: OpenArgs,
    /// Where to write: a safetensors file with a tensor `features`; with --data also `names` or `labels`, see
    /// docs/interop.md.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let read = [Some(&*args.encoder.file), args.images.as_deref()];
    files::check_is_none_of(&args.out, &read.into_iter().flatten().collect::<Vec<_>>())?;
    files::check_writable(&args.out)?;
    let found = args.encoder.load()?;
    let images = match (&args.data, &args.images) {
        (Some(spec), _) => Images::open(&data::absolute_spec(spec)?, &found, args.open.options())?,
        (None, Some(path)) => Images::Tensor(normalized_images(path, found.encoder.config().image_size)?),
        (None, None) => return Err(Error::config("no images", "give some: --data folder:DIR, or --images FILE")),
    };
    let tokens = if args.images.is_some() { !args.pooled } else { args.tokens };
    let verb = if args.images.is_some() { "expects pixels" } else { "pixels are" };
    match images.normalization().or(found.preprocessing.said()) {
        Some(Normalization { mean, std }) => {
            say!("{verb} normalized by mean {mean:?} and standard deviation {std:?} ({})", found.preprocessing);
        }
        None => say!(
            "{verb} normalized as the checkpoint's run had them: by what its data set publishes or, of a thousand of its \
             images, by what is measured (the checkpoint is one of 0.1.0 and does not say)"
        ),
    }
    signals::listen(); // not before: nothing asks while images are listed, or decoded with --strict
    let shape = encode(&found, &images, tokens, &args.out)?;
    let without = match images.skipped() {
        0 => String::new(),
        n => format!("; {n} images could not be used and are left out"),
    };
    say!("{}: features of {shape:?} in {}{without}", found.what, args.out.display());
    Ok(())
}

/// What is to be encoded.
enum Images {
    /// \[B, 3, S, S\], normalized.
    Tensor(Tensor),
    /// Data sets, one after the other, and how they are normalized.
    Sets(Vec<Arc<dyn Dataset>>, Normalization),
    /// A folder, whose files have names.
    Folder(folder::Folder, Normalization, BadImages),
}

impl Images {
    fn open(spec: &str, found: &Opened, options: OpenOptions) -> Result<Self> {
        let side = found.encoder.config().image_size;
        let Some(dir) = spec.strip_prefix("folder:").filter(|dir| !dir.is_empty()) else {
            let splits = data::open_with(spec, side, options)?;
            let normalization = found.preprocessing.on(&splits)?;
            let Splits { train, test, .. } = splits;
            return Ok(Images::Sets(vec![train, test], normalization));
        };
        let folder = folder::open_all(Path::new(dir), side, options.bad_images)?;
        let normalization = found.preprocessing.said().ok_or_else(|| {
            let problem = "the checkpoint is an old one that does not say how its images were normalized";
            Error::config(problem, "say it: --mean R,G,B --std R,G,B")
        })?;
        Ok(Images::Folder(folder, normalization, options.bad_images))
    }

    fn len(&self) -> usize {
        match self {
            Images::Tensor(images) => images.shape()[0],
            Images::Sets(sets, _) => sets.iter().map(|set| set.len()).sum(),
            Images::Folder(folder, ..) => folder.len(),
        }
    }

    fn normalization(&self) -> Option<Normalization> {
        match self {
            Images::Tensor(_) => None,
            Images::Sets(_, normalization) | Images::Folder(_, normalization, _) => Some(normalization.clone()),
        }
    }

    /// Those of `range`, which lie in one data set, as an encoder takes them.
    fn pixels(&self, range: Range<usize>) -> Result<Vec<f32>> {
        match self {
            Images::Tensor(images) => Ok(images.rows(range).as_slice().to_vec()),
            Images::Folder(folder, normalization, _) => evaluation_images(folder, range, normalization),
            Images::Sets(sets, normalization) => {
                let (set, first) = within(sets, range.start);
                evaluation_images(&*sets[set], range.start - first..range.end - first, normalization)
            }
        }
    }

    /// The next `most` images from `start` on, or fewer where a data set ends.
    fn next(&self, start: usize, most: usize) -> Range<usize> {
        let end = match self {
            Images::Sets(sets, _) => {
                let (set, first) = within(sets, start);
                first + sets[set].len()
            }
            _ => self.len(),
        };
        start..(start + most).min(end)
    }

    fn label(&self, index: usize) -> Option<usize> {
        match self {
            Images::Tensor(_) => None,
            Images::Folder(folder, ..) => folder.label(index),
            Images::Sets(sets, _) => {
                let (set, first) = within(sets, index);
                sets[set].label(index - first)
            }
        }
    }

    /// How many files turned out to be of no use so far, those left out at opening included.
    fn skipped(&self) -> usize {
        match self {
            Images::Tensor(_) => 0,
            Images::Folder(folder, ..) => folder.skipped(),
            Images::Sets(sets, _) => sets.iter().map(|set| set.skipped()).sum(),
        }
    }

    /// Whether an image that cannot be used is left out.
    fn may_leave_out(&self) -> bool {
        matches!(self, Images::Folder(_, _, BadImages::Skip))
    }
}

/// In which data set image `index` of all lies, and the number of that set's first image.
fn within(sets: &[Arc<dyn Dataset>], index: usize) -> (usize, usize) {
    let mut first = 0;
    for (k, set) in sets.iter().enumerate() {
        if index < first + set.len() {
            return (k, first);
        }
        first += set.len();
    }
    panic!("image {index} of {first}")
}

fn normalized_images(path: &Path, side: usize) -> Result<Tensor> {
    let mut file = TensorFile::open(path, "give a safetensors file with a tensor images")?;
    // Before they are read: the file may be a large one of something else.
    let shape = file.shape("images")?;
    let hint = match shape[..] {
        [0, _, _, _] => Some("give at least one image"),
        [_, 3, height, width] if [height, width] == [side, side] => None,
        [_, 3, _, _] => Some("resize them, or choose another --image-size"),
        _ => Some("give images of red, green and blue, one plane after the other"),
    };
    match hint {
        None => file.tensor("images", DType::F32),
        Some(hint) => {
            let problem = format!("images of {shape:?} for an encoder of [B, 3, {side}, {side}]");
            Err(Error::file(path, problem, hint))
        }
    }
}

/// Images that one thread encodes at a time, where there are many and their features are small: few enough that they stay in
/// its cache.
const BATCH: usize = 8;
/// Bytes of features that wait to be written, but for one batch a thread.
const WAITING: usize = 256 << 20;

/// The features of some images.
struct Encoded {
    features: Vec<f32>,
    /// The numbers of the images that have features.
    images: Vec<usize>,
    /// How many have none, as they cannot be used; the folder says what is wrong with them.
    bad: usize,
}

/// Encodes all images and writes what comes out, in their order, whichever thread was first; gives its shape.
fn encode(found: &Opened, images: &Images, tokens: bool, out: &Path) -> Result<Vec<usize>> {
    let sizes = found.encoder.config();
    let (dim, side, class) = (sizes.dim, sizes.image_size, usize::from(sizes.class_token));
    let row = if tokens { vec![sizes.patches() + class, dim] } else { vec![dim] };
    let bytes = size_of::<f32>() * row.iter().product::<usize>();
    let batch = if images.len() >= 32 * BATCH && bytes <= WAITING / 128 { BATCH } else { 1 };
    let threads = rayon::current_num_threads();
    let group = (WAITING / (batch * bytes)).clamp(threads, 16 * threads);

    let forward = |range: Range<usize>| -> Result<Vec<f32>> {
        signals::go_on()?;
        let n = range.len();
        let x = Var::constant(Tensor::new([n, 3, side, side], images.pixels(range)?));
        let features = found.encoder.forward(&found.params.constants(), &x, None);
        let features = features.value();
        if tokens {
            return Ok(features.as_slice().to_vec());
        }
        let mut pooled = vec![0.0; features.shape()[0] * features.last_dim()];
        mean_over_tokens(features, class, &mut pooled);
        Ok(pooled)
    };
    let encoded = |range: Range<usize>| -> Result<Encoded> {
        match forward(range.clone()) {
            Ok(features) => return Ok(Encoded { features, images: range.collect(), bad: 0 }),
            Err(Error::Io { .. } | Error::File { .. }) if images.may_leave_out() => {}
            Err(error) => return Err(error),
        }
        // One of them cannot be used: one by one.
        let mut encoded = Encoded { features: Vec::new(), images: Vec::new(), bad: 0 };
        for index in range {
            match forward(index..index + 1) {
                Ok(features) => {
                    encoded.features.extend(features);
                    encoded.images.push(index);
                }
                Err(Error::Io { .. } | Error::File { .. }) => encoded.bad += 1,
                Err(error) => return Err(error),
            }
        }
        Ok(encoded)
    };
    let progress = Progress::new(images.len(), "features");
    let mut kept = Vec::new();
    let count = write_rows(out, "features", &row, |take| {
        let mut start = 0;
        while start < images.len() {
            let mut ranges = Vec::new();
            while ranges.len() < group && start < images.len() {
                let range = images.next(start, batch);
                start = range.end;
                ranges.push(range);
            }
            let done: Vec<Encoded> = ranges.into_par_iter().map(encoded).collect::<Result<_>>()?;
            for Encoded { features, images, bad } in done {
                take(&features)?;
                progress.advance(images.len() + bad, String::new);
                kept.extend(images);
            }
        }
        progress.finish();
        if kept.is_empty() {
            return Err(Error::config("no image could be used", "see above what is wrong with each"));
        }
        Ok(beside(images, &kept))
    })?;
    Ok([&[count], &row[..]].concat())
}

/// What is known of the images that were kept: names of files, or labels.
fn beside(images: &Images, kept: &[usize]) -> Vec<(String, Beside)> {
    if let Images::Folder(folder, ..) = images {
        let names = kept.iter().map(|i| folder.path(*i).as_os_str().as_encoded_bytes()).collect::<Vec<_>>().join(&0);
        return vec![("names".into(), Beside::Bytes(names))];
    }
    let labels: Option<Vec<i32>> = kept.iter().map(|i| images.label(*i).map(|label| label as i32)).collect();
    labels.map(|labels| ("labels".into(), Beside::Integers(labels))).into_iter().collect()
}
