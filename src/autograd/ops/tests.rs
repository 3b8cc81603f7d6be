//! Tests of all operations: values known by hand, gradients of what src/lab/gradients.rs (which checks each operation, and
//! which tests/gradients.rs asserts) has no case for, and what is refused. That kernels compute what they should is tested
//! in [`crate::kernels`].

use super::*;
use crate::autograd::check::assert_op;
use crate::autograd::{Tape, Var};
use crate::kernels::testing::{close, numbers};
use crate::tensor::{DType, Indices, Shape, Tensor};

/// A tensor of random numbers, different for each seed.
#[track_caller]
fn random(shape: impl Into<Shape>, seed: u64) -> Tensor {
    let shape = shape.into();
    Tensor::new(shape, numbers(shape.elements(), seed))
}

fn var(shape: impl Into<Shape>, seed: u64) -> Var {
    random(shape, seed).into()
}

fn known(shape: impl Into<Shape>, values: &[f64]) -> Var {
    Tensor::new(shape, values.to_vec()).into()
}

fn counted(shape: impl Into<Shape>) -> Var {
    Tensor::from_fn(shape, DType::F64, |i| i as f64).into()
}

/// Equal element by element.
#[track_caller]
fn same(x: &Var, shape: impl Into<Shape>, exact: &[f64]) {
    assert_eq!(*x.shape(), shape.into());
    x.value().to_f64_vec().into_iter().zip(exact).for_each(|(x, y)| close(x, *y, 1e-13));
}

#[test]
fn element_by_element() {
    let (a, b) = (known([2, 1, 2], &[1., 2., 3., 4.]), known([2, 1], &[10., -1.]));
    same(&add(&a, &b), [2, 2, 2], &[11., 12., 0., 1., 13., 14., 2., 3.]);
    same(&sub(&a, &b), [2, 2, 2], &[-9., -8., 2., 3., -7., -6., 4., 5.]);
    same(&mul(&a, &b), [2, 2, 2], &[10., 20., -1., -2., 30., 40., -3., -4.]);
    same(&div(&a, &b), [2, 2, 2], &[0.1, 0.2, -1., -2., 0.3, 0.4, -3., -4.]);
    same(&add(&var([0, 3], 1), &var([3], 1)), [0, 3], &[]);
    same(&scale(&a, -3.0), [2, 1, 2], &[-3., -6., -9., -12.]);
    let e = std::f64::consts::E;
    same(&exp(&known([2], &[0., 1.])), [2], &[1., e]);
    same(&ln(&known([2], &[1., e])), [2], &[0., 1.]);
    same(&tanh(&known([2], &[0., 3f64.ln() / 2.])), [2], &[0., 0.5]);
    same(&relu(&known([3], &[-2., 0., 3.])), [3], &[0., 0., 3.]);
    same(&abs(&known([3], &[-2., 0., 3.])), [3], &[2., 0., 3.]);
    same(&sqrt(&known([2], &[0., 9.])), [2], &[0., 3.]);
    // From a table of Φ.
    let table = [0.0, 0.841_344_746_068_543, -0.158_655_253_931_457, 1.954_499_736_103_64];
    same(&gelu(&known([4], &[0., 1., -1., 2.])), [4], &table);
    assert!([relu, abs, exp, gelu].iter().all(|f| f(&Tensor::new([1], vec![f32::NAN]).into()).item().is_nan()));
    let far = gelu(&Tensor::new([2], vec![-40.0f32, 40.0]).into()).value().to_f64_vec();
    assert!(far[0].abs() < 1e-30 && far[1] == 40.0, "{far:?}");
}

#[test]
fn along_rows_and_axes() {
    // Large entries do not overflow.
    same(&softmax(&known([2, 2], &[0., 3f64.ln(), 1000., 1000.])), [2, 2], &[0.25, 0.75, 0.5, 0.5]);
    assert!(softmax(&Tensor::new([2], vec![3e38f32, -3e38]).into()).value().is_finite());
    // Mean 2, variance 1; with ε = 3 the standard deviation is 2.
    let (x, gamma, beta) = (known([2, 2], &[1., 3., 3., 1.]), known([2], &[2., 3.]), known([2], &[0., 1.]));
    same(&layer_norm(&x, Some((&gamma, &beta)), 0.0), [2, 2], &[-2., 4., 2., -2.]);
    same(&layer_norm(&x, None, 3.0), [2, 2], &[-0.5, 0.5, 0.5, -0.5]);
    same(&layer_norm(&var([0, 4], 1), None, 1e-6), [0, 4], &[]);
    let x = known([2, 3, 1], &[3., 0., -4., 1., 2., -2.]);
    for (y, shape, exact) in [
        (sum(&x), &[][..], &[0.][..]),
        (mean(&x), &[], &[0.]),
        (l1_norm(&x), &[], &[12.]),
        (l2_norm(&x), &[], &[34f64.sqrt()]),
        (sum_axis(&x, 0), &[3, 1], &[4., 2., -6.]),
        (sum_axis(&x, 1), &[2, 1], &[-1., 1.]),
        (mean_axis(&x, 0), &[3, 1], &[2., 1., -3.]),
        (mean_axis(&x, 2), &[2, 3], &[3., 0., -4., 1., 2., -2.]),
        (sum(&var([0, 4], 1)), &[], &[0.]),
        (sum_axis(&var([0, 4], 1), 0), &[4], &[0.; 4]),
    ] {
        same(&y, shape, exact);
    }
    assert!(mean(&var([0], 1)).item().is_nan());
    let (x, t) = (known([4], &[0.5, -1., 3., 1.]), known([4], &[0.; 4]));
    same(&smooth_l1(&x, &t, 1.0), [], &[(0.125 + 0.5 + 2.5 + 0.5) / 4.0]); // at the joint, 1, both forms agree
    same(&smooth_l1(&x, &t, 2.0), [], &[(0.0625 + 0.25 + 2.0 + 0.25) / 4.0]);
    same(&mse(&x, &t), [], &[(0.25 + 1.0 + 9.0 + 1.0) / 4.0]);
    // Even odds, and odds of 3 to 1.
    let loss = cross_entropy(&known([2, 2], &[5., 5., 0., 3f64.ln()]), &Indices::new(2, 1, vec![0, 0]));
    same(&loss, [], &[(2f64.ln() + 4f64.ln()) / 2.0]);
}

#[test]
fn products() {
    let (a, b, exact) =
        (known([2, 3], &[1., 2., 3., 4., 5., 6.]), known([3, 2], &[1., 0., 0., 1., 2., 0.]), [7., 2., 16., 5.]);
    for c in [matmul(&a, &b), matmul_nt(&a, &b.transpose(0, 1)), matmul_tn(&a.transpose(0, 1), &b)] {
        same(&c, [2, 2], &exact);
    }
    // A single matrix serves the whole batch, on either side.
    let two = |x: &Var| concat(&[x, &scale(x, 2.0)], 0);
    let twice = [exact, exact.map(|x| 2.0 * x)].concat();
    same(&matmul(&two(&a).reshape([2, 2, 3]), &b), [2, 2, 2], &twice);
    same(&matmul(&a, &two(&b).reshape([1, 2, 3, 2])), [1, 2, 2, 2], &twice);
    same(&matmul(&var([2, 0], 1), &var([0, 1], 1)), [2, 1], &[0., 0.]);
}

#[test]
fn what_only_moves() {
    let (x, y) = (counted([2, 3, 2]), counted([2, 1, 2]));
    let joined = concat(&[&x, &y], 1);
    same(&joined, [2, 4, 2], &[0., 1., 2., 3., 4., 5., 0., 1., 6., 7., 8., 9., 10., 11., 2., 3.]);
    same(&slice(&joined, 1, 0..3), [2, 3, 2], &x.value().to_f64_vec());
    same(&slice_tokens(&joined, 3, 1), [2, 1, 2], &y.value().to_f64_vec());
    same(&slice(&joined, 1, 4..4), [2, 0, 2], &[]);
    same(&slice(&x, 2, 1..2), [2, 3, 1], &[1., 3., 5., 7., 9., 11.]);
    same(&concat(&[&y, &y], 2), [2, 1, 4], &[0., 1., 0., 1., 2., 3., 2., 3.]);
    same(&repeat_batch(&y, 2), [4, 1, 2], &[0., 1., 2., 3., 0., 1., 2., 3.]);
    same(&transpose(&x, 1, 0), [3, 2, 2], &[0., 1., 6., 7., 2., 3., 8., 9., 4., 5., 10., 11.]);
    same(&transpose(&x, 0, 2), [2, 3, 2], &[0., 6., 2., 8., 4., 10., 1., 7., 3., 9., 5., 11.]);
    same(&transpose(&x, 1, 1), [2, 3, 2], &x.value().to_f64_vec());
    let heads = split_heads(&counted([1, 2, 4]), 2);
    same(&heads, [1, 2, 2, 2], &[0., 1., 4., 5., 2., 3., 6., 7.]);
    same(&merge_heads(&heads), [1, 2, 4], &[0., 1., 2., 3., 4., 5., 6., 7.]);
    same(&reshape(&x, [3, 4]), [3, 4], &x.value().to_f64_vec());
    let two_rows = Indices::from_rows(&[vec![2, 0], vec![1, 1]]);
    same(&gather_tokens(&x, &two_rows), [2, 2, 2], &[4., 5., 0., 1., 8., 9., 8., 9.]);
    // Four rows of indices into two images: the images come round again.
    let four = Indices::from_rows(&[vec![0], vec![0], vec![1], vec![1]]);
    same(&gather_tokens(&x, &four), [4, 1, 2], &[0., 1., 6., 7., 2., 3., 8., 9.]);
    same(&gather_tokens(&x, &Indices::new(2, 0, vec![])), [2, 0, 2], &[]);
}

/// Two channels of 2 × 4 pixels, numbered in order; two patches of 2 × 2.
#[test]
fn element_order() {
    let images = counted([1, 2, 2, 4]);
    for (order, exact) in [
        (PatchOrder::ChannelFirst, [0., 1., 4., 5., 8., 9., 12., 13., 2., 3., 6., 7., 10., 11., 14., 15.]),
        (PatchOrder::ChannelLast, [0., 8., 1., 9., 4., 12., 5., 13., 2., 10., 3., 11., 6., 14., 7., 15.]),
    ] {
        let patches = patchify(&images, 2, order);
        same(&patches, [1, 2, 8], &exact);
        same(&unpatchify(&patches, [2, 2, 4], 2, order), [1, 2, 2, 4], &images.value().to_f64_vec());
    }
}

/// Attention from plain operations, with the three projections apart.
fn composed(q: &Var, k: &Var, v: &Var, heads: usize) -> Var {
    let [q, k, v] = [q, k, v].map(|x| split_heads(x, heads)); // [B, h, N, d]
    let d = q.value().last_dim() as f64;
    let p = softmax(&scale(&matmul_nt(&q, &k), 1.0 / d.sqrt())); // [B, h, N, N]
    merge_heads(&matmul(&p, &v)) // [B, N, h d]
}

#[test]
fn attention_equals_its_definition() {
    for [b, n, heads, d] in [[1, 1, 1, 1], [2, 5, 3, 2], [1, 17, 2, 4], [1, 150, 1, 3]] {
        let [q, k, v] = [0, 1, 2].map(|i| var([b, n, heads * d], i));
        let (exact, fused) = (composed(&q, &k, &v, heads), concat(&[&q, &k, &v], 2));
        same(&attention(&fused, heads), *exact.shape(), &exact.value().to_f64_vec());
        let some = n / 3..n - n / 4;
        let exact = slice(&exact, 1, some.clone());
        same(&attention_of(&fused, heads, some), *exact.shape(), &exact.value().to_f64_vec());
    }
    same(&attention(&var([0, 3, 12], 1), 2), [0, 3, 4], &[]);
    same(&attention(&var([2, 0, 12], 1), 2), [2, 0, 4], &[]);
    same(&attention_of(&var([2, 3, 12], 1), 2, 1..1), [2, 0, 4], &[]);
}

fn norm(x: &[Var]) -> Input<'_> {
    Input::Norm { x: &x[0], gamma: &x[3], beta: &x[4], eps: 1e-3 }
}

/// x, W, b, γ, β and r of a linear map.
fn of_linear() -> [Tensor; 6] {
    [random([2, 3, 4], 1), random([5, 4], 2), random([5], 3), random([4], 4), random([4], 5), random([2, 3, 5], 6)]
}

#[test]
fn linear_maps_equal_their_parts() {
    let x = of_linear().map(Var::from);
    let parts = |z: &Var| (matmul_nt(&z.reshape([6, 4]), &x[1]) + &x[2] + x[5].reshape([6, 5])).value().to_f64_vec();
    let whole = |f: Input<'_>| linear_of(f, &x[1], Some(&x[2]), Some(&x[5]));
    same(&whole(Input::Plain(&x[0])), [2, 3, 5], &parts(&x[0]));
    same(&whole(Input::Gelu(&x[0])), [2, 3, 5], &parts(&gelu(&x[0])));
    same(&whole(norm(&x)), [2, 3, 5], &parts(&layer_norm(&x[0], Some((&x[3], &x[4])), 1e-3)));
}

#[test]
fn gradients() {
    for op in [add, sub, mul, div] {
        for [a, b] in [[&[7][..], &[2, 1, 7][..]], [&[2, 1, 3], &[4, 1]], [&[], &[3]], [&[3], &[1]]] {
            assert_op("binary", |x| op(&x[0], &x[1]), &[random(a, 1), random(b, 2).map(|x| x + 2.0 * x.signum())]);
        }
        let with_itself = |x: &[Var]| mul(&op(&x[0], &x[0]), &x[0]) + &x[0];
        assert_op("with itself", with_itself, &[random([4], 3).map(|x| x + 2.0)]);
    }
    let away_from_0 = [random([37], 1).map(|x| x + x.signum())];
    for f in [relu, abs, l1_norm] {
        assert_op("with a corner", |x| f(&x[0]), &away_from_0);
    }
    assert_op("gelu", |x| gelu(&x[0]), &[random([37], 1).scaled(4.0)]);
    for cols in [2, 19] {
        assert_op("softmax", |x| softmax(&x[0]), &[random([3, cols], 1)]);
        let affine = |x: &[Var]| layer_norm(&x[0], Some((&x[1], &x[2])), 1e-3);
        assert_op("layer_norm", affine, &[random([5, cols], 1), random([cols], 2), random([cols], 3)]);
    }
    assert_op("attention of some", |x| attention_of(&x[0], 2, 1..4), &[random([2, 5, 12], 1).scaled(2.0)]);
    assert_op("attention in blocks", |x| attention_of(&x[0], 1, 3..135), &[random([1, 135, 6], 1)]);
    let x = of_linear();
    let onto = |x: &[Var]| linear_of(Input::Plain(&x[0]), &x[1], Some(&x[2]), Some(&x[3]));
    assert_op("linear with residual", onto, &[x[0].clone(), x[1].clone(), x[2].clone(), x[5].clone()]);
    let gelu = |x: &[Var]| linear_of(Input::Gelu(&x[0]), &x[1], Some(&x[2]), None);
    assert_op("gelu_linear", gelu, &x[..3]);
    let [m, k, n] = [2, 3, 4];
    type Product = fn(&Var, &Var) -> Var;
    for (product, ta, tb) in [(matmul as Product, false, false), (matmul_nt, false, true), (matmul_tn, true, false)] {
        let stored = |batch: &[usize], [rows, cols]: [usize; 2], transposed| {
            Shape::new(&[batch, &if transposed { [cols, rows] } else { [rows, cols] }].concat())
        };
        for (of_a, of_b) in [(&[][..], &[][..]), (&[3], &[3]), (&[], &[3]), (&[3], &[])] {
            let inputs = [random(stored(of_a, [m, k], ta), 1), random(stored(of_b, [k, n], tb), 2)];
            assert_op("matmul", |x| product(&x[0], &x[1]), &inputs);
        }
    }
    assert_op("x xᵀ", |x| matmul_nt(&x[0], &x[0]), &[random([3, 2], 1)]);
    let x = [random([2, 3, 4], 1)];
    for axis in 0..3 {
        assert_op("sum_axis", |x| sum_axis(&x[0], axis), &x);
        assert_op("mean_axis", |x| mean_axis(&x[0], axis), &x);
        assert_op("slice", |x| slice(&x[0], axis, 1..2), &x);
        assert_op("concat", |x| concat(&[&x[0], &x[0]], axis), &x);
    }
    for (a, b) in [(0, 1), (1, 2), (1, 1), (0, 3)] {
        assert_op("transpose", |x| transpose(&x[0], a, b), &[random([2, 3, 4, 2], 1)]);
    }
}

#[test]
fn where_there_is_no_slope_it_is_0() {
    for f in [relu, abs, l1_norm, l2_norm] {
        let tape = Tape::new();
        let x = tape.leaf(Tensor::zeros([2], DType::F64));
        let y = f(&x);
        let found = tape.backward_from(&y, y.value().full_like(1.0));
        assert_eq!(found.of(&x).unwrap().to_f64_vec(), [0.0, 0.0]);
    }
}

#[test]
fn weights_alone_can_be_trained() {
    let x = of_linear();
    for constant in 0..6 {
        let tape = Tape::new();
        let place = |(i, x): (usize, &Tensor)| if i == constant { x.clone().into() } else { tape.leaf(x.clone()) };
        let v: Vec<Var> = x.iter().enumerate().map(place).collect();
        let y = linear_of(norm(&v), &v[1], Some(&v[2]), Some(&v[5]));
        let found = tape.backward_from(&y, Tensor::full([2, 3, 5], 1.0, x[0].dtype()));
        for (i, v) in v.iter().enumerate().filter(|(i, _)| *i != constant) {
            assert!(found.of(v).is_some_and(|g| g.shape() == x[i].shape()), "{i} without {constant}");
        }
    }
}

/// Three tokens are padded; what a head leaves in the padding must not reach the next one, nor the next image.
#[test]
fn what_is_not_finite_stays_in_its_head() {
    let (qkv, sound) = (random([2, 3, 12], 1), random([2, 3, 4], 2));
    let mut infinite = sound.clone();
    infinite.as_mut_slice::<f64>()[0] = f64::INFINITY; // first image, first head
    let [of_sound, of_infinite] = [sound, infinite].map(|dout| {
        let tape = Tape::new();
        let x = tape.leaf(qkv.clone());
        tape.backward_from(&attention(&x, 2), dout).of(&x).unwrap().to_f64_vec()
    });
    assert!(of_infinite.iter().any(|x| x.is_nan()));
    for (i, (x, y)) in of_sound.iter().zip(&of_infinite).enumerate() {
        let (image, head) = (i / 36, i % 4 / 2);
        assert!((image, head) == (0, 0) || x == y, "{i}: {x} and {y}");
    }
}

/// Where softmax saturates: ln Σ exp(x) − x\[class\] is what no exp of its own could say.
#[test]
fn large_logits_and_nan() {
    let of = |logits: [f64; 2], class: u32, dtype: DType| {
        let (tape, logits) = (Tape::new(), Tensor::new([1, 2], logits.to_vec()).to_dtype(dtype));
        let x = tape.leaf(logits);
        let loss = cross_entropy(&x, &Indices::new(1, 1, vec![class]));
        let gradient = tape.backward(&loss).of(&x).unwrap().to_dtype(DType::F64);
        (loss.item(), [gradient.as_slice::<f64>()[0], gradient.as_slice::<f64>()[1]])
    };
    for dtype in [DType::F32, DType::F64] {
        for large in [1e3, 1e4] {
            for (logits, class, expected) in [([large, 0.0], 1, 1.0), ([large, 0.0], 0, 0.0), ([-large, 0.0], 0, -1.0)]
            {
                let (loss, [first, second]) = of(logits, class, dtype);
                assert_eq!(loss, large * f64::abs(expected));
                // f32's exp ends at its smallest positive number, not at 0.
                assert!((first - expected).abs() < 1e-37 && (second + expected).abs() < 1e-37, "{first} {second}");
            }
        }
        let (loss, gradient) = of([1e4, 1e4], 0, dtype);
        assert!((loss - 2f64.ln()).abs() < 1e-7 && gradient == [-0.5, 0.5], "{loss} {gradient:?}");
        for at in [0, 1] {
            let mut logits = [0.0, 1.0];
            logits[at] = f64::NAN;
            let (loss, gradient) = of(logits, 0, dtype);
            assert!(loss.is_nan() && gradient.iter().all(|g| g.is_nan()), "{loss} {gradient:?}");
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let v = |shape: &[usize]| var(shape, 1);
    let refused: [(&str, &dyn Fn() -> Var); 13] = [
        ("add: shapes [2, 3] and [2] do not broadcast", &|| add(&v(&[2, 3]), &v(&[2]))),
        ("attention: queries 2..4 of 3 tokens", &|| attention_of(&v(&[1, 3, 6]), 1, 2..4)),
        ("layer_norm: gamma has 3 elements, its shape says 4", &|| {
            layer_norm(&v(&[2, 4]), Some((&v(&[3]), &v(&[3]))), 1e-6)
        }),
        ("linear: x is [2, 3] but the weight [5, 4] takes rows of 4", &|| linear(&v(&[2, 3]), &v(&[5, 4]), None)),
        ("linear: the residual is [2, 4], the result [2, 5]", &|| {
            linear_of(Input::Plain(&v(&[2, 4])), &v(&[5, 4]), None, Some(&v(&[2, 4])))
        }),
        ("cross_entropy: class 5 of 5", &|| cross_entropy(&v(&[1, 5]), &Indices::new(1, 1, vec![5]))),
        ("matmul: shapes [2, 3] and [2, 2] transposed do not fit", &|| matmul_nt(&v(&[2, 3]), &v(&[2, 2]))),
        ("patchify: patches of 3 do not tile images of 4 × 6", &|| {
            patchify(&v(&[1, 1, 4, 6]), 3, PatchOrder::ChannelFirst)
        }),
        ("sum_axis: axis 2 of a tensor of [2, 3]", &|| sum_axis(&v(&[2, 3]), 2)),
        ("concat: shapes [2, 3, 4] and [1, 3, 4] do not fit along axis 1", &|| {
            concat_tokens(&[&v(&[2, 3, 4]), &v(&[1, 3, 4])])
        }),
        ("slice: 2..4 of axis 1 of a tensor of [2, 3, 4]", &|| slice_tokens(&v(&[2, 3, 4]), 2, 2)),
        ("4 heads do not divide a width of 6", &|| split_heads(&v(&[1, 1, 6]), 4)),
        ("gather_tokens: index 3 into 3 tokens", &|| gather_tokens(&v(&[1, 3, 2]), &Indices::new(1, 1, vec![3]))),
    ];
    for (expected, call) in refused {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).expect_err(expected);
        let message = crate::error::panic_message(&*panic);
        assert!(message.contains(expected), "'{message}', where '{expected}' was expected");
    }
}
