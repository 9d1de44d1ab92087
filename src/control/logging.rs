//! The log as it is configured.

use std::io::stderr;
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
    let log = Log::open(format, destination(output)).map_err(|error| cannot(output, &error))?;
    log.set_level(level(config));
    log::log_panics(&log, format);
    Ok(log)
}

/// Opens what this configuration needs, where that is not what runs. Lines go on as before.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn prepare(running: &Config, new: &Config, log: &Log) -> Result<Option<Opened>, String> {
    let (format, output) = wanted(new);
    if wanted(running) == (format, output) {
        return Ok(None);
    }
    let opened = log.prepare(format, destination(output));
    opened.map(Some).map_err(|error| cannot(output, &error))
}

/// From now on lines go where this configuration says. Gives what the operator should know.
///
/// # Errors
/// Why they do not.
pub(super) fn divert(log: &Log, opened: Opened, new: &Config) -> Result<Option<String>, String> {
    let (format, output) = wanted(new);
    log.event(Level::Info, format!("the log goes on in {}, by a reload", output.shown()));
    let message = match log.divert(opened, PATIENCE) {
        Diverted::Now => None,
        Diverted::Later => Some(
            "server.log_output: the lines of before are not written yet, since what they go to \
             does not take them. The log goes on elsewhere once they are"
                .to_owned(),
        ),
        Diverted::Never => {
            return Err("server.log_output: the log cannot go elsewhere: so many lines wait that \
                        more are lost, since what they go to does not take them"
                .to_owned());
        }
    };
    log::log_panics(log, format);
    Ok(message)
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
