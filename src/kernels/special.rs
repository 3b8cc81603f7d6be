//! Special functions: the exponential and the normal distribution function Φ(x) = ½ erfc(−x/√2).
//!
//! GELU and softmax evaluate them tens of millions of times a step. In f32 they are therefore branch-free
//! polynomials, of fused multiply-adds, that the compiler turns into vector code (on a processor without them, into calls,
//! which are some fifteen times as slow); in f64, where only checks run, accuracy
//! comes first.

/// Added to a number below 2²², it leaves the nearest integer, and `more`, in the low bits of the sum; subtracted again, that
/// integer.
const fn round_and_add(more: f32) -> f32 {
    12_582_912.0 + more // 1.5·2²³
}

/// eˣ.
pub mod exp {
    /// eˣ = 2ⁿ eʳ with n = round(x / ln 2) and |r| ≤ ½ ln 2; eʳ = 1 + r + r² P(r), with P of degree 4 fitted to the
    /// least relative error, 3.1·10⁻⁹ before rounding.
    #[inline(always)]
    pub fn f32(x: f32) -> f32 {
        // Below −86.6 the result stays at 2.5·10⁻³⁸, the least whose half is normal; e⁸⁹ overflows. NaN stays NaN.
        let clamped = x.clamp(-86.6, 89.0);
        let shifted = clamped.mul_add(std::f32::consts::LOG2_E, super::round_and_add(126.0));
        let n = shifted - super::round_and_add(126.0);
        // ln 2 in two parts: the nearest f32, and what is left.
        let r = n.mul_add(-std::f32::consts::LN_2, clamped);
        let r = n.mul_add(1.904_654_3e-9, r);
        let p = 1.381_459_9e-3f32;
        let p = p.mul_add(r, 8.368_717e-3);
        let p = p.mul_add(r, 4.166_839e-2);
        let p = p.mul_add(r, 0.166_665_21);
        let p = p.mul_add(r, 0.499_999_94);
        let p = p.mul_add(r, 1.0);
        let p = p.mul_add(r, 1.0);
        // n + 127 in the exponent field is 2ⁿ; n may be 128, which has no field: make the half, and double.
        let half = f32::from_bits(shifted.to_bits() << 23);
        p * half * 2.0
    }

    /// The standard library's.
    #[inline(always)]
    pub fn f64(x: f64) -> f64 {
        x.exp()
    }
}

/// (φ(x), Φ(x)).
pub mod normal_pdf_cdf {
    /// e^{−x²/2} = 2ʸ with y = −x²/(2 ln 2), which is 2ⁿ 2ᶠ with n = round(y) and |f| ≤ ½; 2ᶠ is a polynomial of degree 6,
    /// fitted to the least relative error, 3.0·10⁻⁹ before rounding. That y is rounded is not made good, as in [`exp`](super::exp):
    /// where y is large the result is small, and the absolute error stays below 6·10⁻⁸ (of φ, 2.4·10⁻⁸).
    #[inline(always)]
    fn bell(x: f32) -> f32 {
        let y = x * x * (-0.5 * std::f32::consts::LOG2_E);
        // Not `max`: NaN stays NaN.
        let y = if y < -126.0 { -126.0 } else { y };
        let shifted = y + super::round_and_add(127.0);
        let f = y - (shifted - super::round_and_add(127.0));
        let p = 1.532_646_1e-4f32;
        let p = p.mul_add(f, 1.339_080_6e-3);
        let p = p.mul_add(f, 9.618_506e-3);
        let p = p.mul_add(f, 5.550_36e-2);
        let p = p.mul_add(f, 0.240_226_48);
        let p = p.mul_add(f, std::f32::consts::LN_2);
        let p = p.mul_add(f, 1.0);
        p * f32::from_bits(shifted.to_bits() << 23)
    }

    /// Φ(−|x|) = e^{−x²/2} t P(t) with t = 1/(1 + 0.28 |x|): the form of Abramowitz and Stegun 26.2.17, with
    /// coefficients refitted by least squares, reweighted towards the largest absolute error, which is 9.3·10⁻⁹
    /// before rounding.
    #[inline(always)]
    pub fn f32(x: f32) -> (f32, f32) {
        const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
        let e = bell(x);
        let t = 1.0 / x.abs().mul_add(0.28, 1.0);
        let p = -0.105_808_8f32;
        let p = p.mul_add(t, 0.389_876_28);
        let p = p.mul_add(t, -0.236_997_1);
        let p = p.mul_add(t, 0.268_913_06);
        let p = p.mul_add(t, 0.067_495_614);
        let p = p.mul_add(t, 0.116_520_956);
        let tail = e * t * p;
        (FRAC_1_SQRT_2PI * e, if x < 0.0 { tail } else { 1.0 - tail })
    }

    /// To 10⁻¹⁵ absolute, from first principles: a series of positive terms near 0, a continued fraction beyond.
    pub fn f64(x: f64) -> (f64, f64) {
        let pdf = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let z = x.abs();
        let tail = if z < 4.0 {
            // Φ(z) − ½ = φ(z) (z + z³/3 + z⁵/(3·5) + …): nothing cancels.
            let (mut term, mut sum, mut odd) = (z, z, 1.0);
            while term > 1e-17 * sum {
                odd += 2.0;
                term *= z * z / odd;
                sum += term;
            }
            0.5 - pdf * sum
        } else {
            // Φ(−z) = φ(z) / (z + 1/(z + 2/(z + 3/(z + …)))), Laplace's; 60 levels suffice from z = 4 on.
            pdf / (1..=60).rev().fold(z, |below, k| z + f64::from(k) / below)
        };
        (pdf, if x < 0.0 { tail } else { 1.0 - tail })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_in_f32_is_within_a_unit_in_the_last_place() {
        let mut worst = 0f64;
        for i in (-866_000..=887_200).step_by(if cfg!(miri) { 9973 } else { 1 }) {
            let x = i as f32 * 1e-4;
            let exact = (x as f64).exp();
            worst = worst.max(((exp::f32(x) as f64 - exact) / exact).abs());
        }
        assert!(worst < 1.2e-7, "worst relative error {worst:e}");
        assert_eq!(exp::f32(0.0), 1.0);
        assert_eq!(exp::f32(f32::INFINITY), f32::INFINITY);
        assert_eq!((exp::f32(88.73), exp::f32(1e30)), (f32::INFINITY, f32::INFINITY));
        assert!(exp::f32(88.72).is_finite());
        assert!(exp::f32(f32::NEG_INFINITY) < 3e-38);
        assert!(exp::f32(f32::NAN).is_nan());
    }

    /// Φ by Simpson's rule on φ: slow, and nothing like the code under test.
    fn cdf_by_quadrature(x: f64) -> f64 {
        let n = 20_000;
        let h = x / n as f64;
        let f = |i: usize| (-0.5 * (i as f64 * h).powi(2)).exp();
        let sum: f64 = (1..n).map(|i| if i % 2 == 1 { 4.0 } else { 2.0 } * f(i)).sum();
        0.5 + (f(0) + sum + f(n)) * h / 3.0 / (2.0 * std::f64::consts::PI).sqrt()
    }

    #[test]
    fn normal_distribution_function_equals_its_integral() {
        for i in (-120..=120).step_by(if cfg!(miri) { 120 } else { 1 }) {
            let x = i as f64 * 0.0625;
            let exact = cdf_by_quadrature(x);
            assert!((normal_pdf_cdf::f64(x).1 - exact).abs() < 1e-14, "f64 at {x}");
            let (pdf, cdf) = normal_pdf_cdf::f32(x as f32);
            assert!((cdf as f64 - exact).abs() < 1.2e-7, "f32 at {x}");
            assert!((pdf as f64 - normal_pdf_cdf::f64(x).0).abs() < 4e-8, "the density in f32 at {x}");
        }
    }

    #[test]
    fn known_values() {
        let (pdf, cdf) = normal_pdf_cdf::f32(f32::NAN);
        assert!(pdf.is_nan() && cdf.is_nan());
        assert_eq!(normal_pdf_cdf::f32(f32::INFINITY).1, 1.0);
        // Φ(1.96) and Φ(−5), to the digits of any table.
        assert!((normal_pdf_cdf::f64(1.96).1 - 0.975_002_104_851_779_5).abs() < 1e-15);
        let tail = normal_pdf_cdf::f64(-5.0).1;
        assert!((tail / 2.866_515_718_791_939e-7 - 1.0).abs() < 1e-13);
    }
}
