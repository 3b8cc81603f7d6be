//! Whatever the files, folders, configurations and arguments hold: an error or a success, never a panic, never memory
//! without bound. Random inputs are mutations of sound ones, from fixed seeds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use rand::{RngExt, SeedableRng};
use stop_mim::Precision;
use stop_mim::cli::Cli;
use stop_mim::data::{
    Augment, BadImages, Dataset, Loader, LoaderOptions, Normalization, Splits, Subset, Unlabeled, cifar, folder,
};
use stop_mim::methods::stop::TokenForm;
use stop_mim::methods::{Method, ModelConfig, ModelParams};
use stop_mim::nn::{LinearInit, Params};
use stop_mim::paper::Sigma;
use stop_mim::paper::masking::MultiBlock;
use stop_mim::rng::Generator;
use stop_mim::train::safetensors::TensorFile;
use stop_mim::train::{Masking, RunConfig, checkpoint, fresh_model};
use stop_mim::vit::Preset;

const SIZE: usize = 8;

/// An empty folder, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("stop-mim-hostile-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// A folder of two splits with one class, and a sound image in each.
    fn with_good_images() -> Self {
        let scratch = Scratch::new();
        scratch.write("train/a/good.png", &encoded(&picture().into(), ImageFormat::Png));
        scratch.write("test/a/good.png", &encoded(&picture().into(), ImageFormat::Png));
        scratch
    }

    fn open(&self, bad_images: BadImages) -> stop_mim::Result<(folder::Folder, folder::Folder)> {
        folder::open(&self.0, SIZE, bad_images)
    }

    /// The message of the error that opening ends in.
    #[track_caller]
    fn refused(&self, bad_images: BadImages) -> String {
        self.open(bad_images).err().expect("must be refused").to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn picture() -> RgbImage {
    RgbImage::from_fn(12, 9, |x, y| Rgb([(x * 20) as u8, (y * 25) as u8, (x * y) as u8]))
}

fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn pixels(images: &dyn Dataset, index: usize) -> Vec<u8> {
    let mut out = vec![0; 3 * images.image_size().pow(2)];
    images.pixels(index, &mut out).unwrap();
    out
}

/// One to four small injuries: bytes changed, removed, repeated, or replaced by numbers at the edge of a type.
fn mutated(bytes: &[u8], rng: &mut Generator) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..=16)).min(bytes.len());
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            3 => bytes[at..end].iter_mut().for_each(|b| *b = rng.random()),
            4 => bytes[at..end].iter_mut().for_each(|b| *b ^= 1 << rng.random_range(0..8)),
            _ => {
                let edges = [0, 1, 0x7F, 0x80, 0xFF];
                let edge = edges[rng.random_range(0..edges.len())];
                bytes[at..end].fill(edge);
            }
        }
    }
    bytes
}

/// The test picture in the formats that are read if the crate is compiled with their features.
fn optional_formats() -> Vec<Vec<u8>> {
    let formats = [ImageFormat::WebP, ImageFormat::Gif].into_iter().filter(|format| format.reading_enabled());
    formats.map(|format| encoded(&picture().into(), format)).collect()
}

// A PNG by hand, for what the encoder does not write.

fn crc(bytes: &[u8]) -> u32 {
    let bit = |c: u32, _| if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 };
    !bytes.iter().fold(!0, |c, b| (0..8).fold(c ^ u32::from(*b), bit))
}

fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let named = [&name[..], data].concat();
    [&(data.len() as u32).to_be_bytes()[..], &named, &crc(&named).to_be_bytes()].concat()
}

/// A zlib stream that stores `data` as it is.
fn stored(data: &[u8]) -> Vec<u8> {
    let (a, b) = data.iter().fold((1, 0), |(a, b), x| ((a + u32::from(*x)) % 65_521, (a + u32::from(*x) + b) % 65_521));
    let length = data.len() as u16;
    [&[0x78, 1, 1][..], &length.to_le_bytes(), &(!length).to_le_bytes(), data, &(b << 16 | a).to_be_bytes()].concat()
}

fn header(width: u32, height: u32, depth: u8, color: u8) -> Vec<u8> {
    chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, color, 0, 0, 0]].concat())
}

fn png(chunks: &[Vec<u8>]) -> Vec<u8> {
    [b"\x89PNG\r\n\x1A\n".to_vec(), chunks.concat(), chunk(b"IEND", &[])].concat()
}

/// A baseline JPEG, all of its pixels in the middle of every channel's range: with tables in which a single zero bit
/// says that a coefficient, or the rest of a block, is zero; and more bits than that takes.
fn jpeg(width: u16, height: u16, components: u8) -> Vec<u8> {
    let channels: Vec<[u8; 2]> = (1..=components).map(|c| [c, 0x11]).collect();
    jpeg_of((width, height), &channels, &[&channels])
}

/// Such a JPEG of these channels, each with its number and how often it is sampled (across and down, four bits each), in
/// these scans.
fn jpeg_of((width, height): (u16, u16), channels: &[[u8; 2]], scans: &[&[[u8; 2]]]) -> Vec<u8> {
    let segment =
        |marker: u8, data: &[u8]| [&[0xFF, marker][..], &(data.len() as u16 + 2).to_be_bytes(), data].concat();
    let sides = [height.to_be_bytes(), width.to_be_bytes()].concat();
    let frame: Vec<u8> = channels.iter().flat_map(|&[c, sampled]| [c, sampled, 0]).collect();
    let lengths = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let blocks = usize::from(width.div_ceil(8)) * usize::from(height.div_ceil(8));
    let scan = |scan: &&[[u8; 2]]| {
        let tables: Vec<u8> = scan.iter().flat_map(|&[c, _]| [c, 0]).collect();
        let start = segment(0xDA, &[&[scan.len() as u8][..], &tables, &[0, 63, 0]].concat());
        [start, vec![0; blocks * scan.len() * 2]].concat()
    };
    [
        vec![0xFF, 0xD8],
        segment(0xDB, &[&[0][..], &[1; 64]].concat()),
        segment(0xC0, &[&[8][..], &sides, &[channels.len() as u8], &frame].concat()),
        segment(0xC4, &[&[0x00][..], &lengths, &[0]].concat()),
        segment(0xC4, &[&[0x10][..], &lengths, &[0]].concat()),
        scans.iter().map(scan).collect::<Vec<_>>().concat(),
        vec![0xFF, 0xD9],
    ]
    .concat()
}

/// A BMP of this size, bits a pixel and compression, and what follows its header.
fn bmp(width: i32, height: i32, bits: u16, compression: u32, data: &[u8]) -> Vec<u8> {
    let length = 54 + data.len() as u32;
    let words = [&b"BM"[..], &length.to_le_bytes(), &[0; 4], &54u32.to_le_bytes(), &40u32.to_le_bytes()].concat();
    let sides = [width.to_le_bytes(), height.to_le_bytes()].concat();
    let rest = [&1u16.to_le_bytes()[..], &bits.to_le_bytes(), &compression.to_le_bytes(), &[0; 20], data].concat();
    [words, sides, rest].concat()
}

/// Two frames: the still image of one gray level, the next frame of another.
fn animated_png() -> Vec<u8> {
    let lines = |v: u8| stored(&[0, v, v, 0, v, v]);
    let frame = |number: u32| {
        let [n, two] = [number, 2].map(u32::to_be_bytes);
        chunk(b"fcTL", &[&n[..], &two, &two, &[0; 8], &[0, 1, 0, 10, 0, 0]].concat())
    };
    let control = chunk(b"acTL", &[2u32.to_be_bytes(), 0u32.to_be_bytes()].concat());
    let second = chunk(b"fdAT", &[2u32.to_be_bytes().to_vec(), lines(200)].concat());
    png(&[header(2, 2, 8, 0), control, frame(0), chunk(b"IDAT", &lines(50)), frame(1), second])
}

/// What it is called, the file, and the one color that it shows, if it shows only one.
type Case = (&'static str, Vec<u8>, Option<[u8; 3]>);

#[test]
fn every_kind_of_image_that_can_be_shown_is() {
    let palette =
        [header(2, 2, 8, 3), chunk(b"PLTE", &[10, 20, 30, 40, 50, 60]), chunk(b"IDAT", &stored(&[0, 1, 1, 0, 1, 1]))];
    let image = DynamicImage::from(picture());
    let cases: Vec<Case> = vec![
        ("palette", png(&palette), Some([40, 50, 60])),
        ("animated", animated_png(), Some([50; 3])),
        ("1x1", encoded(&RgbImage::from_pixel(1, 1, Rgb([1, 2, 3])).into(), ImageFormat::Png), Some([1, 2, 3])),
        ("1x1 bit", png(&[header(1, 1, 1, 0), chunk(b"IDAT", &stored(&[0, 0x80]))]), Some([255; 3])),
        ("ribbon", encoded(&RgbImage::from_pixel(16_384, 1, Rgb([9; 3])).into(), ImageFormat::Png), Some([9; 3])),
        ("gray jpeg", jpeg(20, 11, 1), Some([128; 3])),
        ("color jpeg", jpeg(8, 8, 3), Some([128; 3])),
        ("CMYK jpeg", jpeg(8, 8, 4), None),
        ("16 bits", encoded(&image.to_rgb16().into(), ImageFormat::Png), None),
        ("16 bits and alpha", encoded(&image.to_rgba16().into(), ImageFormat::Png), None),
        ("gray and alpha", encoded(&image.to_luma_alpha8().into(), ImageFormat::Png), None),
        ("gray of 16 bits", encoded(&image.to_luma16().into(), ImageFormat::Png), None),
        ("jpeg with bytes after its end", [jpeg(8, 8, 3), vec![0; 99]].concat(), Some([128; 3])),
        ("bmp", bmp(2, 2, 24, 0, &[9, 8, 7, 9, 8, 7, 0, 0, 9, 8, 7, 9, 8, 7, 0, 0]), Some([7, 8, 9])),
        ("bmp, first line on top", bmp(1, -1, 32, 0, &[9, 8, 7, 0]), Some([7, 8, 9])),
    ];
    for (name, bytes, expected) in cases {
        let scratch = Scratch::with_good_images();
        // The name does not say which of the two it is; the content does.
        scratch.write("train/a/any.jpg", &bytes);
        let (train, _) = scratch.open(BadImages::Refuse).unwrap_or_else(|e| panic!("{name}: {e}"));
        let shown = pixels(&train, 0);
        for (c, plane) in shown.chunks(SIZE * SIZE).enumerate() {
            assert!(expected.is_none_or(|e| plane.iter().all(|v| *v == e[c])), "{name}: {plane:?}");
        }
    }
}

/// WebP and GIF are read if the crate is compiled so; otherwise what is missing is said, by name and by content.
#[test]
fn formats_that_are_a_feature() {
    let gif = b"GIF89a\x01\0\x01\0\x80\0\0\x01\x02\x03\x04\x05\x06\x2C\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0\x3B";
    let webp = b"RIFF\x1A\0\0\0WEBPVP8L\x0D\0\0\0\x2F\0\0\0\x10\x07\x10\x11\x11\x88\x88\xFE\x07\0";
    for (name, format, bytes) in [("gif", ImageFormat::Gif, &gif[..]), ("webp", ImageFormat::WebP, &webp[..])] {
        let scratch = Scratch::with_good_images();
        scratch.write(format!("train/a/any.{name}"), bytes);
        scratch.write("train/b/any.png", bytes);
        if format.reading_enabled() {
            let (train, _) = scratch.open(BadImages::Refuse).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((train.len(), pixels(&train, 0)), (3, pixels(&train, 2)), "{name}");
            continue;
        }
        assert_eq!(scratch.open(BadImages::Skip).unwrap().0.len(), 1, "{name}");
        let message = scratch.refused(BadImages::Refuse);
        let by_name =
            format!("any.{name}: one of 1 .{name} files, read by a program that is built with --features {name}");
        let by_content = format!("any.png: it is a .{name} file, which only a build with --features {name} reads");
        assert!(message.contains(&by_name) && message.contains(&by_content), "{message}");
    }
}

#[test]
fn images_that_cannot_be_shown_are_named_with_the_reason() {
    let data = chunk(b"IDAT", &stored(&[0; 7]));
    let declared = |width, height, depth, color| png(&[header(width, height, depth, color), data.clone()]);
    let good = encoded(&picture().into(), ImageFormat::Png);
    let mut corrupt = good.clone();
    corrupt[good.len() / 2] ^= 0x55;
    let whole = jpeg(64, 64, 3);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "empty"),
        ("text", b"<html>404</html>".to_vec(), "no image of a known format"),
        ("tiff", b"II*\0\x08\0\0\0".to_vec(), "a .tiff file, which is not read here"),
        ("bmp cut short", bmp(2, 2, 24, 0, &[9; 15]), "cannot be decoded"),
        ("bmp without a header", b"BM".to_vec(), "cannot be decoded"),
        ("bmp of no lines", bmp(2, 0, 24, 0, &[9; 16]), ""),
        ("bmp bomb", bmp(60_000, 60_000, 24, 0, &[9; 16]), "60000x60000"),
        ("largest bmp", bmp(i32::MAX, i32::MAX, 32, 0, &[9; 16]), "cannot be decoded"),
        ("signature", b"\x89PNG\r\n\x1A\n".to_vec(), "PNG's header"),
        ("0x0", declared(0, 0, 8, 0), "0x0"),
        ("0x5", declared(0, 5, 8, 0), "0x5"),
        ("100000x1", declared(100_000, 1, 8, 0), "100000x1"),
        ("bomb", declared(60_000, 60_000, 16, 6), "60000x60000"),
        ("largest", declared(u32::MAX, u32::MAX, 16, 6), "4294967295x4294967295"),
        ("many", declared(16_384, 16_384, 8, 2), "16384x16384"),
        ("within bounds, without pixels", declared(8192, 8192, 16, 6), "cannot be decoded"),
        ("no such depth", declared(2, 2, 7, 0), "cannot be decoded"),
        ("corrupt", corrupt, "cannot be decoded"),
        ("jpeg of no lines", jpeg(8, 0, 3), "8x0"),
        ("jpeg of 60000x60000", jpeg_declaring(60_000, 60_000), "60000x60000"),
        ("jpeg cut short", whole[..whole.len() - 40].to_vec(), "cut short"),
        ("jpeg without pixels", vec![0xFF, 0xD8, 0xFF, 0xD9], "no frame header"),
        ("jpeg of two sizes", jpeg_of_two_sizes(), "two frame headers that differ"),
        ("jpeg of fine color", jpeg_of_fine_color(), "the decoder panicked"),
    ];
    let seen_at_once =
        ["empty", "text", "tiff", "signature", "0x0", "0x5", "100000x1", "bomb", "largest", "many"].as_slice();
    for (name, bytes, reason) in &cases {
        let scratch = Scratch::with_good_images();
        scratch.write("train/a/bad.png", bytes);
        let message = scratch.refused(BadImages::Refuse);
        assert!(message.contains("bad.png") && message.contains(reason), "{name}: {message}");
        // And skipped, whether it was found at once or when asked for; the label is true either way.
        let (train, test) = scratch.open(BadImages::Skip).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(train.skipped() == 1, seen_at_once.contains(name), "{name}");
        let good = pixels(&test, 0);
        assert!((0..train.len()).all(|index| pixels(&train, index) == good), "{name}");
        assert_eq!((train.skipped(), test.skipped()), (1, 0), "{name}");
    }
}

/// A color sampled twice as finely as the light, in a scan of its own. Fuzzing found that the decoder panics here (a
/// known fault of zune-jpeg 0.5); the day it does not, this takes another file.
fn jpeg_of_fine_color() -> Vec<u8> {
    let [light, blue, red] = [[1, 0x11], [2, 0x21], [3, 0x11]];
    jpeg_of((20, 12), &[light, blue, red], &[&[light], &[blue], &[red]])
}

/// A small JPEG whose frame header lies.
fn jpeg_declaring(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = jpeg(8, 8, 3);
    let frame = bytes.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    bytes[frame + 5..][..2].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..][..2].copy_from_slice(&width.to_be_bytes());
    bytes
}

/// A frame header of 8×8 pixels, and behind it one of 16×8.
fn jpeg_of_two_sizes() -> Vec<u8> {
    let (first, second) = (jpeg(8, 8, 3), jpeg(16, 8, 3));
    let frame = first.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    let end = frame + 2 + usize::from(first[frame + 3]);
    [&first[..end], &second[frame..end], &first[end..]].concat()
}

/// A file that was cut anywhere is refused, or nothing that matters was lost.
#[test]
fn no_image_is_shown_in_part() {
    let photo = encoded(&picture().into(), ImageFormat::Jpeg);
    let bitmap = encoded(&picture().into(), ImageFormat::Bmp);
    let always = [encoded(&picture().into(), ImageFormat::Png), photo, jpeg(24, 24, 3), bitmap];
    for whole in always.into_iter().chain(optional_formats()) {
        // Behind their pixels, these have an end that nothing depends on.
        let has_an_end = whole.starts_with(b"\x89PNG") || whole.starts_with(b"GIF");
        let scratch = Scratch::with_good_images();
        scratch.write("train/a/any.png", &whole);
        let sound = pixels(&scratch.open(BadImages::Refuse).unwrap().0, 0);
        for length in 0..whole.len() {
            scratch.write("train/a/any.png", &whole[..length]);
            match scratch.open(BadImages::Refuse) {
                Err(error) => assert!(error.to_string().contains("any.png"), "{error}"),
                Ok((train, _)) if !has_an_end => {
                    panic!("cut to {length} of {} bytes: {:?}", whole.len(), pixels(&train, 0))
                }
                Ok((train, _)) => assert_eq!(pixels(&train, 0), sound, "cut to {length}"),
            }
        }
    }
}

#[test]
fn injured_images_are_shown_or_skipped() {
    let image = DynamicImage::from(picture());
    let mut seeds = vec![
        encoded(&image, ImageFormat::Png),
        encoded(&image.to_rgba16().into(), ImageFormat::Png),
        encoded(&image, ImageFormat::Jpeg),
        jpeg(20, 20, 4),
        animated_png(),
        encoded(&image, ImageFormat::Bmp),
        bmp(4, 3, 8, 1, &[&[7; 1024][..], &[4, 1, 0, 0, 4, 2, 0, 0, 4, 3, 0, 1]].concat()),
    ];
    seeds.extend(optional_formats());
    let mut rng = Generator::seed_from_u64(1);
    let scratch = Scratch::with_good_images();
    let mut skipped = 0;
    for k in 0..1500 {
        scratch.write("train/a/any.png", &mutated(&seeds[k % seeds.len()], &mut rng));
        let (train, test) = scratch.open(BadImages::Skip).unwrap();
        let first = pixels(&train, 0);
        assert_eq!(train.len() + usize::from(train.skipped() == 1 && train.len() == 1), 2);
        if train.skipped() == 1 {
            assert_eq!(first, pixels(&test, 0), "the next good image stands in");
            skipped += 1;
        }
    }
    assert!((300..1450).contains(&skipped), "{skipped} of 1500: are these inputs still of both kinds?");
}

/// A PNG whose beginning is sound and whose pixels are not: found only when it is decoded.
fn broken_later() -> Vec<u8> {
    png(&[header(4, 4, 8, 0), chunk(b"IDAT", &stored(&[0; 3]))])
}

fn gray(level: u8) -> Vec<u8> {
    encoded(&RgbImage::from_pixel(SIZE as u32, SIZE as u32, Rgb([level; 3])).into(), ImageFormat::Png)
}

/// Three classes of six images; 1, 2 and 5 of the second cannot be decoded.
fn folder_with_late_damage() -> Scratch {
    let scratch = Scratch::new();
    for (c, class) in ["a", "b", "c"].into_iter().enumerate() {
        scratch.write(format!("test/{class}/x.png"), &gray(250));
        for k in 0..6 {
            let bad = class == "b" && [1, 2, 5].contains(&k);
            let bytes = if bad { broken_later() } else { gray((c * 10 + k) as u8) };
            scratch.write(format!("train/{class}/{k}.png"), &bytes);
        }
    }
    scratch
}

#[test]
fn the_next_good_image_of_the_class_stands_in_whoever_asks_first() {
    let scratch = folder_with_late_damage();
    for order in [(0..18).collect::<Vec<_>>(), (0..18).rev().collect(), vec![8, 7, 11, 8, 6]] {
        let (train, _) = scratch.open(BadImages::Skip).unwrap();
        assert_eq!((train.len(), train.skipped()), (18, 0), "nothing is known yet");
        for index in order {
            // 7 and 8 become 9; 11 begins again with the class's first.
            let stands_in = [6, 9, 9, 9, 10, 6][usize::saturating_sub(index, 6).min(5)];
            let shown = if (6..12).contains(&index) { stands_in } else { index };
            let level = (shown / 6 * 10 + shown % 6) as u8;
            assert!(pixels(&train, index).iter().all(|v| *v == level), "image {index}");
            assert_eq!(train.label(index), Some(index / 6));
        }
        assert_eq!(train.skipped(), 3, "each counts once");
        assert!(train.describe().contains("were skipped: 3"), "{}", train.describe());
    }
    let message = scratch.refused(BadImages::Refuse);
    assert!(message.contains("3 files") && message.contains("1.png") && message.contains("5.png"), "{message}");
    scratch.write("test/c/x.png", &broken_later());
    let message = scratch.refused(BadImages::Refuse);
    assert!(message.contains("4 files") && message.contains("test/c/x.png"), "{message}");
}

#[test]
fn batches_with_stand_ins_are_the_same_on_any_number_of_threads() {
    let scratch = folder_with_late_damage();
    let batches = |threads| {
        let train = Arc::new(scratch.open(BadImages::Skip).unwrap().0);
        let options = LoaderOptions {
            batch_size: 5,
            seed: 3,
            first_step: 0,
            augment: Some(Augment::STOP),
            normalization: Normalization::CIFAR10,
            threads,
        };
        let batches = Loader::new(Arc::clone(&train) as Arc<dyn Dataset>, options).unwrap().take(12);
        let batches: Vec<_> = batches.map(|batch| batch.unwrap().as_slice::<f32>().to_vec()).collect();
        assert_eq!(train.skipped(), 3);
        batches
    };
    let one = batches(1);
    assert!(one == batches(2) && one == batches(7));
}

/// Two classes of three training images; none of the second can be decoded.
fn folder_with_a_barren_class() -> Scratch {
    let scratch = Scratch::new();
    for k in 0..3 {
        scratch.write(format!("train/a/{k}.png"), &gray(10 + k));
        scratch.write(format!("train/b/{k}.png"), &broken_later());
    }
    for class in ["a", "b"] {
        scratch.write(format!("test/{class}/x.png"), &gray(250));
    }
    scratch
}

/// What needs no label goes on, with images of another class; what needs one gets no image that is not of it.
#[test]
fn where_a_class_has_no_good_image_others_stand_in_without_labels() {
    let scratch = folder_with_a_barren_class();
    for order in [[3, 4, 5, 0], [0, 5, 4, 3], [5, 5, 3, 4]] {
        let train = Arc::new(scratch.open(BadImages::Skip).unwrap().0);
        let all = Unlabeled::new(Arc::clone(&train) as Arc<dyn Dataset>);
        for index in order {
            let level = if index < 3 { 10 + index as u8 } else { 10 };
            assert!(pixels(&all, index).iter().all(|v| *v == level), "image {index}");
            assert_eq!(all.label(index), None);
        }
        let subset = Subset::even(Arc::clone(&train) as Arc<dyn Dataset>, 4);
        for images in [&*train as &dyn Dataset, &subset] {
            let of_b = (0..images.len()).find(|k| images.label(*k) == Some(1)).unwrap();
            let message = images.pixels(of_b, &mut [0; 3 * SIZE * SIZE]).unwrap_err().to_string();
            assert!(message.contains("no train image of class b can be decoded"), "{message}");
        }
        assert_eq!(train.skipped(), 3);
        let (train, test) = scratch.open(BadImages::Skip).unwrap();
        Splits::new(Arc::new(train), Arc::new(test)).normalization().unwrap();
    }
    assert!(scratch.refused(BadImages::Refuse).contains("3 files cannot be used"));
}

#[test]
fn a_split_without_any_good_image_is_an_error() {
    let scratch = Scratch::with_good_images();
    scratch.write("train/a/good.png", b"no image");
    let message = scratch.refused(BadImages::Skip);
    assert!(message.contains("no train image can be used") && message.contains("good.png"), "{message}");
    scratch.write("train/a/good.png", &broken_later());
    let (train, _) = scratch.open(BadImages::Skip).unwrap();
    let message = train.unlabeled_pixels(0, &mut [0; 3 * SIZE * SIZE]).unwrap_err().to_string();
    assert!(message.contains("no train image can be decoded"), "{message}");
}

#[test]
fn batches_of_a_folder_with_a_barren_class_are_the_same_on_any_number_of_threads() {
    let scratch = folder_with_a_barren_class();
    let batches = |threads| {
        let options = LoaderOptions {
            batch_size: 4,
            seed: 3,
            first_step: 0,
            augment: None,
            normalization: Normalization::CIFAR10,
            threads,
        };
        let loader = Loader::new(Arc::new(scratch.open(BadImages::Skip).unwrap().0), options).unwrap();
        loader.take(6).map(|b| b.unwrap().as_slice::<f32>().to_vec()).collect::<Vec<_>>()
    };
    let one = batches(1);
    assert!(one == batches(2) && one == batches(7));
}

#[test]
fn damage_moves_no_image_to_the_other_split() {
    let scratch = Scratch::new();
    (0..20).for_each(|k| scratch.write(format!("a/{k:02}.png"), &gray(k)));
    let levels = |images: &dyn Dataset| (0..images.len()).map(|k| pixels(images, k)[0]).collect::<Vec<_>>();
    let before = scratch.open(BadImages::Skip).unwrap().1;
    let before = levels(&before);
    let in_training = (0..20).filter(|k| !before.contains(k)).nth(3).unwrap();
    scratch.write(format!("a/{in_training:02}.png"), b"damaged");
    let (train, test) = scratch.open(BadImages::Skip).unwrap();
    assert_eq!((levels(&test), train.len()), (before, 15));
}

#[test]
fn folders_that_are_not_as_they_should_be() {
    let scratch = Scratch::new();
    assert!(
        folder::open(&scratch.0.join("nowhere"), SIZE, BadImages::Skip).err().unwrap().to_string().contains("nowhere")
    );
    assert!(scratch.refused(BadImages::Skip).contains("no images in here"));
    for k in 0..2 {
        scratch.write(format!("a/{k}.png"), &gray(k));
    }
    scratch.write("beside.png", &gray(1));
    assert_eq!(scratch.open(BadImages::Skip).unwrap().0.skipped(), 1, "the one beside");
    let message = scratch.refused(BadImages::Refuse);
    assert!(message.contains("beside.png: lies beside the folders that are used"), "{message}");
    std::fs::remove_file(scratch.0.join("beside.png")).unwrap();
    scratch.open(BadImages::Refuse).unwrap();
    std::fs::create_dir(scratch.0.join("empty")).unwrap();
    assert_eq!(scratch.open(BadImages::Skip).unwrap().0.class_names(), ["a"]);
    let message = scratch.refused(BadImages::Refuse);
    assert!(message.contains("empty: no images in here"), "{message}");

    // A class that is a file in one of the splits.
    let scratch = Scratch::with_good_images();
    scratch.write("train/b/1.png", &gray(1));
    scratch.write("test/b", b"a file");
    assert_eq!(scratch.open(BadImages::Refuse).unwrap().0.class_names(), ["a", "b"]);
    // One that only the test split has gets no label, and no other's.
    scratch.write("test/0/1.png", &gray(1));
    let (train, test) = scratch.open(BadImages::Skip).unwrap();
    assert_eq!(
        ((0..2).map(|k| test.label(k)).collect::<Vec<_>>(), train.class_names()),
        (vec![None, Some(0)], test.class_names())
    );
    assert!(test.describe().contains("no label, for 0"), "{}", test.describe());
    let message = scratch.refused(BadImages::Refuse);
    assert!(message.contains("only in train: b; only in test: 0"), "{message}");
    for size in [0, 7, 1025, usize::MAX] {
        let error = folder::open(&scratch.0, size, BadImages::Skip).err().unwrap().to_string();
        assert!(error.contains("not supported"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn links_devices_and_names_that_are_no_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    let scratch = Scratch::with_good_images();
    let class = scratch.0.join("train/a");
    symlink("nowhere", class.join("broken.png")).unwrap();
    symlink("loop-2.png", class.join("loop-1.png")).unwrap();
    symlink("loop-1.png", class.join("loop-2.png")).unwrap();
    symlink("/dev/zero", class.join("device.png")).unwrap();
    symlink("..", class.join("up")).unwrap();
    std::fs::create_dir(class.join("folder.png")).unwrap();
    assert!(Command::new("mkfifo").arg(class.join("pipe.png")).status().unwrap().success());
    // Not bad: a link that leads somewhere, and a name that is no text.
    symlink("good.png", class.join("link.png")).unwrap();
    scratch.write(Path::new("train/a").join(OsStr::from_bytes(b"\xFF\xFE.png")), &gray(1));
    scratch.write(Path::new("train/a").join(OsStr::from_bytes(b"x.\xFF")), b"no image by its name");
    scratch.write("train/a/._hidden.png", b"what some systems leave");
    let message = scratch.refused(BadImages::Refuse);
    for name in ["broken", "loop-1", "loop-2", "device", "pipe"] {
        assert!(message.contains(&format!("{name}.png")), "{name}: {message}");
    }
    let (train, _) = scratch.open(BadImages::Skip).unwrap();
    assert_eq!((train.len(), train.skipped()), (3, 5));
    (0..3).for_each(|index| drop(pixels(&train, index)));

    symlink("nowhere", scratch.0.join("train/gone")).unwrap();
    assert_eq!(scratch.open(BadImages::Skip).unwrap().0.skipped(), 6, "a class that is a broken link is reported");
    scratch.write(Path::new("train").join(OsStr::from_bytes(b"\xFF")).join("x.png"), &gray(1));
    assert!(scratch.refused(BadImages::Skip).contains("not UTF-8"));
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::with_good_images();
    scratch.write("train/a/secret.png", &gray(1));
    let secret = scratch.0.join("train/a/secret.png");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o0)).unwrap();
    if std::fs::read(&secret).is_ok() {
        return; // The superuser may read everything.
    }
    assert_eq!(scratch.open(BadImages::Skip).unwrap().0.skipped(), 1);
    assert!(scratch.refused(BadImages::Refuse).contains("secret.png"));
}

#[test]
fn injured_cifar_files() {
    let scratch = Scratch::new();
    let records: Vec<u8> = (0..3 * 3074).map(|k| if k % 3074 < 2 { (k % 20) as u8 } else { k as u8 }).collect();
    let names: Vec<u8> = (0..100).flat_map(|k| format!("c{k}\n").into_bytes()).collect();
    scratch.write("test.bin", &records);
    let mut rng = Generator::seed_from_u64(2);
    let mut read = 0;
    for k in 0..400 {
        scratch.write("train.bin", &if k % 3 == 0 { records.clone() } else { mutated(&records, &mut rng) });
        scratch.write("fine_label_names.txt", &if k % 3 == 1 { names.clone() } else { mutated(&names, &mut rng) });
        match cifar::cifar100(&scratch.0) {
            Err(error) => assert!(error.to_string().contains(scratch.0.to_str().unwrap()), "{error}"),
            Ok((train, _)) => {
                read += 1;
                for index in 0..train.len() {
                    let mut out = [0; 3072];
                    train.pixels(index, &mut out).unwrap();
                    assert!(train.label(index).unwrap() < train.class_names().len());
                }
            }
        }
    }
    assert!((10..390).contains(&read), "{read} of 400");
    std::fs::remove_file(scratch.0.join("fine_label_names.txt")).unwrap();
    // A file that claims terabytes, without holding them.
    let huge = std::fs::File::create(scratch.0.join("train.bin")).unwrap();
    if huge.set_len(3074 << 30).is_ok() {
        let message = cifar::cifar100(&scratch.0).err().unwrap().to_string();
        assert!(message.contains("train.bin") && message.contains("at most"), "{message}");
    }
    std::fs::remove_file(scratch.0.join("train.bin")).unwrap();
    std::fs::create_dir(scratch.0.join("train.bin")).unwrap();
    assert!(cifar::cifar100(&scratch.0).err().unwrap().to_string().contains("is a folder"));
}

/// A run so small that its checkpoint has a few kilobytes.
fn config() -> RunConfig {
    let (mut encoder, mut predictor) = Preset::Toy.sizes();
    (encoder.image_size, encoder.dim, encoder.depth, encoder.heads) = (16, 4, 1, 1);
    (predictor.dim, predictor.depth, predictor.heads) = (4, 1, 1);
    let method = Method::Stop { target_blocks: 1, sigma: Sigma::OFFICIAL, tokens: TokenForm::Official };
    let mut blocks = MultiBlock::for_small_grid((4, 4));
    blocks.min_keep = 1;
    RunConfig {
        model: ModelConfig { method, encoder, predictor, linear_init: LinearInit::Normal },
        data: "shapes".to_owned(),
        normalization: None,
        init: None,
        masking: Masking::Blocks(blocks),
        augment: Augment::STOP,
        batch: 4,
        steps: 10,
        warmup: 1,
        lr: [1e-4, 1e-3, 1e-5],
        weight_decay: [0.05, 0.05],
        ema: [0.99, 1.0],
        precision: Precision::F32,
        seed: 0,
    }
}

/// The header and the tensors of a checkpoint with checksums.
fn sound_checkpoint(scratch: &Scratch) -> (serde_json::Value, Vec<u8>) {
    let (config, path) = (config(), scratch.0.join("sound"));
    config.validate().unwrap();
    checkpoint::save(&path, &config, 3, &fresh_model(&config).unwrap().1).unwrap();
    let file = std::fs::read(path).unwrap();
    let (length, rest) = file.split_at(8);
    let (header, tensors) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    (serde_json::from_slice(header).unwrap(), tensors.to_vec())
}

/// The same without checksums: what is changed is then seen, and not just that something was.
fn unsummed_checkpoint(scratch: &Scratch) -> (serde_json::Value, Vec<u8>) {
    let (mut header, tensors) = sound_checkpoint(scratch);
    let metadata = header["__metadata__"].as_object_mut().unwrap();
    ["checksum", "crc32"].iter().for_each(|key| drop(metadata.remove(*key).unwrap()));
    (header, tensors)
}

fn file(header: &[u8], tensors: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, tensors].concat()
}

#[test]
fn checkpoints_whose_header_lies() {
    let scratch = Scratch::new();
    let (header, tensors) = unsummed_checkpoint(&scratch);
    let name = "encoder.norm.weight";
    let lie = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut header = header.clone();
        change(&mut header);
        file(header.to_string().as_bytes(), &tensors)
    };
    let set = |key: &'static str, value: serde_json::Value| lie(&move |h| h[name][key] = value.clone());
    let metadata = |key: &'static str, value: serde_json::Value| lie(&move |h| h["__metadata__"][key] = value.clone());
    let json = serde_json::to_string;
    let with = |change: &dyn Fn(&mut RunConfig)| {
        let mut config = config();
        change(&mut config);
        metadata("config", json(&config).unwrap().into())
    };
    let offsets = header[name]["data_offsets"].clone();
    let (start, end) = (offsets[0].as_u64().unwrap() as usize, offsets[1].as_u64().unwrap() as usize);
    let poisoned = |x: f32| {
        let mut tensors = tensors.clone();
        tensors[end - 4..end].copy_from_slice(&x.to_le_bytes());
        file(header.to_string().as_bytes(), &tensors)
    };
    let cases = vec![
        ("empty", vec![], "0 bytes long"),
        ("seven bytes", vec![0; 7], "7 bytes long"),
        ("no header", vec![0; 8], "header: EOF"),
        ("endless header", file(b"{}", &[]).iter().map(|_| 0xFF).collect(), "a header of 18446744073709551615 bytes"),
        ("header of a terabyte", [&(1u64 << 40).to_le_bytes()[..], b"{}"].concat(), "a header of 1099511627776 bytes"),
        ("no JSON", file(b"this is not JSON", &[]), "header: expected"),
        ("JSON of another kind", file(b"[1, 2, 3]", &[]), "expected an object"),
        ("nested JSON", file("[".repeat(100_000).as_bytes(), &[]), "header: "),
        ("nothing in it", file(b"{}", &[]), "no stop-mim metadata"),
        ("no tensors", file(header.to_string().as_bytes(), &[]), "and there are 0"),
        ("dtype", set("dtype", "I64".into()), "invalid shape"),
        ("no dtype", set("dtype", "F33".into()), "unknown variant `F33`"),
        ("shape", set("shape", vec![3].into()), "invalid shape"),
        ("shape that overflows", set("shape", vec![u64::MAX, 2].into()), "overflow"),
        ("shape whose bytes overflow", set("shape", vec![1u64 << 62].into()), "overflow"),
        ("shape that overflows to what is there", set("shape", vec![1u64 << 63, 2, 4].into()), "overflow"),
        ("shape of nothing", set("shape", vec![0, u64::MAX].into()), "invalid shape"),
        ("negative shape", set("shape", vec![-4].into()), "invalid value"),
        ("offsets beyond", set("data_offsets", vec![start as u64, u64::MAX].into()), "offset"),
        ("offsets turned round", set("data_offsets", vec![end, start].into()), "offset"),
        ("offsets that overlap", set("data_offsets", vec![start.saturating_sub(4), end - 4].into()), "offset"),
        ("offsets of the first tensor", set("data_offsets", vec![0, end - start].into()), "offset"),
        ("not a number", poisoned(f32::NAN), "encoder.norm.weight has values that are not finite"),
        ("infinite", poisoned(f32::INFINITY), "encoder.norm.weight has values that are not finite"),
        ("metadata of another kind", metadata("config", 5.into()), "invalid type: integer `5`, expected a string"),
        ("configuration that is no JSON", metadata("config", "{".into()), "its configuration cannot be read (EOF"),
        ("nested configuration", metadata("config", "[".repeat(100_000).into()), "its configuration cannot be read"),
        ("steps", metadata("step", "-1".into()), "its step is not a number"),
        (
            "more steps than there are numbers",
            metadata("step", "99999999999999999999999".into()),
            "its step is not a number",
        ),
        ("a step after the last", metadata("step", "11".into()), "after step 11 of a run of 10 steps"),
        ("the largest step", metadata("step", u64::MAX.to_string().into()), "after step 18446744073709551615 of"),
        ("format", metadata("format", "stop-mim-999".into()), "format 'stop-mim-999'"),
        ("no patches", with(&|c| c.model.encoder.patch_size = 0), "its configuration cannot work: patches of 0"),
        ("largest sizes", with(&|c| c.model.encoder.dim = usize::MAX), "18446744073709551615 wide"),
        ("largest image", with(&|c| c.model.encoder.image_size = usize::MAX - 3), "its configuration cannot work"),
        ("another size", with(&|c| c.model.encoder.dim = 8), "not half of the model"),
        ("another depth", with(&|c| c.model.encoder.depth = 2), "encoder.blocks.1.norm1.weight is missing"),
        (
            "another method",
            with(&|c| {
                (c.model.method, c.model.encoder.class_token) = (Method::Mae { normalize_patches: false }, true);
            }),
            "model.pos_embed is missing",
        ),
    ];
    for (what, bytes, words) in cases {
        let path = scratch.0.join("checkpoint");
        std::fs::write(&path, bytes).unwrap();
        let error = checkpoint::load(&path).err().unwrap_or_else(|| panic!("{what} was accepted")).to_string();
        assert!(error.contains(path.to_str().unwrap()) && error.contains(words), "{what}: no '{words}' in {error}");
    }
}

/// What an error repeats of a file is short, and tells a terminal nothing.
#[test]
fn errors_about_hostile_text_are_short_and_plain() {
    let scratch = Scratch::new();
    let path = scratch.0.join("checkpoint");
    let (header, tensors) = unsummed_checkpoint(&scratch);
    let evil = "\u{1b}[2J\r\u{7}";
    let refused = |words: &str, change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut header = header.clone();
        change(header.as_object_mut().unwrap());
        std::fs::write(&path, file(header.to_string().as_bytes(), &tensors)).unwrap();
        let error = checkpoint::load(&path).err().unwrap().to_string();
        let start = || error.chars().take(1000).collect::<String>();
        assert!(error.len() < 60_000, "{} bytes: {:?}", error.len(), start());
        assert!(!error.contains(|c: char| c.is_control() && c != '\n'), "{:?}", start());
        assert!(error.contains(words), "no '{words}' in {}", start());
    };
    let empty = serde_json::json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]});
    let long = evil.repeat(100_000);
    refused("50000 tensors cannot be used:\n    \\u{1b}[2J\\r\\u{7}", &|h| {
        h.extend((0..50_000).map(|k| (format!("{evil}{k:05}"), empty.clone())));
    });
    refused("… and 49000 more", &|h| h.extend((0..50_000).map(|k| (k.to_string(), empty.clone()))));
    refused("1 tensor cannot be used:\n    \\u{1b}[2J", &|h| drop(h.insert(long.clone(), empty.clone())));
    refused("header: invalid type: string \"\\u{1b}", &|h| drop(h.insert("x".into(), long.clone().into())));
    for (key, words) in
        [("format", "format '\\u{1b}[2J"), ("config", "its configuration cannot"), ("step", "is not a number")]
    {
        refused(words, &|h| h["__metadata__"][key] = long.clone().into());
    }
    let unknown = serde_json::json!({ &long: 1 }).to_string();
    refused("its configuration cannot be read (unknown field", &|h| {
        h["__metadata__"]["config"] = unknown.clone().into()
    });
}

/// Configurations that are sound, of models far larger than the file, in each of their sizes: the program refuses them
/// in little memory. (The largest would take terabytes.)
#[cfg(unix)]
#[test]
fn memory_for_a_model_is_bounded_by_the_file() {
    let scratch = Scratch::new();
    let (header, tensors) = unsummed_checkpoint(&scratch);
    let most = 1 << 14;
    let mae = |c: &mut RunConfig| {
        (c.model.method, c.model.encoder.class_token) = (Method::Mae { normalize_patches: false }, true);
        c.masking = Masking::Random { ratio: 0.5 };
    };
    type Lie<'a> = (&'a str, &'a dyn Fn(&mut RunConfig));
    let lies: [Lie; 9] = [
        ("encoder's width", &|c| c.model.encoder.dim = most),
        ("encoder's depth", &|c| c.model.encoder.depth = most),
        ("predictor's width", &|c| c.model.predictor.dim = most),
        ("predictor's depth", &|c| c.model.predictor.depth = most),
        ("one patch", &|c| (c.model.encoder.image_size, c.model.encoder.patch_size) = (most, most)),
        ("many patches", &|c| (c.model.encoder.image_size, c.model.encoder.patch_size) = (most, 1)),
        ("pixels to predict", &|c| {
            mae(c);
            (c.model.encoder.image_size, c.model.encoder.patch_size) = (most, most);
        }),
        ("masks", &|c| {
            mae(c);
            (c.model.encoder.image_size, c.model.encoder.patch_size) = (most, 1);
        }),
        ("a little more than twice the file", &|c| c.model.encoder.dim = 8),
    ];
    for (what, lie) in lies {
        let mut config = config();
        lie(&mut config);
        let mut header = header.clone();
        let metadata = header["__metadata__"].as_object_mut().unwrap();
        metadata.insert("config".into(), serde_json::to_string(&config).unwrap().into());
        std::fs::write(scratch.0.join("lie"), file(header.to_string().as_bytes(), &tensors)).unwrap();
        let output = within(500_000, &scratch.0, "probe lie");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{what}: {:?}\n{message}", output.status);
        assert!(message.contains("lie: its tensors of") && message.contains("not half"), "{what}: {message}");
    }
}

/// With checksums, hardly an injury gets through. Without them many do, and what is loaded can be looked at.
#[test]
fn injured_checkpoints() {
    let scratch = Scratch::new();
    let path = scratch.0.join("checkpoint");
    let mut rng = Generator::seed_from_u64(3);
    for (checkpoint_of, expected) in [(sound_checkpoint as fn(&Scratch) -> _, 0), (unsummed_checkpoint, 40)] {
        let (header, tensors): (serde_json::Value, Vec<u8>) = checkpoint_of(&scratch);
        let header = header.to_string();
        let mut loads = 0;
        for k in 0..600 {
            let bytes = match k % 3 {
                0 => mutated(&file(header.as_bytes(), &tensors), &mut rng),
                1 => file(&mutated(header.as_bytes(), &mut rng), &tensors),
                _ => file(header.as_bytes(), &mutated(&tensors, &mut rng)),
            };
            std::fs::write(&path, bytes).unwrap();
            let Ok(loaded) = checkpoint::load(&path) else { continue };
            loads += 1;
            assert!(loaded.config.validate().is_ok());
            let ModelParams { encoder, predictor, target } = &loaded.params;
            let mut all = encoder.iter().chain(predictor.iter()).chain(target.iter().flat_map(Params::iter));
            assert!(all.all(|p| p.value.is_finite()));
        }
        assert!(loads >= expected, "{loads} of 600: do these inputs still reach what is looked at?");
    }
}

/// Among others every bit of the two keys without which nothing is looked at.
#[test]
fn a_wrong_bit_is_always_found() {
    let scratch = Scratch::new();
    let (header, tensors) = sound_checkpoint(&scratch);
    let header = header.to_string();
    let (sound, path) = (file(header.as_bytes(), &tensors), scratch.0.join("checkpoint"));
    std::fs::write(&path, &sound).unwrap();
    checkpoint::load(&path).unwrap();
    let key = |key: &str| {
        let at = sound.windows(key.len()).position(|w| w == key.as_bytes()).unwrap();
        8 * at..8 * (at + key.len())
    };
    for bit in key("\"checksum\"").chain(key("\"crc32\"")).chain((0..8 * sound.len()).step_by(19)) {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bytes).unwrap();
        assert!(checkpoint::load(&path).is_err(), "bit {bit} was not seen");
    }
}

/// 200 MB of header, of which no byte is on disk: refused for its length, not for what is in it.
#[test]
fn a_header_longer_than_the_format_allows_is_not_read() {
    let scratch = Scratch::new();
    let path = scratch.0.join("long");
    let long = std::fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut &long, &200_000_000u64.to_le_bytes()).unwrap();
    if long.set_len(8 + 200_000_000).is_ok() {
        let error = TensorFile::open(&path, "").unwrap_err().to_string();
        assert!(error.contains("long: ") && error.contains("a header of 200000000 bytes is announced"), "{error}");
    }
}

/// What a configuration may hold once it has passed its check must be something that a run can start with.
#[test]
fn injured_configurations() {
    let sound = serde_json::to_vec(&config()).unwrap();
    let mut rng = Generator::seed_from_u64(4);
    let numbers =
        ["0", "1", "-1", "3", "1e308", "-1e308", "1e-320", "18446744073709551615", "0.5", "null", "\"\"", "[]"];
    let places: Vec<usize> = (0..sound.len()).filter(|at| sound[*at].is_ascii_digit()).collect();
    let (mut parsed, mut valid) = (0, 0);
    for k in 0..20_000 {
        let bytes = match k % 4 {
            0 => mutated(&sound, &mut rng),
            _ => {
                let start = places[rng.random_range(0..places.len())];
                let end = start + sound[start..].iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
                let number = numbers[rng.random_range(0..numbers.len())].as_bytes();
                [&sound[..start], number, &sound[end..]].concat()
            }
        };
        let Ok(config) = serde_json::from_slice::<RunConfig>(&bytes) else { continue };
        parsed += 1;
        if config.validate().is_ok() {
            valid += 1;
            let (lr, weight_decay, ema) = config.schedules();
            for step in [1, config.steps] {
                assert!(lr.at(step) >= 0.0 && weight_decay.at(step) >= 0.0 && (0.0..=1.0).contains(&ema.at(step)));
            }
        }
    }
    assert!(valid > 1000 && parsed > valid, "{parsed} parsed and {valid} valid: are these still of both kinds?");
}

#[test]
fn arguments_of_any_kind() {
    let words = "pretrain probe check masks graph collapse --method stop mae --data folder: --steps --epochs --lr nan \
        -inf 1e999 --threads 0 18446744073709551616 --target-scale 0.15,0.2 , --strict --probe-images 1,2 -- --help \
        --preset vit-b16 toy --sigma-std --seed -1 --image-size --batch --nonsense = --lr=5";
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut rng = Generator::seed_from_u64(5);
    for _ in 0..5000 {
        let args = (0..rng.random_range(0..8)).map(|_| {
            let word = words[rng.random_range(0..words.len())].as_bytes();
            argument(if rng.random_bool(0.2) { mutated(word, &mut rng) } else { word.to_vec() })
        });
        let args: Vec<OsString> = std::iter::once("stop-mim".into()).chain(args).collect();
        if let Err(error) = Cli::try_parse_from(&args) {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[cfg(unix)]
fn argument(bytes: Vec<u8>) -> OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes)
}

#[cfg(not(unix))]
fn argument(bytes: Vec<u8>) -> OsString {
    String::from_utf8_lossy(&bytes).into_owned().into()
}

/// Runs the program with at most `kilobytes` of address space.
#[cfg(unix)]
fn within(kilobytes: usize, folder: &Path, args: &str) -> Output {
    let line = format!("ulimit -v {kilobytes} && exec \"$0\" {args} --threads 2");
    let mut shell = Command::new("sh");
    shell.current_dir(folder).args(["-c", &line, env!("CARGO_BIN_EXE_stop-mim")]).output().unwrap()
}

/// Images for `features`, of which hardly a byte is on disk: those of a wrong shape are not read, and for those that no
/// memory can hold, there is an error.
#[cfg(unix)]
#[test]
fn terabytes_of_images_are_refused_before_they_are_read() {
    let scratch = Scratch::new();
    sound_checkpoint(&scratch);
    for (name, shape, words) in
        [("other", [1 << 31, 3, 8, 8], "resize them"), ("fitting", [1 << 29, 3, 16, 16], "not enough memory")]
    {
        let end = 4 * shape.iter().product::<u64>();
        let header = format!(r#"{{"images":{{"dtype":"F32","shape":{shape:?},"data_offsets":[0,{end}]}}}}"#);
        let bytes = file(header.as_bytes(), &[]);
        scratch.write(name, &bytes);
        let images = std::fs::File::options().write(true).open(scratch.0.join(name)).unwrap();
        if images.set_len(bytes.len() as u64 + end).is_err() {
            continue; // Not on every file system.
        }
        let output = within(1_000_000, &scratch.0, &format!("features sound --images {name} --out features"));
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {:?}\n{message}", output.status);
        assert!(message.contains(&format!("{name}: images")) && message.contains(words), "{name}: {message}");
    }
}

/// Through the program: each bad file is reported once, and memory is bounded before it is asked for: the bombs here
/// would take up to 29 GB.
#[cfg(unix)]
#[test]
fn bombs_are_refused_in_little_memory_and_reported_once() {
    let scratch = Scratch::with_good_images();
    let data = chunk(b"IDAT", &stored(&[0; 7]));
    for (name, side) in [("a", 60_000), ("b", 16_384), ("c", u32::MAX)] {
        scratch.write(format!("train/a/{name}.png"), &png(&[header(side, side, 16, 6), data.clone()]));
    }
    scratch.write("train/a/d.jpg", &jpeg_declaring(65_535, 65_535));
    scratch.write("train/a/e.png", &broken_later());
    let long = std::fs::File::create(scratch.0.join("train/a/f.jpg")).unwrap();
    std::io::Write::write_all(&mut &long, &[0xFF, 0xD8, 0xFF]).unwrap();
    let sparse = long.set_len(1 << 40).is_ok();

    let output = within(1_000_000, &scratch.0, "masks --data folder:. --out .masks.png");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}\n{message}", output.status);
    for name in ["a.png", "b.png", "c.png", "d.jpg", "e.png", "f.jpg"] {
        let times = message.lines().filter(|line| line.starts_with("warning: skipped") && line.contains(name)).count();
        assert_eq!(times, 1, "{name}:\n{message}");
    }
    let output = within(1_000_000, &scratch.0, "masks --data folder:. --out .masks.png --strict");
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("6 files cannot be used") || !sparse, "{message}");
}
