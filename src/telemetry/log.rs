//! The log: one line a request and one an event, on standard error, JSON or text.
//!
//! Lines are made and written on their own thread, behind a bounded queue: a terminal or pipe
//! that stalls costs lines (counted), never a request's time.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::limits::{LOG_QUEUE_LINES, LOG_RECORDS_KEPT_MAX};

/// A line is written at most this much later.
const GATHER_TIME: Duration = Duration::from_millis(2);

/// Form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Text,
}

/// Weight of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Normal course.
    Info,
    /// Serves, but someone should look.
    Warn,
    /// Something does not serve.
    Error,
}

/// What is logged of one request. Never plaintext, ciphertext or secrets.
#[derive(Debug, Default, Serialize)]
pub struct RequestLine {
    /// What CloudTrail shows; empty where the request did not tell it.
    #[serde(rename = "kmsRequestId")]
    pub kms_request_id: String,
    /// Path prefix of the key store.
    pub key_store: Arc<str>,
    /// External key id as in the path.
    pub key: String,
    /// `encrypt`, `decrypt`, `metadata`, `health`, `none`.
    pub operation: &'static str,
    /// The KMS call behind it.
    #[serde(rename = "kmsOperation")]
    pub kms_operation: String,
    /// awsPrincipalArn.
    pub principal: String,
    /// kmsKeyArn.
    #[serde(rename = "kmsKeyArn", skip_serializing_if = "String::is_empty")]
    pub kms_key_arn: String,
    /// kmsViaService.
    #[serde(rename = "kmsViaService", skip_serializing_if = "String::is_empty")]
    pub kms_via_service: String,
    /// awsSourceVpc.
    #[serde(rename = "awsSourceVpc", skip_serializing_if = "String::is_empty")]
    pub source_vpc: String,
    /// awsSourceVpce.
    #[serde(rename = "awsSourceVpce", skip_serializing_if = "String::is_empty")]
    pub source_vpce: String,
    /// The credential that signed; empty unless authenticated.
    pub access_key_id: Arc<str>,
    /// The ids of the policies that decided.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// Why policies in a dry run would have denied what they let pass.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub dry_run: &'static str,
    /// Peer address.
    pub client: Option<SocketAddr>,
    /// HTTP status.
    pub status: u16,
    /// errorName, or `none`.
    pub error: &'static str,
    /// Why, for the operator: more than the client gets.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Key manager that did it.
    pub key_manager: Arc<str>,
    /// First byte to answer, microseconds.
    pub total_us: u64,
    /// Waiting for a session, microseconds.
    pub queue_us: u64,
    /// In the key manager, microseconds.
    pub hsm_us: u64,
    /// Shard that served it.
    pub shard: usize,
}

impl RequestLine {
    /// As new, but for the memory of its texts. What is not named here is new: nothing of one
    /// request can stand in another one's line.
    fn renew(&mut self) {
        fn emptied(text: &mut String) -> String {
            text.clear();
            std::mem::take(text)
        }
        *self = RequestLine {
            kms_request_id: emptied(&mut self.kms_request_id),
            key: emptied(&mut self.key),
            kms_operation: emptied(&mut self.kms_operation),
            principal: emptied(&mut self.principal),
            kms_key_arn: emptied(&mut self.kms_key_arn),
            kms_via_service: emptied(&mut self.kms_via_service),
            source_vpc: emptied(&mut self.source_vpc),
            source_vpce: emptied(&mut self.source_vpce),
            policy: emptied(&mut self.policy),
            ..RequestLine::default()
        };
    }
}

enum Line {
    Request(SystemTime, Box<RequestLine>),
    Event(SystemTime, Level, String),
    /// Everything before it is written when this is answered.
    Flush(Sender<()>),
}

/// Handle of the log; cheap to clone.
#[derive(Clone)]
pub struct Log {
    lines: Sender<Line>,
    /// Records that were written, to be used again.
    written: Receiver<Box<RequestLine>>,
    dropped: Arc<AtomicU64>,
}

impl Log {
    /// Starts the writer on `out`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        format: Format,
        out: impl Write + Send + 'static,
    ) -> std::io::Result<(Log, JoinHandle<()>)> {
        let (lines, queue) = bounded(LOG_QUEUE_LINES);
        let (give_back, written) = bounded(LOG_RECORDS_KEPT_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let log = Log { lines, written, dropped: dropped.clone() };
        let writer = std::thread::Builder::new()
            .name("xksd-log".into())
            .spawn(move || write_lines(format, out, &queue, &give_back, &dropped))?;
        Ok((log, writer))
    }

    /// An empty record to be filled and given to [`Log::request`]. In memory that has been used for
    /// one before, where there is some: a record is half of what a request would allocate, and
    /// would be freed on another thread than it was made on.
    pub fn line(&self) -> Box<RequestLine> {
        self.written.try_recv().unwrap_or_default()
    }

    /// Queues a request's line; dropped and counted when the writer is behind.
    pub fn request(&self, record: Box<RequestLine>) {
        self.send(Line::Request(SystemTime::now(), record));
    }

    /// Queues an event's line.
    pub fn event(&self, level: Level, message: impl Into<String>) {
        self.send(Line::Event(SystemTime::now(), level, message.into()));
    }

    /// Lines dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until all that was queued before is written, or `patience` is over.
    pub fn flush(&self, patience: Duration) {
        let (done, written) = bounded(1);
        if self.lines.send_timeout(Line::Flush(done), patience).is_ok() {
            let _ = written.recv_timeout(patience);
        }
    }

    fn send(&self, line: Line) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.lines.try_send(line)
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write_lines(
    format: Format,
    out: impl Write,
    queue: &Receiver<Line>,
    give_back: &Sender<Box<RequestLine>>,
    dropped: &AtomicU64,
) {
    let mut told_of = 0;
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, out);
    let mut text = Vec::with_capacity(1024);
    while let Ok(first) = queue.recv() {
        let mut next = Some(first);
        while let Some(line) = next {
            text.clear();
            match line {
                Line::Request(at, mut record) => {
                    request_line(format, &mut text, at, &record);
                    record.renew();
                    // Enough of them are kept already.
                    let _ = give_back.try_send(record);
                }
                Line::Event(at, level, message) => {
                    event_line(format, &mut text, at, level, &message)
                }
                Line::Flush(done) => {
                    let _ = out.flush();
                    let _ = done.send(());
                }
            }
            // A log that cannot be written (closed pipe) must not end the service; there is nowhere
            // to tell it.
            let _ = out.write_all(&text);
            next = queue.try_recv().ok();
        }
        // Who reads the log as a record must see where it has a gap, and the gap is before here.
        let lost = dropped.load(Ordering::Relaxed);
        if lost > told_of {
            text.clear();
            let told = format!(
                "{} lines of this log are lost: it was not written as fast as they came",
                lost - told_of
            );
            event_line(format, &mut text, SystemTime::now(), Level::Error, &told);
            let _ = out.write_all(&text);
            told_of = lost;
        }
        let _ = out.flush();
        // Lines gather meanwhile: while the writer waits in the queue, each line costs its shard a
        // system call to wake it.
        std::thread::sleep(GATHER_TIME);
    }
}

/// RFC 3339, UTC, microseconds.
pub(crate) fn timestamp(at: SystemTime) -> String {
    // Always six digits, so that columns stand below each other and lines sort as text.
    OffsetDateTime::from(at)
        .format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
        ))
        .unwrap_or_default()
}

fn request_line(format: Format, text: &mut Vec<u8>, at: SystemTime, record: &RequestLine) {
    #[derive(Serialize)]
    struct Json<'a> {
        time: String,
        level: Level,
        event: &'static str,
        #[serde(flatten)]
        record: &'a RequestLine,
    }
    let level = match record.status {
        // What the request asks is not supported: nothing here has failed.
        501 => Level::Warn,
        500.. => Level::Error,
        400.. => Level::Warn,
        _ => Level::Info,
    };
    match format {
        Format::Json => {
            let _ =
                write_json(text, &Json { time: timestamp(at), level, event: "request", record });
        }
        Format::Text => {
            let _ = write!(
                text,
                "{} {} {} {}{} {} {} µs (queue {}, hsm {}) id={} principal={}",
                timestamp(at),
                record.status,
                record.operation,
                Printable(&record.key_store),
                if record.key.is_empty() {
                    String::new()
                } else {
                    format!(" key={}", Printable(&record.key))
                },
                if record.error == "none" { "ok" } else { record.error },
                record.total_us,
                record.queue_us,
                record.hsm_us,
                Printable(&record.kms_request_id),
                Printable(&record.principal),
            );
            if !record.detail.is_empty() {
                let _ = write!(text, " – {}", Printable(&record.detail));
            }
        }
    }
    text.push(b'\n');
}

fn event_line(format: Format, text: &mut Vec<u8>, at: SystemTime, level: Level, message: &str) {
    #[derive(Serialize)]
    struct Json<'a> {
        time: String,
        level: Level,
        event: &'static str,
        message: &'a str,
    }
    match format {
        Format::Json => {
            let _ =
                write_json(text, &Json { time: timestamp(at), level, event: "message", message });
        }
        Format::Text => {
            let word = match level {
                Level::Info => "info",
                Level::Warn => "WARNING",
                Level::Error => "ERROR",
            };
            let _ = write!(text, "{} {word} {}", timestamp(at), Printable(message));
        }
    }
    text.push(b'\n');
}

/// Whether a character of a text from outside could forge a line, steer a terminal, or turn what
/// stands beside it around.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text from outside on a terminal.
struct Printable<'a>(&'a str);

impl std::fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write;
        self.0.chars().try_for_each(|c| f.write_char(if is_harmful(c) { '\u{fffd}' } else { c }))
    }
}

/// One line of JSON, without its end; nothing in it can steer a terminal.
pub(crate) fn write_json(text: &mut Vec<u8>, line: &impl Serialize) -> serde_json::Result<()> {
    line.serialize(&mut serde_json::Serializer::with_formatter(text, Harmless))
}

/// JSON that also escapes what serde_json leaves as it is: harmful characters beyond ASCII.
struct Harmless;

impl serde_json::ser::Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        if fragment.is_ascii() {
            return writer.write_all(fragment.as_bytes());
        }
        for c in fragment.chars() {
            if is_harmful(c) {
                write!(writer, "\\u{:04x}", u32::from(c))?
            } else {
                write!(writer, "{c}")?
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: Format, fill: impl FnOnce(&Log)) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (log, _writer) = Log::start(format, file.reopen().unwrap()).unwrap();
        fill(&log);
        log.flush(Duration::from_secs(10));
        std::fs::read_to_string(file.path()).unwrap()
    }

    const HOSTILE: &str = "é\n{\"forged\": true}\u{1b}[2J\u{9b}2J\u{2028}\u{202e}\u{2066}";

    fn hostile() -> Box<RequestLine> {
        Box::new(RequestLine {
            kms_request_id: HOSTILE.into(),
            operation: "encrypt",
            error: "none",
            status: 200,
            ..RequestLine::default()
        })
    }

    #[test]
    fn a_json_line_stays_one_line_and_parses() {
        let text = written(Format::Json, |log| log.request(hostile()));
        assert_eq!(text.lines().count(), 1, "{text}");
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["kmsRequestId"], HOSTILE);
        assert!(text.contains("é") && !text.trim_end().contains(is_harmful), "{text}");
        assert_eq!(json["event"], "request");
    }

    #[test]
    fn a_text_line_cannot_be_forged_or_steer_the_terminal() {
        let text = written(Format::Text, |log| {
            log.request(hostile());
            log.event(Level::Warn, "two\nlines");
        });
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(!text.replace('\n', "").contains(is_harmful), "{text}");
    }

    #[test]
    fn a_record_comes_back_as_new() {
        let (log, _writer) = Log::start(Format::Json, std::io::sink()).unwrap();
        let mut record = log.line();
        let new = format!("{record:?}");
        let filled = RequestLine {
            kms_request_id: "id".into(),
            key_store: "/a".into(),
            key: "foo".into(),
            operation: "encrypt",
            kms_operation: "Encrypt".into(),
            principal: "arn:principal".into(),
            kms_key_arn: "arn:key".into(),
            kms_via_service: "ebs".into(),
            source_vpc: "vpc".into(),
            source_vpce: "vpce".into(),
            access_key_id: "ID".into(),
            policy: "s3-only".into(),
            dry_run: "a policy forbids it",
            client: Some(([127, 0, 0, 1], 1).into()),
            status: 200,
            error: "none",
            detail: "why".into(),
            key_manager: "hsm-a".into(),
            total_us: 1,
            queue_us: 2,
            hsm_us: 3,
            shard: 4,
        };
        *record = filled;
        let text = record.principal.as_ptr();
        log.request(record);
        log.flush(Duration::from_secs(10));
        let again = log.line();
        assert_eq!(format!("{again:?}"), new);
        assert_eq!(
            (again.principal.as_ptr(), again.principal.capacity()),
            (text, "arn:principal".len()),
            "in the same memory"
        );
        assert_ne!(log.line().principal.as_ptr(), text, "there was one");
    }

    #[test]
    fn a_stalled_reader_costs_lines_that_are_counted_and_told_and_no_time() {
        struct Stalled(Receiver<()>, std::fs::File);
        impl Write for Stalled {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                self.1.write(bytes)
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let (release, stall) = bounded(0);
        let (log, writer) =
            Log::start(Format::Text, Stalled(stall, file.reopen().unwrap())).unwrap();
        let long = "x".repeat(100);
        for _ in 0..3 * LOG_QUEUE_LINES {
            log.event(Level::Info, long.as_str());
        }
        let dropped = log.dropped();
        assert!(dropped >= LOG_QUEUE_LINES as u64, "{dropped}");
        drop(release);
        drop(log);
        writer.join().unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.matches(&long).count() as u64 + dropped, 3 * LOG_QUEUE_LINES as u64);
        let told: Vec<&str> =
            text.lines().filter(|line| line.contains("lines of this log are lost")).collect();
        assert!(
            matches!(told[..], [line] if line.contains(&format!("{dropped} lines"))),
            "{told:?}"
        );
    }
}
