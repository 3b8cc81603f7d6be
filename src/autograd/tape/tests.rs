use super::*;
use crate::autograd::ops;

fn one(value: f64) -> Tensor {
    Tensor::new([1], vec![value])
}

/// The oracle is the sweep that keeps them to its end. Leaves that were used first come last.
#[test]
fn gradients_are_handed_over_once_they_are_complete() {
    let tape = || {
        let tape = Tape::new();
        let leaves: Vec<Var> = (0..5).map(|i| tape.leaf(one(1.5 + f64::from(i)))).collect();
        let [first, twice, last, unused, _] = &leaves[..] else { unreachable!() };
        let _ = ops::mul(unused, unused); // on the tape, and no way to the loss
        let y = ops::mul(&ops::mul(first, twice), twice);
        let y = ops::mul(&ops::mul(&y, last), twice);
        (tape, leaves.clone(), ops::sum(&y))
    };
    let sums = |leaves: &[Var]| [(leaves[1].clone(), one(10.0)), (leaves[4].clone(), one(20.0))];
    let (one_tape, leaves, loss) = tape();
    let before = sums(&leaves);
    let kept = one_tape.backward_onto(&loss, loss.value().full_like(1.0), before.iter().map(|(v, x)| (v, x.clone())));
    let expected: Vec<Option<f64>> = leaves.iter().map(|leaf| kept.of(leaf).map(Tensor::item)).collect();
    let (other, leaves, loss) = tape();
    let (before, mut found) = (sums(&leaves), Vec::new());
    let sums = before.iter().map(|(v, x)| (v, x.clone()));
    other.backward_handing_over(&loss, loss.value().full_like(1.0), sums, &mut |leaf, gradient| {
        found.push((leaf, gradient.item()));
    });
    assert_eq!(found.iter().map(|(leaf, _)| *leaf).collect::<Vec<_>>(), [2, 0, 1, 4]);
    assert!(found.iter().all(|(leaf, gradient)| expected[*leaf] == Some(*gradient)), "{found:?}, {expected:?}");
    assert!(expected[3].is_none() && expected.iter().flatten().count() == 4);
}

#[test]
fn a_sweep_adds_to_what_others_found() {
    let mut sum = None;
    for value in [3.0, 4.0] {
        let tape = Tape::new();
        let (x, unread) = (tape.leaf(one(value)), tape.leaf(one(1.0)));
        let y = ops::add(&ops::mul(&x, &x), &x); // dy/dx = 2x + 1
        let sums = sum.take().into_iter().flat_map(|s: Tensor| [(&x, s.clone()), (&unread, s)]);
        let mut found = tape.backward_onto(&y, one(1.0), sums);
        sum = found.take(&x);
        assert_eq!(found.of(&unread).map(Tensor::item), (value == 4.0).then_some(7.0), "kept as it was given");
    }
    assert_eq!(sum.unwrap().item(), 7.0 + 9.0);
}

#[test]
fn a_leaf_may_be_what_is_differentiated() {
    let tape = Tape::new();
    let x = tape.leaf(one(3.0));
    assert_eq!(tape.backward_onto(&x, one(1.0), [(&x, one(4.0))]).of(&x).unwrap().item(), 5.0);
}

#[test]
fn the_target_branch_leaves_no_trace() {
    let tape = Tape::new();
    let x = tape.leaf(one(3.0));
    let target = ops::gelu(&ops::scale(&x.detach(), 2.0));
    assert!(!target.is_tracked());
    assert_eq!(tape.names(), ["leaf"]);
}

#[test]
fn what_the_loss_does_not_depend_on_has_no_gradient() {
    let tape = Tape::new();
    let (x, unused) = (tape.leaf(one(1.0)), tape.leaf(one(2.0)));
    let gradients = tape.backward(&ops::scale(&x, 2.0));
    assert!(gradients.of(&unused).is_none());
    assert!(tape.is_empty(), "all entries are freed by the sweep");
}

#[test]
fn taken_apart_each_entry_frees_what_it_saved() {
    let tape = Tape::new();
    let weights = Tensor::zeros([3], crate::DType::F64);
    let x = tape.leaf(weights.clone());
    let y = ops::mul(&ops::gelu(&x), &ops::gelu(&x)); // gelu keeps x, which we hold; mul both its operands
    let z = ops::mul(&ops::softmax(&y), &y); // softmax keeps its output, mul that and y
    drop((x, y, z));
    let expected = [("leaf", 0), ("gelu", 0), ("gelu", 0), ("mul", 48), ("softmax", 24), ("mul", 24)];
    assert_eq!(tape.take_apart(), expected);
    assert!(tape.is_empty());
    drop(weights);
}

#[test]
fn misuse_says_which() {
    let says = |call: &dyn Fn(), expected: &str| {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).expect_err(expected);
        let message = crate::error::panic_message(&*panic);
        assert!(message.contains(expected), "'{message}', where '{expected}' was expected");
    };
    let (tape, other) = (Tape::new(), Tape::new());
    let (x, foreign, constant) = (tape.leaf(one(1.0)), other.leaf(one(2.0)), Var::constant(one(3.0)));
    let y = ops::scale(&x, 2.0);
    says(&|| _ = tape.backward(&ops::concat(&[&x, &x], 0)), "take its mean or sum");
    says(&|| _ = tape.backward(&foreign), "this value was recorded on another tape");
    says(&|| _ = tape.backward(&constant), "no gradient reaches this value");
    says(&|| _ = tape.backward(&x.detach()), "no gradient reaches this value");
    says(&|| _ = ops::mul(&y, &foreign), "mul: the operands are on different tapes: 1 is not on that of 0");
    says(&|| _ = ops::add(&ops::add(&y, &constant), &foreign), "add: the operands are on different tapes");
    says(&|| _ = tape.backward_from(&y, Tensor::zeros([2], crate::DType::F64)), "y is [1] but dy is [2]");
    // None of that has spent it.
    let found = tape.backward(&y);
    assert_eq!(found.of(&x).unwrap().item(), 2.0);
    says(&|| _ = found.of(&foreign), "gradient: this value is on another tape");
    says(&|| _ = found.of(&constant), "gradient: this value is a constant");
    says(&|| _ = found.of(&y), "gradient: this value was computed, and keeps none");
    says(&|| _ = tape.backward(&y), "this tape was swept before");
    says(&|| _ = tape.take_apart(), "this tape was swept before");
    says(&|| _ = tape.leaf(one(1.0)), "leaf: this tape was swept already; start a new one");
    says(&|| _ = ops::scale(&x, 2.0), "scale: this tape was swept already; start a new one");
    let (y, two) = (ops::scale(&foreign, 2.0), || Tensor::zeros([2], crate::DType::F64));
    says(&|| _ = other.backward_onto(&y, one(1.0), [(&foreign, two())]), "the sum for a leaf of [1] is [2]");
    let (a, b) = (Tape::new(), Tape::new());
    let (y, leaf) = (ops::scale(&a.leaf(one(1.0)), 2.0), b.leaf(one(1.0)));
    says(&|| _ = a.backward_onto(&y, one(1.0), [(&leaf, one(1.0))]), "gradient: this value is on another tape");
    let another = Tape::new();
    let z = ops::scale(&another.leaf(one(1.0)), 2.0);
    says(&|| _ = another.backward_onto(&z, one(1.0), [(&z, one(1.0))]), "this value was computed, and keeps none");
}
