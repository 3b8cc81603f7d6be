//! Processes that are threads: the bits of one process, and what becomes of errors.

use std::ops::ControlFlow;

use super::*;
use crate::data::testing::Made;
use crate::data::{self, Dataset, Normalization, Splits};
use crate::processes::threads;
use crate::train::{Part, RunConfig, StepReport, resume, small};

/// A trainer of a method in chunks of one image, and three steps of 19 for it: 7 lanes, of which the last is
/// shorter.
fn run(method: crate::methods::MethodConfig) -> (RunConfig, Trainer, Splits) {
    let trainer = Trainer { chunk_images: 1, ..small::trainer(method, true, DType::F32) };
    let normalization = Some(Normalization::CIFAR10);
    let config = RunConfig { batch: 19, steps: 3, normalization, ..small::run(&trainer) };
    (config, trainer, data::open("shapes", 16).unwrap())
}

/// Weights, moments, steps.
fn bits(trainer: &Trainer) -> Vec<u32> {
    let moments = trainer.optimizer.moments().iter().flat_map(|(m, v)| [m, v]);
    let moments = moments.flat_map(|x| x.as_slice::<f32>().iter().map(|x| x.to_bits()).collect::<Vec<_>>());
    small::bits(trainer).into_iter().chain(moments).chain([trainer.optimizer.steps() as u32]).collect()
}

/// What the run ends with, and what was reported, without the speed.
fn trained(world: &Arc<World>, (config, trainer, splits): &(RunConfig, Trainer, Splits)) -> (Trainer, String) {
    let mut reported = String::new();
    let trainer = trainer.clone().among(world).unwrap();
    let ended = resume(trainer, config, splits, 0, &mut |report: &StepReport, _| {
        let report = StepReport { images_per_second: 0.0, diagnostics: None, ..report.clone() };
        reported += &format!("{report:?}\n");
        Ok(ControlFlow::Continue(()))
    });
    (ended.unwrap(), reported)
}

#[test]
fn the_same_bits_in_any_number_of_processes() {
    for method in small::every_method() {
        let name = method.name();
        let run = run(method);
        let (alone, reported) = trained(&World::alone(), &run);
        for processes in [2, 3, 4, 7] {
            let of_each = threads::run(processes, |world| {
                let (trainer, reported) = trained(world, &run);
                let whole = trainer.whole();
                assert_eq!(whole.is_some(), world.is_first());
                (trainer, reported, whole)
            });
            for (trainer, of_this, whole) in of_each {
                assert!(small::bits(&trainer) == small::bits(&alone), "{name}, {processes} processes");
                assert_eq!(of_this, reported, "{name}, {processes} processes");
                assert!(whole.is_none_or(|whole| bits(&whole) == bits(&alone)), "{name}: moments");
            }
        }
    }
}

/// Two steps in one number of processes, and the third in another.
#[test]
fn another_number_goes_on() {
    let (config, trainer, splits) = run(small::stop());
    let (alone, _) = trained(&World::alone(), &(config.clone(), trainer.clone(), splits.clone()));
    let mut at = trainer;
    for (processes, until) in [(3, 1), (1, 2), (5, 3)] {
        let mut of_each = threads::run(processes, |world| {
            // What others begin with does not matter.
            let mut trainer = at.clone();
            if !world.is_first() {
                trainer = run(small::stop()).1;
                small::perturb(&mut trainer.params["target_encoder"], 1.0, 9);
            }
            let trainer = trainer.among(world).unwrap();
            let ended = resume(trainer, &config, &splits, 0, &mut |report, _| {
                Ok(if report.step == until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            });
            ended.unwrap().whole()
        });
        at = of_each.swap_remove(0).unwrap();
    }
    assert!(bits(&at) == bits(&alone));
}

#[test]
fn moments_take_less_memory_with_each_process() {
    let (.., trainer, _) = run(small::stop());
    let of = |trainer: &Trainer| trainer.optimizer.moments().iter().map(|(m, v)| m.elements() + v.elements()).sum();
    let whole: usize = of(&trainer);
    for processes in [2, 3, 7] {
        let of_each = threads::run(processes, |world| of(&trainer.clone().among(world).unwrap()));
        assert_eq!(of_each.iter().sum::<usize>(), whole);
        assert!(of_each.iter().all(|own| own.abs_diff(whole / processes) < whole / 50), "{whole}: {of_each:?}");
    }
}

/// Seven images; this process's.
fn part(batch: &Batch, trainer: &Trainer) -> Batch {
    let own = trainer.own_images(batch.len()).unwrap();
    let mut part = Batch { part: Some(Part { first: own.start, of: batch.len() }), ..batch.clone() };
    for view in &mut part.views {
        view.images = view.images.rows(own.clone());
        for masks in view.context.iter_mut().chain(&mut view.targets) {
            *masks = masks.slice_rows(own.clone());
        }
    }
    part
}

/// What a process sees of its images is what one process sees of them.
#[test]
fn an_image_draws_the_same_in_whichever_part_it_is() {
    let trainer = Trainer { chunk_images: 1, ..small::trainer(small::stop(), true, DType::F32) };
    let batch = small::batch(&trainer);
    threads::run(3, |world| {
        let trainer = trainer.clone().among(world).unwrap();
        let (own, part) = (trainer.own_images(7).unwrap(), part(&batch, &trainer));
        let (here, there) = (trainer.chunk(&part, 0..2), trainer.chunk(&batch, own.start..own.start + 2));
        assert_eq!(here.draws, there.draws);
        let [one, other] = [&here, &there].map(|chunk| chunk.noise.as_ref().unwrap());
        assert!(one.max_abs_diff(other) == 0.0 && here.images().max_abs_diff(there.images()) == 0.0);
        assert_eq!(here.targets().as_slice(), there.targets().as_slice());
        assert_eq!(here.context().as_slice(), there.context().as_slice());
    });
}

const STEP: StepParams = StepParams { lr: 0.01, weight_decay: 0.1, ema_momentum: 0.9 };

/// A number that is not finite, in the images of one process or in what it makes of them: all return the error of
/// one process.
#[test]
fn what_is_not_finite_at_one_process_is_an_error_at_all() {
    let trainer = Trainer { chunk_images: 1, ..small::trainer(small::stop(), true, DType::F32) };
    let batch = small::batch(&trainer);
    let mut poisoned = batch.clone();
    poisoned.views[0].images.as_mut_slice::<f32>()[5 * 3 * 256 + 7] = f32::NAN;
    let mut overflowing = trainer.clone();
    let wide = overflowing.params["encoder"].iter_mut().find(|p| p.name == "blocks.0.norm2.weight").unwrap();
    wide.value.as_mut_slice::<f32>()[3] = 3e38;
    // A gradient whose square overflows: the loss is fine.
    let mut steep = trainer.clone();
    let last = steep.params["predictor"].iter_mut().find(|p| p.name == "predictor_proj.weight").unwrap();
    last.value = last.value.scaled(1e24);
    for (trainer, batch, words) in [
        (&trainer, &poisoned, "the loss is NaN; first, images 5 to 5: "),
        (&overflowing, &batch, "the loss is NaN; first, images 0 to 0: "),
        (&steep, &batch, "too large to be squared"),
    ] {
        let mut alone = trainer.clone();
        let expected = alone.step(batch, &STEP).unwrap_err().to_string();
        assert!(expected.contains(words), "{expected}");
        for processes in [2, 3, 7] {
            let errors = threads::run(processes, |world| {
                let mut trainer = trainer.clone().among(world).unwrap();
                let (before, batch) = (small::bits(&trainer), part(batch, &trainer));
                let error = trainer.step(&batch, &STEP).unwrap_err().to_string();
                assert!(small::bits(&trainer) == before && trainer.optimizer.steps() == 0);
                error
            });
            assert!(errors.iter().all(|error| *error == expected), "{processes}: {errors:?}, not {expected}");
        }
    }
}

/// An image that cannot be read, and one at which the program breaks: at whichever process, all stop at the same
/// step.
#[test]
fn an_error_at_one_process_stops_all_at_the_same_step() {
    let (config, trainer, splits) = run(small::stop());
    let config = RunConfig { steps: 6, ..config };
    for haunted in [false, true] {
        let good = Arc::clone(&splits.train);
        let bad: Arc<dyn Dataset> = Arc::new(Made::new(60, 16, move |index, _, out| {
            if index == 8 {
                assert!(!haunted, "image 8 is haunted");
                return Err(Error::file("some/image.png", "is bad", "mend it"));
            }
            good.pixels(index, out)
        }));
        let splits = Splits::new(bad, Arc::clone(&splits.test));
        let words = if haunted { "image 8 is haunted" } else { "some/image.png: is bad" };
        let found = threads::run(3, |world| {
            let trainer = trainer.clone().among(world).unwrap();
            let failed = *resume(trainer, &config, &splits, 0, &mut |_, _| Ok(ControlFlow::Continue(()))).unwrap_err();
            assert!(failed.error.to_string().contains(words), "{}", failed.error);
            let trainer = failed.trainer.expect("no update was cut short");
            (trainer.optimizer.steps(), small::bits(&trainer), trainer.whole().is_some())
        });
        assert!(found.windows(2).all(|two| (two[0].0, &two[0].1) == (two[1].0, &two[1].1)), "{words}");
        assert!(found[0].0 < 6 && found.iter().map(|found| found.2).eq([true, false, false]));
    }
}

#[test]
fn what_cannot_be_shared_is_refused_by_all() {
    let in_f64 = small::trainer(small::stop(), false, DType::F64);
    let (config, trainer, splits) = run(small::stop());
    let errors = threads::run(8, |world| {
        let f64_there = if world.rank() == 3 { in_f64.clone() } else { trainer.clone() };
        let refused = f64_there.among(world).unwrap_err().to_string();
        let trainer = trainer.clone().among(world).unwrap();
        let failed = resume(trainer, &config, &splits, 0, &mut |_, _| Ok(ControlFlow::Continue(()))).unwrap_err();
        (refused, failed.error.to_string())
    });
    for (f64, many) in errors {
        assert!(f64.contains("several processes train on CPUs alone, in f32"), "{f64}");
        assert!(many.contains("8 processes for a batch of 19 images") && many.contains("start 7"), "{many}");
    }
}
