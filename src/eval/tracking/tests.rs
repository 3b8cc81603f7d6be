//! Against definitions, against numbers of an independent script, and on videos whose answer is known.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::propagate::{Seen, harden, one_hot, soft_labels, unit_rows};
use super::*;
use crate::data::Normalization;
use crate::data::video::{Frame, ShapeClip};
use crate::eval::testing::{ended_after, gaussian, same_on_any_thread_count};
use crate::nn::{LinearInit, fresh};
use crate::rng::{Purpose, stream};
use crate::tensor::{DType, Tensor};
use crate::vit::{Encoder, EncoderConfig, Preset};
use rand::RngExt;

/// The numbers of tests/parity/make_davis_numbers.py.
fn davis_numbers() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/davis_numbers.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn mask_of(rows: &Value) -> Mask {
    let rows: Vec<&str> = rows.as_array().unwrap().iter().map(|row| row.as_str().unwrap()).collect();
    Mask::new([rows.len(), rows[0].len()], rows.concat().bytes().map(|b| b - b'0').collect())
}

fn numbers(list: &Value) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn floats(list: &Value) -> Vec<f32> {
    numbers(list).into_iter().map(|x| x as f32).collect()
}

#[test]
fn scores_are_those_of_the_script() {
    for case in davis_numbers()["scores"].as_array().unwrap() {
        let [truth, found] = ["truth", "found"].map(|name| mask_of(&case[name]));
        for (object, expected) in (1..).zip(case["scores"].as_array().unwrap()) {
            let scores = [region_similarity(&truth, &found, object), contour_accuracy(&truth, &found, object)];
            let difference = scores.iter().zip(numbers(expected)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            // Both divide the same whole numbers.
            assert!(difference < 1e-15, "{:?}, object {object}: {scores:?} and {expected}", truth.size());
        }
    }
}

/// A square of `side` pixels, its upper left corner at (`top`, `left`), on 100 × 100 pixels: contours match within 2.
fn square(top: usize, left: usize, side: usize) -> Mask {
    let inside = |from: usize, at: usize| (from..from + side).contains(&at);
    Mask::new([100, 100], (0..10_000).map(|i| u8::from(inside(top, i / 100) && inside(left, i % 100))).collect())
}

#[test]
fn scores_of_shifted_squares_are_known() {
    let truth = square(30, 30, 20);
    let [j, f] = [region_similarity, contour_accuracy];
    for (top, left, expected) in [
        (30, 30, [1.0, 1.0]),
        // Half of it: 200 pixels of 600; of the found contour's ring of 4 · 20 pixels, 13 on either edge along the shift, and 4
        // of those across, 2 next to either edge.
        (30, 40, [1.0 / 3.0, 30.0 / 80.0]),
        // As far as the tolerance goes; and one pixel farther: 20 on either edge along the shift, and the same 4.
        (30, 32, [18.0 / 22.0, 1.0]),
        (30, 33, [17.0 / 23.0, 44.0 / 80.0]),
        (70, 70, [0.0, 0.0]),
    ] {
        let found = square(top, left, 20);
        let scores = [j(&truth, &found, 1), f(&truth, &found, 1)];
        assert!(scores.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{top}, {left}: {scores:?}");
        assert_eq!([j(&found, &truth, 1), f(&found, &truth, 1)], scores, "neither mask is special");
    }
}

#[test]
fn scores_without_an_object_are_those_of_davis() {
    let (some, none) = (square(10, 10, 5), square(0, 0, 0));
    let all = Mask::new([100, 100], vec![1; 10_000]);
    for (truth, found, expected) in [
        (&none, &none, [1.0, 1.0]),
        (&some, &none, [0.0, 0.0]),
        (&none, &some, [0.0, 0.0]),
        // What fills the frame has no contour.
        (&all, &all, [1.0, 1.0]),
        (&all, &some, [0.0025, 0.0]),
    ] {
        assert_eq!([region_similarity(truth, found, 1), contour_accuracy(truth, found, 1)], expected);
    }
    assert_eq!(region_similarity(&some, &some, 7), 1.0, "an object that is nowhere");
}

#[test]
fn labels_and_masks_are_those_of_the_script() {
    for case in davis_numbers()["propagations"].as_array().unwrap() {
        let whole = |name: &str| case[name].as_u64().unwrap() as usize;
        let grid = [0, 1].map(|axis| case["grid"][axis].as_u64().unwrap() as usize);
        let (n, classes) = (grid[0] * grid[1], whole("classes"));
        let (features, labels) = (floats(&case["features"]), floats(&case["labels"]));
        let unit = |row: &[f32]| {
            let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            row.iter().map(|v| v / length).collect::<Vec<f32>>()
        };
        let frames: Vec<Tensor> =
            features.chunks(6 * n).map(|frame| Tensor::new([n, 6], frame.chunks(6).flat_map(unit).collect())).collect();
        let labels = labels.chunks(n * classes).map(<[f32]>::to_vec);
        let seen: Vec<Seen> =
            frames[1..].iter().zip(labels).map(|(f, labels)| Seen { features: f.clone(), labels }).collect();
        let config = TrackConfig {
            radius: whole("radius"),
            top_k: whole("top_k"),
            temperature: case["temperature"].as_f64().unwrap(),
            ..TrackConfig::default()
        };
        let soft = soft_labels(&frames[0], &seen.iter().collect::<Vec<_>>(), grid, classes, &config);
        let expected = numbers(&case["soft"]);
        let most = soft.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        // A cosine of f32 is off by some 10⁻⁷, which the temperature makes 10⁻⁶.
        assert!(most < 5e-6 && soft.len() == expected.len(), "{grid:?}: {most:e}");
        let mask = mask_of(&case["mask"]);
        assert_eq!(harden(&soft, grid, classes, mask.size()), mask, "{grid:?}");
    }
}

/// The definition, in plain loops and f64.
fn naive(query: &Tensor, seen: &[Seen], grid: [usize; 2], classes: usize, config: &TrackConfig) -> Vec<f64> {
    let n = grid[0] * grid[1];
    let row = |x: &Tensor, i: usize| x.rows(i..i + 1).to_f64_vec();
    let mut all = Vec::new();
    for q in 0..n {
        let mut candidates = Vec::new();
        for frame in seen {
            for p in 0..n {
                let near = |a: usize, b: usize| config.radius == 0 || a.abs_diff(b) <= config.radius;
                if near(q / grid[1], p / grid[1]) && near(q % grid[1], p % grid[1]) {
                    let cosine: f64 = row(query, q).iter().zip(row(&frame.features, p)).map(|(a, b)| a * b).sum();
                    candidates.push((cosine, frame.labels[p * classes..][..classes].to_vec()));
                }
            }
        }
        candidates.sort_by(|a, b| b.0.total_cmp(&a.0));
        candidates.truncate(config.top_k);
        let total: f64 = candidates.iter().map(|(cosine, _)| (cosine / config.temperature).exp()).sum();
        for class in 0..classes {
            let of = |(cosine, labels): &(f64, Vec<f32>)| {
                (cosine / config.temperature).exp() / total * f64::from(labels[class])
            };
            all.push(candidates.iter().map(of).sum());
        }
    }
    all
}

#[test]
fn propagation_is_its_definition() {
    let mut rng = stream(3, Purpose::Eval, [1, 1]);
    for (grid, frames, classes, radius, top_k, temperature) in [
        ([5, 7], 3, 4, 2, 5, 0.1),
        ([7, 5], 1, 2, 1, 40, 0.1),
        ([1, 6], 2, 3, 0, 1, 0.1),
        ([4, 4], 2, 2, usize::MAX, 7, 0.02),
        ([1, 1], 1, 2, 12, 5, 0.1),
    ] {
        let n = grid[0] * grid[1];
        let unit = |seed| {
            let mut x = gaussian(seed, n, 8);
            for row in x.as_mut_slice::<f32>().chunks_exact_mut(8) {
                let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
                row.iter_mut().for_each(|v| *v /= length);
            }
            x
        };
        let mut seen = |seed| Seen { features: unit(seed), labels: (0..n * classes).map(|_| rng.random()).collect() };
        let seen: Vec<Seen> = (1..=frames).map(&mut seen).collect();
        let config = TrackConfig { radius, top_k, temperature, ..TrackConfig::default() };
        let found = soft_labels(&unit(0), &seen.iter().collect::<Vec<_>>(), grid, classes, &config);
        let expected = naive(&unit(0), &seen, grid, classes, &config);
        let most = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
        assert!(most < 2e-5 && found.len() == expected.len(), "{grid:?}: {most:e}"); // 10⁻⁷ / 0.02, twice over
    }
}

/// The colder, the more the most similar counts, and in the end it alone.
#[test]
fn at_the_lowest_temperature_the_most_similar_patch_gives_its_label() {
    let [queries, features] = [1, 2].map(|seed| unit_rows(gaussian(seed, 12, 8), "", 0).unwrap());
    let seen = [Seen { features, labels: (0..24).map(|at| at as f32 / 24.0).collect() }];
    let config = TrackConfig { temperature: f64::MIN_POSITIVE, ..TrackConfig::default() };
    let found = soft_labels(&queries, &[&seen[0]], [3, 4], 2, &config);
    let nearest = TrackConfig { top_k: 1, ..TrackConfig::default() };
    let expected = naive(&queries, &seen, [3, 4], 2, &nearest);
    assert!(found.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6), "{found:?} {expected:?}");
}

/// Of patches that are equally similar none is left out.
#[test]
fn those_equal_to_the_last_of_the_most_similar_count_too() {
    let alike =
        |labels: &[f32]| Seen { features: Tensor::full([4, 2], 0.5f64.sqrt(), DType::F32), labels: labels.into() };
    let seen = alike(&[1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
    let config = TrackConfig { top_k: 1, ..TrackConfig::default() };
    assert_eq!(soft_labels(&seen.features.clone(), &[&seen], [2, 2], 2, &config), [0.75, 0.25].repeat(4));
    // Of labels that have as much of a pixel the first wins.
    assert_eq!(harden(&[0.0, 0.5, 0.5].repeat(4), [2, 2], 3, [4, 4]), Mask::new([4, 4], vec![1; 16]));
}

/// Each frame takes its labels from the first and the last two before it, and from no other.
#[test]
fn the_context_is_the_first_frame_and_the_last_few() {
    /// Random for each frame, of which its place is told by the color that is in no mask.
    struct Random;
    impl PatchFeatures for Random {
        fn patch_size(&self) -> usize {
            1
        }
        fn features(&self, frame: &Frame) -> Result<Tensor> {
            Ok(gaussian(frame.planes().iter().copied().max().unwrap().into(), 36, 5))
        }
    }
    let label = |t: usize, y: usize, x: usize| if t == 0 { u8::from(x < 3) + u8::from(y > x) } else { t as u8 + 10 };
    let clips = [drawn(12, [6, 6], label)];
    let config = TrackConfig { last_frames: 2, radius: 0, top_k: 9, temperature: 0.5, ..TrackConfig::default() };
    let first = clips[0].mask(0).unwrap();
    let unit = |t: usize| unit_rows(Random.features(&clips[0].frame(t).unwrap()).unwrap(), "", t).unwrap();
    let begin = || Seen { features: unit(0), labels: one_hot(&first, 3) };
    let by_hand = |context: &dyn Fn(usize) -> Vec<usize>| {
        let (mut seen, mut masks) = (vec![begin()], vec![first.clone()]);
        for t in 1..12 {
            let context: Vec<&Seen> = context(t).into_iter().map(|frame| &seen[frame]).collect();
            let labels = soft_labels(&unit(t), &context, [6, 6], 3, &config);
            masks.push(harden(&labels, [6, 6], 3, [6, 6]));
            seen.push(Seen { features: unit(t), labels });
        }
        masks
    };
    let mut found = Vec::new();
    track_watched(&Random, &clips, &config, GO_ON, &mut |frame| {
        found.push(frame.mask.clone());
        Ok(())
    })
    .unwrap();
    let last = |t: usize, n: usize| t.saturating_sub(n).max(1)..t;
    let with_first = |t: usize, n: usize| std::iter::once(0).chain(last(t, n)).collect::<Vec<_>>();
    assert!(found == by_hand(&|t| with_first(t, 2)));
    assert!(found != by_hand(&|t| with_first(t, 1)) && found != by_hand(&|t| with_first(t, 3)));
    assert!(found != by_hand(&|t| if t == 1 { vec![0] } else { last(t, 2).collect() }));
}

/// A clip drawn by a function of frame, row and column: a label, which is also the frame's color.
struct Drawn<F> {
    frames: usize,
    size: [usize; 2],
    label: F,
}

impl<F: Fn(usize, usize, usize) -> u8 + Send + Sync> Clip for Drawn<F> {
    fn name(&self) -> &str {
        "drawn"
    }
    fn len(&self) -> usize {
        self.frames
    }
    fn frame(&self, index: usize) -> Result<Frame> {
        let labels = self.mask(index)?.labels().to_vec();
        Ok(Frame::new(self.size, labels.repeat(3)))
    }
    fn mask(&self, index: usize) -> Result<Mask> {
        let [height, width] = self.size;
        Ok(Mask::new(self.size, (0..height * width).map(|i| (self.label)(index, i / width, i % width)).collect()))
    }
}

fn drawn(
    frames: usize,
    size: [usize; 2],
    label: impl Fn(usize, usize, usize) -> u8 + Send + Sync + 'static,
) -> Box<dyn Clip> {
    Box::new(Drawn { frames, size, label })
}

/// Features that know the label of a patch's first pixel, in a clip that is [`Drawn`]; and how often they were asked.
struct Perfect {
    patch: usize,
    asked: AtomicUsize,
}

impl PatchFeatures for Perfect {
    fn patch_size(&self) -> usize {
        self.patch
    }
    fn features(&self, frame: &Frame) -> Result<Tensor> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let [height, width] = frame.size();
        let [rows, columns] = [height, width].map(|side| side / self.patch);
        let label = |patch: usize| {
            usize::from(frame.planes()[patch / columns * self.patch * width + patch % columns * self.patch])
        };
        Ok(Tensor::from_fn([rows * columns, 4], DType::F32, |i| f64::from(u8::from(label(i / 4) == i % 4))))
    }
}

fn perfect(patch: usize) -> Perfect {
    Perfect { patch, asked: AtomicUsize::new(0) }
}

const GO_ON: CancelCheck = &|| Ok(());

#[test]
fn perfect_features_follow_perfectly() {
    // Patches of a pixel: squares that move and hide one another. Patches of four: bands that move by whole patches, whose
    // edges are straight, as bilinear upsampling rounds corners.
    let squares = |t: usize, y: usize, x: usize| {
        let inside = |top: usize, left: usize| (top..top + 5).contains(&y) && (left..left + 6).contains(&x);
        if inside(4, 2 + t) { 1 } else { 2 * u8::from(inside(6, 12 - t)) }
    };
    let bands = |t: usize, _: usize, x: usize| match (x / 4 + 20 - t) % 20 {
        2..5 => 1,
        5..7 => 3,
        _ => 0,
    };
    for (patch, clip) in [(1, drawn(10, [16, 20], squares)), (4, drawn(9, [24, 80], bands))] {
        let (features, clips) = (perfect(patch), [clip]);
        let report = track(&features, &clips, &TrackConfig::default(), GO_ON).unwrap();
        let objects: Vec<u8> = report.objects.iter().map(|object| object.object).collect();
        assert_eq!((report.j, report.f, report.j_and_f), (1.0, 1.0, 1.0), "{report:?}");
        assert_eq!(objects, if patch == 1 { vec![1, 2] } else { vec![1, 2, 3] }, "2 is nowhere in the second");
        assert_eq!(features.asked.into_inner(), clips[0].len(), "every frame is encoded once");
    }
}

/// Features of 16 × 16 patches of a pixel that say where a patch is and nothing else: each keeps the label that it had at first.
struct Place;

impl PatchFeatures for Place {
    fn patch_size(&self) -> usize {
        1
    }
    fn features(&self, _: &Frame) -> Result<Tensor> {
        Ok(Tensor::from_fn([256, 256], DType::F32, |i| f64::from(u8::from(i / 256 == i % 256))))
    }
}

/// Object 1 stands still and is found; 2 appears on the background, and is neither found nor asked for. In the two frames that
/// are judged it hides nothing, then half of object 1; in the last, which is not judged, all of it.
#[test]
fn what_appears_later_counts_as_background() {
    let label = |t: usize, _: usize, x: usize| match (t, x) {
        (2, 4..12) | (3, 0..8) => 2,
        (_, 0..8) => 1,
        _ => 0,
    };
    let config = TrackConfig { top_k: 1, ..TrackConfig::default() };
    let report = track(&Place, &[drawn(4, [16, 16], label)], &config, GO_ON).unwrap();
    // Frame 1: all right. Frame 2: 4 of 8 columns are right; of 16 found contour pixels, all in column 7, none is within a pixel
    // of column 3.
    let expected = ObjectScore { clip: "drawn".into(), object: 1, j: (1.0 + 0.5) / 2.0, f: (1.0 + 0.0) / 2.0 };
    assert_eq!(report.objects, [expected]);
    assert_eq!((report.j, report.f, report.j_and_f), (0.75, 0.5, 0.625));
}

/// DAVIS averages over objects, however many a clip has.
#[test]
fn every_object_counts_as_much_as_another() {
    let jumps = |t: usize, _: usize, x: usize| u8::from((x < 4) == (t == 0));
    let rest = |_: usize, y: usize, x: usize| if x < 4 { 1 } else { 2 * u8::from(y < 4) };
    let clips = [drawn(3, [16, 16], jumps), drawn(5, [16, 16], rest)];
    let report = track(&Place, &clips, &TrackConfig { top_k: 1, ..TrackConfig::default() }, GO_ON).unwrap();
    let each: Vec<f64> = report.objects.iter().map(|object| object.j).collect();
    assert_eq!((each, report.j), (vec![0.0, 1.0, 1.0], 2.0 / 3.0));
}

/// Nothing moves: with the most similar patch alone every patch finds itself, and keeps what it had at the beginning.
#[test]
fn raw_pixels_stand_still_in_a_still_clip() {
    struct Still(ShapeClip);
    impl Clip for Still {
        fn name(&self) -> &str {
            "still"
        }
        fn len(&self) -> usize {
            12
        }
        fn frame(&self, _: usize) -> Result<Frame> {
            // Noise, so that no two patches are alike.
            let frame = self.0.frame(0)?;
            let mut rng = stream(5, Purpose::Eval, [0, 0]);
            let planes = frame.planes().iter().map(|v| v.saturating_add(rng.random_range(0..20))).collect();
            Ok(Frame::new(frame.size(), planes))
        }
        fn mask(&self, _: usize) -> Result<Mask> {
            self.0.mask(0)
        }
    }
    let pixels = PixelFeatures { patch_size: 4, normalization: &Normalization::IMAGENET };
    let clips: [Box<dyn Clip>; 1] = [Box::new(Still(ShapeClip::new(0, 0, 64)))];
    let truth = clips[0].mask(0).unwrap();
    let at_first = truth.nearest([16, 16]);
    let classes = usize::from(truth.objects()) + 1;
    let one_hot = |label: u8| (0..classes).map(move |c| f32::from(u8::from(usize::from(label) == c)));
    let kept =
        harden(&at_first.labels().iter().copied().flat_map(one_hot).collect::<Vec<_>>(), [16, 16], classes, [64, 64]);
    let config = TrackConfig { top_k: 1, ..TrackConfig::default() };
    let report = track_watched(&pixels, &clips, &config, GO_ON, &mut |frame| {
        assert!(*frame.mask == if frame.index == 0 { truth.clone() } else { kept.clone() }, "frame {}", frame.index);
        Ok(())
    });
    let report = report.unwrap();
    assert!(report.j > 0.5 && report.f > 0.5, "patches blur edges, and nothing else: {report:?}");
}

#[test]
fn encoders_follow_objects_on_any_grid_the_same_on_any_number_of_threads() {
    // The class token stands first, and is no patch.
    let config = EncoderConfig { image_size: 16, dim: 16, depth: 1, heads: 2, class_token: true, ..Preset::Toy.into() };
    let (encoder, params) = fresh(LinearInit::Normal, DType::F32, &mut stream(0, Purpose::Init, [0, 0]), |init| {
        Encoder::new(&config, init)
    });
    let features = EncoderFeatures { encoder: &encoder, params: &params, normalization: &Normalization::IMAGENET };
    let frame = ShapeClip::new(0, 1, 16).frame(0).unwrap();
    let image = frame.normalized(&Normalization::IMAGENET).unwrap().reshape([1, 3, 16, 16]);
    let tokens = encoder.forward(&params.constants(), &image.into(), None).value().reshape([17, 16]).rows(1..17);
    assert_eq!(features.features(&frame).unwrap().to_f64_vec(), tokens.to_f64_vec());
    let frame = ShapeClip::new(0, 1, 32).frame(0).unwrap();
    assert_eq!(features.features(&frame).unwrap().shape()[..], [64, 16]);
    assert_eq!(features.features(&frame.resized([24, 36])).unwrap().shape()[..], [54, 16]);
    let clips = crate::data::video::open("clips", 32, Some(2)).unwrap();
    let tracked = || track(&features, &clips, &TrackConfig::default(), GO_ON).unwrap();
    assert!((0.05..0.99).contains(&tracked().j), "{:?}", tracked());
    same_on_any_thread_count(tracked);
}

/// On its own grid an encoder for a grid is itself; a row of patches more changes what the positions say.
#[test]
fn an_encoder_on_its_own_grid_is_itself() {
    let config = EncoderConfig { image_size: 8, dim: 8, depth: 1, heads: 2, ..Preset::Toy.into() };
    let (encoder, params) = fresh(LinearInit::Normal, DType::F32, &mut stream(0, Purpose::Init, [0, 0]), |init| {
        Encoder::new(&config, init)
    });
    let p = config.patch_size;
    let image = gaussian(1, 3, 64).reshape([1, 3, 8, 8]);
    let (same, shared) = encoder.for_grid(&params, [8 / p; 2]);
    let forward = |encoder: &crate::vit::Encoder, params: &crate::nn::Params, image: &Tensor| {
        encoder.forward(&params.constants(), &image.clone().into(), None).value().to_f64_vec()
    };
    assert_eq!(forward(&same, &shared, &image), forward(&encoder, &params, &image));
    let (wide, interpolated) = encoder.for_grid(&params, [8 / p, 24 / p]);
    assert_eq!(forward(&wide, &interpolated, &gaussian(1, 3, 192).reshape([1, 3, 8, 24])).len(), 8 / p * 24 / p * 8);
    let table = interpolated.get("pos_embed").unwrap();
    assert_eq!(table.value.shape()[..], [1, 8 / p * 24 / p, 8]);
    let unchanged = params.iter().zip(interpolated.iter()).all(|(a, b)| {
        a.name == b.name && (a.name == "pos_embed" || a.value.as_slice::<f32>() == b.value.as_slice::<f32>())
    });
    assert!(unchanged && params.get("pos_embed").unwrap().value.shape()[1] == 64 / p / p);
}

/// What an experiment calls: the command's numbers, of encoders of every form and of pixels.
#[test]
fn encoders_of_all_forms_and_pixels_are_judged_on_embedded_clips() {
    let normalization = &Normalization::IMAGENET;
    let side = usual_frame_size(16);
    let judged = |features: &dyn PatchFeatures| {
        let report = track_embedded(features, side, 2, GO_ON).unwrap();
        let clips = crate::data::video::open("clips", side, Some(2)).unwrap();
        let config = TrackConfig { frame_size: Some(side), ..TrackConfig::default() };
        assert_eq!(report, track(features, &clips, &config, GO_ON).unwrap());
        assert!((0.05..0.99).contains(&report.j), "{report:?}");
        report.j_and_f
    };
    let mut found = vec![judged(&PixelFeatures { patch_size: 4, normalization })];
    // The forms that encoders of the methods have: plain, with a class token (MAE), with a mask token (data2vec, SimMIM).
    for (class_token, mask_token) in [(false, false), (true, false), (false, true)] {
        let small = EncoderConfig { image_size: 16, dim: 16, depth: 1, heads: 2, ..Preset::Toy.into() };
        let sizes = EncoderConfig { class_token, mask_token, ..small };
        let (encoder, params) = fresh(LinearInit::Normal, DType::F32, &mut stream(0, Purpose::Init, [0, 0]), |init| {
            Encoder::new(&sizes, init)
        });
        found.push(judged(&EncoderFeatures { encoder: &encoder, params: &params, normalization }));
    }
    assert!(found[1..].iter().all(|score| *score != found[0]), "{found:?}");
    assert!(track_embedded(&perfect(4), 7, 2, GO_ON).is_err() && track_embedded(&perfect(4), 64, 0, GO_ON).is_err());
}

#[test]
fn whoever_wants_to_stop_is_heard_at_a_frame() {
    let clips = crate::data::video::open("clips", 32, Some(3)).unwrap();
    let frames: usize = clips.iter().map(|clip| clip.len()).sum();
    let tracked = |cancel: CancelCheck| track(&perfect(4), &clips, &TrackConfig::default(), cancel);
    let (all, asked) = ended_after(usize::MAX, tracked);
    assert!(all.is_ok() && asked >= frames, "{asked} questions in {frames} frames");
    let (ended, _) = ended_after(30, tracked);
    assert!(matches!(ended, Err(Error::Interrupted)));
    let mut seen = 0;
    let ended = track_watched(&perfect(4), &clips, &TrackConfig::default(), GO_ON, &mut |_| {
        seen += 1;
        if seen == 5 { Err(Error::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(ended, Err(Error::Interrupted)) && seen == 5);
}

#[test]
fn what_cannot_be_tracked_says_why() {
    let one = |_: usize, _: usize, x: usize| u8::from(x < 4);
    let message =
        |clip: Box<dyn Clip>, config: &TrackConfig| track(&perfect(4), &[clip], config, GO_ON).unwrap_err().to_string();
    let standard = TrackConfig::default();
    let moved = |t: usize, _: usize, _: usize| u8::from(t > 0);
    assert!(message(drawn(2, [8, 8], one), &standard).contains("drawn: a video of 2 frames"));
    assert!(message(drawn(1, [8, 8], one), &standard).contains("drawn: a video of 1 frame;"));
    assert!(message(drawn(5, [8, 8], moved), &standard).contains("no object in the mask of the first frame"));
    assert!(message(drawn(5, [8, 3], one), &standard).contains("less than a patch of 4"));
    let ok = || drawn(5, [8, 8], one);
    for (config, problem) in [
        (TrackConfig { top_k: 0, ..standard.clone() }, "`top_k`"),
        (TrackConfig { temperature: 0.0, ..standard.clone() }, "`temperature`"),
        (TrackConfig { temperature: f64::NAN, ..standard.clone() }, "`temperature`"),
        (TrackConfig { frame_size: Some(3), ..standard.clone() }, "`frame_size`"),
        (TrackConfig { frame_size: Some(usize::MAX), ..standard.clone() }, "`frame_size`"),
    ] {
        assert!(message(ok(), &config).contains(problem), "{config:?}");
    }
    assert!(track(&perfect(4), &[], &standard, GO_ON).unwrap_err().to_string().contains("no clips"));
    struct Broken;
    impl PatchFeatures for Broken {
        fn patch_size(&self) -> usize {
            4
        }
        fn features(&self, _: &Frame) -> Result<Tensor> {
            Ok(Tensor::full([4, 2], f64::NAN, DType::F32))
        }
    }
    let broken = track(&Broken, &[ok()], &standard, GO_ON).unwrap_err().to_string();
    assert!(broken.contains("drawn: a feature of frame 0 is not a finite number"), "{broken}");
}

#[test]
fn frames_are_looked_at_in_whole_patches() {
    for (size, patch, frame_size, expected) in [
        ([480, 854], 16, Some(480), [480, 832]), // official
        ([854, 480], 16, Some(480), [832, 480]),
        ([480, 910], 16, Some(480), [480, 896]),
        ([720, 1280], 16, Some(480), [480, 832]),
        ([480, 850], 14, Some(480), [476, 840]),
        ([480, 854], 16, None, [480, 848]),
        ([480, 854], 4, Some(64), [64, 112]),
        ([64, 64], 4, Some(64), [64, 64]),
        ([30, 33], 4, None, [28, 32]),
    ] {
        assert_eq!(working_size(size, patch, frame_size).unwrap(), expected, "{size:?} {patch} {frame_size:?}");
    }
}
