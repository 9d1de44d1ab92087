//! Descriptors of this process: each connection takes one, and without one this tool can neither
//! connect nor see what it reports.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::limits::{DESCRIPTORS_A_WORKER, DESCRIPTORS_BESIDES};

/// Raises the limit as far as this process may.
///
/// # Errors
/// When that is not far enough for the connections: running out of them while it measures would
/// look like a fault of the proxy.
pub fn reserve(connections: usize, idle: usize, workers: usize) -> Result<(), String> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    fit(connections, idle, workers, getrlimit(Resource::Nofile).current)
}

/// `allowed`: `None` is without a limit.
fn fit(
    connections: usize,
    idle: usize,
    workers: usize,
    allowed: Option<u64>,
) -> Result<(), String> {
    let needed = (connections + idle + workers * DESCRIPTORS_A_WORKER + DESCRIPTORS_BESIDES) as u64;
    let Some(allowed) = allowed.filter(|allowed| *allowed < needed) else { return Ok(()) };
    let asked = if idle == 0 {
        format!("--connections {connections}")
    } else {
        format!("--connections {connections} --idle {idle}")
    };
    Err(format!(
        "{asked}: this tool needs {needed} open files, and its hard limit is {allowed}: raise it \
         (ulimit -n, LimitNOFILE= or /etc/security/limits.conf), or ask for fewer"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused() {
        let besides = (DESCRIPTORS_BESIDES + 2 * DESCRIPTORS_A_WORKER) as u64;
        assert_eq!(fit(64, 500, 2, Some(564 + besides)), Ok(()));
        let why = fit(64, 500, 2, Some(563 + besides)).unwrap_err();
        assert!(
            why.starts_with(&format!(
                "--connections 64 --idle 500: this tool needs {} open files",
                564 + besides
            )),
            "{why}"
        );
        assert!(
            why.contains(&format!("hard limit is {}", 563 + besides)) && why.contains("ulimit -n"),
            "{why}"
        );
        assert!(fit(1000, 0, 1, Some(1000)).unwrap_err().starts_with("--connections 1000: "));
        assert_eq!(fit(100_000, 100_000, 256, None), Ok(()));
    }
}
