//! Buffers: the elements of tensors, each on a device; and the recycler that keeps the CPU's.
//!
//! A training step makes the same thousands of buffers every time. Given back to the system, they cost page
//! faults and cold caches; so a dropped [`Storage`] of the CPU goes to a free list of its thread, by size class, last in
//! first out: the next buffer of that size is the one whose memory is still in this core's cache.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Device;
#[cfg(feature = "cuda")]
use super::cuda::{self, Gpu, View, ViewMut};
use super::real::sealed::Stored;
use super::real::{Bf16, DType, Element, Real};

/// The elements of a tensor. Cheap to clone (shared, read-only).
#[derive(Clone, Debug)]
pub struct Buffer(pub(super) Elements);

/// One arm for each element type.
#[derive(Clone, Debug)]
pub enum Elements {
    F32(Arc<Storage<f32>>),
    F64(Arc<Storage<f64>>),
    Bf16(Arc<Storage<Bf16>>),
}

/// Evaluates `$body` with `$storage` the storage of some elements, whatever their type.
macro_rules! with_storage {
    ($elements:expr, $storage:ident => $body:expr) => {
        match $elements {
            Elements::F32($storage) => $body,
            Elements::F64($storage) => $body,
            Elements::Bf16($storage) => $body,
        }
    };
}

impl Buffer {
    /// These elements, on the CPU, without a copy.
    pub fn from_vec<T: Element>(elements: Vec<T>) -> Self {
        T::wrap(Storage::from_vec(elements))
    }

    /// The element with index i is `f(i)`; on the CPU.
    pub fn from_fn(len: usize, dtype: DType, mut f: impl FnMut(usize) -> f64) -> Self {
        let mut buffer = Self::unspecified(len, dtype, Device::Cpu);
        match dtype {
            DType::F32 => (0..).zip(buffer.make_mut::<f32>("from_fn")).for_each(|(i, x)| *x = f(i) as f32),
            DType::F64 => (0..).zip(buffer.make_mut::<f64>("from_fn")).for_each(|(i, x)| *x = f(i)),
            DType::Bf16 => {
                (0..).zip(buffer.make_mut::<Bf16>("from_fn")).for_each(|(i, x)| *x = Bf16::from_f32(f(i) as f32));
            }
        }
        buffer
    }

    /// `len` elements, all `value`.
    pub fn full(len: usize, value: f64, dtype: DType, device: Device) -> Self {
        match dtype {
            DType::F32 => f32::wrap(Storage::full(len, value as f32, device)),
            DType::F64 => f64::wrap(Storage::full(len, value, device)),
            DType::Bf16 => Self::from_vec(vec![Bf16::from_f32(value as f32); len]).to_device(device),
        }
    }

    /// `len` elements for a kernel to write, all of them.
    pub(super) fn unspecified(len: usize, dtype: DType, device: Device) -> Self {
        match dtype {
            DType::F32 => f32::wrap(Storage::unspecified(len, device)),
            DType::F64 => f64::wrap(Storage::unspecified(len, device)),
            DType::Bf16 => Bf16::wrap(Storage::unspecified(len, device)),
        }
    }

    /// [`unspecified`](Self::unspecified) on the device and of the type of this buffer.
    pub(super) fn like(&self, len: usize) -> Self {
        Self::unspecified(len, self.dtype(), self.device())
    }

    /// [`like`](Self::like), in the type that is computed in: f32 in the place of bf16.
    pub(super) fn wide(&self, len: usize) -> Self {
        Self::unspecified(len, self.dtype().computed(), self.device())
    }

    /// Where the elements live.
    pub fn device(&self) -> Device {
        with_storage!(&self.0, storage => storage.device)
    }

    /// What the elements are.
    pub fn dtype(&self) -> DType {
        match &self.0 {
            Elements::F32(_) => DType::F32,
            Elements::F64(_) => DType::F64,
            Elements::Bf16(_) => DType::Bf16,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        with_storage!(&self.0, storage => storage.len)
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether another tensor has the same elements, so that a change would copy them.
    pub fn is_shared(&self) -> bool {
        with_storage!(&self.0, storage => Arc::strong_count(storage) > 1)
    }

    /// The same elements on another device; shared, not copied, when they already are there.
    pub fn to_device(&self, device: Device) -> Self {
        if self.device() == device {
            return self.clone();
        }
        with_storage!(&self.0, storage => Stored::wrap(storage.copy_to(device)))
    }

    /// Their memory, if they are on a GPU.
    #[cfg(feature = "cuda")]
    pub(super) fn on_gpu(&self) -> Option<&cuda::Memory> {
        with_storage!(&self.0, storage => match &storage.elements {
            Memory::Gpu(memory) => Some(memory),
            Memory::Host(_) => None,
        })
    }

    /// The copy in bf16 of elements in f32 on a GPU, which is there until they change.
    #[cfg(feature = "cuda")]
    pub(super) fn narrow(&self) -> Option<&OnceLock<Buffer>> {
        match &self.0 {
            Elements::F32(storage) if self.device().is_gpu() => Some(&storage.narrow),
            _ => None,
        }
    }

    /// The elements, read out.
    ///
    /// # Panics
    /// When they are of another type, or on a GPU; the message names `op`.
    #[track_caller]
    pub fn as_slice<T: Element>(&self, op: &str) -> &[T] {
        assert!(self.device().is_host(), "{op}: the elements are on {}; ask to_device for them", self.device());
        self.storage(op).as_slice()
    }

    #[track_caller]
    fn storage<T: Element>(&self, op: &str) -> &Storage<T> {
        let storage = with_storage!(&self.0, storage => (storage as &dyn Any).downcast_ref::<Arc<Storage<T>>>());
        match storage {
            Some(storage) => storage,
            None => panic!("{op}: expected {} but got {}; convert with to_dtype", T::DTYPE, self.dtype()),
        }
    }

    /// The elements, to change in place; copied first when another tensor shares them.
    ///
    /// # Panics
    /// When they are of another type, or on a GPU; the message names `op`.
    #[track_caller]
    pub fn make_mut<T: Element>(&mut self, op: &str) -> &mut [T] {
        assert!(self.device().is_host(), "{op}: the elements are on {}; ask to_device for them", self.device());
        self.storage_mut(op).as_mut_slice()
    }

    #[track_caller]
    fn storage_mut<T: Element>(&mut self, op: &str) -> &mut Storage<T> {
        let dtype = self.dtype();
        let storage =
            with_storage!(&mut self.0, storage => (storage as &mut dyn Any).downcast_mut::<Arc<Storage<T>>>());
        match storage {
            Some(storage) => Arc::make_mut(storage),
            None => panic!("{op}: expected {} but got {dtype}; convert with to_dtype", T::DTYPE),
        }
    }

    /// The elements on their GPU, for a kernel to read.
    ///
    /// # Panics
    /// When they are of another type, or on no GPU; the message names `op`.
    #[cfg(feature = "cuda")]
    #[track_caller]
    pub(super) fn view<T: Element>(&self, op: &str) -> View<'_, T> {
        let memory = self.storage::<T>(op).elements.on_gpu(op);
        View::new(memory.gpu(), memory.pointer(), self.len())
    }

    /// The elements on their GPU, for a kernel to write; copied first when another tensor shares them.
    ///
    /// # Panics
    /// As [`view`](Self::view).
    #[cfg(feature = "cuda")]
    #[track_caller]
    pub(super) fn view_mut<T: Element>(&mut self, op: &str) -> ViewMut<'_, T> {
        let len = self.len();
        let storage = self.storage_mut::<T>(op);
        storage.narrow.take();
        let memory = storage.elements.on_gpu(op);
        ViewMut::new(memory.gpu(), memory.pointer(), len)
    }
}

/// Whole numbers on a device: which tokens, which classes. Cheap to clone. What a door has to know of them, how many they
/// are and the largest, is known without reading them. Main memory keeps a copy of what is on a GPU, which gets them when a
/// kernel first asks: many are only parts of what one asks for.
#[derive(Clone, Debug)]
pub struct IndexBuffer {
    device: Device,
    elements: Arc<[u32]>,
    max: Option<u32>,
    #[cfg(feature = "cuda")]
    on_gpu: Arc<OnceLock<cuda::Memory>>,
}

impl PartialEq for IndexBuffer {
    fn eq(&self, other: &Self) -> bool {
        (self.device, &self.elements) == (other.device, &other.elements)
    }
}

impl Eq for IndexBuffer {}

impl IndexBuffer {
    /// These numbers, on the CPU.
    pub fn new(elements: impl Into<Arc<[u32]>>) -> Self {
        let elements = elements.into();
        IndexBuffer {
            device: Device::Cpu,
            max: elements.iter().copied().max(),
            elements,
            #[cfg(feature = "cuda")]
            on_gpu: Arc::default(),
        }
    }

    /// Where the numbers live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The same numbers on another device.
    pub fn to_device(&self, device: Device) -> Self {
        if self.device == device {
            return self.clone();
        }
        IndexBuffer {
            device,
            #[cfg(feature = "cuda")]
            on_gpu: Arc::default(),
            ..self.clone()
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// The largest, if there is one.
    pub fn max(&self) -> Option<u32> {
        self.max
    }

    /// The numbers, read out.
    pub fn as_slice(&self) -> &[u32] {
        &self.elements
    }

    /// The numbers on their GPU.
    ///
    /// # Panics
    /// When they are on none; the message names `op`.
    #[cfg(feature = "cuda")]
    #[track_caller]
    pub(super) fn view(&self, op: &str) -> View<'_, u32> {
        assert!(self.device.is_gpu(), "{op}: indices on {}; move them with to_device", self.device);
        let memory = self.on_gpu.get_or_init(|| cuda::Memory::of_indices(self.device, &self.elements));
        View::new(memory.gpu(), memory.pointer(), self.len())
    }
}

thread_local! {
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
}

/// Bytes of elements in the buffers that this thread made, less those that it dropped. What a computation on one thread
/// adds to it is what it keeps alive. (What size classes round up comes on top.)
pub fn live_bytes() -> isize {
    LIVE_BYTES.get()
}

/// Where the elements of a storage are.
#[derive(Debug)]
enum Memory<T> {
    /// At least as many as are wanted; the rest of the size class is unused.
    Host(Vec<T>),
    #[cfg(feature = "cuda")]
    Gpu(cuda::Memory),
}

#[cfg(feature = "cuda")]
impl<T> Memory<T> {
    #[track_caller]
    fn on_gpu(&self, op: &str) -> &cuda::Memory {
        match self {
            Memory::Gpu(memory) => memory,
            Memory::Host(_) => panic!("{op}: elements in main memory; move them with to_device"),
        }
    }
}

/// An owned run of elements. When dropped, memory of the CPU or a GPU goes to the recycler of that device, that of the
/// reference back to the system.
#[derive(Debug)]
pub struct Storage<T: Element> {
    elements: Memory<T>,
    len: usize,
    device: Device,
    #[cfg(feature = "cuda")]
    narrow: OnceLock<Buffer>,
}

impl<T: Element> Storage<T> {
    /// `len` elements of unspecified (but initialized) value: for a kernel that writes every one of them.
    ///
    /// On the reference device and in debug builds they are NaN, so that a kernel that forgets one is found out.
    pub fn unspecified(len: usize, device: Device) -> Self {
        match device {
            Device::Reference => Self::counted(Memory::Host(vec![T::NAN; len]), len, device),
            Device::Cpu => {
                let class = size_class(len);
                let recycled =
                    T::with_free_list(|list| list.pop(class)).or_else(|| lock(T::shared_free_list()).pop(class));
                let mut elements = recycled.unwrap_or_else(|| vec![T::default(); class]);
                if cfg!(debug_assertions) {
                    elements.fill(T::NAN);
                }
                Self::counted(Memory::Host(elements), len, device)
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => {
                let mut memory = cuda::Memory::new(Gpu::get(ordinal), len * size_of::<T>());
                if cfg!(debug_assertions) {
                    memory.set(u32::MAX, len * size_of::<T>() / 4);
                }
                Self::counted(Memory::Gpu(memory), len, device)
            }
        }
    }

    /// `len` elements, all `value`.
    fn full(len: usize, value: T, device: Device) -> Self
    where
        T: Real,
    {
        let mut storage = Self::unspecified(len, device);
        match &mut storage.elements {
            Memory::Host(elements) => elements[..len].fill(value),
            #[cfg(feature = "cuda")]
            Memory::Gpu(memory) => memory.fill(len, value),
        }
        storage
    }

    /// Every storage is made here.
    fn counted(elements: Memory<T>, len: usize, device: Device) -> Self {
        LIVE_BYTES.set(LIVE_BYTES.get() + (len * size_of::<T>()) as isize);
        Storage {
            elements,
            len,
            device,
            #[cfg(feature = "cuda")]
            narrow: OnceLock::new(),
        }
    }

    /// These elements, on the CPU, without a copy.
    fn from_vec(elements: Vec<T>) -> Self {
        let len = elements.len();
        Self::counted(Memory::Host(elements), len, Device::Cpu)
    }

    fn copy_to(&self, device: Device) -> Self {
        let mut copy = Self::unspecified(self.len, device);
        match (&self.elements, &mut copy.elements) {
            (Memory::Host(from), Memory::Host(to)) => to[..self.len].copy_from_slice(&from[..self.len]),
            #[cfg(feature = "cuda")]
            (Memory::Host(from), Memory::Gpu(to)) => to.upload(cuda::bytes(&from[..self.len])),
            #[cfg(feature = "cuda")]
            (Memory::Gpu(from), Memory::Host(to)) => from.download(cuda::bytes_mut(&mut to[..self.len])),
            #[cfg(feature = "cuda")]
            (Memory::Gpu(from), Memory::Gpu(to)) if self.device == device => {
                to.copy_from(from, self.len * size_of::<T>());
            }
            #[cfg(feature = "cuda")]
            (Memory::Gpu(_), Memory::Gpu(_)) => return self.copy_to(Device::Cpu).copy_to(device),
        }
        copy
    }

    /// The elements, which must be in main memory.
    pub fn as_slice(&self) -> &[T] {
        match &self.elements {
            Memory::Host(elements) => &elements[..self.len],
            #[cfg(feature = "cuda")]
            Memory::Gpu(_) => panic!("elements on {} have no slice", self.device),
        }
    }

    /// The elements, to write.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        match &mut self.elements {
            Memory::Host(elements) => &mut elements[..self.len],
            #[cfg(feature = "cuda")]
            Memory::Gpu(_) => panic!("elements on {} have no slice", self.device),
        }
    }
}

impl<T: Element> Clone for Storage<T> {
    fn clone(&self) -> Self {
        self.copy_to(self.device)
    }
}

impl<T: Element> Drop for Storage<T> {
    fn drop(&mut self) {
        LIVE_BYTES.set(LIVE_BYTES.get() - (self.len * size_of::<T>()) as isize);
        let elements = std::mem::replace(&mut self.elements, Memory::Host(Vec::new()));
        #[cfg_attr(not(feature = "cuda"), expect(irrefutable_let_patterns, reason = "there is no other memory"))]
        let Memory::Host(mut elements) = elements else { return };
        // Only whole size classes are kept: a vector that came from outside is of any length.
        if self.device != Device::Cpu || elements.len() != size_class(elements.len()) {
            return;
        }
        if !T::with_free_list(|list| list.push(&mut elements, LOCAL_BYTES, LOCAL_OF_A_SIZE)) {
            // Some other thread is short of what this one has too much of (gradients move between threads).
            lock(T::shared_free_list()).push(&mut elements, SHARED_BYTES, usize::MAX);
        }
    }
}

/// What one thread keeps for itself: some times what a chunk of the toy model holds.
const LOCAL_BYTES: usize = 24 << 20;
/// How many of one size class. A thread that drops what others made would keep ever more of them.
const LOCAL_OF_A_SIZE: usize = 32;
/// What is kept for whichever thread needs it.
const SHARED_BYTES: usize = 256 << 20;

/// The capacity for `len` elements: at most a quarter above, so that lengths that vary a little from step to
/// step (the number of context tokens) reuse the same memory.
fn size_class(len: usize) -> usize {
    let step = (len.next_power_of_two() / 8).max(64);
    len.div_ceil(step) * step
}

fn lock<T: Element>(list: &Mutex<FreeList<T>>) -> MutexGuard<'_, FreeList<T>> {
    // A list is a stack of plain buffers: whole at every moment, so a panic elsewhere cannot have broken it.
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Free buffers by size class, the last one in first out. A model has a few dozen classes.
#[derive(Debug)]
pub struct FreeList<T> {
    classes: BTreeMap<usize, Vec<Vec<T>>>,
    bytes: usize,
}

impl<T> FreeList<T> {
    /// Nothing kept yet.
    pub const EMPTY: Self = FreeList { classes: BTreeMap::new(), bytes: 0 };

    fn pop(&mut self, class: usize) -> Option<Vec<T>> {
        let elements = self.classes.get_mut(&class)?.pop()?;
        self.bytes -= class * size_of::<T>();
        Some(elements)
    }

    /// Takes `elements` and keeps them, unless that would make more than `limit` bytes, or `most` of the size class.
    fn push(&mut self, elements: &mut Vec<T>, limit: usize, most: usize) -> bool {
        let bytes = elements.len() * size_of::<T>();
        let of_its_size = self.classes.entry(elements.len()).or_default();
        let keeps = bytes > 0 && self.bytes + bytes <= limit && of_its_size.len() < most;
        if keeps {
            self.bytes += bytes;
            of_its_size.push(std::mem::take(elements));
        }
        keeps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_the_next_one_of_its_size() {
        let first = Storage::<f32>::unspecified(1000, Device::Cpu);
        let address = first.as_slice().as_ptr();
        drop(first);
        assert_eq!(Storage::<f32>::unspecified(990, Device::Cpu).as_slice().as_ptr(), address);
    }

    #[test]
    fn buffers_of_the_reference_are_nan_and_not_recycled() {
        let len = size_class(1000); // a list keeps what is as long as its class
        let mut x = Buffer::unspecified(len, DType::F64, Device::Reference);
        assert!(x.as_slice::<f64>("test").iter().all(|x| x.is_nan()));
        x.make_mut::<f64>("test").fill(3.0);
        let copy = x.to_device(Device::Cpu);
        drop(x);
        assert!(f64::with_free_list(|list| list.pop(len)).is_none());
        assert_eq!((copy.device(), copy.as_slice::<f64>("test")[999]), (Device::Cpu, 3.0));
    }

    #[test]
    fn every_buffer_is_counted_until_it_is_dropped() {
        let before = live_bytes();
        let a = Buffer::from_vec(vec![1.0f32; 10]);
        let mut b = a.clone();
        assert_eq!(live_bytes() - before, 40, "a clone shares");
        b.make_mut::<f32>("test")[0] = 5.0;
        assert_eq!((a.as_slice::<f32>("test")[0], b.as_slice::<f32>("test")[0]), (1.0, 5.0), "copied, then changed");
        let c = Buffer::from_vec(vec![1.0f64; 3]);
        assert_eq!(live_bytes() - before, 40 + 40 + 24);
        drop((a, c));
        assert_eq!(live_bytes() - before, 40);
        drop(b);
        assert_eq!(live_bytes(), before);
    }

    #[test]
    fn size_classes_hold_what_is_asked_and_little_more() {
        for len in [0, 1, 63, 64, 65, 1000, 12345, 1 << 20, (1 << 20) + 1] {
            let class = size_class(len);
            assert!(class >= len && class <= len + (len / 4).max(64), "{len} -> {class}");
            assert_eq!(size_class(class), class, "a class is its own class");
        }
    }

    #[test]
    #[should_panic(expected = "matmul: expected f64 but got f32")]
    fn a_wrong_element_type_names_the_operation() {
        Buffer::from_vec(vec![1.0f32]).as_slice::<f64>("matmul");
    }
}
