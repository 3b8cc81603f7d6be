//! Floor 6: the laboratory. Statements about the paper's equations, each put to a test that could fail.
//!
//! A test of a statement is a function here that returns [`Finding`]s. `cargo test` asserts them, `stop-mim check`
//! prints them: the same code, so that neither can say what the other does not. [`prop_3_1::of`] and [`prop_3_2::of`]
//! put a predictor of one's own to the propositions.

pub mod collapse;
pub mod escapes;
mod finding;
pub mod gradients;
pub mod graph;
pub mod predictors;
pub mod profile;
pub mod prop_3_1;
pub mod prop_3_2;
pub mod second_order;

pub use finding::{Compared, Finding};

pub use crate::train::small;

use predictors::on_all;

/// The test of a statement.
pub type Statement = fn() -> Vec<Finding>;

/// Every statement about the paper's equations that is tested here, in the order of the paper.
pub fn statements() -> Vec<Statement> {
    vec![
        prop_3_1::sampled_positions,
        prop_3_1::reparametrization,
        prop_3_1::equation_8,
        || on_all(prop_3_1::silence),
        || on_all(prop_3_1::equations_9_and_10),
        || on_all(prop_3_1::appendix_gradient),
        || on_all(prop_3_1::proposition_a_1),
        prop_3_1::proposition_3_1,
        second_order::curvature_without_tying,
        || on_all(second_order::curvature_with_tying),
        second_order::calibrated,
        second_order::tikhonov,
        second_order::noise_on_the_context_too,
        || on_all(second_order::noise_scaled_by_the_context),
        second_order::noise_can_help,
        second_order::a_saddle_until_fitted,
        second_order::a_kink,
        second_order::minimum_at_zero,
        escapes::gauge,
        || on_all(escapes::rescaling),
        escapes::subspace,
        escapes::null_direction,
        prop_3_2::conditional_mean,
        prop_3_2::clean_expectations,
        prop_3_2::joint_independence,
        prop_3_2::convolution,
        prop_3_2::kernel,
        prop_3_2::gaussian_prior,
        prop_3_2::grid_edges,
        prop_3_2::ring,
        prop_3_2::softmax,
        prop_3_2::tweedie,
        prop_3_2::blackwell,
        prop_3_2::smooth_l1,
    ]
}
