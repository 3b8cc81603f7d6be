//! A seed gives the same weights, bit for bit, on one thread and on many.

use std::ops::ControlFlow;
use std::sync::Arc;

use stop_mim::DType;
use stop_mim::data::{self, Subset};
use stop_mim::lab::small;
use stop_mim::train::{RunConfig, StepParams, pretrain};
use stop_mim::vit::Preset;

#[test]
fn steps_of_every_method() {
    for method in small::every_method() {
        let train = |threads| {
            let mut trainer = small::trainer(method.clone(), false, DType::F32);
            trainer.chunk_images = 1; // many chunks, so that their order could matter
            let batch = small::batch(&trainer);
            let hyper = StepParams { lr: 1e-2, weight_decay: 0.1, ema_momentum: 0.9 };
            let losses: Vec<u64> = small::with_threads(threads, || {
                (0..4).map(|_| trainer.step(&batch, &hyper).unwrap().loss.to_bits()).collect()
            });
            (losses, small::bits(&trainer))
        };
        let one = train(1);
        for threads in [2, 3, 7] {
            assert!(train(threads) == one, "{method:?} on {threads} threads");
        }
    }
}

#[test]
fn a_run_with_its_loader_and_noise() {
    let mut config = small::run(&small::trainer(small::stop(), false, DType::F32));
    let splits = data::open(&config.data, 16).unwrap();
    let run = |config: &RunConfig, threads, every| {
        small::with_threads(threads, || {
            let mut losses = Vec::new();
            let trainer = pretrain(config, &splits, every, &mut |report, _| {
                losses.push(report.loss.to_bits());
                Ok(ControlFlow::Continue(()))
            });
            (losses, small::bits(&trainer.unwrap()))
        })
    };
    let one = run(&config, 1, 5);
    assert_eq!(one.0.len(), 5);
    assert!(run(&config, 2, 1) == one, "two threads, and observed more often");
    config.seed = 2;
    assert!(run(&config, 1, 5).0 != one.0, "another seed");
}

/// Fewer images than make a chunk for each thread, so that threads help each other within one; and a model so large that
/// its gradients are summed in fewer rows.
#[test]
fn small_batches_and_large_models() {
    let toy = RunConfig::for_method(small::stop(), Preset::Toy);
    let mut splits = data::open(&toy.data, 32).unwrap();
    splits.test = Arc::new(Subset::even(splits.test.clone(), 1)); // diagnostics are not what takes long
    let run = |config: &RunConfig, threads| {
        small::with_threads(threads, || {
            small::bits(&pretrain(config, &splits, 0, &mut |_, _| Ok(ControlFlow::Continue(()))).unwrap())
        })
    };
    let mut configs: Vec<RunConfig> = [1, 3].map(|batch| RunConfig { batch, ..toy.clone() }.with_steps(2)).to_vec();
    configs.push(RunConfig { batch: 6, ..toy }.with_steps(1));
    let large = &mut configs[2].model.encoder;
    (large.dim, large.depth, large.heads) = (1024, 2, 8);
    for config in configs {
        let one = run(&config, 1);
        for threads in [2, 5] {
            assert!(run(&config, threads) == one, "{} images on {threads} threads", config.batch);
        }
    }
}
