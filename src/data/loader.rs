//! Shuffled, augmented batches, prepared in the background while the trainer works.
//!
//! What a batch holds depends on the seed and the number of its step, and on nothing else: each epoch has its own
//! permutation, each image of an epoch its own crop. So a batch is the same on any number of threads, and a run
//! resumed at step k sees the batches that it would have seen.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rand::seq::SliceRandom;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{Augment, Crop, Dataset, Normalization, Unlabeled};
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
    /// How images are varied, if they are.
    pub augment: Option<Augment>,
    /// How pixels become the network's input.
    pub normalization: Normalization,
    /// Threads that prepare images. One suffices for small images on a CPU; the batches do not depend on it.
    pub threads: usize,
}

/// Finished batches that wait for the trainer.
const PREFETCH: usize = 2;

/// An endless iterator over training batches: `[B, C, S, S]`, normalized, C the channels and S the side of an image
/// in pixels. It ends only after it has handed out an error.
pub struct Loader {
    /// Gone once the loader is being dropped.
    batches: Option<Receiver<Result<Tensor>>>,
    /// Gone once it has been joined.
    thread: Option<JoinHandle<()>>,
    steps_per_epoch: usize,
    /// Batches before the next one.
    step: usize,
}

impl Loader {
    /// Starts preparing batches of `dataset`.
    ///
    /// # Errors
    /// If there are not enough images for one batch, the options cannot work or are for images of other channels, or no
    /// thread can be started.
    pub fn new(dataset: Arc<dyn Dataset>, options: LoaderOptions) -> Result<Self> {
        let LoaderOptions { batch_size, first_step, threads, .. } = options;
        if batch_size == 0 || batch_size > dataset.len() {
            let problem = format!("a batch of {batch_size} images cannot be taken from {}", dataset.describe());
            return Err(Error::config(problem, format!("choose a batch size from 1 to {}", dataset.len())));
        }
        if threads == 0 {
            return Err(Error::config("no thread to prepare images with", "choose at least 1"));
        }
        options.augment.map_or(Ok(()), |augment| augment.check())?;
        options.normalization.check_channels(dataset.channels())?;
        let no_thread = |e: &dyn std::fmt::Display| {
            Error::config(format!("cannot start a thread: {e}"), "end other programs, or raise the limit (ulimit -u)")
        };
        // A pool of its own: in the trainer's it could wait for a worker that waits for the loader.
        let name = |k| format!("loader-{k}");
        let pool =
            ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build().map_err(|e| no_thread(&e))?;
        // Training looks at no label.
        let (steps_per_epoch, dataset) = (dataset.len() / batch_size, Unlabeled::new(dataset));
        let source = Source { steps_per_epoch, dataset, options };
        let (sender, batches) = sync_channel(PREFETCH);
        let thread = std::thread::Builder::new()
            .name("loader".to_owned())
            .spawn(move || source.run(&pool, &sender))
            .map_err(|e| no_thread(&e))?;
        Ok(Self { batches: Some(batches), thread: Some(thread), steps_per_epoch, step: first_step })
    }

    /// Full batches in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        self.steps_per_epoch
    }
}

impl Iterator for Loader {
    type Item = Result<Tensor>;

    /// The next batch; waits until it is ready.
    fn next(&mut self) -> Option<Result<Tensor>> {
        let _phase = meter::phase(Phase::Data);
        if let Ok(batch) = self.batches.as_ref()?.recv() {
            self.step += 1;
            return Some(batch);
        }
        // The thread is gone: after an error, which has been handed out, or in a panic, which has not.
        let panic = self.thread.take()?.join().err()?;
        Some(Err(Error::Training {
            step: self.step + 1,
            problem: format!("the loader panicked: {}", panic_message(&*panic)),
            hint: "this is a bug in the data set's code, not in the data: please report it".to_owned(),
        }))
    }
}

impl Drop for Loader {
    /// Stops the thread and waits for it: for one batch at most.
    fn drop(&mut self) {
        // Without a receiver, the thread's next send fails, and it returns.
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            // A panic that nobody was there to be told of.
            let _ = thread.join();
        }
    }
}

/// The background thread's side.
struct Source {
    dataset: Unlabeled,
    options: LoaderOptions,
    steps_per_epoch: usize,
}

impl Source {
    /// Sends one batch after the other, until nobody listens or there was an error.
    fn run(&self, pool: &ThreadPool, sender: &SyncSender<Result<Tensor>>) {
        let (mut order, mut memory) = (Vec::new(), Memory::default());
        for step in self.options.first_step.. {
            let (epoch, within) = (step / self.steps_per_epoch, step % self.steps_per_epoch);
            if order.is_empty() || within == 0 {
                order = permutation(self.options.seed, epoch, self.dataset.len());
            }
            let indices = &order[within * self.options.batch_size..][..self.options.batch_size];
            let batch = pool.install(|| self.batch(epoch, indices, &mut memory));
            let last = batch.is_err();
            if sender.send(batch).is_err() || last {
                return;
            }
        }
    }

    fn batch(&self, epoch: usize, indices: &[usize], memory: &mut Memory) -> Result<Tensor> {
        let _phase = meter::phase(Phase::Loading);
        let LoaderOptions { seed, augment, ref normalization, .. } = self.options;
        let size = self.dataset.image_size();
        let crop = |index: usize| match augment {
            Some(augment) => augment.draw(size, &mut stream(seed, Purpose::Augment, [epoch as u64, index as u64])),
            None => Crop::whole(size),
        };
        let mut images = memory.take([indices.len(), self.dataset.channels(), size, size]);
        write_images(&self.dataset, indices, normalization, crop, images.as_mut_slice())?;
        memory.lend(&images);
        Ok(images)
    }
}

/// The batches that were handed out last. One that nobody else holds any more is written again, so that after the first
/// few batches no memory is asked of the system: the trainer's threads drop batches, and never get to make any.
#[derive(Default)]
struct Memory {
    lent: VecDeque<Tensor>,
}

impl Memory {
    /// At most this many are kept: those that wait, the one that the trainer works on, and the one that is being made.
    const KEPT: usize = PREFETCH + 2;

    /// A tensor of any content that nobody else holds.
    fn take(&mut self, shape: [usize; 4]) -> Tensor {
        let free = self.lent.iter().position(|images| !images.is_shared() && images.shape()[..] == shape);
        free.and_then(|at| self.lent.remove(at)).unwrap_or_else(|| Tensor::zeros(shape, DType::F32))
    }

    /// To be called with what is handed out.
    fn lend(&mut self, images: &Tensor) {
        self.lent.push_back(images.clone());
        self.lent.drain(..self.lent.len().saturating_sub(Self::KEPT));
    }
}

/// The order in which `epoch` visits `n` images.
fn permutation(seed: u64, epoch: usize, n: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut stream(seed, Purpose::Shuffle, [epoch as u64, 0]));
    order
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
                crop(index).apply(&floats, size, normalization, image);
                return Ok(());
            }
            dataset.pixels(index, bytes)?;
            crop(index).apply(bytes, size, normalization, image);
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

    const fn options(augment: Option<Augment>) -> LoaderOptions {
        let normalization = Normalization::NONE;
        LoaderOptions { batch_size: 5, seed: 7, first_step: 0, augment, normalization, threads: 1 }
    }

    const OPTIONS: LoaderOptions = options(Some(Augment::STOP));
    const PLAIN: LoaderOptions = options(None);

    fn loader(options: LoaderOptions) -> Loader {
        Loader::new(few(None, None), options).unwrap()
    }

    fn batches(options: LoaderOptions, n: usize) -> Vec<Tensor> {
        loader(options).take(n).map(Result::unwrap).collect()
    }

    /// The numbers in the batches, to compare.
    fn contents(batches: &[Tensor]) -> Vec<&[f32]> {
        batches.iter().map(|batch| batch.as_slice()).collect()
    }

    /// Which images these are, if they are as they were: image k begins with 11·k.
    fn indices(batch: &Tensor) -> Vec<usize> {
        batch.as_slice::<f32>().chunks(192).map(|image| (image[0] * 255.0).round() as usize / 11).collect()
    }

    #[test]
    fn an_epoch_shows_each_image_once_in_an_order_of_its_own() {
        let batches = batches(LoaderOptions { batch_size: 1, ..PLAIN }, 46);
        let epochs: Vec<Vec<usize>> =
            batches.chunks(23).map(|epoch| epoch.iter().flat_map(indices).collect()).collect();
        for epoch in &epochs {
            let mut seen = epoch.clone();
            seen.sort_unstable();
            assert_eq!(seen, (0..23).collect::<Vec<_>>());
        }
        assert_ne!(epochs[0], epochs[1]);
    }

    #[test]
    fn incomplete_batches_are_dropped() {
        assert_eq!(loader(PLAIN).steps_per_epoch(), 4);
        let batches = batches(PLAIN, 8);
        assert!(batches.iter().all(|batch| batch.shape()[..] == [5, 3, 8, 8]));
        for epoch in batches.chunks(4) {
            let mut seen: Vec<usize> = epoch.iter().flat_map(indices).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 20, "the fifth batch begins anew");
        }
    }

    #[test]
    fn the_same_batches_on_any_number_of_threads() {
        let one = batches(OPTIONS, 9);
        assert_eq!(contents(&one), contents(&batches(LoaderOptions { threads: 4, ..OPTIONS }, 9)));
        assert_ne!(contents(&one), contents(&batches(LoaderOptions { seed: 8, ..OPTIONS }, 9)));
    }

    #[test]
    fn batches_are_the_same_whether_they_are_kept_or_dropped_at_once() {
        let kept = batches(OPTIONS, 40);
        for (batch, kept) in loader(OPTIONS).map(Result::unwrap).zip(&kept) {
            assert_eq!(contents(&[batch]), contents(std::slice::from_ref(kept)));
        }
    }

    #[test]
    fn memory_serves_again_once_nobody_holds_the_batch() {
        let place = |images: &Tensor| images.as_slice::<f32>().as_ptr();
        let mut memory = Memory::default();
        let mut next = || {
            let images = memory.take([5, 3, 8, 8]);
            memory.lend(&images);
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

    #[test]
    fn resuming_at_a_step_equals_skipping_to_it() {
        for first_step in [3, 4, 6] {
            let skipped: Vec<_> = loader(OPTIONS).skip(first_step).take(3).map(Result::unwrap).collect();
            let resumed = batches(LoaderOptions { first_step, ..OPTIONS }, 3);
            assert_eq!(contents(&skipped), contents(&resumed), "from step {first_step}");
        }
    }

    #[test]
    fn an_image_is_cropped_anew_in_each_epoch() {
        // The order does not depend on the crops.
        let whole = batches(LoaderOptions { batch_size: 23, ..PLAIN }, 2);
        let cropped = batches(LoaderOptions { batch_size: 23, ..OPTIONS }, 2);
        let image = |epoch: usize| {
            let at = indices(&whole[epoch]).iter().position(|&index| index == 4).unwrap();
            &cropped[epoch].as_slice::<f32>()[at * 192..][..192]
        };
        assert_ne!(image(0), image(1));
    }

    #[test]
    fn without_augmentation_training_and_evaluation_see_the_same_pixels() {
        let evaluation = evaluation_images(&*few(None, None), 3..23, &OPTIONS.normalization).unwrap();
        assert_eq!(evaluation.len(), 20 * 192);
        let training = &batches(LoaderOptions { batch_size: 23, ..PLAIN }, 1)[0];
        for (image, index) in training.as_slice::<f32>().chunks(192).zip(indices(training)) {
            if let Some(at) = index.checked_sub(3) {
                assert_eq!(image, &evaluation[at * 192..][..192]);
            }
        }
    }

    #[test]
    fn a_bad_image_arrives_as_an_error_and_ends_the_batches() {
        let mut loader = Loader::new(few(Some(4), None), OPTIONS).unwrap();
        let error = loader.by_ref().find_map(Result::err).unwrap();
        assert!(error.to_string().contains("some/image.png: is bad"));
        assert!(loader.next().is_none() && loader.next().is_none());
    }

    #[test]
    fn a_panic_arrives_as_an_error_too() {
        let options = LoaderOptions { batch_size: 23, ..OPTIONS };
        let mut loader = Loader::new(few(None, Some(4)), options).unwrap();
        let error = loader.next().unwrap().unwrap_err().to_string();
        assert!(error.contains("step 1") && error.contains("image 4 is broken"), "{error}");
        assert!(loader.next().is_none());
    }

    #[test]
    fn a_loader_can_be_dropped_at_any_time() {
        drop(loader(OPTIONS));
        let mut started = loader(OPTIONS);
        started.next().unwrap().unwrap();
        drop(started);
    }

    #[test]
    fn options_that_cannot_work_are_errors() {
        for (options, expected) in [
            (LoaderOptions { batch_size: 0, ..OPTIONS }, "choose a batch size from 1 to 23"),
            (LoaderOptions { batch_size: 24, ..OPTIONS }, "cannot be taken from 23 images"),
            (LoaderOptions { threads: 0, ..OPTIONS }, "choose at least 1"),
            (LoaderOptions { augment: Some(Augment { scale: (2.0, 3.0), flip: 0.0 }), ..OPTIONS }, "shares"),
        ] {
            let error = Loader::new(few(None, None), options).err().unwrap().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
