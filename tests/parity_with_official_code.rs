//! The same computation as PyTorch's: same weights, same masks, same noise in; same features, predictions, loss,
//! gradients, and weights after AdamW and EMA out.
//!
//! Runs every `*.safetensors` in `tests/parity/`, and in the folder that `STOP_MIM_PARITY_DIR` names. The numbers of
//! `*_step` come from the official code of StoP (github.com/amirbar/StoP), I-JEPA (github.com/facebookresearch/ijepa)
//! and MAE (github.com/facebookresearch/mae), those of `*_3_steps` from a script beside them that was written from the
//! papers, those of fine-tuning from another; all in float64, on tiny models with random weights. See tests/parity/README.md.
//!
//! Tolerance: 10⁻⁹ in f64 and 10⁻⁴ in f32, of each tensor's largest entry. In f32 the K third of `qkv.bias` is
//! left out after AdamW: its true gradient is 0 (softmax does not see a shift of all scores), and AdamW divides rounding
//! noise by its own size.

#[cfg(feature = "cuda")]
mod cuda_on_cpu;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use stop_mim::autograd::{Var, ops};
use stop_mim::methods::stop::TokenForm;
use stop_mim::methods::{Method, MethodConfig, ModelConfig, ModelParams, TokenPrediction};
use stop_mim::nn::{LinearInit, Params, Role};
use stop_mim::paper::Sigma;
use stop_mim::paper::masking::masks_from_noise;
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::fine_tuning::{self, FineTuning};
use stop_mim::train::{Batch, BatchView, Noise, RunConfig, StepParams, Trainer};
use stop_mim::vit::{EncoderConfig, PredictorConfig, Preset};
use stop_mim::{DType, Device, Error, Indices, Tensor};

#[test]
fn every_fixture_is_reproduced() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity")];
    folders.extend(std::env::var_os("STOP_MIM_PARITY_DIR").map(PathBuf::from));
    let mut files = Vec::new();
    for folder in &folders {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let paths = entries.map(|e| e.unwrap().path());
        files.extend(paths.filter(|p| p.extension().is_some_and(|e| e == "safetensors")));
    }
    files.sort();
    assert!(files.len() >= 11, "the fixtures are missing from tests/parity");
    let mut failures = Vec::new();
    for file in &files {
        let mut fixture = Fixture::read(file);
        // Ten times what is measured: one step 8.5e-15, three steps, in which rounding grows, 1.0e-11; in f32 2.3e-6.
        let steps = file.to_str().unwrap().contains("3_steps");
        for (dtype, tolerance) in [(DType::F64, if steps { 1e-10 } else { 1e-13 }), (DType::F32, 2.5e-5)] {
            for device in devices() {
                fixture.device = device;
                let (worst, what) = (fixture.run(dtype), format!("{} in {dtype} on {device}", file.display()));
                println!("{what}: worst error {:.1e} ({})", worst.error, worst.name);
                if worst.error.is_nan() || worst.error > tolerance {
                    failures.push(format!("{what}: {} is off by {:.3e}", worst.name, worst.error));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Where the model computes.
fn devices() -> Vec<Device> {
    #[cfg(feature = "cuda")]
    return [Device::Cpu].into_iter().chain(cuda_on_cpu::device()).collect();
    #[cfg(not(feature = "cuda"))]
    vec![Device::Cpu]
}

struct Fixture {
    device: Device,
    config: Value,
    tensors: BTreeMap<String, Tensor>,
    indices: BTreeMap<String, Indices>,
}

/// The largest error so far, and where.
struct Worst {
    error: f64,
    name: String,
}

impl Worst {
    fn compare(&mut self, name: &str, ours: &Tensor, official: &Tensor) {
        let (ours, official) = (ours.to_f64_vec(), official.to_f64_vec());
        assert_eq!(ours.len(), official.len(), "{name}");
        // Relative to the tensor's largest entry: a gradient of 10⁻³ is not let off by an absolute tolerance.
        let scale = official.iter().fold(0.0f64, |m, y| m.max(y.abs()));
        for (x, y) in ours.iter().zip(&official) {
            let error = (x - y).abs() / if scale > 0.0 { scale } else { 1.0 };
            if error.is_nan() || error > self.error {
                *self = Worst { error, name: name.to_owned() };
            }
        }
    }
}

impl Fixture {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().as_ref().expect("metadata");
        assert_eq!(metadata["format"], "stop-mim-parity-1", "{}", path.display());
        let config = serde_json::from_str(&metadata["config"]).unwrap();
        let (mut tensors, mut indices) = (BTreeMap::new(), BTreeMap::new());
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let words = view.data().as_chunks::<8>().0;
            match view.dtype() {
                Dtype::F64 => {
                    let values = words.iter().map(|w| f64::from_le_bytes(*w)).collect();
                    tensors.insert(name, Tensor::new(view.shape(), values));
                }
                Dtype::I64 => {
                    let values = words.iter().map(|w| i64::from_le_bytes(*w).try_into().unwrap()).collect();
                    indices.insert(name, Indices::new(view.shape()[0], view.shape()[1], values));
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        Fixture { device: Device::Cpu, config, tensors, indices }
    }

    fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap_or_else(|| panic!("config.{key}")) as usize
    }

    fn flag(&self, key: &str) -> bool {
        self.config[key].as_bool().unwrap_or(false)
    }

    /// A setting by its name; where the fixture does not have it, as usual.
    fn named<T: FromStr<Err = Error> + Default>(&self, key: &str) -> T {
        self.config[key].as_str().map_or_else(T::default, |name| name.parse().unwrap())
    }

    fn tensor(&self, name: &str) -> &Tensor {
        self.tensors.get(name).unwrap_or_else(|| panic!("the fixture has no {name}"))
    }

    fn run(&self, dtype: DType) -> Worst {
        let mut worst = Worst { error: 0.0, name: "nothing compared".into() };
        match self.config["method"].as_str().unwrap() {
            "mae-official" | "mae-stop" => self.run_mae(dtype, &mut worst),
            "fine-tuning" => self.run_fine_tuning(dtype, &mut worst),
            method => self.run_joint_embedding(method, dtype, &mut worst),
        }
        worst
    }

    fn encoder(&self, [class_token, mask_token]: [bool; 2]) -> EncoderConfig {
        EncoderConfig {
            image_size: self.size("image_size"),
            patch_size: self.size("patch_size"),
            channels: 3,
            dim: self.size("embed_dim"),
            depth: self.size("depth"),
            heads: self.size("num_heads"),
            mlp_ratio: 4.0,
            class_token,
            mask_token,
            patch_std: 0.02,
            position_scale: 1.0,
        }
    }

    fn model(&self, method: MethodConfig, predictor: &str, dtype: DType) -> (Arc<dyn Method>, ModelParams) {
        let of_predictor = |key: &str| self.size(&format!("{predictor}_{key}"));
        let config = ModelConfig {
            encoder: self.encoder([method.class_token(), method.mask_token()]),
            predictor: if method.has_predictor() {
                PredictorConfig {
                    dim: of_predictor("embed_dim"),
                    depth: of_predictor("depth"),
                    heads: of_predictor("num_heads"),
                    learned_positions: self.flag("learned_pos_emb"),
                    embed_std: 0.02,
                }
            } else {
                Preset::Toy.sizes().1
            },
            method,
            linear_init: LinearInit::Normal,
        };
        assert_eq!((self.size("mlp_ratio"), self.config["layer_norm_eps"].as_f64()), (4, Some(1e-6)));
        config.build(dtype, &mut stream(0, Purpose::Init, [0, 0])).unwrap()
    }

    /// Sets every parameter from the fixture; none may be missing, and the shapes must agree.
    fn load(&self, params: &mut Params, prefix: &str, dtype: DType) {
        for param in params.iter_mut() {
            let official = self.tensor(&format!("{prefix}.{}", param.name));
            assert_eq!(param.value.shape(), official.shape(), "{prefix}.{}", param.name);
            if param.role == Role::Fixed {
                assert!(official.max_abs_diff(&param.value.to_dtype(DType::F64)) < 1e-6, "{}: the table", param.name);
            }
            param.value = official.to_dtype(dtype);
        }
    }

    fn run_joint_embedding(&self, method: &str, dtype: DType, worst: &mut Worst) {
        let target_blocks = if method == "simmim" { 1 } else { self.size("target_blocks") };
        let sigma = || Sigma::from_std(self.config["noise_std"].as_f64().unwrap());
        let (noise_on, covariance) = (self.named("noise_on"), self.named("covariance"));
        let stop = |sigma, tokens| MethodConfig::Stop { target_blocks, sigma, tokens, noise_on, covariance };
        let method = match (method, self.flag("apply_stop")) {
            ("data2vec", _) => MethodConfig::Data2vec { target_blocks },
            ("simmim", _) => MethodConfig::Simmim,
            ("ijepa-official", _) => MethodConfig::Ijepa {
                target_blocks,
                target_resolution: self.named("target_resolution"),
                penalty: self.config["penalty"].as_str().map(|penalty| penalty.parse().unwrap()),
            },
            ("stop-official", true) => stop(sigma(), TokenForm::Official),
            ("stop-paper", true) => stop(sigma(), TokenForm::Paper),
            ("stop-official", false) => stop(Sigma::SILENT, TokenForm::PositionsOnly),
            (other, _) => panic!("unknown method {other}"),
        };
        let stochastic = matches!(method, MethodConfig::Stop { tokens: TokenForm::Official | TokenForm::Paper, .. });
        let (model, mut params) = self.model(method, "predictor", dtype);
        params.modules_mut().iter_mut().for_each(|module| self.load(&mut module.params, module.prefix, dtype));

        // Chunks of two images, so that the cut and the sum over chunks are part of what is compared.
        let mut trainer = Trainer { chunk_images: 2, ..Trainer::new(model, params).to_device(self.device) };
        for step in 0..self.size("steps") {
            let of_step = |name: &str| self.tensor(&format!("step{step}.{name}"));
            let masks = |kind: &str, n: usize| -> Vec<Indices> {
                (0..n).map(|i| self.indices[&format!("step{step}.masks_{kind}.{i}")].clone()).collect()
            };
            let blocks = self.size("num_pred_masks");
            let noise = (0..).map_while(|i| self.tensors.get(&format!("step{step}.noise.{i}")));
            let noise = noise.map(|n| n.to_dtype(dtype));
            let batch = Batch::masked(
                of_step("images").to_dtype(dtype),
                masks("enc", self.size("num_enc_masks")),
                masks("pred", blocks),
                Noise::Given(if stochastic { noise.collect() } else { Vec::new() }),
            );
            let batch = batch.to_device(self.device);

            // The forward pass, on the whole batch at once.
            let (method, w) = (TokenPrediction::of(&*trainer.method).unwrap(), trainer.params.constants());
            let chunk = trainer.chunk(&batch, 0..batch.len());
            let (s_x, predictions) = match method {
                TokenPrediction::ByPredictor(method) => {
                    let s_x = method.encode(&w["encoder"], &chunk);
                    let (c, m) = method.tokens(&w["predictor"], &s_x, &chunk);
                    let predictions = method.predict(&w["predictor"], &c, &m);
                    (s_x, predictions)
                }
                TokenPrediction::InPlace(method) => {
                    let features = method.encode(&w["encoder"], &chunk);
                    let predictions = method.answer(&w["head"], &features, &chunk);
                    (features, predictions)
                }
            };
            let targets = method.targets(&w, &chunk);
            let label = |name: &str| format!("step{step}.out.{name}");
            worst.compare(&label("context"), s_x.value(), of_step("out.context"));
            worst.compare(&label("targets"), targets.value(), of_step("out.targets"));
            worst.compare(&label("predictions"), predictions.value(), of_step("out.predictions"));

            // Loss and gradients as the training loop computes them, in chunks.
            let found = trainer.gradients(&batch).unwrap();
            worst.compare(&label("loss"), &found.loss.reshape([1]), of_step("out.loss"));
            if step == 0 {
                let second = trainer.params.modules()[1].name;
                self.compare_gradients(&trainer.params, ["encoder", second], &found.gradients, worst);
            }

            assert_eq!((trainer.optimizer.betas, trainer.optimizer.eps), self.adamw());
            let outcome = trainer.step(&batch, &self.hyper(step)).unwrap();
            let penalty = self.tensors.get(&format!("step{step}.out.penalty"));
            let ours = outcome.numbers.get("penalty");
            assert_eq!(ours.is_some(), penalty.is_some());
            if let (Some(ours), Some(penalty)) = (ours, penalty) {
                worst.compare(&label("penalty"), &Tensor::new([1], vec![ours]), penalty);
            }
        }

        for module in trainer.params.modules() {
            self.compare_weights(module.name, &module.params, worst);
        }
    }

    /// β₁ and β₂, and ε.
    fn adamw(&self) -> ((f64, f64), f64) {
        let number = |value: &Value| value.as_f64().unwrap();
        let adamw = &self.config["adamw"];
        ((number(&adamw["betas"][0]), number(&adamw["betas"][1])), number(&adamw["eps"]))
    }

    fn hyper(&self, step: usize) -> StepParams {
        let number = |key: &str| self.config[key][step].as_f64().unwrap();
        StepParams { lr: number("lr"), weight_decay: number("weight_decay"), ema_momentum: number("ema_momentum") }
    }

    /// The weights of one module after the last step.
    fn compare_weights(&self, prefix: &str, module: &Params, worst: &mut Worst) {
        for param in module.iter() {
            let name = format!("after.{prefix}.{}", param.name);
            let (ours, theirs) = (param.value.to_f64_vec(), self.tensor(&name).to_f64_vec());
            let without_k = |x: Vec<f64>| {
                let third = x.len() / 3;
                Tensor::new([2 * third], [&x[..third], &x[2 * third..]].concat())
            };
            if param.value.dtype() == DType::F32 && name.ends_with("qkv.bias") {
                worst.compare(&name, &without_k(ours), &without_k(theirs));
            } else {
                worst.compare(&name, &param.value, self.tensor(&name));
            }
        }
    }

    /// A gradient for each weight the fixture has one for, and none else.
    fn compare_gradients(&self, params: &ModelParams, prefixes: [&str; 2], gradients: &[Tensor], worst: &mut Worst) {
        let modules = prefixes.iter().zip(params.trained());
        let trained = modules.flat_map(|(prefix, m)| m.iter().map(move |p| (prefix, p)));
        let mut compared = 0;
        for ((prefix, param), gradient) in trained.filter(|(_, p)| p.role == Role::Trained).zip(gradients) {
            let name = format!("step0.grad.{prefix}.{}", param.name);
            worst.compare(&name, gradient, self.tensor(&name));
            compared += 1;
        }
        let official = self.tensors.keys().filter(|k| k.starts_with("step0.grad.")).count();
        assert_eq!(compared, official, "the official code has gradients for other weights than ours");
    }

    /// Which branches drop path leaves out, both sides draw.
    fn run_fine_tuning(&self, dtype: DType, worst: &mut Worst) {
        let number = |key: &str| self.config[key].as_f64().unwrap();
        let tuning = FineTuning {
            classes: (0..self.size("classes")).map(|class| class.to_string()).collect(),
            labels: 1.0,
            label_smoothing: number("label_smoothing"),
            drop_path: number("drop_path"),
            layer_decay: number("layer_decay"),
        };
        let model = RunConfig::for_fine_tuning(&self.encoder([true, false]), tuning.clone(), 100).model;
        let (method, mut params) =
            fine_tuning::build(&model, &tuning, dtype, &mut stream(0, Purpose::Init, [0, 0])).unwrap();
        params.modules_mut().iter_mut().for_each(|module| self.load(&mut module.params, module.prefix, dtype));
        let mut trainer = Trainer { chunk_images: 2, ..Trainer::new(method, params).to_device(self.device) };
        for step in 0..self.size("steps") {
            let of_step = |name: &str| self.tensor(&format!("step{step}.{name}"));
            let view = BatchView { images: of_step("images").to_dtype(dtype), context: vec![], targets: vec![] };
            let batch = Batch {
                views: vec![view],
                labels: Some(self.indices[&format!("step{step}.labels")].clone()),
                noise: Noise::Drawn { seed: self.size("seed") as u64, step: step as u64 },
                part: None,
            };
            let batch = batch.to_device(self.device);
            let found = trainer.gradients(&batch).unwrap();
            worst.compare(&format!("step{step}.loss"), &found.loss.reshape([1]), of_step("out.loss"));
            if step == 0 {
                self.compare_gradients(&trainer.params, ["encoder", "head"], &found.gradients, worst);
            }
            assert_eq!((trainer.optimizer.betas, trainer.optimizer.eps), self.adamw());
            trainer.step(&batch, &self.hyper(step)).unwrap();
        }
        for module in trainer.params.modules() {
            self.compare_weights(module.name, &module.params, worst);
        }
    }

    fn run_mae(&self, dtype: DType, worst: &mut Worst) {
        let sigma = self.config["noise_std"].as_f64().map(Sigma::from_std);
        let method = MethodConfig::Mae { normalize_patches: self.flag("norm_pix_loss"), sigma };
        let (model, mut params) = self.model(method, "decoder", dtype);
        params.modules_mut().iter_mut().for_each(|module| self.load(&mut module.params, module.prefix, dtype));
        let mut trainer = Trainer { chunk_images: 2, ..Trainer::new(model, params).to_device(self.device) };
        let ratio = self.config["mask_ratio"].as_f64().unwrap();
        // The official fixture is one forward and backward pass; those of several steps go on to the weights.
        let steps = self.config["steps"].as_u64();
        for step in 0..steps.unwrap_or(1) as usize {
            let label = |name: &str| format!("step{step}.{name}");
            let noise = self.tensor(&label("mask_noise"));
            let [images, tokens] = noise.dims("mask_noise");
            let masks = masks_from_noise(&noise.to_f64_vec(), images, tokens, ratio).unwrap();
            // Where in kept and then removed a token stands: the official `ids_restore`, of which its mask follows.
            let mut places = vec![0; images * tokens];
            for image in 0..images {
                let shuffled = masks.kept.row(image).iter().chain(masks.removed.row(image)).zip(0..);
                shuffled.for_each(|(&token, place)| places[image * tokens + token as usize] = place);
            }
            let restore = Indices::new(images, tokens, places);
            let removed = |at: usize| f64::from(restore.as_slice()[at] as usize >= masks.kept.per_row());
            let mask = Tensor::from_fn([images, tokens], DType::F32, removed);
            worst.compare(&label("mask"), &mask, self.tensor(&label("mask")));

            let batch = Batch::masked(
                self.tensor(&label("images")).to_dtype(dtype),
                vec![masks.kept.clone()],
                vec![masks.removed.clone()],
                Noise::Given(sigma.map(|_| self.tensor(&label("noise.0")).to_dtype(dtype)).into_iter().collect()),
            );
            let batch = batch.to_device(self.device);
            let (method, params) = (trainer.method.as_masked_prediction().unwrap(), &trainer.params);
            let chunk = trainer.chunk(&batch, 0..images);
            let (theta, phi) = (params["encoder"].constants(), params["predictor"].constants());
            let (c, m) = method.tokens(&phi, &method.encode(&theta, &chunk), &chunk);
            // The official decoder answers for every patch, in raster order: undo the shuffle, leave out the class
            // token.
            let all = method.predictor().forward_all(&phi, &ops::concat_tokens(&[&c, &m]));
            let patches = ops::slice_tokens(&all, 1, tokens);
            let predictions: Var = ops::gather_tokens(&patches, &restore.to_device(self.device));
            let name = label("out.predictions");
            worst.compare(&name, predictions.value(), self.tensor(&name));

            let found = trainer.gradients(&batch).unwrap();
            worst.compare(&label("out.loss"), &found.loss.reshape([1]), self.tensor(&label("out.loss")));
            if step == 0 {
                self.compare_gradients(params, ["model", "model"], &found.gradients, worst);
            }
            if steps.is_some() {
                (trainer.optimizer.betas, trainer.optimizer.eps) = self.adamw(); // MAE's β₂ is 0.95
                trainer.step(&batch, &self.hyper(step)).unwrap();
            }
        }
        if steps.is_some() {
            self.compare_weights("model", &trainer.params["encoder"], worst);
            self.compare_weights("model", &trainer.params["predictor"], worst);
        }
    }
}
