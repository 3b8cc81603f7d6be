//! Label propagation over video: how well do frozen patch features tell what moved where? (The paper's Tables 3 and 16.)
//!
//! The mask of a clip's first frame is given. Every later patch takes the labels of the patches that resemble it most, in the
//! first frame and in those just before it; the masks that come out are compared with the true ones. Nothing is trained.
//!
//! | step | file |
//! |---|---|
//! | features of a frame's patches: an encoder's, or its pixels | [`features`] |
//! | labels from frame to frame, and from patches to pixels | `propagate` |
//! | region similarity J and contour accuracy F of a mask | [`scores`] |
//!
//! The protocol is that of DINO (M. Caron et al., 2021, after A. Jabri et al., 2020; `eval_video_segmentation.py`), the scores
//! are those of DAVIS 2017 (J. Pont-Tuset et al.), as the paper has it (appendix C.2). docs/tracking.md lists where this
//! differs.

pub mod features;
mod propagate;
pub mod scores;

pub use features::{EncoderFeatures, PatchFeatures, PixelFeatures};
pub use scores::{contour_accuracy, region_similarity};

use super::CancelCheck;
use crate::data::video::{self, Clip, Mask};
use crate::{Error, Result};
use propagate::propagate;

/// How labels are propagated. The default is the official one.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackConfig {
    /// How many frames before the one in question are looked at, beside the first of the clip.
    pub last_frames: usize,
    /// How far away, in rows and in columns of patches, a patch may be that labels are taken from; 0: anywhere.
    pub radius: usize,
    /// Of so many patches that resemble it most a patch takes its label.
    pub top_k: usize,
    /// What cosines are divided by before the softmax.
    pub temperature: f64,
    /// To which short side frames are resized, in pixels: [`working_size`] says how. `None`: they keep their own.
    pub frame_size: Option<usize>,
}

impl Default for TrackConfig {
    fn default() -> Self {
        TrackConfig { last_frames: 7, radius: 12, top_k: 5, temperature: 0.1, frame_size: None }
    }
}

impl TrackConfig {
    /// Checks that these numbers describe a propagation.
    ///
    /// # Errors
    /// When they do not.
    pub fn validate(&self) -> Result<()> {
        if self.top_k == 0 {
            return Err(Error::config("labels of no patch are taken", "choose a `top_k` of at least 1"));
        }
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            let problem = format!("a temperature of {}", self.temperature);
            return Err(Error::config(problem, "choose a `temperature` above 0; officially it is 0.1"));
        }
        if self.frame_size.is_some_and(|size| size > LARGEST_FRAME) {
            let problem = format!("frames of a short side of {} pixels", self.frame_size.unwrap_or_default());
            return Err(Error::config(problem, format!("choose a `frame_size` of at most {LARGEST_FRAME}")));
        }
        Ok(())
    }
}

/// How well the objects of some clips were followed. All scores are from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct TrackReport {
    /// Region similarity: the mean over all objects of all clips.
    pub j: f64,
    /// Contour accuracy, likewise.
    pub f: f64,
    /// The mean of both.
    pub j_and_f: f64,
    /// Each object by itself, in the order of clips and labels.
    pub objects: Vec<ObjectScore>,
}

/// How well one object was followed: means over the frames of its clip, without the first, which is given, and the last, which
/// DAVIS leaves out too.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectScore {
    /// The clip's name.
    pub clip: String,
    /// The object's label, from 1.
    pub object: u8,
    /// Region similarity.
    pub j: f64,
    /// Contour accuracy.
    pub f: f64,
}

/// A frame whose mask was found.
pub struct TrackedFrame<'a> {
    /// The clip that it is of.
    pub clip: &'a dyn Clip,
    /// Its place in it.
    pub index: usize,
    /// What was found; of frame 0, what was given.
    pub mask: &'a Mask,
}

/// Propagates the first mask of every clip through it, and compares what comes out with the true masks. An object that is not
/// in the first mask is not followed; where it appears later it counts as background, as in DAVIS.
///
/// Memory is that of the features of `last_frames` and a few more frames, whatever the length of the clips. `cancel` is asked
/// at every frame.
///
/// # Errors
/// When the configuration makes no sense, a clip cannot be read, has fewer than three frames or no object in the first, a frame
/// is smaller than a patch, a feature is not a number, or `cancel` says so.
pub fn track(
    features: &dyn PatchFeatures,
    clips: &[Box<dyn Clip>],
    config: &TrackConfig,
    cancel: CancelCheck,
) -> Result<TrackReport> {
    track_watched(features, clips, config, cancel, &mut |_| Ok(()))
}

/// [`track`], for who wants the masks: `watch` is shown every frame in turn, and its error ends the work.
///
/// # Errors
/// As there.
pub fn track_watched(
    features: &dyn PatchFeatures,
    clips: &[Box<dyn Clip>],
    config: &TrackConfig,
    cancel: CancelCheck,
    watch: &mut dyn FnMut(&TrackedFrame) -> Result<()>,
) -> Result<TrackReport> {
    config.validate()?;
    check_clips(clips)?;
    let mut objects = Vec::new();
    for clip in clips {
        objects.append(&mut track_clip(features, &**clip, config, cancel, watch)?);
    }
    let mean = |of: fn(&ObjectScore) -> f64| objects.iter().map(of).sum::<f64>() / objects.len() as f64;
    let (j, f) = (mean(|object| object.j), mean(|object| object.f));
    Ok(TrackReport { j, f, j_and_f: (j + f) / 2.0, objects })
}

/// Follows the objects of the first `clips` embedded clips ([`video::EMBEDDED`] is the usual number), drawn at `side` pixels
/// ([`usual_frame_size`] of the encoder's images), by the official protocol. Which encoder, or whether its pixels, `features`
/// says: [`EncoderFeatures`] of any method's, trained or not, [`PixelFeatures`].
///
/// ```
/// # use stop_mim::{data::Normalization, eval::tracking::{PixelFeatures, track_embedded, usual_frame_size}};
/// # fn main() -> stop_mim::Result<()> {
/// let pixels = PixelFeatures { patch_size: 4, normalization: &Normalization::IMAGENET };
/// let report = track_embedded(&pixels, usual_frame_size(16), 2, &|| Ok(()))?;
/// assert_eq!(report.j_and_f, (report.j + report.f) / 2.0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`track`], and when there are no clips of this size.
pub fn track_embedded(
    features: &dyn PatchFeatures,
    side: usize,
    clips: usize,
    cancel: CancelCheck,
) -> Result<TrackReport> {
    track(features, &video::open("clips", side, Some(clips))?, &TrackConfig::default(), cancel)
}

/// That there are clips, each long enough to be judged: to be known before hours of work.
///
/// # Errors
/// When there is none, or one has fewer than three frames.
pub fn check_clips(clips: &[Box<dyn Clip>]) -> Result<()> {
    if clips.is_empty() {
        return Err(Error::config("there are no clips to track objects in", "give at least one"));
    }
    let Some(short) = clips.iter().find(|clip| clip.len() < 3) else { return Ok(()) };
    let (name, frames) = (short.name(), if short.len() == 1 { "1 frame" } else { "2 frames" });
    let problem = format!("{name}: a video of {frames}; the first and the last are not judged");
    Err(Error::config(problem, "give videos of at least three frames"))
}

fn track_clip(
    features: &dyn PatchFeatures,
    clip: &dyn Clip,
    config: &TrackConfig,
    cancel: CancelCheck,
    watch: &mut dyn FnMut(&TrackedFrame) -> Result<()>,
) -> Result<Vec<ObjectScore>> {
    let frames = clip.len();
    let first = clip.mask(0)?;
    if first.objects() == 0 {
        let problem = format!("{}: there is no object in the mask of the first frame", clip.name());
        return Err(Error::config(problem, "give the mask of what is to be tracked"));
    }
    let mut sums = vec![[0.0; 2]; usize::from(first.objects())];
    propagate(features, clip, &first, config, cancel, &mut |index, mask| {
        if (1..frames - 1).contains(&index) {
            let truth = clip.mask(index)?;
            if truth.size() != mask.size() {
                let ([h, w], [height, width]) = (truth.size(), mask.size());
                let problem =
                    format!("{}: the mask of frame {index} is {w}x{h}, the frames are {width}x{height}", clip.name());
                return Err(Error::config(problem, "give masks and frames of one size"));
            }
            for (object, [j, f]) in (1..).zip(&mut sums) {
                *j += region_similarity(&truth, mask, object);
                *f += contour_accuracy(&truth, mask, object);
            }
        }
        watch(&TrackedFrame { clip, index, mask })
    })?;
    let judged = (frames - 2) as f64;
    let score = |(object, [j, f]): (u8, [f64; 2])| ObjectScore {
        clip: clip.name().to_owned(),
        object,
        j: j / judged,
        f: f / judged,
    };
    Ok((1..).zip(sums).map(score).collect())
}

/// The height and width, in pixels, at which a frame of `size` is looked at through patches of `patch` pixels: its short side
/// as `frame_size` has it, the long one in proportion, both rounded down to whole patches. From [`OFFICIAL_FRAME`] on the long
/// side is a multiple of 64, as in the official code, where patches allow it (854 × 480 become 832 × 480).
///
/// # Errors
/// When there is no room for a patch.
pub fn working_size([height, width]: [usize; 2], patch: usize, frame_size: Option<usize>) -> Result<[usize; 2]> {
    let short = height.min(width);
    let to = frame_size.unwrap_or(short);
    let step = if frame_size.is_some() && to >= OFFICIAL_FRAME && 64 % patch == 0 { 64 } else { patch };
    let side = |side: usize| if side == short { to / patch * patch } else { to * side / short / step * step };
    match [side(height), side(width)] {
        [0, _] | [_, 0] => {
            let problem = format!("frames of {width}x{height} at a short side of {to}: less than a patch of {patch}");
            Err(Error::config(problem, "choose a larger `frame_size`"))
        }
        size => Ok(size),
    }
}

/// The short side of a frame in the official evaluation, in pixels.
pub const OFFICIAL_FRAME: usize = 480;

/// The short side of the frames, in pixels, that an encoder of images of `image_size` pixels a side looks at where nobody says
/// otherwise: the [official one](OFFICIAL_FRAME) from 224 pixels on, twice as large as the images below.
pub fn usual_frame_size(image_size: usize) -> usize {
    if image_size >= 224 { OFFICIAL_FRAME } else { 2 * image_size }
}

/// The largest short side that frames are resized to, in pixels.
const LARGEST_FRAME: usize = 4096;

#[cfg(test)]
mod tests;
