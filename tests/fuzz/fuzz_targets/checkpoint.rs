//! `r` and a whole safetensors file, or `p`, its header, a zero byte and its tensors: lengths that fit are hard to find
//! by chance.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use stop_mim::train::{RunConfig, checkpoint};
use stop_mim_fuzz::{is_small, scratch};

static FILE: LazyLock<PathBuf> = LazyLock::new(|| scratch("checkpoint").join("x.safetensors"));

/// The configuration in a header, if it can be read.
fn config(header: &[u8]) -> Option<RunConfig> {
    let header: serde_json::Value = serde_json::from_slice(header).ok()?;
    serde_json::from_str(header.get("__metadata__")?.get("config")?.as_str()?).ok()
}

fuzz_target!(|data: &[u8]| {
    let file = match data {
        [b'r', file @ ..] => file.to_vec(),
        [b'p', rest @ ..] => {
            let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
            let (header, tensors) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
            [&(end as u64).to_le_bytes()[..], header, tensors].concat()
        }
        _ => return,
    };
    let length = file.get(..8).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()) as usize);
    let header = length.checked_add(8).and_then(|end| file.get(8..end)).unwrap_or_default();
    if config(header).is_some_and(|config| config.validate().is_ok() && !is_small(&config.model)) {
        return; // A sound configuration of a large model: not an error of the reader's, and slow.
    }
    std::fs::write(&*FILE, &file).unwrap();
    match checkpoint::load(&FILE) {
        Ok(checkpoint) => assert!(checkpoint.config.validate().is_ok()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
