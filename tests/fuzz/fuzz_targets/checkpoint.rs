//! A checkpoint, read for its weights and to go on from.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use stop_mim::train::checkpoint;
use stop_mim_fuzz::{safetensors, scratch};

static FILE: LazyLock<PathBuf> = LazyLock::new(|| scratch("checkpoint").join("x.safetensors"));

fuzz_target!(|data: &[u8]| {
    let Some(file) = safetensors(data) else { return };
    std::fs::write(&*FILE, &file).unwrap();
    match checkpoint::load(&FILE) {
        Ok(checkpoint) => {
            assert!(checkpoint.config.validate().is_ok());
            assert!(checkpoint.params.evaluated().iter().all(|p| p.value.is_finite()));
        }
        Err(error) => assert!(error.to_string().contains(FILE.to_str().unwrap())),
    }
    match checkpoint::load_run(&FILE) {
        Ok(run) => assert!(run.trainer.optimizer.moments().iter().all(|(m, v)| m.is_finite() && v.is_finite())),
        Err(error) => assert!(error.to_string().contains(FILE.to_str().unwrap())),
    }
});
