//! The log: one line a request and one an event, JSON or text, on standard error or elsewhere.
//!
//! Lines are made and written on their own thread, behind a bounded queue: a terminal or pipe
//! that stalls costs lines (counted), never a request's time. So do lines that cannot be written.

mod destination;
mod line;
mod output;
mod panics;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use serde::Serialize;

pub use self::destination::Destination;
use self::destination::Out;
pub(crate) use self::line::{Printable, timestamp, write_json};
pub use self::output::Lost;
use self::output::Output;
pub use self::panics::log_panics;
use super::request_line::RequestLine;
use super::spans::Spans;
use crate::limits::{LOG_QUEUE_LINES, LOG_RECORDS_KEPT_MAX};

/// The name of the thread that writes.
const THREAD: &str = "xksd-log";
/// A line is written at most this much later.
const GATHER_TIME_MAX: Duration = Duration::from_millis(50);
/// Lines are written at most this often, however many come.
const GATHER_TIME_MIN: Duration = Duration::from_millis(2);
/// So many lines are to gather: half of the records that there are.
const GATHERED_LINES: u32 = (LOG_RECORDS_KEPT_MAX / 2) as u32;
/// While no line comes, the log tries this often to say that lines are lost.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// Form of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For a person at a terminal.
    Text,
}

/// Weight of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Normal course.
    Info,
    /// Serves, but someone should look.
    Warn,
    /// Something does not serve.
    Error,
}

impl Level {
    /// As it stands in a line.
    fn name(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }

    /// Of a request's line.
    fn of_status(status: u16) -> Level {
        match status {
            // What the request asks is not supported: nothing here has failed.
            501 => Level::Warn,
            500.. => Level::Error,
            400.. => Level::Warn,
            _ => Level::Info,
        }
    }
}

enum Line {
    Request(SystemTime, Box<RequestLine>, HasLine),
    Event(SystemTime, Level, String),
    /// Everything before it is written when this is answered.
    Flush(Sender<()>),
    /// The same; what comes after it goes elsewhere.
    Divert(Opened, Sender<()>),
}

/// A place for lines, and their form there.
pub struct Opened {
    wanted: Arc<Wanted>,
    format: Format,
    out: Out,
}

/// As it was asked for.
type Wanted = (Format, Destination);

impl Opened {
    fn new(format: Format, destination: Destination, reopen: &Arc<AtomicBool>) -> io::Result<Self> {
        let wanted = Arc::new((format, destination.clone()));
        // What reads datagrams reads JSON.
        let format = match destination {
            Destination::Journal | Destination::Syslog => Format::Json,
            Destination::Stderr | Destination::File(_) => format,
        };
        Ok(Opened { wanted, format, out: destination.open(reopen.clone())? })
    }
}

/// What became of [`Log::divert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diverted {
    /// All lines of before are written.
    Now,
    /// They are not written yet; it will be as soon as they are.
    Later,
    /// Lines are lost already, so many wait. It will not be.
    Never,
}

/// Whether a request's record becomes a line; if not, it is only for a span.
type HasLine = bool;

/// Handle of the log; cheap to clone.
#[derive(Clone)]
pub struct Log {
    lines: Sender<Line>,
    /// Records that were written, to be used again.
    written: Receiver<Box<RequestLine>>,
    lost: Arc<Lost>,
    /// Lighter lines are not written.
    level: Arc<AtomicUsize>,
    /// Where requests become spans, too.
    spans: Arc<ArcSwapOption<Spans>>,
    /// Set where the file is to be opened again.
    reopen: Arc<AtomicBool>,
    /// Where lines go, or will once those of before are written.
    place: Arc<ArcSwap<Wanted>>,
    /// Places that lines do not go to yet.
    awaited: Arc<AtomicUsize>,
}

impl Log {
    /// Starts the writer on `out`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(
        format: Format,
        out: impl Write + Send + 'static,
    ) -> io::Result<(Log, JoinHandle<()>)> {
        let wanted = Arc::new((format, Destination::Stderr));
        Log::start_with(Opened { wanted, format, out: Box::new(out) }, Arc::default())
    }

    /// Starts the writer on `destination`.
    ///
    /// # Errors
    /// When it cannot be opened, or no thread can be started.
    pub fn open(format: Format, destination: Destination) -> io::Result<Log> {
        let reopen = Arc::<AtomicBool>::default();
        let opened = Opened::new(format, destination, &reopen)?;
        Log::start_with(opened, reopen).map(|(log, _writer)| log)
    }

    fn start_with(opened: Opened, reopen: Arc<AtomicBool>) -> io::Result<(Log, JoinHandle<()>)> {
        let (lines, queue) = bounded(LOG_QUEUE_LINES);
        let (give_back, written) = bounded(LOG_RECORDS_KEPT_MAX);
        let lost = Arc::new(Lost::default());
        let spans = Arc::<ArcSwapOption<Spans>>::default();
        let (level, traced) = (Arc::default(), spans.clone());
        let place = Arc::new(ArcSwap::new(opened.wanted.clone()));
        let log = Log {
            lines,
            written,
            lost: lost.clone(),
            level,
            spans,
            reopen,
            place,
            awaited: Arc::default(),
        };
        let moved = log.awaited.clone();
        let writer = std::thread::Builder::new().name(THREAD.into()).spawn(move || {
            let Opened { format, out, .. } = opened;
            write_lines(format, Output::new(out, &lost), &queue, &give_back, (&traced, &moved))
        })?;
        Ok((log, writer))
    }

    /// An empty record to be filled and given to [`Log::request`]. In memory that has been used for
    /// one before, if there is some: a record is half of what a request would allocate, and
    /// would be freed on another thread than it was made on.
    pub fn line(&self) -> Box<RequestLine> {
        self.written.try_recv().unwrap_or_default()
    }

    /// From now on lines of this weight are written, and of more.
    pub fn set_level(&self, level: Level) {
        self.level.store(level as usize, Ordering::Relaxed);
    }

    /// From now on requests become spans, too, or do not.
    pub fn set_spans(&self, spans: Option<Spans>) {
        self.spans.store(spans.map(Arc::new));
    }

    /// Has the next line open its file again, which somebody has renamed.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }

    /// Opens another place for lines, for [`Log::divert`]; `None` where they go there already.
    ///
    /// # Errors
    /// When it cannot be opened, or nobody is there who would read.
    pub fn prepare(&self, format: Format, destination: Destination) -> io::Result<Option<Opened>> {
        let (format_now, destination_now) = &**self.place.load();
        if (*format_now, destination_now) == (format, &destination) {
            return Ok(None);
        }
        destination.reach()?;
        Opened::new(format, destination, &self.reopen).map(Some)
    }

    /// From now on lines go there. Waits until all that was queued before is written where lines
    /// went before, or `patience` is over.
    pub fn divert(&self, opened: Opened, patience: Duration) -> Diverted {
        let (done, written) = bounded(1);
        let wanted = opened.wanted.clone();
        self.awaited.fetch_add(1, Ordering::AcqRel);
        if self.lines.send_timeout(Line::Divert(opened, done), patience).is_err() {
            self.awaited.fetch_sub(1, Ordering::AcqRel);
            return Diverted::Never;
        }
        self.place.store(wanted);
        match written.recv_timeout(patience) {
            Ok(()) => Diverted::Now,
            Err(_) => Diverted::Later,
        }
    }

    /// Whether lines of before [`Log::divert`] are not written yet.
    pub fn is_moving(&self) -> bool {
        self.awaited.load(Ordering::Acquire) > 0
    }

    fn has(&self, level: Level) -> bool {
        level as usize >= self.level.load(Ordering::Relaxed)
    }

    /// Queues a request's line; dropped and counted when the writer is behind.
    pub fn request(&self, record: Box<RequestLine>) {
        let wanted = self.has(Level::of_status(record.status));
        if wanted || self.spans.load().is_some() {
            self.send(Line::Request(SystemTime::now(), record, wanted));
        }
    }

    /// Queues an event's line.
    pub fn event(&self, level: Level, message: impl Into<String>) {
        if !self.has(level) {
            return;
        }
        self.send(Line::Event(SystemTime::now(), level, message.into()));
    }

    /// Lines that were not written.
    pub fn lost(&self) -> &Lost {
        &self.lost
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
            self.lost.count_behind();
        }
    }
}

fn write_lines(
    mut format: Format,
    mut out: Output<'_, Out>,
    queue: &Receiver<Line>,
    give_back: &Sender<Box<RequestLine>>,
    (spans, moved): (&ArcSwapOption<Spans>, &AtomicUsize),
) {
    let mut gaps = Gaps::default();
    let mut text = Vec::with_capacity(1024);
    let mut since = Instant::now();
    loop {
        // What is lost is said also where no line comes.
        let first = if gaps.is_empty(out.lost) {
            queue.recv().map_err(RecvTimeoutError::from)
        } else {
            queue.recv_timeout(RETRY_TIME)
        };
        let mut next = match first {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        let (gathered, mut lines) = (Instant::now(), 0);
        while let Some(line) = next {
            lines += 1;
            text.clear();
            match line {
                Line::Request(at, mut record, wanted) => {
                    if wanted {
                        line::request_line(format, &mut text, at, &record);
                    }
                    if let Some(spans) = &*spans.load() {
                        spans.take(at, &record);
                    }
                    record.renew();
                    // Enough of them are kept already.
                    let _ = give_back.try_send(record);
                }
                Line::Event(at, level, message) => {
                    line::event_line(format, &mut text, at, level, &message)
                }
                Line::Flush(done) => {
                    out.write();
                    let _ = done.send(());
                }
                Line::Divert(opened, done) => {
                    out.divert(opened.out);
                    format = opened.format;
                    moved.fetch_sub(1, Ordering::AcqRel);
                    let _ = done.send(());
                }
            }
            out.lines(&text);
            next = queue.try_recv().ok();
        }
        out.write();
        gaps.report(format, &mut out, &mut text);
        // Lines gather meanwhile: while the writer waits in the queue, each line costs its shard a
        // system call to wake it.
        std::thread::sleep(gather_time(since.elapsed(), lines));
        since = gathered;
    }
}

/// How long lines are to gather, when so many have come within `time`.
fn gather_time(time: Duration, lines: u32) -> Duration {
    (time.saturating_mul(GATHERED_LINES) / lines.max(1)).clamp(GATHER_TIME_MIN, GATHER_TIME_MAX)
}

/// Gaps in the log that it has reported. Who reads it as a record must see where one is: before
/// the line that says so.
#[derive(Default)]
struct Gaps {
    behind: u64,
    unwritable: u64,
}

impl Gaps {
    /// Nothing is lost that was not reported.
    fn is_empty(&self, lost: &Lost) -> bool {
        (self.behind, self.unwritable) == (lost.behind(), lost.unwritable())
    }

    fn report(&mut self, format: Format, out: &mut Output<'_, impl Write>, text: &mut Vec<u8>) {
        let why = format!("they could not be written ({})", out.last_error);
        let behind = "it was not written as fast as they came";
        for (reported, lost, why) in [
            (&mut self.behind, out.lost.behind(), behind),
            (&mut self.unwritable, out.lost.unwritable(), &*why),
        ] {
            if lost > *reported {
                text.clear();
                let message = format!("{} lines of this log are lost: {why}", lost - *reported);
                line::event_line(format, text, SystemTime::now(), Level::Error, &message);
                if out.notice(text) {
                    *reported = lost;
                }
            }
        }
    }
}
