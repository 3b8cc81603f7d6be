//! Random streams: one seed, any number of independent generators, the same on any number of threads.
//!
//! A function that samples takes `&mut impl Rng`; *which* generator it gets is decided here. Work that may run on
//! any thread in any order (the crop of one image, its noise) gets a generator of its own, keyed by
//! what it is for and which item it is about, never by when it ran.

use rand::SeedableRng;

/// The generator behind every stream: ChaCha with 12 rounds (Bernstein, 2008), by its own name. `rand`'s `StdRng` is the
/// same today, and may be another with any release.
pub type Generator = chacha20::ChaCha12Rng;

/// What a checkpoint calls the draws of this version: the generator, the keys of its streams, and what is made of them
/// (`the_draws_are_those_of_their_name` has some of each). A change of any of these is a new name.
pub const DRAWS: &str = "chacha12-1";

/// What a stream is for. Two purposes never share draws, whatever their indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial weights.
    Init = 1,
    /// The order in which an epoch visits the images.
    Shuffle = 2,
    /// Crop and flip of one image in one epoch.
    Augment = 3,
    /// The masks of one batch; of one image in it.
    Mask = 4,
    /// The noise n of one image of one step (Eq. 5).
    Noise = 5,
    /// Drawing one procedural image.
    Shapes = 6,
    /// Choosing what to evaluate on.
    Eval = 7,
    /// Choosing some images of a data set.
    Subset = 8,
    /// The noise of one image of one step on its context tokens (Table 7).
    ContextNoise = 9,
}

/// The generator for `purpose`, item `index` (for example `[epoch, image]`), of the run with this `seed`.
///
/// The key is hashed by SplitMix64 steps, so that neighboring indices give unrelated streams.
pub fn stream(seed: u64, purpose: Purpose, index: [u64; 2]) -> Generator {
    let mut key = [0u8; 32];
    let mut state = seed;
    for (slot, word) in key.chunks_exact_mut(8).zip([purpose as u64, index[0], index[1], 0x5706_5706]) {
        state = splitmix64(state ^ splitmix64(word.wrapping_add(0x9E37_79B9_7F4A_7C15)));
        slot.copy_from_slice(&state.to_le_bytes());
    }
    Generator::from_seed(key)
}

/// One output of the SplitMix64 generator (Steele, Lea and Flood, OOPSLA 2014) at state `x`.
fn splitmix64(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;
    use rand::seq::{SliceRandom, index};
    use rand_distr::{Distribution, StandardNormal};

    /// Golden draws: whoever updates a dependency and sees this fail has changed every run, and gives [`DRAWS`] a new name.
    #[test]
    fn the_draws_are_those_of_their_name() {
        let rng = || stream(1, Purpose::Noise, [2, 3]);
        let normal: [f64; 3] = std::array::from_fn({
            let mut rng = rng();
            move |_| StandardNormal.sample(&mut rng)
        });
        let mut shuffled = [0, 1, 2, 3, 4, 5, 6, 7];
        shuffled.shuffle(&mut rng());
        assert_eq!(DRAWS, "chacha12-1");
        assert_eq!(rng().random::<[u64; 2]>(), [15820694058096581133, 332302245263558981]);
        assert_eq!(normal, [1.9962987123594567, -1.9088171745015479, 0.5024927104605225]);
        assert_eq!((rng().random::<f64>(), rng().random::<f32>()), (0.8576415434008412, 0.5975777));
        assert_eq!((rng().random_range(0.5..2.0), rng().random_range(0.5..=2.0f32)), (1.7864623151012617, 1.3963666));
        assert_eq!((rng().random_range(0..=12usize), rng().random_bool(0.5)), (7, false));
        assert_eq!(shuffled, [0, 7, 5, 1, 4, 6, 3, 2]);
        assert_eq!(index::sample(&mut rng(), 20, 5).into_vec(), [9, 14, 11, 0, 5]);
    }

    #[test]
    fn streams_repeat_and_differ_by_every_part_of_their_key() {
        let first = |seed, purpose, index| stream(seed, purpose, index).random::<u64>();
        let base = first(1, Purpose::Noise, [2, 3]);
        assert_eq!(base, first(1, Purpose::Noise, [2, 3]));
        for other in [
            first(2, Purpose::Noise, [2, 3]),
            first(1, Purpose::Mask, [2, 3]),
            first(1, Purpose::Noise, [3, 3]),
            first(1, Purpose::Noise, [2, 4]),
            first(1, Purpose::Noise, [3, 2]),
        ] {
            assert_ne!(base, other);
        }
    }
}
