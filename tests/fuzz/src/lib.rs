//! What the targets share.

use std::path::PathBuf;

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
/// the length of the header is put in front: lengths that fit are hard to find by chance.
pub fn safetensors(data: &[u8]) -> Option<Vec<u8>> {
    match data {
        [b'r', file @ ..] => Some(file.to_vec()),
        [b'p', rest @ ..] => {
            let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
            let (header, tensors) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
            Some([&(end as u64).to_le_bytes()[..], header, tensors].concat())
        }
        _ => None,
    }
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
