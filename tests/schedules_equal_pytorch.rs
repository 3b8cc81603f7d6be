//! Learning rate, weight decay and EMA momentum, step by step beside PyTorch's own schedulers.
//!
//! `tests/parity/make_fixtures.py` drives `LinearLR`, `CosineAnnealingLR` and `SequentialLR` and writes what they give
//! to `tests/parity/schedules.json`. PyTorch computes a schedule by recurrence, each value from the one before it, and
//! this crate in closed form, so the two share no formula. Tolerance: 10⁻¹² of a schedule's largest value.

use serde_json::Value;
use stop_mim::train::{EmaMomentum, LearningRate, WeightDecay};

/// Each case of one kind: `make` gives our value at a step, counted from 1; PyTorch's are in the file.
fn assert_equal<F: Fn(usize) -> f64>(kind: &str, make: impl Fn(&Value) -> F) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/schedules.json");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = all[kind].as_array().unwrap();
    assert!(cases.len() >= 8, "cases of {kind} are missing");
    for case in cases {
        let (ours, total) = (make(case), count(case, "total"));
        let pytorch: Vec<f64> = case["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(pytorch.len(), total);
        let scale = pytorch.iter().fold(number(case, "start"), |most, &v| most.max(v));
        for (step, &value) in (1..).zip(&pytorch) {
            let (ours, start) = (ours(step), &case["start"]);
            let error = (ours - value).abs() / scale;
            assert!(error <= 1e-12, "{kind} from {start}, {total} steps: step {step} is {ours}, PyTorch's is {value}");
        }
    }
}

fn number(case: &Value, key: &str) -> f64 {
    case[key].as_f64().unwrap_or_else(|| panic!("{key} of {case}"))
}

fn count(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap_or_else(|| panic!("{key} of {case}")) as usize
}

#[test]
fn learning_rate() {
    assert_equal("learning_rate", |case| {
        let [start, peak, end] = ["start", "peak", "end"].map(|key| number(case, key));
        let (schedule, total) =
            (LearningRate { start, peak, end, warmup: count(case, "warmup") }, count(case, "total"));
        move |step| schedule.at(step, total)
    });
}

#[test]
fn weight_decay() {
    assert_equal("weight_decay", |case| {
        let [start, end] = ["start", "end"].map(|key| number(case, key));
        let (schedule, total) = (WeightDecay { start, end }, count(case, "total"));
        move |step| schedule.at(step, total)
    });
}

#[test]
fn ema_momentum() {
    assert_equal("ema_momentum", |case| {
        let [start, end] = ["start", "end"].map(|key| number(case, key));
        let (schedule, total) = (EmaMomentum { start, end }, count(case, "total"));
        move |step| schedule.at(step, total)
    });
}
