//! One file in a folder of sound ones.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use image::RgbImage;
use libfuzzer_sys::fuzz_target;
use stop_mim::data::{BadImages, Dataset, folder};
use stop_mim_fuzz::scratch;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    // A panic ends the process where it begins, even if it would be caught. One that is not caught still does.
    drop(std::panic::take_hook());
    let folder = scratch("image");
    for split in ["train", "test"] {
        std::fs::create_dir_all(folder.join(split).join("a")).unwrap();
    }
    RgbImage::new(8, 8).save(folder.join("test/a/good.png")).unwrap();
    folder
});

fuzz_target!(|data: &[u8]| {
    std::fs::write(FOLDER.join("train/a/any.png"), data).unwrap();
    match folder::open(&FOLDER, 8, BadImages::Refuse.into()) {
        Ok((train, _)) => {
            assert_eq!((train.len(), train.skipped()), (1, 0));
            train.pixels(0, &mut [0; 192]).unwrap();
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("any.png"), "{message}");
            // Others' code: caught, but worth knowing.
            if message.contains("panicked") {
                eprintln!("{message}");
            }
        }
    }
});
