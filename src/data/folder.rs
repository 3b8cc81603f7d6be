//! A folder of JPEG and PNG files, one sub-folder per class.
//!
//! `DIR/train/CLASS/NAME.jpg` and `DIR/test/CLASS/NAME.jpg` (or `val`) where both exist; otherwise
//! `DIR/CLASS/NAME.jpg`, of which every class gives a fixed fifth to the test split. Any size and colour type comes in;
//! what goes out is the largest centred square, resized to S×S, as RGB. An alpha channel and an EXIF orientation are
//! ignored. Files are decoded when first asked for, and kept in memory up to a limit.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use image::imageops::{self, FilterType};
use image::{ImageReader, Limits, RgbImage};
use rand::seq::SliceRandom;

use super::Dataset;
use crate::rng::{Purpose, stream};
use crate::{Error, Result};

/// The paths of a split's images, by class.
type ByClass = Vec<Vec<PathBuf>>;

const EXTENSIONS: [&str; 3] = ["jpg", "jpeg", "png"];

const LAYOUT: &str = "expected DIR/CLASS/NAME.jpg (or .jpeg, .png), or both DIR/train/CLASS/NAME.jpg and \
                      DIR/test/CLASS/NAME.jpg";

/// Decoded images that a split keeps, in bytes; those beyond are decoded each time.
const CACHE_BYTES: usize = 2 << 30;

/// Largest width and height that is decoded, in pixels, and the most memory that decoding may take, in bytes: a small
/// file can claim to be a huge image.
const MAX_SIDE: u32 = 16_384;
const MAX_DECODER_BYTES: u64 = 512 << 20;

/// One split of a folder of images.
pub struct Folder {
    dir: PathBuf,
    split: &'static str,
    size: usize,
    class_names: Vec<String>,
    /// Path and class of each image.
    files: Vec<(PathBuf, usize)>,
    /// `[3][S][S]` of the first images, each filled at its first use.
    cache: Vec<OnceLock<Box<[u8]>>>,
}

/// Lists the training and test images under `dir`, to be shown at `size`×`size` pixels.
///
/// # Errors
/// If `dir` does not have one of the two layouts above, or a class has no images.
pub fn open(dir: &Path, size: usize) -> Result<(Folder, Folder)> {
    let train_dir = dir.join("train");
    let test_dir = ["test", "val"].map(|name| dir.join(name)).into_iter().find(|path| path.is_dir());
    let (class_names, train, test) = match test_dir {
        Some(test_dir) if train_dir.is_dir() => {
            let class_names = class_names(&train_dir)?;
            if self::class_names(&test_dir)? != class_names {
                let problem = format!("not the same class folders as in {}", train_dir.display());
                return Err(Error::file(test_dir, problem, "give both splits the same class folders"));
            }
            let (train, test) = (files(&train_dir, &class_names)?, files(&test_dir, &class_names)?);
            (class_names, train, test)
        }
        _ => {
            let class_names = class_names(dir)?;
            let (train, test) = split(dir, files(dir, &class_names)?)?;
            (class_names, train, test)
        }
    };
    let folder = |split, by_class: ByClass| {
        let with_label = |(label, paths): (usize, Vec<PathBuf>)| paths.into_iter().map(move |path| (path, label));
        let files: Vec<_> = by_class.into_iter().enumerate().flat_map(with_label).collect();
        let cached = files.len().min(CACHE_BYTES / (3 * size * size));
        let cache = (0..cached).map(|_| OnceLock::new()).collect();
        Folder { dir: dir.to_owned(), split, size, class_names: class_names.clone(), files, cache }
    };
    Ok((folder("train", train), folder("test", test)))
}

/// The names of the sub-folders, sorted.
fn class_names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in entries(dir)?.into_iter().filter(|path| path.is_dir()) {
        match path.file_name().and_then(OsStr::to_str) {
            Some(hidden) if hidden.starts_with('.') => {}
            Some(name) => names.push(name.to_owned()),
            None => return Err(Error::file(path, "a class whose name is not UTF-8", "rename the folder")),
        }
    }
    if names.is_empty() {
        return Err(Error::file(dir, "no class folders in here", LAYOUT));
    }
    Ok(names)
}

/// The images of all classes, by class and then by name.
fn files(dir: &Path, class_names: &[String]) -> Result<ByClass> {
    let of_class = |name: &String| {
        let dir = dir.join(name);
        let mut files = entries(&dir)?;
        files.retain(|path| {
            let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
            EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension))
        });
        if files.is_empty() {
            return Err(Error::file(dir, "no .jpg, .jpeg or .png files in here", LAYOUT));
        }
        Ok(files)
    };
    class_names.iter().map(of_class).collect()
}

/// Everything in `dir`, sorted: the system's own order differs between machines.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("read", dir, e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Sets a fifth of each class aside for testing: always the same one, but not the one that comes first by name.
fn split(dir: &Path, mut by_class: ByClass) -> Result<(ByClass, ByClass)> {
    let mut test = Vec::new();
    for (class, paths) in by_class.iter_mut().enumerate() {
        if paths.len() < 2 {
            let problem = format!("{} is the only image of its class, and cannot be split", paths[0].display());
            return Err(Error::file(dir, problem, "add images, or divide them into DIR/train and DIR/test yourself"));
        }
        paths.shuffle(&mut stream(0, Purpose::Shuffle, [class as u64, 0]));
        let mut held_out = paths.split_off(paths.len() - (paths.len() / 5).max(1));
        paths.sort();
        held_out.sort();
        test.push(held_out);
    }
    Ok((by_class, test))
}

/// Reads an image and fits it into `[3][size][size]`.
fn decode(path: &Path, size: usize) -> Result<Box<[u8]>> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    let mut reader =
        ImageReader::open(path).and_then(ImageReader::with_guessed_format).map_err(|e| Error::io("read", path, e))?;
    reader.limits(limits);
    let image = reader.decode().map_err(|e| {
        Error::file(path, format!("cannot be decoded: {e}"), "replace it by a sound JPEG or PNG file, or remove it")
    })?;
    let square = fit(&image.into_rgb8(), size);
    Ok((0..3).flat_map(|c| square.pixels().map(move |pixel| pixel[c])).collect())
}

/// The largest centred square of `image`, resized to `size`×`size` by a triangle filter, which averages when it
/// shrinks. Cutting first keeps a ribbon of 1×16384 pixels from being blown up before it is cut.
fn fit(image: &RgbImage, size: usize) -> RgbImage {
    let (width, height) = image.dimensions();
    let side = width.min(height);
    let square = imageops::crop_imm(image, (width - side) / 2, (height - side) / 2, side, side);
    if side as usize == size {
        return square.to_image();
    }
    imageops::resize(&*square, size as u32, size as u32, FilterType::Triangle)
}

impl Dataset for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn image_size(&self) -> usize {
        self.size
    }

    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        let cell = self.cache.get(index);
        if let Some(pixels) = cell.and_then(OnceLock::get) {
            out.copy_from_slice(pixels);
            return Ok(());
        }
        let pixels = decode(&self.files[index].0, self.size)?;
        out.copy_from_slice(&pixels);
        if let Some(cell) = cell {
            // Another thread may have been first; it has stored the same bytes.
            let _ = cell.set(pixels);
        }
        Ok(())
    }

    fn label(&self, index: usize) -> usize {
        self.files[index].1
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn describe(&self) -> String {
        let (classes, s) = (self.class_names.len(), self.size);
        format!("{} {}: {} images of {classes} classes, at {s}x{s}", self.dir.display(), self.split, self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::scratch::Scratch;
    use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb};

    /// The file that `image` makes.
    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    fn plain(width: u32, height: u32, colour: [u8; 3]) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb(colour))
    }

    fn pixels(folder: &Folder, index: usize) -> Vec<u8> {
        let mut out = vec![0; 3 * folder.size * folder.size];
        folder.pixels(index, &mut out).unwrap();
        out
    }

    #[test]
    fn png_jpeg_grey_and_16_bit_files_become_planes_of_rgb() {
        let scratch = Scratch::new();
        let red = [200, 10, 30];
        scratch.write("train/b/1.png", &encoded(plain(8, 8, red), ImageFormat::Png));
        scratch.write("train/b/2.JPG", &encoded(plain(20, 8, red), ImageFormat::Jpeg));
        let grey = GrayImage::from_pixel(9, 9, Luma([77]));
        scratch.write("train/a/grey.png", &encoded(grey, ImageFormat::Png));
        let deep = DynamicImage::ImageRgba8(DynamicImage::from(plain(8, 8, red)).into_rgba8()).into_rgba16();
        scratch.write("train/b/3.png", &encoded(deep, ImageFormat::Png));
        scratch.write("train/b/notes.txt", b"not an image");
        for class in ["a", "b"] {
            scratch.write(&format!("val/{class}/x.png"), &encoded(plain(8, 8, red), ImageFormat::Png));
        }
        let (train, test) = open(scratch.path(), 8).unwrap();
        assert_eq!((train.len(), test.len()), (4, 2));
        assert_eq!(train.class_names(), ["a", "b"]);
        assert_eq!((0..4).map(|k| train.label(k)).collect::<Vec<_>>(), [0, 1, 1, 1]);
        assert!(pixels(&train, 0).iter().all(|&v| v == 77));
        for k in 1..4 {
            for (c, plane) in pixels(&train, k).chunks(64).enumerate() {
                let tolerance = if k == 2 { 3 } else { 0 }; // JPEG is lossy
                assert!(plane.iter().all(|v| v.abs_diff(red[c]) <= tolerance), "image {k}: {plane:?}");
            }
        }
    }

    #[test]
    fn the_middle_square_is_kept_and_shrunk_by_averaging() {
        let mut image = plain(24, 8, [0, 0, 0]);
        for (x, y, pixel) in image.enumerate_pixels_mut() {
            // Left third red, right third blue; the middle is a checkerboard of single pixels.
            let on = ((x + y) % 2) as u8 * 200;
            *pixel = Rgb([u8::from(x < 8) * 255, on, u8::from(x >= 16) * 255]);
        }
        let same = fit(&image, 8);
        assert!(same.enumerate_pixels().all(|(x, y, p)| *p == Rgb([0, ((x + y) % 2) as u8 * 200, 0])));
        let half = fit(&image, 4);
        assert!(half.pixels().all(|p| p[1].abs_diff(100) <= 25), "a checkerboard is grey from afar: {half:?}");
    }

    #[test]
    fn a_folder_without_splits_is_divided_per_class_and_always_alike() {
        let scratch = Scratch::new();
        for k in 0..10 {
            scratch.write(&format!("a/{k}.png"), &encoded(plain(8, 8, [k; 3]), ImageFormat::Png));
            scratch.write(&format!("b/{k}.png"), &encoded(plain(8, 8, [100 + k; 3]), ImageFormat::Png));
        }
        let (train, test) = open(scratch.path(), 8).unwrap();
        assert_eq!((train.len(), test.len()), (16, 4));
        assert_eq!((0..4).map(|k| test.label(k)).collect::<Vec<_>>(), [0, 0, 1, 1]);
        let again = open(scratch.path(), 8).unwrap();
        assert_eq!((&train.files, &test.files), (&again.0.files, &again.1.files));
        let mut all: Vec<_> = train.files.iter().chain(&test.files).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 20, "no image is in both");
    }

    #[test]
    fn an_image_is_decoded_once() {
        let scratch = Scratch::new();
        for k in 0..2 {
            scratch.write(&format!("a/{k}.png"), &encoded(plain(8, 8, [9; 3]), ImageFormat::Png));
        }
        let (train, _) = open(scratch.path(), 8).unwrap();
        let first = pixels(&train, 0);
        std::fs::remove_file(&train.files[0].0).unwrap();
        assert_eq!(pixels(&train, 0), first);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let scratch = Scratch::new();
        let message = |size| open(scratch.path(), size).err().expect("must fail").to_string();
        assert!(message(8).contains("no class folders in here\n  expected DIR/CLASS/NAME.jpg"));
        scratch.write("a/readme.txt", b"");
        assert!(message(8).contains("no .jpg, .jpeg or .png files in here"));
        scratch.write("a/1.png", &encoded(plain(8, 8, [9; 3]), ImageFormat::Png)[..60]);
        assert!(message(8).contains("1.png is the only image of its class"));
        scratch.write("a/2.png", b"hello");
        let (train, test) = open(scratch.path(), 8).unwrap();
        for folder in [train, test] {
            let error = folder.pixels(0, &mut [0; 192]).unwrap_err().to_string();
            assert!(error.contains(".png: cannot be decoded"), "{error}");
        }
    }

    #[test]
    fn an_image_that_claims_to_be_huge_is_refused() {
        let scratch = Scratch::new();
        let wide = encoded(GrayImage::new(MAX_SIDE + 1, 1), ImageFormat::Png);
        scratch.write("wide.png", &wide);
        let error = decode(&scratch.path().join("wide.png"), 8).unwrap_err().to_string();
        assert!(error.contains("wide.png: cannot be decoded") && error.contains("limit"), "{error}");
    }
}
