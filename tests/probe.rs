//! Judging features through the program's own command line: in bounded memory, against the right chance, row by row,
//! and until somebody asks to stop.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use image::{Rgb, RgbImage};
use rand::{RngExt, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use stop_mim::nn::{LinearInit, Params};
use stop_mim::rng::Generator;
use stop_mim::train::weights::fresh_encoder;
use stop_mim::vit::{EncoderConfig, Preset};

/// An empty folder of its own for each test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("stop-mim-probe-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    /// `of_class(c)` images of class c in a split, each painted by `pixel(noise)`.
    fn images(&self, split: &str, of_class: &[usize], pixel: impl Fn(u8) -> u8) {
        let mut rng = Generator::seed_from_u64(split.len() as u64);
        for (c, n) in of_class.iter().enumerate() {
            let class = self.0.join(format!("{split}/class-{c}"));
            std::fs::create_dir_all(&class).unwrap();
            for i in 0..*n {
                let mut noise = || pixel(rng.random_range(0..100));
                let image = RgbImage::from_fn(24, 24, |_, _| Rgb([noise(), noise(), noise()]));
                image.save(class.join(format!("{i}.png"))).unwrap();
            }
        }
    }

    /// Weights of a fresh encoder, in a file called `weights`.
    fn weights(&self, sizes: &EncoderConfig, change: impl Fn(&mut Params)) {
        let (_, mut params) = fresh_encoder(sizes, LinearInit::Normal, 7).unwrap();
        change(&mut params);
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = params
            .iter()
            .map(|p| {
                let values = p.value.as_slice::<f32>().iter().flat_map(|x| x.to_le_bytes()).collect();
                (p.name.clone(), p.value.shape().to_vec(), values)
            })
            .collect();
        let views = bytes.iter().map(|(name, shape, x)| (name, TensorView::new(Dtype::F32, shape.clone(), x).unwrap()));
        std::fs::write(self.0.join("weights"), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    fn toy_weights(&self) {
        self.weights(&EncoderConfig { image_size: 16, ..Preset::Toy.sizes().0 }, |_| ());
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn command(folder: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stop-mim"));
    command.current_dir(folder).args(args.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn succeeds(folder: &Path, args: &str) -> String {
    printed(&command(folder, args).output().unwrap())
}

#[track_caller]
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[track_caller]
fn fails(folder: &Path, args: &str, words: &[&str]) {
    let output = command(folder, args).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{args}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    words.iter().for_each(|word| assert!(message.contains(word), "no '{word}' in\n{message}"));
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
    let scratch = Scratch::new("224");
    scratch.images("train", &[4, 4, 4], |noise| noise);
    scratch.images("test", &[2, 2, 2], |noise| noise);
    scratch.weights(&Preset::VitT16.sizes().0, |_| ());
    let line = "ulimit -v 2000000 && exec \"$0\" probe weights --preset vit-t16 --data folder:. --threads 2";
    let output =
        Command::new("sh").current_dir(&scratch.0).args(["-c", line, env!("CARGO_BIN_EXE_stop-mim")]).output().unwrap();
    let printed = printed(&output);
    assert!(printed.contains("12 images of 3 classes, tested on 6; chance is 33.3 %"), "{printed}");
    let after_rule: Vec<&str> = printed.lines().skip_while(|line| !line.starts_with('─')).skip(1).collect();
    let names = ["trained encoder", "untrained encoder", "raw pixels, 32 x 32"];
    assert!(names.iter().zip(&after_rule).all(|(name, line)| line.starts_with(name)), "{printed}");
    assert!(row(&printed, "raw pixels").ends_with("of 3072"), "{printed}");
}

#[test]
fn chance_is_that_of_the_images_that_were_chosen() {
    let scratch = Scratch::new("chance");
    scratch.toy_weights();
    scratch.images("train", &[8; 10], |noise| noise);
    scratch.images("test", &[3; 10], |noise| noise);
    for (images, headline) in [
        ("30,10", "30 images of 10 classes, tested on 10; chance is 10.0 %"),
        ("30,7", "30 images of 10 classes, tested on 7; chance is 10.0 %"),
        ("999,999", "80 images of 10 classes, tested on 30; chance is 10.0 %"),
        ("4,4", "4 images of 4 classes, tested on 4; chance is 25.0 %"),
    ] {
        let printed = succeeds(&scratch.0, &format!("{TOY} --probe-images {images}"));
        assert!(printed.contains(headline), "{images}: {printed}");
        // Noise: were the first images taken, those of ten classes would be told apart by which were taken.
        let linear: f64 = row(&printed, "trained encoder").split_whitespace().nth(2).unwrap().parse().unwrap();
        assert!(linear <= 50.0, "{images}: {printed}");
    }
    // Four training images are of four classes, and six of ten test images of the others. What the hint says works.
    let hint = "--probe-images 10,10";
    fails(&scratch.0, &format!("{TOY} --probe-images 4,10"), &["4 training images are of 4 classes", "6 others", hint]);
    succeeds(&scratch.0, &format!("{TOY} {hint}"));

    let frequent = Scratch::new("frequent");
    frequent.toy_weights();
    frequent.images("train", &[9, 3], |noise| noise);
    frequent.images("test", &[1, 3], |noise| noise);
    let printed = succeeds(&frequent.0, TOY);
    assert!(printed.contains("12 images of 2 classes, tested on 4; chance is 25.0 %"), "{printed}");
}

const SMALL: &str = "pretrain --dim 16 --depth 1 --heads 2 --predictor-dim 8 --predictor-depth 1 --predictor-heads 1 \
    --batch 4 --threads 1 --name run";

#[test]
fn a_run_whose_probe_cannot_be_made_does_not_begin() {
    let scratch = Scratch::new("early");
    let args = format!("{SMALL} --steps 3 --probe --probe-images 4,40");
    fails(&scratch.0, &args, &["4 training images are of 4 classes", "--probe-images 10,40"]);
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0, "nothing is written");
}

/// Raw pixels apart, what is found depends on how light the images are: they are not normalized by their own
/// statistics.
#[test]
fn images_are_normalised_as_the_encoder_is_used_to() {
    let scratch = Scratch::new("light");
    scratch.toy_weights();
    succeeds(&scratch.0, &format!("{SMALL} --steps 1"));
    let dark = Scratch::new("dark");
    let probe = |args: &str, split: &Scratch| {
        let images = split.0.display();
        succeeds(&scratch.0, &format!("probe {args} --data folder:{images} --threads 1"))
    };
    let bright = Scratch::new("bright");
    for (images, brighter) in [(&dark, 0), (&bright, 100)] {
        images.images("train", &[10, 10], |noise| noise + brighter);
        images.images("test", &[10, 10], |noise| noise + brighter);
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
    let scratch = Scratch::new("cifar");
    scratch.toy_weights();
    let mut rng = Generator::seed_from_u64(5);
    for file in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"] {
        let mut records: Vec<u8> = (0..10 * 3073).map(|_| rng.random()).collect();
        records.chunks_exact_mut(3073).enumerate().for_each(|(i, record)| record[0] = i as u8);
        std::fs::write(scratch.0.join(file).with_extension("bin"), records).unwrap();
    }
    let printed = succeeds(&scratch.0, &TOY.replace("folder:.", "cifar10:."));
    assert!(printed.contains("resized to 16x16") && printed.contains("chance is 10.0 %"), "{printed}");
    let larger = format!("{SMALL} --steps 2 --data cifar10:. --image-size 48 --probe");
    let printed = succeeds(&scratch.0, &larger);
    assert!(printed.contains("resized to 48x48") && printed.contains("raw pixels, 32 x 32"), "{printed}");
}

#[test]
fn features_that_are_no_numbers_are_no_class() {
    let scratch = Scratch::new("nan");
    scratch.images("train", &[3, 3], |noise| noise);
    scratch.images("test", &[1, 1], |noise| noise);
    let huge = |params: &mut Params| {
        let last = params.iter_mut().find(|p| p.name == "norm.weight").unwrap();
        last.value.as_mut_slice::<f32>().fill(f32::MAX);
    };
    scratch.weights(&EncoderConfig { image_size: 16, ..Preset::Toy.sizes().0 }, huge);
    fails(&scratch.0, TOY, &["trained encoder, training images: feature", "of image 0 is", "normalized"]);
}

/// SIGTERM as soon as a line that begins with `word` is printed. Gives the exit code, and what was printed.
#[cfg(unix)]
fn terminated_at(folder: &Path, args: &str, word: &str) -> (Option<i32>, String) {
    use std::io::{BufRead, BufReader, Read};
    let mut child = command(folder, args).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut printed = String::new();
    while !printed.lines().any(|line| line.starts_with(word)) {
        assert!(stdout.read_line(&mut printed).unwrap() > 0, "it ended without {word}:\n{printed}");
    }
    let asked = std::time::Instant::now();
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    stdout.read_to_string(&mut printed).unwrap();
    let code = child.wait().unwrap().code();
    assert!(asked.elapsed().as_secs() < 20, "it went on for {:?}", asked.elapsed());
    (code, printed)
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_probe_and_leaves_what_was_found() {
    let scratch = Scratch::new("signal");
    let args = format!("{SMALL} --steps 1 --probe");
    let (code, printed) = terminated_at(&scratch.0, &args, "features");
    assert_eq!(code, Some(130), "{printed}");
    assert!(printed.contains("stopped before the row of the trained encoder was found"), "{printed}");
    let probe = "probe runs/run/checkpoint.safetensors --threads 1 --probe-images 6000,2000";
    let (code, printed) = terminated_at(&scratch.0, probe, "trained encoder");
    assert_eq!(code, Some(130), "{printed}");
    assert!(row(&printed, "trained encoder").contains('%'), "{printed}");
    assert!(printed.contains("stopped before the row of the untrained encoder was found"), "{printed}");
}
