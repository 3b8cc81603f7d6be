//! Named parameters in order, and the view of them that a forward pass reads.

use std::ops::Index;

use crate::autograd::{Tape, Var};
use crate::tensor::{DType, Device, Tensor};

/// What training does to a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It must get a gradient in every step; a step without one is an error.
    Trained,
    /// A table that is part of the model but not learned: sine-cosine positions.
    Fixed,
    /// It exists because the official model has it, and nothing reads it: StoP's `mask_token`. The optimizer leaves
    /// it alone, as PyTorch's does with a parameter whose gradient is `None`.
    Unused,
}

/// One parameter.
#[derive(Clone, Debug)]
pub struct Param {
    /// The official PyTorch name, without the module's prefix: `blocks.0.attn.qkv.weight`.
    pub name: String,
    /// Its value.
    pub value: Tensor,
    /// What training does to it.
    pub role: Role,
}

impl Param {
    /// Whether weight decay applies: to matrices and tokens, not to biases and other vectors, as in the official code.
    pub fn decays(&self) -> bool {
        self.value.shape().len() > 1 && !self.name.ends_with("bias")
    }
}

/// The place of a parameter in its [`Params`]. Layers keep these, not the values: so one layer serves the context
/// encoder and the target encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(usize);

/// The parameters of one module, in the official order.
#[derive(Clone, Debug, Default)]
pub struct Params {
    list: Vec<Param>,
}

impl Params {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a parameter.
    ///
    /// # Panics
    /// When the name is taken.
    #[track_caller]
    pub fn add(&mut self, name: impl Into<String>, value: Tensor, role: Role) -> ParamId {
        let name = name.into();
        assert!(self.get(&name).is_none(), "there is a parameter called {name} already");
        self.list.push(Param { name, value, role });
        ParamId(self.list.len() - 1)
    }

    /// The parameters in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Param> {
        self.list.iter()
    }

    /// The parameters in order, to change.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Param> {
        self.list.iter_mut()
    }

    /// The parameter called `name`.
    pub fn get(&self, name: &str) -> Option<&Param> {
        self.list.iter().find(|p| p.name == name)
    }

    /// The value of a parameter.
    pub fn value(&self, id: ParamId) -> &Tensor {
        &self.list[id.0].value
    }

    /// The value of a parameter, to be replaced.
    pub fn value_mut(&mut self, id: ParamId) -> &mut Tensor {
        &mut self.list[id.0].value
    }

    /// Changes what training does to a parameter.
    pub fn set_role(&mut self, id: ParamId, role: Role) {
        self.list[id.0].role = role;
    }

    /// Numbers in all trained parameters.
    pub fn trained_elements(&self) -> usize {
        self.iter().filter(|p| p.role == Role::Trained).map(|p| p.value.elements()).sum()
    }

    /// Numbers in all parameters, fixed tables included: PyTorch's `sum(p.numel() for p in model.parameters())`.
    pub fn elements(&self) -> usize {
        self.iter().map(|p| p.value.elements()).sum()
    }

    /// The same parameters, their values through `convert`: to another element type, to another device.
    #[must_use]
    pub fn map(&self, convert: impl Fn(&Tensor) -> Tensor) -> Self {
        let convert = |p: &Param| Param { name: p.name.clone(), value: convert(&p.value), role: p.role };
        Params { list: self.iter().map(convert).collect() }
    }

    /// The same parameters in another element type.
    #[must_use]
    pub fn to_dtype(&self, dtype: DType) -> Self {
        self.map(|x| x.to_dtype(dtype))
    }

    /// Where they are: a model is on one device.
    pub fn device(&self) -> Device {
        self.iter().next().map_or(Device::Cpu, |param| param.value.device())
    }

    /// The same parameters on another device; shared, not copied, when they already are there.
    #[must_use]
    pub fn to_device(&self, device: Device) -> Self {
        self.map(|x| x.to_device(device))
    }

    /// A view for a forward pass that is to be differentiated: trained parameters are leaves of `tape`, in order.
    pub fn on(&self, tape: &Tape) -> Weights {
        let place = |p: &Param| match p.role {
            Role::Trained => tape.leaf(p.value.clone()),
            Role::Fixed | Role::Unused => p.value.clone().into(),
        };
        Weights(self.iter().map(place).collect())
    }

    /// A view for a forward pass off the tape: the target encoder, evaluation.
    pub fn constants(&self) -> Weights {
        Weights(self.iter().map(|p| p.value.clone().into()).collect())
    }
}

/// The values of [`Params`], on a tape or off it, for one forward pass.
#[derive(Clone, Debug)]
pub struct Weights(Vec<Var>);

impl Weights {
    /// The values in the order of the parameters.
    pub fn iter(&self) -> std::slice::Iter<'_, Var> {
        self.0.iter()
    }
}

impl Index<ParamId> for Weights {
    type Output = Var;
    fn index(&self, id: ParamId) -> &Var {
        &self.0[id.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::ops;

    #[test]
    fn roles_decide_what_is_on_the_tape() {
        let mut params = Params::new();
        let one = || Tensor::full([2], 1.0, DType::F64);
        let a = params.add("a", one(), Role::Trained);
        let b = params.add("b", one(), Role::Fixed);
        let tape = Tape::new();
        let w = params.on(&tape);
        assert!(w[a].is_tracked() && !w[b].is_tracked());
        let gradients = tape.backward(&ops::sum(&ops::mul(&w[a], &w[b])));
        assert_eq!(gradients.of(&w[a]).unwrap().to_f64_vec(), [1.0, 1.0]);
        assert!(!params.constants()[a].is_tracked());
        assert_eq!((params.trained_elements(), params.elements()), (2, 4));
    }

    #[test]
    fn decay_groups_are_the_official_ones() {
        let param = |name: &str, shape: &[usize]| Param {
            name: name.into(),
            value: Tensor::zeros(shape, DType::F32),
            role: Role::Trained,
        };
        assert!(param("blocks.0.attn.qkv.weight", &[6, 2]).decays());
        assert!(param("mask_token", &[1, 1, 2]).decays());
        assert!(!param("norm.weight", &[2]).decays());
        assert!(!param("blocks.0.attn.qkv.bias", &[6]).decays());
    }
}
