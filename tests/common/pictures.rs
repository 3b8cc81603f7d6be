//! Image files for tests: as encoders write them, and by hand, for what encoders do not write.

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

pub fn picture() -> RgbImage {
    RgbImage::from_fn(12, 9, |x, y| Rgb([(x * 20) as u8, (y * 25) as u8, (x * y) as u8]))
}

pub fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A PNG whose beginning is sound and whose pixels are not: found only when it is decoded.
pub fn broken_later() -> Vec<u8> {
    png(&[header(4, 4, 8, 0), chunk(b"IDAT", &stored(&[0; 3]))])
}

/// A PNG of 8×8 pixels of one gray level.
pub fn gray(level: u8) -> Vec<u8> {
    encoded(&RgbImage::from_pixel(8, 8, Rgb([level; 3])).into(), ImageFormat::Png)
}

/// The test picture in the formats that are read if the crate is compiled with their features.
pub fn optional_formats() -> Vec<Vec<u8>> {
    let formats = [ImageFormat::WebP, ImageFormat::Gif].into_iter().filter(|format| format.reading_enabled());
    formats.map(|format| encoded(&picture().into(), format)).collect()
}

pub fn crc(bytes: &[u8]) -> u32 {
    let bit = |c: u32, _| if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 };
    !bytes.iter().fold(!0, |c, b| (0..8).fold(c ^ u32::from(*b), bit))
}

pub fn chunk(name: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let named = [&name[..], data].concat();
    [&(data.len() as u32).to_be_bytes()[..], &named, &crc(&named).to_be_bytes()].concat()
}

/// A zlib stream that stores `data` as it is.
pub fn stored(data: &[u8]) -> Vec<u8> {
    let (a, b) = data.iter().fold((1, 0), |(a, b), x| ((a + u32::from(*x)) % 65_521, (a + u32::from(*x) + b) % 65_521));
    let length = data.len() as u16;
    [&[0x78, 1, 1][..], &length.to_le_bytes(), &(!length).to_le_bytes(), data, &(b << 16 | a).to_be_bytes()].concat()
}

pub fn header(width: u32, height: u32, depth: u8, color: u8) -> Vec<u8> {
    chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, color, 0, 0, 0]].concat())
}

pub fn png(chunks: &[Vec<u8>]) -> Vec<u8> {
    [b"\x89PNG\r\n\x1A\n".to_vec(), chunks.concat(), chunk(b"IEND", &[])].concat()
}

/// A baseline JPEG, all of its pixels in the middle of every channel's range: with tables in which a single zero bit
/// says that a coefficient, or the rest of a block, is zero; and more bits than that takes.
pub fn jpeg(width: u16, height: u16, components: u8) -> Vec<u8> {
    let channels: Vec<[u8; 2]> = (1..=components).map(|c| [c, 0x11]).collect();
    jpeg_of((width, height), &channels, &[&channels])
}

/// Such a JPEG of these channels, each with its number and how often it is sampled (across and down, four bits each), in
/// these scans.
pub fn jpeg_of((width, height): (u16, u16), channels: &[[u8; 2]], scans: &[&[[u8; 2]]]) -> Vec<u8> {
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
pub fn bmp(width: i32, height: i32, bits: u16, compression: u32, data: &[u8]) -> Vec<u8> {
    let length = 54 + data.len() as u32;
    let words = [&b"BM"[..], &length.to_le_bytes(), &[0; 4], &54u32.to_le_bytes(), &40u32.to_le_bytes()].concat();
    let sides = [width.to_le_bytes(), height.to_le_bytes()].concat();
    let rest = [&1u16.to_le_bytes()[..], &bits.to_le_bytes(), &compression.to_le_bytes(), &[0; 20], data].concat();
    [words, sides, rest].concat()
}

/// Two frames: the still image of one gray level, the next frame of another.
pub fn animated_png() -> Vec<u8> {
    let lines = |v: u8| stored(&[0, v, v, 0, v, v]);
    let frame = |number: u32| {
        let [n, two] = [number, 2].map(u32::to_be_bytes);
        chunk(b"fcTL", &[&n[..], &two, &two, &[0; 8], &[0, 1, 0, 10, 0, 0]].concat())
    };
    let control = chunk(b"acTL", &[2u32.to_be_bytes(), 0u32.to_be_bytes()].concat());
    let second = chunk(b"fdAT", &[2u32.to_be_bytes().to_vec(), lines(200)].concat());
    png(&[header(2, 2, 8, 0), control, frame(0), chunk(b"IDAT", &lines(50)), frame(1), second])
}

/// A color sampled twice as finely as the light, in a scan of its own. Fuzzing found that the decoder panics here (a
/// known fault of zune-jpeg 0.5); the day it does not, this takes another file.
pub fn jpeg_of_fine_color() -> Vec<u8> {
    let [light, blue, red] = [[1, 0x11], [2, 0x21], [3, 0x11]];
    jpeg_of((20, 12), &[light, blue, red], &[&[light], &[blue], &[red]])
}

/// A small JPEG whose frame header lies.
pub fn jpeg_declaring(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = jpeg(8, 8, 3);
    let frame = bytes.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    bytes[frame + 5..][..2].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..][..2].copy_from_slice(&width.to_be_bytes());
    bytes
}

/// A frame header of 8×8 pixels, and behind it one of 16×8.
pub fn jpeg_of_two_sizes() -> Vec<u8> {
    let (first, second) = (jpeg(8, 8, 3), jpeg(16, 8, 3));
    let frame = first.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    let end = frame + 2 + usize::from(first[frame + 3]);
    [&first[..end], &second[frame..end], &first[end..]].concat()
}
