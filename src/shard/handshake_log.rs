//! Failed handshakes in the log.
//!
//! Each reason has its own share of lines, so that a flood of one (a port scan, a load balancer
//! that only opens connections) neither floods the log nor hides another: the refused certificate
//! of AWS KMS.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Instant;

use crate::limits::{HANDSHAKE_LOG_LINES_MAX, UNAUTHENTICATED_LOG_INTERVAL};
use crate::telemetry::{Level, Log, LogLimiter};
use crate::tls::HandshakeFailure;

/// Has its own lines in the limiter, beside the reasons of handshakes.
const WITHDRAWN: &str = "withdrawn";

/// One shard's.
pub(super) struct HandshakeLog {
    log: Log,
    limiter: RefCell<LogLimiter>,
}

impl HandshakeLog {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            limiter: RefCell::new(LogLimiter::new(
                HANDSHAKE_LOG_LINES_MAX,
                UNAUTHENTICATED_LOG_INTERVAL,
            )),
        }
    }

    /// Logs a failure, or counts it among those left out.
    pub(super) fn write(&self, client: SocketAddr, failure: &HandshakeFailure, now: Instant) {
        self.sweep(now);
        if self.limiter.borrow_mut().take(failure.reason(), now) {
            self.log.event(
                level(failure.reason()),
                format!("TLS handshake with {client} failed: {failure}"),
            );
        }
    }

    /// Logs that an open connection ended because its client is no longer admitted.
    pub(super) fn write_withdrawn(
        &self,
        client: SocketAddr,
        failure: &HandshakeFailure,
        now: Instant,
    ) {
        self.sweep(now);
        if self.limiter.borrow_mut().take(WITHDRAWN, now) {
            let message = format!(
                "the connection of {client} ended: since the last reload its client certificate \
                 is refused: {failure}"
            );
            self.log.event(Level::Warn, message);
        }
    }

    /// Logs how many were left out, once their interval is over. To be called now and then.
    pub(super) fn sweep(&self, now: Instant) {
        self.limiter.borrow_mut().sweep(now, |reason, left_out| {
            let message = match reason {
                WITHDRAWN => format!("{left_out} more connections ended after a reload"),
                _ => format!("{left_out} more TLS handshakes failed: {reason}"),
            };
            self.log.event(level(reason), message);
        });
    }
}

fn level(reason: &str) -> Level {
    match reason {
        // Health checks that only open a connection.
        "closed" => Level::Info,
        _ => Level::Warn,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;
    use crate::telemetry::log::Format;

    /// Lines logged since the last call.
    fn lines(log: &Log, file: &File) -> Vec<String> {
        log.flush(Duration::from_secs(10));
        std::io::read_to_string(file).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_flood_of_one_reason_is_bounded_counted_and_hides_no_other() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (log, _writer) = Log::start(Format::Text, file.reopen().unwrap()).unwrap();
        let file = file.as_file();
        let handshakes = HandshakeLog::new(log.clone());
        let client = "192.0.2.1:4444".parse().unwrap();
        let (flood, start) = (HandshakeFailure::timed_out(), Instant::now());
        let almost = start + UNAUTHENTICATED_LOG_INTERVAL - Duration::from_millis(1);
        for _ in 0..HANDSHAKE_LOG_LINES_MAX {
            handshakes.write(client, &flood, start);
        }
        assert_eq!(lines(&log, file).len() as u32, HANDSHAKE_LOG_LINES_MAX);
        for _ in 0..3 {
            handshakes.write(client, &flood, almost);
        }
        handshakes.sweep(almost);
        assert_eq!(lines(&log, file), Vec::<String>::new());
        let closed = HandshakeFailure::of_io(&std::io::ErrorKind::UnexpectedEof.into(), None);
        handshakes.write(client, &closed, almost);
        let other = lines(&log, file);
        assert!(
            other.len() == 1
                && other[0].contains("info TLS handshake with 192.0.2.1:4444 failed: closed"),
            "{other:?}"
        );

        handshakes.sweep(start + UNAUTHENTICATED_LOG_INTERVAL);
        let counted = lines(&log, file);
        assert!(
            counted.len() == 1
                && counted[0].ends_with("WARNING 3 more TLS handshakes failed: timeout"),
            "{counted:?}"
        );
        handshakes.write(client, &flood, start + UNAUTHENTICATED_LOG_INTERVAL);
        assert_eq!(lines(&log, file).len(), 1);
    }
}
