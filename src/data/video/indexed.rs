//! Masks as PNG files in which a pixel is a label: an index into a palette, or a gray level.

use std::io::Cursor;
use std::panic::catch_unwind;
use std::path::Path;

use png::{BitDepth, ColorType, Decoder, Encoder, Limits, Transformations};

use super::Mask;
use crate::data::file::{read_start, read_whole};
use crate::data::picture::{MAX_FILE_BYTES, check_size, png_size};
use crate::{Error, Result, files};

/// The label of pixels that are not judged; in DAVIS 2017 they count as background.
const VOID: u8 = 255;

/// Bytes up to a PNG's height.
const START: u64 = 24;

const HINT: &str =
    "give a PNG file with a palette, or of 8 gray levels a bit at most, in which each pixel is its object's number";

/// Reads a mask. Label 255 (void) becomes 0, the background.
///
/// # Errors
/// When the file cannot be read, is no sound PNG, or its pixels are colors or of 16 bits.
pub fn read(path: &Path) -> Result<Mask> {
    let bytes = read_whole(path, MAX_FILE_BYTES)?;
    // The decoder is others' code: should it panic, that is the file's fault and not the end of the run.
    catch_unwind(|| decode(&bytes))
        .unwrap_or_else(|_| Err("the decoder panicked".to_owned()))
        .map_err(|problem| Error::file(path, format!("no mask: {problem}"), HINT))
}

fn decode(bytes: &[u8]) -> Result<Mask, String> {
    check_size(png_size(bytes)?)?;
    let say = |e: png::DecodingError| e.to_string();
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MAX_FILE_BYTES as usize });
    decoder.set_transformations(Transformations::IDENTITY); // palette indices, not colors
    let mut reader = decoder.read_info().map_err(say)?;
    let info = reader.info();
    let bits = match (info.color_type, info.bit_depth) {
        (_, BitDepth::Sixteen) => return Err("its pixels have 16 bits, for more than 255 objects".to_owned()),
        (ColorType::Indexed | ColorType::Grayscale, depth) => depth as usize,
        (color, _) => return Err(format!("its pixels are colors ({color:?}), not labels")),
    };
    let size = [info.height as usize, info.width as usize];
    let line = info.raw_row_length() - 1; // a row begins with the name of its filter
    let mut packed = vec![0; line * size[0]];
    reader.next_frame(&mut packed).map_err(say)?;
    let label = |row: &[u8], x: usize| row[x * bits / 8] >> (8 - bits - x * bits % 8) & (u8::MAX >> (8 - bits));
    let labels = packed.chunks_exact(line).flat_map(|row| (0..size[1]).map(move |x| label(row, x)));
    Ok(Mask::new(size, labels.map(|label| if label == VOID { 0 } else { label }).collect()))
}

/// Height and width of the PNG file at `path`, from its first bytes.
pub(super) fn size(path: &Path) -> Result<[usize; 2]> {
    let start = read_start(path, START)?;
    let checked = png_size(&start).and_then(|size| check_size(size).map(|()| size));
    let (width, height) = checked.map_err(|problem| Error::file(path, format!("no mask: {problem}"), HINT))?;
    Ok([height as usize, width as usize])
}

/// Writes a mask as a PNG of 8 bits with the palette of DAVIS, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path, mask: &Mask) -> Result<()> {
    let [height, width] = mask.size();
    let mut png = Vec::new();
    let mut encoder = Encoder::new(&mut png, width as u32, height as u32);
    encoder.set_color(ColorType::Indexed);
    encoder.set_depth(BitDepth::Eight);
    let palette: Vec<u8> = (0..=u8::MAX).flat_map(color).collect();
    encoder.set_palette(palette);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(mask.labels()));
    written.map_err(|e| Error::file(path, format!("cannot be written as PNG: {e}"), "give a smaller mask"))?;
    files::write_whole(path, &png)
}

/// The color of a label in DAVIS, as in PASCAL VOC: its bits, three by three, are the channels' from the highest down.
pub fn color(label: u8) -> [u8; 3] {
    let channel = |c: u8| (0..3u8).filter(|k| 3 * k + c < 8 && label >> (3 * k + c) & 1 == 1).map(|k| 128 >> k).sum();
    [channel(0), channel(1), channel(2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A PNG of these packed rows.
    fn png_of(color: ColorType, depth: BitDepth, [height, width]: [usize; 2], rows: &[u8]) -> Vec<u8> {
        let mut png = Vec::new();
        let mut encoder = Encoder::new(&mut png, width as u32, height as u32);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            // Two labels of one color: whoever expanded the palette could not tell them apart.
            encoder.set_palette(vec![7; 3 * (1 << (depth as usize).min(8))]);
        }
        encoder.write_header().unwrap().write_image_data(rows).unwrap();
        png
    }

    #[test]
    fn labels_are_indices_at_every_depth() {
        use BitDepth::{Eight, Four, One, Two};
        let rows: [(BitDepth, &[u8], [u8; 6]); 4] = [
            (One, &[0b1010_0000, 0b0110_0000], [1, 0, 1, 0, 1, 1]),
            (Two, &[0b1101_1000, 0b0010_0100], [3, 1, 2, 0, 2, 1]),
            (Four, &[0x3f, 0x10, 0x02, 0xe0], [3, 15, 1, 0, 2, 14]),
            (Eight, &[9, 254, 255, 0, 200, 1], [9, 254, 0, 0, 200, 1]),
        ];
        for (depth, rows, labels) in rows {
            for color in [ColorType::Indexed, ColorType::Grayscale] {
                let mask = decode(&png_of(color, depth, [2, 3], rows)).unwrap();
                assert_eq!((mask.size(), mask.labels()), ([2, 3], &labels[..]), "{color:?} {depth:?}");
            }
        }
    }

    #[test]
    fn what_is_no_mask_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.png");
        let sound = png_of(ColorType::Indexed, BitDepth::Eight, [2, 3], &[0, 1, 2, 3, 4, 5]);
        let mut flipped = sound.clone();
        let middle = flipped.len() - 20;
        flipped[middle] ^= 1;
        for (bytes, problem) in [
            (png_of(ColorType::Rgb, BitDepth::Eight, [1, 2], &[1; 6]), "its pixels are colors (Rgb), not labels"),
            (png_of(ColorType::GrayscaleAlpha, BitDepth::Eight, [1, 2], &[1; 4]), "its pixels are colors"),
            (png_of(ColorType::Grayscale, BitDepth::Sixteen, [1, 2], &[1; 4]), "more than 255 objects"),
            (sound[..sound.len() - 20].to_vec(), "no mask: "),
            (flipped, "no mask: "),
            (b"not a png".to_vec(), "does not begin with a PNG's header"),
            (Vec::new(), "does not begin with a PNG's header"),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("m.png") && error.contains(problem) && error.contains("palette"), "{error}");
        }
        assert!(read(&folder.path().join("none.png")).unwrap_err().to_string().contains("none.png"));
    }

    #[test]
    fn a_mask_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.png");
        let mask = Mask::new([3, 5], (0..15).map(|i| i * 17 % 255).collect());
        write(&path, &mask).unwrap();
        assert_eq!((read(&path).unwrap(), size(&path).unwrap()), (mask, [3, 5]));
        // What another program sees: the colors of DAVIS.
        let pixels = image::open(&path).unwrap().to_rgb8();
        assert_eq!(pixels.get_pixel(1, 0).0, color(17));
        let known = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128]];
        assert!((0..).zip(known).all(|(label, known)| color(label) == known));
        assert_eq!((color(8), color(255)), ([64, 0, 0], [224, 224, 192]));
    }
}
