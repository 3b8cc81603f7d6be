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
#[cfg(test)]
pub(super) mod tests;
mod write;

pub(super) use mismatch::shown;
pub use mismatch::{Fit, Mismatch, Reason};
pub(super) use read::Place;
pub use read::TensorFile;
pub use write::{Extra, write, write_rows};

use crc32fast::Hasher;

use crate::tensor::Real;

/// What is known of the elements of a tensor after one pass over them.
struct Digest {
    /// Of their bytes.
    crc: Hasher,
    finite: bool,
}

impl Digest {
    /// Of no elements.
    fn new() -> Self {
        Digest { crc: Hasher::new(), finite: true }
    }

    /// Takes in the next elements, and their bytes.
    fn update<T: Real>(&mut self, values: &[T], bytes: &[u8]) {
        self.crc.update(bytes);
        self.finite &= values.iter().fold(true, |finite, x| finite & x.is_finite());
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
