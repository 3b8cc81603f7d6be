//! Does Proposition 3.1 hold for a predictor of one's own, and how far is that from the best of Proposition 3.2?
//!
//! `cargo run --release --example put_your_own_predictor_to_the_propositions`

use stop_mim::autograd::{Var, ops};
use stop_mim::lab::predictors::{Subject, random_task};
use stop_mim::lab::{prop_3_1, prop_3_2};
use stop_mim::paper::prop_3_1::TaskSizes;
use stop_mim::rng::{Purpose, stream};
use stop_mim::{DType, Tensor};

fn main() {
    let mut rng = stream(0, Purpose::Eval, [0, 0]);
    // In f64, as all that is compared to the last digits.
    let mut weight = |rows: usize, cols: usize| Var::constant(Tensor::normal([rows, cols], 0.5, DType::F64, &mut rng));
    let (of_position, of_context, out) = (weight(16, 6), weight(16, 6), weight(2, 16));

    // F(u_j, v): a hidden layer of a masked token u_j [R, 3, 6] and of the only context token v [R, 1, 6].
    let f = move |u: &Var, v: &Var| {
        let hidden = ops::linear(u, &of_position, None) + ops::linear(v, &of_context, None);
        ops::linear(&ops::gelu(&hidden), &out, None)
    };
    let sizes = TaskSizes { rows: 8, tokens: 3, context: 1, d_p: 6, d_e: 4 };
    let mine = Subject::new("my network", f, random_task(sizes, 2, &mut stream(1, Purpose::Eval, [0, 0])));

    // Of one number: the position r of X + Z, where Y = sin X and X is anywhere on a circle.
    let line = |r: &Var| r / 10.0;
    let of_line = prop_3_2::of("r/10", line, f64::sin, std::f64::consts::TAU);
    for found in prop_3_1::of(&mine).iter().chain(&of_line) {
        println!(
            "{:?}: {}, {}: {:.1e} of {:.1e}",
            found.verdict(),
            found.statement,
            found.compared,
            found.error,
            found.scale
        );
    }
}
