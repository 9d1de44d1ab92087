//! Connections that do nothing: what they cost the proxy, and whether it keeps them.
//!
//! They need no executor: after their handshake nothing is to be done with them until the end.
//! Threads make them, so that handshakes over a long way go on side by side.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustls::ClientConnection;
use serde::{Deserialize, Serialize};

use super::tls::{Hints, Versions};
use crate::limits::{CONNECTING_AT_ONCE, IDLE_SETTLE_TIME, IDLE_SETUP_TIME_MAX, SETUP_TIME_MAX};
use crate::target::Target;

/// Open connections without a request.
pub struct Idle {
    asked: usize,
    connections: Vec<(TcpStream, ClientConnection)>,
    refused: Option<String>,
    memory: Option<Memory>,
}

/// What became of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IdleReport {
    /// How many were asked for.
    pub asked: usize,
    /// Of these, opened before the load, TLS handshake done.
    pub opened: usize,
    /// Of the opened ones, closed by the proxy before the load was over.
    pub closed: usize,
    /// Why one could not be opened, where not all could.
    pub refused: Option<String>,
    /// What they cost the proxy, where its process can be seen.
    pub memory: Option<Memory>,
}

/// Resident memory of the proxy, bytes; the kernel's memory for its sockets is no part of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Before they were opened; the connections that carry the load were open already.
    pub before_bytes: u64,
    /// When all were open.
    pub after_bytes: u64,
    /// Growth for each that was opened.
    pub bytes_a_connection: f64,
}

impl Idle {
    /// Opens `count` connections. `memory` gives the proxy's resident bytes, where they can be
    /// seen: it is asked before and after.
    ///
    /// # Errors
    /// When not a single one could be opened.
    pub fn open(
        target: &Target,
        versions: Versions,
        count: usize,
        memory: impl Fn() -> Option<u64>,
    ) -> Result<Idle, String> {
        let settled = || {
            std::thread::sleep(IDLE_SETTLE_TIME);
            memory()
        };
        let before = settled();
        let (connections, refused) = open_all(target, versions, count)?;
        if connections.is_empty() {
            return Err(format!(
                "no idle connection to {} could be opened: {}",
                target.address,
                refused.unwrap_or_default()
            ));
        }
        let memory = before.zip(settled()).map(|(before_bytes, after_bytes)| Memory {
            before_bytes,
            after_bytes,
            bytes_a_connection: (after_bytes as f64 - before_bytes as f64)
                / connections.len() as f64,
        });
        Ok(Idle { asked: count, connections, refused, memory })
    }

    /// Looks which are still open, and closes them.
    pub fn end(self) -> IdleReport {
        let opened = self.connections.len();
        let open = self
            .connections
            .into_iter()
            .map(|(socket, session)| is_open(socket, session))
            .filter(|open| *open)
            .count();
        IdleReport {
            asked: self.asked,
            opened,
            closed: opened - open,
            refused: self.refused,
            memory: self.memory,
        }
    }
}

type Opened = (Vec<(TcpStream, ClientConnection)>, Option<String>);

fn open_all(target: &Target, versions: Versions, count: usize) -> Result<Opened, String> {
    let (config, name) = super::tls::client(target, versions, false)?;
    let hints = Hints::of(target);
    let deadline = Instant::now() + IDLE_SETUP_TIME_MAX;
    let opened: Mutex<Opened> = Mutex::new((Vec::with_capacity(count), None));
    let locked = || opened.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        for thread in 0..CONNECTING_AT_ONCE {
            let share =
                count / CONNECTING_AT_ONCE + usize::from(thread < count % CONNECTING_AT_ONCE);
            let (config, name, locked, hints) = (&config, &name, &locked, &hints);
            scope.spawn(move || {
                for _ in 0..share {
                    if Instant::now() >= deadline {
                        locked().1.get_or_insert_with(|| {
                            format!("not all within {} s", IDLE_SETUP_TIME_MAX.as_secs())
                        });
                        return;
                    }
                    match open(target, Arc::clone(config), name.clone()) {
                        Ok(connection) => locked().0.push(connection),
                        Err(error) => drop(locked().1.get_or_insert_with(|| hints.explain(&error))),
                    }
                }
            });
        }
    });
    Ok(opened.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

fn open(
    target: &Target,
    config: Arc<rustls::ClientConfig>,
    name: rustls::pki_types::ServerName<'static>,
) -> std::io::Result<(TcpStream, ClientConnection)> {
    let mut socket = TcpStream::connect_timeout(&target.address, SETUP_TIME_MAX)?;
    socket.set_read_timeout(Some(SETUP_TIME_MAX))?;
    socket.set_write_timeout(Some(SETUP_TIME_MAX))?;
    let mut session = ClientConnection::new(config, name).map_err(std::io::Error::other)?;
    while session.is_handshaking() || session.wants_write() {
        session.complete_io(&mut socket)?;
    }
    Ok((socket, session))
}

/// Whether the peer has neither closed the connection nor told that it will.
fn is_open(mut socket: TcpStream, mut session: ClientConnection) -> bool {
    if socket.set_nonblocking(true).is_err() {
        return false;
    }
    loop {
        // Session tickets may wait here, of a handshake that was over before they came.
        match session.read_tls(&mut socket) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        if session.process_new_packets().is_err() {
            return false;
        }
        match session.reader().read(&mut [0; 256]) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
}
