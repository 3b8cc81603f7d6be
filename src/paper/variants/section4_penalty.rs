//! Section 4.3, beside Fig. 4: a penalty on A in the place of the noise.

use std::fmt;
use std::str::FromStr;

use crate::autograd::{Var, ops};
use crate::{Error, Result};

named! {
    /// What is penalized of a matrix.
    #[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
    pub enum PenaltyNorm: "penalty" {
        /// |A|₁ = Σ |A_{kl}|.
        L1 => "l1",
        /// |A|² = Σ A_{kl}².
        L2 => "l2",
    }
}

/// λ |A|₁ or λ |A|², added to the loss.
///
/// The paper asks whether the noise does more than hold A down, by models with deterministic positions and "l1 or l2
/// regularization on A" (B of Eq. 1), and names neither the weights nor whether the l2 norm is squared. Here: sums over
/// entries, not means, and squares, as is usual. The penalty goes through the optimizer with the rest of the gradient,
/// which AdamW's weight decay does not.
///
/// Written `l1:0.01`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Penalty {
    /// Which norm.
    pub norm: PenaltyNorm,
    /// λ, not negative.
    pub weight: f64,
}

impl Penalty {
    /// Of `a`, \[d_p, d_e\]: a scalar.
    ///
    /// Proved by `a_penalty_is_a_sum_over_entries`.
    #[track_caller]
    pub fn of(&self, a: &Var) -> Var {
        let sum = match self.norm {
            PenaltyNorm::L1 => ops::l1_norm(a),
            PenaltyNorm::L2 => (a * a).sum(),
        };
        ops::scale(&sum, self.weight)
    }

    /// What is wrong with it, if anything.
    pub(crate) fn problem(&self) -> Option<String> {
        let fine = self.weight >= 0.0 && self.weight.is_finite();
        (!fine).then(|| format!("`penalty` has a weight of {}", self.weight))
    }
}

impl fmt::Display for Penalty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.norm, self.weight)
    }
}

impl FromStr for Penalty {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::config(format!("'{text}' is no penalty"), "write the norm and a weight, as in l1:0.01");
        let (norm, weight) = text.split_once(':').ok_or_else(wrong)?;
        let penalty = Penalty { norm: norm.parse()?, weight: weight.parse().map_err(|_| wrong())? };
        let negative = || Error::config(format!("a weight of {weight}"), "choose a number that is not negative");
        if penalty.problem().is_none() { Ok(penalty) } else { Err(negative()) }
    }
}
