//! For tests: images made by a function, and files in a folder that is removed at the end.

use std::path::Path;

use super::Dataset;
use crate::Result;

/// Images that `pixels(index, labeled, out)` writes; `labeled` is false where whoever asks does without the label.
pub(crate) struct Made<F> {
    labels: Vec<Option<usize>>,
    class_names: Vec<String>,
    size: usize,
    pixels: F,
}

impl<F: Fn(usize, bool, &mut [u8]) -> Result<()> + Send + Sync> Made<F> {
    /// `len` images of `size`×`size` pixels, three channels, no labels.
    pub(crate) fn new(len: usize, size: usize, pixels: F) -> Self {
        Made { labels: vec![None; len], class_names: vec![], size, pixels }
    }

    /// An image for each of these labels; classes are called by their number.
    pub(crate) fn labeled(labels: Vec<Option<usize>>, size: usize, pixels: F) -> Self {
        let classes = labels.iter().flatten().max().map_or(0, |most| most + 1);
        Made { labels, class_names: (0..classes).map(|k| k.to_string()).collect(), size, pixels }
    }
}

impl<F: Fn(usize, bool, &mut [u8]) -> Result<()> + Send + Sync> Dataset for Made<F> {
    fn len(&self) -> usize {
        self.labels.len()
    }
    fn image_size(&self) -> usize {
        self.size
    }
    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        (self.pixels)(index, true, out)
    }
    fn unlabeled_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        (self.pixels)(index, false, out)
    }
    fn label(&self, index: usize) -> Option<usize> {
        self.labels[index]
    }
    fn class_names(&self) -> &[String] {
        &self.class_names
    }
    fn describe(&self) -> String {
        format!("{} images", self.len())
    }
}

/// Writes a file below `folder`, and the folders that it lies in.
pub(crate) fn write(folder: impl AsRef<Path>, name: &str, bytes: &[u8]) {
    let path = folder.as_ref().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Image `index` of `images`.
pub(crate) fn pixels(images: &dyn Dataset, index: usize) -> Vec<u8> {
    let mut out = vec![0; images.numbers()];
    images.pixels(index, &mut out).unwrap();
    out
}
