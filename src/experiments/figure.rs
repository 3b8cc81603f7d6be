//! What is to be drawn: `report` draws it. Nothing here knows of files or colors.

use crate::train::predictions::Prediction;

/// A picture of an experiment, before it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The name of its file: curves are SVG, all else is PNG.
    pub file: String,
    /// What is to be seen on it.
    pub caption: String,
    /// What is drawn.
    pub drawing: Drawing,
}

/// What is drawn.
#[derive(Clone, Debug, PartialEq)]
pub enum Drawing {
    /// Lines over one x, in panels above each other.
    Lines {
        /// What stands above all panels.
        title: String,
        /// What x is.
        x_label: String,
        /// From top to bottom.
        panels: Vec<Panel>,
    },
    /// Rows of maps over the positions of a square grid, all in one scale of colors, from the least value to the greatest.
    Maps {
        /// Positions along a side of the grid.
        side: usize,
        /// Rows of maps of `side`² values.
        rows: Vec<Vec<Vec<f64>>>,
    },
    /// What models predict of the same images: a block of rows for each model, in the same order of images.
    Predictions {
        /// Side of an image, in pixels.
        size: usize,
        /// Side of a patch, in pixels.
        patch: usize,
        /// For each model, for each image.
        of: Vec<Vec<Prediction>>,
    },
}

/// One y axis with what is measured on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What y is.
    pub y_label: String,
    /// Whether the y axis is logarithmic.
    pub log: bool,
    /// The lines by their names.
    pub lines: Vec<(String, Vec<Point>)>,
}

/// A point of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// What was measured there: a mean over seeds.
    pub y: f64,
    /// Half of its 95 % interval, drawn as a bar.
    pub half_width: Option<f64>,
}
