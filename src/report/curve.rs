//! Curves over training steps, as one SVG: panels above each other that share the x axis.

use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::color::CATEGORIES;
use crate::{Error, Result};

/// A figure.
#[derive(Clone, Debug, Default)]
pub struct Curve {
    /// Written above all panels.
    pub title: String,
    /// What x counts, written below the last panel.
    pub x_label: String,
    /// From top to bottom.
    pub panels: Vec<Panel>,
}

/// One y axis with the series measured on it.
#[derive(Clone, Debug, Default)]
pub struct Panel {
    /// What y measures.
    pub y_label: String,
    /// Whether the y axis is logarithmic. Then points with y ≤ 0 are left out.
    pub log: bool,
    /// What y can be, from and to: the axis shows all of it. `None`: the axis follows the points.
    pub range: Option<(f64, f64)>,
    /// The series by name, in the order of the legend.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
}

const WIDTH: u32 = 900;
const LEGEND_WIDTH: u32 = 170;
const PANEL_HEIGHT: u32 = 220;
const TITLE_HEIGHT: u32 = 40;
const X_LABEL_HEIGHT: u32 = 50;
/// Numbers beyond this (on a log axis also those below its inverse) count as not finite.
const LARGEST: f64 = 1e100;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(225, 225, 225);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Curve {
    /// Saves the figure as SVG. An existing file is replaced only once the new one is complete.
    ///
    /// A point that is not finite is left out and breaks the line; a series of one point is a dot.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_svg(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let mut svg = String::new();
        self.draw(&mut svg)
            .map_err(|e| Error::file(path, format!("cannot be drawn: {e}"), "draw fewer or shorter series"))?;
        crate::files::write_whole(path, svg.as_bytes())
    }

    fn draw(&self, svg: &mut String) -> Drawn {
        let height = TITLE_HEIGHT + PANEL_HEIGHT * self.panels.len() as u32 + X_LABEL_HEIGHT;
        let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, mut rest) = root.split_vertically(TITLE_HEIGHT);
        head.titled(&self.title, text(24))?;
        let x = Axis::over(self.panels.iter().flat_map(Panel::points).map(|(x, _)| x), false);
        for (i, panel) in self.panels.iter().enumerate() {
            // Only the last panel has labels on x, and the room for them.
            let x_label = (i + 1 == self.panels.len()).then_some(self.x_label.as_str());
            let (area, below) = rest.split_vertically(PANEL_HEIGHT + x_label.map_or(0, |_| X_LABEL_HEIGHT));
            rest = below;
            let possible = panel.range.into_iter().flat_map(|(low, high)| [low, high]);
            let y = Axis::over(panel.points().map(|(_, y)| y).chain(possible), panel.log);
            panel.draw(&area, x.clone(), y, x_label)?;
        }
        root.present()?;
        Ok(())
    }
}

impl Panel {
    /// Whether a point can be drawn. The limits keep the arithmetic of the axes finite.
    fn shows(&self, (x, y): (f64, f64)) -> bool {
        x.abs() < LARGEST && y.abs() < LARGEST && (y > 1.0 / LARGEST || !self.log)
    }

    /// All points that can be drawn.
    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.series.iter().flat_map(|(_, points)| points.iter().copied()).filter(|&point| self.shows(point))
    }

    fn draw(&self, area: &Area, x: Axis, y: Axis, x_label: Option<&str>) -> Drawn {
        let (plot, legend) = area.split_horizontally(WIDTH - LEGEND_WIDTH);
        let mut chart = ChartBuilder::on(&plot)
            .margin_left(16)
            .margin_right(10)
            .margin_top(12)
            .x_label_area_size(x_label.map_or(0, |_| X_LABEL_HEIGHT))
            .y_label_area_size(70)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .x_desc(x_label.unwrap_or_default())
            .y_desc(&self.y_label)
            .label_style(text(16))
            .axis_desc_style(text(17))
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (i, ((name, points), &[r, g, b])) in self.series.iter().zip(CATEGORIES.iter().cycle()).enumerate() {
            let style = RGBColor(r, g, b).stroke_width(2);
            for run in points.split(|&point| !self.shows(point)) {
                match run {
                    &[point] => drop(chart.draw_series([Circle::new(point, 3, style.filled())])?),
                    _ => drop(chart.draw_series(LineSeries::new(run.iter().copied(), style))?),
                }
            }
            // Beside the plot, where the legend hides no data.
            let y = 22 + 20 * i as i32;
            legend.draw(&PathElement::new([(0, y), (18, y)], style))?;
            legend.draw(&Text::new(name.as_str(), (26, y - 7), text(16)))?;
        }
        Ok(())
    }
}

fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

/// A linear or logarithmic axis. Plotters' own logarithmic axis marks powers of ten alone, which leaves none to a loss
/// that falls from 0.9 to 0.3.
#[derive(Clone, Debug)]
struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    /// An axis that holds all `values` with a little room, never empty. On a log axis the room is a factor.
    fn over(values: impl Iterator<Item = f64>, log: bool) -> Self {
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = match (low <= high, log) {
            (false, _) => (0.1, 1.0),
            (true, true) => (low / 1.2, high * 1.2),
            (true, false) => {
                let room = if high > low { 0.04 * (high - low) } else { 0.5 * low.abs().max(1.0) };
                (low - room, high + room)
            }
        };
        Axis { low, high, log }
    }

    /// Where the axis is marked: 1, 2 and 5 times powers of ten over a few decades, powers of ten over more, and equal
    /// steps on a linear axis or within one decade.
    fn ticks(&self) -> Vec<f64> {
        let Axis { low, high, log } = *self;
        let decades = if log { (high / low).log10() } else { 0.0 };
        let marks: Vec<f64> = if decades > 1.0 {
            let factors: &[f64] = if decades < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let stride = (decades / 6.0).ceil() as usize;
            let powers = (low.log10().floor() as i32..=high.log10() as i32).step_by(stride);
            powers.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power))).collect()
        } else {
            // The smallest step of the form 1, 2 or 5 times a power of ten that makes at most seven intervals.
            let rough = (high - low) / 7.0;
            let power = 10f64.powf(rough.log10().floor());
            let step = [1.0, 2.0, 5.0].map(|factor| factor * power).into_iter().find(|&step| step >= rough);
            let step = step.unwrap_or(10.0 * power);
            (0..8).map(|i| ((low / step).ceil() + f64::from(i)) * step).collect()
        };
        marks.into_iter().filter(|mark| (low..=high).contains(mark)).collect()
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let at = |v: f64| if self.log { v.ln() } else { v };
        let share = (at(*value) - at(self.low)) / (at(self.high) - at(self.low));
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        number(*value)
    }
}

/// A tick label: at most four significant digits, as a power of ten where that is shorter.
fn number(v: f64) -> String {
    let digits = |text: String| {
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
    };
    match v.abs() {
        0.0 => "0".to_owned(),
        size if (1e-3..1e5).contains(&size) => {
            digits(format!("{v:.*}", (3 - size.log10().floor() as i32).max(0) as usize))
        }
        _ => {
            let text = format!("{v:.3e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", digits(mantissa.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(y_label: &str, log: bool, series: &[(&str, &[(f64, f64)])]) -> Panel {
        let series = series.iter().map(|(name, points)| ((*name).to_owned(), points.to_vec())).collect();
        Panel { y_label: y_label.to_owned(), log, range: None, series }
    }

    /// The text of an SVG with these panels.
    fn svg_of(panels: Vec<Panel>) -> String {
        let mut svg = String::new();
        Curve { title: "A & B".into(), x_label: "step".into(), panels }.draw(&mut svg).unwrap();
        svg
    }

    /// Whether every tag that opens also closes, in order.
    fn well_formed(svg: &str) -> bool {
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1).filter_map(|rest| rest.split_once('>').map(|(tag, _)| tag)) {
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
                open.push(tag.split_whitespace().next().unwrap_or(""));
            }
        }
        open.is_empty()
    }

    #[test]
    fn the_svg_holds_panels_series_and_labels() {
        let loss = panel("loss", true, &[("stop", &[(0.0, 1.0), (1.0, 0.1), (2.0, 0.01)])]);
        let rank = panel("RankMe", false, &[("context <x>", &[(0.0, 3.0), (2.0, 9.0)]), ("target", &[(1.0, 4.0)])]);
        let svg = svg_of(vec![loss, rank]);
        assert!(well_formed(&svg), "{svg}");
        for text in ["A &amp; B", "step", "loss", "stop", "RankMe", "context &lt;x&gt;", "target"] {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
        // A line of three points; lines of two in the first color, and in the second for the legend only; one dot.
        let lines = |color: &str, points: usize| {
            let of_color = svg.split("<polyline").filter(|tag| tag.contains(color));
            of_color
                .filter_map(|tag| tag.split("points=\"").nth(1))
                .filter(|p| p.split('"').next().unwrap_or("").split_whitespace().count() == points)
                .count()
        };
        assert_eq!(lines("#0072B2", 3), 1, "{svg}");
        assert!(lines("#0072B2", 2) >= 1 && lines("#D55E00", 2) >= 1, "{svg}");
        assert_eq!(svg.matches("<circle").count(), 1);
    }

    #[test]
    fn nothing_to_draw_and_nonsense_are_drawn_too() {
        let nan = f64::NAN;
        let odd: [&[(f64, f64)]; 7] = [
            &[],
            &[(1.0, 1.0)],
            &[(1.0, nan), (nan, 1.0), (f64::INFINITY, f64::NEG_INFINITY)],
            &[(0.0, -1.0), (1.0, 0.0)],
            &[(0.0, 1e-300), (1e300, 1e300)],
            &[(0.0, 1e-99), (9e99, 9e99)],
            &[(0.0, 1.0), (1.0, nan), (2.0, 2.0), (3.0, 3.0)],
        ];
        for points in odd {
            for log in [false, true] {
                let svg = svg_of(vec![panel("y", log, &[("s", points)]), panel("empty", log, &[])]);
                assert!(well_formed(&svg) && !svg.contains("NaN"), "{points:?} {svg}");
            }
        }
        assert!(well_formed(&svg_of(vec![])));
        let not_on_log = svg_of(vec![panel("y", true, &[("s", &[(0.0, -1.0), (1.0, 1.0), (2.0, 0.0)])])]);
        assert_eq!(not_on_log.matches("<circle").count(), 1, "one point is left");
    }

    /// An accuracy of 0.999 to 1 would otherwise look as if it fell.
    #[test]
    fn a_range_is_shown_whatever_the_points_are() {
        let points: &[(f64, f64)] = &[(0.0, 0.999), (1.0, 1.0)];
        let marks = |range| {
            let svg = svg_of(vec![Panel { range, ..panel("accuracy", false, &[("s", points)]) }]);
            // On y: the axis of x runs from 0 to 1 too, and is marked below the panel.
            ["0", "0.2", "0.8", "1"].map(|mark| svg.lines().filter(|line| line.trim() == mark).count())
        };
        let (fixed, free) = (marks(Some((0.0, 1.0))), marks(None));
        assert_eq!(fixed, free.map(|marks| marks.min(1) + 1), "{fixed:?} {free:?}");
    }

    #[test]
    fn ticks_are_round_numbers() {
        let ticks =
            |low, high, log| Axis { low, high, log }.ticks().into_iter().map(number).collect::<Vec<_>>().join(" ");
        assert_eq!(ticks(0.0, 1.0, false), "0 0.2 0.4 0.6 0.8 1");
        assert_eq!(ticks(-130.0, 520.0, false), "-100 0 100 200 300 400 500");
        assert_eq!(ticks(0.3, 1.1, true), "0.4 0.6 0.8 1", "equal steps within a decade");
        assert_eq!(ticks(0.15, 6.0, true), "0.2 0.5 1 2 5");
        assert_eq!(ticks(1e-5, 2.0, true), "1e-5 1e-4 0.001 0.01 0.1 1");
        assert!((4..=7).contains(&ticks(1e-99, 1e99, true).split(' ').count()));
    }

    #[test]
    fn ten_lies_halfway_from_one_to_a_hundred_on_a_log_axis_only() {
        let map = |log| Axis { low: 1.0, high: 100.0, log }.map(&10.0, (200, 0));
        assert_eq!((map(true), map(false)), (100, 182));
    }

    #[test]
    fn tick_labels_are_short() {
        let labels = [0.0, 0.5, -12.0, 1234.5, 20000.0, 1e5, 1.5e-4, 0.001, 0.1 + 0.2].map(number);
        assert_eq!(labels, ["0", "0.5", "-12", "1234", "20000", "1e5", "1.5e-4", "0.001", "0.3"]);
    }
}
