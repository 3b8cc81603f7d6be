//! CUDA graphs: what a part of a step asks of the GPU, handed over at once.
//!
//! Inside [`Gpu::in_one_graph`] the stream *captures*: kernels, copies and fills are written down instead of being begun, with
//! their arguments as they are now. At its end the driver gets all of them in one call, and begins each a microsecond after
//! the one before it, where a launch by itself takes the host three. To make a graph ready costs more than to launch its
//! kernels; but one that is ready takes over the arguments and grids of another with the same sequence of kernels
//! (`cuGraphExecUpdate`). Masks change the shapes of every step, and seldom that sequence: so it is the key under which
//! graphs are kept.
//!
//! **Why memory is safe.** Everything is on one stream, in the order in which it was asked for, captured or not: nothing is
//! begun outside of a capture before the captured work was launched ([`Gpu::submit`] and what else begins work hold one
//! lock). So the recycler may hand a dropped piece on to a later kernel, of the same graph or of another, as without graphs.
//! Memory may be taken from the driver during a capture (its mode allows that), but is given back only after
//! [`Gpu::launch_captured`]: to free it waits for the kernels that use it, and those of a capture are not on their way yet.
//!
//! What cannot be in a graph ends it early: who reads a number, or finds no memory, launches what was captured so far, and the
//! rest is another graph; where a kernel is loaded for the first time, the rest of the scope goes without.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ptr::null_mut;
use std::sync::atomic::Ordering;

use cudarc::driver::sys::{self, CUdeviceptr, CUgraph, CUgraphExec, CUresult};

use super::memory::PLAIN;
use super::{Gpu, Handle, OfDriver, is_set, lock, must};

/// If set, there are no graphs: every kernel is launched by itself, so that a debugger sees who asked for it.
const OFF: &str = "STOP_MIM_CUDA_NO_GRAPHS";

/// Graphs that are kept ready: those used last. Some hundred kilobytes each.
const KEPT: usize = 64;

/// What a stream is asked for, as far as one graph differs by it from another that can take its place.
#[derive(Clone, Copy, Debug, Hash)]
pub enum Node {
    /// A kernel, by its handle.
    Kernel(usize),
    /// A copy from main memory.
    Upload,
    /// A copy to main memory.
    Download,
    /// A copy within the GPU's memory.
    Copy,
    /// A fill.
    Set,
}

/// The graphs of a GPU, and the one that is being captured.
#[derive(Debug, Default)]
pub struct Graphs {
    /// Scopes that are open, of any thread.
    scopes: usize,
    /// Whether the scopes that are open go on without.
    barred: bool,
    /// The sequence captured so far.
    capture: Option<DefaultHasher>,
    /// The one used last is the last.
    ready: Vec<Ready>,
    /// Memory for graphs, where tensors have taken all the rest.
    reserve: Option<CUdeviceptr>,
}

impl Graphs {
    /// None yet. The reserve is there if there is room for it.
    pub(super) fn new() -> Self {
        const RESERVE: usize = 32 << 20;
        let mut reserve = 0;
        // SAFETY: it writes one pointer.
        let taken = unsafe { sys::cuMemAlloc_v2(&mut reserve, RESERVE) };
        Graphs { reserve: (taken == CUresult::CUDA_SUCCESS).then_some(reserve), ..Graphs::default() }
    }
}

/// A graph that can be launched.
#[derive(Debug)]
struct Ready {
    /// Of its nodes.
    sequence: u64,
    graph: Handle<CUgraphExec>,
}

impl OfDriver for CUgraphExec {}

impl Drop for Ready {
    fn drop(&mut self) {
        // SAFETY: nobody else has it; if it still runs, the driver lets go of it afterwards.
        let _ = unsafe { sys::cuGraphExecDestroy(self.graph.0) };
    }
}

/// As long as it lives, the stream captures.
struct Scope<'a>(&'a Gpu);

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        let mut graphs = lock(&self.0.graphs);
        // Empty, unless a panic came: then what was asked for before it is done, if that is possible.
        let _ = self.0.hand_over(&mut graphs);
        graphs.scopes -= 1;
        graphs.barred &= graphs.scopes > 0;
    }
}

impl Gpu {
    /// What `work` gives. What it asks of the GPU, from this thread or others, is handed over in one graph, at the end, or in
    /// as few as it can be. Not while kernels are [timed](Self::start_timing): no clock looks into a graph.
    ///
    /// # Panics
    /// As launches do; when there is no memory for the graph it unwinds to [`within_memory`](crate::kernels::within_memory),
    /// and what was captured is not done.
    #[track_caller]
    pub(in crate::kernels) fn in_one_graph<R>(&self, work: impl FnOnce() -> R) -> R {
        const UPDATE_V2: i32 = 12_000;
        let timed = self.timing.load(Ordering::SeqCst);
        if timed || is_set(OFF) || is_set(PLAIN) || self.driver < UPDATE_V2 {
            return work();
        }
        self.enter();
        lock(&self.graphs).scopes += 1;
        let _scope = Scope(self);
        let result = work();
        self.launch_captured();
        result
    }

    /// Gives the stream something to do: `call` hands it to the driver, or into the graph that is captured.
    pub(super) fn submit(&self, node: Node, call: impl FnOnce() -> CUresult) -> CUresult {
        self.enter();
        let mut graphs = lock(&self.graphs);
        if graphs.scopes > 0 && !graphs.barred && graphs.capture.is_none() {
            // Memory and modules may be asked for meanwhile: see above for why that is safe.
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
            // SAFETY: the stream lives as long as the process, and is not capturing.
            must("begin a graph", unsafe { sys::cuStreamBeginCapture_v2(self.stream.0, mode) });
            graphs.capture = Some(DefaultHasher::new());
        }
        let result = call();
        if let (Some(sequence), CUresult::CUDA_SUCCESS) = (&mut graphs.capture, result) {
            node.hash(sequence);
        }
        result
    }

    /// Calls `work` while the stream captures nothing, once all that was captured is launched: for what waits, and for events.
    #[track_caller]
    pub(super) fn outside_graphs<R>(&self, work: impl FnOnce() -> R) -> R {
        self.enter();
        let mut graphs = lock(&self.graphs);
        if let Err((what, error)) = self.hand_over(&mut graphs) {
            drop(graphs);
            self.fails(what, error);
        }
        work()
    }

    /// Launches what was captured so far.
    #[track_caller]
    pub(super) fn launch_captured(&self) {
        self.outside_graphs(|| {});
    }

    /// The same, and the scopes that are open go on without graphs.
    #[track_caller]
    pub(in crate::kernels) fn stop_capturing(&self) {
        self.launch_captured();
        let mut graphs = lock(&self.graphs);
        graphs.barred = graphs.scopes > 0;
    }

    /// Whether something was captured that is not launched yet.
    pub(super) fn is_capturing(graphs: &Graphs) -> bool {
        graphs.capture.is_some()
    }

    /// Ends the capture, if there is one, and launches it.
    fn hand_over(&self, graphs: &mut Graphs) -> Result<(), (&'static str, CUresult)> {
        let Some(sequence) = graphs.capture.take().map(|sequence| sequence.finish()) else { return Ok(()) };
        let ok = |what, result| if result == CUresult::CUDA_SUCCESS { Ok(()) } else { Err((what, result)) };
        let mut captured = null_mut();
        // SAFETY: the stream is capturing; the driver writes one handle.
        ok("end a graph", unsafe { sys::cuStreamEndCapture(self.stream.0, &mut captured) })?;
        let ready = self.ready(graphs, sequence, captured);
        // SAFETY: it was just made, and what was made ready of it is a copy.
        let _ = unsafe { sys::cuGraphDestroy(captured) };
        let ready = ready.map_err(|error| ("make a graph ready", error))?;
        // SAFETY: memory that its nodes use is allocated: see the head of this file.
        let launched = unsafe { sys::cuGraphLaunch(ready.graph.0, self.stream.0) };
        graphs.ready.push(ready);
        if graphs.ready.len() > KEPT {
            graphs.ready.remove(0);
        }
        ok("launch a graph", launched)?;
        ok("record an event", self.mark_staged())
    }

    /// What was captured, ready to be launched: one of the same sequence that takes over its arguments, or a new one.
    fn ready(&self, graphs: &mut Graphs, sequence: u64, captured: CUgraph) -> Result<Ready, CUresult> {
        if let Some(at) = graphs.ready.iter().position(|ready| ready.sequence == sequence) {
            let ready = graphs.ready.remove(at);
            // SAFETY: all three are there, and only the last is written to. A launch before, though it still runs, is not
            // touched.
            let updated = unsafe {
                let mut info = std::mem::zeroed();
                sys::cuGraphExecUpdate_v2(ready.graph.0, captured, &mut info)
            };
            if updated == CUresult::CUDA_SUCCESS {
                return Ok(ready);
            }
        }
        let instantiate = || {
            let mut graph = null_mut();
            // SAFETY: the driver writes one handle.
            match unsafe { sys::cuGraphInstantiateWithFlags(&mut graph, captured, 0) } {
                CUresult::CUDA_SUCCESS => Ok(Ready { sequence, graph: Handle(graph) }),
                error => Err(error),
            }
        };
        instantiate().or_else(|error| {
            if error != CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                return Err(error);
            }
            graphs.ready.clear();
            instantiate().or_else(|error| {
                // Pieces that are kept cannot be given back now: what was captured may use them.
                let Some(reserve) = graphs.reserve.take() else { return Err(error) };
                // SAFETY: nobody else has it.
                let _ = unsafe { sys::cuMemFree_v2(reserve) };
                instantiate()
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::kernels::testing::devices;
    use crate::kernels::{Buffer, DType, Device, elementwise};

    fn read(x: &Buffer) -> Vec<f32> {
        x.to_device(Device::Cpu).as_slice::<f32>("test").to_vec()
    }

    #[test]
    fn what_is_read_in_a_graph_is_done_and_the_rest_is_another() {
        for device in devices() {
            let x = Buffer::from_vec(vec![1.0f32, 2.0, 3.0]).to_device(device);
            for _ in 0..3 {
                let (middle, end) = device.in_one_graph(|| {
                    let double = elementwise::scale(&x, 2.0);
                    let middle = read(&double);
                    let mut end = device.in_one_graph(|| elementwise::scale(&double, 3.0));
                    elementwise::accumulate(&mut end, &Buffer::full(3, 0.5, DType::F32, device));
                    (middle, end)
                });
                assert_eq!((middle, read(&end)), (vec![2.0, 4.0, 6.0], vec![6.5, 12.5, 18.5]), "{device}");
            }
        }
    }

    /// What was asked for before a panic is done, and graphs go on.
    #[test]
    fn a_panic_ends_the_graph() {
        for device in devices() {
            let x = Buffer::from_vec(vec![1.0f32, 2.0]).to_device(device);
            let mut sum = x.clone();
            let panics = || {
                device.in_one_graph(|| {
                    elementwise::accumulate(&mut sum, &x);
                    panic!("as asked");
                })
            };
            catch_unwind(AssertUnwindSafe(panics)).unwrap_err();
            assert_eq!(read(&sum), [2.0, 4.0], "{device}");
            assert_eq!(read(&device.in_one_graph(|| elementwise::scale(&sum, 2.0))), [4.0, 8.0], "{device}");
        }
    }

    #[test]
    fn only_so_many_graphs_are_kept() {
        for device in devices() {
            let Device::Cuda(ordinal) = device else { continue };
            let x = Buffer::from_vec(vec![1.0f32]).to_device(device);
            for length in 1..KEPT + 20 {
                let sum = device.in_one_graph(|| {
                    let mut sum = x.clone();
                    (0..length).for_each(|_| elementwise::accumulate(&mut sum, &x));
                    sum
                });
                assert_eq!(read(&sum), [1.0 + length as f32]);
            }
            let gpu = Gpu::get(ordinal);
            assert!((1..=KEPT).contains(&lock(&gpu.graphs).ready.len()));
        }
    }
}
