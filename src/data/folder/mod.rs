//! A folder of image files, with classes or without.
//!
//! | under `DIR` | training images | test images | labels |
//! |---|---|---|---|
//! | `train/CLASS/…`, `test/CLASS/…` | those in `train` | those in `test` | yes |
//! | `train/CLASS/…` | four fifths of each class | the others | yes |
//! | `CLASS/…` | four fifths of each class | the others | yes |
//! | `train/…`, `test/…` | those in `train` | those in `test` | no |
//! | `train/…` | all but those held out | a fifth, at most 512 | no |
//! | `…` | all but those held out | a fifth, at most 512 | no |
//!
//! The dots are files, or folders of any depth with files. `val`, `valid` and `validation` serve as `test` does; of
//! several, the first that fits is taken, so that ImageNet's flat `test` is ignored beside `val/CLASS`. Folders are classes
//! if more images lie in them than beside them. A class with a single image gives it to training. What is held out depends
//! on the names alone, and never changes.
//!
//! Read are JPEG, PNG and BMP files, and WebP and GIF if the crate is compiled with the feature of that name, under their
//! usual extensions in any case; what they are is told by their content. Any size and color type comes in; what goes out
//! is the largest centerd square, resized to S×S, as RGB. An alpha channel and an EXIF orientation are ignored, and of an
//! animation the first image is taken. Files are decoded when first asked for, and kept in memory up to a limit
//! ([`OpenOptions::cache`]). Files of other kinds are passed over, which a line on standard error says; names that begin
//! with a dot are not looked at.
//!
//! # Files that cannot be used
//!
//! [`BadImages`] says what becomes of them. With [`BadImages::Skip`] each is reported on standard error (a hundred of them
//! one by one), and counted by [`Dataset::skipped`]:
//!
//! - Opening looks at the first bytes of every file. What cannot be read, is no image, or is a PNG of an impossible size
//!   is left out then. Which images are test images is decided by the names alone, before that: an unreadable file moves
//!   no other from one split to the other.
//! - What only shows while a file is decoded is met in the middle of a run, when the images have their numbers. In the
//!   place of such an image stands the next good one of its class, in the order of the files, beginning again after the
//!   last: the labels stay true, and what an index holds depends on the files alone, not on the order in which threads
//!   ask for them. If there is no good one in its class, whoever asks for [`Dataset::pixels`] gets an error, and whoever
//!   does without labels ([`Dataset::unlabeled_pixels`]) the next one of all.
//!
//! An image beside class folders or beside `train` is left out, a class folder without an image is no class, and a test image of a class
//! that has no training image has no label. With [`BadImages::Refuse`] each of these is an error, and so are images of
//! formats that are not read here.

mod layout;
mod walk;

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;

use self::layout::{Class, HINT, Layout, layout};
use self::walk::{Listing, walk};
use super::picture::{self, check_start, decode};
use super::{BadImages, Dataset, OpenOptions, check_image_size, free_memory};
use crate::{Error, Result};

/// Bad files that one error names.
const NAMED: usize = 10;

/// Bad files that are reported one by one, when a split is opened and after that.
const REPORTED: usize = 100;

/// Classes that a line names.
const CLASSES_NAMED: usize = 5;

/// One split of a folder of images, or all of it.
pub struct Folder {
    dir: PathBuf,
    /// How the split is called; nothing for all of a folder.
    split: &'static str,
    /// What layout was recognized.
    layout: String,
    size: usize,
    class_names: Vec<String>,
    /// Relative to `dir`, group after group.
    files: Vec<PathBuf>,
    groups: Vec<Group>,
    /// Whether a good image stands in for a bad one.
    stand_ins: bool,
    bad_images: BadImages,
    /// Files that opening left out.
    left_out: usize,
    /// Which files turned out not to be decodable, and how many were reported.
    undecodable: Vec<AtomicBool>,
    reported: AtomicUsize,
    /// `[3][S][S]` of the first images, each filled at its first use, while there is memory.
    cache: Vec<OnceLock<Box<[u8]>>>,
    cache_is_full: AtomicBool,
}

/// Images that can stand in for each other: those of a class, or all where there are none.
struct Group {
    /// What the class is called.
    name: String,
    label: Option<usize>,
    /// Where its images end among all.
    end: usize,
    /// Whether it was reported that none of its images can be decoded.
    barren: AtomicBool,
}

/// Lists the training and test images under `dir`, to be shown at `size`×`size` pixels.
///
/// With [`BadImages::Refuse`] every file is decoded here, in parallel, so that nothing bad can be met later.
///
/// # Errors
/// If `dir` has none of the layouts above, there is no good training image, or, with [`BadImages::Refuse`], any file is
/// bad: the first ten are named. Without a good test image, that split is empty: only what needs one minds.
pub fn open(dir: &Path, size: usize, options: impl Into<OpenOptions>) -> Result<(Folder, Folder)> {
    check_image_size(size)?;
    let options = options.into();
    let mut found = walk(dir)?;
    let images = std::mem::take(&mut found.images);
    say_what_was_found(dir, images.len(), &found);
    let mut layout = layout(dir, images, &found)?;
    layout.ignored.iter().for_each(|what| warn(&format!("{}: {what}", dir.display())));

    let mut bad = std::mem::take(&mut found.bad);
    let beside =
        |path: &PathBuf| Error::file(dir.join(path), "lies beside the folders that are used, not in one", HINT);
    bad.extend(layout.beside.iter().map(beside));
    let (train, without) = sound(dir, std::mem::take(&mut layout.train), &mut bad);
    if train.is_empty() {
        return Err(nothing_good(dir, "train ", &bad));
    }
    let left_out = bad.len();
    let (test, _) = sound(dir, std::mem::take(&mut layout.test), &mut bad);
    if test.is_empty() {
        warn(&format!("{}: no test image can be used", dir.display()));
    }
    let class_names: Vec<String> = match layout.labeled {
        true => train.iter().map(|class| class.name.clone()).collect(),
        false => Vec::new(),
    };
    let contradictions = contradictions(dir, &layout, &without, [&train, &test]);

    // Each split may keep its share of what may be kept.
    let [n_train, n_test] =
        [&train, &test].map(|classes| classes.iter().map(|class| class.images.len()).sum::<usize>());
    let bytes = options.cache.unwrap_or_else(free_memory::share) as u128;
    let kept = |n: usize| (bytes * n as u128 / (n_train + n_test) as u128 / (3 * size * size) as u128).min(n as u128);
    let folder = |split, classes, kept, left_out| {
        let mut folder = Folder::new(dir, size, classes, kept as usize, options.bad_images);
        (folder.split, folder.layout, folder.left_out) = (split, layout.what.clone(), left_out);
        folder.name_classes(&class_names);
        folder
    };
    let test_left_out = bad.len() - left_out;
    let train = folder("train", train, kept(n_train), left_out);
    let test = folder("test", test, kept(n_test), test_left_out);
    match options.bad_images {
        BadImages::Skip => report_all(&bad),
        BadImages::Refuse => {
            bad.extend(found.unreadable(dir));
            bad.extend(layout.empty.iter().map(|empty| {
                Error::file(dir.join(empty), "no images in here, where a class is expected", "remove the folder")
            }));
            bad.extend(train.decode_all());
            bad.extend(test.decode_all());
            refuse(dir, &bad)?;
        }
    }
    for (problem, forbids_labels) in contradictions {
        if forbids_labels && options.bad_images == BadImages::Refuse {
            let hint = "give both splits the same class folders, or go on without those labels (`BadImages::Skip`)";
            return Err(Error::config(problem, hint));
        }
        warn(&problem);
    }
    Ok((train, test))
}

/// Lists every image under `dir`, whatever the layout, in the order of their paths, without labels. For looking at each
/// file, once: nothing is kept, and no image stands in for another, so that with [`BadImages::Skip`]
/// [`pixels`](Dataset::pixels) of one that cannot be decoded is an error.
///
/// # Errors
/// If there is no good image, or, with [`BadImages::Refuse`], any file is bad: the first ten are named.
pub fn open_all(dir: &Path, size: usize, bad_images: BadImages) -> Result<Folder> {
    check_image_size(size)?;
    let mut found = walk(dir)?;
    let images = std::mem::take(&mut found.images);
    say_what_was_found(dir, images.len(), &found);
    if images.is_empty() {
        return Err(Error::file(dir, "no images in here", "give a folder with .jpg or .png files in it, at any depth"));
    }
    let mut bad = std::mem::take(&mut found.bad);
    let (all, _) = sound(dir, vec![Class { name: String::new(), images }], &mut bad);
    if all.is_empty() {
        return Err(nothing_good(dir, "", &bad));
    }
    let mut folder = Folder::new(dir, size, all, 0, bad_images);
    (folder.stand_ins, folder.left_out) = (false, bad.len());
    match bad_images {
        BadImages::Skip => report_all(&bad),
        BadImages::Refuse => {
            bad.extend(found.unreadable(dir));
            bad.extend(folder.decode_all());
            refuse(dir, &bad)?;
        }
    }
    Ok(folder)
}

/// Says on standard error what is not used, where that is anything.
fn say_what_was_found(dir: &Path, images: usize, found: &Listing) {
    if let Some(passed_over) = found.passed_over() {
        let _ = writeln!(std::io::stderr(), "{}: {images} images; {passed_over}", dir.display()); // no reason to end
    }
}

/// That there are files that cannot be used, if there are.
fn refuse(dir: &Path, bad: &[Error]) -> Result<()> {
    if bad.is_empty() {
        return Ok(());
    }
    let named = bad.iter().take(NAMED).map(brief).collect::<Vec<_>>().join("; ");
    let more = if bad.len() > NAMED { "; …" } else { "" };
    let problem = format!("{} files cannot be used: {named}{more}", bad.len());
    Err(Error::file(dir, problem, "replace or remove them, or skip them (`BadImages::Skip`)"))
}

fn nothing_good(dir: &Path, split: &str, bad: &[Error]) -> Error {
    let reasons = bad.iter().take(NAMED).map(|e| format!("; {}", brief(e))).collect::<String>();
    Error::file(dir, format!("no {split}image can be used{reasons}"), picture::HINT)
}

/// In what the class folders contradict each other: a line for each contradiction, and whether it keeps features from being
/// judged. `without` are classes that have no good image in `train`, the first of the two splits.
fn contradictions(
    dir: &Path,
    layout: &Layout,
    without: &[String],
    [train, test]: [&[Class]; 2],
) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let dir = dir.display();
    if !layout.labeled || test.is_empty() {
        return found;
    }
    if !layout.empty.is_empty() {
        let named = layout.empty.iter().map(|path| path.display().to_string());
        found.push((format!("{dir}: class folders without any image are no classes: {}", few(named)), false));
    }
    if !without.is_empty() {
        found.push((format!("{dir}: no training image of these classes can be used: {}", few(without)), false));
    }
    let only = |these: &[Class], those: &[Class]| {
        let those: std::collections::HashSet<&str> = those.iter().map(|class| &*class.name).collect();
        let only = these.iter().filter(|class| !those.contains(&*class.name));
        only.map(|class| class.name.clone()).collect::<Vec<_>>()
    };
    let (only_train, only_test) = (only(train, test), only(test, train));
    // Where test images were held out, it is no news that a class of one image has none.
    if !only_test.is_empty() || (!only_train.is_empty() && layout.test_folder.is_some()) {
        let test_folder = layout.test_folder.unwrap_or("test");
        let sides = [("train", only_train), (test_folder, only_test.clone())];
        let sides = sides.iter().filter(|(_, only)| !only.is_empty());
        let sides: Vec<String> = sides.map(|(side, only)| format!("only in {side}: {}", few(only))).collect();
        let mut line = format!("{dir}: not the same classes in both splits: {}", sides.join("; "));
        if !only_test.is_empty() {
            line += " (these have no label, and features cannot be judged by them)";
        }
        found.push((line, !only_test.is_empty()));
    }
    found
}

/// The first of `names`, and how many there are besides.
fn few(names: impl IntoIterator<Item = impl std::fmt::Display, IntoIter: ExactSizeIterator>) -> String {
    let names = names.into_iter();
    let more = names.len().saturating_sub(CLASSES_NAMED);
    let mut said: Vec<String> = names.take(CLASSES_NAMED).map(|name| name.to_string()).collect();
    if more > 0 {
        said.push(format!("… and {more} more"));
    }
    said.join(", ")
}

/// Says something on standard error that is no reason to end.
fn warn(what: &str) {
    let _ = writeln!(std::io::stderr(), "warning: {what}");
}

/// Says on standard error which files are not used.
fn report_all(bad: &[Error]) {
    bad.iter().take(REPORTED).for_each(|error| warn(&format!("skipped {}", brief(error))));
    if bad.len() > REPORTED {
        warn(&format!("skipped {} more files", bad.len() - REPORTED));
    }
}

/// An error without its advice, on one line.
fn brief(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// `classes` with those of their images that begin as an image does; what is wrong with the others goes to `bad`, in the
/// same order. Classes that are left without any are given apart, by name.
fn sound(dir: &Path, classes: Vec<Class>, bad: &mut Vec<Error>) -> (Vec<Class>, Vec<String>) {
    let (mut good, mut without) = (Vec::new(), Vec::new());
    for Class { name, images } in classes {
        let check = |image: PathBuf| check_start(&dir.join(&image)).map(|()| image);
        let checked: Vec<Result<PathBuf>> = images.into_par_iter().map(check).collect();
        let images: Vec<_> = checked.into_iter().filter_map(|image| image.map_err(|e| bad.push(e)).ok()).collect();
        match images.is_empty() {
            true => without.push(name),
            false => good.push(Class { name, images }),
        }
    }
    (good, without)
}

impl Folder {
    /// The images of `classes`, of which the first `kept` are kept once they are decoded.
    fn new(dir: &Path, size: usize, classes: Vec<Class>, kept: usize, bad_images: BadImages) -> Self {
        let (mut files, mut groups) = (Vec::new(), Vec::new());
        for Class { name, images } in classes {
            files.extend(images);
            groups.push(Group { name, label: None, end: files.len(), barren: AtomicBool::new(false) });
        }
        Folder {
            dir: dir.to_owned(),
            split: "",
            layout: String::new(),
            size,
            class_names: Vec::new(),
            undecodable: files.iter().map(|_| AtomicBool::new(false)).collect(),
            files,
            groups,
            stand_ins: true,
            bad_images,
            left_out: 0,
            reported: AtomicUsize::new(0),
            cache: (0..kept).map(|_| OnceLock::new()).collect(),
            cache_is_full: AtomicBool::new(false),
        }
    }

    /// Labels each group by its name's place in `class_names`.
    fn name_classes(&mut self, class_names: &[String]) {
        let labels: HashMap<&str, usize> = class_names.iter().enumerate().map(|(k, name)| (&**name, k)).collect();
        for group in &mut self.groups {
            group.label = labels.get(&*group.name).copied();
        }
        self.class_names = class_names.to_vec();
    }

    /// Where image `index` lies, relative to the folder that was opened.
    ///
    /// # Panics
    /// If `index` is not below the number of images.
    pub fn path(&self, index: usize) -> &Path {
        &self.files[index]
    }

    /// The number of the group that image `index` belongs to.
    fn group(&self, index: usize) -> usize {
        assert!(index < self.files.len(), "image {index} of {}", self.files.len());
        self.groups.partition_point(|group| group.end <= index)
    }

    /// Decodes image `index`, or copies what was decoded before, into `out`. On an error `out` is as it was.
    fn own_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        let cell = self.cache.get(index);
        if let Some(pixels) = cell.and_then(OnceLock::get) {
            out.copy_from_slice(pixels);
            return Ok(());
        }
        decode(&self.dir.join(&self.files[index]), self.size, out)?;
        if let Some(cell) = cell.filter(|_| !self.cache_is_full.load(Ordering::Relaxed)) {
            let mut pixels = Vec::new();
            if pixels.try_reserve_exact(out.len()).is_err() {
                self.cache_is_full.store(true, Ordering::Relaxed);
                return Ok(());
            }
            pixels.extend_from_slice(out);
            // Another thread may have been first; it has stored the same bytes.
            let _ = cell.set(pixels.into_boxed_slice());
        }
        Ok(())
    }

    /// Whether image `index` could be decoded into `out`. If not, it is reported and never tried again.
    ///
    /// # Errors
    /// If it cannot be decoded, and bad images are refused.
    fn good_pixels(&self, index: usize, out: &mut [u8]) -> Result<bool> {
        if self.undecodable[index].load(Ordering::Relaxed) {
            return Ok(false);
        }
        match self.own_pixels(index, out) {
            Ok(()) => Ok(true),
            Err(error) if self.bad_images == BadImages::Refuse => Err(error),
            Err(error) => {
                self.set_aside(index, &error);
                Ok(false)
            }
        }
    }

    /// Remembers and reports that image `index` cannot be decoded.
    fn set_aside(&self, index: usize, error: &Error) {
        if self.undecodable[index].swap(true, Ordering::Relaxed) {
            return;
        }
        match self.reported.fetch_add(1, Ordering::Relaxed) {
            ..REPORTED => warn(&format!("skipped {}", brief(error))),
            REPORTED => warn("skipped more files, which are counted but no longer named"),
            _ => {}
        }
    }

    /// Whether there was a good image among `candidates`; the first is now in `out`.
    fn first_good(&self, candidates: impl IntoIterator<Item = usize>, out: &mut [u8]) -> Result<bool> {
        for index in candidates {
            if self.good_pixels(index, out)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Decodes every image; what is wrong with those that cannot be, in order.
    fn decode_all(&self) -> Vec<Error> {
        let decode = |pixels: &mut Vec<u8>, index| self.own_pixels(index, pixels).err();
        let errors = (0..self.len()).into_par_iter().map_init(|| vec![0; 3 * self.size * self.size], decode);
        errors.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    /// Tries image `index` and then the others of its group. Gives the group's number, and whether one was good.
    fn pixels_of_group(&self, index: usize, out: &mut [u8]) -> Result<(usize, bool)> {
        let group = self.group(index);
        let start = group.checked_sub(1).map_or(0, |before| self.groups[before].end);
        let good = self.first_good((index..self.groups[group].end).chain(start..index), out)?;
        Ok((group, good))
    }

    /// "train image of class a", as far as there are splits and classes.
    fn kind(&self, class: &str) -> String {
        let split = if self.split.is_empty() { String::new() } else { format!("{} ", self.split) };
        let class = if class.is_empty() { String::new() } else { format!(" of class {class}") };
        format!("{split}image{class}")
    }

    fn undecodable(&self, class: &str) -> Error {
        let problem = format!("no {} can be decoded", self.kind(class));
        Error::file(&self.dir, problem, "replace these files by good ones")
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
        if !self.stand_ins {
            return self.own_pixels(index, out).inspect_err(|error| self.set_aside(index, error));
        }
        match self.pixels_of_group(index, out)? {
            (_, true) => Ok(()),
            (group, false) => Err(self.undecodable(&self.groups[group].name)),
        }
    }

    fn unlabeled_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        if !self.stand_ins {
            return self.pixels(index, out);
        }
        let (group, good) = self.pixels_of_group(index, out)?;
        if good {
            return Ok(());
        }
        let Group { name, end, barren, .. } = &self.groups[group];
        if !barren.swap(true, Ordering::Relaxed) && self.groups.len() > 1 {
            let kind = self.kind(name);
            warn(&format!("no {kind} can be decoded: others stand in where labels do not count"));
        }
        match self.first_good((*end..self.len()).chain(0..index), out)? {
            true => Ok(()),
            false => Err(self.undecodable("")),
        }
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.groups[self.group(index)].label
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn describe(&self) -> String {
        let (n, s) = (self.len(), self.size);
        let dir = [self.dir.display().to_string(), self.split.to_owned()].join(" ");
        let classes = match self.class_names.len() {
            0 => "without labels".to_owned(),
            _ => format!("of {} classes", self.groups.len()),
        };
        let layout = if self.layout.is_empty() { String::new() } else { format!(" ({})", self.layout) };
        let unlabeled = self.groups.iter().filter(|group| group.label.is_none()).map(|group| &group.name);
        let unknown = match self.class_names.is_empty() {
            false if self.groups.iter().any(|group| group.label.is_none()) => {
                format!("; no training image, and so no label, for {}", few(unlabeled.collect::<Vec<_>>()))
            }
            _ => String::new(),
        };
        let skipped = match self.skipped() {
            0 => String::new(),
            skipped => format!(" (files that cannot be used and were skipped: {skipped})"),
        };
        format!("{}: {n} images {classes}{layout}, at {s}x{s}{unknown}{skipped}", dir.trim_end())
    }

    /// How many files there are, and a CRC-32 of their paths below the folder, in the order of their numbers.
    fn identity(&self) -> String {
        let mut list = crc32fast::Hasher::new();
        for file in &self.files {
            for part in file {
                list.update(part.as_encoded_bytes());
                list.update(b"/"); // in no name
            }
            list.update(&[0]);
        }
        format!("{} files (CRC-32 of their list {:08x})", self.len(), list.finalize())
    }

    fn skipped(&self) -> usize {
        self.left_out + self.undecodable.iter().filter(|bad| bad.load(Ordering::Relaxed)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    use crate::data::testing::{pixels, write};
    use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};

    /// The file that `image` makes.
    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn plain(width: u32, height: u32, color: [u8; 3]) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb(color))
    }

    #[test]
    fn png_jpeg_gray_and_16_bit_files_become_planes_of_rgb() {
        let scratch = tempdir().unwrap();
        let red = [200, 10, 30];
        write(&scratch, "train/b/1.png", &encoded(plain(8, 8, red), ImageFormat::Png));
        write(&scratch, "train/b/2.JPG", &encoded(plain(20, 8, red), ImageFormat::Jpeg));
        let gray = GrayImage::from_pixel(9, 9, Luma([77]));
        write(&scratch, "train/a/gray.png", &encoded(gray, ImageFormat::Png));
        let deep = DynamicImage::ImageRgba8(DynamicImage::from(plain(8, 8, red)).into_rgba8()).into_rgba16();
        write(&scratch, "train/b/3.png", &encoded(deep, ImageFormat::Png));
        write(&scratch, "train/b/notes.txt", b"not an image");
        for class in ["a", "b"] {
            write(&scratch, &format!("val/{class}/x.png"), &encoded(plain(8, 8, red), ImageFormat::Png));
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
    fn what_is_held_out_is_in_no_other_split() {
        let scratch = tempdir().unwrap();
        for k in 0..10 {
            write(&scratch, &format!("a/{k}.png"), &encoded(plain(8, 8, [k; 3]), ImageFormat::Png));
            write(&scratch, &format!("b/deep/er/{k}.png"), &encoded(plain(8, 8, [100 + k; 3]), ImageFormat::Png));
        }
        let (train, test) = open(scratch.path(), 8, BadImages::Refuse).unwrap();
        assert_eq!((train.len(), test.len()), (16, 4));
        assert_eq!((0..4).filter_map(|k| test.label(k)).collect::<Vec<_>>(), [0, 0, 1, 1]);
        let again = open(scratch.path(), 8, BadImages::Skip).unwrap();
        assert_eq!((&train.files, &test.files), (&again.0.files, &again.1.files));
        let mut all: Vec<_> = train.files.iter().chain(&test.files).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 20);
    }

    #[test]
    fn every_image_under_a_folder_with_its_path() {
        let scratch = tempdir().unwrap();
        for (k, name) in ["top.png", "train/b/1.png", "train/a/2.png", "val/x.png"].into_iter().enumerate() {
            write(&scratch, name, &encoded(plain(8, 8, [k as u8; 3]), ImageFormat::Png));
        }
        write(&scratch, "late.png", &encoded(plain(8, 8, [7; 3]), ImageFormat::Png)[..60]);
        write(&scratch, "early.png", b"hello");
        let folder = open_all(scratch.path(), 8, BadImages::Skip).unwrap();
        let paths: Vec<_> = (0..folder.len()).map(|k| folder.path(k).to_str().unwrap()).collect();
        assert_eq!(paths, ["late.png", "top.png", "train/a/2.png", "train/b/1.png", "val/x.png"]);
        assert!(folder.class_names().is_empty() && folder.label(1).is_none());
        for (index, level) in [(1, 0), (2, 2), (3, 1), (4, 3)] {
            assert!(pixels(&folder, index).iter().all(|v| *v == level));
        }
        // Nothing stands in: the path would be another one's.
        for _ in 0..2 {
            let error = folder.unlabeled_pixels(0, &mut [0; 192]).unwrap_err().to_string();
            assert!(error.contains("late.png: cannot be decoded"), "{error}");
        }
        assert_eq!(folder.skipped(), 2);
        let error = open_all(scratch.path(), 8, BadImages::Refuse).err().unwrap().to_string();
        assert!(error.contains("2 files") && error.contains("late.png") && error.contains("early.png"), "{error}");
        let error = open_all(&scratch.path().join("nowhere"), 8, BadImages::Skip).err().unwrap().to_string();
        assert!(error.contains("nowhere"), "{error}");
    }

    #[test]
    fn a_list_of_files_is_known_again_wherever_it_lies_and_whatever_is_in_them() {
        let identity = |names: &[(&str, usize)]| {
            let scratch = tempdir().unwrap();
            let whole = encoded(plain(8, 8, [9; 3]), ImageFormat::Png);
            names.iter().for_each(|(name, bytes)| write(&scratch, name, &whole[..whole.len().min(*bytes)]));
            let (train, test) = open(scratch.path(), 8, BadImages::Skip).unwrap();
            train.unlabeled_pixels(0, &mut [0; 192]).unwrap();
            (train.identity(), test.identity())
        };
        let before = identity(&[("train/a.png", 999), ("train/b.png", 999), ("test/c.png", 999)]);
        // zlib.crc32(b"train/a.png/\0train/b.png/\0") of Python.
        assert_eq!(before.0, "2 files (CRC-32 of their list cda62b62)");
        assert_eq!(before, identity(&[("train/a.png", 60), ("train/b.png", 999), ("test/c.png", 60)]));
        let renamed = identity(&[("train/a.png", 999), ("train/c.png", 999), ("test/c.png", 999)]);
        assert!(before.0 != renamed.0 && before.1 == renamed.1);
        // What has no number any more is on no list; nothing to test on is no error.
        let left_out = identity(&[("train/a.png", 999), ("train/b.png", 3), ("test/c.png", 3)]);
        assert!(left_out.0.starts_with("1 files") && left_out.1.starts_with("0 files"), "{left_out:?}");
    }

    #[test]
    fn an_image_is_decoded_once() {
        let scratch = tempdir().unwrap();
        for k in 0..2 {
            write(&scratch, &format!("a/{k}.png"), &encoded(plain(8, 8, [9; 3]), ImageFormat::Png));
        }
        let (train, _) = open(scratch.path(), 8, BadImages::Skip).unwrap();
        let first = pixels(&train, 0);
        std::fs::remove_file(scratch.path().join(train.path(0))).unwrap();
        assert_eq!(pixels(&train, 0), first);
    }

    #[test]
    fn no_more_is_kept_than_was_said() {
        let scratch = tempdir().unwrap();
        (0..10).for_each(|k| write(&scratch, &format!("{k}.png"), &encoded(plain(8, 8, [k; 3]), ImageFormat::Png)));
        let kept = |cache| {
            let (train, test) = open(scratch.path(), 8, OpenOptions { cache, ..OpenOptions::default() }).unwrap();
            (0..train.len()).for_each(|k| drop(pixels(&train, k)));
            (0..test.len()).for_each(|k| drop(pixels(&test, k)));
            [&train, &test].map(|folder| folder.cache.iter().filter(|cell| cell.get().is_some()).count())
        };
        assert_eq!(kept(None), [8, 2]);
        assert_eq!(kept(Some(10 * 192)), [8, 2]);
        assert_eq!(kept(Some(5 * 192)), [4, 1], "each split its share");
        assert_eq!(kept(Some(0)), [0, 0]);
        assert_eq!(kept(Some(u64::MAX)), [8, 2]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let scratch = tempdir().unwrap();
        let message = |size| open(scratch.path(), size, BadImages::Skip).err().expect("must fail").to_string();
        assert!(message(8).contains("no images in here\n  expected CLASS/NAME.jpg"));
        write(&scratch, "a/readme.txt", b"");
        assert!(message(8).contains("no images in here"));
        write(&scratch, "a/1.png", b"hello");
        assert!(message(8).contains("holds a single image"));
        write(&scratch, "a/2.png", b"hello");
        let error = message(8);
        assert!(error.contains("1.png: it is no image of a known format"), "{error}");
    }
}
