//! AdamW (Loshchilov and Hutter, *Decoupled weight decay regularization*, ICLR 2019), as PyTorch computes it.

use super::ema::Ema;
use super::params::{Param, Params, Role};
use crate::kernels::optim::{self, AdamWStep, AdamWUpdate};
use crate::kernels::reduce::{self, Finite};
use crate::tensor::{Device, Tensor};

/// By how much the learning rate and the weight decay of one parameter differ from those of an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamGroup {
    /// Its learning rate is this times that of the update: below 1 in the lower blocks for layer-wise decay.
    pub lr_factor: f64,
    /// Its weight decay is this times that of the update.
    pub decay_factor: f64,
}

impl ParamGroup {
    /// The official groups: weight decay for the parameters that [decay](Param::decays), one learning rate for all.
    pub fn of(param: &Param) -> Self {
        ParamGroup { lr_factor: 1.0, decay_factor: if param.decays() { 1.0 } else { 0.0 } }
    }
}

/// How many elements of all `gradients`, of one element type and on one device, are NaN or infinite, or have squares that
/// are: the second moment sums up squares, and an infinite one would stay and hold its weight where it is. One number, of
/// shape \[\]; 0 means that an update can be made.
pub fn count_non_finite(gradients: &[&Tensor]) -> Tensor {
    count_non_finite_beside(&[], gradients)
}

/// The same, and how many elements of `others` are NaN or infinite, whatever their squares are.
pub(crate) fn count_non_finite_beside(others: &[&Tensor], gradients: &[&Tensor]) -> Tensor {
    let others = others.iter().map(|x| (Finite::Elements, x.buffer()));
    let buffers: Vec<_> = others.chain(gradients.iter().map(|g| (Finite::Squares, g.buffer()))).collect();
    Tensor::from_buffer([], reduce::count_non_finite(&buffers))
}

/// The optimizer's memory: two moments for each trained parameter, in the order of the parameters.
#[derive(Clone, Debug)]
pub struct AdamW {
    /// β₁ and β₂. Official: 0.9 and 0.999.
    pub betas: (f64, f64),
    /// ε. Official: 10⁻⁸.
    pub eps: f64,
    /// One for each trained parameter, in the order of the parameters; [`ParamGroup::of`] each at the start.
    pub groups: Vec<ParamGroup>,
    /// Updates made so far.
    step: u64,
    moments: Vec<(Tensor, Tensor)>,
}

impl AdamW {
    /// An optimizer for the trained parameters of `modules`, with the official β and ε and all moments 0.
    pub fn new(modules: &[&Params]) -> Self {
        let trained = || modules.iter().flat_map(|m| m.iter()).filter(|p| p.role == Role::Trained);
        let moments = trained().map(|p| (p.value.full_like(0.0), p.value.full_like(0.0))).collect();
        AdamW { betas: (0.9, 0.999), eps: 1e-8, groups: trained().map(ParamGroup::of).collect(), step: 0, moments }
    }

    /// Updates made so far.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// m and v of each trained parameter, in the order of the parameters: with [`steps`](Self::steps), all that the
    /// optimizer remembers.
    pub fn moments(&self) -> &[(Tensor, Tensor)] {
        &self.moments
    }

    /// The memory of an optimizer that made `steps` updates, to be filled with its [`moments`](Self::moments).
    pub fn restore(&mut self, steps: u64) -> &mut [(Tensor, Tensor)] {
        self.step = steps;
        &mut self.moments
    }

    /// Moves the moments, as the parameters are moved.
    pub fn to_device(&mut self, device: Device) {
        for (m, v) in &mut self.moments {
            (*m, *v) = (m.to_device(device), v.to_device(device));
        }
    }

    /// One update of every trained parameter of `modules` (those this optimizer was made for) with its gradient, in
    /// order. Each parameter has its own learning rate and weight decay, by its [group](Self::groups).
    ///
    /// # Panics
    /// When there is not one gradient for each trained parameter, of its shape and type; nothing is changed.
    #[track_caller]
    pub fn update(&mut self, modules: &mut [&mut Params], gradients: Vec<Tensor>, lr: f64, weight_decay: f64) {
        self.update_averaged(modules.iter_mut().map(|module| (&mut **module, None)), gradients, lr, weight_decay);
    }

    /// [`update`](Self::update), and behind it [`update_ema`](super::update_ema) of the modules that have an average:
    /// the same bits, in one pass over memory.
    ///
    /// # Panics
    /// When there is not one gradient for each trained parameter, of its shape and type, or an average has other
    /// parameters; nothing is changed.
    #[track_caller]
    pub fn update_averaged<'a>(
        &mut self,
        modules: impl IntoIterator<Item = (&'a mut Params, Option<Ema<'a>>)>,
        gradients: Vec<Tensor>,
        lr: f64,
        weight_decay: f64,
    ) {
        self.update_unless(None, modules, gradients, lr, weight_decay);
    }

    /// [`update_averaged`](Self::update_averaged) that changes no number if `unless`, a scalar on the device of the
    /// parameters, is not 0: [`count_non_finite`]. Nobody waits for that. The update is counted; who learns that it was
    /// none, [takes it back](Self::restore).
    ///
    /// # Panics
    /// As [`update_averaged`](Self::update_averaged).
    #[track_caller]
    pub fn update_unless<'a>(
        &mut self,
        unless: Option<&Tensor>,
        modules: impl IntoIterator<Item = (&'a mut Params, Option<Ema<'a>>)>,
        gradients: Vec<Tensor>,
        lr: f64,
        weight_decay: f64,
    ) {
        let mut trained = Vec::with_capacity(self.moments.len());
        for (module, ema) in modules {
            let mut averages = ema.map(|ema| ema.averages_of(module));
            let both = module.iter_mut().map(|param| (param, averages.as_mut().and_then(Iterator::next)));
            trained.extend(both.filter(|(param, _)| param.role == Role::Trained));
        }
        // All before anything is changed.
        assert_eq!(trained.len(), self.moments.len(), "adamw: made for other parameters");
        assert_eq!(trained.len(), gradients.len(), "adamw: one gradient for each trained parameter");
        for (((param, _), (m, _)), g) in trained.iter().zip(&self.moments).zip(&gradients) {
            let Param { name, value, .. } = &**param;
            let is = |x: &Tensor| format!("{} {}", x.dtype(), x.shape());
            let same = |x: &Tensor| (x.shape(), x.dtype()) == (value.shape(), value.dtype());
            assert!(same(m), "adamw: {name} is {} but its moments are {}: made for another model", is(value), is(m));
            assert!(same(g), "adamw: {name} is {} but its gradient is {}: of another model?", is(value), is(g));
        }
        assert_eq!(trained.len(), self.groups.len(), "adamw: one group for each trained parameter");
        self.step += 1;
        let update = AdamWUpdate { betas: self.betas, eps: self.eps, step: self.step };
        let all = trained.into_iter().zip(&mut self.moments).zip(gradients).zip(&self.groups);
        let steps = all.map(|((((param, average), (m, v)), gradient), group)| AdamWStep {
            gradient: gradient.into_buffer(),
            m: m.buffer_mut(),
            v: v.buffer_mut(),
            weight: param.value.buffer_mut(),
            lr: lr * group.lr_factor,
            weight_decay: weight_decay * group.decay_factor,
            average: average.map(|(momentum, average)| (momentum, average.buffer_mut())),
        });
        optim::adamw(&update, unless.map(Tensor::buffer), steps.collect());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::{close, numbers};
    use crate::nn::update_ema;
    use crate::tensor::DType;

    /// The algorithm box of the AdamW paper, one number at a time; the bias learns at half the rate, the matrix decays
    /// three times as fast.
    #[test]
    fn equals_the_published_algorithm() {
        let mut params = Params::new();
        let w0 = numbers(6, 1);
        params.add("w", Tensor::new([2, 3], w0.clone()), Role::Trained);
        params.add("unread", Tensor::new([1, 2], vec![1.0, 2.0]), Role::Unused);
        params.add("b.bias", Tensor::new([6], w0.clone()), Role::Trained);
        let mut adamw = AdamW::new(&[&params]);
        assert_eq!(adamw.groups, [1.0, 0.0].map(|decay_factor| ParamGroup { lr_factor: 1.0, decay_factor }));
        adamw.groups[0].decay_factor = 3.0;
        adamw.groups[1].lr_factor = 0.5;
        let (mut w, mut b) = (w0.clone(), w0);
        let (mut m, mut v) = ([0.0; 6], [0.0; 6]);
        for t in 1..=5 {
            let (lr, wd) = (0.01 * t as f64, 0.3);
            let g = numbers(6, 10 + t);
            let gradients = [Tensor::new([2, 3], g.clone()), Tensor::new([6], g.clone())];
            adamw.update(&mut [&mut params], gradients.into(), lr, wd);
            for i in 0..6 {
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                let m_hat = m[i] / (1.0 - 0.9f64.powi(t as i32));
                let v_hat = v[i] / (1.0 - 0.999f64.powi(t as i32));
                let step = m_hat / (v_hat.sqrt() + 1e-8);
                w[i] -= lr * (step + 3.0 * wd * w[i]);
                b[i] -= 0.5 * lr * step; // no decay on a bias
            }
        }
        for i in 0..6 {
            close(params.get("w").unwrap().value.to_f64_vec()[i], w[i], 1e-13);
            close(params.get("b.bias").unwrap().value.to_f64_vec()[i], b[i], 1e-13);
        }
        assert_eq!(params.get("unread").unwrap().value.to_f64_vec(), [1.0, 2.0]);
        assert_eq!(adamw.steps(), 5);
    }

    /// A long matrix (several threads' shares), a bias, a fixed table, and something unread.
    fn some_params(dtype: DType) -> Params {
        let mut params = Params::new();
        let values = |n: usize| Tensor::new([n], numbers(n, 1)).to_dtype(dtype);
        params.add("w", values(LONG).reshape([LONG / 50, 50]), Role::Trained);
        params.add("table", values(7), Role::Fixed);
        params.add("unread", values(3), Role::Unused);
        params.add("b.bias", values(50), Role::Trained);
        params
    }

    const LONG: usize = 40_000;

    fn some_gradients(dtype: DType, seed: u64) -> Vec<Tensor> {
        let values = |n: usize, shape: &[usize]| Tensor::new(shape, numbers(n, seed)).to_dtype(dtype);
        vec![values(LONG, &[LONG / 50, 50]), values(50, &[50])]
    }

    fn bits(params: &Params) -> Vec<u64> {
        params.iter().flat_map(|p| p.value.to_f64_vec()).map(f64::to_bits).collect()
    }

    /// The oracle is the update, and then the average of what it made.
    #[test]
    fn the_average_in_the_same_pass_has_the_same_bits() {
        for dtype in [DType::F32, DType::F64] {
            let params = || (some_params(dtype), some_params(dtype));
            let ((mut one, mut one_other), (mut two, mut two_other)) = (params(), params());
            let (mut one_target, mut two_target) = params();
            let gradients = |t: u64| [some_gradients(dtype, 2 * t), some_gradients(dtype, 2 * t + 1)].concat();
            let [mut in_one, mut in_two] = [(); 2].map(|()| AdamW::new(&[&one, &one_other]));
            for t in 1..=3 {
                let (lr, wd, momentum) = (0.01 * t as f64, 0.3, 0.9 + 0.03 * t as f64);
                let ema = Ema { momentum, target: &mut one_target };
                in_one.update_averaged([(&mut one, Some(ema)), (&mut one_other, None)], gradients(t), lr, wd);
                in_two.update(&mut [&mut two, &mut two_other], gradients(t), lr, wd);
                update_ema(momentum, &two, &mut two_target);
            }
            assert_eq!([&one, &one_other, &one_target].map(bits), [&two, &two_other, &two_target].map(bits));
            assert_ne!(bits(&one), bits(&one_target));
            assert_ne!(bits(&some_params(dtype)), bits(&one_target));
        }
    }

    #[test]
    #[should_panic(expected = "ema: the two have different parameters")]
    fn the_average_of_something_else() {
        let (mut params, mut other) = (some_params(DType::F32), Params::new());
        let ema = Ema { momentum: 0.9, target: &mut other };
        AdamW::new(&[&params]).update_averaged([(&mut params, Some(ema))], some_gradients(DType::F32, 1), 0.1, 0.0);
    }

    #[test]
    fn gradients_of_another_model_are_refused_by_name_and_change_nothing() {
        let refused = |made_for: &Params, gradients: Vec<Tensor>, words: &[&str]| {
            let mut params = some_params(DType::F32);
            let mut adamw = AdamW::new(&[made_for]);
            let call = || adamw.update(&mut [&mut params], gradients, 0.1, 0.0);
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_err();
            let message = crate::error::panic_message(&*panic);
            words.iter().for_each(|word| assert!(message.contains(word), "no '{word}' in {message}"));
            assert_eq!((bits(&params), adamw.steps()), (bits(&some_params(DType::F32)), 0));
        };
        let params = some_params(DType::F32);
        let [w, b] = some_gradients(DType::F32, 1).try_into().unwrap();
        let in_f64 = b.to_dtype(DType::F64);
        refused(&params, vec![w.clone(), b.rows(0..49)], &["b.bias is f32 [50]", "gradient is f32 [49]"]);
        refused(&params, vec![w.clone(), in_f64], &["b.bias is f32 [50]", "gradient is f64 [50]"]);
        refused(&params, vec![b.clone(), w.clone()], &["w is f32 [800, 50]", "gradient is f32 [50]"]);
        refused(&params, vec![w.clone()], &["one gradient for each trained parameter"]);
        let mut smaller = Params::new();
        smaller.add("w", w.clone(), Role::Trained);
        refused(&smaller, vec![w.clone(), b.clone()], &["made for other parameters"]);
        smaller.add("b.bias", b.rows(0..7), Role::Trained);
        refused(&smaller, vec![w.clone(), b.clone()], &["b.bias is f32 [50]", "moments are f32 [7]", "another model"]);
        refused(&some_params(DType::F64), vec![w, b], &["moments are f64"]);
    }

    /// What is counted on any number of threads is tested in src/kernels/oracle.rs.
    #[test]
    fn a_gradient_is_accepted_if_its_squares_are_numbers() {
        let x = Tensor::new([6], vec![1.8e19, -1.8e19, 1.9e19, -1.9e19, f64::NAN, 1e200]);
        let count = |dtype| count_non_finite(&[&x.to_dtype(dtype), &Tensor::zeros([2], dtype), &x.to_dtype(dtype)]);
        assert_eq!([DType::F32, DType::F64].map(|dtype| count(dtype).item()), [8.0, 4.0]);
        assert_eq!(count(DType::F32).shape().len(), 0);
    }
}
