use std::collections::BTreeSet;

use super::*;
use crate::autograd::check::{Options, assert_op, check_function};
use crate::data;
use crate::data::testing::Made;
use crate::rng::stream;
use crate::train::small::{self, bits, with_threads};
use crate::train::{Batch, BatchView, Noise};

const CLASSES: usize = 5;

fn names(classes: usize) -> Vec<String> {
    (0..classes).map(|class| class.to_string()).collect()
}

/// The encoder of the other tests' model: 16 × 16 pixels in patches of 4, two blocks.
fn sizes() -> EncoderConfig {
    small::trainer(small::stop(), false, DType::F32).config().encoder.clone()
}

/// Four hundred images of `shapes` to train on and a hundred to test on, a tenth of the labels.
fn shapes() -> (Splits, FineTuning) {
    let splits = data::open("shapes", 16).unwrap();
    let few = |images: &Arc<dyn Dataset>, n| -> Arc<dyn Dataset> { Arc::new(Subset::even(Arc::clone(images), n)) };
    let splits = Splits::new(few(&splits.train, 400), few(&splits.test, 100));
    let tuning = FineTuning { labels: 0.1, drop_path: 0.5, ..FineTuning::new(splits.train.class_names()) };
    (splits, tuning)
}

/// Eight steps of ten images.
fn run(tuning: FineTuning) -> RunConfig {
    RunConfig { batch: 10, seed: 1, ..RunConfig::for_fine_tuning(&sizes(), tuning, 400) }.with_steps(8)
}

fn onward(_: &StepReport, _: &Trainer) -> Result<ControlFlow<()>> {
    Ok(ControlFlow::Continue(()))
}

fn normal(shape: &[usize], seed: u64) -> Tensor {
    Tensor::normal(shape, 1.0, DType::F64, &mut stream(seed, Purpose::Eval, [0, 0]))
}

/// A model in general position, in f64, with three blocks and a class token.
fn general(tuning: FineTuning) -> Trainer {
    let encoder = EncoderConfig { depth: 3, class_token: true, ..sizes() };
    let model = RunConfig::for_fine_tuning(&encoder, tuning.clone(), 100).model;
    let (method, mut params) = build(&model, &tuning, DType::F64, &mut stream(1, Purpose::Init, [0, 0])).unwrap();
    (1..).zip(params.modules_mut()).for_each(|(seed, module)| small::perturb(&mut module.params, 0.2, seed));
    Trainer { chunk_images: 3, ..Trainer::new(method, params) }
}

fn batch(images: usize, step: u64) -> Batch {
    let view = BatchView { images: normal(&[images, 3, 16, 16], 3), context: vec![], targets: vec![] };
    let labels = Indices::new(images, 1, (0..images as u32).map(|i| i * 3 % CLASSES as u32).collect());
    Batch { views: vec![view], labels: Some(labels), noise: Noise::Drawn { seed: 5, step }, part: None }
}

/// −Σ q ln p with q = (1 − ε) onehot + ε / classes, one number at a time.
#[test]
fn label_smoothing_is_what_its_definition_says() {
    let (rows, smoothing) = (4, 0.3);
    let (z, labels) = (normal(&[rows, CLASSES], 2), [4, 0, 2, 2]);
    let classes = Indices::new(rows, 1, labels.to_vec());
    let mut expected = 0.0;
    for (z, label) in z.to_f64_vec().chunks_exact(CLASSES).zip(labels) {
        let sum: f64 = z.iter().map(|z| z.exp()).sum();
        for (class, z) in z.iter().enumerate() {
            let onehot = if class == label as usize { 1.0 } else { 0.0 };
            let q = (1.0 - smoothing) * onehot + smoothing / CLASSES as f64;
            expected -= q * (z.exp() / sum).ln() / rows as f64;
        }
    }
    let found = smoothed_cross_entropy(&z.clone().into(), &classes, smoothing).item();
    assert!((found - expected).abs() < 1e-14, "{found} for {expected}");
    assert_op("smoothed_cross_entropy", |x| smoothed_cross_entropy(&x[0], &classes, smoothing), &[z]);
}

/// A branch that is multiplied by 0 is as if its last layer were 0, by 1 as if nothing were; others as they are.
#[test]
fn a_block_without_its_branches() {
    let trainer = general(FineTuning { drop_path: 0.0, ..FineTuning::new(&names(CLASSES)) });
    let (encoder, theta) = (trainer.method.encoder(), &trainer.params["encoder"]);
    let images = Var::from(normal(&[3, 3, 16, 16], 4));
    let scale = |of: [f64; 3]| Var::from(Tensor::new([3, 1, 1], of.to_vec()));
    let ones = || [scale([1.0; 3]), scale([1.0; 3])];
    let plain = encoder.forward(&theta.constants(), &images, None);
    let all = encoder.forward_scaled(&theta.constants(), &images, &[ones(), ones(), ones()]);
    assert!(all.value().max_abs_diff(plain.value()) < 1e-13);

    // The second image without attention in block 1, the third with twice its MLP in block 2.
    let scales = [ones(), [scale([1.0, 0.0, 1.0]), scale([1.0; 3])], [scale([1.0; 3]), scale([1.0, 1.0, 2.0])]];
    let found = encoder.forward_scaled(&theta.constants(), &images, &scales);
    let multiplied = |layer: &str, by: f64| {
        let mut theta = theta.clone();
        let of_layer = theta.iter_mut().filter(|p| p.name.starts_with(layer));
        of_layer.for_each(|p| p.value = p.value.scaled(by));
        encoder.forward(&theta.constants(), &images, None).value().clone()
    };
    let without = [plain.value().clone(), multiplied("blocks.1.attn.proj.", 0.0), multiplied("blocks.2.mlp.fc2.", 2.0)];
    for (image, expected) in without.iter().enumerate() {
        let row = image..image + 1;
        assert!(found.value().rows(row.clone()).max_abs_diff(&expected.rows(row)) < 1e-13, "image {image}");
        let other = (image + 1) % 3;
        assert!(found.value().rows(other..other + 1).max_abs_diff(&expected.rows(other..other + 1)) > 1e-3);
    }
}

/// From none in the first block to the rate in the last; a mean of 1, so that evaluation needs no other scale; the same for an
/// image of the batch, whatever chunk it is in; others in another step.
#[test]
fn branches_are_dropped_at_their_rates_and_by_image() {
    assert_eq!(drop_path_rates(0.6, 4), [0.0, 0.6 / 3.0, 1.2 / 3.0, 0.6]);
    assert_eq!(drop_path_rates(0.6, 1), [0.0]);
    let tuning = FineTuning { drop_path: 0.6, ..FineTuning::new(&names(CLASSES)) };
    let encoder = Encoder::new(
        &EncoderConfig { depth: 3, ..sizes() },
        &mut crate::nn::Init {
            params: &mut Params::new(),
            rng: &mut stream(1, Purpose::Init, [0, 0]),
            dtype: DType::F32,
            linear: Default::default(),
        },
    );
    let (head, _) =
        fresh(Default::default(), DType::F32, &mut stream(1, Purpose::Init, [0, 0]), |init| init.linear("x", 1, 1));
    let method = Classify { encoder, head, tuning };
    let drawn = |step: u64, first: u64, images: usize| {
        let like = Tensor::zeros([images, 3, 16, 16], DType::F64);
        let scales = method.scales(&Draws { seed: 3, step, first }, &like);
        scales.iter().flatten().map(|scale| scale.value().to_f64_vec()).collect::<Vec<_>>()
    };
    let all = drawn(7, 0, 4000);
    for (branch, scales) in all.iter().enumerate() {
        let rate = [0.0, 0.3, 0.6][branch / 2];
        let (dropped, kept): (Vec<f64>, Vec<f64>) = scales.iter().partition(|scale| **scale == 0.0);
        assert!(kept.iter().all(|scale| (scale - 1.0 / (1.0 - rate)).abs() < 1e-15));
        let share = dropped.len() as f64 / 4000.0;
        assert!((share - rate).abs() < 0.04, "branch {branch}: {share} for {rate}"); // 5 standard errors
    }
    assert_ne!(all[2], all[3], "the branches of a block are dropped each on its own");
    for (first, images) in [(0, 7), (7, 1), (8, 100)] {
        let range = first..first + images;
        let expected: Vec<_> = all.iter().map(|scales| scales[range.clone()].to_vec()).collect();
        assert_eq!(drawn(7, first as u64, images), expected);
    }
    assert_ne!(drawn(8, 0, 100), drawn(7, 0, 100));
}

/// By hand, for three blocks and a decay of a half.
#[test]
fn lower_layers_learn_more_slowly() {
    let trainer = general(FineTuning { layer_decay: 0.5, ..FineTuning::new(&names(CLASSES)) });
    let table = [
        ("cls_token", 0.0625, 0.0),
        ("patch_embed.proj.weight", 0.0625, 1.0),
        ("patch_embed.proj.bias", 0.0625, 0.0),
        ("blocks.0.norm1.weight", 0.125, 0.0),
        ("blocks.0.attn.qkv.weight", 0.125, 1.0),
        ("blocks.1.mlp.fc2.bias", 0.25, 0.0),
        ("blocks.2.attn.proj.weight", 0.5, 1.0),
        ("norm.weight", 1.0, 0.0),
        ("weight", 1.0, 1.0),
        ("bias", 1.0, 0.0),
    ];
    let group = |name: &str| {
        let at = trainer.params.trained_params().position(|p| p.name == name);
        trainer.optimizer.groups[at.unwrap_or_else(|| panic!("no {name}"))]
    };
    for (name, lr_factor, decay_factor) in table {
        assert_eq!(group(name), ParamGroup { lr_factor, decay_factor }, "{name}");
    }
    assert!(trainer.params["encoder"].get("pos_embed").is_some_and(|p| p.role == Role::Fixed));
    assert_eq!(
        [0, 11].map(|block| layer_factor(0.5, 12, "encoder", &format!("blocks.{block}.x"))),
        [0.5f64.powi(12), 0.5]
    );
}

/// What is trained is what is evaluated: the head on the mean of the patches, without the class token.
#[test]
fn the_loss_is_of_the_patches_alone() {
    let still = FineTuning { drop_path: 0.0, label_smoothing: 0.0, ..FineTuning::new(&names(CLASSES)) };
    let (Trainer { method, params, .. }, batch) = (&general(still), batch(4, 0));
    let images = Var::from(batch.views[0].images.clone());
    let tokens = method.encoder().forward(&params["encoder"].constants(), &images, None);
    let scores = method.class_scores(params, tokens.slice(1, 1..17).mean_axis(1).value()).unwrap();
    let expected = ops::cross_entropy(&scores.into(), batch.labels.as_ref().unwrap()).item();
    let found = Trainer::new(method.clone(), params.clone()).gradients(&batch).unwrap().loss.item();
    assert!((found - expected).abs() < 1e-13, "{found} for {expected}");
}

/// With drop path, in chunks: in f64 against differences.
#[test]
fn gradients_are_those_of_the_loss() {
    let trainer = general(FineTuning { drop_path: 0.6, ..FineTuning::new(&names(CLASSES)) });
    let batch = batch(5, 2);
    let at = |x: &[Tensor]| {
        let mut trainer = trainer.clone();
        let params = trainer.params.trained_and_average().into_iter().flat_map(|(module, _)| module.iter_mut());
        params.filter(|p| p.role == Role::Trained).zip(x).for_each(|(p, x)| p.value = x.clone());
        let found = trainer.gradients(&batch).unwrap();
        (found.loss, found.gradients)
    };
    let point: Vec<Tensor> = trainer.params.trained_params().map(|p| p.value.clone()).collect();
    let along_directions = Options { max_elements: 0, ..Options::default() };
    check_function(&along_directions, "fine-tuning", at, &point).assert_pass();
    // However the batch is cut, and not without drop path.
    let loss = |trainer: &Trainer, chunk_images: usize| {
        Trainer { chunk_images, ..trainer.clone() }.gradients(&batch).unwrap().loss.item()
    };
    assert!((1..=5).all(|chunk| (loss(&trainer, chunk) - loss(&trainer, 3)).abs() < 1e-13));
    let still = general(FineTuning { drop_path: 0.0, ..FineTuning::new(&names(CLASSES)) });
    assert!((loss(&still, 3) - loss(&trainer, 3)).abs() > 1e-3);
}

/// The features of the probes, and the head on them: what is evaluated is what was trained.
#[test]
fn scores_are_the_head_on_pooled_features() {
    let (splits, tuning) = shapes();
    let tuned = fine_tune(None, &run(tuning), &splits, &mut onward).unwrap();
    let normalization = splits.normalization().unwrap();
    let (method, params) = (&*tuned.trainer.method, &tuned.trainer.params);
    let accuracy = test_accuracy((method, params), (&*splits.test, &normalization), &|_| Ok(())).unwrap();
    assert_eq!(accuracy, tuned.accuracy);
    let images = data::evaluation_images(&*splits.test, 0..100, &normalization).unwrap();
    let images = Var::from(Tensor::new([100, 3, 16, 16], images));
    let tokens = method.encoder().forward(&params["encoder"].constants(), &images, None).value().to_f64_vec();
    let (weight, bias) = (&params["head"].get("weight").unwrap().value, &params["head"].get("bias").unwrap().value);
    let (weight, bias) = (weight.to_f64_vec(), bias.to_f64_vec());
    let right = (0..100).filter(|image| {
        let mean = |d: usize| (0..16).map(|t| tokens[(image * 16 + t) * 12 + d]).sum::<f64>() / 16.0;
        let score = |class: usize| bias[class] + (0..12).map(|d| weight[class * 12 + d] * mean(d)).sum::<f64>();
        let best = (0..bias.len()).max_by(|a, b| score(*a).total_cmp(&score(*b)));
        best == splits.test.label(*image)
    });
    assert_eq!(right.count() as f64 / 100.0, accuracy);
}

#[test]
fn it_learns_to_the_same_bits_on_any_number_of_threads_and_from_any_step() {
    let (splits, tuning) = shapes();
    let config = run(tuning);
    let pretrained = small::trainer(small::stop(), false, DType::F32);
    let start = Some((pretrained.method.encoder(), pretrained.params.evaluated()));
    let begun = trainer(start, &config).unwrap();
    let evaluated = pretrained.params.evaluated();
    assert!(begun.params["encoder"].iter().zip(evaluated.iter()).all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0));
    let chosen = config.fine_tuning.as_ref().unwrap().choose(&splits, config.seed).unwrap();
    let on = |threads: usize, to: usize, trainer: Trainer| {
        let mut seen = Vec::new();
        let trained = with_threads(threads, || {
            resume(trainer, &config, &chosen, 3, &mut |report, _| {
                seen.extend(report.number("held_out_accuracy").map(|accuracy| (report.step, accuracy)));
                Ok(if report.step == to { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })
        });
        (trained.unwrap(), seen)
    };
    let (one, seen) = on(1, 8, begun.clone());
    assert!(bits(&on(3, 8, begun.clone()).0) == bits(&one));
    assert!(bits(&on(3, 8, on(2, 5, begun.clone()).0).0) == bits(&one));
    assert_eq!(seen.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [3, 6, 8]);
    assert!(seen.iter().all(|(_, accuracy)| (0.0..=1.0).contains(accuracy)));
    let moved = |module: &str| {
        let pairs = begun.params[module].iter().zip(one.params[module].iter());
        pairs.filter(|(a, b)| a.value.max_abs_diff(&b.value) > 0.0).map(|(a, _)| a.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!((moved("encoder").len(), moved("head").len()), (begun.params["encoder"].iter().count() - 1, 2));
    assert!(!moved("encoder").contains(&"pos_embed".to_owned()));
    // The baseline has the same head, and other weights below it.
    let scratch = trainer(None, &config).unwrap();
    assert_eq!(
        scratch.params["head"]
            .get("weight")
            .unwrap()
            .value
            .max_abs_diff(&begun.params["head"].get("weight").unwrap().value),
        0.0
    );
    assert!(bits(&scratch) != bits(&begun));
}

/// Enough of a task for the tiny model, with every label: bright or dark.
#[test]
fn it_learns_what_can_be_learned() {
    let bright = |index: usize, _, out: &mut [u8]| {
        out.iter_mut().enumerate().for_each(|(i, v)| *v = (120 * (index % 2) + (i * 7 + index * 13) % 100) as u8);
        Ok(())
    };
    let [train, test] = [200, 100].map(|n| Arc::new(Made::labeled((0..n).map(|i| Some(i % 2)).collect(), 16, bright)));
    let splits = Splits::new(train, test).with_normalization(Normalization::IMAGENET);
    let config = run(FineTuning { drop_path: 0.1, ..FineTuning::new(&names(2)) }).with_steps(30);
    let tuned = fine_tune(None, &config, &splits, &mut onward).unwrap();
    assert!(tuned.accuracy > 0.95, "{}", tuned.accuracy);
}

fn labeled(labels: Vec<Option<usize>>) -> Arc<dyn Dataset> {
    Arc::new(Made::labeled(labels, 16, |_, _, _: &mut [u8]| Ok(())))
}

/// The labels of so many images, by turns of each class.
fn turns(images: usize, classes: usize) -> Vec<Option<usize>> {
    (0..images).map(|i| Some(i % classes)).collect()
}

#[test]
fn labels_are_shared_out_evenly_by_seed_and_fewer_are_some_of_more() {
    let splits = Splits::new(labeled(turns(1000, 7)), labeled(turns(70, 7)));
    // An image is known by its place: of Made's 1000, label and place agree.
    let chosen = |labels: f64, seed: u64| {
        let tuning = FineTuning { labels, ..FineTuning::new(&names(7)) };
        let chosen = tuning.choose(&splits, seed).unwrap();
        let labels: Vec<usize> = (0..chosen.train.len()).filter_map(|i| chosen.train.label(i)).collect();
        let mut counts = [0; 7];
        labels.iter().for_each(|label| counts[*label] += 1);
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        assert_eq!((tuning.images(1000), chosen.test.len()), (labels.len(), 70));
        labels
    };
    for (labels, images) in [(0.01, 10), (0.1, 100), (0.0001, 7), (0.005, 7), (1.0, 1000)] {
        assert_eq!(chosen(labels, 3).len(), images, "{labels}");
    }
    assert_eq!(chosen(0.01, 3), chosen(0.01, 3));
    // On any machine: these were drawn on one.
    assert_eq!((chosen(0.01, 0), chosen(0.01, 1)), (GOLDEN[0].to_vec(), GOLDEN[1].to_vec()));

    let places = |len: usize, seed: u64| {
        let image = |index: usize, _, out: &mut [u8]| {
            out.fill((index % 256) as u8);
            out[0] = (index / 256) as u8;
            Ok(())
        };
        let whole = Arc::new(Made::labeled(turns(1000, 7), 16, image));
        let subset = Subset::balanced(whole, len, seed);
        let place = |i| {
            let pixels = data::testing::pixels(&subset, i);
            usize::from(pixels[0]) * 256 + usize::from(pixels[1])
        };
        (0..subset.len()).map(place).collect::<BTreeSet<usize>>()
    };
    let [few, more, all] = [10, 100, 1000].map(|len| places(len, 3));
    assert!(few.is_subset(&more) && more.is_subset(&all));
    assert_eq!([few.len(), more.len(), all.len()], [10, 100, 1000]);
    assert!(places(100, 4).intersection(&more).count() < 40, "by chance 10 are in both");
    // Few of a class are all that there are.
    let unequal = Splits::new(labeled([vec![Some(0); 3], vec![Some(1); 97]].concat()), labeled(turns(4, 2)));
    let tuning = FineTuning { labels: 0.5, ..FineTuning::new(&names(2)) };
    let chosen = tuning.choose(&unequal, 0).unwrap().train;
    assert_eq!((0..50).filter(|i| chosen.label(*i) == Some(0)).count(), 3);
}

const GOLDEN: [[usize; 10]; 2] = [[4, 1, 3, 1, 0, 5, 2, 6, 4, 2], [6, 2, 5, 0, 4, 3, 1, 5, 0, 3]];

#[test]
fn what_cannot_be_trained_on_is_said() {
    let two = || labeled(turns(20, 2));
    let nothing = labeled(vec![]);
    let choose = |train: Arc<dyn Dataset>, test: Arc<dyn Dataset>| {
        FineTuning::new(&names(2)).choose(&Splits::new(train, test), 0).err().unwrap().to_string()
    };
    let hidden = |labels: usize| labeled((0..20).map(|i| (i > 3).then_some(i % labels)).collect());
    for (error, words) in [
        (choose(labeled(vec![None; 5]), two()), ["needs labels", "class folders"]),
        (choose(hidden(2), two()), ["image 0 has no label", "class folders"]),
        (choose(labeled(vec![Some(1); 5]), two()), ["no training image of the class 0", "add some"]),
        (choose(labeled(turns(20, 3)), two()), ["its classes are not the 2 of the run", "same classes"]),
        (choose(two(), nothing), ["no images to test with", "DIR/test"]),
        (choose(two(), hidden(2)), ["of classes that no training image has", "take them out"]),
    ] {
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    let good = FineTuning::new(&names(2));
    let of = |tuning: FineTuning| run(tuning).validate().err().map(|e| e.to_string()).unwrap_or_default();
    assert_eq!(of(good.clone()), "");
    for bad in [0.0, -0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(of(FineTuning { labels: bad, ..good.clone() }).contains("`labels`"), "{bad}");
        assert!(of(FineTuning { layer_decay: bad, ..good.clone() }).contains("`layer_decay`"), "{bad}");
        let bad = if bad == 0.0 { 1.0 } else { bad };
        assert!(of(FineTuning { drop_path: bad, ..good.clone() }).contains("`drop_path`"), "{bad}");
        assert!(of(FineTuning { label_smoothing: bad, ..good.clone() }).contains("`label_smoothing`"), "{bad}");
    }
    assert!(of(FineTuning::new(&names(1))).contains("1 classes to tell apart"));
    // An encoder of another size, and of other heads, which no shape of a weight shows.
    let pretrained = small::trainer(small::stop(), false, DType::F32);
    let start = Some((pretrained.method.encoder(), pretrained.params.evaluated()));
    for change in [|c: &mut EncoderConfig| c.image_size = 32, |c: &mut EncoderConfig| c.heads = 2] {
        let mut config = run(good.clone());
        change(&mut config.model.encoder);
        assert!(trainer(start, &config).unwrap_err().to_string().contains("not of the configuration's sizes"));
    }
    let pretraining = small::run(&pretrained);
    let error = trainer(start, &pretraining).unwrap_err().to_string();
    assert!(error.contains("a configuration of pretraining") && error.contains("for_fine_tuning"), "{error}");
}

/// A mask token that pretraining had is left where it is, and other settings of pretraining do not matter.
#[test]
fn encoders_of_every_kind_are_fine_tuned() {
    let (splits, tuning) = shapes();
    for (class_token, mask_token) in [(false, true), (true, false), (true, true)] {
        let encoder = EncoderConfig { class_token, mask_token, ..sizes() };
        let mut config = run(tuning.clone()).with_steps(2);
        config.model.encoder = encoder;
        let begun = trainer(None, &config).unwrap();
        let tuned = fine_tune(None, &config, &splits, &mut onward).unwrap().trainer;
        let moved = |name: &str| {
            let of = |t: &Trainer| t.params["encoder"].get(name).map(|p| p.value.clone());
            of(&begun).zip(of(&tuned)).map(|(a, b)| a.max_abs_diff(&b) > 0.0)
        };
        assert_eq!(
            (moved("cls_token"), moved("mask_token")),
            (class_token.then_some(true), mask_token.then_some(false))
        );
    }
}

#[cfg(feature = "checkpoint")]
#[test]
fn a_checkpoint_is_a_classifier_and_an_encoder() {
    use crate::train::checkpoint;
    use crate::train::weights::{InitOptions, PretrainedEncoder, load_encoder};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tuned.safetensors");
    let (splits, tuning) = shapes();
    let normalization = splits.normalization().unwrap();
    let config = RunConfig { normalization: Some(normalization.clone()), ..run(tuning) };
    let tuned = fine_tune(None, &config, &splits, &mut onward).unwrap();
    checkpoint::save(&path, &config, 8, &tuned.trainer.params).unwrap();
    let classifier = Classifier::open(&path).unwrap();
    assert_eq!((classifier.classes(), classifier.normalization()), (splits.train.class_names(), Some(&normalization)));
    assert_eq!(classifier.accuracy((&*splits.test, &normalization), &|_| Ok(())).unwrap(), tuned.accuracy);
    let images = data::evaluation_images(&*splits.test, 0..100, &normalization).unwrap();
    let names = classifier.classify(&Tensor::new([100, 3, 16, 16], images)).unwrap().into_iter();
    let right =
        names.enumerate().filter(|(i, name)| Some(*name) == splits.test.label(*i).map(|c| &*classifier.classes()[c]));
    assert_eq!(right.count() as f64 / 100.0, tuned.accuracy);
    let other = Splits::new(labeled(turns(4, 2)), labeled(turns(4, 2)));
    let error = classifier.accuracy((&*other.test, &normalization), &|_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("its classes are not"), "{error}");

    let loaded = load_encoder(&path, &config.model.encoder, &InitOptions::default()).unwrap();
    let same = loaded.params.iter().zip(tuned.trainer.params["encoder"].iter());
    assert!(same.clone().count() > 10 && same.clone().all(|(a, b)| a.value.max_abs_diff(&b.value) == 0.0));
    PretrainedEncoder::from_safetensors(&path, config.model.encoder.clone()).unwrap();
    // A head that is not there, or of other classes, is an error.
    let pretrained = small::trainer(small::stop(), false, DType::F32);
    checkpoint::save(&path, &small::run(&pretrained), 1, &pretrained.params).unwrap();
    let error = Classifier::open(&path).unwrap_err().to_string();
    assert!(error.contains("its run is one of stop"), "{error}");
    let mut wrong = config.clone();
    wrong.fine_tuning.as_mut().unwrap().classes.push("one more".into());
    checkpoint::save(&path, &wrong, 8, &tuned.trainer.params).unwrap();
    let error = Classifier::open(&path).unwrap_err().to_string();
    assert!(error.contains("head.weight"), "{error}");
    wrong.model.encoder.dim = 15_000;
    checkpoint::save(&path, &wrong, 8, &tuned.trainer.params).unwrap();
    let error = Classifier::open(&path).unwrap_err().to_string();
    assert!(error.contains("not half of the model"), "{error}");
}
