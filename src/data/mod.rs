//! Images: where they come from, and how they reach the trainer.
//!
//! | file | what it holds |
//! |---|---|
//! | [`shapes`] | the embedded default: colored shapes on textured grounds, drawn on demand |
//! | [`cifar`] | CIFAR-10 and CIFAR-100 in their binary layouts |
//! | [`folder`] | a folder of image files, with classes or without |
//! | [`augment`] | random resized crop and flip, and the step from bytes to normalized floats |
//! | [`resized()`] | images of another size than their data set has them |
//! | [`subset`] | a fixed, even choice of some images |
//! | [`unlabeled`] | images whose labels do not count |
//! | [`loader`] | shuffled, prefetched batches, the same on any number of threads and after any resume |
//!
//! Every image is square, RGB, 8 bits a channel, stored channel first: `[3][S][S]`. Left out on purpose: color
//! jitter and blur (MAE and I-JEPA do without them; see [`Augment::STOP`]), rectangular images, downloads.

pub mod augment;
pub mod cifar;
mod file;
pub mod folder;
pub mod loader;
mod memory;
mod picture;
mod resized;
pub mod shapes;
pub mod subset;
pub mod unlabeled;

pub use augment::{Augment, Crop};
pub use loader::{Loaded, Loader, LoaderOptions, evaluation_images};
pub use resized::resized;
pub use shapes::Shapes;
pub use subset::Subset;
pub use unlabeled::Unlabeled;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Error, Result};

/// A numbered set of labeled square images. What an index holds never changes.
///
/// An index at or above [`len`](Dataset::len) is a bug in the caller, and panics.
pub trait Dataset: Send + Sync {
    /// The number of images.
    fn len(&self) -> usize;

    /// Whether there is no image at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// S, the side of every image in pixels.
    fn image_size(&self) -> usize;

    /// Writes image `index` into `out`: red, green and blue planes, `[3][S][S]`, row by row.
    ///
    /// # Errors
    /// If the image has to be read from a file, and cannot be.
    ///
    /// # Panics
    /// If `out` does not hold 3·S·S bytes.
    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()>;

    /// As [`pixels`](Dataset::pixels), for those who do not ask for the label: where no image of the class can be read, one
    /// of another class may be written. Use it through [`Unlabeled`], which has no label to be wrong.
    ///
    /// # Errors
    /// If no image at all can be read.
    ///
    /// # Panics
    /// As there.
    fn unlabeled_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.pixels(index, out)
    }

    /// The class of image `index`, below `class_names().len()`; `None` where it has no label.
    fn label(&self, index: usize) -> Option<usize>;

    /// What the classes are called, in the order of their labels; empty where images have none.
    fn class_names(&self) -> &[String];

    /// One line for the log: what this is, how many images, of what size.
    fn describe(&self) -> String;

    /// By what a run knows its images again, without looking at a pixel: the same as long as every index stands for the
    /// same image, wherever the files lie now, and although some of them may have gone bad. Where
    /// [`describe`](Dataset::describe) says more than that, a data set says less here.
    fn identity(&self) -> String {
        self.describe()
    }

    /// How many files turned out to be unusable so far, and were left out or stand-ins shown for them.
    fn skipped(&self) -> usize {
        0
    }
}

/// What becomes of an image that cannot be used. [`folder`] says what that means, and when it is found.
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
    /// Bytes that decoded images of a [`folder`] may be kept in, those of both splits together; images beyond are decoded
    /// each time. `None`: a quarter of the memory that is free, as far as the system, the process's control groups and its
    /// limits allow, and at most 2 GB (500 MB where the system does not say).
    pub cache: Option<u64>,
}

impl From<BadImages> for OpenOptions {
    fn from(bad_images: BadImages) -> Self {
        OpenOptions { bad_images, cache: None }
    }
}

/// Per-channel statistics of pixels in [0, 1]; a pixel v (0 to 255) enters the network as (v/255 − mean) / std.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Normalization {
    /// Mean of red, green and blue.
    pub mean: [f32; 3],
    /// Standard deviation of red, green and blue.
    pub std: [f32; 3],
}

impl Normalization {
    /// CIFAR-10's training set, as commonly published.
    pub const CIFAR10: Self = Self { mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2616] };
    /// ImageNet's training set, as published models expect it.
    pub const IMAGENET: Self = Self { mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] };
    /// CIFAR-100's training set, as commonly published.
    pub const CIFAR100: Self = Self { mean: [0.5071, 0.4865, 0.4409], std: [0.2673, 0.2564, 0.2762] };

    /// Statistics that bytes can be normalized by.
    ///
    /// # Errors
    /// When a number is not finite, or a standard deviation not above 0.
    pub fn check(&self) -> Result<()> {
        // Of pixels from 0 to 255 they would be larger.
        let fine = self.mean.iter().all(|m| m.abs() < 10.0) && self.std.iter().all(|s| *s > 0.0 && *s < 10.0);
        match fine {
            true => Ok(()),
            false => Err(Error::config(
                format!("images cannot be normalized by a mean of {:?} and a deviation of {:?}", self.mean, self.std),
                "give three numbers each, of pixels from 0 to 1 (not to 255); deviations must be above 0",
            )),
        }
    }

    /// Measures at most `sample` images, evenly spread over `dataset`: where classes follow one another, as in a
    /// [`folder`], each gives its share to within an image, and where they come in random order, as in [`cifar`] and
    /// [`shapes`], the images are a random sample. (Only an order that repeats itself every so many images, in step with
    /// those that are looked at, would mislead it.)
    ///
    /// # Errors
    /// If one of those images cannot be read.
    ///
    /// # Panics
    /// If there is nothing to measure: `dataset` is empty, or `sample` is 0.
    pub fn measure(dataset: &dyn Dataset, sample: usize) -> Result<Self> {
        let sample = sample.min(dataset.len());
        assert!(sample > 0, "Normalization::measure: no images to measure");
        let plane = dataset.image_size().pow(2);
        let mut pixels = vec![0u8; 3 * plane];
        // Whole numbers: exact, whatever the order of the additions.
        let (mut sum, mut squares) = ([0u64; 3], [0u64; 3]);
        for k in 0..sample {
            dataset.unlabeled_pixels(k * dataset.len() / sample, &mut pixels)?;
            for (c, channel) in pixels.chunks_exact(plane).enumerate() {
                sum[c] += channel.iter().map(|&v| u64::from(v)).sum::<u64>();
                squares[c] += channel.iter().map(|&v| u64::from(v).pow(2)).sum::<u64>();
            }
        }
        let n = (sample * plane) as f64;
        let mean = sum.map(|s| s as f64 / n);
        let std = std::array::from_fn(|c| {
            let variance = squares[c] as f64 / n - mean[c].powi(2);
            // A channel that never changes has no scale: one gray level stands in, so that nothing divides by 0.
            (variance.max(1.0).sqrt() / 255.0) as f32
        });
        Ok(Self { mean: mean.map(|m| (m / 255.0) as f32), std })
    }

    /// The line that takes a byte of channel `c` to the network's input: v ↦ gain·v + offset.
    pub(crate) fn gain_and_offset(&self, c: usize) -> (f32, f32) {
        (1.0 / (255.0 * self.std[c]), -self.mean[c] / self.std[c])
    }

    /// The pixels, 0 to 255, that a normalized image `[3][S][S]` comes from. What lies outside is clamped: a predicted
    /// image need not be one.
    ///
    /// # Panics
    /// If `image` is not three planes.
    #[track_caller]
    pub fn to_bytes(&self, image: &[f32]) -> Vec<u8> {
        assert!(image.len().is_multiple_of(3), "Normalization::to_bytes: {} numbers are no three planes", image.len());
        let plane = (image.len() / 3).max(1);
        let byte = |(i, x): (usize, &f32)| {
            let c = i / plane;
            (255.0 * (x * self.std[c] + self.mean[c])).round() as u8 // `as` clamps, and NaN becomes 0
        };
        image.iter().enumerate().map(byte).collect()
    }
}

/// A data set as training needs it.
#[derive(Clone)]
pub struct Splits {
    /// What the encoder and the probes learn from.
    pub train: Arc<dyn Dataset>,
    /// What they are judged on: the same classes, other images.
    pub test: Arc<dyn Dataset>,
    /// How images like these are normalized, where that has been published; otherwise it is measured, see
    /// [`normalization`](Splits::normalization).
    pub published: Option<Normalization>,
}

impl Splits {
    /// How a run that begins with these images normalizes them: as published, or measured on `train`, which takes as long
    /// as reading a thousand images. What was trained with another normalization keeps its own.
    ///
    /// # Errors
    /// If one of the images to measure cannot be read.
    pub fn normalization(&self) -> Result<Normalization> {
        self.published.map_or_else(|| Normalization::measure(&*self.train, MEASURED), Ok)
    }

    /// How many files of both splits turned out to be unusable so far: [`Dataset::skipped`].
    pub fn skipped(&self) -> usize {
        self.train.skipped() + self.test.skipped()
    }
}

/// Images that [`Normalization::measure`] looks at: their mean is then known to about 0.003.
const MEASURED: usize = 1000;

/// [`open_with`] with the default options: bad images are skipped.
///
/// # Errors
/// As there.
pub fn open(spec: &str, image_size: usize) -> Result<Splits> {
    open_with(spec, image_size, OpenOptions::default())
}

/// Opens what `spec` names, with images of `image_size`×`image_size` pixels.
///
/// | `spec` | what |
/// |---|---|
/// | `shapes` | [`shapes`], labeled by class; `shapes:count` and `shapes:distance` label by these instead |
/// | `cifar10:DIR`, `cifar100:DIR` | [`cifar`], [`resized()`] unless `image_size` is 32 |
/// | `folder:DIR` | [`folder`] |
///
/// A `DIR` that begins with `~/` is in the user's home: the shell replaces a tilde only where a word begins.
///
/// # Errors
/// If `spec` names nothing known, or the files are missing or not as they should be. [`OpenOptions::bad_images`] decides
/// over single files of a folder; CIFAR's few large files are refused whole.
pub fn open_with(spec: &str, image_size: usize, options: impl Into<OpenOptions>) -> Result<Splits> {
    check_image_size(image_size)?;
    let options = options.into();
    let (scheme, rest) = spec.split_once(':').unwrap_or((spec, ""));
    match scheme {
        "shapes" => {
            let task = shapes::Task::parse(rest)?;
            let (train, test) = shapes::splits(image_size, task);
            unpublished(train, test)
        }
        "cifar10" | "cifar100" | "folder" if rest.is_empty() => Err(Error::config(
            format!("'{spec}' does not say where the images are"),
            format!("add the folder after a colon, as in {scheme}:path/to/images"),
        )),
        "cifar10" => published(cifar::cifar10(&at_home(rest)?)?, image_size, Normalization::CIFAR10),
        "cifar100" => published(cifar::cifar100(&at_home(rest)?)?, image_size, Normalization::CIFAR100),
        "folder" => {
            let (train, test) = folder::open(&at_home(rest)?, image_size, options)?;
            unpublished(train, test)
        }
        _ => {
            let hint = match Path::new(spec).is_dir() {
                true => format!("for a folder of images: folder:{spec}"),
                false => "choose shapes, shapes:count, shapes:distance, cifar10:DIR, cifar100:DIR or folder:DIR".into(),
            };
            Err(Error::config(format!("'{spec}' names no data set"), hint))
        }
    }
}

/// `spec` with an absolute path, so that it names the same images from every working folder: a tilde is replaced, links are
/// not followed. One that names no files is given back as it is.
///
/// # Errors
/// If the home or the working folder is needed and cannot be had, or is no text.
pub fn absolute_spec(spec: &str) -> Result<String> {
    let Some((scheme @ ("cifar10" | "cifar100" | "folder"), path)) = spec.split_once(':') else {
        return Ok(spec.to_owned());
    };
    if path.is_empty() {
        return Ok(spec.to_owned());
    }
    let path = at_home(path)?;
    let absolute = std::path::absolute(&path).map_err(|e| Error::io("find", &path, e))?;
    match absolute.to_str() {
        Some(path) => Ok(format!("{scheme}:{path}")),
        None => {
            Err(Error::file(&absolute, "a path that is not UTF-8", "rename its folders, or call it from elsewhere"))
        }
    }
}

/// `path`, with the user's home in the place of a tilde at its beginning.
fn at_home(path: &str) -> Result<PathBuf> {
    let within = match path.strip_prefix('~') {
        Some("") => Path::new(""),
        Some(rest) if rest.starts_with(std::path::is_separator) => Path::new(&rest[1..]),
        _ => return Ok(PathBuf::from(path)),
    };
    match std::env::home_dir().filter(|home| !home.as_os_str().is_empty()) {
        Some(home) if within.as_os_str().is_empty() => Ok(home),
        Some(home) => Ok(home.join(within)),
        None => Err(Error::config(format!("'{path}': there is no home folder"), "set HOME, or write the path out")),
    }
}

/// That images of this size can be had from any data set.
///
/// # Errors
/// When they are too small or too large.
pub fn check_image_size(image_size: usize) -> Result<()> {
    match (8..=1024).contains(&image_size) {
        true => Ok(()),
        false => Err(Error::config(
            format!("images of {image_size}x{image_size} pixels are not supported"),
            "choose an image size from 8 to 1024; CIFAR's is 32",
        )),
    }
}

fn published(
    (train, test): (cifar::Cifar, cifar::Cifar),
    image_size: usize,
    normalization: Normalization,
) -> Result<Splits> {
    let [train, test] = [train, test].map(|images| resized(Arc::new(images), image_size));
    Ok(Splits { train, test, published: Some(normalization) })
}

fn unpublished(train: impl Dataset + 'static, test: impl Dataset + 'static) -> Result<Splits> {
    Ok(Splits { train: Arc::new(train), test: Arc::new(test), published: None })
}

/// Folders for tests that need real files.
#[cfg(test)]
pub(crate) mod scratch {
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// An empty folder, deleted with everything in it when dropped.
    pub struct Scratch(PathBuf);

    impl Scratch {
        pub fn new() -> Self {
            static NEXT: AtomicUsize = AtomicUsize::new(0);
            let name = format!("stop-mim-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }

        pub fn path(&self) -> &Path {
            &self.0
        }

        /// Writes a file, and the folders it lies in.
        pub fn write(&self, name: &str, bytes: &[u8]) {
            let path = self.0.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Image k is k gray levels everywhere.
    struct Gray;

    impl Dataset for Gray {
        fn len(&self) -> usize {
            256
        }
        fn image_size(&self) -> usize {
            8
        }
        fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
            out.fill(index as u8);
            Ok(())
        }
        fn label(&self, _: usize) -> Option<usize> {
            None
        }
        fn class_names(&self) -> &[String] {
            &[]
        }
        fn describe(&self) -> String {
            "gray".to_owned()
        }
    }

    #[test]
    fn measured_statistics_of_a_uniform_gray_scale() {
        let Normalization { mean, std } = Normalization::measure(&Gray, usize::MAX).unwrap();
        // The variance of 0, 1, …, n−1 is (n² − 1)/12.
        let expected = ((256f64.powi(2) - 1.0) / 12.0).sqrt() / 255.0;
        for c in 0..3 {
            assert!((mean[c] - 0.5).abs() < 1e-6 && (f64::from(std[c]) - expected).abs() < 1e-6);
        }
        let flat = Normalization::measure(&Gray, 1).unwrap();
        assert_eq!(flat.mean, [0.0; 3]);
        assert_eq!(flat.std, [1.0 / 255.0; 3], "a constant channel must not divide by 0");
    }

    #[test]
    fn every_byte_comes_back_from_its_number() {
        for n in [Normalization::CIFAR10, Normalization::IMAGENET] {
            let pixels: Vec<u8> = (0..3 * 256).map(|i| (i % 256) as u8).collect();
            let mut numbers = vec![0.0; pixels.len()];
            Crop::whole(16).apply(&pixels, 16, &n, &mut numbers);
            assert_eq!(n.to_bytes(&numbers), pixels);
        }
        assert_eq!(Normalization::CIFAR10.to_bytes(&[-9.0, 9.0, f32::NAN]), [0, 255, 0]);
        assert!(Normalization::CIFAR10.to_bytes(&[]).is_empty());
    }

    #[test]
    fn statistics_of_classes_one_after_the_other_are_those_of_all() {
        // 0, 1, …, 255: every stretch of them is a class of its own gray.
        for sample in [16, 50, 100] {
            let Normalization { mean, std } = Normalization::measure(&Gray, sample).unwrap();
            assert!((mean[0] - 0.5).abs() < 0.5 / sample as f32 + 1e-6, "{sample}: {mean:?}");
            assert!((std[0] - 0.29).abs() < 0.01, "{sample}: {std:?}");
        }
    }

    #[test]
    fn specs_become_absolute() {
        let here = std::env::current_dir().unwrap();
        let at = |name: &str| here.join(name).to_str().unwrap().to_owned();
        let home = std::env::home_dir().unwrap();
        for (spec, expected) in [
            ("folder:a/b", format!("folder:{}", at("a/b"))),
            ("cifar10:.", format!("cifar10:{}", here.display())),
            ("cifar100:~/x", format!("cifar100:{}", home.join("x").display())),
            ("folder:~", format!("folder:{}", home.display())),
            ("folder:~x", format!("folder:{}", at("~x"))),
            ("folder:a:b", format!("folder:{}", at("a:b"))),
            ("shapes:count", "shapes:count".to_owned()),
            ("shapes", "shapes".to_owned()),
            ("folder:", "folder:".to_owned()),
            ("nothing:known", "nothing:known".to_owned()),
        ] {
            let absolute = absolute_spec(spec).unwrap();
            assert_eq!(absolute, expected, "{spec}");
            assert_eq!(absolute_spec(&absolute).unwrap(), absolute, "once is enough");
        }
    }

    #[test]
    fn a_bad_spec_is_an_error_that_says_what_to_do() {
        for (spec, size, expected) in [
            ("imagenet", 32, "choose shapes,"),
            ("cifar10", 32, "add the folder after a colon, as in cifar10:"),
            ("folder:", 32, "add the folder after a colon"),
            ("shapes:color", 32, "shapes:distance"),
            ("shapes", 4, "choose an image size"),
        ] {
            let error = open(spec, size).err().expect(spec).to_string();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn shapes_open_without_any_file() {
        let splits = open("shapes:count", 16).unwrap();
        assert_eq!((splits.train.len(), splits.test.len()), (50_000, 10_000));
        assert_eq!(splits.train.image_size(), 16);
        assert_eq!(splits.test.class_names().len(), 4);
        assert!(splits.normalization().unwrap().std.iter().all(|&s| s > 0.1));
    }
}
