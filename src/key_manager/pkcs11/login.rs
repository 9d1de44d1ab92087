//! Logging in: once a token, and never twice with a PIN that was refused. A reload may bring
//! another one, which has one try as well.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cryptoki_sys::CKR_USER_ALREADY_LOGGED_IN;

use super::errors::{Call, CallError, PIN_REFUSED};
use super::module::OpenSession;
use super::refused_pins::RefusedPins;
use crate::key_manager::Fault;
use crate::limits::{LOGIN_INTERVAL, LOGIN_WAIT_MAX};
use crate::secret::SecretString;

/// Lets one session at a time log in.
pub(super) struct Login {
    state: Mutex<State>,
    done: Condvar,
    wait_max: Duration,
    interval: Duration,
}

struct State {
    pin: SecretString,
    /// Since when a session is inside C_Login, and which attempt that is.
    busy_since: Option<Instant>,
    attempt: u64,
    /// The PIN was accepted at some time: a further try cannot lock the token.
    accepted: bool,
    /// The PIN was refused: what every later attempt gets, without a login.
    refused: Option<Fault>,
    /// When the last C_Login failed otherwise, if it did.
    failed_at: Option<Instant>,
}

impl State {
    fn new(pin: SecretString, attempt: u64) -> State {
        let (busy_since, accepted, refused, failed_at) = (None, false, None, None);
        State { pin, busy_since, attempt, accepted, refused, failed_at }
    }
}

impl State {
    fn may_log_in(&self) -> Result<(), Fault> {
        if self.pin.expose().is_empty() {
            // Not tried: to the HSM it would be a wrong one.
            return Err(Fault::Device { detail: "its PIN is not there yet".to_owned() });
        }
        self.refused.clone().map_or(Ok(()), Err)
    }
}

impl Login {
    pub(super) fn new(pin: SecretString) -> Login {
        Login {
            state: Mutex::new(State::new(pin, 0)),
            done: Condvar::new(),
            wait_max: LOGIN_WAIT_MAX,
            interval: LOGIN_INTERVAL,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on another PIN, unless it is the same. What became of the one before says nothing
    /// of it: it has its one try, also while an attempt with the other hangs.
    pub(super) fn set_pin(&self, pin: SecretString) {
        let mut state = self.state();
        if state.pin != pin {
            *state = State::new(pin, state.attempt + 1);
            drop(state);
            self.done.notify_all();
        }
    }

    /// Why the PIN is not tried again, where it was refused.
    pub(super) fn refused(&self) -> Option<Fault> {
        self.state().refused.clone()
    }

    /// Fails when the PIN has been refused, or is not there yet.
    pub(super) fn check(&self) -> Result<(), Fault> {
        self.state().may_log_in()
    }

    /// Logs the session's token in unless it is; true when that was needed. `token`: what tells it
    /// from other tokens of the module.
    pub(super) fn log_in(&self, session: &OpenSession, token: &str) -> Result<bool, Fault> {
        // Mostly it is, by another session: then nobody has to wait for this question. But while
        // one is in C_Login a module may call all of them logged in before it shows the keys
        // (Craton HSM loads them then).
        let is_busy = self.state().busy_since.is_some();
        if session.is_logged_in().map_err(|error| error.fault())? && !is_busy {
            return Ok(false);
        }
        self.once_at_a_time(|pin| attempt(session, (token, pin), &session.module.refused_pins))
    }

    fn once_at_a_time(
        &self,
        log_in: impl FnOnce(&SecretString) -> Result<bool, CallError>,
    ) -> Result<bool, Fault> {
        let (attempt, pin) = self.enter()?;
        let result = log_in(&pin);
        let mut state = self.state();
        if state.pin != pin {
            // It says nothing of the one that is to be used now.
            return result.map_err(|error| error.fault());
        }
        if let Err(error) = &result
            && PIN_REFUSED.contains(&error.code)
        {
            let detail = format!(
                "{error}; this process does not try the PIN again: reload another one, or restart \
                 xksd if the HSM takes it now"
            );
            state.refused = Some(Fault::Device { detail });
        }
        state.accepted |= matches!(result, Ok(true));
        state.failed_at =
            result.as_ref().is_err_and(|error| error.call == Call::Login).then(Instant::now);
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

    /// Waits for its turn. A C_Login that hangs keeps the others out for ever only while the PIN is
    /// unproven, since each of them would be one more try.
    fn enter(&self) -> Result<(u64, SecretString), Fault> {
        let waiting_since = Instant::now();
        let mut state = self.state();
        loop {
            state.may_log_in()?;
            let pause = state
                .failed_at
                .and_then(|at| self.interval.checked_sub(at.elapsed()))
                .filter(|pause| !pause.is_zero());
            let hung = state.accepted
                && state.busy_since.is_some_and(|since| since.elapsed() >= self.wait_max);
            if pause.is_none() && (state.busy_since.is_none() || hung) {
                state.busy_since = Some(Instant::now());
                state.attempt += 1;
                return Ok((state.attempt, state.pin.clone()));
            }
            let Some(left) = self.wait_max.checked_sub(waiting_since.elapsed()) else {
                return Err(Fault::Device {
                    detail: "C_Login: another session is still waiting for it".to_owned(),
                });
            };
            // A pause is waited out here: a lane that was refused would come back in seconds, when
            // the HSM may long be well.
            state = self
                .done
                .wait_timeout(state, pause.map_or(left, |pause| pause.min(left)))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

fn attempt(
    session: &OpenSession,
    (token, pin): (&str, &SecretString),
    refused: &RefusedPins,
) -> Result<bool, CallError> {
    if session.is_logged_in()? {
        return Ok(false);
    }
    // By this key manager before, or by another one on the same token.
    if let Some(error) = refused.find(token, pin) {
        return Err(error);
    }
    let (functions, handle) = session.set_up(Call::Login)?;
    match functions.log_in(handle, pin.expose()) {
        Ok(()) => Ok(true),
        // By another key manager on the same token, between the two calls.
        Err(CallError { code: CKR_USER_ALREADY_LOGGED_IN, .. }) => Ok(false),
        Err(error) => {
            if PIN_REFUSED.contains(&error.code) {
                refused.add(token, pin, error);
            }
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use cryptoki_sys::{CK_RV, CKR_DEVICE_ERROR, CKR_PIN_INCORRECT, CKR_SESSION_HANDLE_INVALID};

    use super::*;

    fn pin(text: &str) -> SecretString {
        SecretString::new(text).expect("memory")
    }

    fn new() -> Login {
        Login::new(pin("1"))
    }

    fn fails_with(code: CK_RV) -> impl FnOnce(&SecretString) -> Result<bool, CallError> {
        move |_| Err(CallError { call: Call::Login, code })
    }

    #[test]
    fn a_refused_pin_is_tried_once_by_however_many() {
        for code in PIN_REFUSED {
            let (login, tries, start) = (new(), AtomicUsize::new(0), Barrier::new(8));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        start.wait();
                        let result = login.once_at_a_time(|pin| {
                            tries.fetch_add(1, Ordering::Relaxed);
                            fails_with(*code)(pin)
                        });
                        let said = "does not try the PIN again";
                        assert!(
                            matches!(result, Err(Fault::Device { detail }) if detail.contains(said))
                        );
                    });
                }
            });
            assert_eq!(tries.into_inner(), 1, "{code:#x}");
            assert!(login.check().is_err());
        }
    }

    #[test]
    fn another_fault_is_tried_again_after_a_while() {
        let login = Login {
            wait_max: Duration::from_millis(20),
            interval: Duration::from_secs(60),
            ..new()
        };
        let fault = Fault::Device { detail: "C_Login: CKR_DEVICE_ERROR".to_owned() };
        for _ in 0..3 {
            assert_eq!(login.once_at_a_time(fails_with(CKR_DEVICE_ERROR)), Err(fault.clone()));
            assert_eq!(login.check(), Ok(()));
            // However many want in.
            assert!(login.once_at_a_time(|_| panic!("too early")).is_err());
            login.state().failed_at = Instant::now().checked_sub(login.interval);
        }
        assert_eq!(login.once_at_a_time(|_| Ok(true)), Ok(true));
        assert_eq!(login.once_at_a_time(|_| Ok(false)), Ok(false));
        // A session that was lost before its login says nothing of that.
        let lost = CallError { call: Call::GetSessionInfo, code: CKR_SESSION_HANDLE_INVALID };
        assert!(login.once_at_a_time(|_| Err(lost)).is_err());
        assert_eq!(login.once_at_a_time(|_| Ok(true)), Ok(true));
    }

    #[test]
    fn who_waits_for_the_next_login_has_it_after_the_interval() {
        let login = Login { interval: Duration::from_millis(50), ..new() };
        assert!(login.once_at_a_time(fails_with(CKR_DEVICE_ERROR)).is_err());
        let failed_at = login.state().failed_at.expect("just now");
        assert_eq!(login.once_at_a_time(|_| Ok(true)), Ok(true));
        assert!(failed_at.elapsed() >= login.interval);
    }

    /// An attempt that hangs, begun while `login` is as given; tells how another one fares
    /// meanwhile, and after it has ended with a refusal.
    fn beside_a_hung_one(login: &Login) -> (Result<bool, Fault>, Result<bool, Fault>) {
        let (inside, leave) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            let hung = scope.spawn(|| {
                login.once_at_a_time(|pin| {
                    inside.wait();
                    leave.wait();
                    fails_with(CKR_PIN_INCORRECT)(pin)
                })
            });
            inside.wait();
            let meanwhile = login.once_at_a_time(|_| Ok(true));
            leave.wait();
            assert!(hung.join().expect("ends").is_err());
            (meanwhile, login.once_at_a_time(|_| Ok(true)))
        })
    }

    #[test]
    fn a_login_that_hangs_keeps_others_out_while_the_pin_is_unproven() {
        let short = || Login { wait_max: Duration::from_millis(20), ..new() };
        let (meanwhile, after) = beside_a_hung_one(&short());
        assert!(
            matches!(meanwhile, Err(Fault::Device { detail }) if detail.contains("still waiting"))
        );
        assert!(
            matches!(after, Err(Fault::Device { detail }) if detail.contains("CKR_PIN_INCORRECT"))
        );

        let proven = short();
        assert_eq!(proven.once_at_a_time(|_| Ok(true)), Ok(true));
        let (meanwhile, after) = beside_a_hung_one(&proven);
        assert_eq!(meanwhile, Ok(true));
        // The PIN was changed on the token: that holds for everybody.
        assert!(after.is_err());
    }

    #[test]
    fn each_pin_has_one_try() {
        let login = new();
        let tried = |login: &Login| {
            let mut tried = None;
            let _ = login.once_at_a_time(|pin| {
                tried = Some(pin.expose().to_owned());
                fails_with(CKR_PIN_INCORRECT)(pin)
            });
            tried
        };
        assert_eq!((tried(&login).as_deref(), tried(&login)), (Some("1"), None));
        login.set_pin(pin("1"));
        assert_eq!(tried(&login), None, "the same");
        login.set_pin(pin("2"));
        assert!(login.check().is_ok());
        assert_eq!((tried(&login).as_deref(), tried(&login)), (Some("2"), None));
    }

    #[test]
    fn what_becomes_of_one_pin_says_nothing_of_the_next() {
        let login = new();
        let refused = login.once_at_a_time(|before| {
            login.set_pin(pin("2"));
            assert_eq!(login.once_at_a_time(|_| Ok(true)), Ok(true), "while the other hangs");
            fails_with(CKR_PIN_INCORRECT)(before)
        });
        assert!(refused.is_err());
        assert_eq!((login.check(), login.once_at_a_time(|_| Ok(false))), (Ok(()), Ok(false)));
    }
}
