//! Proposition 3.2 without its hidden assumption: R = X + Z with Gaussian Z and *any* prior on X. Not in the paper.

use super::{GaussianKernel, gaussian_convolution};
use crate::tensor::Tensor;

/// f*(r) = ∫ p(x) φ(r − x) g(x) dx / ∫ p(x) φ(r − x) dx, with φ the standard normal density: the best predictor on the
/// line under the prior p, which need not be normalized.
///
/// Where p does not change within the noise's reach it is Eq. (15). It is not a convolution otherwise: the weights of g
/// depend on where r is, not only on how far.
///
/// | symbol | argument |
/// |---|---|
/// | p(x) | `prior`: analytic, wider than a third of the noise, and not all of it farther than 12 from r |
/// | g(x) = E\[Y \| X = x\] | `clean`, analytic |
///
/// Proved by `a_gaussian_prior_shrinks` and `a_uniform_prior_on_a_ring_is_flat`.
pub fn posterior_mean(prior: impl Fn(f64) -> f64, clean: impl Fn(f64) -> f64, r: f64) -> f64 {
    gaussian_convolution(|x| prior(x) * clean(x), r) / gaussian_convolution(&prior, r)
}

/// A position chosen from a finite set and blurred: R = ψ_J + Z, J ~ p, Z ~ N(0, Σ). A mixture of Gaussians, and what
/// StoP's predictor is given: Eq. (3) at a masked position j.
///
/// Proved by `discrete_positions_are_weighed_by_a_softmax` and `the_edges_of_a_grid_pull_inwards`.
#[derive(Clone, Debug)]
pub struct NoisyPosition {
    /// ψ, K rows.
    psi: Vec<Vec<f64>>,
    log_prior: Vec<f64>,
    kernel: GaussianKernel,
}

impl NoisyPosition {
    /// | symbol | argument | shape |
    /// |---|---|---|
    /// | ψ | `psi` | \[K, d\] |
    /// | p | `prior`, probabilities or numbers proportional to them | K |
    /// | Σ | `kernel` | \[d, d\] |
    ///
    /// # Panics
    /// When the prior has not K entries, or one below 0, or none above.
    #[track_caller]
    pub fn new(psi: &Tensor, prior: &[f64], kernel: GaussianKernel) -> Self {
        let [k, d] = psi.dims("NoisyPosition");
        assert_eq!(prior.len(), k, "NoisyPosition: probabilities and positions");
        let total: f64 = prior.iter().sum();
        assert!(total > 0.0 && prior.iter().all(|&p| p >= 0.0), "NoisyPosition: {prior:?} is no prior");
        let log_prior = prior.iter().map(|p| (p / total).ln()).collect();
        NoisyPosition { psi: psi.to_f64_vec().chunks(d).map(<[f64]>::to_vec).collect(), log_prior, kernel }
    }

    /// log p(j) + log N(r; ψ_j, Σ) for each position.
    fn log_joint(&self, r: &[f64]) -> Vec<f64> {
        let at = |(psi, log_prior): (&Vec<f64>, &f64)| {
            let offset: Vec<f64> = r.iter().zip(psi).map(|(r, psi)| r - psi).collect();
            log_prior + self.kernel.log_density(&offset)
        };
        self.psi.iter().zip(&self.log_prior).map(at).collect()
    }

    /// p(j | r) = softmaxⱼ(log pⱼ − ½ ‖r − ψⱼ‖²), the norm being that of Σ⁻¹: where the masked token may have been.
    ///
    /// # Panics
    /// When r does not have d entries.
    #[track_caller]
    pub fn posterior(&self, r: &[f64]) -> Vec<f64> {
        let logits = self.log_joint(r);
        let log_total = log_sum_exp(&logits);
        logits.into_iter().map(|logit| (logit - log_total).exp()).collect()
    }

    /// log p(r), the density of what the predictor is given.
    ///
    /// # Panics
    /// When r does not have d entries.
    #[track_caller]
    pub fn log_density(&self, r: &[f64]) -> f64 {
        log_sum_exp(&self.log_joint(r))
    }

    /// f*(r) = Σⱼ p(j | r) gⱼ, the best predictor of targets with the means gⱼ = E\[Y | J = j\].
    ///
    /// # Panics
    /// When `clean` has not K entries, or r not d.
    #[track_caller]
    pub fn optimal_predictor(&self, clean: &[f64], r: &[f64]) -> f64 {
        assert_eq!(clean.len(), self.psi.len(), "NoisyPosition: targets and positions");
        self.posterior(r).iter().zip(clean).map(|(p, g)| p * g).sum()
    }

    /// E\[of(J, R)\], by quadrature over the noise around each position.
    #[track_caller]
    pub fn expectation(&self, of: impl Fn(usize, &[f64]) -> f64) -> f64 {
        let at = |(j, (psi, log_prior)): (usize, (&Vec<f64>, &f64))| {
            log_prior.exp() * self.kernel.convolve(|r| of(j, r), psi)
        };
        self.psi.iter().zip(&self.log_prior).enumerate().map(at).sum()
    }

    /// Eq. (7) for a predictor f that sees R, when the target at position j is `clean[j]` itself: the part of the risk
    /// that comes from not knowing the position.
    ///
    /// # Panics
    /// When `clean` has not K entries.
    #[track_caller]
    pub fn risk(&self, clean: &[f64], f: impl Fn(&[f64]) -> f64) -> f64 {
        assert_eq!(clean.len(), self.psi.len(), "NoisyPosition: targets and positions");
        self.expectation(|j, r| (f(r) - clean[j]).powi(2))
    }
}

/// log Σ eˣ, without overflow.
fn log_sum_exp(x: &[f64]) -> f64 {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    largest + x.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use approx::assert_abs_diff_eq;

    /// Positions 0 and 2 on the line, the second three times as likely, unit noise.
    fn two() -> NoisyPosition {
        NoisyPosition::new(&Tensor::new([2, 1], vec![0.0, 2.0]), &[1.0, 3.0], GaussianKernel::unit(1))
    }

    #[test]
    fn two_positions_by_hand() {
        let noisy = two();
        for r in [-1.0, 0.5, 1.0, 4.0] {
            // The odds of 2 against 0: 3 exp(−(r − 2)²/2 + r²/2) = 3 exp(2r − 2).
            let odds = 3.0 * (2.0f64 * r - 2.0).exp();
            assert_abs_diff_eq!(noisy.posterior(&[r])[1], odds / (1.0 + odds), epsilon = 1e-15);
            assert_abs_diff_eq!(
                noisy.optimal_predictor(&[5.0, 1.0], &[r]),
                (5.0 + odds) / (1.0 + odds),
                epsilon = 1e-14
            );
            let density = 0.25 * (-0.5 * r * r).exp() + 0.75 * (-0.5 * (r - 2.0f64).powi(2)).exp();
            let density = density / std::f64::consts::TAU.sqrt();
            assert_abs_diff_eq!(noisy.log_density(&[r]), density.ln(), epsilon = 1e-14);
        }
        assert_abs_diff_eq!(noisy.expectation(|j, r| j as f64 + 10.0 * r[0]), 15.75, epsilon = 1e-13);
        assert_abs_diff_eq!(noisy.risk(&[0.0, 2.0], |r| r[0]), 1.0, epsilon = 1e-14);
    }

    #[test]
    fn weights_at_the_extremes() {
        assert_eq!([1e6, -1e6].map(|far| two().posterior(&[far])), [[0.0, 1.0], [1.0, 0.0]]);
        // A position of probability zero is never believed.
        let noisy = NoisyPosition::new(&Tensor::new([2, 1], vec![0.0, 2.0]), &[1.0, 0.0], GaussianKernel::unit(1));
        assert_eq!(noisy.posterior(&[2.0]), [1.0, 0.0]);
    }

    #[test]
    #[should_panic(expected = "is no prior")]
    fn a_prior_is_not_negative() {
        NoisyPosition::new(&Tensor::new([2, 1], vec![0.0, 2.0]), &[1.5, -0.5], GaussianKernel::unit(1));
    }
}
