//! Every kernel against its definition: the CPU's loops and the reference's, over awkward shapes (nothing, one, primes, one
//! past a vector or a tile, enough for the parallel paths), in both element types; and that a team of threads gives the bits of
//! one thread.

use super::elementwise::{self, Binary, Unary, Walk};
use super::loss::Regression;
use super::optim::{self, AdamWStep, AdamWUpdate, EmaStep};
use super::reduce::{self, Finite};
use super::team::in_a_team;
use super::testing::{devices, numbers};
use super::{Buffer, DType, Device, IndexBuffer, attention, layer_norm, loss, matmul, softmax, tokens};

/// Calls `door` with random buffers of these lengths, −1 to 1, on both devices, and compares all that it gives: the largest
/// difference over the largest number must stay below the tolerance, of f32 and of f64. 0 asks for the same numbers.
#[track_caller]
fn agree(name: &str, tolerance: [f64; 2], lengths: &[usize], door: impl Fn(Vec<Buffer>) -> Vec<Buffer> + Sync) {
    for (dtype, tolerance) in [DType::F32, DType::F64].into_iter().zip(tolerance) {
        let inputs = lengths.iter().enumerate().map(|(i, &len)| Buffer::from_vec(numbers(len, i as u64 + 1)));
        let inputs: Vec<Buffer> = inputs.map(|x| elementwise::to_dtype(&x, dtype)).collect();
        let on = |device| {
            let found = door(inputs.iter().map(|x| x.to_device(device)).collect());
            assert!(found.iter().all(|x| x.device() == device && x.dtype() == dtype), "{name}: results elsewhere");
            found.iter().map(f64s).collect::<Vec<_>>()
        };
        let reference = on(Device::Reference);
        for device in devices() {
            let found = on(device);
            if device == Device::Cpu {
                let bits = |x: &[Vec<f64>]| x.iter().flatten().map(|x| x.to_bits()).collect::<Vec<_>>();
                let in_a_team = in_a_team(3, || on(device));
                assert!(bits(&in_a_team) == bits(&found), "{name}: other bits in a team, in {dtype}");
            }
            for (which, (fast, exact)) in found.iter().zip(&reference).enumerate() {
                assert_eq!(fast.len(), exact.len(), "{name}: result {which}");
                let scale = exact.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                let off = fast.iter().zip(exact).map(|(x, y)| (x - y).abs());
                let worst = off.fold(0.0f64, |worst, x| if worst.is_nan() || x <= worst { worst } else { x });
                let close = worst <= tolerance * scale;
                assert!(close, "{name}: result {which} in {dtype} on {device} is off by {worst:e} of {scale:e}");
            }
        }
    }
}

fn f64s(x: &Buffer) -> Vec<f64> {
    elementwise::to_dtype(&x.to_device(Device::Cpu), DType::F64).as_slice::<f64>("test").to_vec()
}

/// Rounding of a few operations.
const FEW: [f64; 2] = [4e-7, 1e-15];
/// Rounding of a sum in the elements' own type.
const SUM: [f64; 2] = [2e-6, 4e-15];
/// That of a sum which is in f64 whatever its n elements are, and rounded once: in f64 itself, if it is long, of all additions.
fn of_sum(n: usize) -> [f64; 2] {
    if n > 2000 { [FEW[0], SUM[1]] } else { FEW }
}

/// No arithmetic, or the same.
const EXACT: [f64; 2] = [0.0; 2];

/// Large cases are not for Miri.
fn unless_miri<T>(cases: impl IntoIterator<Item = T>, small: usize) -> impl Iterator<Item = T> {
    cases.into_iter().take(if cfg!(miri) { small } else { usize::MAX })
}

#[test]
fn products() {
    let dims = [
        [1, 1, 1],
        [3, 5, 7],
        [4, 0, 3],
        [0, 2, 3],
        [17, 1, 13],
        [2, 3, 260],
        [2, 31, 1],
        [13, 12, 33],
        [33, 64, 65],
        [70, 300, 40],
    ];
    for [m, k, n] in unless_miri(dims, 7) {
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let name = format!("[{m}, {k}] × [{k}, {n}], transposed {ta} {tb}");
            for (batch, of_a, of_b) in [(1, 1, 1), (3, 3, 3), (3, 1, 3), (3, 3, 1)] {
                agree(&name, SUM, &[of_a * m * k, of_b * k * n], |x| {
                    vec![matmul::matmul(batch, [m, k, n], &x[0], ta, &x[1], tb)]
                });
            }
            agree(&name, SUM, &[3 * m * k, 3 * k * n], |x| {
                vec![matmul::matmul_sum(3, [m, k, n], &x[0], ta, &x[1], tb)]
            });
            agree(&name, SUM, &[m * k, k * n, m * n], |x| {
                let [sum, none] = [Some(x[2].clone()), None];
                [sum, none].map(|sum| matmul::linear_backward(sum, [m, k, n], &x[0], ta, &x[1], tb)).into()
            });
        }
        agree("linear", SUM, &[m * k, n * k, n, m * n], |x| {
            let (bias, residual) = (Some(&x[2]), Some(&x[3]));
            [(None, None), (bias, None), (None, residual), (bias, residual)]
                .map(|(bias, residual)| matmul::linear([m, k, n], &x[0], &x[1], bias, residual))
                .into()
        });
        agree("linear of GELU, backward", SUM, &[m * n, n * k, m * k], |x| {
            let (z, dh) = matmul::gelu_backward([m, k, n], &x[0], &x[1], &x[2]);
            vec![z, dh]
        });
    }
}

/// Cut into rows, into columns and into a batch, that run in parallel.
#[test]
#[cfg_attr(miri, ignore = "large")]
fn large_products() {
    for (name, [m, k, n]) in [("rows in parallel", [700, 700, 600]), ("columns in parallel", [600, 700, 700])] {
        agree(name, SUM, &[m * k, n * k, n, m * n], |x| {
            vec![matmul::linear([m, k, n], &x[0], &x[1], Some(&x[2]), Some(&x[3]))]
        });
    }
    let ([m, k, n], batch) = ([64, 512, 128], 70);
    agree("a batch in parallel", SUM, &[batch * m * k, k * n], |x| {
        vec![matmul::matmul(batch, [m, k, n], &x[0], false, &x[1], false)]
    });
}

#[test]
fn attention_of_all_and_of_some() {
    let sizes = [[0, 3, 2, 4], [2, 0, 2, 4], [1, 1, 1, 1], [2, 5, 3, 2], [1, 17, 2, 4], [1, 150, 1, 3], [2, 33, 2, 16]];
    for [batch, tokens, heads, head_dim] in unless_miri(sizes, 5) {
        for queries in [0..tokens, tokens / 3..tokens - tokens / 4, tokens / 2..tokens / 2] {
            let sizes = attention::Sizes { batch, tokens, queries, heads, head_dim };
            let name = format!("{sizes:?}");
            agree(&name, SUM, &[sizes.qkv()], |x| vec![attention::forward(&sizes, &x[0])]);
            agree(&name, SUM, &[sizes.qkv(), sizes.out()], |x| vec![attention::backward(&sizes, &x[0], &x[1])]);
        }
    }
}

#[test]
fn rows() {
    for (rows, cols) in
        unless_miri([(0, 4), (3, 1), (3, 2), (2, 7), (5, 16), (3, 33), (2, 37), (3, 96), (700, 33), (40, 1031)], 7)
    {
        let (n, name) = (rows * cols, format!("{rows} rows of {cols}"));
        agree(&name, SUM, &[n], |x| vec![softmax::forward(cols, &elementwise::scale(&x[0], 5.0))]);
        agree(&name, SUM, &[n, n], |x| vec![softmax::backward(cols, &softmax::forward(cols, &x[0]), &x[1])]);
        agree(&name, SUM, &[n, cols, cols, n, n], |x| {
            let affine = (&x[1], &x[2]);
            let (y, stats) = layer_norm::forward(cols, &x[0], Some(affine), 1e-3);
            let plain = layer_norm::forward(cols, &x[0], None, 1e-3).0;
            vec![layer_norm::recompute(x[0].dtype(), cols, &x[0], affine, &stats), y, stats, plain]
        });
        agree(&name, [6e-6, 3e-14], &[n, cols, n, n], |x| {
            let stats = layer_norm::forward(cols, &x[0], None, 1e-3).1;
            let (dgamma, dbeta) = layer_norm::backward_affine(cols, &x[0], &stats, &x[2]);
            let dx = |sum, gamma| {
                let mut dx = layer_norm::backward_input(sum, cols, &x[0], gamma, &stats, x[2].clone());
                if cols == 1 {
                    elementwise::accumulate(&mut dx, &x[2]); // dx is 0, or the rounding of what cancels
                }
                dx
            };
            vec![dx(None, None), dx(None, Some(&x[1])), dx(Some(x[3].clone()), Some(&x[1])), dgamma, dbeta]
        });
        agree(&name, SUM, &[cols, n], |x| {
            [Some(x[0].clone()), None].map(|sum| reduce::accumulate_rows(sum, cols, &x[1])).into()
        });
        let classes = IndexBuffer::new((0..rows).map(|r| (3 * r % cols.max(1)) as u32).collect::<Vec<_>>());
        if rows > 0 {
            agree(&name, SUM, &[n, 1], |x| {
                let classes = classes.to_device(x[0].device());
                let dx = loss::cross_entropy_backward(cols, &x[0], &classes, &x[1]);
                vec![loss::cross_entropy(cols, &x[0], &classes), dx]
            });
        }
    }
}

#[test]
fn elements() {
    for n in unless_miri([1, 7, 64, 1009, 0, 70_001], 4) {
        let name = |what: &str| format!("{what} of {n}");
        for op in Binary::ALL {
            agree(&name(op.name()), EXACT, &[n, n], |x| vec![elementwise::binary(op, None, n, &x[0], &x[1])]);
        }
        for f in Unary::ALL {
            agree(&name(f.name()), FEW, &[n, n], |x| {
                // Away from 0, and positive where that is asked.
                let positive = elementwise::map(&x[0], |x| x.abs() + 0.5);
                let x0 = if matches!(f, Unary::Ln | Unary::Sqrt) { &positive } else { &x[0] };
                let y = elementwise::unary(f, x0);
                let dx = elementwise::unary_backward(f, if f.slope_reads_result() { &y } else { x0 }, &x[1]);
                vec![y, dx]
            });
        }
        agree(&name("gelu"), FEW, &[n, n], |x| {
            let (y, dx) = elementwise::unary_and_backward(
                x[0].dtype(),
                Unary::Gelu,
                &elementwise::scale(&x[0], 4.0),
                x[1].clone(),
            );
            vec![y, dx]
        });
        agree(&name("scale, accumulate, map, zip_map"), FEW, &[n, n], |x| {
            let mut sum = x[0].clone();
            elementwise::accumulate(&mut sum, &x[1]);
            let product = elementwise::zip_map(&x[0], &x[1], |a, b| a * b);
            vec![elementwise::scale(&x[0], -0.37), sum, elementwise::map(&x[0], f64::sin), product]
        });
        agree(&name("norm"), of_sum(n), &[n, 1], |x| vec![reduce::norm(&x[0]), reduce::norm_backward(&x[0], &x[1])]);
        if n > 0 {
            agree(&name("losses"), [4e-7, 2e-14], &[n, n, 1], |x| {
                let (x, t, dy) = (elementwise::scale(&x[0], 2.0), &x[1], &x[2]);
                let both = |of| [loss::regression(of, &x, t), loss::regression_backward(of, &x, t, dy)];
                [Regression::SmoothL1 { beta: 0.7 }, Regression::Squared].map(both).concat()
            });
        }
    }
    for device in devices().into_iter().chain([Device::Reference]) {
        let half = elementwise::to_dtype(&Buffer::from_vec(vec![0.5, 1.0 + 1e-12]).to_device(device), DType::F32);
        assert_eq!((half.device(), half.to_device(Device::Cpu).as_slice::<f32>("test")), (device, &[0.5, 1.0][..]));
        assert_eq!(f64s(&elementwise::to_dtype(&half, DType::F64)), [0.5, 1.0]);
    }
}

#[test]
fn broadcasting_and_sums() {
    let shapes: [[&[usize]; 3]; 7] = [
        [&[2, 1, 3], &[4, 1], &[2, 4, 3]],
        [&[7], &[2, 1, 7], &[2, 1, 7]],
        [&[], &[3], &[3]],
        [&[0, 3], &[3], &[0, 3]],
        [&[5, 1], &[1, 37], &[5, 37]],
        [&[2, 1, 3, 1, 2, 1], &[2, 1, 2, 1, 5], &[2, 2, 3, 2, 2, 5]],
        [&[3, 300], &[300], &[3, 300]],
    ];
    for [a, b, y] in shapes {
        let (how, name) = (Walk::broadcast(a, b, y), format!("{a:?} and {b:?}"));
        let [of_a, of_b, of_y] = how.elements();
        assert_eq!([of_a, of_b, of_y], [a, b, y].map(|shape| shape.iter().product::<usize>()));
        for op in Binary::ALL {
            agree(&name, EXACT, &[of_a, of_b], |x| vec![elementwise::binary(op, Some(&how), of_y, &x[0], &x[1])]);
        }
        agree(&name, SUM, &[of_y], |x| [a, b].map(|to| elementwise::reduce_to(&x[0], y, to)).into());
    }
    for [outer, n, inner] in [
        [1, 1, 1],
        [1, 1009, 1],
        [2, 3, 4],
        [5, 7, 1],
        [1, 7, 5],
        [3, 0, 2],
        [2, 3, 0],
        [3, 1, 37],
        [2, 777, 37],
        [3, 5003, 1],
    ] {
        let name = format!("sum over the middle of [{outer}, {n}, {inner}]");
        agree(&name, of_sum(n), &[outer * n * inner, outer * inner], |x| {
            vec![reduce::sum([outer, n, inner], 0.3, &x[0]), reduce::sum_backward([outer, n, inner], 0.3, &x[1])]
        });
    }
}

#[test]
fn what_only_moves() {
    for (sources, tokens_, dim, per_row, rows) in [(2, 3, 5, 2, 4), (1, 4, 2, 7, 3), (3, 2, 1, 0, 3), (2, 5, 33, 3, 2)]
    {
        let indices = (0..rows * per_row).map(|i| (i * 7 % tokens_) as u32).collect::<Vec<_>>();
        let indices = IndexBuffer::new(indices);
        let (len, picked) = (sources * tokens_ * dim, rows * per_row * dim);
        agree("gather_tokens", SUM, &[len, picked], |x| {
            let indices = indices.to_device(x[0].device());
            let back = tokens::scatter_add(&x[1], tokens_, dim, &indices, per_row, len);
            vec![tokens::gather(&x[0], tokens_, dim, &indices, per_row), back]
        });
    }
    for (rows, row, start, width) in [(1, 7, 2, 3), (3, 5, 0, 5), (2, 4, 4, 0), (0, 4, 1, 2), (5, 40, 17, 13)] {
        agree("slices", EXACT, &[rows * row, rows * width], |x| {
            let cut = tokens::slice(rows, row, start, width, &x[0]);
            let joined = tokens::concat(rows, &[(&x[0], row), (&x[1], width), (&cut, width)]);
            vec![tokens::unslice(rows, row, start, width, &x[1]), cut, joined]
        });
    }
    let permutations: [(&[usize], &[usize]); 6] = [
        (&[], &[]),
        (&[5, 3], &[1, 0]),
        (&[2, 3, 1, 5, 4], &[0, 3, 2, 1, 4]),
        (&[1, 0, 2, 3, 4], &[0, 3, 2, 1, 4]),
        (&[2, 3, 2, 4, 3, 2], &[0, 2, 4, 1, 3, 5]),
        (&[2, 3, 2, 4, 3, 2], &[0, 2, 4, 3, 5, 1]),
    ];
    for (shape, order) in permutations {
        agree("permute", EXACT, &[shape.iter().product()], |x| vec![tokens::permute("permute", shape, order, &x[0])]);
    }
}

#[test]
fn updates() {
    for n in unless_miri([1, 7, 1000, 0, 40_000], 3) {
        agree("adamw and ema", FEW, &[n; 10], |mut x| {
            for step in 1..=2 {
                let update = AdamWUpdate { betas: (0.9, 0.999), eps: 1e-8, step };
                let [g, m, v, weight, average, g2, m2, v2, weight2, mean] = &mut x[..] else { panic!() };
                *v = elementwise::unary(Unary::Abs, v);
                *v2 = elementwise::unary(Unary::Abs, v2);
                let (gradient, with) = (g.clone(), Some((0.7, average)));
                let one = AdamWStep { gradient, m, v, weight, lr: 1e-2, weight_decay: 0.3, average: with };
                let (gradient, m, v, weight) = (g2.clone(), m2, v2, &mut *weight2);
                let other = AdamWStep { gradient, m, v, weight, lr: 2e-2, weight_decay: 0.0, average: None };
                optim::adamw(&update, None, vec![one, other]);
                optim::ema(vec![EmaStep { momentum: 0.9, weight: weight2, average: mean }]);
            }
            x
        });
    }
}

/// An update that is forbidden changes no bit; what was changed elsewhere is undone.
#[test]
fn updates_that_are_forbidden() {
    let n = if cfg!(miri) { 40 } else { 40_000 };
    for (device, dtype) in
        devices().into_iter().chain([Device::Reference]).flat_map(|d| [(d, DType::F32), (d, DType::F64)])
    {
        let x = |seed| elementwise::to_dtype(&Buffer::from_vec(numbers(n, seed)), dtype).to_device(device);
        for (count, made) in [(0.0, true), (1.0, false), (3e7, false)] {
            let count = Buffer::full(1, count, dtype, device);
            let ([mut m, mut v], [mut weight, mut average, mut moved]) = ([x(2), x(3)], [x(4), x(5), x(6)]);
            v = elementwise::unary(Unary::Abs, &v);
            let before = [&m, &v, &weight, &average, &x(7)].map(f64s);
            let update = AdamWUpdate { betas: (0.9, 0.999), eps: 1e-8, step: 1 };
            let (gradient, with) = (x(1), Some((0.7, &mut average)));
            let (m_, v_, weight_) = (&mut m, &mut v, &mut weight);
            let step =
                AdamWStep { gradient, m: m_, v: v_, weight: weight_, lr: 1e-2, weight_decay: 0.3, average: with };
            optim::adamw(&update, Some(&count), vec![step]);
            optim::undo(&count, &x(7), &mut moved);
            let after = [&m, &v, &weight, &average, &moved].map(f64s);
            let same: Vec<bool> = after.iter().zip(&before).map(|(after, before)| after == before).collect();
            assert_eq!(same, [!made; 5], "{device} {dtype} {made}");
            assert_eq!(f64s(&moved) == f64s(&x(6)), made, "{device} {dtype} {made}");
        }
    }
}

#[test]
fn counts_of_what_is_not_finite() {
    let n = if cfg!(miri) { 40 } else { 400_000 };
    let with = |values: &[(usize, f64)]| {
        let mut x = numbers(n, 1);
        values.iter().for_each(|&(at, value)| x[at] = value);
        Buffer::from_vec(x)
    };
    let clean = with(&[]);
    let dirty = with(&[(0, f64::NAN), (n / 2, 1e20), (n - 1, f64::NEG_INFINITY)]);
    for device in devices().into_iter().chain([Device::Reference]) {
        for (dtype, of, expected) in [
            (DType::F32, Finite::Elements, 2.0),
            (DType::F32, Finite::Squares, 3.0),
            (DType::F64, Finite::Squares, 2.0),
        ] {
            let [clean, dirty] = [&clean, &dirty].map(|x| elementwise::to_dtype(x, dtype).to_device(device));
            let count = |buffers: &[(Finite, &Buffer)]| f64s(&reduce::count_non_finite(buffers));
            let both = [(Finite::Elements, &dirty), (of, &clean), (of, &dirty)];
            let elements = if of == Finite::Elements || dtype == DType::F64 { expected } else { 2.0 };
            assert_eq!([count(&[(of, &clean)]), count(&both)], [[0.0], [elements + expected]], "{device} {dtype}");
        }
    }
    assert_eq!(f64s(&reduce::count_non_finite(&[])), [0.0]);
}

/// The reference itself, on what a hand can compute.
#[test]
fn the_reference_is_right() {
    let x = |values: &[f64]| Buffer::from_vec(values.to_vec()).to_device(Device::Reference);
    let ln3 = 3f64.ln();
    let same = |what: &str, found: Buffer, exact: &[f64]| {
        let found = found.as_slice::<f64>("test");
        let close = found.len() == exact.len() && found.iter().zip(exact).all(|(x, y)| (x - y).abs() < 1e-14);
        assert!(close, "{what}: {found:?} instead of {exact:?}");
    };
    let (a, b) = (x(&[1., 2., 3., 4., 5., 6.]), x(&[1., 0., 2., 0., 1., 0.]));
    same("a bᵀ", matmul::matmul(1, [2, 3, 2], &a, false, &b, true), &[7., 2., 16., 5.]);
    same("aᵀ b", matmul::matmul(1, [3, 2, 3], &a, true, &b, false), &[1., 4., 2., 2., 5., 4., 3., 6., 6.]);
    same("linear", matmul::linear([1, 2, 1], &x(&[1., 2.]), &x(&[3., 4.]), Some(&x(&[5.])), Some(&x(&[6.]))), &[22.]);
    same("softmax", softmax::forward(2, &x(&[0., ln3])), &[0.25, 0.75]);
    same("softmax, dx", softmax::backward(2, &x(&[0.25, 0.75]), &x(&[1., 0.])), &[0.1875, -0.1875]);
    let affine = (x(&[2., 3.]), x(&[0., 1.]));
    same("layer norm", layer_norm::forward(2, &x(&[1., 3.]), Some((&affine.0, &affine.1)), 0.0).0, &[-2., 4.]);
    same("gelu", elementwise::unary(Unary::Gelu, &x(&[0., 1.])), &[0., 0.841_344_746_068_543]);
    // One query of 0 attends alike to values 2 and 4.
    let sizes = attention::Sizes { batch: 1, tokens: 2, queries: 0..1, heads: 1, head_dim: 1 };
    same("attention", attention::forward(&sizes, &x(&[0., 1., 2., 0., 9., 4.])), &[3.]);
    same(
        "cross-entropy",
        loss::cross_entropy(2, &x(&[0., ln3]), &IndexBuffer::new([1]).to_device(Device::Reference)),
        &[(4f64 / 3.0).ln()],
    );
    let smooth_l1 = Regression::SmoothL1 { beta: 2.0 };
    // 1/16, 1/4, 2 (where both forms agree) and 1.
    same("smooth L1", loss::regression(smooth_l1, &x(&[0.5, -1., 3., 2.]), &x(&[0.; 4])), &[(0.3125 + 2. + 1.) / 4.]);
    same("squared", loss::regression(Regression::Squared, &x(&[1., -3.]), &x(&[2., 0.])), &[5.]);
    let how = Walk::broadcast(&[2, 1], &[2], &[2, 2]);
    same(
        "a − b",
        elementwise::binary(Binary::Sub, Some(&how), 4, &x(&[1., 2.]), &x(&[10., 20.])),
        &[-9., -19., -8., -18.],
    );
    same("Σ", elementwise::reduce_to(&x(&[1., 2., 3., 4.]), &[2, 2], &[2, 1]), &[3., 7.]);
    same("aᵀ", tokens::permute("transpose", &[2, 3], &[1, 0], &a), &[1., 4., 2., 5., 3., 6.]);
    // From m = v = 0 the first step is lr in the direction of the gradient's sign.
    let (mut m, mut v, mut w, mut mean) = (x(&[0.]), x(&[0.]), x(&[2.]), x(&[0.]));
    let update = AdamWUpdate { betas: (0.9, 0.999), eps: 0.0, step: 1 };
    let (weight, average) = (&mut w, Some((0.75, &mut mean)));
    optim::adamw(
        &update,
        None,
        vec![AdamWStep { gradient: x(&[-3.]), m: &mut m, v: &mut v, weight, lr: 0.1, weight_decay: 0.5, average }],
    );
    same("adamw", w, &[2.0 * 0.95 + 0.1]);
    same("ema", mean, &[0.5]);
}
