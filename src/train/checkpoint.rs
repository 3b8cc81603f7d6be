//! Checkpoints: safetensors under the official names, with the configuration in the metadata.
//!
//! Modules under their [prefixes](crate::methods::Module::prefix), `encoder.*`, `predictor.*`, `target_encoder.*` (MAE:
//! `model.*`; fine-tuning: `encoder.*` and `head.*`), and what else a method remembers as `state.*`, f32. What training goes on with has AdamW's moments too, as
//! `optimizer.m.` and `optimizer.v.` before the name of the parameter. PyTorch's safetensors opens both; nothing in them is
//! specific to this crate but the metadata, to which [`safetensors`] adds checksums:
//!
//! | key | value |
//! |---|---|
//! | `format` | `stop-mim-2` |
//! | `config` | the run's configuration as JSON |
//! | `step` | steps done |
//! | `draws` | [`DRAWS`]: by which order, crops, masks and noise follow from the seed |
//! | `policy` | [`CheckpointPolicy`] as JSON, where there is an optimizer |
//! | `optimizer` | AdamW's β₁, β₂ and ε as JSON, likewise; a file without has the official ones |
//!
//! Order, crops, masks, noise and schedules follow from the seed and the step: there is no random state to save.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::algorithm_1::{Trainer, optimizer};
use super::config::RunConfig;
use super::pretrain::fresh_model;
use super::safetensors::{self, Fit, Place, TensorFile, shown};
use crate::methods::{Method, ModelParams, Update};
use crate::nn::{AdamW, Role};
use crate::rng::DRAWS;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The value of `format` in the metadata.
pub const FORMAT: &str = "stop-mim-2";

/// A model as it was saved.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The run it comes from.
    pub config: RunConfig,
    /// Steps done when it was saved.
    pub step: usize,
    /// What is computed.
    pub method: Arc<dyn Method>,
    /// With what.
    pub params: ModelParams,
}

/// How a run is watched and kept. No weight depends on it; a resumed run goes on with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointPolicy {
    /// Steps between diagnostics.
    pub diagnose_every: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: usize,
    /// How many of the last checkpoints are kept.
    pub keep: usize,
    /// A checkpoint after each multiple of this many steps is made, and kept for good; 0: none.
    pub keep_every: usize,
    /// What the images were: [`Dataset::identity`](crate::data::Dataset::identity) of both splits. Others to train on would
    /// make another run.
    pub images: String,
}

/// What AdamW computes with, besides what it remembers.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Constants {
    betas: (f64, f64),
    eps: f64,
}

/// A run as it was saved, ready to go on.
#[derive(Clone, Debug)]
pub struct SavedRun {
    /// What decides it.
    pub config: RunConfig,
    /// How it is watched and kept.
    pub policy: CheckpointPolicy,
    /// Model, parameters and optimizer; the step is the optimizer's.
    pub trainer: Trainer,
}

/// The name in a file and the value of each parameter, and of what else the model remembers.
fn named(params: &mut ModelParams) -> Vec<(String, &mut Tensor)> {
    let (modules, state) = params.modules_and_state_mut();
    let weights = modules.iter_mut().flat_map(|module| {
        let prefix = module.prefix;
        module.params.iter_mut().map(move |p| (format!("{prefix}.{}", p.name), &mut p.value))
    });
    weights.chain(state.iter_mut().map(|(name, x)| (format!("state.{name}"), x))).collect()
}

/// The names of what the optimizer remembers, in its order: m and v of each trained parameter.
fn moment_names(params: &ModelParams) -> Vec<[String; 2]> {
    let trained = params.modules().iter().filter(|module| module.update == Update::Trained);
    let trained = trained.flat_map(|module| module.params.iter().map(|p| (module.prefix, p)));
    let trained = trained.filter(|(_, p)| p.role == Role::Trained);
    trained.map(|(prefix, p)| ["m", "v"].map(|moment| format!("optimizer.{moment}.{prefix}.{}", p.name))).collect()
}

/// Writes the weights of a model. An existing file is replaced only once the new one is complete.
///
/// # Errors
/// When a weight is not finite (all such tensors are named), or the file cannot be written.
pub fn save(path: &Path, config: &RunConfig, step: usize, params: &ModelParams) -> Result<()> {
    safetensors::write(path, metadata(config, step), &weights(params))
}

/// Writes all that a run needs to go on, from the step of its optimizer. An existing file is replaced only once the new
/// one is complete.
///
/// # Errors
/// When a weight or a moment is not finite (all such tensors are named), or the file cannot be written.
pub fn save_run(path: &Path, config: &RunConfig, policy: &CheckpointPolicy, trainer: &Trainer) -> Result<()> {
    let Trainer { params, optimizer, .. } = trainer;
    let mut metadata = metadata(config, optimizer.steps() as usize);
    let constants = Constants { betas: optimizer.betas, eps: optimizer.eps };
    metadata.insert("policy".into(), serde_json::to_string(policy).expect("plain data"));
    metadata.insert("optimizer".into(), serde_json::to_string(&constants).expect("plain data"));
    let moments = moment_names(params).into_iter().zip(optimizer.moments());
    let moments = moments.flat_map(|([of_m, of_v], (m, v))| [(of_m, m), (of_v, v)]);
    safetensors::write(path, metadata, &weights(params).into_iter().chain(moments).collect::<Vec<_>>())
}

fn metadata(config: &RunConfig, step: usize) -> BTreeMap<String, String> {
    let config = serde_json::to_string(config).expect("a configuration is plain data");
    let (format, draws) = (FORMAT.to_owned(), DRAWS.to_owned());
    let metadata = [("format", format), ("config", config), ("step", step.to_string()), ("draws", draws)];
    metadata.map(|(key, value)| (key.to_owned(), value)).into()
}

fn weights(params: &ModelParams) -> Vec<(String, &Tensor)> {
    let params_of = params.modules().iter().flat_map(|module| module.params.iter().map(|p| (module.prefix, p)));
    let weights = params_of.map(|(prefix, p)| (format!("{prefix}.{}", p.name), &p.value));
    weights.chain(params.state.iter().map(|(name, x)| (format!("state.{name}"), x))).collect()
}

/// Reads the weights from a checkpoint that [`save`] or [`save_run`] wrote.
///
/// # Errors
/// When the file cannot be read, is damaged, is not such a checkpoint, or does not hold exactly the tensors of its
/// configuration; all that are missing, misshapen or unexpected are named.
pub fn load(path: &Path) -> Result<Checkpoint> {
    Ok(read(path, false, None)?.0)
}

/// Reads all that a run needs to go on from a checkpoint that [`save_run`] wrote.
///
/// # Errors
/// As [`load`]; and when there is no optimizer, or no checksum, in it.
pub fn load_run(path: &Path) -> Result<SavedRun> {
    resumed(read(path, true, None)?)
}

/// [`load_run`] for a method from outside this crate: `fresh` is the method with parameters of the sizes that the file has.
///
/// # Errors
/// As [`load_run`].
pub fn load_run_of(path: &Path, fresh: (Arc<dyn Method>, ModelParams)) -> Result<SavedRun> {
    resumed(read(path, true, Some(fresh))?)
}

fn resumed((saved, resumable): (Checkpoint, Resumable)) -> Result<SavedRun> {
    let Checkpoint { config, method, params, .. } = saved;
    let (policy, optimizer) = resumable.expect("asked for");
    let trainer = Trainer { optimizer, precision: config.precision, ..Trainer::new(method, params) };
    Ok(SavedRun { config, policy, trainer })
}

/// What else a file has, where it is asked for.
type Resumable = Option<(CheckpointPolicy, AdamW)>;

fn read(
    path: &Path,
    to_resume: bool,
    fresh: Option<(Arc<dyn Method>, ModelParams)>,
) -> Result<(Checkpoint, Resumable)> {
    const HINT: &str = "give a checkpoint of this program; `load_encoder` and `init` read others' weights too";
    let unusable = |problem: String| Error::file(path, problem, HINT);
    let mut file = TensorFile::open(path, HINT)?;
    let none = HashMap::new();
    let metadata = file.metadata().unwrap_or(&none);
    match metadata.get("format").map(String::as_str) {
        Some(FORMAT) => {}
        Some("stop-mim-1") => {
            let problem = "a checkpoint of an earlier version, whose configuration this one does not read";
            return Err(Error::file(path, problem, "read it with the version that wrote it, or train anew"));
        }
        Some(other) => return Err(unusable(format!("format '{}', where '{FORMAT}' is expected", shown(other)))),
        None => return Err(unusable("no stop-mim metadata in it".into())),
    }
    let field = |key: &str| metadata.get(key).ok_or_else(|| unusable(format!("no '{key}' in its metadata")));
    let unreadable =
        |what, e: serde_json::Error| unusable(format!("{what} cannot be read ({})", shown(&e.to_string())));
    let config: RunConfig = serde_json::from_str(field("config")?).map_err(|e| unreadable("its configuration", e))?;
    let step: usize = field("step")?.parse().map_err(|_| unusable("its step is not a number".into()))?;

    // Memory is asked for only as much as the file has: for the model here, and for masks in the second check.
    let cannot_work = |e| unusable(format!("its configuration cannot work: {e}"));
    config.validate_model().map_err(cannot_work)?;
    if fresh.is_none() && config.elements().saturating_mul(size_of::<f32>() as u64) > 2 * file.bytes() {
        let bytes = file.bytes();
        return Err(unusable(format!("its tensors of {bytes} bytes are not half of the model that it describes")));
    }
    config.validate().map_err(cannot_work)?;
    if step > config.steps {
        return Err(unusable(format!("it is after step {step} of a run of {} steps", config.steps)));
    }

    let (method, mut params) = fresh.map_or_else(|| fresh_model(&config), Ok)?;
    let mut resumable = None;
    if to_resume {
        ["checksum", "crc32"].into_iter().try_for_each(|key| field(key).map(|_| ()))?;
        if metadata.get("draws").is_none_or(|draws| draws != DRAWS) {
            let draws = metadata.get("draws").map_or("an earlier version's".into(), |draws| shown(draws));
            let problem =
                format!("its run draws by {draws}, and this version by {DRAWS}: it would not be the same run");
            let hint = "resume it with the version that began it, or begin a new run with its weights (`init`)";
            return Err(Error::file(path, problem, hint));
        }
        let policy = serde_json::from_str(field("policy")?).map_err(|e| unreadable("its checkpoint policy", e))?;
        let mut optimizer = optimizer(&*method, &params);
        if let Some(constants) = metadata.get("optimizer") {
            let unreadable = |e| unreadable("the constants of its optimizer", e);
            let Constants { betas, eps } = serde_json::from_str(constants).map_err(unreadable)?;
            if ![betas.0, betas.1].iter().all(|beta| (0.0..1.0).contains(beta)) || eps < 0.0 {
                return Err(unusable(format!("the constants of its optimizer cannot work: {}", shown(constants))));
            }
            (optimizer.betas, optimizer.eps) = (betas, eps);
        }
        resumable = Some((policy, optimizer));
    }
    let names = moment_names(&params);
    let mut places: Vec<Place> = named(&mut params).into_iter().map(|(name, x)| Place::whole(name, x)).collect();
    if let Some((_, optimizer)) = &mut resumable {
        let moments = names.into_iter().zip(optimizer.restore(step as u64));
        places.extend(moments.flat_map(|([of_m, of_v], (m, v))| [Place::whole(of_m, m), Place::whole(of_v, v)]));
    }
    file.fill(places, &|name| to_resume || !name.starts_with("optimizer."), Fit::Strict)?;
    Ok((Checkpoint { config, step, method, params }, resumable))
}

#[cfg(test)]
mod tests {
    use super::super::algorithm_1::StepParams;
    use super::super::safetensors::tests::{Scratch, says};
    use super::super::weights::{InitOptions, load_encoder};
    use super::*;
    use crate::methods::{MethodConfig, ModelConfig};
    use crate::rng::{Purpose, stream};
    use crate::tensor::DType;
    use crate::train::small;

    const HYPER: StepParams = StepParams { lr: 0.01, weight_decay: 0.1, ema_momentum: 0.9 };

    fn policy() -> CheckpointPolicy {
        CheckpointPolicy { diagnose_every: 3, checkpoint_every: 4, keep: 5, keep_every: 0, images: "few".into() }
    }

    /// A run after two steps, with constants that nobody would choose.
    fn after_two_steps(method: MethodConfig) -> Trainer {
        let mut trainer = small::trainer(method, true, DType::F32);
        (trainer.optimizer.betas, trainer.optimizer.eps) =
            ((0.7123456789012345, 0.9876543210987654), 1.2345678901234567e-7);
        let batch = small::batch(&trainer);
        (0..2).for_each(|_| _ = trainer.step(&batch, &HYPER).unwrap());
        trainer
    }

    fn save_to(file: &Scratch, trainer: &Trainer) -> Result<()> {
        save_run(&file.0, &small::run(trainer), &policy(), trainer)
    }

    fn bits_of(params: &ModelParams) -> Vec<u64> {
        weights(params).iter().flat_map(|(_, x)| x.to_f64_vec()).map(f64::to_bits).collect()
    }

    /// Weights, moments, steps and constants.
    fn bits(trainer: &Trainer) -> Vec<u64> {
        let Trainer { params, optimizer, .. } = trainer;
        let (beta_1, beta_2) = optimizer.betas;
        let moments = optimizer.moments().iter().flat_map(|(m, v)| [m.to_f64_vec(), v.to_f64_vec()].concat());
        let numbers = moments.chain([beta_1, beta_2, optimizer.eps]).map(f64::to_bits);
        bits_of(params).into_iter().chain(numbers).chain([optimizer.steps()]).collect()
    }

    /// The file with these keys of its metadata changed, or without them, and with these tensors besides.
    fn rewrite(file: &Scratch, changes: &[(&str, Option<&str>)], more: &[(String, &Tensor)]) {
        let mut open = TensorFile::open(&file.0, "").unwrap();
        let mut metadata: BTreeMap<_, _> = open.metadata().unwrap().clone().into_iter().collect();
        for (key, value) in changes {
            match value {
                Some(value) => metadata.insert((*key).to_owned(), (*value).to_owned()),
                None => metadata.remove(*key),
            };
        }
        let names = open.names();
        let read = |name: String| (open.tensor(&name, DType::F32).unwrap(), name);
        let tensors: Vec<(Tensor, String)> = names.into_iter().map(read).collect();
        let tensors = tensors.iter().map(|(x, name)| (name.clone(), x)).chain(more.iter().cloned());
        safetensors::write(&file.0, metadata, &tensors.collect::<Vec<_>>()).unwrap();
    }

    #[test]
    fn what_was_saved_goes_on_with_the_same_bits() {
        for (k, method) in small::every_method().into_iter().enumerate() {
            let (file, mut trainer) = (Scratch::new(&format!("saved-{k}"), &[]), after_two_steps(method));
            save_to(&file, &trainer).unwrap();
            let mut saved = load_run(&file.0).unwrap();
            assert_eq!((&saved.config, &saved.policy), (&small::run(&trainer), &policy()));
            assert!(bits(&saved.trainer) == bits(&trainer));
            let (m, v) = &trainer.optimizer.moments()[0];
            assert!(m.norm() > 0.0 && v.norm() > 0.0 && m.max_abs_diff(v) > 0.0, "or else a swap would not be seen");
            // Chunks are no part of a run that its configuration decides.
            saved.trainer.chunk_images = trainer.chunk_images;
            let batch = small::batch(&trainer);
            for t in [&mut trainer, &mut saved.trainer] {
                t.step(&batch, &HYPER).unwrap();
            }
            assert!(bits(&saved.trainer) == bits(&trainer));
        }
    }

    #[test]
    fn without_the_constants_of_its_optimizer_a_file_has_the_official_ones() {
        let file = Scratch::new("constants", &[]);
        save_to(&file, &after_two_steps(small::stop())).unwrap();
        rewrite(&file, &[("optimizer", None)], &[]);
        let AdamW { betas, eps, .. } = load_run(&file.0).unwrap().trainer.optimizer;
        assert_eq!((betas, eps), ((0.9, 0.999), 1e-8));
        let not_so = ["{}", r#"{"betas":[0.9],"eps":0}"#, r#"{"betas":[0.9,0.999],"eps":null}"#, "[]"];
        let cannot =
            [r#"{"betas":[1.0,0.999],"eps":1e-8}"#, r#"{"betas":[0.9,-0.1],"eps":0}"#, r#"{"betas":[0.9,0],"eps":-1}"#];
        for constants in not_so.into_iter().chain(cannot) {
            rewrite(&file, &[("optimizer", Some(constants))], &[]);
            says(load_run(&file.0), &["the constants of its optimizer cannot"]);
            load(&file.0).unwrap();
        }
    }

    /// Its weights are as good as any; going on would be another run than the one that began.
    #[test]
    fn a_run_of_other_draws_does_not_go_on() {
        let (file, trainer) = (Scratch::new("draws", &[]), after_two_steps(small::stop()));
        for (other, named) in [(Some("xoshiro"), "draws by xoshiro"), (None, "draws by an earlier version's")] {
            save_to(&file, &trainer).unwrap();
            rewrite(&file, &[("draws", other)], &[]);
            says(load_run(&file.0), &[named, DRAWS, "`init`"]);
            assert!(bits_of(&load(&file.0).unwrap().params) == bits_of(&trainer.params));
        }
    }

    /// The optimizer's tensors are nobody's business where only weights are asked for. All else is unexpected.
    #[test]
    fn what_else_is_in_a_file() {
        let (file, trainer) = (Scratch::new("else", &[]), after_two_steps(small::stop()));
        save_to(&file, &trainer).unwrap();
        assert!(bits_of(&load(&file.0).unwrap().params) == bits_of(&trainer.params));
        let sizes = &trainer.config().encoder;
        let encoder = load_encoder(&file.0, sizes, &InitOptions::default()).unwrap();
        let mut targets = encoder.params.iter().zip(trainer.params["target_encoder"].iter());
        assert!(targets.all(|(one, other)| one.value.max_abs_diff(&other.value) == 0.0));
        let x = Tensor::zeros([1], DType::F32);
        let more = ["target_encoder.more", "optimizer.m.more", "more"].map(|name| (name.to_owned(), &x));
        rewrite(&file, &[], &more);
        let [target, moment, other] = more.map(|(name, _)| format!("\n    {name} is unexpected"));
        says(load_run(&file.0), &["3 tensors", &target, &moment, &other]);
        says(load(&file.0), &["2 tensors", &target, &other]);
        says(load_encoder(&file.0, sizes, &InitOptions::default()), &["1 tensor", &target]);
    }

    /// An update can overflow where the gradient did not. The checkpoint before it stays.
    #[test]
    fn weights_that_are_not_finite_are_not_saved() {
        let (file, good) = (Scratch::new("finite", &[]), after_two_steps(small::stop()));
        save_to(&file, &good).unwrap();
        let mut overflown = good.clone();
        overflown.step(&small::batch(&good), &StepParams { lr: 1e39, ..HYPER }).unwrap();
        let all = ["not written", "encoder.norm.weight has values that are not finite", "predictor.", "is still there"];
        says(save_to(&file, &overflown), &all);
        let mut of_target = good.params.clone();
        of_target["target_encoder"] = overflown.params["target_encoder"].clone();
        says(save(&file.0, &small::run(&good), 3, &of_target), &["target_encoder.patch_embed.proj.weight"]);
        for moment in 0..2 {
            let mut wrong = good.clone();
            let (m, v) = &mut wrong.optimizer.restore(2)[1];
            [m, v][moment].as_mut_slice::<f32>()[3] = f32::NAN;
            let named = format!("1 tensor cannot be used:\n    optimizer.{}.encoder.", ["m", "v"][moment]);
            says(save_to(&file, &wrong), &[&named]);
        }
        assert!(bits(&load_run(&file.0).unwrap().trainer) == bits(&good));
    }

    /// The oracle is the model itself.
    #[test]
    fn elements_are_counted_before_a_model_is_made() {
        for method in small::every_method() {
            for (k, learned) in [(0, false), (1, true), (2, false), (3, true)] {
                let mut config = small::trainer(method.clone(), learned, DType::F32).config().clone();
                let ModelConfig { encoder, predictor, .. } = &mut config;
                (encoder.image_size, encoder.patch_size) = (32, [2, 4, 8, 16][k]);
                (encoder.depth, encoder.dim) = (2 + k, 12 * (k + 1));
                (encoder.channels, predictor.depth, predictor.dim) = (1 + k, 1 + k, 8 * (k + 1));
                let (_, params) = config.build(DType::F32, &mut stream(1, Purpose::Init, [0, 0])).unwrap();
                let counted: usize = params.modules().iter().map(|module| module.params.elements()).sum();
                assert_eq!(config.elements(), counted as u64, "{config:?}");
            }
        }
    }
}
