//! How many threads a kernel takes.
//!
//! One, as a rule: a training step runs many chunks of images at once, each on a thread of its own. A step of fewer chunks
//! than threads (a batch of a few images, a large model) gives each chunk a [`Team`], among which its kernels share out
//! their rows. No number depends on how: a row is computed as it would be alone.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

use super::{Precision, meter};

thread_local! {
    static HERE: Cell<usize> = const { Cell::new(1) };
}

/// A stretch of a thread's computation whose kernels take several threads.
#[derive(Debug)]
pub struct Team {
    before: usize,
    /// Not to be dropped on another thread.
    of_this_thread: PhantomData<*const ()>,
}

impl Team {
    /// Kernels of this thread take up to so many, until this is dropped.
    #[must_use]
    pub fn of(threads: usize) -> Self {
        Team { before: HERE.replace(threads.max(1)), of_this_thread: PhantomData }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        HERE.set(self.before);
    }
}

/// What a thread should at least have to do, in multiply-adds of a matrix product: some 10 µs, more than it
/// takes to wake it. (Tests share what is small, too.)
const LEAST: usize = if cfg!(test) { 1 << 7 } else { 1 << 20 };
/// What takes this much is spread over all threads by whoever meets it. No product inside a chunk of the toy model comes
/// near it; those of a ViT-B and of a linear probe do.
const MUCH: usize = 1 << 28;
/// Multiply-adds that take as long as it takes to read, compute and write one element of something else than a product.
pub(super) const OF_AN_ELEMENT: usize = 32;

/// Shares out `rows` rows of y and z (which may be empty) that take `work` multiply-adds altogether: `of_part` gets some
/// rows, and their parts of y and z. Threads that help are in the phase and the precision of this one.
pub(super) fn share_rows<T: Send, U: Send>(
    rows: usize,
    work: usize,
    (y, z): (&mut [T], &mut [U]),
    of_part: impl Fn(Range<usize>, &mut [T], &mut [U]) + Sync,
) {
    // Of much, several parts for each thread: some may be busy with something else.
    let parts = if work < MUCH { HERE.get() } else { 4 * rayon::current_num_threads() };
    let parts = parts.min(work / LEAST).min(rows);
    if parts <= 1 {
        return of_part(0..rows, y, z);
    }
    let (phase, precision) = (meter::here(), Precision::here());
    // Work of others, which this thread may be given while it waits, says its own.
    let _waiting = (Precision::F32.enter(), Team::of(1));
    let of_part = |rows: Range<usize>, y: &mut [T], z: &mut [U]| {
        let _there = (phase.enter(), precision.enter(), Team::of(1));
        of_part(rows, y, z);
    };
    halve(0..rows, parts, (y, z), &of_part);
}

fn halve<T: Send, U: Send>(
    rows: Range<usize>,
    parts: usize,
    (y, z): (&mut [T], &mut [U]),
    of_part: &(impl Fn(Range<usize>, &mut [T], &mut [U]) + Sync),
) {
    if parts == 1 {
        return of_part(rows, y, z);
    }
    let here = parts / 2;
    let count = rows.len() * here / parts;
    let (y, y_rest) = y.split_at_mut(y.len() / rows.len() * count);
    let (z, z_rest) = z.split_at_mut(z.len() / rows.len() * count);
    let middle = rows.start + count;
    rayon::join(
        || halve(rows.start..middle, here, (y, z), of_part),
        || halve(middle..rows.end, parts - here, (y_rest, z_rest), of_part),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_out_once_each_and_those_who_help_know_where_they_are() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        for (rows, threads) in [(1, 4), (3, 2), (7, 5), (64, 3)] {
            let (mut y, mut z) = (vec![0; rows * 4], vec![(0, 0); rows]);
            pool.install(|| {
                let _team = (Team::of(threads), Precision::Bf16.enter());
                share_rows(rows, 100 * LEAST, (&mut y, &mut z), |part, y, z| {
                    assert_eq!((y.len(), z.len()), (part.len() * 4, part.len()));
                    assert_eq!(Precision::here(), Precision::Bf16);
                    let nested = std::sync::atomic::AtomicUsize::new(0);
                    share_rows(9, 100 * LEAST, (&mut [0; 9], &mut [(); 0]), |_, _, _| {
                        nested.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    });
                    assert!(rows == 1 || nested.into_inner() == 1, "a thread that helps has no team");
                    y.iter_mut().zip(part.start * 4..).for_each(|(y, i)| *y += i);
                    z.iter_mut().zip(part.clone()).for_each(|(z, i)| *z = (i, part.len()));
                });
                assert_eq!((HERE.get(), Precision::here()), (threads, Precision::Bf16));
            });
            assert!(y.iter().copied().eq(0..rows * 4), "{y:?}");
            let parts = threads.min(rows);
            assert!((0..rows).eq(z.iter().map(|z| z.0)) && z.iter().all(|z| z.1 <= rows.div_ceil(parts)), "{z:?}");
        }
        assert_eq!(HERE.get(), 1);
        let mut alone = 0;
        let count = std::sync::Mutex::new(&mut alone);
        let _team = Team::of(4);
        share_rows(8, LEAST - 1, (&mut [0; 8], &mut [(); 0]), |part, _, _| **count.lock().unwrap() += part.len());
        assert_eq!(alone, 8);
    }
}
