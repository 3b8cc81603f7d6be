//! A world of threads, for tests of what processes do together.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use super::{Link, World};

/// What goes from one thread to another.
enum Message {
    Bytes(Vec<u8>),
    Numbers(Vec<f32>),
}

struct Threads {
    rank: usize,
    /// To each, and from each.
    to: Vec<Sender<Message>>,
    from: Vec<Mutex<Receiver<Message>>>,
}

impl Threads {
    fn next(&self, from: usize) -> Message {
        self.from[from].lock().unwrap().recv().expect("the other thread has not ended")
    }
}

impl Link for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.to.len()
    }

    fn share(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        self.to.iter().for_each(|to| to.send(Message::Bytes(mine.to_vec())).unwrap());
        let bytes = |from| match self.next(from) {
            Message::Bytes(bytes) => bytes,
            Message::Numbers(_) => panic!("{from} exchanges where {} shares", self.rank),
        };
        (0..self.size()).map(bytes).collect()
    }

    fn exchange(&self, outgoing: &[(usize, &[f32])], incoming: &mut [(usize, &mut [f32])]) {
        outgoing.iter().for_each(|(to, numbers)| self.to[*to].send(Message::Numbers(numbers.to_vec())).unwrap());
        for (from, numbers) in incoming {
            match self.next(*from) {
                Message::Numbers(got) => numbers.copy_from_slice(&got),
                Message::Bytes(_) => panic!("{from} shares where {} exchanges", self.rank),
            }
        }
    }

    fn abort(&self) -> ! {
        panic!("process {} ends all", self.rank)
    }
}

/// What `work` gives in each of so many processes, by rank.
pub(crate) fn run<R: Send>(size: usize, work: impl Fn(&Arc<World>) -> R + Sync) -> Vec<R> {
    let (mut to, mut from): (Vec<Vec<_>>, Vec<Vec<_>>) = (0..size).map(|_| (Vec::new(), Vec::new())).unzip();
    for sender in &mut to {
        for receivers in &mut from {
            let (send, receive) = channel();
            sender.push(send);
            receivers.push(Mutex::new(receive));
        }
    }
    let links = to.into_iter().zip(from).enumerate().map(|(rank, (to, from))| Threads { rank, to, from });
    let worlds: Vec<_> = links.map(World::over).collect();
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = worlds.into_iter().map(|world| scope.spawn(move || work(&world))).collect();
        running.into_iter().map(|thread| thread.join().expect("no process panics")).collect()
    })
}
