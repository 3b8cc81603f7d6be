//! Videos in the layout of DAVIS 2017 (J. Pont-Tuset et al.): a folder for each, of frames and of masks.
//!
//! ```text
//! DIR/JPEGImages/480p/bear/00000.jpg      frames (JPEG or PNG), in the order of their names
//! DIR/Annotations/480p/bear/00000.png     the mask of each, under the same name
//! DIR/ImageSets/2017/val.txt              the names of the videos, a line each; without it, all there are
//! ```
//!
//! The resolution may have another name, if there is only one, or be left out (`JPEGImages/bear/…`). What can be known
//! without decoding every frame is checked when a folder is opened: that each frame has its mask and each mask its frame, that
//! all masks of a video are of one size, which is that of its first frame, and that the first mask has an object in it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Clip, Frame, Mask, indexed};
use crate::data::picture::{self, Named};
use crate::{Error, Result};

/// A video of a folder.
pub struct DavisClip {
    name: String,
    frames: Vec<PathBuf>,
    masks: Vec<PathBuf>,
}

/// The resolution that DAVIS is evaluated at.
const RESOLUTION: &str = "480p";
const LAYOUT: &str = "give the folder that has JPEGImages and Annotations in it, as DAVIS 2017 has: \
    JPEGImages/480p/VIDEO/00000.jpg and Annotations/480p/VIDEO/00000.png";

/// Opens the videos in the folder `root`, in the order of its list, or else of their names.
///
/// # Errors
/// When the folder is not laid out so, a frame or a mask is missing, or sizes differ; the file or folder is named.
pub fn open(root: &Path) -> Result<Vec<DavisClip>> {
    let images = root.join("JPEGImages");
    let resolution = resolution(&images)?;
    let [images, masks] = [images, root.join("Annotations")].map(|folder| match &resolution {
        Some(name) => folder.join(name),
        None => folder,
    });
    let list = root.join("ImageSets").join("2017").join("val.txt");
    let names = if list.is_file() { listed(&list)? } else { folders(&images)? };
    if names.is_empty() {
        let place = if list.is_file() { &list } else { &images };
        return Err(Error::file(place, "names no videos", LAYOUT));
    }
    names.into_iter().map(|name| DavisClip::open(&images.join(&name), &masks.join(&name), name)).collect()
}

/// The folder between `JPEGImages` and the videos; `None` where frames lie one level higher.
fn resolution(images: &Path) -> Result<Option<String>> {
    let mut found = folders(images)?;
    if found.is_empty() {
        return Err(Error::file(images, "there are no folders in it", LAYOUT));
    }
    if found.iter().any(|name| name == RESOLUTION) {
        return Ok(Some(RESOLUTION.to_owned()));
    }
    if !frames(&images.join(&found[0]))?.is_empty() {
        return Ok(None);
    }
    if found.len() > 1 {
        let problem = format!("there are several resolutions: {}", found.join(", "));
        return Err(Error::file(images, problem, "call the one to be used 480p, or take the others away"));
    }
    Ok(found.pop())
}

/// The names in a folder that `keep` keeps, but hidden ones, in order.
fn entries(folder: &Path, keep: impl Fn(&Path) -> bool) -> Result<Vec<String>> {
    let read = |e: std::io::Error| Error::io("read", folder, e).noted(LAYOUT);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        names.extend(name.filter(|name| !name.starts_with('.') && keep(&path)));
    }
    names.sort();
    Ok(names)
}

fn folders(folder: &Path) -> Result<Vec<String>> {
    entries(folder, Path::is_dir)
}

fn frames(folder: &Path) -> Result<Vec<String>> {
    entries(folder, |path| picture::named(path) == Named::Image && path.is_file())
}

/// The names in a list, a line each.
fn listed(list: &Path) -> Result<Vec<String>> {
    let text = crate::data::file::read_whole(list, 1 << 20)?;
    let text = String::from_utf8(text).map_err(|_| Error::file(list, "is no text", "give a name of a video a line"))?;
    let names: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    let odd = names.iter().find(|name| Path::new(name).file_name() != Some(std::ffi::OsStr::new(name.as_str())));
    match odd {
        Some(odd) => {
            Err(Error::file(list, format!("'{odd}' is not the name of a folder"), "give a name of a video a line"))
        }
        None => Ok(names),
    }
}

impl DavisClip {
    fn open(images: &Path, annotations: &Path, name: String) -> Result<Self> {
        let frames = frames(images)?;
        if frames.is_empty() {
            return Err(Error::file(images, "there are no frames in it", LAYOUT));
        }
        let frames: Vec<PathBuf> = frames.iter().map(|name| images.join(name)).collect();
        let mask = |frame: &PathBuf| annotations.join(frame.with_extension("png").file_name().unwrap_or_default());
        let masks: Vec<PathBuf> = frames.iter().map(mask).collect();
        if let Some(missing) = masks.iter().find(|mask| !mask.exists()) {
            let problem = "there is no such file, the mask of the frame of this name";
            return Err(Error::file(missing, problem, "give a mask of every frame"));
        }
        let has_frame = |mask: &String| masks.iter().any(|of| of.file_name().is_some_and(|name| *name == **mask));
        if let Some(alone) = self::frames(annotations)?.iter().find(|mask| !has_frame(mask)) {
            let problem = format!("there is no frame of this name in {}", images.display());
            return Err(Error::file(annotations.join(alone), problem, "give a frame for every mask"));
        }
        let clip = DavisClip { name, frames, masks };
        let size = clip.frame(0)?.size();
        for mask in &clip.masks {
            check_size(mask, indexed::size(mask)?, size)?;
        }
        if clip.mask(0)?.objects() == 0 {
            let problem = "there is no object in the mask of the first frame, and nothing to track";
            return Err(Error::file(&clip.masks[0], problem, "label its objects, from 1 on"));
        }
        Ok(clip)
    }
}

fn check_size(path: &Path, found: [usize; 2], expected: [usize; 2]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let ([h, w], [height, width]) = (found, expected);
    let problem = format!("is {w}x{h} pixels; the first frame of this video is {width}x{height}");
    Err(Error::file(path, problem, "give frames and masks of one size"))
}

impl Clip for DavisClip {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.frames.len()
    }

    fn frame(&self, index: usize) -> Result<Frame> {
        picture::read(&self.frames[index])
    }

    fn mask(&self, index: usize) -> Result<Mask> {
        indexed::read(&self.masks[index])
    }

    fn file_stem(&self, index: usize) -> String {
        self.masks[index].file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};
    use tempfile::TempDir;

    use super::*;

    /// A folder with these videos of four frames of 12 × 8 pixels, whose masks have a square that moves.
    fn folder(between: &str, videos: &[&str]) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        for video in videos {
            for index in 0..4u8 {
                let place = |what: &str, ending: &str| {
                    let folder = root.path().join(what).join(between).join(video);
                    fs::create_dir_all(&folder).unwrap();
                    folder.join(format!("{:05}.{ending}", 10 * index))
                };
                let frame = RgbImage::from_fn(12, 8, |x, y| Rgb([20 * x as u8, 30 * y as u8, 50 * index]));
                frame.save(place("JPEGImages", "jpg")).unwrap();
                indexed::write(&place("Annotations", "png"), &square(index)).unwrap();
            }
        }
        root
    }

    fn square(index: u8) -> Mask {
        let inside =
            |i: usize| (2..5).contains(&(i / 12)) && (3..6).contains(&(i % 12 - usize::from(index).min(i % 12)));
        Mask::new([8, 12], (0..96).map(|i| u8::from(inside(i))).collect())
    }

    #[test]
    fn videos_are_opened_in_the_layouts_of_davis() {
        for between in ["480p", "Full-Resolution", ""] {
            let root = folder(between, &["b", "a"]);
            fs::write(root.path().join("JPEGImages").join(".DS_Store"), "x").unwrap();
            let names = |root: &TempDir| open(root.path()).unwrap().iter().map(|c| c.name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&root), ["a", "b"], "{between}");
            fs::create_dir_all(root.path().join("ImageSets/2017")).unwrap();
            fs::write(root.path().join("ImageSets/2017/val.txt"), "b\r\n\n").unwrap();
            assert_eq!(names(&root), ["b"], "{between}");
            let clip = &open(root.path()).unwrap()[0];
            assert_eq!((clip.len(), &*clip.file_stem(3)), (4, "00030"));
            let frame = clip.frame(2).unwrap();
            // A JPEG is not exact.
            let [red, green, blue] = [0, 1, 2].map(|c| frame.planes()[c * 96 + 3 * 12 + 5]);
            assert!(frame.size() == [8, 12] && red.abs_diff(100) < 20 && green.abs_diff(90) < 20, "{red} {green}");
            assert!(blue.abs_diff(100) < 20, "{blue}");
            assert_eq!(clip.mask(2).unwrap(), square(2));
        }
        // Of several resolutions it is 480p.
        let root = folder("480p", &["a"]);
        fs::create_dir_all(root.path().join("JPEGImages/1080p/a")).unwrap();
        assert_eq!(open(root.path()).unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_laid_out_so_says_where_and_why() {
        let message = |change: &dyn Fn(&Path)| {
            let root = folder("480p", &["a"]);
            change(root.path());
            open(root.path()).err().unwrap().to_string()
        };
        let at = |name: &str| format!("480p/a/{name}");
        let list = |text: &'static str| {
            move |root: &Path| {
                fs::create_dir_all(root.join("ImageSets/2017")).unwrap();
                fs::write(root.join("ImageSets/2017/val.txt"), text).unwrap();
            }
        };
        let masks = |root: &Path| root.join("Annotations/480p/a");
        for (change, words) in [
            (
                &(|root: &Path| fs::remove_dir_all(root.join("JPEGImages")).unwrap()) as &dyn Fn(&Path),
                ["JPEGImages", "give the folder"],
            ),
            (
                &|root: &Path| fs::remove_dir_all(root.join("JPEGImages/480p")).unwrap(),
                ["JPEGImages", "no folders in it"],
            ),
            (
                &|root: &Path| fs::remove_file(masks(root).join("00020.png")).unwrap(),
                [&at("00020.png"), "a mask of every frame"],
            ),
            (
                &|root: &Path| fs::remove_file(root.join("JPEGImages/480p/a/00030.jpg")).unwrap(),
                [&at("00030.png"), "a frame for every mask"],
            ),
            (
                &|root: &Path| fs::write(root.join("JPEGImages/480p/a/00000.jpg"), "x").unwrap(),
                [&at("00000.jpg"), "cannot be decoded"],
            ),
            (
                &|root: &Path| indexed::write(&masks(root).join("00020.png"), &Mask::new([4, 4], vec![1; 16])).unwrap(),
                [&at("00020.png"), "is 4x4 pixels; the first frame of this video is 12x8"],
            ),
            (
                &|root: &Path| {
                    indexed::write(&masks(root).join("00000.png"), &Mask::new([8, 12], vec![0; 96])).unwrap()
                },
                [&at("00000.png"), "no object in the mask of the first frame"],
            ),
            (
                &|root: &Path| RgbImage::new(12, 8).save(masks(root).join("00000.png")).unwrap(),
                [&at("00000.png"), "its pixels are colors"],
            ),
            (&|root: &Path| fs::write(masks(root).join("00030.png"), "x").unwrap(), [&at("00030.png"), "no mask"]),
            (&list("a\nb\n"), ["JPEGImages/480p/b", "give the folder"]),
            (&list("../a"), ["val.txt", "'../a' is not the name of a folder"]),
            (&list("\n"), ["val.txt", "names no videos"]),
            (
                &|root: &Path| {
                    fs::rename(root.join("JPEGImages/480p"), root.join("JPEGImages/1080p")).unwrap();
                    fs::create_dir_all(root.join("JPEGImages/720p/a")).unwrap();
                },
                ["JPEGImages", "several resolutions: 1080p, 720p"],
            ),
        ] {
            let message = message(change);
            assert!(words.iter().all(|word| message.replace('\\', "/").contains(word)), "{words:?}: {message}");
        }
    }
}
