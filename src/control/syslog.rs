//! A message to the machine's syslog daemon: RFC 5424 over its local datagram socket.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::SystemTime;

use crate::telemetry::host::name_for_syslog;
use crate::telemetry::log::timestamp;

/// Facility "security/authorization messages (private)" (10), severity "notice" (5): RFC 5424,
/// 6.2.1.
const PRIORITY: u8 = 10 * 8 + 5;

/// Sends one line of ASCII; never waits.
///
/// # Errors
/// When nobody listens, or the daemon does not keep up.
pub(super) fn send(socket: &Path, message_id: &str, message: &str) -> io::Result<()> {
    let datagram = UnixDatagram::unbound()?;
    datagram.set_nonblocking(true)?;
    let (time, process) = (timestamp(SystemTime::now()), std::process::id());
    let host = name_for_syslog();
    let line = format!("<{PRIORITY}>1 {time} {host} xksd {process} {message_id} - {message}");
    datagram.send_to(line.as_bytes(), socket).map(drop)
}
