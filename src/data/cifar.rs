//! CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in the binary version of <https://www.cs.toronto.edu/~kriz/cifar.html>.
//!
//! A record is one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), and 3072 pixel bytes: 32×32 planes of
//! red, green and blue, row by row. That is [`Dataset::pixels`]'s layout already, so the files stay in memory as they
//! are. CIFAR-100 is labeled by its 100 fine classes. Nothing is downloaded or unpacked here.

use std::io::ErrorKind;
use std::path::Path;

use super::Dataset;
use super::file::{how_to_unpack, read_whole};
use crate::{Error, Result};

/// The side of an image in pixels.
pub const SIDE: usize = 32;

const PIXELS: usize = 3 * SIDE * SIDE;

/// Most records that a file may hold: twice CIFAR-100's. What is longer is not read.
const MOST_RECORDS: usize = 100_000;

/// Largest file of class names, in bytes.
const MOST_NAMES: u64 = 1 << 16;

/// What distinguishes the two data sets on disk.
struct Layout {
    name: &'static str,
    /// The folder that the published archive unpacks to.
    folder: &'static str,
    /// That archive.
    archive: &'static str,
    /// The folder that the archive of the version for Python unpacks to.
    python_folder: &'static str,
    train: &'static [&'static str],
    test: &'static [&'static str],
    /// How many classes each label byte of a record counts; the last is the one that we use.
    labels: &'static [usize],
    names_file: &'static str,
    /// The classes' names, for when `names_file` is not there.
    names: &'static str,
}

const CIFAR10: Layout = Layout {
    name: "CIFAR-10",
    folder: "cifar-10-batches-bin",
    archive: "cifar-10-binary.tar.gz",
    python_folder: "cifar-10-batches-py",
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: &["test_batch.bin"],
    labels: &[10],
    names_file: "batches.meta.txt",
    names: "airplane automobile bird cat deer dog frog horse ship truck",
};

const CIFAR100: Layout = Layout {
    name: "CIFAR-100",
    folder: "cifar-100-binary",
    archive: "cifar-100-binary.tar.gz",
    python_folder: "cifar-100-python",
    train: &["train.bin"],
    test: &["test.bin"],
    labels: &[20, 100],
    names_file: "fine_label_names.txt",
    names: "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can \
            castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin \
            elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard \
            lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear \
            pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal \
            shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank \
            telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm",
};

/// One split of CIFAR-10 or CIFAR-100, in memory.
pub struct Cifar {
    layout: &'static Layout,
    split: &'static str,
    /// The files' records, one after the other.
    records: Vec<u8>,
    class_names: Vec<String>,
}

/// Reads CIFAR-10's training and test images from `dir`, or from `dir/cifar-10-batches-bin`.
///
/// # Errors
/// If a file is missing, is not made of whole records, or has a label out of range.
pub fn cifar10(dir: &Path) -> Result<(Cifar, Cifar)> {
    splits(&CIFAR10, dir)
}

/// Reads CIFAR-100's training and test images from `dir`, or from `dir/cifar-100-binary`.
///
/// # Errors
/// If a file is missing, is not made of whole records, or has a label out of range.
pub fn cifar100(dir: &Path) -> Result<(Cifar, Cifar)> {
    splits(&CIFAR100, dir)
}

fn splits(layout: &'static Layout, dir: &Path) -> Result<(Cifar, Cifar)> {
    if dir.is_file() {
        let hint = how_to_unpack(dir).unwrap_or_else(|| layout.explain());
        return Err(Error::file(dir, format!("is a file, not {}'s folder", layout.name), hint));
    }
    let inner = dir.join(layout.folder);
    let dir = if inner.is_dir() { &inner } else { dir };
    let class_names = layout.class_names(dir)?;
    let read = |split, files| {
        Ok(Cifar { layout, split, records: layout.records(dir, files)?, class_names: class_names.clone() })
    };
    Ok((read("train", layout.train)?, read("test", layout.test)?))
}

impl Layout {
    fn record(&self) -> usize {
        self.labels.len() + PIXELS
    }

    /// All records of `files`, checked.
    fn records(&self, dir: &Path, files: &[&str]) -> Result<Vec<u8>> {
        let mut records = Vec::new();
        for path in files.iter().map(|file| dir.join(file)) {
            let most = (MOST_RECORDS * self.record()) as u64;
            let bytes = read_whole(&path, most).map_err(|e| self.cannot_read(&path, e))?;
            self.check(&path, &bytes)?;
            records.extend(bytes);
        }
        Ok(records)
    }

    fn check(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let record = self.record();
        if bytes.is_empty() || !bytes.len().is_multiple_of(record) {
            let problem = format!("{} bytes are not a whole number of records of {record}", bytes.len());
            return Err(Error::file(path, problem, format!("copy the file again: {}", self.explain())));
        }
        for (k, image) in bytes.chunks_exact(record).enumerate() {
            for (&label, &classes) in image.iter().zip(self.labels) {
                if usize::from(label) >= classes {
                    let problem = format!("record {k} has label {label}, and there are only {classes} classes");
                    let hint = format!("check which data set this is: {}", self.explain());
                    return Err(Error::file(path, problem, hint));
                }
            }
        }
        Ok(())
    }

    /// The names in `names_file` if it is there, otherwise those known here.
    fn class_names(&self, dir: &Path) -> Result<Vec<String>> {
        let path = dir.join(self.names_file);
        let hint = "write one name a line, or delete the file: the names are built in";
        let text = match read_whole(&path, MOST_NAMES) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|e| Error::file(&path, format!("is no text: {e}"), hint))?,
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => self.names.to_owned(),
            Err(e) => return Err(e),
        };
        let names: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let classes = self.labels[self.labels.len() - 1];
        if names.len() != classes {
            let problem = format!("{} names for {classes} classes", names.len());
            return Err(Error::file(path, problem, hint));
        }
        Ok(names)
    }

    fn cannot_read(&self, path: &Path, error: Error) -> Error {
        if !matches!(&error, Error::Io { source, .. } if source.kind() == ErrorKind::NotFound) {
            return error;
        }
        let dir = path.parent().unwrap_or(path);
        let archive = dir.join(self.archive);
        // The version for Python has the same names without an ending.
        let python = path.with_extension("").is_file() || dir.join(self.python_folder).is_dir();
        let hint = match how_to_unpack(&archive).filter(|_| archive.is_file()) {
            Some(how) => format!("the archive lies beside it: {how}"),
            None if python => format!("what lies here is the version for Python; {}", self.explain()),
            None => self.explain(),
        };
        Error::file(path, "there is no such file", hint)
    }

    /// What a user must have in place.
    fn explain(&self) -> String {
        format!(
            "{}'s binary version (https://www.cs.toronto.edu/~kriz/cifar.html) unpacks to {}/ with {} and {}; \
             give that folder, or the one it lies in",
            self.name,
            self.folder,
            self.train.join(", "),
            self.test.join(", ")
        )
    }
}

impl Cifar {
    fn record(&self, index: usize) -> &[u8] {
        let record = self.layout.record();
        &self.records[index * record..][..record]
    }
}

impl Dataset for Cifar {
    fn len(&self) -> usize {
        self.records.len() / self.layout.record()
    }

    fn image_size(&self) -> usize {
        SIDE
    }

    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.record(index)[self.layout.labels.len()..]);
        Ok(())
    }

    fn label(&self, index: usize) -> Option<usize> {
        Some(usize::from(self.record(index)[self.layout.labels.len() - 1]))
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn describe(&self) -> String {
        format!("{} {}: {} images of 32x32", self.layout.name, self.split, self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::{TempDir, tempdir};

    use crate::data::testing::{pixels, write};

    /// `n` records whose labels and pixels count up from `first`.
    fn file(layout: &Layout, first: usize, n: usize) -> Vec<u8> {
        let record = |k: usize| {
            let labels = layout.labels.iter().map(move |classes| (k % classes) as u8);
            labels.chain((0..PIXELS).map(move |i| (k + i) as u8))
        };
        (first..first + n).flat_map(record).collect()
    }

    fn write_all(scratch: &TempDir, layout: &Layout, folder: &str) {
        for (k, name) in layout.train.iter().chain(layout.test).enumerate() {
            write(scratch, &format!("{folder}{name}"), &file(layout, 12 * k, 12));
        }
    }

    /// The message of the error that opening ends in, with these words.
    #[track_caller]
    fn refused(result: Result<(Cifar, Cifar)>, words: &[&str]) {
        let message = result.err().expect("must fail").to_string();
        assert!(words.iter().all(|words| message.contains(words)), "{message}");
    }

    #[test]
    fn records_read_back_from_the_folder_or_its_parent() {
        let scratch = tempdir().unwrap();
        write_all(&scratch, &CIFAR10, "cifar-10-batches-bin/");
        for dir in [scratch.path().to_owned(), scratch.path().join("cifar-10-batches-bin")] {
            let (train, test) = cifar10(&dir).unwrap();
            assert_eq!((train.len(), test.len(), &*train.class_names()[9]), (60, 12, "truck"));
            for index in [0, 11, 12, 59] {
                let pixels = pixels(&train, index);
                let first = index as u8;
                assert_eq!((train.label(index), pixels[0], pixels[5]), (Some(index % 10), first, first + 5));
            }
            assert_eq!((test.label(0), &*test.describe()), (Some(0), "CIFAR-10 test: 12 images of 32x32"));
        }
        // CIFAR-100 is labeled by its fine classes, whose names are built in.
        write_all(&scratch, &CIFAR100, "");
        write(&scratch, "train.bin", &file(&CIFAR100, 37, 1));
        let (train, _) = cifar100(scratch.path()).unwrap();
        assert_eq!((train.class_names().len(), &*train.class_names()[99], train.label(0)), (100, "worm", Some(37)));
        let splits = crate::data::open(&format!("cifar100:{}", scratch.path().display()), 16).unwrap();
        assert_eq!((splits.train.len(), splits.train.image_size()), (1, 16));
        assert_eq!(splits.normalization().unwrap(), crate::data::Normalization::CIFAR100);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let scratch = tempdir().unwrap();
        write_all(&scratch, &CIFAR10, "");
        write(&scratch, "batches.meta.txt", b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n\n");
        assert_eq!(cifar10(scratch.path()).unwrap().0.class_names()[9], "j");
        let mut mislabeled = file(&CIFAR10, 0, 3);
        mislabeled[2 * CIFAR10.record()] = 10;
        for (name, bytes, expected) in [
            ("test_batch.bin", &[][..], "0 bytes"),
            ("test_batch.bin", &mislabeled[1..], "9218 bytes are not a whole number of records of 3073"),
            ("data_batch_4.bin", &mislabeled, "record 2 has label 10"),
            ("batches.meta.txt", b"a\nb\n", "2 names for 10 classes"),
        ] {
            write(&scratch, name, bytes);
            refused(cifar10(scratch.path()), &[name, expected]);
        }
        std::fs::remove_file(scratch.path().join("batches.meta.txt")).unwrap();
        std::fs::remove_file(scratch.path().join("data_batch_3.bin")).unwrap();
        let words = ["data_batch_3.bin: there is no such file", "unpacks to cifar-10-batches-bin/"];
        refused(cifar10(scratch.path()), &words);
    }

    #[test]
    fn archives_and_the_version_for_python_are_recognized() {
        let scratch = tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        write(&scratch, "cifar-10-binary.tar.gz", b"");
        let command = format!("tar -xf {} -C {}", at("cifar-10-binary.tar.gz").display(), scratch.path().display());
        refused(cifar10(&at("cifar-10-binary.tar.gz")), &["is a file, not CIFAR-10's folder", &command]);
        refused(cifar10(scratch.path()), &["the archive lies beside it", &command]);
        write(&scratch, "notes.txt", b"");
        refused(cifar100(&at("notes.txt")), &["is a file, not CIFAR-100's folder", "unpacks to"]);
        write(&scratch, "py/train", b"");
        refused(cifar100(&at("py")), &["the version for Python", "cifar-100-binary/"]);
        write(&scratch, "above/cifar-10-batches-py/data_batch_1", b"");
        refused(cifar10(&at("above")), &["the version for Python"]);
    }
}
