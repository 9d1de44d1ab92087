//! What a run came to, in sentences for people who do not read percentiles.

use std::fmt::Write;

use crate::criteria::TestResult;
use crate::limits::{AWS_RATE, KMS_TIMEOUT};
use crate::report::Report;
use crate::report::capacity::Capacity;
use crate::report::step::{knee, one_for_each_rate};
use crate::units::{count, counted, figure, latency, micros, seconds};

/// All of it, as one paragraph.
pub fn conclusion(report: &Report) -> String {
    if report.settings.unverified {
        return "No answer was checked: these figures say what this machine and its TLS can do, and \
                nothing of a proxy."
            .into();
    }
    let sentences = match &report.capacity {
        Some(capacity) => search(report, capacity),
        None => {
            [load(report), failures(report), judgement(report), recommendation(report)].concat()
        }
    };
    sentences.join(" ")
}

fn load(report: &Report) -> Vec<String> {
    let time = seconds(report.seconds);
    if report.settings.arrivals == "closed loop" {
        return vec![format!(
            "Over {} that asked again as soon as they were answered, the proxy answered {} \
             requests a second for {time}.",
            counted(report.settings.connections as u64, "connection"),
            figure(report.throughput)
        )];
    }
    let steps = one_for_each_rate(&report.steps);
    if let ([first, .., last], true) = (steps.as_slice(), steps.len() > 1) {
        let rates = format!(
            "Of {} steps from {} to {} requests a second",
            steps.len(),
            figure(first.offered_rate),
            figure(last.offered_rate)
        );
        let passed = steps.iter().filter(|step| step.passed).count();
        return vec![match knee(&report.steps) {
            Some(knee) => format!(
                "{rates}, {passed} passed, the highest with {} requests a second; more was limited \
                 by {}.",
                figure(knee.offered_rate),
                report.bottleneck.name()
            ),
            None => format!("{rates}, {passed} passed."),
        }];
    }
    if report.right == 0 {
        return vec![format!(
            "{} requests were sent to the proxy over {time}, and none was answered right.",
            count(report.offered)
        )];
    }
    vec![format!(
        "The proxy was asked {} times a second for {time}. It answered 99.9 % of these requests \
         within {}, and gave its latest answer after {}.",
        figure(report.offered as f64 / report.seconds.max(1e-9)),
        latency(report.latency.p999),
        latency(report.answers.latest_us)
    )]
}

fn failures(report: &Report) -> Vec<String> {
    let mut text = match report.errors {
        0 => "No request failed".to_owned(),
        errors => format!(
            "{} of {} failed",
            count(errors.min(report.offered)),
            counted(report.offered, "request")
        ),
    };
    match report.wrong {
        0 => text.push_str(" and no answer was wrong."),
        wrong => drop(write!(text, " and {} wrong.", were(wrong, "answer"))),
    }
    vec![text]
}

fn were(n: u64, what: &str) -> String {
    format!("{} {}", counted(n, what), if n == 1 { "was" } else { "were" })
}

fn judgement(report: &Report) -> Vec<String> {
    let failed: Vec<String> = report
        .checks
        .iter()
        .filter(|check| !check.passed)
        .map(|check| {
            let most = if check.limit.starts_with("at least") { "" } else { "at most " };
            format!("{} {} ({most}{})", check.what, check.value, check.limit)
        })
        .collect();
    vec![match report.result() {
        TestResult::Pass => format!("Every criterion was met{}.", criteria(report)),
        TestResult::Fail => format!("The test failed: {}.", failed.join(", ")),
        TestResult::NoCriteria => "No criteria were given, so nothing is judged.".into(),
    }]
}

/// `: p99.9 at most 250 ms, no errors`.
fn criteria(report: &Report) -> String {
    let mut parts: Vec<String> = report
        .slas
        .iter()
        .map(|sla| format!("{} at most {}", sla.name, micros(sla.limit_us)))
        .collect();
    match report.settings.max_errors {
        Some(0) => parts.push("no errors".into()),
        Some(n) => parts.push(format!("at most {}", counted(n, "error"))),
        None => {}
    }
    if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) }
}

/// Beside what AWS recommends, where the load was one rate that can be set beside it.
fn recommendation(report: &Report) -> Vec<String> {
    let rate = report.offered as f64 / report.seconds.max(1e-9);
    let one_rate = report.steps.len() == 1 && report.settings.arrivals != "closed loop";
    // Poisson arrivals of a rate vary by some percent.
    let enough = rate >= 0.97 * AWS_RATE;
    let in_time = report.answers.latest_us <= KMS_TIMEOUT.as_micros() as u64;
    if !one_rate || report.result() == TestResult::Fail {
        return Vec::new();
    }
    vec![match enough {
        false => {
            format!("AWS recommends that a proxy sustains {} requests a second.", count_rate())
        }
        true if in_time && report.errors == 0 => format!(
            "AWS recommends that a proxy sustains {} requests a second and answers each within \
             {}: this one did.",
            count_rate(),
            kms_timeout()
        ),
        true => format!(
            "AWS recommends that a proxy sustains {} requests a second and answers each within \
             {}: this one did not answer all of them in that time.",
            count_rate(),
            kms_timeout()
        ),
    }]
}

fn count_rate() -> String {
    figure(AWS_RATE)
}

fn kms_timeout() -> String {
    micros(KMS_TIMEOUT.as_micros() as u64)
}

fn search(report: &Report, capacity: &Capacity) -> Vec<String> {
    let limit = capacity.failed_at.zip(capacity.bottleneck);
    let Some(rate) = capacity.rate else {
        let failed = capacity.failed_at.map(figure).unwrap_or_default();
        let by = limit.map(|(_, by)| format!("; it was limited by {}", by.name()));
        return vec![format!(
            "No rate was found at which every criterion is met{}. Even {failed} requests a second \
             failed{}.",
            criteria(report),
            by.unwrap_or_default()
        )];
    };
    let mut sentences = vec![format!(
        "The proxy sustains {} requests a second. At this rate every criterion was met for {}{}.",
        figure(rate),
        seconds(report.seconds),
        criteria(report)
    )];
    sentences.push(match limit {
        Some((failed, by)) => {
            format!("At {} it was not: the limit is {}.", figure(failed), by.name())
        }
        None => "No higher rate was tried, so its limit is not known.".into(),
    });
    sentences.push(format!(
        "AWS recommends {} requests a second, each answered within {}: this is {:.1} times that \
         rate.",
        count_rate(),
        kms_timeout(),
        rate / AWS_RATE
    ));
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::bottleneck::Bottleneck;
    use crate::report::Answers;
    use crate::report::tests::sample;

    /// A run of one rate that passed.
    fn passed() -> Report {
        let mut report = sample();
        report.steps.truncate(1);
        (report.errors, report.wrong) = (0, 0);
        report.settings.max_errors = Some(0);
        report.checks.iter_mut().for_each(|check| check.passed = true);
        report.answers = Answers { latest_us: 24_200, ..Answers::default() };
        (report.offered, report.right, report.seconds) = (108_000, 108_000, 60.0);
        report
    }

    fn capacity(rate: Option<f64>, failed_at: Option<f64>) -> Report {
        let capacity = Capacity {
            rate,
            failed_at,
            bottleneck: failed_at.map(|_| Bottleneck::Hsm),
            sessions_needed: 0,
            sessions_full: false,
            trials: Vec::new(),
        };
        Report { capacity: Some(capacity), seconds: 20.0, ..passed() }
    }

    #[test]
    fn a_run_is_told_with_its_result() {
        assert_eq!(
            conclusion(&passed()),
            "The proxy was asked 1,800 times a second for 60 s. It answered 99.9 % of these \
             requests within 20.2 ms, and gave its latest answer after 24.2 ms. No request failed \
             and no answer was wrong. Every criterion was met: p99.9 at most 250 ms, no errors. \
             AWS recommends that a proxy sustains 1,800 requests a second and answers each within \
             250 ms: this one did."
        );
        let late =
            Report { answers: Answers { latest_us: 251_000, ..Answers::default() }, ..passed() };
        assert!(conclusion(&late).ends_with("did not answer all of them in that time."));
        let slow = Report { offered: 60_000, ..passed() };
        assert!(conclusion(&slow).ends_with("that a proxy sustains 1,800 requests a second."));
    }

    #[test]
    fn a_failed_run_says_why() {
        let mut report = Report { errors: 12, wrong: 1, ..passed() };
        report.checks[0].passed = false;
        let text = conclusion(&report);
        assert!(text.contains("12 of 108,000 requests failed and 1 answer was wrong."), "{text}");
        assert!(text.ends_with("The test failed: wrong answers 1 (at most 0)."), "{text}");
        let none = Report { right: 0, ..report };
        assert!(conclusion(&none).contains("none was answered right"));
        let unverified = passed().settings;
        let unverified = crate::report::Settings { unverified: true, ..unverified };
        let text = conclusion(&Report { settings: unverified, ..passed() });
        assert!(text.starts_with("No answer was checked"), "{text}");
    }

    #[test]
    fn a_capacity_is_told_beside_what_aws_recommends() {
        assert_eq!(
            conclusion(&capacity(Some(16_200.0), Some(16_500.0))),
            "The proxy sustains 16,200 requests a second. At this rate every criterion was met for \
             20 s: p99.9 at most 250 ms, no errors. At 16,500 it was not: the limit is the HSM's \
             sessions. AWS recommends 1,800 requests a second, each answered within 250 ms: this \
             is 9.0 times that rate."
        );
        let all = conclusion(&capacity(Some(500.0), None));
        assert!(all.contains("its limit is not known"), "{all}");
        let none = conclusion(&capacity(None, Some(100.0)));
        assert!(none.contains("Even 100 requests a second failed; it was limited by"), "{none}");
    }

    #[test]
    fn steps_and_closed_loops_are_told_as_such() {
        let steps = Report { steps: sample().steps, ..passed() };
        let text = conclusion(&steps);
        assert!(
            text.starts_with(
                "Of 4 steps from 500 to 4,000 requests a second, 3 passed, the highest with 2,000 \
                 requests a second; more was limited by the HSM's sessions."
            ),
            "{text}"
        );
        let mut closed = passed();
        closed.settings.arrivals = "closed loop".into();
        closed.settings.connections = 64;
        let text = conclusion(&closed);
        assert!(text.starts_with("Over 64 connections that asked again as soon"), "{text}");
        assert!(!text.contains("AWS"), "{text}");
    }
}
