//! Shapes: up to [`MAX_RANK`] dimensions, stored inline so that making a tensor allocates only its elements.

use std::fmt;
use std::ops::Deref;

use crate::kernels::MAX_RANK;

/// The dimensions of a tensor, outermost first. Behaves as a slice of `usize`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: usize,
}

impl Shape {
    /// A shape with these dimensions.
    ///
    /// # Panics
    /// When there are more than [`MAX_RANK`].
    #[track_caller]
    pub fn new(dims: &[usize]) -> Self {
        assert!(dims.len() <= MAX_RANK, "a tensor has at most {MAX_RANK} dimensions, not {}", dims.len());
        let mut inline = [0; MAX_RANK];
        inline[..dims.len()].copy_from_slice(dims);
        Shape { dims: inline, rank: dims.len() }
    }

    /// Number of elements: the product of the dimensions, 1 for a scalar.
    ///
    /// # Panics
    /// When that is more than can be counted: no memory has so many, and a product that wraps would look like few.
    #[track_caller]
    pub fn elements(&self) -> usize {
        if self.contains(&0) {
            return 0;
        }
        let product = self.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        product.unwrap_or_else(|| panic!("a tensor of {self} has more elements than can be counted"))
    }

    /// This shape with dimension `axis` replaced.
    pub fn with(mut self, axis: usize, dim: usize) -> Self {
        self.dims[..self.rank][axis] = dim;
        self
    }

    /// The shape of two operands that meet by broadcasting, aligned at the last dimension; `None` when they do not.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank.max(other.rank);
        let mut out = [1; MAX_RANK];
        for (i, out) in out[..rank].iter_mut().enumerate() {
            let at = |s: &Shape| (i + s.rank).checked_sub(rank).map_or(1, |i| s[i]);
            *out = match (at(self), at(other)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            };
        }
        Some(Shape::new(&out[..rank]))
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank]
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    #[track_caller]
    fn from(dims: [usize; N]) -> Self {
        Shape::new(&dims)
    }
}

impl From<&[usize]> for Shape {
    #[track_caller]
    fn from(dims: &[usize]) -> Self {
        Shape::new(dims)
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self[..])
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &self[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_never_wrap() {
        assert_eq!(
            [Shape::new(&[]), Shape::new(&[2, 3]), Shape::new(&[1 << 40, 1 << 40, 0])].map(|s| s.elements()),
            [1, 6, 0]
        );
        let panic = std::panic::catch_unwind(|| Shape::new(&[1 << 32, 1 << 32]).elements()).expect_err("2⁶⁴ is 0");
        assert!(crate::error::panic_message(&*panic).contains("[4294967296, 4294967296] has more elements"));
    }

    #[test]
    fn broadcasting_follows_numpy() {
        let meet = |a: &[usize], b: &[usize]| Shape::new(a).broadcast(&Shape::new(b)).map(|s| s.to_vec());
        assert_eq!(meet(&[2, 3], &[3]), Some(vec![2, 3]));
        assert_eq!(meet(&[2, 1, 4], &[3, 1]), Some(vec![2, 3, 4]));
        assert_eq!(meet(&[], &[5]), Some(vec![5]));
        assert_eq!(meet(&[0], &[1]), Some(vec![0]));
        assert_eq!(meet(&[2], &[3]), None);
    }
}
