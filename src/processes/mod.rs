//! The processes that train together, and what one says to another. Any module may use this one, and it uses none of them
//! but for errors.
//!
//! A [`World`] has two operations, and both are made by all of its processes: [`share`](World::share), in which each
//! gives a few bytes *or its error* and gets those of all, and [`exchange`](World::exchange), in which long rows of
//! numbers go from one to another. What is computed of them, and who owns what, is the business of `train`.
//!
//! All processes run the same program. Where one meets an error, the others are on their way to the next `share`, or in
//! it: there they hear of it, all return the same error, and the first process prints it. Between two `share`s nothing
//! can fail but by a bug; [`World::together`] is for what is done there, and ends the job if there is one.
//!
//! Three kinds of world: [alone](World::alone), which is where one process trains and costs nothing; over MPI
//! (`mpi.rs`, feature `mpi`); and threads of one process, for tests (`threads.rs`).

#[cfg(feature = "mpi")]
mod mpi;
#[cfg(test)]
pub(crate) mod threads;

use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::{Error, Result};

/// How processes are connected.
trait Link: Send + Sync {
    /// This process, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// The bytes of every process, by rank.
    fn share(&self, mine: &[u8]) -> Vec<Vec<u8>>;

    /// See [`World::exchange`].
    fn exchange(&self, outgoing: &[(usize, &[f32])], incoming: &mut [(usize, &mut [f32])]);

    /// Ends all processes.
    fn abort(&self) -> !;
}

/// The processes that train together, as one of them sees them.
pub struct World {
    /// `None`: alone.
    link: Option<Box<dyn Link>>,
    /// Whether a share has ended in an error: all processes have heard it then.
    failed: AtomicBool,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} of {}", self.rank(), self.size())
    }
}

impl World {
    /// One process.
    pub fn alone() -> Arc<Self> {
        Arc::new(World { link: None, failed: AtomicBool::new(false) })
    }

    #[cfg(any(test, feature = "mpi"))]
    fn over(link: impl Link + 'static) -> Arc<Self> {
        Arc::new(World { link: Some(Box::new(link)), failed: AtomicBool::new(false) })
    }

    /// This process, from 0.
    pub fn rank(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.rank())
    }

    /// How many processes there are.
    pub fn size(&self) -> usize {
        self.link.as_ref().map_or(1, |link| link.size())
    }

    /// Whether this is the process that writes files and prints.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Every process gives some bytes, or its error; all get the bytes of all, by rank.
    ///
    /// # Errors
    /// When one process gave an error: that of the lowest rank, the same in all.
    pub fn share(&self, mine: Result<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let Some(link) = &self.link else { return mine.map(|mine| vec![mine]) };
        let mut bytes = match &mine {
            Ok(mine) => [&[FINE], &mine[..]].concat(),
            Err(Error::Interrupted) => vec![INTERRUPTED],
            Err(error) => [&[FAILED], format!("{}\n{error}", host()).as_bytes()].concat(),
        };
        let mut all = link.share(&bytes);
        let Some(rank) = all.iter().position(|bytes| bytes[0] != FINE) else {
            all.iter_mut().for_each(|bytes| _ = bytes.remove(0));
            return Ok(all);
        };
        self.failed.store(true, Ordering::Relaxed);
        if let (Err(error), true) = (mine, rank == self.rank()) {
            return Err(error);
        }
        bytes = all.swap_remove(rank);
        if bytes[0] == INTERRUPTED {
            return Err(Error::Interrupted);
        }
        let said = String::from_utf8_lossy(&bytes[1..]).into_owned();
        let (host, error) = said.split_once('\n').unwrap_or(("", &said));
        Err(Error::Elsewhere { process: rank, host: host.to_owned(), error: error.to_owned() })
    }

    /// What this process found, if every process found what it looked for.
    ///
    /// # Errors
    /// As [`share`](Self::share).
    pub fn agree<T>(&self, mine: Result<T>) -> Result<T> {
        if self.link.is_none() {
            return mine;
        }
        match mine {
            Ok(mine) => self.share(Ok(Vec::new())).map(|_| mine),
            Err(error) => Err(self.share(Err(error)).expect_err("an error was given")),
        }
    }

    /// [`agree`](Self::agree) at the end of all work. An error that came of sharing is known everywhere, and the others
    /// have gone.
    ///
    /// # Errors
    /// As [`share`](Self::share).
    pub fn end<T>(&self, mine: Result<T>) -> Result<T> {
        if self.failed.load(Ordering::Relaxed) { mine } else { self.agree(mine) }
    }

    /// Sends each row of numbers to the process with it, and fills each with the next that its process sends here. All
    /// processes take part at once, and between two of them rows go in the order in which both list them.
    pub fn exchange(&self, outgoing: &[(usize, &[f32])], incoming: &mut [(usize, &mut [f32])]) {
        if let Some(link) = &self.link {
            link.exchange(outgoing, incoming);
        }
    }

    /// Work between two [`share`](Self::share)s in which processes need each other. If it panics, all of them end:
    /// there is nobody who could tell the others, who wait for this one.
    pub fn together<R>(&self, work: impl FnOnce() -> R) -> R {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| match &self.link {
            None => resume_unwind(panic),
            Some(link) => {
                let (process, host) = (self.rank(), host());
                let _ = writeln!(
                    std::io::stderr(),
                    "error: process {process}, on {host}, ends all of them: a thread panicked, as said above\n  \
                     this is a bug in the program: please report it"
                );
                link.abort()
            }
        })
    }
}

/// What the bytes of a process begin with in [`World::share`].
const FINE: u8 = 0;
const FAILED: u8 = 1;
const INTERRUPTED: u8 = 2;

/// The name of this machine.
pub fn host() -> String {
    let name =
        ["/proc/sys/kernel/hostname", "/etc/hostname"].iter().find_map(|path| std::fs::read_to_string(path).ok());
    let name = name.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_default();
    if name.trim().is_empty() { "this machine".to_owned() } else { name.trim().to_owned() }
}

/// Cleared in all processes but the first.
static SPEAKS: AtomicBool = AtomicBool::new(true);

/// Whether this process is the one that prints: what all of them have to say is said once.
pub fn speaks() -> bool {
    SPEAKS.load(Ordering::Relaxed)
}

/// Says something on standard error, if this is the process that prints; that nobody may read it is no reason to end.
pub fn note(line: fmt::Arguments) {
    if speaks() {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

static WORLD: OnceLock<Arc<World>> = OnceLock::new();

/// The processes that the program was started with.
pub fn world() -> Arc<World> {
    WORLD.get().map_or_else(World::alone, Arc::clone)
}

/// How many processes a launcher (`mpirun`, `srun --mpi=…`) started this one among, and which of them it is, as far as
/// it says so in the environment; `None`: it was started by itself.
#[cfg_attr(feature = "mpi", expect(dead_code, reason = "MPI itself knows"))]
fn launched() -> Option<(usize, usize)> {
    let number = |name: &str| std::env::var(name).ok()?.trim().parse::<usize>().ok();
    let by = |[size, rank]: [&str; 2]| Some((number(size)?, number(rank)?));
    LAUNCHERS.into_iter().find_map(by)
}

/// What Open MPI, and what MPICH, Intel MPI and SLURM set.
const LAUNCHERS: [[&str; 2]; 2] = [["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"], ["PMI_SIZE", "PMI_RANK"]];

/// While it lives, the program is one of the processes that it was started with. It is dropped on the thread that got
/// it, when all is done: it waits for the others.
pub struct Started {
    #[cfg(feature = "mpi")]
    _universe: Option<mpi::Universe>,
}

#[cfg(feature = "mpi")]
impl Drop for Started {
    fn drop(&mut self) {
        if let (true, Some(link)) = (std::thread::panicking(), &world().link) {
            link.abort(); // or the others would wait for this one, and this one for them
        }
    }
}

/// Finds the other processes, if a launcher started this one. Without one nothing happens, and MPI is not touched.
///
/// # Errors
/// When there are others, and this program was built without the feature `mpi`; when MPI does not begin.
pub fn start() -> Result<Started> {
    #[cfg(feature = "mpi")]
    {
        // PMIx says no size.
        let by_launcher = LAUNCHERS.iter().flatten().chain(&["PMIX_RANK"]).any(|name| std::env::var_os(name).is_some());
        if !by_launcher {
            return Ok(Started { _universe: None });
        }
        let (universe, link) = mpi::start()?;
        if link.size() > 1 {
            SPEAKS.store(link.rank() == 0, Ordering::Relaxed);
            let _ = WORLD.set(World::over(link));
        }
        Ok(Started { _universe: Some(universe) })
    }
    #[cfg(not(feature = "mpi"))]
    match launched() {
        Some((size, rank)) if size > 1 => {
            SPEAKS.store(rank == 0, Ordering::Relaxed);
            let problem = format!("this is one of {size} processes, and the program was built without the feature mpi");
            Err(Error::config(
                problem,
                "build it with --features mpi (docs/distributed.md), or start it without a launcher",
            ))
        }
        _ => Ok(Started {}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_gets_what_everyone_gave() {
        for size in 1..=5 {
            let found = threads::run(size, |world| {
                let rank = world.rank() as u8;
                let all = world.share(Ok(vec![rank; usize::from(rank) + 1])).unwrap();
                let numbers: Vec<Vec<f32>> = (0..size).map(|to| vec![f32::from(rank) + 0.1 * to as f32; 3]).collect();
                let mut got = vec![vec![0.0; 3]; size];
                let others = |i: &usize| *i != world.rank();
                let outgoing: Vec<_> = (0..size).filter(others).map(|to| (to, &numbers[to][..])).collect();
                let mut incoming: Vec<_> =
                    got.iter_mut().enumerate().filter(|(i, _)| others(i)).map(|(i, x)| (i, &mut x[..])).collect();
                world.exchange(&outgoing, &mut incoming);
                (all, got)
            });
            for (rank, (all, got)) in found.into_iter().enumerate() {
                assert_eq!(all, (0..size).map(|k| vec![k as u8; k + 1]).collect::<Vec<_>>());
                for (from, numbers) in got.into_iter().enumerate().filter(|(from, _)| *from != rank) {
                    assert_eq!(numbers, [from as f32 + 0.1 * rank as f32; 3]);
                }
            }
        }
    }

    #[test]
    fn an_error_anywhere_is_the_same_error_everywhere() {
        for failing in [vec![2], vec![1, 3], vec![0, 1, 2, 3]] {
            let errors = threads::run(4, |world| {
                let rank = world.rank();
                let mine =
                    if failing.contains(&rank) { Err(Error::config(format!("bad {rank}"), "mend")) } else { Ok(rank) };
                world.agree(mine).unwrap_err().to_string()
            });
            let first = failing[0];
            for (rank, error) in errors.into_iter().enumerate() {
                let words = format!("bad {first}\n  mend");
                assert!(error.starts_with(&words), "{error}");
                let named = error.contains(&format!("process {first}, on {}", host()));
                assert_eq!(named, rank != first, "{error}");
            }
        }
        // One fails on its way to a share, or after the last: the others hear of it where they are.
        for failing in 0..3 {
            let ends = threads::run(3, |world| {
                let work = || {
                    if world.rank() == failing {
                        return Err(Error::config("early", "mend"));
                    }
                    world.share(Ok(vec![])).map(|_| ())
                };
                world.end(work()).unwrap_err().to_string()
            });
            assert!(ends.iter().all(|end| end.starts_with("early")), "{ends:?}");
        }
        let asked =
            threads::run(3, |world| world.agree(if world.rank() == 1 { Err(Error::Interrupted) } else { Ok(()) }));
        assert!(asked.into_iter().all(|asked| matches!(asked, Err(Error::Interrupted))));
    }
}
