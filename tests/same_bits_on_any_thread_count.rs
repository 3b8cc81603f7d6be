//! A seed gives the same weights, bit for bit, on one thread and on many.

use std::ops::ControlFlow;

use stop_mim::DType;
use stop_mim::data;
use stop_mim::lab::small;
use stop_mim::train::{RunConfig, StepParams, pretrain};

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
