//! The first images of a data set: a sample to look at often.

use std::sync::Arc;

use super::Dataset;
use crate::Result;

/// At most `len` images of another data set, from its beginning.
pub struct First {
    whole: Arc<dyn Dataset>,
    len: usize,
}

impl First {
    /// The first `len` images of `whole`, or all of them if there are fewer.
    pub fn new(whole: Arc<dyn Dataset>, len: usize) -> Self {
        First { len: len.min(whole.len()), whole }
    }
}

impl Dataset for First {
    fn len(&self) -> usize {
        self.len
    }

    fn image_size(&self) -> usize {
        self.whole.image_size()
    }

    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.whole.pixels(index, out)
    }

    fn label(&self, index: usize) -> usize {
        self.whole.label(index)
    }

    fn class_names(&self) -> &[String] {
        self.whole.class_names()
    }

    fn skipped(&self) -> usize {
        self.whole.skipped()
    }

    fn describe(&self) -> String {
        format!("the first {} of {}", self.len, self.whole.describe())
    }
}
