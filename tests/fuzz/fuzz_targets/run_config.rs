//! A configuration that passes its own check must be one that a run can start with.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::{RunConfig, StepParams, fresh_model};
use stop_mim_fuzz::is_small;

fuzz_target!(|data: &[u8]| {
    let Ok(config) = serde_json::from_slice::<RunConfig>(data) else { return };
    if let Err(error) = config.validate() {
        assert!(!error.to_string().is_empty());
        return;
    }
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<RunConfig>(&json).unwrap(), config);
    for step in [1, config.steps.div_ceil(2), config.steps] {
        let StepParams { lr, weight_decay, ema_momentum } = config.step_params(step);
        assert!(lr >= 0.0 && weight_decay >= 0.0 && (0.0..=1.0).contains(&ema_momentum));
    }
    if is_small(&config.model) {
        fresh_model(&config).unwrap();
        let tokens = config.model.encoder.patches();
        // No token left over, for example, is an error that says so.
        let _ = config.masking.sample(2, tokens, &mut stream(config.seed, Purpose::Mask, [1, 0]));
    }
});
