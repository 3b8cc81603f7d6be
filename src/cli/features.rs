//! `stop-mim features`

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args as ClapArgs;
use rayon::prelude::*;

use super::encoder::{EncoderArgs, Opened, source};
use super::options::{DeviceArgs, OpenArgs};
use super::progress::Progress;
use super::signals;
use crate::data::{self, BadImages, Dataset, InMemory, Normalization, OpenOptions, evaluation_images, folder};
use crate::tensor::{DType, Tensor};
use crate::train::safetensors::{Extra, TensorFile, write_rows};
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
    #[command(flatten)]
    device: DeviceArgs,
}

pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let read = [Some(&*args.encoder.file), args.images.as_deref()];
    files::check_is_none_of(&args.out, &read.into_iter().flatten().collect::<Vec<_>>())?;
    files::check_writable(&args.out)?;
    let mut found = args.encoder.load()?;
    found.model = found.model.to_device(device);
    let (side, options) = (found.model.encoder.config().image_size, args.open.options());
    let (images, tokens, verb, normalization) = if let Some(path) = &args.images {
        let sets: Vec<Arc<dyn Dataset>> = vec![Arc::new(InMemory::new(normalized_images(path, side)?)?)];
        let images = Images { sets, normalization: Normalization::NONE, folder: None };
        (images, !args.pooled, "expects pixels", found.preprocessing.normalization())
    } else {
        let spec = data::absolute_spec(args.data.as_deref().unwrap_or_default())?; // --images or --data is required
        let images = Images::open(&spec, &found, options)?;
        let normalization = images.normalization.clone();
        (images, args.tokens, "pixels are", Some(normalization))
    };
    match normalization {
        Some(Normalization { mean, std }) => {
            let source = source(&found.preprocessing);
            say!("{verb} normalized by mean {mean:?} and standard deviation {std:?} ({source})");
        }
        None => say!(
            "{verb} normalized as the checkpoint's run had them: by what its data set publishes or, of a thousand of its \
             images, by what is measured (the checkpoint is one of 0.1.0 and does not say)"
        ),
    }
    signals::listen(); // not before: nothing asks while images are listed, or decoded with --strict
    let may_leave_out = images.folder.is_some() && options.bad_images == BadImages::Skip;
    let shape = encode(&found, &images, may_leave_out, tokens, &args.out)?;
    let without = match images.sets.iter().map(|set| set.skipped()).sum::<usize>() {
        0 => String::new(),
        n => format!("; {n} images could not be used and are left out"),
    };
    say!("{}: features of {shape:?} in {}{without}", found.what, args.out.display());
    Ok(())
}

/// What is to be encoded.
struct Images {
    /// One after the other.
    sets: Vec<Arc<dyn Dataset>>,
    normalization: Normalization,
    /// The only set, if it is a folder, whose files have names.
    folder: Option<Arc<folder::Folder>>,
}

/// The number of an image in its set, after that of the set.
type Number = (usize, usize);

impl Images {
    fn open(spec: &str, found: &Opened, options: OpenOptions) -> Result<Self> {
        let side = found.model.encoder.config().image_size;
        let Some(dir) = spec.strip_prefix("folder:").filter(|dir| !dir.is_empty()) else {
            let splits = data::open_with(spec, side, options)?;
            let normalization = found.preprocessing.on(&splits)?;
            return Ok(Images { sets: vec![splits.train, splits.test], normalization, folder: None });
        };
        let folder = Arc::new(folder::open_all(Path::new(dir), side, options.bad_images)?);
        let normalization = found.preprocessing.normalization().ok_or_else(|| {
            let problem = "the checkpoint is an old one that does not say how its images were normalized";
            Error::config(problem, "say it: --mean R,G,B --std R,G,B")
        })?;
        Ok(Images { sets: vec![folder.clone()], normalization, folder: Some(folder) })
    }

    fn len(&self) -> usize {
        self.sets.iter().map(|set| set.len()).sum()
    }

    /// All images in their order, at most `most` at a time, none of two sets together.
    fn batches(&self, most: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.sets.iter().enumerate().flat_map(move |(set, images)| {
            let n = images.len();
            (0..n).step_by(most).map(move |start| (set, start..n.min(start + most)))
        })
    }

    /// What is known of the images that were kept: names of files, or labels.
    fn beside(&self, kept: &[Number]) -> Vec<(String, Extra)> {
        if let Some(folder) = &self.folder {
            let names = kept.iter().map(|(_, i)| folder.path(*i).as_os_str().as_encoded_bytes());
            return vec![("names".into(), Extra::Bytes(names.collect::<Vec<_>>().join(&0)))];
        }
        let label = |(set, i): &Number| self.sets[*set].label(*i).map(|label| label as i32);
        let labels: Option<Vec<i32>> = kept.iter().map(label).collect();
        labels.map(|labels| ("labels".into(), Extra::Integers(labels))).into_iter().collect()
    }
}

fn normalized_images(path: &Path, side: usize) -> Result<Tensor> {
    let mut file = TensorFile::open(path, "give a safetensors file with a tensor images")?;
    // Before they are read: the file may be a large one of something else.
    let shape = file.shape("images")?;
    let hint = match shape[..] {
        [0, _, _, _] => "give at least one image",
        [_, 3, height, width] if [height, width] == [side, side] => return file.tensor("images", DType::F32),
        [_, 3, _, _] => "resize them, or choose another --image-size",
        _ => "give images of red, green and blue, one plane after the other",
    };
    Err(Error::file(path, format!("images of {shape:?} for an encoder of [B, 3, {side}, {side}]"), hint))
}

/// Images that one thread encodes at a time, where there are many and their features are small: few enough that they stay in
/// its cache.
const BATCH: usize = 8;
/// Bytes of features that wait to be written, but for one batch a thread.
const WAITING: usize = 256 << 20;

/// The features of some images, and their numbers: without those that cannot be used, of which the folder says what is wrong.
#[derive(Default)]
struct Encoded {
    features: Vec<f32>,
    images: Vec<Number>,
}

/// Encodes all images and writes what comes out, in their order, whichever thread was first; gives its shape.
fn encode(found: &Opened, images: &Images, may_leave_out: bool, tokens: bool, out: &Path) -> Result<Vec<usize>> {
    let sizes = found.model.encoder.config();
    let row = if tokens { vec![sizes.patches() + usize::from(sizes.class_token), sizes.dim] } else { vec![sizes.dim] };
    let bytes = size_of::<f32>() * row.iter().product::<usize>();
    let batch = if images.len() >= 32 * BATCH && bytes <= WAITING / 128 { BATCH } else { 1 };
    let threads = rayon::current_num_threads();
    let group = (WAITING / (batch * bytes)).clamp(threads, 16 * threads);

    let forward = |set: usize, range: Range<usize>| -> Result<Encoded> {
        signals::check()?;
        let pixels = evaluation_images(&*images.sets[set], range.clone(), &images.normalization)?;
        let x = Tensor::new([range.len(), 3, sizes.image_size, sizes.image_size], pixels);
        let features = if tokens { found.model.tokens(&x) } else { found.model.features(&x) }?;
        Ok(Encoded { features: features.as_slice().to_vec(), images: range.map(|i| (set, i)).collect() })
    };
    let unless_bad = |encoded: Result<Encoded>| match encoded {
        Err(Error::Io { .. } | Error::File { .. }) if may_leave_out => Ok(None),
        encoded => encoded.map(Some),
    };
    let encoded = |(set, range): (usize, Range<usize>)| -> Result<Encoded> {
        if let Some(all) = unless_bad(forward(set, range.clone()))? {
            return Ok(all);
        }
        // One of them cannot be used: one by one.
        let mut some = Encoded::default();
        for i in range {
            if let Some(one) = unless_bad(forward(set, i..i + 1))? {
                some.features.extend(one.features);
                some.images.extend(one.images);
            }
        }
        Ok(some)
    };
    let progress = Progress::new(images.len(), "features");
    let mut kept = Vec::new();
    let count = write_rows(out, "features", &row, |take| {
        let mut batches = images.batches(batch);
        loop {
            let next: Vec<_> = batches.by_ref().take(group).collect();
            if next.is_empty() {
                break;
            }
            let images: usize = next.iter().map(|(_, range)| range.len()).sum();
            for Encoded { features, images } in next.into_par_iter().map(encoded).collect::<Result<Vec<_>>>()? {
                take(&features)?;
                kept.extend(images);
            }
            progress.advance(images, String::new);
        }
        progress.finish();
        if kept.is_empty() {
            return Err(Error::config("no image could be used", "see above what is wrong with each"));
        }
        Ok(images.beside(&kept))
    })?;
    Ok([&[count], &row[..]].concat())
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;

    use super::*;
    use crate::data::testing::Made;
    use crate::nn::LinearInit;
    use crate::train::weights::{Preprocessing, PretrainedEncoder, fresh_encoder};
    use crate::vit::{EncoderConfig, Preset};

    /// Enough images, of two sets, that several are encoded at a time; one among them cannot be used.
    #[test]
    fn features_and_labels_are_those_of_the_images_that_can_be_used_in_their_order() {
        let sizes = EncoderConfig { image_size: 8, dim: 8, depth: 1, heads: 2, ..Preset::Toy.into() };
        let (linear_init, seed) = (LinearInit::Normal, 0);
        let (encoder, params) = fresh_encoder(&sizes, linear_init, seed).unwrap();
        let model = PretrainedEncoder { encoder, params };
        let (what, preprocessing) = (String::new(), Preprocessing::ImageNet);
        let found = Opened { what, model, data: None, preprocessing, linear_init, seed };
        let set = |labels: Range<usize>| -> Arc<dyn Dataset> {
            Arc::new(Made::labeled(labels.map(Some).collect(), 8, |index, _, out: &mut [u8]| {
                out.iter_mut().enumerate().for_each(|(i, v)| *v = (i * i * (index + 3) % 251) as u8);
                if index == 11 { Err(Error::file("11", "is bad", "mend it")) } else { Ok(()) }
            }))
        };
        let (sets, normalization) = (vec![set(0..300), set(300..309)], Normalization::IMAGENET);
        let images = Images { sets, normalization, folder: None };
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("features");
        assert!(encode(&found, &images, false, false, &out).is_err() && !out.exists());
        assert_eq!(encode(&found, &images, true, false, &out).unwrap(), [308, 8]);
        let bytes = std::fs::read(&out).unwrap();
        let labels = SafeTensors::deserialize(&bytes).unwrap().tensor("labels").unwrap().data().to_vec();
        let labels = labels.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
        assert!(labels.eq((0..309).filter(|label| *label != 11)));
        let features = TensorFile::open(&out, "").unwrap().tensor("features", DType::F32).unwrap();
        for (row, set, index) in [(0, 0, 0), (10, 0, 10), (11, 0, 12), (298, 0, 299), (299, 1, 0), (307, 1, 8)] {
            let pixels = evaluation_images(&*images.sets[set], index..index + 1, &images.normalization).unwrap();
            let alone = found.model.features(&Tensor::new([1, 3, 8, 8], pixels)).unwrap();
            assert!(features.rows(row..row + 1).max_abs_diff(&alone) < 1e-6, "image {index} of set {set}");
        }
    }
}
