//! Token indices: which tokens of each image are meant. The paper's B_x (context) and B_y (targets).

use std::ops::Range;

use crate::kernels::{Device, IndexBuffer};

/// For each of `rows` images the same number of token indices, row-major, on a device. Cheap to clone.
///
/// Shape in the official code's words: `[B, N]`, int64. Here `u32`: a grid has far fewer than 2³² tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Indices {
    rows: usize,
    per_row: usize,
    data: IndexBuffer,
}

impl Indices {
    /// `data[r * per_row + k]` is the k-th token of row r.
    ///
    /// # Panics
    /// When `data` does not hold `rows * per_row` entries.
    #[track_caller]
    pub fn new(rows: usize, per_row: usize, data: Vec<u32>) -> Self {
        assert_eq!(data.len(), rows * per_row, "Indices::new: {} entries for {rows} rows of {per_row}", data.len());
        Indices { rows, per_row, data: IndexBuffer::new(data) }
    }

    /// One row for each of `rows`, which must be equally long.
    ///
    /// # Panics
    /// When two rows differ in length.
    #[track_caller]
    pub fn from_rows(rows: &[Vec<u32>]) -> Self {
        let per_row = rows.first().map_or(0, Vec::len);
        assert!(rows.iter().all(|row| row.len() == per_row), "Indices::from_rows: rows of different lengths");
        Indices::new(rows.len(), per_row, rows.concat())
    }

    /// Every token of `tokens`, in order, for each of `rows`.
    pub fn all(rows: usize, tokens: usize) -> Self {
        Indices::new(rows, tokens, (0..rows).flat_map(|_| 0..tokens as u32).collect())
    }

    /// Number of images (rows).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Tokens in each row.
    pub fn per_row(&self) -> usize {
        self.per_row
    }

    /// Where the indices live.
    pub fn device(&self) -> Device {
        self.data.device()
    }

    /// The same indices on another device.
    pub fn to_device(&self, device: Device) -> Self {
        Indices { data: self.data.to_device(device), ..self.clone() }
    }

    /// The buffer, for the doors in [`crate::kernels`].
    pub(crate) fn buffer(&self) -> &IndexBuffer {
        &self.data
    }

    /// The tokens of row `r`, read out.
    pub fn row(&self, r: usize) -> &[u32] {
        &self.as_slice()[r * self.per_row..(r + 1) * self.per_row]
    }

    /// All entries, row-major, read out.
    pub fn as_slice(&self) -> &[u32] {
        self.data.as_slice()
    }

    /// These entries as rows of the same length, on the same device.
    fn with(&self, rows: usize, data: Vec<u32>) -> Self {
        Indices::new(rows, self.per_row, data).to_device(self.device())
    }

    /// The rows in `range`: the indices of one chunk of images.
    pub fn slice_rows(&self, range: Range<usize>) -> Self {
        self.with(range.len(), self.as_slice()[range.start * self.per_row..range.end * self.per_row].to_vec())
    }

    /// All rows of the first, then all rows of the second, and so on.
    ///
    /// # Panics
    /// When `parts` is empty or their rows differ in length.
    #[track_caller]
    pub fn concat(parts: &[Indices]) -> Self {
        let first = parts.first().expect("Indices::concat: nothing to concatenate");
        assert!(parts.iter().all(|p| p.per_row == first.per_row), "Indices::concat: rows of different lengths");
        let data = parts.iter().flat_map(|p| p.as_slice()).copied().collect();
        first.with(parts.iter().map(|p| p.rows).sum(), data)
    }

    /// The same rows `times` times over: rows 0..n, then rows 0..n again.
    pub fn repeat(&self, times: usize) -> Self {
        self.with(self.rows * times, self.as_slice().repeat(times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_what_was_given() {
        let i = Indices::from_rows(&[vec![1, 2], vec![3, 4], vec![5, 6]]);
        assert_eq!((i.rows(), i.per_row(), i.row(1)), (3, 2, &[3, 4][..]));
        assert_eq!(i.slice_rows(1..3), Indices::from_rows(&[vec![3, 4], vec![5, 6]]));
        assert_eq!(Indices::concat(&[i.slice_rows(0..1), i.slice_rows(1..3)]), i);
        assert_eq!(i.repeat(2).row(4), &[3, 4]);
        assert_eq!(Indices::all(2, 3).row(1), &[0, 1, 2]);
        let there = i.to_device(Device::Reference);
        let made = [there.slice_rows(1..3), Indices::concat(&[there.clone(), there.clone()]), there.repeat(2)];
        assert!(made.iter().all(|made| made.device() == Device::Reference), "what is made of them stays there");
    }
}
