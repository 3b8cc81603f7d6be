//! What every door is made of: checks of lengths, and the launch.

#[cfg(feature = "cuda")]
use super::cuda::{StoredView, StoredViewMut, View};
use super::{Bf16, Buffer, DType, Device, IndexBuffer, Real};

/// Hands buffers over to the loop that computes with them: `launch!("gelu", [x], [y] => forward(x, y))` calls
/// `forward::<T>` of this family's `cpu` or `reference`, whichever is the device of the first output, with T its element
/// type, each input (before the `=>`, on the left) as a slice to read and each output as a slice to write. Inputs are
/// [`Input`]s, outputs are `Buffer`s. The meter knows the operation by its name.
///
/// T is f32 where that element type is bf16, which only those operands may have that a door wraps: as [`Stored`] or
/// [`StoredMut`], for a GPU's kernels, or as [`OperandMut`], which a CPU's write, too. Of all others, a bf16 is as wrong as an f64.
///
/// Where there is no output among the operands, the device and the type are said: `launch!("to_dtype", at x.device(),
/// x.dtype(), [x], [] => …)`.
///
/// # Panics
/// When a buffer has another element type or lives on another device; the message names the operation.
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

/// An operand that kernels of a GPU take in bf16, too.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored<'a>(pub(super) &'a Buffer);

impl Input for Stored<'_> {
    type Elements<'a, T: Real>
        = &'a [T]
    where
        Self: 'a;

    #[track_caller]
    fn elements<T: Real>(&self, op: &str, device: Device) -> &[T] {
        self.0.elements(op, device)
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
        match self.0.dtype() {
            DType::Bf16 if T::DTYPE == DType::F32 => Buffer::view::<Bf16>(self.0, op).into(),
            _ => Buffer::view::<T>(self.0, op).into(),
        }
    }
}

/// A result that kernels of a GPU write in bf16, too.
#[derive(Debug)]
pub(super) struct StoredMut<'a>(pub(super) &'a mut Buffer);

impl StoredMut<'_> {
    pub(super) fn device(&self) -> Device {
        self.0.device()
    }

    pub(super) fn dtype(&self) -> super::DType {
        self.0.dtype()
    }

    #[track_caller]
    pub(super) fn make_mut<T: Real>(&mut self, op: &str) -> &mut [T] {
        self.0.make_mut(op)
    }

    #[cfg(feature = "cuda")]
    #[track_caller]
    pub(super) fn view_mut<T: Real>(&mut self, op: &str) -> StoredViewMut<'_> {
        match self.0.dtype() {
            DType::Bf16 if T::DTYPE == DType::F32 => self.0.view_mut::<Bf16>(op).into(),
            _ => self.0.view_mut::<T>(op).into(),
        }
    }
}

/// A result that a product reads: kernels of a CPU write it in bf16, too, and those of a GPU that can.
#[derive(Debug)]
pub(super) struct OperandMut<'a>(pub(super) StoredMut<'a>);

/// Its elements in main memory.
#[derive(Debug)]
pub(super) enum Written<'a, T> {
    /// Of the type that is computed in.
    Wide(&'a mut [T]),
    /// Of half the size.
    Narrow(&'a mut [Bf16]),
}

/// Evaluates `$body` with `$y` the elements, of either type.
macro_rules! with_written {
    ($written:expr, $y:ident => $body:expr) => {
        match $written {
            $crate::kernels::launch::Written::Wide($y) => $body,
            $crate::kernels::launch::Written::Narrow($y) => $body,
        }
    };
}
pub(super) use with_written;

impl<'a, T> Written<'a, T> {
    /// The elements of the reference, which computes with nothing narrow.
    pub(super) fn wide(self) -> &'a mut [T] {
        match self {
            Written::Wide(elements) => elements,
            Written::Narrow(_) => unreachable!("bf16 on the reference device"),
        }
    }
}

impl<'a> OperandMut<'a> {
    pub(super) fn new(buffer: &'a mut Buffer) -> Self {
        OperandMut(StoredMut(buffer))
    }

    pub(super) fn device(&self) -> Device {
        self.0.device()
    }

    #[track_caller]
    pub(super) fn make_mut<T: Real>(&mut self, op: &str) -> Written<'_, T> {
        match self.0.dtype() {
            DType::Bf16 => Written::Narrow(self.0.0.make_mut(op)),
            _ => Written::Wide(self.0.make_mut(op)),
        }
    }

    #[cfg(feature = "cuda")]
    #[track_caller]
    pub(super) fn view_mut<T: Real>(&mut self, op: &str) -> StoredViewMut<'_> {
        self.0.view_mut::<T>(op)
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
