//! A method that is nothing like the paper's, made of the public interface alone: two views of each image, one of them masked in
//! the encoder, labels, a moving average, a fixed module, a running center, parameter groups, numbers of its own.

#[cfg(feature = "cuda")]
mod cuda_on_cpu;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use stop_mim::autograd::check::{Options, check_function};
use stop_mim::autograd::ops;
use stop_mim::data::{self, Augment, Dataset, Subset};
use stop_mim::lab::small;
use stop_mim::methods::{
    Chunk, Method, MethodConfig, ModelParams, ModelWeights, Number, Numbers, Recording, Update, ViewConfig,
};
use stop_mim::nn::{Linear, LinearInit, Param, ParamGroup, Role, fresh};
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::checkpoint::{CheckpointPolicy, load_run_of, save_run};
use stop_mim::train::{Batch, BatchView, Noise, RunConfig, StepParams, Trainer, resume};
use stop_mim::vit::{Encoder, EncoderConfig, Visible};
use stop_mim::{DType, Device, Indices, Tensor};

/// Features of the masked second view follow those of the whole first view, less their running center; and a fixed random
/// map of them tells the classes.
#[derive(Debug)]
struct Follow {
    encoder: Encoder,
    head: Linear,
    fixed: Linear,
}

impl Follow {
    fn model(dtype: DType) -> (Arc<dyn Method>, ModelParams) {
        let sizes = EncoderConfig {
            mask_token: true,
            class_token: false,
            ..small::trainer(small::stop(), false, dtype).config().encoder.clone()
        };
        let (mut rng, dim) = (stream(3, Purpose::Init, [0, 0]), sizes.dim);
        let mut linear = |name: &str, n| fresh(LinearInit::Xavier, dtype, &mut rng, |init| init.linear(name, dim, n));
        let (head, of_head) = linear("head", dim);
        let (fixed, of_fixed) = linear("fixed", 10);
        let (encoder, theta) = fresh(LinearInit::Xavier, dtype, &mut rng, |init| Encoder::new(&sizes, init));
        let average = theta.clone();
        let params = ModelParams::new()
            .with("encoder", Update::Trained, theta)
            .with("head", Update::Trained, of_head)
            .with("fixed", Update::Fixed, of_fixed)
            .with("teacher", Update::AverageOf("encoder"), average)
            .with_state("center", Tensor::zeros([dim], dtype));
        (Arc::new(Follow { encoder, head, fixed }), params)
    }
}

impl Method for Follow {
    fn name(&self) -> &str {
        "follow"
    }

    fn encoder(&self) -> &Encoder {
        &self.encoder
    }

    fn views(&self) -> Vec<ViewConfig> {
        let whole = ViewConfig { augment: Some(Augment { scale: (0.9, 1.0), flip: 0.0 }), masked: false };
        vec![whole, ViewConfig::MASKED]
    }

    fn wants_labels(&self) -> bool {
        true
    }

    fn record(&self, w: &ModelWeights, chunk: &Chunk) -> Recording {
        let [whole, masked] = &chunk.views[..] else { panic!("two views") };
        assert!(whole.context.is_none() && whole.targets.is_none());
        let teacher = self.encoder.forward(&w["teacher"], &whole.images.clone().into(), None).mean_axis(1);
        let target = &teacher - w.state("center");
        let hidden = masked.targets.as_ref().expect("masks").slice_rows(0..masked.images.shape()[0]);
        let seen = self.encoder.forward(&w["encoder"], &masked.images.clone().into(), Visible::Except(&hidden));
        let student = self.head.forward(&w["head"], &seen.mean_axis(1));
        let logits = self.fixed.forward(&w["fixed"], &student);
        let told = ops::cross_entropy(&logits, chunk.labels.as_ref().expect("labels"));
        let loss = ops::mse(&student, &target) + &told * 0.1;
        Recording { loss, means: vec![teacher.detach().mean_axis(0).value().clone(), told.value().clone()] }
    }

    fn group(&self, module: &str, param: &Param) -> ParamGroup {
        ParamGroup { lr_factor: if module == "head" { 0.0 } else { 1.0 }, ..ParamGroup::of(param) }
    }

    fn numbers(&self, _: &ModelParams, means: &[Tensor]) -> Numbers<Tensor> {
        Numbers(vec![Number::new("told", "cross entropy", "loss", means[1].clone())])
    }

    fn next_state(&self, state: &mut [(String, Tensor)], means: &[Tensor]) {
        let center = &mut state[0].1;
        *center = center.scaled(0.9);
        center.add_assign(&means[0].scaled(0.1));
    }
}

fn trainer() -> Trainer {
    let (method, params) = Follow::model(DType::F32);
    Trainer { chunk_images: 3, ..Trainer::new(method, params) }
}

/// I-JEPA's data, masks and schedules; what the model is, the trainer says.
fn recipe() -> RunConfig {
    small::run(&small::trainer(MethodConfig::ijepa(1), false, DType::F32))
}

fn run(threads: usize, chunk_images: usize, to: usize, trainer: Trainer) -> (Trainer, Vec<f64>) {
    let splits = data::open("shapes", 16).unwrap();
    let mut told = Vec::new();
    let trained = small::with_threads(threads, || {
        resume(Trainer { chunk_images, ..trainer }, &recipe(), &splits, usize::MAX, &mut |report, _| {
            told.push(report.number("told").unwrap());
            let next = if report.step == to { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
            Ok(next)
        })
    });
    (trained.map_err(|failed| failed.error).unwrap(), told)
}

fn state(trainer: &Trainer) -> Vec<f64> {
    trainer.params.state("center").unwrap().to_f64_vec()
}

#[test]
fn it_trains_to_the_same_bits_on_any_number_of_threads() {
    let start = trainer();
    let (one, told) = run(1, 3, 5, start.clone());
    let (three, also_told) = run(3, 3, 5, start.clone());
    assert!(small::bits(&one) == small::bits(&three) && state(&one) == state(&three) && told == also_told);
    assert_eq!(told.len(), 5);
    assert!(told.iter().all(|x| x.is_finite()) && state(&one).iter().any(|x| *x != 0.0));
    // By module: trained, in a group without a learning rate, fixed, averaged.
    let moved = |name: &str| {
        let (before, after) = (&start.params[name], &one.params[name]);
        before.iter().zip(after.iter()).any(|(a, b)| a.value.max_abs_diff(&b.value) > 0.0)
    };
    assert_eq!(["encoder", "head", "fixed", "teacher"].map(moved), [true, false, false, true]);
    let mask_token = |t: &Trainer| t.params["encoder"].get("mask_token").unwrap().value.clone();
    assert!(mask_token(&one).max_abs_diff(&mask_token(&start)) > 0.0);
}

/// Two views with masks, of which the first is the whole image. It keeps what it is shown.
#[derive(Debug)]
struct Shown {
    inner: Arc<dyn Method>,
    chunks: Mutex<Vec<Chunk>>,
}

impl Method for Shown {
    fn name(&self) -> &str {
        "shown"
    }

    fn encoder(&self) -> &Encoder {
        self.inner.encoder()
    }

    fn views(&self) -> Vec<ViewConfig> {
        let whole = ViewConfig { augment: Some(Augment { scale: (1.0, 1.0), flip: 0.0 }), masked: true };
        vec![whole, ViewConfig::MASKED, ViewConfig::MASKED]
    }

    fn record(&self, w: &ModelWeights, chunk: &Chunk) -> Recording {
        self.chunks.lock().unwrap().push(chunk.clone());
        self.inner.record(w, chunk)
    }
}

/// Each view is varied in its own way, and has masks of its own.
#[test]
fn views_are_what_the_method_wants() {
    let Trainer { method: inner, params, .. } = small::trainer(MethodConfig::ijepa(1), false, DType::F32);
    let shown = Arc::new(Shown { inner, chunks: Mutex::default() });
    let trainer = Trainer { chunk_images: 10, ..Trainer::new(shown.clone(), params) };
    let splits = data::open("shapes", 16).unwrap();
    let ten: Arc<dyn Dataset> = Arc::new(Subset::even(splits.train.clone(), 10));
    let normalization = splits.normalization().unwrap();
    let pixels = data::evaluation_images(&*ten, 0..10, &normalization).unwrap();
    let splits = splits.with_train(ten);
    let config = RunConfig { normalization: Some(normalization), ..recipe() };
    resume(trainer, &config, &splits, 0, &mut |_, _| Ok(ControlFlow::Break(()))).map_err(|e| e.error).unwrap();
    let views = shown.chunks.lock().unwrap()[0].views.clone();
    let whole = |image: &[f32]| pixels.chunks_exact(768).any(|pixels| pixels == image);
    let wholes = |view: usize| views[view].images.as_slice::<f32>().chunks_exact(768).filter(|x| whole(x)).count();
    assert_eq!(wholes(0), 10);
    assert!(wholes(1) < 10);
    assert!(views[1].images.max_abs_diff(&views[2].images) > 0.0);
    let targets = |view: usize| views[view].targets.clone();
    assert!(targets(0) != targets(1) && targets(1) != targets(2));
}

#[test]
fn means_are_over_the_batch_however_it_is_cut() {
    let one_step = |chunk_images| run(2, chunk_images, 1, trainer()).0;
    let whole = state(&one_step(10));
    for chunk_images in [1, 3, 4] {
        let cut = state(&one_step(chunk_images));
        assert!(whole.iter().zip(&cut).all(|(a, b)| (a - b).abs() < 1e-6), "chunks of {chunk_images}");
    }
}

/// Masks, labels, means and state go where the parameters are.
#[test]
fn it_trains_on_another_device() {
    let (cpu, _) = run(1, 10, 1, trainer());
    let Trainer { method, params, .. } = trainer();
    let (reference, _) = run(1, 10, 1, Trainer::new(method, params.to_device(Device::Reference)));
    let back = Trainer { params: reference.params.to_device(Device::Cpu), ..reference };
    assert!(state(&cpu).iter().zip(state(&back)).all(|(a, b)| (a - b).abs() < 1e-5));
    assert!(back.params["encoder"].iter().zip(cpu.params["encoder"].iter()).all(|(a, b)| {
        a.value.max_abs_diff(&b.value) < 0.02 // twice the learning rate: AdamW's first step follows signs
    }));
}

#[test]
fn a_checkpoint_carries_its_state() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.safetensors");
    let (half, _) = run(2, 3, 2, trainer());
    let policy =
        CheckpointPolicy { diagnose_every: 1, checkpoint_every: 1, keep: 1, keep_every: 0, images: String::new() };
    save_run(&file, &recipe(), &policy, &half).unwrap();
    let saved = load_run_of(&file, Follow::model(DType::F32)).unwrap().trainer;
    assert_eq!(state(&saved), state(&half));
    let (whole, _) = run(2, 3, 5, trainer());
    let (resumed, _) = run(2, 3, 5, saved);
    assert!(small::bits(&resumed) == small::bits(&whole) && state(&resumed) == state(&whole));
}

/// Four images, seen in two ways, with classes.
fn batch(dtype: DType) -> Batch {
    let mut rng = stream(1, Purpose::Eval, [0, 0]);
    let mut images = || Tensor::normal([4, 3, 16, 16], 1.0, dtype, &mut rng);
    let targets = vec![Indices::from_rows(&[vec![0, 5], vec![1, 2], vec![3, 3], vec![9, 0]])];
    let whole = BatchView { images: images(), context: vec![], targets: vec![] };
    let masked = BatchView { images: images(), context: vec![Indices::all(4, 16)], targets };
    Batch {
        views: vec![whole, masked],
        labels: Some(Indices::new(4, 1, vec![0, 3, 7, 1])),
        noise: Noise::Drawn { seed: 0, step: 0 },
        part: None,
    }
}

/// A step that is not made leaves what the method remembers too, on any device.
#[test]
fn a_step_that_is_not_finite_leaves_its_state() {
    let good = batch(DType::F32);
    let mut bad = good.clone();
    bad.views[0].images.as_mut_slice::<f32>()[7] = f32::NAN; // seen by the teacher alone, whose mean is the next state
    for device in devices() {
        let params = StepParams { lr: 1e-3, weight_decay: 0.0, ema_momentum: 0.9 };
        let mut trainer = trainer().to_device(device);
        let mut states = vec![state(&trainer)];
        for batch in [&good, &bad, &good] {
            let made = trainer.step(&batch.to_device(device), &params);
            assert_eq!(made.is_ok(), !std::ptr::eq(batch, &bad), "{device}: {made:?}");
            states.push(state(&trainer));
        }
        assert!(states.iter().flatten().all(|x| x.is_finite()) && trainer.optimizer.steps() == 2, "{device}");
        assert!(states[0] != states[1] && states[1] == states[2] && states[2] != states[3], "{device}: {states:?}");
    }
}

/// Those that train.
fn devices() -> Vec<Device> {
    let devices = [Device::Cpu, Device::Reference].into_iter();
    #[cfg(feature = "cuda")]
    return devices.chain(cuda_on_cpu::device()).collect();
    #[cfg(not(feature = "cuda"))]
    devices.collect()
}

#[test]
fn its_gradients_are_those_of_its_loss() {
    let (method, params) = Follow::model(DType::F64);
    let batch = batch(DType::F64);
    let trainer = Trainer { chunk_images: 3, ..Trainer::new(method, params) };
    let at = |x: &[Tensor]| {
        let mut trainer = trainer.clone();
        let params = trainer.params.trained_and_average().into_iter().flat_map(|(module, _)| module.iter_mut());
        params.filter(|p| p.role == Role::Trained).zip(x).for_each(|(p, x)| p.value = x.clone());
        let found = trainer.gradients(&batch).unwrap();
        (found.loss, found.gradients)
    };
    let point: Vec<Tensor> = trainer.params.trained_params().map(|p| p.value.clone()).collect();
    let along_directions = Options { max_elements: 0, ..Options::default() };
    check_function(&along_directions, "follow", at, &point).assert_pass();
}
