//! The tape: an arena of entries in the order in which they ran (a Wengert list, 1964).
//!
//! An entry comes after everything it depends on, so the reverse sweep is a loop from the end: no sort, no
//! recursion, and, as an entry owns tensors and never [`Var`]s, no reference cycle. What a rule saved is freed as
//! the sweep passes it.

use std::cell::RefCell;
use std::panic::Location;
use std::rc::Rc;

use super::var::Var;
use super::watch::{NonFinite, Origin};
use crate::kernels::live_bytes;
use crate::kernels::meter::{self, Phase};
use crate::tensor::{Shape, Tensor};

/// A record of one computation, to be swept backward once. Cheap to clone (one shared list); stays on its thread.
#[derive(Clone, Default)]
pub struct Tape(Rc<RefCell<List>>);

#[derive(Default)]
struct List {
    entries: Vec<Entry>,
    spent: bool,
    watch: Watch,
}

impl List {
    /// Notes where `value` comes from if the tape is watching and it is the first that is not finite.
    fn look(&mut self, value: &Tensor, place: impl FnOnce() -> NonFinite) {
        if matches!(self.watch, Watch::Looking) && !value.is_finite() {
            self.watch = Watch::Seen(place());
        }
    }
}

/// Whether values are looked at as they pass.
#[derive(Default)]
enum Watch {
    #[default]
    Off,
    /// All that passed were finite.
    Looking,
    Seen(NonFinite),
}

struct Entry {
    name: &'static str,
    /// Shape of the value that this entry made: that of its gradient.
    shape: Shape,
    /// Where each input came from; `None` for a constant.
    inputs: Vec<Option<usize>>,
    /// `None` for a leaf.
    rule: Option<Rule>,
}

/// From the gradient of an op's output to those of its inputs, added in their slots.
type Rule = Box<dyn FnOnce(Tensor, &mut [Slot])>;

/// Where a rule adds the gradient of one input to what other entries, or other sweeps, found for it.
#[derive(Debug)]
pub(super) enum Slot {
    /// Of a constant: nobody wants it.
    Unwanted,
    /// The sum so far, if there is one.
    Sum(Option<Tensor>),
}

impl Slot {
    /// Whether there is any use in computing it.
    pub(super) fn wanted(&self) -> bool {
        matches!(self, Slot::Sum(_))
    }

    /// Adds a gradient.
    pub(super) fn add(&mut self, gradient: Tensor) {
        self.add_by(|sum| added(sum, gradient));
    }

    /// Lets `add` make the new sum from the old one: for kernels that add what they compute as they write it.
    pub(super) fn add_by(&mut self, add: impl FnOnce(Option<Tensor>) -> Tensor) {
        if let Slot::Sum(sum) = self {
            *sum = Some(add(sum.take()));
        }
    }
}

fn added(sum: Option<Tensor>, term: Tensor) -> Tensor {
    let Some(mut sum) = sum else { return term };
    sum.add_assign(&term);
    sum
}

impl Tape {
    /// An empty tape.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty tape that looks at every value put on it, and at every gradient of its sweep, until one is not finite:
    /// [`first_non_finite`](Self::first_non_finite) names it. Slower; to find out what went wrong.
    pub fn watching() -> Self {
        Tape(Rc::new(RefCell::new(List { watch: Watch::Looking, ..List::default() })))
    }

    /// A value whose gradient is wanted: a parameter, or an input under test.
    #[track_caller]
    pub fn leaf(&self, value: Tensor) -> Var {
        self.push("leaf", value, &[], None)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.0.borrow().entries.len()
    }

    /// Whether nothing was recorded, or all of it was swept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of the recorded operations, in order. Leaves are called `"leaf"`.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.borrow().entries.iter().map(|e| e.name).collect()
    }

    /// The first NaN or infinity that a [`watching`](Self::watching) tape has seen.
    pub fn first_non_finite(&self) -> Option<NonFinite> {
        match &self.0.borrow().watch {
            Watch::Seen(found) => Some(found.clone()),
            Watch::Off | Watch::Looking => None,
        }
    }

    /// Frees the entries from the last to the first, as a sweep does but without computing, and gives for each entry, in
    /// the order of recording, its name and the bytes that went with it: what it saved for its backward pass and nobody
    /// else holds. What several entries share is counted with the first of them.
    ///
    /// # Panics
    /// When the tape was swept before.
    #[track_caller]
    pub fn take_apart(&self) -> Vec<(&'static str, usize)> {
        let mut entries = self.spend();
        let mut freed = Vec::with_capacity(entries.len());
        while let Some(entry) = entries.pop() {
            let (name, before) = (entry.name, live_bytes());
            drop(entry);
            freed.push((name, (before - live_bytes()) as usize));
        }
        freed.reverse();
        freed
    }

    /// The gradient of the scalar `loss` with respect to every leaf it depends on.
    ///
    /// # Panics
    /// When `loss` is not a single number, is not on this tape, or the tape was swept before.
    #[track_caller]
    pub fn backward(&self, loss: &Var) -> Gradients {
        let shape = loss.shape();
        assert_eq!(
            shape.elements(),
            1,
            "backward: the loss is a tensor of {shape}, not one number; take its mean or sum"
        );
        self.backward_from(loss, loss.value().full_like(1.0))
    }

    /// The product of `dy` with the derivative of `y` (a vector-Jacobian product) for every leaf: the gradient of
    /// ⟨dy, y⟩.
    ///
    /// # Panics
    /// As [`backward`](Self::backward); and when `dy` has not the shape of `y`.
    #[track_caller]
    pub fn backward_from(&self, y: &Var, dy: Tensor) -> Gradients {
        self.backward_onto(y, dy, [])
    }

    /// [`backward_from`](Self::backward_from) that adds to what earlier sweeps, of other tapes, found for some leaves.
    ///
    /// # Panics
    /// As [`backward_from`](Self::backward_from); and when one of the `sums` is for a value of another tape, for one that
    /// is no leaf, or has not its shape.
    #[track_caller]
    pub fn backward_onto<'a>(
        &self,
        y: &Var,
        dy: Tensor,
        sums: impl IntoIterator<Item = (&'a Var, Tensor)>,
    ) -> Gradients {
        self.sweep(y, dy, sums, None)
    }

    /// [`backward_onto`](Self::backward_onto) that hands over each leaf's gradient as soon as nothing is left that could add to
    /// it, with the leaf's place among the leaves: those that were used first come last. A leaf that no gradient reaches, and
    /// that has no sum from before, is not among them.
    ///
    /// # Panics
    /// As [`backward_onto`](Self::backward_onto).
    #[track_caller]
    pub fn backward_handing_over<'a>(
        &self,
        y: &Var,
        dy: Tensor,
        sums: impl IntoIterator<Item = (&'a Var, Tensor)>,
        complete: &mut dyn FnMut(usize, Tensor),
    ) {
        self.sweep(y, dy, sums, Some(complete));
    }

    #[track_caller]
    fn sweep<'a>(
        &self,
        y: &Var,
        dy: Tensor,
        sums: impl IntoIterator<Item = (&'a Var, Tensor)>,
        complete: Option<&mut dyn FnMut(usize, Tensor)>,
    ) -> Gradients {
        assert_eq!(y.shape(), dy.shape(), "backward: y is {} but dy is {}", y.shape(), dy.shape());
        let Some((tape, id)) = y.node() else {
            panic!("backward: no gradient reaches this value; does it depend on a leaf of the tape?")
        };
        assert!(self.is(tape), "backward: this value was recorded on another tape");
        let _phase = meter::phase(Phase::Backward);
        let mut entries = self.spend();

        let is_leaf = entries.iter().map(|entry| entry.rule.is_none()).collect();
        let mut found = Gradients { tape: self.clone(), is_leaf, by_entry: vec![None; entries.len()] };
        for (leaf, sum) in sums {
            assert_eq!(
                leaf.shape(),
                sum.shape(),
                "backward: the sum for a leaf of {} is {}",
                leaf.shape(),
                sum.shape()
            );
            let at = found.index(leaf);
            found.by_entry[at] = Some(sum);
        }
        let gradients = &mut found.by_entry;
        gradients[id] = Some(added(gradients[id].take(), dy));
        entries.truncate(id + 1);
        let mut complete = complete.map(|complete| HandOver::new(&entries, &found.is_leaf, complete));
        while let Some(Entry { name, inputs, rule, .. }) = entries.pop() {
            let at = entries.len();
            // What was popped before this entry is the last that could add to these.
            if let Some(complete) = &mut complete {
                complete.behind(at, gradients);
            }
            // A leaf keeps its gradient; so does nothing else.
            let Some(rule) = rule else { continue };
            let Some(dy) = gradients[at].take() else { continue };
            let slot = |input: &Option<usize>| input.map_or(Slot::Unwanted, |i| Slot::Sum(gradients[i].take()));
            let mut slots: Vec<Slot> = inputs.iter().map(slot).collect();
            rule(dy, &mut slots);
            for (input, slot) in inputs.into_iter().zip(slots) {
                let (Some(input), Slot::Sum(Some(gradient))) = (input, slot) else { continue };
                let shape = entries[input].shape;
                assert_eq!(
                    *gradient.shape(),
                    shape,
                    "{name}: the rule gave a gradient of {} for an input of {shape}",
                    gradient.shape()
                );
                let sum = added(gradients[input].take(), gradient); // there is one when an input stands there twice
                self.0.borrow_mut().look(&sum, || NonFinite { name, position: at, origin: Origin::Gradient });
                gradients[input] = Some(sum);
            }
        }
        if let Some(complete) = &mut complete {
            (0..gradients.len()).for_each(|leaf| complete.leaf(leaf, gradients));
        }
        found
    }

    fn is(&self, other: &Tape) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Takes the entries; no more can be recorded.
    #[track_caller]
    fn spend(&self) -> Vec<Entry> {
        let mut list = self.0.borrow_mut();
        assert!(!list.spent, "backward: this tape was swept before; record the computation again");
        list.spent = true;
        std::mem::take(&mut list.entries)
    }

    #[track_caller]
    fn push(&self, name: &'static str, value: Tensor, inputs: &[&Var], rule: Option<Rule>) -> Var {
        let mut list = self.0.borrow_mut();
        assert!(!list.spent, "{name}: this tape was swept already; start a new one");
        let (position, made_at) = (list.entries.len(), Location::caller());
        list.look(&value, || NonFinite {
            name,
            position,
            origin: match inputs.iter().position(|input| !input.value().is_finite()) {
                Some(input) => Origin::Constant { input, made_at },
                None if rule.is_none() => Origin::Leaf,
                None => Origin::Value { made_at },
            },
        });
        let inputs = inputs.iter().map(|input| input.node().map(|(_, id)| id)).collect();
        list.entries.push(Entry { name, shape: *value.shape(), inputs, rule });
        Var::on_tape(value, self.clone(), position)
    }
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} entries)", self.len())
    }
}

/// Which leaves' gradients are complete at which place of a sweep.
struct HandOver<'a> {
    /// For each entry, the leaves that it is the first to use: once it is done, no entry is left that does.
    first_used_by: Vec<Vec<usize>>,
    /// For each entry that is a leaf, its place among the leaves.
    places: Vec<Option<usize>>,
    to: &'a mut dyn FnMut(usize, Tensor),
}

impl<'a> HandOver<'a> {
    fn new(entries: &[Entry], is_leaf: &[bool], to: &'a mut dyn FnMut(usize, Tensor)) -> Self {
        let mut unused = is_leaf.to_vec();
        let first_uses = |entry: &Entry| {
            let leaves = entry.inputs.iter().flatten().copied();
            leaves.filter(|input| std::mem::take(&mut unused[*input])).collect()
        };
        let first_used_by = entries.iter().map(first_uses).collect();
        let mut leaves = 0..;
        let places = is_leaf.iter().map(|is_leaf| is_leaf.then(|| leaves.next()).flatten()).collect();
        HandOver { first_used_by, places, to }
    }

    /// The entry behind `at` is done.
    fn behind(&mut self, at: usize, gradients: &mut [Option<Tensor>]) {
        let complete = self.first_used_by.get_mut(at + 1).map(std::mem::take).unwrap_or_default();
        complete.into_iter().for_each(|leaf| self.leaf(leaf, gradients));
    }

    fn leaf(&mut self, entry: usize, gradients: &mut [Option<Tensor>]) {
        if let (Some(place), Some(gradient)) = (self.places[entry], gradients[entry].take()) {
            (self.to)(place, gradient);
        }
    }
}

/// Puts the result of an operation on the tape of its inputs; a constant when none of them is on one. With it you define
/// an operation of your own: compute its value, and say how the gradient of the value becomes those of the inputs.
///
/// `rule(dy, needed)` returns a gradient for each input that `needed` asks for, in order; what it returns for the
/// others is dropped. What it captures is what the operation saves for the backward pass: tensors, never [`Var`]s.
///
/// ```
/// use stop_mim::Tensor;
/// use stop_mim::autograd::{Var, check, record};
///
/// /// x σ(x) (Ramachandran, Zoph and Le, 2017), with dx = σ(x) (1 + x (1 − σ(x))) dy.
/// fn swish(x: &Var) -> Var {
///     let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
///     let saved = x.value().clone();
///     let y = saved.map(|x| x * sigmoid(x));
///     record("swish", [x], y, move |dy, _needed| {
///         [Some(saved.zip_map(&dy, |x, dy| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))) * dy))]
///     })
/// }
///
/// check::assert_op("swish", |x| swish(&x[0]), &[Tensor::new([3], vec![-2.0, 0.5, 3.0])]);
/// ```
///
/// # Panics
/// When two inputs are on different tapes.
#[track_caller]
pub fn record<const N: usize>(
    name: &'static str,
    inputs: [&Var; N],
    value: Tensor,
    rule: impl FnOnce(Tensor, [bool; N]) -> [Option<Tensor>; N] + 'static,
) -> Var {
    record_many(name, &inputs, value, move |dy, needed| {
        let needed = needed.try_into().expect("as many as inputs");
        rule(dy, needed).into()
    })
}

/// [`record`] for an operation on any number of inputs.
#[track_caller]
pub(super) fn record_many(
    name: &'static str,
    inputs: &[&Var],
    value: Tensor,
    rule: impl FnOnce(Tensor, &[bool]) -> Vec<Option<Tensor>> + 'static,
) -> Var {
    record_adding(name, inputs, value, move |dy, slots| {
        let needed: Vec<bool> = slots.iter().map(Slot::wanted).collect();
        for (slot, gradient) in slots.iter_mut().zip(rule(dy, &needed)) {
            if let Some(gradient) = gradient {
                slot.add(gradient);
            }
        }
    })
}

/// [`record`] for an operation whose rule adds to its inputs' gradients itself.
#[track_caller]
pub(super) fn record_adding(
    name: &'static str,
    inputs: &[&Var],
    value: Tensor,
    rule: impl FnOnce(Tensor, &mut [Slot]) + 'static,
) -> Var {
    let mut tapes = inputs.iter().enumerate().filter_map(|(i, input)| Some((i, input.node()?.0)));
    let Some((first, tape)) = tapes.next() else { return Var::constant(value) };
    if let Some((other, _)) = tapes.find(|(_, other)| !tape.is(other)) {
        panic!("{name}: the operands are on different tapes: {other} is not on that of {first}, counted from 0");
    }
    tape.push(name, value, inputs, Some(Box::new(rule)))
}

/// What a sweep found: the gradient of each leaf.
#[derive(Debug)]
pub struct Gradients {
    tape: Tape,
    is_leaf: Vec<bool>,
    by_entry: Vec<Option<Tensor>>,
}

impl Gradients {
    /// The gradient with respect to `leaf`, of its shape; `None` when the loss does not depend on it.
    ///
    /// # Panics
    /// When `leaf` is on another tape or on none, or is no leaf: what operations made keeps no gradient.
    #[track_caller]
    pub fn of(&self, leaf: &Var) -> Option<&Tensor> {
        self.by_entry[self.index(leaf)].as_ref()
    }

    /// [`of`](Self::of), taken out.
    #[track_caller]
    pub fn take(&mut self, leaf: &Var) -> Option<Tensor> {
        let index = self.index(leaf);
        self.by_entry[index].take()
    }

    #[track_caller]
    fn index(&self, leaf: &Var) -> usize {
        match leaf.node() {
            Some((tape, id)) if self.tape.is(tape) => {
                assert!(self.is_leaf[id], "gradient: this value was computed, and keeps none; ask for that of a leaf");
                id
            }
            Some(_) => panic!("gradient: this value is on another tape"),
            None => panic!("gradient: this value is a constant; make it a leaf of the tape"),
        }
    }
}

#[cfg(test)]
mod tests;
