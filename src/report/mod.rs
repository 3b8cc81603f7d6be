//! What is better seen than read: pictures, curves and aligned tables. Nothing here computes a result.
//!
//! | what is drawn | file |
//! |---|---|
//! | pixels, tiles, PNG files | [`canvas`], with the colors of [`color`] |
//! | images under context and target masks | [`masks`] |
//! | what a model predicts: reconstructions, heat maps (Fig. 6) | [`predictions`] |
//! | how similar the embeddings of two positions are (Fig. 5) | [`similarity`] |
//! | objects followed through a video | [`tracks`] |
//! | losses, ranks, learning rates over training, as SVG | `curve` (feature `cli`) |
//! | the pictures of experiments | `figure` (feature `cli`) |
//! | all of it on one HTML page; tables in a Markdown file | [`page`], [`markdown`] |
//! | results in the terminal | [`table`], and points on logarithmic axes: [`sweep`] |

pub mod canvas;
pub mod color;
#[cfg(feature = "cli")]
pub mod curve;
#[cfg(feature = "cli")]
pub mod figure;
pub mod markdown;
pub mod masks;
pub mod page;
pub mod predictions;
pub mod similarity;
pub mod sweep;
pub mod table;
pub mod tracks;
