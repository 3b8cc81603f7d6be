//! Memory of a GPU, and its recycler: a dropped piece goes to a list of its size, and the next one of that size is it.
//!
//! All work is on one stream, so a piece can be given away while the kernel that last used it still runs: whoever gets it
//! comes after. To take memory from the driver costs as much as twenty kernels, to give it back waits for all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdeviceptr, CUresult};

use super::graph::Node;
use super::staging::{Reading, download, upload};
use super::{Argument, Gpu, is_set, lock, must};
use crate::Error;
use crate::kernels::{Device, Element, OutOfMemory, Real};

/// If set, every piece is an allocation of its own, of just its size, given back at once: what compute-sanitizer needs in
/// order to see a kernel that reaches past the end of a tensor.
pub const PLAIN: &str = "STOP_MIM_CUDA_PLAIN_MEMORY";

/// Some bytes of a GPU. When dropped they go to its recycler.
#[derive(Debug)]
pub struct Memory {
    gpu: Arc<Gpu>,
    pointer: CUdeviceptr,
    bytes: usize,
}

/// What a GPU's recycler keeps, by size, and what is in use.
#[derive(Debug, Default)]
pub struct Pool {
    free: BTreeMap<usize, Vec<CUdeviceptr>>,
    kept: usize,
    used: usize,
}

/// Numbers as the bytes that they are.
pub fn bytes<N: Number>(numbers: &[N]) -> &[u8] {
    // SAFETY: numbers have no padding, and any byte may be looked at.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// Numbers as bytes, to write.
pub fn bytes_mut<N: Number>(numbers: &mut [N]) -> &mut [u8] {
    // SAFETY: numbers have no padding, and any bytes make one.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}

impl Gpu {
    /// A table of arguments on the GPU, for a kernel that takes many.
    pub(in crate::kernels) fn table<A: Argument>(self: &Arc<Self>, table: &[A]) -> Memory {
        let memory = Memory::new(Arc::clone(self), size_of_val(table));
        // SAFETY: the piece was made for them.
        unsafe { upload(self, table.as_ptr().cast(), size_of_val(table), memory.pointer) };
        memory
    }

    /// A call of the driver that may find no memory: then what the recycler keeps is given back, and it is tried again.
    ///
    /// # Panics
    /// When there is no memory nevertheless: unwinds to [`within_memory`](crate::kernels::within_memory), with what is in
    /// use. When it fails otherwise.
    #[track_caller]
    pub(super) fn must_fit(&self, what: impl Fn() -> String, mut call: impl FnMut() -> CUresult) {
        let mut result = call();
        if result == CUresult::CUDA_ERROR_OUT_OF_MEMORY && lock(&self.memory).kept > 0 {
            // What is kept may be used by kernels that are captured and not on their way.
            self.outside_graphs(|| lock(&self.memory).give_back());
            result = call();
        }
        if result != CUresult::CUDA_SUCCESS {
            self.fails(&what(), result);
        }
    }

    /// Unwinds from a call of the driver that failed: as [`must_fit`](Self::must_fit) says.
    #[track_caller]
    pub(super) fn fails(&self, what: &str, result: CUresult) {
        if result == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            let ((free, total), used) = (self.free_and_total(), lock(&self.memory).used);
            let [used, free, total] = [used, free, total].map(|bytes| bytes as f64 / f64::from(1 << 20));
            let problem = format!(
                "{self} has no memory to {what}: {used:.0} MiB are in use here, {free:.0} of {total:.0} MiB are free"
            );
            let hint = "take a smaller batch or model, or end what else uses the GPU (nvidia-smi shows it)";
            std::panic::resume_unwind(Box::new(OutOfMemory(Error::config(problem, hint))));
        }
        must(what, result);
    }
}

/// A number: without padding, and whatever its bits are.
///
/// # Safety
/// It is so.
pub unsafe trait Number {}

// SAFETY: the element types are f32, f64 and bf16, and no other can be added outside.
unsafe impl<T: Element> Number for T {}
// SAFETY: a number.
unsafe impl Number for u32 {}

/// The size of the piece that `bytes` are given: at most an eighth above, so that sizes that vary a little share pieces.
pub fn size_class(bytes: usize) -> usize {
    let step = (bytes.next_power_of_two() / 16).max(512);
    bytes.max(1).div_ceil(step) * step
}

impl Memory {
    /// `bytes` of unspecified content.
    ///
    /// # Panics
    /// When there is no more: unwinds to [`within_memory`](crate::kernels::within_memory), with what is in use.
    #[track_caller]
    pub fn new(gpu: Arc<Gpu>, bytes: usize) -> Self {
        let class = if is_set(PLAIN) { bytes.max(1) } else { size_class(bytes) };
        gpu.enter();
        let kept = lock(&gpu.memory).take(class);
        if let Some(pointer) = kept {
            return Memory { gpu, pointer, bytes: class };
        }
        let mut pointer = 0;
        // SAFETY: it writes one pointer.
        let take = || unsafe { sys::cuMemAlloc_v2(&mut pointer, class) };
        gpu.must_fit(|| format!("give {} MiB", class.div_ceil(1 << 20)), take);
        lock(&gpu.memory).used += class;
        Memory { gpu, pointer, bytes: class }
    }

    /// These indices on a device, which must be a GPU.
    #[track_caller]
    pub fn of_indices(device: Device, indices: &[u32]) -> Self {
        let Device::Cuda(ordinal) = device else { panic!("of_indices: on {device}, which is no GPU") };
        let mut memory = Memory::new(Gpu::get(ordinal), size_of_val(indices));
        memory.upload(bytes(indices));
        memory
    }

    /// Its first `len` elements become `value`.
    pub fn fill<T: Real>(&mut self, len: usize, value: T) {
        let words = size_of::<T>() / 4;
        let pattern: Vec<u32> =
            bytes(&[value]).chunks(4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]])).collect();
        if pattern.iter().all(|word| *word == pattern[0]) {
            self.set(pattern[0], len * words);
        } else {
            self.upload(bytes(&vec![value; len])); // of f64 all but 0 and NaN
        }
    }

    /// Where it lies.
    pub fn pointer(&self) -> CUdeviceptr {
        self.pointer
    }

    /// Whose it is.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Writes these bytes to its beginning. They may be changed as soon as this returns.
    ///
    /// # Panics
    /// When they are more than it has.
    #[track_caller]
    pub fn upload(&mut self, from: &[u8]) {
        assert!(from.len() <= self.bytes, "upload: {} bytes into {}", from.len(), self.bytes);
        // SAFETY: there is room, as was just checked.
        unsafe { upload(&self.gpu, from.as_ptr().cast(), from.len(), self.pointer) };
    }

    /// Reads its first bytes, when all that was asked of the GPU before is done.
    ///
    /// # Panics
    /// When more are asked for than it has, or a kernel failed.
    #[track_caller]
    pub fn download(&self, to: &mut [u8]) {
        assert!(to.len() <= self.bytes, "download: {} bytes of {}", to.len(), self.bytes);
        // SAFETY: there are as many, as was just checked.
        unsafe { download(&self.gpu, self.pointer, to) };
    }

    /// Begins to read the first bytes of some pieces, one piece after the other; they may be dropped at once.
    ///
    /// # Panics
    /// When more are asked for than there are, or not all are of one GPU.
    #[track_caller]
    pub fn begin_reading(pieces: &[(&Memory, usize)]) -> Option<Reading> {
        let gpu = &pieces.first()?.0.gpu;
        let fits = |(piece, bytes): &(&Memory, usize)| *bytes <= piece.bytes && piece.gpu.ordinal == gpu.ordinal;
        assert!(pieces.iter().all(fits), "begin_reading: more than there is, or on two GPUs");
        let parts: Vec<_> = pieces.iter().map(|(piece, bytes)| (piece.pointer, *bytes)).collect();
        // SAFETY: as was just checked. A piece that is dropped stays allocated until the stream has come past the copy.
        Some(unsafe { Reading::begin(gpu, &parts) })
    }

    /// The first `bytes` of another piece of the same GPU.
    ///
    /// # Panics
    /// When one of the two has fewer.
    #[track_caller]
    pub fn copy_from(&mut self, other: &Memory, bytes: usize) {
        assert!(bytes <= self.bytes.min(other.bytes) && self.gpu.ordinal == other.gpu.ordinal, "copy: {bytes} bytes");
        if bytes > 0 {
            // SAFETY: both are long enough, on this GPU; the borrows keep them apart.
            let copy = || unsafe { sys::cuMemcpyDtoDAsync_v2(self.pointer, other.pointer, bytes, self.gpu.stream.0) };
            must("copy its memory", self.gpu.submit(Node::Copy, copy));
        }
    }

    /// Sets its first `words` to this pattern of 32 bits each.
    ///
    /// # Panics
    /// When it has fewer.
    #[track_caller]
    pub fn set(&mut self, pattern: u32, words: usize) {
        assert!(4 * words <= self.bytes, "set: {words} words of {} bytes", self.bytes);
        // SAFETY: there are as many, as was just checked.
        unsafe { set(&self.gpu, self.pointer, pattern, words) };
    }
}

/// Sets `words` of 32 bits from an address on to this pattern.
///
/// # Safety
/// There are as many.
#[track_caller]
pub unsafe fn set(gpu: &Gpu, at: CUdeviceptr, pattern: u32, words: usize) {
    if words > 0 {
        // SAFETY: the caller's promise.
        let set = || unsafe { sys::cuMemsetD32Async(at, pattern, words, gpu.stream.0) };
        must("set its memory", gpu.submit(Node::Set, set));
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let mut pool = lock(&self.gpu.memory);
        pool.used -= self.bytes;
        pool.kept += self.bytes;
        pool.free.entry(self.bytes).or_default().push(self.pointer);
        if is_set(PLAIN) {
            self.gpu.enter();
            pool.give_back();
        }
    }
}

impl Pool {
    /// A piece of this size, if it is kept.
    fn take(&mut self, class: usize) -> Option<CUdeviceptr> {
        let pointer = self.free.get_mut(&class)?.pop()?;
        self.kept -= class;
        self.used += class;
        Some(pointer)
    }

    /// Gives what it keeps back to the driver, which waits for all kernels before.
    fn give_back(&mut self) {
        for pointer in std::mem::take(&mut self.free).into_values().flatten() {
            // SAFETY: nobody else has this pointer. If the driver refuses, the memory is lost and nothing else.
            let _ = unsafe { sys::cuMemFree_v2(pointer) };
        }
        self.kept = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::size_class;

    #[test]
    fn a_size_class_is_little_larger_than_what_is_asked() {
        for bytes in [0, 1, 511, 512, 513, 10_000, 1 << 20, (1 << 20) + 1, 123_456_789] {
            let class = size_class(bytes);
            assert!(class >= bytes.max(1) && class <= bytes + (bytes / 8).max(512), "{bytes} -> {class}");
            assert_eq!(size_class(class), class);
            assert_eq!(class % 256, 0);
        }
    }
}
