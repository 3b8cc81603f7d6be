//! The device of tests of the CUDA kernels: the GPU of this machine, or else a CPU that plays one (driver.cpp and nvrtc.cpp,
//! built here by the machine's C++ compiler). With neither, those tests say that they were skipped.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use stop_mim::Device;
use stop_mim::kernels::cuda::look_first_in;

/// What stands in for the driver and the compiler: all files of this folder that they are made of.
const SOURCES: &[&str] = &["device.h", "driver.cpp", "fibers.h", "nvrtc.cpp", "primitives_on_cpu.h", "runtime.h"];

/// If set, the CPU is taken although there is a GPU.
const FORCED: &str = "STOP_MIM_CUDA_ON_CPU";

/// Where the libraries of the device of tests lie.
#[derive(Clone, Debug)]
pub enum Libraries {
    /// Where the system has them.
    OfGpu,
    /// In this folder.
    OnCpu(PathBuf),
}

/// The libraries to open; `None`, and a line that says so: there is no GPU, and no compiler to build what plays one.
pub fn libraries() -> Option<Libraries> {
    static FOUND: OnceLock<Option<Libraries>> = OnceLock::new();
    let find = || {
        let gpu = Path::new("/dev/nvidiactl").exists() && env::var_os(FORCED).is_none();
        if gpu { Some(Libraries::OfGpu) } else { build().map(Libraries::OnCpu) }
    };
    let found = FOUND.get_or_init(find).clone();
    if found.is_none() {
        println!("skipped: there is no NVIDIA GPU here, and no g++ or clang++ to build what plays one");
    }
    found
}

/// The first device of tests, if there is one, ready to be opened.
pub fn device() -> Option<Device> {
    if let Libraries::OnCpu(folder) = libraries()? {
        look_first_in(folder);
    }
    Some(Device::Cuda(0))
}

/// Builds both libraries, unless they lie there already.
///
/// # Panics
/// When they do not compile.
fn build() -> Option<PathBuf> {
    let compiler = env::var("CXX").ok().into_iter().chain(["g++".into(), "clang++".into()]);
    let works = |c: &String| Command::new(c).arg("--version").output().is_ok_and(|output| output.status.success());
    let compiler = compiler.into_iter().find(works)?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_on_cpu");
    if !here.exists() {
        return None; // a test that was built elsewhere
    }
    let mut key = DefaultHasher::new();
    (&compiler, &here).hash(&mut key);
    SOURCES.iter().for_each(|file| fs::read(here.join(file)).unwrap().hash(&mut key));
    // Beside this test in the target folder: nobody else's, and gone with it.
    let folder = env::current_exe().unwrap().with_file_name(format!("cuda-on-cpu-{:016x}", key.finish()));
    if folder.join("libnvrtc.so").exists() {
        return Some(folder);
    }
    // Built aside and moved there, for other tests may do the same at this moment.
    let aside = tempfile::tempdir_in(folder.parent().unwrap()).unwrap();
    for (library, file) in [("libcuda.so", "driver.cpp"), ("libnvrtc.so", "nvrtc.cpp")] {
        let output = Command::new(&compiler)
            .args(["-O2", "-shared", "-fPIC", "-std=c++17", "-pthread"])
            .arg(format!("-Wl,-soname,{library}"))
            .arg(format!("-DSOURCE_DIR=\"{}\"", here.display()))
            .arg("-o")
            .arg(aside.path().join(library))
            .arg(here.join(file))
            .args(["-ldl"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
    fs::create_dir_all(&folder).unwrap();
    // The one that is looked for last.
    for library in ["libcuda.so", "libnvrtc.so"] {
        fs::rename(aside.path().join(library), folder.join(library)).unwrap();
    }
    Some(folder)
}
