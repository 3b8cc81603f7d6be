//! Operands and results of products in the type in which they are stored: where that is not the type of sums, they are
//! rounded once, where they are made.

use super::gemm::{Epilogue, Mat, MatMut, Product, gemm_with};
use crate::kernels::buffer::{Storage, room};
use crate::kernels::elementwise::cpu::round;
use crate::kernels::{Bf16, Element, Real};

/// A type to store in: that of the sums, or a narrow one.
pub trait Rounded: Element {
    /// Whether it is not the type of sums.
    const IS_NARROW: bool;

    /// x, or x rounded, in `room` for as many.
    fn operand<'a>(x: &'a [Self::Computed], room: &'a mut [Self]) -> &'a [Self];

    /// Where the sums go that are to become c, of `cols` columns: there, or into `room`.
    fn sums<'a>(c: MatMut<'a, Self>, cols: usize, room: &'a mut [Self::Computed]) -> MatMut<'a, Self::Computed>;

    /// [`gemm`](super::gemm::gemm) by some kernel, to c, by way of `room` for as many numbers. What is in c already are
    /// [`sums`](Self::sums) of the same room.
    fn gemm_to<S: Element<Computed = Self::Computed>>(
        kernel: unsafe fn(&Product<S>),
        dims: [usize; 3],
        alpha: Self::Computed,
        a: Mat<'_, S>,
        b: Mat<'_, S>,
        plus: Epilogue<'_, Self::Computed>,
        to: (&mut [Self::Computed], MatMut<'_, Self>),
    );

    /// Room for so many numbers, where this type is narrow.
    fn room<T: Element>(len: usize) -> Storage<T> {
        room(if Self::IS_NARROW { len } else { 0 })
    }
}

impl<T: Real> Rounded for T {
    const IS_NARROW: bool = false;

    fn operand<'a>(x: &'a [T], _room: &'a mut [T]) -> &'a [T] {
        x
    }
    fn sums<'a>(c: MatMut<'a, T>, _cols: usize, _room: &'a mut [T]) -> MatMut<'a, T> {
        c
    }
    fn gemm_to<S: Element<Computed = T>>(
        kernel: unsafe fn(&Product<S>),
        dims: [usize; 3],
        alpha: T,
        a: Mat<'_, S>,
        b: Mat<'_, S>,
        plus: Epilogue<'_, T>,
        (_room, c): (&mut [T], MatMut<'_, T>),
    ) {
        gemm_with(kernel, dims, alpha, a, b, plus, (c, None));
    }
}

impl Rounded for Bf16 {
    const IS_NARROW: bool = true;

    fn operand<'a>(x: &'a [f32], room: &'a mut [Bf16]) -> &'a [Bf16] {
        let room = &mut room[..x.len()];
        round::<f32, _, _>(x, room);
        room
    }
    fn sums<'a>(_c: MatMut<'a, Bf16>, cols: usize, room: &'a mut [f32]) -> MatMut<'a, f32> {
        MatMut::new(room, cols)
    }
    fn gemm_to<S: Element<Computed = f32>>(
        kernel: unsafe fn(&Product<S>),
        dims: [usize; 3],
        alpha: f32,
        a: Mat<'_, S>,
        b: Mat<'_, S>,
        plus: Epilogue<'_, f32>,
        (room, c): (&mut [f32], MatMut<'_, Bf16>),
    ) {
        gemm_with(kernel, dims, alpha, a, b, plus, (MatMut::new(room, dims[2]), Some(c)));
    }
}
