//! What `pretrain --profile` prints is true: products are counted as a formula says, no time is lost or counted twice,
//! and nothing that is computed depends on the meter.

#[cfg(feature = "cli")]
mod common;

use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[cfg(feature = "cli")]
use common::{SMALL, Scratch};
use stop_mim::autograd::ops;
use stop_mim::kernels::meter::{self, Phase, Place, Sum, Totals};
use stop_mim::lab::profile::{PHASES, profile};
use stop_mim::lab::small;
use stop_mim::methods::MethodConfig;
use stop_mim::paper::Covariance;
use stop_mim::train::{RunConfig, StepParams, Trainer, pretrain};
use stop_mim::{DType, Device, Tensor, data};

/// There is one meter in a process: these tests take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const HYPER: StepParams = StepParams { lr: 1e-2, weight_decay: 0.1, ema_momentum: 0.9 };

/// What was counted of the places that are as asked.
fn sum(totals: &Totals, of: impl Fn(&Place) -> bool) -> Sum {
    totals.iter().filter(|(place, _)| of(place)).fold(Sum::default(), |mut all, (_, sum)| {
        all += *sum;
        all
    })
}

/// One step of a small trainer, metered, on three threads.
fn metered_step(method: &MethodConfig) -> (Trainer, Totals) {
    let mut trainer = small::trainer(method.clone(), false, DType::F32);
    let batch = small::batch(&trainer);
    small::with_threads(3, || {
        let running = meter::start();
        trainer.step(&batch, &HYPER).unwrap();
        let totals = running.stop();
        (trainer, totals)
    })
}

/// 2 m k n of all products of a step: linear forward, linear backward, attention forward, attention backward.
///
/// A linear layer on M rows from width k to n makes one product forward, M k n; backward one for the weight and, where
/// its input depends on a parameter, one for the input. Attention of M queries to N tokens makes two products of M N D
/// forward and five backward, the scores again among them. The last block of the predictor answers for the masked tokens
/// only. The target encoder runs forward only, on all patches.
fn expected(trainer: &Trainer, images: usize) -> [usize; 4] {
    let batch = small::batch(trainer);
    let (encoder, predictor) = (&trainer.config().encoder, &trainer.config().predictor);
    let (d_e, d_p, pixels) = (encoder.dim, predictor.dim, 3 * encoder.patch_size * encoder.patch_size);
    let view = &batch.views[0];
    let (n_c, n_t) = (view.context[0].per_row(), view.targets[0].per_row());
    let rows = images * view.context.len(); // E B
    let blocks = rows * view.targets.len(); // P E B
    let (mut linear, mut linear_backward, mut attention, mut attention_backward) = (0, 0, 0, 0);
    // M, k, n, and how many products the backward pass makes.
    let mut add_linear = |m: usize, k: usize, n: usize, backward: usize| {
        linear += 2 * m * k * n;
        linear_backward += backward * 2 * m * k * n;
    };
    let class = usize::from(encoder.class_token);
    // Where mask tokens stand in the encoder, it sees every place, and a linear head answers.
    let in_place = trainer.method.as_in_place_prediction().is_some();
    let seen = if in_place { encoder.patches() } else { n_c };

    add_linear(rows * seen, pixels, d_e, 1); // no gradient for the pixels
    if !in_place {
        add_linear(rows * (n_c + class), d_e, d_p, 2);
    }
    let target_encoder = trainer.params.get("target_encoder").is_some();
    let outputs = if target_encoder { d_e } else { pixels };
    add_linear(blocks * n_t, if in_place { d_e } else { d_p }, outputs, 2);
    let noise = projected_noise(trainer);
    for (any, tokens) in [(noise.masked, blocks * n_t), (noise.context, rows * n_c)] {
        // No gradient for the noise itself.
        add_linear(if any { tokens } else { 0 }, d_e, d_p, if noise.scaled { 2 } else { 1 });
    }
    // Blocks, sequences, tokens, of them those that are answered for, width, on the tape.
    let tokens = n_c + class + n_t;
    let mut sides = vec![(encoder.depth, rows, seen + class, seen + class, d_e, true)];
    if !in_place {
        sides.push((predictor.depth - 1, blocks, tokens, tokens, d_p, true));
        sides.push((1, blocks, tokens, n_t, d_p, true));
    }
    if target_encoder {
        add_linear(images * encoder.patches(), pixels, d_e, 0);
        sides.push((encoder.depth, images, encoder.patches(), encoder.patches(), d_e, false));
    }
    for (depth, rows, n, m, d, tracked) in sides {
        for (tokens, k, n_out) in [(n, d, 3 * d), (m, d, d), (m, d, 4 * d), (m, 4 * d, d)] {
            add_linear(depth * rows * tokens, k, n_out, if tracked { 2 } else { 0 });
        }
        let product = 2 * depth * rows * m * n * d;
        attention += 2 * product;
        attention_backward += if tracked { 5 * product } else { 0 };
    }
    [linear, linear_backward, attention, attention_backward]
}

/// Noise that goes through A.
struct ProjectedNoise {
    masked: bool,
    context: bool,
    /// By something that has a gradient.
    scaled: bool,
}

fn projected_noise(trainer: &Trainer) -> ProjectedNoise {
    let (method, a_wide) = (&trainer.method, trainer.config().encoder.dim);
    let (any, on) = (method.sigma().is_some() && method.noise_width() == a_wide, method.noise_on());
    let scaled = matches!(trainer.config().method, MethodConfig::Stop { covariance: Covariance::Conditioned, .. });
    ProjectedNoise { masked: any && on.masked(), context: any && on.context(), scaled }
}

#[test]
fn products_are_counted_as_the_configuration_says() {
    let _alone = alone();
    for method in small::every_method() {
        let (trainer, totals) = metered_step(&method);
        let of = |name, backward: bool| {
            let sum = sum(&totals, |p| p.op == Some(name) && (p.phase == Phase::Backward) == backward);
            sum.flops as usize
        };
        let counted = [of("linear", false), of("linear", true), of("attention", false), of("attention", true)];
        assert_eq!(counted, expected(&trainer, 7), "{method:?}");
        let all = sum(&totals, |_| true).flops as usize;
        assert_eq!(all, counted.iter().sum::<usize>(), "{method:?}: products elsewhere");
    }
}

#[test]
fn each_operation_is_seen_as_often_as_its_rule_says() {
    let _alone = alone();
    for method in small::every_method() {
        let (trainer, totals) = metered_step(&method);
        let calls = |name, phases: &[Phase]| sum(&totals, |p| p.op == Some(name) && phases.contains(&p.phase)).calls;
        let both = |name| (calls(name, &[Phase::Context, Phase::Predictor]), calls(name, &[Phase::Backward]));
        for name in ["attention", "gelu", "smooth_l1", "mse"] {
            let (forward, backward) = both(name);
            assert_eq!(forward, backward, "{method:?}: {name}");
        }
        // A product for the weight, and one for the input but where that is pixels or noise.
        let (forward, backward) = both("linear");
        let noise = projected_noise(&trainer);
        let draws = if noise.scaled { 0 } else { u64::from(noise.masked) + u64::from(noise.context) };
        let constants = 3 + 3 * draws;
        assert_eq!(backward, 2 * forward - constants, "{method:?}: linear");
        // γ and β, x, and before a linear map the norm again: everywhere but at the end of the encoder.
        let (forward, backward) = both("layer_norm");
        assert_eq!(backward, 3 * forward - 3, "{method:?}: layer_norm");
        // What is given positions is gathered, and only where they are learned is there a gradient; or, for a head in the
        // predictor's place, features.
        let in_place = u64::from(trainer.method.as_in_place_prediction().is_some());
        let (forward, backward) = both("gather_tokens");
        assert!(forward > 0 && backward == 3 * in_place, "{method:?}: gather_tokens");
        // Three chunks; two blocks in the encoder, two in the predictor, and two in the target encoder.
        assert_eq!(calls("gelu", &[Phase::Context, Phase::Predictor]), 3 * (4 - 2 * in_place));
        let target = if trainer.params.get("target_encoder").is_some() { 3 * 2 } else { 0 };
        assert_eq!(calls("gelu", &[Phase::Target]), target, "{method:?}");
        let trained = trainer.params.trained_params().count() as u64;
        let penalized = matches!(method, MethodConfig::Ijepa { penalty: Some(_), .. });
        assert_eq!(calls("adamw", &[Phase::Optimizer]), 1, "all parameters in one call");
        assert_eq!(
            calls("accumulate", &[Phase::GradientSum]),
            2 * (trained + 1 + u64::from(noise.scaled || penalized)),
            "{method:?}: three chunks, two sums, also of the loss, and of h² or a penalty where there is one"
        );
    }
}

#[test]
fn no_bit_depends_on_the_meter() {
    let _alone = alone();
    for method in small::every_method() {
        let train = |metered: bool| {
            let mut trainer = small::trainer(method.clone(), false, DType::F32);
            let batch = small::batch(&trainer);
            let running = metered.then(meter::start);
            let losses: Vec<u64> = small::with_threads(3, || {
                (0..3).map(|_| trainer.step(&batch, &HYPER).unwrap().loss.to_bits()).collect()
            });
            assert_eq!(running.map(|r| r.stop().is_empty()), metered.then_some(false));
            (losses, small::bits(&trainer))
        };
        assert!(train(false) == train(true), "{method:?}");
    }
}

#[test]
fn a_profile_is_of_the_run_that_training_would_do() {
    let _alone = alone();
    let config = small::run(&small::trainer(small::stop(), false, DType::F32));
    let splits = data::open(&config.data, 16).unwrap();
    let mut losses = Vec::new();
    let longer = RunConfig { steps: 7, ..config.clone() };
    pretrain(&longer, &splits, 1, &mut |report, _| {
        losses.push(report.loss);
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    let profile = profile(&config, &splits, Device::Cpu, 2, 4).unwrap();
    assert_eq!(profile.loss.to_bits(), losses[5].to_bits(), "the loss of step 6");
    assert_eq!((profile.steps, profile.batch), (4, 10));
    assert!(profile.saved.iter().any(|s| s.name == "gelu_linear" && s.bytes > 0));
    let waited = profile.waited.unwrap_or_default();
    assert!(waited <= profile.thread_time(), "{waited:?} of {:?}", profile.thread_time());
    assert!(profile.peak > 1e8 && profile.peak.is_finite(), "{} operations a second", profile.peak);
}

#[test]
fn phases_add_up() {
    let _alone = alone();
    let config = small::run(&small::trainer(small::stop(), false, DType::F32));
    let config = RunConfig { batch: 80, ..config }; // three chunks: their gradients are summed
    let splits = data::open(&config.data, 16).unwrap();
    for threads in [1, 3] {
        let p = small::with_threads(threads, || profile(&config, &splits, Device::Cpu, 1, 40).unwrap());
        assert_eq!(p.threads, threads);
        let by_phase: Duration = PHASES.iter().map(|(phase, ..)| p.of_phase(*phase).time).sum();
        let by_op: Duration = p.by_op().iter().map(|(.., sum)| sum.time).sum();
        assert_eq!((by_phase, by_op), (p.busy().time, p.busy().time), "both tables are of the same time");
        assert_eq!(by_phase + p.idle(), p.thread_time());
        // No moment twice: or else there would be more than there is.
        assert!(p.busy().time <= p.thread_time(), "{threads} threads: {:?} of {:?}", p.busy().time, p.thread_time());
        for (phase, ..) in PHASES {
            assert!(p.of_phase(phase).time > Duration::ZERO, "{phase:?}");
        }
        assert_eq!(p.of_phase(Phase::Loading).calls, 0);
    }
}

/// On one thread there is nobody to wait for: nearly all of a step is in some phase.
#[test]
fn no_time_is_lost() {
    let _alone = alone();
    let mut trainer = small::trainer(small::stop(), false, DType::F32);
    let batch = small::batch(&trainer);
    let (totals, wall) = small::with_threads(1, || {
        let running = meter::start();
        let start = Instant::now();
        let losses: Vec<f64> = (0..50).map(|_| trainer.step(&batch, &HYPER).unwrap().loss).collect();
        assert!(losses.iter().all(|loss| loss.is_finite()));
        let wall = start.elapsed();
        (running.stop(), wall)
    });
    let busy = sum(&totals, |_| true).time;
    assert!(busy <= wall && busy.as_secs_f64() > 0.8 * wall.as_secs_f64(), "{busy:?} of {wall:?}");
}

#[test]
fn a_thread_is_in_one_place_at_a_time() {
    let _alone = alone();
    let wait = |ms| {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(ms) {
            std::hint::spin_loop();
        }
    };
    drop(meter::op("before the start"));
    let running = meter::start();
    let start = Instant::now();
    {
        let _data = meter::phase(Phase::Data);
        wait(4);
        {
            let _outer = meter::op("outer");
            wait(2);
            let _inner = meter::op("inner"); // a part of "outer"
            meter::product([2, 3, 5]);
            let _target = meter::phase(Phase::Target); // not a part of it
            wait(2);
        }
        let _again = meter::op("outer");
    }
    drop(meter::op("alone"));
    let wall = start.elapsed();
    let totals = running.stop();
    drop(meter::op("after the stop"));

    let at = |phase, op| totals.get(&Place { phase, op }).copied();
    let least = |sum: Option<Sum>, ms| assert!(sum.unwrap().time >= Duration::from_millis(ms), "{totals:?}");
    least(at(Phase::Data, None), 4);
    least(at(Phase::Data, Some("outer")), 2);
    least(at(Phase::Target, None), 2);
    let outer = at(Phase::Data, Some("outer")).unwrap();
    assert_eq!((outer.calls, outer.flops), (2, 60));
    assert_eq!(at(Phase::Rest, Some("alone")).unwrap().calls, 1);
    assert_eq!(totals.len(), 4, "{totals:?}");
    assert!(sum(&totals, |_| true).time <= wall);
}

/// Work that a thread spreads over others is in the phase that it names, whoever does it.
#[test]
fn helping_threads_without_a_phase_are_in_the_shared_one() {
    let _alone = alone();
    let totals = small::with_threads(3, || {
        let running = meter::start();
        let spread = |name| rayon::broadcast(|_| drop(meter::op(name)));
        {
            let _phase = meter::phase_of_all(Phase::Optimizer);
            spread("shared");
        }
        spread("afterwards");
        running.stop()
    });
    assert_eq!(totals[&Place { phase: Phase::Optimizer, op: Some("shared") }].calls, 3);
    assert_eq!(totals[&Place { phase: Phase::Rest, op: Some("afterwards") }].calls, 3);
    assert_eq!(totals.len(), 3, "and the time between operations: {totals:?}");
}

/// A product so large that several threads share it counts where it was asked for.
#[test]
fn helping_threads_are_where_their_work_is() {
    let _alone = alone();
    let [m, k, n] = [1100, 700, 700];
    let x = |rows, cols| Tensor::full([rows, cols], 1.0, DType::F32).into();
    let totals = small::with_threads(3, || {
        let running = meter::start();
        let phase = meter::phase(Phase::Context);
        ops::matmul(&x(m, k), &x(k, n));
        drop(phase);
        running.stop()
    });
    let there = totals[&Place { phase: Phase::Context, op: Some("matmul") }];
    assert_eq!((there.calls, there.flops as usize), (1, 2 * m * k * n));
    assert_eq!(sum(&totals, |_| true).flops, there.flops);
}

#[cfg(feature = "cli")]
#[test]
fn the_program_prints_three_tables_and_leaves_nothing() {
    let scratch = Scratch::new();
    let run = |more: &str| format!("{SMALL} --batch 8 --steps 3 --threads 2 --profile {more}");
    let printed = scratch.succeeds(&run("2 --method ijepa"));
    common::contains(
        &printed,
        &[
            "ijepa: 2 steps of 8 images after 3 of warm-up, threads: 2, images a chunk: 8",
            "A step by operation",
            "linear",
            "attention",
            "A step by phase",
            "context encoder",
            "threads × wall time",
            "What a chunk keeps for its backward pass",
            "peak: ",
        ],
    );
    let passes = |pass: &str| printed.lines().filter(|l| l.starts_with("linear ") && l.contains(pass)).count();
    assert_eq!((passes(" forward "), passes(" backward ")), (1, 1), "{printed}");
    assert!(scratch.succeeds(&run("")).starts_with("stop: 10 steps"), "the default");
    for (more, word) in [("0", "--profile"), ("--probe", "cannot be used with"), ("--name x", "cannot be used with")] {
        scratch.refuses(&run(more), &[word]);
    }
    assert_eq!(scratch.entries(), 0, "no run folder");
}
