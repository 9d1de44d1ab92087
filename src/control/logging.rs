//! The log as it is configured.

use std::io::stderr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::config::{Config, LogFormat, LogLevel, LogOutput};
use crate::telemetry::log::{Destination, Diverted, Opened};
use crate::telemetry::{Level, Log, log};

/// A reload waits so long for the lines of before to be written.
const PATIENCE: Duration = Duration::from_secs(2);

/// Starts it; panics are lines of it from now on.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn start(config: &Config) -> Result<Log, String> {
    let (format, output) = wanted(config);
    refuse_input(config)?;
    let log = Log::open(format, destination(output)).map_err(|error| cannot(output, &error))?;
    log.set_level(level(config));
    log::log_panics(&log, format);
    Ok(log)
}

/// Opens what this configuration needs, where that is not what runs. Lines go on as before.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn prepare(new: &Config, log: &Log) -> Result<Option<Opened>, String> {
    let (format, output) = wanted(new);
    refuse_input(new)?;
    log.prepare(format, destination(output)).map_err(|error| cannot(output, &error))
}

/// Lines behind a configuration or a secret would spoil it.
fn refuse_input(config: &Config) -> Result<(), String> {
    let LogOutput::File(path) = &config.server.log_output else { return Ok(()) };
    let file = |path: &Path| {
        let found = std::fs::metadata(path).ok();
        found.map(|found| (found.dev(), found.ino()))
    };
    let Some(output) = file(path) else { return Ok(()) };
    let mut inputs = config.texts.keys().chain(config.files.keys());
    match inputs.find(|input| file(input) == Some(output)) {
        Some(input) => Err(format!(
            "server.log_output: {} is {}, which xksd reads its configuration from",
            path.display(),
            input.display()
        )),
        None => Ok(()),
    }
}

/// From now on lines go where this configuration says. Gives what the operator should know.
///
/// # Errors
/// Why they do not.
pub(super) fn divert(log: &Log, opened: Opened, new: &Config) -> Result<Option<String>, String> {
    let (format, output) = wanted(new);
    log.event(Level::Info, format!("the log goes on in {}, by a reload", output.shown()));
    let message = match log.divert(opened, PATIENCE) {
        Diverted::Now | Diverted::Later => moving(log),
        Diverted::Never => {
            return Err("server.log_output: the log cannot go elsewhere: so many lines wait that \
                        more are lost, since what they go to does not take them"
                .to_owned());
        }
    };
    log::log_panics(log, format);
    Ok(message)
}

/// What the operator should know for as long as the log has not moved.
pub(super) fn moving(log: &Log) -> Option<String> {
    log.is_moving().then(|| {
        "server.log_output: the lines of before are not written yet, since what they go to does \
         not take them. The log goes on elsewhere once they are"
            .to_owned()
    })
}

fn wanted(config: &Config) -> (log::Format, &LogOutput) {
    let output = &config.server.log_output;
    let format = match config.server.log {
        LogFormat::Json => log::Format::Json,
        LogFormat::Text => log::Format::Text,
        LogFormat::Auto if is_watched(output) => log::Format::Text,
        LogFormat::Auto => log::Format::Json,
    };
    (format, output)
}

fn destination(output: &LogOutput) -> Destination {
    match output {
        LogOutput::Stderr => Destination::Stderr,
        LogOutput::Journal => Destination::Journal,
        LogOutput::Syslog => Destination::Syslog,
        LogOutput::File(path) => Destination::File(path.clone()),
    }
}

fn is_watched(output: &LogOutput) -> bool {
    *output == LogOutput::Stderr && rustix::termios::isatty(stderr())
}

fn cannot(output: &LogOutput, error: &std::io::Error) -> String {
    format!("server.log_output: {} cannot be opened: {error}", output.shown())
}

/// Lighter lines are not written.
pub(super) fn level(config: &Config) -> Level {
    match config.server.log_level {
        LogLevel::Info => Level::Info,
        LogLevel::Warn => Level::Warn,
        LogLevel::Error => Level::Error,
    }
}
