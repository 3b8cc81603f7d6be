//! `stop-mim pretrain --profile`

use std::time::Duration;

use crate::Result;
use crate::data::Splits;
#[cfg(feature = "cuda")]
use crate::kernels::cuda::KernelTime;
use crate::kernels::meter::{Phase, Sum};
use crate::lab::graph::Saved;
#[cfg(feature = "cuda")]
use crate::lab::profile::OnGpu;
use crate::lab::profile::{PHASES, Profile, profile as measure};
use crate::report::table::table;
use crate::tensor::Device;
use crate::train::RunConfig;

/// Steps before the clock starts: buffers are made, the loader has filled its queue.
const WARM_UP: usize = 3;

/// An operation that takes less than one part in this many of the time has no row of its own.
const LEAST_SHARE: u32 = 1000;

/// Measures `steps` steps and prints where their time went.
pub fn profile(config: &RunConfig, splits: &Splits, device: Device, steps: usize) -> Result<()> {
    let profile = measure(config, splits, device, WARM_UP, steps)?;
    #[cfg(feature = "cuda")]
    if let Some(gpu) = &profile.gpu {
        println!("{}", on_gpu(&profile, gpu));
        return Ok(());
    }
    println!("{}", header(config.model.method.name(), &profile));
    if let Some(warning) = contention(&profile) {
        println!("{warning}");
    }
    println!();
    println!("{}", by_op(&profile));
    println!("{}", by_phase(&profile));
    let kept: Vec<Saved> = profile.saved.iter().filter(|s| s.bytes > 0).cloned().collect();
    let table = saved_table(&kept, profile.saved.iter().map(|s| s.entries).sum(), profile.chunk_images);
    println!("What a chunk keeps for its backward pass\n{table}");
    Ok(())
}

/// A step on a GPU, kernel by kernel.
#[cfg(feature = "cuda")]
fn on_gpu(p: &Profile, gpu: &OnGpu) -> String {
    let (steps, wall) = (p.steps as f64, p.wall.as_secs_f64());
    let busy: f64 = gpu.kernels.iter().map(|(.., of)| of.time.as_secs_f64()).sum();
    let launches: u64 = gpu.kernels.iter().map(|(.., of)| of.calls).sum();
    let flop = p.busy().flops as f64;
    let header = ["kernel", "launches a step", "µs a step", "µs a launch", "share"];
    let row = |(file, kernel, of): &(&str, &str, KernelTime)| {
        let time = 1e6 * of.time.as_secs_f64();
        vec![
            format!("{file}: {kernel}"),
            format!("{:.1}", of.calls as f64 / steps),
            format!("{:.1}", time / steps),
            format!("{:.2}", time / of.calls as f64),
            format!("{:.1} %", 1e-4 * time / busy),
        ]
    };
    let rows: Vec<Vec<String>> = gpu.kernels.iter().map(row).collect();
    format!(
        "{}: {} steps of {} images after {WARM_UP} of warm-up, images a chunk: {}, last loss {:.4}\n\
         {:.2} ms a step (launches are timed meanwhile, and take longer), kernels {:.2} ms of them; {:.0} launches a step; \
         {:.0} images a second\n\
         {:.2} GFLOP of matrix products, {:.1} TFLOP/s while kernels run; a large product in {} reaches {:.1} TFLOP/s, a sum of \
         tensors moves {:.0} GB/s, measured here\n\n{}",
        gpu.name,
        p.steps,
        p.batch,
        p.chunk_images,
        p.loss,
        1e3 * wall / steps,
        1e3 * busy / steps,
        launches as f64 / steps,
        p.batch as f64 * steps / wall,
        1e-9 * flop / steps,
        1e-12 * flop / busy,
        p.precision,
        1e-12 * gpu.product_peak,
        1e-9 * gpu.bandwidth,
        table(&header, &rows)
    )
}

fn header(method: &str, p: &Profile) -> String {
    let &Profile { steps, batch, chunk_images, threads, loss, precision, .. } = p;
    let seconds = p.wall.as_secs_f64() / steps as f64;
    let gflop = p.busy().flops as f64 * 1e-9 / steps as f64;
    let (reached, peak) = (gflop / seconds, p.peak * 1e-9);
    let (ms, images, share) = (1e3 * seconds, batch as f64 / seconds, 100.0 * reached / peak);
    format!(
        "{method}: {steps} steps of {batch} images after {WARM_UP} of warm-up, threads: {threads}, images a chunk: \
         {chunk_images}, last loss {loss:.4}\n\
         {ms:.1} ms a step, {images:.0} images a second; {gflop:.2} GFLOP of matrix products (2 m k n each), \
         {reached:.1} GFLOP/s, {share:.1} % of the peak\n\
         peak: {peak:.1} GFLOP/s in {precision}, measured here: multiply-adds in registers, no memory, on all threads at once"
    )
}

/// What other programs cost, where that is more than a hundredth of the time.
fn contention(p: &Profile) -> Option<String> {
    let (waited, busy) = (p.waited?.as_secs_f64(), p.busy());
    let share = 100.0 * waited / p.thread_time().as_secs_f64();
    let mut says = format!(
        "other programs ran: {share:.0} % of the threads' time went in waiting for a core, and is in every time below"
    );
    let ran = busy.time.as_secs_f64() - waited;
    if ran > 0.0 {
        let (rate, of) = (busy.flops as f64 / ran, p.peak_of_a_thread());
        says += &format!(
            ";\nwithout it a thread would make about {:.1} GFLOP/s while busy, {:.1} % of its peak",
            rate * 1e-9,
            100.0 * rate / of
        );
    }
    (share >= 1.0).then_some(says)
}

/// Milliseconds a step.
fn ms(time: Duration, p: &Profile) -> String {
    format!("{:.2}", 1e3 * time.as_secs_f64() / p.steps as f64)
}

fn share(time: Duration, p: &Profile) -> String {
    format!("{:.1} %", 100.0 * time.as_secs_f64() / p.thread_time().as_secs_f64())
}

/// Calls, time, share, and where there are products how many and how fast; an entry that says nothing is left out.
fn cells(sum: &Sum, p: &Profile) -> Vec<String> {
    let steps = p.steps as f64;
    let calls = if sum.calls == 0 { String::new() } else { format!("{:.0}", sum.calls as f64 / steps) };
    let mut cells = vec![calls, ms(sum.time, p), share(sum.time, p)];
    if sum.flops > 0 {
        let rate = sum.flops as f64 / sum.time.as_secs_f64();
        cells.push(format!("{:.3}", sum.flops as f64 * 1e-9 / steps));
        cells.push(format!("{:.1}", rate * 1e-9));
        cells.push(format!("{:.1} %", 100.0 * rate / p.peak_of_a_thread()));
    }
    cells
}

fn by_op(p: &Profile) -> String {
    let row = |name: &str, pass: &str, sum: &Sum| [vec![name.to_owned(), pass.to_owned()], cells(sum, p)].concat();
    let (long, short): (Vec<_>, Vec<_>) =
        p.by_op().into_iter().partition(|(.., sum)| sum.flops > 0 || sum.time * LEAST_SHARE >= p.thread_time());
    let mut rows: Vec<Vec<String>> =
        long.iter().map(|(op, pass, sum)| row(op.unwrap_or("between operations"), pass, sum)).collect();
    let mut others = Sum::default();
    short.iter().for_each(|(.., sum)| others += *sum);
    rows.push(row(&format!("{} others", short.len()), "", &others));
    rows.push(row("idle", "", &Sum { time: p.idle(), ..Sum::default() }));
    rows.push(row("all", "", &Sum { time: p.thread_time(), ..p.busy() }));
    let header = ["operation", "pass", "calls", "ms", "share", "GFLOP", "GFLOP/s a thread", "of its peak"];
    format!("A step by operation (ms of all threads together)\n{}", table(&header, &rows))
}

fn by_phase(p: &Profile) -> String {
    let row = |name: &str, time: Duration| vec![name.to_owned(), ms(time, p), share(time, p)];
    let mut rows: Vec<Vec<String>> = PHASES.iter().map(|(phase, name, _)| row(name, p.of_phase(*phase).time)).collect();
    rows.push(row("idle", p.idle()));
    rows.push(row("threads × wall time", p.thread_time()));
    let loader = ms(p.of_phase(Phase::Loading).time, p);
    format!(
        "A step by phase (ms of all threads together)\n{}beside these, the loader's own thread: {loader} ms\n",
        table(&["phase", "ms", "share"], &rows)
    )
}

/// What a chunk of so many images keeps for its backward pass, `entries` on its tape in all.
pub fn saved_table(saved: &[Saved], entries: usize, images: usize) -> String {
    let total: usize = saved.iter().map(|s| s.bytes).sum();
    let row = |name: &str, entries: usize, bytes: usize| {
        let kib = |bytes: usize| format!("{:.1}", bytes as f64 / 1024.0);
        let share = format!("{:.1} %", 100.0 * bytes as f64 / total.max(1) as f64);
        vec![name.to_owned(), entries.to_string(), kib(bytes), kib(bytes / images), share]
    };
    let mut rows: Vec<Vec<String>> = saved.iter().map(|s| row(s.name, s.entries, s.bytes)).collect();
    rows.push(row("all", entries, total));
    table(&["operation", "entries", "KiB kept for backward", "an image", "share"], &rows)
}
