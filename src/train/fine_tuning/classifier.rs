//! A fine-tuned model out of its checkpoint: images in, classes out.

use std::path::Path;

use super::{test_accuracy, tuning};
use crate::data::{Dataset, Normalization};
use crate::eval::{argmax, check_finite};
use crate::tensor::{Device, Tensor};
use crate::train::checkpoint::{self, Checkpoint};
use crate::train::weights::PretrainedEncoder;
use crate::{Error, Result};

/// A fine-tuned model, ready to be used.
///
/// ```no_run
/// use stop_mim::train::fine_tuning::Classifier;
/// use stop_mim::{DType, Tensor};
///
/// let classifier = Classifier::open("runs/finetune-shapes/checkpoint.safetensors")?;
/// let images = Tensor::zeros([16, 3, 32, 32], DType::F32); // stand-ins, normalized as `classifier.normalization()` says
/// println!("{:?}", classifier.classify(&images)?);
/// # Ok::<(), stop_mim::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Classifier {
    /// Encoder and head, and the run that they are from.
    pub checkpoint: Checkpoint,
    encoder: PretrainedEncoder,
}

impl Classifier {
    /// Of a checkpoint that a run of fine-tuning wrote.
    ///
    /// # Errors
    /// As [`checkpoint::load`]; when the file is of a run of pretraining.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let checkpoint = checkpoint::load(path.as_ref())?;
        if tuning(&checkpoint.config).is_err() {
            let problem = format!("no classes in it: its run is one of {}", checkpoint.method.name());
            return Err(Error::file(path, problem, "give a checkpoint of a run of fine-tuning (`fine_tune`)"));
        }
        let params = checkpoint.params.evaluated().clone();
        let encoder = PretrainedEncoder { encoder: checkpoint.method.encoder().clone(), params };
        Ok(Classifier { checkpoint, encoder })
    }

    /// What the classes are called, in the order of their labels.
    pub fn classes(&self) -> &[String] {
        self.checkpoint.config.fine_tuning.as_ref().map_or(&[], |tuning| &tuning.classes)
    }

    /// The same classifier on another device, where it then computes; what it gives is on the CPU.
    #[must_use]
    pub fn to_device(mut self, device: Device) -> Self {
        self.encoder = self.encoder.to_device(device);
        self.checkpoint.params = self.checkpoint.params.to_device(device);
        self
    }

    /// How images are to be normalized. `None`: as [`Splits::normalization`](crate::data::Splits::normalization) says.
    pub fn normalization(&self) -> Option<&Normalization> {
        self.checkpoint.config.normalization.as_ref()
    }

    /// \[N, C, S, S\] → \[N, classes\]: the scores of each class, before softmax, of normalized images.
    ///
    /// # Errors
    /// When the images are not of the encoder's size.
    pub fn scores(&self, images: &Tensor) -> Result<Tensor> {
        let features = self.encoder.features(images)?;
        Ok(self.checkpoint.method.class_scores(&self.checkpoint.params, &features).expect("it tells classes"))
    }

    /// \[N, C, S, S\] → the name of each image's class.
    ///
    /// # Errors
    /// As [`scores`](Self::scores); when a score is not finite.
    pub fn classify(&self, images: &Tensor) -> Result<Vec<&str>> {
        let scores = self.scores(images)?;
        check_finite(&scores, "scores of classes")?;
        let rows = scores.as_slice::<f32>().chunks_exact(self.classes().len());
        Ok(rows.filter_map(argmax).map(|class| &*self.classes()[class]).collect())
    }

    /// The share of these images that it tells right: [`test_accuracy`].
    ///
    /// # Errors
    /// As there; when the images' classes are not the model's.
    pub fn accuracy(
        &self,
        (images, normalization): (&dyn Dataset, &Normalization),
        progress: &(dyn Fn(usize) -> Result<()> + Sync),
    ) -> Result<f64> {
        if images.class_names() != self.classes() {
            let problem =
                format!("{}: its classes are not the {} of the model", images.describe(), self.classes().len());
            return Err(Error::config(problem, "give images of the same classes in the same order (`data`)"));
        }
        let Checkpoint { method, params, .. } = &self.checkpoint;
        test_accuracy((&**method, params), (images, normalization), progress)
    }
}
