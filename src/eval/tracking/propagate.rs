//! Labels from frame to frame: a patch takes those of the patches that resemble it most.
//!
//! Shapes: N patches in h rows and w columns, features of D numbers, C labels with the background.

use std::collections::VecDeque;

use rayon::prelude::*;

use super::{PatchFeatures, TrackConfig, working_size};
use crate::autograd::ops;
use crate::data::resized::Filter;
use crate::data::video::{Clip, Mask};
use crate::eval::CancelCheck;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Frames that are encoded at a time, on as many threads.
const BATCH: usize = 8;

/// What is remembered of a frame.
pub(super) struct Seen {
    /// Features of length 1: \[N, D\].
    pub features: Tensor,
    /// How much of each patch each label has: \[N\]\[C\].
    pub labels: Vec<f32>,
}

/// Finds the mask of every frame of a clip from that of the first, and gives them to `found` in order, at the size of the
/// frames; the first as it is.
///
/// 1. Frames are resized, and their patches encoded.
/// 2. The first frame's patches have the labels that its mask has at their centers.
/// 3. Each further frame's patches get soft labels from those of the first and the last frames, by [`soft_labels`].
/// 4. Soft labels become a mask, by [`harden`]; as they are they are remembered for the frames that follow.
pub(super) fn propagate(
    features: &dyn PatchFeatures,
    clip: &dyn Clip,
    first: &Mask,
    config: &TrackConfig,
    cancel: CancelCheck,
    found: &mut dyn FnMut(usize, &Mask) -> Result<()>,
) -> Result<()> {
    let (size, patch) = (first.size(), features.patch_size());
    let working = working_size(size, patch, config.frame_size)?;
    let grid = working.map(|side| side / patch);
    // 1.
    let encode = |index: usize| -> Result<Tensor> {
        cancel()?;
        let frame = clip.frame(index)?;
        if frame.size() != size {
            let ([h, w], [height, width]) = (frame.size(), size);
            let problem = format!("{}: frame {index} is {w}x{h}, the first mask {width}x{height}", clip.name());
            return Err(Error::config(problem, "give frames and masks of one size"));
        }
        unit_rows(features.features(&frame.resized(working))?, clip.name(), index)
    };
    let classes = usize::from(first.objects()) + 1;
    let mut begun = None;
    let mut last: VecDeque<Seen> = VecDeque::new();
    for start in (0..clip.len()).step_by(BATCH) {
        let batch: Vec<Result<Tensor>> = (start..clip.len().min(start + BATCH)).into_par_iter().map(encode).collect();
        for (index, features) in (start..).zip(batch) {
            let features = features?;
            // 2.
            let Some(beginning) = &begun else {
                begun = Some(Seen { features, labels: one_hot(&first.nearest(grid), classes) });
                found(index, first)?;
                continue;
            };
            // 3.
            cancel()?;
            let context: Vec<&Seen> = std::iter::once(beginning).chain(&last).collect();
            let labels = soft_labels(&features, &context, grid, classes, config);
            // 4.
            found(index, &harden(&labels, grid, classes, working).nearest(size))?;
            last.push_back(Seen { features, labels });
            if last.len() > config.last_frames {
                last.pop_front();
            }
        }
    }
    Ok(())
}

/// The rows of x, \[N, D\], at length 1; a row of zeros stays one.
pub(super) fn unit_rows(x: Tensor, clip: &str, frame: usize) -> Result<Tensor> {
    let mut x = x.to_dtype(DType::F32);
    let dim = x.last_dim();
    for row in x.as_mut_slice::<f32>().chunks_exact_mut(dim) {
        let length = row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        if !length.is_finite() {
            let problem = format!("{clip}: a feature of frame {frame} is not a finite number");
            return Err(Error::config(problem, "look whether the weights are sound, and how frames are normalized"));
        }
        row.iter_mut().for_each(|v| *v = (f64::from(*v) / length.max(f64::MIN_POSITIVE)) as f32);
    }
    Ok(x)
}

/// \[N\]\[C\]: 1 at each patch's label.
pub(super) fn one_hot(mask: &Mask, classes: usize) -> Vec<f32> {
    let mut labels = vec![0.0; mask.labels().len() * classes];
    for (patch, &label) in labels.chunks_exact_mut(classes).zip(mask.labels()) {
        patch[usize::from(label)] = 1.0;
    }
    labels
}

/// The labels of a frame's patches, \[N\]\[C\], each the mean of those of the patches in `context` that resemble it most.
///
/// A patch q looks at all patches p of the context that are within the radius, in rows and in columns. Of these the k with the
/// largest cosine q·p count (and those equal to the k-th), each by exp(q·p / temperature), which is then made to sum to 1.
/// That is a softmax over the k. Rows of patches are independent of each other, and there is never more than one row's cosines
/// at a time on a thread.
pub(super) fn soft_labels(
    features: &Tensor,
    context: &[&Seen],
    [height, width]: [usize; 2],
    classes: usize,
    config: &TrackConfig,
) -> Vec<f32> {
    let radius = if config.radius == 0 { height.max(width) } else { config.radius };
    let around =
        |at: usize, end: usize| at.saturating_sub(radius)..end.min(at.saturating_add(radius).saturating_add(1));
    let mut labels = vec![0.0; height * width * classes];
    labels.par_chunks_exact_mut(width * classes).enumerate().for_each(|(y, labels)| {
        let queries = features.rows(y * width..(y + 1) * width).into();
        let rows = around(y, height);
        let patches = rows.start * width..rows.end * width;
        // Of each frame of the context: [w, rows · w].
        let cosines = |seen: &&Seen| ops::linear(&queries, &seen.features.rows(patches.clone()).into(), None);
        let cosines: Vec<Tensor> = context.iter().map(|seen| cosines(seen).value().clone()).collect();
        let mut near = Vec::new();
        let mut order = Vec::new();
        for (x, label) in labels.chunks_exact_mut(classes).enumerate() {
            let columns = around(x, width);
            near.clear();
            for (frame, cosines) in cosines.iter().enumerate() {
                let cosines = &cosines.as_slice::<f32>()[x * patches.len()..][..patches.len()];
                for row in 0..rows.len() {
                    let place = |column: usize| (row * width + column, frame);
                    near.extend(columns.clone().map(place).map(|(at, frame)| (cosines[at], frame, patches.start + at)));
                }
            }
            order.clear();
            order.extend(near.iter().map(|(cosine, ..)| *cosine));
            let k = config.top_k.min(order.len()) - 1;
            let (larger, kth, _) = order.select_nth_unstable_by(k, |a, b| b.total_cmp(a));
            let (kth, largest) = (*kth, larger.iter().fold(*kth, |a, b| a.max(*b)));
            let mut total = 0.0;
            let mut sums = vec![0.0; classes];
            for (cosine, frame, patch) in near.iter().filter(|(cosine, ..)| *cosine >= kth) {
                // The largest weighs 1: at no temperature does one overflow, nor do all of them vanish.
                let weight = (f64::from(cosine - largest) / config.temperature).exp();
                total += weight;
                let of = &context[*frame].labels[patch * classes..][..classes];
                sums.iter_mut().zip(of).for_each(|(sum, v)| *sum += weight * f64::from(*v));
            }
            label.iter_mut().zip(&sums).for_each(|(v, sum)| *v = (sum / total) as f32);
        }
    });
    labels
}

/// Soft labels of patches, \[N\]\[C\], as a mask of the frame's working size: each label's share is upsampled bilinearly,
/// stretched so that it goes from 0 to 1 over the frame, and the largest wins; of equal ones the first.
pub(super) fn harden(labels: &[f32], grid: [usize; 2], classes: usize, size: [usize; 2]) -> Mask {
    let filter = Filter::rectangular(grid, size);
    let mut best = vec![f32::NEG_INFINITY; size[0] * size[1]];
    let mut mask = vec![0; best.len()];
    for label in 0..classes {
        let plane: Vec<f32> = labels.iter().skip(label).step_by(classes).copied().collect();
        let mut share = filter.resize(&plane);
        let (least, most) = share.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
        // A label that is everywhere, or nowhere, cannot be stretched.
        if most > least {
            share.iter_mut().for_each(|v| *v = (*v - least) / (most - least));
        }
        for ((best, mask), share) in best.iter_mut().zip(&mut mask).zip(share) {
            if share > *best {
                (*best, *mask) = (share, label as u8);
            }
        }
    }
    Mask::new(size, mask)
}
