//! Curves of latency percentiles as a picture: the axis of percentiles gives each further nine as much room as the one before.
//!
//! Self-contained: no script, no font, no style from elsewhere. Every text from outside is escaped.

use std::fmt::Write;

use super::Report;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 540.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 50.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 50.0;
/// A line of the legend.
const LINE: f64 = 20.0;
/// Told apart also by who sees few colours, and by their dashes.
const COLOURS: [&str; 8] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7f7f7f"];
const DASHES: [&str; 3] = ["none", "8 4", "2 3"];

/// Round numbers of a decade, and the next one's first.
const STEPS: [f64; 4] = [1.0, 2.0, 5.0, 10.0];

/// How latencies are laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Ten times as much takes the same room everywhere.
    #[default]
    Log,
    /// From 0.
    Linear,
}

/// Draws the latencies of reports together, each with its name.
pub fn svg(reports: &[(&str, &Report)], scale: Scale) -> String {
    let curves: Vec<Curve<'_>> = reports.iter().map(|(name, report)| Curve::new(name, report)).collect();
    let axes = Axes::new(&curves, scale);
    let mut out = String::new();
    // Writing into a string can't fail.
    let _ = axes.draw(&mut out, &curves);
    out
}

struct Curve<'a> {
    name: &'a str,
    /// How many nines, and microseconds.
    points: Vec<(f64, f64)>,
}

impl<'a> Curve<'a> {
    fn new(name: &'a str, report: &Report) -> Self {
        let of = &report.latency;
        // A percentile that is held up by less than one request says nothing.
        let most = (of.count.max(1) as f64).log10();
        let points = of.percentiles.iter().map(|point| (nines(point.percentile), point.us.max(1) as f64));
        let mut points: Vec<_> = points.filter(|(nines, _)| *nines <= most).collect();
        if of.count > 0 {
            points.push((most, of.max_us.max(1) as f64));
        }
        Self { name, points }
    }
}

/// 90 is one, 99 is two.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).max(f64::MIN_POSITIVE).log10()
}

struct Axes {
    scale: Scale,
    /// The most nines.
    nines: f64,
    from_us: f64,
    to_us: f64,
    height: f64,
}

impl Axes {
    fn new(curves: &[Curve<'_>], scale: Scale) -> Self {
        let all = || curves.iter().flat_map(|curve| &curve.points);
        let nines = all().map(|(nines, _)| *nines).fold(2.0, f64::max).ceil();
        let least = all().map(|(_, us)| *us).fold(f64::INFINITY, f64::min);
        let most = all().map(|(_, us)| *us).fold(10.0, f64::max);
        let (from_us, to_us) = match scale {
            Scale::Log => {
                let decade = 10_f64.powf(least.min(most).log10().floor());
                let from = STEPS.map(|times| times * decade).into_iter().rfind(|from| *from <= least).unwrap_or(decade);
                let decade = 10_f64.powf(most.log10().floor());
                (from, STEPS.map(|times| times * decade).into_iter().find(|to| *to >= most).unwrap_or(decade * 10.0))
            }
            Scale::Linear => {
                let step = step(most);
                (0.0, (most / step).ceil() * step)
            }
        };
        let to_us = if to_us > from_us { to_us } else { from_us * 10.0 };
        Self { scale, nines, from_us, to_us, height: HEIGHT + LINE * curves.len() as f64 }
    }

    fn x(&self, nines: f64) -> f64 {
        LEFT + nines / self.nines * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, us: f64) -> f64 {
        let share = match self.scale {
            Scale::Log => (us / self.from_us).log10() / (self.to_us / self.from_us).log10(),
            Scale::Linear => us / self.to_us,
        };
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn draw(&self, out: &mut String, curves: &[Curve<'_>]) -> std::fmt::Result {
        let Self { height, .. } = self;
        let names: Vec<_> = curves.iter().map(|curve| curve.name).collect();
        writeln!(
            out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="13" role="img">"#
        )?;
        writeln!(out, "<title>Latency percentiles: {}</title>", escaped(&names.join(", ")))?;
        writeln!(out, r##"<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>"##)?;
        self.draw_grid(out)?;
        for (number, curve) in curves.iter().enumerate() {
            let line = format!(
                r#"fill="none" stroke="{}" stroke-width="2" stroke-dasharray="{}""#,
                COLOURS[number % COLOURS.len()],
                DASHES[number / COLOURS.len() % DASHES.len()]
            );
            let mut points = String::new();
            for (nines, us) in &curve.points {
                write!(points, "{:.1},{:.1} ", self.x(*nines), self.y(*us))?;
            }
            writeln!(out, r#"<polyline {line} points="{}"/>"#, points.trim_end())?;
            let y = HEIGHT + LINE * number as f64;
            writeln!(out, r#"<path {line} d="M{LEFT} {y:.0}h40"/>"#)?;
            writeln!(out, r#"<text x="{}" y="{:.0}">{}</text>"#, LEFT + 50.0, y + 4.0, escaped(curve.name))?;
        }
        writeln!(out, "</svg>")
    }

    fn draw_grid(&self, out: &mut String) -> std::fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (nines, label) in std::iter::once((0.0, "0 %".to_owned())).chain([(0.301, "50 %".to_owned())]).chain((1..).map(named)) {
            if nines > self.nines {
                break;
            }
            let x = self.x(nines);
            writeln!(out, r##"<path stroke="#dddddd" d="M{x:.1} {TOP}V{bottom}"/>"##)?;
            writeln!(out, r#"<text x="{x:.1}" y="{}" text-anchor="middle">{label}</text>"#, bottom + 18.0)?;
        }
        for us in self.marks() {
            let y = self.y(us);
            writeln!(out, r##"<path stroke="#dddddd" d="M{LEFT} {y:.1}H{right}"/>"##)?;
            writeln!(out, r#"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#, LEFT - 6.0, y + 4.0, time(us))?;
        }
        writeln!(out, r##"<path stroke="#000000" fill="none" d="M{LEFT} {TOP}V{bottom}H{right}"/>"##)?;
        writeln!(out, r#"<text x="{LEFT}" y="{}">latency</text>"#, TOP - 10.0)?;
        writeln!(out, r#"<text x="{right}" y="{}" text-anchor="end">percentile of requests</text>"#, bottom + 36.0)
    }

    /// Where lines across stand.
    fn marks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Log => {
                let lowest = 10_f64.powf(self.from_us.log10().floor());
                let decades = std::iter::successors(Some(lowest), |us| Some(us * 10.0)).take_while(|us| *us <= self.to_us * 1.01);
                let marks = decades.flat_map(|us| [us, us * 2.0, us * 5.0]);
                marks.filter(|us| (self.from_us * 0.99..=self.to_us * 1.01).contains(us)).collect()
            }
            Scale::Linear => {
                let step = step(self.to_us);
                (0..).map(|number| f64::from(number) * step).take_while(|us| *us <= self.to_us * 1.01).collect()
            }
        }
    }
}

/// 1 is 90 %, 2 is 99 %, 3 is 99.9 %.
fn named(nines: i32) -> (f64, String) {
    let after = usize::try_from(nines - 2).unwrap_or(0);
    (f64::from(nines), format!("{:.after$} %", 100.0 - 10_f64.powi(2 - nines)))
}

/// A round step, so that some ten of them make the most.
fn step(most: f64) -> f64 {
    let decade = 10_f64.powf((most / 10.0).max(1.0).log10().floor());
    STEPS.map(|times| times * decade).into_iter().find(|step| most / step <= 10.0).unwrap_or(decade * 10.0)
}

fn time(us: f64) -> String {
    let rounded = |value: f64| ((value * 1000.0).round() / 1000.0).to_string();
    match us {
        us if us >= 1_000_000.0 => format!("{} s", rounded(us / 1_000_000.0)),
        us if us >= 1000.0 => format!("{} ms", rounded(us / 1000.0)),
        us => format!("{} µs", rounded(us)),
    }
}

/// Text that can stand in XML; what can't stand there at all is left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars().filter(|letter| !letter.is_control()) {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => {}
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nines_are_named() {
        assert_eq!([1, 2, 3, 4].map(|nines| named(nines).1), ["90 %", "99 %", "99.9 %", "99.99 %"]);
        assert!((nines(99.9) - 3.0).abs() < 1e-9);
        assert!(nines(100.0).is_finite());
    }

    #[test]
    fn marks_are_round_and_few() {
        for most in [10.0, 37.0, 999.0, 1001.0, 5_000_000.0] {
            let axes = Axes { scale: Scale::Linear, nines: 3.0, from_us: 0.0, to_us: most, height: HEIGHT };
            assert!((2..=11).contains(&axes.marks().len()), "{most}: {:?}", axes.marks());
        }
        assert_eq!([50.0, 1500.0, 2_000_000.0].map(time), ["50 µs", "1.5 ms", "2 s"]);
    }

    #[test]
    fn names_can_t_break_the_picture() {
        assert_eq!(escaped("a<b>&\"\u{0}c"), "a&lt;b&gt;&amp;&quot;c");
    }
}
