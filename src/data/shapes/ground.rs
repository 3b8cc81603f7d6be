//! What lies behind the shapes (gradients, stripes, checks, ripples and clouds, in two colors), and all choice of
//! color.

use std::f32::consts::TAU;

use crate::rng::Generator;
use rand::RngExt;

use super::{Color, Point, direction, dot, mix};

/// Two colors, and a pattern that blends them.
#[derive(Clone, Debug)]
pub(in crate::data) struct Ground {
    colors: [Color; 2],
    pattern: Pattern,
}

#[derive(Clone, Debug)]
enum Pattern {
    /// From one edge to the other; the vector's length is the change over the image.
    Gradient(Point),
    /// Waves along a vector of that many periods per side, starting at a phase.
    Stripes(Point, f32),
    /// Stripes both along and across.
    Checks(Point, f32),
    /// Waves around a center, that many per side.
    Ripples(Point, f32),
    /// Random values at lattice points, smoothly joined.
    Clouds(Box<[[f32; LATTICE]; LATTICE]>),
}

/// Lattice points of [`Pattern::Clouds`] per side.
const LATTICE: usize = 7;

impl Ground {
    pub(in crate::data) fn draw(rng: &mut Generator) -> Self {
        // Quiet enough that what happens in an image happens at the edges of its shapes.
        let first = color(rng, 0.2);
        let colors = [first, mix(first, color(rng, 0.2), 0.25)];
        let periods = rng.random_range(2.0..5.0);
        let wave = direction(rng).map(|v| v * periods);
        let phase = rng.random();
        let pattern = match rng.random_range(0..5) {
            0 => Pattern::Gradient(wave.map(|v| v / periods)),
            1 => Pattern::Stripes(wave, phase),
            2 => Pattern::Checks(wave, phase),
            3 => Pattern::Ripples([rng.random(), rng.random()], periods),
            _ => Pattern::Clouds(Box::new([(); LATTICE].map(|()| [(); LATTICE].map(|()| rng.random())))),
        };
        Self { colors, pattern }
    }

    /// The one of four colors that stands out most from this ground.
    pub(in crate::data) fn contrast(&self, rng: &mut Generator) -> Color {
        let against = |a: &Color, b: &Color| (0..3).map(|c| (a[c] - b[c]).abs()).sum::<f32>();
        let least = |a: &Color| against(a, &self.colors[0]).min(against(a, &self.colors[1]));
        let candidates = [(); 4].map(|()| color(rng, 0.45));
        candidates.into_iter().max_by(|a, b| least(a).total_cmp(&least(b))).unwrap_or_default()
    }

    /// Of one color.
    #[cfg(test)]
    pub(in crate::data) fn plain(color: Color) -> Self {
        Self { colors: [color; 2], pattern: Pattern::Gradient([0.0; 2]) }
    }

    /// The canvas before anything is on it: `[size][size]`.
    pub(in crate::data) fn paint(&self, size: usize) -> Vec<Color> {
        let px = size as f32;
        let at = |k: usize| (k as f32 + 0.5) / px;
        let [from, to] = self.colors;
        (0..size * size).map(|k| mix(from, to, self.pattern.at(at(k % size), at(k / size), px))).collect()
    }
}

impl Pattern {
    /// The share of the second color at (x, y), blended over a pixel of size 1/`px`.
    fn at(&self, x: f32, y: f32, px: f32) -> f32 {
        // A wave's distance to its zero in pixels, if it has that many periods per side: a sharp edge, antialiased.
        let edge = |wave: f32, periods: f32| (wave * px / (4.0 * periods)).clamp(-0.5, 0.5);
        match self {
            Pattern::Gradient(v) => 0.5 + v[0] * (x - 0.5) + v[1] * (y - 0.5),
            Pattern::Stripes(v, phase) => 0.5 + edge(triangle(dot(*v, [x, y]) + phase), dot(*v, *v).sqrt()),
            Pattern::Checks(v, phase) => {
                let periods = dot(*v, *v).sqrt();
                let along = edge(triangle(dot(*v, [x, y]) + phase), periods);
                let across = edge(triangle(dot([-v[1], v[0]], [x, y]) + phase), periods);
                0.5 + 2.0 * along * across
            }
            Pattern::Ripples(c, periods) => {
                0.5 + edge(triangle(periods * ((x - c[0]).powi(2) + (y - c[1]).powi(2)).sqrt()), *periods)
            }
            Pattern::Clouds(values) => {
                let (u, v) = (x * (LATTICE - 1) as f32, y * (LATTICE - 1) as f32);
                let (i, j) = (u as usize, v as usize);
                let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
                let (s, t) = (smooth(u - i as f32), smooth(v - j as f32));
                let row = |j: usize| values[j][i] + s * (values[j][i + 1] - values[j][i]);
                row(j) + t * (row(j + 1) - row(j))
            }
        }
    }
}

/// A triangle wave of period 1 between −1 (at 0) and 1 (at ½).
fn triangle(t: f32) -> f32 {
    let t = t - t.floor();
    1.0 - 4.0 * (t - 0.5).abs()
}

/// Any hue and lightness; `vividness` is how far the channels swing around their mean at most.
fn color(rng: &mut Generator, vividness: f32) -> Color {
    let hue: f32 = rng.random();
    let swing = vividness * rng.random_range(0.4..1.0);
    let lightness = rng.random_range(swing..1.0 - swing);
    std::array::from_fn(|c| lightness + swing * (TAU * (hue + c as f32 / 3.0)).cos())
}
