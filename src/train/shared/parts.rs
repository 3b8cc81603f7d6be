//! Whose elements are whose, and gradients on their way there: what a step among several processes is made of.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::methods::ModelParams;
use crate::tensor::{DType, Tensor};
use crate::train::lanes::Lanes;

/// The elements of a bucket, about: 4 MiB, so that a message is long against its latency.
const BUCKET: usize = if cfg!(test) { 1000 } else { 1 << 20 };

/// Who owns which elements of the trained parameters, which are numbered through.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    /// Where each parameter begins, and where the last one ends.
    pub starts: Vec<usize>,
    /// In the order in which gradients are done: the last parameters first.
    pub buckets: Vec<Range<usize>>,
    processes: usize,
}

impl Parts {
    pub fn new(params: &ModelParams, processes: usize) -> Self {
        let ends = params.trained_params().scan(0, |end, p| {
            *end += p.value.elements();
            Some(*end)
        });
        let starts: Vec<usize> = [0].into_iter().chain(ends).collect();
        let mut buckets = Vec::new();
        let mut end = starts[starts.len() - 1];
        for &start in starts.iter().rev() {
            if end - start >= BUCKET || start == 0 && end > 0 {
                buckets.push(start..end);
                end = start;
            }
        }
        Parts { starts, buckets, processes }
    }

    /// What a process owns of a bucket.
    pub fn of(&self, bucket: &Range<usize>, process: usize) -> Range<usize> {
        let at = |k: usize| bucket.start + bucket.len() * k / self.processes;
        at(process)..at(process + 1)
    }

    /// All that a process owns: parameters, and which of their elements.
    pub fn all_of(&self, process: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        self.buckets.iter().flat_map(move |bucket| self.slices(self.of(bucket, process)))
    }

    /// Elements in a row as parameters, and which of their elements.
    pub fn slices(&self, elements: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let first = self.starts.partition_point(|start| *start <= elements.start) - 1;
        (first..self.starts.len() - 1).take_while(move |i| self.starts[*i] < elements.end).filter_map(move |i| {
            let (start, end) = (self.starts[i], self.starts[i + 1]);
            let inside = elements.start.max(start)..elements.end.min(end);
            (!inside.is_empty()).then(|| (i, inside.start - start..inside.end - start))
        })
    }

    /// Elements in a row of what is given for each parameter from `first` on.
    pub fn packed(&self, elements: Range<usize>, first: usize, of: &[&[f32]]) -> Vec<f32> {
        let mut packed = Vec::with_capacity(elements.len());
        self.slices(elements).for_each(|(i, inside)| packed.extend_from_slice(&of[i - first][inside]));
        packed
    }

    /// The inverse of [`packed`](Self::packed).
    pub fn unpack(&self, elements: Range<usize>, mut packed: &[f32], of: &mut [&mut [f32]]) {
        for (i, inside) in self.slices(elements) {
            let now = packed.split_off(..inside.len()).expect("as many as were packed");
            of[i][inside].copy_from_slice(now);
        }
    }
}

/// The gradients of a process on their way up the tree, from its lanes to its pieces, each parameter for itself.
pub(super) struct Climbing<'a> {
    pub pieces: &'a [Range<usize>],
    /// For each parameter.
    params: Vec<Mutex<Climbed>>,
    /// Hears of a parameter once for each piece; closed when no more will come.
    done: Mutex<Option<Sender<usize>>>,
}

/// Where the gradient of one parameter is.
#[derive(Default)]
struct Climbed {
    /// Of branches whose other half is still missing above them, by the branch that is both.
    halves: HashMap<Range<usize>, Tensor>,
    /// The sum of each piece that is done.
    pieces: HashMap<Range<usize>, Tensor>,
}

impl<'a> Climbing<'a> {
    pub fn new(pieces: &'a [Range<usize>], params: usize) -> (Self, Mutex<Receiver<usize>>) {
        let (done, hears) = channel();
        let params = (0..params).map(|_| Mutex::default()).collect();
        (Climbing { pieces, params, done: Mutex::new(Some(done)) }, Mutex::new(hears))
    }

    fn param(&self, param: usize) -> MutexGuard<'_, Climbed> {
        self.params[param].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lane's gradient of a parameter is done: it is added to that of the other half wherever that is there already,
    /// and waits for it where it is not.
    pub fn climb(&self, lane: usize, param: usize, mut sum: Tensor) {
        let piece = self.pieces.iter().find(|piece| piece.contains(&lane)).expect("a lane of this process");
        let mut path = Lanes::path(piece, lane);
        path.pop();
        while let Some(branch) = path.pop() {
            // Taken out, so that nobody waits for the addition.
            let other = match self.param(param).halves.entry(branch) {
                Entry::Vacant(place) => {
                    place.insert(sum);
                    return;
                }
                Entry::Occupied(place) => place.remove(),
            };
            sum.add_assign(&other); // left + right and right + left are the same
        }
        self.param(param).pieces.insert(piece.clone(), sum);
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = done.as_ref().map(|done| done.send(param));
    }

    /// Nothing climbs any more.
    pub fn close(&self) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The sums of each piece, of these parameters; zeros where none came.
    pub fn take(&self, params: &[usize], starts: &[usize]) -> Vec<Vec<Tensor>> {
        let take = |piece: &Range<usize>, param: usize| {
            let none = || Tensor::zeros([starts[param + 1] - starts[param]], DType::F32);
            self.param(param).pieces.remove(piece).unwrap_or_else(none)
        };
        self.pieces.iter().map(|piece| params.iter().map(|param| take(piece, *param)).collect()).collect()
    }
}
