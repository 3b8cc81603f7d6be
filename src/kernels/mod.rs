//! Floor 0: kernels. One folder for each family of operations, with the same files:
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | the door: checks every length, allocates the result where its inputs live (*plan*), hands over (*launch*) |
//! | `reference.rs` | the definition in its simplest loops: what to read first, and what the others are compared with |
//! | `cpu.rs` | the same (so not documented again) for speed: vector code, blocks, threads |
//! | `cuda.rs`, `*.cu` | the same on NVIDIA GPUs (feature `cuda`): launches, and the kernels that they launch |
//!
//! A door takes [`Buffer`]s and sizes. It never reads a number out of a buffer, so that a device which computes
//! asynchronously need not be waited for, and nothing outside this module sees a slice. `launch!` matches on where the
//! elements live and what they are, and calls the loop of that device and type; operands that it takes in bf16, too, are
//! `Stored`, results that it writes so `StoredMut`. Loops take no threads of their own (a training step runs many chunks of
//! images at once, each on one thread), unless [`Teams`] has threads to spare.
//!
//! **To add a kernel:** write its loop in `reference.rs` as the definition says it; write the fast one, with the same
//! signature, in `cpu.rs`, and for GPUs in `cuda.rs` (docs/cuda.md); write the door in `mod.rs`; add a case to the table in
//! oracle.rs, which compares them, and one to tests/kernels_check_lengths.rs. A new family is a new folder, listed below.
//!
//! **To add a device:** an arm of [`Device`], an arm of `Memory` in buffer.rs (and a recycler), two arms in `launch!`, and a
//! file beside `cpu.rs` in each family. Doors and all that is above them stay as they are.

pub mod attention;
pub mod elementwise;
pub mod layer_norm;
pub mod loss;
pub mod matmul;
pub mod optim;
pub mod reduce;
pub mod softmax;
pub mod tokens;

mod buffer;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod launch;
pub mod meter;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod oracle_rounded;
pub mod peak;
mod precision;
mod reading;
mod real;
mod recycler;
mod simd;
mod special;
mod team;
#[cfg(test)]
pub(crate) mod testing;

use launch::{Stored, StoredMut, check_device, check_len, launch, rows};

pub use buffer::{Buffer, IndexBuffer, live_bytes};
pub use device::Device;
pub use precision::{Precision, Scope};
pub use reading::Reading;
pub use real::{Bf16, DType, Element, Real};
#[cfg(test)]
pub(crate) use team::times_shared;
pub use team::{Team, Teams};

/// What `work` gives, unless a device has no memory for it; then an error that says so, and all that was allocated meanwhile is free
/// again. (Doors do not return errors: tensors are in every expression.)
///
/// # Errors
/// When there is not enough memory on a GPU.
pub fn within_memory<R>(work: impl FnOnce() -> R) -> crate::Result<R> {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| match panic.downcast::<OutOfMemory>() {
        Ok(out) => out.0,
        Err(other) => resume_unwind(other),
    })
}

/// What unwinds from an allocation that failed to [`within_memory`].
#[derive(Debug)]
pub(crate) struct OutOfMemory(pub(crate) crate::Error);

/// The most dimensions a tensor may have.
pub const MAX_RANK: usize = 6;
