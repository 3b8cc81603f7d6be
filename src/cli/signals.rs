//! Ctrl-C, SIGTERM and SIGHUP: long work ends at the next place where it can, with everything written.
//!
//! A signal that was ignored when the process began stays ignored: that is how `nohup` keeps a run alive when its terminal
//! is closed, and how a script keeps Ctrl-C from what it starts with `&`. A second Ctrl-C ends the process where it stands,
//! as files are never half written; a second SIGTERM does not: `timeout` sends it twice.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Once};
use std::time::Duration;

#[cfg(unix)]
use signal_hook::consts::{SIGHUP, SIGUSR1};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

#[cfg(unix)]
use crate::processes::world;
use crate::{Error, Result};

/// The signals that ask to stop.
#[cfg(unix)]
const ASKING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];
#[cfg(not(unix))]
const ASKING: [i32; 2] = [SIGINT, SIGTERM];

/// Time after the first Ctrl-C in which another is taken for the same: what starts us may pass on what we got already.
const THE_SAME: Duration = Duration::from_millis(500);

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From here on signals end the work instead of the process: whoever calls this asks [`stopped`] or [`check`] often.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let at_once = Arc::new(AtomicBool::new(false));
        // What `mpirun` is told to end with, it ends with SIGKILL a moment later; this one it only passes on.
        #[cfg(unix)]
        if world().size() > 1 {
            let _ = flag::register(SIGUSR1, Arc::clone(&STOP));
        }
        for signal in ASKING.into_iter().filter(|signal| !ignored(*signal)) {
            // Where the system does not let us, the signal ends the process, as before. The order is that in which they act.
            if signal == SIGINT {
                let _ = flag::register_conditional_default(signal, Arc::clone(&at_once));
            }
            let _ = flag::register(signal, Arc::clone(&STOP));
        }
        // A file longer than the user's limit allows (ulimit -f) is an error of the write, not the end of the process.
        #[cfg(unix)]
        let _ = flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
        // Without a thread for it, work ends all the same, and a second Ctrl-C does nothing.
        let _ = std::thread::Builder::new().name("signals".into()).spawn(move || answer(&at_once));
    });
}

/// Waits for a signal, says that it was heard, and lets the next Ctrl-C end the process.
fn answer(at_once: &AtomicBool) {
    while !stopped() {
        std::thread::sleep(Duration::from_millis(100));
    }
    say!("\nstopping as soon as everything is written; Ctrl-C again stops at once");
    std::thread::sleep(THE_SAME);
    at_once.store(true, Ordering::SeqCst);
}

/// Whether the process was started with this signal ignored. The standard library does not tell.
fn ignored(signal: i32) -> bool {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => is_among_the_ignored(signal, &status),
        Err(_) => cfg!(unix) && a_shell_survives(signal),
    }
}

/// What Linux says about a process has a line `SigIgn:` with a bit for each signal, in hexadecimal.
fn is_among_the_ignored(signal: i32, status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// What this process ignores, a process that it starts ignores too.
fn a_shell_survives(signal: i32) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("kill -{signal} $$")]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().is_ok_and(|status| status.success())
}

/// Whether the user asked to stop.
pub fn stopped() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// An error once the user has asked to stop.
pub fn check() -> Result<()> {
    if stopped() { Err(Error::Interrupted) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read_bit_by_bit() {
        let status = "Name:\tsh\nSigBlk:\tffffffffffffffff\nSigIgn:\t0000000000004001\nSigCgt:\t0000000000000002\n";
        let ignored: Vec<i32> = (1..=64).filter(|signal| is_among_the_ignored(*signal, status)).collect();
        assert_eq!(ignored, [1, 15]);
        assert!(!is_among_the_ignored(1, "") && !is_among_the_ignored(1, "SigIgn:\tnonsense"));
    }

    /// Of a process whose signals were not touched: a test's are not.
    #[cfg(target_os = "linux")]
    #[test]
    fn both_ways_to_ask_agree() {
        for signal in ASKING {
            assert_eq!(ignored(signal), a_shell_survives(signal), "signal {signal}");
        }
    }
}
