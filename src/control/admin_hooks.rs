//! What shows the state to the outside, for `control` to start and to ask: it is handed in, because
//! `admin` reads the state and `control` must not know its readers.

use std::io;
use std::sync::Arc;

use serde_json::Value;

use super::movable_listener::Answer;
use super::state::State;

/// What `admin` can do.
#[derive(Clone, Copy, Debug)]
pub struct AdminHooks {
    /// Makes what answers on the admin listener. Fails where no thread can be started.
    pub answer: fn(&Arc<State>) -> io::Result<Answer>,
    /// As `/status`.
    pub status: fn(&State) -> Value,
}
