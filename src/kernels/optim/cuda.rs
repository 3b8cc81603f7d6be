use super::cpu::Numbers;
use super::{AdamWStep, AdamWUpdate, EmaStep};
use crate::kernels::Real;
use crate::kernels::cuda::{BOTH_REALS, Block, Grid, Launch, Pointer, Source, View, ViewMut, argument, or_null};

pub(in crate::kernels) const SOURCE: Source =
    Source { name: "optim", text: include_str!("optim.cu"), variants: BOTH_REALS };

/// Weights that a block updates.
const RUN: usize = 4096;

/// The runs of a tensor: the offset of each, in bytes, and its length.
fn runs<T>(len: usize) -> impl Iterator<Item = (u64, u64)> {
    (0..len).step_by(RUN).map(move |start| ((start * size_of::<T>()) as u64, (len - start).min(RUN) as u64))
}

/// `AdamW` of optim.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct AdamW<T> {
    weight: Pointer,
    m: Pointer,
    v: Pointer,
    average: Pointer,
    gradient: Pointer,
    len: u64,
    step_size: T,
    keep: T,
    momentum: T,
    rest: T,
}
argument!(AdamW<T>);

/// `Step` of optim.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Step<T> {
    beta1: T,
    rest1: T,
    beta2: T,
    rest2: T,
    inverse_sqrt_correction2: T,
    eps: T,
}
argument!(Step<T>);

pub(super) fn adamw<T: Real>(of: &AdamWUpdate, unless: Option<View<'_, T>>, steps: Vec<AdamWStep<'_>>) {
    let (mut table, mut gradients) = (Vec::new(), Vec::new());
    let mut common = None;
    let mut gpu = None;
    for AdamWStep { gradient, m, v, weight, lr, weight_decay, average } in steps {
        let numbers = Numbers::<T>::new(of, lr, weight_decay);
        let [weight, m, v] = [weight, m, v].map(|x| x.view_mut::<T>("adamw"));
        let (len, at) = (weight.len(), |x: &ViewMut<'_, T>| x.pointer());
        let (momentum, average) = average.map_or((T::ONE, Pointer(0)), |(momentum, average)| {
            (T::from_f64(momentum), average.view_mut::<T>("ema").pointer())
        });
        let whole = AdamW {
            weight: at(&weight),
            m: at(&m),
            v: at(&v),
            average,
            gradient: gradient.view::<T>("adamw").pointer(),
            len: len as u64,
            step_size: numbers.step_size,
            keep: numbers.keep,
            momentum,
            rest: T::ONE - momentum,
        };
        table.extend(runs::<T>(len).map(|(offset, len)| AdamW {
            weight: whole.weight.after(offset),
            m: whole.m.after(offset),
            v: whole.v.after(offset),
            average: if average == Pointer(0) { average } else { average.after(offset) },
            gradient: whole.gradient.after(offset),
            len,
            ..whole
        }));
        common = Some(Step {
            beta1: numbers.beta1.0,
            rest1: numbers.beta1.1,
            beta2: numbers.beta2.0,
            rest2: numbers.beta2.1,
            inverse_sqrt_correction2: numbers.inverse_sqrt_correction2,
            eps: numbers.eps,
        });
        gpu = Some(weight.gpu.clone());
        gradients.push(gradient); // until the kernel is on its way
    }
    let (Some(gpu), Some(common), false) = (gpu, common, table.is_empty()) else { return };
    let (grid, block) = (Grid::over(table.len(), 1), Block(1024, 1, 1));
    let table = gpu.table(&table);
    Launch { grid, block, ..Launch::over_elements(&gpu, SOURCE, "adamw", 1) }.run::<T>(&[
        &common,
        &Pointer(table.pointer()),
        &or_null(unless),
    ]);
}

pub(super) fn undo<T: Real>(unless: View<'_, T>, before: View<'_, T>, x: ViewMut<'_, T>) {
    let n = x.len();
    let launch = Launch::over_elements(x.gpu, SOURCE, "undo", n);
    launch.run::<T>(&[&(n as u64), &unless.pointer(), &before.pointer(), &x.pointer()]);
}

/// `Average` of optim.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Average<T> {
    average: Pointer,
    weight: Pointer,
    len: u64,
    momentum: T,
    rest: T,
}
argument!(Average<T>);

pub(super) fn ema<T: Real>(steps: Vec<EmaStep<'_>>) {
    let (mut table, mut gpu) = (Vec::new(), None);
    for EmaStep { momentum, weight, average } in steps {
        let (weight, average) = (weight.view::<T>("ema"), average.view_mut::<T>("ema"));
        let momentum = T::from_f64(momentum);
        table.extend(runs::<T>(weight.len()).map(|(offset, len)| Average {
            average: average.pointer().after(offset),
            weight: weight.pointer().after(offset),
            len,
            momentum,
            rest: T::ONE - momentum,
        }));
        gpu = Some(weight.gpu.clone());
    }
    let (Some(gpu), false) = (gpu, table.is_empty()) else { return };
    let (grid, block) = (Grid::over(table.len(), 1), Block(256, 1, 1));
    let table = gpu.table(&table);
    Launch { grid, block, ..Launch::over_elements(&gpu, SOURCE, "ema", 1) }.run::<T>(&[&Pointer(table.pointer())]);
}
