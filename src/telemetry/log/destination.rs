//! Where the log goes: standard error, systemd's journal, the machine's syslog daemon, or a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde_json::{Map, Value};

use super::Level;
use super::line::timestamp;
use crate::telemetry::host::{is_word, name_for_syslog};

/// Where systemd-journald and syslog daemons listen.
const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";
/// Of a new file: its group may read it.
const FILE_MODE: u32 = 0o640;
/// Facility "system daemons": RFC 5424, 6.2.1.
const FACILITY: u8 = 3;
/// Of a field's name: systemd.journal-fields(7).
const FIELD_CHARS_MAX: usize = 64;

/// What lines are written to.
pub(super) type Out = Box<dyn Write + Send>;

/// Where the log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Standard error.
    Stderr,
    /// systemd's journal, each value of a line in a field.
    Journal,
    /// The syslog daemon of the machine.
    Syslog,
    /// A file, which is opened again when [`Log::reopen`](super::Log::reopen) says so.
    File(PathBuf),
}

impl Destination {
    /// Whether there is a daemon to send to, where one is needed.
    ///
    /// # Errors
    /// Why none can be reached.
    pub(super) fn reach(&self) -> io::Result<()> {
        match self {
            Destination::Journal => reach(Path::new(JOURNAL)),
            Destination::Syslog => reach(Path::new(SYSLOG)),
            Destination::Stderr | Destination::File(_) => Ok(()),
        }
    }

    /// What lines are written to. `reopen` is watched by a file.
    ///
    /// # Errors
    /// When a file cannot be opened. Who has no daemon to send to finds out at the first line.
    pub(super) fn open(self, reopen: Arc<AtomicBool>) -> io::Result<Out> {
        let lines = |socket: &str, encode| -> io::Result<Out> {
            let (socket, datagrams) = (socket.into(), UnixDatagram::unbound()?);
            Ok(Box::new(Datagrams { socket, datagrams, encode }))
        };
        match self {
            Destination::Stderr => Ok(Box::new(io::stderr())),
            Destination::Journal => lines(JOURNAL, journal_entry),
            Destination::Syslog => lines(SYSLOG, syslog_message),
            Destination::File(path) => {
                let file = append(&path)?;
                Ok(Box::new(Reopened { path, file, reopen }))
            }
        }
    }
}

fn reach(socket: &Path) -> io::Result<()> {
    UnixDatagram::unbound()?.connect(socket)
}

fn append(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // A FIFO that nobody reads would be waited for without end: by a reload, and by each after it.
    options
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    options.open(path).map_err(|error| match error.raw_os_error() {
        Some(code) if code == Errno::NXIO.raw_os_error() => {
            io::Error::new(error.kind(), "it is a FIFO that nobody reads, or a socket")
        }
        _ => error,
    })
}

/// A file that others rename.
struct Reopened {
    path: PathBuf,
    file: File,
    reopen: Arc<AtomicBool>,
}

impl Write for Reopened {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.reopen.load(Ordering::Relaxed) {
            // Where it cannot be, the old one is better than none; it is tried again.
            self.file = append(&self.path)?;
            self.reopen.store(false, Ordering::Relaxed);
        }
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes a datagram of a line of JSON.
type Encode = fn(&[u8], &Map<String, Value>) -> Vec<u8>;

/// Each line is a datagram.
struct Datagrams {
    socket: PathBuf,
    datagrams: UnixDatagram,
    encode: Encode,
}

impl Write for Datagrams {
    /// Takes the first line.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let line = &bytes[..end];
        let values = serde_json::from_slice(line).unwrap_or_default();
        if !line.is_empty() {
            self.datagrams.send_to(&(self.encode)(line, &values), &self.socket)?;
        }
        Ok((end + 1).min(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// RFC 5424, 6.2.1.
fn severity(values: &Map<String, Value>) -> u8 {
    match values.get("level").and_then(Value::as_str) {
        Some(level) if level == Level::Error.name() => 3,
        Some(level) if level == Level::Warn.name() => 4,
        _ => 6,
    }
}

/// In the journal's own protocol: the line is MESSAGE, as on standard error, so that the same
/// programs read it; and each of its values is a field beside it.
fn journal_entry(line: &[u8], values: &Map<String, Value>) -> Vec<u8> {
    let mut entry = Vec::with_capacity(2 * line.len() + 256);
    let mut field = |name: &str, value: &[u8]| {
        entry.extend_from_slice(name.as_bytes());
        // With its length, so that a line end in it begins no field.
        entry.push(b'\n');
        entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        entry.extend_from_slice(value);
        entry.push(b'\n');
    };
    field("MESSAGE", line);
    field("PRIORITY", severity(values).to_string().as_bytes());
    field("SYSLOG_IDENTIFIER", b"xksd");
    for (name, value) in values {
        match value {
            // The journal has its own.
            _ if name == "time" || name == "level" => {}
            Value::String(text) => field(&field_name(name), text.as_bytes()),
            Value::Null => {}
            other => field(&field_name(name), other.to_string().as_bytes()),
        }
    }
    entry
}

/// `kmsRequestId` becomes `XKSD_KMS_REQUEST_ID`.
fn field_name(name: &str) -> String {
    let mut field = String::from("XKSD_");
    let mut after_small = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && after_small {
            field.push('_');
        }
        after_small = c.is_ascii_lowercase();
        field.push(if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    }
    field.truncate(FIELD_CHARS_MAX);
    field
}

/// RFC 5424. The message is the line of JSON; MSGID is its event.
fn syslog_message(line: &[u8], values: &Map<String, Value>) -> Vec<u8> {
    let text = |name: &str| values.get(name).and_then(Value::as_str);
    let now = || timestamp(SystemTime::now());
    let time = text("time").filter(|word| is_word(word)).map_or_else(now, ToOwned::to_owned);
    let event = text("event").filter(|word| is_word(word)).unwrap_or("-");
    let host = name_for_syslog();
    let (priority, process) = (FACILITY * 8 + severity(values), std::process::id());
    let mut message = format!("<{priority}>1 {time} {host} xksd {process} {event} - ").into_bytes();
    message.extend_from_slice(line);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"time":"2026-11-29T00:00:00.000000Z","level":"error","event":"request","kmsRequestId":"id","principal":"a\nFAKE=1","status":500,"client":null}"#;

    fn values() -> Map<String, Value> {
        serde_json::from_str(LINE).unwrap()
    }

    #[test]
    fn a_line_is_a_datagram() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("log");
        let daemon = UnixDatagram::bind(&socket).unwrap();
        let datagrams = UnixDatagram::unbound().unwrap();
        let mut out = Datagrams { socket, datagrams, encode: |line, _| line.to_vec() };
        out.write_all(b"{\"a\":1}\n\nno JSON\nlast").unwrap();
        let mut buffer = [0; 100];
        for expected in ["{\"a\":1}", "no JSON", "last"] {
            let length = daemon.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected.as_bytes());
        }
        drop(daemon);
        assert!(out.write_all(b"lost\n").is_err(), "counted by who writes");
    }

    /// As systemd describes it under "Native Journal Protocol".
    #[test]
    fn a_journal_entry_has_each_value_in_a_field_and_no_value_begins_one() {
        let entry = journal_entry(LINE.as_bytes(), &values());
        let (mut rest, mut fields) = (&entry[..], Vec::new());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let name = String::from_utf8(rest[..end].to_vec()).unwrap();
            let (length, after) = rest[end + 1..].split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            fields.push((name, String::from_utf8(after[..length].to_vec()).unwrap()));
            assert_eq!(after[length], b'\n');
            rest = &after[length + 1..];
        }
        for (name, value) in [
            ("MESSAGE", LINE),
            ("PRIORITY", "3"),
            ("XKSD_KMS_REQUEST_ID", "id"),
            ("XKSD_PRINCIPAL", "a\nFAKE=1"),
            ("XKSD_STATUS", "500"),
        ] {
            assert!(fields.contains(&(name.to_owned(), value.to_owned())), "{name}: {fields:?}");
        }
        assert!(!fields.iter().any(|(name, _)| name == "FAKE" || name == "XKSD_CLIENT"));
        assert_eq!(field_name("kmsViaService"), "XKSD_KMS_VIA_SERVICE");
        assert_eq!(field_name("queue_us"), "XKSD_QUEUE_US");
    }

    #[test]
    fn a_syslog_message_has_the_head_that_rfc_5424_wants() {
        let message = String::from_utf8(syslog_message(LINE.as_bytes(), &values())).unwrap();
        assert!(message.starts_with("<27>1 2026-11-29T00:00:00.000000Z "), "{message}");
        assert!(message.ends_with(&format!(" request - {LINE}")), "{message}");
        assert_eq!(message.split(' ').nth(3), Some("xksd"), "{message}");
        let of_nothing = String::from_utf8(syslog_message(b"x", &Map::new())).unwrap();
        assert!(
            of_nothing.starts_with("<30>1 2") && of_nothing.ends_with(" - - x"),
            "{of_nothing}"
        );
    }

    #[test]
    fn a_daemon_that_is_not_there_is_not_reached() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("log");
        assert!(reach(&socket).is_err());
        let daemon = UnixDatagram::bind(&socket).unwrap();
        assert!(reach(&socket).is_ok());
        drop(daemon);
        assert!(reach(&socket).is_err());
    }

    #[test]
    fn a_fifo_without_a_reader_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (path, reopen) = (dir.path().join("fifo"), Arc::new(AtomicBool::new(false)));
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        let open = || Destination::File(path.clone()).open(reopen.clone());
        let refused = open().err().unwrap().to_string();
        assert!(refused.contains("a FIFO that nobody reads"), "{refused}");
        // With one it takes lines, until the file is opened again without one.
        let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
        let reader = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path).unwrap();
        let mut out = open().unwrap();
        out.write_all(b"one\n").unwrap();
        let mut line = [0; 4];
        io::Read::read_exact(&mut &reader, &mut line).unwrap();
        assert_eq!(&line, b"one\n");
        drop(reader);
        reopen.store(true, Ordering::Relaxed);
        assert!(out.write_all(b"two\n").is_err());
    }

    #[test]
    fn a_file_that_was_renamed_is_opened_again_when_it_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("xksd.log"), dir.path().join("xksd.log.1"));
        let reopen = Arc::new(AtomicBool::new(false));
        let mut out = Destination::File(path.clone()).open(reopen.clone()).unwrap();
        out.write_all(b"one\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        out.write_all(b"two\n").unwrap();
        reopen.store(true, Ordering::Relaxed);
        out.write_all(b"three\n").unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }
}
