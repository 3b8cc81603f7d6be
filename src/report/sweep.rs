//! Points on logarithmic axes, for the terminal: a decade a line.

/// One mark for each point (x, y), both logarithmic: a line of text for each decade of y, four columns for each of x.
/// Points that are not finite and positive are left out.
pub fn log_log(y_label: &str, x_label: &str, points: &[(f64, f64)]) -> String {
    const COLUMNS: f64 = 4.0;
    let logs = points.iter().map(|(x, y)| (x.log10(), y.log10())).filter(|(x, y)| x.is_finite() && y.is_finite());
    let logs: Vec<(f64, f64)> = logs.collect();
    let low = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).fold(f64::INFINITY, f64::min);
    let high = |of: fn(&(f64, f64)) -> f64| logs.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
    if logs.is_empty() {
        return format!("{y_label}\n(nothing to draw)\n");
    }
    let (left, right) = (low(|p| p.0).floor(), high(|p| p.0).ceil());
    let (bottom, top) = (low(|p| p.1).floor() as i32, high(|p| p.1).floor() as i32);
    let width = ((right - left) * COLUMNS) as usize + 1;
    let line = |decade: i32| {
        let mut cells = vec![' '; width];
        let here = logs.iter().filter(|(_, y)| y.floor() as i32 == decade);
        here.for_each(|(x, _)| cells[((x - left) * COLUMNS).round() as usize] = '●');
        let label = format!("1e{decade}");
        format!("{label:>6} │{}", cells.iter().collect::<String>()).trim_end().to_owned() + "\n"
    };
    let axis: String = (0..width).map(|c| if c % (4 * COLUMNS as usize) == 0 { '┴' } else { '─' }).collect();
    let every_fourth = (left as i32..=right as i32).step_by(4).map(|power| format!("{:<16}", format!("1e{power}")));
    let marks: String = every_fourth.collect();
    let lines: String = (bottom..=top).rev().map(line).collect();
    format!("{y_label}\n{lines}       └{axis}\n        {}  {x_label}\n", marks.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stands_at_its_decade() {
        let points = [(1e-2, 5e-4), (1e-1, 2e-2), (1.0, 3.0), (0.5, f64::NAN), (0.0, 1.0)];
        let expected = "\
error
   1e0 │        ●
  1e-1 │
  1e-2 │    ●
  1e-3 │
  1e-4 │●
       └┴────────
        1e-2  step
";
        assert_eq!(log_log("error", "step", &points), expected);
        assert!(log_log("error", "step", &[(1.0, 0.0)]).contains("nothing to draw"));
    }
}
