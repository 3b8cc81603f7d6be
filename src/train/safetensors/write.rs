//! Writing, with checksums.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rayon::prelude::*;
use serde_json::json;

use super::misfit::listed;
use super::{Misfit, Passed, Reason, checksum};
use crate::tensor::Tensor;
use crate::{Error, Result, files};

/// Writes tensors of f32 to a file as [`files::write_with`] does: an existing one is replaced only once the new one is
/// complete. The same content gives the same bytes. Elements are written as they lie in memory, piece by piece: no copy
/// is made.
///
/// # Errors
/// When a value is not finite: the first tensors with such values are named, and nothing is written. When the file cannot be
/// written.
///
/// # Panics
/// When a tensor is not of f32.
pub fn write(path: &Path, mut metadata: BTreeMap<String, String>, tensors: &[(String, &Tensor)]) -> Result<()> {
    let passed: Vec<Passed> = tensors.par_iter().map(|(_, tensor)| look_at(tensor)).collect();
    let not_finite = tensors.iter().zip(&passed).filter(|(_, passed)| !passed.finite);
    let not_finite: Vec<Misfit> =
        not_finite.map(|((name, _), _)| Misfit { name: name.clone(), reason: Reason::NotFinite }).collect();
    if !not_finite.is_empty() {
        let hint = "a file that was written before is still there; see docs/reliability.md on numbers that went wrong";
        return Err(Error::file(path, format!("not written: {}", listed(&not_finite)), hint));
    }
    let names = tensors.iter().map(|(name, _)| name.as_str());
    let sums: BTreeMap<&str, String> = names.zip(passed.iter().map(Passed::checksum)).collect();
    metadata.insert("crc32".into(), serde_json::to_string(&sums).expect("plain data"));
    metadata.remove("checksum"); // of another content
    metadata.insert("checksum".into(), checksum(metadata.iter()));
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (name, tensor) in tensors {
        let start = end;
        end += size_of::<f32>() * tensor.elements();
        let entry = json!({ "dtype": "F32", "shape": tensor.shape()[..], "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    header.insert("__metadata__".into(), json!(metadata));
    let mut header = serde_json::to_vec(&header).expect("plain data");
    header.resize(header.len().next_multiple_of(8), b' ');
    files::write_with(path, |file| {
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        tensors.iter().try_for_each(|(_, tensor)| in_pieces(tensor, |_, bytes| file.write_all(bytes)))
    })
}

/// A tensor's elements, and their bytes in little-endian order, some at a time.
fn in_pieces(tensor: &Tensor, mut take: impl FnMut(&[f32], &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut bytes = Vec::new();
    tensor.as_slice::<f32>().chunks(1 << 12).try_for_each(|piece| {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|x| x.to_le_bytes()));
        take(piece, &bytes)
    })
}

fn look_at(tensor: &Tensor) -> Passed {
    let mut passed = Passed::nothing();
    in_pieces(tensor, |piece, bytes| {
        passed.crc.update(bytes);
        passed.finite &= piece.iter().fold(true, |finite, x| finite & x.is_finite());
        Ok(())
    })
    .expect("nothing is written");
    passed
}

#[cfg(test)]
mod tests {
    use super::super::testing::Scratch;
    use super::*;
    use crate::tensor::DType;

    fn metadata() -> BTreeMap<String, String> {
        [("b".to_owned(), "ü \"".to_owned()), ("a".to_owned(), String::new())].into()
    }

    /// The oracle is the `safetensors` crate; the checksums are `zlib.crc32`'s of Python.
    #[test]
    fn what_is_written_is_what_others_read() {
        let file = Scratch::new("written", b"old");
        let (x, y) = (Tensor::from_fn([2, 3], DType::F32, |i| i as f64), Tensor::zeros([0, 4], DType::F32));
        let tensors = [("x".to_owned(), &x), ("a.y".to_owned(), &y)];
        write(&file.0, metadata(), &tensors).unwrap();
        let bytes = std::fs::read(&file.0).unwrap();
        assert!(u64::from_le_bytes(bytes[..8].try_into().unwrap()).is_multiple_of(8));
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let view = read.tensor("x").unwrap();
        assert_eq!((view.dtype(), view.shape()), (safetensors::Dtype::F32, &[2, 3][..]));
        let values = view.data().as_chunks::<4>().0.iter().map(|w| f32::from_le_bytes(*w));
        assert!(values.eq((0..6).map(|i| i as f32)));
        assert_eq!(read.tensor("a.y").unwrap().shape(), [0, 4]);
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let said = header.metadata().clone().unwrap();
        assert_eq!(said.len(), 4);
        assert_eq!((said["a"].as_str(), said["b"].as_str()), ("", "ü \""));
        assert_eq!(said["crc32"], r#"{"a.y":"00000000","x":"91e79017"}"#);
        assert_eq!(said["checksum"], "67abc57a");

        write(&file.0, said.into_iter().collect(), &tensors).unwrap();
        assert_eq!(std::fs::read(&file.0).unwrap(), bytes, "the same content gives the same bytes");
    }

    /// Wherever the number stands; what was there before stays, byte for byte.
    #[test]
    fn numbers_that_are_not_finite_are_not_written() {
        let file = Scratch::new("not-written", b"old");
        let good = Tensor::zeros([3], DType::F32);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 4096, 9_999] {
                let mut values = vec![f32::MAX; 10_000];
                values[at] = bad;
                let hurt = Tensor::new([10_000], values);
                let tensors = [("one".to_owned(), &hurt), ("good".to_owned(), &good), ("two".to_owned(), &hurt)];
                let error = write(&file.0, metadata(), &tensors).unwrap_err().to_string();
                let said =
                    "not written: 2 tensors cannot be used:\n    one has values that are not finite\n    two has";
                assert!(error.contains(said), "{error}");
                assert_eq!(std::fs::read(&file.0).unwrap(), b"old");
            }
        }
        write(&file.0, metadata(), &[("largest".to_owned(), &Tensor::full([9], f64::from(f32::MAX), DType::F32))])
            .unwrap();
    }
}
