//! The modules of a model by name, and what becomes of each in training.

use std::ops::{Index, IndexMut};

use crate::autograd::{Tape, Var};
use crate::kernels::elementwise::prepare_operands;
use crate::nn::{Param, Params, Role, Weights};
use crate::tensor::{DType, Device, Tensor};

/// What becomes of a module in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// The optimizer updates it: it gets a gradient in every step.
    Trained,
    /// It follows another module as its exponential moving average, and no gradient reaches it: a target encoder.
    AverageOf(&'static str),
    /// Nothing: a frozen teacher.
    Fixed,
}

/// A module: parameters under one name.
#[derive(Clone, Debug)]
pub struct Module {
    /// What the method calls it: `encoder`, `predictor`, `target_encoder`.
    pub name: &'static str,
    /// What stands before its parameters' names in files; two modules may share it, as MAE's two share `model`.
    pub prefix: &'static str,
    /// What becomes of it in training.
    pub update: Update,
    /// Its parameters.
    pub params: Params,
}

/// A model's parameters, module by module, and what else it remembers from step to step.
#[derive(Clone, Debug, Default)]
pub struct ModelParams {
    modules: Vec<Module>,
    /// See [`with_state`](Self::with_state).
    pub(crate) state: Vec<(String, Tensor)>,
}

impl ModelParams {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more module, whose name in files is its own.
    ///
    /// # Panics
    /// When the name is taken, or a parameter's name in files; when it is the average of a module that is not there, is not
    /// trained, has other parameters or has an average already.
    #[must_use]
    #[track_caller]
    pub fn with(self, name: &'static str, update: Update, params: Params) -> Self {
        self.with_prefix(name, name, update, params)
    }

    /// [`with`](Self::with), under another name in files.
    ///
    /// # Panics
    /// As [`with`](Self::with).
    #[must_use]
    #[track_caller]
    pub fn with_prefix(mut self, name: &'static str, prefix: &'static str, update: Update, params: Params) -> Self {
        assert!(self.get(name).is_none(), "there is a module called {name} already");
        if let Update::AverageOf(other) = update {
            let online = self.modules.iter().find(|m| m.name == other && m.update == Update::Trained);
            let Some(online) = online else { panic!("{name} is the average of {other}, which is no trained module") };
            let is = |p: &Param| (p.name.clone(), *p.value.shape(), p.value.dtype());
            let same = online.params.iter().map(is).eq(params.iter().map(is));
            assert!(same, "{name} does not have the parameters of {other}, whose average it is");
            let another = self.modules.iter().find(|m| m.update == update).map(|m| m.name);
            assert!(another.is_none(), "{other} has an average already: {another:?}");
        }
        let shared = self.modules.iter().filter(|m| m.prefix == prefix).flat_map(|m| m.params.iter());
        let taken = shared.into_iter().find(|p| params.get(&p.name).is_some()).map(|p| &p.name);
        assert!(taken.is_none() && prefix != "state", "in files there is a {prefix}.{taken:?} already");
        self.modules.push(Module { name, prefix, update, params });
        self
    }

    /// With a tensor that is no parameter: a running center. [`Method::next_state`](super::Method::next_state) moves it;
    /// checkpoints carry it.
    ///
    /// # Panics
    /// When the name is taken.
    #[must_use]
    #[track_caller]
    pub fn with_state(mut self, name: &str, value: Tensor) -> Self {
        assert!(self.state(name).is_none(), "there is a state called {name} already");
        self.state.push((name.to_owned(), value));
        self
    }

    /// What is remembered under this name.
    pub fn state(&self, name: &str) -> Option<&Tensor> {
        self.state.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// The modules in order.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// The modules in order, to change.
    pub fn modules_mut(&mut self) -> &mut [Module] {
        &mut self.modules
    }

    /// The modules, and what else is remembered, to change.
    pub(crate) fn modules_and_state_mut(&mut self) -> (&mut [Module], &mut [(String, Tensor)]) {
        (&mut self.modules, &mut self.state)
    }

    /// The module of this name.
    pub fn get(&self, name: &str) -> Option<&Params> {
        self.modules.iter().find(|m| m.name == name).map(|m| &m.params)
    }

    /// The module of this name, to change.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Params> {
        self.modules.iter_mut().find(|m| m.name == name).map(|m| &mut m.params)
    }

    /// The parameters whose features are evaluated: the moving average of `encoder` where there is one, else `encoder`.
    pub fn evaluated(&self) -> &Params {
        &self[self.average_of_encoder().unwrap_or("encoder")]
    }

    /// The name of the moving average of `encoder`, if it has one.
    pub fn average_of_encoder(&self) -> Option<&'static str> {
        self.modules.iter().find(|m| m.update == Update::AverageOf("encoder")).map(|m| m.name)
    }

    /// The trained modules in the order of their gradients.
    pub fn trained(&self) -> impl Iterator<Item = &Params> + Clone {
        self.modules.iter().filter(|m| m.update == Update::Trained).map(|m| &m.params)
    }

    /// The parameters that get a gradient, in its order.
    pub fn trained_params(&self) -> impl Iterator<Item = &Param> {
        self.trained_params_by_module().map(|(_, param)| param)
    }

    /// The same, each with the name of its module.
    pub fn trained_params_by_module(&self) -> impl Iterator<Item = (&'static str, &Param)> {
        let trained = self.modules.iter().filter(|m| m.update == Update::Trained);
        trained.flat_map(|m| m.params.iter().map(|p| (m.name, p))).filter(|(_, p)| p.role == Role::Trained)
    }

    /// Each trained module and, if another follows it, its moving average.
    pub fn trained_and_average(&mut self) -> Vec<(&mut Params, Option<&mut Params>)> {
        let (trained, mut others): (Vec<_>, Vec<_>) =
            self.modules.iter_mut().partition(|m| m.update == Update::Trained);
        let pairs = trained.into_iter().map(|Module { name, params, .. }| {
            let average = others.iter().position(|m| m.update == Update::AverageOf(name));
            (params, average.map(|at| &mut others.swap_remove(at).params))
        });
        pairs.collect()
    }

    /// The values for a pass that is to be differentiated: what is trained becomes leaves of `tape`, in order.
    pub fn on(&self, tape: &Tape) -> ModelWeights {
        self.weights(|m| if m.update == Update::Trained { m.params.on(tape) } else { m.params.constants() })
    }

    /// The values for a pass off the tape: evaluation.
    pub fn constants(&self) -> ModelWeights {
        self.weights(|m| m.params.constants())
    }

    /// The values, each module's as `place` puts them.
    pub fn weights(&self, mut place: impl FnMut(&Module) -> Weights) -> ModelWeights {
        let all = self.modules.iter().flat_map(|m| m.params.iter());
        let read_by_products = all.filter(|p| p.value.shape().len() > 1 && p.name.ends_with("weight"));
        prepare_operands(read_by_products.map(|p| p.value.buffer()));
        ModelWeights {
            modules: self.modules.iter().map(|m| (m.name, place(m))).collect(),
            state: self.state.iter().map(|(name, x)| (name.clone(), x.clone().into())).collect(),
        }
    }

    /// Everything through `convert`: to another element type, to another device.
    #[must_use]
    pub fn map(&self, convert: impl Fn(&Tensor) -> Tensor) -> Self {
        let module = |m: &Module| Module { params: m.params.map(&convert), ..m.clone() };
        ModelParams {
            modules: self.modules.iter().map(module).collect(),
            state: self.state.iter().map(|(name, x)| (name.clone(), convert(x))).collect(),
        }
    }

    /// In another element type.
    #[must_use]
    pub fn to_dtype(&self, dtype: DType) -> Self {
        self.map(|x| x.to_dtype(dtype))
    }

    /// Where the parameters are.
    pub fn device(&self) -> Device {
        self.modules.first().map_or(Device::Cpu, |module| module.params.device())
    }

    /// On another device.
    #[must_use]
    pub fn to_device(&self, device: Device) -> Self {
        self.map(|x| x.to_device(device))
    }
}

impl Index<&str> for ModelParams {
    type Output = Params;
    #[track_caller]
    fn index(&self, name: &str) -> &Params {
        self.get(name).unwrap_or_else(|| panic!("the model has no module called {name}"))
    }
}

impl IndexMut<&str> for ModelParams {
    #[track_caller]
    fn index_mut(&mut self, name: &str) -> &mut Params {
        self.get_mut(name).unwrap_or_else(|| panic!("the model has no module called {name}"))
    }
}

/// The values of [`ModelParams`], on a tape or off it, for one pass.
#[derive(Clone, Debug)]
pub struct ModelWeights {
    modules: Vec<(&'static str, Weights)>,
    state: Vec<(String, Var)>,
}

impl ModelWeights {
    /// What the model remembers under this name, off the tape.
    ///
    /// # Panics
    /// When it remembers nothing of this name.
    #[track_caller]
    pub fn state(&self, name: &str) -> &Var {
        let found = self.state.iter().find(|s| s.0 == name);
        &found.unwrap_or_else(|| panic!("the model has no state called {name}")).1
    }

    /// The values that gradients reach, in the order of the parameters.
    pub fn leaves(&self) -> impl Iterator<Item = &Var> {
        self.modules.iter().flat_map(|m| m.1.iter()).filter(|w| w.is_tracked())
    }
}

impl Index<&str> for ModelWeights {
    type Output = Weights;
    #[track_caller]
    fn index(&self, name: &str) -> &Weights {
        let found = self.modules.iter().find(|m| m.0 == name);
        &found.unwrap_or_else(|| panic!("the model has no module called {name}")).1
    }
}
