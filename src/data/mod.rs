//! Images: where they come from, and how they reach the trainer.
//!
//! | file | what it holds |
//! |---|---|
//! | [`shapes`] | the embedded default: colored shapes on textured grounds, drawn on demand |
//! | [`cifar`] | CIFAR-10 and CIFAR-100 in their binary layouts |
//! | `folder` | a folder of image files, with classes or without (feature `images`) |
//! | [`InMemory`] | a tensor of images that one has already, of any number of channels |
//! | [`open()`] | all of these but the last by name, as a command line gives it |
//! | [`augment`] | random resized crop and flip, and the step from pixels to normalized floats |
//! | [`Normalization`] | the statistics of that step |
//! | [`subset`] | a fixed, even choice of some images, with their labels or without; images of another size |
//! | [`video`] | clips with labeled objects: DAVIS folders, embedded ones |
//! | [`loader`] | shuffled, prefetched batches, the same on any number of threads and after any resume |
//!
//! Every image is square and stored channel first, `[C][S][S]`; of files and shapes it is RGB, 8 bits a channel. Left out on
//! purpose: color jitter and blur (MAE and I-JEPA do without them; see [`Augment::STOP`]), rectangular images, downloads.

pub mod augment;
pub mod cifar;
mod file;
#[cfg(feature = "images")]
pub mod folder;
#[cfg(feature = "images")]
mod free_memory;
mod in_memory;
pub mod loader;
mod normalization;
mod open;
#[cfg(feature = "images")]
mod picture;
pub(crate) mod resized;
pub mod shapes;
pub mod subset;
#[cfg(test)]
pub(crate) mod testing;
pub mod video;

pub use augment::{Augment, Crop};
pub use in_memory::InMemory;
pub use loader::{Loaded, Loader, LoaderOptions, evaluation_images};
pub use normalization::Normalization;
pub use open::{absolute_spec, check_image_size, open, open_with};
pub use shapes::Shapes;
pub use subset::{Subset, resized};

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use crate::{Error, Result};

/// A numbered set of square images, with labels or without. What an index holds never changes.
///
/// An index at or above [`len`](Dataset::len) is a bug in the caller, and panics.
pub trait Dataset: Send + Sync {
    /// The number of images.
    fn len(&self) -> usize;

    /// Whether there is no image at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// C, the channels of every image.
    fn channels(&self) -> usize {
        3
    }

    /// S, the side of every image in pixels.
    fn image_size(&self) -> usize;

    /// C·S·S, the numbers that an image is made of.
    fn numbers(&self) -> usize {
        self.channels() * self.image_size().pow(2)
    }

    /// Writes image `index` into `out`: a plane for each channel (red, green, blue), `[C][S][S]`, row by row, from 0 to 255.
    ///
    /// # Errors
    /// If the image has to be read from a file, and cannot be.
    ///
    /// # Panics
    /// If `out` does not hold C·S·S bytes.
    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()>;

    /// Like [`pixels`](Dataset::pixels), for callers that do not use the label: where no image of the class can be read, one
    /// of another class may be written. Use it through [`Subset::unlabeled`], which has no label to be wrong.
    ///
    /// # Errors
    /// If no image at all can be read.
    ///
    /// # Panics
    /// As there.
    fn unlabeled_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.pixels(index, out)
    }

    /// Image `index` with pixels from 0 to 1 (or so), `[C][S][S]`, where a data set has them finer than in bytes: then this
    /// is what is trained on, and [`pixels`](Dataset::pixels) is for pictures.
    fn floats(&self, _index: usize) -> Option<Cow<'_, [f32]>> {
        None
    }

    /// The class of image `index`, below `class_names().len()`; `None` where it has no label.
    fn label(&self, _index: usize) -> Option<usize> {
        None
    }

    /// What the classes are called, in the order of their labels; empty where images have none.
    fn class_names(&self) -> &[String] {
        &[]
    }

    /// One line for the log: what this is, how many images, of what size.
    fn describe(&self) -> String;

    /// Identifies the images of a run without looking at a pixel: the same as long as every index stands for the same image,
    /// wherever the files lie and whichever of them have gone bad since. To be overridden where
    /// [`describe`](Dataset::describe) depends on more than that.
    fn identity(&self) -> String {
        self.describe()
    }

    /// How many files have turned out to be unusable so far: they were left out, or other images are shown in their place.
    fn skipped(&self) -> usize {
        0
    }
}

/// What becomes of an image that cannot be used. `data::folder` says what that means, and when it is found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadImages {
    /// It is reported on standard error, counted, and another one stands in for it.
    #[default]
    Skip,
    /// It is an error.
    Refuse,
}

/// How a data set is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// What becomes of images that cannot be used.
    pub bad_images: BadImages,
    /// Bytes that decoded images of a folder may be kept in, those of both splits together; images beyond are decoded
    /// each time. `None`: a quarter of the memory that is free, as far as the system, the process's control groups and its
    /// limits allow, and at most 2 GB (500 MB where the system does not say).
    pub cache: Option<u64>,
}

impl From<BadImages> for OpenOptions {
    fn from(bad_images: BadImages) -> Self {
        OpenOptions { bad_images, cache: None }
    }
}

/// A data set as training needs it.
#[derive(Clone)]
pub struct Splits {
    /// What the encoder and the probes learn from.
    pub train: Arc<dyn Dataset>,
    /// What they are judged on: the same classes, other images.
    pub test: Arc<dyn Dataset>,
    /// How images like `train` are normalized, once that is known.
    normalization: OnceLock<Normalization>,
}

impl Splits {
    /// Images to train on, and images to test on.
    pub fn new(train: Arc<dyn Dataset>, test: Arc<dyn Dataset>) -> Self {
        Splits { train, test, normalization: OnceLock::new() }
    }

    /// These with a normalization that is known, as for data sets whose statistics are published.
    pub fn with_normalization(self, normalization: Normalization) -> Self {
        Splits { normalization: normalization.into(), ..self }
    }

    /// These with other images to train on, of the same kind: the normalization stays as it is.
    pub fn with_train(self, train: Arc<dyn Dataset>) -> Self {
        Splits { train, ..self }
    }

    /// How a run that begins with these images normalizes them: as is known, or as measured on `train` the first time, which
    /// takes as long as reading a thousand images.
    ///
    /// # Errors
    /// If one of the images to measure cannot be read, or there are none.
    pub fn normalization(&self) -> Result<Normalization> {
        if let Some(known) = self.normalization.get() {
            return Ok(known.clone());
        }
        if self.train.is_empty() {
            return Err(Error::config("there are no images to train on", "give some, or say how they are normalized"));
        }
        let measured = Normalization::measure(&*self.train, MEASURED)?;
        Ok(self.normalization.get_or_init(|| measured).clone())
    }

    /// `chosen`, as what was trained with another normalization keeps its own, or [`normalization`](Splits::normalization).
    ///
    /// # Errors
    /// As there.
    pub fn normalization_or(&self, chosen: Option<&Normalization>) -> Result<Normalization> {
        chosen.map_or_else(|| self.normalization(), |chosen| Ok(chosen.clone()))
    }

    /// How many files of both splits turned out to be unusable so far: [`Dataset::skipped`].
    pub fn skipped(&self) -> usize {
        self.train.skipped() + self.test.skipped()
    }
}

/// Images that [`Normalization::measure`] looks at: their mean is then known to about 0.003.
const MEASURED: usize = 1000;
