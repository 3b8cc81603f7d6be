//! The graph of a training step, looked at: which parameters no gradient reaches, whether the targets are off the tape,
//! what is kept for the backward pass and for how long. The step is the trainer's. Nothing of this runs in training.

use std::collections::BTreeMap;

use super::Finding;
use super::finding::largest;
use crate::autograd::{Tape, Var};
use crate::kernels::live_bytes;
use crate::methods::{Chunk, ModelWeights, Module, TokenPrediction, Update};
use crate::nn::{Params, Role, Weights};
use crate::tensor::Tensor;
use crate::train::{Batch, NonFiniteSource, Trainer, first_non_finite};

/// What the operations of one name keep for the backward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The operation.
    pub name: &'static str,
    /// How often it stands on the tape.
    pub entries: usize,
    /// Bytes that it keeps and nothing before it on the tape does; parameters and the batch do not count.
    pub bytes: usize,
}

/// What was found about a training step's graph.
#[derive(Clone, Debug)]
pub struct Lint {
    /// Entries on the tape, leaves included.
    pub entries: usize,
    /// What each operation keeps for the backward pass, the largest first.
    pub saved: Vec<Saved>,
    /// The parameters that no gradient reaches, by name.
    pub unreached: Vec<String>,
    /// The parameters whose gradient is all zero, by name.
    pub zero: Vec<String>,
    /// Where the first number that is not finite comes from.
    pub non_finite: Option<NonFiniteSource>,
    /// The statements of this module, tested on this step.
    pub findings: Vec<Finding>,
}

/// How the values of a module that no gradient should reach enter: as constants, unless a test wants to see what happens
/// otherwise.
type Untrained<'a> = &'a dyn Fn(&Params, &Tape) -> Weights;

fn constants(params: &Params, _: &Tape) -> Weights {
    params.constants()
}

fn weights(trainer: &Trainer, tape: &Tape, untrained: Untrained<'_>) -> ModelWeights {
    let trained = |m: &Module| m.update == Update::Trained;
    trainer.params.weights(|m| if trained(m) { m.params.on(tape) } else { untrained(&m.params, tape) })
}

/// The loss of a training step on a tape, and the parameters that stand on it by name.
fn record(trainer: &Trainer, chunk: &Chunk, tape: &Tape, untrained: Untrained<'_>) -> (Var, Vec<(String, Var)>) {
    let weights = weights(trainer, tape, untrained);
    let loss = trainer.method.record(&weights, chunk).loss;
    let names = trainer.params.trained_params().map(|param| param.name.clone());
    (loss, names.zip(weights.leaves().cloned()).collect())
}

/// The entries that the targets put on a tape, and whether they are on it themselves.
fn target_entries(trainer: &Trainer, chunk: &Chunk, untrained: Untrained<'_>) -> (usize, bool) {
    let Some(method) = TokenPrediction::of(&*trainer.method) else { return (0, false) };
    let tape = Tape::new();
    let weights = weights(trainer, &tape, untrained);
    let before = tape.len();
    let targets = method.targets(&weights, chunk);
    (tape.len() - before, targets.is_tracked())
}

/// What the operations of a training step on `chunk` keep for the backward pass, the largest first.
pub fn saved(trainer: &Trainer, chunk: &Chunk) -> Vec<Saved> {
    let tape = Tape::new();
    drop(record(trainer, chunk, &tape, &constants));
    by_operation(&tape.take_apart())
}

/// Looks at the graph of a training step on `batch`, taken as one chunk.
pub fn lint(trainer: &Trainer, batch: &Batch) -> Lint {
    look(trainer, batch, &constants)
}

fn look(trainer: &Trainer, batch: &Batch, untrained: Untrained<'_>) -> Lint {
    let images = batch.len();
    let declared = Trainer { chunk_images: images, ..trainer.clone() };
    // What is declared unread goes on the tape here, so that it is seen whether anything does read it.
    let mut trainer = declared.clone();
    for module in trainer.params.modules_mut().iter_mut().filter(|m| m.update == Update::Trained) {
        module.params.iter_mut().filter(|p| p.role == Role::Unused).for_each(|p| p.role = Role::Trained);
    }
    let chunk = trainer.chunk(batch, 0..images);

    // Once to take it apart.
    let before = live_bytes();
    let tape = Tape::new();
    drop(record(&trainer, &chunk, &tape, untrained));
    let entries = tape.len();
    let kept = (live_bytes() - before) as f64;
    let freed = tape.take_apart();

    // Once to sweep it.
    let before = live_bytes();
    let tape = Tape::new();
    let (loss, leaves) = record(&trainer, &chunk, &tape, untrained);
    let mut found = tape.backward(&loss);
    let gradients: Vec<(String, Option<Tensor>)> =
        leaves.iter().map(|(name, leaf)| (name.clone(), found.take(leaf))).collect();
    let names_of = |which: &dyn Fn(&Option<Tensor>) -> bool| -> Vec<String> {
        gradients.iter().filter(|(_, g)| which(g)).map(|(name, _)| name.clone()).collect()
    };
    let unreached = names_of(&|g| g.is_none());
    let zero = names_of(&|g| g.as_ref().is_some_and(|g| g.norm() == 0.0));
    let same = same_as_training(&declared, batch, loss.item(), &gradients);
    drop((loss, leaves, found, gradients));
    let left = (live_bytes() - before) as f64; // with the tape still there

    // The target branch with its weights on a tape, for how much there is to keep off it.
    let (target_operations, _) = target_entries(&trainer, &chunk, &|p, tape| p.on(tape));
    let (entered, tracked) = target_entries(&trainer, &chunk, untrained);
    let on_tape = [entered as f64, f64::from(tracked)];

    let names_with = |role: Role| -> Vec<String> {
        let params = declared.params.trained().flat_map(Params::iter);
        params.filter(|p| p.role == role).map(|p| p.name.clone()).collect()
    };
    let (trained, unread) = (names_with(Role::Trained), names_with(Role::Unused));
    // An exact statement: none of the names is among `wrong`, where all `of` them could have been.
    let none_of = |statement: &str, fine: String, wrong: Vec<String>, of: usize| {
        let compared = if wrong.is_empty() { fine } else { wrong.join(", ") };
        Finding::vanishes(statement, compared, &(wrong.len() as f64), of as f64, 0.0)
    };
    let all_trained = || format!("{} trained parameters", trained.len());
    let to_be_read = |names: &[String]| names.iter().filter(|name| !unread.contains(name)).cloned().collect();
    let claim = "a gradient reaches what is trained";
    let mut findings = vec![same, none_of(claim, all_trained(), to_be_read(&unreached), trained.len())];
    if !unread.is_empty() {
        let read = unread.iter().filter(|name| !unreached.contains(name)).cloned().collect();
        let fine = format!("none reaches {}", unread.join(", "));
        findings.push(none_of("none reaches what is unread", fine, read, unread.len()));
    }
    findings.push(none_of("no gradient is all zero", all_trained(), to_be_read(&zero), trained.len()));
    let (compared, of) = match target_operations {
        0 => ("target pixels".to_owned(), entries),
        n => (format!("the {n} operations of the target encoder"), n),
    };
    findings.push(Finding::vanishes("targets are off the tape", compared, &on_tape, of as f64, 0.0));
    let non_finite = first_non_finite(&declared, batch);
    let source = non_finite.iter().map(NonFiniteSource::to_string).collect();
    let fine = format!("{entries} values and their gradients");
    findings.push(none_of("all numbers are finite", fine, source, entries));
    let accounted = freed.iter().map(|(_, bytes)| *bytes as f64).sum::<f64>();
    let compared = "bytes that entries free, with bytes alive";
    findings.push(Finding::equal("all that is kept has an owner", compared, &accounted, &kept, 0.0));
    findings.push(Finding::vanishes("the sweep frees everything", "bytes alive after it", &left, kept, 0.0));

    Lint { entries, saved: by_operation(&freed), unreached, zero, non_finite, findings }
}

/// That the recorded step is the trainer's: the same loss and the same gradients, to the bit.
fn same_as_training(trainer: &Trainer, batch: &Batch, loss: f64, gradients: &[(String, Option<Tensor>)]) -> Finding {
    let statement = "this is the training step";
    let found = match trainer.gradients(batch) {
        Ok(found) => found,
        Err(problem) => return Finding::vanishes(statement, problem.to_string(), &f64::NAN, 1.0, 0.0),
    };
    let names = trainer.params.trained_params().map(|p| &p.name);
    // NaN equals itself here: that a number is not finite is another finding's business.
    let apart = |x: &[f64], y: &[f64]| {
        let differences = x.iter().zip(y).filter(|(x, y)| x.to_bits() != y.to_bits()).map(|(x, y)| x - y);
        largest(&differences.collect::<Vec<f64>>())
    };
    let difference = |(name, theirs): (&String, &Tensor)| {
        let ours = gradients.iter().find(|(n, _)| n == name).and_then(|(_, g)| g.as_ref());
        ours.map_or(f64::NAN, |ours| apart(&ours.to_f64_vec(), &theirs.to_f64_vec()))
    };
    let theirs = found.loss.item();
    let of_loss = apart(&[loss], &[theirs]);
    let differences: Vec<f64> = names.zip(&found.gradients).map(difference).chain([of_loss]).collect();
    let scale = if theirs.is_finite() { theirs.abs() } else { 1.0 };
    Finding::vanishes(statement, "loss and gradients, bit for bit", &differences, scale, 0.0)
}

/// What the operations of each name free, the largest first.
fn by_operation(freed: &[(&'static str, usize)]) -> Vec<Saved> {
    let mut sums = BTreeMap::<&'static str, Saved>::new();
    for &(name, bytes) in freed {
        let sum = sums.entry(name).or_insert(Saved { name, entries: 0, bytes: 0 });
        (sum.entries, sum.bytes) = (sum.entries + 1, sum.bytes + bytes);
    }
    let mut saved: Vec<Saved> = sums.into_values().collect();
    saved.sort_by_key(|s| std::cmp::Reverse(s.bytes));
    saved
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::autograd::check::Verdict;
    use crate::tensor::DType;
    use crate::train::small;

    /// The statements that do not pass.
    fn failed(lint: &Lint) -> Vec<&str> {
        lint.findings.iter().filter(|f| f.verdict() != Verdict::Pass).map(|f| &f.statement[..]).collect()
    }

    fn stop() -> (Trainer, Batch) {
        let trainer = small::trainer(small::stop(), false, DType::F32);
        let batch = small::batch(&trainer);
        (trainer, batch)
    }

    #[test]
    fn every_method_passes() {
        for method in small::every_method() {
            let trainer = small::trainer(method, false, DType::F32);
            let lint = lint(&trainer, &small::batch(&trainer));
            lint.findings.iter().for_each(Finding::assert_pass);
            let unread = trainer.params.trained().flat_map(Params::iter).filter(|p| p.role == Role::Unused);
            assert_eq!(lint.unreached, unread.map(|p| p.name.clone()).collect::<Vec<_>>());
            assert_eq!(lint.zero, Vec::<String>::new());
        }
    }

    /// A trainer that something was done to, and what is found then.
    fn spoiled(spoil: impl Fn(&mut Trainer)) -> (Trainer, Lint) {
        let (mut trainer, batch) = stop();
        spoil(&mut trainer);
        let found = lint(&trainer, &batch);
        (trainer, found)
    }

    fn value<'a>(trainer: &'a mut Trainer, module: &str, name: &str) -> &'a mut Tensor {
        &mut trainer.params[module].iter_mut().find(|p| p.name == name).expect(name).value
    }

    #[test]
    fn a_role_that_is_wrong_is_named() {
        let predictor = |trainer: &Trainer| trainer.method.as_masked_prediction().unwrap().predictor().clone();
        let (_, found) = spoiled(|trainer| {
            let mask_token = predictor(trainer).mask_token;
            trainer.params["predictor"].set_role(mask_token, Role::Trained);
        });
        assert_eq!(failed(&found), ["this is the training step", "a gradient reaches what is trained"]);
        assert_eq!((&found.findings[1].compared[..], &found.unreached[..]), ("mask_token", &["mask_token".into()][..]));
        let (_, found) = spoiled(|trainer| {
            let bias = predictor(trainer).embed.bias;
            trainer.params["predictor"].set_role(bias, Role::Unused);
        });
        assert_eq!(failed(&found), ["none reaches what is unread"]);
        assert_eq!(found.findings[2].compared, "predictor_embed.bias");
    }

    #[test]
    fn gradients_that_are_all_zero_or_not_finite_are_findings() {
        // With A = 0 nothing of the context gets through, and so nothing comes back to the encoder.
        let (_, found) = spoiled(|trainer| {
            let a = value(trainer, "predictor", "predictor_embed.weight");
            *a = a.scaled(0.0);
        });
        assert_eq!(failed(&found), ["no gradient is all zero"]);
        assert!(found.zero.contains(&"patch_embed.proj.weight".to_owned()), "{:?}", found.zero);
        let (trainer, found) = spoiled(|trainer| {
            value(trainer, "encoder", "blocks.1.mlp.fc1.weight").as_mut_slice::<f32>()[3] = f32::NAN;
        });
        assert_eq!(failed(&found), ["all numbers are finite"]);
        assert_eq!(found.non_finite, first_non_finite(&Trainer { chunk_images: 7, ..trainer }, &stop().1));
    }

    #[test]
    fn a_target_encoder_on_the_tape_is_seen() {
        let (trainer, batch) = stop();
        let found = look(&trainer, &batch, &|target, tape| target.on(tape));
        assert_eq!(failed(&found), ["targets are off the tape"]);
        let finding = found.findings.iter().find(|f| f.statement == "targets are off the tape").unwrap();
        assert_eq!(finding.error, finding.scale, "all of its operations are there");
        assert!(finding.scale > 10.0 && found.entries > lint(&trainer, &batch).entries);
    }

    #[test]
    fn another_computation_is_not_the_training_step() {
        let (trainer, batch) = stop();
        let online = look(&trainer, &batch, &|_, _| trainer.params["encoder"].constants());
        assert_eq!(failed(&online), ["this is the training step"]);
    }

    #[test]
    fn what_stays_alive_is_seen() {
        let (trainer, batch) = stop();
        let stash = RefCell::new(Vec::new());
        let found = look(&trainer, &batch, &|target, _| {
            stash.borrow_mut().push(Tensor::zeros([10], DType::F32));
            target.constants()
        });
        assert_eq!(failed(&found), ["all that is kept has an owner", "the sweep frees everything"]);
        assert_eq!(found.findings.last().unwrap().error, 40.0);
    }

    #[test]
    fn what_each_operation_keeps_is_what_the_shapes_say() {
        let (trainer, batch) = stop();
        let lint = lint(&trainer, &batch);
        let bytes = |name| lint.saved.iter().find(|s| s.name == name).unwrap().bytes;
        // Two blocks of the encoder on 14 rows of 5 context tokens; of the predictor one on 28 rows of 5 + 3, and one
        // that answers for the 3 masked tokens only.
        let (encoder, all, masked) = (2 * 14 * 5, 28 * 8, 28 * 3);
        // The second map of an MLP keeps what GELU is taken of, 4 times as wide as the tokens.
        assert_eq!(bytes("gelu_linear"), 4 * 4 * (encoder * 12 + (all + masked) * 8));
        // Attention keeps queries, keys and values of all tokens, and no probabilities.
        assert_eq!(bytes("attention"), 4 * 3 * (encoder * 12 + 2 * all * 8));
        assert!(lint.saved.is_sorted_by_key(|s| std::cmp::Reverse(s.bytes)));
        assert_eq!(lint.saved.iter().map(|s| s.entries).sum::<usize>(), lint.entries);
    }
}
