//! Colors that survive color blindness and gray printing.

/// Red, green, blue; sRGB, 0 to 255.
pub type Rgb = [u8; 3];

/// White paper.
pub const WHITE: Rgb = [255, 255, 255];

/// The color of a value that is not a number.
const NOT_FINITE: Rgb = [128, 128, 128];

/// Colors for things without an order (M. Okabe, K. Ito, Color Universal Design, 2008), those of most contrast with
/// white first. Their yellow is left out: it vanishes on paper.
pub const CATEGORIES: [Rgb; 7] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [230, 159, 0], [0, 0, 0]];

/// A color for an amount from 0 (dark blue) to 1 (yellow), as matplotlib's viridis: equal steps look equal.
///
/// Values outside are clamped; NaN is gray. The table of 256 colors is replaced by the polynomials of degree 6 that
/// M. Zucker fitted to it (shadertoy.com/view/WlfXRN, public domain), which stay within 4 of it.
pub fn sequential(amount: f32) -> Rgb {
    #[rustfmt::skip]
    const CHANNELS: [[f32; 7]; 3] = [
        [0.27773, 0.10509, -0.33086,  -4.63423,  6.22827,   4.77639, -5.43546],
        [0.00541, 1.40461,  0.21485,  -5.7991,  14.17993, -13.74515,  4.64585],
        [0.3341,  1.38459,  0.0951,  -19.33244, 56.69055, -65.35303, 26.31244],
    ];
    if amount.is_nan() {
        return NOT_FINITE;
    }
    let t = amount.clamp(0.0, 1.0);
    CHANNELS.map(|c| (255.0 * c.iter().rev().fold(0.0, |sum, c| sum * t + c)).round() as u8)
}

/// A color for a value with a sign, from −1 (blue) over 0 (near white) to 1 (red).
///
/// Values outside are clamped; NaN is gray. Linear between five colors of ColorBrewer's RdBu (C. Brewer, 2002).
pub fn diverging(value: f32) -> Rgb {
    const STOPS: [Rgb; 5] = [[5, 48, 97], [67, 147, 195], [247, 247, 247], [214, 96, 77], [103, 0, 31]];
    if value.is_nan() {
        return NOT_FINITE;
    }
    let t = 2.0 * (value.clamp(-1.0, 1.0) + 1.0);
    let stop = (t as usize).min(3);
    mix(STOPS[stop], STOPS[stop + 1], t - stop as f32)
}

/// `from` at t = 0, `to` at t = 1, linear in sRGB between.
pub fn mix(from: Rgb, to: Rgb, t: f32) -> Rgb {
    [0, 1, 2].map(|c| (f32::from(from[c]) * (1.0 - t) + f32::from(to[c]) * t).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_follows_viridis() {
        let table = [
            (0.0, [68, 1, 84]),
            (0.25, [59, 82, 139]),
            (0.5, [33, 145, 140]),
            (0.75, [94, 201, 98]),
            (1.0, [253, 231, 37]),
        ];
        for (t, expected) in table {
            let found = sequential(t);
            assert!((0..3).all(|c| found[c].abs_diff(expected[c]) <= 4), "{t}: {found:?}, viridis has {expected:?}");
        }
        assert_eq!((sequential(-9.0), sequential(9.0)), (sequential(0.0), sequential(1.0)));
        assert_eq!(sequential(f32::NAN), NOT_FINITE);
    }

    #[test]
    fn diverging_is_blue_white_red() {
        let ends = [diverging(-1.0), diverging(0.0), diverging(1.0), diverging(7.0), diverging(0.25)];
        assert_eq!(ends, [[5, 48, 97], [247, 247, 247], [103, 0, 31], [103, 0, 31], [231, 172, 162]]);
        assert_eq!(diverging(f32::NAN), NOT_FINITE);
    }
}
