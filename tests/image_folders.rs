//! Folders of images as people have them, through the program's own command line: which images are used for what, what is
//! said about the others, and that one bad image ends no run.

mod common;

use common::pictures::encoded;
use common::{Scratch, contains};
use image::{ImageFormat, Rgb, RgbImage};

/// `n` images in `folder`, all different.
fn images(scratch: &Scratch, folder: &str, n: usize) {
    for k in 0..n {
        scratch.write(format!("{folder}/{k:03}.png"), picture((k * 7 + folder.len() * 31) as u8));
    }
}

fn picture(level: u8) -> Vec<u8> {
    let image = RgbImage::from_fn(9, 8, |x, y| Rgb([level, (x * 20) as u8, (y * 25) as u8]));
    encoded(&image.into(), ImageFormat::Png)
}

const PRETRAIN: &str = "pretrain --image-size 8 --patch 1 --dim 8 --depth 1 --heads 1 --predictor-dim 8 --predictor-depth 1 \
    --predictor-heads 1 --batch 4 --threads 2";

#[test]
fn images_at_any_depth_belong_to_the_class_and_what_is_passed_over_is_said() {
    let scratch = Scratch::new();
    for class in ["a", "b"] {
        images(&scratch, &format!("data/{class}"), 4);
        images(&scratch, &format!("data/{class}/more/still"), 20);
        scratch.write(format!("data/{class}/notes.txt"), b"");
    }
    scratch.write("data/labels.csv", b"");
    let run = format!("{PRETRAIN} --data folder:data --steps 2");
    let said = scratch.says(&format!("{run} --strict"));
    contains(&said, &["data train: 40 images of 2 classes (CLASS, a fifth of each class held out), at 8x8"]);
    contains(&said, &["data: 48 images; passed over 3 files: 2 .txt, 1 .csv\n"]);
    // An image of a kind that is not read is no harmless file.
    scratch.write("data/a/scan.TIF", b"");
    contains(&scratch.says(&run), &["passed over 4 files: 2 .txt, 1 .csv, 1 .tif (not read here)"]);
    scratch.refuses(&format!("{run} --strict"), &["data/a/scan.TIF: one of 1 .tif files, not read here"]);
}

#[test]
fn imagenet_as_distributed_and_train_alone() {
    let scratch = Scratch::new();
    for class in ["n1", "n2"] {
        images(&scratch, &format!("data/train/{class}"), 10);
        images(&scratch, &format!("data/val/{class}"), 3);
    }
    images(&scratch, "data/test", 5);
    let run = format!("{PRETRAIN} --data folder:data --steps 2");
    let said = scratch.says(&format!("{run} --probe --strict"));
    contains(&said, &["20 images of 2 classes (train/CLASS and val/CLASS)", "20 images of 2 classes, tested on 6"]);
    contains(&said, &["data: test/ with its 5 images is ignored: it has no class folders"]);
    std::fs::remove_dir_all(scratch.path("data/val")).unwrap();
    images(&scratch, "data/train/n3", 1);
    let said = scratch.says(&format!("{run} --probe"));
    contains(&said, &["17 images of 3 classes (train/CLASS, a fifth of each class held out)", "tested on 4"]);
    assert!(!said.contains("not the same classes"), "that nothing of one image is held out is no news: {said}");
}

#[test]
fn images_without_classes_are_pretrained_on_and_not_judged_by() {
    let scratch = Scratch::new();
    images(&scratch, "data", 20);
    images(&scratch, "data/more", 10);
    let said = scratch.says(&format!("{PRETRAIN} --data folder:data --steps 2 --strict --name flat"));
    contains(&said, &["data train: 24 images without labels (images without classes, 6 held out)"]);
    scratch.refuses(
        "probe runs/flat/checkpoint.safetensors --threads 1",
        &["a probe needs labels, and these images have none"],
    );
    std::fs::create_dir(scratch.path("split")).unwrap();
    std::fs::rename(scratch.path("data"), scratch.path("split/train")).unwrap();
    images(&scratch, "split/test", 3);
    let said = scratch.says(&format!("{PRETRAIN} --data folder:split --steps 2"));
    contains(&said, &["split train: 30 images without labels (train/images without classes and test/images without"]);
}

#[test]
fn classes_of_one_split_only_are_named() {
    let scratch = Scratch::new();
    for k in 0..9 {
        images(&scratch, &format!("data/train/c{k}"), 2);
        if k != 4 {
            images(&scratch, &format!("data/val/c{k}"), 1);
        }
    }
    let run = format!("{PRETRAIN} --data folder:data --steps 2");
    // A class that only training has takes nothing from the probe.
    contains(
        &scratch.says(&format!("{run} --probe --strict")),
        &["not the same classes in both splits: only in train: c4"],
    );
    for k in 0..7 {
        images(&scratch, &format!("data/val/x{k}"), 1);
    }
    let said = scratch.says(&format!("{run} --name mismatch"));
    contains(&said, &["only in train: c4; only in val: x0, x1, x2, x3, x4, … and 2 more"]);
    scratch.refuses(
        "probe runs/mismatch/checkpoint.safetensors --threads 1",
        &["no training image, and so no label, for x0, x1"],
    );
    scratch.refuses(&format!("{run} --strict"), &["only in val: x0", "leave out --strict"]);
}

#[test]
fn a_class_without_any_good_image_ends_no_run_but_cannot_be_judged_by() {
    let scratch = Scratch::new();
    for split in ["train", "test"] {
        images(&scratch, &format!("data/{split}/a"), 12);
        scratch.write(format!("data/{split}/b/only.png"), &picture(0)[..60]);
    }
    let said = scratch.says(&format!("{PRETRAIN} --data folder:data --steps 9 --diagnose-every 3 --name barren"));
    contains(
        &said,
        &[
            "13 images of 2 classes",
            "warning: no train image of class b can be decoded",
            "files that could not be used and were skipped: 2",
        ],
    );
    assert_eq!(said.matches("train/b/only.png").count(), 1, "{said}");
    scratch
        .refuses("probe runs/barren/checkpoint.safetensors --threads 1", &["no train image of class b can be decoded"]);
}

/// Checkpoints do not depend on how many decoded images are kept.
#[test]
fn memory_for_images_changes_no_bit() {
    let scratch = Scratch::new();
    images(&scratch, "data/a", 10);
    images(&scratch, "data/b", 10);
    for (name, cache) in [("some", ""), ("none", "--cache-mb 0"), ("much", "--cache-mb 4000000")] {
        scratch.says(&format!("{PRETRAIN} --data folder:data --steps 9 --name {name} {cache}"));
    }
    let weights = |name: &str| scratch.read(format!("runs/{name}/checkpoint.safetensors"));
    assert!(weights("some") == weights("none") && weights("some") == weights("much"));
}

#[test]
fn a_tilde_is_the_home_and_an_archive_is_to_be_unpacked() {
    let scratch = Scratch::new();
    images(&scratch, "images/a", 2);
    scratch.says("masks --data folder:~/images --image-size 8 --patch 1 --images 1 --threads 1");
    scratch.refuses(
        "masks --data cifar10:~/nowhere",
        &[&format!("{}: there is no such file", scratch.path("nowhere/data_batch_1.bin").display())],
    );
    scratch.write("cifar-10-binary.tar.gz", b"");
    scratch.refuses(
        "masks --data cifar10:cifar-10-binary.tar.gz",
        &[
            "is a file, not CIFAR-10's folder",
            "(tar -xf cifar-10-binary.tar.gz -C .), and give the folder that it makes",
        ],
    );
}

/// Beside `train` and its test split lie images that nobody uses: said one by one, and refused where all must count.
#[test]
fn images_beside_the_splits_are_named_and_refused_by_strict() {
    let scratch = Scratch::new();
    for split in ["train", "val"] {
        images(&scratch, &format!("data/{split}/a"), 5);
        images(&scratch, &format!("data/{split}/b"), 5);
    }
    let run = format!("{PRETRAIN} --data folder:data --steps 1");
    scratch.says(&format!("{run} --strict"));
    images(&scratch, "data/extra/b", 2);
    scratch.write("data/lone.png", picture(3));
    let beside = |name: &str| format!("data/{name}: lies beside the folders that are used, not in one");
    let names = ["extra/b/000.png", "extra/b/001.png", "lone.png"].map(beside);
    for said in [scratch.says(&run), scratch.refuses(&format!("{run} --strict"), &[])] {
        contains(&said, &names.each_ref().map(String::as_str));
    }
}

/// As many images as fit on a sheet, and no more.
#[test]
fn a_sheet_of_masks_has_a_bound() {
    let scratch = Scratch::new();
    for n in ["0", "65", "4000000000"] {
        scratch.refuses(&format!("masks --images {n}"), &["--images", "1..=64"]);
    }
    scratch.says("masks --image-size 8 --patch 1 --images 64");
}
