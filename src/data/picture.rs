//! One image file of unknown origin, decoded within bounds: JPEG, PNG and BMP; WebP and GIF where the crate is compiled
//! with the feature of that name. Of an animation it is the first image.
//!
//! Three looks at it, each before the next one costs anything: [`check_start`] reads the first bytes and knows files
//! that are no images and PNGs of impossible sizes; [`decode`] reads the whole file and looks for its size and its
//! end; then it is decoded, with a limit on memory that follows from that size.
//!
//! A PNG carries checksums, so damage anywhere is seen. The others carry none: a file that was cut short is seen, because
//! its end is missing, and so is damage that no longer decodes; damage that decodes to other pixels is not.

use std::ffi::OsStr;
use std::io::Cursor;
use std::panic::catch_unwind;
use std::path::Path;

use image::imageops::{self, FilterType};
use image::{ImageFormat, ImageReader, Limits, RgbImage};

use super::file::{read_start, read_whole};
use super::video::Frame;
use crate::{Error, Result};

/// Largest width and height that is decoded, and most pixels in all: a small file can claim to be a huge image.
const MAX_SIDE: u32 = 16_384;
const MAX_PIXELS: u64 = 1 << 26;

/// Largest file that is read, in bytes.
pub(super) const MAX_FILE_BYTES: u64 = 256 << 20;

/// The most that one decoded pixel takes, in bytes: four channels of 16 bits.
const PIXEL_BYTES: u64 = 8;

/// What a decoder may take beside the pixels, in bytes: lines, tables, color profiles.
const DECODER_BYTES: u64 = 16 << 20;

/// Bytes up to a PNG's height.
const START: u64 = 24;

/// What to do about a file that cannot be used.
pub(super) const HINT: &str = "replace it by a sound JPEG or PNG file, or remove it";

/// What files of the formats that can be read are called.
const FORMATS: [(&[&str], Option<ImageFormat>); 6] = [
    (&["jpg", "jpeg", "jpe", "jfif"], Some(ImageFormat::Jpeg)),
    (&["png"], Some(ImageFormat::Png)),
    (&["bmp"], Some(ImageFormat::Bmp)),
    (&["webp"], Some(ImageFormat::WebP)),
    (&["gif"], Some(ImageFormat::Gif)),
    (&FOREIGN, None),
];

/// What photos of other formats are called.
const FOREIGN: [&str; 15] =
    ["tif", "tiff", "avif", "heic", "heif", "jp2", "j2k", "jxl", "ppm", "pgm", "pnm", "tga", "dng", "cr2", "nef"];

/// What the name of a file says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// It is an image of a format that is read here.
    Image,
    /// It is an image of another format, to be read with the feature of this name, if there is one.
    Unreadable(Option<&'static str>),
    /// It is something else.
    Other,
}

/// What the name of the file at `path` says that it is.
pub(super) fn named(path: &Path) -> Named {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let is = |known: &&str| known.eq_ignore_ascii_case(extension);
    match FORMATS.iter().find(|(names, _)| names.iter().any(is)) {
        Some((_, Some(format))) if format.reading_enabled() => Named::Image,
        Some((names, format)) => Named::Unreadable(format.map(|_| names[0])),
        None => Named::Other,
    }
}

/// Whether the file at `path` begins as an image does that can be read; a PNG's size is checked too. Two system calls.
pub(super) fn check_start(path: &Path) -> Result<()> {
    let start = read_start(path, START)?;
    let checked = format(&start).and_then(|format| match format {
        ImageFormat::Png => png_size(&start).and_then(check_size),
        _ => Ok(()),
    });
    checked.map_err(|problem| Error::file(path, problem, HINT))
}

/// Reads an image and fits it into `out`, `[3][size][size]`. On an error `out` is as it was.
pub(super) fn decode(path: &Path, size: usize, out: &mut [u8]) -> Result<()> {
    let square = fit(&decoded(path)?, size);
    for (c, plane) in out.chunks_exact_mut(size * size).enumerate() {
        plane.iter_mut().zip(square.pixels()).for_each(|(byte, pixel)| *byte = pixel[c]);
    }
    Ok(())
}

/// Reads an image as it is.
pub(super) fn read(path: &Path) -> Result<Frame> {
    let image = decoded(path)?;
    let plane = |c: usize| image.pixels().map(move |pixel| pixel[c]);
    Ok(Frame::new([image.height() as usize, image.width() as usize], (0..3).flat_map(plane).collect()))
}

fn decoded(path: &Path) -> Result<RgbImage> {
    let bytes = read_whole(path, MAX_FILE_BYTES)?;
    // The decoders are others' code: should one panic, that is the file's fault and not the end of the run.
    catch_unwind(|| decode_bytes(&bytes))
        .unwrap_or_else(|_| Err("the decoder panicked".to_owned()))
        .map_err(|problem| Error::file(path, format!("cannot be decoded: {problem}"), HINT))
}

fn decode_bytes(bytes: &[u8]) -> Result<RgbImage, String> {
    let format = format(bytes)?;
    let say = |e: image::ImageError| e.to_string();
    let reader = || ImageReader::with_format(Cursor::new(bytes), format);
    let (width, height) = match format {
        ImageFormat::Png => png_size(bytes)?,
        ImageFormat::Jpeg => jpeg_size(bytes)?,
        // These decoders ask for no memory before they have read a size.
        ImageFormat::WebP => check_webp_end(bytes).and_then(|()| reader().into_dimensions().map_err(say))?,
        _ => reader().into_dimensions().map_err(say)?,
    };
    check_size((width, height))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(width);
    limits.max_image_height = Some(height);
    limits.max_alloc = Some(u64::from(width) * u64::from(height) * PIXEL_BYTES + DECODER_BYTES);
    let mut reader = reader();
    reader.limits(limits);
    Ok(reader.decode().map_err(say)?.into_rgb8())
}

/// What the first bytes say that a file is; its name does not count.
fn format(bytes: &[u8]) -> Result<ImageFormat, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let format = image::guess_format(bytes).map_err(|_| "it is no image of a known format".to_owned())?;
    let name = format.extensions_str()[0];
    if !FORMATS.iter().any(|(_, known)| *known == Some(format)) {
        return Err(format!("it is a .{name} file, which is not read here"));
    }
    if !format.reading_enabled() {
        return Err(format!("it is a .{name} file, which only a build with the feature `{name}` reads"));
    }
    Ok(format)
}

pub(super) fn check_size((width, height): (u32, u32)) -> Result<(), String> {
    let pixels = u64::from(width) * u64::from(height);
    if pixels > 0 && width.max(height) <= MAX_SIDE && pixels <= MAX_PIXELS {
        return Ok(());
    }
    Err(format!("an image of {width}x{height} pixels; 1 to {MAX_SIDE} a side, at most {MAX_PIXELS} in all, are read"))
}

/// Width and height as a PNG's first chunk declares them.
pub(super) fn png_size(bytes: &[u8]) -> Result<(u32, u32), String> {
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    match (bytes.get(12..16), word(16), word(20)) {
        (Some(b"IHDR"), Some(width), Some(height)) => Ok((width, height)),
        _ => Err("it does not begin with a PNG's header".to_owned()),
    }
}

/// Width and height as a JPEG's frame header declares them, once its end has been found: decoders fill what a file cut
/// short lacks with gray, and say nothing.
///
/// A JPEG is a list of segments: 0xFF, a marker, and for most markers a length and as many bytes. Pixels follow a start
/// of scan, in which 0xFF is always followed by 0 or by a restart marker, until the next segment begins.
fn jpeg_size(bytes: &[u8]) -> Result<(u32, u32), String> {
    const CUT_SHORT: &str = "it is cut short: a JPEG's end marker is missing";
    let half = |at: usize| bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    // Whether 0xFF and this byte begin a segment: not the escape 0xFF 0, fill bytes, or markers without content.
    let is_marker = |byte: u8| !matches!(byte, 0x00 | 0x01 | 0xD0..=0xD8 | 0xFF);
    let (mut at, mut size) = (2, None);
    loop {
        let found = bytes.get(at..).and_then(|rest| rest.windows(2).position(|w| w[0] == 0xFF && is_marker(w[1])));
        let marker = at + found.ok_or(CUT_SHORT)? + 1;
        match bytes[marker] {
            0xD9 => return size.ok_or("it has no frame header".to_owned()),
            // The frame headers: all of 0xC0 to 0xCF but those for tables and extensions.
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                let sides = half(marker + 6).zip(half(marker + 4)).ok_or(CUT_SHORT)?;
                let sides = (u32::from(sides.0), u32::from(sides.1));
                if size.replace(sides).is_some_and(|first| first != sides) {
                    return Err("it has two frame headers that differ".to_owned());
                }
            }
            _ => {}
        }
        let length = half(marker + 1).ok_or(CUT_SHORT)?;
        at = marker + 1 + usize::from(length.max(2));
    }
}

/// Checks that a WebP file is as long as its header says: its decoder takes the rest of what is missing for gray.
fn check_webp_end(bytes: &[u8]) -> Result<(), String> {
    let length = bytes.get(4..8).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    if length.is_some_and(|length| bytes.len() as u64 >= u64::from(length) + 8) {
        return Ok(());
    }
    Err("it is cut short: a WebP file that is shorter than its header says".to_owned())
}

/// The largest centered square of `image`, resized to `size`×`size` by a triangle filter, which averages when it
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

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn the_middle_square_is_kept_and_shrunk_by_averaging() {
        let mut image = RgbImage::new(24, 8);
        for (x, y, pixel) in image.enumerate_pixels_mut() {
            // Left third red, right third blue; the middle is a checkerboard of single pixels.
            let on = ((x + y) % 2) as u8 * 200;
            *pixel = Rgb([u8::from(x < 8) * 255, on, u8::from(x >= 16) * 255]);
        }
        let same = fit(&image, 8);
        assert!(same.enumerate_pixels().all(|(x, y, p)| *p == Rgb([0, ((x + y) % 2) as u8 * 200, 0])));
        let upright = imageops::rotate90(&image);
        assert!(fit(&upright, 8) == imageops::rotate90(&same));
        let half = fit(&image, 4);
        assert!(half.pixels().all(|p| p[1].abs_diff(100) <= 25), "a checkerboard is gray from afar: {half:?}");
    }
}
