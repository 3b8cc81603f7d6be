//! Label propagation through the program's own command line: on embedded clips, and on a folder in the layout of DAVIS.

mod common;

use common::{SMALL, Scratch, contains};
use image::{Rgb, RgbImage};
use rand::{RngExt, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use stop_mim::data::video::{Mask, indexed};
use stop_mim::eval::tracking::{contour_accuracy, region_similarity};
use stop_mim::nn::LinearInit;
use stop_mim::rng::Generator;
use stop_mim::train::weights::fresh_encoder;
use stop_mim::vit::{EncoderConfig, Preset};

/// Weights of a fresh small encoder, in a file called `weights`.
fn weights(scratch: &Scratch, image_size: usize, patch_size: usize) {
    let sizes = EncoderConfig { image_size, patch_size, dim: 16, depth: 1, heads: 2, ..Preset::Toy.sizes().0 };
    let (_, params) = fresh_encoder(&sizes, LinearInit::Normal, 7).unwrap();
    let bytes: Vec<_> = params
        .iter()
        .map(|p| {
            let values: Vec<u8> = p.value.as_slice::<f32>().iter().flat_map(|x| x.to_le_bytes()).collect();
            (p.name.clone(), p.value.shape().to_vec(), values)
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, x)| (name, TensorView::new(Dtype::F32, shape.clone(), x).unwrap()));
    scratch.write("weights", safetensors::serialize(views, None).unwrap());
}

/// Where the two squares of a frame are: 24 pixels a side, on 96 × 64.
fn label(index: usize, x: usize, y: usize) -> u8 {
    let inside = |left: usize, top: usize| (left..left + 24).contains(&x) && (top..top + 24).contains(&y);
    if inside(8 + 4 * index, 8) { 1 } else { 2 * u8::from(inside(64 - 2 * index, 32)) }
}

/// Videos of `frames` frames of two squares, each with a texture of its own, on a ground with another.
fn davis(scratch: &Scratch, videos: &[&str], frames: usize, [width, height]: [usize; 2]) {
    let mut rng = Generator::seed_from_u64(9);
    let texture: Vec<u8> = (0..3 * 1024).map(|_| rng.random_range(0..40)).collect();
    let scale = width / 96;
    for video in videos {
        let [images, masks] = ["JPEGImages", "Annotations"].map(|what| scratch.path(format!("{what}/480p/{video}")));
        [&images, &masks].into_iter().for_each(|folder| std::fs::create_dir_all(folder).unwrap());
        for index in 0..frames {
            let at = |x: usize, y: usize| label(index % 6, x / scale, y / scale);
            let pixel = |x: usize, y: usize| {
                let object = at(x, y);
                // The texture moves with its square.
                let (u, v) = if object == 1 { (x - 4 * scale * (index % 6), y) } else { (x, y) };
                let noise = |c: usize| texture[1024 * c + v % 32 * 32 + u % 32];
                [[20, 60, 120], [200, 40, 60], [60, 180, 30]][usize::from(object)]
                    .iter()
                    .enumerate()
                    .map(|(c, base)| base + noise(c))
                    .collect::<Vec<u8>>()
            };
            let frame = RgbImage::from_fn(width as u32, height as u32, |x, y| {
                Rgb(pixel(x as usize, y as usize).try_into().unwrap())
            });
            frame.save(images.join(format!("{index:05}.jpg"))).unwrap();
            let labels = (0..height * width).map(|i| at(i % width, i / width)).collect();
            indexed::write(&masks.join(format!("{index:05}.png")), &Mask::new([height, width], labels)).unwrap();
        }
    }
}

/// J, F and J&F of a row, in percent.
#[track_caller]
fn row(printed: &str, name: &str) -> Vec<f64> {
    let line = printed.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{printed}"));
    let numbers: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers.len(), 3, "{line}");
    numbers
}

#[test]
fn a_run_is_judged_on_embedded_clips() {
    let scratch = Scratch::new();
    scratch.succeeds(&format!("{SMALL} --batch 4 --threads 1 --name run --steps 2"));
    let args = "track runs/run/checkpoint.safetensors --clips 3";
    let said = scratch.succeeds(&format!("{args} --threads 1 --out out"));
    contains(&said, &["stop after 2 steps, on clips: 3 videos of", ": the checkpoint's own", "J&F", "pictures: out"]);
    for name in ["trained encoder", "untrained encoder", "raw pixels"] {
        let [j, f, both] = row(&said, name)[..] else { unreachable!() };
        assert!((both - (j + f) / 2.0).abs() < 0.11 && j > 5.0 && j < 99.0, "{said}");
    }
    // The same bits on any number of threads, masks included.
    let again = scratch.succeeds(&format!("{args} --threads 3 --out again"));
    assert_eq!(said.replace("out", "again"), again.replace("out", "again"));
    assert_eq!(scratch.read("out/scores.csv"), scratch.read("again/scores.csv"));
    // The scores are those of the masks that lie there.
    let clips = stop_mim::data::video::open("clips", 64, Some(3)).unwrap();
    let csv = String::from_utf8(scratch.read("out/scores.csv")).unwrap();
    for clip in &clips {
        let of = |index: usize| format!("untrained/{}/{:05}.png", clip.name(), index);
        let masks: Vec<Mask> =
            (0..clip.len()).map(|i| indexed::read(&scratch.path("out").join(of(i))).unwrap()).collect();
        assert_eq!(masks[0], clip.mask(0).unwrap(), "the first is given");
        let judged = 1..clip.len() - 1;
        let mean = |score: fn(&Mask, &Mask, u8) -> f64| {
            judged.clone().map(|i| score(&clip.mask(i).unwrap(), &masks[i], 1)).sum::<f64>() / judged.len() as f64
        };
        let line = format!("untrained,\"{}\",1,{},{}", clip.name(), mean(region_similarity), mean(contour_accuracy));
        assert!(csv.lines().any(|found| found == line), "no {line} in\n{csv}");
        let strip = image::open(scratch.path(format!("out/strips/{}.png", clip.name()))).unwrap();
        assert_eq!((strip.width(), strip.height()), (8 * 132 + 4, 5 * 132 + 4));
    }
}

#[test]
fn a_folder_in_the_layout_of_davis_is_judged() {
    let scratch = Scratch::new();
    weights(&scratch, 32, 4);
    davis(&scratch, &["left", "right"], 6, [96, 64]);
    let args = "track weights --heads 2 --data davis:.";
    let said = scratch.succeeds(&format!("{args} --out out"));
    contains(&said, &["on davis:.: 2 videos of 12 frames", "ImageNet's"]);
    // Squares of their own colors on a plain ground, of whole patches: raw pixels find them.
    assert!(row(&said, "raw pixels").iter().all(|score| *score > 85.0), "{said}");
    let mask = indexed::read(&scratch.path("out/pixels/left/00005.png")).unwrap();
    assert_eq!((mask.size(), mask.objects()), ([64, 96], 2));
    let frame = image::open(scratch.path("out/pixels/left/00000.png")).unwrap().to_rgb8();
    assert_eq!(frame.get_pixel(10, 10).0, [128, 0, 0], "the palette of DAVIS");
    // The list decides, and its end.
    scratch.write("ImageSets/2017/val.txt", "right\nleft\n");
    let one = scratch.succeeds(&format!("{args} --clips 1 --frame-size 32 --last-frames 2 --radius 3 --top-k 3"));
    contains(&one, &["1 videos of 6 frames"]);
    assert_ne!(row(&one, "raw pixels"), row(&said, "raw pixels"));
    // Every flag changes something.
    for flag in ["--last-frames 0", "--radius 1", "--top-k 1", "--temperature 1", "--frame-size 40"] {
        let changed = scratch.succeeds(&format!("{args} --out changed {flag}"));
        contains(&changed, &["J&F"]);
        let same = ["trained", "untrained", "pixels"].iter().all(|of| {
            (1..6).all(|i| {
                let mask = format!("{of}/left/{i:05}.png");
                scratch.read(format!("out/{mask}")) == scratch.read(format!("changed/{mask}"))
            })
        });
        assert!(!same, "{flag} changes nothing");
    }
}

#[test]
fn what_cannot_be_tracked_is_said_before_anything_is_written() {
    let scratch = Scratch::new();
    weights(&scratch, 32, 4);
    davis(&scratch, &["a"], 4, [96, 64]);
    let args = "track weights --heads 2 --out out";
    for (flags, words) in [
        ("--data davis:nowhere", ["nowhere", "JPEGImages"]),
        ("--data folder:.", ["'folder:.' names no videos", "davis:DIR"]),
        ("--top-k 0", ["labels of no patch", "--top-k"]),
        ("--temperature 0", ["a temperature of 0", "--temperature"]),
        ("--temperature nan", ["a temperature of NaN", "--temperature"]),
        ("--frame-size 4", ["4x4 pixels are not supported", "8 to 1024"]),
        ("--frame-size 99999 --data davis:.", ["short side of 99999 pixels", "--frame-size"]),
        ("--clips 0", ["'0'", "--clips"]),
    ] {
        scratch.refuses(&format!("{args} {flags}"), &words);
        assert!(!scratch.path("out").exists(), "{flags}");
    }
    std::fs::remove_file(scratch.path("Annotations/480p/a/00002.png")).unwrap();
    scratch.refuses(&format!("{args} --data davis:."), &["00002.png", "give a mask of every frame"]);
    davis(&scratch, &["b"], 2, [96, 64]);
    scratch.write("ImageSets/2017/val.txt", "b\n");
    scratch.refuses(&format!("{args} --data davis:."), &["b: a video of 2 frames", "at least three"]);
    assert!(!scratch.path("out").exists());
    // A frame that turns out to be unusable later, by its content or its size; a mask that does.
    scratch.write("ImageSets/2017/val.txt", "a\n");
    davis(&scratch, &["a"], 4, [96, 64]);
    RgbImage::new(90, 64).save(scratch.path("JPEGImages/480p/a/00001.jpg")).unwrap();
    scratch.refuses(&format!("{args} --data davis:."), &["a: frame 1 is 90x64, the first mask 96x64"]);
    davis(&scratch, &["a"], 4, [96, 64]);
    RgbImage::new(96, 64).save(scratch.path("Annotations/480p/a/00001.png")).unwrap();
    scratch.refuses(&format!("{args} --data davis:."), &["00001.png", "its pixels are colors"]);
    davis(&scratch, &["a"], 4, [96, 64]);
    scratch.write("JPEGImages/480p/a/00003.jpg", &scratch.read("JPEGImages/480p/a/00003.jpg")[..500]);
    scratch.refuses(&format!("{args} --data davis:."), &["00003.jpg", "cut short"]);
}

#[cfg(unix)]
#[test]
fn a_signal_ends_it_and_leaves_what_was_found() {
    use std::io::{BufRead, BufReader, Read};
    let scratch = Scratch::new();
    weights(&scratch, 32, 4);
    let mut child = scratch.start("track weights --heads 2 --clips 500 --threads 1");
    let mut stdout = BufReader::new(child.0.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("features") {
        assert!(stdout.read_line(&mut said).unwrap() > 0, "{said}");
    }
    child.signal("-TERM");
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(130), "{said}");
    contains(&said, &["stopped before the row of the trained encoder was found"]);
}
