//! The control socket: everything that changes the running process comes through here, from root or
//! the user that the process runs as. One JSON object asks, one answers, a line each.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, io};

use rustix::net::shutdown;
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use super::admin_hooks::AdminHooks;
use super::commands::{self, Reply};
use super::state::State;
use crate::file;
use crate::limits::{CONTROL_CONNECTIONS_MAX, CONTROL_REQUEST_BYTES_MAX, CONTROL_TIME_MAX};
use crate::telemetry::Level;

/// Pause after accept(2) or a thread's start failed: both lack something that will not be there at
/// once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// The socket's file is looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Of a Unix socket's address, bytes with the NUL (`unix(7)`).
const ADDRESS_BYTES: usize = 108;

/// Binds the socket. Requests wait in its backlog until [`start`].
///
/// # Errors
/// A sentence for the operator.
pub fn bind(path: &Path) -> Result<UnixListener, String> {
    let at = |why: String| format!("control socket {}: {why}", path.display());
    // Who could put another socket in its place would tell the operator that AWS is cut off.
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        file::refuse_changeable(parent).map_err(|why| at(format!("its directory {why}")))?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(at("there is something else of this name".to_owned()));
        }
        // A process that was killed leaves its socket behind.
        Ok(_) if through(path, |path| UnixStream::connect(path)).is_err() => {
            fs::remove_file(path).map_err(|e| at(format!("cannot be removed: {e}")))?;
        }
        Ok(_) => return Err(at("another process listens on it".to_owned())),
        Err(_) => {}
    }
    let listener = through(path, |path| UnixListener::bind(path));
    let listener = listener.map_err(|error| at(format!("cannot listen: {error}")))?;
    // Between the two somebody else may connect; whose request is served, the peer's user decides.
    let closed = fs::set_permissions(path, fs::Permissions::from_mode(0o600));
    closed.map_err(|error| at(format!("cannot be closed to others: {error}")))?;
    Ok(listener)
}

/// Connects to the socket of a process that runs, and gives the user that it runs as.
///
/// # Errors
/// The system's.
pub fn connect(path: &Path) -> io::Result<(UnixStream, u32)> {
    let stream = through(path, |path| UnixStream::connect(path))?;
    stream.set_write_timeout(Some(CONTROL_TIME_MAX))?;
    let user = socket_peercred(&stream)?.uid.as_raw();
    Ok((stream, user))
}

/// An address has room for 107 bytes: a longer path goes through its directory's descriptor.
fn through<T>(path: &Path, action: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return action(path);
    };
    if path.as_os_str().len() < ADDRESS_BYTES {
        return action(path);
    }
    let directory = fs::File::open(parent)?;
    let short: PathBuf = ["/proc/self/fd", &directory.as_raw_fd().to_string()].iter().collect();
    action(&short.join(name))
}

/// Looks after the socket: where somebody has removed it, it is bound again. Nobody could cut AWS
/// off otherwise but by stopping the process.
pub struct SocketKeeper {
    path: PathBuf,
    listener: UnixListener,
    /// The file that it is bound to.
    file: Option<(u64, u64)>,
    next: Instant,
}

impl SocketKeeper {
    /// Of a socket that was just bound.
    ///
    /// # Errors
    /// When there is no descriptor left.
    pub fn new(path: &Path, listener: &UnixListener) -> io::Result<SocketKeeper> {
        let (path, listener) = (path.to_owned(), listener.try_clone()?);
        let file = file_of(&path);
        Ok(SocketKeeper { path, listener, file, next: Instant::now() })
    }

    /// To be called now and then.
    pub fn look(&mut self, state: &Arc<State>, admin: AdminHooks) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + LOOK_INTERVAL;
        if self.file.is_some() && self.file == file_of(&self.path) {
            return;
        }
        let bound = bind(&self.path).and_then(|listener| {
            let kept = SocketKeeper::new(&self.path, &listener).and_then(|kept| {
                start(state, admin, listener)?;
                Ok(kept)
            });
            kept.map_err(|error| format!("control socket {}: {error}", self.path.display()))
        });
        match bound {
            Ok(kept) => {
                // Who waits in accept(2) for the old one ends.
                let _ = shutdown(&self.listener, rustix::net::Shutdown::Both);
                *self = SocketKeeper { next: self.next, ..kept };
                state.control_reachable.store(true, Ordering::Relaxed);
                let path = self.path.display();
                let message = format!("control socket {path} was removed: bound again");
                state.log.event(Level::Warn, message);
            }
            Err(why) => {
                if state.control_reachable.swap(false, Ordering::Relaxed) {
                    let message = format!("the control socket was removed, and {why}");
                    state.log.event(Level::Error, message);
                }
            }
        }
    }
}

/// Device and inode of what has this name.
fn file_of(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// Serves who asks, until the process ends or the listener is shut down.
///
/// # Errors
/// When no thread can be started.
pub fn start(state: &Arc<State>, admin: AdminHooks, listener: UnixListener) -> io::Result<()> {
    let state = state.clone();
    let open = Arc::new(AtomicUsize::new(0));
    let run = move || {
        for stream in listener.incoming() {
            let stream = match stream {
                Ok(stream) => stream,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
                Err(_) => {
                    std::thread::sleep(ACCEPT_BACKOFF);
                    continue;
                }
            };
            if open.load(Ordering::Relaxed) >= CONTROL_CONNECTIONS_MAX {
                let _ = refuse_busy(&stream);
                continue;
            }
            open.fetch_add(1, Ordering::Relaxed);
            let (state, open_here) = (state.clone(), open.clone());
            let serve = move || {
                let _ = answer(&state, admin, &stream);
                open_here.fetch_sub(1, Ordering::Relaxed);
            };
            if std::thread::Builder::new().name("xksd-control".into()).spawn(serve).is_err() {
                open.fetch_sub(1, Ordering::Relaxed);
                std::thread::sleep(ACCEPT_BACKOFF);
            }
        }
    };
    std::thread::Builder::new().name("xksd-control".into()).spawn(run).map(drop)
}

/// Never waits: the next one may be who cuts AWS off.
fn refuse_busy(mut stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let reply = Reply::refused("xksd is busy with other commands: try again".to_owned());
    stream.write_all(&[&serde_json::to_vec(&reply)?[..], b"\n"].concat())
}

fn answer(state: &Arc<State>, admin: AdminHooks, mut stream: &UnixStream) -> io::Result<()> {
    stream.set_write_timeout(Some(CONTROL_TIME_MAX))?;
    let peer = socket_peercred(stream)?;
    let reply = if peer.uid.is_root() || peer.uid == geteuid() {
        match read_line(stream) {
            Ok(line) => commands::run(state, admin, &line, &who(peer)),
            Err(why) => Reply::refused(format!("the request cannot be read: {why}")),
        }
    } else {
        let who = who(peer);
        state.log.event(Level::Warn, format!("control socket: a request of {who} is refused"));
        Reply::refused("only root and the user that xksd runs as may do this".to_owned())
    };
    let mut line = serde_json::to_vec(&reply)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    // A close with unread bytes is a reset, which would take the answer with it.
    stream.shutdown(Shutdown::Write)?;
    let timed = Timed { stream, end: Instant::now() + CONTROL_TIME_MAX };
    io::copy(&mut timed.take(4 * CONTROL_REQUEST_BYTES_MAX as u64), &mut io::sink()).map(drop)
}

/// The first line, as a whole within [`CONTROL_TIME_MAX`].
fn read_line(stream: &UnixStream) -> io::Result<String> {
    let end = Instant::now() + CONTROL_TIME_MAX;
    let timed = Timed { stream, end };
    let mut line = String::new();
    let mut reader = BufReader::new(timed.take(CONTROL_REQUEST_BYTES_MAX as u64 + 1));
    reader.read_line(&mut line)?;
    if line.len() > CONTROL_REQUEST_BYTES_MAX {
        return Err(io::Error::other(format!("longer than {CONTROL_REQUEST_BYTES_MAX} bytes")));
    }
    Ok(line)
}

/// A stream that is read until a point in time.
struct Timed<'a> {
    stream: &'a UnixStream,
    end: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

/// Who asks: the user of the process, and the one that logged in where sudo or su came between.
fn who(peer: rustix::net::UCred) -> String {
    const NOBODY_LOGGED_IN: &str = "4294967295";
    let uid = peer.uid.as_raw();
    // The peer waits for its answer, so that its process id is still its own.
    let login = fs::read_to_string(format!("/proc/{}/loginuid", peer.pid.as_raw_pid()));
    match login.as_deref().map(str::trim_end) {
        Ok(login) if login != NOBODY_LOGGED_IN && login != uid.to_string() => {
            format!("uid {uid} (logged in as uid {login})")
        }
        _ => format!("uid {uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_any_length_is_taken_over_from_who_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("long".repeat(50));
        fs::create_dir(&deep).unwrap();
        for path in [dir.path().join("s"), deep.join("s")] {
            let listener = bind(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert!(connect(&path).is_ok());
            assert!(bind(&path).unwrap_err().ends_with("another process listens on it"));
            drop(listener);
            assert!(connect(&path).is_err());
            assert!(bind(&path).is_ok());
        }
        let file = dir.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert!(bind(&file).unwrap_err().contains("something else"));
        assert_eq!(fs::read(&file).unwrap(), b"kept");
    }
}
