//! What every door is made of: checks of lengths, and the launch.

#[cfg(feature = "cuda")]
use super::cuda::{StoredView, StoredViewMut, View};
use super::{Buffer, Device, Element, IndexBuffer, Real};

/// Hands buffers over to the loop that computes with them: `launch!("gelu", [x], [y] => forward(x, y))` calls
/// `forward::<T>` of this family's `cpu` or `reference`, whichever is the device of the first output, with T its element
/// type, each input (before the `=>`, on the left) as a slice to read and each output as a slice to write. Inputs are
/// [`Input`]s, outputs are `Buffer`s. The meter knows the operation by its name.
///
/// T is f32 where that element type is bf16, which only those operands may have that a door wraps, as [`Stored`] or
/// [`StoredMut`]: a loop gets them as [`Typed`]. Of all others, a bf16 is as wrong as an f64.
///
/// Where there is no output among the operands, the device and the type are said: `launch!("to_dtype", at x.device(),
/// x.dtype(), [x], [] => …)`.
///
/// # Panics
/// When a buffer has another element type or lives on another device; the message names the operation. (That of the reference,
/// given a bf16, does not.)
macro_rules! launch {
    ($op:expr, [$($input:ident),*], [$first:ident $(, $output:ident)*] => $kernel:ident $arguments:tt) => {
        launch!($op, at $first.device(), $first.dtype(), [$($input),*], [$first $(, $output)*] => $kernel $arguments)
    };
    ($op:expr, at $device:expr, $dtype:expr, $inputs:tt, $outputs:tt => $kernel:ident $arguments:tt) => {{
        use $crate::kernels::{DType, Device};
        let op: &'static str = $op;
        let _metered = $crate::kernels::meter::op(op);
        match ($device, $dtype) {
            (Device::Cpu, DType::F32 | DType::Bf16) => {
                launch!(@run op, cpu, Cpu, f32, $inputs, $outputs, $kernel $arguments)
            }
            (Device::Cpu, DType::F64) => launch!(@run op, cpu, Cpu, f64, $inputs, $outputs, $kernel $arguments),
            (Device::Reference, DType::F32 | DType::Bf16) => {
                launch!(@run op, reference, Reference, f32, $inputs, $outputs, $kernel $arguments)
            }
            (Device::Reference, DType::F64) => {
                launch!(@run op, reference, Reference, f64, $inputs, $outputs, $kernel $arguments)
            }
            #[cfg(feature = "cuda")]
            (device @ Device::Cuda(_), DType::F32 | DType::Bf16) => {
                launch!(@run_on_gpu op, device, f32, $inputs, $outputs, $kernel $arguments)
            }
            #[cfg(feature = "cuda")]
            (device @ Device::Cuda(_), DType::F64) => {
                launch!(@run_on_gpu op, device, f64, $inputs, $outputs, $kernel $arguments)
            }
        }
    }};
    (@run $op:ident, $loops:ident, $device:ident, $T:ty, [$($input:ident),*], [$($output:ident),*],
     $kernel:ident($($argument:expr),* $(,)?)) => {{
        $(let $input = $crate::kernels::launch::Input::elements::<$T>(&$input, $op, Device::$device);)*
        $(let $output = {
            $crate::kernels::launch::check_device($op, Device::$device, $output.device());
            $output.make_mut::<$T>($op)
        };)*
        $loops::$kernel::<$T>($($argument),*)
    }};
    (@run_on_gpu $op:ident, $device:ident, $T:ty, [$($input:ident),*], [$($output:ident),*],
     $kernel:ident($($argument:expr),* $(,)?)) => {{
        let _there = $device;
        $(let $input = $crate::kernels::launch::Input::view::<$T>(&$input, $op, $device);)*
        $(let $output = {
            $crate::kernels::launch::check_device($op, $device, $output.device());
            $output.view_mut::<$T>($op)
        };)*
        cuda::$kernel::<$T>($($argument),*)
    }};
}
pub(super) use launch;

/// What a loop reads, on its device.
pub(super) trait Input {
    /// What the loop gets.
    type Elements<'a, T: Real>
    where
        Self: 'a;

    /// The elements.
    fn elements<T: Real>(&self, op: &str, device: Device) -> Self::Elements<'_, T>;

    /// What a kernel on a GPU gets.
    #[cfg(feature = "cuda")]
    type View<'a, T: Real>
    where
        Self: 'a;

    /// The elements on their GPU.
    #[cfg(feature = "cuda")]
    fn view<T: Real>(&self, op: &str, device: Device) -> Self::View<'_, T>;
}

impl Input for Buffer {
    type Elements<'a, T: Real> = &'a [T];

    #[track_caller]
    fn elements<T: Real>(&self, op: &str, device: Device) -> &[T] {
        check_device(op, device, self.device());
        self.as_slice(op)
    }

    #[cfg(feature = "cuda")]
    type View<'a, T: Real> = View<'a, T>;

    #[cfg(feature = "cuda")]
    #[track_caller]
    fn view<T: Real>(&self, op: &str, device: Device) -> View<'_, T> {
        check_device(op, device, self.device());
        Buffer::view(self, op)
    }
}

impl Input for IndexBuffer {
    type Elements<'a, T: Real> = &'a [u32];

    #[track_caller]
    fn elements<T: Real>(&self, op: &str, device: Device) -> &[u32] {
        check_device(op, device, self.device());
        self.as_slice()
    }

    #[cfg(feature = "cuda")]
    type View<'a, T: Real> = View<'a, u32>;

    #[cfg(feature = "cuda")]
    #[track_caller]
    fn view<T: Real>(&self, op: &str, device: Device) -> View<'_, u32> {
        check_device(op, device, self.device());
        IndexBuffer::view(self, op)
    }
}

impl<X: Input> Input for &X {
    type Elements<'a, T: Real>
        = X::Elements<'a, T>
    where
        Self: 'a;

    #[track_caller]
    fn elements<T: Real>(&self, op: &str, device: Device) -> X::Elements<'_, T> {
        (**self).elements(op, device)
    }

    #[cfg(feature = "cuda")]
    type View<'a, T: Real>
        = X::View<'a, T>
    where
        Self: 'a;

    #[cfg(feature = "cuda")]
    #[track_caller]
    fn view<T: Real>(&self, op: &str, device: Device) -> X::View<'_, T> {
        (**self).view(op, device)
    }
}

impl<X: Input> Input for Option<X> {
    type Elements<'a, T: Real>
        = Option<X::Elements<'a, T>>
    where
        Self: 'a;

    #[track_caller]
    fn elements<T: Real>(&self, op: &str, device: Device) -> Option<X::Elements<'_, T>> {
        self.as_ref().map(|x| x.elements(op, device))
    }

    #[cfg(feature = "cuda")]
    type View<'a, T: Real>
        = Option<X::View<'a, T>>
    where
        Self: 'a;

    #[cfg(feature = "cuda")]
    #[track_caller]
    fn view<T: Real>(&self, op: &str, device: Device) -> Option<X::View<'_, T>> {
        self.as_ref().map(|x| x.view(op, device))
    }
}

impl<X: Input> Input for Vec<X> {
    type Elements<'a, T: Real>
        = Vec<X::Elements<'a, T>>
    where
        Self: 'a;

    #[track_caller]
    fn elements<T: Real>(&self, op: &str, device: Device) -> Vec<X::Elements<'_, T>> {
        self.iter().map(|x| x.elements(op, device)).collect()
    }

    #[cfg(feature = "cuda")]
    type View<'a, T: Real>
        = Vec<X::View<'a, T>>
    where
        Self: 'a;

    #[cfg(feature = "cuda")]
    #[track_caller]
    fn view<T: Real>(&self, op: &str, device: Device) -> Vec<X::View<'_, T>> {
        self.iter().map(|x| x.view(op, device)).collect()
    }
}

/// An operand that kernels take in bf16, too, those of the reference excepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a>(pub(super) &'a Buffer);

/// A result that kernels write in bf16, too, those of the reference excepted.
#[derive(Debug)]
pub(super) struct StoredMut<'a>(pub(super) &'a mut Buffer);

/// Elements in main memory.
#[derive(Debug)]
pub(super) enum Typed<W, N> {
    /// Of the type that is computed in.
    Wide(W),
    /// Of half its size.
    Narrow(N),
}

pub(super) type Read<'a, T> = Typed<&'a [T], &'a [<T as Real>::Narrow]>;
pub(super) type Written<'a, T> = Typed<&'a mut [T], &'a mut [<T as Real>::Narrow]>;

/// Evaluates `$body` with `$x` the elements, of either type.
macro_rules! with_elements {
    ($typed:expr, $x:ident => $body:expr) => {
        match $typed {
            $crate::kernels::launch::Typed::Wide($x) => $body,
            $crate::kernels::launch::Typed::Narrow($x) => $body,
        }
    };
}
pub(super) use with_elements;

impl<W, N> Typed<W, N> {
    /// The elements of the reference.
    ///
    /// # Panics
    /// When they are narrow.
    #[track_caller]
    pub(super) fn wide(self) -> W {
        match self {
            Typed::Wide(elements) => elements,
            Typed::Narrow(_) => panic!("the reference device computes with no bf16; convert with to_dtype"),
        }
    }
}

/// Whether a buffer that a loop over `T` was given is of half the size.
fn is_narrow<T: Real>(buffer: &Buffer) -> bool {
    buffer.dtype() == T::Narrow::DTYPE && buffer.dtype() != T::DTYPE
}

impl Input for Stored<'_> {
    type Elements<'a, T: Real>
        = Read<'a, T>
    where
        Self: 'a;

    #[track_caller]
    fn elements<T: Real>(&self, op: &str, device: Device) -> Read<'_, T> {
        check_device(op, device, self.0.device());
        if is_narrow::<T>(self.0) { Typed::Narrow(self.0.as_slice(op)) } else { Typed::Wide(self.0.as_slice(op)) }
    }

    #[cfg(feature = "cuda")]
    type View<'a, T: Real>
        = StoredView<'a>
    where
        Self: 'a;

    #[cfg(feature = "cuda")]
    #[track_caller]
    fn view<T: Real>(&self, op: &str, device: Device) -> StoredView<'_> {
        check_device(op, device, self.0.device());
        if is_narrow::<T>(self.0) {
            Buffer::view::<T::Narrow>(self.0, op).into()
        } else {
            Buffer::view::<T>(self.0, op).into()
        }
    }
}

impl StoredMut<'_> {
    pub(super) fn device(&self) -> Device {
        self.0.device()
    }

    pub(super) fn dtype(&self) -> super::DType {
        self.0.dtype()
    }

    #[track_caller]
    pub(super) fn make_mut<T: Real>(&mut self, op: &str) -> Written<'_, T> {
        if is_narrow::<T>(self.0) { Typed::Narrow(self.0.make_mut(op)) } else { Typed::Wide(self.0.make_mut(op)) }
    }

    #[cfg(feature = "cuda")]
    #[track_caller]
    pub(super) fn view_mut<T: Real>(&mut self, op: &str) -> StoredViewMut<'_> {
        if is_narrow::<T>(self.0) { self.0.view_mut::<T::Narrow>(op).into() } else { self.0.view_mut::<T>(op).into() }
    }
}

#[track_caller]
pub(super) fn check_device(op: &str, expected: Device, found: Device) {
    assert!(expected == found, "{op}: operands on {expected} and on {found}; move them with to_device");
}

/// A buffer, if it is there, must have this length.
#[track_caller]
pub(super) fn check_len<'a>(op: &str, what: &str, buffer: impl Into<Option<&'a Buffer>>, len: usize) {
    let found = buffer.into().map_or(len, Buffer::len);
    assert_eq!(found, len, "{op}: {what} has {found} elements, its shape says {len}");
}

/// How many rows of `cols` elements a buffer holds.
#[track_caller]
pub(super) fn rows(op: &str, buffer: &Buffer, cols: usize) -> usize {
    let len = buffer.len();
    assert!(len == 0 || (cols > 0 && len.is_multiple_of(cols)), "{op}: {len} elements are no rows of {cols}");
    len / cols.max(1)
}
