//! Features of a whole data set: the average of an image's tokens, by a frozen encoder.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::autograd::Var;
use crate::data::{Dataset, Normalization, evaluation_images, resized};
use crate::nn::Params;
use crate::processes::World;
use crate::tensor::{Device, Tensor};
use crate::vit::{Encoder, EncoderConfig};
use crate::{Error, Result};

/// The most images that one thread encodes at a time, and the most numbers in the tokens of a layer of theirs: few enough
/// to stay in a core's cache, and for a request to stop to be heard soon.
const BATCH: usize = 8;
const NUMBERS: usize = 1 << 16;

/// The side of the images whose [pixels are features](pixel_features), in pixels: that of CIFAR's.
pub const PIXEL_SIDE: usize = 32;

/// The average-pooled tokens `[images, dim]` of every image in `dataset`, un-augmented, for each of the last `k` blocks
/// (each through the last norm; the deepest at the end). A class token is left out of the average.
///
/// Paper, appendix C.1: the target encoder is applied to the image and its tokens are averaged; it stays fixed.
/// `progress` is told how many more images are done; an error of its ends the work, as when the user asks to stop.
///
/// # Errors
/// When an image cannot be read, there is no memory for so many features, or `progress` says so.
///
/// # Panics
/// When the images are not of the encoder's size, or it has fewer than `k` blocks.
pub fn pooled_features(
    encoder: &Encoder,
    params: &Params,
    (dataset, normalization): (&dyn Dataset, &Normalization),
    k: usize,
    progress: &(dyn Fn(usize) -> Result<()> + Sync),
) -> Result<Vec<Tensor>> {
    pooled_features_together(&World::alone(), (encoder, params), (dataset, normalization), k, progress)
}

/// [`pooled_features`] in several processes, all of which call it: each encodes some of the images, and the first gets the
/// features of all, the bits of one process. The others get their own.
///
/// # Errors
/// As [`pooled_features`], the same in all processes.
///
/// # Panics
/// As [`pooled_features`].
pub fn pooled_features_together(
    world: &World,
    (encoder, params): (&Encoder, &Params),
    (dataset, normalization): (&dyn Dataset, &Normalization),
    k: usize,
    progress: &(dyn Fn(usize) -> Result<()> + Sync),
) -> Result<Vec<Tensor>> {
    let (images, dim) = (dataset.len(), encoder.config().dim);
    let batch = (NUMBERS / (encoder.config().patches() * dim)).clamp(1, BATCH);
    // Whole batches, so that they are those of one process.
    let start = |process: usize| (images.div_ceil(batch) * process / world.size() * batch).min(images);
    let of = |process: usize| start(process)..start(process + 1);
    if world.size() == 1 {
        let own = encoded((encoder, params), (dataset, normalization), k, (0..images, batch), progress)?;
        return Ok(own.into_iter().map(|block| Tensor::new([images, dim], block)).collect());
    }
    let own = || {
        let own = encoded((encoder, params), (dataset, normalization), k, (of(world.rank()), batch), progress)?;
        let whole = if world.is_first() { (0..k).map(|_| zeros(images, dim)).collect::<Result<_>>()? } else { vec![] };
        Ok((own, whole))
    };
    let (own, mut whole): (Vec<Vec<f32>>, Vec<Vec<f32>>) = world.agree(own())?;
    world.together(|| {
        if !world.is_first() {
            world.exchange(&own.iter().map(|block| (0, &block[..])).collect::<Vec<_>>(), &mut []);
        }
        for (own, whole) in own.iter().zip(&mut whole) {
            let (mine, mut others) = whole.split_at_mut(of(0).len() * dim);
            mine.copy_from_slice(own);
            let next = |from: usize| (from, others.split_off_mut(..of(from).len() * dim).expect("room for all"));
            world.exchange(&[], &mut (1..world.size()).map(next).collect::<Vec<_>>());
        }
    });
    let blocks = if world.is_first() { whole } else { own };
    Ok(blocks.into_iter().map(|block| Tensor::new([block.len() / dim, dim], block)).collect())
}

/// The features of some images, in batches of so many, of each of the last `k` blocks.
fn encoded(
    (encoder, params): (&Encoder, &Params),
    (dataset, normalization): (&dyn Dataset, &Normalization),
    k: usize,
    (images, batch): (Range<usize>, usize),
    progress: &(dyn Fn(usize) -> Result<()> + Sync),
) -> Result<Vec<Vec<f32>>> {
    let EncoderConfig { dim, channels, image_size: side, .. } = *encoder.config();
    let skip = usize::from(encoder.config().class_token);
    let mut blocks = (0..k).map(|_| zeros(images.len(), dim)).collect::<Result<Vec<_>>>()?;
    // The places of every batch's features, of each block.
    let mut places: Vec<Vec<&mut [f32]>> = (0..images.len().div_ceil(batch)).map(|_| Vec::with_capacity(k)).collect();
    for block in &mut blocks {
        places.iter_mut().zip(block.chunks_mut(batch * dim)).for_each(|(places, place)| places.push(place));
    }
    let encode = |(i, places): (usize, Vec<&mut [f32]>)| -> Result<()> {
        let start = images.start + i * batch;
        let images = evaluation_images(dataset, start..(start + batch).min(images.end), normalization)?;
        let n = images.len() / (channels * side * side);
        let images = Var::constant(Tensor::new([n, channels, side, side], images));
        let outputs = encoder.last_blocks(&params.constants(), &images, None, k);
        places.into_iter().zip(&outputs).for_each(|(place, x)| mean_over_tokens(x.value(), skip, place));
        progress(n)
    };
    places.into_par_iter().enumerate().try_for_each(encode)?;
    Ok(blocks)
}

/// The pixels themselves, normalized, as features \[images, 3 · side · side\]: the baseline without an encoder. Larger
/// images are shrunk to [`PIXEL_SIDE`] pixels a side by [`resized()`], as a probe of 3 · 224 · 224 features takes hours.
/// `progress` is as for [`pooled_features`].
///
/// # Errors
/// When an image cannot be read, there is no memory for so many pixels, or `progress` says so.
pub fn pixel_features(
    dataset: &Arc<dyn Dataset>,
    normalization: &Normalization,
    progress: &(dyn Fn(usize) -> Result<()> + Sync),
) -> Result<Tensor> {
    let images = &*resized(Arc::clone(dataset), dataset.image_size().min(PIXEL_SIDE));
    let dim = images.channels() * images.image_size().pow(2);
    let mut pixels = zeros(images.len(), dim)?;
    pixels.par_chunks_mut(BATCH * dim).enumerate().try_for_each(|(i, place)| {
        let (start, n) = (i * BATCH, place.len() / dim);
        place.copy_from_slice(&evaluation_images(images, start..start + n, normalization)?);
        progress(n)
    })?;
    Ok(Tensor::new([images.len(), dim], pixels))
}

/// Zeros for the features of so many images.
fn zeros(rows: usize, dim: usize) -> Result<Vec<f32>> {
    let mut data = Vec::new();
    let enough = rows.checked_mul(dim).is_some_and(|n| data.try_reserve_exact(n).is_ok());
    if !enough {
        let problem = format!("not enough memory for {dim} features of each of {rows} images");
        return Err(Error::config(problem, "choose fewer of the images (`probe images`)"));
    }
    data.resize(rows * dim, 0.0);
    Ok(data)
}

/// Every image's class; `None` where images have no labels.
pub fn labels(dataset: &dyn Dataset) -> Option<Vec<u32>> {
    (0..dataset.len()).map(|i| dataset.label(i).map(|label| label as u32)).collect()
}

/// Adds to `means`, \[B, D\], the mean over the tokens of x, \[B, N, D\], but the first `skip`.
pub fn mean_over_tokens(x: &Tensor, skip: usize, means: &mut [f32]) {
    let [_, tokens, dim] = x.dims("mean over tokens");
    let share = 1.0 / (tokens - skip) as f32;
    let x = x.to_device(Device::Cpu);
    for (image, mean) in x.as_slice::<f32>().chunks_exact(tokens * dim).zip(means.chunks_exact_mut(dim)) {
        for token in image[skip * dim..].chunks_exact(dim) {
            mean.iter_mut().zip(token).for_each(|(mean, x)| *mean += share * x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Shapes;
    use crate::data::shapes::Task;
    use crate::nn::{LinearInit, fresh};
    use crate::processes::threads;
    use crate::rng::{Purpose, stream};
    use crate::tensor::DType;

    #[test]
    fn features_are_the_mean_token_of_each_image_in_order() {
        let config = EncoderConfig {
            image_size: 16,
            patch_size: 8,
            channels: 3,
            dim: 8,
            depth: 2,
            heads: 2,
            mlp_ratio: 4.0,
            class_token: true,
            mask_token: false,
            patch_std: 0.1,
            position_scale: 1.0,
        };
        let mut rng = stream(0, Purpose::Init, [0, 0]);
        let (encoder, params) = fresh(LinearInit::Normal, DType::F32, &mut rng, |init| Encoder::new(&config, init));
        let dataset = Shapes::new(0, 2 * BATCH + 3, 16, Task::Class);
        let normalization = Normalization::measure(&dataset, 10).unwrap();
        let features = pooled_features(&encoder, &params, (&dataset, &normalization), 2, &|_| Ok(())).unwrap();
        assert_eq!((features.len(), &features[0].shape()[..]), (2, &[2 * BATCH + 3, 8][..]));

        for processes in [2, 3, 5] {
            let of_each = threads::run(processes, |world| {
                let images = (&dataset as &dyn Dataset, &normalization);
                pooled_features_together(world, (&encoder, &params), images, 2, &|_| Ok(())).unwrap()
            });
            assert!(
                of_each[0].iter().zip(&features).all(|(one, other)| one.as_slice::<f32>() == other.as_slice::<f32>())
            );
            let of_others = of_each[1..].iter().map(|blocks| blocks[1].shape()[0]).sum::<usize>();
            assert!((BATCH..=2 * BATCH + 3).contains(&of_others), "{of_others}");
        }

        let index = BATCH + 1;
        let image = evaluation_images(&dataset, index..index + 1, &normalization).unwrap();
        let image = Var::constant(Tensor::new([1, 3, 16, 16], image));
        let tokens = encoder.forward(&params.constants(), &image, None);
        let tokens = tokens.value().as_slice::<f32>(); // the class token, then four patches
        for d in 0..8 {
            let mean = (1..5).map(|t| tokens[t * 8 + d]).sum::<f32>() / 4.0;
            assert!((features[1].as_slice::<f32>()[index * 8 + d] - mean).abs() < 1e-5);
        }
    }
}
