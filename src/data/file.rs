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
    let too_big = |bytes: u64| {
        let problem = format!("{bytes} bytes, where at most {most} are read");
        Err(Error::file(path, problem, "check that this is the file that you mean"))
    };
    let size = files::ordinary(path, HINT)?.len();
    if size > most {
        return too_big(size);
    }
    let failed = |e| Error::io("read", path, e);
    // One byte beyond the size that was just seen: enough to notice the end without asking for more memory.
    let mut bytes = Vec::with_capacity(size as usize + 1);
    File::open(path).map_err(failed)?.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 {
        read if read > most => too_big(read),
        _ => Ok(bytes),
    }
}

/// The first bytes of an ordinary file: at most `most`, fewer if it is shorter.
#[cfg(any(feature = "images", test))]
pub(super) fn read_start(path: &Path, most: u64) -> Result<Vec<u8>> {
    files::ordinary(path, HINT)?;
    let failed = |e| Error::io("read", path, e);
    let mut bytes = Vec::with_capacity(most as usize + 1);
    File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
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

    /// As one that grows while it is read: the system says that this one has no bytes.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_longer_than_its_size_is_not_followed() {
        let error = read_whole(Path::new("/proc/self/status"), 10).unwrap_err().to_string();
        assert!(error.contains("status: 11 bytes, where at most 10 are read"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn devices_are_not_read() {
        for read in [read_whole, read_start] {
            assert!(read(Path::new("/dev/zero"), 10).unwrap_err().to_string().contains("device"));
        }
    }
}
