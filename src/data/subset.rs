//! Some images of a data set: a fixed, even choice over its classes.

use std::borrow::Cow;
use std::sync::Arc;

use rand::seq::SliceRandom;

use super::Dataset;
use crate::Result;
use crate::rng::{Purpose, stream};

/// At most so many images of another data set.
///
/// A folder lists its images by class, so that "the first" would be those of one class. Here every class gives the same
/// number, as far as it has as many (if the number does not divide, classes drawn at random give one more); which images of
/// a class, and in which order all stand, is drawn too, always alike. Images without labels count as one more class.
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
    let unlabeled = whole.class_names().len();
    let mut classes: Vec<Vec<usize>> = vec![Vec::new(); unlabeled + 1];
    for index in 0..whole.len() {
        classes[whole.label(index).unwrap_or(unlabeled)].push(index);
    }
    classes.retain(|class| !class.is_empty());
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

    fn channels(&self) -> usize {
        self.whole.channels()
    }

    fn image_size(&self) -> usize {
        self.whole.image_size()
    }

    fn floats(&self, index: usize) -> Option<Cow<'_, [f32]>> {
        self.whole.floats(self.chosen[index])
    }

    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.whole.pixels(self.chosen[index], out)
    }

    fn unlabeled_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.whole.unlabeled_pixels(self.chosen[index], out)
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
        if self.len() == self.whole.len() {
            return self.whole.describe();
        }
        format!("an even choice of {} from {}", self.len(), self.whole.describe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::testing::Made;

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
    fn every_class_gives_the_same_number() {
        assert_eq!(counts(&Subset::even(in_order(&[40; 10]), 30)), [3; 10]);
        let counts_of_34 = counts(&Subset::even(in_order(&[40; 10]), 34));
        assert!(counts_of_34.iter().all(|n| [3, 4].contains(n)) && counts_of_34.iter().sum::<usize>() == 34);
        assert_eq!(counts(&Subset::even(in_order(&[2, 100, 100]), 42)), [2, 20, 20], "as far as a class has as many");
        assert_eq!(counts(&Subset::even(in_order(&[5, 0, 5]), 6)), [3, 0, 3]);
        // Fewer than there are classes: of none two.
        assert!(counts(&Subset::even(in_order(&[9; 20]), 7)).iter().all(|n| *n <= 1));
    }

    #[test]
    fn images_are_chosen_once_over_the_whole_class_and_in_no_order_of_classes() {
        let subset = Subset::even(in_order(&[1000; 4]), 400);
        let mut chosen = subset.chosen.clone();
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 400);
        assert!(chosen.iter().filter(|k| **k % 1000 >= 500).count().abs_diff(200) < 60);
        let changes = (1..400).filter(|k| subset.label(*k) != subset.label(k - 1)).count();
        assert!(changes > 200, "{changes} changes of class: random order has about 300");
    }

    #[test]
    fn the_choice_is_always_the_same() {
        let choose = || Subset::even(in_order(&[50; 7]), 20).chosen;
        let here = choose();
        assert_eq!(std::thread::spawn(choose).join().unwrap(), here);
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
    fn images_without_labels_are_one_class_more() {
        let subset = Subset::even(labeled(vec![None; 100]), 10);
        assert_eq!((subset.len(), subset.label(0), subset.class_names().len()), (10, None, 0));
        let some: Vec<_> = [Some(0), Some(1), None].into_iter().flat_map(|label| vec![label; 20]).collect();
        let subset = Subset::even(labeled(some), 30);
        assert_eq!(counts(&subset), [10, 10]);
    }

    #[test]
    fn pixels_are_those_of_the_chosen_image_with_its_label_or_without() {
        let subset = Subset::even(in_order(&[40; 3]), 6);
        let mut out = [0; 192];
        assert!(subset.pixels(2, &mut out).is_err());
        subset.unlabeled_pixels(2, &mut out).unwrap();
        assert_eq!(usize::from(out[0]), subset.chosen[2]);
    }
}
