//! Floor 6: the laboratory. Statements about the paper's equations, each put to a test that could fail.
//!
//! A test of a statement is a function here that returns [`Finding`]s. `cargo test` asserts them, `stop-mim check`
//! prints them: the same code, so that neither can say what the other does not.

mod finding;
pub mod predictors;
pub mod prop_3_1;
pub mod prop_3_2;

pub use finding::Finding;

/// A statement's place in the paper, or its name where the paper has none, and its test.
pub type Statement = (&'static str, fn() -> Vec<Finding>);

/// Every statement about the paper's equations that is tested here, in the order of the paper.
pub fn statements() -> Vec<Statement> {
    vec![
        ("Eqs. 3–5, sampled", prop_3_1::sampled_positions),
        ("Eq. 5, gradient", prop_3_1::reparametrisation),
        ("Eq. 8", prop_3_1::equation_8),
        ("Eqs. 8, 10, no noise", prop_3_1::silence),
        ("Eqs. 9, 10", prop_3_1::equations_9_and_10),
        ("App. A, gradient", prop_3_1::appendix_gradient),
        ("Prop. A.1", prop_3_1::proposition_a_1),
        ("Props. A.2, 3.1; Eqs. 11, 12", prop_3_1::proposition_3_1),
        ("curvature, untied", prop_3_1::curvature_without_tying),
        ("curvature, tied", prop_3_1::curvature_with_tying),
        ("calibrated F", prop_3_1::calibrated),
        ("Tikhonov", prop_3_1::tikhonov),
        ("noise on both (Table 7)", prop_3_1::noise_on_the_context_too),
        ("noise scaled by x", prop_3_1::noise_scaled_by_the_context),
        ("noise can help", prop_3_1::noise_can_help),
        ("a kink in F", prop_3_1::a_kink),
        ("minimum at A = 0", prop_3_1::minimum_at_zero),
        ("gauge escape", prop_3_1::gauge),
        ("rescaling escape", prop_3_1::rescaling),
        ("subspace escape", prop_3_1::subspace),
        ("null direction", prop_3_1::null_direction),
        ("Eq. 7", prop_3_2::conditional_mean),
        ("App. B", prop_3_2::clean_expectations),
        ("Eq. 14", prop_3_2::joint_independence),
        ("Prop. 3.2; Eq. 15", prop_3_2::convolution),
        ("kernel in d dimensions", prop_3_2::kernel),
        ("Gaussian prior", prop_3_2::gaussian_prior),
        ("edges of a grid", prop_3_2::grid_edges),
        ("uniform prior on a ring", prop_3_2::ring),
        ("discrete positions", prop_3_2::softmax),
        ("Tweedie", prop_3_2::tweedie),
        ("more noise, more risk", prop_3_2::blackwell),
        ("smooth L1's optimum", prop_3_2::smooth_l1),
    ]
}
