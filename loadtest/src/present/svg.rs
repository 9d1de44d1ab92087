//! Line charts as inline SVG: no script, no file beside it.

use std::fmt::Write;

/// How values are laid along an axis.
#[derive(Clone, Copy, PartialEq)]
pub enum Scale {
    /// Evenly, from 0.
    Linear,
    /// Each decade the same length.
    Log,
    /// Quantiles; each nine the same length: 90, 99, 99.9 %.
    Nines,
}

/// An axis.
pub struct Axis {
    /// What it shows, with the unit.
    pub label: &'static str,
    /// Layout.
    pub scale: Scale,
    /// How a value is written. The second is how many decimals tell it from its neighbours on a
    /// linear axis.
    pub text: fn(f64, usize) -> String,
}

/// A line.
pub struct Series {
    /// For the legend.
    pub name: String,
    /// CSS colour.
    pub color: &'static str,
    /// Drawn dashed: not measured but wanted.
    pub dashed: bool,
    /// In the order of x.
    pub points: Vec<(f64, f64)>,
}

/// A straight mark across the chart.
pub enum Mark {
    /// At a height.
    Horizontal(f64, String),
    /// At a place.
    Vertical(f64, String),
}

/// A chart.
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Across.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// Lines.
    pub series: Vec<Series>,
    /// Marks.
    pub marks: Vec<Mark>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 40.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 50.0;
/// Labels along x closer than this, pixels, would run into each other.
const LABEL_GAP: f64 = 46.0;

/// Text that may stand in XML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML has no way to write these.
            c if c.is_control() && c != '\n' && c != '\t' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

impl Scale {
    fn position(self, value: f64) -> f64 {
        match self {
            Scale::Linear => value,
            Scale::Log => value.max(1e-9).log10(),
            Scale::Nines => -(1.0 - value).max(1e-9).log10(),
        }
    }

    /// The range to show for values from `low` to `high`.
    fn range(self, low: f64, high: f64) -> (f64, f64) {
        match self {
            Scale::Linear => (0.0, if high > 0.0 { high * 1.05 } else { 1.0 }),
            // A bit more than a decade at least, so that noise does not fill the picture.
            Scale::Log => {
                let (low, high) = (low.max(1e-9), high.max(1e-9));
                let spare = ((low * 20.0) / high).max(1.0).sqrt();
                (low / 1.25 / spare, high * 1.25 * spare)
            }
            Scale::Nines => (0.0, high.clamp(0.9, 0.999_999_99)),
        }
    }

    fn ticks(self, low: f64, high: f64) -> Vec<f64> {
        match self {
            Scale::Linear => {
                let rough = (high - low) / 6.0;
                let decade = 10_f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0]
                    .map(|n| n * decade)
                    .into_iter()
                    .find(|s| *s >= rough)
                    .unwrap_or(rough);
                (0..=((high - low) / step) as u32).map(|n| low + f64::from(n) * step).collect()
            }
            Scale::Log => {
                let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
                let within: &[f64] = if high / low < 2e3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let all = decades.flat_map(|d| within.iter().map(move |n| n * 10_f64.powi(d)));
                all.filter(|tick| (low..=high).contains(tick)).collect()
            }
            Scale::Nines => {
                let all = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999, 0.9999999];
                all.into_iter().filter(|tick| *tick <= high + 1e-12).collect()
            }
        }
    }
}

/// Decimals that tell evenly laid ticks from each other.
fn decimals(ticks: &[f64]) -> usize {
    match ticks {
        // Of a round step, whose logarithm may be a hair below the whole number that it is.
        [first, second, ..] => (-(second - first).log10() - 1e-9).ceil().clamp(0.0, 12.0) as usize,
        _ => 0,
    }
}

impl Chart {
    /// The `<svg>` element; a line of text where there is nothing to draw.
    pub fn draw(&self) -> String {
        let finite = |&&(x, y): &&(f64, f64)| x.is_finite() && y.is_finite();
        let points: Vec<&(f64, f64)> =
            self.series.iter().flat_map(|s| &s.points).filter(finite).collect();
        let title = escape(&self.title);
        if points.is_empty() {
            return format!("<p class=\"nothing\">{title}: nothing to show.</p>\n");
        }
        let bounds = |value: fn(&(f64, f64)) -> f64| {
            points
                .iter()
                .map(|p| value(p))
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                    (low.min(v), high.max(v))
                })
        };
        let ((x_low, x_high), (mut y_low, mut y_high)) = (bounds(|p| p.0), bounds(|p| p.1));
        for mark in &self.marks {
            if let Mark::Horizontal(at, _) = mark {
                (y_low, y_high) = (y_low.min(*at), y_high.max(*at));
            }
        }
        let (x_from, x_to) = self.x.scale.range(x_low, x_high);
        let (y_from, y_to) = self.y.scale.range(y_low, y_high);
        let place = |scale: Scale, value: f64, from: f64, to: f64| {
            let (value, from, to) =
                (scale.position(value), scale.position(from), scale.position(to));
            ((value - from) / (to - from)).clamp(0.0, 1.0)
        };
        let x =
            |value: f64| LEFT + place(self.x.scale, value, x_from, x_to) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| {
            HEIGHT - BOTTOM - place(self.y.scale, value, y_from, y_to) * (HEIGHT - TOP - BOTTOM)
        };
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);

        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-label=\"{title}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" \
             y=\"18\" font-size=\"15\" font-weight=\"bold\" fill=\"#222\">{title}</text>\n"
        );
        let ticks = self.y.scale.ticks(y_from, y_to);
        for tick in &ticks {
            let (at, text) = (y(*tick), escape(&(self.y.text)(*tick, decimals(&ticks))));
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\" \
                 stroke=\"#e4e4e4\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" \
                 fill=\"#555\">{text}</text>",
                LEFT - 7.0,
                at + 4.0
            );
        }
        let mut last = f64::NEG_INFINITY;
        let ticks = self.x.scale.ticks(x_from, x_to);
        for tick in &ticks {
            let (at, text) = (x(*tick), escape(&(self.x.text)(*tick, decimals(&ticks))));
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#eee\"/>"
            );
            if at - last >= LABEL_GAP {
                let _ = writeln!(
                    svg,
                    "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" \
                     fill=\"#555\">{text}</text>",
                    bottom + 17.0
                );
                last = at;
            }
        }
        let _ = writeln!(
            svg,
            "<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#888\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#333\">{}</text>\n\
             <text transform=\"translate(14 {:.1}) rotate(-90)\" text-anchor=\"middle\" \
             fill=\"#333\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 12.0,
            escape(self.x.label),
            (TOP + bottom) / 2.0,
            escape(self.y.label)
        );
        let mut mark_texts = String::new();
        for mark in &self.marks {
            let (path, at_x, at_y, anchor, text) = match mark {
                Mark::Horizontal(at, text) => (
                    format!("M{LEFT} {0:.1}H{right}", y(*at)),
                    right - 6.0,
                    y(*at) - 4.0,
                    "end",
                    text,
                ),
                Mark::Vertical(at, text) if x(*at) > WIDTH / 2.0 => (
                    format!("M{0:.1} {TOP}V{bottom}", x(*at)),
                    x(*at) - 5.0,
                    TOP + 12.0,
                    "end",
                    text,
                ),
                Mark::Vertical(at, text) => (
                    format!("M{0:.1} {TOP}V{bottom}", x(*at)),
                    x(*at) + 5.0,
                    TOP + 12.0,
                    "start",
                    text,
                ),
            };
            let _ = writeln!(
                svg,
                "<path d=\"{path}\" fill=\"none\" stroke=\"#c0392b\" stroke-dasharray=\"5 4\"/>"
            );
            // Above the lines, with an edge of its own: it must be legible wherever they run.
            let _ = writeln!(
                mark_texts,
                "<text x=\"{at_x:.1}\" y=\"{at_y:.1}\" text-anchor=\"{anchor}\" fill=\"#c0392b\" \
                 stroke=\"#fff\" stroke-width=\"4\" paint-order=\"stroke\">{}</text>",
                escape(text)
            );
        }
        let mut legend = LEFT;
        for series in &self.series {
            let dash = if series.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let line: Vec<String> = series
                .points
                .iter()
                .filter(|p| finite(p))
                .map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1)))
                .collect();
            let color = series.color;
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.8\" \
                 stroke-linejoin=\"round\"{dash}/>",
                line.join(" ")
            );
            if series.points.len() <= 30 && !series.dashed {
                for point in series.points.iter().filter(|p| finite(p)) {
                    let _ = write!(
                        svg,
                        "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\" fill=\"{color}\"/>",
                        x(point.0),
                        y(point.1)
                    );
                }
                svg.push('\n');
            }
            let _ = writeln!(
                svg,
                "<line x1=\"{legend:.1}\" y1=\"36\" x2=\"{:.1}\" y2=\"36\" stroke=\"{color}\" \
                 stroke-width=\"2.5\"{dash}/><text x=\"{:.1}\" y=\"40\" fill=\"#333\">{}</text>",
                legend + 20.0,
                legend + 26.0,
                escape(&series.name)
            );
            // About 6.6 pixels a character at this size.
            legend += 46.0 + series.name.chars().count() as f64 * 6.6;
        }
        svg.push_str(&mark_texts);
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis { label: "a < b", scale, text: |v, _| format!("{v}") }
    }

    fn chart(x: Scale, y: Scale, points: Vec<(f64, f64)>) -> String {
        let series = vec![Series { name: "s & t".into(), color: "#123", dashed: false, points }];
        Chart {
            title: "t".into(),
            x: axis(x),
            y: axis(y),
            series,
            marks: vec![Mark::Vertical(1.0, "m".into()), Mark::Horizontal(2.0, "h".into())],
        }
        .draw()
    }

    #[test]
    fn whatever_the_values_a_chart_is_well_formed() {
        let values = [0.0, 1e-12, 1.0, 1.0, 1e12, f64::NAN, f64::INFINITY, -5.0];
        for x in [Scale::Linear, Scale::Log, Scale::Nines] {
            for y in [Scale::Linear, Scale::Log] {
                for value in values {
                    let svg = chart(x, y, vec![(value, value), (0.5, 3.0)]);
                    crate::present::tests::assert_well_formed(&svg);
                    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                }
            }
        }
        assert!(chart(Scale::Linear, Scale::Linear, Vec::new()).contains("nothing to show"));
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(Scale::Linear.ticks(0.0, 1890.0), [0.0, 500.0, 1000.0, 1500.0]);
        assert_eq!(Scale::Linear.ticks(0.0, 10.5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        for (high, expected) in [
            (1890.0, 0),
            (10.5, 0),
            (7.0, 0),
            (5.9, 0),
            (3.0, 1),
            (2.1, 1),
            (0.6, 1),
            (0.3, 2),
            (0.06, 2),
            (0.006, 3),
        ] {
            let ticks = Scale::Linear.ticks(0.0, high);
            assert_eq!(decimals(&ticks), expected, "{ticks:?}");
            let labels: Vec<String> =
                ticks.iter().map(|tick| format!("{tick:.expected$}")).collect();
            assert!(labels.windows(2).all(|pair| pair[0] != pair[1]), "{labels:?}");
        }
        assert_eq!((decimals(&[]), decimals(&[5.0])), (0, 0));
        assert_eq!(Scale::Log.ticks(90.0, 1100.0), [100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(Scale::Nines.ticks(0.0, 0.9995), [0.0, 0.5, 0.9, 0.99, 0.999]);
    }
}
