use super::super::testing::{ended_after, features, gaussian, same_on_any_thread_count};
use super::*;
use crate::Error;

#[derive(Clone)]
struct Set {
    x: Tensor,
    labels: Vec<u32>,
}

impl Set {
    /// As the objective takes them: in their order, not standardized.
    fn blocks(&self) -> Vec<Block> {
        let dim = self.x.last_dim();
        let same = Standardizer { mean: vec![0.0; dim], std: vec![1.0; dim] };
        Block::all(&self.x, &self.labels, &(0..self.labels.len() as u32).collect::<Vec<_>>(), &same)
    }
}

/// `n` images of `classes` classes in turn: standard normal around `spread` times the class's unit vector.
fn blobs(seed: u64, n: usize, dim: usize, classes: usize, spread: f32) -> Set {
    let mut x = gaussian(seed, n, dim);
    let labels: Vec<u32> = (0..n).map(|i| (i % classes) as u32).collect();
    let rows = x.as_mut_slice::<f32>().chunks_exact_mut(dim);
    rows.zip(&labels).for_each(|(row, &label)| row[label as usize] += spread);
    Set { x, labels }
}

fn probe_with(train: &Set, test: &Set, classes: usize, config: &ProbeConfig) -> ProbeReport {
    linear_probe((&train.x, &train.labels), (&test.x, &test.labels), classes, config, &|| Ok(())).unwrap()
}

fn probe(train: &Set, test: &Set, classes: usize) -> ProbeReport {
    probe_with(train, test, classes, &ProbeConfig::default())
}

#[test]
fn blobs_are_told_apart_as_well_as_bayes_can() {
    let (train, test) = (blobs(1, 6000, 8, 4, 2.0), blobs(2, 6000, 8, 4, 2.0));
    // With equal spheres around the unit vectors, Bayes' rule is: the largest of the first four features.
    let rows = test.x.as_slice::<f32>().chunks_exact(8).zip(&test.labels);
    let bayes = share(rows.filter(|(row, label)| argmax(&row[..4]) == Some(**label as usize)).count(), 6000);
    let report = probe(&train, &test, 4);
    assert!(report.converged, "{report:?}");
    // Estimating 4 × 9 weights from 6000 images costs a few in a thousand.
    assert!((report.test_top1 - bayes).abs() < 0.008 && (0.7..0.9).contains(&bayes), "{bayes} {report:?}");
    // The shift and the scale of a feature do not matter.
    let moved = |set: &Set| {
        let mut x = set.x.clone();
        let entries = x.as_mut_slice::<f32>().iter_mut().enumerate();
        entries.for_each(|(i, v)| *v = *v * 10f32.powi(i as i32 % 8 - 3) + (i % 8) as f32);
        Set { x, labels: set.labels.clone() }
    };
    let moved = probe(&moved(&train), &moved(&test), 4);
    assert_eq!(report.lambda, moved.lambda);
    // The shift costs f32 digits: an image on the border may change sides.
    assert!((report.test_top1 - moved.test_top1).abs() <= 0.002, "{report:?} {moved:?}");
}

#[test]
fn gradient_agrees_with_central_differences() {
    let blocks = blobs(3, BLOCK + 7, 5, 3, 1.0).blocks();
    let objective = Objective { blocks: &blocks, classes: 3, lambda: 0.3 };
    let weights = gaussian(4, 1, 18).to_f64_vec();
    let (_, gradient) = objective.value_and_gradient(&weights);
    for i in 0..weights.len() {
        let at = |h: f64| {
            let mut weights = weights.clone();
            weights[i] += h;
            objective.value_and_gradient(&weights).0
        };
        let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
        // h² f‴/6 ≈ 1e-5; the f32 noise of L over h is smaller.
        assert!((gradient[i] - numeric).abs() < 5e-5, "weight {i}: {} against {numeric}", gradient[i]);
    }
}

#[test]
fn without_information_the_loss_is_the_entropy_of_the_classes() {
    // Features that are 0 say nothing; the free intercept then fits the frequencies ¾ and ¼.
    let set = Set { x: features(400, 1, vec![0.0; 400]), labels: (0..400).map(|i| u32::from(i % 4 == 0)).collect() };
    let config = ProbeConfig { tolerance: 1e-6, ..Default::default() };
    let objective = Objective { blocks: &set.blocks(), classes: 2, lambda: 1.0 };
    let found = objective.fit(vec![0.0; 4], Some(&[0.0]), &config, &|| Ok(())).unwrap();
    let entropy = -(0.75 * 0.75f64.ln() + 0.25 * 0.25f64.ln());
    assert!(found.converged && (found.value - entropy).abs() < 1e-7, "{found:?} {entropy}");
    assert!((found.point[2] - found.point[3] - 3f64.ln()).abs() < 1e-4, "{found:?}");
}

#[test]
fn the_penalty_is_chosen_on_held_out_images() {
    // 60 images, 100 features, of which 2 tell the class: a weak penalty overfits.
    let (train, test) = (blobs(7, 60, 100, 2, 2.0), blobs(8, 2000, 100, 2, 2.0));
    let report = probe(&train, &test, 2);
    let lambdas: Vec<f64> = report.held_out.iter().map(|(lambda, _)| *lambda).collect();
    assert_eq!(lambdas, ProbeConfig::default().lambdas);
    let best = report.held_out.iter().map(|(_, top1)| *top1).fold(0.0, f64::max);
    assert!(report.held_out.contains(&(report.lambda, best)), "{report:?}");
    let given = ProbeConfig { lambdas: vec![0.25], ..Default::default() };
    let report = probe_with(&train, &test, 2, &given);
    assert!(report.lambda == 0.25 && report.held_out.is_empty());
}

#[test]
fn the_seed_decides_which_images_are_held_out() {
    let (train, test) = (blobs(1, 300, 8, 4, 1.0), blobs(2, 300, 8, 4, 1.0));
    let held_out = |seed| probe_with(&train, &test, 4, &ProbeConfig { seed, ..ProbeConfig::default() }).held_out;
    assert_eq!(held_out(0), held_out(0));
    assert_ne!(held_out(0), held_out(1));
}

#[test]
fn a_split_is_a_partition_in_order() {
    let blocks = blobs(23, 2 * BLOCK + 9, 3, 3, 1.0).blocks();
    let rows = |blocks: &[Block]| blocks.iter().flat_map(|b| b.x.to_f64_vec()).collect::<Vec<f64>>();
    let labels = |blocks: &[Block]| blocks.iter().flat_map(|b| b.labels.as_slice().to_vec()).collect::<Vec<u32>>();
    for at in [0, 1, BLOCK, BLOCK + 7, 2 * BLOCK + 9] {
        let (first, others) = Block::split(&blocks, at);
        assert_eq!(labels(&first).len(), at);
        assert_eq!([labels(&first), labels(&others)].concat(), labels(&blocks));
        assert_eq!([rows(&first), rows(&others)].concat(), rows(&blocks));
    }
}

#[test]
fn correlated_features_take_few_steps() {
    // Each feature is the sum of those before it, the later the fainter, and each tells something of the class:
    // 33 steps, and 416 without the preconditioner.
    let mut set = blobs(13, 2000, 30, 30, 3.0);
    for row in set.x.as_mut_slice::<f32>().chunks_exact_mut(30) {
        (1..30).for_each(|j| row[j] = row[j - 1] + row[j] / (1 + j) as f32);
    }
    let given = ProbeConfig { lambdas: vec![1e-4], ..Default::default() };
    let report = probe_with(&set, &set, 30, &given);
    assert!(report.converged && report.iterations < 60, "{report:?}");
}

#[test]
fn degenerate_sets_are_answered() {
    let one = Set { x: gaussian(9, 20, 3), labels: vec![0; 20] };
    let report = probe(&one, &one, 1);
    assert_eq!((report.test_top1, report.lambda), (1.0, 0.1), "all λ are equally good: the strongest");
    let constant = Set { x: features(20, 3, vec![0.1; 60]), labels: vec![0; 20] };
    assert_eq!(probe(&constant, &constant, 2).test_top1, 1.0);
    let few = blobs(10, 4, 30, 2, 0.0);
    let report = probe(&few, &few, 2);
    assert_eq!((report.train_top1, report.lambda), (1.0, 0.1), "30 features shatter 4 images: {report:?}");
    let nothing = Set { x: features(0, 3, vec![]), labels: vec![] };
    assert!(probe(&one, &nothing, 2).test_top1.is_nan());
    // Where features outnumber images, no square of theirs is made: XᵀX would take 80 GB.
    let (train, test) = (blobs(14, 12, 100_000, 2, 100.0), blobs(15, 12, 100_000, 2, 100.0));
    let report = probe(&train, &test, 2);
    assert!(report.converged && report.train_top1 == 1.0, "{report:?}");
}

#[test]
fn gradients_do_not_wait_for_all_images() {
    // 2000 · 500 weights: 4 MB a block of images, of which MOST_WAITING has room for 16; there are 17 and a bit.
    let Set { x, labels } = blobs(16, 17 * BLOCK + 1, 500, 500, 0.0);
    let x = x.as_slice::<f32>().iter().flat_map(|&v| [v, 0.0, 0.0, 0.0]).collect();
    let blocks = Set { x: features(labels.len(), 2000, x), labels }.blocks();
    let all = Objective { blocks: &blocks, classes: 500, lambda: 0.0 };
    let weights = vec![0.0; 2001 * 500];
    assert!((17 * 4 * weights.len()) > MOST_WAITING);
    let (value, gradient) = all.value_and_gradient(&weights);
    // The mean of two parts, by their numbers of images.
    let (first, others) = blocks.split_at(9);
    let parts = [first, others].map(|blocks| Objective { blocks, ..all });
    let share = parts[0].images() as f64 / all.images() as f64;
    let [first, others] = parts.map(|part| part.value_and_gradient(&weights));
    let close = |found: f64, first: f64, others: f64| (found - share * first - (1.0 - share) * others).abs() < 1e-12;
    assert!(close(value, first.0, others.0) && (value - 500f64.ln()).abs() < 1e-5);
    assert!((0..gradient.len()).all(|i| close(gradient[i], first.1[i], others.1[i])));
}

#[test]
fn features_that_say_nothing_are_worth_chance() {
    assert_eq!(chance(&[0, 1, 2, 3], &[2, 2, 1], 4), 0.25, "balanced: one of four, whatever is tested");
    assert_eq!(chance(&[0, 0, 1], &[0, 1, 1, 1], 2), 0.25, "the frequent one of the training images");
    assert_eq!(chance(&[0, 0, 1, 1, 2], &[0, 2, 1, 1], 7), 3.0 / 8.0, "classes without images do not count");
    assert!(chance(&[], &[0], 1).is_nan() && chance(&[0], &[], 1).is_nan());

    let frequent =
        |seed| Set { x: gaussian(seed, 3000, 6), labels: (0..3000).map(|i| u32::from(i % 4 == 0)).collect() };
    for (train, test, classes) in
        [(blobs(17, 3000, 6, 5, 0.0), blobs(18, 3000, 6, 5, 0.0), 5), (frequent(19), frequent(20), 2)]
    {
        let found = probe(&train, &test, classes).test_top1;
        let chance = chance(&train.labels, &test.labels, classes);
        // Four standard errors.
        assert!((found - chance).abs() < 4.0 * (chance * (1.0 - chance) / 3000.0).sqrt(), "{found}, {chance}");
    }
}

#[test]
fn a_fit_can_be_ended_and_says_when_it_was_not() {
    let set = blobs(21, 300, 6, 3, 1.0);
    let labeled = (&set.x, &set.labels[..]);
    for after in [0, 1, 5, 20] {
        let probe = |cancel: CancelCheck| linear_probe(labeled, labeled, 3, &ProbeConfig::default(), cancel);
        let (found, asked) = ended_after(after, probe);
        assert!(matches!(found, Err(Error::Interrupted)) && asked == after + 1, "{after}: {found:?}");
    }
    let short = ProbeConfig { max_iterations: 2, ..Default::default() };
    assert!(!probe_with(&set, &set, 3, &short).converged && probe(&set, &set, 3).converged);
}

#[test]
fn features_that_are_no_numbers_are_an_error() {
    let sound = blobs(22, 30, 4, 2, 1.0);
    let mut broken = sound.clone();
    broken.x.as_mut_slice::<f32>()[4 * 7 + 1] = f32::INFINITY;
    for (train, test, which) in [(&broken, &sound, "training set"), (&sound, &broken, "test set")] {
        let sets = [train, test].map(|set| (&set.x, &set.labels[..]));
        let error = linear_probe(sets[0], sets[1], 2, &ProbeConfig::default(), &|| Ok(())).unwrap_err().to_string();
        assert!(error.contains(which) && error.contains("feature 1 of image 7 is inf"), "{error}");
    }
}

#[test]
fn same_bits_on_any_number_of_threads() {
    let (train, test) = (blobs(11, 3 * BLOCK + 5, 9, 3, 1.0), blobs(12, 100, 9, 3, 1.0));
    same_on_any_thread_count(|| probe(&train, &test, 3));
}
