//! Every kernel compiles for the architectures that are in use, with the real compiler: NVRTC, which needs no GPU.
//!
//! `cargo test --features cuda --test cuda_kernels_compile -- --nocapture` prints the table of docs/cuda.md.
#![cfg(feature = "cuda")]

use std::collections::BTreeMap;

use stop_mim::kernels::cuda::compile_all;

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
        assert!(reports.len() > 80, "{} kernels", reports.len());
        let mut rows = BTreeMap::<(&str, &str), u32>::new();
        for report in &reports {
            let (file, _) = report.file.split_once(" REAL=").expect("a type of elements");
            println!("{architecture}: {} of {}: {report:?}", report.kernel, report.file);
            assert_eq!(report.spilled, 0, "{report:?}");
            let row = rows.entry((file, &report.kernel)).or_default();
            *row = report.registers.max(*row);
        }
        println!("\n| {architecture}: file | kernel | registers, at most |\n|---|---|---:|");
        for ((file, kernel), registers) in rows {
            println!("| {file} | {kernel} | {registers} |");
        }
    }
}
