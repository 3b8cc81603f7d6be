//! Products and attention in bf16 (of f32 tensors, and of bf16 ones) and tf32, and what else reads or writes bf16, on all that
//! can, against the reference, which knows none of it: its operands are rounded before.

use super::elementwise::{self, Unary};
use super::testing::{devices, numbers};
use super::{Bf16, Buffer, DType, Device, Precision, attention, layer_norm, matmul, reduce};

/// The nearest number that products take.
fn rounded(x: f32, precision: Precision) -> f32 {
    let (x, bits) = (x.to_bits(), if precision == Precision::Bf16 { 16 } else { 13 });
    let tie = if precision == Precision::Bf16 { x >> bits & 1 } else { 1 }; // to even, or away from 0
    f32::from_bits((x + (1 << (bits - 1)) - 1 + tie) >> bits << bits)
}

fn read(x: &[Buffer]) -> Vec<Vec<f32>> {
    let read = |x: &Buffer| {
        let x = elementwise::to_dtype(&x.to_device(Device::Cpu), DType::F32);
        x.as_slice::<f32>("test").to_vec()
    };
    x.iter().map(read).collect()
}

/// What computes in it here.
fn devices_in(precision: Precision) -> impl Iterator<Item = Device> {
    devices().into_iter().filter(move |device| precision.is_available_on(*device))
}

/// Half a unit in the last place of a bf16, of the largest number.
const ROUNDED: f32 = 1.0 / 256.0;

/// What `door` gives on each device is what the definition gives of rounded operands, the first so many of the tensors, up to
/// a share of the largest number in bf16 and in tf32; and it gives the same bits again. In bf16 it is given these operands
/// twice, in f32 and in bf16; what it gives in bf16 is rounded.
#[track_caller]
pub(super) fn agree(
    name: &str,
    tolerance: [f32; 2],
    lengths: &[usize],
    operands: usize,
    door: impl Fn(&[Buffer]) -> Vec<Buffer>,
) {
    let [bf16, tf32] = tolerance;
    agree_in((Precision::Bf16, false), bf16, name, lengths, operands, &door);
    agree_in((Precision::Bf16, true), bf16, name, lengths, operands, &door);
    agree_in((Precision::Tf32, false), tf32, name, lengths, operands, &door);
}

/// In one precision, of operands in f32 or stored in bf16.
#[track_caller]
pub(super) fn agree_in(
    how: (Precision, bool),
    tolerance: f32,
    name: &str,
    lengths: &[usize],
    operands: usize,
    door: &dyn Fn(&[Buffer]) -> Vec<Buffer>,
) {
    devices_in(how.0).for_each(|device| agree_on(device, how, tolerance, name, (lengths, operands), door));
}

#[track_caller]
fn agree_on(
    here: Device,
    (precision, stored): (Precision, bool),
    tolerance: f32,
    name: &str,
    (lengths, operands): (&[usize], usize),
    door: &dyn Fn(&[Buffer]) -> Vec<Buffer>,
) {
    let name = format!("{name} in {precision}{} on {here}", if stored { ", stored" } else { "" });
    let input = |(i, &len): (usize, &usize)| numbers(len, i as u64 + 1).into_iter().map(|x| x as f32).collect();
    let inputs: Vec<Vec<f32>> = lengths.iter().enumerate().map(input).collect();
    let on = |device| {
        let input = |(i, x): (usize, &Vec<f32>)| {
            let round = device == Device::Reference && i < operands;
            let x = x.iter().map(|&x| if round { rounded(x, precision) } else { x });
            let x = Buffer::from_vec(x.collect::<Vec<_>>()).to_device(device);
            let narrow = stored && device == here && i < operands;
            if narrow { elementwise::to_dtype(&x, DType::Bf16) } else { x }
        };
        let _products = precision.enter();
        let results = door(&inputs.iter().enumerate().map(input).collect::<Vec<_>>());
        (read(&results), results.iter().map(Buffer::dtype).collect::<Vec<_>>())
    };
    let [(exact, _), (found, dtypes), (again, _)] = [Device::Reference, here, here].map(on);
    for (which, (found, exact)) in found.iter().zip(&exact).enumerate() {
        let tolerance = tolerance + if dtypes[which] == DType::Bf16 { ROUNDED } else { 0.0 };
        assert_eq!(found.len(), exact.len(), "{name}: result {which}");
        let scale = exact.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        for (i, (x, y)) in found.iter().zip(exact).enumerate() {
            assert!((x - y).abs() <= tolerance * scale, "{name}: number {i} of result {which} is {x}, not {y}");
        }
    }
    let bits = |x: &[Vec<f32>]| x.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert!(bits(&found) == bits(&again), "{name}: other bits the second time");
}

/// Products of rounded numbers are exact, and sums are f32.
const SUM: [f32; 2] = [2e-6; 2];

#[test]
fn products() {
    // Nothing, one, primes, one past a tile, rows that are aligned and rows that are not, a reduction that is cut.
    let dims = [
        [0, 2, 3],
        [4, 0, 3],
        [1, 1, 1],
        [3, 5, 7],
        [17, 1, 13],
        [64, 32, 64],
        [65, 33, 66],
        [68, 36, 132],
        [4, 1100, 8],
    ];
    for [m, k, n] in dims {
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let name = format!("[{m}, {k}] × [{k}, {n}], transposed {ta} {tb}");
            agree(&name, SUM, &[m * k, k * n, m * n], 2, |x| {
                [Some(x[2].clone()), None]
                    .map(|sum| matmul::linear_backward(sum, [m, k, n], &x[0], ta, &x[1], tb))
                    .into()
            });
            if m * n > 64 * 64 {
                continue;
            }
            for (of_a, of_b) in [(3, 3), (1, 3), (3, 1)] {
                agree(&name, SUM, &[of_a * m * k, of_b * k * n], 2, |x| {
                    vec![matmul::matmul(3, [m, k, n], &x[0], ta, &x[1], tb)]
                });
            }
            agree(&name, SUM, &[3 * m * k, 3 * k * n], 2, |x| {
                vec![matmul::matmul_sum(3, [m, k, n], &x[0], ta, &x[1], tb)]
            });
        }
        agree("linear", SUM, &[m * k, n * k, n, m * n], 2, |x| {
            let (bias, residual) = (Some(&x[2]), Some(&x[3]));
            [(bias, None), (None, residual), (bias, residual)]
                .map(|(bias, residual)| matmul::linear([m, k, n], &x[0], &x[1], bias, residual))
                .into()
        });
    }
}

#[test]
fn a_batch_of_more_than_a_grid_is_deep() {
    agree("70,000 products", SUM, &[140_000, 140_000], 2, |x| {
        vec![matmul::matmul(70_000, [1, 2, 1], &x[0], true, &x[1], true)]
    });
}

/// What is not a number stays so: the NaN of a GPU has all bits set, and half a unit more would be 0.
#[test]
fn not_a_number_is_not_lost() {
    let all = [Precision::Bf16, Precision::Tf32]
        .into_iter()
        .flat_map(|precision| devices_in(precision).map(move |d| (precision, d)));
    for (precision, device) in all {
        let _products = precision.enter();
        for bits in [0x7fff_ffff, 0xffff_ffff, f32::NAN.to_bits(), f32::INFINITY.to_bits()] {
            let [x, w] = [f32::from_bits(bits), 1.0].map(|x| Buffer::from_vec(vec![x]).to_device(device));
            let written = [DType::F32, narrow(&x)].map(|to| matmul::linear_to(to, [1, 1, 1], &x, &w, None, None));
            let x = f32::from_bits(bits);
            for y in read(&written).concat() {
                assert!(y.is_nan() && x.is_nan() || y == x, "{bits:x} became {y} in {precision} on {device}");
            }
        }
    }
}

/// What is rounded here are probabilities and their gradients too: 9 bits of them, or 11.
const PROBABILITIES: [f32; 2] = [4e-3, 6e-4];

#[test]
fn attention_of_all_and_of_some() {
    // Batch, tokens, heads and their width.
    let sizes = [
        [0, 3, 2, 8],
        [2, 0, 2, 8],
        [2, 5, 3, 8],
        [1, 1, 1, 8],
        [2, 17, 3, 16],
        [1, 65, 2, 24],
        [1, 150, 1, 64],
        [1, 270, 1, 32],
        [1, 33, 2, 128],
    ];
    for [batch, tokens, heads, head_dim] in sizes {
        for queries in [0..tokens, tokens / 3..tokens - tokens / 4, tokens / 2..tokens / 2] {
            let sizes = attention::Sizes { batch, tokens, queries, heads, head_dim };
            let (name, lengths) = (format!("{sizes:?}"), [sizes.qkv(), sizes.out()]);
            agree(&name, PROBABILITIES, &lengths, 2, |x| {
                vec![attention::forward(&sizes, &x[0]), attention::backward(&sizes, &x[0], &x[1])]
            });
        }
    }
}

/// The places of a tile that no key fills have a score of 0, which is e^2500 more than those of these keys.
#[test]
fn only_keys_that_exist_weigh() {
    let sizes = attention::Sizes { batch: 1, tokens: 5, queries: 0..5, heads: 1, head_dim: 8 };
    let qkv = (0..sizes.qkv()).map(|i| [30.0, -30.0, i as f32 % 7.0][i / 8 % 3]).collect::<Vec<f32>>();
    agree("far from 0", PROBABILITIES, &[0, sizes.out()], 2, |x| {
        let qkv = Buffer::from_vec(qkv.clone()).to_device(x[1].device());
        vec![attention::forward(&sizes, &qkv), attention::backward(&sizes, &qkv, &x[1])]
    });
}

/// With what only products read in bf16: it is rounded once, when it is made.
#[track_caller]
fn agree_stored(name: &str, lengths: &[usize], operands: usize, door: impl Fn(&[Buffer]) -> Vec<Buffer>) {
    agree_in((Precision::Bf16, true), SUM[0], name, lengths, operands, &door);
}

/// bf16, but on the reference f32: it knows no other.
fn narrow(x: &Buffer) -> DType {
    Precision::of_operands(&x.wide(0))
}

#[test]
fn maps_that_only_products_read() {
    for [rows, inputs, outputs] in [[0, 2, 3], [1, 1, 1], [3, 5, 7], [64, 32, 64], [65, 33, 66], [7, 40, 130]] {
        let (dims, name) = ([rows, inputs, outputs], format!("{rows} rows, {inputs} to {outputs}"));
        agree_stored(&name, &[rows * inputs, outputs * inputs, outputs], 2, |x| {
            let y = matmul::linear_to(narrow(&x[0]), dims, &x[0], &x[1], Some(&x[2]), None);
            assert_eq!(y.dtype(), narrow(&x[0]));
            vec![y]
        });
        agree_stored(&name, &[rows * outputs, outputs * inputs, rows * inputs], 3, |x| {
            let dx = matmul::linear_backward_to(narrow(&x[0]), dims, &x[0], &x[1]);
            let (z, dh) = matmul::gelu_backward(dims, &x[0], &x[1], &x[2]);
            assert_eq!([dx.dtype(), z.dtype(), dh.dtype()], [narrow(&x[0]); 3]);
            vec![dx, z, dh]
        });
        // Of a GELU's input in f32, which a product rounds.
        agree_in((Precision::Bf16, true), 1e-2, &name, &[rows * outputs, outputs * inputs, rows * inputs], 2, &|x| {
            let (z, dh) = matmul::gelu_backward(dims, &x[0], &x[1], &x[2]);
            assert_eq!([z.dtype(), dh.dtype()], [narrow(&x[0]), DType::F32]);
            vec![z, dh]
        });
    }
}

#[test]
fn what_products_read_is_rounded_when_it_is_made() {
    for (rows, cols) in [(0, 4), (1, 1), (3, 7), (5, 16), (2, 37), (40, 1031)] {
        let (n, name) = (rows * cols, format!("{rows} rows of {cols}"));
        agree_stored(&name, &[n, cols, cols], 0, |x| {
            let (z, stats) = layer_norm::forward_operand(cols, &x[0], (&x[1], &x[2]), 1e-3);
            let again = layer_norm::recompute(z.dtype(), cols, &x[0], (&x[1], &x[2]), &stats);
            assert_eq!([z.dtype(), again.dtype(), stats.dtype()], [narrow(&z), narrow(&z), DType::F32]);
            vec![z, again, stats]
        });
        agree_stored(&name, &[n, cols], 1, |x| {
            let z = elementwise::unary(Unary::Gelu, &x[0]);
            assert_eq!(z.dtype(), x[0].dtype());
            vec![
                z,
                reduce::accumulate_rows(None, cols, &x[0]),
                reduce::accumulate_rows(Some(x[1].clone()), cols, &x[0]),
            ]
        });
        agree_stored(&name, &[n], 0, |x| vec![elementwise::operand(&x[0])]);
        agree_stored(&name, &[n], 1, |x| [DType::F32, DType::F64].map(|to| elementwise::to_dtype(&x[0], to)).into());
    }
}

/// Rounding by a device is rounding by another, to the bit; and back nothing is lost.
#[test]
fn conversions_to_bf16() {
    let mut x: Vec<f32> = numbers(1010, 1).into_iter().map(|x| x as f32).collect(); // odd with those below
    x.extend([1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, -0.0, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, 1e-40]);
    let host = Buffer::from_vec(x);
    let expected = elementwise::to_dtype(&host, DType::Bf16);
    for device in devices().into_iter().chain([Device::Reference]) {
        let found = elementwise::to_dtype(&host.to_device(device), DType::Bf16);
        let wide = [DType::F32, DType::F64].map(|to| elementwise::to_dtype(&found, to).to_device(Device::Cpu));
        let found = found.to_device(Device::Cpu);
        assert_eq!(found.as_slice::<Bf16>("test"), expected.as_slice::<Bf16>("test"), "{device}");
        for (i, x) in found.as_slice::<Bf16>("test").iter().enumerate() {
            assert_eq!(wide[0].as_slice::<f32>("test")[i].to_bits(), x.to_f32().to_bits());
            assert_eq!(wide[1].as_slice::<f64>("test")[i], f64::from(x.to_f32()));
        }
    }
}

#[test]
#[cfg(feature = "cuda")]
fn copies_for_products_are_kept_until_the_numbers_change() {
    let Some(gpu) = devices().into_iter().find(|device| device.is_gpu()) else { return };
    let _bf16 = Precision::Bf16.enter();
    let tensor = |n: usize| Buffer::from_vec(numbers(n, 3).into_iter().map(|x| x as f32).collect::<Vec<_>>());
    let mut tensors: Vec<Buffer> = [1, 0, 7, 4096, 16_384, 40_001].map(|n| tensor(n).to_device(gpu)).into();
    let expected: Vec<Buffer> = tensors.iter().map(|x| elementwise::to_dtype(x, DType::Bf16)).collect();
    elementwise::prepare_operands(tensors.iter());
    let bits = |x: &Buffer| x.to_device(Device::Cpu).as_slice::<Bf16>("test").to_vec();
    let at = |x: &Buffer| elementwise::operand(x).view::<Bf16>("test").pointer();
    for (x, expected) in tensors.iter().zip(&expected) {
        assert_eq!(bits(&elementwise::operand(x)), bits(expected), "{} numbers", x.len());
        assert!(at(x) == at(x), "{} numbers are rounded again", x.len());
    }
    for x in &mut tensors {
        let (before, same) = (elementwise::operand(x), x.to_device(Device::Cpu).to_device(gpu));
        assert!(!x.is_shared(), "it is changed in its place");
        elementwise::accumulate(x, &same);
        let [before, after] = [before, elementwise::operand(x)].map(|x| read(&[x]).remove(0));
        assert!(before.iter().zip(&after).all(|(x, y)| 2.0 * x == *y), "a copy of what was");
    }
}

/// Heads that tensor cores do not take: a GPU rounds no operand, nor probabilities.
#[test]
fn attention_of_narrow_heads() {
    for (head_dim, precision, stored) in
        [(3, Precision::Bf16, true), (4, Precision::Bf16, false), (4, Precision::Tf32, false)]
    {
        let sizes = attention::Sizes { batch: 2, tokens: 5, queries: 1..4, heads: 3, head_dim };
        let lengths = [sizes.qkv(), sizes.out()];
        for device in devices_in(precision) {
            let tolerance = if device.is_gpu() { SUM[0] } else { PROBABILITIES[0] };
            let operands = if device.is_gpu() && !stored { 0 } else { 2 };
            let name = format!("heads of {head_dim}");
            agree_on(device, (precision, stored), tolerance, &name, (&lengths, operands), &|x| {
                let results = vec![attention::forward(&sizes, &x[0]), attention::backward(&sizes, &x[0], &x[1])];
                assert!(results.iter().all(|result| result.dtype() == x[0].dtype()));
                results
            });
        }
    }
}

/// What has no kernel for it refuses it, by the name of the operation.
#[test]
fn nothing_else_computes_with_bf16() {
    for device in devices() {
        let x = elementwise::to_dtype(&Buffer::from_vec(vec![1.0f32; 4]).to_device(device), DType::Bf16);
        let refused = std::panic::catch_unwind(|| elementwise::scale(&x, 2.0)).unwrap_err();
        let message = refused.downcast::<String>().unwrap();
        assert!(message.contains("scale: expected f32 but got bf16"), "{message}");
    }
}
