//! Videos in which objects are labeled pixel by pixel: what label propagation is judged on.
//!
//! | file | what it holds |
//! |---|---|
//! | [`ShapeClip`] | the embedded clips: shapes that move, turn and hide one another |
//! | `davis` | folders in the layout of DAVIS 2017 (feature `images`) |
//! | `indexed` | masks as PNG files with a palette, read and written (feature `images`) |
//!
//! A clip gives one frame or mask at a time, when it is asked for: of a long video no more is held than is looked at.

#[cfg(feature = "images")]
pub mod davis;
#[cfg(feature = "images")]
pub mod indexed;
mod shape_clip;

pub use shape_clip::ShapeClip;

use super::Normalization;
use super::resized::Filter;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// An RGB image of any height and width, 8 bits a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    size: [usize; 2],
    planes: Vec<u8>,
}

/// Which object each pixel shows: 0 is the background, 1 and more are objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    size: [usize; 2],
    labels: Vec<u8>,
}

/// A video of numbered frames of one size, with a mask of each. What an index holds never changes.
///
/// An index at or above [`len`](Clip::len) is a bug in the caller, and panics.
pub trait Clip: Send + Sync {
    /// What it is called: a file's or a folder's name.
    fn name(&self) -> &str;

    /// The number of frames.
    fn len(&self) -> usize;

    /// Whether there is no frame at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frame `index`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn frame(&self, index: usize) -> Result<Frame>;

    /// The true mask of frame `index`, of the frame's size.
    ///
    /// # Errors
    /// When it cannot be read.
    fn mask(&self, index: usize) -> Result<Mask>;

    /// What a file for frame `index` is called, without its ending.
    fn file_stem(&self, index: usize) -> String {
        format!("{index:05}")
    }
}

/// Opens what `spec` names: `clips`, the embedded ones, `size`×`size` pixels; or `davis:DIR`, a folder in the layout of
/// DAVIS 2017 (feature `images`), whose frames have their own size. At most the first `most`; of the embedded, of which
/// there is no end, [`EMBEDDED`] where `most` does not say.
///
/// # Errors
/// When `spec` names nothing known, or the folder is not as it should be.
pub fn open(spec: &str, size: usize, most: Option<usize>) -> Result<Vec<Box<dyn Clip>>> {
    let (scheme, rest) = spec.split_once(':').unwrap_or((spec, ""));
    match scheme {
        "clips" if rest.is_empty() => {
            super::check_image_size(size)?;
            let clip = |index| Box::new(ShapeClip::new(0, index, size)) as Box<dyn Clip>;
            Ok((0..most.unwrap_or(EMBEDDED)).map(clip).collect())
        }
        #[cfg(feature = "images")]
        "davis" if !rest.is_empty() => {
            let clips = davis::open(&super::open::at_home(rest)?)?.into_iter().take(most.unwrap_or(usize::MAX));
            Ok(clips.map(|clip| Box::new(clip) as Box<dyn Clip>).collect())
        }
        _ => Err(Error::config(
            format!("'{spec}' names no videos"),
            "choose clips, the embedded ones, or davis:DIR, a folder with JPEGImages and Annotations in it",
        )),
    }
}

/// How many embedded clips [`open`] gives where nothing else is asked for.
pub const EMBEDDED: usize = 24;

impl Frame {
    /// A frame from its planes, red, green and blue: `[3][height][width]`. `size` is height and width.
    ///
    /// # Panics
    /// When `planes` does not hold 3 · height · width bytes, or none.
    #[track_caller]
    pub fn new(size: [usize; 2], planes: Vec<u8>) -> Self {
        let fits = !planes.is_empty() && planes.len() == 3 * size[0] * size[1];
        assert!(fits, "Frame: {} bytes for [3, {}, {}]", planes.len(), size[0], size[1]);
        Frame { size, planes }
    }

    /// Height and width in pixels.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The planes: `[3][height][width]`.
    pub fn planes(&self) -> &[u8] {
        &self.planes
    }

    /// This frame at another height and width, by a triangle filter: bilinear interpolation to enlarge, averages to shrink.
    #[must_use]
    pub fn resized(self, size: [usize; 2]) -> Self {
        if size == self.size {
            return self;
        }
        let planes = Filter::rectangular(self.size, size).resize(&self.planes);
        Frame::new(size, planes.iter().map(|v| v.round() as u8).collect())
    }

    /// The pixels as an encoder reads them: \[3, height, width\].
    ///
    /// # Errors
    /// When the statistics are not those of three channels.
    pub fn normalized(&self, normalization: &Normalization) -> Result<Tensor> {
        normalization.check_channels(3)?;
        let area = self.size[0] * self.size[1];
        let line = [0, 1, 2].map(|c| normalization.gain_and_offset(c, 255.0));
        let value = |i: usize| {
            let (gain, offset) = line[i / area];
            f64::from(gain * f32::from(self.planes[i]) + offset)
        };
        // In a recycled buffer: a vector of its own for every frame would join those that are kept, and never be taken again.
        Ok(Tensor::from_fn([3, self.size[0], self.size[1]], DType::F32, value))
    }
}

impl Mask {
    /// A mask from its labels, row by row. `size` is height and width.
    ///
    /// # Panics
    /// When `labels` does not hold height · width of them, or none.
    #[track_caller]
    pub fn new(size: [usize; 2], labels: Vec<u8>) -> Self {
        let fits = !labels.is_empty() && labels.len() == size[0] * size[1];
        assert!(fits, "Mask: {} labels for [{}, {}]", labels.len(), size[0], size[1]);
        Mask { size, labels }
    }

    /// Height and width in pixels.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The labels, row by row.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// The largest label: how many objects there are, if all are numbered from 1.
    pub fn objects(&self) -> u8 {
        self.labels.iter().copied().max().unwrap_or(0)
    }

    /// This mask at another height and width, each label that of the nearest pixel: of the one that holds the center of the
    /// new pixel.
    #[must_use]
    pub fn nearest(&self, size: [usize; 2]) -> Self {
        let from = |axis: usize| move |k: usize| (2 * k + 1) * self.size[axis] / (2 * size[axis]);
        let columns: Vec<usize> = (0..size[1]).map(from(1)).collect();
        let row = |y: usize| columns.iter().map(move |x| self.labels[y * self.size[1] + x]);
        Mask::new(size, (0..size[0]).map(from(0)).flat_map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_resized_and_normalized_along_both_axes() {
        // Red rises along rows, green along columns, blue is flat.
        let planes = [[0, 0, 0, 0, 40, 40, 40, 40], [0, 8, 16, 24, 0, 8, 16, 24], [9; 8]].concat();
        let frame = Frame::new([2, 4], planes);
        let small = frame.clone().resized([2, 2]);
        // Each new pixel is a mean of three to four old ones, by 3 : 3 : 1 at the edge.
        assert_eq!(small.planes()[..4], [0, 0, 40, 40]);
        assert_eq!(small.planes()[4..6], [6, 18], "{:?}", small.planes());
        assert_eq!(frame.clone().resized([2, 4]), frame);
        let large = frame.resized([4, 4]);
        assert_eq!([0, 4, 8, 12].map(|i| large.planes()[i]), [0, 10, 30, 40], "bilinear, the edge repeated");
        let x = small.normalized(&Normalization::new([0.0, 0.0, 0.5], [1.0, 2.0, 1.0])).unwrap();
        let expected = [0.0, 0.0, 40.0, 40.0, 3.0, 9.0, 3.0, 9.0].map(|v| v / 255.0);
        assert!(x.as_slice::<f32>().iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-6), "{x:?}");
        assert!((x.as_slice::<f32>()[8] - (9.0 / 255.0 - 0.5)).abs() < 1e-6);
        assert!(small.normalized(&Normalization::new([0.0], [1.0])).is_err());
    }

    #[test]
    fn a_mask_keeps_whole_labels_at_any_size() {
        let mask = Mask::new([2, 5], vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!((mask.objects(), mask.nearest([2, 5])), (9, mask.clone()));
        // Centers at 0.83, 2.5 and 4.17 of 5 pixels; at 1 of 2 rows, which is where the second begins.
        assert_eq!(mask.nearest([1, 3]).labels(), [5, 7, 9]);
        assert_eq!(mask.nearest([2, 10]).labels()[..6], [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn what_names_no_videos_says_what_would() {
        for spec in ["", "clips:3", "shapes", "davis", "davis:"] {
            let error = open(spec, 64, None).err().expect(spec).to_string();
            assert!(error.contains("names no videos") && error.contains("davis:DIR"), "{spec}: {error}");
        }
        assert!(open("clips", 7, None).is_err());
        assert_eq!(open("clips", 32, Some(3)).unwrap().len(), 3);
    }
}
