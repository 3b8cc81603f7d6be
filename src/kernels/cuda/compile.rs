//! From `.cu` to machine code: by NVRTC, for this GPU's own architecture, the first time a kernel is launched; then from a
//! file, as long as source, options, compiler and driver are the same.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::ffi::{CStr, CString, c_char};
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::{env, fs};

use cudarc::driver::sys::{self, CUfunction, CUmodule, CUresult};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use super::{Gpu, Handle, libraries, lock, must};
use crate::{Error, Result, files};

/// What goes in front of every file: the instructions that C++ has no word for, and sums.
const PRIMITIVES: &str = concat!(include_str!("primitives.cuh"), include_str!("sums.cuh"));

/// The text of a `.cu` file.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// What it is called in messages.
    pub name: &'static str,
    /// What it says.
    pub text: &'static str,
    /// The definitions that it is launched with: all, or those that matter where there are many.
    pub variants: &'static [&'static str],
}

/// A kernel that is ready to be launched.
#[derive(Clone, Copy, Debug)]
pub struct Function(pub(super) Handle<CUfunction>);

/// What was compiled and loaded, by what it is called. A step looks up hundreds, so a search makes no string.
#[derive(Debug, Default)]
pub struct Modules {
    modules: HashMap<&'static str, Vec<(String, Handle<CUmodule>)>>,
    functions: HashMap<(&'static str, &'static str), Vec<(String, Function)>>,
}

/// What is there under these definitions.
fn of<V: Copy>(list: Option<&Vec<(String, V)>>, definitions: &[&str]) -> Option<V> {
    let is = |known: &str| {
        let rest = definitions.iter().try_fold(known, |rest, part| rest.strip_prefix(part));
        rest.is_some_and(str::is_empty)
    };
    list?.iter().find(|(known, _)| is(known)).map(|(_, value)| *value)
}

impl Gpu {
    /// The kernel `name` of a file compiled with these definitions (`"REAL=float"`), in spaces, one part after the other.
    ///
    /// # Panics
    /// When it does not compile or there is no such kernel: that is a mistake in this crate.
    #[track_caller]
    pub(super) fn function(self: &Arc<Self>, source: Source, definitions: &[&str], name: &'static str) -> Function {
        self.enter();
        let mut modules = lock(&self.modules);
        if let Some(function) = of(modules.functions.get(&(source.name, name)), definitions) {
            return function;
        }
        self.stop_capturing(); // what is loaded for the first time may wait for the GPU
        let module = of(modules.modules.get(source.name), definitions).unwrap_or_else(|| {
            let module = self.module(source, &definitions.concat()).unwrap_or_else(|error| panic!("{error}"));
            modules.modules.entry(source.name).or_default().push((definitions.concat(), module));
            module
        });
        let (mut function, c_name) = (std::ptr::null_mut(), CString::new(name).expect("a name without zeros"));
        // SAFETY: the module is loaded and stays so; the name ends with 0.
        let find = || unsafe { sys::cuModuleGetFunction(&mut function, module.0, c_name.as_ptr()) };
        self.must_fit(|| format!("find {name} in {}", source.name), find); // which may load it
        // SAFETY: a function of that module; all that a block may have is allowed to every kernel.
        must("allow shared memory", unsafe {
            let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            sys::cuFuncSetAttribute(function, most, self.shared as i32)
        });
        let function = Function(Handle(function));
        modules.functions.entry((source.name, name)).or_default().push((definitions.concat(), function));
        function
    }

    /// Loads a file, compiled before or now.
    fn module(&self, source: Source, definitions: &str) -> Result<Handle<CUmodule>> {
        let options = options(&architecture(self.capability), definitions);
        let (mut major, mut minor) = (0, 0);
        // SAFETY: it writes two numbers.
        let _ = unsafe { nvrtc_sys::nvrtcVersion(&mut major, &mut minor) };
        let mut key = DefaultHasher::new();
        (PRIMITIVES, source.text, &options, (major, minor), self.driver, &self.name).hash(&mut key);
        let path = cache().map(|folder| folder.join(format!("{}-{:016x}.cubin", source.name, key.finish())));
        let kept = path.as_ref().and_then(|path| fs::read(path).ok());
        if let Some(module) = kept.and_then(|code| load(&code).ok()) {
            return Ok(module); // else it is damaged, or there is no memory, which is said below
        }
        let (code, _) = compile(source, &options)?;
        if let Some(path) = path {
            // Without it, the next process compiles again.
            let _ = path.parent().map(fs::create_dir_all);
            let _ = files::write_whole(&path, &code);
        }
        let mut module = Handle(std::ptr::null_mut());
        let loaded = || match load(&code) {
            Ok(found) => {
                module = found;
                CUresult::CUDA_SUCCESS
            }
            Err(error) => error,
        };
        self.must_fit(|| format!("load {}", source.name), loaded);
        Ok(module)
    }
}

fn load(code: &[u8]) -> Result<Handle<CUmodule>, CUresult> {
    let mut module = std::ptr::null_mut();
    // SAFETY: machine code says itself how long it is. That a file holds what was written is what its name stands for.
    match unsafe { sys::cuModuleLoadData(&mut module, code.as_ptr().cast()) } {
        CUresult::CUDA_SUCCESS => Ok(Handle(module)),
        error => Err(error),
    }
}

/// Where machine code is kept: `$STOP_MIM_CUDA_CACHE`, or beside the libraries that are looked for first, or stop-mim/cuda in
/// the user's folder of caches.
fn cache() -> Option<PathBuf> {
    let of_user = || {
        let home = |part: &str| Some(PathBuf::from(env::var_os("HOME")?).join(part));
        let caches = env::var_os("XDG_CACHE_HOME").or_else(|| env::var_os("LOCALAPPDATA")).map(PathBuf::from);
        Some(caches.or_else(|| home(".cache"))?.join("stop-mim/cuda"))
    };
    env::var_os("STOP_MIM_CUDA_CACHE").map(PathBuf::from).or_else(libraries::first).or_else(of_user)
}

/// The architecture to compile for: that of the GPU itself, with what only Hopper has where it is one.
fn architecture(capability: u32) -> String {
    format!("sm_{capability}{}", if capability == 90 { "a" } else { "" })
}

fn options(architecture: &str, definitions: &str) -> Vec<String> {
    let fixed = [format!("--gpu-architecture={architecture}"), "-std=c++17".into(), "--ptxas-options=-v".into()];
    fixed.into_iter().chain(definitions.split_whitespace().map(|definition| format!("-D{definition}"))).collect()
}

/// What the compiler says of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelReport {
    /// Its file and the definitions of that.
    pub file: String,
    /// Its name.
    pub kernel: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of registers that found no room: 0, or the kernel is slow.
    pub spilled: u32,
}

/// Compiles every kernel for an architecture (`"sm_80"`), with the definitions that it is launched with. Needs the compiler,
/// and no GPU.
///
/// # Errors
/// When NVRTC is not found, or a file does not compile.
pub fn compile_all(architecture: &str) -> Result<Vec<KernelReport>> {
    libraries::open_compiler()?;
    let mut reports = Vec::new();
    let of_hopper = if architecture == self::architecture(90) { super::OF_HOPPER } else { &[] };
    for source in super::SOURCES.iter().chain(of_hopper) {
        for variant in source.variants {
            let (_, log) = compile(*source, &options(architecture, variant))?;
            reports.extend(report(&format!("{} {variant}", source.name), &log));
        }
    }
    Ok(reports)
}

/// What the log says of each kernel: a line with its name, then one with what was spilled, then one with its registers.
fn report(file: &str, log: &str) -> Vec<KernelReport> {
    let before = |line: &str, words: &str| -> Option<u32> {
        line.split_once(words)?.0.rsplit(|c: char| !c.is_ascii_digit()).find(|n| !n.is_empty())?.parse().ok()
    };
    let (mut reports, mut spilled) = (Vec::<KernelReport>::new(), 0);
    let mut name = None;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next().map(str::to_owned);
        } else if let Some(bytes) = before(line, " bytes spill stores") {
            spilled = bytes;
        } else if let Some(registers) = before(line, " registers")
            && let Some(kernel) = name.take()
        {
            reports.push(KernelReport { file: file.to_owned(), kernel, registers, spilled });
        }
    }
    reports
}

/// Machine code, and the compiler's log.
fn compile(source: Source, options: &[String]) -> Result<(Vec<u8>, String)> {
    let failed = |what: &str, log: String| {
        let hint = "this is a mistake in the program or a compiler that it does not know: please report it";
        Error::config(format!("NVRTC cannot {what} {}: {log}", source.name), hint)
    };
    let [text, name] = [format!("{PRIMITIVES}\n#line 1\n{}", source.text), source.name.to_owned()]
        .map(|text| CString::new(text).expect("a text without zeros"));
    let program = nvrtc::create_program(&text, Some(&name)).map_err(|error| failed("read", error.to_string()))?;
    // SAFETY: the program was just made, and is let go once, after its last use; the buffer is as long as it says.
    unsafe {
        let compiled = nvrtc::compile_program(program, options);
        let log = nvrtc::get_program_log(program).unwrap_or_default();
        let log = text_of(&log);
        let unknown = nvrtc_sys::nvrtcResult::NVRTC_ERROR_INVALID_OPTION;
        let code = compiled.map_err(|error| {
            if error.0 == unknown {
                let problem = format!("NVRTC does not know an option of {}: {log}", options.join(" "));
                return Error::config(problem, "it is older than the GPU: install the compiler of a newer toolkit");
            }
            failed("compile", log.clone())
        });
        let code = code.and_then(|()| {
            let mut bytes = 0;
            let size = nvrtc_sys::nvrtcGetCUBINSize(program, &mut bytes);
            size.result().map_err(|error| failed("give code of", error.to_string()))?;
            let mut code = vec![0u8; bytes];
            let got = nvrtc_sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast());
            got.result().map_err(|error| failed("give code of", error.to_string()))?;
            Ok(code)
        });
        let _ = nvrtc::destroy_program(program);
        Ok((code?, log))
    }
}

fn text_of(log: &[c_char]) -> String {
    let bytes: Vec<u8> = log.iter().map(|&c| c as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'forward' for 'sm_80'\n\
            ptxas info    : Function properties for forward\n    \
            8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n\
            ptxas info    : Used 40 registers, used 1 barriers, 376 bytes cmem[0]\n";
        let expected = KernelReport { file: "x".into(), kernel: "forward".into(), registers: 40, spilled: 12 };
        assert_eq!(report("x", log), [expected]);
    }

    #[test]
    fn every_kernel_file_is_listed() {
        let families = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/kernels")).unwrap();
        let folders = families.filter_map(|entry| std::fs::read_dir(entry.unwrap().path()).ok()).flatten();
        let files =
            folders.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "cu"));
        let mut texts: Vec<String> = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let mut listed: Vec<&str> =
            super::super::SOURCES.iter().chain(super::super::OF_HOPPER).map(|source| source.text).collect();
        texts.sort();
        listed.sort();
        assert_eq!(texts, listed);
    }
}
