//! Panics as lines of the log: one each, in its form, without what a request or an HSM has brought.

use std::io::Write;
use std::panic::PanicHookInfo;
use std::time::{Duration, SystemTime};

use super::{Format, Level, Log, THREAD, line};

/// For the last lines of a process that is about to be aborted.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// The standard library's messages that have numbers only in the places of values.
const WITH_NUMBERS_ONLY: [&str; 3] = ["index out of bounds: ", "range ", "slice index starts at "];
/// Of panics that no `catch_unwind` sees: the process ends behind the hook.
const ABORTS: &str = "panic in a ";

/// From now on each panic of this process is a line of `log`.
pub fn log_panics(log: &Log, format: Format) {
    let log = log.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let message = describe(panic);
        if std::thread::current().name() == Some(THREAD) {
            // Nobody is left who would write it.
            let mut text = Vec::new();
            line::event_line(format, &mut text, SystemTime::now(), Level::Error, &message);
            let _ = std::io::stderr().write_all(&text);
            return;
        }
        log.event(Level::Error, message);
        if literal(panic).is_some_and(|text| text.starts_with(ABORTS)) {
            log.flush(FLUSH_TIME);
        }
    }));
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), |p| p.to_string());
    let formatted = panic.payload().downcast_ref::<String>();
    let numbers =
        formatted.filter(|text| WITH_NUMBERS_ONLY.iter().any(|start| text.starts_with(start)));
    // A formatted message may hold anything, as the text in which a place was looked for.
    let message = literal(panic)
        .or(numbers.map(String::as_str))
        .unwrap_or("the message may hold data, so it is not shown");
    format!(
        "thread {thread} panicked at {place}: {message}. This is a defect of xksd, please report it"
    )
}

/// A message that stands so in the source.
fn literal<'p>(panic: &'p PanicHookInfo<'_>) -> Option<&'p str> {
    panic.payload().downcast_ref::<&'static str>().copied()
}
