//! The images of a split, decoded when they are asked for; good ones stand in for those that cannot be.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use rayon::prelude::*;

use super::layout::Class;
use super::{REPORTED, brief, few, warn, warn_here};
use crate::data::picture::decode;
use crate::data::{BadImages, Dataset};
use crate::{Error, Result};

/// One split of a folder of images, or all of it.
pub struct Folder {
    pub(super) dir: PathBuf,
    /// How the split is called; nothing for all of a folder.
    pub(super) split: &'static str,
    /// What layout was recognized.
    pub(super) layout: String,
    size: usize,
    class_names: Vec<String>,
    /// Relative to `dir`, group after group.
    files: Vec<PathBuf>,
    groups: Vec<Group>,
    /// Whether a good image stands in for a bad one.
    pub(super) stand_ins: bool,
    bad_images: BadImages,
    /// Files that opening left out.
    pub(super) left_out: usize,
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

impl Folder {
    /// The images of `classes`, labeled by where `class_names` has their names; the first `kept` are kept once they are
    /// decoded.
    pub(super) fn new(
        (dir, size, bad_images): (&Path, usize, BadImages),
        classes: Vec<Class>,
        class_names: &[String],
        kept: usize,
    ) -> Self {
        let labels: HashMap<&str, usize> = class_names.iter().enumerate().map(|(k, name)| (&**name, k)).collect();
        let (mut files, mut groups) = (Vec::new(), Vec::new());
        for Class { name, images } in classes {
            files.extend(images);
            let label = labels.get(&*name).copied();
            groups.push(Group { name, label, end: files.len(), barren: AtomicBool::new(false) });
        }
        Folder {
            dir: dir.to_owned(),
            split: "",
            layout: String::new(),
            size,
            class_names: class_names.to_vec(),
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

    /// The classes that `other` has no images of.
    pub(super) fn classes_without(&self, other: &Folder) -> Vec<&str> {
        let others: HashSet<&str> = other.groups.iter().map(|group| &*group.name).collect();
        self.groups.iter().map(|group| &*group.name).filter(|name| !others.contains(name)).collect()
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
        if let Some(cell) = cell.filter(|_| !self.cache_is_full.load(Relaxed)) {
            let mut pixels = Vec::new();
            if pixels.try_reserve_exact(out.len()).is_err() {
                self.cache_is_full.store(true, Relaxed);
                return Ok(());
            }
            pixels.extend_from_slice(out);
            // Another thread may have been first; it has stored the same bytes.
            let _ = cell.set(pixels.into_boxed_slice());
        }
        Ok(())
    }

    /// Remembers and reports that image `index` cannot be decoded.
    fn set_aside(&self, index: usize, error: &Error) {
        if self.undecodable[index].swap(true, Relaxed) {
            return;
        }
        match self.reported.fetch_add(1, Relaxed) {
            ..REPORTED => warn_here(&format!("skipped {}", brief(error))),
            REPORTED => warn_here("skipped more files, which are counted but no longer named"),
            _ => {}
        }
    }

    /// Whether there was a good image among `candidates`; the first is now in `out`. A bad one is reported, and never tried
    /// again.
    ///
    /// # Errors
    /// If one cannot be decoded, and bad images are refused.
    fn first_good(&self, candidates: impl IntoIterator<Item = usize>, out: &mut [u8]) -> Result<bool> {
        for index in candidates {
            if self.undecodable[index].load(Relaxed) {
                continue;
            }
            match self.own_pixels(index, out) {
                Ok(()) => return Ok(true),
                Err(error) if self.bad_images == BadImages::Refuse => return Err(error),
                Err(error) => self.set_aside(index, &error),
            }
        }
        Ok(false)
    }

    /// Decodes every image; what is wrong with those that cannot be, in order.
    pub(super) fn decode_all(&self) -> Vec<Error> {
        let decode = |pixels: &mut Vec<u8>, index| self.own_pixels(index, pixels).err();
        let errors = (0..self.len()).into_par_iter().map_init(|| vec![0; self.numbers()], decode);
        errors.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    /// Writes image `index` into `out`, or another one of its group, or, where labels do not count, of any.
    fn write(&self, index: usize, labeled: bool, out: &mut [u8]) -> Result<()> {
        if !self.stand_ins {
            return self.own_pixels(index, out).inspect_err(|error| self.set_aside(index, error));
        }
        let group = self.group(index);
        let start = group.checked_sub(1).map_or(0, |before| self.groups[before].end);
        let Group { ref name, end, ref barren, .. } = self.groups[group];
        if self.first_good((index..end).chain(start..index), out)? {
            return Ok(());
        }
        if labeled {
            return Err(self.undecodable(name));
        }
        if !barren.swap(true, Relaxed) && self.groups.len() > 1 {
            warn(&format!("{}: others stand in where labels do not count", self.none_of(name)));
        }
        if self.first_good((end..self.len()).chain(0..start), out)? { Ok(()) } else { Err(self.undecodable("")) }
    }

    /// "no train image of class a can be decoded", as far as there are splits and classes.
    fn none_of(&self, class: &str) -> String {
        let split = if self.split.is_empty() { String::new() } else { format!("{} ", self.split) };
        let class = if class.is_empty() { String::new() } else { format!(" of class {class}") };
        format!("no {split}image{class} can be decoded")
    }

    fn undecodable(&self, class: &str) -> Error {
        Error::file(&self.dir, self.none_of(class), "replace these files by good ones")
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.cache.iter().filter(|cell| cell.get().is_some()).count()
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
        self.write(index, true, out)
    }

    fn unlabeled_pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        self.write(index, false, out)
    }

    fn label(&self, index: usize) -> Option<usize> {
        self.groups[self.group(index)].label
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn describe(&self) -> String {
        let (n, s) = (self.len(), self.size);
        let dir = format!("{} {}", self.dir.display(), self.split);
        let labeled = !self.class_names.is_empty();
        let classes = if labeled { format!("of {} classes", self.groups.len()) } else { "without labels".to_owned() };
        let layout = if self.layout.is_empty() { String::new() } else { format!(" ({})", self.layout) };
        let mut line = format!("{}: {n} images {classes}{layout}, at {s}x{s}", dir.trim_end());
        let unlabeled = self.groups.iter().filter(|group| group.label.is_none()).map(|group| &group.name);
        let unlabeled: Vec<_> = unlabeled.filter(|_| labeled).collect();
        if !unlabeled.is_empty() {
            line += &format!("; no training image, and so no label, for {}", few(unlabeled));
        }
        if self.skipped() > 0 {
            line += &format!(" (files that cannot be used and were skipped: {})", self.skipped());
        }
        line
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
        self.left_out + self.undecodable.iter().filter(|bad| bad.load(Relaxed)).count()
    }
}
