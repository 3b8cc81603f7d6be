//! What can tying not prevent?
//!
//! `cargo run --release --example what_can_tying_not_prevent`
//!
//! Tying context and noise in one matrix A keeps A from vanishing. That is not the same as keeping the noise: three ways
//! in which a network in training gets rid of it, with numbers.

use stop_mim::lab::collapse::gauge::GaugeTraining;
use stop_mim::lab::collapse::joint_training::JointTraining;
use stop_mim::lab::collapse::last;
use stop_mim::paper::Sigma;
use stop_mim::report::curve::{Curve, Panel};

fn main() -> stop_mim::Result<()> {
    let sigma = Sigma::from_std(0.5);
    let [narrow, wide] = [4, 16].map(|d_p| JointTraining::new(true, d_p, sigma).run(0));
    println!("1. Rescaling. F reads the context through weights of its own. As they grow A may shrink, and with it");
    println!("   the noise on positions, whose scale is fixed. Tied as it is,");
    println!("   |A| falls to {:.2} of its start.\n", last(&narrow.norm));

    println!("2. Another subspace. Twelve positions on a ring span 4 dimensions. In tokens of width 4 the noise lies");
    println!(
        "   where the positions are. In tokens of width 16 the 4 dimensions that A reaches need not meet those 4,"
    );
    println!("   and F can read positions by weights that do not see the noise:\n");
    println!("| width | abs(A) / at the start | its part in span psi | variance of predictions due to noise |");
    println!("|---:|---:|---:|---:|");
    for (width, run) in [(4, &narrow), (16, &wide)] {
        println!("| {width} | {:.2} | {:.2} | {:.1e} |", last(&run.norm), last(&run.in_span), run.end.sensitivity);
    }
    let less = narrow.end.sensitivity / wide.end.sensitivity;
    println!("\n   At width 16 |A| looks healthy, and the noise does {less:.0} times less.\n");

    let [held, free] = GaugeTraining::demonstrations().map(|setting| setting.run(0));
    println!("3. The norm before A. If features leave a layer norm with gain γ, then a larger γ and a smaller A give");
    println!("   the same context and less noise. Noise to signal behind A:\n");
    println!("| gain | at the start | at the end | abs(A) / at the start | abs(γ) / at the start |");
    println!("|---|---:|---:|---:|---:|");
    for (name, run) in [("held at 1", &held), ("trained", &free)] {
        let (ratio, norm, gamma) = (&run.noise_to_signal, last(&run.norm), last(&run.gamma));
        println!("| {name} | {:.2} | {:.2} | {norm:.2} | {gamma:.2} |", ratio[0].1, last(ratio));
    }
    println!(
        "\nSo |A| alone says little. What says whether there is noise is how much predictions change with the draw."
    );

    let series = |of: [(&str, &Vec<(f64, f64)>); 2]| of.map(|(name, trace)| (name.to_owned(), trace.clone())).to_vec();
    let panel = |y_label: &str, of| Panel { y_label: y_label.into(), log: false, range: None, series: series(of) };
    let panels = vec![
        panel("|A| / |A₀|", [("width 4", &narrow.norm), ("width 16", &wide.norm)]),
        panel("|PA| / |A₀|", [("width 4", &narrow.in_span), ("width 16", &wide.in_span)]),
        panel("|An| / |As|", [("γ held", &held.noise_to_signal), ("γ trained", &free.noise_to_signal)]),
    ];
    let file = std::env::temp_dir().join("what_tying_does_not_prevent.svg");
    Curve { title: "Tied, and escaping".into(), x_label: "step".into(), panels }.save_svg(&file)?;
    println!("\n{}", file.display());
    Ok(())
}
