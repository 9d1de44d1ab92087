//! Logging in: once a token, and never twice with a PIN that was refused.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use cryptoki_sys::CKR_USER_ALREADY_LOGGED_IN;

use super::errors::{Call, CallError, PIN_REFUSED};
use super::module::OpenSession;
use crate::hsm::Fault;
use crate::limits::LOGIN_WAIT_MAX;

/// Lets one session at a time log in.
#[derive(Default)]
pub(super) struct Login {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Default)]
struct State {
    /// Since when a session is inside C_Login, and which attempt that is.
    busy_since: Option<Instant>,
    attempt: u64,
    /// The PIN was accepted at some time: a further try cannot lock the token.
    accepted: bool,
    /// The PIN was refused: what every later attempt is told, without one.
    refused: Option<Fault>,
}

impl Login {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails when the PIN has been refused.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.state().refused.clone().map_or(Ok(()), Err)
    }

    /// Logs the session's token in unless it is; true when that was needed.
    pub(super) fn log_in(&self, session: &OpenSession, pin: &str) -> Result<bool, Fault> {
        let attempt = self.enter()?;
        let result = self.attempt(session, pin);
        let mut state = self.state();
        if let Err(error) = &result
            && PIN_REFUSED.contains(&error.code)
        {
            let detail = format!("{error}; the PIN is not tried again until the configuration is loaded anew");
            state.refused = Some(Fault::Device { detail });
        }
        state.accepted |= matches!(result, Ok(true));
        if state.attempt == attempt {
            state.busy_since = None;
        }
        let refused = state.refused.clone();
        drop(state);
        self.done.notify_all();
        match (result, refused) {
            (Ok(needed), _) => Ok(needed),
            (Err(_), Some(refused)) => Err(refused),
            (Err(error), None) => Err(error.fault()),
        }
    }

    /// Waits for its turn. A C_Login that hangs keeps the others out for ever only while the PIN is unproven, since each of them would be
    /// one more try.
    fn enter(&self) -> Result<u64, Fault> {
        let waiting_since = Instant::now();
        let mut state = self.state();
        loop {
            if let Some(refused) = &state.refused {
                return Err(refused.clone());
            }
            let hung = state.accepted && state.busy_since.is_some_and(|since| since.elapsed() >= LOGIN_WAIT_MAX);
            if state.busy_since.is_none() || hung {
                state.busy_since = Some(Instant::now());
                state.attempt += 1;
                return Ok(state.attempt);
            }
            let Some(left) = LOGIN_WAIT_MAX.checked_sub(waiting_since.elapsed()) else {
                return Err(Fault::Device { detail: "C_Login: another session is still waiting for it".to_owned() });
            };
            state = self.done.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn attempt(&self, session: &OpenSession, pin: &str) -> Result<bool, CallError> {
        if session.is_logged_in()? {
            return Ok(false);
        }
        let result = session.set_up(Call::Login)?.login(UserType::User, Some(&AuthPin::new(pin.into())));
        match result.map_err(|error| CallError::from_cryptoki(Call::Login, &error)) {
            Ok(()) => Ok(true),
            // By another key manager on the same token, between the two calls.
            Err(CallError { code: CKR_USER_ALREADY_LOGGED_IN, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
