//! Floor 6: a run of pretraining, or of fine-tuning, as a folder that can be interrupted and resumed.
//!
//! ```text
//! runs/stop-shapes/
//!   checkpoints/step-00000312.safetensors   what the run needs to go on, after 312 steps
//!   checkpoint.safetensors                  the weights alone, where the run ended or was stopped
//!   log.csv                                 a row for each step, appended as it is done
//!   lock                                    locked while a process is at work
//! ```
//!
//! [`RunFolder`] is made or opened; [`RunFolder::train`] trains in it, [`RunFolder::resume`] takes up what was left there.
//! In several processes the first has the folder, and [`train_together`] trains. Pictures are not made here.
//! docs/reliability.md says what is promised.

mod folder;
mod log;
mod resume;
mod rotation;
mod together;

pub use folder::{RunFolder, train_together};
pub use log::Logged;
pub use resume::{Length, Resumed, default_policy};
pub use rotation::{Newest, Rotation};
pub use together::{check_together, give, receive};
