//! Processes that MPI connects. Whatever waits gives its core away between two looks: the others may need it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use ::mpi::environment::Universe;

use ::mpi::datatype::PartitionMut;
use ::mpi::request::{Request, Scope, scope};
use ::mpi::topology::SimpleCommunicator;
use ::mpi::traits::{Communicator, CommunicatorCollectives, Destination, Source};
use ::mpi::{Threading, environment};

use super::Link;
use crate::{Error, Result};

/// Bytes of a process that go without a second round: those of most [`share`](Link::share)s.
const SHORT: usize = 256;

/// Looks without sleep, of a microsecond or less each; and how long it sleeps between further ones.
const LOOKS: usize = 200;
const SLEEP: Duration = Duration::from_micros(50);

/// All processes; one thread at a time speaks to them.
pub(super) struct Mpi {
    rank: usize,
    size: usize,
    turn: Mutex<()>,
}

impl Mpi {
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins.
///
/// # Errors
/// When MPI has begun before, or cannot be used by one thread after another.
pub(super) fn start() -> Result<(Universe, Mpi)> {
    let (universe, threading) = environment::initialize_with_threading(Threading::Serialized)
        .ok_or_else(|| Error::config("MPI was begun before", "begin it once in a process"))?;
    let communicator = universe.world();
    if threading < Threading::Serialized {
        let problem = "this MPI cannot be used by one thread after another (MPI_THREAD_SERIALIZED)";
        return Err(Error::config(problem, "use an MPI that can: Open MPI and MPICH as they are packaged can"));
    }
    let (rank, size) = (communicator.rank() as usize, communicator.size() as usize);
    Ok((universe, Mpi { rank, size, turn: Mutex::new(()) }))
}

/// Waits for all of these.
fn wait<'a, D: ?Sized, S: Scope<'a>>(mut requests: Vec<Request<'a, D, S>>) {
    for look in 0.. {
        requests = requests.into_iter().filter_map(|request| request.test().err()).collect();
        if requests.is_empty() {
            return;
        }
        if look < LOOKS { std::thread::yield_now() } else { std::thread::sleep(SLEEP) }
    }
}

impl Link for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    /// Each process's first bytes behind how many they are; then, if one has more, all bytes of all.
    fn share(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        const LENGTH: usize = size_of::<u64>();
        let (_turn, communicator) = (self.turn(), SimpleCommunicator::world());
        let mut first = [0; SHORT];
        first[..LENGTH].copy_from_slice(&(mine.len() as u64).to_le_bytes());
        let short = mine.len().min(SHORT - LENGTH);
        first[LENGTH..LENGTH + short].copy_from_slice(&mine[..short]);
        let mut all = vec![0; SHORT * self.size];
        scope(|s| wait(vec![communicator.immediate_all_gather_into(s, &first[..], &mut all[..])]));
        let length = |first: &[u8]| u64::from_le_bytes(first[..LENGTH].try_into().expect("so many")) as usize;
        let lengths: Vec<usize> = all.chunks_exact(SHORT).map(length).collect();
        if lengths.iter().all(|length| *length <= SHORT - LENGTH) {
            let bytes = all.chunks_exact(SHORT).zip(&lengths);
            return bytes.map(|(first, length)| first[LENGTH..LENGTH + length].to_vec()).collect();
        }
        let counts: Vec<i32> = lengths.iter().map(|length| i32::try_from(*length).expect("less than 2 GiB")).collect();
        let starts: Vec<i32> = counts.iter().scan(0, |end, n| Some(std::mem::replace(end, *end + n))).collect();
        let mut all = vec![0u8; lengths.iter().sum()];
        let mut parts = PartitionMut::new(&mut all[..], &counts[..], &starts[..]);
        scope(|s| wait(vec![communicator.immediate_all_gather_varcount_into(s, mine, &mut parts)]));
        let mut rest = &all[..];
        let mut next = |length: &usize| rest.split_off(..*length).expect("so many").to_vec();
        lengths.iter().map(&mut next).collect()
    }

    fn exchange(&self, outgoing: &[(usize, &[f32])], incoming: &mut [(usize, &mut [f32])]) {
        let (_turn, communicator) = (self.turn(), SimpleCommunicator::world());
        let process = |rank: usize| communicator.process_at_rank(rank as i32);
        scope(|s| {
            let mut requests = Vec::with_capacity(outgoing.len() + incoming.len());
            requests.extend(
                incoming.iter_mut().map(|(from, numbers)| process(*from).immediate_receive_into(s, &mut **numbers)),
            );
            requests.extend(outgoing.iter().map(|(to, numbers)| process(*to).immediate_send(s, *numbers)));
            wait(requests);
        });
    }

    fn abort(&self) -> ! {
        // Whatever thread is in MPI now: nothing comes after this.
        SimpleCommunicator::world().abort(1)
    }
}
