//! The program on a GPU, or on the CPU that plays one (tests/cuda_on_cpu): what it says, writes and computes is what it does on
//! the CPU, but for rounding.
#![cfg(feature = "cuda")]

mod common;
mod cuda_on_cpu;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use common::{Running, SMALL, Scratch, contains, fails, pictures, printed, wait_for};
use cuda_on_cpu::Libraries;
use safetensors::SafeTensors;
use stop_mim::autograd::check::Verdict;
use stop_mim::lab::{gradients, small};
use stop_mim::train::{LearningRate, Monitoring, RunConfig, Trainer, WeightDecay, resume};
use stop_mim::{DType, Device, Error, Tensor, data};

/// The program with these words and, if it is asked to compute there, the libraries of the device of tests.
fn command(at: &Scratch, args: &str) -> Option<Command> {
    let mut command = at.command(args);
    if let Libraries::OnCpu(folder) = cuda_on_cpu::libraries()? {
        command.env("STOP_MIM_CUDA_LIBRARIES", folder);
    }
    Some(command)
}

#[track_caller]
fn run(at: &Scratch, args: &str) -> Option<String> {
    let output = command(at, args)?.output().unwrap();
    Some(printed(&output, args) + &String::from_utf8_lossy(&output.stderr))
}

/// A column of a run's log.
fn column(at: &Scratch, run: &str, name: &str) -> Vec<f64> {
    let log = String::from_utf8(at.read(format!("runs/{run}/log.csv"))).unwrap();
    let mut lines = log.lines();
    let place = lines.next().unwrap().split(',').position(|column| column == name).unwrap();
    lines.map(|line| line.split(',').nth(place).unwrap().parse().unwrap()).collect()
}

#[track_caller]
fn close(what: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let near = |(x, y): (&f64, &f64)| (x - y).abs() <= tolerance * y.abs();
    assert!(found.iter().zip(expected).all(near), "{what}: {found:?} instead of {expected:?}");
}

#[test]
fn a_run_of_every_method_logs_what_it_logs_on_the_cpu() {
    let at = Scratch::new();
    for method in ["stop", "ijepa", "mae", "data2vec", "simmim"] {
        let predictor = "--predictor-dim 8 --predictor-depth 1 --predictor-heads 1";
        let predictor = if ["data2vec", "simmim"].contains(&method) { "" } else { predictor };
        let args = format!("pretrain --method {method} --steps 4 --batch 6 --dim 16 --depth 2 --heads 2 {predictor}");
        let Some(_) = run(&at, &format!("{args} --name {method}-gpu --device cuda")) else { return };
        at.succeeds(&format!("{args} --name {method}-cpu"));
        let [gpu, cpu] = ["gpu", "cpu"].map(|device| column(&at, &format!("{method}-{device}"), "loss"));
        close(method, &gpu, &cpu, 1e-5);
        assert!(gpu.iter().zip(&gpu[1..]).any(|(a, b)| a != b), "{method}: no step was made");
    }
}

/// The same bits from run to run; a run goes on on the other device, in either direction.
#[test]
fn a_run_is_resumed_on_another_device() {
    let at = Scratch::new();
    let args = format!("{SMALL} --batch 8");
    let Some(_) = run(&at, &format!("{args} --steps 3 --name a --device cuda")) else { return };
    run(&at, &format!("{args} --steps 3 --name b --device cuda"));
    let checkpoint = |name: &str| at.read(format!("runs/{name}/checkpoint.safetensors"));
    assert!(checkpoint("a") == checkpoint("b"), "two runs on one GPU differ");
    at.succeeds(&format!("{args} --steps 3 --name c"));
    assert!(checkpoint("a") != checkpoint("c"), "nothing was computed on the GPU");
    at.succeeds("pretrain --resume runs/a --steps 6");
    run(&at, "pretrain --resume runs/c --steps 6 --device cuda");
    close("on from either", &column(&at, "a", "loss")[3..], &column(&at, "c", "loss")[3..], 1e-4);
}

/// How often what launches, waits and allocates was called by a run of so many steps.
fn calls(at: &Scratch, steps: usize, env: &[(&str, &str)]) -> Option<BTreeMap<String, usize>> {
    let Libraries::OnCpu(_) = cuda_on_cpu::libraries()? else { return None }; // a GPU does not count
    let name = format!("calls-{steps}-{}", env.len());
    let args = format!("{SMALL} --batch 8 --steps {steps} --diagnose-every 0 --name {name} --device cuda");
    let mut command = command(at, &args)?;
    printed(&command.env("CUDA_ON_CPU_CALLS", at.path(&name)).envs(env.iter().copied()).output().unwrap(), &args);
    let counts = String::from_utf8(at.read(&name)).unwrap();
    let counts = counts.lines().map(|line| line.rsplit_once(' ').unwrap());
    Some(counts.map(|(call, count)| (call.to_owned(), count.parse().unwrap())).collect())
}

/// A step is two graphs, its gradients and its update, and the host waits for one event; nothing else is launched or waited for.
/// Without graphs, and with memory that is not recycled, every bit is the same.
#[test]
fn a_step_is_two_graphs_and_one_wait() {
    let at = Scratch::new();
    let Some(few) = calls(&at, 3, &[]) else { return };
    let many = calls(&at, 13, &[]).unwrap();
    let of = |calls: &BTreeMap<String, usize>, name: &str| calls.get(name).copied().unwrap_or(0);
    let ten_steps = |name| of(&many, name) - of(&few, name);
    for (name, each) in [
        ("cuGraphLaunch", 2),
        ("cuEventSynchronize", 1),
        ("cuStreamSynchronize", 0),
        ("pageable copies", 0),
        ("cuLaunchKernel", 0),
    ] {
        assert_eq!(ten_steps(name), 10 * each, "{name} in ten steps: {few:?}, then {many:?}");
    }
    // Masks vary from step to step, and the sequence of kernels seldom.
    assert!(of(&many, "cuGraphInstantiate") <= 8 && ten_steps("cuGraphExecUpdate") >= 16, "{many:?}");
    assert!(ten_steps("kernels in graphs") > 1000, "{many:?}");

    let without = calls(&at, 13, &[("STOP_MIM_CUDA_NO_GRAPHS", "1")]).unwrap();
    assert_eq!((of(&without, "cuGraphLaunch"), of(&without, "kernels in graphs")), (0, 0));
    let plain = [("STOP_MIM_CUDA_PLAIN_MEMORY", "1"), ("CUDA_ON_CPU_SEED", "5")];
    assert_eq!(of(&calls(&at, 13, &plain).unwrap(), "cuGraphLaunch"), 0);
    let [with, without, plain] =
        [0, 1, 2].map(|i| at.read(format!("runs/calls-13-{i}/checkpoints/step-00000013.safetensors")));
    assert!(with == without && with == plain, "graphs change bits");
}

/// A run that was killed goes on from its last checkpoint to the same bits.
#[test]
fn a_run_that_was_killed_goes_on_to_the_same_bits() {
    let at = Scratch::new();
    let args = format!("{SMALL} --batch 8 --steps 12 --checkpoint-every 1 --device cuda");
    let Some(_) = run(&at, &format!("{args} --name whole")) else { return };
    for after in [2, 7] {
        let name = format!("killed-{after}");
        let child = Running(command(&at, &format!("{args} --name {name}")).unwrap().spawn().unwrap());
        let kept = |step: usize| at.path(format!("runs/{name}/checkpoints/step-{step:08}.safetensors")).exists();
        wait_for("a checkpoint", || (after..12).any(kept));
        drop(child); // SIGKILL
        assert!(!kept(12), "it was over before it was killed");
        run(&at, &format!("pretrain --resume runs/{name} --device cuda"));
        let end = |name: &str| at.read(format!("runs/{name}/checkpoints/step-00000012.safetensors"));
        assert!(end(&name) == end("whole"), "killed after step {after}");
        let losses = |name: &str| column(&at, name, "loss");
        assert_eq!(losses(&name), losses("whole"));
    }
}

/// Every bit of a trainer.
fn bits(trainer: &Trainer) -> Vec<u64> {
    let moments = trainer.optimizer.moments().iter().flat_map(|(m, v)| [m, v]).flat_map(Tensor::to_f64_vec);
    let weights = small::bits(&trainer.clone().to_device(Device::Cpu));
    weights.into_iter().map(u64::from).chain(moments.map(f64::to_bits)).collect()
}

/// What is observed of a step is that step, though the next one is begun: as when none is begun before the one before it was
/// observed.
#[test]
fn what_is_observed_is_as_the_step_left_it() {
    let Some(device) = cuda_on_cpu::device() else { return };
    let trainer = small::trainer(small::stop(), false, DType::F32).to_device(device);
    let (config, splits) = (small::run(&trainer), data::open("shapes", 16).unwrap());
    let run = |one_by_one, until| {
        let (mut seen, watch) = (Vec::new(), Monitoring { one_by_one, ..2.into() });
        let ended = resume(trainer.clone(), &config, &splits, watch, &mut |report, trainer| {
            assert_eq!(trainer.optimizer.steps() as usize, report.step);
            seen.push((report.loss.to_bits(), report.numbers.clone(), report.diagnostics.clone(), bits(trainer)));
            Ok(if report.step == until { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        let ended = ended.unwrap();
        assert_eq!((ended.optimizer.steps() as usize, seen.len()), (until, until));
        assert!(bits(&ended) == seen.last().unwrap().3, "the end is not what was seen last");
        seen
    };
    let one_by_one = run(true, 5);
    assert!(one_by_one == run(false, 5));
    assert!(one_by_one[..3] == run(false, 3));
    assert!(one_by_one.windows(2).all(|two| two[0].1 != two[1].1 && two[0].3 != two[1].3));
}

/// A number that is not finite stops a run at its step, which is not made, whatever of the next one was begun.
#[test]
fn a_step_that_is_not_finite_is_not_made() {
    let Some(device) = cuda_on_cpu::device() else { return };
    let start = small::trainer(small::stop(), false, DType::F32);
    let config = RunConfig {
        lr: LearningRate { start: 1e-3, peak: 1e30, end: 1e30, warmup: 4 },
        weight_decay: WeightDecay { start: 0.0, end: 0.0 },
        ..small::run(&start)
    };
    let splits = data::open("shapes", 16).unwrap();
    let failed = |device| {
        let mut seen = vec![bits(&start.clone().to_device(device))];
        let failed = resume(start.clone().to_device(device), &config, &splits, 0, &mut |_, trainer| {
            seen.push(bits(trainer));
            Ok(ControlFlow::Continue(()))
        });
        let failed = *failed.unwrap_err();
        let Error::Training { step, .. } = failed.error else { panic!("{}", failed.error) };
        contains(&failed.error.to_string(), &["first, images", "the step was not made"]);
        let given_back = failed.trainer.expect("no update was cut short");
        assert_eq!((given_back.optimizer.steps() as usize, seen.len()), (step - 1, step));
        assert!(bits(&given_back) == seen[step - 1], "step {step} changed something");
        step
    };
    assert_eq!(failed(device), failed(Device::Cpu));
}

#[test]
fn every_command_gives_what_it_gives_on_the_cpu() {
    let at = Scratch::new();
    at.succeeds(&format!("{SMALL} --batch 8 --steps 2 --name of"));
    let of = "runs/of/checkpoint.safetensors";
    // Accuracies and scores, to their printed digit but for a test image or two.
    let numbers = |text: &str| -> Vec<f64> {
        let rows = text.lines().filter(|line| line.contains("encoder"));
        rows.flat_map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect::<Vec<f64>>())
            .collect()
    };
    for args in [format!("probe {of} --probe-images 60,40"), format!("track {of} --frame-size 32 --clips 1")] {
        let Some(gpu) = run(&at, &format!("{args} --device cuda")) else { return };
        let (gpu, cpu) = (numbers(&gpu), numbers(&at.succeeds(&args)));
        assert!(!cpu.is_empty() && gpu.len() == cpu.len(), "{args}: {gpu:?}, {cpu:?}");
        assert!(gpu.iter().zip(&cpu).all(|(x, y)| (x - y).abs() <= 2.6), "{args}: {gpu:?} instead of {cpu:?}");
    }
    for (class, i) in ["dark", "light"].into_iter().flat_map(|class| (0..10).map(move |i| (class, i))) {
        let level = if class == "dark" { 5 * i } else { 200 + 5 * i };
        at.write(format!("images/{class}/{i}.png"), pictures::gray(level));
    }
    let tune = format!("finetune {of} --steps 2 --batch 8 --data folder:images");
    run(&at, &format!("{tune} --name tuned-gpu --device cuda"));
    at.succeeds(&format!("{tune} --name tuned-cpu"));
    let features = |out: &str| -> Vec<f64> {
        let bytes = at.read(out);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let numbers = file.tensor("features").unwrap().data().as_chunks::<4>().0;
        numbers.iter().map(|x| f64::from(f32::from_le_bytes(*x))).collect()
    };
    run(&at, &format!("features {of} --data folder:images --out gpu.safetensors --device cuda"));
    at.succeeds(&format!("features {of} --data folder:images --out cpu.safetensors"));
    let (gpu, cpu) = (features("gpu.safetensors"), features("cpu.safetensors"));
    let most = cpu.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    let off = gpu.iter().zip(&cpu).map(|(x, y)| (x - y).abs() / most).fold(0.0, f64::max);
    assert!(gpu.len() == 20 * 16 && gpu != cpu && off < 1e-5, "features off by {off:e}");
    let right = |text: &str| text.lines().find(|line| line.contains("test images told right")).unwrap().to_owned();
    let evaluate = "finetune --evaluate runs/tuned-cpu/checkpoint.safetensors";
    let there = run(&at, &format!("{evaluate} --device cuda")).unwrap();
    assert_eq!(right(&there), right(&at.succeeds(evaluate)));
    close("finetune", &column(&at, "tuned-gpu", "loss"), &column(&at, "tuned-cpu", "loss"), 1e-5);
}

#[test]
fn a_chunk_is_as_large_as_memory_allows() {
    let at = Scratch::new();
    let args = "pretrain --dim 64 --depth 2 --heads 2 --predictor-dim 32 --predictor-depth 1 --predictor-heads 1 --batch 32 \
        --steps 2 --device cuda --threads 8 --debug-nan";
    let Some(Libraries::OnCpu(_)) = cuda_on_cpu::libraries() else { return }; // memory of a GPU cannot be set
    let within = |name: &str, bytes: usize| {
        let mut command = command(&at, &format!("{args} --name {name}")).unwrap();
        command.env("CUDA_ON_CPU_MEMORY", bytes.to_string()).output().unwrap()
    };
    printed(&within("plenty", 1 << 30), args);
    printed(&within("little", 7 << 20), args);
    close("in smaller chunks", &column(&at, "little", "loss"), &column(&at, "plenty", "loss"), 1e-5);
    fails(&within("none", 3 << 20), args, &["memory", "MiB", "smaller"]);
}

#[test]
fn what_is_not_there_is_named() {
    let at = Scratch::new();
    let args = format!("{SMALL} --steps 1 --device cuda:99");
    let Some(mut command) = command(&at, &args) else { return };
    fails(&command.output().unwrap(), &args, &["there is no GPU 99", "nvidia-smi"]);
    let names = std::fs::read_dir(at.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    let begun: Vec<_> = names.filter(|name| name != ".nv").collect(); // a real driver's cache
    assert!(begun.is_empty(), "nothing was begun: {begun:?}");
    if !std::path::Path::new("/dev/nvidiactl").exists() {
        at.refuses(&format!("{SMALL} --steps 1 --device cuda"), &["libcuda", "looked in", "driver"]);
    }
    contains(&at.refuses("pretrain --device tpu", &[]), &["no device is called 'tpu'", "cuda"]);
}

#[test]
fn where_the_time_goes_is_told_kernel_by_kernel() {
    let at = Scratch::new();
    let profile = "pretrain --profile 2 --dim 16 --depth 1 --heads 2 --batch 8";
    let Some(told) = run(&at, &format!("{profile} --precision bf16 --device cuda")) else { return };
    contains(
        &told,
        &[
            "launches a step",
            "TFLOP/s",
            "GB/s",
            "matmul on tensor cores: products",
            "optim: adamw",
            "attention on tensor cores: backward",
        ],
    );
    // What is counted is the steps, whole, and the products that the CPU counts.
    let attention = told.lines().find(|line| line.contains("attention on tensor cores: backward")).unwrap();
    assert!(attention.contains(".0 "), "launches of half a step: {attention}");
    let of = |text: &str| text.split(" GFLOP of matrix").next().unwrap().rsplit([' ', '\n']).next().unwrap().to_owned();
    assert_eq!(of(&told), of(&at.succeeds(profile)));
    let adamw = told.lines().find(|line| line.contains("optim: adamw")).unwrap();
    assert!(adamw.contains("| 1.0") || adamw.contains(" 1.0 "), "one launch a step: {adamw}");
}

/// What plays the GPU computes what its instructions are defined to, and finds the mistakes that it is there to find.
#[test]
fn what_plays_the_gpu_is_right() {
    let Some(Libraries::OnCpu(folder)) = cuda_on_cpu::libraries() else { return };
    let (at, sources) = (Scratch::new(), Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_on_cpu"));
    let compiler = std::env::var("CXX").unwrap_or("g++".into());
    let test = at.path("self_test");
    let built = Command::new(compiler)
        .args(["-O1", "-std=c++17", "-o"])
        .args([&test, &sources.join("self_test.cpp")])
        .arg("-ldl")
        .output()
        .unwrap();
    printed(&built, "self_test.cpp");
    let files = [folder, sources.join("../../src/kernels/cuda/primitives.cuh"), sources.join("self_test.cu")];
    println!("{}", printed(&Command::new(test).args(files).output().unwrap(), "self_test"));
}

/// Each operation, there and in f64, against central differences.
#[test]
fn every_gradient_is_right_there() {
    let Some(device) = cuda_on_cpu::device() else { return };
    for finding in gradients::operations_on(device) {
        assert_eq!(finding.verdict(), Verdict::Pass, "{finding:?}");
    }
}

#[test]
#[should_panic(expected = "as_slice: the elements are on cuda:0; ask to_device for them")]
fn elements_that_are_elsewhere_are_not_read_by_mistake() {
    let device =
        cuda_on_cpu::device().unwrap_or_else(|| panic!("as_slice: the elements are on cuda:0; ask to_device for them"));
    let x = Tensor::zeros([2], DType::F32).to_device(device);
    x.as_slice::<f32>();
}
