//! The Prometheus text format, version 0.0.4.

use std::fmt::Write;

use hdrhistogram::Histogram;

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
    /// Starts a metric: `kind` is `counter`, `gauge` or `histogram`.
    pub fn metric(&mut self, name: &str, kind: &str, help: &str) -> &mut Exposition {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self
    }

    /// One sample.
    pub fn sample(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        value: impl std::fmt::Display,
    ) -> &mut Exposition {
        self.text.push_str(name);
        self.labels(labels, None);
        let _ = writeln!(self.text, " {value}");
        self
    }

    /// One histogram of microseconds, told in seconds as Prometheus wants it.
    pub fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        histogram: &Histogram<u64>,
    ) -> &mut Exposition {
        let (mut next, mut cumulative, mut sum_us) = (0, 0, 0.0);
        for step in histogram.iter_recorded() {
            // A recorded value stands for its whole equivalent range: it is counted where the range
            // ends.
            while next < BUCKETS_US.len() && BUCKETS_US[next] < step.value_iterated_to() {
                self.bucket(name, labels, BUCKETS_US[next], cumulative);
                next += 1;
            }
            cumulative += step.count_since_last_iteration();
            sum_us += histogram.median_equivalent(step.value_iterated_to()) as f64
                * step.count_since_last_iteration() as f64;
        }
        for bound in &BUCKETS_US[next..] {
            self.bucket(name, labels, *bound, cumulative);
        }
        self.text.push_str(name);
        self.text.push_str("_bucket");
        self.labels(labels, Some("+Inf"));
        let _ = writeln!(self.text, " {cumulative}");
        self.sample(&format!("{name}_sum"), labels, sum_us / 1e6);
        self.sample(&format!("{name}_count"), labels, cumulative)
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }

    fn bucket(&mut self, name: &str, labels: &[(&str, &str)], bound_us: u64, cumulative: u64) {
        self.text.push_str(name);
        self.text.push_str("_bucket");
        self.labels(labels, Some(&(bound_us as f64 / 1e6).to_string()));
        let _ = writeln!(self.text, " {cumulative}");
    }

    fn labels(&mut self, labels: &[(&str, &str)], le: Option<&str>) {
        if labels.is_empty() && le.is_none() {
            return;
        }
        let all = labels.iter().copied().chain(le.map(|bound| ("le", bound)));
        for (n, (name, value)) in all.enumerate() {
            self.text.push(if n == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{name}=\"");
            for c in value.chars() {
                match c {
                    '"' => self.text.push_str("\\\""),
                    '\\' => self.text.push_str("\\\\"),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        self.text.push('}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_cumulative_and_ends_in_its_count() {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000, 2).unwrap();
        for us in [40, 60, 60, 900, 300_000, 50_000_000] {
            histogram.record(us).unwrap();
        }
        let mut exposition = Exposition::default();
        exposition.metric("t_seconds", "histogram", "help").histogram(
            "t_seconds",
            &[("operation", "encrypt")],
            &histogram,
        );
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
        exposition.sample("m", &[("a", "x\"y\\z\n")], 1);
        assert_eq!(exposition.finish(), "m{a=\"x\\\"y\\\\z\\n\"} 1\n");
    }
}
