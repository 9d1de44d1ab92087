//! One line that tells how the run goes, rewritten each second, on a terminal only.

use std::io::{IsTerminal, Write};

use crate::report::Point;
use crate::units::{count, latency};

/// Writes to the terminal behind standard error, if there is one.
pub struct Progress {
    terminal: bool,
    shown: bool,
}

impl Progress {
    /// Looks whether somebody watches.
    pub fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), shown: false }
    }

    /// The last second.
    pub fn second(&mut self, point: &Point, of: f64) {
        self.status(&format!(
            "{:>4} of {of:.0} s  {:>7}/s  p50 {}  p99 {}  p99.9 {}  errors {}",
            point.second + 1,
            count(point.right),
            latency(point.p50),
            latency(point.p99),
            latency(point.p999),
            count(point.errors)
        ));
    }

    /// What is being done now.
    pub fn status(&mut self, text: &str) {
        if self.terminal {
            self.shown = true;
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    }

    /// A line that stays.
    pub fn note(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Default for Progress {
    fn default() -> Progress {
        Progress::new()
    }
}
