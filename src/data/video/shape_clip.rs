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
