//! Where a step is measured and in what (`--device`, `--precision`), and the line protocol by which several programs
//! are measured in turn.
//!
//! When ready, a program prints one line of JSON with its first losses. Then, for each line "N" on standard input, it
//! makes N steps and prints their times in milliseconds, losses and processor time; at the end of the input, its memory.

use std::io::BufRead;
use std::time::Instant;

use stop_mim::train::{Batch, Trainer};
use stop_mim::{Device, Precision};

use super::{HYPER, flag, option, peak_mb, refuse};

/// The options that [`Place::asked`] reads.
pub const OPTIONS: [&str; 2] = ["--device", "--precision"];

/// A device, opened, and what products are computed in there.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    device: Device,
    precision: Precision,
}

impl Place {
    /// What the command line says, by default the CPU and f32; `--bf16` is short for `--precision bf16`. Ends the
    /// program when there is no such device, or it cannot compute so.
    pub fn asked() -> Self {
        let device: Device = option("--device").unwrap_or_default();
        let short = if flag("--bf16") { Precision::Bf16 } else { Precision::F32 };
        let precision: Precision = option("--precision").unwrap_or(short);
        device.open().unwrap_or_else(|error| refuse(&format!("--device {device}: {error}"), ""));
        if !device.is_gpu() && !precision.is_available() {
            refuse(
                &format!("--precision {precision}: this processor has no instructions for it"),
                "a GPU may: --device cuda",
            );
        }
        Place { device, precision }
    }

    /// A trainer and its batch there, and how much of a GPU's memory that took.
    pub fn put(self, trainer: Trainer, batch: &Batch) -> Measured {
        let mut gpu = GpuMemory { place: self, mb: 0.0 };
        let (trainer, batch) = gpu.around(|| {
            let trainer = Trainer { precision: self.precision, ..trainer.to_device(self.device) };
            (trainer, batch.to_device(self.device))
        });
        Measured { trainer, batch, gpu }
    }

    /// Waits until all that was asked of a GPU is done. How much of its memory is free then, in MB; `None` where it is
    /// no GPU.
    fn wait(self) -> Option<f64> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(ordinal) = self.device {
            let gpu = stop_mim::kernels::cuda::Gpu::open(ordinal).ok()?;
            gpu.wait();
            return Some(gpu.free_and_total().0 as f64 / f64::from(1 << 20));
        }
        None
    }
}

/// `cuda:0 in bf16`
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.device, self.precision)
    }
}

/// How much of a GPU's memory this program has taken. Others may use the same GPU while this one waits, so only what
/// becomes less free during its own work counts: all that its recycler keeps.
#[derive(Debug)]
struct GpuMemory {
    place: Place,
    mb: f64,
}

impl GpuMemory {
    fn around<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let before = self.place.wait();
        let result = work();
        self.mb += before.zip(self.place.wait()).map_or(0.0, |(before, after)| before - after);
        result
    }
}

/// A training step that is being measured.
#[derive(Debug)]
pub struct Measured {
    trainer: Trainer,
    batch: Batch,
    gpu: GpuMemory,
}

impl Measured {
    /// Steps: the milliseconds that each took, and its loss. A GPU is asked for the gradients of the next one before the loss
    /// is read, as a run does; those of the last one include waiting for it to have done all of them.
    pub fn steps(&mut self, n: usize) -> (Vec<f64>, Vec<f64>) {
        let Measured { trainer, batch, gpu } = self;
        let (place, ahead) = (gpu.place, gpu.place.device.is_gpu());
        let mut begun = None;
        let one = |i| {
            let start = Instant::now();
            let found = begun.take().unwrap_or_else(|| trainer.fitting_gradients(batch));
            let found = found.unwrap_or_else(|e| refuse(&e.to_string(), ""));
            let update = trainer.update(found, &HYPER);
            begun = (ahead && i + 1 < n).then(|| trainer.fitting_gradients(batch));
            let loss = trainer.finish(update, batch).unwrap_or_else(|e| refuse(&e.to_string(), "")).loss;
            (start.elapsed().as_secs_f64() * 1e3, loss)
        };
        gpu.around(|| {
            let (mut ms, losses): (Vec<f64>, _) = (0..n).map(one).unzip();
            let start = Instant::now();
            place.wait();
            ms.last_mut().into_iter().for_each(|last| *last += start.elapsed().as_secs_f64() * 1e3);
            (ms, losses)
        })
    }

    /// How much of a GPU's memory this takes, in MB; `None` where it is on no GPU.
    pub fn gpu_mb(&self) -> Option<f64> {
        self.gpu.place.device.is_gpu().then_some(self.gpu.mb)
    }

    /// Speaks the protocol until standard input ends.
    pub fn serve(mut self) {
        let (base, start) = (peak_mb(), Instant::now());
        let (_, first) = self.steps(3);
        let (setup, place) = (start.elapsed().as_secs_f64(), self.gpu.place.to_string());
        let chunk = self.trainer.chunk_images.min(self.batch.len());
        print!(r#"{{"ready":"stop-mim","place":{place:?},"chunk_images":{chunk},"base_mb":{base},"#);
        println!(r#""setup_s":{setup},"first_losses":{first:?}}}"#);
        for line in std::io::stdin().lock().lines() {
            let steps = line.ok().and_then(|l| l.trim().parse().ok()).unwrap_or(0);
            let before = usage();
            let (ms, loss) = self.steps(steps);
            let after = usage();
            let [user, sys, faults] = [0, 1, 2].map(|i| after[i] - before[i]);
            println!(r#"{{"ms":{ms:?},"loss":{loss:?},"parts":{{}},"user_s":{user},"sys_s":{sys},"minflt":{faults}}}"#);
        }
        let gpu = self.gpu_mb().map_or_else(|| "null".to_owned(), |mb| mb.to_string());
        println!(r#"{{"peak_mb":{},"base_mb":{base},"gpu_mb":{gpu}}}"#, peak_mb());
    }
}

/// User seconds, system seconds, minor page faults of this process so far.
fn usage() -> [f64; 3] {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|x| x.parse().unwrap_or(0.0)).collect();
    let at = |i: usize| fields.get(i).copied().unwrap_or(0.0);
    [at(11) / 100.0, at(12) / 100.0, at(7)]
}
