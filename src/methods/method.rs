//! The questions that Algorithm 1 asks a method.

use std::fmt;
use std::ops::Index;

use super::{Chunk, InPlacePrediction, ModelConfig, ModelParams, ModelWeights};
use crate::autograd::{Var, ops};
use crate::data::Augment;
use crate::kernels::meter::{self, Phase};
use crate::nn::{Param, ParamGroup, ParamId, Params, Weights};
use crate::paper::{Loss, NoiseOn, Sigma, expected_noise_power, masked_loss};
use crate::tensor::Tensor;
use crate::vit::{Encoder, Predictor};

/// Numbers in a fixed order, each under a name of its own: read out, or (of [`Tensor`]s) still on their device.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers<V = f64>(pub Vec<Number<V>>);

impl<V> Default for Numbers<V> {
    fn default() -> Self {
        Numbers(Vec::new())
    }
}

impl Numbers<Tensor> {
    /// Reads them out: on a GPU, waits for them.
    pub fn read(&self) -> Numbers {
        self.with(Tensor::begin_reading(&self.tensors()).wait())
    }

    /// The numbers, in order.
    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        self.0.iter().map(|number| &number.value).collect()
    }

    /// Under the same names, these numbers.
    pub(crate) fn with(&self, values: impl IntoIterator<Item = f64>) -> Numbers {
        let named = |(of, value): (&Number<Tensor>, f64)| Number::new(of.name, of.label, of.panel, value);
        Numbers(self.0.iter().zip(values).map(named).collect())
    }
}

impl Numbers {
    /// The number of this name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|number| number.name == name).map(|number| number.value)
    }
}

impl Index<&str> for Numbers {
    type Output = f64;
    #[track_caller]
    fn index(&self, name: &str) -> &f64 {
        let found = self.0.iter().find(|number| number.name == name);
        &found.unwrap_or_else(|| panic!("there is no number called {name}")).value
    }
}

/// A view of each image that a method wants to see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ViewConfig {
    /// How it is cropped; `None`: as the run says.
    pub augment: Option<Augment>,
    /// Whether it comes with masks.
    pub masked: bool,
}

impl ViewConfig {
    /// Cropped as the run says, with masks.
    pub const MASKED: Self = ViewConfig { augment: None, masked: true };
}

/// What lines 5 to 16 leave behind.
#[derive(Clone, Debug)]
pub struct Recording {
    /// The loss, a scalar on the tape: the mean over the chunk's images.
    pub loss: Var,
    /// Tensors off the tape whose mean over the whole batch is wanted: for [`Method::numbers`], for
    /// [`Method::next_state`]. In every chunk of the same shapes.
    pub means: Vec<Tensor>,
}

/// A number that is reported, with what a log and a figure need to show it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number<V = f64> {
    /// The column of a log.
    pub name: &'static str,
    /// The curve's name in a figure: |A|.
    pub label: &'static str,
    /// The panel of the figure that it stands in, with others of its kind.
    pub panel: &'static str,
    /// The number.
    pub value: V,
}

impl<V> Number<V> {
    /// A number by these names.
    pub const fn new(name: &'static str, label: &'static str, panel: &'static str, value: V) -> Self {
        Number { name, label, panel, value }
    }
}

/// A method of pretraining: what Algorithm 1 asks it.
///
/// A method holds places of parameters, never their values, and knows nothing of threads, schedules, optimizer and files.
/// Those that predict the masked tokens of one view by a [`Predictor`], as all in the paper do, answer the questions of
/// [`MaskedPrediction`] too, which has their `record`.
pub trait Method: fmt::Debug + Send + Sync {
    /// Its name in logs and on the command line.
    fn name(&self) -> &str;

    /// f_θ, whose features are evaluated. Its parameters are the module `encoder`.
    fn encoder(&self) -> &Encoder;

    /// Lines 5 to 16: from the images of a chunk to the loss.
    fn record(&self, w: &ModelWeights, chunk: &Chunk) -> Recording;

    /// Which views of each image it wants: one, with masks.
    fn views(&self) -> Vec<ViewConfig> {
        vec![ViewConfig::MASKED]
    }

    /// Whether it wants the classes of the images.
    fn wants_labels(&self) -> bool {
        false
    }

    /// σ of the noise that line 9 draws for the first view that has targets; `None`: no noise.
    fn sigma(&self) -> Option<Sigma> {
        None
    }

    /// Which tokens line 9 draws noise for, where there is any: the masked ones.
    fn noise_on(&self) -> NoiseOn {
        NoiseOn::Masked
    }

    /// The width of n: d_e, that of the features.
    fn noise_width(&self) -> usize {
        self.encoder().config().dim
    }

    /// How the optimizer treats a parameter of a module.
    fn group(&self, module: &str, param: &Param) -> ParamGroup {
        let _ = module;
        ParamGroup::of(param)
    }

    /// The numbers that it reports after a step, always under the same names, given its [means](Recording::means) over the
    /// batch. Each is a tensor of shape \[\], which is read when the step is reported: a GPU goes on meanwhile.
    fn numbers(&self, params: &ModelParams, means: &[Tensor]) -> Numbers<Tensor> {
        let _ = (params, means);
        Numbers::default()
    }

    /// Scores of the classes, \[n, classes\], given the pooled features \[n, D\] of the evaluated encoder
    /// ([`pooled_features`](crate::eval::pooled_features)): of a method that learns to tell classes.
    fn class_scores(&self, params: &ModelParams, features: &Tensor) -> Option<Tensor> {
        let _ = (params, features);
        None
    }

    /// Moves what the model remembers beside its parameters after a step, given its [means](Recording::means) over the
    /// batch.
    fn next_state(&self, state: &mut [(String, Tensor)], means: &[Tensor]) {
        let _ = (state, means);
    }

    /// The configuration that it was made of, if it is one of this crate's.
    fn config(&self) -> Option<&ModelConfig> {
        None
    }

    /// Itself, if it is of the paper's form: for diagnostics, and for pictures of predictions.
    fn as_masked_prediction(&self) -> Option<&dyn MaskedPrediction> {
        None
    }

    /// Itself, if its encoder sees a mask token in the place of hidden patches: likewise.
    fn as_in_place_prediction(&self) -> Option<&dyn InPlacePrediction> {
        None
    }
}

/// A method of the paper's form: from the features of the visible tokens of an image, a predictor predicts something about
/// the masked ones. The modules are called `encoder` and `predictor`.
///
/// I-JEPA and StoP differ in [`tokens`](Self::tokens) only.
pub trait MaskedPrediction: Method {
    /// g_φ
    fn predictor(&self) -> &Predictor;

    /// c and m: what the predictor sees of the context and in the place of the masked tokens, \[E b, N_c, d_p\] and
    /// \[P E b, N_t, d_p\].
    fn tokens(&self, phi: &Weights, s_x: &Var, chunk: &Chunk) -> (Var, Var);

    /// s_y: what the predictor is to predict, \[P E b, N_t, outputs\], off the tape.
    fn targets(&self, w: &ModelWeights, chunk: &Chunk) -> Var;

    /// L
    fn loss(&self) -> Loss;

    /// The parameter that is m.
    fn mask_token(&self) -> ParamId {
        self.predictor().mask_token
    }

    /// The chunk's images with what was predicted in its place, where that is pixels.
    fn pixels(&self, chunk: &Chunk, predictions: &Tensor) -> Option<Tensor> {
        let _ = (chunk, predictions);
        None
    }

    /// What n is multiplied by to become noise on a position, so that Σ = σ factor factorᵀ: A of Eq. (4), \[d_p, d_e\].
    fn noise_factor(&self, phi: &Params) -> Tensor {
        phi.value(self.predictor().embed.weight).clone()
    }

    /// h(x), by which the noise of an image is scaled, \[E b, 1, 1\]; `None`: it is not.
    fn noise_scale(&self, s_x: &Var) -> Option<Var> {
        let _ = s_x;
        None
    }

    /// s_x = f_θ(x): features of the visible tokens, \[E b, N_c, d_e\].
    fn encode(&self, theta: &Weights, chunk: &Chunk) -> Var {
        self.encoder().forward(theta, &chunk.images().clone().into(), Some(chunk.context()))
    }

    /// ŝ_y = g_φ(c, m), \[P E b, N_t, outputs\]: each target block is predicted on its own from the whole context.
    fn predict(&self, phi: &Weights, c: &Var, m: &Var) -> Var {
        let blocks = m.shape()[0] / c.shape()[0].max(1);
        if blocks == 1 {
            return self.predictor().forward(phi, c, m);
        }
        self.predictor().forward(phi, &ops::repeat_batch(c, blocks), m)
    }

    /// ŝ_y for a chunk, \[P E b, N_t, outputs\]: lines 7 to 14.
    fn predictions(&self, w: &ModelWeights, chunk: &Chunk) -> Var {
        let s_x = self.encode(&w["encoder"], chunk);
        let (c, m) = self.tokens(&w["predictor"], &s_x, chunk);
        self.predict(&w["predictor"], &c, &m)
    }

    /// Lines 5 to 16: what [`Method::record`] is for a method of this form.
    #[doc(alias = "Algorithm 1")]
    fn record_prediction(&self, w: &ModelWeights, chunk: &Chunk) -> Recording {
        use Phase::{Context, Predictor, Target};
        let (theta, phi) = (&w["encoder"], &w["predictor"]);

        let s_x = timed(Context, || self.encode(theta, chunk)); //            5, 7:   s_x ← f_θ(x)
        let (c, m) = timed(Predictor, || self.tokens(phi, &s_x, chunk)); //   11, 12: m = An + ψ_By + m,  c = As_x + ψ_Bx
        let s_y_hat = timed(Predictor, || self.predict(phi, &c, &m)); //      14:     ŝ_y ← g_φ(c, m)
        let s_y = timed(Target, || self.targets(w, chunk)); //                15:     s_y ← get_target(y)
        let loss = timed(Predictor, || masked_loss(self.loss(), &s_y_hat, &s_y)); // 16: loss ← L(ŝ_y, s_y)

        // For what is reported: h(x)² of noise that is scaled.
        let h = self.noise_scale(&Var::constant(s_x.value().clone()));
        Recording { loss, means: h.map(|h| (&h * &h).mean().value().clone()).into_iter().collect() }
    }

    /// |A| (or |B|), |m|, and with noise RMS(A n) = √(tr Σ / d_p), the root mean square of the noise on a component of a
    /// position (where it is [scaled](Self::noise_scale), by 1): [`Method::numbers`] of a method of this form.
    fn norms(&self, params: &ModelParams) -> Numbers<Tensor> {
        let phi = &params["predictor"];
        let a = phi.value(self.predictor().embed.weight);
        let mut numbers = vec![
            Number::new("norm_a", "|A|", "norm", a.l2_norm()),
            Number::new("norm_m", "|m|", "norm", phi.value(self.mask_token()).l2_norm()),
        ];
        if let Some(sigma) = self.sigma() {
            let power = Var::from(expected_noise_power(&self.noise_factor(phi), sigma));
            let noise_rms = ops::sqrt(&(power / a.shape()[0] as f64));
            numbers.push(Number::new("noise_rms", "noise A n", "RMS", noise_rms.value().clone()));
        }
        Numbers(numbers)
    }
}

/// A method that predicts something at the target tokens of one view, in either form: what pictures and checks ask it.
#[derive(Clone, Copy, Debug)]
pub enum TokenPrediction<'a> {
    /// By a predictor, from the features of the visible tokens: the paper's form.
    ByPredictor(&'a dyn MaskedPrediction),
    /// By a linear head, from what the encoder makes of its mask tokens.
    InPlace(&'a dyn InPlacePrediction),
}

impl<'a> TokenPrediction<'a> {
    /// The method, if it is one.
    pub fn of(method: &'a dyn Method) -> Option<Self> {
        let by_predictor = method.as_masked_prediction().map(TokenPrediction::ByPredictor);
        by_predictor.or_else(|| method.as_in_place_prediction().map(TokenPrediction::InPlace))
    }

    /// ŝ_y for a chunk, \[P E b, N_t, outputs\].
    pub fn predictions(self, w: &ModelWeights, chunk: &Chunk) -> Var {
        match self {
            TokenPrediction::ByPredictor(method) => method.predictions(w, chunk),
            TokenPrediction::InPlace(method) => method.predictions(w, chunk),
        }
    }

    /// s_y: what is to be predicted, \[P E b, N_t, outputs\], off the tape.
    pub fn targets(self, w: &ModelWeights, chunk: &Chunk) -> Var {
        match self {
            TokenPrediction::ByPredictor(method) => method.targets(w, chunk),
            TokenPrediction::InPlace(method) => method.targets(w, chunk),
        }
    }

    /// The chunk's images with what was predicted in its place, where that is pixels.
    pub fn pixels(self, chunk: &Chunk, predictions: &Tensor) -> Option<Tensor> {
        match self {
            TokenPrediction::ByPredictor(method) => method.pixels(chunk, predictions),
            TokenPrediction::InPlace(method) => method.pixels(chunk, predictions),
        }
    }
}

/// What `work` gives, on the meter's clock for this phase.
pub(super) fn timed<R>(phase: Phase, work: impl FnOnce() -> R) -> R {
    let _phase = meter::phase(phase);
    work()
}
