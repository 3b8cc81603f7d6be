//! Which of a folder's images are for training, which for testing, and what their classes are: told by paths alone.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;

use super::walk::Listing;
use crate::rng::{Purpose, stream};
use crate::{Error, Result};

/// What a test split's folder may be called; the first that fits is taken.
const TESTS: [&str; 4] = ["test", "val", "valid", "validation"];

const TRAIN: &str = "train";

/// Most images that are held out of those without labels; never more than a fifth.
const HELD_OUT: usize = 512;

/// What to do about a folder in which no layout is recognized.
pub(super) const HINT: &str = "expected CLASS/NAME.jpg; train/CLASS/NAME.jpg, beside it val/CLASS/NAME.jpg or not; or \
                               images without classes (docs/data.md)";

/// The images of a class, or of a split without classes, which then has no name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) name: String,
    /// Relative to the folder, sorted.
    pub(super) images: Vec<PathBuf>,
}

/// Both splits, as paths tell them.
#[derive(Default)]
pub(super) struct Layout {
    pub(super) train: Vec<Class>,
    pub(super) test: Vec<Class>,
    /// Whether the sub-folders are classes.
    pub(super) labeled: bool,
    /// What was recognized, in a few words.
    pub(super) what: String,
    /// The folder of the test images; `None` where they were held out of the training images.
    pub(super) test_folder: Option<&'static str>,
    /// What is not used, and why.
    pub(super) ignored: Vec<String>,
    /// Images that lie beside class folders, or beside the folders of the splits.
    pub(super) beside: Vec<PathBuf>,
    /// Folders where classes are expected, without any image.
    pub(super) empty: Vec<PathBuf>,
}

/// Images, divided by the folders that they lie in.
#[derive(Default)]
struct Tree {
    here: Vec<PathBuf>,
    below: Vec<(PathBuf, Vec<PathBuf>)>,
}

impl Tree {
    /// Divides sorted `images` by their first `depth` folders; those that lie no deeper are `here`.
    fn of(images: Vec<PathBuf>, depth: usize) -> Self {
        let mut tree = Tree::default();
        for image in images {
            let folder: PathBuf = image.components().take(depth).collect();
            match tree.below.last_mut() {
                _ if folder == image => tree.here.push(image),
                Some((last, images)) if *last == folder => images.push(image),
                _ => tree.below.push((folder, vec![image])),
            }
        }
        tree
    }

    /// Takes the images of the folder that is called `name`.
    fn take(&mut self, name: &str) -> Option<Vec<PathBuf>> {
        let at = self.below.iter().position(|(folder, _)| folder.file_name() == Some(OsStr::new(name)))?;
        Some(self.below.remove(at).1)
    }

    /// Whether the folders are classes, and images beside them strays: there are fewer of these than of the others.
    fn has_classes(&self) -> bool {
        self.here.len() < self.below.iter().map(|(_, images)| images.len()).sum()
    }
}

/// The layout of what was found in `dir`, whose images it takes.
///
/// # Errors
/// If there is no image, or only one; no training image beside test images; or a class's name is no text.
pub(super) fn layout(dir: &Path, found: &mut Listing) -> Result<Layout> {
    let (mut top, found) = (Tree::of(std::mem::take(&mut found.images), 1), &*found);
    let is_folder = |name: &str| found.folders.iter().any(|folder| folder == Path::new(name));
    let tests: Vec<&'static str> = TESTS.into_iter().filter(|name| is_folder(name)).collect();
    let other = |(folder, _): &(PathBuf, _)| !TESTS.iter().chain([&TRAIN]).any(|name| folder == Path::new(name));
    // A folder `train` among many others is a class: CIFAR-100 has one.
    let divided = is_folder(TRAIN) && (!tests.is_empty() || !top.below.iter().any(other));
    let mut layout = Layout::default();
    if divided {
        let Some(train) = top.take(TRAIN) else {
            return Err(Error::file(dir.join(TRAIN), "no images in here", HINT));
        };
        let train = Tree::of(train, 2);
        layout.labeled = train.has_classes();
        for name in tests {
            let Some(test) = top.take(name) else {
                layout.ignored.push(format!("{name}/ is ignored: it has no images"));
                continue;
            };
            let (n, test) = (test.len(), Tree::of(test, 2));
            if layout.test_folder.is_some() {
                layout.ignored.push(format!("{name}/ with its {n} images is ignored: there is another test split"));
            } else if layout.labeled && !test.has_classes() {
                layout.ignored.push(format!("{name}/ with its {n} images is ignored: it has no class folders"));
            } else {
                layout.test_folder = Some(name);
                layout.test = layout.classes(dir, test, Path::new(name), found)?;
            }
        }
        layout.beside.extend(top.here);
        layout.beside.extend(top.below.into_iter().flat_map(|(_, images)| images));
        layout.train = layout.classes(dir, train, Path::new(TRAIN), found)?;
    } else if top.here.is_empty() && !top.below.is_empty() && !top.below.iter().any(other) {
        let hint = "add a folder train beside it, or give the folder of images itself";
        return Err(Error::file(dir, format!("there is no folder train beside {}", tests.join(" and ")), hint));
    } else {
        layout.labeled = top.has_classes();
        layout.train = layout.classes(dir, top, Path::new(""), found)?;
    }
    if layout.train.is_empty() {
        return Err(Error::file(dir, "no images in here", HINT));
    }
    let at = if divided { "train/" } else { "" };
    let classes = if layout.labeled { "CLASS" } else { "images without classes" };
    layout.what = match layout.test_folder {
        Some(test) => format!("train/{classes} and {test}/{classes}"),
        None => format!("{at}{classes}, {} held out", layout.hold_out(dir)?),
    };
    Ok(layout)
}

impl Layout {
    /// The classes that the folders of `tree` are, or all of its images as one where there are none. `at` is where it lies.
    fn classes(&mut self, dir: &Path, tree: Tree, at: &Path, found: &Listing) -> Result<Vec<Class>> {
        if !self.labeled {
            let below = tree.below.into_iter().flat_map(|(_, images)| images);
            let mut images: Vec<PathBuf> = tree.here.into_iter().chain(below).collect();
            images.sort();
            return Ok(if images.is_empty() { vec![] } else { vec![Class { name: String::new(), images }] });
        }
        self.beside.extend(tree.here);
        let with_images: HashSet<&Path> = tree.below.iter().map(|(folder, _)| &**folder).collect();
        let expected = found.folders.iter().filter(|folder| folder.parent() == Some(at));
        self.empty.extend(expected.filter(|folder| !with_images.contains(&***folder)).cloned());
        let class = |(folder, images): (PathBuf, Vec<PathBuf>)| match folder.file_name().and_then(OsStr::to_str) {
            Some(name) => Ok(Class { name: name.to_owned(), images }),
            None => Err(Error::file(dir.join(folder), "a class whose name is not UTF-8", "rename the folder")),
        };
        tree.below.into_iter().map(class).collect()
    }

    /// Sets a part of the training images aside for testing, always the same: of each class a fifth, rounded down, but at
    /// least one of two. Gives how much that is, in words.
    fn hold_out(&mut self, dir: &Path) -> Result<String> {
        if !self.labeled {
            let all = &mut self.train[0].images;
            let n = (all.len() / 5).clamp(1, HELD_OUT);
            let images = hold_out(all, n, 0);
            self.test = vec![Class { name: String::new(), images }];
            return self.some_left(dir).map(|()| n.to_string());
        }
        for (number, class) in self.train.iter_mut().enumerate() {
            let n = match class.images.len() {
                1 => 0, // its only one is for training
                n => (n / 5).max(1),
            };
            let images = hold_out(&mut class.images, n, number as u64);
            self.test.push(Class { name: class.name.clone(), images });
        }
        self.test.retain(|class| !class.images.is_empty());
        if !self.test.is_empty() {
            return Ok("a fifth of each class".to_owned());
        }
        // Every class has a single image: nothing can be learned about labels, but without labels something can.
        let n = (self.train.len() / 5).clamp(1, HELD_OUT);
        self.test = hold_out(&mut self.train, n, 0);
        self.some_left(dir).map(|()| format!("{n} classes of one image each"))
    }

    fn some_left(&self, dir: &Path) -> Result<()> {
        if self.train.iter().any(|class| !class.images.is_empty()) {
            return Ok(());
        }
        Err(Error::file(dir, "holds a single image: none is left to train on beside it", "add images"))
    }
}

/// Takes `n` of `all`, drawn in the same way whenever there are as many; both keep their order.
fn hold_out<T: Ord>(all: &mut Vec<T>, n: usize, number: u64) -> Vec<T> {
    all.shuffle(&mut stream(0, Purpose::Shuffle, [number, 0]));
    let mut held_out = all.split_off(all.len() - n);
    all.sort();
    held_out.sort();
    held_out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout of these paths: `a/*3` stands for three images in the folder `a`, `a/` for the folder alone.
    fn of(paths: &str) -> Result<Layout> {
        let mut found = Listing::default();
        for path in paths.split_whitespace() {
            let (folder, images) = path.split_once('*').unwrap_or((path, "0"));
            for folder in Path::new(folder).ancestors().filter(|folder| !folder.as_os_str().is_empty()) {
                let folder: PathBuf = folder.components().collect();
                if !found.folders.contains(&folder) {
                    found.folders.push(folder);
                }
            }
            found.images.extend((0..images.parse().unwrap()).map(|k| Path::new(folder).join(format!("{k:04}.png"))));
        }
        found.images.sort();
        layout(Path::new("DIR"), &mut found)
    }

    /// Class names and numbers of images.
    fn sizes(classes: &[Class]) -> String {
        let sizes = classes.iter().map(|class| format!("{} {}", class.name, class.images.len()).trim().to_owned());
        sizes.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn paths_tell_splits_and_classes() {
        let imagenet = "train/n1/*6 train/n2/*6 val/n1/*2 val/n2/*2";
        let (flat, both) = (format!("{imagenet} test/*5"), format!("{imagenet} test/n1/*3 *1 extra/*2"));
        let fifth = "CLASS, a fifth of each class held out";
        let fifth_of_train = "train/CLASS, a fifth of each class held out";
        let no_classes = "train/images without classes and test/images without classes";
        let flat_test = "test/ with its 5 images is ignored: it has no class folders";
        let other_test = "val/ with its 4 images is ignored: there is another test split, 3 beside";
        for (paths, what, train, test, not_used) in [
            ("a/*10 b/deeper/still/*4 b/*5 c/*1", fifth, "a 8, b 8, c 1", "a 2, b 1", ""),
            (&flat, "train/CLASS and val/CLASS", "n1 6, n2 6", "n1 2, n2 2", flat_test),
            (&both, "train/CLASS and test/CLASS", "n1 6, n2 6", "n1 3", other_test),
            ("train/a/*10 test/*5", fifth_of_train, "a 8", "a 2", flat_test),
            ("train/a/*10 test/", fifth_of_train, "a 8", "a 2", "test/ is ignored: it has no images"),
            // Among other classes `train` is one of them; alone it is a split.
            ("train/*5 bus/*5 car/*5", fifth, "bus 4, car 4, train 4", "bus 1, car 1, train 1", ""),
            ("train/bus/*5 train/car/*5", fifth_of_train, "bus 4, car 4", "bus 1, car 1", ""),
            ("*40 more/*10", "images without classes, 10 held out", "40", "10", ""),
            ("train/*40 train/more/*10", "train/images without classes, 10 held out", "40", "10", ""),
            ("*5000", "images without classes, 512 held out", "4488", "512", ""),
            ("*2", "images without classes, 1 held out", "1", "1", ""),
            ("train/*4 test/*3", no_classes, "4", "3", ""),
            ("train/*4 val/*3", &no_classes.replace("test", "val"), "4", "3", ""),
            ("train/*4 test/odd/*3", no_classes, "4", "3", ""),
            // Fewer images beside folders than in them are strays.
            ("*1 a/*2 b/ b/c/", fifth, "a 1", "a 1", "1 beside, b empty"),
            ("*2 a/*2", "images without classes, 1 held out", "3", "1", ""),
            ("a/*1 b/*1 c/*1", "CLASS, 1 classes of one image each held out", "b 1, c 1", "a 1", ""),
        ] {
            let layout = of(paths).unwrap();
            assert_eq!([&*layout.what, &sizes(&layout.train), &sizes(&layout.test)], [what, train, test], "{paths}");
            assert_eq!(layout.labeled, what.contains("CLASS"), "{paths}");
            let ignored = layout.ignored.iter().cloned();
            let beside = (!layout.beside.is_empty()).then(|| format!("{} beside", layout.beside.len()));
            let empty = layout.empty.iter().map(|folder| format!("{} empty", folder.display()));
            assert_eq!(ignored.chain(beside).chain(empty).collect::<Vec<_>>().join(", "), not_used, "{paths}");
            let again = of(paths).unwrap();
            assert_eq!((&layout.train, &layout.test), (&again.train, &again.test));
            let used = || layout.train.iter().chain(&layout.test).flat_map(|class| &class.images);
            assert_eq!(used().collect::<HashSet<_>>().len(), used().count(), "no image is in both");
        }
    }

    #[test]
    fn what_cannot_be_divided_is_an_error() {
        for (paths, expected) in [
            ("", "DIR: no images in here"),
            ("a/", "DIR: no images in here"),
            ("train/ test/a/*1", "train: no images in here"),
            ("val/a/*2", "no folder train beside val"),
            ("*1", "a single image"),
            ("a/*1", "a single image"),
        ] {
            let error = of(paths).err().unwrap_or_else(|| panic!("{paths:?}")).to_string();
            assert!(error.contains(expected), "{paths:?}: {error}");
        }
    }
}
