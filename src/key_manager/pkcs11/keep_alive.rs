//! A session beside those that serve, open for as long as the engine lives: a token logs its user
//! out when the last session is closed. Keys are listed in it.

use std::sync::Mutex;

use super::module::OpenSession;

/// That session, if there is one.
#[derive(Default)]
pub(super) struct KeepAlive(Mutex<State>);

#[derive(Default)]
enum State {
    #[default]
    None,
    Here(OpenSession),
    /// Somebody uses it, and brings it back.
    Lent,
}

impl KeepAlive {
    /// A session has been opened; after a login: also `newly_logged_in`. Opens this one, too, if
    /// there is none, or it did not outlive what made the login necessary.
    pub(super) fn renew(&self, newly_logged_in: bool, open: impl FnOnce() -> Option<OpenSession>) {
        // Not waited for: whoever holds it is doing the same, or hangs.
        let Ok(mut state) = self.0.try_lock() else { return };
        let good = match &mut *state {
            State::None => false,
            State::Lent => true,
            State::Here(session) => !session.is_stale() && (!newly_logged_in || is_open(session)),
        };
        if !good {
            *state = open().map_or(State::None, State::Here);
        }
    }

    /// Closes it; where it is lent, once it is given back.
    pub(super) fn close(&self) {
        // Whoever holds it hangs in the module.
        if let Ok(mut state) = self.0.try_lock() {
            *state = State::None;
        }
    }

    /// Lets go of a session that the module does not know any more.
    pub(super) fn close_if_dead(&self) {
        let Ok(mut state) = self.0.try_lock() else { return };
        if let State::Here(session) = &mut *state
            && !is_open(session)
        {
            *state = State::None;
        }
    }

    /// Gives it away for a while; `None` if it is not there.
    pub(super) fn lend(&self) -> Option<OpenSession> {
        let mut state = self.0.try_lock().ok()?;
        match std::mem::take(&mut *state) {
            State::Here(session) if !session.is_stale() => {
                *state = State::Lent;
                Some(session)
            }
            State::Here(_) | State::None => None,
            State::Lent => {
                *state = State::Lent;
                None
            }
        }
    }

    /// Takes back what was lent, or takes what was opened in its place. Closed, it is `None`.
    pub(super) fn give_back(&self, session: Option<OpenSession>) {
        let session = session.filter(|session| !session.is_stale());
        if let Ok(mut state) = self.0.try_lock()
            && matches!(*state, State::Lent)
        {
            *state = session.map_or(State::None, State::Here);
        }
    }
}

fn is_open(session: &mut OpenSession) -> bool {
    match session.is_logged_in() {
        Ok(_) => true,
        Err(error) => {
            session.forget_if_gone(&error);
            false
        }
    }
}
