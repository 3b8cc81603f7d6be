//! Products and attention in bf16 and tf32 against the reference, which knows neither: its operands are rounded before.

use super::testing::{devices, numbers};
use super::{Buffer, Device, Precision, attention, matmul};

/// The nearest number that a tensor core takes.
fn rounded(x: f32, precision: Precision) -> f32 {
    let (x, bits) = (x.to_bits(), if precision == Precision::Bf16 { 16 } else { 13 });
    let tie = if precision == Precision::Bf16 { x >> bits & 1 } else { 1 }; // to even, or away from 0
    f32::from_bits((x + (1 << (bits - 1)) - 1 + tie) >> bits << bits)
}

fn read(x: &[Buffer]) -> Vec<Vec<f32>> {
    x.iter().map(|x| x.to_device(Device::Cpu).as_slice::<f32>("test").to_vec()).collect()
}

/// What `door` gives on a GPU is what the definition gives of rounded operands, the first so many of the tensors, up to
/// a share of the largest number in bf16 and in tf32; and it gives the same bits again.
#[track_caller]
pub(super) fn agree(
    name: &str,
    tolerance: [f32; 2],
    lengths: &[usize],
    operands: usize,
    door: impl Fn(&[Buffer]) -> Vec<Buffer>,
) {
    let Some(gpu) = devices().into_iter().find(|device| matches!(device, Device::Cuda(_))) else { return };
    for (precision, tolerance) in [Precision::Bf16, Precision::Tf32].into_iter().zip(tolerance) {
        let name = format!("{name} in {precision}");
        let input = |(i, &len): (usize, &usize)| numbers(len, i as u64 + 1).into_iter().map(|x| x as f32).collect();
        let inputs: Vec<Vec<f32>> = lengths.iter().enumerate().map(input).collect();
        let on = |device| {
            let input = |(i, x): (usize, &Vec<f32>)| {
                let round = device == Device::Reference && i < operands;
                let x = x.iter().map(|&x| if round { rounded(x, precision) } else { x });
                Buffer::from_vec(x.collect::<Vec<_>>()).to_device(device)
            };
            let _products = precision.enter();
            read(&door(&inputs.iter().enumerate().map(input).collect::<Vec<_>>()))
        };
        let [exact, found, again] = [Device::Reference, gpu, gpu].map(on);
        for (which, (found, exact)) in found.iter().zip(&exact).enumerate() {
            assert_eq!(found.len(), exact.len(), "{name}: result {which}");
            let scale = exact.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            for (i, (x, y)) in found.iter().zip(exact).enumerate() {
                assert!((x - y).abs() <= tolerance * scale, "{name}: number {i} of result {which} is {x}, not {y}");
            }
        }
        let bits = |x: &[Vec<f32>]| x.concat().into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert!(bits(&found) == bits(&again), "{name}: other bits the second time");
    }
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
    let Some(gpu) = devices().into_iter().find(|device| matches!(device, Device::Cuda(_))) else { return };
    for precision in [Precision::Bf16, Precision::Tf32] {
        let _products = precision.enter();
        for bits in [0x7fff_ffff, 0xffff_ffff, f32::NAN.to_bits(), f32::INFINITY.to_bits()] {
            let [x, w] = [f32::from_bits(bits), 1.0].map(|x| Buffer::from_vec(vec![x]).to_device(gpu));
            let y = read(&[matmul::linear([1, 1, 1], &x, &w, None, None)])[0][0];
            let x = f32::from_bits(bits);
            assert!(y.is_nan() && x.is_nan() || y == x, "{bits:x} became {y} in {precision}");
        }
    }
}

/// What is rounded here are probabilities and their gradients too: 9 bits of them, or 11.
const PROBABILITIES: [f32; 2] = [4e-3, 6e-4];

#[test]
fn attention_of_all_and_of_some() {
    // Batch, tokens, heads and their width; with a width of 4 nothing is rounded.
    let sizes = [
        [0, 3, 2, 8],
        [2, 0, 2, 8],
        [2, 5, 3, 4],
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
            let (operands, tolerance) = if head_dim == 4 { (0, SUM) } else { (2, PROBABILITIES) };
            agree(&format!("{sizes:?}"), tolerance, &[sizes.qkv(), sizes.out()], operands, |x| {
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
