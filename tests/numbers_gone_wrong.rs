//! A number that is not finite stops training at the step where it appears, with the first operation named and nothing
//! changed; a panic on any thread becomes an error of the run.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use stop_mim::data::{self, Dataset, Splits};
use stop_mim::lab::small;
use stop_mim::nn::{AdamW, Params, Role};
use stop_mim::train::{Batch, LearningRate, Monitoring, Noise, RunConfig, StepParams, Trainer, WeightDecay, pretrain};
use stop_mim::{DType, Error, Result, Tensor};

const HYPER: StepParams = StepParams { lr: 1e-2, weight_decay: 0.1, ema_momentum: 0.9 };

fn modules(trainer: &mut Trainer) -> Vec<&mut Params> {
    trainer.params.modules_mut().iter_mut().map(|module| &mut module.params).collect()
}

fn set(params: &mut Params, name: &str, value: f32) {
    let param = params.iter_mut().find(|p| p.name == name).unwrap_or_else(|| panic!("no {name}"));
    param.value.as_mut_slice::<f32>().fill(value);
}

fn stop() -> (Trainer, Batch) {
    let trainer = small::trainer(small::stop(), false, DType::F32);
    let batch = small::batch(&trainer);
    (trainer, batch)
}

/// The step fails, with all of `words` in its message, and changes nothing.
#[track_caller]
fn fails(trainer: &mut Trainer, batch: &Batch, words: &[&str]) {
    let (before, steps) = (small::bits(trainer), trainer.optimizer.steps());
    let error = trainer.step(batch, &HYPER).expect_err("a step was made");
    assert!(matches!(&error, Error::Training { step, .. } if *step == steps as usize + 1), "{error:?}");
    let message = error.to_string();
    words.iter().for_each(|word| assert!(message.contains(word), "no '{word}' in {message}"));
    assert!(small::bits(trainer) == before && trainer.optimizer.steps() == steps, "something was changed: {message}");
}

#[test]
fn any_trained_number_that_is_nan_or_infinite_is_named() {
    let (mut cases, mut swallowed) = (0, Vec::new());
    for method in small::every_method() {
        let whole = small::trainer(method, false, DType::F32);
        let (batch, in_place) = (small::batch(&whole), whole.method.as_in_place_prediction().is_some());
        for module in 0..modules(&mut whole.clone()).len() {
            let names: Vec<String> = {
                let mut whole = whole.clone();
                let trained = modules(&mut whole).swap_remove(module).iter_mut().filter(|p| p.role == Role::Trained);
                trained.map(|p| p.name.clone()).collect()
            };
            // data2vec's average sees whole images, and its blocks are read before the last norm.
            let unread = |name: &str| module == 2 && in_place && (name == "mask_token" || name.starts_with("norm."));
            for (i, name) in names.iter().enumerate().filter(|(_, name)| !unread(name)) {
                let mut trainer = whole.clone();
                let param = modules(&mut trainer).swap_remove(module).iter_mut().find(|p| p.name == *name).unwrap();
                let n = param.value.elements();
                param.value.as_mut_slice::<f32>()[(7 * i) % n] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][i % 3];
                let target = if module == 2 { "target encoder: " } else { "" };
                let named = format!("{target}the parameter {name} is not finite");
                let found = trainer.check_finite(&batch).expect_err(&named).to_string();
                assert!(found.contains(&named), "{found}");
                if trainer.clone().step(&batch, &HYPER).is_ok() {
                    swallowed.push(format!("{target}{name}"));
                    continue;
                }
                fails(&mut trainer, &batch, &[&named, "go back to an earlier checkpoint"]);
                cases += 1;
            }
        }
    }
    println!("{cases} parameters");
    assert!(cases > 300, "{cases}");
    assert!(swallowed.is_empty(), "steps were made with {swallowed:?}");
}

#[test]
fn a_loss_that_overflows_is_traced_to_the_operation() {
    // Before any step, no learning rate is to blame.
    for (steps, advice) in [(0, "no step was made, so it is a setting"), (1, "a lower learning rate")] {
        let (mut trainer, batch) = stop();
        (0..steps).for_each(|_| drop(trainer.step(&batch, &HYPER).unwrap()));
        set(&mut trainer.params["encoder"], "blocks.0.norm2.weight", 3e38);
        fails(&mut trainer, &batch, &["the loss is", "first, images 0 to 2: norm_linear (entry", "a new run", advice]);
    }
}

#[test]
fn a_gradient_that_overflows_is_traced_to_the_operation_while_the_loss_is_finite() {
    // Nothing gets through the first block's MLP, and what comes back is 10²⁰ of what should.
    let (mut trainer, batch) = stop();
    for (name, value) in [("fc1.weight", 0.0), ("fc1.bias", 0.0), ("fc2.weight", 1e20)] {
        set(&mut trainer.params["encoder"], &format!("blocks.0.mlp.{name}"), value);
    }
    set(&mut trainer.params["encoder"], "blocks.0.norm2.weight", 1e38);
    let found = trainer.gradients(&batch).unwrap();
    assert!(found.loss.is_finite());
    fails(
        &mut trainer,
        &batch,
        &["the gradient of blocks.0.mlp.fc1.weight is not finite; first", "all values are finite"],
    );
}

#[test]
fn a_gradient_whose_square_overflows_would_stop_its_weight_for_good() {
    // ∂L/∂A has a factor n.
    let (mut trainer, mut batch) = stop();
    set(&mut trainer.params["predictor"], "predictor_embed.weight", 0.0);
    let dim = trainer.config().encoder.dim;
    let noise = Tensor::full([14, 3, dim], 1e30, DType::F32);
    batch.noise = Noise::Given(vec![noise.clone(), noise]);
    let found = trainer.gradients(&batch).unwrap();
    assert!(found.loss.is_finite() && found.gradients.iter().all(Tensor::is_finite));
    fails(&mut trainer, &batch, &["the gradient of predictor_embed.weight is too large to be squared"]);
}

#[test]
fn bad_pixels_and_bad_noise_are_not_blamed_on_the_weights() {
    let (mut trainer, batch) = stop();
    for bad in [f32::NAN, f32::INFINITY] {
        let mut images = batch.clone();
        images.views[0].images.as_mut_slice::<f32>()[6 * 3 * 256..].fill(bad);
        fails(
            &mut trainer,
            &images,
            &["first, images 6 to 6", "given a constant that is not finite", "look at the images"],
        );
    }
    let mut noisy = batch.clone();
    let noise = Tensor::full([14, 3, trainer.config().encoder.dim], f64::NAN, DType::F32);
    noisy.noise = Noise::Given(vec![noise.clone(), noise]);
    fails(&mut trainer, &noisy, &["first, images 0 to 2", "and the noise"]);
}

#[test]
fn a_trained_parameter_that_nothing_reads_is_named() {
    let (mut trainer, batch) = stop();
    let mask_token = trainer.method.as_masked_prediction().unwrap().predictor().mask_token;
    trainer.params["predictor"].set_role(mask_token, Role::Trained);
    trainer.optimizer = AdamW::new(&trainer.params.trained().collect::<Vec<_>>());
    fails(&mut trainer, &batch, &["no gradient reaches the parameter mask_token", "Role::Unused"]);
}

/// The moments are the optimizer's own: what is made of them afterwards shows whether they were touched.
#[test]
fn after_a_step_that_failed_training_goes_on_as_if_it_had_not_been_tried() {
    let (mut tried, batch) = stop();
    let mut spared = tried.clone();
    let mut bad = batch.clone();
    bad.views[0].images.as_mut_slice::<f32>()[5] = f32::NAN;
    for _ in 0..3 {
        tried.step(&batch, &HYPER).unwrap();
        fails(&mut tried, &bad, &[]);
        spared.step(&batch, &HYPER).unwrap();
        tried.check_finite(&batch).unwrap();
        assert!(small::bits(&tried) == small::bits(&spared));
    }
}

/// Five steps on embedded images.
fn a_run() -> (RunConfig, Splits) {
    let config = small::run(&small::trainer(small::stop(), false, DType::F32));
    let splits = data::open(&config.data, 16).unwrap();
    (config, splits)
}

/// The steps that were reported, and how the run ended. A run that hangs is a failure.
fn ends(config: &RunConfig, splits: &Splits, watch: Monitoring) -> (Vec<f64>, Result<Trainer>) {
    let (config, splits) = (config.clone(), splits.clone());
    let (sender, ended) = channel();
    std::thread::spawn(move || {
        let mut losses = Vec::new();
        let trainer = pretrain(&config, &splits, watch, &mut |report, _| {
            losses.push(report.loss);
            Ok(ControlFlow::Continue(()))
        });
        sender.send((losses, trainer)).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(120)).expect("the run neither ended nor panicked")
}

#[test]
fn a_run_that_diverges_says_where_and_keeps_what_was_reported() {
    let (mut config, splits) = a_run();
    config.lr = LearningRate { start: 1e30, peak: 1e30, end: 1e30, warmup: 0 };
    config.weight_decay = WeightDecay { start: 0.0, end: 0.0 };
    for every_number in [false, true] {
        let (losses, end) = ends(&config, &splits, Monitoring { every_number, ..usize::MAX.into() });
        let error = end.expect_err("it cannot have worked");
        let Error::Training { step, .. } = error else { panic!("{error}") };
        assert_eq!(losses.len(), step - 1);
        assert!(losses.iter().all(|loss| loss.is_finite()));
        assert!(error.to_string().contains("first, images"), "{error}");
        assert_eq!(error.to_string().contains("on the way"), every_number, "{error}");
    }
}

#[test]
fn looking_at_every_number_changes_none() {
    let (config, splits) = a_run();
    let run = |every_number| {
        let (losses, end) = ends(&config, &splits, Monitoring { every_number, ..usize::MAX.into() });
        (losses, small::bits(&end.unwrap()))
    };
    assert!(run(false) == run(true));
}

/// Images of which one is a bug of the program, from some call on; or which are all of another size than they say.
struct Faulty {
    images: Arc<dyn Dataset>,
    panics_at: Option<usize>,
    size: usize,
}

impl Dataset for Faulty {
    fn len(&self) -> usize {
        self.images.len().min(100)
    }
    fn image_size(&self) -> usize {
        self.size
    }
    fn pixels(&self, index: usize, out: &mut [u8]) -> Result<()> {
        assert!(self.panics_at != Some(index), "image {index} is haunted");
        if self.size == self.images.image_size() {
            return self.images.pixels(index, out);
        }
        out.fill(100);
        Ok(())
    }
    fn describe(&self) -> String {
        self.images.describe()
    }
}

#[test]
fn a_panic_on_any_thread_is_an_error_of_the_run() {
    let (unmeasured, splits) = a_run();
    // Images that need not be measured first.
    let normalization = Some(splits.normalization().unwrap());
    let config = RunConfig { steps: 60, normalization, ..unmeasured.clone() };
    let faulty = |images: &Arc<dyn Dataset>, panics_at, size| -> Arc<dyn Dataset> {
        Arc::new(Faulty { images: images.clone(), panics_at, size })
    };
    let check_run = |config: &RunConfig, splits: Splits, diagnose_every: usize, words: &[&str]| {
        let (losses, end) = ends(config, &splits, Monitoring::from(diagnose_every));
        let Err(error) = end else { panic!("a panic was swallowed: {words:?}") };
        let Error::Training { step, .. } = error else { panic!("{error}") };
        let message = error.to_string();
        words.iter().for_each(|word| assert!(message.contains(word), "no '{word}' in {message}"));
        (losses.len(), step)
    };
    let check = |splits, diagnose_every, words: &[&str]| check_run(&config, splits, diagnose_every, words);
    // Where the images are measured, before the first step.
    let train = faulty(&splits.train, Some(3), 16);
    let found =
        check_run(&unmeasured, Splits::new(train, splits.test.clone()), 2, &["a thread panicked: image 3 is haunted"]);
    assert_eq!(found, (0, 1));
    // In the loader's pool, at whatever step the image is due.
    let train = faulty(&splits.train, Some(3), 16);
    let (reported, step) =
        check(Splits::new(train, splits.test.clone()), usize::MAX, &["loader panicked: image 3 is haunted"]);
    assert_eq!(reported, step - 1);
    // In the diagnostics' read of held-out images, at step 2, which is reported without them.
    let test = faulty(&splits.test, Some(3), 16);
    let found = check(Splits::new(splits.train.clone(), test), 2, &["a thread panicked: image 3 is haunted"]);
    assert_eq!(found, (2, 2));
    // Images of another size than the model's are refused before any thread sees them.
    let train = faulty(&splits.train, None, 12);
    let (losses, end) = ends(&config, &Splits::new(train, splits.test.clone()), Monitoring::from(usize::MAX));
    let error = end.expect_err("images of 12 pixels for a model of 16").to_string();
    assert!(losses.is_empty() && error.contains("12x12, for an encoder of 3, 16x16"), "{error}");
    // And the pool works on.
    assert_eq!(ends(&config, &splits, Monitoring::from(usize::MAX)).1.unwrap().optimizer.steps(), 60);
}
