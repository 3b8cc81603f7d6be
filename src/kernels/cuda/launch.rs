//! A launch: which kernel, with how many threads, on what.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUdeviceptr};

use super::compile::Source;
use super::graph::Node;
use super::{Gpu, memory, staging};
use crate::kernels::{Buffer, DType, Device, Element, Real};

/// Elements on a GPU, to read.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T> {
    pub(in crate::kernels) gpu: &'a Arc<Gpu>,
    pointer: CUdeviceptr,
    len: usize,
    elements: PhantomData<&'a [T]>,
}

/// Elements on a GPU, to write.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    pub(in crate::kernels) gpu: &'a Arc<Gpu>,
    pointer: CUdeviceptr,
    len: usize,
    elements: PhantomData<&'a mut [T]>,
}

impl<'a, T> View<'a, T> {
    pub(in crate::kernels) fn new(gpu: &'a Arc<Gpu>, pointer: CUdeviceptr, len: usize) -> Self {
        View { gpu, pointer, len, elements: PhantomData }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The elements, read out.
    pub fn read(&self) -> Vec<T>
    where
        T: Real,
    {
        let mut elements = vec![T::ZERO; self.len];
        // SAFETY: a view is of elements that are there.
        unsafe { staging::download(self.gpu, self.pointer, memory::bytes_mut(&mut elements)) };
        elements
    }

    /// From this element on.
    pub fn from(self, start: usize) -> Self {
        assert!(start <= self.len, "element {start} of {}", self.len);
        View { pointer: self.pointer + (start * size_of::<T>()) as u64, len: self.len - start, ..self }
    }

    /// As an argument of a kernel.
    pub fn pointer(&self) -> Pointer {
        Pointer(self.pointer)
    }
}

impl<'a, T> ViewMut<'a, T> {
    pub(in crate::kernels) fn new(gpu: &'a Arc<Gpu>, pointer: CUdeviceptr, len: usize) -> Self {
        ViewMut { gpu, pointer, len, elements: PhantomData }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// As an argument of a kernel.
    pub fn pointer(&self) -> Pointer {
        Pointer(self.pointer)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of them become these.
    pub fn write(&mut self, elements: &[T])
    where
        T: Real,
    {
        assert_eq!(elements.len(), self.len);
        // SAFETY: there is room for as many.
        unsafe { staging::upload(self.gpu, elements.as_ptr().cast(), size_of_val(elements), self.pointer) };
    }

    /// The same elements, to read.
    pub fn as_view(&self) -> View<'_, T> {
        View::new(self.gpu, self.pointer, self.len)
    }
}

/// Elements on a GPU that are of the type that is computed in, or in bf16.
#[derive(Clone, Copy, Debug)]
pub struct StoredView<'a> {
    pub(in crate::kernels) gpu: &'a Arc<Gpu>,
    pub(in crate::kernels) dtype: DType,
    pointer: CUdeviceptr,
    len: usize,
}

impl<'a, T: Element> From<View<'a, T>> for StoredView<'a> {
    fn from(view: View<'a, T>) -> Self {
        StoredView { gpu: view.gpu, dtype: T::DTYPE, pointer: view.pointer, len: view.len }
    }
}

impl<'a> StoredView<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// As an argument of a kernel that was compiled for [`stored`](Self::stored).
    pub fn pointer(&self) -> Pointer {
        Pointer(self.pointer)
    }

    /// The definition of their type, S of sums.cuh, where that is not the T that is computed in.
    pub fn stored(&self) -> &'static str {
        if self.dtype == DType::Bf16 { "STORED=u16" } else { "" }
    }
}

/// The same, to write.
#[derive(Debug)]
pub struct StoredViewMut<'a>(StoredView<'a>);

impl<'a, T: Element> From<ViewMut<'a, T>> for StoredViewMut<'a> {
    fn from(view: ViewMut<'a, T>) -> Self {
        StoredViewMut(View::<T>::new(view.gpu, view.pointer, view.len).into())
    }
}

impl StoredViewMut<'_> {
    /// All of them become 0.
    pub fn clear(&mut self) {
        let bytes = self.0.len * self.0.dtype.size();
        debug_assert!(bytes.is_multiple_of(4), "memory is cleared in words");
        // SAFETY: a view is of elements that are there.
        unsafe { memory::set(self.0.gpu, self.0.pointer, 0, bytes / 4) };
    }
}

impl<'a> std::ops::Deref for StoredViewMut<'a> {
    type Target = StoredView<'a>;

    fn deref(&self) -> &StoredView<'a> {
        &self.0
    }
}

/// An address on a GPU, as an argument; 0 for what is absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Pointer(pub CUdeviceptr);

impl Pointer {
    /// So many bytes further.
    pub fn after(self, bytes: u64) -> Self {
        Pointer(self.0 + bytes)
    }
}

/// The address of what may be absent.
pub fn or_null<T>(view: Option<View<'_, T>>) -> Pointer {
    view.map_or(Pointer(0), |view| view.pointer())
}

/// What a kernel takes by value: it lies in memory just as C++ has it.
///
/// # Safety
/// The type must be `repr(C)` or a number, with fields, and so padding, as the kernel's own has them.
pub unsafe trait Argument {}

// SAFETY: numbers, and one number.
unsafe impl Argument for Pointer {}
macro_rules! numbers {
    ($($t:ty)*) => {$(
        // SAFETY: a number.
        unsafe impl Argument for $t {}
    )*};
}
numbers!(u32 u64);
// SAFETY: f32 or f64, and no other can be added outside.
unsafe impl<T: Real> Argument for T {}

/// Makes a struct an argument: it must be `repr(C)`, of numbers and pointers, with the fields of its namesake in the `.cu` file.
macro_rules! argument {
    ($type:ident) => {
        // SAFETY: who writes this stands up for it.
        unsafe impl $crate::kernels::cuda::Argument for $type {}
    };
    ($type:ident<T>) => {
        // SAFETY: who writes this stands up for it.
        unsafe impl<T: $crate::kernels::Real> $crate::kernels::cuda::Argument for $type<T> {}
    };
}
pub(in crate::kernels) use argument;

/// Blocks in a grid, along x, y and z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid(pub u32, pub u32, pub u32);

/// Threads in a block, along x, y and z.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block(pub u32, pub u32, pub u32);

/// Threads of a block that works on elements one by one.
const THREADS: u32 = 256;
/// The most blocks of such a grid: their threads go on, a whole grid further each time, until all is done.
const BLOCKS: usize = 1 << 16;

impl Grid {
    /// The most blocks along the second and the third dimension.
    pub const MOST_ALONG_Z: usize = 65_535;

    /// Enough blocks of `each` for `n`, which is not 0; at most so many as a grid has along its first dimension.
    ///
    /// # Panics
    /// When there are more.
    #[track_caller]
    pub fn over(n: usize, each: usize) -> Self {
        let blocks = n.div_ceil(each);
        assert!(blocks <= i32::MAX as usize, "{blocks} blocks are more than a grid holds");
        Grid(blocks as u32, 1, 1)
    }
}

/// How many [`counters`] there are.
pub const COUNTERS: usize = 4096;

/// Counters for `comes_last` (sums.cuh) in a kernel whose blocks add up parts: zeros between launches. Launches on a GPU
/// come one after the other, so one set serves all.
pub fn counters(gpu: &Gpu) -> Pointer {
    static ALL: Mutex<BTreeMap<usize, Buffer>> = Mutex::new(BTreeMap::new());
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let zeros = || {
        gpu.stop_capturing(); // in a graph that comes to nothing they would be lost
        Buffer::full(COUNTERS, 0.0, DType::F32, Device::Cuda(gpu.ordinal()))
    };
    all.entry(gpu.ordinal()).or_insert_with(zeros).view_mut::<f32>("counters").pointer()
}

/// A kernel and its threads.
#[derive(Debug)]
pub struct Launch<'a> {
    pub gpu: &'a Arc<Gpu>,
    pub source: Source,
    /// What the file is compiled with besides the type of its elements: `"A=1 B=2"`.
    pub definitions: &'a str,
    pub kernel: &'static str,
    pub grid: Grid,
    pub block: Block,
    /// Bytes of shared memory.
    pub shared: usize,
}

impl<'a> Launch<'a> {
    /// A kernel whose threads each take an element, and then those a whole grid further on.
    pub fn over_elements(gpu: &'a Arc<Gpu>, source: Source, kernel: &'static str, n: usize) -> Self {
        let blocks = n.div_ceil(THREADS as usize).clamp(1, BLOCKS) as u32;
        Launch {
            gpu,
            source,
            definitions: "",
            kernel,
            grid: Grid(blocks, 1, 1),
            block: Block(THREADS, 1, 1),
            shared: 0,
        }
    }

    /// A kernel with so many warps (32 threads), each of which takes a row, and then those a whole grid further on.
    pub fn over_rows(gpu: &'a Arc<Gpu>, source: Source, kernel: &'static str, rows: usize) -> Self {
        Launch::over_elements(gpu, source, kernel, 32 * rows)
    }

    /// Hands it to the GPU, compiled for elements of type T.
    ///
    /// # Panics
    /// When the driver refuses.
    #[track_caller]
    pub fn run<T: Real>(self, arguments: &[&dyn Argument]) {
        let real = if T::DTYPE == DType::F32 { "REAL=float " } else { "REAL=double " };
        let function = self.gpu.function(self.source, &[real, self.definitions], self.kernel);
        let mut pointers: Vec<*mut c_void> =
            arguments.iter().map(|argument| std::ptr::from_ref(*argument).cast_mut().cast()).collect();
        let (Grid(gx, gy, gz), Block(bx, by, bz)) = (self.grid, self.block);
        self.gpu.timed((self.source.name, self.kernel), || {
            // SAFETY: the kernel takes these arguments: each function in a `cuda.rs` stands beside the kernel that it launches,
            // and the tests run each. The driver copies them before it returns. The memory that they point to is dropped no
            // earlier than the borrow of their views ends, and what is dropped stays allocated on this stream's terms.
            let mut launch = || unsafe {
                sys::cuLaunchKernel(
                    function.0.0,
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    self.shared as u32,
                    self.gpu.stream.0,
                    pointers.as_mut_ptr(),
                    std::ptr::null_mut(),
                )
            };
            let node = Node::Kernel(function.0.0 as usize);
            let launch = || self.gpu.submit(node, &mut launch);
            self.gpu.must_fit(|| format!("launch {} of {}", self.kernel, self.source.name), launch);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_a_block_for_each_part_and_no_more_than_fit() {
        assert_eq!([Grid::over(1, 32), Grid::over(32, 32), Grid::over(33, 32)], [1, 1, 2].map(|x| Grid(x, 1, 1)));
        assert!(std::panic::catch_unwind(|| Grid::over(1 << 40, 32)).is_err());
    }
}
