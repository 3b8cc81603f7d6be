//! A training step on the reference device gives what it gives on the CPU: for every method, the loss, the gradient of each
//! parameter, and the weights and moving averages after the update. The reference computes each operation by its definition
//! (and panics at every operand that is not on it), so this is a second opinion on all of a step at once; that each kernel
//! agrees, over awkward shapes, is tested in src/kernels/oracle.rs.

use stop_mim::autograd::Tape;
use stop_mim::lab::small;
use stop_mim::methods::Chunk;
use stop_mim::nn::{AdamW, Params, Role, count_non_finite, update_ema};
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::Trainer;
use stop_mim::{DType, Device, Tensor};

fn params_on(params: &Params, device: Device) -> Params {
    let mut params = params.clone();
    params.iter_mut().for_each(|param| param.value = param.value.to_device(device));
    params
}

/// The loss, the gradients, and all weights after an update, of one step on three images.
fn step(trainer: &Trainer, device: Device) -> [Vec<Tensor>; 3] {
    let mut trainer = trainer.clone();
    let params = &mut trainer.params;
    params.encoder = params_on(&params.encoder, device);
    params.predictor = params_on(&params.predictor, device);
    params.target = params.target.as_ref().map(|target| params_on(target, device));
    let chunk = trainer.cut(&small::batch(&trainer), 0..3);
    let chunk = Chunk {
        images: chunk.images.to_device(device),
        context: chunk.context.to_device(device),
        targets: chunk.targets.to_device(device),
        noise: chunk.noise.map(|noise| noise.to_device(device)),
    };
    let tape = Tape::new();
    let averaged = trainer.params.target.as_ref().map(Params::constants);
    let recording = trainer.record(&chunk, &tape, averaged.as_ref());
    let mut found = tape.backward(&recording.loss);
    let leaves = recording.theta.iter().chain(recording.phi.iter()).filter(|leaf| leaf.is_tracked());
    let gradients: Vec<Tensor> = leaves.map(|leaf| found.take(leaf).expect("every leaf is read")).collect();
    let non_finite = count_non_finite(&gradients.iter().collect::<Vec<_>>());
    assert_eq!((non_finite.device(), non_finite.item()), (device, 0.0));

    let params = &mut trainer.params;
    let mut optimizer = AdamW::new(&params.trained());
    let trained = &mut [&mut params.encoder, &mut params.predictor];
    // Not with the gradients found: the first step follows their signs, also of those that are 0 but for rounding.
    let mut rng = stream(0, Purpose::Eval, [0, 0]);
    let random = |g: &Tensor| Tensor::normal(*g.shape(), 1.0, g.dtype(), &mut rng).to_device(device);
    optimizer.update(trained, gradients.iter().map(random).collect(), 1e-2, 0.1);
    if let Some(target) = &mut params.target {
        update_ema(0.9, &params.encoder, target);
    }
    let modules = [Some(&params.encoder), Some(&params.predictor), params.target.as_ref()];
    let weights = modules.into_iter().flatten().flat_map(Params::iter).map(|param| param.value.clone());
    [vec![recording.loss.value().clone()], gradients, weights.collect()]
}

#[test]
fn a_training_step_of_every_method_is_the_same_on_both_devices() {
    for method in small::every_method() {
        // Measured: at most a third of these.
        for (dtype, tolerances) in [(DType::F64, [3e-15, 2e-14, 1e-15]), (DType::F32, [3e-7, 4e-6, 4e-7])] {
            let trainer = small::trainer(method.clone(), false, dtype);
            assert!(trainer.params.encoder.iter().any(|param| param.role == Role::Trained));
            let [cpu, reference] = [Device::Cpu, Device::Reference].map(|device| step(&trainer, device));
            let mut worst = [0.0f64; 3];
            for (part, (cpu, reference)) in cpu.iter().zip(&reference).enumerate() {
                for (x, y) in cpu.iter().zip(reference) {
                    assert_eq!(y.device(), Device::Reference, "{method:?}: a result of the CPU");
                    let (x, y) = (x.to_dtype(DType::F64), y.to_device(Device::Cpu).to_dtype(DType::F64));
                    let scale = y.as_slice::<f64>().iter().fold(1e-3f64, |most, y| most.max(y.abs()));
                    worst[part] = worst[part].max(x.max_abs_diff(&y) / scale);
                }
            }
            let close = worst.iter().zip(tolerances).all(|(worst, tolerance)| *worst <= tolerance);
            assert!(close, "{method:?} in {dtype}: {worst:?}, allowed are {tolerances:?}");
        }
    }
}
