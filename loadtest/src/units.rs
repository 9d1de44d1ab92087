//! Times, sizes and numbers as people write and read them.

use std::time::Duration;

/// Reads `250ms`, `5s`, `1.5m`, `800us`, `1h`.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: a number with us, ms, s, m or h, as in 250ms");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())
}

/// Microseconds for a person: `87 µs`, `1.24 ms`, `250 ms`, `3.1 s`.
pub fn micros(us: u64) -> String {
    match us {
        0..=999 => format!("{us} µs"),
        1_000..=9_999 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..=99_999 => format!("{:.1} ms", us as f64 / 1e3),
        100_000..=999_999 => format!("{:.0} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// The same for a latency out of a histogram. Each of these is 1 µs at least: 0 is that of no
/// answer, and no time.
pub fn latency(us: u64) -> String {
    if us == 0 { "–".into() } else { micros(us) }
}

/// Seconds for a person: `20 s`, `2.5 s`, `10 min`.
pub fn seconds(seconds: f64) -> String {
    let tenths = (seconds * 10.0).round() / 10.0;
    if tenths >= 120.0 && tenths % 60.0 == 0.0 {
        format!("{} min", tenths / 60.0)
    } else {
        format!("{tenths} s")
    }
}

/// A whole number with thousands separated: `76,367`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many of something: `1 worker`, `1,000 workers`.
pub fn counted(n: u64, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {what}{plural}", count(n))
}

/// A rate or another figure of which the fraction only matters when it is small.
pub fn figure(x: f64) -> String {
    if x >= 100.0 {
        count(x.round() as u64)
    } else if x >= 10.0 {
        format!("{x:.1}")
    } else {
        format!("{x:.2}")
    }
}

/// Sizes in bytes: one, or each from a range with equal chance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Smallest.
    pub from: usize,
    /// Largest.
    pub to: usize,
}

/// Reads `32` or `0..8192` (both ends included), at most `max`.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn sizes(text: &str, max: usize) -> Result<Sizes, String> {
    let wrong = || format!("{text:?} is no size: bytes up to {max}, or a range as in 0..{max}");
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let from: usize = from.trim().parse().map_err(|_| wrong())?;
    let to: usize = to.trim().parse().map_err(|_| wrong())?;
    if from > to || to > max { Err(wrong()) } else { Ok(Sizes { from, to }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("800us"), Ok(Duration::from_micros(800)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "5", "ms", "-1s", "5 parsecs", "1e400s", "NaNs"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_ranges() {
        assert_eq!(sizes("32", 4300), Ok(Sizes { from: 32, to: 32 }));
        assert_eq!(sizes("0..4300", 4300), Ok(Sizes { from: 0, to: 4300 }));
        for wrong in ["4301", "5..4", "x", "", "..", "0..4301"] {
            assert!(sizes(wrong, 4300).is_err(), "{wrong}");
        }
    }

    #[test]
    fn figures_for_people() {
        assert_eq!(
            (count(0), count(999), count(1000), count(76367), count(1_234_567)).4,
            "1,234,567"
        );
        assert_eq!(count(1000), "1,000");
        assert_eq!(
            [0, 1, 1000].map(|n| counted(n, "worker")),
            ["0 workers", "1 worker", "1,000 workers"]
        );
        assert_eq!(
            [87, 1_240, 24_500, 250_000, 3_100_000].map(micros),
            ["87 µs", "1.24 ms", "24.5 ms", "250 ms", "3.10 s"]
        );
        assert_eq!(
            [20.0, 2.49, 60.0, 600.0, 601.0].map(seconds),
            ["20 s", "2.5 s", "60 s", "10 min", "601 s"]
        );
        assert_eq!([0, 1].map(latency), ["–", "1 µs"]);
        assert_eq!([1800.2, 12.34, 0.5].map(figure), ["1,800", "12.3", "0.50"]);
    }
}
