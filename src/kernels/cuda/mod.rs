//! NVIDIA GPUs: what lies under `cuda.rs` and the `.cu` file of each family.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | a [`Gpu`]: opened once, one stream of work |
//! | `libraries.rs` | finds the driver and the compiler |
//! | `compile.rs` | `.cu` to machine code, kept on disk |
//! | `memory.rs` | memory of a GPU, and its recycler |
//! | `staging.rs` | copies from and to main memory |
//! | `launch.rs` | a kernel with its grid and its arguments |
//! | `graph.rs` | many launches in one call |
//! | `timing.rs` | how long each kernel takes |
//! | `primitives.cuh` | the instructions that C++ has no word for, one function each |
//!
//! Everything that a GPU does for this process is on one stream, in the order in which it was asked for. So memory that a
//! kernel still uses may be given to the next one at once, and only who reads a number out waits.

mod compile;
mod graph;
mod launch;
mod libraries;
mod memory;
mod staging;
mod timing;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cudarc::driver::sys::{self, CUcontext, CUdevice_attribute as Attribute, CUresult, CUstream};

pub(super) use compile::Source;
pub use compile::{KernelReport, compile_all};
pub(super) use launch::{
    Argument, Block, COUNTERS, Grid, Launch, Pointer, StoredView, StoredViewMut, View, ViewMut, argument, counters,
    or_null,
};
pub use libraries::look_first_in;
pub(super) use memory::{Memory, bytes, bytes_mut};
pub(super) use staging::Reading;
pub use timing::{KernelTime, KernelTimes};

use crate::{Error, Result};

/// A GPU that is open.
#[derive(Debug)]
pub struct Gpu {
    ordinal: usize,
    context: Handle<CUcontext>,
    stream: Handle<CUstream>,
    /// Its name, as the driver has it.
    pub name: String,
    /// Its compute capability: 90 for 9.0.
    pub capability: u32,
    /// Its multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of shared memory that a block may have.
    pub shared: u32,
    /// The driver's version, as in 12080.
    driver: i32,
    modules: Mutex<compile::Modules>,
    memory: Mutex<memory::Pool>,
    staging: Mutex<staging::Staging>,
    graphs: Mutex<graph::Graphs>,
    /// Whether launches are timed, and those that were.
    timing: AtomicBool,
    timed: Mutex<Vec<timing::Timed>>,
}

/// A pointer of the driver's, which any thread may use.
#[derive(Clone, Copy, Debug)]
struct Handle<T>(T);

/// The handles of the driver.
trait OfDriver {}
impl OfDriver for CUcontext {}
impl OfDriver for CUstream {}
impl OfDriver for sys::CUmodule {}
impl OfDriver for sys::CUfunction {}
impl OfDriver for sys::CUevent {}

// SAFETY: these handles belong to the process, and the driver's functions may be called with them from any thread.
unsafe impl<T: OfDriver> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T: OfDriver> Sync for Handle<T> {}

/// Checks what a function of the driver says while a GPU is opened.
fn check(what: &str, result: CUresult) -> Result<()> {
    check_with("nvidia-smi must list the GPU; if it does not, its driver has to be installed anew", what, result)
}

/// Checks what a function of the driver says. `hint` is what to do if that is an error.
fn check_with(hint: &str, what: &str, result: CUresult) -> Result<()> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text = std::ptr::null();
    // SAFETY: on success the driver has set `text` to a string of its own that is never freed.
    let text = unsafe {
        match sys::cuGetErrorString(result, &mut text) {
            CUresult::CUDA_SUCCESS if !text.is_null() => CStr::from_ptr(text).to_string_lossy().into_owned(),
            _ => format!("{result:?}"),
        }
    };
    Err(Error::config(format!("the GPU cannot {what}: {text}"), hint))
}

/// The same for what can only fail when a kernel did, or the GPU is gone.
#[track_caller]
pub(super) fn must(what: &str, result: CUresult) {
    let hint = "run again with CUDA_LAUNCH_BLOCKING=1 to see where it comes from; compute-sanitizer says more";
    check_with(hint, what, result).unwrap_or_else(|error| panic!("{error}"));
}

thread_local! {
    /// The GPU that this thread's calls of the driver mean.
    static HERE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The GPUs that were opened.
fn opened() -> MutexGuard<'static, BTreeMap<usize, Arc<Gpu>>> {
    static OPENED: Mutex<BTreeMap<usize, Arc<Gpu>>> = Mutex::new(BTreeMap::new());
    // A panic while one was opened leaves the others as they were.
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// The GPU with this number, opened when it is first asked for.
    ///
    /// # Errors
    /// When the driver, the compiler or the GPU is not there; the error says what was looked for and where.
    pub fn open(ordinal: usize) -> Result<Arc<Gpu>> {
        let mut opened = opened();
        if let Some(gpu) = opened.get(&ordinal) {
            return Ok(Arc::clone(gpu));
        }
        let gpu = Arc::new(Gpu::new(ordinal)?);
        opened.insert(ordinal, Arc::clone(&gpu));
        Ok(gpu)
    }

    /// [`open`](Self::open) for who computes there already.
    ///
    /// # Panics
    /// When it cannot be opened, with what the error says.
    #[track_caller]
    pub(super) fn get(ordinal: usize) -> Arc<Gpu> {
        Gpu::open(ordinal).unwrap_or_else(|error| panic!("{error}"))
    }

    fn new(ordinal: usize) -> Result<Gpu> {
        libraries::open()?;
        let (mut count, mut device, mut driver) = (0, 0, 0);
        // SAFETY: each writes one number where it is told to; the order is the one that the driver asks for.
        unsafe {
            check("be used", sys::cuInit(0))?;
            check("be counted", sys::cuDeviceGetCount(&mut count))?;
            check("say its version", sys::cuDriverGetVersion(&mut driver))?;
        }
        if ordinal >= count as usize {
            let (problem, hint) =
                (format!("there is no GPU {ordinal}: the driver knows {count}"), "nvidia-smi lists them");
            return Err(Error::config(problem, hint));
        }
        let (mut context, mut stream, mut name) = (std::ptr::null_mut(), std::ptr::null_mut(), [0; 256]);
        // SAFETY: there is such a device; each function writes one value, and at most 256 bytes of name with its end.
        let name = unsafe {
            check("be found", sys::cuDeviceGet(&mut device, ordinal as i32))?;
            check("say its name", sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device))?;
            check("be opened", sys::cuDevicePrimaryCtxRetain(&mut context, device))?;
            check("be used by this thread", sys::cuCtxSetCurrent(context))?;
            check(
                "make a stream",
                sys::cuStreamCreate(&mut stream, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32),
            )?;
            CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
        };
        HERE.set(Some(ordinal));
        let attribute = |of: Attribute| {
            let mut value = 0;
            // SAFETY: it writes one number.
            check("describe itself", unsafe { sys::cuDeviceGetAttribute(&mut value, of, device) })?;
            Ok::<_, Error>(value as u32)
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let gpu = Gpu {
            ordinal,
            context: Handle(context),
            stream: Handle(stream),
            name,
            capability: 10 * major + minor,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            driver,
            modules: Mutex::default(),
            memory: Mutex::default(),
            staging: Mutex::default(),
            graphs: Mutex::new(graph::Graphs::new()),
            timing: AtomicBool::new(false),
            timed: Mutex::default(),
        };
        if gpu.capability < OLDEST {
            let problem = format!("{} has compute capability {major}.{minor}, the kernels need 8.0", gpu.name);
            return Err(Error::config(problem, "they are for Ampere (2020) and later"));
        }
        Ok(gpu)
    }

    /// Its number.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Makes it the one that this thread's calls of the driver mean.
    fn enter(&self) {
        if HERE.get() != Some(self.ordinal) {
            // SAFETY: the context lives as long as the process.
            must("be used by this thread", unsafe { sys::cuCtxSetCurrent(self.context.0) });
            HERE.set(Some(self.ordinal));
        }
    }

    /// Waits until all that was asked of it is done.
    ///
    /// # Panics
    /// When a kernel failed.
    #[track_caller]
    pub fn wait(&self) {
        self.outside_graphs(|| self.finish());
    }

    #[track_caller]
    fn finish(&self) {
        // SAFETY: the stream lives as long as the process.
        must("finish its work", unsafe { sys::cuStreamSynchronize(self.stream.0) });
    }

    /// Bytes that are free, and all that there are.
    pub fn free_and_total(&self) -> (usize, usize) {
        self.enter();
        let (mut free, mut total) = (0, 0);
        // SAFETY: it writes two numbers.
        must("say how much memory is free", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) });
        (free, total)
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} ({})", self.ordinal, self.name)
    }
}

/// Every file of kernels.
const SOURCES: &[Source] = &[
    super::attention::cuda::SOURCE,
    super::attention::cuda::tensor_cores::SOURCE,
    super::elementwise::cuda::SOURCE,
    super::layer_norm::cuda::SOURCE,
    super::loss::cuda::SOURCE,
    super::matmul::cuda::SOURCE,
    super::matmul::cuda::tensor_cores::SOURCE,
    super::optim::cuda::SOURCE,
    super::reduce::cuda::SOURCE,
    super::softmax::cuda::SOURCE,
    super::tokens::cuda::SOURCE,
];

/// Those that compile for Hopper alone, compute capability 9.0.
const OF_HOPPER: &[Source] = &[super::matmul::cuda::hopper::SOURCE];

/// The variants of a file for elements of both types.
pub(super) const BOTH_REALS: &[&str] = &["REAL=float", "REAL=double"];

/// The same, and f32 with what only products read in bf16.
pub(super) const REALS_AND_STORED: &[&str] = &["REAL=float", "REAL=double", "REAL=float STORED=u16"];

/// The least compute capability: `cp.async`, and `mma` of bf16 and tf32.
const OLDEST: u32 = 80;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The tables are whole between two calls, so that a panic elsewhere cannot have broken them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an environment variable is set and not empty.
fn is_set(name: &'static str) -> bool {
    static SET: OnceLock<Mutex<BTreeMap<&'static str, bool>>> = OnceLock::new();
    let is_set = || std::env::var_os(name).is_some_and(|value| !value.is_empty());
    *lock(SET.get_or_init(Mutex::default)).entry(name).or_insert_with(is_set)
}
