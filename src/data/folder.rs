//! A folder of JPEG and PNG files, one sub-folder per class.
//!
//! `DIR/train/CLASS/NAME.jpg` and `DIR/test/CLASS/NAME.jpg` (or `val`) where both exist; otherwise
//! `DIR/CLASS/NAME.jpg`, of which every class gives a fixed fifth to the test split. Any size and colour type comes in;
//! what goes out is the largest centred square, resized to S×S, as RGB. An alpha channel and an EXIF orientation are
//! ignored, and of an animation the still image is taken. Files are decoded when first asked for, and kept in memory
//! up to a limit. Names that begin with a dot, and files that are neither .jpg, .jpeg nor .png, are passed over.
//!
//! # Files that cannot be used
//!
//! [`BadImages`] says what becomes of them. With [`BadImages::Skip`] each is reported once, on standard error, and
//! counted by [`Dataset::skipped`]:
//!
//! - Opening looks at the first bytes of every file. What cannot be read, is no image, or is a PNG of an impossible size
//!   is left out then. Which images are test images is decided by the names alone, before that: an unreadable file moves
//!   no other from one split to the other.
//! - What only shows while a file is decoded is met in the middle of a run, when the images have their numbers. In the
//!   place of such an image stands the next good one of its class, in the order of the files, beginning again after the
//!   last: the labels stay true, and what an index holds depends on the files alone, not on the order in which threads
//!   ask for them.
//!
//! A class without any good image is an error.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::picture::{check_start, decode};
use super::{BadImages, Dataset, check_image_size};
use crate::rng::{Purpose, stream};
use crate::{Error, Result};

/// The paths of a split's images, by class.
type ByClass = Vec<Vec<PathBuf>>;

const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

const LAYOUT: &str = "expected DIR/CLASS/NAME.jpg (or .jpeg, .png), or both DIR/train/CLASS/NAME.jpg and \
                      DIR/test/CLASS/NAME.jpg";

/// Decoded images that a split keeps, in bytes; those beyond are decoded each time.
const CACHE_BYTES: usize = 2 << 30;

/// Bad files that one error names.
const NAMED: usize = 10;

/// One split of a folder of images.
pub struct Folder {
    dir: PathBuf,
    split: &'static str,
    size: usize,
    class_names: Vec<String>,
    /// Path and class of each image, by class.
    files: Vec<(PathBuf, usize)>,
    bad_images: BadImages,
    /// Files that opening left out.
    left_out: usize,
    /// Which files turned out not to be decodable.
    undecodable: Vec<AtomicBool>,
    /// `[3][S][S]` of the first images, each filled at its first use.
    cache: Vec<OnceLock<Box<[u8]>>>,
}

/// Lists the training and test images under `dir`, to be shown at `size`×`size` pixels.
///
/// With [`BadImages::Refuse`] every file is decoded here, in parallel, so that nothing bad can be met later.
///
/// # Errors
/// If `dir` does not have one of the two layouts above, a class has no good image, or, with [`BadImages::Refuse`], any
/// file is bad: the first ten are named.
pub fn open(dir: &Path, size: usize, bad_images: BadImages) -> Result<(Folder, Folder)> {
    check_image_size(size)?;
    let train_dir = dir.join("train");
    let test_dir = ["test", "val"].map(|name| dir.join(name)).into_iter().find(|path| path.is_dir());
    let mut stray = Vec::new();
    let (class_names, train, test) = match test_dir {
        Some(test_dir) if train_dir.is_dir() => {
            let class_names = class_names(&train_dir, &mut stray)?;
            if self::class_names(&test_dir, &mut stray)? != class_names {
                let problem = format!("not the same class folders as in {}", train_dir.display());
                return Err(Error::file(test_dir, problem, "give both splits the same class folders"));
            }
            let (train, test) = (files(&train_dir, &class_names)?, files(&test_dir, &class_names)?);
            (class_names, train, test)
        }
        _ => {
            let class_names = class_names(dir, &mut stray)?;
            let (train, test) = split(dir, files(dir, &class_names)?)?;
            (class_names, train, test)
        }
    };
    let mut bad = stray;
    let folder = |split, by_class: ByClass, bad: &mut Vec<Error>| {
        let before = bad.len();
        let by_class = by_class.into_iter().map(|paths| sound(paths, bad)).collect::<Vec<_>>();
        if let (BadImages::Skip, Some(class)) = (bad_images, by_class.iter().position(Vec::is_empty)) {
            let problem = format!("no {split} image of class {} can be used", class_names[class]);
            let reasons = bad[before..].iter().take(NAMED).map(|e| format!("; {}", brief(e))).collect::<String>();
            return Err(Error::file(dir, problem + &reasons, "replace the class's files, or remove its folder"));
        }
        let with_label = |(label, paths): (usize, Vec<PathBuf>)| paths.into_iter().map(move |path| (path, label));
        let files: Vec<_> = by_class.into_iter().enumerate().flat_map(with_label).collect();
        let cached = files.len().min(CACHE_BYTES / (3 * size * size));
        Ok(Folder {
            dir: dir.to_owned(),
            split,
            size,
            class_names: class_names.clone(),
            bad_images,
            left_out: 0,
            undecodable: files.iter().map(|_| AtomicBool::new(false)).collect(),
            cache: (0..cached).map(|_| OnceLock::new()).collect(),
            files,
        })
    };
    let mut train = folder("train", train, &mut bad)?;
    train.left_out = bad.len();
    let mut test = folder("test", test, &mut bad)?;
    test.left_out = bad.len() - train.left_out;
    match bad_images {
        BadImages::Skip => bad.iter().for_each(report),
        BadImages::Refuse => {
            bad.extend(train.decode_all());
            bad.extend(test.decode_all());
            if !bad.is_empty() {
                let named = bad.iter().take(NAMED).map(brief).collect::<Vec<_>>().join("; ");
                let more = if bad.len() > NAMED { "; …" } else { "" };
                let problem = format!("{} files cannot be used: {named}{more}", bad.len());
                return Err(Error::file(dir, problem, "replace or remove them, or leave out --strict to skip them"));
            }
        }
    }
    Ok((train, test))
}

/// Lists every image under `dir`, in the order of their paths, without labels. An image that cannot be decoded is an error
/// of [`Dataset::pixels`].
///
/// # Errors
/// If there is no image.
pub fn open_all(dir: &Path, size: usize, bad_images: BadImages) -> Result<Folder> {
    check_image_size(size)?;
    let (mut folders, mut files) = (vec![dir.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for path in entries(&folder)? {
            if path.is_dir() {
                folders.push(path);
            } else if is_named_as_image(&path) {
                files.push(path);
            }
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Error::file(dir, "no images in here", LAYOUT));
    }
    let files: Vec<_> = files.into_iter().enumerate().map(|(i, path)| (path, i)).collect();
    Ok(Folder {
        dir: dir.to_owned(),
        split: "all",
        size,
        class_names: Vec::new(),
        bad_images,
        left_out: 0,
        undecodable: files.iter().map(|_| AtomicBool::new(false)).collect(),
        cache: Vec::new(),
        files,
    })
}

/// Says on standard error that a file is not used.
fn report(error: &Error) {
    let _ = writeln!(std::io::stderr(), "warning: skipped {}", brief(error)); // not a reason to end
}

/// An error without its advice, on one line.
fn brief(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Those of `paths` that begin as an image does; what is wrong with the others goes to `bad`, in the same order.
fn sound(paths: Vec<PathBuf>, bad: &mut Vec<Error>) -> Vec<PathBuf> {
    let checked: Vec<Result<PathBuf>> = paths.into_par_iter().map(|path| check_start(&path).map(|()| path)).collect();
    checked.into_iter().filter_map(|path| path.map_err(|e| bad.push(e)).ok()).collect()
}

/// The names of the sub-folders, sorted. Images that lie beside them, and links that lead nowhere, go to `stray`.
fn class_names(dir: &Path, stray: &mut Vec<Error>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let known = stray.len();
    for path in entries(dir)? {
        match std::fs::metadata(&path) {
            Err(e) => stray.push(Error::io("read", &path, e)),
            Ok(metadata) if metadata.is_dir() => match path.file_name().and_then(OsStr::to_str) {
                Some(name) => names.push(name.to_owned()),
                None => return Err(Error::file(path, "a class whose name is not UTF-8", "rename the folder")),
            },
            Ok(_) if is_named_as_image(&path) => {
                stray.push(Error::file(path, "lies beside the class folders, not in one", LAYOUT));
            }
            Ok(_) => {}
        }
    }
    if names.is_empty() {
        let reasons = stray[known..].iter().take(NAMED).map(|e| format!("; {}", brief(e))).collect::<String>();
        return Err(Error::file(dir, format!("no class folders in here{reasons}"), LAYOUT));
    }
    Ok(names)
}

/// The images of all classes, by class and then by name.
fn files(dir: &Path, class_names: &[String]) -> Result<ByClass> {
    let of_class = |name: &String| {
        let dir = dir.join(name);
        let mut files = entries(&dir)?;
        files.retain(|path| is_named_as_image(path));
        if files.is_empty() {
            return Err(Error::file(dir, "no .jpg, .jpeg or .png files in here", LAYOUT));
        }
        Ok(files)
    };
    class_names.iter().map(of_class).collect()
}

fn is_named_as_image(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension))
}

/// Everything in `dir` whose name does not begin with a dot, sorted: the system's own order differs between machines.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("read", dir, e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Sets a fifth of each class aside for testing: always the same one, but not the one that comes first by name.
fn split(dir: &Path, mut by_class: ByClass) -> Result<(ByClass, ByClass)> {
    let mut test = Vec::new();
    for (class, paths) in by_class.iter_mut().enumerate() {
        if paths.len() < 2 {
            let problem = format!("{} is the only image of its class, and cannot be split", paths[0].display());
            return Err(Error::file(dir, problem, "add images, or divide them into DIR/train and DIR/test yourself"));
        }
        paths.shuffle(&mut stream(0, Purpose::Shuffle, [class as u64, 0]));
        let mut held_out = paths.split_off(paths.len() - (paths.len() / 5).max(1));
        paths.sort();
        held_out.sort();
        test.push(held_out);
    }
    Ok((by_class, test))
}

impl Folder {
    /// Where image `index` lies, relative to the folder that was opened.
    pub fn path(&self, index: usize) -> &Path {
        let path = &self.files[index].0;
        path.strip_prefix(&self.dir).unwrap_or(path)
    }

    /// Decodes image `index`, or copies what was decoded before, into `out`. On an error `out` is as it was.
    fn own_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        let cell = self.cache.get(index);
        if let Some(pixels) = cell.and_then(OnceLock::get) {
            out.copy_from_slice(pixels);
            return Ok(());
        }
        let pixels = decode(&self.files[index].0, self.size)?;
        out.copy_from_slice(&pixels);
        if let Some(cell) = cell {
            // Another thread may have been first; it has stored the same bytes.
            let _ = cell.set(pixels);
        }
        Ok(())
    }

    /// Decodes every image; what is wrong with those that cannot be, in order.
    fn decode_all(&self) -> Vec<Error> {
        let decode = |pixels: &mut Vec<u8>, index| self.own_pixels(index, pixels).err();
        let errors = (0..self.len()).into_par_iter().map_init(|| vec![0; 3 * self.size * self.size], decode);
        errors.collect::<Vec<_>>().into_iter().flatten().collect()
    }
}

impl Dataset for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn image_size(&self) -> usize {
        self.size
    }

    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        let label = self.files[index].1;
        let start = self.files.partition_point(|(_, other)| *other < label);
        let end = self.files.partition_point(|(_, other)| *other <= label);
        for at in (index..end).chain(start..index) {
            if self.undecodable[at].load(Ordering::Relaxed) {
                continue;
            }
            match self.own_pixels(at, out) {
                Err(error) if self.bad_images == BadImages::Refuse => return Err(error),
                Err(error) => {
                    if !self.undecodable[at].swap(true, Ordering::Relaxed) {
                        report(&error);
                    }
                }
                Ok(()) => return Ok(()),
            }
        }
        if self.class_names.is_empty() {
            return Err(Error::file(&self.files[index].0, "cannot be decoded", "replace it"));
        }
        let problem = format!("no {} image of class {} can be decoded", self.split, self.class_names[label]);
        Err(Error::file(&self.dir, problem, "replace the class's files, or remove its folder"))
    }

    fn label(&self, index: usize) -> Option<usize> {
        (!self.class_names.is_empty()).then_some(self.files[index].1)
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn describe(&self) -> String {
        let (classes, s) = (self.class_names.len(), self.size);
        let skipped = match self.skipped() {
            0 => String::new(),
            skipped => format!(" ({skipped} files that cannot be used were skipped)"),
        };
        let (dir, split, n) = (self.dir.display(), self.split, self.len());
        format!("{dir} {split}: {n} images of {classes} classes, at {s}x{s}{skipped}")
    }

    fn skipped(&self) -> usize {
        self.left_out + self.undecodable.iter().filter(|bad| bad.load(Ordering::Relaxed)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::scratch::Scratch;
    use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};

    /// The file that `image` makes.
    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn plain(width: u32, height: u32, colour: [u8; 3]) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb(colour))
    }

    fn pixels(folder: &Folder, index: usize) -> Vec<u8> {
        let mut out = vec![0; 3 * folder.size * folder.size];
        folder.pixels(index, &mut out).unwrap();
        out
    }

    #[test]
    fn png_jpeg_grey_and_16_bit_files_become_planes_of_rgb() {
        let scratch = Scratch::new();
        let red = [200, 10, 30];
        scratch.write("train/b/1.png", &encoded(plain(8, 8, red), ImageFormat::Png));
        scratch.write("train/b/2.JPG", &encoded(plain(20, 8, red), ImageFormat::Jpeg));
        let grey = GrayImage::from_pixel(9, 9, Luma([77]));
        scratch.write("train/a/grey.png", &encoded(grey, ImageFormat::Png));
        let deep = DynamicImage::ImageRgba8(DynamicImage::from(plain(8, 8, red)).into_rgba8()).into_rgba16();
        scratch.write("train/b/3.png", &encoded(deep, ImageFormat::Png));
        scratch.write("train/b/notes.txt", b"not an image");
        for class in ["a", "b"] {
            scratch.write(&format!("val/{class}/x.png"), &encoded(plain(8, 8, red), ImageFormat::Png));
        }
        let (train, test) = open(scratch.path(), 8, BadImages::Skip).unwrap();
        assert_eq!((train.len(), test.len()), (4, 2));
        assert_eq!(train.class_names(), ["a", "b"]);
        assert_eq!((0..4).filter_map(|k| train.label(k)).collect::<Vec<_>>(), [0, 1, 1, 1]);
        assert!(pixels(&train, 0).iter().all(|&v| v == 77));
        for k in 1..4 {
            for (c, plane) in pixels(&train, k).chunks(64).enumerate() {
                let tolerance = if k == 2 { 3 } else { 0 }; // JPEG is lossy
                assert!(plane.iter().all(|v| v.abs_diff(red[c]) <= tolerance), "image {k}: {plane:?}");
            }
        }
    }

    #[test]
    fn a_folder_without_splits_is_divided_per_class_and_always_alike() {
        let scratch = Scratch::new();
        for k in 0..10 {
            scratch.write(&format!("a/{k}.png"), &encoded(plain(8, 8, [k; 3]), ImageFormat::Png));
            scratch.write(&format!("b/{k}.png"), &encoded(plain(8, 8, [100 + k; 3]), ImageFormat::Png));
        }
        let (train, test) = open(scratch.path(), 8, BadImages::Skip).unwrap();
        assert_eq!((train.len(), test.len()), (16, 4));
        assert_eq!((0..4).filter_map(|k| test.label(k)).collect::<Vec<_>>(), [0, 0, 1, 1]);
        let again = open(scratch.path(), 8, BadImages::Skip).unwrap();
        assert_eq!((&train.files, &test.files), (&again.0.files, &again.1.files));
        let mut all: Vec<_> = train.files.iter().chain(&test.files).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 20, "no image is in both");
    }

    #[test]
    fn an_image_is_decoded_once() {
        let scratch = Scratch::new();
        for k in 0..2 {
            scratch.write(&format!("a/{k}.png"), &encoded(plain(8, 8, [9; 3]), ImageFormat::Png));
        }
        let (train, _) = open(scratch.path(), 8, BadImages::Skip).unwrap();
        let first = pixels(&train, 0);
        std::fs::remove_file(&train.files[0].0).unwrap();
        assert_eq!(pixels(&train, 0), first);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let scratch = Scratch::new();
        let message = |size| open(scratch.path(), size, BadImages::Skip).err().expect("must fail").to_string();
        assert!(message(8).contains("no class folders in here\n  expected DIR/CLASS/NAME.jpg"));
        scratch.write("a/readme.txt", b"");
        assert!(message(8).contains("no .jpg, .jpeg or .png files in here"));
        scratch.write("a/1.png", &encoded(plain(8, 8, [9; 3]), ImageFormat::Png)[..60]);
        assert!(message(8).contains("1.png is the only image of its class"));
        scratch.write("a/2.png", b"hello");
        let error = message(8);
        assert!(error.contains("2.png: it is neither a JPEG nor a PNG file") || error.contains("cannot"), "{error}");
    }
}
