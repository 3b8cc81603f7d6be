//! Paper §2, "Masking": which tokens an image shows (B_x, the context) and which it must predict (B_y, the targets).
//!
//! | file | masks | used by |
//! |---|---|---|
//! | [`multi_block`] | a few rectangles to predict, and one large rectangle without them as context | I-JEPA, StoP |
//! | [`random`] | single tokens, or square units of them, drawn without regard to their place | MAE, SimMIM, data2vec |
//!
//! Both give every image of a batch the same number of tokens, so that a batch is a dense tensor. A token is named
//! by its raster index `row * columns + column`. Nothing here looks at the images.

pub mod multi_block;
pub mod random;

pub use multi_block::{BlockMasks, Blocks, MultiBlock, Sampler, Truncation};
pub use random::{RandomMasks, kept_tokens, kept_units, masks_from_noise, random_masks, random_unit_masks};
