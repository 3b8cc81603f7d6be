//! Buffers: the elements of tensors, each on a device.

use std::any::Any;
use std::cell::Cell;
use std::sync::{Arc, OnceLock};

use super::Device;
#[cfg(feature = "cuda")]
use super::cuda::{self, Gpu, View, ViewMut};
use super::real::sealed::Stored;
use super::real::{Bf16, DType, Element, Real};
use super::recycler::Host;

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
    /// These elements, on the CPU; copied, as a vector may begin anywhere in a line of the cache.
    pub fn from_vec<T: Element>(elements: Vec<T>) -> Self {
        let mut storage = Storage::unspecified(elements.len(), Device::Cpu);
        storage.as_mut_slice().copy_from_slice(&elements);
        T::wrap(storage)
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

    /// The copy in bf16 of elements in f32, if one was made: it is there until they change.
    pub(super) fn narrow(&self) -> Option<&OnceLock<Buffer>> {
        match &self.0 {
            Elements::F32(storage) => Some(&storage.narrow),
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
    Host(Host<T>),
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
    narrow: OnceLock<Buffer>,
}

/// Room in main memory for some numbers, of unspecified value.
pub(super) fn room<T: Element>(len: usize) -> Storage<T> {
    Storage::unspecified(len, Device::Cpu)
}

impl<T: Element> Storage<T> {
    /// `len` elements of unspecified (but initialized) value: for a kernel that writes every one of them.
    ///
    /// On the reference device and in debug builds they are NaN, so that a kernel that forgets one is found out.
    pub fn unspecified(len: usize, device: Device) -> Self {
        match device {
            Device::Reference => Self::counted(Memory::Host(Host::exactly(vec![T::NAN; len])), len, device),
            Device::Cpu => {
                let mut elements = Host::recycled(len);
                // (Miri would take longer for this than for all else.)
                if cfg!(debug_assertions) && !cfg!(miri) {
                    elements.as_mut_slice(len).fill(T::NAN);
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
            Memory::Host(elements) => elements.as_mut_slice(len).fill(value),
            #[cfg(feature = "cuda")]
            Memory::Gpu(memory) => memory.fill(len, value),
        }
        storage
    }

    /// Every storage is made here.
    fn counted(elements: Memory<T>, len: usize, device: Device) -> Self {
        LIVE_BYTES.set(LIVE_BYTES.get() + (len * size_of::<T>()) as isize);
        Storage { elements, len, device, narrow: OnceLock::new() }
    }

    fn copy_to(&self, device: Device) -> Self {
        let mut copy = Self::unspecified(self.len, device);
        match (&self.elements, &mut copy.elements) {
            (Memory::Host(from), Memory::Host(to)) => {
                to.as_mut_slice(self.len).copy_from_slice(from.as_slice(self.len));
            }
            #[cfg(feature = "cuda")]
            (Memory::Host(from), Memory::Gpu(to)) => to.upload(cuda::bytes(from.as_slice(self.len))),
            #[cfg(feature = "cuda")]
            (Memory::Gpu(from), Memory::Host(to)) => from.download(cuda::bytes_mut(to.as_mut_slice(self.len))),
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
            Memory::Host(elements) => elements.as_slice(self.len),
            #[cfg(feature = "cuda")]
            Memory::Gpu(_) => panic!("elements on {} have no slice", self.device),
        }
    }

    /// The elements, to write.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.narrow.take();
        match &mut self.elements {
            Memory::Host(elements) => elements.as_mut_slice(self.len),
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
        let elements = std::mem::replace(&mut self.elements, Memory::Host(Host::exactly(Vec::new())));
        #[cfg_attr(not(feature = "cuda"), expect(irrefutable_let_patterns, reason = "there is no other memory"))]
        let Memory::Host(elements) = elements else { return };
        if self.device == Device::Cpu {
            elements.recycle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    #[should_panic(expected = "matmul: expected f64 but got f32")]
    fn a_wrong_element_type_names_the_operation() {
        Buffer::from_vec(vec![1.0f32]).as_slice::<f64>("matmul");
    }
}
