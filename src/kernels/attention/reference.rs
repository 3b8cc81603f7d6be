//! The definition, in its simplest loops: computed in f64, each number rounded once when it is written.
#![allow(clippy::needless_range_loop, reason = "index expressions are written out")]

use super::Sizes;
use crate::kernels::Real;
use crate::kernels::launch::{Read, Written};

/// Index of number e of head h of token n of image b: of its query (part 0), key (1) or value (2).
fn at(s: &Sizes, part: usize, [b, n, h, e]: [usize; 4]) -> usize {
    (((b * s.tokens + n) * 3 + part) * s.heads + h) * s.head_dim + e
}

/// Index of number e of head h of what query i of image b is answered.
fn out_at(s: &Sizes, [b, i, h, e]: [usize; 4]) -> usize {
    ((b * s.queries.len() + i - s.queries.start) * s.heads + h) * s.head_dim + e
}

/// p_j = softmax over j of ⟨q_i, k_j⟩ / √d.
fn probabilities<T: Real>(s: &Sizes, qkv: &[T], [b, i, h]: [usize; 3]) -> Vec<f64> {
    let mut p = vec![0.0; s.tokens];
    for j in 0..s.tokens {
        for e in 0..s.head_dim {
            p[j] += s.scale() * qkv[at(s, 0, [b, i, h, e])].to_f64() * qkv[at(s, 1, [b, j, h, e])].to_f64();
        }
    }
    let largest = p.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    p.iter_mut().for_each(|p| *p = (*p - largest).exp());
    let total: f64 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= total);
    p
}

/// Every image, query and head.
fn each(s: &Sizes) -> impl Iterator<Item = [usize; 3]> {
    (0..s.batch).flat_map(move |b| s.queries.clone().flat_map(move |i| (0..s.heads).map(move |h| [b, i, h])))
}

/// o_i ← Σ_j p_ij v_j.
pub(super) fn forward<T: Real>(s: &Sizes, qkv: Read<'_, T>, out: Written<'_, T>) {
    let (qkv, out) = (qkv.wide(), out.wide());
    for [b, i, h] in each(s) {
        let p = probabilities(s, qkv, [b, i, h]);
        for e in 0..s.head_dim {
            let sum = (0..s.tokens).map(|j| p[j] * qkv[at(s, 2, [b, j, h, e])].to_f64()).sum();
            out[out_at(s, [b, i, h, e])] = T::from_f64(sum);
        }
    }
}

/// dv_j ← Σ_i p_ij do_i, dp_ij = ⟨do_i, v_j⟩, ds_ij = p_ij (dp_ij − Σ_j p_ij dp_ij), dq_i ← Σ_j ds_ij k_j / √d,
/// dk_j ← Σ_i ds_ij q_i / √d.
pub(super) fn backward<T: Real>(s: &Sizes, qkv: Read<'_, T>, dout: Read<'_, T>, dqkv: Written<'_, T>) {
    let (qkv, dout, dqkv) = (qkv.wide(), dout.wide(), dqkv.wide());
    let mut sums = vec![0.0; dqkv.len()];
    for [b, i, h] in each(s) {
        let p = probabilities(s, qkv, [b, i, h]);
        let dout = |e: usize| dout[out_at(s, [b, i, h, e])].to_f64();
        let dp = |j: usize| (0..s.head_dim).map(|e| dout(e) * qkv[at(s, 2, [b, j, h, e])].to_f64()).sum::<f64>();
        let inner: f64 = (0..s.tokens).map(|j| p[j] * dp(j)).sum();
        for j in 0..s.tokens {
            let ds = p[j] * (dp(j) - inner) * s.scale();
            for e in 0..s.head_dim {
                sums[at(s, 2, [b, j, h, e])] += p[j] * dout(e);
                sums[at(s, 0, [b, i, h, e])] += ds * qkv[at(s, 1, [b, j, h, e])].to_f64();
                sums[at(s, 1, [b, j, h, e])] += ds * qkv[at(s, 0, [b, i, h, e])].to_f64();
            }
        }
    }
    for i in 0..dqkv.len() {
        dqkv[i] = T::from_f64(sums[i]);
    }
}
