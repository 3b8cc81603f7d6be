//! Proposition 3.2 and appendix B: each step of the derivation, and each way in which it stops to hold.

use stop_mim::lab::{Finding, prop_3_2};

fn all_pass(findings: Vec<Finding>) {
    assert!(!findings.is_empty());
    findings.iter().for_each(Finding::assert_pass);
}

#[test]
fn the_conditional_mean_minimizes_the_risk() {
    all_pass(prop_3_2::conditional_mean());
}

#[test]
fn the_optimum_averages_clean_expectations() {
    all_pass(prop_3_2::clean_expectations());
}

#[test]
fn equation_14_needs_joint_independence() {
    all_pass(prop_3_2::joint_independence());
}

#[test]
fn a_flat_prior_makes_the_optimum_a_convolution() {
    all_pass(prop_3_2::convolution());
}

#[test]
fn the_kernel_integrates_to_one_in_d_dimensions() {
    all_pass(prop_3_2::kernel());
}

#[test]
fn a_gaussian_prior_shrinks() {
    all_pass(prop_3_2::gaussian_prior());
}

#[test]
fn the_edges_of_a_grid_pull_inwards() {
    all_pass(prop_3_2::grid_edges());
}

#[test]
fn a_uniform_prior_on_a_ring_is_flat() {
    all_pass(prop_3_2::ring());
}

#[test]
fn discrete_positions_are_weighed_by_a_softmax() {
    all_pass(prop_3_2::softmax());
}

#[test]
fn the_best_guess_is_a_step_uphill() {
    all_pass(prop_3_2::tweedie());
}

#[test]
fn more_noise_never_lowers_the_least_risk() {
    all_pass(prop_3_2::blackwell());
}

#[test]
fn smooth_l1_is_not_least_at_the_mean() {
    all_pass(prop_3_2::smooth_l1());
}
