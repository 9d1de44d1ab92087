//! A small listener, as `admin` has one: opened at the start or by a reload, and moved or closed by
//! a reload.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::connections::{self, Listening, Ready};
use crate::telemetry::{Level, Log};

/// Answers one connection.
pub type Answer = Arc<dyn Fn(&TcpStream) -> io::Result<()> + Send + Sync>;

/// What the log says of the listener at this address.
pub type Told = dyn Fn(SocketAddr) -> String + Send + Sync;

/// The listener that runs, if there is one.
pub struct MovableListener {
    /// The key of the configuration.
    key: &'static str,
    /// Names its threads.
    thread: &'static str,
    told: Box<Told>,
    /// Known once there is what is to be shown.
    answer: OnceLock<Answer>,
    running: Mutex<Option<Running>>,
}

struct Running {
    /// As configured.
    listen: SocketAddr,
    listening: Listening,
    is_passed: bool,
}

/// A socket that nobody answers yet.
pub struct Bound {
    /// As configured.
    pub listen: SocketAddr,
    /// The socket.
    pub listener: TcpListener,
    /// Whether the service manager has opened it.
    pub is_passed: bool,
}

/// A socket with the thread that is to answer on it.
pub(super) struct Prepared {
    listen: SocketAddr,
    ready: Ready,
    is_passed: bool,
}

/// What a reload does to it.
pub(super) enum Change {
    Nothing,
    /// Answers here, and no longer where it did. `None`: nothing is to be answered yet.
    Move(Option<Prepared>),
    Close,
}

/// Opens a socket. Connections wait in its backlog until they are answered. `key`: of the
/// configuration.
///
/// # Errors
/// A sentence for the operator.
pub fn bind(key: &str, listen: SocketAddr) -> Result<Bound, String> {
    let listener =
        TcpListener::bind(listen).map_err(|e| format!("{key}: cannot listen on {listen}: {e}"))?;
    Ok(Bound { listen, listener, is_passed: false })
}

impl MovableListener {
    /// One that does not listen yet.
    pub fn new(
        key: &'static str,
        thread: &'static str,
        told: impl Fn(SocketAddr) -> String + Send + Sync + 'static,
    ) -> MovableListener {
        let (answer, running) = (OnceLock::new(), Mutex::default());
        MovableListener { key, thread, told: Box::new(told), answer, running }
    }

    /// Answers on the socket of the start, if there is one, and on those of reloads.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn start(&self, answer: Answer, bound: Option<Bound>, log: &Log) -> Result<(), String> {
        let _ = self.answer.set(answer);
        if let Some(prepared) = bound.map(|bound| self.answering(bound)).transpose()?.flatten() {
            self.serve(prepared, log);
        }
        Ok(())
    }

    /// Opens what is wanted, and closes nothing yet.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub(super) fn prepare(&self, wanted: Option<SocketAddr>) -> Result<Change, String> {
        let running = self.running();
        let is = running.as_ref().map(|running| running.listen);
        if wanted == is {
            return Ok(Change::Nothing);
        }
        if running.as_ref().is_some_and(|running| running.is_passed) {
            return Err(format!(
                "{}: the service manager has opened its socket. Change the socket unit, too, and \
                 restart both",
                self.key
            ));
        }
        let Some(listen) = wanted else { return Ok(Change::Close) };
        self.answering(bind(self.key, listen)?).map(Change::Move)
    }

    /// Does it. Nothing of it can fail.
    pub(super) fn take_over(&self, change: Change, log: &Log) {
        match change {
            Change::Nothing | Change::Move(None) => {}
            Change::Move(Some(prepared)) => self.serve(prepared, log),
            Change::Close => {
                if let Some(before) = self.running().take() {
                    before.listening.close();
                }
            }
        }
    }

    /// Starts its thread: what can fail is done before anything is in force.
    fn answering(&self, bound: Bound) -> Result<Option<Prepared>, String> {
        let Some(answer) = self.answer.get().cloned() else { return Ok(None) };
        let Bound { listen, listener, is_passed } = bound;
        let answer = move |stream: &TcpStream| answer(stream);
        let ready = connections::prepare(self.thread, listener, answer)
            .map_err(|error| format!("{}: no thread: {error}", self.key))?;
        Ok(Some(Prepared { listen, ready, is_passed }))
    }

    /// Answers there, and from then on no longer where it did.
    fn serve(&self, prepared: Prepared, log: &Log) {
        let Prepared { listen, ready, is_passed } = prepared;
        let listening = ready.serve();
        log.event(Level::Info, (self.told)(listening.address()));
        let now = Running { listen, listening, is_passed };
        if let Some(before) = self.running().replace(now) {
            before.listening.close();
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
