//! From `.cu` to machine code: by NVRTC, for this GPU's own architecture, the first time a kernel is launched; then from a
//! file, as long as source, options, compiler and driver are the same.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::ffi::{CStr, CString, c_char};
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::{env, fs};

use cudarc::driver::sys::{self, CUfunction, CUmodule};
use cudarc::nvrtc::{result as nvrtc, sys as nvrtc_sys};

use super::{Gpu, Handle, check, libraries, lock, must};
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
}

/// A kernel that is ready: what the driver launches, and the most dynamic shared memory that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Function(pub(super) Handle<CUfunction>);

/// What was compiled and loaded: modules by file and options, kernels by name in them.
#[derive(Debug, Default)]
pub struct Modules {
    modules: HashMap<(&'static str, String), Handle<CUmodule>>,
    functions: HashMap<(&'static str, String, &'static str), Function>,
}

impl Gpu {
    /// The kernel `name` of a file compiled with these definitions (`"REAL=float"`), in spaces.
    ///
    /// # Panics
    /// When it does not compile or there is no such kernel: that is a mistake in this crate.
    #[track_caller]
    pub(super) fn function(self: &Arc<Self>, source: Source, definitions: &str, name: &'static str) -> Function {
        self.enter();
        let mut modules = lock(&self.modules);
        let key = (source.name, definitions.to_owned(), name);
        if let Some(function) = modules.functions.get(&key) {
            return *function;
        }
        let module = match modules.modules.get(&(source.name, definitions.to_owned())) {
            Some(module) => *module,
            None => {
                let module = self.module(source, definitions).unwrap_or_else(|error| panic!("{error}"));
                modules.modules.insert((source.name, definitions.to_owned()), module);
                module
            }
        };
        let (mut function, c_name) = (std::ptr::null_mut(), CString::new(name).expect("a name without zeros"));
        // SAFETY: the module is loaded and stays so; the name ends with 0.
        must(&format!("find {name} in {}", source.name), unsafe {
            sys::cuModuleGetFunction(&mut function, module.0, c_name.as_ptr())
        });
        // SAFETY: a function of that module; all that a block may have is allowed to every kernel.
        must("allow shared memory", unsafe {
            let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            sys::cuFuncSetAttribute(function, most, self.shared as i32)
        });
        let function = Function(Handle(function));
        modules.functions.insert(key, function);
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
            return Ok(module);
        }
        let Compiled { code, .. } = compile(source, &options)?;
        if let Some(path) = path {
            // Without it, the next process compiles again.
            let _ = path.parent().map(fs::create_dir_all);
            let _ = files::write_whole(&path, &code);
        }
        load(&code)
    }
}

fn load(code: &[u8]) -> Result<Handle<CUmodule>> {
    let mut module = std::ptr::null_mut();
    // SAFETY: machine code says itself how long it is. That a file holds what was written is what its name stands for.
    check("load a kernel", unsafe { sys::cuModuleLoadData(&mut module, code.as_ptr().cast()) })?;
    Ok(Handle(module))
}

/// Where machine code is kept: `$STOP_MIM_CUDA_CACHE`, or stop-mim/cuda in the user's folder of caches.
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

/// Machine code, and what the compiler says of it: registers and spills of each kernel.
#[derive(Debug)]
pub struct Compiled {
    /// For `cuModuleLoadData`.
    pub code: Vec<u8>,
    /// The compiler's log.
    pub log: String,
}

fn compile(source: Source, options: &[String]) -> Result<Compiled> {
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
        let code = compiled.map_err(|_| failed("compile", log.clone())).and_then(|()| {
            let mut bytes = 0;
            let size = nvrtc_sys::nvrtcGetCUBINSize(program, &mut bytes);
            size.result().map_err(|error| failed("give code of", error.to_string()))?;
            let mut code = vec![0u8; bytes];
            let got = nvrtc_sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast());
            got.result().map_err(|error| failed("give code of", error.to_string()))?;
            Ok(code)
        });
        let _ = nvrtc::destroy_program(program);
        Ok(Compiled { code: code?, log })
    }
}

fn text_of(log: &[c_char]) -> String {
    let bytes: Vec<u8> = log.iter().map(|&c| c as u8).collect();
    CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().trim().to_owned()).unwrap_or_default()
}
