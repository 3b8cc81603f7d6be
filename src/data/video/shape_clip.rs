//! The embedded clips: two to four shapes of any class on a textured ground, with an exact mask of each frame.
//!
//! What makes them a question about features: every shape travels along a curve to where another began, so that they cross
//! and the nearer hides the farther; each turns at its own speed; the camera drifts over the ground; the light goes
//! around. In the first frame no shape hides another. A clip is drawn when it is asked for, from a random stream of its own.

use std::f32::consts::TAU;

use rand::RngExt;

use super::{Clip, Frame, Mask};
use crate::Result;
use crate::data::shapes::{Color, Ground, NAMES, Outline, Point, Shape, place, to_planes};
use crate::rng::{Purpose, stream};

/// A clip of drawn shapes. It is square.
pub struct ShapeClip {
    name: String,
    frames: usize,
    size: usize,
    ground: Ground,
    /// Where the camera is over the ground in the first and the last frame, in shares of the image's side.
    camera: [Point; 2],
    /// The direction of the light in the first frame, and how far it turns until the last, as angles.
    light: [f32; 2],
    /// The nearest first.
    movers: Vec<Mover>,
}

/// A shape that moves.
#[derive(Clone, Debug)]
struct Mover {
    outline: Outline,
    /// As it begins.
    shape: Shape,
    /// Where it ends, and the point that its path bends towards.
    path: [Point; 2],
    /// How far it turns until the last frame.
    turn: f32,
}

/// Fewest and most frames.
const FRAMES: [usize; 2] = [16, 24];
/// Fewest and most shapes.
const SHAPES: [usize; 2] = [2, 4];
/// The side of the ground, in sides of the image: how far the camera can drift.
const GROUND: f32 = 1.5;
/// How far paths bend at most, and how far the camera drifts, the light and the shapes turn.
const BEND: f32 = 0.35;
const LIGHT_TURN: f32 = TAU / 4.0;
const SHAPE_TURN: f32 = TAU / 3.0;

impl ShapeClip {
    /// Clip `index` of the endless series that `seed` stands for, at `size`×`size` pixels. What happens in it is the same at
    /// every size.
    pub fn new(seed: u64, index: usize, size: usize) -> Self {
        let rng = &mut stream(seed, Purpose::Shapes, [index as u64, 1]); // 0 is for the images of `Shapes`
        let frames = rng.random_range(FRAMES[0]..=FRAMES[1]);
        let count = rng.random_range(SHAPES[0]..=SHAPES[1]);
        let ground = Ground::draw(rng);
        let room = GROUND - 1.0;
        let camera = [(); 2].map(|()| [rng.random_range(0.0..room), rng.random_range(0.0..room)]);
        let light = [TAU * rng.random::<f32>(), rng.random_range(-LIGHT_TURN..LIGHT_TURN)];
        let mut shapes: Vec<Shape> = Vec::with_capacity(count);
        for _ in 0..count {
            let (depth, angle) = (rng.random(), TAU * rng.random::<f32>());
            let shape = Shape { center: [0.0; 2], depth, angle, color: ground.contrast(rng) };
            shapes.push(place(shape, &shapes, rng));
        }
        shapes.sort_by(|a, b| a.depth.total_cmp(&b.depth));
        let mover = |k: usize| {
            let (shape, end) = (shapes[k].clone(), shapes[(k + 1) % count].center);
            let mut bend = |axis: usize| (shape.center[axis] + end[axis]) / 2.0 + rng.random_range(-BEND..BEND);
            let path = [end, [bend(0), bend(1)]];
            let turn = rng.random_range(-SHAPE_TURN..SHAPE_TURN);
            Mover { outline: Outline::new(rng.random_range(0..NAMES.len())), shape, path, turn }
        };
        let movers = (0..count).map(mover).collect();
        ShapeClip { name: format!("clip-{index:03}"), frames, size, ground, camera, light, movers }
    }

    /// How much of the clip has passed at frame `index`, from 0 to 1.
    #[track_caller]
    fn time(&self, index: usize) -> f32 {
        assert!(index < self.frames, "frame {index} of {}", self.frames);
        index as f32 / (self.frames - 1) as f32
    }

    /// What the camera sees of the ground: `[size][size]`.
    fn view(&self, time: f32) -> Vec<Color> {
        let side = (GROUND * self.size as f32) as usize;
        let ground = self.ground.paint(side);
        let offset = |axis: usize| {
            let at = self.camera[0][axis] + time * (self.camera[1][axis] - self.camera[0][axis]);
            ((at * self.size as f32) as usize).min(side - self.size)
        };
        let [left, top] = [offset(0), offset(1)];
        let row = |y: usize| ground[(top + y) * side + left..][..self.size].to_vec();
        (0..self.size).flat_map(row).collect()
    }
}

impl Mover {
    /// The shape as it is when so much of the clip has passed.
    fn at(&self, time: f32) -> Shape {
        let [end, toward] = self.path;
        // A quadratic Bézier curve.
        let along = |a: f32, b: f32, c: f32| (1.0 - time).powi(2) * a + 2.0 * time * (1.0 - time) * b + time * time * c;
        let center = std::array::from_fn(|axis| along(self.shape.center[axis], toward[axis], end[axis]));
        Shape { center, angle: self.shape.angle + time * self.turn, ..self.shape.clone() }
    }
}

impl Clip for ShapeClip {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.frames
    }

    fn frame(&self, index: usize) -> Result<Frame> {
        let time = self.time(index);
        let mut canvas = self.view(time);
        let (sin, cos) = (self.light[0] + time * self.light[1]).sin_cos();
        for mover in self.movers.iter().rev() {
            mover.at(time).paint(&mover.outline, [cos, sin], self.size, &mut canvas);
        }
        let mut planes = vec![0; 3 * self.size * self.size];
        to_planes(&canvas, &mut planes);
        Ok(Frame::new([self.size; 2], planes))
    }

    /// A pixel shows the nearest shape that covers half of it.
    fn mask(&self, index: usize) -> Result<Mask> {
        let time = self.time(index);
        let mut labels = vec![0; self.size * self.size];
        for (k, mover) in self.movers.iter().enumerate().rev() {
            mover.at(time).cover(&mover.outline, self.size, |pixel, cover, _| {
                if cover >= 0.5 {
                    labels[pixel] = k as u8 + 1;
                }
            });
        }
        Ok(Mask::new([self.size; 2], labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clips(n: usize, size: usize) -> impl Iterator<Item = ShapeClip> {
        (0..n).map(move |index| ShapeClip::new(0, index, size))
    }

    fn areas(mask: &Mask) -> Vec<usize> {
        (1..=mask.objects()).map(|object| mask.labels().iter().filter(|label| **label == object).count()).collect()
    }

    #[test]
    fn a_clip_depends_on_its_seed_and_index_alone() {
        let (a, b) = (ShapeClip::new(3, 5, 32), ShapeClip::new(3, 5, 32));
        let last = a.len() - 1;
        assert_eq!((a.frame(last).unwrap(), a.mask(last).unwrap()), (b.frame(last).unwrap(), b.mask(last).unwrap()));
        assert_ne!(a.frame(0).unwrap(), ShapeClip::new(3, 6, 32).frame(0).unwrap());
        assert_ne!(a.frame(0).unwrap(), ShapeClip::new(4, 5, 32).frame(0).unwrap());
        assert_ne!(a.frame(0).unwrap(), a.frame(1).unwrap());
        assert_eq!((a.name(), &*a.file_stem(7)), ("clip-005", "00007"));
    }

    #[test]
    fn clips_have_a_few_objects_all_to_be_seen_at_first_and_hidden_on_the_way() {
        let (mut hidden, mut numbers) = (0, [0; 5]);
        for clip in clips(40, 64) {
            let first = areas(&clip.mask(0).unwrap());
            assert!((FRAMES[0]..=FRAMES[1]).contains(&clip.len()) && first.len() == clip.movers.len());
            numbers[first.len()] += 1;
            for (area, mover) in first.iter().zip(&clip.movers) {
                let whole = std::f32::consts::PI * (64.0 * mover.shape.radius()).powi(2);
                assert!(*area as f32 > 0.6 * whole, "{}: {area} pixels of {whole}", clip.name());
            }
            let least = |object: u8| {
                let area = |index| clip.mask(index).unwrap().labels().iter().filter(|label| **label == object).count();
                (0..clip.len()).map(area).min().unwrap_or(0)
            };
            hidden += usize::from((1..).zip(&first).any(|(object, first)| 2 * least(object) < *first));
        }
        assert!(hidden > 13 && numbers[2..].iter().all(|n| *n > 4), "{hidden} of 40 hide half of a shape; {numbers:?}");
    }

    /// Shapes of pure colors on black: where a pixel and its neighbors have a label, it has that shape's color and no other's.
    /// (Half covered, a pixel has 89 of 255, more or less by a third as the light falls.)
    #[test]
    fn masks_are_of_what_is_painted() {
        for mut clip in clips(12, 48) {
            clip.ground = Ground::plain([0.0; 3]);
            clip.movers.truncate(3);
            for (k, mover) in clip.movers.iter_mut().enumerate() {
                mover.shape.color = std::array::from_fn(|c| if c == k { 0.7 } else { 0.0 });
            }
            for index in [0, clip.len() / 2, clip.len() - 1] {
                let (frame, mask) = (clip.frame(index).unwrap(), clip.mask(index).unwrap());
                let label = |x: usize, y: usize| usize::from(mask.labels()[y * 48 + x]);
                for (x, y) in (1..47).flat_map(|y| (1..47).map(move |x| (x, y))) {
                    let color = [0, 1, 2].map(|c| frame.planes()[(c * 48 + y) * 48 + x]);
                    let here = label(x, y);
                    if [label(x - 1, y), label(x + 1, y), label(x, y - 1), label(x, y + 1)] == [here; 4] {
                        let shown = |c: usize| if c + 1 == here { color[c] > 55 } else { color[c] < 122 };
                        assert!((0..3).all(shown), "{} {index}: {color:?} at {x}, {y} for {here}", clip.name());
                    }
                }
            }
        }
    }

    #[test]
    fn what_happens_is_the_same_at_every_size() {
        for (small, large) in clips(10, 32).zip(clips(10, 128)) {
            let middle = small.len() / 2;
            let (mask, shrunk) = (small.mask(middle).unwrap(), large.mask(middle).unwrap().nearest([32, 32]));
            let same = mask.labels().iter().zip(shrunk.labels()).filter(|(a, b)| a == b).count();
            assert!(same > 32 * 32 * 95 / 100, "{}: {same} pixels agree", small.name());
        }
    }
}
