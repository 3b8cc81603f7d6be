//! The tree along which the gradients of a step are summed, and which process has which of its branches.
//!
//! A batch is cut into chunks, chunks into lanes: a lane is a few chunks in a row, each added to what the last one
//! found. Lanes are the leaves of a binary tree. All of this follows from the size of the whole batch and of a chunk,
//! never from threads or processes: so the sums have the same bits wherever they are made.
//!
//! A process has some lanes in a row: the branches that lie in them whole, its [pieces](Lanes::pieces), it sums by
//! itself.

use std::ops::Range;

use crate::{Error, Result};

/// Lanes of a batch, from 8 to 16: as many threads can work on it at once, of all processes together, each on a chunk of its
/// own. The sum of each is as large as the model, and adding two of them is a pass over memory, so there are no more,
/// unless a lane would have more than [`MOST_IN_A_ROW`].
const LANES: Range<usize> = 8..16;

/// The most chunks in a lane: beside so many, the pass is nothing.
const MOST_IN_A_ROW: usize = 16;

/// Of a large model, whose sums are most of the memory of a step, a lane has at least so many chunks.
const LEAST_IN_A_ROW: usize = 8;

/// The lanes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lanes {
    /// Images in the batch, and in a chunk.
    images: usize,
    chunk: usize,
    /// Chunks in a lane; the last may have fewer.
    in_a_row: usize,
}

impl Lanes {
    /// Those of a batch of so many images in chunks of so many.
    pub fn new(images: usize, chunk: usize, large: bool) -> Self {
        let chunks = images.div_ceil(chunk);
        let lanes = if large { (chunks / LEAST_IN_A_ROW).max(1) } else { (chunks / 2).max(LANES.start) };
        let in_a_row = chunks.div_ceil(lanes.min(LANES.end));
        Lanes { images, chunk, in_a_row: in_a_row.min(MOST_IN_A_ROW) }
    }

    /// A GPU works on one chunk at a time, or there would be no point in smaller ones.
    pub fn one(images: usize, chunk: usize) -> Self {
        Lanes { images, chunk, in_a_row: images.div_ceil(chunk) }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.images.div_ceil(self.chunk).div_ceil(self.in_a_row)
    }

    /// The images of some lanes.
    pub fn images(&self, lanes: &Range<usize>) -> Range<usize> {
        let start = |lane: usize| (lane.saturating_mul(self.in_a_row).saturating_mul(self.chunk)).min(self.images);
        start(lanes.start)..start(lanes.end)
    }

    /// The images of each chunk of a lane.
    pub fn chunks(&self, lane: usize) -> impl Iterator<Item = Range<usize>> {
        let (images, chunk) = (self.images(&(lane..lane + 1)), self.chunk);
        images.clone().step_by(chunk).map(move |start| start..(start + chunk).min(images.end))
    }

    /// The lanes of each of so many processes: as few as can be for the one with the most, and then in as few pieces as
    /// can be.
    ///
    /// # Errors
    /// When a process would have none.
    pub fn of_processes(&self, processes: usize) -> Result<Vec<Range<usize>>> {
        let lanes = self.count();
        if processes > lanes {
            let (images, chunk) = (self.images, self.chunk);
            let problem = format!(
                "{processes} processes for a batch of {images} images: in chunks of {chunk} it has work for {lanes} at most"
            );
            return Err(Error::config(
                problem,
                format!("start {lanes} processes or fewer, or choose a larger `batch`"),
            ));
        }
        let evenly: Vec<_> = (0..processes).map(|k| lanes * k / processes..lanes * (k + 1) / processes).collect();
        let along_the_tree = along_the_tree(0..lanes, processes);
        let most = |of: &[Range<usize>]| of.iter().map(Range::len).max();
        Ok(if most(&along_the_tree) <= most(&evenly) { along_the_tree } else { evenly })
    }

    /// The branches that lie whole within some lanes, as large as can be, in order.
    pub fn pieces(&self, within: &Range<usize>) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut open = Vec::from_iter(std::iter::once(0..self.count()));
        while let Some(branch) = open.pop() {
            if within.start <= branch.start && branch.end <= within.end {
                found.push(branch);
            } else if branch.start < within.end && within.start < branch.end {
                let (left, right) = halves(&branch);
                open.extend([right, left]);
            }
        }
        found
    }

    /// The branches from a piece down to a lane in it.
    pub fn path(piece: &Range<usize>, lane: usize) -> Vec<Range<usize>> {
        let mut path = vec![piece.clone()];
        while path[path.len() - 1].len() > 1 {
            let (left, right) = halves(&path[path.len() - 1]);
            path.push(if left.contains(&lane) { left } else { right });
        }
        path
    }

    /// The sum along the tree, given that of each piece.
    pub fn sum<T>(&self, piece: &mut dyn FnMut(&Range<usize>) -> Option<T>, add: &dyn Fn(T, T) -> T) -> T {
        sum(&(0..self.count()), piece, add)
    }
}

fn sum<T>(branch: &Range<usize>, piece: &mut dyn FnMut(&Range<usize>) -> Option<T>, add: &dyn Fn(T, T) -> T) -> T {
    if let Some(found) = piece(branch) {
        return found;
    }
    assert!(branch.len() > 1, "lane {} is in no piece", branch.start);
    let (left, right) = halves(branch);
    let left = sum(&left, piece, add);
    add(left, sum(&right, piece, add))
}

/// The two branches that a branch of more than one lane is made of.
pub(super) fn halves(branch: &Range<usize>) -> (Range<usize>, Range<usize>) {
    let middle = branch.start + branch.len().div_ceil(2);
    (branch.start..middle, middle..branch.end)
}

/// Processes split with the tree, in proportion to lanes.
fn along_the_tree(branch: Range<usize>, processes: usize) -> Vec<Range<usize>> {
    if processes == 1 {
        return vec![branch];
    }
    let (left, right) = halves(&branch);
    let share = (processes * left.len() + branch.len() / 2) / branch.len();
    let share = share.clamp(1.max(processes.saturating_sub(right.len())), left.len().min(processes - 1));
    [along_the_tree(left, share), along_the_tree(right, processes - share)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every batch up to some size: lanes and chunks are cut without gap, and processes have them all.
    #[test]
    fn everything_belongs_to_one_process() {
        let sizes = (1..=70).flat_map(|images| [1, 2, 3, 8].map(|chunk| (images, chunk))).chain([(2048, 1)]);
        for ((images, chunk), large) in sizes.flat_map(|size| [(size, false), (size, true)]) {
            let lanes = Lanes::new(images, chunk, large);
            let count = lanes.count();
            assert!(!large || lanes.in_a_row >= images.div_ceil(chunk).min(LEAST_IN_A_ROW), "{lanes:?}");
            assert!((1..=16).contains(&count) || images == 2048 && count == 128, "{lanes:?}");
            let chunks: Vec<_> = (0..count).flat_map(|lane| lanes.chunks(lane)).collect();
            let cut: Vec<_> = (0..images).step_by(chunk).map(|i| i..(i + chunk).min(images)).collect();
            assert_eq!(chunks, cut, "{lanes:?}");
            for processes in 1..=count {
                let of = lanes.of_processes(processes).unwrap();
                assert_eq!(of.len(), processes);
                assert!(of.iter().all(|lanes| !lanes.is_empty() && lanes.len() <= count.div_ceil(processes)), "{of:?}");
                assert!(of.iter().cloned().flatten().eq(0..count), "{of:?}");
                let mut pieces: Vec<_> = of.iter().flat_map(|of| lanes.pieces(of)).collect();
                assert!(pieces.iter().cloned().flatten().eq(0..count), "{pieces:?}");
                // The sum is that of one process, brackets and all.
                let leaf = |branch: &Range<usize>| (branch.len() == 1).then(|| branch.start.to_string());
                let add = |left: String, right: String| format!("({left}+{right})");
                let whole = lanes.sum(&mut { leaf }, &add);
                let of_piece = |branch: &Range<usize>| {
                    let at = pieces.iter().position(|piece| piece == branch)?;
                    Some(sum(&pieces.swap_remove(at), &mut { leaf }, &add))
                };
                assert_eq!(lanes.sum(&mut { of_piece }, &add), whole);
            }
            let error = lanes.of_processes(count + 1).unwrap_err().to_string();
            assert!(
                error.contains(&format!("start {count} processes or fewer, or choose a larger `batch`")),
                "{error}"
            );
        }
    }

    #[test]
    fn powers_of_two_have_a_branch_each() {
        for (images, lanes) in [(64, 8), (128, 8), (256, 16), (1024, 16)] {
            let tree = Lanes::new(images, 8, false);
            assert_eq!(tree.count(), lanes);
            for processes in [1, 2, 4, 8] {
                let of = tree.of_processes(processes).unwrap();
                assert!(of.iter().all(|of| tree.pieces(of).len() == 1 && of.len() == lanes / processes), "{of:?}");
            }
        }
        let three = Lanes::new(64, 8, false).of_processes(3).unwrap();
        assert_eq!(three, [0..2, 2..5, 5..8], "not 2, 2 and 4");
    }
}
