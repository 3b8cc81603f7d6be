//! How long each kernel takes: by events on the stream before and behind every launch, read when all are done.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cudarc::driver::sys::{self, CUevent, CUstream};

use super::{Gpu, Handle, lock, must};
use crate::{Error, Result};

/// The launches of a kernel that were timed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelTime {
    /// How often it was launched.
    pub calls: u64,
    /// How long it ran, all launches together.
    pub time: Duration,
}

/// Those of each kernel, by its file and its name.
pub type KernelTimes = BTreeMap<(&'static str, &'static str), KernelTime>;

/// A launch and the events around it.
#[derive(Debug)]
pub struct Timed {
    /// Its file and its name.
    kernel: (&'static str, &'static str),
    events: [Handle<CUevent>; 2],
}

fn event(stream: CUstream) -> Handle<CUevent> {
    let mut event = std::ptr::null_mut();
    // SAFETY: it writes one handle, which is recorded on a stream that is never closed.
    unsafe {
        must("make an event", sys::cuEventCreate(&mut event, 0));
        must("record an event", sys::cuEventRecord(event, stream));
    }
    Handle(event)
}

impl Gpu {
    /// Times every launch from now on. Launches take longer meanwhile, kernels do not.
    ///
    /// # Errors
    /// When the driver is older than 12.8.
    pub fn start_timing(&self) -> Result<()> {
        if self.driver < 12_080 {
            let problem = format!("the driver is of CUDA {}.{}", self.driver / 1000, self.driver % 1000 / 10);
            return Err(Error::config(problem, "kernels are timed by functions of CUDA 12.8: install a newer driver"));
        }
        lock(&self.timed).clear();
        self.timing.store(true, Ordering::SeqCst);
        self.stop_capturing(); // no clock looks into a graph
        Ok(())
    }

    /// What was timed since.
    pub fn stop_timing(&self) -> KernelTimes {
        self.timing.store(false, Ordering::SeqCst);
        self.wait();
        let mut times = KernelTimes::new();
        for Timed { kernel, events: [before, behind] } in lock(&self.timed).drain(..) {
            let mut milliseconds = 0.0f32;
            // SAFETY: both were recorded and have happened; each is destroyed once.
            unsafe {
                must("tell the time", sys::cuEventElapsedTime_v2(&mut milliseconds, before.0, behind.0));
                let _ = (sys::cuEventDestroy_v2(before.0), sys::cuEventDestroy_v2(behind.0));
            }
            let sum = times.entry(kernel).or_default();
            sum.calls += 1;
            sum.time += Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) * 1e-3);
        }
        times
    }

    /// A launch, timed if that is asked for.
    pub(super) fn timed(&self, kernel: (&'static str, &'static str), launch: impl FnOnce()) {
        if !self.timing.load(Ordering::Relaxed) {
            return launch();
        }
        let before = event(self.stream.0);
        launch();
        let events = [before, event(self.stream.0)];
        lock(&self.timed).push(Timed { kernel, events });
    }
}
