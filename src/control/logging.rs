//! The log as it is configured.

use std::io::stderr;

use crate::config::{Config, LogFormat, LogLevel, LogOutput};
use crate::telemetry::log::Destination;
use crate::telemetry::{Level, Log, log};

/// Starts it; panics are lines of it from now on.
///
/// # Errors
/// A sentence for the operator.
pub(super) fn start(config: &Config) -> Result<Log, String> {
    let format = match config.server.log {
        LogFormat::Json => log::Format::Json,
        LogFormat::Text => log::Format::Text,
        LogFormat::Auto if is_watched(&config.server.log_output) => log::Format::Text,
        LogFormat::Auto => log::Format::Json,
    };
    let destination = match &config.server.log_output {
        LogOutput::Stderr => Destination::Stderr,
        LogOutput::Journal => Destination::Journal,
        LogOutput::Syslog => Destination::Syslog,
        LogOutput::File(path) => Destination::File(path.clone()),
    };
    let log = Log::open(format, destination).map_err(|error| match &config.server.log_output {
        LogOutput::File(path) => format!("cannot open the log {}: {error}", path.display()),
        _ => format!("cannot start the log: {error}"),
    })?;
    log.set_level(level(config));
    log::log_panics(&log, format);
    Ok(log)
}

fn is_watched(output: &LogOutput) -> bool {
    *output == LogOutput::Stderr && rustix::termios::isatty(stderr())
}

/// Lighter lines are not written.
pub(super) fn level(config: &Config) -> Level {
    match config.server.log_level {
        LogLevel::Info => Level::Info,
        LogLevel::Warn => Level::Warn,
        LogLevel::Error => Level::Error,
    }
}
