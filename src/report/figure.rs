//! The pictures of experiments: [`Figure`]s as files.

use std::path::Path;

use super::canvas::Canvas;
use super::color::{WHITE, sequential};
use super::curve::{Curve, Panel};
use super::predictions::prediction_sheet;
use crate::Result;
use crate::experiments::figure::{Drawing, Figure, Point};

/// A position of a map, in pixels.
const CELL: usize = 12;
/// Between maps, and between what belongs to two models.
const GAP: usize = 6;

/// Draws a figure into a file: curves as SVG, all else as PNG.
///
/// # Errors
/// When the file cannot be written.
pub fn save_figure(figure: &Figure, path: &Path) -> Result<()> {
    match &figure.drawing {
        Drawing::Lines { title, x_label, panels } => {
            let panel = |panel: &crate::experiments::figure::Panel| Panel {
                y_label: panel.y_label.clone(),
                log: panel.log,
                range: None,
                series: panel.lines.iter().map(|(name, points)| (name.clone(), with_bars(points))).collect(),
            };
            let panels = panels.iter().map(panel).collect();
            Curve { title: title.clone(), x_label: x_label.clone(), panels }.save_svg(path)
        }
        Drawing::Maps { side, rows } => {
            let all = || rows.iter().flatten().flatten().copied();
            let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
            let map = |map: &Vec<f64>| {
                let shares: Vec<f32> = map.iter().map(|v| ((v - least) / (most - least)) as f32).collect();
                Canvas::heat_map(&shares, (*side, *side), CELL, sequential)
            };
            let rows: Vec<Vec<Canvas>> = rows.iter().map(|row| row.iter().map(map).collect()).collect();
            Canvas::tiled(&rows, GAP, WHITE).save_png(path)
        }
        Drawing::Predictions { size, patch, of } => {
            let scale = (96 / size).max(1);
            let sheets = of.iter().map(|predictions| vec![prediction_sheet(predictions, *size, *patch, scale)]);
            Canvas::tiled(&sheets.collect::<Vec<_>>(), GAP, WHITE).save_png(path)
        }
    }
}

/// The line through the points, and behind it, apart from one another, their bars: a curve is broken where a number is none.
fn with_bars(points: &[Point]) -> Vec<(f64, f64)> {
    let line = points.iter().map(|point| (point.x, point.y));
    let bars = points.iter().filter_map(|point| {
        let half = point.half_width.filter(|half| half.is_finite())?;
        Some([(point.x, f64::NAN), (point.x, point.y - half), (point.x, point.y + half)])
    });
    line.chain(bars.flatten()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_a_line_of_its_own() {
        let point = |x, half_width| Point { x, y: 5.0, half_width };
        let found = with_bars(&[point(1.0, None), point(2.0, Some(0.5))]);
        assert_eq!(found.len(), 5);
        assert_eq!((found[0], found[1], found[3], found[4]), ((1.0, 5.0), (2.0, 5.0), (2.0, 4.5), (2.0, 5.5)));
        assert!(found[2].1.is_nan());
    }

    #[test]
    fn every_drawing_becomes_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let lines = Drawing::Lines {
            title: "title".into(),
            x_label: "x".into(),
            panels: vec![crate::experiments::figure::Panel {
                y_label: "y".into(),
                log: false,
                lines: vec![("one".into(), vec![Point { x: 0.0, y: 1.0, half_width: Some(0.5) }])],
            }],
        };
        let maps = Drawing::Maps { side: 2, rows: vec![vec![vec![0.0, 0.5, 1.0, 0.25]; 3]; 2] };
        for (file, drawing) in [("a.svg", lines), ("b.png", maps)] {
            let figure = Figure { file: file.into(), caption: String::new(), drawing };
            save_figure(&figure, &folder.path().join(file)).unwrap();
        }
        let svg = std::fs::read_to_string(folder.path().join("a.svg")).unwrap();
        assert!(svg.contains("title") && svg.contains("one"));
        let png = image::open(folder.path().join("b.png")).unwrap().to_rgb8();
        assert_eq!(png.dimensions(), (3 * 24 + 4 * 6, 2 * 24 + 3 * 6));
        assert_eq!((png.get_pixel(6, 6).0, png.get_pixel(6, 18 + 6).0), (sequential(0.0), sequential(1.0)));
    }
}
