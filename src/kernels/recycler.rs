//! The recycler: keeps main memory that buffers have given back.
//!
//! A training step makes the same thousands of buffers every time. Given back to the system, they cost page
//! faults and cold caches; so what a dropped buffer had goes to a free list of its thread, by size class, last in first out:
//! the next buffer of that size is the one whose memory is still in this core's cache.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::real::Element;

/// Elements in main memory: a size class of the recycler's and, around it, what was allocated to choose where it begins.
#[derive(Debug)]
pub struct Host<T> {
    all: Vec<T>,
    start: usize,
    class: usize,
}

impl<T: Element> Host<T> {
    /// A size class that begins with a line of the cache: else each load and store of a wide register would touch two. Large
    /// allocations all begin at the same place of a page; those of 64 KiB and more are spread over it (and a page is little beside
    /// them), as what lies a multiple of a page apart is on the same set of the cache, and a load from there may be taken for one
    /// of what was just stored.
    fn of_class(class: usize) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        const LINE: usize = 64;
        const PLACES: usize = 4096 / LINE;
        if class == 0 {
            return Self::exactly(Vec::new());
        }
        let (line, is_large) = (LINE / size_of::<T>(), class * size_of::<T>() >= 1 << 16);
        // By the golden section: far from where the last ones begin.
        let place = if is_large { NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(39) % PLACES } else { 0 };
        let all = vec![T::default(); class + line * if is_large { PLACES } else { 1 }];
        let start = all.as_ptr().align_offset(LINE).min(line) + place * line;
        Host { all, start, class }
    }

    /// At least `len` elements, with what the last that used them wrote.
    pub fn recycled(len: usize) -> Self {
        let class = size_class(len);
        if class == 0 {
            return Self::of_class(0);
        }
        let kept = T::with_free_list(|list| list.pop(class)).or_else(|| lock(T::shared_free_list()).pop(class));
        kept.unwrap_or_else(|| Self::of_class(class))
    }

    /// For whoever wants this size next.
    pub fn recycle(mut self) {
        if self.all.is_empty() {
            return;
        }
        if !T::with_free_list(|list| list.push(&mut self, LOCAL_BYTES, LOCAL_OF_A_SIZE)) {
            // Some other thread is short of what this one has too much of (gradients move between threads).
            lock(T::shared_free_list()).push(&mut self, SHARED_BYTES, usize::MAX);
        }
    }

    /// Of the reference: no more than is asked for.
    pub fn exactly(all: Vec<T>) -> Self {
        Host { start: 0, class: all.len(), all }
    }

    /// The first `len`.
    pub fn as_slice(&self, len: usize) -> &[T] {
        &self.all[self.start..][..len]
    }

    /// The first `len`, to write.
    pub fn as_mut_slice(&mut self, len: usize) -> &mut [T] {
        &mut self.all[self.start..][..len]
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
    classes: BTreeMap<usize, Vec<Host<T>>>,
    bytes: usize,
}

impl<T: Element> FreeList<T> {
    /// Nothing kept yet.
    pub const EMPTY: Self = FreeList { classes: BTreeMap::new(), bytes: 0 };

    fn pop(&mut self, class: usize) -> Option<Host<T>> {
        let elements = self.classes.get_mut(&class)?.pop()?;
        self.bytes -= elements.all.len() * size_of::<T>();
        Some(elements)
    }

    /// Takes `elements` and keeps them, unless that would make more than `limit` bytes, or `most` of the size class.
    fn push(&mut self, elements: &mut Host<T>, limit: usize, most: usize) -> bool {
        let bytes = elements.all.len() * size_of::<T>();
        let of_its_size = self.classes.entry(elements.class).or_default();
        let keeps = bytes > 0 && self.bytes + bytes <= limit && of_its_size.len() < most;
        if keeps {
            self.bytes += bytes;
            of_its_size.push(std::mem::replace(elements, Host::exactly(Vec::new())));
        }
        keeps
    }
}

#[cfg(test)]
mod tests {
    use super::super::buffer::Storage;
    use super::super::real::sealed::Stored;
    use super::super::{Bf16, Buffer, DType, Device, Real};
    use super::*;

    #[test]
    fn a_dropped_buffer_is_the_next_one_of_its_size() {
        let first = Storage::<f32>::unspecified(1000, Device::Cpu);
        let address = first.as_slice().as_ptr();
        drop(first);
        assert_eq!(Storage::<f32>::unspecified(990, Device::Cpu).as_slice().as_ptr(), address);
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
    fn buffers_of_the_reference_are_nan_and_not_recycled() {
        let len = size_class(1000);
        let mut x = Buffer::unspecified(len, DType::F64, Device::Reference);
        assert!(x.as_slice::<f64>("test").iter().all(|x| x.is_nan()));
        x.make_mut::<f64>("test").fill(3.0);
        let copy = x.to_device(Device::Cpu);
        drop(x);
        assert!(f64::with_free_list(|list| list.pop(len)).is_none());
        assert_eq!((copy.device(), copy.as_slice::<f64>("test")[999]), (Device::Cpu, 3.0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "addresses")]
    fn buffers_begin_with_a_line_of_the_cache() {
        fn assert<T: Real>() {
            for len in [1, 100, 5000, 1 << 18] {
                let made = Buffer::from_vec(vec![T::ONE; len]);
                let full = Buffer::full(len, 1.0, T::DTYPE, Device::Cpu);
                let mut copied = made.clone();
                copied.make_mut::<T>("test")[0] = T::ZERO;
                for x in [made, full, copied] {
                    assert!(x.as_slice::<T>("test").as_ptr().addr().is_multiple_of(64), "{len} of {}", T::DTYPE);
                }
            }
        }
        assert::<f32>();
        assert::<f64>();
    }

    /// Whatever the allocator does with them: by the line that each is moved down by.
    #[test]
    fn large_buffers_begin_spread_over_a_page_and_small_ones_cost_a_line() {
        fn assert<T: Element>() {
            let line = 64 / size_of::<T>();
            let large: Vec<Host<T>> = (0..16).map(|_| Host::of_class((1 << 16) / size_of::<T>())).collect();
            let places: std::collections::BTreeSet<usize> = large.iter().map(|host| host.start / line).collect();
            assert!(places.len() > 8, "{places:?}");
            assert!(large.iter().all(|host| host.all.len() - host.class == 64 * line));
            let small = Host::<T>::of_class((1 << 16) / size_of::<T>() - 64);
            assert_eq!(small.all.len() - small.class, line);
            assert!(large.iter().chain([&small]).all(|host| host.start + host.class <= host.all.len()));
        }
        assert::<f32>();
        assert::<f64>();
        assert::<Bf16>();
        assert!(Host::<f32>::of_class(0).all.is_empty());
    }
}
