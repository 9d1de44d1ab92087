//! What shows the state to the outside, for `control` to start and to ask: it is handed in, because
//! `admin` reads the state and `control` must not know its readers.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use serde_json::Value;

use super::state::State;

/// What `admin` can do.
#[derive(Clone, Copy, Debug)]
pub struct AdminHooks {
    /// Answers on the admin listener; gives its address, or why no thread could be started.
    pub serve: fn(&Arc<State>, TcpListener) -> Result<SocketAddr, String>,
    /// As `/status`.
    pub status: fn(&State) -> Value,
}
