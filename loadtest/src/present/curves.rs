//! The pictures of a report.

use super::chart::{Axis, Chart, Mark, Scale, Series};
use crate::criteria::Sla;
use crate::report::step::{Step, knee, one_for_each_rate};
use crate::report::{Point, Report};
use crate::units::{count, figure, micros};

/// The colour of a percentile is the same in every picture, and so is that of its limit.
fn color(percentile: &str) -> &'static str {
    match percentile {
        "p50" => "blue",
        "p99" => "orange",
        "p99.9" => "purple",
        "max" => "grey",
        _ => "teal",
    }
}

fn limit_text(sla: &Sla) -> String {
    format!("{} at most {}", sla.name, micros(sla.limit_us))
}

/// Each limit in the colour of the curve that must stay below it.
fn limits(report: &Report) -> impl Iterator<Item = Mark> {
    report
        .slas
        .iter()
        .map(|sla| Mark::Limit(sla.limit_us as f64, limit_text(sla), color(&sla.name)))
}

/// A round time of an axis: 500 µs, 20 ms, 1 s.
pub(super) fn us_text(value: f64, _: usize) -> String {
    let (value, unit) = match value {
        us if us < 1e3 => (us, "µs"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    // What is not exact in the last digits of a floating-point number is not shown.
    format!("{} {unit}", (value * 1e6).round() / 1e6)
}

pub(super) fn latency_axis() -> Axis {
    Axis { label: "latency (logarithmic)", scale: Scale::Log, text: us_text }
}

pub(super) fn figure_text(value: f64, decimals: usize) -> String {
    if decimals == 0 { count(value.round() as u64) } else { format!("{value:.decimals$}") }
}

pub(super) fn load_axis() -> Axis {
    Axis { label: "offered load, requests/s", scale: Scale::Linear, text: figure_text }
}

fn seconds_axis() -> Axis {
    Axis {
        label: "seconds since the start (warm-up included)",
        scale: Scale::Linear,
        text: |v, decimals| format!("{v:.decimals$}"),
    }
}

/// Percentile curves of one report or of several, with the limits of one.
pub(super) fn percentiles(curves: &[(&str, &'static str, &Report)], limits_of: &Report) -> Chart {
    let series = curves
        .iter()
        .map(|(name, color, report)| Series {
            name: (*name).to_owned(),
            color,
            dashed: false,
            points: report
                .latency
                .curve
                .iter()
                .map(|(quantile, us)| (*quantile, *us as f64))
                .collect(),
        })
        .collect();
    let gate = |sla: &Sla| Mark::Gate(sla.quantile, sla.limit_us as f64, limit_text(sla), "red");
    Chart {
        title: "Latency by percentile".into(),
        x: Axis {
            label: "share of the requests that were faster (each nine the same length)",
            scale: Scale::Nines,
            text: |quantile, _| {
                let percent = format!("{:.5}", quantile * 100.0);
                format!("{} %", percent.trim_end_matches('0').trim_end_matches('.'))
            },
        },
        y: latency_axis(),
        series,
        marks: limits_of.slas.iter().map(gate).collect(),
    }
}

/// A percentile by its name, and how it is read from a row.
type Percentile<T> = (&'static str, fn(&T) -> u64);

/// Curves of these percentiles, and of those that are judged and not among them.
fn with_judged<T>(
    report: &Report,
    rows: &[(f64, &T)],
    shown: &[Percentile<T>],
    at_slas: fn(&T) -> &[u64],
) -> Vec<Series> {
    let line = |name: &str, value: &dyn Fn(&T) -> u64| Series {
        name: name.to_owned(),
        color: color(name),
        dashed: false,
        points: rows.iter().map(|(x, row)| (*x, value(row) as f64)).collect(),
    };
    let mut series: Vec<Series> = shown.iter().map(|(name, value)| line(name, value)).collect();
    for (at, sla) in report.slas.iter().enumerate() {
        if !shown.iter().any(|(name, _)| *name == sla.name) {
            series.push(line(&sla.name, &|row| at_slas(row).get(at).copied().unwrap_or_default()));
        }
    }
    series
}

pub(super) fn latency_over_time(report: &Report) -> Chart {
    let rows: Vec<(f64, &Point)> =
        report.timeline.iter().filter(|p| p.right > 0).map(|p| (p.second as f64, p)).collect();
    let shown: [Percentile<Point>; 3] =
        [("max", |p| p.max), ("p99", |p| p.p99), ("p50", |p| p.p50)];
    Chart {
        title: "Latency over time".into(),
        x: seconds_axis(),
        y: latency_axis(),
        series: with_judged(report, &rows, &shown, |p| &p.at_slas),
        marks: limits(report).collect(),
    }
}

pub(super) fn rate_over_time(report: &Report) -> Chart {
    let line = |name: &str, color, dashed, value: fn(&Point) -> u64| Series {
        name: name.into(),
        color,
        dashed,
        points: report.timeline.iter().map(|p| (p.second as f64, value(p) as f64)).collect(),
    };
    Chart {
        title: "Requests each second".into(),
        x: seconds_axis(),
        y: Axis { label: "requests/s", scale: Scale::Linear, text: figure_text },
        series: vec![
            line("answered right", "green", false, |p| p.right),
            line("errors", "red", false, |p| p.errors),
            line("offered", "grey", true, |p| p.offered),
        ],
        marks: Vec::new(),
    }
}

fn knee_mark(report: &Report) -> Option<Mark> {
    let (rate, what) = match &report.capacity {
        Some(capacity) => (capacity.rate?, "capacity"),
        None => (knee(&report.steps)?.offered_rate, "knee"),
    };
    Some(Mark::Place(rate, format!("{what}: {}/s", figure(rate))))
}

pub(super) fn throughput_over_load(report: &Report) -> Chart {
    let steps = one_for_each_rate(&report.steps);
    let line = |name: &str, color, dashed, value: fn(&Step) -> f64| Series {
        name: name.into(),
        color,
        dashed,
        points: steps.iter().map(|s| (s.offered_rate, value(s))).collect(),
    };
    Chart {
        title: "Throughput over offered load".into(),
        x: load_axis(),
        y: Axis { label: "requests/s", scale: Scale::Linear, text: figure_text },
        series: vec![
            line("answered right", "green", false, |s| s.throughput),
            line("errors", "red", false, |s| s.errors as f64 / s.seconds.max(1e-9)),
            line("offered", "grey", true, |s| s.offered_rate),
        ],
        marks: knee_mark(report).into_iter().collect(),
    }
}

pub(super) fn latency_over_load(report: &Report) -> Chart {
    let steps = one_for_each_rate(&report.steps);
    let rows: Vec<(f64, &Step)> =
        steps.into_iter().filter(|s| s.right > 0).map(|s| (s.offered_rate, s)).collect();
    let shown: [Percentile<Step>; 3] =
        [("p99.9", |s| s.p999), ("p99", |s| s.p99), ("p50", |s| s.p50)];
    Chart {
        title: "Latency over offered load".into(),
        x: load_axis(),
        y: latency_axis(),
        series: with_judged(report, &rows, &shown, |s| &s.at_slas),
        marks: limits(report).chain(knee_mark(report)).collect(),
    }
}
