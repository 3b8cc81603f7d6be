//! Reading a file of unknown origin whole, with a bound on the memory that it may take.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::{Error, Result, files};

/// What to do about something in the place of a file.
const HINT: &str = "remove or rename it";

/// The bytes of the file at `path`, of which there may be at most `most`: its size is looked at before any memory is
/// asked for, and a file that grows meanwhile is not followed.
pub(super) fn read_whole(path: &Path, most: u64) -> Result<Vec<u8>> {
    let size = files::ordinary(path, HINT)?.len();
    let bytes = if size > most { Vec::new() } else { read_start(path, most + 1)? };
    let found = size.max(bytes.len() as u64);
    if found <= most {
        return Ok(bytes);
    }
    let problem = format!("{found} bytes, where at most {most} are read");
    Err(Error::file(path, problem, "check that this is the file that you mean"))
}

/// The first bytes of an ordinary file: at most `most`, fewer if it is shorter.
pub(super) fn read_start(path: &Path, most: u64) -> Result<Vec<u8>> {
    // One byte beyond the size that is seen: enough to notice the end without asking for more memory.
    let size = files::ordinary(path, HINT)?.len().min(most);
    let mut bytes = Vec::with_capacity(size as usize + 1);
    let read = File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
    read.map_err(|e| Error::io("read", path, e)).map(|_| bytes)
}

/// How to unpack the archive at `path`, if its name says that it is one.
pub(super) fn how_to_unpack(path: &Path) -> Option<String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.to_string_lossy().to_ascii_lowercase();
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    let zip = ends(&[".zip"]);
    let [unpack, into] = if zip { ["unzip", "-d"] } else { ["tar -xf", "-C"] };
    let command = format!("{unpack} {} {into} {}", path.display(), folder.display());
    let is_archive = zip || ends(&[".tar", ".gz", ".tgz", ".xz", ".bz2"]);
    is_archive.then(|| format!("unpack it ({command}), and give the folder that it makes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    use crate::data::testing::write;

    #[test]
    fn a_file_is_read_whole_up_to_its_bound() {
        let scratch = tempdir().unwrap();
        write(&scratch, "a", &[7; 100]);
        let path = scratch.path().join("a");
        assert_eq!(read_whole(&path, 100).unwrap(), [7; 100]);
        assert_eq!(read_start(&path, 8).unwrap(), [7; 8]);
        assert_eq!(read_start(&path, 800).unwrap(), [7; 100]);
        let error = read_whole(&path, 99).unwrap_err().to_string();
        assert!(error.contains("a: 100 bytes, where at most 99 are read"), "{error}");
        assert!(read_whole(scratch.path(), 99).unwrap_err().to_string().contains("is a folder"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_device_is_not_read_and_a_file_longer_than_its_size_not_followed() {
        for read in [read_whole, read_start] {
            assert!(read(Path::new("/dev/zero"), 10).unwrap_err().to_string().contains("device"));
        }
        // As one that grows while it is read: the system says that this one has no bytes.
        let error = read_whole(Path::new("/proc/self/status"), 10).unwrap_err().to_string();
        assert!(error.contains("status: 11 bytes, where at most 10 are read"), "{error}");
    }
}
