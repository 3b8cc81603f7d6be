//! A meter: where the time of a computation goes, and how many floating-point operations its products are.
//!
//! A thread is in one place at a time: in a phase of a training step and, inside it, in an operation or between two.
//! It reads the clock when the place changes, so that every moment belongs to one place and to no other; what a phase
//! or an operation has inside it that is metered too is not counted twice. Nothing that is computed depends on the
//! meter. Off, as it is at the start, it costs an atomic load for each kernel and each phase.
//!
//! There is one meter in a process: while it runs, it counts whatever any thread computes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The parts of a training step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// A batch is waited for, masks and noise are drawn, a chunk is cut out.
    Data,
    /// The target encoder: s_y.
    Target,
    /// The context encoder: s_x.
    Context,
    /// Tokens, predictor and loss: c, m, ŝ_y, L.
    Predictor,
    /// The reverse sweep.
    Backward,
    /// The chunks' gradients are added up.
    GradientSum,
    /// AdamW, and the target encoder's moving average.
    Optimizer,
    /// What is in no other phase.
    Rest,
    /// Images are read and augmented for a later step, on the loader's own threads.
    Loading,
}

/// Where a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The part of the step.
    pub phase: Phase,
    /// The operation; `None` between operations.
    pub op: Option<&'static str>,
}

/// What is counted of a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How often an operation was entered. A rule of the tape is one operation, however many kernels it calls.
    pub calls: u64,
    /// The time of all threads together.
    pub time: Duration,
    /// Floating-point operations of matrix products: 2 m k n each.
    pub flops: u64,
}

impl std::ops::AddAssign for Sum {
    fn add_assign(&mut self, other: Sum) {
        self.calls += other.calls;
        self.time += other.time;
        self.flops += other.flops;
    }
}

/// What was counted, place by place.
pub type Totals = BTreeMap<Place, Sum>;

static ON: AtomicBool = AtomicBool::new(false);
/// What the threads have handed in.
static TOTALS: Mutex<Totals> = Mutex::new(Totals::new());
/// The phase of threads that are in none of their own.
static SHARED: Mutex<Phase> = Mutex::new(Phase::Rest);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Sums and an enum are whole at every moment, so a panic elsewhere cannot have broken them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[inline]
fn on() -> bool {
    ON.load(Ordering::Relaxed)
}

thread_local! {
    static THREAD: RefCell<Thread> = const { RefCell::new(Thread { place: None, since: None, sums: Totals::new() }) };
}

struct Thread {
    place: Option<Place>,
    /// When it came there.
    since: Option<Instant>,
    /// What was not handed in yet.
    sums: Totals,
}

impl Thread {
    /// Goes to another place; gives the one that it leaves. A thread that is nowhere hands in what it has.
    fn go(&mut self, to: Option<Place>) -> Option<Place> {
        let now = Instant::now();
        if let (Some(place), Some(since)) = (self.place, self.since) {
            self.sums.entry(place).or_default().time += now - since;
        }
        self.since = Some(now);
        if to.is_none() {
            let mut totals = lock(&TOTALS);
            std::mem::take(&mut self.sums)
                .into_iter()
                .for_each(|(place, sum)| *totals.entry(place).or_default() += sum);
        }
        std::mem::replace(&mut self.place, to)
    }

    fn phase(&self) -> Phase {
        self.place.map_or_else(|| *lock(&SHARED), |place| place.phase)
    }
}

/// As long as it lives, its thread is in a place; then it goes back to where it was.
#[derive(Debug)]
#[must_use = "the place is left when this is dropped"]
pub struct Scope {
    /// Where to go back to. The outer `None`: the place was not changed.
    back: Option<Option<Place>>,
    /// The phase to share again.
    shared: Option<Phase>,
    /// Tied to its thread.
    _thread: PhantomData<*const ()>,
}

/// Goes where `to` says, if the meter runs.
#[inline]
fn enter(to: impl FnOnce(&mut Thread) -> Option<Place>) -> Scope {
    let go = |thread: &mut Thread| to(thread).map(|place| thread.go(Some(place)));
    let back = if on() { THREAD.with_borrow_mut(go) } else { None };
    Scope { back, shared: None, _thread: PhantomData }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if let Some(place) = self.back {
            THREAD.with_borrow_mut(|thread| thread.go(place));
        }
        if let Some(phase) = self.shared {
            *lock(&SHARED) = phase;
        }
    }
}

/// This thread is in `phase`.
#[inline]
pub fn phase(phase: Phase) -> Scope {
    enter(|_| Some(Place { phase, op: None }))
}

/// This thread is in `phase`, and so are the operations of every thread that is in no phase of its own: for a part of a
/// step that is spread over threads.
pub fn phase_of_all(phase: Phase) -> Scope {
    let mut scope = self::phase(phase);
    scope.shared = on().then(|| std::mem::replace(&mut *lock(&SHARED), phase));
    scope
}

/// This thread is in the operation `name` of its phase. An operation inside an operation is a part of it.
#[inline]
pub fn op(name: &'static str) -> Scope {
    enter(|thread| {
        if let Some(Place { op: Some(_), .. }) = thread.place {
            return None;
        }
        let place = Place { phase: thread.phase(), op: Some(name) };
        thread.sums.entry(place).or_default().calls += 1;
        Some(place)
    })
}

/// Counts a product of an (m, k) and a (k, n) matrix: 2 m k n operations.
#[inline]
pub fn product([m, k, n]: [usize; 3]) {
    if on() {
        THREAD.with_borrow_mut(|thread| {
            let place = thread.place.unwrap_or(Place { phase: thread.phase(), op: None });
            thread.sums.entry(place).or_default().flops += 2 * m as u64 * k as u64 * n as u64;
        });
    }
}

/// Where a thread is, for the threads that help it.
#[derive(Clone, Copy, Debug)]
pub struct Here(Option<Place>);

/// Where this thread is: call it before the work is spread, and [`Here::enter`] on the threads that do the work.
pub fn here() -> Here {
    Here(if on() { THREAD.with_borrow(|thread| thread.place) } else { None })
}

impl Here {
    /// This thread is there too.
    pub fn enter(self) -> Scope {
        enter(|_| self.0)
    }
}

/// A meter that is running.
#[derive(Debug)]
#[must_use = "the meter stops when this is dropped"]
pub struct Running(());

/// Starts the meter, at nothing.
///
/// # Panics
/// When it is running already.
#[track_caller]
pub fn start() -> Running {
    let mut totals = lock(&TOTALS);
    assert!(!ON.swap(true, Ordering::SeqCst), "the meter is running already");
    totals.clear();
    Running(())
}

impl Running {
    /// What was counted since the start. A place that a thread has not left counts from when it does, and then not here.
    pub fn stop(self) -> Totals {
        ON.store(false, Ordering::SeqCst);
        std::mem::take(&mut *lock(&TOTALS))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        ON.store(false, Ordering::SeqCst);
    }
}
