//! A safetensors file of another program: every tensor alone, and an encoder, strictly and in part.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use stop_mim::DType;
use stop_mim::train::safetensors::{Fit, TensorFile};
use stop_mim::train::weights::{InitOptions, load_encoder, sizes_of};
use stop_mim::vit::{EncoderConfig, Preset};
use stop_mim_fuzz::{safetensors, scratch};

static FILE: LazyLock<PathBuf> = LazyLock::new(|| scratch("weights").join("x.safetensors"));

fuzz_target!(|data: &[u8]| {
    let Some(file) = safetensors(data) else { return };
    std::fs::write(&*FILE, &file).unwrap();
    let named = |message: String| assert!(message.contains(FILE.to_str().unwrap()), "{message}");
    match TensorFile::open(&FILE, "") {
        Ok(mut open) => {
            for name in open.names() {
                match open.tensor(&name, DType::F64) {
                    Ok(tensor) => assert!(tensor.is_finite() && tensor.elements() <= file.len()),
                    Err(error) => named(error.to_string()),
                }
            }
        }
        Err(error) => named(error.to_string()),
    }
    let sizes = EncoderConfig { image_size: 16, dim: 4, depth: 1, heads: 1, ..Preset::Toy.sizes().0 };
    let [strict, partial] = [Fit::Strict, Fit::Partial]
        .map(|fit| load_encoder(&FILE, &sizes, &InitOptions { fit, ..InitOptions::default() }));
    assert!(partial.is_ok() || strict.is_err());
    assert!(strict.as_ref().is_ok_and(|strict| strict.left_out.is_empty()) || strict.is_err());
    if let Err(error) = sizes_of(&FILE, None, Some(1)) {
        assert!(!error.to_string().is_empty());
    }
    for loaded in [strict, partial] {
        match loaded {
            Ok(loaded) => assert!(loaded.params.iter().all(|p| p.value.is_finite())),
            Err(error) => named(error.to_string()),
        }
    }
});
