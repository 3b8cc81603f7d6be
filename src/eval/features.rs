//! Features of a whole data set: the average of an image's tokens, by a frozen encoder.

use rayon::prelude::*;

use super::Features;
use crate::Result;
use crate::autograd::Var;
use crate::data::{Dataset, Normalization, evaluation_images};
use crate::nn::Params;
use crate::tensor::Tensor;
use crate::vit::Encoder;

/// Images that one thread encodes at a time: few enough that they stay in its cache.
const BATCH: usize = 8;

/// The average-pooled tokens of every image in `dataset`, un-augmented, for each of the last `k` blocks (each through
/// the last norm; the deepest at the end). A class token is left out of the average.
///
/// Paper, appendix C.1: the target encoder is applied to the image and its tokens are averaged; it stays fixed.
/// `progress` is told how many more images are done; an error of its ends the work, as when the user asks to stop.
///
/// # Errors
/// When an image cannot be read, or `progress` says so.
///
/// # Panics
/// When the images are not of the encoder's size, or it has fewer than `k` blocks.
pub fn pooled_features(
    encoder: &Encoder,
    params: &Params,
    (dataset, normalization): (&dyn Dataset, &Normalization),
    k: usize,
    progress: &(dyn Fn(usize) -> Result<()> + Sync),
) -> Result<Vec<Features>> {
    let (dim, side) = (encoder.config().dim, encoder.config().image_size);
    let skip = usize::from(encoder.config().class_token);
    let starts: Vec<usize> = (0..dataset.len()).step_by(BATCH).collect();
    let pooled = |start: usize| -> Result<Vec<Vec<f32>>> {
        let images = evaluation_images(dataset, start..(start + BATCH).min(dataset.len()), normalization)?;
        let n = images.len() / (3 * side * side);
        let images = Var::constant(Tensor::new([n, 3, side, side], images));
        let outputs = encoder.last_blocks(&params.constants(), &images, None, k);
        progress(n)?;
        Ok(outputs.iter().map(|x| mean_over_tokens(x.value(), skip)).collect())
    };
    // Collected in the order of the images, whichever thread was first.
    let batches = starts.into_par_iter().map(pooled).collect::<Result<Vec<_>>>()?;
    let of_block = |i: usize| batches.iter().flat_map(|outputs| outputs[i].iter().copied()).collect();
    Ok((0..k).map(|i| Features::new(of_block(i), dataset.len(), dim)).collect())
}

/// The pixels themselves, normalised, as features: the baseline that costs nothing.
///
/// # Errors
/// When an image cannot be read.
pub fn pixel_features(dataset: &dyn Dataset, normalization: &Normalization) -> Result<Features> {
    let pixels = evaluation_images(dataset, 0..dataset.len(), normalization)?;
    Ok(Features::new(pixels, dataset.len(), 3 * dataset.image_size().pow(2)))
}

/// Every image's class; `None` where images have no labels.
pub fn labels(dataset: &dyn Dataset) -> Option<Vec<u32>> {
    (0..dataset.len()).map(|i| dataset.label(i).map(|label| label as u32)).collect()
}

/// The mean of an image's tokens, \[B, N, D\] → \[B, D\], without the first `skip`.
pub fn mean_over_tokens(x: &Tensor, skip: usize) -> Vec<f32> {
    let [batch, tokens, dim] = x.dims("mean over tokens");
    let mut means = vec![0.0; batch * dim];
    let share = 1.0 / (tokens - skip) as f32;
    for (image, mean) in x.as_slice::<f32>().chunks_exact(tokens * dim).zip(means.chunks_exact_mut(dim)) {
        for token in image[skip * dim..].chunks_exact(dim) {
            mean.iter_mut().zip(token).for_each(|(mean, x)| *mean += share * x);
        }
    }
    means
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Shapes;
    use crate::data::shapes::Task;
    use crate::methods::{Method, Model, ModelConfig};
    use crate::nn::LinearInit;
    use crate::rng::{Purpose, stream};
    use crate::tensor::DType;
    use crate::vit::{EncoderConfig, PredictorConfig};

    #[test]
    fn features_are_the_mean_token_of_each_image_in_order() {
        let encoder = EncoderConfig {
            image_size: 16,
            patch_size: 8,
            dim: 8,
            depth: 2,
            heads: 2,
            mlp_ratio: 4.0,
            class_token: true,
            patch_std: 0.1,
            position_scale: 1.0,
        };
        let predictor = PredictorConfig { dim: 4, depth: 1, heads: 1, learned_positions: false, embed_std: 0.02 };
        let config = ModelConfig {
            method: Method::Mae { normalize_patches: false },
            encoder,
            predictor,
            linear_init: LinearInit::Normal,
        };
        let (model, params) = Model::new(&config, DType::F32, &mut stream(0, Purpose::Init, [0, 0])).unwrap();
        let dataset = Shapes::new(0, 2 * BATCH + 3, 16, Task::Class);
        let normalization = Normalization::measure(&dataset, 10).unwrap();
        let features =
            pooled_features(&model.encoder, &params.encoder, (&dataset, &normalization), 2, &|_| Ok(())).unwrap();
        assert_eq!((features.len(), features[0].rows(), features[0].dim()), (2, 2 * BATCH + 3, 8));

        let index = BATCH + 1;
        let image = evaluation_images(&dataset, index..index + 1, &normalization).unwrap();
        let image = Var::constant(Tensor::new([1, 3, 16, 16], image));
        let tokens = model.encoder.forward(&params.encoder.constants(), &image, None);
        let tokens = tokens.value().as_slice::<f32>(); // the class token, then four patches
        for d in 0..8 {
            let mean = (1..5).map(|t| tokens[t * 8 + d]).sum::<f32>() / 4.0;
            assert!((features[1].row(index)[d] - mean).abs() < 1e-5);
        }
    }
}
