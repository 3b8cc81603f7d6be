//! Where the two libraries lie that the driver and the toolkit bring: `libcuda` and NVRTC, the compiler at run time.
//!
//! `cudarc` opens them by name, and so finds what the system's loader finds. What lies elsewhere (a toolkit under
//! `CUDA_PATH`, the packages of a Python environment) is opened here first, by its path; then the name finds what is open.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs};

use libloading::Library;

use crate::{Error, Result};

/// A folder with a libcuda.so and a libnvrtc.so, by these names inside too, to be taken in the place of the system's; what is
/// compiled by them is kept there.
const FIRST: &str = "STOP_MIM_CUDA_LIBRARIES";

static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// Looks for both libraries in this folder before all others, as the environment variable `STOP_MIM_CUDA_LIBRARIES` does.
/// Only the first call, before a GPU is opened, has an effect.
pub fn look_first_in(folder: impl Into<PathBuf>) {
    CHOSEN.get_or_init(|| folder.into());
}

/// The folder that is looked in first, if there is one.
pub fn first() -> Option<PathBuf> {
    CHOSEN.get().cloned().or_else(|| env::var_os(FIRST).map(PathBuf::from))
}

/// A library, and how it is spoken of.
struct Wanted {
    /// What its file is called, up to the version.
    stem: &'static str,
    /// What it is.
    what: &'static str,
    /// How one comes by it.
    hint: &'static str,
    /// Whether the system's loader finds it by its name. Unsafe as it loads it, and so runs its code.
    is_found: unsafe fn() -> bool,
}

const DRIVER: Wanted = Wanted {
    stem: if cfg!(windows) { "nvcuda" } else { "libcuda" },
    what: "NVIDIA's driver",
    hint: "install the driver of the graphics card (nvidia-smi must show the card), or compute with the device cpu",
    is_found: cudarc::driver::sys::is_culib_present,
};

const COMPILER: Wanted = Wanted {
    stem: if cfg!(windows) { "nvrtc64" } else { "libnvrtc" },
    what: "NVRTC, the compiler of the CUDA toolkit",
    hint: "install the toolkit and set CUDA_PATH to its folder, or `pip install nvidia-cuda-nvrtc-cu12` into the Python \
           environment that is active",
    is_found: cudarc::nvrtc::sys::is_culib_present,
};

/// Opens both; they stay open as long as the process lives.
///
/// # Errors
/// When one is not found: the error says where it was looked for.
pub fn open() -> Result<()> {
    static OPENED: OnceLock<Result<(), (String, &'static str)>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        find(&DRIVER, &[])?;
        find(&COMPILER, &toolkits())
    });
    opened.clone().map_err(|(problem, hint)| Error::config(problem, hint))
}

/// Opens the compiler alone.
///
/// # Errors
/// When it is not found.
pub fn open_compiler() -> Result<()> {
    find(&COMPILER, &toolkits()).map_err(|(problem, hint)| Error::config(problem, hint))
}

/// Opens a library from one of the folders, the first that has it, unless the system's loader finds it by its name.
fn find(wanted: &Wanted, folders: &[PathBuf]) -> Result<(), (String, &'static str)> {
    let first = first();
    if first.iter().any(|folder| open_in(folder, wanted.stem)) {
        return Ok(());
    }
    // SAFETY: what a library of that name does when it is opened is what its user installed it for.
    if unsafe { (wanted.is_found)() } || folders.iter().any(|folder| open_in(folder, wanted.stem)) {
        return Ok(());
    }
    let mut places: Vec<String> = first.iter().chain(folders).map(|folder| folder.display().to_string()).collect();
    places.insert(0, "the folders of the system's loader (and LD_LIBRARY_PATH)".into());
    Err((format!("{} ({}) was not found; looked in {}", wanted.what, wanted.stem, places.join(", ")), wanted.hint))
}

/// Opens every library in a folder whose name begins so: NVRTC has a second one beside it, that it asks for by name.
fn open_in(folder: &Path, stem: &str) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    // Not libcudart, which is another one.
    let named = |path: &PathBuf| {
        let rest = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(stem));
        rest.is_some_and(|rest| [".so", "-builtins", "_", ".dll"].iter().any(|next| rest.starts_with(next)))
    };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(named).collect();
    paths.retain(|path| !path.to_string_lossy().contains(".alt."));
    paths.sort();
    paths.reverse(); // the newest first, "builtins" after what asks for it
    let mut opened = false;
    for path in paths {
        // SAFETY: as in `find`.
        if let Ok(library) = unsafe { Library::new(&path) } {
            std::mem::forget(library); // never closed again
            opened = true;
        }
    }
    opened
}

/// The folders of toolkits: of `CUDA_PATH` and its like, and of an active Python environment.
fn toolkits() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for toolkit in ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(env::var_os).map(PathBuf::from) {
        folders.extend(["lib64", "lib", "bin", "targets/x86_64-linux/lib"].map(|part| toolkit.join(part)));
    }
    folders.push("/usr/local/cuda/lib64".into());
    for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(env::var_os).map(PathBuf::from) {
        let Ok(versions) = fs::read_dir(environment.join("lib")) else { continue };
        let packages = versions.filter_map(|version| Some(version.ok()?.path().join("site-packages/nvidia")));
        for nvidia in packages.filter(|nvidia| nvidia.is_dir()) {
            folders.extend(["cuda_nvrtc/lib", "cu13/lib", "cu12/lib"].map(|part| nvidia.join(part)));
        }
    }
    folders
}
