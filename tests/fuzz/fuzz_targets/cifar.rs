//! Two bytes of length, a file of class names of that length (none: no such file), and a file of records.

#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use stop_mim::data::{Dataset, cifar};
use stop_mim_fuzz::scratch;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = scratch("cifar");
    std::fs::write(folder.join("test.bin"), [0; 3074]).unwrap();
    folder
});

fuzz_target!(|data: &[u8]| {
    let [low, high, rest @ ..] = data else { return };
    let (names, records) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
    let names_file = FOLDER.join("fine_label_names.txt");
    match names {
        [] => drop(std::fs::remove_file(names_file)),
        names => std::fs::write(names_file, names).unwrap(),
    }
    std::fs::write(FOLDER.join("train.bin"), records).unwrap();
    match cifar::cifar100(&FOLDER) {
        Ok((train, _)) => {
            assert_eq!(train.len() * 3074, records.len());
            let mut pixels = vec![0; 3072];
            for index in 0..train.len() {
                train.pixels(index, &mut pixels).unwrap();
                assert!(train.label(index).unwrap() < train.class_names().len());
            }
        }
        Err(error) => assert!(error.to_string().contains(FOLDER.to_str().unwrap())),
    }
});
