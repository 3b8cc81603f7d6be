//! How much a mask is like the true one: region similarity J and contour accuracy F, as DAVIS defines them (F. Perazzi et al.,
//! 2016, section 4; `metrics.py` of the 2017 evaluation).

use crate::data::video::Mask;

/// The distance up to which contours match, as a share of the frame's diagonal.
const TOLERANCE: f64 = 0.008;

/// J of one object: the pixels that both masks have, of those that one of them has. 1 where neither has any.
///
/// # Panics
/// When the masks differ in size.
#[track_caller]
pub fn region_similarity(truth: &Mask, found: &Mask, object: u8) -> f64 {
    check_sizes(truth, found);
    let pairs = truth.labels().iter().zip(found.labels()).map(|(t, f)| (*t == object, *f == object));
    let (both, either) =
        pairs.fold((0u64, 0u64), |(both, either), (t, f)| (both + u64::from(t && f), either + u64::from(t || f)));
    if either == 0 { 1.0 } else { both as f64 / either as f64 }
}

/// F of one object: the harmonic mean of precision and recall of its contour.
///
/// A found contour pixel is right if there is a true one no farther than ⌈0.008 · diagonal⌉ pixels away, and a true one is
/// recalled likewise. If one mask has no contour and the other has, F is 0; if neither has, 1.
///
/// # Panics
/// When the masks differ in size.
#[track_caller]
pub fn contour_accuracy(truth: &Mask, found: &Mask, object: u8) -> f64 {
    check_sizes(truth, found);
    let [height, width] = truth.size();
    let radius = (TOLERANCE * ((height * height + width * width) as f64).sqrt()).ceil() as usize;
    let (truth, found) = (contour(truth, object), contour(found, object));
    let count = |contour: &[bool]| contour.iter().filter(|on| **on).count();
    let matched = |of: &[bool], with: &[bool]| {
        let near = dilated(with, width, radius);
        of.iter().zip(near).filter(|(on, near)| **on && *near).count()
    };
    match (count(&truth), count(&found)) {
        (0, 0) => 1.0,
        (0, _) | (_, 0) => 0.0,
        (n_truth, n_found) => {
            let precision = matched(&found, &truth) as f64 / n_found as f64;
            let recall = matched(&truth, &found) as f64 / n_truth as f64;
            if precision + recall == 0.0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) }
        }
    }
}

#[track_caller]
fn check_sizes(truth: &Mask, found: &Mask) {
    assert_eq!(truth.size(), found.size(), "scores of masks: their sizes");
}

/// The pixels that differ from the one to the right, below, or to the right below, in whether they are the object's.
/// (Official: `_seg2bmap`. What lies outside of the frame does not count.)
fn contour(mask: &Mask, object: u8) -> Vec<bool> {
    let [height, width] = mask.size();
    let on = |y: usize, x: usize| mask.labels()[y * width + x] == object;
    let differs = |i: usize| {
        let (y, x) = (i / width, i % width);
        let (down, right) = (y + 1 < height, x + 1 < width);
        let here = on(y, x);
        (right && here != on(y, x + 1)) || (down && here != on(y + 1, x)) || (down && right && here != on(y + 1, x + 1))
    };
    (0..height * width).map(differs).collect()
}

/// The pixels no farther than `radius` from one that is on.
fn dilated(pixels: &[bool], width: usize, radius: usize) -> Vec<bool> {
    let mut near = vec![false; pixels.len()];
    let height = pixels.len() / width;
    // Of a disk's rows, from the middle on: how far they reach to each side.
    let reach: Vec<usize> = (0..=radius).map(|dy| (radius * radius - dy * dy).isqrt()).collect();
    for i in (0..pixels.len()).filter(|i| pixels[*i]) {
        let (y, x) = (i / width, i % width);
        for row in y.saturating_sub(radius)..(y + radius + 1).min(height) {
            let reach = reach[row.abs_diff(y)];
            near[row * width + x.saturating_sub(reach)..row * width + (x + reach + 1).min(width)].fill(true);
        }
    }
    near
}
