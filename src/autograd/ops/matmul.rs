//! C = op(A) op(B), where op is the identity or the transpose, for one pair of matrices or a batch of them.
//!
//! For C = A B:  dA = dC Bᵀ,  dB = Aᵀ dC.  A transposed operand's gradient is the transpose of that, which is again a
//! product with one operand read transposed: nothing is ever copied. An operand that served the whole batch gets the
//! sum of its gradients.

use crate::autograd::Var;
use crate::autograd::tape::record;
use crate::kernels::matmul as kernel;
use crate::tensor::{Shape, Tensor};

/// (batch, m, k, n) of a product.
#[track_caller]
fn sizes(a: &Tensor, ta: bool, b: &Tensor, tb: bool) -> [usize; 4] {
    let split = |shape: &Shape, transposed: bool| {
        let rank = shape.len();
        assert!(rank >= 2, "matmul: {} and {} must be matrices or batches of them", a.shape(), b.shape());
        let (batch, rows, cols) = (shape[..rank - 2].iter().product::<usize>(), shape[rank - 2], shape[rank - 1]);
        if transposed { (batch, cols, rows) } else { (batch, rows, cols) }
    };
    let ((batch_a, m, k), (batch_b, k2, n)) = (split(a.shape(), ta), split(b.shape(), tb));
    let same_batch = a.shape()[..a.shape().len() - 2] == b.shape()[..b.shape().len() - 2];
    let fits = k == k2 && (same_batch || a.shape().len() == 2 || b.shape().len() == 2);
    let t = |t: bool| if t { " transposed" } else { "" };
    assert!(fits, "matmul: shapes {}{} and {}{} do not fit", a.shape(), t(ta), b.shape(), t(tb));
    [if a.shape().len() == 2 { batch_b } else { batch_a }, m, k, n]
}

#[track_caller]
fn run(name: &'static str, a: &Var, ta: bool, b: &Var, tb: bool) -> Var {
    let (of_a, of_b) = (a, b);
    let [a, b] = [a, b].map(|x| x.value().clone());
    let [batch, m, k, n] = sizes(&a, ta, &b, tb);
    let wider = if a.shape().len() >= b.shape().len() { a.shape() } else { b.shape() };
    let shape = wider.with(wider.len() - 2, m).with(wider.len() - 1, n);
    let c = Tensor::from_buffer(shape, kernel::matmul(batch, [m, k, n], a.buffer(), ta, b.buffer(), tb));
    record(name, [of_a, of_b], c, move |dc, needed| {
        // The gradient of `x` is the product of two others, summed over the batch when x served all of it.
        let gradient = |x: &Tensor, dims, p: &Tensor, tp, q: &Tensor, tq| {
            let product = if x.shape().len() == 2 && batch > 1 { kernel::matmul_sum } else { kernel::matmul };
            Tensor::from_buffer(*x.shape(), product(batch, dims, p.buffer(), tp, q.buffer(), tq))
        };
        let da = || {
            if ta {
                gradient(&a, [k, n, m], &b, tb, &dc, true) // dAᵀ, stored as A is: op(B) dCᵀ
            } else {
                gradient(&a, [m, n, k], &dc, false, &b, !tb) // dA = dC op(B)ᵀ
            }
        };
        let db = || {
            if tb {
                gradient(&b, [n, m, k], &dc, true, &a, ta) // dBᵀ = dCᵀ op(A)
            } else {
                gradient(&b, [k, m, n], &a, !ta, &dc, false) // dB = op(A)ᵀ dC
            }
        };
        [needed[0].then(da), needed[1].then(db)]
    })
}

/// A B for matrices (m, k) and (k, n), or batches \[…, m, k\] and \[…, k, n\]; a single matrix serves a whole batch.
#[track_caller]
pub fn matmul(a: &Var, b: &Var) -> Var {
    run("matmul", a, false, b, false)
}

/// A Bᵀ for A \[…, m, k\] and B \[…, n, k\].
#[track_caller]
pub fn matmul_nt(a: &Var, b: &Var) -> Var {
    run("matmul_nt", a, false, b, true)
}

/// Aᵀ B for A \[…, k, m\] and B \[…, k, n\].
#[track_caller]
pub fn matmul_tn(a: &Var, b: &Var) -> Var {
    run("matmul_tn", a, true, b, false)
}
