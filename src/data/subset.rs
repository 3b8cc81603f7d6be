//! Images of another data set, seen otherwise: a fixed, even choice over its classes; without their labels; of another size.

use std::borrow::Cow;
use std::sync::Arc;

use rand::seq::SliceRandom;

use super::Dataset;
use super::resized::Filter;
use crate::Result;
use crate::rng::{Generator, Purpose, stream};

/// `whole` with images of `size`×`size` pixels; itself, if that is their size.
///
/// The filter is a triangle, as for folders of images. An image is resized whenever it is asked for.
///
/// # Panics
/// When `size` is 0.
#[track_caller]
pub fn resized(whole: Arc<dyn Dataset>, size: usize) -> Arc<dyn Dataset> {
    assert!(size > 0, "resized: images without pixels");
    if whole.image_size() == size {
        return whole;
    }
    let filter = Some(Filter::new(whole.image_size(), size));
    Arc::new(Subset { filter, ..Subset::even(whole, usize::MAX) })
}

/// At most so many images of another data set.
///
/// A folder lists its images by class, so that "the first" would be those of one class. Here every class gives the same
/// number, as far as it has as many (if the number does not divide, classes drawn at random give one more); which images of
/// a class, and in which order all stand, is drawn too, always alike. Images without labels count as one more class.
pub struct Subset {
    whole: Arc<dyn Dataset>,
    chosen: Vec<usize>,
    labeled: bool,
    filter: Option<Filter>,
}

impl Subset {
    /// An even choice of `len` images of `whole`, or all of them, in their own order, if there are no more.
    pub fn even(whole: Arc<dyn Dataset>, len: usize) -> Self {
        Self::drawn(whole, len, stream(0, Purpose::Subset, [0, 0]))
    }

    /// An even choice by seed: for training on few labels. With one seed, the choice of a smaller number is part of that of a
    /// larger one, so that what more labels are worth is told by more of the same.
    pub fn balanced(whole: Arc<dyn Dataset>, len: usize, seed: u64) -> Self {
        Self::drawn(whole, len, stream(seed, Purpose::Subset, [1, 0]))
    }

    fn drawn(whole: Arc<dyn Dataset>, len: usize, rng: Generator) -> Self {
        let chosen = if len >= whole.len() { (0..whole.len()).collect() } else { even(&*whole, len, rng) };
        Subset { whole, chosen, labeled: true, filter: None }
    }

    /// The same images without their labels: for pretraining, for diagnostics, for pictures. An image that cannot be read is
    /// replaced by one of another class where there is none of its own ([`Dataset::unlabeled_pixels`]), so that one bad file
    /// ends no run; and as there is no label here, none can be wrong.
    pub fn unlabeled(self) -> Self {
        Subset { labeled: false, ..self }
    }

    fn read(&self, index: usize, labeled: bool, out: &mut [u8]) -> Result<()> {
        let (whole, index) = (&self.whole, self.chosen[index]);
        let read = |out: &mut [u8]| if labeled { whole.pixels(index, out) } else { whole.unlabeled_pixels(index, out) };
        let Some(filter) = &self.filter else { return read(out) };
        let to = filter.to();
        assert_eq!(out.len(), self.numbers(), "resized: a buffer for {to}x{to} pixels");
        let mut planes = vec![0; whole.numbers()];
        read(&mut planes)?;
        out.iter_mut().zip(filter.resize(&planes)).for_each(|(byte, v)| *byte = v.round() as u8);
        Ok(())
    }

    /// What is said of `whole`, and what this shows of it.
    fn of(&self, whole: String) -> String {
        if self.len() == self.whole.len() { whole } else { format!("an even choice of {} from {whole}", self.len()) }
    }
}

fn even(whole: &dyn Dataset, len: usize, mut rng: Generator) -> Vec<usize> {
    let unlabeled = whole.class_names().len();
    let mut classes: Vec<Vec<usize>> = vec![Vec::new(); unlabeled + 1];
    for index in 0..whole.len() {
        classes[whole.label(index).unwrap_or(unlabeled)].push(index);
    }
    classes.retain(|class| !class.is_empty());
    classes.shuffle(&mut rng);
    classes.iter_mut().for_each(|class| class.shuffle(&mut rng));
    let most = classes.iter().map(Vec::len).max().unwrap_or(0);
    // The first of every class, the second of every class, …
    let mut chosen: Vec<usize> =
        (0..most).flat_map(|nth| classes.iter().filter_map(move |class| class.get(nth).copied())).take(len).collect();
    chosen.shuffle(&mut rng);
    chosen
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.chosen.len()
    }

    fn channels(&self) -> usize {
        self.whole.channels()
    }

    fn image_size(&self) -> usize {
        self.filter.as_ref().map_or(self.whole.image_size(), Filter::to)
    }

    fn floats(&self, index: usize) -> Option<Cow<'_, [f32]>> {
        let floats = self.whole.floats(self.chosen[index])?;
        Some(match &self.filter {
            Some(filter) => filter.resize(&floats).into(),
            None => floats,
        })
    }

    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.read(index, self.labeled, out)
    }

    fn unlabeled_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.read(index, false, out)
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.whole.label(self.chosen[index]).filter(|_| self.labeled)
    }

    fn class_names(&self) -> &[String] {
        if self.labeled { self.whole.class_names() } else { &[] }
    }

    fn skipped(&self) -> usize {
        self.whole.skipped()
    }

    fn describe(&self) -> String {
        let resized = self.filter.as_ref().map(|filter| format!(", resized to {to}x{to}", to = filter.to()));
        self.of(self.whole.describe()) + &resized.unwrap_or_default()
    }

    fn identity(&self) -> String {
        self.of(self.whole.identity())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::InMemory;
    use crate::data::testing::Made;
    use crate::tensor::{DType, Tensor};

    /// An image for each of these labels. Its pixels are its number; it cannot be read but without its label.
    fn labeled(labels: Vec<Option<usize>>) -> Arc<dyn Dataset> {
        Arc::new(Made::labeled(labels, 8, |index, labeled, out| {
            out.fill(index as u8);
            if labeled { Err(crate::Error::config("cannot be read", "do without its label")) } else { Ok(()) }
        }))
    }

    /// One class after the other, of these sizes.
    fn in_order(sizes: &[usize]) -> Arc<dyn Dataset> {
        labeled(sizes.iter().enumerate().flat_map(|(class, &n)| vec![Some(class); n]).collect())
    }

    /// How many images of each class are chosen.
    fn counts(subset: &Subset) -> Vec<usize> {
        let mut counts = vec![0; subset.class_names().len()];
        (0..subset.len()).filter_map(|k| subset.label(k)).for_each(|label| counts[label] += 1);
        counts
    }

    #[test]
    fn every_class_gives_the_same_number_as_far_as_it_has_as_many() {
        for (sizes, len, expected) in
            [(&[40; 10][..], 30, &[3; 10][..]), (&[2, 100, 100], 42, &[2, 20, 20]), (&[5, 0, 5], 6, &[3, 0, 3])]
        {
            assert_eq!(counts(&Subset::even(in_order(sizes), len)), expected);
        }
        let counts_of_34 = counts(&Subset::even(in_order(&[40; 10]), 34));
        assert!(counts_of_34.iter().all(|n| [3, 4].contains(n)) && counts_of_34.iter().sum::<usize>() == 34);
        // Fewer than there are classes: of none two.
        assert!(counts(&Subset::even(in_order(&[9; 20]), 7)).iter().all(|n| *n <= 1));
        // Images without labels are one class more.
        let some: Vec<_> = [Some(0), Some(1), None].into_iter().flat_map(|label| vec![label; 20]).collect();
        assert_eq!(counts(&Subset::even(labeled(some), 30)), [10, 10]);
        let none = Subset::even(labeled(vec![None; 100]), 10);
        assert_eq!((none.len(), none.label(0), none.class_names().len()), (10, None, 0));
    }

    #[test]
    fn images_are_chosen_once_over_the_whole_class_in_no_order_of_classes_and_always_the_same() {
        let subset = Subset::even(in_order(&[1000; 4]), 400);
        let mut chosen = subset.chosen.clone();
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 400);
        assert!(chosen.iter().filter(|k| **k % 1000 >= 500).count().abs_diff(200) < 60);
        let changes = (1..400).filter(|k| subset.label(*k) != subset.label(k - 1)).count();
        assert!(changes > 200, "{changes} changes of class: random order has about 300");
        assert_eq!(Subset::even(in_order(&[1000; 4]), 400).chosen, subset.chosen);
    }

    #[test]
    fn all_images_stay_in_their_order() {
        for len in [12, 13, usize::MAX] {
            let all = Subset::even(in_order(&[4; 3]), len);
            assert_eq!(all.chosen, (0..12).collect::<Vec<_>>());
            assert_eq!(all.describe(), "12 images");
        }
        assert_eq!(Subset::even(in_order(&[4; 3]), 5).describe(), "an even choice of 5 from 12 images");
    }

    #[test]
    fn pixels_are_those_of_the_chosen_image_with_its_label_or_without() {
        let subset = Subset::even(in_order(&[40; 3]), 6);
        let mut out = [0; 192];
        assert!(subset.pixels(2, &mut out).is_err());
        subset.unlabeled_pixels(2, &mut out).unwrap();
        assert_eq!(usize::from(out[0]), subset.chosen[2]);
        let unlabeled = subset.unlabeled();
        out.fill(99);
        unlabeled.pixels(2, &mut out).unwrap();
        assert_eq!(usize::from(out[0]), unlabeled.chosen[2]);
        assert!(unlabeled.label(2).is_none() && unlabeled.class_names().is_empty());
    }

    #[test]
    fn of_another_size_all_else_is_as_it_was() {
        let whole = in_order(&[1, 1]);
        let images = resized(Arc::clone(&whole), 6);
        assert_eq!((images.len(), images.image_size(), images.label(1)), (2, 6, Some(1)));
        assert_eq!((&*images.describe(), &*images.identity()), ("2 images, resized to 6x6", "2 images"));
        let mut out = [9; 108];
        assert!(images.pixels(1, &mut out).unwrap_err().to_string().contains("cannot be read"));
        images.unlabeled_pixels(1, &mut out).unwrap();
        assert_eq!(out, [1; 108]);
        assert!(Arc::ptr_eq(&whole, &resized(Arc::clone(&whole), 8)), "nothing to do");
        let ramp = |i: usize| 100.0 * (i / 16) as f64 + (i % 4) as f64;
        let floats = InMemory::new(Tensor::from_fn([1, 2, 4, 4], DType::F32, ramp)).unwrap();
        let floats = resized(Arc::new(floats), 2).floats(0).unwrap().into_owned();
        // The first three pixels of a line, 0, 1 and 2, weigh 3, 3 and 1 sevenths, and the last three likewise.
        let line = [5.0 / 7.0, 3.0 - 5.0 / 7.0];
        let expected = [0.0, 0.0, 100.0, 100.0].into_iter().flat_map(|c| line.map(|v| c + v));
        assert!(floats.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{floats:?}");
    }
}
