//! Line charts as inline SVG: no script, no file beside it. Their colours are variables of the
//! page's style, which differ between light, dark and paper.

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
    /// A colour of the page's style.
    pub color: &'static str,
    /// Drawn dashed: not measured but wanted.
    pub dashed: bool,
    /// In the order of x.
    pub points: Vec<(f64, f64)>,
}

/// Something that lines are seen beside.
pub enum Mark {
    /// A limit of one line, in its colour: height, text, colour.
    Limit(f64, String, &'static str),
    /// A limit of one point of a line, which must pass below it: place, height, text, colour.
    Gate(f64, f64, String, &'static str),
    /// A place along x.
    Place(f64, String),
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

// Pixels. The lines are drawn between LEFT and RIGHT, TOP and BOTTOM.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 330.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 820.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 280.0;
/// Labels along x closer than this, pixels, would run into each other.
const LABEL_GAP: f64 = 50.0;
/// Texts closer than this, one above the other, pixels, would overlap.
const LABEL_HEIGHT: f64 = 15.0;
/// Half the width of a gate, pixels.
const GATE_HALF: f64 = 26.0;
/// Lines of more points than this are drawn without a dot at each.
const POINTS_DRAWN: usize = 30;

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

/// From values to pixels.
struct Plane<'a> {
    chart: &'a Chart,
    x: (f64, f64),
    y: (f64, f64),
}

fn place(scale: Scale, value: f64, (from, to): (f64, f64)) -> f64 {
    let (value, from, to) = (scale.position(value), scale.position(from), scale.position(to));
    ((value - from) / (to - from)).clamp(0.0, 1.0)
}

impl Plane<'_> {
    fn x(&self, value: f64) -> f64 {
        LEFT + place(self.chart.x.scale, value, self.x) * (RIGHT - LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        BOTTOM - place(self.chart.y.scale, value, self.y) * (BOTTOM - TOP)
    }
}

/// A text at its place, to be moved if it would overlap another.
struct Label {
    x: f64,
    y: f64,
    anchor: &'static str,
    color: &'static str,
    text: String,
}

impl Chart {
    /// The `<svg>` element in a box that scrolls; a line of text if there is nothing to draw.
    pub fn draw(&self) -> String {
        let title = escape(&self.title);
        let Some(plane) = self.plane() else {
            return format!("<p class=\"note\">{title}: nothing to show.</p>\n");
        };
        let mut svg = format!(
            "<div class=\"wide\"><svg xmlns=\"http://www.w3.org/2000/svg\" \
             viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\">\n<text class=\"title\" x=\"{LEFT}\" \
             y=\"18\">{title}</text>\n"
        );
        self.grid(&plane, &mut svg);
        let labels = self.draw_marks(&plane, &mut svg);
        self.lines(&plane, &mut svg);
        // Above the lines, with an edge: they must be legible wherever the lines run.
        for label in apart(labels) {
            let Label { x, y, anchor, color, text } = label;
            let _ = writeln!(
                svg,
                "<text class=\"halo\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" \
                 style=\"fill:var(--{color})\">{}</text>",
                escape(&text)
            );
        }
        svg.push_str("</svg></div>\n");
        svg
    }

    /// `None` if there is nothing to draw.
    fn plane(&self) -> Option<Plane<'_>> {
        let points: Vec<&(f64, f64)> =
            self.series.iter().flat_map(|s| &s.points).filter(|point| is_finite(point)).collect();
        let bounds = |value: fn(&(f64, f64)) -> f64| {
            points
                .iter()
                .map(|p| value(p))
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| {
                    (low.min(v), high.max(v))
                })
        };
        let ((x_low, x_high), (mut low, mut high)) = (bounds(|p| p.0), bounds(|p| p.1));
        for mark in &self.marks {
            if let Mark::Limit(at, ..) | Mark::Gate(_, at, ..) = mark {
                (low, high) = (low.min(*at), high.max(*at));
            }
        }
        let (x, y) = (self.x.scale.range(x_low, x_high), self.y.scale.range(low, high));
        (!points.is_empty()).then_some(Plane { chart: self, x, y })
    }

    fn grid(&self, plane: &Plane<'_>, svg: &mut String) {
        let ticks = self.y.scale.ticks(plane.y.0, plane.y.1);
        for tick in &ticks {
            let (at, text) = (plane.y(*tick), escape(&(self.y.text)(*tick, decimals(&ticks))));
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{RIGHT}\"/><text class=\"tick\" \
                 x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
                LEFT - 7.0,
                at + 4.0
            );
        }
        let mut last = f64::NEG_INFINITY;
        let ticks = self.x.scale.ticks(plane.x.0, plane.x.1);
        for tick in &ticks {
            let (at, text) = (plane.x(*tick), escape(&(self.x.text)(*tick, decimals(&ticks))));
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{BOTTOM}\"/>");
            if at - last >= LABEL_GAP {
                let _ = writeln!(
                    svg,
                    "<text class=\"tick x\" x=\"{at:.1}\" y=\"{:.1}\" \
                     text-anchor=\"middle\">{text}</text>",
                    BOTTOM + 17.0
                );
                last = at;
            }
        }
        let _ = writeln!(
            svg,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n\
             <text transform=\"translate(14 {:.1}) rotate(-90)\" \
             text-anchor=\"middle\">{}</text>",
            (LEFT + RIGHT) / 2.0,
            HEIGHT - 12.0,
            escape(self.x.label),
            (TOP + BOTTOM) / 2.0,
            escape(self.y.label)
        );
    }

    /// Draws the marks and gives their labels, which belong above everything else.
    fn draw_marks(&self, plane: &Plane<'_>, svg: &mut String) -> Vec<Label> {
        let mut labels = Vec::new();
        for mark in &self.marks {
            let (path, label) = match mark {
                Mark::Limit(at, text, color) => {
                    let y = plane.y(*at);
                    let label = Label {
                        x: RIGHT - 6.0,
                        y: y - 4.0,
                        anchor: "end",
                        color,
                        text: text.clone(),
                    };
                    (format!("M{LEFT} {y:.1}H{RIGHT}"), label)
                }
                Mark::Gate(at, height, text, color) => {
                    let (x, y) = (plane.x(*at), plane.y(*height));
                    let (from, to) = (x - GATE_HALF, (x + GATE_HALF).min(RIGHT));
                    // Towards the middle: beyond the axis stand the numbers.
                    let left = x > (LEFT + RIGHT) / 2.0;
                    let (at, anchor) = if left { (to, "end") } else { (from, "start") };
                    let label = Label { x: at, y: y - 6.0, anchor, color, text: text.clone() };
                    (format!("M{from:.1} {y:.1}H{to:.1}M{x:.1} {y:.1}V{BOTTOM}"), label)
                }
                Mark::Place(at, text) => {
                    let x = plane.x(*at);
                    let left = x > (LEFT + RIGHT) / 2.0;
                    let (at, anchor) = if left { (x - 5.0, "end") } else { (x + 5.0, "start") };
                    let label =
                        Label { x: at, y: TOP + 12.0, anchor, color: "text", text: text.clone() };
                    (format!("M{x:.1} {TOP}V{BOTTOM}"), label)
                }
            };
            let _ = writeln!(
                svg,
                "<path d=\"{path}\" fill=\"none\" stroke-width=\"1.4\" stroke-dasharray=\"5 4\" \
                 style=\"stroke:var(--{})\"/>",
                label.color
            );
            labels.push(label);
        }
        labels
    }

    fn lines(&self, plane: &Plane<'_>, svg: &mut String) {
        let mut legend = LEFT;
        for Series { name, color, dashed, points } in &self.series {
            let dash = if *dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let shown: Vec<(f64, f64)> = points
                .iter()
                .filter(|point| is_finite(point))
                .map(|point| (plane.x(point.0), plane.y(point.1)))
                .collect();
            let line: Vec<String> = shown.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke-width=\"1.8\" \
                 stroke-linejoin=\"round\" style=\"stroke:var(--{color})\"{dash}/>",
                line.join(" ")
            );
            if shown.len() <= POINTS_DRAWN && !dashed {
                for (x, y) in &shown {
                    let _ = write!(
                        svg,
                        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\" \
                         style=\"fill:var(--{color})\"/>"
                    );
                }
                svg.push('\n');
            }
            let _ = writeln!(
                svg,
                "<path d=\"M{legend:.1} 36h20\" stroke-width=\"2.5\" \
                 style=\"stroke:var(--{color})\"{dash}/><text x=\"{:.1}\" y=\"40\">{}</text>",
                legend + 26.0,
                escape(name)
            );
            // About 6.8 pixels a character at this size.
            legend += 48.0 + name.chars().count() as f64 * 6.8;
        }
    }
}

fn is_finite((x, y): &(f64, f64)) -> bool {
    x.is_finite() && y.is_finite()
}

/// Moves labels down that would overlap one above them.
fn apart(mut labels: Vec<Label>) -> Vec<Label> {
    labels.sort_by(|a, b| a.y.total_cmp(&b.y));
    for at in 1..labels.len() {
        let (above, rest) = labels.split_at_mut(at);
        let label = &mut rest[0];
        let width = |label: &Label| 6.8 * label.text.chars().count() as f64;
        let span = |label: &Label| match label.anchor {
            "end" => (label.x - width(label), label.x),
            _ => (label.x, label.x + width(label)),
        };
        let (from, to) = span(label);
        for other in above.iter() {
            let (other_from, other_to) = span(other);
            if from < other_to && other_from < to && label.y < other.y + LABEL_HEIGHT {
                label.y = other.y + LABEL_HEIGHT;
            }
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(scale: Scale) -> Axis {
        Axis { label: "a < b", scale, text: |v, _| format!("{v}") }
    }

    fn chart(x: Scale, y: Scale, points: Vec<(f64, f64)>) -> String {
        let series = vec![Series { name: "s & t".into(), color: "blue", dashed: false, points }];
        Chart {
            title: "t".into(),
            x: axis(x),
            y: axis(y),
            series,
            marks: vec![
                Mark::Place(1.0, "m".into()),
                Mark::Limit(2.0, "h".into(), "red"),
                Mark::Gate(0.5, 2.0, "g".into(), "red"),
            ],
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
    fn labels_do_not_stand_upon_each_other() {
        let label =
            |x, y, text: &str| Label { x, y, anchor: "end", color: "red", text: text.into() };
        let moved = apart(vec![
            label(800.0, 100.0, "p99 at most 20 ms"),
            label(800.0, 96.0, "p99.9 at most 21 ms"),
            label(300.0, 99.0, "elsewhere"),
            label(800.0, 103.0, "max at most 19 ms"),
        ]);
        let places: Vec<f64> = moved.iter().map(|label| label.y).collect();
        assert_eq!(places, [96.0, 99.0, 111.0, 126.0]);
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
