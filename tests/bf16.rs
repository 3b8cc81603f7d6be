//! Training with products in bf16: close to f32, the same bits on any number of threads and after an interruption.
//!
//! What is asked of the processor is asked first: where it has no AVX512-BF16, training in bf16 is an error that says so,
//! and that is what is tested there. The kernel itself is tested everywhere, by its portable twin. What only products read is stored in
//! bf16, and how much that saves is counted; gradients and bytes are also those of a GPU.

#[cfg(feature = "cuda")]
mod cuda_on_cpu;

use std::ops::ControlFlow;

use stop_mim::data;
use stop_mim::lab::small;
use stop_mim::methods::MethodConfig;
use stop_mim::train::checkpoint::{CheckpointPolicy, load_run, save_run};
use stop_mim::train::{RunConfig, Trainer, pretrain, resume};
use stop_mim::{DType, Device, Precision, Tensor};

fn config() -> RunConfig {
    RunConfig { precision: Precision::Bf16, ..small::run(&small::trainer(small::stop(), false, DType::F32)) }
}

/// A run to step `steps`, from scratch or from where `from` stands.
fn run(config: &RunConfig, from: Option<Trainer>, steps: usize) -> Trainer {
    let splits = data::open(&config.data, 16).unwrap();
    let mut to_there = |report: &stop_mim::train::StepReport, _: &Trainer| {
        Ok(if report.step == steps { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    match from {
        None => pretrain(config, &splits, 2, &mut to_there).unwrap(),
        Some(trainer) => resume(trainer, config, &splits, 2, &mut to_there).unwrap(),
    }
}

#[test]
fn a_processor_without_it_is_an_error_that_says_so() {
    let (config, splits) = (config(), data::open("shapes", 16).unwrap());
    config.validate().unwrap(); // such a run can be probed and looked at anywhere
    assert_eq!(config.supported_on(Device::Cpu).is_ok(), Precision::Bf16.is_available());
    if !Precision::Bf16.is_available() {
        let error = pretrain(&config, &splits, 2, &mut |_, _| unreachable!("no step is made")).unwrap_err().to_string();
        assert!(error.contains("AVX512-BF16") && error.contains("--precision"), "{error}");
    }
}

#[test]
fn gradients_are_those_of_f32_to_the_digits_of_bf16() {
    let devices = [Device::Cpu].into_iter().filter(|cpu| Precision::Bf16.is_available_on(*cpu));
    #[cfg(feature = "cuda")]
    let devices = devices.chain(cuda_on_cpu::device());
    for (device, method) in devices.flat_map(|device| small::every_method().into_iter().map(move |m| (device, m))) {
        let exact = small::trainer(method.clone(), false, DType::F32);
        let batch = small::batch(&exact);
        let params = exact.params.to_device(device);
        let rounded = Trainer { precision: Precision::Bf16, params, ..exact.clone() };
        let exact = exact.gradients(&batch).unwrap();
        let mut rounded = rounded.gradients(&batch.to_device(device)).unwrap();
        rounded.gradients.iter_mut().for_each(|gradient| *gradient = gradient.to_device(Device::Cpu));
        let [there, here] = [&exact.loss, &rounded.loss].map(Tensor::item);
        let off = (here - there).abs() / there;
        // Each product is off by 2⁻⁸; a gradient sums many of them.
        let of_gradient = |(exact, rounded): (&Tensor, &Tensor)| {
            exact.max_abs_diff(rounded) / exact.to_f64_vec().iter().fold(1e-6, |max, x| x.abs().max(max))
        };
        let worst = exact.gradients.iter().zip(&rounded.gradients).map(of_gradient).fold(0.0, f64::max);
        // Measured: the loss by up to 4·10⁻⁴, gradients by up to 3·10⁻². That of SimMIM's loss is a sign, which turns where a
        // prediction is as near to its target as products are rounded: there 8·10⁻².
        let allowed = if matches!(method, MethodConfig::Simmim) { 0.15 } else { 0.06 };
        println!("{method:?} on {device}: the loss is off by {off:.1e}, a gradient by {worst:.1e}");
        assert!(off > 0.0 && off < 1e-3, "{method:?} on {device}: loss {there} and {here}");
        assert!(worst > 0.0 && worst < allowed, "{method:?} on {device}: a gradient is off by {worst}");
    }
}

#[test]
fn the_same_bits_on_any_number_of_threads_and_after_an_interruption() {
    if !Precision::Bf16.is_available() {
        return;
    }
    let config = config();
    let whole = small::with_threads(1, || run(&config, None, 5));
    assert!(small::bits(&small::with_threads(3, || run(&config, None, 5))) == small::bits(&whole), "on three threads");
    let in_f32 = RunConfig { precision: Precision::F32, ..config.clone() };
    assert!(small::bits(&run(&in_f32, None, 5)) != small::bits(&whole), "in f32 it is another run");

    let half = run(&config, None, 3);
    let path = std::env::temp_dir().join(format!("stop-mim-bf16-{}.safetensors", std::process::id()));
    let upkeep =
        CheckpointPolicy { diagnose_every: 2, checkpoint_every: 1, keep: 1, keep_every: 0, images: String::new() };
    save_run(&path, &config, &upkeep, &half).unwrap();
    let saved = load_run(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!([saved.config.precision, saved.trainer.precision], [Precision::Bf16; 2]);
    assert!(small::bits(&run(&saved.config, Some(saved.trainer), 5)) == small::bits(&whole), "after an interruption");
}

/// Bytes that a block keeps for its backward pass. With D numbers in a token, both norms keep x (f32), attention 3 D (q, k, v), the
/// map behind it D, the MLP 4 D: of these all but x are in bf16. On a GPU so are copies of the weights; on a CPU weights keep them
/// themselves.
#[test]
fn what_a_block_keeps_is_in_bf16_but_for_the_residual_stream() {
    use stop_mim::autograd::{Tape, ops};
    use stop_mim::nn::{Init, LinearInit, Params};
    use stop_mim::rng::{Purpose, stream};
    use stop_mim::vit::Block;

    let devices = [Device::Cpu].into_iter().filter(|cpu| Precision::Bf16.is_available_on(*cpu));
    #[cfg(feature = "cuda")]
    let devices = devices.chain(cuda_on_cpu::device());
    let (images, tokens, dim) = (2, 9, 16);
    let (mut params, mut rng) = (Params::new(), stream(1, Purpose::Init, [0, 0]));
    let mut init = Init { params: &mut params, rng: &mut rng, dtype: DType::F32, linear: LinearInit::Xavier };
    let block = Block::new(&mut init, "block", dim, 2, 4 * dim);
    let (token, statistics, weights) = (images * tokens * dim, 2 * images * tokens * 2 * 4, 12 * dim * dim);
    for device in devices {
        let params = params.to_device(device);
        let kept = |precision: Precision| {
            let _products = precision.enter();
            let tape = Tape::new();
            let weights = params.on(&tape);
            let mut rng = stream(2, Purpose::Eval, [0, 0]);
            let x = Tensor::normal([images, tokens, dim], 1.0, DType::F32, &mut rng).to_device(device);
            drop(block.forward(&weights, &tape.leaf(x)));
            tape.take_apart().iter().map(|(_, bytes)| bytes).sum::<usize>()
        };
        // Who looks for what is not finite looks at these too.
        let _products = Precision::Bf16.enter();
        let tape = Tape::watching();
        let x = Tensor::full([images, tokens, dim], 1.0, DType::F32).to_device(device);
        tape.backward(&ops::sum(&block.forward(&params.on(&tape), &tape.leaf(x))));
        assert!(tape.first_non_finite().is_none());

        assert_eq!(kept(Precision::F32), 4 * (2 + 3 + 1 + 4) * token + statistics, "{device}");
        let copies = if device == Device::Cpu { 0 } else { 2 * weights };
        assert_eq!(kept(Precision::Bf16), (4 * 2 + 2 * (3 + 1 + 4)) * token + statistics + copies, "{device}");
    }
}
