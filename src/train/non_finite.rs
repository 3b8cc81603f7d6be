//! Where the first number of a training step that is not finite comes from. For a step that has failed.

use std::fmt;
use std::ops::Range;

use rayon::prelude::*;

use super::{Batch, Recording, Trainer};
use crate::autograd::{NonFinite, Origin, Tape};
use crate::nn::{Params, Role};
use crate::tensor::Tensor;

/// The first number in a step that is not finite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonFiniteSource {
    /// The images of the batch in whose chunk it was seen.
    pub images: Range<usize>,
    /// Whether it was in the target encoder.
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
    let images = batch.images.shape()[0];
    let chunks = (0..images).into_par_iter().step_by(trainer.chunk_images.max(1));
    chunks.map(|i| i..(i + trainer.chunk_images).min(images)).find_map_first(|images| {
        let _products = trainer.precision.enter();
        let chunk = trainer.cut(batch, images.clone());
        let source = |in_target, modules: &[&Params], found: NonFinite| {
            // The leaves are the trained parameters, the first entries of the tape.
            let mut leaves = modules.iter().flat_map(|p| p.iter()).filter(|p| p.role == Role::Trained);
            let leaf = if found.origin == Origin::Leaf { leaves.nth(found.position) } else { None };
            NonFiniteSource { images: images.clone(), in_target, parameter: leaf.map(|p| p.name.clone()), found }
        };
        let tape = Tape::watching();
        let averaged = trainer.params.target.as_ref().map(Params::constants);
        let Recording { loss, .. } = trainer.record(&chunk, &tape, averaged.as_ref());
        tape.backward_from(&loss, Tensor::full(*loss.shape(), 1.0, loss.dtype()));
        let found = tape.first_non_finite()?;
        // What a constant brought in may come from the target encoder: run that on a tape of its own.
        let from_outside = matches!(found.origin, Origin::Constant { .. });
        let target = trainer.params.target.as_ref().filter(|_| from_outside).and_then(|params| {
            let tape = Tape::watching();
            trainer.model.targets(Some(&params.on(&tape)), &chunk);
            tape.first_non_finite().map(|found| source(true, &[params], found))
        });
        target.or_else(|| Some(source(false, &trainer.params.trained(), found)))
    })
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
            let target = trainer.params.target.as_mut().filter(|_| target);
            let params = target.unwrap_or(&mut trainer.params.encoder);
            let param = params.iter_mut().find(|p| p.name == name).unwrap();
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
        let averaged = trainer.params.target.as_ref().map(Params::constants);
        trainer.record(&trainer.cut(&batch, 0..3), &tape, averaged.as_ref());
        let names = tape.names();
        assert!(source.parameter.is_none() && matches!(source.found.origin, Origin::Value { .. }), "{source}");
        assert_eq!((source.found.name, names[source.found.position]), ("norm_linear", "norm_linear"), "{source}");
        assert!(Some(source.found.position) < names.iter().position(|name| *name == "gelu_linear"), "{source}");

        // In the data, and only in the last chunk.
        let mut poisoned = batch.clone();
        poisoned.images.as_mut_slice::<f32>()[6 * 3 * 256..].fill(f32::NAN);
        let source = first_non_finite(&trainer, &poisoned).unwrap();
        assert_eq!((source.images.clone(), source.found.name), (6..7, "linear"), "{source}");
        assert!(matches!(source.found.origin, Origin::Constant { input: 0, .. }), "{source}");
    }
}
