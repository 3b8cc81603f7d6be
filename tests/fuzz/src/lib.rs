//! What the targets share.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use stop_mim::methods::ModelConfig;

/// A folder of this process, in memory where there is such a place.
pub fn scratch(name: &str) -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    let parent = if shared.is_dir() { shared } else { std::env::temp_dir() };
    let path = parent.join(format!("stop-mim-fuzz-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder for scratch files");
    path
}

/// A safetensors file out of any bytes: `r` and the whole file, or `p`, its header, a zero byte and its tensors, to which
/// the length of the header is put in front and, if it has checksums, those that are right: neither is found by chance,
/// and without them nothing behind would be reached.
pub fn safetensors(data: &[u8]) -> Option<Vec<u8>> {
    match data {
        [b'r', file @ ..] => Some(file.to_vec()),
        [b'p', rest @ ..] => {
            let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
            let (header, tensors) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
            let header = summed(header, tensors).unwrap_or_else(|| header.to_owned());
            Some([&(header.len() as u64).to_le_bytes()[..], &header, tensors].concat())
        }
        _ => None,
    }
}

/// The header with the checksums that its tensors and its metadata have; `None` if it has no `crc32` or is no header.
fn summed(header: &[u8], tensors: &[u8]) -> Option<Vec<u8>> {
    let mut header: BTreeMap<String, Value> = serde_json::from_slice(header).ok()?;
    let sums: BTreeMap<&String, String> = header
        .iter()
        .filter_map(|(name, entry)| {
            let offset = |k: usize| usize::try_from(entry["data_offsets"][k].as_u64()?).ok();
            Some((name, sum([tensors.get(offset(0)?..offset(1)?)?])))
        })
        .collect();
    let sums = serde_json::to_string(&sums).ok()?;
    let metadata = header.get_mut("__metadata__")?.as_object_mut()?;
    *metadata.get_mut("crc32")? = sums.into();
    metadata.remove("checksum");
    let sorted: BTreeMap<&String, &str> =
        metadata.iter().map(|(k, v)| Some((k, v.as_str()?))).collect::<Option<_>>()?;
    let checksum = sum(sorted.into_iter().flat_map(|(key, value)| [key.as_bytes(), b"\0", value.as_bytes(), b"\0"]));
    metadata.insert("checksum".to_owned(), checksum.into());
    serde_json::to_vec(&header).ok()
}

fn sum<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut crc = crc32fast::Hasher::new();
    pieces.into_iter().for_each(|piece| crc.update(piece));
    format!("{:08x}", crc.finalize())
}

/// Whether a model has so few weights that making one is quick.
pub fn is_small(config: &ModelConfig) -> bool {
    let weights = |dim: usize, depth: usize| 12.0 * (depth as f64 + 1.0) * (dim as f64).powi(2);
    let encoder = &config.encoder;
    let patches = (encoder.image_size / encoder.patch_size.max(1)).pow(2) as f64;
    let positions = patches * (encoder.dim + config.predictor.dim) as f64;
    let patch = 3.0 * (encoder.patch_size as f64).powi(2) * (encoder.dim + config.predictor.dim) as f64;
    weights(encoder.dim, encoder.depth) + weights(config.predictor.dim, config.predictor.depth) + positions + patch
        < 1e5
}

#[cfg(test)]
mod tests {
    use stop_mim::train::safetensors::{TensorFile, write};
    use stop_mim::{DType, Tensor};

    use super::*;

    /// A changed step and a changed weight get through, as if they had been written so.
    #[test]
    fn parts_have_the_checksums_that_are_right() {
        let path = scratch("parts").join("x");
        let x = Tensor::full([3], 1.0, DType::F32);
        write(&path, [("step".to_owned(), "2".to_owned())].into(), &[("x".to_owned(), &x)]).unwrap();
        let file = std::fs::read(&path).unwrap();
        let (header, tensors) = file[8..].split_at(u64::from_le_bytes(file[..8].try_into().unwrap()) as usize);
        let header = std::str::from_utf8(header).unwrap().replace(r#""step":"2""#, r#""step":"9""#);
        let tensors = [&tensors[..8], &[0; 4]].concat();
        std::fs::write(&path, safetensors(&[b"p", header.as_bytes(), b"\0", &tensors].concat()).unwrap()).unwrap();
        let mut open = TensorFile::open(&path, "").unwrap();
        assert_eq!(open.metadata().unwrap()["step"], "9");
        assert_eq!(open.tensor("x", DType::F32).unwrap().as_slice::<f32>(), [1.0, 1.0, 0.0]);
    }
}
