//! What the kernel refused, in a sentence for the operator.

use std::fmt;

use rustix::io::Errno;

/// Why there is no memory for secrets: what the kernel refused, and what to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl From<Error> for String {
    fn from(error: Error) -> String {
        error.0
    }
}

impl Error {
    /// More than a region holds.
    pub(crate) fn too_long(bytes: usize) -> Error {
        Error(format!("memory for secrets: {bytes} bytes are too long for one secret"))
    }

    /// A step on the way to a region of `bytes` bytes failed.
    pub(crate) fn of(step: &str, bytes: usize, why: Errno) -> Error {
        let set = match why {
            // secretmem says EAGAIN where mlock says ENOMEM.
            Errno::NOMEM | Errno::AGAIN => {
                ": more lockable memory is needed: set LimitMEMLOCK=infinity in the service unit, \
                 `ulimit -l` in a shell, --ulimit memlock=-1 for a container"
            }
            Errno::NOSYS => {
                ": the kernel does not have it: Linux 5.14 or later with CONFIG_SECRETMEM is \
                 needed, and before 6.5 secretmem.enable=1 on the kernel's command line"
            }
            Errno::PERM | Errno::ACCESS => {
                ": a seccomp filter forbids it: name the call in SystemCallFilter= of the service \
                 unit, or allow it in the container's seccomp profile"
            }
            _ => "",
        };
        Error(format!("memory for secrets: {step} for {} KiB: {why}{set}", bytes / 1024))
    }
}
