//! Ctrl-C, SIGTERM and SIGHUP: long work ends at the next place where it can, with everything written.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

static STOP: AtomicBool = AtomicBool::new(false);

/// From here on signals end the work instead of the process: whoever calls this asks [`stopped`] or [`go_on`] often.
pub fn listen() {
    // Only the first call in a process can install the handler; later ones share it.
    let _ = ctrlc::set_handler(|| STOP.store(true, Ordering::SeqCst));
}

/// Whether the user asked to stop.
pub fn stopped() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// An error once the user has asked to stop.
pub fn go_on() -> Result<()> {
    if stopped() { Err(Error::Interrupted) } else { Ok(()) }
}
