//! What the kernel knows of this process, as the `process_*` metrics show it.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// Ticks a second in /proc, on every architecture that xksd runs on (USER_HZ).
const TICKS_A_SECOND: f64 = 100.0;

/// This process, now.
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) open_fds: usize,
    /// None where there is no limit.
    pub(super) max_fds: Option<u64>,
    /// Unix time.
    pub(super) started_seconds: f64,
}

impl Process {
    /// None where /proc is not there.
    pub(super) fn read() -> Option<Process> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let boot = line(&fs::read_to_string("/proc/stat").ok()?, "btime ")?;
        let [user, kernel, start] = times(&stat)?.map(|ticks| ticks as f64 / TICKS_A_SECOND);
        Some(Process {
            cpu_seconds: user + kernel,
            resident_bytes: line(&status, "VmRSS:")? * 1024,
            // One of them is that of the folder itself.
            open_fds: fs::read_dir("/proc/self/fd").ok()?.count() - 1,
            max_fds: getrlimit(Resource::Nofile).current,
            started_seconds: boot as f64 + start,
        })
    }
}

/// utime, stime and starttime of `/proc/self/stat`. The name before them may have any characters.
fn times(stat: &str) -> Option<[u64; 3]> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |at: usize| fields.get(at)?.parse().ok();
    Some([field(11)?, field(12)?, field(19)?])
}

/// The first number of the line that begins with `name`.
fn line(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_shifts_nothing() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 9 0 0 0 31 12 0 0 20 0 1 0 8800 1 2";
        assert_eq!(times(stat), Some([31, 12, 8800]));
        assert_eq!(times("7 (a) S 1"), None);
    }
}
