use super::*;
use crate::data;
use crate::train::small;

/// The model of the other tests, on `shapes` of 16 × 16 pixels.
fn run(tuning: FineTuning) -> RunConfig {
    let encoder = small::trainer(small::stop(), false, DType::F32).config().encoder.clone();
    let config = RunConfig::for_fine_tuning(&encoder, tuning, 50_000);
    RunConfig { batch: 10, seed: 1, ..config }.with_steps(4)
}

fn shapes() -> (Splits, FineTuning) {
    let splits = data::open("shapes", 16).unwrap();
    let few = |images: &Arc<dyn Dataset>, n| -> Arc<dyn Dataset> { Arc::new(Subset::even(Arc::clone(images), n)) };
    let splits = Splits::new(few(&splits.train, 400), few(&splits.test, 100));
    let tuning = FineTuning { labels: 0.1, drop_path: 0.5, ..FineTuning::new(splits.train.class_names()) };
    (splits, tuning)
}

fn onward(_: &StepReport, _: &Trainer) -> Result<ControlFlow<()>> {
    Ok(ControlFlow::Continue(()))
}

#[test]
fn it_trains_and_is_tested() {
    let (splits, tuning) = shapes();
    let config = run(tuning);
    let start = small::trainer(small::stop(), false, DType::F32);
    let start = Some((start.method.encoder(), start.params.evaluated()));
    let tuned = fine_tune(start, &config, &splits, &mut onward).unwrap();
    assert_eq!(tuned.trainer.optimizer.steps(), 4);
    assert!((0.0..=1.0).contains(&tuned.accuracy));
}
