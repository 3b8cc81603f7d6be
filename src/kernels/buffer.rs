//! Shared buffers, and the recycler that keeps them.
//!
//! A training step makes the same thousands of buffers every time. Given back to the system, they cost page
//! faults and cold caches; so a dropped [`Storage`] goes to a free list of its thread, by size class, last in
//! first out: the next buffer of that size is the one whose memory is still in this core's cache.

use std::cell::Cell;
use std::sync::Arc;

use super::real::{DType, Real};

/// The elements of a tensor: one arm for each element type. Cheap to clone (shared, read-only).
///
/// A device is one more arm here, and one more in the door's `dispatch!`.
#[derive(Clone, Debug)]
pub enum Buffer {
    /// f32 in main memory.
    F32(Arc<Storage<f32>>),
    /// f64 in main memory.
    F64(Arc<Storage<f64>>),
}

impl Buffer {
    /// What the elements are.
    pub fn dtype(&self) -> DType {
        match self {
            Buffer::F32(_) => DType::F32,
            Buffer::F64(_) => DType::F64,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Buffer::F32(s) => s.len,
            Buffer::F64(s) => s.len,
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether another tensor has the same elements, so that a change would copy them.
    pub fn is_shared(&self) -> bool {
        match self {
            Buffer::F32(s) => Arc::strong_count(s) > 1,
            Buffer::F64(s) => Arc::strong_count(s) > 1,
        }
    }

    /// The elements.
    ///
    /// # Panics
    /// When they are of another type; the message names `op`.
    #[track_caller]
    pub fn as_slice<T: Real>(&self, op: &str) -> &[T] {
        match T::storage(self) {
            Some(storage) => storage.as_slice(),
            None => panic!("{op}: expected {} but got {}; convert with to_dtype", T::DTYPE, self.dtype()),
        }
    }

    /// The elements, to change in place; copied first when another tensor shares them.
    ///
    /// # Panics
    /// When they are of another type; the message names `op`.
    #[track_caller]
    pub fn make_mut<T: Real>(&mut self, op: &str) -> &mut [T] {
        let dtype = self.dtype();
        match T::storage_mut(self) {
            Some(storage) => Arc::make_mut(storage).as_mut_slice(),
            None => panic!("{op}: expected {} but got {dtype}; convert with to_dtype", T::DTYPE),
        }
    }
}

thread_local! {
    static LIVE_BYTES: Cell<isize> = const { Cell::new(0) };
}

/// Bytes of elements in the buffers that this thread made, less those that it dropped. What a computation on one thread
/// adds to it is what it keeps alive. (What size classes round up comes on top; see [`Storage`].)
pub fn live_bytes() -> isize {
    LIVE_BYTES.get()
}

/// An owned run of elements whose memory goes back to the recycler when dropped.
#[derive(Debug)]
pub struct Storage<T: Real> {
    /// At least `len` elements; the rest of its size class is unused.
    elements: Vec<T>,
    len: usize,
}

impl<T: Real> Storage<T> {
    /// `len` elements of unspecified (but initialized) value: for a kernel that writes every one of them.
    ///
    /// In debug builds they are NaN, so that a kernel that forgets one is found out.
    pub fn unspecified(len: usize) -> Self {
        let class = size_class(len);
        let recycled = T::with_free_list(|list| list.pop(class)).or_else(|| lock(T::shared_free_list()).pop(class));
        let mut elements = recycled.unwrap_or_else(|| vec![T::ZERO; class]);
        if cfg!(debug_assertions) {
            elements.fill(T::from_f64(f64::NAN));
        }
        Self::counted(elements, len)
    }

    /// Every storage is made here.
    fn counted(elements: Vec<T>, len: usize) -> Self {
        LIVE_BYTES.set(LIVE_BYTES.get() + (len * size_of::<T>()) as isize);
        Storage { elements, len }
    }

    /// `len` elements, all `value`.
    pub fn full(len: usize, value: T) -> Self {
        let mut storage = Self::unspecified(len);
        storage.as_mut_slice().fill(value);
        storage
    }

    /// These elements, without a copy.
    pub fn from_vec(elements: Vec<T>) -> Self {
        let len = elements.len();
        Self::counted(elements, len)
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        &self.elements[..self.len]
    }

    /// The elements, to write.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.elements[..self.len]
    }
}

impl<T: Real> Clone for Storage<T> {
    fn clone(&self) -> Self {
        let mut copy = Self::unspecified(self.len);
        copy.as_mut_slice().copy_from_slice(self.as_slice());
        copy
    }
}

impl<T: Real> Drop for Storage<T> {
    fn drop(&mut self) {
        LIVE_BYTES.set(LIVE_BYTES.get() - (self.len * size_of::<T>()) as isize);
        let elements = std::mem::take(&mut self.elements);
        // Only whole size classes are kept: a vector that came from outside is of any length.
        if elements.len() != size_class(elements.len()) {
            return;
        }
        let overflow = T::with_free_list(|list| list.push(elements, LOCAL_BYTES, LOCAL_OF_A_SIZE));
        if let Some(elements) = overflow {
            // Some other thread is short of what this one has too much of (gradients move between threads).
            drop(lock(T::shared_free_list()).push(elements, SHARED_BYTES, usize::MAX));
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

fn lock<T: Real>(list: &std::sync::Mutex<FreeList<T>>) -> std::sync::MutexGuard<'_, FreeList<T>> {
    // A list is a stack of plain buffers: whole at every moment, so a panic elsewhere cannot have broken it.
    list.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Free buffers by size class, the last one in first out.
#[derive(Debug)]
pub struct FreeList<T> {
    /// Sorted by size class. A model has a few dozen.
    classes: Vec<(usize, Vec<Vec<T>>)>,
    bytes: usize,
}

impl<T: Real> FreeList<T> {
    /// Nothing kept yet.
    pub const fn new() -> Self {
        FreeList { classes: Vec::new(), bytes: 0 }
    }

    fn pop(&mut self, class: usize) -> Option<Vec<T>> {
        let at = self.classes.binary_search_by_key(&class, |c| c.0).ok()?;
        let elements = self.classes[at].1.pop()?;
        self.bytes -= class * size_of::<T>();
        Some(elements)
    }

    /// Keeps `elements`, or hands them back when that would make more than `limit` bytes, or `most` of the size class.
    fn push(&mut self, elements: Vec<T>, limit: usize, most: usize) -> Option<Vec<T>> {
        let class = elements.len();
        let bytes = class * size_of::<T>();
        if class == 0 || self.bytes + bytes > limit {
            return Some(elements);
        }
        match self.classes.binary_search_by_key(&class, |c| c.0) {
            Ok(at) if self.classes[at].1.len() >= most => return Some(elements),
            Ok(at) => self.classes[at].1.push(elements),
            Err(at) => self.classes.insert(at, (class, vec![elements])),
        }
        self.bytes += bytes;
        None
    }
}

impl<T: Real> Default for FreeList<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_the_next_one_of_its_size() {
        let first = Storage::<f32>::full(1000, 1.0);
        let address = first.as_slice().as_ptr();
        drop(first);
        assert_eq!(Storage::<f32>::unspecified(990).as_slice().as_ptr(), address);
    }

    #[test]
    fn every_buffer_is_counted_until_it_is_dropped() {
        let before = live_bytes();
        let a = f32::into_buffer(Storage::full(10, 1.0));
        let mut b = a.clone();
        assert_eq!(live_bytes() - before, 40, "a clone shares");
        b.make_mut::<f32>("test")[0] = 5.0;
        let c = f64::into_buffer(Storage::from_vec(vec![1.0; 3]));
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
    fn a_shared_buffer_is_copied_before_it_is_changed() {
        let a = f32::into_buffer(Storage::from_vec(vec![1.0, 2.0]));
        let mut b = a.clone();
        b.make_mut::<f32>("test")[0] = 5.0;
        assert_eq!((a.as_slice::<f32>("test")[0], b.as_slice::<f32>("test")[0]), (1.0, 5.0));
    }

    #[test]
    #[should_panic(expected = "matmul: expected f64 but got f32")]
    fn a_wrong_element_type_names_the_operation() {
        f32::into_buffer(Storage::from_vec(vec![1.0])).as_slice::<f64>("matmul");
    }
}
