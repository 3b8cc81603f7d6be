//! Every function of the kernels' door refuses a buffer that is not as long as its sizes say, in release builds too: the
//! loops behind it would read what is not there, or leave elements unwritten.

use std::panic::{AssertUnwindSafe, catch_unwind};

use stop_mim::kernels::elementwise::{self, Binary, Unary, Walk};
use stop_mim::kernels::loss::Regression;
use stop_mim::kernels::optim::{self, AdamWStep, AdamWUpdate, EmaStep};
use stop_mim::kernels::{Buffer, DType, Device, IndexBuffer};
use stop_mim::kernels::{attention, layer_norm, loss, matmul, reduce, softmax, tokens};

fn buffer(len: usize) -> Buffer {
    Buffer::full(len, 0.5, DType::F64, Device::Cpu)
}

/// Calls `door` with buffers of the lengths that fit, and then with each of them one shorter and one longer.
#[track_caller]
fn refuses(name: &str, lengths: &[usize], door: impl Fn(Vec<Buffer>)) {
    door(lengths.iter().map(|len| buffer(*len)).collect());
    for wrong in 0..lengths.len() {
        for by in [-1isize, 1] {
            let of =
                |(i, len): (usize, &usize)| buffer(if i == wrong { len.checked_add_signed(by).unwrap() } else { *len });
            let buffers = lengths.iter().enumerate().map(of).collect();
            let panic = catch_unwind(AssertUnwindSafe(|| door(buffers)));
            let message = panic.expect_err(&format!("{name}: buffer {wrong} is off by {by}"));
            let message = message.downcast_ref::<String>().expect("a message of the door's, not of a slice");
            assert!(message.contains(&format!("{name}: ")), "{name}: buffer {wrong} off by {by}: {message}");
        }
    }
}

#[test]
fn wrong_lengths_are_refused() {
    let x = |b: &[Buffer], i: usize| b[i].clone();
    refuses("matmul", &[2 * 6, 2 * 12], |b| _ = matmul::matmul(2, [2, 3, 4], &b[0], false, &b[1], false));
    refuses("matmul", &[2 * 6, 2 * 12], |b| _ = matmul::matmul_sum(2, [2, 3, 4], &b[0], false, &b[1], false));
    refuses("linear", &[6, 12, 4, 8], |b| _ = matmul::linear([2, 3, 4], &b[0], &b[1], Some(&b[2]), Some(&b[3])));
    refuses("linear", &[8, 6, 12], |b| {
        _ = matmul::linear_backward(Some(x(&b, 0)), [2, 3, 4], &b[1], false, &b[2], false);
    });
    refuses("linear", &[8, 12], |b| _ = matmul::linear_backward_to(DType::F64, [2, 3, 4], &b[0], &b[1]));
    refuses("linear", &[8, 12, 6], |b| _ = matmul::gelu_backward([2, 3, 4], &b[0], &b[1], &b[2]));
    let how = Walk::broadcast(&[2, 1, 4], &[3, 1], &[2, 3, 4]);
    let nothing = Walk::broadcast(&[2, 0], &[1], &[2, 0]);
    let add = |how, len, a: &Buffer, b: &Buffer| elementwise::binary(Binary::Add, how, len, a, b);
    refuses("add", &[6, 6], |b| _ = add(None, 6, &b[0], &b[1]));
    refuses("add", &[8, 3], |b| _ = add(Some(&how), 24, &b[0], &b[1]));
    assert_eq!(add(Some(&nothing), 0, &buffer(0), &buffer(1)).len(), 0);
    assert!(catch_unwind(|| add(Some(&how), 23, &buffer(8), &buffer(3))).is_err());
    refuses("exp", &[6, 6], |b| _ = elementwise::unary_backward(Unary::Exp, &b[0], &b[1]));
    refuses("reduce_to", &[6], |b| _ = elementwise::reduce_to(&b[0], &[2, 3], &[3]));
    refuses("accumulate", &[6, 6], |b| elementwise::accumulate(&mut x(&b, 0), &b[1]));
    refuses("zip_map", &[6, 6], |b| _ = elementwise::zip_map(&b[0], &b[1], f64::max));
    refuses("sum", &[24], |b| _ = reduce::sum([2, 3, 4], 1.0, &b[0]));
    refuses("sum", &[8], |b| _ = reduce::sum_backward([2, 3, 4], 1.0, &b[0]));
    refuses("sum_rows", &[3, 6], |b| _ = reduce::accumulate_rows(Some(x(&b, 0)), 3, &b[1]));
    refuses("l2_norm", &[1], |b| _ = reduce::norm_backward(&buffer(6), &b[0]));
    refuses("gelu", &[6, 6], |b| _ = elementwise::unary_and_backward(DType::F64, Unary::Gelu, &b[0], x(&b, 1)));
    refuses("layer_norm", &[6, 3, 3], |b| _ = layer_norm::forward(3, &b[0], Some((&b[1], &b[2])), 1e-6));
    refuses("layer_norm", &[6, 3, 3], |b| _ = layer_norm::forward_operand(3, &b[0], (&b[1], &b[2]), 1e-6));
    refuses("layer_norm", &[6, 3, 3, 4], |b| _ = layer_norm::recompute(DType::F64, 3, &b[0], (&b[1], &b[2]), &b[3]));
    refuses("layer_norm", &[6, 6, 3, 4, 6], |b| {
        _ = layer_norm::backward_input(Some(x(&b, 0)), 3, &b[1], Some(&b[2]), &b[3], x(&b, 4));
    });
    refuses("layer_norm", &[6, 4, 6], |b| _ = layer_norm::backward_affine(3, &b[0], &b[1], &b[2]));
    refuses("softmax", &[6], |b| _ = softmax::forward(3, &b[0]));
    refuses("softmax", &[6, 6], |b| _ = softmax::backward(3, &b[0], &b[1]));
    let sizes = attention::Sizes { batch: 2, tokens: 3, queries: 1..3, heads: 2, head_dim: 4 };
    refuses("attention", &[sizes.qkv()], |b| _ = attention::forward(&sizes, &b[0]));
    refuses("attention", &[sizes.qkv(), sizes.out()], |b| _ = attention::backward(&sizes, &b[0], &b[1]));
    let sizes = attention::Sizes { queries: 2..4, ..sizes };
    assert!(catch_unwind(|| attention::forward(&sizes, &buffer(sizes.qkv()))).is_err(), "a query that is no token");
    let indices = IndexBuffer::new([0, 2, 1, 1]);
    refuses("gather_tokens", &[2 * 3 * 4], |b| _ = tokens::gather(&b[0], 3, 4, &indices, 2));
    refuses("gather_tokens", &[4 * 4], |b| _ = tokens::scatter_add(&b[0], 3, 4, &indices, 2, 24));
    assert!(catch_unwind(|| tokens::scatter_add(&buffer(16), 3, 4, &indices, 2, 23)).is_err());
    let three = IndexBuffer::new([0, 2, 1]);
    assert!(catch_unwind(|| tokens::gather(&buffer(24), 3, 4, &three, 2)).is_err(), "half a row of indices");
    assert!(catch_unwind(|| tokens::gather(&buffer(16), 2, 4, &indices, 2)).is_err(), "a token that is not there");
    refuses("concat", &[6, 4], |b| _ = tokens::concat(2, &[(&b[0], 3), (&b[1], 2)]));
    refuses("slice", &[10], |b| _ = tokens::slice(2, 5, 1, 3, &b[0]));
    refuses("slice", &[6], |b| _ = tokens::unslice(2, 5, 1, 3, &b[0]));
    assert!(catch_unwind(|| tokens::slice(2, 5, 3, 3, &buffer(10))).is_err(), "past the end of a row");
    assert!(catch_unwind(|| tokens::unslice(2, 5, usize::MAX, 3, &buffer(6))).is_err(), "past the end of a row");
    refuses("transpose", &[24], |b| _ = tokens::permute("transpose", &[2, 3, 4], &[0, 2, 1], &b[0]));
    for order in [&[0, 1][..], &[0, 1, 1], &[0, 1, 2, 2], &[0, 1, 3]] {
        assert!(catch_unwind(|| tokens::permute("", &[2, 3, 4], order, &buffer(24))).is_err(), "axes {order:?}");
    }
    for of in [Regression::SmoothL1 { beta: 1.0 }, Regression::Squared] {
        refuses(of.name(), &[6, 6], |b| _ = loss::regression(of, &b[0], &b[1]));
        refuses(of.name(), &[6, 6, 1], |b| _ = loss::regression_backward(of, &b[0], &b[1], &b[2]));
    }
    let classes = IndexBuffer::new([0, 2]);
    refuses("cross_entropy", &[6], |b| _ = loss::cross_entropy(3, &b[0], &classes));
    refuses("cross_entropy", &[6, 1], |b| _ = loss::cross_entropy_backward(3, &b[0], &classes, &b[1]));
    let update = AdamWUpdate { betas: (0.9, 0.999), eps: 1e-8, step: 1 };
    refuses("adamw", &[6, 6, 6, 6, 6], |mut b| {
        let [gradient, m, v, weight, average] = &mut b[..] else { panic!() };
        let (gradient, average) = (gradient.clone(), Some((0.9, average)));
        optim::adamw(&update, None, vec![AdamWStep { gradient, m, v, weight, lr: 1e-3, weight_decay: 0.0, average }]);
    });
    refuses("ema", &[6, 6], |b| {
        optim::ema(vec![EmaStep { momentum: 0.9, weight: &b[0], average: &mut x(&b, 1) }]);
    });
}

#[test]
fn operands_of_one_operation_are_on_one_device() {
    let [here, there] = [Device::Cpu, Device::Reference].map(|device| buffer(6).to_device(device));
    let refused = |call: &dyn Fn()| {
        let panic = catch_unwind(AssertUnwindSafe(call)).expect_err("two devices");
        let message = panic.downcast_ref::<String>().expect("a message");
        let said = ["cpu", "reference", "to_device"].iter().all(|word| message.contains(word));
        assert!(said && message.starts_with("mul: ") || message.starts_with("gather_tokens: "), "{message}");
    };
    refused(&|| _ = elementwise::binary(Binary::Mul, None, 6, &here, &there));
    refused(&|| _ = elementwise::binary(Binary::Mul, None, 6, &there, &here));
    refused(&|| _ = tokens::gather(&there, 3, 1, &IndexBuffer::new([0, 1]), 1));
}
