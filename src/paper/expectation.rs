//! Exact expectations over the noise n ~ N(0, σI): finitely many weighted draws in the place of the Gaussian.
//!
//! Averages over random draws come with an error of one over the root of their number, and a gradient that is wrong by
//! a per cent hides in it. These rules have none, each for what it is made for:
//!
//! | rule | exact for | points |
//! |---|---|---|
//! | [`antithetic`](Quadrature::antithetic) | what is linear in n: gradients at A = 0 | 2 |
//! | [`cubature`](Quadrature::cubature) | polynomials of degree 3 in n, and so mean, covariance, Hessians at A = 0 | 2d |
//! | [`gauss_hermite`](Quadrature::gauss_hermite) | polynomials of degree 2k − 1 in each component; smooth functions to rounding | kᵈ |
//! | [`monte_carlo`](Quadrature::monte_carlo) | nothing; for z-tests | any |

use rand::Rng;

use super::{Sigma, sample_noise};
use crate::tensor::{DType, Tensor};

/// Draws of the noise, and the weight of each.
#[derive(Clone, Debug)]
pub struct Quadrature {
    /// \[K, N, d_e\]: in each of K draws, the noise of N tokens. One token stands for all of them where each is seen
    /// on its own.
    pub noise: Tensor,
    /// \[K\], of sum 1.
    pub weights: Tensor,
}

impl Quadrature {
    /// No noise at all: the one draw 0.
    pub fn zero(tokens: usize, d_e: usize) -> Self {
        Self::equal_weights(Tensor::zeros([1, tokens, d_e], DType::F64))
    }

    /// n and −n, for a draw n \[N, d_e\].
    ///
    /// The mean of any odd function of the noise is exactly its expectation, 0.
    pub fn antithetic(n: &Tensor) -> Self {
        let [tokens, d_e] = n.dims("antithetic: n");
        let n = n.to_dtype(DType::F64).reshape([1, tokens, d_e]);
        Self::equal_weights(Tensor::concat_rows(&[n.clone(), n.scaled(-1.0)]))
    }

    /// ±√(dσ) e_k for each of the d = N d_e components, all of weight 1/2d.
    ///
    /// Mean, covariance and all odd moments are those of the Gaussian.
    pub fn cubature(tokens: usize, d_e: usize, sigma: Sigma) -> Self {
        let d = tokens * d_e;
        let reach = (d as f64).sqrt() * sigma.std();
        let point = |i: usize| {
            let (row, component) = (i / d, i % d);
            let sign = if row % 2 == 0 { 1.0 } else { -1.0 };
            if row / 2 == component { sign * reach } else { 0.0 }
        };
        Self::equal_weights(Tensor::from_fn([2 * d, tokens, d_e], DType::F64, point))
    }

    /// The product of Gauss–Hermite rules of k nodes in each of d_e components, for one token.
    ///
    /// # Panics
    /// When kᵈ is more than ten million.
    #[track_caller]
    pub fn gauss_hermite(k: usize, d_e: usize, sigma: Sigma) -> Self {
        let (nodes, weights) = hermite_nodes(k);
        let count = k.checked_pow(d_e as u32).filter(|&count| count <= 10_000_000);
        let count =
            count.unwrap_or_else(|| panic!("gauss_hermite: {k} nodes in each of {d_e} dimensions are too many"));
        let digit = |point: usize, component: usize| point / k.pow(component as u32) % k;
        let noise = Tensor::from_fn([count, 1, d_e], DType::F64, |i| sigma.std() * nodes[digit(i / d_e, i % d_e)]);
        let weights =
            Tensor::from_fn([count], DType::F64, |point| (0..d_e).map(|c| weights[digit(point, c)]).product());
        Quadrature { noise, weights }
    }

    /// `draws` independent draws.
    pub fn monte_carlo(draws: usize, tokens: usize, d_e: usize, sigma: Sigma, rng: &mut impl Rng) -> Self {
        Self::equal_weights(sample_noise([draws, tokens, d_e], sigma, DType::F64, rng))
    }

    /// Σ_k w_k f(n_k), the expectation of f. Each draw comes as \[N, d_e\].
    ///
    /// # Panics
    /// When f gives tensors of different shapes.
    #[track_caller]
    pub fn expect(&self, f: impl Fn(&Tensor) -> Tensor) -> Tensor {
        let [draws, tokens, d_e] = self.noise.dims("expect: noise");
        let weights = self.weights.to_f64_vec();
        let term = |k: usize| f(&self.noise.rows(k..k + 1).reshape([tokens, d_e])).scaled(weights[k]);
        assert!(draws > 0, "expect: a rule without draws");
        let mut sum = term(0);
        (1..draws).for_each(|k| sum.add_assign(&term(k)));
        sum
    }

    fn equal_weights(noise: Tensor) -> Self {
        let draws = noise.shape()[0];
        Quadrature { noise, weights: Tensor::full([draws], 1.0 / draws as f64, DType::F64) }
    }
}

/// The k nodes and weights of Gauss–Hermite quadrature for the standard normal density, nodes in ascending order.
///
/// The nodes are the roots of the k-th orthonormal Hermite polynomial h_k, h_{i+1} = (x h_i − √i h_{i−1}) / √(i+1).
/// Between two roots of h_{k−1} lies one of h_k, which bisection finds to the last digit. Weights: 1 / Σ_{i<k} h_i(x)².
///
/// # Panics
/// When k is 0.
pub fn hermite_nodes(k: usize) -> (Vec<f64>, Vec<f64>) {
    assert!(k > 0, "hermite_nodes: no nodes");
    // h_degree(x), and Σ_{i < degree} h_i(x)².
    let hermite = |degree: usize, x: f64| {
        let (mut previous, mut h, mut squares) = (0.0, 1.0, 0.0);
        for i in 0..degree {
            squares += h * h;
            let root = (i as f64).sqrt();
            (previous, h) = (h, (x * h - root * previous) / (i as f64 + 1.0).sqrt());
        }
        (h, squares)
    };
    let mut nodes: Vec<f64> = Vec::new();
    for degree in 1..=k {
        let far = 2.0 * (degree as f64).sqrt() + 1.0; // outside all roots
        let bounds: Vec<f64> = [-far].into_iter().chain(nodes).chain([far]).collect();
        let root = |bracket: &[f64]| {
            let (mut low, mut high) = (bracket[0], bracket[1]);
            let sign = hermite(degree, low).0.signum();
            for _ in 0..100 {
                let middle = 0.5 * (low + high);
                if hermite(degree, middle).0.signum() == sign { low = middle } else { high = middle }
            }
            0.5 * (low + high)
        };
        let found: Vec<f64> = bounds.windows(2).map(root).collect();
        // Exactly symmetric, so that odd functions cancel to the last bit.
        nodes = found.iter().zip(found.iter().rev()).map(|(x, mirrored)| 0.5 * (x - mirrored)).collect();
    }
    let weights = nodes.iter().map(|&x| 1.0 / hermite(k, x).1).collect();
    (nodes, weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E n^power for a standard normal n: (power − 1)!! if even, 0 if odd.
    fn moment(power: u32) -> f64 {
        if power % 2 == 1 { 0.0 } else { (1..power).step_by(2).map(f64::from).product() }
    }

    #[test]
    fn hermite_rules_integrate_polynomials() {
        for k in [1, 2, 3, 9, 20, 40] {
            let (nodes, weights) = hermite_nodes(k);
            for power in 0..(2 * k as u32).min(24) {
                let sum: f64 = nodes.iter().zip(&weights).map(|(x, w)| w * x.powi(power as i32)).sum();
                let size: f64 = nodes.iter().zip(&weights).map(|(x, w)| w * x.abs().powi(power as i32)).sum();
                assert!((sum - moment(power)).abs() <= 2e-13 * size, "{k} nodes, power {power}: {sum}");
            }
        }
    }

    #[test]
    fn cubature_has_the_first_three_moments() {
        let sigma = Sigma::from_variance(0.3);
        let rule = Quadrature::cubature(2, 3, sigma);
        let mean = rule.expect(|n| n.clone());
        assert!(mean.norm() < 1e-16);
        let second = rule.expect(|n| {
            let n = n.to_f64_vec();
            Tensor::from_fn([6, 6], DType::F64, |i| n[i / 6] * n[i % 6])
        });
        let identity = Tensor::from_fn([6, 6], DType::F64, |i| if i % 7 == 0 { 0.3 } else { 0.0 });
        assert!(second.max_abs_diff(&identity) < 2e-16);
        let third = rule.expect(|n| {
            let n = n.to_f64_vec();
            Tensor::from_fn([6, 6, 6], DType::F64, |i| n[i / 36] * n[i / 6 % 6] * n[i % 6])
        });
        assert!(third.norm() < 1e-16);
    }
}
