//! The signals that this process lives by, kept from PKCS#11 modules, which run in it.
//!
//! A library may set its own handlers, for all of the process: with SIGTERM gone xksd could not
//! be stopped in order, and a reset SIGPIPE ends it at the next connection that a client closes.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ptr::null;
use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGPIPE, SIGTERM, SIGUSR1, SIGXFSZ};

/// Those that ask something of xksd.
const REQUESTS: [c_int; 4] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1];
/// Each of these would end the process at a write that fails. With SIGXFSZ handled, one beyond
/// RLIMIT_FSIZE (or a file system's largest file) fails as one on a full disk does; SIGPIPE is
/// ignored from the start of every Rust program.
const WRITES: [c_int; 2] = [SIGPIPE, SIGXFSZ];

/// The handlers, as xksd has set them.
pub(super) struct Signals {
    requests: signal_hook::iterator::Signals,
    handlers: Vec<(c_int, libc::sigaction)>,
}

impl Signals {
    /// Sets the handlers, and blocks what a failed write causes in this thread and all that it
    /// starts from now on: also while a module has reset it, it ends nothing.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub(super) fn watch() -> io::Result<Signals> {
        let requests = signal_hook::iterator::Signals::new(REQUESTS)?;
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        block(&WRITES)?;
        let all = REQUESTS.into_iter().chain(WRITES);
        let handlers = all.map(|signal| Ok((signal, handler(signal)?))).collect::<io::Result<_>>();
        Ok(Signals { requests, handlers: handlers? })
    }

    /// Those that have come since the last call.
    pub(super) fn pending(&mut self) -> impl Iterator<Item = c_int> {
        self.requests.pending()
    }

    /// Sets again the handlers that somebody has replaced, and gives their signals.
    pub(super) fn take_back(&self) -> Vec<&'static str> {
        let taken = self.handlers.iter().filter(|(signal, own)| {
            let current = handler(*signal);
            let is_taken = current.is_ok_and(|now| now.sa_sigaction != own.sa_sigaction);
            is_taken && set_handler(*signal, own).is_ok()
        });
        taken.filter_map(|(signal, _)| signal_hook::low_level::signal_name(*signal)).collect()
    }
}

fn block(signals: &[c_int]) -> io::Result<()> {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset(3) fills the set.
    let mut set: libc::sigset_t = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in signals {
        // SAFETY: a set, and the number of a signal.
        unsafe { libc::sigaddset(&mut set, *signal) };
    }
    // SAFETY: sets of this function; the thread's mask before is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn handler(signal: c_int) -> io::Result<libc::sigaction> {
    let mut handler = MaybeUninit::uninit();
    // SAFETY: changes nothing; the kernel fills the second one where it succeeds.
    match unsafe { libc::sigaction(signal, null(), handler.as_mut_ptr()) } {
        // SAFETY: as above.
        0 => Ok(unsafe { handler.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set_handler(signal: c_int, handler: &libc::sigaction) -> io::Result<()> {
    // SAFETY: one that stood there before: the standard library's or signal-hook's, which stay.
    match unsafe { libc::sigaction(signal, handler, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
