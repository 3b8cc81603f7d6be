//! Writing files so that none is ever half written, telling files from what is none, and a checksum that tells damage.

use std::fs::{self, File, Metadata};
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// How the name of a file ends that is being written. A process that is killed leaves it behind.
pub const UNFINISHED: &str = ".tmp";

/// A file that is being written, whose beginning may be written last.
pub trait WriteAnywhere: Write + Seek {}

impl<T: Write + Seek> WriteAnywhere for T {}

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
pub fn write_with(path: &Path, write: impl FnOnce(&mut dyn WriteAnywhere) -> io::Result<()>) -> Result<()> {
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

/// That what is to be written is none of what is read: the one slip of the hand that no care in writing mends.
///
/// # Errors
/// When `path` is one of the files `read`, by whatever name.
pub fn check_is_none_of(path: &Path, read: &[&Path]) -> Result<()> {
    let Ok(file) = fs::canonicalize(path) else { return Ok(()) }; // it is not there yet
    match read.iter().find(|other| fs::canonicalize(other).is_ok_and(|other| other == file)) {
        Some(other) => {
            Err(Error::file(path, format!("would replace {}, which is read", other.display()), "give another name"))
        }
        None => Ok(()),
    }
}

/// That a picture is to be written under the name of a picture: not over a log, or somebody's photo.
///
/// # Errors
/// When the name does not end in .png.
pub fn check_is_png(path: &Path) -> Result<()> {
    match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
        true => Ok(()),
        false => Err(Error::file(path, "a picture is written as PNG", "give a name that ends in .png")),
    }
}

/// Asks before long work whether [`write_with`] will be able to write to `path`. Nothing is left there, or changed.
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

/// What `path` is, its links followed; an error with this hint unless it is an ordinary file. A pipe would keep a reader
/// waiting, and a device has no end.
///
/// # Errors
/// When there is nothing, or a folder, a device or a pipe.
pub fn ordinary(path: &Path, hint: &str) -> Result<Metadata> {
    let metadata = fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    match metadata.is_file() {
        true => Ok(metadata),
        false if metadata.is_dir() => Err(Error::file(path, "is a folder, not a file", hint)),
        false => Err(Error::file(path, "is a device or a pipe, not a file", hint)),
    }
}

/// CRC-32 as zlib, PNG and Ethernet have it, of bytes that come in pieces: a changed byte, or up to 32 changed bits in
/// a row, always change it; other damage passes unseen once in 2³² times.
#[derive(Clone, Copy, Debug)]
pub struct Crc32(u32);

impl Default for Crc32 {
    fn default() -> Self {
        Crc32(!0)
    }
}

/// `CRC_TABLES[k][b]`: what byte b does to the remainder, k bytes later.
const CRC_TABLES: [[u32; 256]; 8] = {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let (mut remainder, mut bit) = (byte as u32, 0);
        while bit < 8 {
            remainder = (remainder >> 1) ^ (0xEDB8_8320 * (remainder & 1));
            bit += 1;
        }
        tables[0][byte] = remainder;
        byte += 1;
    }
    let mut i = 256;
    while i < 8 * 256 {
        let before = tables[i / 256 - 1][i % 256];
        tables[i / 256][i % 256] = (before >> 8) ^ tables[0][(before & 0xFF) as usize];
        i += 1;
    }
    tables
};

impl Crc32 {
    /// Takes in the next bytes, eight at a time.
    pub fn update(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let word = u64::from_le_bytes(*word) ^ u64::from(self.0);
            let bytes = word.to_le_bytes().into_iter().zip(CRC_TABLES.iter().rev());
            self.0 = bytes.fold(0, |sum, (byte, table)| sum ^ table[usize::from(byte)]);
        }
        for byte in rest {
            self.0 = (self.0 >> 8) ^ CRC_TABLES[0][((self.0 ^ u32::from(*byte)) & 0xFF) as usize];
        }
    }

    /// The checksum of all bytes so far.
    pub fn value(self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty folder for one test, which removes it.
    fn folder(name: &str) -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("stop-mim-files-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let folder = folder("whole");
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
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "no temporary file is left");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_is_read_is_not_written() {
        let folder = folder("read");
        let (read, other) = (folder.join("a"), folder.join("b"));
        write_whole(&read, b"read").unwrap();
        let by_another_name = folder.join("..").join(folder.file_name().unwrap()).join("a");
        let error = check_is_none_of(&by_another_name, &[&other, &read]).unwrap_err().to_string();
        assert!(error.contains("would replace"), "{error}");
        check_is_none_of(&other, &[&read]).unwrap();
        assert!(check_is_png(Path::new("a.PNG")).is_ok());
        assert!(["log.csv", "a.jpg", "png", ""].iter().all(|name| check_is_png(Path::new(name)).is_err()));
        fs::remove_dir_all(&folder).unwrap();
    }

    /// The disk fills up after some bytes, wherever that is: the old file stays.
    #[test]
    fn an_error_in_the_middle_leaves_the_old_file() {
        let folder = folder("full");
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
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no temporary file is left");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn checksums_are_the_published_ones_in_whatever_pieces() {
        let crc = |bytes: &[u8], piece: usize| {
            let mut crc = Crc32::default();
            bytes.chunks(piece).for_each(|piece| crc.update(piece));
            crc.value()
        };
        for piece in [1, 3, 8, 9, 100] {
            // The check value of CRC-32/ISO-HDLC, and Python's zlib.crc32(bytes(range(256))).
            assert_eq!(crc(b"123456789", piece), 0xCBF4_3926);
            assert_eq!(crc(&(0..=255).collect::<Vec<u8>>(), piece), 0x2905_8C73);
        }
        assert_eq!(crc(b"", 1), 0);
    }
}
