//! Every function of the kernels' door refuses a buffer that is not as long as its sizes say, in release builds too: the
//! loops behind it would read what is not there, or leave elements unwritten.

use std::panic::{AssertUnwindSafe, catch_unwind};

use stop_mim::kernels::{self, AdamWUpdate, AttentionSizes, Broadcast, Buffer, DType, PatchGrid, PatchOrder};

fn buffer(len: usize) -> Buffer {
    kernels::full(len, 0.5, DType::F64)
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
    refuses("matmul", &[2 * 6, 2 * 12], |b| _ = kernels::matmul(2, [2, 3, 4], &b[0], false, &b[1], false));
    refuses("matmul", &[2 * 6, 2 * 12], |b| _ = kernels::matmul_sum(2, [2, 3, 4], &b[0], false, &b[1], false));
    refuses("linear", &[6, 12, 4, 8], |b| {
        _ = kernels::linear([2, 3, 4], &b[0], &b[1], Some(&b[2]), Some(&b[3]));
    });
    refuses("linear", &[8, 6, 12], |b| {
        _ = kernels::linear_backward(Some(x(&b, 0)), [2, 3, 4], &b[1], false, &b[2], false);
    });
    refuses("sum_rows", &[3, 6], |b| _ = kernels::accumulate_rows(Some(x(&b, 0)), 3, &b[1]));
    let how = Broadcast::new(&[2, 1, 4], &[3, 1], &[2, 3, 4]);
    let nothing = Broadcast::new(&[2, 0], &[1], &[2, 0]);
    for (name, door) in [("add", kernels::add as fn(_, _, &_, &_) -> _), ("mul", kernels::mul)] {
        refuses(name, &[6, 6], |b| _ = door(None, 6, &b[0], &b[1]));
        refuses(name, &[8, 3], |b| _ = door(Some(&how), 24, &b[0], &b[1]));
        assert_eq!(door(Some(&nothing), 0, &buffer(0), &buffer(1)).len(), 0);
        assert!(catch_unwind(|| door(Some(&how), 23, &buffer(8), &buffer(3))).is_err());
    }
    refuses("reduce_to", &[6], |b| _ = kernels::reduce_to(&b[0], &[2, 3], &[3]));
    refuses("accumulate", &[6, 6], |b| kernels::accumulate(&mut x(&b, 0), &b[1]));
    refuses("gelu", &[6, 6], |b| _ = kernels::gelu_backward(&b[0], &b[1]));
    refuses("gelu", &[6, 6], |b| _ = kernels::gelu_and_backward(&b[0], x(&b, 1)));
    refuses("layer_norm", &[6, 3, 3], |b| _ = kernels::layer_norm(3, &b[0], Some((&b[1], &b[2])), 1e-6));
    refuses("layer_norm", &[6, 3, 3, 4], |b| _ = kernels::layer_norm_recompute(3, &b[0], (&b[1], &b[2]), &b[3]));
    refuses("layer_norm", &[6, 6, 3, 4, 6], |b| {
        _ = kernels::layer_norm_backward_input(Some(x(&b, 0)), 3, &b[1], Some(&b[2]), &b[3], x(&b, 4));
    });
    refuses("layer_norm", &[6, 4, 6], |b| _ = kernels::layer_norm_backward_affine(3, &b[0], &b[1], &b[2]));
    refuses("softmax", &[6], |b| _ = kernels::softmax(3, &b[0]));
    refuses("softmax", &[6, 6], |b| _ = kernels::softmax_backward(3, &b[0], &b[1]));
    let sizes = AttentionSizes { batch: 2, tokens: 3, queries: 1..3, heads: 2, head_dim: 4 };
    refuses("attention", &[sizes.qkv()], |b| _ = kernels::attention(&sizes, &b[0]));
    refuses("attention", &[sizes.qkv(), sizes.out()], |b| _ = kernels::attention_backward(&sizes, &b[0], &b[1]));
    let sizes = AttentionSizes { queries: 2..4, ..sizes };
    assert!(catch_unwind(|| kernels::attention(&sizes, &buffer(sizes.qkv()))).is_err(), "a query that is no token");
    refuses("gather_tokens", &[2 * 3 * 4], |b| _ = kernels::gather(&b[0], 3, 4, &[0, 2, 1, 1], 2));
    refuses("gather_tokens", &[4 * 4], |b| _ = kernels::scatter_add(&b[0], 3, 4, &[0, 2, 1, 1], 2, 24));
    assert!(catch_unwind(|| kernels::scatter_add(&buffer(16), 3, 4, &[0, 2, 1, 1], 2, 23)).is_err());
    assert!(catch_unwind(|| kernels::gather(&buffer(24), 3, 4, &[0, 2, 1], 2)).is_err(), "half a row of indices");
    refuses("concat", &[6, 4], |b| _ = kernels::concat_runs(2, &[(&b[0], 3), (&b[1], 2)]));
    refuses("slice", &[10], |b| _ = kernels::slice_runs(2, 5, 1, 3, &b[0]));
    refuses("slice", &[6], |b| _ = kernels::unslice_runs(2, 5, 1, 3, &b[0]));
    assert!(catch_unwind(|| kernels::slice_runs(2, 5, 3, 3, &buffer(10))).is_err(), "past the end of a row");
    assert!(catch_unwind(|| kernels::unslice_runs(2, 5, usize::MAX, 3, &buffer(6))).is_err(), "past the end of a row");
    refuses("swap_middle", &[24], |b| _ = kernels::swap_middle(&b[0], [2, 3, 4, 1]));
    let cut = PatchGrid { batch: 1, channels: 3, height: 4, width: 6, patch: 2, order: PatchOrder::ChannelFirst };
    refuses("patchify", &[72], |b| _ = kernels::patchify(&cut, &b[0]));
    refuses("unpatchify", &[72], |b| _ = kernels::unpatchify(&cut, &b[0]));
    refuses("smooth_l1", &[6, 6], |b| _ = kernels::smooth_l1(&b[0], &b[1], 1.0));
    refuses("smooth_l1", &[6, 6], |b| _ = kernels::smooth_l1_backward(&b[0], &b[1], 1.0, 1.0));
    refuses("mse", &[6, 6], |b| _ = kernels::squared_error(&b[0], &b[1]));
    refuses("mse", &[6, 6], |b| _ = kernels::squared_error_backward(&b[0], &b[1], 1.0));
    refuses("cross_entropy", &[6], |b| _ = kernels::cross_entropy(3, &b[0], &[0, 2]));
    refuses("cross_entropy", &[6], |b| _ = kernels::cross_entropy_backward(3, &b[0], &[0, 2], 1.0));
    let update = AdamWUpdate { lr: 1e-3, weight_decay: 0.0, betas: (0.9, 0.999), eps: 1e-8, step: 1 };
    refuses("adamw", &[6, 6, 6, 6], |b| {
        kernels::adamw(&update, &b[0], [&mut x(&b, 1), &mut x(&b, 2), &mut x(&b, 3)], None);
    });
    refuses("ema", &[6, 6], |b| kernels::ema(0.9, &b[0], &mut x(&b, 1)));
}
