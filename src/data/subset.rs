//! Some images of a data set: a fixed, even choice over its classes.

use std::sync::Arc;

use rand::seq::SliceRandom;

use super::Dataset;
use crate::Result;
use crate::rng::{Purpose, stream};

/// At most so many images of another data set.
///
/// A folder lists its images by class, so that "the first" would be those of one class. Here every class gives the same
/// number, as far as it has as many (if the number does not divide, classes drawn at random give one more); which images of
/// a class, and in which order all stand, is drawn too, always alike. Without labels all images are one class.
pub struct Subset {
    whole: Arc<dyn Dataset>,
    chosen: Vec<usize>,
}

impl Subset {
    /// An even choice of `len` images of `whole`, or all of them, in their own order, if there are no more.
    pub fn even(whole: Arc<dyn Dataset>, len: usize) -> Self {
        let chosen = if len >= whole.len() { (0..whole.len()).collect() } else { even(&*whole, len) };
        Subset { whole, chosen }
    }
}

fn even(whole: &dyn Dataset, len: usize) -> Vec<usize> {
    let mut classes: Vec<Vec<usize>> = vec![Vec::new(); whole.class_names().len().max(1)];
    for index in 0..whole.len() {
        classes[whole.label(index).unwrap_or(0)].push(index);
    }
    let rng = &mut stream(0, Purpose::Subset, [0, 0]);
    classes.shuffle(rng);
    classes.iter_mut().for_each(|class| class.shuffle(rng));
    let most = classes.iter().map(Vec::len).max().unwrap_or(0);
    // The first of every class, the second of every class, …
    let mut chosen: Vec<usize> =
        (0..most).flat_map(|nth| classes.iter().filter_map(move |class| class.get(nth).copied())).take(len).collect();
    chosen.shuffle(rng);
    chosen
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.chosen.len()
    }

    fn image_size(&self) -> usize {
        self.whole.image_size()
    }

    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.whole.pixels(self.chosen[index], out)
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.whole.label(self.chosen[index])
    }

    fn class_names(&self) -> &[String] {
        self.whole.class_names()
    }

    fn skipped(&self) -> usize {
        self.whole.skipped()
    }

    fn describe(&self) -> String {
        match self.len() == self.whole.len() {
            true => self.whole.describe(),
            false => format!("an even choice of {} from {}", self.len(), self.whole.describe()),
        }
    }
}
