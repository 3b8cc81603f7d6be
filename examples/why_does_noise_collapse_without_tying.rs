//! Why does the noise collapse without tying, and what does tying change (Proposition 3.1)?
//!
//! `cargo run --release --example why_does_noise_collapse_without_tying`
//!
//! First with a predictor F that never changes and with expectations by quadrature, so that nothing but the loss decides where
//! A goes; then with F and A trained together.

use stop_mim::lab::collapse::fixed_predictor::{self, STARTS, UNTIED_VARIANCE, VARIANCES};
use stop_mim::lab::collapse::joint_training::JointTraining;
use stop_mim::lab::collapse::last;
use stop_mim::paper::Sigma;
use stop_mim::report::curve::{Curve, Panel};

fn main() -> stop_mim::Result<()> {
    let run = fixed_predictor::run(0, &VARIANCES);
    println!("A predictor F(masked position, context) was trained without noise and then fixed. Now A follows the");
    println!("gradient of the expected loss, and nothing else moves.\n");

    let norms = &run.untied.norms;
    let steps = norms.len() - 1;
    println!("Without tying, under noise of variance {UNTIED_VARIANCE}: |A| is {:.2} at first,", norms[0]);
    println!("{:.1e} after {} steps, {:.1e} after {steps}.", norms[steps / 2], steps / 2, norms[steps]);
    println!("All that this A does is to make noise, and noise on positions hurts an F that fits its data.\n");

    println!("Tied, the same A projects the context, and without context there is nothing to predict from:\n");
    println!("| variance of n | abs(A) reached from {} | from {} |", STARTS[0], STARTS[1]);
    println!("|---:|---:|---:|");
    for (variance, [large, small]) in VARIANCES.iter().zip(&run.tied) {
        println!("| {variance} | {:.6} | {:.6} |", large.a.norm(), small.a.norm());
    }
    println!("\nNot zero, and for this F the same from above and from below. More noise makes A smaller:");
    println!("it is a trade between hearing the context and blurring the positions.\n");

    let sigma = Sigma::from_std(0.5);
    let settings = [false, true].map(|tied| JointTraining::new(tied, 4, sigma));
    let [untied, tied] = settings.map(|setting| last(&setting.run(0).norm));
    println!("F and A trained together, {} steps, std {}:", settings[0].schedule.steps, sigma.std());
    println!("without tying |A| falls to {untied:.4} of what it was, with tying to {tied:.2}.");

    let points = |norms: &[f64]| norms.iter().enumerate().map(|(i, &y)| (i as f64, y)).collect();
    let [large, small] = &run.tied[1];
    let series = vec![
        ("untied".to_owned(), points(norms)),
        ("tied, from 1".to_owned(), points(&large.norms)),
        ("tied, from 0.001".to_owned(), points(&small.norms)),
    ];
    let file = std::env::temp_dir().join("collapse_without_tying.svg");
    let panels = vec![Panel { y_label: "|A|".into(), log: true, range: None, series }];
    Curve { title: "A under a fixed F".into(), x_label: "steps of gradient descent".into(), panels }.save_svg(&file)?;
    println!("\n{}", file.display());
    Ok(())
}
