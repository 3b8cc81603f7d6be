//! Encoder, predictor and method, put together.

use rand::Rng;

use super::{Method, ijepa, mae, stop};
use crate::autograd::{Var, ops};
use crate::kernels::meter::{self, Phase};
use crate::nn::{Init, LinearInit, ParamId, Params, Role, Weights};
use crate::paper::{Loss, masked_loss};
use crate::tensor::{DType, Indices, Tensor};
use crate::vit::{Encoder, EncoderConfig, Names, Predictor, PredictorConfig};
use crate::{Error, Result};

/// Everything that decides a model's parameters and what is computed with them.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct ModelConfig {
    /// What is predicted from what.
    pub method: Method,
    /// f_θ.
    pub encoder: EncoderConfig,
    /// g_φ; MAE's decoder.
    pub predictor: PredictorConfig,
    /// How linear layers start.
    pub linear_init: LinearInit,
}

impl ModelConfig {
    /// Sizes that fit together.
    ///
    /// # Errors
    /// [`Error::Config`] that says what does not.
    pub fn validate(&self) -> Result<()> {
        let ModelConfig { method, encoder, predictor, .. } = self;
        if let Some(problem) = encoder.problem().or_else(|| predictor.problem()) {
            return Err(Error::config(problem, "choose sizes that fit together, or a preset"));
        }
        for (name, x) in [
            ("patch_std", encoder.patch_std),
            ("position_scale", encoder.position_scale),
            ("embed_std", predictor.embed_std),
        ] {
            if !(x >= 0.0 && x.is_finite()) {
                return Err(Error::config(format!("{name} is {x}"), "choose a number that is not negative"));
            }
        }
        // Tokens are told apart by their places alone: with a class token in front that the method does not expect, each
        // would be taken for its neighbor.
        let class_token = matches!(method, Method::Mae { .. });
        if encoder.class_token != class_token {
            let (name, without) = (method.name(), if class_token { "without" } else { "with" });
            let hint = format!("set class_token to {class_token}: MAE's encoder has one, the others' have none");
            return Err(Error::config(format!("{name} on an encoder {without} a class token"), hint));
        }
        match *method {
            Method::Ijepa { target_blocks: k } | Method::Stop { target_blocks: k, .. }
                if k == 0 || k > encoder.depth =>
            {
                let problem = format!("targets from the last {k} blocks of an encoder with {}", encoder.depth);
                Err(Error::config(problem, format!("choose from 1 to {}", encoder.depth)))
            }
            _ => Ok(()),
        }
    }
}

/// A few images with their masks: what one thread works on.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// \[b, 3, S, S\]
    pub images: Tensor,
    /// B_x: E b rows, context mask by context mask.
    pub context: Indices,
    /// B_y: P E b rows, target block by target block, inside each as `context`.
    pub targets: Indices,
    /// n, \[P E b, N_t, d_e\]: StoP's.
    pub noise: Option<Tensor>,
}

/// A method with its networks. It holds places of parameters; the values are in [`ModelParams`].
#[derive(Clone, Debug)]
pub struct Model {
    /// The sizes.
    pub config: ModelConfig,
    /// f_θ
    pub encoder: Encoder,
    /// g_φ
    pub predictor: Predictor,
}

/// A model's parameters.
#[derive(Clone, Debug)]
pub struct ModelParams {
    /// θ
    pub encoder: Params,
    /// φ, with A and m
    pub predictor: Params,
    /// The moving average of θ that makes the targets; MAE has none.
    pub target: Option<Params>,
}

impl ModelParams {
    /// The encoder whose features are evaluated: the target encoder where there is one.
    pub fn evaluated(&self) -> &Params {
        self.target.as_ref().unwrap_or(&self.encoder)
    }

    /// The trained modules in the order of their gradients: θ, φ.
    pub fn trained(&self) -> [&Params; 2] {
        [&self.encoder, &self.predictor]
    }
}

impl Model {
    /// A model with fresh parameters; the target encoder starts as a copy of the encoder.
    ///
    /// # Errors
    /// When the sizes do not fit together.
    pub fn new(config: &ModelConfig, dtype: DType, rng: &mut impl Rng) -> Result<(Model, ModelParams)> {
        config.validate()?;
        let (mut theta, mut phi) = (Params::new(), Params::new());
        let encoder = Encoder::new(
            &config.encoder,
            &mut Init { params: &mut theta, rng: &mut *rng, dtype, linear: config.linear_init },
        );
        let (grid, d_e) = (config.encoder.grid(), config.encoder.dim);
        let (outputs, names, (mask_token, bias)) = match config.method {
            Method::Ijepa { .. } => (d_e, Names::Predictor, (Role::Trained, Role::Trained)),
            Method::Stop { tokens, .. } => (d_e, Names::Predictor, tokens.roles()),
            Method::Mae { .. } => {
                (3 * config.encoder.patch_size.pow(2), Names::Decoder, (Role::Trained, Role::Trained))
            }
        };
        let mut init = Init { params: &mut phi, rng, dtype, linear: config.linear_init };
        let predictor = Predictor::new(&config.predictor, (d_e, outputs), grid, names, mask_token, &mut init);
        phi.set_role(predictor.embed.bias, bias);
        let target = (!matches!(config.method, Method::Mae { .. })).then(|| theta.clone());
        let model = Model { config: config.clone(), encoder, predictor };
        Ok((model, ModelParams { encoder: theta, predictor: phi, target }))
    }

    /// s_x = f_θ(x): features of the context tokens, \[E b, N_c, d_e\].
    pub fn encode(&self, theta: &Weights, chunk: &Chunk) -> Var {
        let _phase = meter::phase(Phase::Context);
        self.encoder.forward(theta, &chunk.images.clone().into(), Some(&chunk.context))
    }

    /// c and m: what the predictor sees, \[E b, N_c, d_p\] and \[P E b, N_t, d_p\].
    pub fn tokens(&self, phi: &Weights, s_x: &Var, chunk: &Chunk) -> (Var, Var) {
        let _phase = meter::phase(Phase::Predictor);
        match self.config.method {
            Method::Ijepa { .. } => ijepa::tokens(&self.predictor, phi, s_x, chunk),
            Method::Stop { tokens, .. } => stop::tokens(tokens, &self.predictor, phi, s_x, chunk),
            Method::Mae { .. } => mae::tokens(&self.predictor, phi, s_x, chunk),
        }
    }

    /// ŝ_y = g_φ(c, m), \[P E b, N_t, outputs\]: each target block is predicted on its own from the whole context.
    pub fn predict(&self, phi: &Weights, c: &Var, m: &Var) -> Var {
        let _phase = meter::phase(Phase::Predictor);
        let blocks = m.shape()[0] / c.shape()[0].max(1);
        match blocks {
            1 => self.predictor.forward(phi, c, m),
            _ => self.predictor.forward(phi, &ops::repeat_batch(c, blocks), m),
        }
    }

    /// s_y: what the predictor should answer, off the tape. `averaged` are the target encoder's weights; MAE looks at
    /// the pixels instead.
    ///
    /// # Panics
    /// When the method has a target encoder and `averaged` is `None`.
    #[track_caller]
    pub fn targets(&self, averaged: Option<&Weights>, chunk: &Chunk) -> Var {
        let _phase = meter::phase(Phase::Target);
        match self.config.method {
            Method::Ijepa { target_blocks } | Method::Stop { target_blocks, .. } => {
                let averaged = averaged.expect("this method's targets come from the target encoder");
                ijepa::targets(&self.encoder, averaged, target_blocks, chunk)
            }
            Method::Mae { normalize_patches } => mae::targets(self.config.encoder.patch_size, normalize_patches, chunk),
        }
    }

    /// L(ŝ_y, s_y), a scalar.
    pub fn loss(&self, predictions: &Var, targets: &Var) -> Var {
        let _phase = meter::phase(Phase::Predictor);
        let loss = match self.config.method {
            Method::Ijepa { .. } | Method::Stop { .. } => Loss::SmoothL1,
            Method::Mae { .. } => Loss::SquaredError,
        };
        masked_loss(loss, predictions, targets)
    }

    /// A (or B): the projection that the context goes through, and in StoP the noise.
    pub fn projection(&self) -> ParamId {
        self.predictor.embed.weight
    }

    /// What stands for m: the mask token, or in StoP's official form the bias.
    pub fn mask_token(&self) -> ParamId {
        match self.config.method {
            Method::Stop { tokens: stop::TokenForm::Official | stop::TokenForm::PositionsOnly, .. } => {
                self.predictor.embed.bias
            }
            _ => self.predictor.mask_token,
        }
    }
}
