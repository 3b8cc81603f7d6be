//! Appendices A and B of the paper and what lies beyond them: each statement is a function of [`stop_mim::lab`], which
//! `stop-mim check` prints; here each must pass.

use stop_mim::lab::predictors::on_all;
use stop_mim::lab::{Finding, escapes, prop_3_1, prop_3_2, second_order};

#[track_caller]
fn pass(findings: Vec<Finding>) {
    assert!(!findings.is_empty());
    for finding in findings {
        let Finding { statement, compared, scale, error, .. } = &finding;
        println!("{statement}: {compared}: {error:.1e} of {scale:.1e}");
        finding.assert_pass();
    }
}

/// A test of each name: the statements behind it pass.
macro_rules! tests {
    ($($name:ident: $($findings:expr),+;)*) => {
        $(#[test]
        fn $name() {
            $(pass($findings);)+
        })*
    };
}

// Proposition 3.1.
tests! {
    expected_loss_is_equation_8: prop_3_1::equation_8(), on_all(prop_3_1::silence);
    tied_and_deterministic_losses_agree_at_zero: on_all(prop_3_1::equations_9_and_10);
    gradients_of_the_appendix_are_those_of_the_tape: on_all(prop_3_1::appendix_gradient);
    proposition_a_1: on_all(prop_3_1::proposition_a_1);
    proposition_3_1: prop_3_1::proposition_3_1();
    two_gradients_of_an_expectation: prop_3_1::reparametrization();
    sampled_positions_pass_a_z_test: prop_3_1::sampled_positions();
    curvature_without_tying: second_order::curvature_without_tying();
    curvature_with_tying: on_all(second_order::curvature_with_tying);
    a_calibrated_predictor: second_order::calibrated();
    a_linear_predictor_is_regularized_by_tikhonov: second_order::tikhonov();
    noise_on_the_context_too: second_order::noise_on_the_context_too();
    noise_scaled_by_the_context: on_all(second_order::noise_scaled_by_the_context);
    noise_can_help_an_uncalibrated_predictor: second_order::noise_can_help();
    a_saddle_until_the_network_fits: second_order::a_saddle_until_fitted();
    a_kink_makes_zero_a_minimum: second_order::a_kink();
    a_minimum_at_zero_although_the_context_is_used: second_order::minimum_at_zero();
    the_gauge_escape: escapes::gauge();
    the_rescaling_escape: on_all(escapes::rescaling);
    the_subspace_escape: escapes::subspace();
    the_null_direction: escapes::null_direction();
}

#[test]
fn sampling_would_have_proved_nothing() {
    let share = prop_3_1::proposition_a_1_by_sampling(1000);
    assert!(share > 0.03, "{share}");
}

// Proposition 3.2: each step of the derivation, and each way in which it stops to hold.
tests! {
    the_conditional_mean_minimizes_the_risk: prop_3_2::conditional_mean();
    the_optimum_averages_clean_expectations: prop_3_2::clean_expectations();
    equation_14_needs_joint_independence: prop_3_2::joint_independence();
    a_flat_prior_makes_the_optimum_a_convolution: prop_3_2::convolution();
    the_kernel_integrates_to_one_in_d_dimensions: prop_3_2::kernel();
    a_gaussian_prior_shrinks: prop_3_2::gaussian_prior();
    the_edges_of_a_grid_pull_inwards: prop_3_2::grid_edges();
    a_uniform_prior_on_a_ring_is_flat: prop_3_2::ring();
    discrete_positions_are_weighed_by_a_softmax: prop_3_2::softmax();
    the_best_guess_is_a_step_uphill: prop_3_2::tweedie();
    more_noise_never_lowers_the_least_risk: prop_3_2::blackwell();
    smooth_l1_is_not_least_at_the_mean: prop_3_2::smooth_l1();
}
