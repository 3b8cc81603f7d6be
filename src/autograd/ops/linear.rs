//! y = x Wᵀ + b for every row of x, with W stored (outputs, inputs) as PyTorch does.
//!
//! dx = dy W,  dW = dyᵀ x (a sum over rows),  db = Σ rows of dy.

use crate::autograd::Var;
use crate::autograd::tape::record_many;
use crate::kernels;
use crate::tensor::Tensor;

/// x and W.
struct Saved {
    x: Tensor,
    weight: Tensor,
}

#[track_caller]
fn forward(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> (Tensor, Saved) {
    let [outputs, inputs] = weight.dims("linear: the weight");
    let rank = x.shape().len();
    let fits = rank >= 1 && x.last_dim() == inputs;
    assert!(fits, "linear: x is {} but the weight {} takes rows of {inputs}", x.shape(), weight.shape());
    let rows = x.shape()[..rank - 1].iter().product();
    let y = kernels::linear(rows, inputs, outputs, x.buffer(), weight.buffer(), bias.map(Tensor::buffer));
    let y = Tensor::from_buffer(x.shape().with(rank - 1, outputs), y);
    (y, Saved { x: x.clone(), weight: weight.clone() })
}

fn backward(Saved { x, weight }: &Saved, dy: &Tensor, needed: &[bool]) -> Vec<Option<Tensor>> {
    let [outputs, inputs]: [usize; 2] = weight.dims("linear");
    let rows = dy.shape()[..dy.shape().len() - 1].iter().product();
    let dx = || kernels::matmul(1, [rows, outputs, inputs], dy.buffer(), false, weight.buffer(), false);
    let dw = || kernels::matmul(1, [outputs, rows, inputs], dy.buffer(), true, x.buffer(), false);
    let db = || kernels::sum_rows(outputs, dy.buffer());
    let mut gradients = vec![
        needed[0].then(|| Tensor::from_buffer(*x.shape(), dx())),
        needed[1].then(|| Tensor::from_buffer(*weight.shape(), dw())),
    ];
    if let Some(true) = needed.get(2) {
        gradients.push(Some(Tensor::from_buffer([outputs], db())));
    }
    gradients
}

/// x Wᵀ + b: x \[…, inputs\], W \[outputs, inputs\], b \[outputs\] → \[…, outputs\].
///
/// # Panics
/// When the shapes do not fit.
#[track_caller]
pub fn linear(x: &Var, weight: &Var, bias: Option<&Var>) -> Var {
    let (y, saved) = forward(x.value(), weight.value(), bias.map(Var::value));
    let inputs: Vec<&Var> = [x, weight].into_iter().chain(bias).collect();
    record_many("linear", &inputs, y, move |dy, needed| backward(&saved, &dy, needed))
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn values() {
        for [rows, inputs, outputs] in [[1, 1, 1], [3, 5, 2], [0, 2, 3], [7, 13, 11]] {
            let (x, w, b) = (random([rows, inputs], 1), random([outputs, inputs], 2), random([outputs], 3));
            let (xs, ws, bs) = (x.to_f64_vec(), w.to_f64_vec(), b.to_f64_vec());
            let entry = |r: usize, o: usize| (0..inputs).map(|i| xs[r * inputs + i] * ws[o * inputs + i]).sum::<f64>();
            let exact: Vec<f64> =
                (0..rows * outputs).map(|i| entry(i / outputs, i % outputs) + bs[i % outputs]).collect();
            same(&forward(&x, &w, Some(&b)).0, [rows, outputs], &exact);
        }
    }

    #[test]
    fn gradient() {
        let inputs = [random([2, 3, 4], 1), random([5, 4], 2), random([5], 3)];
        assert_op("linear", |x| linear(&x[0], &x[1], Some(&x[2])), &inputs);
        assert_op("linear without bias", |x| linear(&x[0], &x[1], None), &inputs[..2]);
    }

    #[test]
    #[should_panic(expected = "linear: x is [2, 3] but the weight [5, 4] takes rows of 4")]
    fn rows_of_another_length() {
        linear(&random([2, 3], 1).into(), &random([5, 4], 2).into(), None);
    }
}
