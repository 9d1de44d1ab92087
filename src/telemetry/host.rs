//! The machine that this runs on.

use rustix::system::uname;

/// Its host name.
pub fn name() -> String {
    uname().nodename().to_string_lossy().into_owned()
}

/// The same for syslog: a word, or `-` (RFC 5424, 6.2.4).
pub fn name_for_syslog() -> String {
    Some(name()).filter(|name| is_word(name)).unwrap_or_else(|| "-".to_owned())
}

/// Whether syslog can have it in a message's head.
pub fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}
