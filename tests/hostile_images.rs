//! Whatever the image files and folders hold: an error, or images that are whole; never a panic, never memory without bound.
//! Random files are mutations of sound ones, from fixed seeds.
#![cfg(feature = "cli")]

mod common;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::pictures::*;
use common::{Scratch, contains, fails, mutated};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use rand::SeedableRng;
use stop_mim::data::{
    Augment, BadImages, Dataset, Loader, LoaderOptions, Normalization, Splits, Subset, cifar, folder,
};
use stop_mim::rng::Generator;

const SIZE: usize = 8;

/// A folder of two splits with one class, and a sound image in each.
fn with_good_images() -> Scratch {
    let scratch = Scratch::new();
    scratch.write("train/a/good.png", encoded(&picture().into(), ImageFormat::Png));
    scratch.write("test/a/good.png", encoded(&picture().into(), ImageFormat::Png));
    scratch
}

fn open(scratch: &Scratch, bad_images: BadImages) -> stop_mim::Result<(folder::Folder, folder::Folder)> {
    folder::open(scratch.folder(), SIZE, bad_images.into())
}

/// Both splits, bad images left out.
#[track_caller]
fn skipping(scratch: &Scratch) -> (folder::Folder, folder::Folder) {
    open(scratch, BadImages::Skip).unwrap()
}

/// The message of the error that opening ends in, which has these words.
#[track_caller]
fn refused(scratch: &Scratch, bad_images: BadImages, words: &[&str]) -> String {
    let message = open(scratch, bad_images).err().expect("must be refused").to_string();
    contains(&message, words);
    message
}

fn pixels(images: &dyn Dataset, index: usize) -> Vec<u8> {
    let mut out = vec![0; images.numbers()];
    images.pixels(index, &mut out).unwrap();
    out
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
        let scratch = with_good_images();
        // The name does not say which of the two it is; the content does.
        scratch.write("train/a/any.jpg", &bytes);
        let (train, _) = open(&scratch, BadImages::Refuse).unwrap_or_else(|e| panic!("{name}: {e}"));
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
        let scratch = with_good_images();
        scratch.write(format!("train/a/any.{name}"), bytes);
        scratch.write("train/b/any.png", bytes);
        if format.reading_enabled() {
            let (train, _) = open(&scratch, BadImages::Refuse).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!((train.len(), pixels(&train, 0)), (3, pixels(&train, 2)), "{name}");
            continue;
        }
        assert_eq!(skipping(&scratch).0.len(), 1, "{name}");
        let by_name = format!("any.{name}: one of 1 .{name} files, read by a build with the feature `{name}`");
        let by_content = format!("any.png: it is a .{name} file, which only a build with the feature `{name}` reads");
        refused(&scratch, BadImages::Refuse, &[&by_name, &by_content]);
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
        let scratch = with_good_images();
        scratch.write("train/a/bad.png", bytes);
        refused(&scratch, BadImages::Refuse, &["bad.png", reason]);
        // And skipped, whether it was found at once or when asked for; the label is true either way.
        let (train, test) = open(&scratch, BadImages::Skip).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(train.skipped() == 1, seen_at_once.contains(name), "{name}");
        let good = pixels(&test, 0);
        assert!((0..train.len()).all(|index| pixels(&train, index) == good), "{name}");
        assert_eq!((train.skipped(), test.skipped()), (1, 0), "{name}");
    }
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
        let scratch = with_good_images();
        scratch.write("train/a/any.png", &whole);
        let sound = pixels(&open(&scratch, BadImages::Refuse).unwrap().0, 0);
        for length in 0..whole.len() {
            scratch.write("train/a/any.png", &whole[..length]);
            match open(&scratch, BadImages::Refuse) {
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
    let scratch = with_good_images();
    let mut skipped = 0;
    for k in 0..1500 {
        scratch.write("train/a/any.png", mutated(&seeds[k % seeds.len()], &mut rng));
        let (train, test) = skipping(&scratch);
        let first = pixels(&train, 0);
        assert_eq!(train.len() + usize::from(train.skipped() == 1 && train.len() == 1), 2);
        if train.skipped() == 1 {
            assert_eq!(first, pixels(&test, 0), "the next good image stands in");
            skipped += 1;
        }
    }
    assert!((300..1450).contains(&skipped), "{skipped} of 1500: are these inputs still of both kinds?");
}

/// Three classes of six images; 1, 2 and 5 of the second cannot be decoded.
fn folder_with_late_damage() -> Scratch {
    let scratch = Scratch::new();
    for (c, class) in ["a", "b", "c"].into_iter().enumerate() {
        scratch.write(format!("test/{class}/x.png"), gray(250));
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
        let (train, _) = skipping(&scratch);
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
    refused(&scratch, BadImages::Refuse, &["3 files", "1.png", "5.png"]);
    scratch.write("test/c/x.png", broken_later());
    refused(&scratch, BadImages::Refuse, &["4 files", "test/c/x.png"]);
}

/// Two classes of three training images; none of the second can be decoded.
fn folder_with_a_barren_class() -> Scratch {
    let scratch = Scratch::new();
    for k in 0..3 {
        scratch.write(format!("train/a/{k}.png"), gray(10 + k));
        scratch.write(format!("train/b/{k}.png"), broken_later());
    }
    for class in ["a", "b"] {
        scratch.write(format!("test/{class}/x.png"), gray(250));
    }
    scratch
}

/// What needs no label goes on, with images of another class; what needs one gets no image that is not of it.
#[test]
fn where_a_class_has_no_good_image_others_stand_in_without_labels() {
    let scratch = folder_with_a_barren_class();
    for order in [[3, 4, 5, 0], [0, 5, 4, 3], [5, 5, 3, 4]] {
        let train = Arc::new(skipping(&scratch).0);
        let all = Subset::even(train.clone(), usize::MAX).unlabeled();
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
        let (train, test) = skipping(&scratch);
        Splits::new(Arc::new(train), Arc::new(test)).normalization().unwrap();
    }
    refused(&scratch, BadImages::Refuse, &["3 files cannot be used"]);
}

#[test]
fn a_split_without_any_good_image_is_an_error() {
    let scratch = with_good_images();
    scratch.write("train/a/good.png", b"no image");
    refused(&scratch, BadImages::Skip, &["no train image can be used", "good.png"]);
    scratch.write("train/a/good.png", broken_later());
    let (train, _) = skipping(&scratch);
    let message = train.unlabeled_pixels(0, &mut [0; 3 * SIZE * SIZE]).unwrap_err().to_string();
    assert!(message.contains("no train image can be decoded"), "{message}");
}

#[test]
fn batches_with_stand_ins_are_the_same_on_any_number_of_threads() {
    for scratch in [folder_with_late_damage(), folder_with_a_barren_class()] {
        let batches = |threads| {
            let train: Arc<dyn Dataset> = Arc::new(skipping(&scratch).0);
            let (views, normalization) = (vec![Some(Augment::STOP)], Normalization::CIFAR10);
            let options = LoaderOptions {
                batch_size: 5,
                seed: 3,
                first_step: 0,
                views,
                labels: false,
                normalization,
                part: None,
                threads,
            };
            let batches = Loader::new(Arc::clone(&train), options).unwrap().take(12);
            let batches: Vec<_> = batches.map(|batch| batch.unwrap().views[0].as_slice::<f32>().to_vec()).collect();
            assert_eq!(train.skipped(), 3);
            batches
        };
        let one = batches(1);
        assert!(one == batches(2) && one == batches(7));
    }
}

#[test]
fn damage_moves_no_image_to_the_other_split() {
    let scratch = Scratch::new();
    (0..20).for_each(|k| scratch.write(format!("a/{k:02}.png"), gray(k)));
    let levels = |images: &dyn Dataset| (0..images.len()).map(|k| pixels(images, k)[0]).collect::<Vec<_>>();
    let before = skipping(&scratch).1;
    let before = levels(&before);
    let in_training = (0..20).filter(|k| !before.contains(k)).nth(3).unwrap();
    scratch.write(format!("a/{in_training:02}.png"), b"damaged");
    let (train, test) = skipping(&scratch);
    assert_eq!((levels(&test), train.len()), (before, 15));
}

#[test]
fn folders_that_are_not_as_they_should_be() {
    let scratch = Scratch::new();
    let nowhere = folder::open(&scratch.path("nowhere"), SIZE, BadImages::Skip.into());
    contains(&nowhere.err().unwrap().to_string(), &["nowhere"]);
    refused(&scratch, BadImages::Skip, &["no images in here\n  expected CLASS/NAME.jpg"]);
    for k in 0..2 {
        scratch.write(format!("a/{k}.png"), gray(k));
    }
    scratch.write("beside.png", gray(1));
    assert_eq!(skipping(&scratch).0.skipped(), 1, "the one beside");
    refused(&scratch, BadImages::Refuse, &["beside.png: lies beside the folders that are used"]);
    std::fs::remove_file(scratch.path("beside.png")).unwrap();
    open(&scratch, BadImages::Refuse).unwrap();
    std::fs::create_dir(scratch.path("empty")).unwrap();
    assert_eq!(skipping(&scratch).0.class_names(), ["a"]);
    refused(&scratch, BadImages::Refuse, &["empty: no images in here"]);

    // A class that is a file in one of the splits.
    let scratch = with_good_images();
    scratch.write("train/b/1.png", gray(1));
    scratch.write("test/b", b"a file");
    assert_eq!(open(&scratch, BadImages::Refuse).unwrap().0.class_names(), ["a", "b"]);
    // One that only the test split has gets no label, and no other's.
    scratch.write("test/0/1.png", gray(1));
    let (train, test) = skipping(&scratch);
    assert_eq!(
        ((0..2).map(|k| test.label(k)).collect::<Vec<_>>(), train.class_names()),
        (vec![None, Some(0)], test.class_names())
    );
    assert!(test.describe().contains("no label, for 0"), "{}", test.describe());
    refused(&scratch, BadImages::Refuse, &["only in train: b; only in test: 0"]);
    for size in [0, 7, 1025, usize::MAX] {
        let error = folder::open(scratch.folder(), size, BadImages::Skip.into()).err().unwrap().to_string();
        assert!(error.contains("not supported"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn links_devices_and_names_that_are_no_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    let scratch = with_good_images();
    let class = scratch.path("train/a");
    symlink("nowhere", class.join("broken.png")).unwrap();
    symlink("loop-2.png", class.join("loop-1.png")).unwrap();
    symlink("loop-1.png", class.join("loop-2.png")).unwrap();
    symlink("/dev/zero", class.join("device.png")).unwrap();
    symlink("..", class.join("up")).unwrap();
    std::fs::create_dir(class.join("folder.png")).unwrap();
    assert!(Command::new("mkfifo").arg(class.join("pipe.png")).status().unwrap().success());
    // Not bad: a link that leads somewhere, and a name that is no text.
    symlink("good.png", class.join("link.png")).unwrap();
    scratch.write(Path::new("train/a").join(OsStr::from_bytes(b"\xFF\xFE.png")), gray(1));
    scratch.write(Path::new("train/a").join(OsStr::from_bytes(b"x.\xFF")), b"no image by its name");
    scratch.write("train/a/._hidden.png", b"what some systems leave");
    let bad = ["broken.png", "loop-1.png", "loop-2.png", "device.png", "pipe.png"];
    refused(&scratch, BadImages::Refuse, &bad);
    let (train, _) = skipping(&scratch);
    assert_eq!((train.len(), train.skipped()), (3, 5));
    (0..3).for_each(|index| drop(pixels(&train, index)));

    symlink("nowhere", scratch.path("train/gone")).unwrap();
    assert_eq!(skipping(&scratch).0.skipped(), 6, "a class that is a broken link is reported");
    scratch.write(Path::new("train").join(OsStr::from_bytes(b"\xFF")).join("x.png"), gray(1));
    refused(&scratch, BadImages::Skip, &["not UTF-8"]);
}

#[cfg(unix)]
#[test]
fn a_file_that_may_not_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = with_good_images();
    scratch.write("train/a/secret.png", gray(1));
    let secret = scratch.path("train/a/secret.png");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o0)).unwrap();
    if std::fs::read(&secret).is_ok() {
        return; // The superuser may read everything.
    }
    assert_eq!(skipping(&scratch).0.skipped(), 1);
    refused(&scratch, BadImages::Refuse, &["secret.png"]);
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
        match cifar::cifar100(scratch.folder()) {
            Err(error) => assert!(error.to_string().contains(scratch.folder().to_str().unwrap()), "{error}"),
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
    std::fs::remove_file(scratch.path("fine_label_names.txt")).unwrap();
    // A file that claims terabytes, without holding them.
    let huge = std::fs::File::create(scratch.path("train.bin")).unwrap();
    if huge.set_len(3074 << 30).is_ok() {
        let message = cifar::cifar100(scratch.folder()).err().unwrap().to_string();
        assert!(message.contains("train.bin") && message.contains("at most"), "{message}");
    }
    std::fs::remove_file(scratch.path("train.bin")).unwrap();
    std::fs::create_dir(scratch.path("train.bin")).unwrap();
    assert!(cifar::cifar100(scratch.folder()).err().unwrap().to_string().contains("is a folder"));
}

/// Through the program: each bad file is reported once, and memory is bounded before it is asked for: the bombs here
/// would take up to 29 GB.
#[cfg(unix)]
#[test]
fn bombs_are_refused_in_little_memory_and_reported_once() {
    let scratch = with_good_images();
    let data = chunk(b"IDAT", &stored(&[0; 7]));
    for (name, side) in [("a", 60_000), ("b", 16_384), ("c", u32::MAX)] {
        scratch.write(format!("train/a/{name}.png"), png(&[header(side, side, 16, 6), data.clone()]));
    }
    scratch.write("train/a/d.jpg", jpeg_declaring(65_535, 65_535));
    scratch.write("train/a/e.png", broken_later());
    let long = std::fs::File::create(scratch.path("train/a/f.jpg")).unwrap();
    std::io::Write::write_all(&mut &long, &[0xFF, 0xD8, 0xFF]).unwrap();
    let sparse = long.set_len(1 << 40).is_ok();

    let output = scratch.within(1_000_000, "masks --data folder:. --out .masks.png");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}\n{message}", output.status);
    for name in ["a.png", "b.png", "c.png", "d.jpg", "e.png", "f.jpg"] {
        let times = message.lines().filter(|line| line.starts_with("warning: skipped") && line.contains(name)).count();
        assert_eq!(times, 1, "{name}:\n{message}");
    }
    let output = scratch.within(1_000_000, "masks --data folder:. --out .masks.png --strict");
    fails(&output, "--strict", if sparse { &["6 files cannot be used"] } else { &[] });
}
