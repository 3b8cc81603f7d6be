//! How many threads a kernel takes.
//!
//! One, as a rule: a training step works through many pieces at once, lanes of chunks of images, each on a thread of its own.
//! Where there are fewer pieces than threads (in a step of a few images, or of a large model; while the last ones of any step
//! end) [`Teams`] shares out the threads that have none: kernels divide their rows among them. No number depends on how: a row
//! is computed as it would be alone.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::{Precision, meter};

thread_local! {
    static HERE: RefCell<Option<Teams>> = const { RefCell::new(None) };
}

/// Pieces of work of about one size, for a thread each, among which threads that have none are shared out.
#[derive(Clone, Debug)]
pub struct Teams(Arc<Pieces>);

#[derive(Debug)]
struct Pieces {
    not_begun: AtomicUsize,
    not_done: AtomicUsize,
}

impl Teams {
    /// For so many pieces.
    pub fn of(pieces: usize) -> Self {
        Teams(Arc::new(Pieces { not_begun: AtomicUsize::new(pieces), not_done: AtomicUsize::new(pieces) }))
    }

    /// This thread begins a piece, which is done when the team is dropped. (Once more than there are pieces, and nothing is
    /// shared out any more.)
    pub fn begin(&self) -> Team {
        self.0.not_begun.fetch_sub(1, Relaxed);
        let mut team = self.between();
        team.piece = Some(self.clone());
        team
    }

    /// What this thread does between pieces is shared out, too, until the team is dropped.
    pub fn between(&self) -> Team {
        Team::instead(Some(self.clone()))
    }

    /// How many threads there are for each piece. One, while a piece has not begun: a thread that waits for its parts might be
    /// given all of it meanwhile, and its own piece would stand still.
    fn threads_each(&self) -> usize {
        match self.0.not_begun.load(Relaxed) {
            0 => rayon::current_num_threads().div_ceil(self.0.not_done.load(Relaxed).max(1)),
            _ => 1,
        }
    }
}

/// A stretch of a thread's computation whose kernels take several threads.
#[derive(Debug)]
#[must_use]
pub struct Team {
    piece: Option<Teams>,
    before: Option<Teams>,
    /// Not to be dropped on another thread.
    of_this_thread: PhantomData<*const ()>,
}

impl Team {
    fn instead(teams: Option<Teams>) -> Self {
        Team { piece: None, before: HERE.replace(teams), of_this_thread: PhantomData }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if let Some(Teams(pieces)) = &self.piece {
            pieces.not_done.fetch_sub(1, Relaxed);
        }
        HERE.set(self.before.take());
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
    let of_a_team = || HERE.with_borrow(|here| here.as_ref().map_or(1, Teams::threads_each));
    let parts = if work < MUCH { of_a_team() } else { 4 * rayon::current_num_threads() };
    let parts = parts.min(work / LEAST).min(rows);
    if parts <= 1 {
        return of_part(0..rows, y, z);
    }
    #[cfg(test)]
    SHARED.set(SHARED.get() + 1);
    let (phase, precision) = (meter::here(), Precision::here());
    // Work of others, which this thread may be given while it waits, says its own.
    let _waiting = (Precision::F32.enter(), Team::instead(None));
    let of_part = |rows: Range<usize>, y: &mut [T], z: &mut [U]| {
        let _there = (phase.enter(), precision.enter(), Team::instead(None));
        of_part(rows, y, z);
    };
    halve(0..rows, parts, (y, z), &of_part);
}

/// What computes some rows of y and z; by reference, so that [`halve`] is compiled for each type, not for each kernel.
type Part<'a, T, U> = &'a (dyn Fn(Range<usize>, &mut [T], &mut [U]) + Sync);

fn halve<T: Send, U: Send>(rows: Range<usize>, parts: usize, (y, z): (&mut [T], &mut [U]), of_part: Part<'_, T, U>) {
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
thread_local! {
    static SHARED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How many kernels of this thread have been shared out.
#[cfg(test)]
pub fn times_shared() -> usize {
    SHARED.get()
}

/// What `work` finds in a team of so many threads.
#[cfg(test)]
pub fn in_a_team<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let _team = Teams::of(1).begin();
        work()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many threads kernels of this thread take.
    fn here() -> usize {
        HERE.with_borrow(|here| here.as_ref().map_or(1, Teams::threads_each))
    }

    #[test]
    fn rows_are_shared_out_once_each_and_those_who_help_know_where_they_are() {
        for (rows, threads) in [(1, 4), (3, 2), (7, 5), (64, 3)] {
            let (mut y, mut z) = (vec![0; rows * 4], vec![(0, 0); rows]);
            in_a_team(threads, || {
                let _products = Precision::Bf16.enter();
                share_rows(rows, 100 * LEAST, (&mut y, &mut z), |part, y, z| {
                    assert_eq!((y.len(), z.len()), (part.len() * 4, part.len()));
                    assert_eq!(Precision::here(), Precision::Bf16);
                    assert!(rows == 1 || here() == 1, "a thread that helps has no team");
                    y.iter_mut().zip(part.start * 4..).for_each(|(y, i)| *y += i);
                    z.iter_mut().zip(part.clone()).for_each(|(z, i)| *z = (i, part.len()));
                });
                assert_eq!((here(), Precision::here()), (threads, Precision::Bf16));
                let alone = AtomicUsize::new(0);
                share_rows(8, LEAST - 1, (&mut [0; 8], &mut [(); 0]), |part, _, _| {
                    alone.fetch_add(part.len() * part.len(), Relaxed);
                });
                assert_eq!(alone.into_inner(), 8 * 8, "little is not shared out");
            });
            assert!(y.iter().copied().eq(0..rows * 4), "{y:?}");
            let parts = threads.min(rows);
            assert!((0..rows).eq(z.iter().map(|z| z.0)) && z.iter().all(|z| z.1 <= rows.div_ceil(parts)), "{z:?}");
        }
        assert_eq!(here(), 1);
    }

    #[test]
    fn threads_go_to_what_is_not_done() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(6).build().unwrap();
        pool.install(|| {
            let teams = Teams::of(3);
            let first = teams.begin();
            let second = teams.begin();
            assert_eq!(here(), 1, "none is shared while another has not begun");
            let third = teams.begin();
            assert_eq!(here(), 2);
            drop(third);
            assert_eq!(here(), 3);
            drop(second);
            assert_eq!(here(), 6);
            drop(first);
            assert_eq!(here(), 1);
            let _between = teams.between();
            assert_eq!(here(), 6);
        });
    }
}
