//! The Prometheus text format, version 0.0.4.

use std::fmt::{Display, Write};

use hdrhistogram::Histogram;

use super::names::Metric;

/// Upper bounds of the buckets, microseconds: fine around the round trips AWS asks for (35 ms) and
/// KMS's limit (250 ms).
const BUCKETS_US: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 35_000, 50_000, 100_000, 150_000,
    200_000, 250_000, 1_000_000,
];

/// Writes metrics one after the other into a text.
#[derive(Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// Starts a metric; its samples follow.
    pub fn metric<'t>(&'t mut self, metric: &'t Metric) -> Samples<'t> {
        let Metric { name, kind, help, .. } = metric;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {}", kind.as_str());
        Samples { text: &mut self.text, metric }
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// The samples of one metric.
pub struct Samples<'t> {
    text: &'t mut String,
    metric: &'t Metric,
}

impl Samples<'_> {
    /// One sample; `values` are those of the metric's labels, in their order.
    pub fn sample(&mut self, values: &[&str], value: impl Display) {
        self.line("", values, None, value);
    }

    /// One histogram of microseconds, shown in seconds as Prometheus wants it.
    pub fn histogram(&mut self, values: &[&str], histogram: &Histogram<u64>) {
        let (mut next, mut cumulative, mut sum_us) = (0, 0, 0.0);
        for step in histogram.iter_recorded() {
            // A recorded value stands for its whole equivalent range: it is counted where the range
            // ends.
            while next < BUCKETS_US.len() && BUCKETS_US[next] < step.value_iterated_to() {
                self.bucket(values, BUCKETS_US[next], cumulative);
                next += 1;
            }
            cumulative += step.count_since_last_iteration();
            sum_us += histogram.median_equivalent(step.value_iterated_to()) as f64
                * step.count_since_last_iteration() as f64;
        }
        for bound in &BUCKETS_US[next..] {
            self.bucket(values, *bound, cumulative);
        }
        self.line("_bucket", values, Some("+Inf"), cumulative);
        self.line("_sum", values, None, sum_us / 1e6);
        self.line("_count", values, None, cumulative);
    }

    fn bucket(&mut self, values: &[&str], bound_us: u64, cumulative: u64) {
        let bound = (bound_us as f64 / 1e6).to_string();
        self.line("_bucket", values, Some(&bound), cumulative);
    }

    fn line(&mut self, suffix: &str, values: &[&str], le: Option<&str>, value: impl Display) {
        let Metric { name, labels, .. } = self.metric;
        debug_assert_eq!(labels.len(), values.len(), "{name}");
        self.text.push_str(name);
        self.text.push_str(suffix);
        let labels = labels.iter().copied().zip(values.iter().copied());
        let mut open = '{';
        for (label, value) in labels.chain(le.map(|bound| ("le", bound))) {
            self.text.push(open);
            let _ = write!(self.text, "{label}=\"");
            for c in value.chars() {
                match c {
                    '"' => self.text.push_str("\\\""),
                    '\\' => self.text.push_str("\\\\"),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
            open = ',';
        }
        if open == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::super::names;
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_ends_in_its_count() {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 2).unwrap();
        for us in [40, 60, 60, 900, 300_000, 50_000_000] {
            histogram.record(us).unwrap();
        }
        let mut exposition = Exposition::default();
        let metric = Metric { name: "t_seconds", ..names::HSM_DURATION };
        exposition.metric(&metric).histogram(&["encrypt"], &histogram);
        let text = exposition.finish();
        for line in [
            "t_seconds_bucket{operation=\"encrypt\",le=\"0.00005\"} 1",
            "t_seconds_bucket{operation=\"encrypt\",le=\"0.0001\"} 3",
            "t_seconds_bucket{operation=\"encrypt\",le=\"0.0005\"} 3",
            "t_seconds_bucket{operation=\"encrypt\",le=\"0.001\"} 4",
            "t_seconds_bucket{operation=\"encrypt\",le=\"0.25\"} 4",
            "t_seconds_bucket{operation=\"encrypt\",le=\"1\"} 5",
            "t_seconds_bucket{operation=\"encrypt\",le=\"+Inf\"} 6",
            "t_seconds_count{operation=\"encrypt\"} 6",
        ] {
            assert!(text.lines().any(|l| l == line), "missing {line} in\n{text}");
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let mut exposition = Exposition::default();
        let metric = Metric { name: "m", labels: &["a"], help: "h", ..names::READY };
        exposition.metric(&metric).sample(&["x\"y\\z\n"], 1);
        let text = exposition.finish();
        assert_eq!(text, "# HELP m h\n# TYPE m gauge\nm{a=\"x\\\"y\\\\z\\n\"} 1\n");
    }
}
