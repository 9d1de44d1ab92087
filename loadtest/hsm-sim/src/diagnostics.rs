//! Messages to the person who runs the program under test.

use std::io::Write;

/// Writes a line to standard error. One that is closed is no reason to fail.
pub fn warn(message: &str) {
    let _ = writeln!(std::io::stderr(), "hsm-sim: {message}");
}
