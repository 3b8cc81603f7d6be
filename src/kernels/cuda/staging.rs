//! Main memory between the program's and a GPU's: *pinned*, so that the GPU copies from and to it by itself while the program
//! goes on. A block is free again when an event behind its copy has happened.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr, CUevent, CUresult};

use super::graph::Node;
use super::memory::size_class;
use super::{Gpu, Handle, OfDriver, lock, must};
use crate::Error;
use crate::kernels::OutOfMemory;

/// What goes through one block at most: more goes through several, one after the other.
const PIECE: usize = 8 << 20;
/// The most pinned memory that is kept: to have all of a computer's pinned does it no good.
const MOST: usize = 256 << 20;

impl OfDriver for *mut u8 {}

/// Some pinned bytes.
#[derive(Debug)]
struct Block {
    at: Handle<*mut u8>,
    bytes: usize,
}

/// The pinned memory of a GPU.
#[derive(Debug, Default)]
pub struct Staging {
    free: BTreeMap<usize, Vec<Block>>,
    /// In copies behind which there is no event yet.
    unmarked: Vec<Block>,
    /// In copies that are done when the event has happened; the oldest first.
    under_way: VecDeque<(Handle<CUevent>, Vec<Block>)>,
    events: Vec<Handle<CUevent>>,
    /// Of all blocks.
    bytes: usize,
}

impl Staging {
    /// An event that nobody waits for.
    fn event(&mut self) -> Handle<CUevent> {
        self.events.pop().unwrap_or_else(|| {
            let (mut event, no_clock) = (null_mut(), sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32);
            // SAFETY: it writes one handle.
            must("make an event", unsafe { sys::cuEventCreate(&mut event, no_clock) });
            Handle(event)
        })
    }

    /// Takes back the blocks of the oldest copies, as far as they are done; `wait`: of the oldest at least.
    #[track_caller]
    fn take_back(&mut self, mut wait: bool) {
        while let Some((event, _)) = self.under_way.front() {
            // SAFETY: it was recorded on a stream that is never closed.
            let happened = unsafe {
                if std::mem::take(&mut wait) { sys::cuEventSynchronize(event.0) } else { sys::cuEventQuery(event.0) }
            };
            if happened == CUresult::CUDA_ERROR_NOT_READY {
                break;
            }
            must("copy from or to main memory", happened);
            let (event, blocks) = self.under_way.pop_front().expect("the one that was looked at");
            self.events.push(event);
            blocks.into_iter().for_each(|block| self.free.entry(block.bytes).or_default().push(block));
        }
    }
}

impl Gpu {
    /// A block of at least so many bytes that no copy uses any more.
    #[track_caller]
    fn block(&self, bytes: usize) -> Block {
        self.enter();
        let class = size_class(bytes);
        loop {
            let mut staging = lock(&self.staging);
            staging.take_back(false);
            if let Some(block) = staging.free.get_mut(&class).and_then(Vec::pop) {
                return block;
            }
            if staging.bytes + class <= MOST {
                break;
            }
            if staging.under_way.is_empty() && staging.unmarked.is_empty() {
                for block in std::mem::take(&mut staging.free).into_values().flatten() {
                    staging.bytes -= block.bytes;
                    // SAFETY: no copy uses it. If the driver refuses, the memory is lost and nothing else.
                    let _ = unsafe { sys::cuMemFreeHost(block.at.0.cast()) };
                }
                break;
            }
            drop(staging);
            must("record an event", self.outside_graphs(|| self.mark_staged()));
            lock(&self.staging).take_back(true);
        }
        let mut at = null_mut();
        // SAFETY: it writes one pointer.
        match unsafe { sys::cuMemHostAlloc(&mut at, class, 0) } {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let problem = format!("{self} finds no {} KiB of main memory that stay where they are", class >> 10);
                let hint = "raise the limit of locked memory (ulimit -l), or end what else uses main memory";
                std::panic::resume_unwind(Box::new(OutOfMemory(Error::config(problem, hint))));
            }
            result => must("give main memory that it reads", result),
        }
        lock(&self.staging).bytes += class;
        Block { at: Handle(at.cast()), bytes: class }
    }

    /// Puts an event behind the copies that have none. The stream must not be capturing: [`Gpu::outside_graphs`].
    #[must_use]
    pub(super) fn mark_staged(&self) -> CUresult {
        let mut staging = lock(&self.staging);
        if staging.unmarked.is_empty() {
            return CUresult::CUDA_SUCCESS;
        }
        let event = staging.event();
        // SAFETY: the stream lives as long as the process.
        let recorded = unsafe { sys::cuEventRecord(event.0, self.stream.0) };
        if recorded == CUresult::CUDA_SUCCESS {
            let blocks = std::mem::take(&mut staging.unmarked);
            staging.under_way.push_back((event, blocks));
        }
        recorded
    }
}

/// Copies bytes to an address on a GPU, in the order of its stream. They may be changed as soon as this returns, which does not
/// wait for the GPU.
///
/// # Safety
/// There are as many at `from`, and there is room for them at `to`.
#[track_caller]
pub unsafe fn upload(gpu: &Gpu, from: *const c_void, bytes: usize, to: CUdeviceptr) {
    gpu.enter();
    for done in (0..bytes).step_by(PIECE) {
        let part = PIECE.min(bytes - done);
        let block = gpu.block(part);
        // SAFETY: the caller's promise, and the block is as long, and used by nobody.
        unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>().add(done), block.at.0, part) };
        // SAFETY: the caller's promise. The block is left alone until an event behind the copy has happened.
        let copy = || unsafe { sys::cuMemcpyHtoDAsync_v2(to + done as u64, block.at.0.cast(), part, gpu.stream.0) };
        must("copy to its memory", gpu.submit(Node::Upload, copy));
        lock(&gpu.staging).unmarked.push(block);
    }
    let graphs = lock(&gpu.graphs);
    if !Gpu::is_capturing(&graphs) {
        must("record an event", gpu.mark_staged()); // a graph is marked when it is launched
    }
}

/// Copies bytes from an address on a GPU, when all that was asked of it before is done.
///
/// # Safety
/// There are as many at `from`.
#[track_caller]
pub unsafe fn download(gpu: &Gpu, from: CUdeviceptr, to: &mut [u8]) {
    gpu.outside_graphs(|| {
        if !to.is_empty() {
            // SAFETY: the caller's promise; the copy is waited for before the target is looked at.
            must("copy from its memory", unsafe {
                sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), gpu.stream.0)
            });
        }
        gpu.finish();
    });
}

/// Bytes of a GPU on their way to main memory.
#[derive(Debug)]
pub struct Reading {
    gpu: Arc<Gpu>,
    block: Option<Block>,
    event: Handle<CUevent>,
    bytes: usize,
}

impl Reading {
    /// Begins to read so many bytes at each of these addresses, one after the other, as they are when all that was asked of the
    /// GPU by now is done.
    ///
    /// # Safety
    /// There are as many at each address; they are not given back to the driver meanwhile.
    #[track_caller]
    pub unsafe fn begin(gpu: &Arc<Gpu>, parts: &[(CUdeviceptr, usize)]) -> Self {
        let bytes = parts.iter().map(|(_, bytes)| bytes).sum();
        let block = gpu.block(bytes);
        let mut at = block.at.0;
        for &(from, bytes) in parts {
            // SAFETY: the caller's promise; the block has room for all parts, and is left alone until the event has happened.
            let copy = || unsafe { sys::cuMemcpyDtoHAsync_v2(at.cast(), from, bytes, gpu.stream.0) };
            must("copy from its memory", gpu.submit(Node::Download, copy));
            // SAFETY: within the block, or one past its end.
            at = unsafe { at.add(bytes) };
        }
        let event = gpu.outside_graphs(|| {
            let event = lock(&gpu.staging).event();
            // SAFETY: the stream lives as long as the process.
            must("record an event", unsafe { sys::cuEventRecord(event.0, gpu.stream.0) });
            event
        });
        Reading { gpu: Arc::clone(gpu), block: Some(block), event, bytes }
    }

    /// Waits until they are there, and for nothing that was asked of the GPU later.
    ///
    /// # Panics
    /// When a kernel failed.
    #[track_caller]
    pub fn wait(&self) -> &[u8] {
        self.gpu.enter();
        // SAFETY: the event was recorded.
        must("finish its work", unsafe { sys::cuEventSynchronize(self.event.0) });
        let block = self.block.as_ref().expect("there until it is dropped");
        // SAFETY: the copies behind which the event stands have written as many, and nobody writes there again.
        unsafe { std::slice::from_raw_parts(block.at.0, self.bytes) }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // Nobody may have waited.
        let block = self.block.take().into_iter().collect();
        lock(&self.gpu.staging).under_way.push_back((self.event, block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::devices;
    use crate::kernels::{Buffer, Device};

    /// Of many copies, and of one that takes more than all the pinned memory there is, each arrives as it was.
    #[test]
    fn main_memory_may_be_used_again_at_once() {
        for device in devices() {
            let Device::Cuda(ordinal) = device else { continue };
            let of = |i: usize, len: usize| vec![i as f32; len];
            let upload =
                || -> Vec<Buffer> { (0..300).map(|i| Buffer::from_vec(of(i, 1 + i * 10)).to_device(device)).collect() };
            for many in [upload(), device.in_one_graph(upload)] {
                for (i, x) in many.iter().enumerate() {
                    assert_eq!(x.to_device(Device::Cpu).as_slice::<f32>("test"), of(i, 1 + i * 10), "{i}");
                }
            }
            let large: Vec<f32> = (0..(MOST + PIECE) / 4 + 3).map(|i| i as f32).collect();
            let there = Buffer::from_vec(large.clone()).to_device(device);
            assert!(there.to_device(Device::Cpu).as_slice::<f32>("test") == large);
            assert!(lock(&Gpu::get(ordinal).staging).bytes <= MOST + PIECE);
        }
    }
}
