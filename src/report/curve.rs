//! Curves over training steps, as one SVG: panels above each other that share the x axis.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use super::colour::CATEGORIES;
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
    /// The series by name, in the order of the legend.
    pub series: Vec<(String, Vec<(f64, f64)>)>,
}

const WIDTH: u32 = 900;
const PANEL_HEIGHT: u32 = 260;
const TITLE_HEIGHT: u32 = 44;
/// Numbers beyond this (on a log axis also those below its inverse) count as not finite.
const LARGEST: f64 = 1e100;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(60, 60, 60);
const GRID: RGBColor = RGBColor(225, 225, 225);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error + Send + Sync>>;

impl Curve {
    /// Saves the figure as SVG. An existing file is replaced only once the new one is complete.
    ///
    /// A point that is not finite is left out and breaks the line; a series of one point is a dot.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_svg(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let svg = self.to_svg().map_err(|problem| Error::file(path, problem, "draw fewer or shorter series"))?;
        crate::files::write_whole(path, svg.as_bytes())
    }

    /// The text of the SVG.
    fn to_svg(&self) -> std::result::Result<String, String> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|e| format!("cannot be drawn: {e}"))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Drawn {
        let height = TITLE_HEIGHT + PANEL_HEIGHT * self.panels.len().max(1) as u32;
        let root = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        let sheet = root.titled(&self.title, (FONT, 22).into_font().color(&INK))?;
        let x = range(self.panels.iter().flat_map(Panel::points).map(|(x, _)| x), false);
        let areas = sheet.split_evenly((self.panels.len(), 1));
        for (i, (panel, area)) in self.panels.iter().zip(&areas).enumerate() {
            let x_label = if i + 1 == self.panels.len() { self.x_label.as_str() } else { "" };
            let y = range(panel.points().map(|(_, y)| y), panel.log);
            if panel.log {
                panel.draw(area, x.clone(), y.log_scale(), x_label)?;
            } else {
                panel.draw(area, x.clone(), y, x_label)?;
            }
        }
        root.present()?;
        Ok(())
    }
}

impl Panel {
    /// Whether a point can be drawn. The limits keep plotters' search for ticks finite.
    fn shows(&self, (x, y): (f64, f64)) -> bool {
        x.abs() < LARGEST && y.abs() < LARGEST && (y > 1.0 / LARGEST || !self.log)
    }

    /// All points that can be drawn.
    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.series.iter().flat_map(|(_, points)| points.iter().copied()).filter(|&point| self.shows(point))
    }

    fn draw<Y>(&self, area: &Area, x: std::ops::Range<f64>, y: Y, x_label: &str) -> Drawn
    where
        Y: AsRangedCoord<Value = f64>,
        Y::CoordDescType: ValueFormatter<f64>,
    {
        let mut chart = ChartBuilder::on(area)
            .margin_right(24)
            .margin_top(8)
            .x_label_area_size(if x_label.is_empty() { 24 } else { 46 })
            .y_label_area_size(76)
            .build_cartesian_2d(x, y)?;
        let text = (FONT, 14).into_font().color(&INK);
        chart
            .configure_mesh()
            .x_desc(x_label)
            .y_desc(&self.y_label)
            .label_style(text.clone())
            .axis_desc_style((FONT, 15).into_font().color(&INK))
            .x_labels(9)
            .y_labels(6)
            .x_label_formatter(&|v| number(*v))
            .y_label_formatter(&|v| number(*v))
            .axis_style(INK)
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .draw()?;
        for ((name, points), &[r, g, b]) in self.series.iter().zip(CATEGORIES.iter().cycle()) {
            let style = RGBColor(r, g, b).stroke_width(2);
            let runs: Vec<&[(f64, f64)]> = points.split(|&p| !self.shows(p)).filter(|run| !run.is_empty()).collect();
            // The name is put on the first run alone; a series of which nothing shows is still named.
            let first = runs.first().copied().unwrap_or_default();
            let line = LineSeries::new(first.iter().copied(), style);
            chart.draw_series(line)?.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
            for run in runs.iter().skip(1) {
                chart.draw_series(LineSeries::new(run.iter().copied(), style))?;
            }
            let alone = runs.iter().filter(|run| run.len() == 1).map(|run| Circle::new(run[0], 3, style.filled()));
            chart.draw_series(alone)?;
        }
        if !self.series.is_empty() {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperRight)
                .background_style(WHITE.mix(0.85))
                .border_style(GRID)
                .label_font(text)
                .draw()?;
        }
        Ok(())
    }
}

/// A range that holds all `values` with a little room, never empty. On a log axis the room is a factor.
fn range(values: impl Iterator<Item = f64>, log: bool) -> std::ops::Range<f64> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    match (low <= high, log) {
        (false, false) => 0.0..1.0,
        (false, true) => 0.1..1.0,
        (true, true) => low / 1.25..high * 1.25,
        (true, false) => {
            let room = if high > low { 0.04 * (high - low) } else { 0.5 * low.abs().max(1.0) };
            low - room..high + room
        }
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
        Panel { y_label: y_label.to_owned(), log, series }
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
        let curve = Curve { title: "A & B".into(), x_label: "step".into(), panels: vec![loss, rank] };
        let svg = curve.to_svg().unwrap();
        assert!(well_formed(&svg), "{svg}");
        for text in ["A &amp; B", "step", "loss", "stop", "RankMe", "context &lt;x&gt;", "target"] {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
        // Two lines of three and two points in the first and second colour (the legend draws more), and one dot.
        let lines = |colour: &str, points: usize| {
            let of_colour = svg.split("<polyline").filter(|tag| tag.contains(colour));
            of_colour
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
                let panels = vec![panel("y", log, &[("s", points)]), panel("empty", log, &[])];
                let svg = Curve { title: String::new(), x_label: String::new(), panels }.to_svg().unwrap();
                assert!(well_formed(&svg) && !svg.contains("NaN"), "{points:?} {svg}");
            }
        }
        assert!(well_formed(&Curve::default().to_svg().unwrap()));
    }

    #[test]
    fn tick_labels_are_short() {
        let labels = [0.0, 0.5, -12.0, 1234.5, 20000.0, 1e5, 1.5e-4, 0.001, 0.1 + 0.2].map(number);
        assert_eq!(labels, ["0", "0.5", "-12", "1234", "20000", "1e5", "1.5e-4", "0.001", "0.3"]);
    }

    #[test]
    fn save_writes_the_file() {
        let path = std::env::temp_dir().join(format!("stop-mim-curve-{}.svg", std::process::id()));
        Curve::default().save_svg(&path).unwrap();
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("<svg"));
        std::fs::remove_file(&path).unwrap();
    }
}
