//! A folder of image files, with classes or without.
//!
#![doc = include_str!("../../../docs/data.md")]
//!
//! # Files that cannot be used
//!
//! [`BadImages`] says what becomes of them. With [`BadImages::Skip`] each is reported on standard error (a hundred of them
//! one by one), and counted by [`Dataset::skipped`]:
//!
//! - Opening looks at the first bytes of every file. What cannot be read, is no image, or is a PNG of an impossible size
//!   is left out then. Which images are test images is decided by the names alone, before that: an unreadable file moves
//!   no other from one split to the other.
//! - Damage that only shows when a file is decoded is found in the middle of a run, when the images already have their
//!   numbers. Such an image is replaced by the next good one of its class, in the order of the files, beginning again after
//!   the last: the labels stay true, and what an index holds depends on the files alone, not on the order in which threads
//!   ask for them. If its class has no good image, [`Dataset::pixels`] is an error, and for those who do without labels,
//!   [`Dataset::unlabeled_pixels`] takes the next one of all.
//!
//! A class folder without an image is no class, and a test image of a class that has no training image has no label. With
//! [`BadImages::Refuse`] all that `--strict` refuses is an error.

mod images;
mod layout;
mod walk;

use std::fmt::Display;
use std::io::Write;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

pub use self::images::Folder;
use self::layout::{Class, HINT, Layout, layout};
use self::walk::walk;
use super::picture::{self, check_start};
use super::{BadImages, Dataset, OpenOptions, check_image_size, free_memory};
use crate::{Error, Result};

/// Bad files that one error names.
const NAMED: usize = 10;

/// Bad files that are reported one by one, when a split is opened and after that.
const REPORTED: usize = 100;

/// Classes that a line names.
const CLASSES_NAMED: usize = 5;

/// Lists the training and test images under `dir`, to be shown at `size`×`size` pixels.
///
/// With [`BadImages::Refuse`] every file is decoded here, in parallel, so that nothing bad can be met later.
///
/// # Errors
/// If `dir` has none of the layouts above, there is no good training image, or, with [`BadImages::Refuse`], any file is
/// bad: the first ten are named. Without a good test image, that split is empty: only what needs one minds.
pub fn open(dir: &Path, size: usize, OpenOptions { bad_images, cache }: OpenOptions) -> Result<(Folder, Folder)> {
    check_image_size(size)?;
    let mut found = walk(dir)?;
    let Layout { mut train, mut test, labeled, what, test_folder, ignored, beside, empty } = layout(dir, &mut found)?;
    ignored.iter().for_each(|what| warn(&format!("{}: {what}", dir.display())));

    let mut bad = std::mem::take(&mut found.bad);
    let stray = |path: PathBuf| Error::file(dir.join(path), "lies beside the folders that are used, not in one", HINT);
    bad.extend(beside.into_iter().map(stray));
    let without = keep_sound(dir, &mut train, &mut bad);
    if train.is_empty() {
        return Err(nothing_good(dir, "train ", &bad));
    }
    let left_out = bad.len();
    keep_sound(dir, &mut test, &mut bad);
    if test.is_empty() {
        warn(&format!("{}: no test image can be used", dir.display()));
    }

    // Each split may keep its share of what may be kept.
    let count = |classes: &[Class]| classes.iter().map(|class| class.images.len()).sum::<usize>();
    let (n, bytes) = (count(&train) + count(&test), cache.unwrap_or_else(free_memory::share));
    let class_names: Vec<String> =
        if labeled { train.iter().map(|class| class.name.clone()).collect() } else { Vec::new() };
    let folder = |split, classes: Vec<Class>, left_out| {
        let share = u128::from(bytes) * count(&classes) as u128 / n as u128 / (3 * size * size) as u128;
        let kept = share.min(count(&classes) as u128) as usize;
        let mut folder = Folder::new((dir, size, bad_images), classes, &class_names, kept);
        (folder.split, folder.layout, folder.left_out) = (split, what.clone(), left_out);
        folder
    };
    let (train, test) = (folder("train", train, left_out), folder("test", test, bad.len() - left_out));
    if bad_images == BadImages::Refuse {
        let no_class = |path: &PathBuf| {
            Error::file(dir.join(path), "no images in here, where a class is expected", "remove the folder")
        };
        bad.extend(found.unreadable(dir));
        bad.extend(empty.iter().map(no_class));
    }
    settle(dir, bad, &[&train, &test], bad_images)?;
    if labeled && !test.is_empty() {
        let dir = dir.display();
        if !empty.is_empty() {
            let named = few(empty.iter().map(|path| path.display()));
            warn(&format!("{dir}: class folders without any image are no classes: {named}"));
        }
        if !without.is_empty() {
            warn(&format!("{dir}: no training image of these classes can be used: {}", few(&without)));
        }
        check_classes(&train, &test, test_folder, bad_images)?;
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
    if images.is_empty() {
        return Err(Error::file(dir, "no images in here", "give a folder with .jpg or .png files in it, at any depth"));
    }
    let (mut bad, mut all) = (std::mem::take(&mut found.bad), vec![Class { name: String::new(), images }]);
    keep_sound(dir, &mut all, &mut bad);
    if all.is_empty() {
        return Err(nothing_good(dir, "", &bad));
    }
    let mut folder = Folder::new((dir, size, bad_images), all, &[], 0);
    (folder.stand_ins, folder.left_out) = (false, bad.len());
    if bad_images == BadImages::Refuse {
        bad.extend(found.unreadable(dir));
    }
    settle(dir, bad, &[&folder], bad_images)?;
    Ok(folder)
}

/// Keeps those images of `classes` that begin as an image does; what is wrong with the others goes to `bad`, in the same
/// order. Classes that are left without any are removed, and given back by name.
fn keep_sound(dir: &Path, classes: &mut Vec<Class>, bad: &mut Vec<Error>) -> Vec<String> {
    for Class { images, .. } in &mut *classes {
        let check = |image: PathBuf| check_start(&dir.join(&image)).map(|()| image);
        let checked: Vec<Result<PathBuf>> = std::mem::take(images).into_par_iter().map(check).collect();
        images.extend(checked.into_iter().filter_map(|image| image.map_err(|e| bad.push(e)).ok()));
    }
    classes.extract_if(.., |class| class.images.is_empty()).map(|class| class.name).collect()
}

/// What becomes of the files that are `bad`, and, where none may be, of those that cannot be decoded.
fn settle(dir: &Path, mut bad: Vec<Error>, folders: &[&Folder], bad_images: BadImages) -> Result<()> {
    if bad_images == BadImages::Skip {
        bad.iter().take(REPORTED).for_each(|error| warn(&format!("skipped {}", brief(error))));
        if bad.len() > REPORTED {
            warn(&format!("skipped {} more files", bad.len() - REPORTED));
        }
        return Ok(());
    }
    bad.extend(folders.iter().flat_map(|folder| folder.decode_all()));
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

/// Says which classes only one split has. Images of a class that only `test` has are without a label, which keeps features
/// from being judged.
///
/// # Errors
/// If there are such images, and bad images are refused.
fn check_classes(train: &Folder, test: &Folder, test_folder: Option<&str>, bad_images: BadImages) -> Result<()> {
    let (only_train, only_test) = (train.classes_without(test), test.classes_without(train));
    // Where test images were held out, it is no news that a class of one image has none.
    if only_test.is_empty() && (only_train.is_empty() || test_folder.is_none()) {
        return Ok(());
    }
    let sides = [("train", &only_train), (test_folder.unwrap_or("test"), &only_test)];
    let sides = sides.into_iter().filter(|(_, only)| !only.is_empty());
    let sides: Vec<String> = sides.map(|(side, only)| format!("only in {side}: {}", few(only))).collect();
    let mut line = format!("{}: not the same classes in both splits: {}", train.dir.display(), sides.join("; "));
    if !only_test.is_empty() {
        line += " (these have no label, and features cannot be judged by them)";
        if bad_images == BadImages::Refuse {
            let hint = "give both splits the same class folders, or go on without those labels (`BadImages::Skip`)";
            return Err(Error::config(line, hint));
        }
    }
    warn(&line);
    Ok(())
}

/// [`warn`] of what no other process sees: it decodes images of its own.
fn warn_here(what: &str) {
    let _ = writeln!(std::io::stderr(), "warning: {what}"); // that nobody may read it is no reason to end
}

/// Says something on standard error that is no reason to end; of several processes, which list the same files, the first does.
fn warn(what: &str) {
    crate::processes::note(format_args!("warning: {what}"));
}

/// An error without its advice, on one line.
fn brief(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The first of `names`, and how many there are besides.
fn few(names: impl IntoIterator<Item = impl Display, IntoIter: ExactSizeIterator>) -> String {
    let names = names.into_iter();
    let more = names.len().saturating_sub(CLASSES_NAMED);
    let mut said: Vec<String> = names.take(CLASSES_NAMED).map(|name| name.to_string()).collect();
    if more > 0 {
        said.push(format!("… and {more} more"));
    }
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    use crate::data::testing::{pixels, write};
    use image::{ImageFormat, Rgb, RgbImage};

    /// A PNG of 8×8 pixels of one gray level.
    fn gray(level: u8) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        RgbImage::from_pixel(8, 8, Rgb([level; 3])).write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn every_image_under_a_folder_with_its_path() {
        let scratch = tempdir().unwrap();
        for (k, name) in ["top.png", "train/b/1.png", "train/a/2.png", "val/x.png"].into_iter().enumerate() {
            write(&scratch, name, &gray(k as u8));
        }
        write(&scratch, "late.png", &gray(7)[..60]);
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
            let whole = gray(9);
            names.iter().for_each(|(name, bytes)| write(&scratch, name, &whole[..whole.len().min(*bytes)]));
            let (train, test) = open(scratch.path(), 8, BadImages::Skip.into()).unwrap();
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
    fn no_more_is_kept_than_was_said() {
        let scratch = tempdir().unwrap();
        (0..10).for_each(|k| write(&scratch, &format!("{k}.png"), &gray(k)));
        let kept = |cache| {
            let (train, test) = open(scratch.path(), 8, OpenOptions { cache, ..OpenOptions::default() }).unwrap();
            (0..train.len()).for_each(|k| drop(pixels(&train, k)));
            (0..test.len()).for_each(|k| drop(pixels(&test, k)));
            [train.kept(), test.kept()]
        };
        assert_eq!(kept(None), [8, 2]);
        assert_eq!(kept(Some(10 * 192)), [8, 2]);
        assert_eq!(kept(Some(5 * 192)), [4, 1], "each split its share");
        assert_eq!(kept(Some(0)), [0, 0]);
        assert_eq!(kept(Some(u64::MAX)), [8, 2]);
        let (train, _) = open(scratch.path(), 8, OpenOptions::default()).unwrap();
        let first = pixels(&train, 0);
        std::fs::remove_file(scratch.path().join(train.path(0))).unwrap();
        assert_eq!(pixels(&train, 0), first, "what is kept is not read again");
    }
}
