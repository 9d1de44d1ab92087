//! Loaded modules: one C_Initialize for a library in this process, however many key managers use
//! it.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use cryptoki_sys::{
    CK_SESSION_HANDLE, CK_SLOT_ID, CKR_CRYPTOKI_ALREADY_INITIALIZED, CKR_SESSION_CLOSED,
    CKR_SESSION_HANDLE_INVALID,
};

use super::errors::{Call, CallError};
use super::ffi::Functions;
use super::refused_pins::RefusedPins;
use crate::key_manager::{Fault, LibraryState, Stuck};
use crate::limits::{
    HUNG_OPEN_TIME, INITIALIZE_INTERVAL, INITIALIZE_WAIT_MAX, REINITIALIZE_FAILURES,
    REINITIALIZE_INTERVAL,
};

/// By canonical path. A library stays loaded to the end of the process.
static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// A loaded library.
pub(super) struct Module {
    pub(super) functions: Functions,
    state: Mutex<State>,
    changed: Condvar,
    /// How often C_Initialize succeeded.
    initializations: AtomicU64,
    /// Counts C_Initialize. Handles of an older generation may by now be another session's or
    /// key's: they are neither used nor closed.
    generation: AtomicU64,
    pub(super) refused_pins: RefusedPins,
}

#[derive(Default)]
struct State {
    /// For C_Initialize.
    parameters: Option<CString>,
    phase: Phase,
    /// Threads that set something up in the module.
    visits: usize,
    /// Sessions that live, each of whose threads may be inside at any moment.
    sessions: usize,
    /// Openings in a row that failed as if the library had lost its HSM, and when there were enough
    /// of them.
    failures: u32,
    failing_since: Option<Instant>,
    /// When the module was last finalised for that.
    reinitialized_at: Option<Instant>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Down,
    /// A thread is in C_Finalize or C_Initialize.
    Changing {
        since: Instant,
    },
    Up,
    /// C_Initialize failed, and is not tried again at once by each of many lanes.
    Failed {
        at: Instant,
        fault: Fault,
    },
}

/// What a thread that wants in has to do.
enum Entry {
    In,
    Change { finalize: bool },
    Wait { since: Instant },
    Refused(Fault),
}

impl State {
    fn failed(&mut self, openings: u32, now: Instant) {
        self.failures = self.failures.saturating_add(openings);
        if self.failures >= REINITIALIZE_FAILURES {
            self.failing_since.get_or_insert(now);
        }
    }

    fn entry(&self, now: Instant) -> Entry {
        match self.phase {
            Phase::Down => Entry::Change { finalize: false },
            Phase::Changing { since } => Entry::Wait { since },
            Phase::Failed { at, ref fault }
                if now.saturating_duration_since(at) < INITIALIZE_INTERVAL =>
            {
                Entry::Refused(fault.clone())
            }
            Phase::Failed { .. } => Entry::Change { finalize: false },
            Phase::Up => {
                let lately = self
                    .reinitialized_at
                    .is_some_and(|at| now.saturating_duration_since(at) < REINITIALIZE_INTERVAL);
                // A session that works, or whose thread hangs in a call, keeps the module as it is.
                if self.failures < REINITIALIZE_FAILURES || self.sessions > 0 || lately {
                    Entry::In
                } else if self.visits == 0 {
                    Entry::Change { finalize: true }
                } else if self
                    .failing_since
                    .is_some_and(|since| now.saturating_duration_since(since) < HUNG_OPEN_TIME)
                {
                    Entry::Refused(Fault::Device {
                        detail: "C_Finalize: waits until no thread is inside the module".to_owned(),
                    })
                } else {
                    // One hangs in there: the others try what they can.
                    Entry::In
                }
            }
        }
    }

    /// What forbids C_Finalize and C_Initialize although they are due.
    fn stuck(&self, now: Instant) -> Option<Stuck> {
        let long_since = |since: Option<Instant>| {
            since.filter(|since| now.saturating_duration_since(*since) >= HUNG_OPEN_TIME)
        };
        match self.phase {
            Phase::Changing { since } => {
                let why = "C_Finalize or C_Initialize does not return".to_owned();
                long_since(Some(since)).map(|since| Stuck { why, since })
            }
            Phase::Up
                if self.failures >= REINITIALIZE_FAILURES && self.sessions + self.visits > 0 =>
            {
                let why = format!(
                    "its library must be initialised again, which {} sessions and {} openings \
                     inside it forbid: calls that hang, or another \
                     key manager that this library serves",
                    self.sessions, self.visits
                );
                long_since(self.failing_since).map(|since| Stuck { why, since })
            }
            Phase::Up | Phase::Down | Phase::Failed { .. } => None,
        }
    }
}

impl Module {
    /// The module at `path`, loaded now if it is the first use.
    pub(super) fn obtain(path: &Path, parameters: Option<&CString>) -> Result<Arc<Module>, Fault> {
        let failed = |why: &dyn std::fmt::Display| Fault::Device {
            detail: format!("module {}: {why}", path.display()),
        };
        let canonical = path.canonicalize().map_err(|error| failed(&error))?;
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&canonical) {
            module.take_parameters(parameters).map_err(|why| failed(&why))?;
            return Ok(module.clone());
        }
        let functions = Functions::load(&canonical).map_err(|why| failed(&why))?;
        let module = Arc::new(Module {
            functions,
            state: Mutex::new(State { parameters: parameters.cloned(), ..State::default() }),
            changed: Condvar::new(),
            initializations: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            refused_pins: RefusedPins::default(),
        });
        modules.insert(canonical, module.clone());
        Ok(module)
    }

    /// Fails if the module at `path` is initialised with other parameters. Loads nothing.
    pub(super) fn refuse_other_parameters(
        path: &Path,
        parameters: Option<&CString>,
    ) -> Result<(), Fault> {
        let modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        let module = path.canonicalize().ok().and_then(|path| modules.get(&path).cloned());
        let taken = module.map_or(Ok(()), |module| module.take_parameters(parameters));
        taken.map_err(|why| Fault::Device { detail: format!("module {}: {why}", path.display()) })
    }

    /// Others than it has are for a library that is not initialised: PKCS#11 has no way to change
    /// them, and C_Finalize would end the sessions of those who use it.
    fn take_parameters(&self, parameters: Option<&CString>) -> Result<(), &'static str> {
        let mut state = self.state();
        if state.parameters.as_ref() == parameters {
            return Ok(());
        }
        if state.visits > 0 || !matches!(state.phase, Phase::Down | Phase::Failed { .. }) {
            return Err("it is initialised in this process, with other initialize_parameters");
        }
        state.parameters = parameters.cloned();
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a thread in, into an initialised module. One thread initialises; the others wait for it
    /// a little and are then told so, at once if it has been at it for longer: a C_Initialize that
    /// hangs holds nobody up.
    pub(super) fn enter(self: &Arc<Self>) -> Result<Visit, Fault> {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            match state.entry(now) {
                Entry::In => {
                    state.visits += 1;
                    return Ok(Visit { module: self.clone(), generation: self.generation() });
                }
                Entry::Refused(fault) => return Err(fault),
                Entry::Wait { since } => {
                    let Some(left) = INITIALIZE_WAIT_MAX
                        .checked_sub(now.saturating_duration_since(since))
                        .filter(|left| !left.is_zero())
                    else {
                        return Err(Fault::Device {
                            detail: "C_Initialize: another thread is still waiting for it"
                                .to_owned(),
                        });
                    };
                    state = self
                        .changed
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
                Entry::Change { finalize } => {
                    state.phase = Phase::Changing { since: now };
                    if finalize {
                        state.reinitialized_at = Some(now);
                    }
                    // Until a session opens, it is done again as soon as it may be.
                    state.failing_since = state.failing_since.map(|_| now);
                    drop(state);
                    let result = self.change(finalize).map_err(|error| error.fault());
                    state = self.state();
                    state.phase = match &result {
                        Ok(()) => Phase::Up,
                        Err(fault) => Phase::Failed { at: Instant::now(), fault: fault.clone() },
                    };
                    self.changed.notify_all();
                    result?;
                }
            }
        }
    }

    /// Nobody else is inside when the module is finalised: no session lives, and [`Module::enter`]
    /// lets none in meanwhile.
    fn change(&self, finalize: bool) -> Result<(), CallError> {
        if finalize {
            // What it says does not matter: C_Initialize tells whether the module is well.
            let _ = self.functions.finalize();
        }
        // Before the call: from its first moment on, handles are new ones.
        self.generation.fetch_add(1, Ordering::AcqRel);
        let parameters = self.state().parameters.clone();
        match self.functions.initialize(parameters.as_deref()) {
            // Already: by other code in this process, which is as good.
            Ok(()) | Err(CallError { code: CKR_CRYPTOKI_ALREADY_INITIALIZED, .. }) => {
                self.initializations.fetch_add(1, Ordering::AcqRel);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// C_Finalize, if nobody is in the module nor has a session: before the process ends, so that
    /// the HSM knows.
    pub(super) fn finalize_if_left(&self) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Up) && state.visits == 0 && state.sessions == 0 {
            state.phase = Phase::Changing { since: Instant::now() };
            drop(state);
            // Nobody is left to hear of it.
            let _ = self.functions.finalize();
            self.state().phase = Phase::Down;
            self.changed.notify_all();
        }
    }

    /// The module said CKR_CRYPTOKI_NOT_INITIALIZED to a session of `generation`: the next
    /// [`Module::enter`] initialises it again.
    pub(super) fn lost(&self, generation: u64) {
        let mut state = self.state();
        if self.generation() == generation && matches!(state.phase, Phase::Up) {
            state.phase = Phase::Down;
        }
    }

    /// A session could not be opened, and perhaps never can until the library is initialised again.
    pub(super) fn opening_failed(&self) {
        self.state().failed(1, Instant::now());
    }

    /// The token has no keys any more where it had some: only a library that is initialised again
    /// can tell whether that is so.
    pub(super) fn doubt(&self) {
        self.state().failed(REINITIALIZE_FAILURES, Instant::now());
    }

    /// A session was opened: the library has its HSM.
    pub(super) fn opening_succeeded(&self) {
        let mut state = self.state();
        state.failures = 0;
        state.failing_since = None;
    }

    pub(super) fn library(&self, now: Instant) -> LibraryState {
        let initializations = self.initializations.load(Ordering::Acquire);
        LibraryState { initializations, stuck: self.state().stuck(now) }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// A thread's stay in an initialised module: it is not finalised meanwhile.
pub(super) struct Visit {
    pub(super) module: Arc<Module>,
    pub(super) generation: u64,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.module.state().visits -= 1;
    }
}

/// A session that closes itself, but only as long as its handle is its own.
pub(super) struct OpenSession {
    pub(super) module: Arc<Module>,
    pub(super) generation: u64,
    handle: CK_SESSION_HANDLE,
    slot: CK_SLOT_ID,
    pub(super) read_write: bool,
    /// The module does not know the handle any more.
    gone: bool,
}

impl OpenSession {
    pub(super) fn open(
        visit: &Visit,
        slot: CK_SLOT_ID,
        read_write: bool,
    ) -> Result<OpenSession, CallError> {
        let Visit { module, generation } = visit;
        // Read-only where the module has it and makes session objects (the test key) in it: xksd
        // never writes to a token.
        let handle = module.functions.open_session(slot, read_write)?;
        module.state().sessions += 1;
        let (module, generation, gone) = (module.clone(), *generation, false);
        Ok(OpenSession { module, generation, handle, slot, read_write, gone })
    }

    /// Another one on the same token, for reading and writing.
    pub(super) fn open_read_write_beside(&self) -> Result<OpenSession, CallError> {
        let (functions, _) = self.set_up(Call::OpenSession)?;
        let handle = functions.open_session(self.slot, true)?;
        self.module.state().sessions += 1;
        let (module, generation, slot) = (self.module.clone(), self.generation, self.slot);
        Ok(OpenSession { module, generation, handle, slot, read_write: true, gone: false })
    }

    pub(super) fn handle(&self) -> CK_SESSION_HANDLE {
        self.handle
    }

    /// The module's functions and the handle, unless that is no longer this session's.
    pub(super) fn set_up(&self, call: Call) -> Result<(&Functions, CK_SESSION_HANDLE), CallError> {
        if self.gone {
            return Err(CallError { call, code: CKR_SESSION_CLOSED });
        }
        Ok((&self.module.functions, self.handle))
    }

    /// Whether the module has been initialised again since this session was opened.
    pub(super) fn is_stale(&self) -> bool {
        self.module.generation() != self.generation
    }

    pub(super) fn is_logged_in(&self) -> Result<bool, CallError> {
        let (functions, handle) = self.set_up(Call::GetSessionInfo)?;
        functions.is_logged_in(handle)
    }

    /// The module does not know the handle any more. It may give the number to the next session,
    /// which closing this one would end.
    pub(super) fn forget_if_gone(&mut self, error: &CallError) {
        if matches!(error.code, CKR_SESSION_HANDLE_INVALID | CKR_SESSION_CLOSED) {
            self.gone = true;
        }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        if !self.gone && !self.is_stale() {
            self.module.functions.close_session(self.handle);
        }
        self.module.state().sessions -= 1;
    }
}
