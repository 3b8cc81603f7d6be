//! Images whose labels do not count.

use std::borrow::Cow;
use std::sync::Arc;

use super::Dataset;
use crate::Result;

/// The images of another data set, without their labels: for pretraining, for diagnostics, for pictures. An image that cannot
/// be read is replaced by one of another class where there is none of its own ([`Dataset::unlabeled_pixels`]), so that one
/// bad file ends no run; and as there is no label here, none can be wrong.
pub struct Unlabeled {
    images: Arc<dyn Dataset>,
}

impl Unlabeled {
    /// `images` without labels.
    pub fn new(images: Arc<dyn Dataset>) -> Self {
        Unlabeled { images }
    }
}

impl Dataset for Unlabeled {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn channels(&self) -> usize {
        self.images.channels()
    }

    fn image_size(&self) -> usize {
        self.images.image_size()
    }

    fn floats(&self, index: usize) -> Option<Cow<'_, [f32]>> {
        self.images.floats(index)
    }

    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.images.unlabeled_pixels(index, out)
    }

    fn describe(&self) -> String {
        self.images.describe()
    }

    fn identity(&self) -> String {
        self.images.identity()
    }

    fn skipped(&self) -> usize {
        self.images.skipped()
    }
}
