//! AdamW (Loshchilov and Hutter, *Decoupled weight decay regularization*, ICLR 2019), as PyTorch computes it.

use rayon::prelude::*;

use super::params::{Params, Role};
use crate::kernels::{self, AdamWUpdate};
use crate::tensor::Tensor;

/// The optimizer's memory: two moments for each trained parameter, in the order of the parameters.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// β₁ and β₂. Official: 0.9 and 0.999.
    pub betas: (f64, f64),
    /// ε. Official: 10⁻⁸.
    pub eps: f64,
    /// Updates made so far.
    step: u64,
    moments: Vec<(Tensor, Tensor)>,
}

impl AdamW {
    /// An optimizer for the trained parameters of `modules`, with the official β and ε and all moments 0.
    pub fn new(modules: &[&Params]) -> Self {
        let zeros = |value: &Tensor| Tensor::zeros(*value.shape(), value.dtype());
        let trained = modules.iter().flat_map(|m| m.iter()).filter(|p| p.role == Role::Trained);
        let moments = trained.map(|p| (zeros(&p.value), zeros(&p.value))).collect();
        AdamW { betas: (0.9, 0.999), eps: 1e-8, step: 0, moments }
    }

    /// Updates made so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// One update of every trained parameter of `modules` (those this optimizer was made for) with its gradient, in
    /// order. Weight decay goes to the parameters that [decay](super::Param::decays).
    ///
    /// # Panics
    /// When there is not one gradient for each trained parameter, of its shape.
    #[track_caller]
    pub fn update(&mut self, modules: &mut [&mut Params], gradients: &[Tensor], lr: f64, weight_decay: f64) {
        let trained: Vec<_> =
            modules.iter_mut().flat_map(|m| m.iter_mut()).filter(|p| p.role == Role::Trained).collect();
        assert_eq!(trained.len(), self.moments.len(), "adamw: made for other parameters");
        assert_eq!(trained.len(), gradients.len(), "adamw: one gradient for each trained parameter");
        self.step += 1;
        let update = AdamWUpdate { lr, weight_decay, betas: self.betas, eps: self.eps, step: self.step };
        // Each parameter is updated whole by one thread: no sum crosses parameters, so no bit depends on threads.
        trained.into_par_iter().zip(&mut self.moments).zip(gradients).for_each(|((param, (m, v)), g)| {
            assert_eq!(g.shape(), param.value.shape(), "adamw: the gradient of {}", param.name);
            let update = AdamWUpdate { weight_decay: if param.decays() { weight_decay } else { 0.0 }, ..update };
            kernels::adamw(&update, g.buffer(), m.buffer_mut(), v.buffer_mut(), param.value.buffer_mut());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::cpu::testing::{close, numbers};
    use crate::tensor::DType;

    /// The algorithm box of the AdamW paper, one number at a time.
    #[test]
    fn equals_the_published_algorithm() {
        let mut params = Params::new();
        let w0 = numbers(6, 1);
        params.add("w", Tensor::new([2, 3], w0.clone()), Role::Trained);
        params.add("unread", Tensor::new([1, 2], vec![1.0, 2.0]), Role::Unread);
        params.add("b.bias", Tensor::new([6], w0.clone()), Role::Trained);
        let mut adamw = AdamW::new(&[&params]);
        let (mut w, mut b) = (w0.clone(), w0);
        let (mut m, mut v) = ([0.0; 6], [0.0; 6]);
        for t in 1..=5 {
            let (lr, wd) = (0.01 * t as f64, 0.3);
            let g = numbers(6, 10 + t);
            let gradients = [Tensor::new([2, 3], g.clone()), Tensor::new([6], g.clone())];
            adamw.update(&mut [&mut params], &gradients, lr, wd);
            for i in 0..6 {
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                let m_hat = m[i] / (1.0 - 0.9f64.powi(t as i32));
                let v_hat = v[i] / (1.0 - 0.999f64.powi(t as i32));
                let step = m_hat / (v_hat.sqrt() + 1e-8);
                w[i] -= lr * (step + wd * w[i]);
                b[i] -= lr * step; // no decay on a bias
            }
        }
        for i in 0..6 {
            close(params.get("w").unwrap().value.to_f64_vec()[i], w[i], 1e-13);
            close(params.get("b.bias").unwrap().value.to_f64_vec()[i], b[i], 1e-13);
        }
        assert_eq!(params.get("unread").unwrap().value.to_f64_vec(), [1.0, 2.0]);
        assert_eq!(adamw.steps(), 5);
    }

    #[test]
    #[should_panic(expected = "adamw: one gradient for each trained parameter")]
    fn a_missing_gradient() {
        let mut params = Params::new();
        params.add("w", Tensor::zeros([2], DType::F32), Role::Trained);
        AdamW::new(&[&params]).update(&mut [&mut params], &[], 0.1, 0.0);
    }
}
