//! Data sets by name: what a command line or a configuration calls images, and where that leads.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::shapes::Task;
use super::{Normalization, OpenOptions, Shapes, Splits, cifar, resized};
use crate::{Error, Result};

/// [`open_with`] with the default options: bad images are skipped.
///
/// # Errors
/// As there.
pub fn open(spec: &str, image_size: usize) -> Result<Splits> {
    open_with(spec, image_size, OpenOptions::default())
}

/// Opens what `spec` names, with images of `image_size`×`image_size` pixels.
///
/// | `spec` | what |
/// |---|---|
/// | `shapes` | [`Shapes`], labeled by class; `shapes:count` and `shapes:distance` label by these instead |
/// | `cifar10:DIR`, `cifar100:DIR` | [`cifar`], [`resized()`] unless `image_size` is 32 |
/// | `folder:DIR` | image files in a folder: `data::folder` (feature `images`) |
///
/// A `DIR` that begins with `~/` is in the user's home: the shell replaces a tilde only where a word begins.
///
/// # Errors
/// If `spec` names nothing known, or the files are missing or not as they should be. [`OpenOptions::bad_images`] decides
/// over single files of a folder; CIFAR's few large files are refused whole.
pub fn open_with(spec: &str, image_size: usize, options: impl Into<OpenOptions>) -> Result<Splits> {
    check_image_size(image_size)?;
    let (scheme, rest) = spec.split_once(':').unwrap_or((spec, ""));
    match scheme {
        "shapes" => {
            let task = if rest.is_empty() { Task::default() } else { rest.parse()? };
            // As many images as CIFAR has. Like CIFAR's, they are always the same: a run's seed does not reach them.
            let series = |seed, len| Arc::new(Shapes::new(seed, len, image_size, task));
            Ok(Splits::new(series(0, 50_000), series(1, 10_000)))
        }
        "cifar10" | "cifar100" | "folder" if rest.is_empty() => Err(Error::config(
            format!("'{spec}' does not say where the images are"),
            format!("add the folder after a colon, as in {scheme}:path/to/images"),
        )),
        "cifar10" | "cifar100" => {
            let dir = at_home(rest)?;
            let ((train, test), normalization) = match scheme {
                "cifar10" => (cifar::cifar10(&dir)?, Normalization::CIFAR10),
                _ => (cifar::cifar100(&dir)?, Normalization::CIFAR100),
            };
            let [train, test] = [train, test].map(|images| resized(Arc::new(images), image_size));
            Ok(Splits::new(train, test).with_normalization(normalization))
        }
        #[cfg(feature = "images")]
        "folder" => {
            let (train, test) = super::folder::open(&at_home(rest)?, image_size, options.into())?;
            Ok(Splits::new(Arc::new(train), Arc::new(test)))
        }
        #[cfg(not(feature = "images"))]
        "folder" => {
            let _ = options.into();
            Err(Error::config(
                format!("'{spec}': this build reads no image files"),
                "build it with the feature `images`",
            ))
        }
        _ => {
            let schemes = "choose shapes, shapes:count, shapes:distance, cifar10:DIR, cifar100:DIR or folder:DIR";
            let folder = Path::new(spec).is_dir().then(|| format!("for a folder of images: folder:{spec}"));
            Err(Error::config(format!("'{spec}' names no data set"), folder.unwrap_or_else(|| schemes.to_owned())))
        }
    }
}

/// `spec` with an absolute path, so that it names the same images from every working folder: a tilde is replaced, links are
/// not followed. One that names no files is given back as it is.
///
/// # Errors
/// If the home or the working folder is needed and cannot be had, or is no text.
pub fn absolute_spec(spec: &str) -> Result<String> {
    let (scheme, path) = match spec.split_once(':') {
        Some((scheme @ ("cifar10" | "cifar100" | "folder"), path)) if !path.is_empty() => (scheme, path),
        _ => return Ok(spec.to_owned()),
    };
    let path = at_home(path)?;
    let absolute = std::path::absolute(&path).map_err(|e| Error::io("find", &path, e))?;
    let path = absolute.to_str().ok_or_else(|| {
        Error::file(&absolute, "a path that is not UTF-8", "rename its folders, or call it from elsewhere")
    })?;
    Ok(format!("{scheme}:{path}"))
}

/// `path`, with the user's home in the place of a tilde at its beginning.
pub(super) fn at_home(path: &str) -> Result<PathBuf> {
    let is_home = |rest: &&str| rest.is_empty() || rest.starts_with(std::path::is_separator);
    let Some(rest) = path.strip_prefix('~').filter(is_home) else { return Ok(PathBuf::from(path)) };
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).ok_or_else(|| {
        Error::config(format!("'{path}': there is no home folder"), "set HOME, or write the path out")
    })?;
    Ok(home.join(rest.trim_start_matches(std::path::is_separator)).components().collect())
}

/// Checks that every data set can be had with images of this size.
///
/// # Errors
/// When they are too small or too large.
pub fn check_image_size(image_size: usize) -> Result<()> {
    if (8..=1024).contains(&image_size) {
        return Ok(());
    }
    let problem = format!("images of {image_size}x{image_size} pixels are not supported");
    Err(Error::config(problem, "choose an image size from 8 to 1024; CIFAR's is 32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_become_absolute() {
        let here = std::env::current_dir().unwrap();
        let at = |name: &str| here.join(name).to_str().unwrap().to_owned();
        let home = std::env::home_dir().unwrap();
        for (spec, expected) in [
            ("folder:a/b", format!("folder:{}", at("a/b"))),
            ("cifar10:.", format!("cifar10:{}", here.display())),
            ("cifar100:~/x", format!("cifar100:{}", home.join("x").display())),
            ("folder:~", format!("folder:{}", home.display())),
            ("folder:~x", format!("folder:{}", at("~x"))),
            ("folder:a:b", format!("folder:{}", at("a:b"))),
            ("shapes:count", "shapes:count".to_owned()),
            ("shapes", "shapes".to_owned()),
            ("folder:", "folder:".to_owned()),
            ("nothing:known", "nothing:known".to_owned()),
        ] {
            let absolute = absolute_spec(spec).unwrap();
            assert_eq!(absolute, expected, "{spec}");
            assert_eq!(absolute_spec(&absolute).unwrap(), absolute, "once is enough");
        }
    }

    #[test]
    fn a_bad_spec_is_an_error_that_says_what_to_do() {
        for (spec, size, expected) in [
            ("imagenet", 32, "choose shapes,"),
            ("cifar10", 32, "add the folder after a colon, as in cifar10:"),
            ("folder:", 32, "add the folder after a colon"),
            ("folder:nowhere", 32, if cfg!(feature = "images") { "nowhere: " } else { "with the feature `images`" }),
            ("shapes:color", 32, "'color'\n  there are: class, count, distance"),
            ("shapes", 4, "choose an image size"),
        ] {
            let error = open(spec, size).err().expect(spec).to_string();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }

    #[test]
    fn shapes_open_without_any_file() {
        let splits = open("shapes:count", 16).unwrap();
        assert_eq!((splits.train.len(), splits.test.len()), (50_000, 10_000));
        assert_eq!(splits.train.image_size(), 16);
        assert_eq!(splits.test.class_names().len(), 4);
        assert!(splits.normalization().unwrap().std.iter().all(|&s| s > 0.1));
    }
}
