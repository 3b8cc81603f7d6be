//! A training step on the reference device gives what it gives on the CPU, and on a GPU: for every method, the loss, the gradient
//! of each parameter, and the weights and moving averages after the update. The reference computes each operation by its definition
//! (and panics at every operand that is not on it), so this is a second opinion on all of a step at once; that each kernel
//! agrees, over awkward shapes, is tested in src/kernels/oracle.rs.

#[cfg(feature = "cuda")]
mod cuda_on_cpu;

use stop_mim::lab::small;
use stop_mim::nn::{AdamW, Ema};
use stop_mim::rng::{Purpose, stream};
use stop_mim::train::{LossAndGradients, StepParams, Trainer};
use stop_mim::{DType, Device, Tensor};

/// The devices that are compared with the reference.
fn devices() -> Vec<Device> {
    #[cfg(feature = "cuda")]
    return [Device::Cpu].into_iter().chain(cuda_on_cpu::device()).collect();
    #[cfg(not(feature = "cuda"))]
    vec![Device::Cpu]
}

fn on(trainer: &Trainer, device: Device) -> Trainer {
    let trainer = Trainer { params: trainer.params.to_device(device), ..trainer.clone() };
    let optimizer = AdamW::new(&trainer.params.trained().collect::<Vec<_>>());
    Trainer { optimizer, ..trainer }
}

/// The loss, the gradients, and all weights after an update.
fn step(trainer: &Trainer, device: Device) -> [Vec<Tensor>; 3] {
    let (mut trainer, batch) = (on(trainer, device), small::batch(trainer).to_device(device));
    let LossAndGradients { loss, gradients, .. } = trainer.gradients(&batch).unwrap();
    // Not with the gradients found: the first step follows their signs, also of those that are 0 but for rounding.
    let mut rng = stream(0, Purpose::Eval, [0, 0]);
    let random = |g: &Tensor| Tensor::normal(*g.shape(), 1.0, g.dtype(), &mut rng).to_device(device);
    let random = gradients.iter().map(random).collect();
    let ema = |target| Ema { momentum: 0.9, target };
    let modules = trainer.params.trained_and_average().into_iter().map(|(m, average)| (m, average.map(ema)));
    trainer.optimizer.update_averaged(modules, random, 1e-2, 0.1);
    let weights = trainer.params.modules().iter().flat_map(|m| m.params.iter()).map(|param| param.value.clone());
    [vec![loss], gradients, weights.collect()]
}

#[test]
fn a_training_step_of_every_method_is_the_same_on_every_device() {
    for method in small::every_method() {
        // Measured: at most a quarter of these.
        for (dtype, tolerances) in [(DType::F64, [1e-14, 1e-12, 1e-12]), (DType::F32, [1e-6, 1e-4, 1e-4])] {
            let trainer = small::trainer(method.clone(), false, dtype);
            let reference = step(&trainer, Device::Reference);
            for device in devices() {
                let mut worst = [0.0f64; 3];
                for (part, (fast, reference)) in step(&trainer, device).iter().zip(&reference).enumerate() {
                    assert_eq!(fast.len(), reference.len());
                    for (x, y) in fast.iter().zip(reference) {
                        assert_eq!(
                            [x.device(), y.device()],
                            [device, Device::Reference],
                            "{method}: a result elsewhere"
                        );
                        let [x, y] = [x, y].map(|x| x.to_device(Device::Cpu).to_dtype(DType::F64));
                        let scale = y.as_slice::<f64>().iter().fold(1e-3f64, |most, y| most.max(y.abs()));
                        worst[part] = worst[part].max(x.max_abs_diff(&y) / scale);
                    }
                }
                println!("{method:?} in {dtype} on {device}: loss, gradients, weights differ by {worst:?}");
                let close = worst.iter().zip(tolerances).all(|(worst, tolerance)| *worst <= tolerance);
                assert!(close, "{method:?} in {dtype} on {device}: {worst:?}, allowed are {tolerances:?}");
            }
        }
    }
}

/// The trainer itself, from images to weights, knows no device.
#[test]
fn a_trainer_works_where_its_parameters_are() {
    for device in devices().into_iter().skip(1).chain([Device::Reference]) {
        let trainer = small::trainer(small::stop(), false, DType::F32);
        let mut trainer = on(&trainer, device);
        let batch = small::batch(&trainer).to_device(device);
        let params = StepParams { lr: 1e-2, weight_decay: 0.1, ema_momentum: 0.9 };
        let losses: Vec<f64> = (0..3).map(|_| trainer.step(&batch, &params).unwrap().loss).collect();
        assert!(losses[2] < losses[0], "{losses:?}");
        assert!(trainer.params.trained_params().all(|param| param.value.device() == device));
    }
}
