//! Writing, with checksums.

use std::collections::BTreeMap;
use std::io::{self, Seek, Write};
use std::path::Path;

use rayon::prelude::*;
use serde_json::json;

use super::mismatch::listed;
use super::{Digest, Mismatch, Reason, checksum};
use crate::tensor::{Device, Tensor};
use crate::{Error, Result, files};

/// What a header says of a tensor.
struct Entry<'a> {
    name: &'a str,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: usize,
    digest: Digest,
}

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
pub fn write(path: &Path, metadata: BTreeMap<String, String>, tensors: &[(String, &Tensor)]) -> Result<()> {
    // What is on a GPU is copied from there first.
    let tensors: Vec<(&str, Tensor)> = tensors.iter().map(|(name, x)| (&**name, x.to_device(Device::Cpu))).collect();
    let looked_at = tensors.par_iter().map(|(name, tensor)| {
        let (values, mut digest) = (tensor.as_slice::<f32>(), Digest::new());
        let seen = in_pieces(values, |values, bytes| {
            digest.update(values, bytes);
            Ok(())
        });
        seen.expect("nothing is written");
        Entry { name, dtype: "F32", shape: tensor.shape().to_vec(), bytes: size_of_val(values), digest }
    });
    let entries: Vec<Entry> = looked_at.collect();
    let not_finite: Vec<&str> = entries.iter().filter(|entry| !entry.digest.finite).map(|entry| entry.name).collect();
    if !not_finite.is_empty() {
        return Err(refused(path, &not_finite));
    }
    files::write_with(path, |file| {
        file.write_all(&header(metadata, &entries, 0))?;
        tensors.iter().try_for_each(|(_, x)| in_pieces(x.as_slice(), |_, bytes| file.write_all(bytes)))
    })
}

/// What lies behind the rows in a file of [`write_rows`]: a tensor of one dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extra {
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
    work: impl FnOnce(&mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Vec<(String, Extra)>>,
) -> Result<usize> {
    let elements = row.iter().product::<usize>();
    let (mut failed, mut count) = (None, 0);
    let written = files::write_with(path, |file| {
        file.write_all(&[0; 8 + HEADER])?;
        let mut digest = Digest::new();
        let beside = work(&mut |rows| {
            assert!(rows.len().is_multiple_of(elements), "{} numbers in rows of {elements}", rows.len());
            let written = in_pieces(rows, |values, bytes| {
                digest.update(values, bytes);
                file.write_all(bytes)
            });
            written.map_err(|e| Error::io("write", path, e))?;
            count += rows.len() / elements;
            if digest.finite { Ok(()) } else { Err(refused(path, &[name])) }
        });
        let beside = beside.map_err(|e| {
            failed = Some(e);
            io::Error::other("not finished")
        })?;
        let (shape, bytes) = ([&[count], row].concat(), size_of::<f32>() * count * elements);
        let mut entries = vec![Entry { name, dtype: "F32", shape, bytes, digest }];
        for (name, tensor) in &beside {
            let (dtype, len, bytes) = match tensor {
                Extra::Integers(x) => ("I32", x.len(), x.iter().flat_map(|x| x.to_le_bytes()).collect()),
                Extra::Bytes(bytes) => ("U8", bytes.len(), bytes.clone()),
            };
            let mut digest = Digest::new();
            digest.update::<f32>(&[], &bytes);
            file.write_all(&bytes)?;
            entries.push(Entry { name, dtype, shape: vec![len], bytes: bytes.len(), digest });
        }
        let header = header(BTreeMap::new(), &entries, HEADER);
        assert!(header.len() == 8 + HEADER, "a header of {} bytes", header.len());
        file.rewind()?;
        file.write_all(&header)
    });
    failed.map_or(written.map(|()| count), Err)
}

/// The header of a file with these tensors one after the other, of `room` bytes or more.
fn header(mut metadata: BTreeMap<String, String>, tensors: &[Entry], room: usize) -> Vec<u8> {
    let sums: BTreeMap<&str, String> = tensors.iter().map(|x| (x.name, x.digest.checksum())).collect();
    metadata.insert("crc32".into(), serde_json::to_string(&sums).expect("plain data"));
    metadata.remove("checksum"); // of another content
    metadata.insert("checksum".into(), checksum(metadata.iter()));
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for Entry { name, dtype, shape, bytes, .. } in tensors {
        let start = end;
        end += bytes;
        header.insert((*name).to_owned(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
    }
    header.insert("__metadata__".into(), json!(metadata));
    let mut header = serde_json::to_vec(&header).expect("plain data");
    header.resize(header.len().next_multiple_of(8).max(room), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header].concat()
}

/// That tensors with values that are not finite are not written.
fn refused(path: &Path, not_finite: &[&str]) -> Error {
    let mismatch = |name: &&str| Mismatch { name: (*name).to_owned(), reason: Reason::NotFinite };
    let mismatches: Vec<Mismatch> = not_finite.iter().map(mismatch).collect();
    let hint = "a file that was written before is still there; see docs/reliability.md on numbers that went wrong";
    Error::file(path, format!("not written: {}", listed(&mismatches)), hint)
}

/// Elements and their bytes in little-endian order, some at a time.
fn in_pieces(values: &[f32], mut take: impl FnMut(&[f32], &[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut bytes = Vec::new();
    values.chunks(1 << 12).try_for_each(|piece| {
        bytes.clear();
        bytes.extend(piece.iter().flat_map(|x| x.to_le_bytes()));
        take(piece, &bytes)
    })
}
