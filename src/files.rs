//! Writing files so that none is ever half written, and telling files from what is none.

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// What is appended to the name of a file while it is being written. A process that is killed leaves such a file behind.
pub const UNFINISHED: &str = ".tmp";

/// Writes `bytes` to `path` as [`write_with`] does.
///
/// # Errors
/// When the folder or the file cannot be written; the temporary file is removed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |file| file.write_all(bytes))
}

/// Writes what `write` writes to `path`: into a temporary file beside it, synced, then renamed over it; then the folder
/// is synced. Whoever reads `path`, even after a power failure, sees the old file or the new one.
///
/// # Errors
/// When the folder or the file cannot be written, for want of space too: the old file is still there (unless syncing the
/// folder is what failed), and the temporary one is removed. When there is a folder, a device or a pipe, which a file
/// would replace.
pub fn write_with(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let beside = beside(path)?;
    let replace = || {
        let mut file = BufWriter::with_capacity(1 << 20, File::create(&beside)?);
        write(&mut file)?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&beside, path)?;
        sync_folder(path)
    };
    replace().map_err(|e| {
        // Best effort: the error that matters is `e`.
        let _ = fs::remove_file(&beside);
        Error::io("write", path, e)
    })
}

/// Checks that what is to be written is none of the files that are read: careful writing does not undo that mistake.
///
/// # Errors
/// When `path` is one of the files `read`, by whatever name.
pub fn check_is_none_of(path: &Path, read: &[&Path]) -> Result<()> {
    let Ok(file) = fs::canonicalize(path) else { return Ok(()) }; // it is not there yet
    let same = read.iter().find(|other| fs::canonicalize(other).is_ok_and(|other| other == file));
    same.map_or(Ok(()), |other| {
        Err(Error::file(path, format!("would replace {}, which is read", other.display()), "give another name"))
    })
}

/// Checks that a picture gets the name of a picture, so that it replaces no log, and nobody's photo.
///
/// # Errors
/// When the name does not end in .png.
pub fn check_is_png(path: &Path) -> Result<()> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
        return Ok(());
    }
    Err(Error::file(path, "a picture is written as PNG", "give a name that ends in .png"))
}

/// Checks before long work whether [`write_with`] will be able to write to `path`. Nothing is left there, or changed.
///
/// # Errors
/// When a file cannot be made in that folder, or there is a folder, a device or a pipe instead of a file.
pub fn check_writable(path: &Path) -> Result<()> {
    let beside = beside(path)?;
    File::create(&beside).and_then(|_| fs::remove_file(&beside)).map_err(|e| Error::io("write", path, e))
}

/// The temporary file that is to replace `path`, which must be an ordinary file or none yet.
fn beside(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        ordinary(path, "give the name of a file")?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}{UNFINISHED}", std::process::id()));
    Ok(path.with_file_name(name))
}

/// Makes the names in the folder of `path` durable: a rename is on disk only once the folder is.
///
/// # Errors
/// When the system cannot.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(not(unix)) {
        return Ok(()); // other systems do not open folders as files
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder)?.sync_all() {
        // Some file systems, over a network or in user space, cannot sync a folder; the file itself is synced.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// The metadata of an ordinary file, links followed; for anything else an error with this hint. A pipe would keep a
/// reader waiting, and a device has no end.
///
/// # Errors
/// When there is nothing, or a folder, a device or a pipe.
pub fn ordinary(path: &Path, hint: &str) -> Result<Metadata> {
    let metadata = fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if metadata.is_file() {
        return Ok(metadata);
    }
    let what = if metadata.is_dir() { "a folder" } else { "a device or a pipe" };
    Err(Error::file(path, format!("is {what}, not a file"), hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path();
        write_whole(&folder.join("a"), b"old").unwrap();
        write_whole(&folder.join("a"), b"new").unwrap();
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"new");
        fs::create_dir(folder.join("taken")).unwrap();
        let taken = write_whole(&folder.join("taken"), b"x").unwrap_err().to_string();
        assert!(taken.contains("taken: is a folder, not a file"), "{taken}");
        if Path::new("/dev/null").exists() {
            let device = write_whole(Path::new("/dev/null"), b"x").unwrap_err().to_string();
            assert!(device.contains("is a device or a pipe, not a file"), "{device}");
        }
        assert!(write_whole(&folder.join("missing").join("b"), b"x").is_err());
        assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn what_is_read_is_not_written() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path();
        let (read, other) = (folder.join("a"), folder.join("b"));
        write_whole(&read, b"read").unwrap();
        let by_another_name = folder.join("..").join(folder.file_name().unwrap()).join("a");
        let error = check_is_none_of(&by_another_name, &[&other, &read]).unwrap_err().to_string();
        assert!(error.contains("would replace"), "{error}");
        check_is_none_of(&other, &[&read]).unwrap();
        assert!(check_is_png(Path::new("a.PNG")).is_ok());
        assert!(["log.csv", "a.jpg", "png", ""].iter().all(|name| check_is_png(Path::new(name)).is_err()));
    }

    /// The disk fills up after some bytes, wherever that is: the old file stays.
    #[test]
    fn an_error_in_the_middle_leaves_the_old_file() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path();
        let path = folder.join("a");
        write_whole(&path, b"old").unwrap();
        for before in [0, 1, 5 << 20] {
            let full = write_with(&path, |file| {
                file.write_all(&vec![1; before])?;
                Err(io::ErrorKind::StorageFull.into())
            });
            let message = full.unwrap_err().to_string();
            assert!(message.starts_with(&format!("cannot write {}: ", path.display())), "{message}");
            assert!(message.contains("no storage space"), "{message}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "no temporary file is left");
        }
    }
}
