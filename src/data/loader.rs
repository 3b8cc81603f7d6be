//! Shuffled, augmented batches, prepared in the background while the trainer works.
//!
//! What a batch holds depends on the seed and the number of its step, and on nothing else: each epoch has its own
//! permutation, each image of an epoch its own crop. So a batch is the same on any number of threads, and a run
//! resumed at step k sees the batches that it would have seen.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rand::seq::SliceRandom;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{Augment, Crop, Dataset, Normalization, Subset};
use crate::error::panic_message;
use crate::kernels::meter::{self, Phase};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// What [`Loader`] hands out.
#[derive(Clone, Debug)]
pub struct LoaderOptions {
    /// B, the images in a batch. What is left over at the end of an epoch is dropped: every batch is full.
    pub batch_size: usize,
    /// Decides the order of the images and their crops.
    pub seed: u64,
    /// The step to begin with: 0, or where a resumed run goes on.
    pub first_step: usize,
    /// The views of each image that a batch has: how each is varied, if it is.
    pub views: Vec<Option<Augment>>,
    /// Whether a batch has the images' classes.
    pub labels: bool,
    /// How pixels become the network's input.
    pub normalization: Normalization,
    /// Which images of each batch are loaded, where other processes load the others; `None`: all.
    pub part: Option<Range<usize>>,
    /// Threads that prepare images. One suffices for small images on a CPU; the batches do not depend on it.
    pub threads: usize,
}

/// A batch as it is loaded.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// For each view that was asked for, `[B, C, S, S]`, normalized, C the channels and S the side of an image in pixels.
    pub views: Vec<Tensor>,
    /// The class of each image, if it was asked for.
    pub labels: Option<Vec<u32>>,
    /// The place in the batch of the first image that was loaded.
    pub first: usize,
}

/// Finished batches that wait for the trainer.
const PREFETCH: usize = 2;

/// An endless iterator over training batches. It ends only after it has handed out an error.
pub struct Loader {
    /// Without this receiver, the background's next send fails, and it ends.
    batches: Receiver<Result<Loaded>>,
    /// Its threads end when it is dropped.
    _pool: ThreadPool,
    steps_per_epoch: usize,
}

impl Loader {
    /// Starts preparing batches of `dataset`.
    ///
    /// # Errors
    /// If there are not enough images for one batch, the options cannot work or are for images of other channels, or no
    /// thread can be started.
    pub fn new(dataset: Arc<dyn Dataset>, options: LoaderOptions) -> Result<Self> {
        let LoaderOptions { batch_size, threads, .. } = options;
        if batch_size == 0 || batch_size > dataset.len() {
            let problem = format!("a batch of {batch_size} images cannot be taken from {}", dataset.describe());
            return Err(Error::config(problem, format!("choose a batch size from 1 to {}", dataset.len())));
        }
        if threads == 0 {
            return Err(Error::config("no thread to prepare images with", "choose at least 1"));
        }
        options.views.iter().flatten().try_for_each(Augment::check)?;
        options.normalization.check_channels(dataset.channels())?;
        // A pool of its own: in the trainer's it could wait for a worker that waits for the loader.
        let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|k| format!("loader-{k}")).build();
        let pool = pool.map_err(|e| {
            Error::config(format!("cannot start a thread: {e}"), "end other programs, or raise the limit (ulimit -u)")
        })?;
        // Unless labels are asked for, none is looked at.
        let steps_per_epoch = dataset.len() / batch_size;
        let dataset = if options.labels { dataset } else { Arc::new(Subset::even(dataset, usize::MAX).unlabeled()) };
        let source = Source { steps_per_epoch, dataset, options };
        let (sender, batches) = sync_channel(PREFETCH);
        pool.spawn(move || source.run(&sender));
        Ok(Self { batches, _pool: pool, steps_per_epoch })
    }

    /// Full batches in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.steps_per_epoch
    }
}

impl Iterator for Loader {
    type Item = Result<Loaded>;

    /// The next batch; waits until it is ready.
    fn next(&mut self) -> Option<Result<Loaded>> {
        let _phase = meter::phase(Phase::Data);
        self.batches.recv().ok()
    }
}

/// The background's side.
struct Source {
    dataset: Arc<dyn Dataset>,
    options: LoaderOptions,
    steps_per_epoch: usize,
}

impl Source {
    /// Sends one batch after the other, until nobody listens or there was an error; a panic is one.
    fn run(&self, sender: &SyncSender<Result<Loaded>>) {
        let (mut order, mut memory) = (Vec::<usize>::new(), Memory::default());
        for step in self.options.first_step.. {
            let (epoch, within) = (step / self.steps_per_epoch, step % self.steps_per_epoch);
            if order.is_empty() || within == 0 {
                order = (0..self.dataset.len()).collect();
                order.shuffle(&mut stream(self.options.seed, Purpose::Shuffle, [epoch as u64, 0]));
            }
            let indices = &order[within * self.options.batch_size..][..self.options.batch_size];
            let indices = self.options.part.clone().map_or(indices, |part| &indices[part]);
            let batch = catch_unwind(AssertUnwindSafe(|| self.batch(epoch, indices, &mut memory)));
            let batch = batch.unwrap_or_else(|panic| {
                Err(Error::Training {
                    step: step + 1,
                    problem: format!("the loader panicked: {}", panic_message(&*panic)),
                    hint: "this is a bug in the data set's code, not in the data: please report it".to_owned(),
                })
            });
            let last = batch.is_err();
            if sender.send(batch).is_err() || last {
                return;
            }
        }
    }

    fn batch(&self, epoch: usize, indices: &[usize], memory: &mut Memory) -> Result<Loaded> {
        let _phase = meter::phase(Phase::Loading);
        let LoaderOptions { seed, ref views, ref normalization, .. } = self.options;
        let size = self.dataset.image_size();
        let view = |(view, augment): (usize, &Option<Augment>)| {
            let crop = |index: usize| {
                let item = [epoch as u64, index as u64 | (view as u64) << 48];
                let draw = |augment: &Augment| augment.draw(size, &mut stream(seed, Purpose::Augment, item));
                augment.as_ref().map_or_else(|| Crop::whole(size), draw)
            };
            let mut images = memory.take([indices.len(), self.dataset.channels(), size, size]);
            write_images(&*self.dataset, indices, normalization, crop, images.as_mut_slice())?;
            memory.lend(&images, views.len());
            Ok(images)
        };
        let views = views.iter().enumerate().map(view).collect::<Result<_>>()?;
        let label = |&index: &usize| {
            let none = || Error::config(format!("image {index} has no class"), "train on images with classes");
            self.dataset.label(index).map(|class| class as u32).ok_or_else(none)
        };
        let labels = self.options.labels.then(|| indices.iter().map(label).collect::<Result<_>>()).transpose()?;
        Ok(Loaded { views, labels, first: self.options.part.as_ref().map_or(0, |part| part.start) })
    }
}

/// The batches that were handed out last. One that nobody else holds any more is written again, so that after the first
/// few batches no memory is asked of the system: the trainer's threads drop batches, and never get to make any.
#[derive(Default)]
struct Memory {
    lent: VecDeque<Tensor>,
}

impl Memory {
    /// At most this many batches are kept: those that wait, the one that the trainer works on, and the one that is
    /// being made.
    const KEPT: usize = PREFETCH + 2;

    /// A tensor of any content that nobody else holds.
    fn take(&mut self, shape: [usize; 4]) -> Tensor {
        let free = self.lent.iter().position(|images| !images.is_shared() && images.shape()[..] == shape);
        free.and_then(|at| self.lent.remove(at)).unwrap_or_else(|| Tensor::zeros(shape, DType::F32))
    }

    /// To be called with what is handed out: one of so many views.
    fn lend(&mut self, images: &Tensor, views: usize) {
        self.lent.push_back(images.clone());
        self.lent.drain(..self.lent.len().saturating_sub(Self::KEPT * views));
    }
}

/// Writes the images `indices`, each cut out as `crop` says, into `images`: `[B, C, S, S]`.
fn write_images(
    dataset: &dyn Dataset,
    indices: &[usize],
    normalization: &Normalization,
    crop: impl Fn(usize) -> Crop + Sync,
    images: &mut [f32],
) -> Result<()> {
    let (size, numbers) = (dataset.image_size(), dataset.numbers());
    images.par_chunks_exact_mut(numbers).zip(indices).try_for_each_init(
        || vec![0u8; numbers],
        |bytes, (image, &index)| {
            if let Some(floats) = dataset.floats(index) {
                crop(index).apply((&*floats, 1.0), size, normalization, image);
            } else {
                dataset.pixels(index, bytes)?;
                crop(index).apply((&**bytes, 255.0), size, normalization, image);
            }
            Ok(())
        },
    )
}

/// The images numbered `range`, `[n, C, S, S]`, normalized and otherwise as they are: for evaluation.
///
/// # Errors
/// If one of them cannot be read, or the normalization is one for images of other channels.
///
/// # Panics
/// If there are fewer images.
pub fn evaluation_images(
    dataset: &dyn Dataset,
    range: Range<usize>,
    normalization: &Normalization,
) -> Result<Vec<f32>> {
    normalization.check_channels(dataset.channels())?;
    let size = dataset.image_size();
    let mut images = vec![0.0; range.len() * dataset.numbers()];
    write_images(dataset, &range.collect::<Vec<_>>(), normalization, |_| Crop::whole(size), &mut images)?;
    Ok(images)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::data::testing::Made;

    /// 23 images of 8×8, distinct everywhere; image `bad` cannot be read, image `broken` is a bug.
    fn few(bad: Option<usize>, broken: Option<usize>) -> Arc<dyn Dataset> {
        Arc::new(Made::new(23, 8, move |index, _, out| {
            assert!(broken != Some(index), "image {index} is broken");
            if bad == Some(index) {
                return Err(Error::file("some/image.png", "is bad", "mend it"));
            }
            out.iter_mut().enumerate().for_each(|(i, v)| *v = (i * 7 + index * 11) as u8);
            Ok(())
        }))
    }

    fn options() -> LoaderOptions {
        LoaderOptions {
            batch_size: 5,
            seed: 7,
            first_step: 0,
            views: vec![Some(Augment::STOP)],
            labels: false,
            normalization: Normalization::NONE,
            part: None,
            threads: 1,
        }
    }

    fn loader(options: LoaderOptions) -> Loader {
        Loader::new(few(None, None), options).unwrap()
    }

    /// The numbers of so many batches.
    fn batches(options: LoaderOptions, n: usize) -> Vec<Vec<f32>> {
        loader(options).take(n).map(first_view).collect()
    }

    /// Which images these are, if they are as they were: image k begins with 11·k.
    fn indices(batch: &[f32]) -> Vec<usize> {
        batch.chunks(192).map(|image| (image[0] * 255.0).round() as usize / 11).collect()
    }

    fn plain() -> LoaderOptions {
        LoaderOptions { views: vec![None], ..options() }
    }

    fn first_view(batch: Result<Loaded>) -> Vec<f32> {
        batch.unwrap().views[0].as_slice().to_vec()
    }

    #[test]
    fn an_epoch_shows_each_image_once_in_an_order_of_its_own_and_drops_incomplete_batches() {
        for (batch_size, steps) in [(1, 23), (5, 4)] {
            let options = LoaderOptions { batch_size, ..plain() };
            assert_eq!(loader(options.clone()).steps_per_epoch(), steps);
            let batches = batches(options, 2 * steps);
            let epochs: Vec<_> = batches.chunks(steps).map(|epoch| indices(&epoch.concat())).collect();
            for epoch in &epochs {
                let seen: HashSet<_> = epoch.iter().collect();
                assert_eq!(seen.len(), batch_size * steps, "each image once: {epoch:?}");
            }
            assert_ne!(epochs[0], epochs[1]);
        }
    }

    #[test]
    fn the_same_batches_on_any_number_of_threads() {
        let one = batches(options(), 9);
        assert_eq!(one, batches(LoaderOptions { threads: 4, ..options() }, 9));
        assert_ne!(one, batches(LoaderOptions { seed: 8, ..options() }, 9));
    }

    #[test]
    fn memory_serves_again_once_nobody_holds_the_batch() {
        let place = |images: &Tensor| images.as_slice::<f32>().as_ptr();
        let mut memory = Memory::default();
        let mut next = || {
            let images = memory.take([5, 3, 8, 8]);
            memory.lend(&images, 1);
            images
        };
        let (first, second) = (next(), next());
        assert_ne!(place(&first), place(&second));
        let was = place(&first);
        drop(first);
        assert_eq!(place(&next()), was);
        let held: Vec<_> = (0..20).map(|_| next()).collect();
        assert!(held.iter().all(|images| place(images) != place(&second)));
        assert_eq!(memory.lent.len(), Memory::KEPT, "however many are held elsewhere");
    }

    /// Those that are skipped are dropped at once, and their memory serves again.
    #[test]
    fn resuming_at_a_step_equals_skipping_to_it() {
        for first_step in [3, 4, 30] {
            let skipped: Vec<_> = loader(options()).skip(first_step).take(3).map(first_view).collect();
            let resumed = batches(LoaderOptions { first_step, ..options() }, 3);
            assert_eq!(skipped, resumed, "from step {first_step}");
        }
    }

    #[test]
    fn an_image_is_cropped_anew_in_each_epoch() {
        // The order does not depend on the crops.
        let whole = batches(LoaderOptions { batch_size: 23, ..plain() }, 2);
        let cropped = batches(LoaderOptions { batch_size: 23, ..options() }, 2);
        let image = |epoch: usize| {
            let at = indices(&whole[epoch]).iter().position(|&index| index == 4).unwrap();
            &cropped[epoch][at * 192..][..192]
        };
        assert_ne!(image(0), image(1));
    }

    #[test]
    fn each_view_of_an_image_has_a_crop_of_its_own() {
        let options = LoaderOptions { views: vec![Some(Augment::STOP); 2], ..options() };
        let views = loader(options).next().unwrap().unwrap().views;
        assert!(views[0].max_abs_diff(&views[1]) > 0.0);
    }

    #[test]
    fn without_augmentation_training_and_evaluation_see_the_same_pixels() {
        let evaluation = evaluation_images(&*few(None, None), 3..23, &options().normalization).unwrap();
        assert_eq!(evaluation.len(), 20 * 192);
        let training = &batches(LoaderOptions { batch_size: 23, ..plain() }, 1)[0];
        for (image, index) in training.chunks(192).zip(indices(training)) {
            if let Some(at) = index.checked_sub(3) {
                assert_eq!(image, &evaluation[at * 192..][..192]);
            }
        }
    }

    #[test]
    fn a_bad_image_and_a_panic_arrive_as_errors_and_end_the_batches() {
        let options = LoaderOptions { batch_size: 23, ..options() };
        for (images, words) in [
            (few(Some(4), None), ["some/image.png: is bad"; 2]),
            (few(None, Some(4)), ["training stopped at step 1", "image 4 is broken"]),
        ] {
            let mut loader = Loader::new(images, options.clone()).unwrap();
            let error = loader.next().unwrap().unwrap_err().to_string();
            assert!(words.iter().all(|words| error.contains(words)), "{error}");
            assert!(loader.next().is_none() && loader.next().is_none());
        }
    }

    #[test]
    fn a_loader_can_be_dropped_at_any_time() {
        drop(loader(options()));
        let mut started = loader(options());
        started.next().unwrap().unwrap();
        drop(started);
    }

    #[test]
    fn options_that_cannot_work_are_errors() {
        for (options, expected) in [
            (LoaderOptions { batch_size: 0, ..options() }, "choose a batch size from 1 to 23"),
            (LoaderOptions { batch_size: 24, ..options() }, "cannot be taken from 23 images"),
            (LoaderOptions { threads: 0, ..options() }, "choose at least 1"),
            (LoaderOptions { views: vec![Some(Augment { scale: (2.0, 3.0), flip: 0.0 })], ..options() }, "shares"),
        ] {
            let error = Loader::new(few(None, None), options).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
