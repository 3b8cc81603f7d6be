//! The safetensors format, both ways: a header that says what is where, and then the elements.
//!
//! ```text
//! 8 bytes   length of the header, little-endian
//! header    {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …, "__metadata__": {"KEY": "VALUE", …}}
//! elements  of one tensor after the other, little-endian, row by row; offsets count from here
//! ```
//!
//! [`TensorFile`] reads. The header is held against the length of the file: offsets that overlap, leave a hole, run past
//! the end or do not agree with shape and type are refused, and so is a name that stands there twice. Then each tensor
//! goes through a buffer of a megabyte to where it is wanted, so that the memory of reading is that of the parameters.
//! As the elements pass, it is seen whether they are finite and have their checksum. They may be f64, f32, f16 or bf16.
//!
//! [`write()`] writes tensors of f32, [`write_rows`] one that need not fit into memory. Both have two keys of their own in
//! the metadata. A file with neither is read unchecked; with only one, it is damaged, and so is a tensor without a checksum in
//! a file that has them.
//!
//! | key | value |
//! |---|---|
//! | `crc32` | JSON: the CRC-32 of each tensor's bytes (`zlib.crc32`), in hexadecimal, by name |
//! | `checksum` | the CRC-32 of all other metadata: keys in order, each followed by its value, each with a byte 0 behind |

mod header;
mod mismatch;
mod read;
mod write;

pub(super) use mismatch::shown;
pub use mismatch::{Fit, Mismatch, Reason};
pub(super) use read::Place;
pub use read::TensorFile;
pub use write::{Beside, write, write_rows};

use crc32fast::Hasher;

/// What was seen of the elements of a tensor that passed.
struct Passed {
    /// Of their bytes.
    crc: Hasher,
    finite: bool,
}

impl Passed {
    /// Before the first.
    fn nothing() -> Self {
        Passed { crc: Hasher::new(), finite: true }
    }

    /// The checksum as it stands in the metadata.
    fn checksum(&self) -> String {
        hexadecimal(self.crc.clone())
    }
}

/// The checksum of metadata, in the order of the keys.
fn checksum<'a>(metadata: impl Iterator<Item = (&'a String, &'a String)>) -> String {
    let mut crc = Hasher::new();
    metadata.flat_map(|(key, value)| [key.as_bytes(), b"\0", value.as_bytes(), b"\0"]).for_each(|x| crc.update(x));
    hexadecimal(crc)
}

fn hexadecimal(crc: Hasher) -> String {
    format!("{:08x}", crc.finalize())
}

/// Files made by hand, for tests.
#[cfg(test)]
pub(super) mod testing {
    use std::io::Write;

    use tempfile::{Builder, TempPath};

    /// A file of its own, removed at the end.
    pub struct Scratch(pub TempPath);

    impl Scratch {
        pub fn new(name: &str, bytes: &[u8]) -> Self {
            let mut file = Builder::new().prefix(name).tempfile().unwrap();
            file.write_all(bytes).unwrap();
            Scratch(file.into_temp_path())
        }
    }

    /// Any header, any data.
    pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    /// Name, element type, shape, bytes.
    pub type Entry<'a> = (&'a str, &'a str, &'a [usize], Vec<u8>);

    /// A file with these tensors one after the other.
    pub fn file_of(tensors: &[Entry]) -> Vec<u8> {
        let mut data = Vec::new();
        let entry = |(name, dtype, shape, bytes): &Entry| {
            let start = data.len();
            data.extend(bytes);
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{}]}}"#, data.len())
        };
        let entries: Vec<String> = tensors.iter().map(entry).collect();
        raw(&format!("{{{}}}", entries.join(",")), &data)
    }

    pub fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }
}
