//! How the cost of a training step grows: with the batch, the tokens, the width, the depth and the threads.
//!
//! ```text
//! cargo bench --bench growth                      all axes, some three minutes on two cores
//! cargo bench --bench growth -- --out FOLDER      and FOLDER/growth.svg, FOLDER/growth.csv
//! cargo bench --bench growth -- --axis tokens     one of batch, tokens, width, depth, threads
//! cargo bench --bench growth -- --quick           few and small points, some five seconds
//! RAYON_NUM_THREADS=1 cargo bench --bench growth  on one thread (the axis of threads is left out)
//! ```
//!
//! One axis at a time changes, from workload T (see `common::Sizes::T`): 64 images of 8 × 8 tokens, encoder 192 wide and
//! 6 deep with heads of 64, predictor 96 wide and 3 deep, a context of 36 tokens, 4 targets of 12.
//!
//! - **batch**: 1 to 512 images.
//! - **tokens**: 16 to 784 in an image, larger images in the same patches; context and targets in proportion.
//! - **width**: 96 to 768 of the encoder; the predictor is half as wide, as in T. Heads of 64 (32 at width 96) and of
//!   half of that in the predictor.
//! - **depth**: 1 to 12 blocks of the encoder; the predictor keeps its 3.
//! - **threads**: 1, 2, 4, … up to those of the other axes.
//!
//! A step is forward, backward, AdamW and the moving average, in f32. Each point is a process of its own, with its own
//! peak of resident memory. It makes one step that is not timed, then 3 to 15 (in three seconds), of which the median
//! counts.
//!
//! Columns: **ms an image**, the median step over its images; **least**, the fastest step (far below the median: the
//! machine was not quiet); **× time**, the median over that of the point before; **GFLOP an image**, by a formula, matrix
//! products alone; **GFLOP/s**; **peak MB**, resident; **of it before**, the part that weights and images took before the
//! first step; **MB an image**, the rest over the images. The rest is AdamW's moments (zeros at first, which the system
//! gives no memory), and activations and gradients of the chunks in work: as many as there are threads, so it hardly grows
//! with the batch.

mod common;

use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Effort, Sizes, check_args, flag, is_bench, median, option, peak_mb, refuse, threads};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use stop_mim::report::color::CATEGORIES;
use stop_mim::report::table::table;

const USAGE: &str = "the top of benches/growth.rs has the command lines";
const EFFORT: Effort = Effort { least: 3, most: 15, budget: Duration::from_secs(3) };
const QUICK: Effort = Effort { least: 1, most: 1, budget: Duration::ZERO };

fn main() {
    check_args(&["--axis", "--out", "--point"], &["--quick"], 0, USAGE);
    if let Some(point) = option::<String>("--point") {
        return println!("{}", Measured::here(parse(&point)).to_line());
    }
    let flop = Sizes::T.flop_per_image() * Sizes::T.images as f64;
    assert!((flop / 1e9 - 88.04).abs() < 0.01, "workload T has 88.04 GFLOP, not {flop}");
    if !is_bench() {
        // `cargo test --benches`: is everything still in its place?
        let tiny = Sizes { images: 1, encoder: [96, 1, 3], predictor: [48, 1, 3], ..Sizes::T };
        assert_eq!(parse(&spell(tiny)), tiny);
        return assert!(Measured::here(tiny).seconds > 0.0);
    }
    let only: Option<String> = option("--axis");
    let axes: Vec<Axis> = axes(flag("--quick"), threads())
        .into_iter()
        .filter(|axis| only.as_deref().is_none_or(|name| name == axis.name))
        .collect();
    if axes.is_empty() {
        refuse("--axis is one of batch, tokens, width, depth and (with more than one) threads", USAGE);
    }
    println!("workload T, one axis at a time; {} threads, but where the axis is another number", threads());
    let curves: Vec<Curve> =
        axes.into_iter().map(Curve::measure).inspect(|curve| print!("{}", curve.table())).collect();
    if let Some(folder) = option::<String>("--out") {
        let folder = Path::new(&folder);
        std::fs::create_dir_all(folder).unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
        std::fs::write(folder.join("growth.csv"), csv(&curves)).expect("growth.csv can be written");
        draw(&curves, &folder.join("growth.svg")).expect("growth.svg can be drawn");
        println!("\nwritten: growth.svg and growth.csv in {}", folder.display());
    }
}

/// One thing that changes, and the points to measure: what it is there, the sizes, the threads.
struct Axis {
    name: &'static str,
    unit: &'static str,
    points: Vec<(usize, Sizes, usize)>,
}

/// What one process found.
#[derive(Clone, Copy)]
struct Measured {
    /// The median step.
    seconds: f64,
    /// The fastest.
    least: f64,
    /// Peak of resident memory before the first step, and at the end.
    memory_mb: [f64; 2],
}

fn axes(quick: bool, threads: usize) -> Vec<Axis> {
    let base = if quick { Sizes { images: 16, ..Sizes::T } } else { Sizes::T };
    let axis = |name, unit, full: &[usize], short: &[usize], at: &dyn Fn(usize) -> Sizes| {
        let values = if quick { short } else { full };
        Axis { name, unit, points: values.iter().map(|&x| (x, at(x), threads)).collect() }
    };
    let tokens = |n: usize| {
        let share = |part: usize| (part * n + 32) / 64;
        Sizes { side: 4 * n.isqrt(), masks: [share(36), share(12)], ..base }
    };
    let width = |d: usize| {
        let heads = if d.is_multiple_of(64) { d / 64 } else { d / 32 };
        Sizes { encoder: [d, 6, heads], predictor: [d / 2, 3, heads], ..base }
    };
    let all = [
        axis("batch", "images in a step", &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512], &[1, 16], &|images| Sizes {
            images,
            ..base
        }),
        axis("tokens", "tokens in an image", &[16, 36, 64, 144, 256, 400, 784], &[16, 64], &tokens),
        axis("width", "width of the encoder", &[96, 192, 384, 576, 768], &[96, 192], &width),
        axis("depth", "blocks of the encoder", &[1, 2, 3, 6, 9, 12], &[1, 6], &|depth| Sizes {
            encoder: [192, depth, 3],
            ..base
        }),
        Axis {
            name: "threads",
            unit: "threads",
            points: (0..).map(|k| 1 << k).take_while(|&n| n <= threads).map(|n| (n, base, n)).collect(),
        },
    ];
    // A curve needs two points.
    all.into_iter().filter(|axis| axis.points.len() > 1).collect()
}

/// An axis, and what was found along it.
struct Curve {
    name: &'static str,
    unit: &'static str,
    points: Vec<Point>,
}

struct Point {
    x: usize,
    sizes: Sizes,
    threads: usize,
    measured: Measured,
}

impl Curve {
    /// Measures every point. One that fails (for want of memory, say) is reported and left out.
    fn measure(axis: Axis) -> Self {
        let point = |(x, sizes, threads)| match Measured::in_a_process(sizes, threads) {
            Ok(measured) => Some(Point { x, sizes, threads, measured }),
            Err(problem) => {
                eprintln!("{} {x} is left out: {problem}", axis.name);
                None
            }
        };
        Curve { name: axis.name, unit: axis.unit, points: axis.points.into_iter().filter_map(point).collect() }
    }

    fn table(&self) -> String {
        let header = [
            self.unit,
            "ms an image",
            "least",
            "× time",
            "GFLOP an image",
            "GFLOP/s",
            "peak MB",
            "of it before",
            "MB an image",
        ];
        let mut previous = None;
        let rows: Vec<Vec<String>> = self
            .points
            .iter()
            .map(|point| {
                let ([ms, gflop, rate], [before, peak]) = (point.figures(), point.measured.memory_mb);
                let ratio = previous.replace(ms).map_or("-".into(), |previous| format!("{:.2}", ms / previous));
                let of_an_image = format!("{:.2}", (peak - before) / point.sizes.images as f64);
                let least = 1e3 * point.measured.least / point.sizes.images as f64;
                let [ms, least, gflop] = [ms, least, gflop].map(|x| format!("{x:.3}"));
                let [rate, before, peak] = [rate, before, peak].map(|x| format!("{x:.0}"));
                vec![point.x.to_string(), ms, least, ratio, gflop, rate, peak, before, of_an_image]
            })
            .collect();
        format!("\n{}\n\n{}", self.name, table(&header, &rows))
    }
}

impl Point {
    /// Milliseconds an image, GFLOP an image, GFLOP/s.
    fn figures(&self) -> [f64; 3] {
        let (images, gflop) = (self.sizes.images as f64, self.sizes.flop_per_image() / 1e9);
        [1e3 * self.measured.seconds / images, gflop, gflop * images / self.measured.seconds]
    }
}

impl Measured {
    /// Makes the steps in this process.
    fn here(sizes: Sizes) -> Self {
        let (mut trainer, batch) = sizes.prepare();
        let before = peak_mb();
        let effort = if flag("--quick") || !is_bench() { QUICK } else { EFFORT };
        let times = effort.times(|| assert!(trainer.step(&batch, &common::HYPER).expect("a step").loss.is_finite()));
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        Measured { seconds: median(times), least, memory_mb: [before, peak_mb()] }
    }

    /// Makes the steps in a process of its own, on so many threads.
    fn in_a_process(sizes: Sizes, threads: usize) -> Result<Self, String> {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.args(["--bench", "--point", &spell(sizes)]).env("RAYON_NUM_THREADS", threads.to_string());
        if flag("--quick") {
            command.arg("--quick");
        }
        let output = command.output().map_err(|e| format!("this program cannot start itself: {e}"))?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            return Err(format!("{}; {}", output.status, err.trim()));
        }
        Self::from_line(&out).ok_or_else(|| format!("cannot read '{out}'"))
    }

    fn to_line(self) -> String {
        let Measured { seconds, least, memory_mb: [before, peak] } = self;
        format!("{seconds} {least} {before} {peak}")
    }

    fn from_line(line: &str) -> Option<Self> {
        let numbers: Option<Vec<f64>> = line.split_whitespace().map(|x| x.parse().ok()).collect();
        let [seconds, least, before, peak] = numbers?.try_into().ok()?;
        Some(Measured { seconds, least, memory_mb: [before, peak] })
    }
}

/// Sizes as one argument: numbers with commas between.
fn spell(sizes: Sizes) -> String {
    let Sizes { images, side, patch, encoder: [a, b, c], predictor: [d, e, f], masks: [g, h] } = sizes;
    [images, side, patch, a, b, c, d, e, f, g, h].map(|n| n.to_string()).join(",")
}

fn parse(text: &str) -> Sizes {
    let numbers: Vec<usize> = text.split(',').map(|n| n.parse().expect("a number")).collect();
    let [images, side, patch, a, b, c, d, e, f, g, h] = numbers.try_into().expect("eleven numbers");
    Sizes { images, side, patch, encoder: [a, b, c], predictor: [d, e, f], masks: [g, h] }
}

fn csv(curves: &[Curve]) -> String {
    let line = |name: &str, point: &Point| {
        let ([ms, gflop, rate], [before, peak]) = (point.figures(), point.measured.memory_mb);
        let Point { x, threads, sizes: Sizes { images, .. }, .. } = point;
        let least = 1e3 * point.measured.least / *images as f64;
        format!("{name},{x},{threads},{images},{ms},{least},{gflop},{rate},{before},{peak}\n")
    };
    let header =
        "axis,value,threads,images,ms_an_image,least_ms_an_image,gflop_an_image,gflop_per_second,mb_before,mb_peak\n";
    let lines = curves.iter().flat_map(|curve| curve.points.iter().map(|point| line(curve.name, point)));
    header.to_owned() + &lines.collect::<String>()
}

const PANEL: (u32, u32) = (270, 215);
const HEAD: u32 = 72;
const INK: RGBColor = RGBColor(60, 60, 60);
const PAPER_GRID: RGBColor = RGBColor(228, 228, 228);

type Drawn = Result<(), Box<dyn std::error::Error>>;

/// A series of one panel: its points, its color, whether it is dashed (computed) or has marks (measured).
struct Series {
    points: Vec<(f64, f64)>,
    color: RGBColor,
    measured: bool,
}

/// Small multiples: a column for each axis; time, rate and memory below each other. All axes are logarithmic.
fn draw(curves: &[Curve], path: &Path) -> Drawn {
    let size = (PANEL.0 * curves.len().max(3) as u32, HEAD + 3 * PANEL.1);
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(HEAD);
    let title = "One training step (I-JEPA, f32) from workload T, one axis at a time";
    head.draw(&Text::new(title, (14, 10), text(19)))?;
    let legend = [
        "marks: measured. dashed above: time at the axis' best GFLOP/s (threads: one thread's time, shared equally);",
        "dashed below: memory before the first step. All axes are logarithmic.",
    ];
    for (line, y) in legend.into_iter().zip([34, 50]) {
        head.draw(&Text::new(line, (14, y), text(14)))?;
    }
    let [blue, red, green] = [0, 1, 2].map(|i| RGBColor(CATEGORIES[i][0], CATEGORIES[i][1], CATEGORIES[i][2]));
    let panels = body.split_evenly((3, curves.len()));
    for (column, curve) in curves.iter().enumerate() {
        let best = curve.points.iter().map(|p| p.figures()[2]).fold(f64::MIN, f64::max);
        let expected = |p: &Point| match (curve.name, curve.points.first()) {
            ("threads", Some(one)) => one.figures()[0] * one.threads as f64 / p.threads as f64,
            _ => 1e3 * p.figures()[1] / best,
        };
        let of = |y: &dyn Fn(&Point) -> f64, color, measured| {
            let points = curve.points.iter().map(|p| (p.x as f64, y(p))).collect();
            Series { points, color, measured }
        };
        let time = [of(&|p| p.figures()[0], blue, true), of(&expected, blue, false)];
        let rate = [of(&|p| p.figures()[2], red, true)];
        let [before, peak] = [0, 1].map(|i| of(&move |p| p.measured.memory_mb[i], green, i == 1));
        let memory = [peak, before];
        let rows = [("ms an image", &time[..]), ("GFLOP/s", &rate[..]), ("peak memory, MB", &memory[..])];
        for (row, (y_label, series)) in rows.into_iter().enumerate() {
            panel(&panels[row * curves.len() + column], curve.unit, y_label, series)?;
        }
    }
    root.present()?;
    Ok(())
}

/// A logarithmic axis with marks of its own choice.
struct LogAxis {
    range: Range<f64>,
    marks: Vec<f64>,
}

impl LogAxis {
    /// An axis that holds all `values`, none of them 0, with room to the left and right.
    fn over(values: impl Iterator<Item = f64>, room: f64) -> Self {
        let (low, high) = values.fold((f64::INFINITY, 0f64), |(low, high), v| (low.min(v), high.max(v)));
        let range = low / room..high * room;
        let decades = (range.end / range.start).log10();
        let marks: Vec<f64> = if decades < 0.7 {
            // Equal steps, of 1, 2 or 5 times a power of ten.
            let least = (range.end - range.start) / 5.0;
            let power = 10f64.powf(least.log10().floor());
            let step = [1.0, 2.0, 5.0].map(|factor| factor * power).into_iter().find(|&step| step >= least);
            let step = step.unwrap_or(10.0 * power);
            let first = (range.start / step).floor();
            (0..8).map(|k| (first + f64::from(k)) * step).collect()
        } else {
            let factors: &[f64] = if decades > 2.2 { &[1.0] } else { &[1.0, 2.0, 5.0] };
            (-6..9).flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power))).collect()
        };
        LogAxis { marks: marks.into_iter().filter(|mark| range.contains(mark)).collect(), range }
    }
}

impl Ranged for LogAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (value / self.range.start).ln() / (self.range.end / self.range.start).ln();
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for LogAxis {
    fn format(value: &f64) -> String {
        format!("{}", (value * 1e6).round() / 1e6)
    }
}

/// One panel.
fn panel(area: &DrawingArea<SVGBackend<'_>, Shift>, x_label: &str, y_label: &str, series: &[Series]) -> Drawn {
    // Where the system does not count memory it is 0, which has no place here.
    let shown = |s: &Series| s.points.iter().copied().filter(|p| p.1 > 0.0).collect::<Vec<_>>();
    let all: Vec<(f64, f64)> = series.iter().flat_map(shown).collect();
    if all.is_empty() {
        return Ok(());
    }
    // Marked where it was measured; every second point of many.
    let marks: Vec<f64> = all.iter().take(series[0].points.len()).map(|p| p.0).collect();
    let marks = marks.iter().copied().step_by(marks.len().div_ceil(6)).collect();
    let x = LogAxis { marks, ..LogAxis::over(all.iter().map(|p| p.0), 1.15) };
    let y = LogAxis::over(all.iter().map(|p| p.1), 1.25);
    let mut chart =
        ChartBuilder::on(area).margin(8).x_label_area_size(42).y_label_area_size(56).build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc(x_label)
        .y_desc(y_label)
        .label_style(text(13))
        .axis_desc_style(text(14))
        .axis_style(INK)
        .bold_line_style(PAPER_GRID)
        .light_line_style(TRANSPARENT)
        .draw()?;
    for s in series {
        let (points, color) = (shown(s), s.color);
        if s.measured {
            chart.draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3))?;
        } else {
            chart.draw_series(DashedLineSeries::new(points, 5, 4, color.stroke_width(1)))?;
        }
    }
    Ok(())
}

fn text(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}
