//! Drawings over the time of a run, as SVG text. All share one horizontal axis.

use std::fmt::Write as _;

/// Width of a drawing, of what stands left of its axis, and height of one of the ordinary form.
const WIDTH: f64 = 1120.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 12.0;
const HEIGHT: f64 = 150.0;
/// Room for the numbers below.
const BELOW: f64 = 20.0;
/// Height of one row of bars.
const ROW: f64 = 30.0;
/// Least distance of two lines of a grid, in pixels.
const GRID_PX: f64 = 70.0;

/// A line through points; a gap where there is no value.
pub(super) struct Line<'a> {
    pub(super) name: &'a str,
    pub(super) color: &'a str,
    /// Time in seconds, and value.
    pub(super) points: Vec<(f64, Option<f64>)>,
}

/// A bar in a row.
pub(super) struct Bar {
    pub(super) row: usize,
    pub(super) from_s: f64,
    pub(super) to_s: f64,
    pub(super) color: &'static str,
    /// Upper edge and height, as shares of the row.
    pub(super) top: f64,
    pub(super) share: f64,
    /// Shown when pointed at.
    pub(super) title: String,
}

/// The common axis.
pub(super) struct Axis {
    pub(super) total_s: f64,
}

/// Text as it may stand in a page.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Axis {
    fn x(&self, at_s: f64) -> f64 {
        LEFT + (at_s / self.total_s).clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn open(&self, height: f64, label: &str) -> String {
        let (whole, label) = (height + BELOW, escaped(label));
        let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {whole}\" role=\"img\" aria-label=\"{label}\">");
        let step = self.step_s();
        let mut at_s = 0.0;
        while at_s <= self.total_s {
            let (x, y) = (self.x(at_s), height + 14.0);
            line(&mut svg, "grid", (x, 0.0), (x, height));
            put(&mut svg, format_args!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{at_s} s</text>"));
            at_s += step;
        }
        svg
    }

    /// Between two lines of the grid: a round number of seconds.
    fn step_s(&self) -> f64 {
        let wanted = self.total_s * GRID_PX / (WIDTH - LEFT - RIGHT);
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
        steps.into_iter().find(|step| *step >= wanted).unwrap_or(1800.0)
    }

    /// Bands behind a drawing, from top to bottom.
    fn bands(&self, svg: &mut String, bands: &[(f64, f64)], height: f64) {
        for (from, to) in bands {
            let (x, width) = (self.x(*from), (self.x(*to) - self.x(*from)).max(1.0));
            put(
                svg,
                format_args!("<rect class=\"band\" x=\"{x:.1}\" y=\"0\" width=\"{width:.1}\" height=\"{height}\"/>"),
            );
        }
    }

    /// Rows of bars, each with its name.
    pub(super) fn rows(&self, label: &str, names: &[String], bars: &[Bar]) -> String {
        let height = ROW * names.len() as f64;
        let mut svg = self.open(height, label);
        for (row, name) in names.iter().enumerate() {
            let (y, right) = (row as f64 * ROW, LEFT - 8.0);
            line(&mut svg, "grid", (LEFT, y + ROW), (WIDTH - RIGHT, y + ROW));
            let (y, name) = (y + ROW / 2.0 + 4.0, escaped(name));
            put(
                &mut svg,
                format_args!("<text x=\"{right}\" y=\"{y}\" text-anchor=\"end\" class=\"name\">{name}</text>"),
            );
        }
        for bar in bars {
            let y = bar.row as f64 * ROW + 3.0 + bar.top * (ROW - 6.0);
            let height = bar.share * (ROW - 6.0);
            let (x, width) = (self.x(bar.from_s), (self.x(bar.to_s) - self.x(bar.from_s)).max(2.0));
            let (color, title) = (bar.color, escaped(&bar.title));
            put(
                &mut svg,
                format_args!(
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{color}\" \
                     rx=\"1.5\"><title>{title}</title></rect>"
                ),
            );
        }
        svg + "</svg>"
    }

    /// Lines over the time, on a scale from 0 or, if `is_log`, from 1 by powers of ten.
    pub(super) fn lines(
        &self,
        label: &str,
        unit: &str,
        lines: &[Line<'_>],
        is_log: bool,
        bands: &[(f64, f64)],
    ) -> String {
        let values = lines.iter().flat_map(|line| line.points.iter().filter_map(|(_, value)| *value));
        let largest = values.fold(1.0, f64::max);
        let top = if is_log { largest.log10().ceil().max(1.0) } else { round_up(largest) };
        let y = |value: f64| {
            let share = if is_log { value.max(1.0).log10() / top } else { value / top };
            HEIGHT - share * (HEIGHT - 8.0)
        };
        let mut svg = self.open(HEIGHT, label);
        self.bands(&mut svg, bands, HEIGHT);
        let marks: Vec<f64> = if is_log {
            (0..=top as i32).map(|power| 10f64.powi(power)).collect()
        } else {
            (0..=4).map(|part| top * f64::from(part) / 4.0).collect()
        };
        for mark in marks {
            let (at, right) = (y(mark), LEFT - 8.0);
            line(&mut svg, "grid", (LEFT, at), (WIDTH - RIGHT, at));
            let below = at + 4.0;
            put(
                &mut svg,
                format_args!("<text x=\"{right}\" y=\"{below:.1}\" text-anchor=\"end\">{mark} {unit}</text>"),
            );
        }
        for Line { name, color, points } in lines {
            let (mut path, mut is_down) = (String::new(), false);
            for (at_s, value) in points {
                if let Some(value) = value {
                    let letter = if is_down { 'L' } else { 'M' };
                    put(&mut path, format_args!("{letter}{:.1} {:.1}", self.x(*at_s), y(*value)));
                }
                is_down = value.is_some();
            }
            let name = escaped(name);
            put(&mut svg, format_args!("<path d=\"{path}\" stroke=\"{color}\"><title>{name}</title></path>"));
        }
        svg + "</svg>"
    }
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("text takes everything");
}

fn line(svg: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    put(svg, format_args!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"));
}

/// The next of 1, 2, 4, 8 times a power of ten: what divides by four.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 8.0, 10.0].into_iter().map(|times| times * power).find(|round| *round >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    // Time goes from left to right over the whole width; a missing value breaks the line.
    #[test]
    fn lines_and_rows() {
        let axis = Axis { total_s: 100.0 };
        let points = vec![(0.0, Some(1.0)), (50.0, None), (60.0, Some(4.0)), (100.0, Some(2.0))];
        let svg = axis.lines("a", "ms", &[Line { name: "x<y", color: "red", points }], false, &[(10.0, 20.0)]);
        assert!(svg.contains("M96.0") && svg.contains("L1108.0"), "{svg}");
        assert_eq!(svg.matches('M').count(), 2, "{svg}");
        assert!(svg.contains("x&lt;y") && svg.contains("class=\"band\"") && svg.ends_with("</svg>"));
        let bar = Bar { row: 1, from_s: 0.0, to_s: 100.0, color: "red", top: 0.0, share: 1.0, title: "a & b".into() };
        let svg = axis.rows("r", &["n1".into(), "n2".into()], &[bar]);
        assert!(svg.contains("width=\"1012.0\"") && svg.contains("a &amp; b"), "{svg}");
    }

    #[test]
    fn round_numbers() {
        assert_eq!([0.9, 1.0, 3.0, 41.0, 90.0, 800.0].map(round_up), [1.0, 1.0, 4.0, 80.0, 100.0, 800.0]);
        assert_eq!([5.0, 60.0, 3600.0].map(|total_s| Axis { total_s }.step_s()), [1.0, 5.0, 300.0]);
    }
}
