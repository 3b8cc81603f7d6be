//! Everything under a folder: images, and what is passed over.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::data::file::how_to_unpack;
use crate::data::picture::{Named, named};
use crate::{Error, Result};

/// Folders within folders that are entered; what lies deeper is reported.
const DEEPEST: usize = 32;

/// Files and folders that one walk looks at, and links to folders that it follows: more than ImageNet-21k has. Links can
/// make a few folders look like any number.
const MOST_ENTRIES: usize = 1 << 24;
const MOST_LINKS: usize = 1 << 16;

/// Kinds of passed-over files that are named.
const KINDS: usize = 8;

/// What was found.
#[derive(Default)]
pub(super) struct Listing {
    /// Files that are named as images of a format that is read, relative to the folder, sorted.
    pub(super) images: Vec<PathBuf>,
    /// Sub-folders, and theirs, relative to the folder: those within one before it, and otherwise by name.
    pub(super) folders: Vec<PathBuf>,
    /// What may have been meant to be an image, or to hold some, and cannot be looked at.
    pub(super) bad: Vec<Error>,
    passed_over: BTreeMap<String, Kind>,
}

/// Files of one kind that are passed over.
struct Kind {
    files: usize,
    first: PathBuf,
    named: Named,
}

/// Lists what lies under `root`, at any depth, and says on standard error what is passed over. Names that begin with a dot are not looked at, nor is `__MACOSX`, which
/// holds no images but what is left of them.
///
/// # Errors
/// If `root` is no folder that can be read, or too much is in it.
pub(super) fn walk(root: &Path) -> Result<Listing> {
    let found = walk_within(root, MOST_LINKS)?;
    if let Some(passed_over) = found.passed_over() {
        let (dir, images) = (root.display(), found.images.len());
        crate::processes::note(format_args!("{dir}: {images} images; {passed_over}"));
    }
    Ok(found)
}

fn walk_within(root: &Path, most_links: usize) -> Result<Listing> {
    let failed = |e| Error::io("read", root, e);
    if std::fs::metadata(root).map_err(failed)?.is_file() {
        let hint = how_to_unpack(root).unwrap_or_else(|| "give the folder that it lies in".to_owned());
        return Err(Error::file(root, "is a file, not a folder of images", hint));
    }
    let mut walk = Walk { root, found: Listing::default(), entries: 0, links_left: most_links, chain: Vec::new() };
    walk.enter(Path::new(""), std::fs::canonicalize(root).map_err(failed)?, sorted(root)?)?;
    walk.found.images.sort();
    Ok(walk.found)
}

struct Walk<'a> {
    root: &'a Path,
    found: Listing,
    entries: usize,
    links_left: usize,
    /// The folders that were entered to come here, without links.
    chain: Vec<PathBuf>,
}

impl Walk<'_> {
    /// Looks at what is in the folder at `relative`, which without links is `real`.
    fn enter(&mut self, relative: &Path, real: PathBuf, entries: Entries) -> Result<()> {
        self.entries += entries.len();
        if self.entries > MOST_ENTRIES {
            let problem = format!("more than {MOST_ENTRIES} files and folders are in here");
            return Err(Error::file(self.root, problem, "give a folder that holds the images and little else"));
        }
        self.chain.push(real.clone());
        for (name, kind) in entries {
            let relative = relative.join(&name);
            let (path, linked) = (self.root.join(&relative), kind.is_symlink());
            match if linked { std::fs::canonicalize(&path) } else { Ok(real.join(name)) } {
                Err(e) => self.found.bad.push(Error::io("read", path, e)),
                Ok(to) if kind.is_dir() || linked && to.is_dir() => self.folder(relative, &path, to, linked)?,
                Ok(_) => self.file(relative),
            }
        }
        self.chain.pop();
        Ok(())
    }

    fn folder(&mut self, relative: PathBuf, path: &Path, real: PathBuf, linked: bool) -> Result<()> {
        if linked {
            let Some(left) = self.links_left.checked_sub(1) else {
                let problem = "too many links to folders are in here, or links that lead to each other";
                return Err(Error::file(self.root, problem, "replace them by what they lead to"));
            };
            self.links_left = left;
            if self.chain.iter().any(|entered| entered.starts_with(&real)) {
                self.pass_over("links back to a folder above".to_owned(), relative, Named::Other);
                return Ok(());
            }
        }
        if self.chain.len() >= DEEPEST {
            self.found.bad.push(Error::file(path, "lies too deep to be looked at", "move its images up"));
        } else {
            match sorted(path) {
                Ok(entries) => self.enter(&relative, real, entries)?,
                Err(error) => self.found.bad.push(error),
            }
        }
        self.found.folders.push(relative);
        Ok(())
    }

    fn file(&mut self, relative: PathBuf) {
        let named = named(&relative);
        if named == Named::Image {
            return self.found.images.push(relative);
        }
        let plain = |ext: &&str| ext.len() <= 8 && ext.chars().all(|c| c.is_ascii_alphanumeric());
        let kind = match relative.extension().map(|extension| extension.to_str().filter(plain)) {
            None => "without an extension".to_owned(),
            Some(None) => "with other names".to_owned(),
            Some(Some(extension)) => format!(".{}", extension.to_ascii_lowercase()),
        };
        self.pass_over(kind, relative, named);
    }

    fn pass_over(&mut self, kind: String, relative: PathBuf, named: Named) {
        self.found.passed_over.entry(kind).or_insert(Kind { files: 0, first: relative, named }).files += 1;
    }
}

/// What is in a folder: names and what they are.
type Entries = Vec<(std::ffi::OsString, std::fs::FileType)>;

/// What is in `dir`, sorted: the system's own order differs between machines.
fn sorted(dir: &Path) -> Result<Entries> {
    let failed = |e| Error::io("read", dir, e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b".") && name != OsStr::new("__MACOSX") {
            entries.push((name, entry.file_type().map_err(failed)?));
        }
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries)
}

impl Listing {
    /// What was passed over, most frequent first: "passed over 12 files: 7 .txt, 5 .tif (not read here)".
    pub(super) fn passed_over(&self) -> Option<String> {
        let mut kinds: Vec<_> = self.passed_over.iter().collect();
        kinds.sort_by_key(|(_, kind)| std::cmp::Reverse(kind.files));
        let say = |(name, kind): &(&String, &Kind)| match kind.named {
            Named::Unreadable(why) => format!("{} {name} ({})", kind.files, unreadable(why)),
            _ => format!("{} {name}", kind.files),
        };
        let mut said: Vec<String> = kinds.iter().take(KINDS).map(say).collect();
        let others: usize = kinds.iter().skip(KINDS).map(|(_, kind)| kind.files).sum();
        if others > 0 {
            said.push(format!("{others} of other kinds"));
        }
        let all: usize = kinds.iter().map(|(_, kind)| kind.files).sum();
        (all > 0).then(|| format!("passed over {all} {}: {}", if all == 1 { "file" } else { "files" }, said.join(", ")))
    }

    /// An error for each kind of image among what was passed over.
    pub(super) fn unreadable(&self, root: &Path) -> Vec<Error> {
        let refused = self.passed_over.iter().filter_map(|(name, kind)| {
            let Named::Unreadable(why) = kind.named else { return None };
            let problem = format!("one of {} {name} files, {}", kind.files, unreadable(why));
            Some(Error::file(root.join(&kind.first), problem, "convert them to JPEG or PNG, or remove them"))
        });
        refused.collect()
    }
}

/// Why an image is not read.
fn unreadable(feature: Option<&str>) -> String {
    feature.map_or("not read here".to_owned(), |feature| format!("read by a build with the feature `{feature}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::{TempDir, tempdir};

    use crate::data::testing::write;

    fn images(scratch: &TempDir) -> Vec<String> {
        walk(scratch.path()).unwrap().images.iter().map(|path| path.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn every_depth_in_the_order_of_paths() {
        let scratch = tempdir().unwrap();
        for name in
            ["b/z.png", "b/deep/er/a.JPG", "a-1/x.bmp", "a/y.jpeg", "top.png", "a/.hidden.png", "__MACOSX/a/._y.png"]
        {
            write(&scratch, name, b"");
        }
        // By component: what is in `a` before what is in `a-1`, although '-' is less than '/'.
        assert_eq!(images(&scratch), ["a/y.jpeg", "a-1/x.bmp", "b/deep/er/a.JPG", "b/z.png", "top.png"]);
    }

    #[test]
    fn what_is_passed_over_is_counted_by_kind() {
        let scratch = tempdir().unwrap();
        assert_eq!(walk(scratch.path()).unwrap().passed_over(), None);
        for name in ["a/1.TXT", "2.txt", "b/c/3.txt", "4.tif", "LICENSE", "odd.\u{1b}[2J", "5.png"] {
            write(&scratch, name, b"");
        }
        let found = walk(scratch.path()).unwrap();
        let said = "passed over 6 files: 3 .txt, 1 .tif (not read here), 1 with other names, 1 without an extension";
        assert_eq!(found.passed_over().unwrap(), said);
        let refused = found.unreadable(scratch.path());
        assert_eq!(refused.len(), 1);
        assert!(refused[0].to_string().contains("4.tif: one of 1 .tif files, not read here"), "{}", refused[0]);
        for k in 0..20 {
            write(&scratch, &format!("x.k{k}"), b"");
        }
        assert!(walk(scratch.path()).unwrap().passed_over().unwrap().ends_with(", 16 of other kinds"));
    }

    #[test]
    fn a_file_is_no_folder_and_an_archive_is_to_be_unpacked() {
        let scratch = tempdir().unwrap();
        for (name, hint) in [("a.zip", "unzip "), ("a.tar.gz", "tar -xf "), ("a.png", "the folder that it lies in")] {
            write(&scratch, name, b"");
            let error = walk(&scratch.path().join(name)).err().unwrap().to_string();
            assert!(error.contains("is a file, not a folder") && error.contains(hint), "{error}");
        }
        assert!(walk(&scratch.path().join("nowhere")).err().unwrap().to_string().contains("nowhere"));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_but_not_in_circles() {
        use std::os::unix::fs::symlink;
        let scratch = tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        write(&scratch, "a/1.png", b"");
        write(&scratch, "b/2.png", b"");
        symlink("../b", at("a/to-b")).unwrap();
        symlink("..", at("a/up")).unwrap();
        symlink(".", at("a/self")).unwrap();
        // A circle of two.
        symlink("../a", at("b/to-a")).unwrap();
        assert_eq!(images(&scratch), ["a/1.png", "a/to-b/2.png", "b/2.png", "b/to-a/1.png"]);
        let said = walk(scratch.path()).unwrap().passed_over().unwrap();
        assert!(said.contains("links back to a folder above"), "{said}");
    }

    /// Each folder links twice to the next one: 2³⁰ ways to the last. (All the links that are followed would take seconds.)
    #[cfg(unix)]
    #[test]
    fn links_that_multiply_are_refused() {
        use std::os::unix::fs::symlink;
        let scratch = tempdir().unwrap();
        for k in 0..30 {
            write(&scratch, &format!("{k:02}/x.png"), b"");
            for link in ["l", "m"] {
                symlink(format!("../{:02}", k + 1), scratch.path().join(format!("{k:02}/{link}"))).unwrap();
            }
        }
        let error = walk_within(scratch.path(), 500).err().unwrap().to_string();
        assert!(error.contains("too many links to folders"), "{error}");
    }

    #[test]
    fn what_lies_too_deep_is_reported() {
        let scratch = tempdir().unwrap();
        let deep = vec!["d"; DEEPEST - 1].join("/");
        write(&scratch, &format!("{deep}/seen.png"), b"");
        write(&scratch, &format!("{deep}/d/not-seen.png"), b"");
        let found = walk(scratch.path()).unwrap();
        assert_eq!(found.images.len(), 1);
        assert!(found.bad[0].to_string().contains("lies too deep"));
    }
}
