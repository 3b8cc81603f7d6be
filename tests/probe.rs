//! Judging features through the program's own command line: in bounded memory, against the right chance, row by row,
//! and until somebody asks to stop.

mod common;

use common::{SMALL, Scratch, contains, printed};
use image::{Rgb, RgbImage};
use rand::{RngExt, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use stop_mim::nn::{LinearInit, Params};
use stop_mim::rng::Generator;
use stop_mim::train::weights::fresh_encoder;
use stop_mim::vit::{EncoderConfig, Preset};

/// `of_class(c)` images of class c in a split, each painted by `pixel(noise)`.
fn images(scratch: &Scratch, split: &str, of_class: &[usize], pixel: impl Fn(u8) -> u8) {
    let mut rng = Generator::seed_from_u64(split.len() as u64);
    for (c, n) in of_class.iter().enumerate() {
        let class = scratch.path(format!("{split}/class-{c}"));
        std::fs::create_dir_all(&class).unwrap();
        for i in 0..*n {
            let mut noise = || pixel(rng.random_range(0..100));
            let image = RgbImage::from_fn(24, 24, |_, _| Rgb([noise(), noise(), noise()]));
            image.save(class.join(format!("{i}.png"))).unwrap();
        }
    }
}

/// Weights of a fresh encoder, in a file called `weights`.
fn weights(scratch: &Scratch, sizes: &EncoderConfig, change: impl Fn(&mut Params)) {
    let (_, mut params) = fresh_encoder(sizes, LinearInit::Normal, 7).unwrap();
    change(&mut params);
    let bytes = params.iter().map(|p| {
        let values: Vec<u8> = p.value.as_slice::<f32>().iter().flat_map(|x| x.to_le_bytes()).collect();
        (p.name.clone(), p.value.shape().to_vec(), values)
    });
    let bytes: Vec<_> = bytes.collect();
    let views = bytes.iter().map(|(name, shape, x)| (name, TensorView::new(Dtype::F32, shape.clone(), x).unwrap()));
    scratch.write("weights", safetensors::serialize(views, None).unwrap());
}

fn toy_weights(scratch: &Scratch) {
    weights(scratch, &EncoderConfig { image_size: 16, ..Preset::Toy.sizes().0 }, |_| ());
}

/// The line of a table that begins with `name`.
#[track_caller]
fn row<'a>(printed: &'a str, name: &str) -> &'a str {
    printed.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no row {name} in\n{printed}"))
}

const TOY: &str = "probe weights --preset toy --image-size 16 --data folder:. --threads 1";

/// The square of 3 · 224 · 224 numbers takes 181 GB.
#[cfg(unix)]
#[test]
fn images_of_224_pixels_are_probed_in_two_gigabytes() {
    let scratch = Scratch::new();
    images(&scratch, "train", &[4, 4, 4], |noise| noise);
    images(&scratch, "test", &[2, 2, 2], |noise| noise);
    weights(&scratch, &Preset::VitT16.sizes().0, |_| ());
    let args = "probe weights --preset vit-t16 --data folder:.";
    let printed = printed(&scratch.within(2_000_000, args), args);
    contains(&printed, &["12 images of 3 classes, tested on 6; chance is 33.3 %"]);
    let after_rule: Vec<&str> = printed.lines().skip_while(|line| !line.starts_with('─')).skip(1).collect();
    let names = ["trained encoder", "untrained encoder", "raw pixels, 32 x 32"];
    assert!(names.iter().zip(&after_rule).all(|(name, line)| line.starts_with(name)), "{printed}");
    assert!(row(&printed, "raw pixels").ends_with("of 3072"), "{printed}");
}

#[test]
fn chance_is_that_of_the_images_that_were_chosen() {
    let scratch = Scratch::new();
    toy_weights(&scratch);
    images(&scratch, "train", &[8; 10], |noise| noise);
    images(&scratch, "test", &[3; 10], |noise| noise);
    for (images, headline) in [
        ("30,10", "30 images of 10 classes, tested on 10; chance is 10.0 %"),
        ("30,7", "30 images of 10 classes, tested on 7; chance is 10.0 %"),
        ("999,999", "80 images of 10 classes, tested on 30; chance is 10.0 %"),
        ("4,4", "4 images of 4 classes, tested on 4; chance is 25.0 %"),
    ] {
        let printed = scratch.succeeds(&format!("{TOY} --probe-images {images}"));
        assert!(printed.contains(headline), "{images}: {printed}");
        // Noise: were the first images taken, those of ten classes would be told apart by which were taken.
        let linear: f64 = row(&printed, "trained encoder").split_whitespace().nth(2).unwrap().parse().unwrap();
        assert!(linear <= 50.0, "{images}: {printed}");
    }
    // Four training images are of four classes, and six of ten test images of the others. What the hint says works.
    let hint = "--probe-images 10,10";
    scratch.refuses(&format!("{TOY} --probe-images 4,10"), &["4 training images are of 4 classes", "6 others", hint]);
    scratch.succeeds(&format!("{TOY} {hint}"));

    let frequent = Scratch::new();
    toy_weights(&frequent);
    images(&frequent, "train", &[9, 3], |noise| noise);
    images(&frequent, "test", &[1, 3], |noise| noise);
    let printed = frequent.succeeds(TOY);
    assert!(printed.contains("12 images of 2 classes, tested on 4; chance is 25.0 %"), "{printed}");
}

const RUN: &str = "--batch 4 --threads 1 --name run";

#[test]
fn a_run_whose_probe_cannot_be_made_does_not_begin() {
    let scratch = Scratch::new();
    let args = format!("{SMALL} {RUN} --steps 3 --probe --probe-images 4,40");
    scratch.refuses(&args, &["4 training images are of 4 classes", "--probe-images 10,40"]);
    assert_eq!(scratch.entries(), 0, "nothing is written");
}

/// Raw pixels apart, what is found depends on how light the images are: they are not normalized by their own
/// statistics.
#[test]
fn images_are_normalized_as_the_encoder_is_used_to() {
    let scratch = Scratch::new();
    toy_weights(&scratch);
    scratch.succeeds(&format!("{SMALL} {RUN} --steps 1"));
    let dark = Scratch::new();
    let probe = |args: &str, split: &Scratch| {
        let images = split.folder().display();
        scratch.succeeds(&format!("probe {args} --data folder:{images} --threads 1"))
    };
    let bright = Scratch::new();
    for (split, brighter) in [(&dark, 0), (&bright, 100)] {
        images(split, "train", &[10, 10], |noise| noise + brighter);
        images(split, "test", &[10, 10], |noise| noise + brighter);
    }
    for (args, said) in [
        (
            "weights --preset toy --image-size 16",
            "with mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225]: ImageNet's",
        ),
        ("runs/run/checkpoint.safetensors", ": the checkpoint's own"),
    ] {
        let (dark, bright) = (probe(args, &dark), probe(args, &bright));
        let line = |printed: &str| row(printed, "images are normalized").to_owned();
        assert!(line(&dark).contains(said) && line(&dark) == line(&bright), "{dark}{bright}");
        for name in ["trained encoder", "untrained encoder"] {
            assert_ne!(row(&dark, name), row(&bright, name), "{args}");
        }
    }
}

#[test]
fn cifar_fits_an_encoder_of_another_size() {
    let scratch = Scratch::new();
    toy_weights(&scratch);
    let mut rng = Generator::seed_from_u64(5);
    for file in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        let mut records: Vec<u8> = (0..10 * 3073).map(|_| rng.random()).collect();
        records.chunks_exact_mut(3073).enumerate().for_each(|(i, record)| record[0] = i as u8);
        scratch.write(format!("{file}.bin"), records);
    }
    let printed = scratch.succeeds(&TOY.replace("folder:.", "cifar10:."));
    assert!(printed.contains("resized to 16x16") && printed.contains("chance is 10.0 %"), "{printed}");
    let larger = format!("{SMALL} {RUN} --steps 2 --data cifar10:. --image-size 48 --probe");
    let printed = scratch.succeeds(&larger);
    assert!(printed.contains("resized to 48x48") && printed.contains("raw pixels, 32 x 32"), "{printed}");
}

#[test]
fn features_that_are_no_numbers_are_no_class() {
    let scratch = Scratch::new();
    images(&scratch, "train", &[3, 3], |noise| noise);
    images(&scratch, "test", &[1, 1], |noise| noise);
    let huge = |params: &mut Params| {
        let last = params.iter_mut().find(|p| p.name == "norm.weight").unwrap();
        last.value.as_mut_slice::<f32>().fill(f32::MAX);
    };
    weights(&scratch, &EncoderConfig { image_size: 16, ..Preset::Toy.sizes().0 }, huge);
    scratch.refuses(TOY, &["trained encoder, training images: feature", "of image 0 is", "normalized"]);
}

/// SIGTERM as soon as a line that begins with `word` is printed. Gives the exit code, and what was printed.
#[cfg(unix)]
fn terminated_at(scratch: &Scratch, args: &str, word: &str) -> (Option<i32>, String) {
    use std::io::{BufRead, BufReader, Read};
    let mut child = scratch.start(args);
    let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
    let mut printed = String::new();
    while !printed.lines().any(|line| line.starts_with(word)) {
        assert!(stdout.read_line(&mut printed).unwrap() > 0, "it ended without {word}:\n{printed}");
    }
    let asked = std::time::Instant::now();
    child.signal("-TERM");
    stdout.read_to_string(&mut printed).unwrap();
    let code = child.0.wait().unwrap().code();
    assert!(asked.elapsed().as_secs() < 20, "it went on for {:?}", asked.elapsed());
    (code, printed)
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_probe_and_leaves_what_was_found() {
    let scratch = Scratch::new();
    let args = format!("{SMALL} {RUN} --steps 1 --probe");
    let (code, printed) = terminated_at(&scratch, &args, "features");
    assert_eq!(code, Some(130), "{printed}");
    assert!(printed.contains("stopped before the row of the trained encoder was found"), "{printed}");
    let probe = "probe runs/run/checkpoint.safetensors --threads 1 --probe-images 6000,2000";
    let (code, printed) = terminated_at(&scratch, probe, "trained encoder");
    assert_eq!(code, Some(130), "{printed}");
    assert!(row(&printed, "trained encoder").contains('%'), "{printed}");
    assert!(printed.contains("stopped before the row of the untrained encoder was found"), "{printed}");
}
