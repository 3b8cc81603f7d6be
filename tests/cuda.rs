//! The program on a GPU, or on the CPU that plays one (tests/cuda_on_cpu): what it says, writes and computes is what it does on
//! the CPU, but for rounding.
#![cfg(feature = "cuda")]

mod common;
mod cuda_on_cpu;

use std::path::Path;
use std::process::Command;

use common::{SMALL, Scratch, contains, fails, pictures, printed};
use cuda_on_cpu::Libraries;
use safetensors::SafeTensors;
use stop_mim::autograd::check::Verdict;
use stop_mim::lab::gradients;
use stop_mim::{DType, Tensor};

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
    printed(&within("little", 6 << 20), args);
    close("in smaller chunks", &column(&at, "little", "loss"), &column(&at, "plenty", "loss"), 1e-5);
    fails(&within("none", 3 << 20), args, &["memory", "MiB", "smaller"]);
}

#[test]
fn what_is_not_there_is_named() {
    let at = Scratch::new();
    let args = format!("{SMALL} --steps 1 --device cuda:99");
    let Some(mut command) = command(&at, &args) else { return };
    fails(&command.output().unwrap(), &args, &["there is no GPU 99", "nvidia-smi"]);
    assert_eq!(at.entries(), 0, "nothing was begun");
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
