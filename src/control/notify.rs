//! What the service manager is told: sd_notify(3), `NAME=value` lines in a datagram. Nothing where
//! nobody asks for it (`NOTIFY_SOCKET`).

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::limits::STARTED_TIME_MAX;

/// The status line is made again this often.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

const READY: &str = "READY=1";

/// The service manager's socket.
#[derive(Default)]
pub struct Notify {
    socket: Option<UnixDatagram>,
    /// Where it watches: how often it must hear that all is well.
    watchdog: Option<Duration>,
    told: Mutex<Told>,
}

/// What it knows.
#[derive(Default)]
struct Told {
    started: bool,
    status: String,
    status_at: Option<Instant>,
    alive_at: Option<Instant>,
}

impl Notify {
    /// As the environment of this process says.
    pub(super) fn from_environment() -> Notify {
        let watchdog = (env::var("WATCHDOG_PID").unwrap_or_default(), env::var("WATCHDOG_USEC"));
        let for_us = |pid: &str| pid.is_empty() || pid == std::process::id().to_string();
        let watchdog = match watchdog {
            (pid, Ok(micros)) if for_us(&pid) => micros.parse().ok().map(Duration::from_micros),
            _ => None,
        };
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|path| {
            let address = match path.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                _ => SocketAddr::from_pathname(&path),
            };
            let socket = UnixDatagram::unbound().ok()?;
            // A manager that does not read must not hold up the main thread.
            socket.set_nonblocking(true).ok()?;
            socket.connect_addr(&address.ok()?).ok()?;
            Some(socket)
        });
        Notify { socket, watchdog, told: Mutex::default() }
    }

    /// To be called now and then: the start is over once requests are answered well (`is_ready`),
    /// or after [`STARTED_TIME_MAX`], so that an HSM that is away does not make it fail.
    pub(super) fn starting(&self, is_ready: impl FnOnce() -> bool, elapsed: Duration) {
        let mut told = self.told();
        if !told.started && (elapsed >= STARTED_TIME_MAX || is_ready()) {
            told.started = true;
            self.send(READY);
        }
    }

    /// A reload begins; [`Notify::reloaded`] ends it, whatever came of it. Nothing is said of one
    /// while this starts: the manager would take its end for that of the start.
    pub(super) fn reloading(&self) {
        if !self.told().started {
            return;
        }
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// A reload is over.
    pub(super) fn reloaded(&self) {
        if self.told().started {
            self.send(READY);
        }
    }

    /// Stopping has begun. How long it may take is `TimeoutStopSec=`: the watchdog's time is over.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping\nWATCHDOG_USEC=0");
    }

    /// To be called now and then, while all is well: tells so in time for the watchdog, and the
    /// status where it has changed.
    pub(super) fn alive(&self, now: Instant, status: impl FnOnce() -> String) {
        if self.socket.is_none() {
            return;
        }
        let mut told = self.told();
        let is_due = |at: Option<Instant>, after| at.is_none_or(|at| now >= at + after);
        // Half of its time, as sd_watchdog_enabled(3) advises.
        if let Some(interval) = self.watchdog
            && is_due(told.alive_at, interval / 2)
        {
            told.alive_at = Some(now);
            self.send("WATCHDOG=1");
        }
        if is_due(told.status_at, STATUS_INTERVAL) {
            told.status_at = Some(now);
            let status = status();
            if status != told.status {
                self.send(&format!("STATUS={status}"));
                told.status = status;
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody can do anything about a manager that does not listen.
    fn send(&self, lines: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(lines.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was told since the last call.
    fn heard(manager: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 200];
        let next = || manager.recv(&mut buffer).map(|n| buffer[..n].to_vec());
        let all = std::iter::repeat_with(next).map_while(Result::ok);
        all.map(|line| String::from_utf8(line).unwrap()).collect()
    }

    fn watched_by(watchdog: Option<Duration>) -> (Notify, UnixDatagram) {
        let (socket, manager) = UnixDatagram::pair().unwrap();
        manager.set_nonblocking(true).unwrap();
        (Notify { socket: Some(socket), watchdog, told: Mutex::default() }, manager)
    }

    #[test]
    fn a_start_is_over_when_it_is_ready_or_when_it_lasts_too_long() {
        let soon = STARTED_TIME_MAX.checked_sub(Duration::from_millis(1)).unwrap();
        for (ready, elapsed) in [(true, Duration::ZERO), (false, STARTED_TIME_MAX)] {
            let (notify, manager) = watched_by(None);
            notify.starting(|| false, soon);
            notify.reloading();
            notify.reloaded();
            assert_eq!(heard(&manager), [""; 0]);
            notify.starting(|| ready, elapsed);
            assert_eq!(heard(&manager), [READY]);
            notify.starting(|| panic!("not asked again"), STARTED_TIME_MAX);
            notify.reloading();
            notify.reloaded();
            let said = heard(&manager);
            assert!(said[0].starts_with("RELOADING=1"), "{said:?}");
            assert_eq!(said[1..], [READY]);
        }
    }

    #[test]
    fn the_watchdog_hears_twice_in_its_time_and_a_status_once() {
        let (notify, manager) = watched_by(Some(Duration::from_secs(10)));
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        notify.alive(start, || "one".to_owned());
        assert_eq!(heard(&manager), ["WATCHDOG=1", "STATUS=one"]);
        notify.alive(at(999), || "two".to_owned());
        notify.alive(at(4_999), || "two".to_owned());
        assert_eq!(heard(&manager), ["STATUS=two"]);
        notify.alive(at(5_000), || panic!("not asked so soon"));
        notify.alive(at(6_000), || "two".to_owned());
        assert_eq!(heard(&manager), ["WATCHDOG=1"]);
        notify.stopping();
        assert_eq!(heard(&manager), ["STOPPING=1\nSTATUS=stopping\nWATCHDOG_USEC=0"]);
    }
}
