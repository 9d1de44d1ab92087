//! The text of a line.

use std::io::{self, Write};
use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;
use time::macros::format_description;

use super::{Format, Level, RequestLine};

/// RFC 3339, UTC, microseconds.
pub(crate) fn timestamp(at: SystemTime) -> String {
    // Always six digits, so that columns stand below each other and lines sort as text.
    OffsetDateTime::from(at)
        .format(format_description!(
            "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
        ))
        .unwrap_or_default()
}

pub(super) fn request_line(
    format: Format,
    text: &mut Vec<u8>,
    at: SystemTime,
    record: &RequestLine,
) {
    #[derive(Serialize)]
    struct Json<'a> {
        time: String,
        level: Level,
        event: &'static str,
        #[serde(flatten)]
        record: &'a RequestLine,
    }
    let level = Level::of_status(record.status);
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

pub(super) fn event_line(
    format: Format,
    text: &mut Vec<u8>,
    at: SystemTime,
    level: Level,
    message: &str,
) {
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
pub(super) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2066}'..='\u{2069}')
}

/// Text from outside on a terminal.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

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
