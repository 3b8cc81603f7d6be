//! The ten forms, each as a signed distance: how far a point is from the outline, negative inside.
//!
//! A distance makes antialiasing a single line: within half a pixel of the edge, it is the share of the pixel covered.

use std::f32::consts::{PI, TAU};

use super::{NAMES, Point, dot};

/// A class's form: turned upright, with π as its area like the unit disc's, centered roughly on its center of gravity.
#[derive(Clone, Debug)]
pub(in crate::data) struct Outline {
    form: Form,
    /// No point of it is farther from the center.
    pub(super) reach: f32,
}

#[derive(Clone, Debug)]
enum Form {
    Disc,
    Ring,
    Crescent,
    Heart,
    Polygon(Vec<Edge>),
}

/// Half the width of the ring's band; its middle is at radius 1/(4·BAND), which makes the area π.
const BAND: f32 = 0.26;
/// The crescent is a disc less an equal disc shifted by `SHIFT` radii; what remains has π as its area if the radius is
/// `CRESCENT`, by the formula for the lens of two circles (checked by a test).
const SHIFT: f32 = 0.9;
const CRESCENT: f32 = 1.3448;
/// The heart's size: a square on its tip of side √½ and half discs on two sides have area ½ + π/8.
const HEART: f32 = 1.8760;

impl Outline {
    /// The form of [`NAMES`]`[class]`.
    pub(in crate::data) fn new(class: usize) -> Self {
        let (form, reach) = match NAMES[class] {
            "disc" => (Form::Disc, 1.0),
            "ring" => (Form::Ring, 0.25 / BAND + BAND),
            "crescent" => (Form::Crescent, CRESCENT),
            "heart" => (Form::Heart, 0.66 * HEART),
            "triangle" => polygon(&wheel(3, &[1.0])),
            "square" => polygon(&wheel(4, &[1.0])),
            "star" => polygon(&wheel(10, &[1.0, 0.42])),
            "cross" => {
                let arm = [[1.0, 3.0], [1.0, 1.0], [3.0, 1.0]];
                let turned = [arm, arm.map(|[x, y]| [y, -x]), arm.map(|[x, y]| [-x, -y]), arm.map(|[x, y]| [-y, x])];
                polygon(turned.as_flattened())
            }
            "arrow" => {
                polygon(&[[0.0, -2.6], [2.4, 0.0], [0.9, 0.0], [0.9, 2.6], [-0.9, 2.6], [-0.9, 0.0], [-2.4, 0.0]])
            }
            "hourglass" => polygon(&[[-2.0, -2.6], [2.0, -2.6], [0.4, 0.0], [2.0, 2.6], [-2.0, 2.6], [-0.4, 0.0]]),
            name => unreachable!("{name} has no outline"),
        };
        Self { form, reach }
    }

    /// Signed distance from `p` to the outline, negative inside: <https://iquilezles.org/articles/distfunctions2d>.
    pub(super) fn distance(&self, p: Point) -> f32 {
        let [x, y] = p;
        let from = |cx: f32, cy: f32| ((x - cx).powi(2) + (y - cy).powi(2)).sqrt();
        match &self.form {
            Form::Disc => from(0.0, 0.0) - 1.0,
            Form::Ring => (from(0.0, 0.0) - 0.25 / BAND).abs() - BAND,
            Form::Crescent => (from(0.0, 0.0) - CRESCENT).max(CRESCENT - from(SHIFT * CRESCENT, 0.0)),
            Form::Heart => {
                // With its tip at (0, 0) and its notch at (0, 1).
                let (x, y) = (x.abs() / HEART, 0.58 - y / HEART);
                let from = |cx: f32, cy: f32| (x - cx).powi(2) + (y - cy).powi(2);
                let distance = if x + y > 1.0 {
                    from(0.25, 0.75).sqrt() - 0.125f32.sqrt()
                } else {
                    let along = 0.5 * (x + y).max(0.0);
                    from(0.0, 1.0).min(from(along, along)).sqrt().copysign(x - y)
                };
                distance * HEART
            }
            Form::Polygon(edges) => {
                let (mut nearest, mut sign) = (f32::INFINITY, -1.0f32);
                for edge in edges {
                    let to = [x - edge.start[0], y - edge.start[1]];
                    let along = (dot(to, edge.along) * edge.inverse).clamp(0.0, 1.0);
                    let off = [to[0] - along * edge.along[0], to[1] - along * edge.along[1]];
                    nearest = nearest.min(dot(off, off));
                    // Each edge that a ray to the right crosses takes us out, or in.
                    let above = to[1] >= 0.0;
                    let below_end = to[1] < edge.along[1];
                    let left = edge.along[0] * to[1] > edge.along[1] * to[0];
                    if above == below_end && above == left {
                        sign = -sign;
                    }
                }
                -sign * nearest.sqrt()
            }
        }
    }
}

/// A side of a polygon.
#[derive(Clone, Debug)]
struct Edge {
    start: Point,
    along: Point,
    /// 1 / |along|²
    inverse: f32,
}

/// `n` corners around the center, their radii taken from `radii` in turn.
fn wheel(n: usize, radii: &[f32]) -> Vec<Point> {
    let corner = |k: usize| {
        let (sin, cos) = (TAU * k as f32 / n as f32).sin_cos();
        [sin, -cos].map(|v| v * radii[k % radii.len()])
    };
    (0..n).map(corner).collect()
}

/// The polygon with these corners, scaled to an area of π, and its reach.
fn polygon(corners: &[Point]) -> (Form, f32) {
    let next = |k: usize| corners[(k + 1) % corners.len()];
    let cross = |a: Point, b: Point| a[0] * b[1] - a[1] * b[0];
    let area = 0.5 * (0..corners.len()).map(|k| cross(corners[k], next(k))).sum::<f32>().abs();
    let scale = (PI / area).sqrt();
    let edge = |k: usize| {
        let (start, end) = (corners[k].map(|v| v * scale), next(k).map(|v| v * scale));
        let along = [end[0] - start[0], end[1] - start[1]];
        Edge { start, along, inverse: 1.0 / dot(along, along) }
    };
    let reach = corners.iter().map(|&p| dot(p, p)).fold(0.0, f32::max).sqrt() * scale;
    (Form::Polygon((0..corners.len()).map(edge).collect()), reach)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outline_has_the_area_of_the_unit_disc_and_a_true_distance() {
        let n = 600;
        let at = |k: usize| (k as f32 + 0.5) / n as f32 * 4.0 - 2.0;
        for (class, name) in NAMES.iter().enumerate() {
            let outline = Outline::new(class);
            let mut inside = 0;
            for k in 0..n * n {
                // At an angle to every side, or a whole side could fall between two rows.
                let (x, y) = (at(k % n) + 0.3 * at(k / n), at(k / n) - 0.3 * at(k % n));
                let distance = outline.distance([x, y]);
                let turned = outline.distance([y, -x]);
                assert!(*name != "cross" || (turned - distance).abs() < 1e-5, "four arms alike");
                if distance < 0.0 {
                    inside += 1;
                    assert!(x.hypot(y) <= outline.reach, "{name} reaches beyond {}", outline.reach);
                }
                // A distance changes by at most the length of a step.
                let step = 4.0 / n as f32;
                assert!((outline.distance([x + step, y]) - distance).abs() < 1.001 * step + 1e-6, "{name} at {x}, {y}");
            }
            let area = inside as f32 * (4.0 / n as f32).powi(2) * (1.0 + 0.3 * 0.3);
            // The grid misjudges about half a cell along each cell of the outline, with random sign.
            assert!((area / PI - 1.0).abs() < 0.003, "{name} has {area}");
        }
    }
}
