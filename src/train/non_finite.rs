//! Why a step was not made: where the first number comes from that is not finite. Steps are replayed for it only when one has failed,
//! or when that is asked for.

use std::fmt;
use std::ops::Range;

use rayon::prelude::*;

use super::algorithm_1::{LossAndGradients, Trainer};
use super::batch::Batch;
use crate::autograd::{NonFinite, Origin, Tape};
use crate::kernels::meter::{self, Phase};
use crate::kernels::within_memory;
use crate::methods::{Module, Update};
use crate::nn::{Role, count_non_finite};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The first number in a step that is not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFiniteSource {
    /// The images of the batch in whose chunk it was seen.
    pub images: Range<usize>,
    /// Whether it was in a module that no gradient reaches: in the target encoder.
    pub in_target: bool,
    /// The parameter that held it from the start, if one did.
    pub parameter: Option<String>,
    /// The operation, or the leaf.
    pub found: NonFinite,
}

impl NonFiniteSource {
    /// What to do, where it is not the training that diverged.
    pub fn advice(&self) -> Option<&'static str> {
        match (&self.parameter, self.found.origin) {
            (Some(_), _) => Some("it was so before this step: go back to an earlier checkpoint"),
            (None, Origin::Constant { .. }) => Some("look at the images, their normalization, and the noise"),
            (None, Origin::Leaf | Origin::Value { .. } | Origin::Gradient) => None,
        }
    }
}

impl fmt::Display for NonFiniteSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NonFiniteSource { images, in_target, parameter, found } = self;
        let place = if *in_target { ", target encoder" } else { "" };
        write!(f, "images {} to {}{place}: ", images.start, images.end - 1)?;
        match parameter {
            Some(parameter) => write!(f, "the parameter {parameter} is not finite"),
            None => write!(f, "{found}"),
        }
    }
}

/// Replays a step on tapes that look at every value and every gradient, chunk by chunk, and says where the first one
/// comes from that is not finite. `None` when all are finite.
pub fn first_non_finite(trainer: &Trainer, batch: &Batch) -> Option<NonFiniteSource> {
    let chunks = (0..batch.len()).into_par_iter().step_by(trainer.chunk_images.max(1));
    chunks.map(|i| i..(i + trainer.chunk_images).min(batch.len())).find_map_first(|images| {
        let _products = trainer.precision.enter();
        let chunk = trainer.chunk(batch, images.clone());
        // The step with the modules on the tape of which `on` says so.
        let replay = |on: &dyn Fn(&Module) -> bool| {
            let (tape, params) = (Tape::watching(), &trainer.params);
            let place = |m: &Module| if on(m) { m.params.on(&tape) } else { m.params.constants() };
            let loss = trainer.method.record(&params.weights(place), &chunk).loss;
            if tape.first_non_finite().is_none() && loss.is_tracked() {
                tape.backward_from(&loss, loss.value().full_like(1.0));
            }
            let leaves = params.modules().iter().filter(|m| on(m)).flat_map(|m| m.params.iter());
            let mut leaves = leaves.filter(|p| p.role == Role::Trained);
            tape.first_non_finite().map(|found| {
                let parameter = if found.origin == Origin::Leaf { leaves.nth(found.position) } else { None };
                (parameter.map(|p| p.name.clone()), found)
            })
        };
        let trained = |m: &Module| m.update == Update::Trained;
        let (parameter, found) = replay(&trained)?;
        // What a constant brought in may come from a module that is off the tape: look at those.
        let from_outside = matches!(found.origin, Origin::Constant { .. });
        let target = if from_outside { replay(&|m| !trained(m)) } else { None };
        let in_target = target
            .as_ref()
            .is_some_and(|(parameter, found)| parameter.is_some() || !matches!(found.origin, Origin::Constant { .. }));
        let (parameter, found) = target.filter(|_| in_target).unwrap_or((parameter, found));
        let first = batch.part().first;
        let images = first + images.start..first + images.end;
        Some(NonFiniteSource { images, in_target, parameter, found })
    })
}

impl Trainer {
    /// Looks at every value and every gradient of a step, whether or not the loss and the parameters' gradients depend on
    /// it. Takes as long as a step or two and changes nothing.
    ///
    /// # Errors
    /// [`Error::Training`] when one is not finite: it names the first operation that made such a number.
    pub fn check_finite(&self, batch: &Batch) -> Result<()> {
        match self.clone().fitting(batch, |trainer| first_non_finite(trainer, batch))? {
            None => Ok(()),
            found => Err(self.non_finite_at("a number on the way to the loss or back is not finite".into(), found)),
        }
    }

    /// Why the step on this batch, which has changed nothing, was not made: the same numbers, looked at one by one. `loss` is what
    /// the step found.
    pub(super) fn why_not_finite(&mut self, loss: f64, batch: &Batch) -> Error {
        // On a GPU there may not be room for that.
        let problem = self.fitting_gradients(batch).ok().and_then(|found| self.not_finite(&found));
        let problem = problem.unwrap_or_else(|| format!("the loss is {loss}, and it or a gradient is not finite"));
        let source = within_memory(|| first_non_finite(self, batch)).unwrap_or(None);
        self.non_finite_at(problem, source)
    }

    /// What of the loss and the gradients is not finite, if anything.
    fn not_finite(&self, LossAndGradients { loss, gradients, means }: &LossAndGradients) -> Option<String> {
        let _phase = meter::phase_of_all(Phase::Optimizer);
        let of_loss = self.not_finite_loss(loss, means);
        if of_loss.is_some() {
            return of_loss;
        }
        if count_non_finite(&gradients.iter().collect::<Vec<_>>()).item() == 0.0 {
            return None;
        }
        let bad = gradients.iter().position(|gradient| count_non_finite(&[gradient]).item() > 0.0)?;
        Some(self.bad_gradient(bad, gradients[bad].is_finite()))
    }

    /// What of the loss and the means is not finite, if anything.
    pub(super) fn not_finite_loss(&self, loss: &Tensor, means: &[Tensor]) -> Option<String> {
        if !loss.is_finite() {
            return Some(format!("the loss is {}", loss.item()));
        }
        let bad = means.iter().position(|mean| !mean.is_finite())?;
        Some(format!("mean {bad} that {} asks for is not finite", self.method.name()))
    }

    /// What is wrong with the gradient of a trained parameter, given whether its elements are finite, so that only their squares
    /// are not.
    pub(super) fn bad_gradient(&self, param: usize, finite: bool) -> String {
        let name = self.params.trained_params().map(|param| &param.name[..]).nth(param).unwrap_or("?");
        let what = if finite { "too large to be squared" } else { "not finite" };
        format!("the gradient of {name} is {what}")
    }

    fn non_finite_at(&self, problem: String, source: Option<NonFiniteSource>) -> Error {
        let source = source.map(|source| (source.to_string(), source.advice()));
        self.non_finite(problem, source.as_ref().map(|(source, advice)| (&source[..], *advice)))
    }

    /// Given where it began, and what to do about that.
    pub(super) fn non_finite(&self, problem: String, source: Option<(&str, Option<&str>)>) -> Error {
        let diverged = match self.optimizer.steps() {
            0 => {
                "no step was made, so it is a setting or the images that are too large or too small: begin a new run, as this one \
                 would come to the same numbers"
            }
            _ => {
                "the step was not made; begin a new run with a lower learning rate or a longer warm-up, as this one would come to the \
                 same numbers"
            }
        };
        match source {
            Some((source, advice)) => self.error(format!("{problem}; first, {source}"), advice.unwrap_or(diverged)),
            None => self.error(format!("{problem}; every number on the way to it was finite"), diverged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::small;
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn the_first_number_that_is_not_finite_is_found() {
        let trainer = small::trainer(small::stop(), false, DType::F32);
        let batch = small::batch(&trainer);
        assert_eq!(first_non_finite(&trainer, &batch), None);
        let poisoned = |target: bool, name: &str, value: f32| {
            let mut trainer = trainer.clone();
            let module = if target { "target_encoder" } else { "encoder" };
            let param = trainer.params[module].iter_mut().find(|p| p.name == name).unwrap();
            param.value.as_mut_slice::<f32>()[3] = value;
            first_non_finite(&trainer, &batch).unwrap()
        };

        // A parameter that is not finite is named.
        let source = poisoned(false, "blocks.1.mlp.fc1.weight", f32::NAN);
        assert_eq!(source.parameter.as_deref(), Some("blocks.1.mlp.fc1.weight"));
        let source = poisoned(true, "norm.bias", f32::INFINITY);
        assert_eq!(source.to_string(), "images 0 to 2, target encoder: the parameter norm.bias is not finite");

        // A finite weight that makes a product overflow: the operation is named, not what inherits from it.
        let source = poisoned(false, "blocks.0.norm2.weight", 3e38);
        let tape = Tape::new();
        trainer.method.record(&trainer.params.on(&tape), &trainer.chunk(&batch, 0..3));
        let names = tape.names();
        assert!(source.parameter.is_none() && matches!(source.found.origin, Origin::Value { .. }), "{source}");
        assert_eq!((source.found.name, names[source.found.position]), ("norm_linear", "norm_linear"), "{source}");
        assert!(Some(source.found.position) < names.iter().position(|name| *name == "gelu_linear"), "{source}");

        // In the data, and only in the last chunk.
        let mut poisoned = batch.clone();
        poisoned.views[0].images.as_mut_slice::<f32>()[6 * 3 * 256..].fill(f32::NAN);
        let source = first_non_finite(&trainer, &poisoned).unwrap();
        assert_eq!((source.images.clone(), source.found.name), (6..7, "linear"), "{source}");
        assert!(matches!(source.found.origin, Origin::Constant { input: 0, .. }), "{source}");
    }
}
