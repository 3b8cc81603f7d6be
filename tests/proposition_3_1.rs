//! Appendix A of the paper and what lies beyond it: each statement is a function of [`stop_mim::lab`], which
//! `stop-mim check` prints; here each must pass.

use stop_mim::lab::{Finding, escapes, prop_3_1, second_order};

#[track_caller]
fn pass(findings: Vec<Finding>) {
    assert!(!findings.is_empty());
    for finding in findings {
        let Finding { statement, compared, scale, error, .. } = &finding;
        println!("{statement}: {compared}: {error:.1e} of {scale:.1e}");
        finding.assert_pass();
    }
}

#[test]
fn expected_loss_is_equation_8() {
    pass(prop_3_1::equation_8());
    pass(prop_3_1::silence());
}

#[test]
fn tied_and_deterministic_losses_agree_at_zero() {
    pass(prop_3_1::equations_9_and_10());
}

#[test]
fn gradients_of_the_appendix_are_those_of_the_tape() {
    pass(prop_3_1::appendix_gradient());
}

#[test]
fn proposition_a_1() {
    pass(prop_3_1::proposition_a_1());
}

#[test]
fn sampling_would_have_proved_nothing() {
    let share = prop_3_1::proposition_a_1_by_sampling(1000);
    assert!(share > 0.03, "{share}");
}

#[test]
fn proposition_3_1() {
    pass(prop_3_1::proposition_3_1());
}

#[test]
fn curvature_without_tying() {
    pass(second_order::curvature_without_tying());
}

#[test]
fn curvature_with_tying() {
    pass(second_order::curvature_with_tying());
}

#[test]
fn a_calibrated_predictor() {
    pass(second_order::calibrated());
}

#[test]
fn a_linear_predictor_is_regularized_by_tikhonov() {
    pass(second_order::tikhonov());
}

#[test]
fn noise_on_the_context_too() {
    pass(second_order::noise_on_the_context_too());
}

#[test]
fn noise_scaled_by_the_context() {
    pass(second_order::noise_scaled_by_the_context());
}

#[test]
fn two_gradients_of_an_expectation() {
    pass(prop_3_1::reparametrization());
}

#[test]
fn sampled_positions_pass_a_z_test() {
    pass(prop_3_1::sampled_positions());
}

#[test]
fn noise_can_help_an_uncalibrated_predictor() {
    pass(second_order::noise_can_help());
}

#[test]
fn a_saddle_until_the_network_fits() {
    pass(second_order::a_saddle_until_fitted());
}

#[test]
fn a_kink_makes_zero_a_minimum() {
    pass(second_order::a_kink());
}

#[test]
fn a_minimum_at_zero_although_the_context_is_used() {
    pass(second_order::minimum_at_zero());
}

#[test]
fn the_gauge_escape() {
    pass(escapes::gauge());
}

#[test]
fn the_rescaling_escape() {
    pass(escapes::rescaling());
}

#[test]
fn the_subspace_escape() {
    pass(escapes::subspace());
}

#[test]
fn the_null_direction() {
    pass(escapes::null_direction());
}
