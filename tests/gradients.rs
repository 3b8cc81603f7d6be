//! Every derivative that training rests on, in f64: what `stop-mim check gradients` and `stop-mim check graph` print is
//! asserted here, and that a trainer without a gradient, or with another cut into chunks, behaves as it must.

use stop_mim::lab::{Finding, gradients, graph, small};
use stop_mim::nn::Role;
use stop_mim::{DType, Error};

#[test]
fn every_operation() {
    gradients::operations().iter().for_each(Finding::assert_pass);
}

#[test]
fn every_layer() {
    gradients::layers().iter().for_each(Finding::assert_pass);
}

#[test]
fn a_training_step_of_every_method() {
    let findings = gradients::training_steps();
    assert_eq!(findings.len(), small::every_method().len() + 1);
    findings.iter().for_each(Finding::assert_pass);
}

#[test]
fn the_error_of_a_difference_quotient_is_a_v() {
    gradients::sweep().unwrap().findings.iter().for_each(Finding::assert_pass);
}

#[test]
fn the_graph_of_a_training_step_of_every_method() {
    for method in small::every_method() {
        let trainer = small::trainer(method, false, DType::F64);
        graph::lint(&trainer, &small::batch(&trainer)).findings.iter().for_each(Finding::assert_pass);
    }
}

#[test]
fn a_parameter_without_a_gradient_is_named() {
    let stop = small::stop(); // official form: the mask token is not read
    let mut trainer = small::trainer(stop, false, DType::F64);
    let batch = small::batch(&trainer);
    assert!(trainer.gradients(&batch).is_ok());
    let mask_token = trainer.model.predictor.mask_token;
    trainer.params.predictor.set_role(mask_token, Role::Trained);
    match trainer.gradients(&batch) {
        Err(Error::Training { problem, .. }) => assert!(problem.contains("mask_token"), "{problem}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn chunks_do_not_change_what_is_computed() {
    for method in small::every_method() {
        // Given noise, so that the draws do not depend on the cut.
        let mut trainer = small::trainer(method, false, DType::F64);
        let mut batch = small::batch(&trainer);
        trainer.chunk_images = 7;
        if let Some(noise) = trainer.cut(&batch, 0..7).noise {
            let blocks = batch.targets.len();
            let rows = noise.shape()[0] / blocks;
            let given = (0..blocks).map(|i| noise.rows(i * rows..(i + 1) * rows)).collect();
            batch.noise = stop_mim::train::Noise::Given(given);
        }
        let whole = trainer.gradients(&batch).unwrap();
        for chunk_images in [1, 2, 3, 5] {
            trainer.chunk_images = chunk_images;
            let cut = trainer.gradients(&batch).unwrap();
            assert!((cut.loss - whole.loss).abs() < 1e-14);
            for (x, y) in cut.gradients.iter().zip(&whole.gradients) {
                assert!(x.max_abs_diff(y) < 1e-13);
            }
        }
    }
}

#[cfg(feature = "cli")]
#[test]
fn the_program_says_what_is_wrong_with_a_graph() {
    let sizes = "--dim 16 --depth 2 --heads 2 --predictor-dim 8 --predictor-depth 1 --predictor-heads 1";
    let graph = |more: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stop-mim"));
        let output = command.args(format!("check graph {sizes} {more}").split_whitespace()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    for method in ["stop", "ijepa", "mae", "stop --stop-tokens paper --learned-positions"] {
        let (code, text) = graph(&format!("--method {method}"));
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("attention") && !text.contains("MISMATCH"), "{text}");
    }
    let (code, text) = graph("--poison blocks.1.attn.qkv.weight");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("the parameter blocks.1.attn.qkv.weight is not finite"), "{text}");
    let (code, text) = graph("--poison blocks.7.attn.qkv.weight");
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("no parameter called blocks.7.attn.qkv.weight"), "{text}");
}
