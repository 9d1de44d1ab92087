//! One HSM, from C_Initialize to C_Finalize: its sessions, its faults, and what every call goes
//! through.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use cryptoki_sys::*;

use crate::calls::Call;
use crate::clock::sleep_ms;
use crate::config::Config;
use crate::control::{Control, Faults};
use crate::device::Timing;
use crate::locks::{read, write};
use crate::random::Streams;
use crate::real::Functions;
use crate::session::Session;
use crate::stats::{InjectedFault, STATS, StatsFile};

/// Handles are this module's own and never come back, so that the handle of a lost session can
/// never meet a new one.
static NEXT_HANDLE: AtomicU64 = AtomicU64::new(1);

/// An error that a fault rule gives in place of the call.
pub struct InjectedError {
    /// What to return.
    pub code: CK_RV,
    /// The real operation is left as it is.
    pub leaves_operation: bool,
}

impl From<InjectedError> for CK_RV {
    fn from(injected: InjectedError) -> CK_RV {
        injected.code
    }
}

/// One HSM.
pub struct Instance {
    /// How it is without faults.
    pub config: Config,
    /// Its faults.
    pub control: Control,
    functions: &'static Functions,
    timing: Timing,
    stats_file: Option<StatsFile>,
    /// For calls without a session.
    streams: Streams,
    sessions: RwLock<HashMap<CK_SESSION_HANDLE, Arc<Session>>>,
    /// Sessions that have a place under the limit.
    open: AtomicU64,
    opened: AtomicU64,
    /// The last `sessions_lost`.
    reboots: AtomicU64,
    /// Calls to the device since C_Initialize, as far as the slow start needs to know.
    started: AtomicU64,
    /// Whether the real module is initialised. Every call into it holds this shared, so that calls
    /// do not wait for each other; closing, losing sessions and C_Finalize hold it alone, for a
    /// real module may free what another thread is using. Never held while waiting.
    gate: RwLock<bool>,
}

impl Instance {
    /// Not initialised yet.
    pub fn new(mut config: Config, control: Control, functions: &'static Functions) -> Instance {
        Instance {
            timing: Timing::new(config.wire.take(), config.device.take()),
            stats_file: config.stats.take().map(StatsFile::new),
            streams: Streams::new(config.seed, 0),
            // What the file says at C_Initialize was lost before.
            reboots: AtomicU64::new(control.faults().sessions_lost.unwrap_or(0)),
            config,
            control,
            functions,
            sessions: RwLock::default(),
            open: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            started: AtomicU64::new(0),
            gate: RwLock::new(false),
        }
    }

    /// Puts in force what the control file says that is new, and loses sessions where it says so.
    /// Not to be called with the gate held.
    pub fn poll_control(&self) {
        let Some(change) = self.control.poll() else { return };
        let old = self.control.faults();
        let reboot = change
            .new
            .sessions_lost
            .is_some_and(|number| self.reboots.swap(number, Ordering::AcqRel) != number);
        if reboot || (change.new.token_removed && !old.token_removed) {
            // In force before anybody else is let in: a call that the change releases finds its
            // session lost, and no session is opened on a token that is gone.
            let gate = write(&self.gate);
            self.lose_sessions(*gate);
            change.commit();
        } else {
            change.commit();
        }
    }

    /// Writes the counters, if a file is configured for them.
    pub fn write_stats(&self) {
        if let Some(file) = &self.stats_file {
            file.write(STATS.to_json(self.timing.busy_peak(), self.control.counts()));
        }
    }

    /// Whether something has to be looked after in the background.
    pub fn needs_ticks(&self) -> bool {
        self.stats_file.is_some() || self.config.control.is_some()
    }

    /// The session of a handle.
    pub fn session(&self, handle: CK_SESSION_HANDLE) -> Result<Arc<Session>, CK_RV> {
        self.poll_control();
        if self.control.faults().token_removed {
            return Err(CKR_DEVICE_REMOVED);
        }
        read(&self.sessions).get(&handle).cloned().ok_or(CKR_SESSION_HANDLE_INVALID)
    }

    /// Fails when the token is not in its slot.
    pub fn token_is_present(&self) -> Result<(), CK_RV> {
        self.poll_control();
        if self.control.faults().token_removed { Err(CKR_TOKEN_NOT_PRESENT) } else { Ok(()) }
    }

    /// What happens between the caller and the device: whatever delays the call, or lets it fail
    /// before the real module sees it. Nothing is held meanwhile.
    pub fn simulate(&self, call: Call, session: Option<&Session>) -> Result<(), InjectedError> {
        let streams = session.map_or(&self.streams, |session| &session.streams);
        self.poll_control();
        let faults = self.control.faults();
        // Every rule that names the call draws, hit or not: what is drawn later does not depend on
        // it.
        let mut hangs = false;
        for rule in faults.hang.iter().filter(|rule| rule.call.contains(call)) {
            hangs |= streams.faults.happens(rule.probability);
        }
        if hangs {
            self.hang(call, faults.clone());
        }
        for rule in faults.stall.iter().filter(|rule| rule.call.contains(call)) {
            if streams.faults.happens(rule.probability) {
                STATS.injected(InjectedFault::Stall);
                sleep_ms(rule.ms);
            }
        }
        self.start_slowly(call, &faults);
        self.timing.wait(call, streams).map_err(|code| {
            STATS.injected(InjectedFault::Throttle);
            InjectedError { code, leaves_operation: false }
        })?;
        let mut injected = None;
        for rule in faults.error.iter().filter(|rule| rule.call.contains(call)) {
            if streams.faults.happens(rule.probability) && injected.is_none() {
                injected = Some(InjectedError {
                    code: rule.code.0,
                    leaves_operation: rule.leaves_operation,
                });
            }
        }
        match injected {
            Some(injected) => {
                STATS.injected(InjectedFault::Error);
                if let Some(session) = session
                    && matches!(injected.code, CKR_SESSION_HANDLE_INVALID | CKR_SESSION_CLOSED)
                {
                    self.lose_session(session);
                }
                Err(injected)
            }
            None if session.is_some_and(|session| !session.read_write)
                && self.config.read_write_calls.contains(call) =>
            {
                Err(InjectedError { code: CKR_SESSION_READ_ONLY, leaves_operation: false })
            }
            None => Ok(()),
        }
    }

    fn hang(&self, call: Call, mut faults: Arc<Faults>) {
        STATS.injected(InjectedFault::Hang);
        STATS.hung.fetch_add(1, Ordering::Relaxed);
        while faults.hangs(call) {
            self.control.wait_for_change(&faults);
            self.poll_control();
            faults = self.control.faults();
        }
        STATS.hung.fetch_sub(1, Ordering::Relaxed);
    }

    fn start_slowly(&self, call: Call, faults: &Faults) {
        let slow = &faults.slow_start;
        let ms = if call == Call::C_Initialize {
            slow.initialize_ms
        } else if call.reaches_device() && self.started.fetch_add(1, Ordering::Relaxed) < slow.calls
        {
            slow.ms
        } else {
            0
        };
        if ms > 0 {
            STATS.injected(InjectedFault::SlowStart);
            sleep_ms(ms);
        }
    }

    /// Into the real module.
    pub fn enter(&self) -> Result<Inside<'_>, CK_RV> {
        let gate = read(&self.gate);
        if *gate {
            Ok(Inside { functions: self.functions, _gate: gate })
        } else {
            Err(CKR_CRYPTOKI_NOT_INITIALIZED)
        }
    }

    /// Into the real module with a session, unless it was lost on the way.
    pub fn enter_with(&self, session: &Session) -> Result<Inside<'_>, CK_RV> {
        let inside = self.enter()?;
        if session.alive.load(Ordering::Acquire) {
            Ok(inside)
        } else if self.control.faults().token_removed {
            Err(CKR_DEVICE_REMOVED)
        } else {
            Err(CKR_SESSION_HANDLE_INVALID)
        }
    }

    /// Opens a session with `open`, which calls the real C_OpenSession. Gives the handle.
    pub fn open_session(
        &self,
        slot: CK_SLOT_ID,
        read_write: bool,
        open: impl FnOnce(&Functions, &mut CK_SESSION_HANDLE) -> CK_RV,
    ) -> Result<CK_SESSION_HANDLE, CK_RV> {
        let max = self.config.sessions_max.unwrap_or(u64::MAX);
        let place = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
            (open < max).then_some(open + 1)
        });
        if place.is_err() {
            STATS.injected(InjectedFault::SessionCount);
            return Err(CKR_SESSION_COUNT);
        }
        let result = self.enter().and_then(|inside| {
            if self.control.faults().token_removed {
                return Err(CKR_TOKEN_NOT_PRESENT);
            }
            let mut real = 0;
            result_of(open(inside.functions, &mut real))?;
            let ordinal = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
            let streams = Streams::new(self.config.seed, ordinal);
            let session = Session::new(real, slot, read_write, streams);
            let handle = NEXT_HANDLE.fetch_add(1, Ordering::Relaxed) as CK_SESSION_HANDLE;
            STATS.sessions_opened.fetch_add(1, Ordering::Relaxed);
            STATS.sessions_peak.fetch_max(
                STATS.sessions_open.fetch_add(1, Ordering::Relaxed) + 1,
                Ordering::Relaxed,
            );
            // Still inside: whoever loses all sessions must find this one too.
            write(&self.sessions).insert(handle, Arc::new(session));
            Ok(handle)
        });
        if result.is_err() {
            self.open.fetch_sub(1, Ordering::AcqRel);
        }
        result
    }

    /// Closes one session.
    pub fn close_session(&self, handle: CK_SESSION_HANDLE) -> Result<(), CK_RV> {
        let gate = write(&self.gate);
        if !*gate {
            return Err(CKR_CRYPTOKI_NOT_INITIALIZED);
        }
        let session = write(&self.sessions).remove(&handle).ok_or(CKR_SESSION_HANDLE_INVALID)?;
        self.end(&session);
        self.close_real(&session)
    }

    /// Closes all sessions of a slot.
    pub fn close_slot(&self, slot: CK_SLOT_ID) -> Result<(), CK_RV> {
        let gate = write(&self.gate);
        if !*gate {
            return Err(CKR_CRYPTOKI_NOT_INITIALIZED);
        }
        write(&self.sessions).retain(|_, session| {
            let stays = session.slot != slot;
            if !stays {
                self.end(session);
            }
            stays
        });
        let Some(close_all) = self.functions.C_CloseAllSessions else {
            return Err(CKR_FUNCTION_NOT_SUPPORTED);
        };
        // SAFETY: the module is initialised, and nobody else is in it.
        result_of(unsafe { close_all(slot) })
    }

    /// What a reboot of the device does: every session is gone, and the login with the last one.
    /// The gate is held alone.
    fn lose_sessions(&self, initialised: bool) {
        for session in std::mem::take(&mut *write(&self.sessions)).values() {
            self.end(session);
            if initialised {
                // The caller has lost it whatever the real module says.
                let _ = self.close_real(session);
            }
        }
    }

    /// Whose handle is invalid has no session any more: it does not count against the limit for
    /// ever, nor keep the login.
    fn lose_session(&self, lost: &Session) {
        let gate = write(&self.gate);
        write(&self.sessions).retain(|_, session| !std::ptr::eq(&**session, lost));
        if lost.alive.load(Ordering::Acquire) {
            self.end(lost);
            if *gate {
                // The caller has lost it whatever the real module says.
                let _ = self.close_real(lost);
            }
        }
    }

    /// With the gate held alone: the session ends, and its place under the limit is free.
    fn end(&self, session: &Session) {
        if session.alive.swap(false, Ordering::AcqRel) {
            self.open.fetch_sub(1, Ordering::AcqRel);
            STATS.sessions_open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// With the gate held alone and open.
    fn close_real(&self, session: &Session) -> Result<(), CK_RV> {
        let Some(close) = self.functions.C_CloseSession else {
            return Err(CKR_FUNCTION_NOT_SUPPORTED);
        };
        // SAFETY: the module is initialised, nobody else is in it, and the handle was open until
        // now.
        result_of(unsafe { close(session.real) })
    }

    /// Initialises the real module with `initialize`.
    pub fn open_gate(&self, initialize: impl FnOnce(&Functions) -> CK_RV) -> Result<(), CK_RV> {
        let mut gate = write(&self.gate);
        result_of(initialize(self.functions))?;
        *gate = true;
        Ok(())
    }

    /// Finalises the real module with `finalize`, after the last call has left it. Calls that still
    /// wait here will find the gate closed.
    pub fn close_gate(&self, finalize: impl FnOnce(&Functions) -> CK_RV) -> Result<(), CK_RV> {
        let mut gate = write(&self.gate);
        if !*gate {
            return Err(CKR_CRYPTOKI_NOT_INITIALIZED);
        }
        result_of(finalize(self.functions))?;
        *gate = false;
        for (_, session) in write(&self.sessions).drain() {
            self.end(&session);
        }
        Ok(())
    }
}

/// The right to call the real module, until dropped.
pub struct Inside<'a> {
    /// Its functions.
    pub functions: &'a Functions,
    _gate: RwLockReadGuard<'a, bool>,
}

/// CKR_OK or not.
pub fn result_of(code: CK_RV) -> Result<(), CK_RV> {
    if code == CKR_OK { Ok(()) } else { Err(code) }
}
