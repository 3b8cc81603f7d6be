//! Writing files so that none is ever half written.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::{Error, Result};

/// Writes `bytes` to `path`: into a temporary file beside it, synced, then renamed over it. Whoever reads `path` sees
/// the old file or the new one.
///
/// # Errors
/// When the folder or the file cannot be written; the temporary file is removed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|e| {
        // Best effort: the error that matters is `e`.
        let _ = fs::remove_file(&beside);
        Error::io("write", path, e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let folder = std::env::temp_dir().join(format!("stop-mim-write-whole-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        write_whole(&folder.join("a"), b"old").unwrap();
        write_whole(&folder.join("a"), b"new").unwrap();
        assert_eq!(fs::read(folder.join("a")).unwrap(), b"new");
        fs::create_dir(folder.join("taken")).unwrap();
        assert!(matches!(write_whole(&folder.join("taken"), b"x"), Err(Error::Io { action: "write", .. })));
        assert!(write_whole(&folder.join("missing").join("b"), b"x").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "no temporary file is left");
        fs::remove_dir_all(&folder).unwrap();
    }
}
