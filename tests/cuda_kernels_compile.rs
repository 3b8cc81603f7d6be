//! Every kernel compiles for the architectures that are in use, with the real compiler: NVRTC, which needs no GPU.
//!
//! `cargo test --features cuda --test cuda_kernels_compile -- --nocapture` prints the table of docs/cuda.md.
#![cfg(feature = "cuda")]

use stop_mim::kernels::cuda::{KernelReport, compile_all};

#[test]
fn every_kernel_compiles_for_every_architecture() {
    for architecture in ["sm_80", "sm_89", "sm_90a"] {
        let reports = match compile_all(architecture) {
            Ok(reports) => reports,
            Err(error) if error.to_string().contains("was not found") => {
                println!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{architecture}: {error}"),
        };
        println!("\n| {architecture}: file | kernel | registers | spilled bytes |\n|---|---|---:|---:|");
        for report in &reports {
            println!("| {} | {} | {} | {} |", report.file, report.kernel, report.registers, report.spilled);
        }
        assert!(reports.len() > 50, "{} kernels", reports.len());
        // f64 is for gradient checks: its exponential is a call, around which registers are put aside.
        let slow = |report: &&KernelReport| report.spilled > 0 && !report.file.contains("double");
        let spilled: Vec<_> = reports.iter().filter(slow).collect();
        assert!(spilled.is_empty(), "{spilled:?}");
    }
}
