//! Do the gradients match the paper's, and what would a careless check have said?
//!
//! `cargo run --release --example do_our_gradients_match`
//!
//! The gradients of appendix A at A = 0, for four predictors from a linear map to a ViT: untied (Prop. A.1: zero), tied and
//! deterministic (Prop. 3.1: equal). Then the same zero by random sampling. `stop-mim check` tests all the rest.

use stop_mim::autograd::Var;
use stop_mim::lab::predictors::subjects;
use stop_mim::lab::prop_3_1::proposition_a_1_by_sampling;
use stop_mim::paper::prop_3_1::{deterministic_loss, expected_loss, gradient, gradient_at_zero, tied_loss};
use stop_mim::paper::{Quadrature, Sigma};
use stop_mim::report::table::table;

fn main() {
    let sigma = Sigma::from_variance(0.25);
    let rows: Vec<Vec<String>> = subjects()
        .iter()
        .map(|subject| {
            let (f, task, zero) = (&*subject.f, &subject.task, subject.task.zero());
            let noise = Quadrature::cubature(task.psi.shape()[0], task.x.last_dim(), sigma);
            let b = Var::constant(gradient_at_zero(f, task)); // any B does
            let untied = gradient(|a| expected_loss(f, task, a, &b, &noise), &zero);
            let tied = gradient(|a| tied_loss(f, task, a, &noise), &zero);
            let det = gradient(|b| deterministic_loss(f, task, b), &zero);
            let formula = gradient_at_zero(f, task);
            assert!(untied.norm() < 1e-12 && tied.max_abs_diff(&det) < 1e-12 * det.norm(), "{}", subject.name);
            vec![
                subject.name.to_owned(),
                format!("{:.1e}", untied.norm()),
                format!("{:.4}", tied.norm()),
                format!("{:.4}", det.norm()),
                format!("{:.1e}", tied.max_abs_diff(&det)),
                format!("{:.1e}", formula.max_abs_diff(&det)),
            ]
        })
        .collect();
    let header = ["predictor F", "|∂J/∂A|", "|∂J_tied/∂A|", "|∂J_det/∂B|", "tied − det", "Eqs. 11, 12 − det"];
    println!("Gradients at A = 0 and B = 0, with exact expectations:\n\n{}", table(&header, &rows));
    println!("Yes. Untied, A = 0 is a critical point whatever F is. Tied, it is one exactly where B = 0 was one.\n");

    println!("The zero of the first column by random sampling, as a share of what a single draw gives:");
    for draws in [100, 1_000, 10_000, 100_000] {
        println!("  {draws:>7} draws: {:.1e}", proposition_a_1_by_sampling(draws));
    }
    println!(
        "A gradient that is wrong by a per cent would pass such a check, and a right one would fail a strict one."
    );
}
