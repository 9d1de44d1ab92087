//! What is counted, by worker, and how workers add up.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;

use crate::limits::{LATENCY_MAX_US, WRONG_ANSWERS_REPORTED};
use crate::workload::identity::Identity;
use crate::workload::request::Call;

/// Microseconds.
pub type Latency = Histogram<u64>;

/// An empty histogram of microseconds; a figure of it is at most 0.1 % off.
pub fn latency() -> Latency {
    Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are constants")
}

/// Whole microseconds, rounded up: a quick answer is still an answer.
pub fn whole_us(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX).max(1)
}

/// Counts a time.
pub fn record(histogram: &mut Latency, time: Duration) {
    histogram.saturating_record(whole_us(time).min(LATENCY_MAX_US));
}

fn add(mine: &mut Latency, theirs: &Latency) {
    mine.add(theirs).expect("all histograms have the same bounds");
}

/// One phase of the plan.
#[derive(Clone)]
pub struct PhaseStats {
    /// Requests that were due.
    pub offered: u64,
    /// Right answers.
    pub right: u64,
    /// Everything else that was due.
    pub errors: u64,
    /// Right answers that came in during the phase, whenever they were due: its throughput.
    pub throughput: u64,
    /// Of right answers, from when the request was due.
    pub latency: Latency,
    /// How late requests were handed to connections: the tool's own delay.
    pub lag: Latency,
    /// Time from sending to the answer, or to where it was given up, of all requests together.
    pub in_flight: Duration,
}

impl PhaseStats {
    /// Nothing yet.
    pub fn new() -> PhaseStats {
        PhaseStats {
            offered: 0,
            right: 0,
            errors: 0,
            throughput: 0,
            latency: latency(),
            lag: latency(),
            in_flight: Duration::ZERO,
        }
    }

    /// Adds another worker's same phase, or another phase.
    pub fn add(&mut self, other: &PhaseStats) {
        self.offered += other.offered;
        self.right += other.right;
        self.errors += other.errors;
        self.throughput += other.throughput;
        add(&mut self.latency, &other.latency);
        add(&mut self.lag, &other.lag);
        self.in_flight += other.in_flight;
    }
}

impl Default for PhaseStats {
    fn default() -> PhaseStats {
        PhaseStats::new()
    }
}

/// One second of the run, by the time of the answer.
#[derive(Clone)]
pub struct Second {
    /// Whole seconds since the start, warm-up included.
    pub second: u64,
    /// Requests that were due.
    pub offered: u64,
    /// Right answers.
    pub right: u64,
    /// Errors and wrong answers.
    pub errors: u64,
    /// Of right answers.
    pub latency: Latency,
}

impl Second {
    /// An empty one.
    pub fn new(second: u64) -> Second {
        Second { second, offered: 0, right: 0, errors: 0, latency: latency() }
    }

    /// Adds another worker's same second.
    pub fn add(&mut self, other: &Second) {
        self.offered += other.offered;
        self.right += other.right;
        self.errors += other.errors;
        add(&mut self.latency, &other.latency);
    }
}

/// All of one worker, or of all of them.
pub struct Stats {
    /// By phase of the plan.
    pub phases: Vec<PhaseStats>,
    /// Right answers of the measured phases, by call.
    pub calls: Vec<Latency>,
    /// Errors of the measured phases by name.
    pub errors: BTreeMap<String, u64>,
    /// When the first and the last of them were seen.
    pub error_span: Option<(SystemTime, SystemTime)>,
    /// Of the measured phases, the longest time from when a request was due to any answer to it.
    pub latest: Duration,
    /// Requests of the measured phases that were sent and got no answer.
    pub unanswered: u64,
    /// Requests of the measured phases that were not sent.
    pub unsent: u64,
    /// Right answers to requests of the measured phases that came in after the plan's end.
    pub after_end: u64,
    /// Wrong answers, also of the warm-up.
    pub wrong: u64,
    /// The first of them.
    pub wrong_examples: Vec<String>,
    /// TLS handshakes with the TCP connection before them.
    pub handshakes: Latency,
    /// Of these, resumed.
    pub resumed: u64,
    /// Of these, done during the measured phases.
    pub measured_handshakes: u64,
    /// Ciphertexts decrypted after the run.
    pub closing_decrypts: u64,
    /// Protocol and cipher suite.
    pub protocol: String,
    /// Who answered, where the proxy says so.
    pub identity: Option<Identity>,
}

impl Stats {
    /// Nothing yet.
    pub fn new(phases: usize) -> Stats {
        Stats {
            phases: vec![PhaseStats::new(); phases],
            calls: vec![latency(); Call::ALL.len()],
            errors: BTreeMap::new(),
            error_span: None,
            latest: Duration::ZERO,
            unanswered: 0,
            unsent: 0,
            after_end: 0,
            wrong: 0,
            wrong_examples: Vec::new(),
            handshakes: latency(),
            resumed: 0,
            measured_handshakes: 0,
            closing_decrypts: 0,
            protocol: String::new(),
            identity: None,
        }
    }

    /// Counts a wrong answer.
    pub fn wrong(&mut self, what: String) {
        self.wrong += 1;
        if self.wrong_examples.len() < WRONG_ANSWERS_REPORTED {
            self.wrong_examples.push(what);
        }
    }

    /// Counts an error by its name, at the time of the call.
    pub fn error(&mut self, name: &str) {
        let now = SystemTime::now();
        self.widen_error_span((now, now));
        self.add_errors(name, 1);
    }

    fn widen_error_span(&mut self, (first, last): (SystemTime, SystemTime)) {
        let (from, to) = self.error_span.unwrap_or((first, last));
        self.error_span = Some((from.min(first), to.max(last)));
    }

    fn add_errors(&mut self, name: &str, count: u64) {
        match self.errors.get_mut(name) {
            Some(known) => *known += count,
            None => {
                self.errors.insert(name.to_owned(), count);
            }
        }
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Stats) {
        for (mine, theirs) in self.phases.iter_mut().zip(&other.phases) {
            mine.add(theirs);
        }
        for (mine, theirs) in self.calls.iter_mut().zip(&other.calls) {
            add(mine, theirs);
        }
        for (name, count) in &other.errors {
            self.add_errors(name, *count);
        }
        if let Some(span) = other.error_span {
            self.widen_error_span(span);
        }
        self.latest = self.latest.max(other.latest);
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        self.after_end += other.after_end;
        let room = WRONG_ANSWERS_REPORTED.saturating_sub(self.wrong_examples.len());
        self.wrong_examples.extend(other.wrong_examples.iter().take(room).cloned());
        self.wrong += other.wrong;
        add(&mut self.handshakes, &other.handshakes);
        self.resumed += other.resumed;
        self.measured_handshakes += other.measured_handshakes;
        self.closing_decrypts += other.closing_decrypts;
        if self.protocol.is_empty() {
            self.protocol.clone_from(&other.protocol);
        }
        if self.identity.is_none() {
            self.identity.clone_from(&other.identity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up_to_what_one_would_have_counted() {
        let (mut one, mut both) = (Stats::new(2), [Stats::new(2), Stats::new(2)]);
        for us in 1..2000_u64 {
            let time = Duration::from_micros(us * us);
            let mine = &mut both[(us % 2) as usize];
            for stats in [&mut one, mine] {
                record(&mut stats.phases[1].latency, time);
                record(&mut stats.calls[0], time);
                stats.phases[1].right += 1;
                stats.error(if us % 3 == 0 { "timeout" } else { "other" });
                stats.latest = stats.latest.max(time);
                stats.after_end += us % 2;
                stats.wrong("w".into());
            }
        }
        let mut sum = Stats::new(2);
        both.iter().for_each(|stats| sum.add(stats));
        for q in [0.0, 0.5, 0.9, 0.99, 0.999, 1.0] {
            assert_eq!(
                sum.phases[1].latency.value_at_quantile(q),
                one.phases[1].latency.value_at_quantile(q)
            );
            assert_eq!(sum.calls[0].value_at_quantile(q), one.calls[0].value_at_quantile(q));
        }
        assert_eq!((sum.phases[1].right, &sum.errors, sum.wrong), (1999, &one.errors, 1999));
        assert_eq!(sum.wrong_examples.len(), WRONG_ANSWERS_REPORTED);
        assert_eq!(sum.latest, one.latest);
        let (first, last) = sum.error_span.unwrap();
        assert!(
            both.iter().all(|stats| stats
                .error_span
                .is_some_and(|span| first <= span.0 && span.1 <= last))
        );
        assert_eq!(Stats::new(1).error_span, None);
    }

    #[test]
    fn times_are_rounded_up_and_held_in_range() {
        let mut histogram = latency();
        record(&mut histogram, Duration::ZERO);
        record(&mut histogram, Duration::from_nanos(1001));
        record(&mut histogram, Duration::from_secs(3600));
        assert_eq!(histogram.len(), 3);
        assert_eq!((histogram.min(), histogram.value_at_quantile(0.5)), (1, 2));
        assert!(histogram.max() >= LATENCY_MAX_US);
    }
}
