//! What does the best predictor do when the position it is given is noisy (Proposition 3.2)?
//!
//! `cargo run --release --example what_is_the_best_predictor_under_noise`
//!
//! It sees R = X + Z with unit Gaussian noise Z. The paper's answer is the clean expectation E[Y | X = x] convolved with
//! the noise. That is right where every position is equally likely; the general answer weighs positions by how likely they
//! were beforehand. Here both meet a regression that knows neither formula, fitted to draws of R and Y.

use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};
use stop_mim::paper::prop_3_2::{GaussianKernel, NoisyPosition, gaussian_convolution, posterior_mean};
use stop_mim::report::table::table;
use stop_mim::rng::Generator;
use stop_mim::rng::{Purpose, stream};
use stop_mim::{DType, Tensor};

const CELLS: f64 = 14.0;
const DRAWS: usize = 200_000;
const BIN: f64 = 0.1;
/// A bin with fewer draws is left to its neighbor.
const ENOUGH: f64 = 100.0;

/// A prior on X, a clean expectation, and what is to be compared on them.
struct Case {
    name: &'static str,
    asked: &'static str,
    clean: fn(f64) -> f64,
    draw: Box<dyn Fn(&mut Generator) -> f64>,
    optimum: Box<dyn Fn(f64) -> f64>,
    on_ring: bool,
}

/// A curve through (r, value).
type Points = Vec<(f64, f64)>;

fn main() -> stop_mim::Result<()> {
    let cases = cases();
    let fits: Vec<Points> = cases.iter().map(|case| case.fitted(&mut case.stream(0))).collect();
    let rows: Vec<Vec<String>> = cases.iter().zip(&fits).map(|(case, fit)| case.row(fit)).collect();
    println!("The mean squared error of predicting Y from R = X + Z, Z ~ N(0, 1), over {DRAWS} draws.\n");
    let header = ["where X comes from", "Y", "convolution", "general form", "fitted"];
    println!("{}", table(&header, &rows));
    println!(
        "Where the prior is flat the two agree. At an edge or under a bell the convolution is not what a fit converges to."
    );
    draw(&cases, &fits)
}

fn cases() -> Vec<Case> {
    let wave: fn(f64) -> f64 = |x| (std::f64::consts::TAU * x / 7.0).cos();
    let position: fn(f64) -> f64 = |x| x;
    let row = |from: i32, to: i32, per_unit: i32| {
        let psi = Tensor::from_fn([((to - from) * per_unit) as usize, 1], DType::F64, |i| {
            f64::from(from) + i as f64 / f64::from(per_unit)
        });
        let clean = |f: fn(f64) -> f64| psi.to_f64_vec().into_iter().map(f).collect::<Vec<_>>();
        let (waves, positions) = (clean(wave), clean(position));
        let noisy = NoisyPosition::new(&psi, &vec![1.0; psi.elements()], GaussianKernel::unit(1));
        (noisy, waves, positions)
    };
    let cells = |asked, clean| {
        let (noisy, waves, positions) = row(0, CELLS as i32, 1);
        let values = if asked == "cos" { waves } else { positions };
        Case {
            name: "14 cells in a row",
            asked,
            clean,
            draw: Box::new(|rng| f64::from(rng.random_range(0..CELLS as i32))),
            optimum: Box::new(move |r| noisy.optimal_predictor(&values, &[r])),
            on_ring: false,
        }
    };
    let bell = |name, asked, clean: fn(f64) -> f64, center: f64, tau: f64| Case {
        name,
        asked,
        clean,
        draw: Box::new(move |rng| center + tau * normal(rng)),
        optimum: Box::new(move |r| posterior_mean(|x| (-0.5 * ((x - center) / tau).powi(2)).exp(), clean, r)),
        on_ring: false,
    };
    // The ring unrolled three times: a turn to either side is out of the noise's reach.
    let (around, waves, _) = row(-14, 28, 2);
    let ring = Case {
        name: "a ring of length 14",
        asked: "cos",
        clean: wave,
        draw: Box::new(|rng| rng.random_range(0.0..CELLS)),
        optimum: Box::new(move |r| around.optimal_predictor(&waves, &[r])),
        on_ring: true,
    };
    vec![
        ring,
        cells("cos", wave),
        bell("N(6.5, 1)", "cos", wave, 6.5, 1.0),
        cells("X", position),
        bell("N(0, 0.5²)", "X", position, 0.0, 0.5),
        bell("N(0, 1)", "X", position, 0.0, 1.0),
        bell("N(0, 3²)", "X", position, 0.0, 3.0),
    ]
}

impl Case {
    fn stream(&self, index: u64) -> Generator {
        stream(0, Purpose::Eval, [32, index])
    }

    /// (R, Y), once.
    fn observe(&self, rng: &mut Generator) -> (f64, f64) {
        let x = (self.draw)(rng);
        let r = x + normal(rng);
        (if self.on_ring { r.rem_euclid(CELLS) } else { r }, (self.clean)(x))
    }

    /// Regression with no formula: the mean of Y among draws whose R falls into the same bin, at the bin's center.
    fn fitted(&self, rng: &mut Generator) -> Points {
        let mut sums = std::collections::BTreeMap::<i64, (f64, f64)>::new();
        for (r, y) in (0..DRAWS).map(|_| self.observe(rng)) {
            let (sum, count) = sums.entry((r / BIN).floor() as i64).or_default();
            (*sum, *count) = (*sum + y, *count + 1.0);
        }
        let full = sums.into_iter().filter(|(_, (_, count))| *count >= ENOUGH);
        full.map(|(bin, (sum, count))| ((bin as f64 + 0.5) * BIN, sum / count)).collect()
    }

    /// The risks of the three predictors, over the same fresh draws.
    fn row(&self, fit: &[(f64, f64)]) -> Vec<String> {
        let mut rng = self.stream(1);
        let nearest = |r: f64| {
            let after = fit.partition_point(|&(center, _)| center < r - BIN / 2.0).min(fit.len() - 1);
            fit[after].1
        };
        let mut risks = [0.0; 3];
        for (r, y) in (0..DRAWS).map(|_| self.observe(&mut rng)) {
            let predictions = [gaussian_convolution(self.clean, r), (self.optimum)(r), nearest(r)];
            for (risk, f) in risks.iter_mut().zip(predictions) {
                *risk += (f - y).powi(2) / DRAWS as f64;
            }
        }
        let cells = [self.name, self.asked].map(str::to_owned).into_iter();
        cells.chain(risks.map(|risk| format!("{risk:.3}"))).collect()
    }
}

fn normal(rng: &mut Generator) -> f64 {
    StandardNormal.sample(rng)
}

#[cfg(feature = "cli")]
fn draw(cases: &[Case], fits: &[Points]) -> stop_mim::Result<()> {
    use stop_mim::report::curve::{Curve, Panel};
    let along = |f: &dyn Fn(f64) -> f64, low: f64, high: f64| -> Points {
        (0..=400).map(|i| low + (high - low) * f64::from(i) / 400.0).map(|r| (r, f(r))).collect()
    };
    let (low, high) = (-4.0, 17.0);
    let convolution = |case: &Case| {
        let clean = case.clean;
        move |r: f64| gaussian_convolution(clean, r)
    };
    let predictions = |i: usize| {
        let case = &cases[i];
        let fit = fits[i].iter().copied().filter(|&(r, _)| (low..=high).contains(&r)).collect();
        let series = vec![
            ("convolution".to_owned(), along(&convolution(case), low, high)),
            ("fitted to draws".to_owned(), fit),
            ("general form".to_owned(), along(&*case.optimum, low, high)),
            ("clean E[Y|X = x]".to_owned(), along(&case.clean, low, high)),
        ];
        Panel { y_label: case.name.to_owned(), log: false, range: None, series }
    };
    let apart = |case: &Case| {
        let (from, to) = if case.on_ring { (0.0, CELLS) } else { (low, high) };
        let gap = |r: f64| (convolution(case)(r) - (case.optimum)(r)).abs();
        (case.name.to_owned(), along(&gap, from, to))
    };
    let series = cases[..3].iter().map(apart).collect();
    let gaps = Panel { y_label: "how far apart".to_owned(), log: true, range: None, series };
    let title = "Prop. 3.2: the convolution, and the best predictor".to_owned();
    let curve = Curve {
        title,
        x_label: "r, what the predictor sees".to_owned(),
        panels: vec![predictions(1), predictions(2), gaps],
    };
    let file = std::env::temp_dir().join("best_predictor_under_noise.svg");
    curve.save_svg(&file)?;
    println!("Above and in the middle, predictions; below, how far the two formulas are apart.\n{}", file.display());
    Ok(())
}

/// The picture is an SVG, which needs the feature.
#[cfg(not(feature = "cli"))]
fn draw(_: &[Case], _: &[Points]) -> stop_mim::Result<()> {
    println!("With the feature `cli` there is a picture too.");
    Ok(())
}
