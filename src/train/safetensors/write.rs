//! Writing, with checksums.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use rayon::prelude::*;
use serde_json::json;

use super::mismatch::listed;
use super::{Mismatch, Passed, Reason, checksum};
use crate::tensor::Tensor;
use crate::{Error, Result, files};

const NOT_FINITE_HINT: &str =
    "a file that was written before is still there; see docs/reliability.md on numbers that went wrong";

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
    let not_finite: Vec<Mismatch> =
        not_finite.map(|((name, _), _)| Mismatch { name: name.clone(), reason: Reason::NotFinite }).collect();
    if !not_finite.is_empty() {
        return Err(Error::file(path, format!("not written: {}", listed(&not_finite)), NOT_FINITE_HINT));
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

/// What lies behind the rows in a file of [`write_rows`]: a tensor of one dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beside {
    /// Of I32.
    Integers(Vec<i32>),
    /// Of U8.
    Bytes(Vec<u8>),
}

/// Room for the header in a file of [`write_rows`], which is written last.
const HEADER: usize = 4096;

/// Writes one tensor of f32 with rows of this shape, as many as `work` hands over, to a file as [`files::write_with`] does:
/// nothing is kept in memory, and how many there are need not be known before. Behind it lies what `work` gives back, by
/// name. Gives the number of rows.
///
/// # Errors
/// What `work` says; when a value is not finite; when the file cannot be written. What was there before stays then.
///
/// # Panics
/// When a piece that is handed over is not a whole number of rows; when names and shape do not fit a header of 4 KB.
pub fn write_rows(
    path: &Path,
    name: &str,
    row: &[usize],
    work: impl FnOnce(&mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<(String, Beside)>>,
) -> Result<usize> {
    let elements = row.iter().product::<usize>();
    let (mut failed, mut count) = (None, 0);
    let written = files::write_with(path, |file| {
        file.write_all(&[0; 8 + HEADER])?;
        let mut passed = Passed::nothing();
        let mut take = |rows: &[f32]| {
            assert!(rows.len().is_multiple_of(elements), "{} numbers in rows of {elements}", rows.len());
            if !rows.iter().fold(true, |finite, x| finite & x.is_finite()) {
                let mismatch = Mismatch { name: name.to_owned(), reason: Reason::NotFinite };
                return Err(Error::file(path, format!("not written: {}", listed(&[mismatch])), NOT_FINITE_HINT));
            }
            for piece in rows.chunks(1 << 12) {
                let bytes: Vec<u8> = piece.iter().flat_map(|x| x.to_le_bytes()).collect();
                passed.crc.update(&bytes);
                file.write_all(&bytes).map_err(|e| Error::io("write", path, e))?;
            }
            count += rows.len() / elements;
            Ok(())
        };
        let beside = work(&mut take).map_err(|e| {
            failed = Some(e);
            io::Error::other("not finished")
        })?;
        let mut end = 4 * count * elements;
        let mut entries = vec![(name.to_owned(), "F32", [&[count], row].concat(), [0, end], passed.checksum())];
        for (name, tensor) in beside {
            let (dtype, len, bytes) = match tensor {
                Beside::Integers(x) => ("I32", x.len(), x.iter().flat_map(|x| x.to_le_bytes()).collect()),
                Beside::Bytes(bytes) => ("U8", bytes.len(), bytes),
            };
            let mut passed = Passed::nothing();
            passed.crc.update(&bytes);
            file.write_all(&bytes)?;
            entries.push((name, dtype, vec![len], [end, end + bytes.len()], passed.checksum()));
            end += bytes.len();
        }
        let sums: BTreeMap<&str, &str> = entries.iter().map(|(name, .., sum)| (name.as_str(), sum.as_str())).collect();
        let mut metadata: BTreeMap<String, String> =
            [("crc32".to_owned(), serde_json::to_string(&sums).expect("plain data"))].into();
        metadata.insert("checksum".into(), checksum(metadata.iter()));
        let mut header = serde_json::Map::new();
        for (name, dtype, shape, offsets, _) in &entries {
            header.insert(name.clone(), json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }));
        }
        header.insert("__metadata__".into(), json!(metadata));
        let mut header = serde_json::to_vec(&header).expect("plain data");
        assert!(header.len() <= HEADER, "a header of {} bytes", header.len());
        header.resize(HEADER, b' ');
        file.rewind()?;
        file.write_all(&(HEADER as u64).to_le_bytes())?;
        file.write_all(&header)
    });
    match failed {
        Some(error) => Err(error),
        None => written.map(|()| count),
    }
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

    #[test]
    fn rows_that_come_one_after_the_other_make_the_same_tensor() {
        let file = Scratch::new("rows", b"old");
        let rows = |take: &mut dyn FnMut(&[f32]) -> Result<()>| {
            take(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0])?;
            take(&[])?;
            take(&[6.0, 7.0, 8.0])?;
            Ok(vec![("l".into(), Beside::Integers(vec![-1, 7, 300])), ("n".into(), Beside::Bytes(b"a\0b".to_vec()))])
        };
        assert_eq!(write_rows(&file.0, "x", &[1, 3], rows).unwrap(), 3);
        let bytes = std::fs::read(&file.0).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (labels, names) = (read.tensor("l").unwrap(), read.tensor("n").unwrap());
        assert_eq!(
            (labels.dtype(), labels.shape(), &labels.data()[8..]),
            (safetensors::Dtype::I32, &[3][..], &[44, 1, 0, 0][..])
        );
        assert_eq!((names.dtype(), names.data()), (safetensors::Dtype::U8, &b"a\0b"[..]));
        let x = super::super::TensorFile::open(&file.0, "").unwrap().tensor("x", DType::F32).unwrap();
        assert_eq!(x.shape()[..], [3, 1, 3]);
        assert!(x.as_slice::<f32>().iter().enumerate().all(|(i, x)| *x == i as f32));

        for bad in [f32::NAN, f32::INFINITY] {
            let error = write_rows(&file.0, "x", &[1], |take| take(&[0.0, bad]).map(|()| vec![])).unwrap_err();
            assert!(error.to_string().contains("x has values that are not finite"), "{error}");
        }
        let stopped = write_rows(&file.0, "x", &[1], |take| take(&[0.0]).and(Err(Error::Interrupted)));
        assert!(matches!(stopped, Err(Error::Interrupted)));
        assert_eq!(std::fs::read(&file.0).unwrap(), bytes, "what was there stays");
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
