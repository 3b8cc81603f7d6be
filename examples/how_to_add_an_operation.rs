//! How to add an operation?
//!
//! `cargo run --release --example how_to_add_an_operation`
//!
//! Swish, x σ(x) (Ramachandran, Zoph and Le, 2017), which this crate does not have: its value, its rule, a check of the
//! rule (and of a wrong one), and a small network with it that learns a sine.

use stop_mim::autograd::{Tape, Var, check, ops, record};
use stop_mim::nn::{AdamW, Params, Role};
use stop_mim::rng::{Purpose, stream};
use stop_mim::{DType, Tensor};

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// y = x σ(x), element by element. dx = σ(x) (1 + x (1 − σ(x))) dy.
fn swish(x: &Var) -> Var {
    let x_saved = x.value().clone(); // what the rule needs
    let y = x_saved.map(|x| x * sigmoid(x));
    record("swish", [x], y, move |dy, _needed| {
        [Some(x_saved.zip_map(&dy, |x, dy| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))) * dy))]
    })
}

/// As [`swish`], by somebody who forgot the second term of the product rule.
fn careless(x: &Var) -> Var {
    let x_saved = x.value().clone();
    let y = x_saved.map(|x| x * sigmoid(x));
    record("careless", [x], y, move |dy, _needed| [Some(x_saved.zip_map(&dy, |x, dy| sigmoid(x) * dy))])
}

fn main() {
    // 1. Is the rule right? Against differences of the value, with the input used twice, and on the tape or off it.
    let mut rng = stream(0, Purpose::Init, [0, 0]);
    let x = Tensor::normal([3, 5], 2.0, DType::F64, &mut rng);
    for report in check::check_op("swish", |x| swish(&x[0]), std::slice::from_ref(&x)) {
        report.assert_pass();
        println!("{report}");
    }
    let report = check::check_gradient("careless", |x| careless(&x[0]), &[x]);
    assert_eq!(report.verdict, check::Verdict::Mismatch);
    println!("{report}\n");

    // 2. Training with it: one hidden layer of 16, f(x) = swish(x Wᵀ + b) Vᵀ, in f32.
    let mut params = Params::new();
    let w = params.add("w", Tensor::normal([16, 1], 1.0, DType::F32, &mut rng), Role::Trained);
    let b = params.add("b.bias", Tensor::normal([16], 1.0, DType::F32, &mut rng), Role::Trained);
    let v = params.add("v", Tensor::normal([1, 16], 0.1, DType::F32, &mut rng), Role::Trained);
    let x = Tensor::from_fn([64, 1], DType::F32, |i| i as f64 / 8.0 - 4.0);
    let sine = Var::constant(x.map(f64::sin));
    let x = Var::constant(x);
    let mut optimizer = AdamW::new(&[&params]);
    let mut least = f64::INFINITY;
    for step in 0..=500 {
        let tape = Tape::new();
        let weights = params.on(&tape);
        let hidden = swish(&ops::linear(&x, &weights[w], Some(&weights[b])));
        let loss = ops::mse(&ops::linear(&hidden, &weights[v], None), &sine);
        if step % 100 == 0 {
            println!("step {step:3}: mean squared error {:.5}", loss.item());
            least = least.min(loss.item());
        }
        let mut found = tape.backward(&loss);
        let gradients = weights.iter().map(|leaf| found.take(leaf).expect("every weight is read")).collect();
        optimizer.update(&mut [&mut params], gradients, 0.02, 0.0);
    }
    assert!(least < 0.01, "it learned nothing: {least}");
}
