//! Loaded modules: one C_Initialize for a library in this process, however many key managers use it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use cryptoki::context::Pkcs11;
use cryptoki::session::{Session, SessionState};
use cryptoki::slot::Slot;
use cryptoki_sys::{CK_SESSION_HANDLE, CKR_CRYPTOKI_ALREADY_INITIALIZED, CKR_SESSION_CLOSED, CKR_SESSION_HANDLE_INVALID};

use super::errors::{Call, CallError};
use super::ffi::Functions;
use crate::hsm::Fault;

/// By canonical path. A library stays loaded to the end of the process.
static MODULES: Mutex<BTreeMap<PathBuf, Arc<Module>>> = Mutex::new(BTreeMap::new());

/// A loaded library.
pub(super) struct Module {
    pub(super) functions: Functions,
    pub(super) pkcs11: Pkcs11,
    parameters: Option<CString>,
    /// Held while C_Initialize runs; whether it has, for the generation.
    initialized: Mutex<bool>,
    /// Who is in the module or has a session in it holds one more.
    presence: Arc<()>,
    /// Counts C_Initialize. Handles of an older generation may by now be another session's or key's: they are neither used nor closed.
    generation: AtomicU64,
}

impl Module {
    /// The module at `path`, loaded now if it is the first use.
    pub(super) fn obtain(path: &Path, parameters: Option<&CString>) -> Result<Arc<Module>, Fault> {
        let failed = |why: &dyn std::fmt::Display| Fault::Device { detail: format!("module {}: {why}", path.display()) };
        let canonical = path.canonicalize().map_err(|error| failed(&error))?;
        let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(&canonical) {
            if module.parameters.as_ref() != parameters {
                return Err(failed(&"another key manager uses this library with other initialize parameters"));
            }
            return Ok(module.clone());
        }
        let functions = Functions::load(&canonical).map_err(|why| failed(&why))?;
        let pkcs11 = Pkcs11::new(&canonical).map_err(|error| failed(&error))?;
        let module = Arc::new(Module {
            functions,
            pkcs11,
            parameters: parameters.cloned(),
            initialized: Mutex::new(false),
            presence: Arc::new(()),
            generation: AtomicU64::new(0),
        });
        modules.insert(canonical, module.clone());
        Ok(module)
    }

    /// Initialises if that has not been done, or was lost; tells the generation.
    pub(super) fn initialize(&self) -> Result<u64, CallError> {
        let mut initialized = self.initialized.lock().unwrap_or_else(PoisonError::into_inner);
        if !*initialized {
            // Before the call: from its first moment on, handles are new ones.
            self.generation.fetch_add(1, Ordering::AcqRel);
            match self.functions.initialize(self.parameters.as_deref()) {
                // Already: by other code in this process, which is as good.
                Ok(()) | Err(CallError { code: CKR_CRYPTOKI_ALREADY_INITIALIZED, .. }) => *initialized = true,
                Err(error) => return Err(error),
            }
        }
        Ok(self.generation())
    }

    /// Held while the module is used: it is not finalized meanwhile.
    pub(super) fn enter(&self) -> Arc<()> {
        self.presence.clone()
    }

    /// C_Finalize, if nobody is in the module nor has a session: before the process ends, so that the HSM knows.
    pub(super) fn finalize_if_left(&self) {
        let Ok(mut initialized) = self.initialized.try_lock() else { return };
        if *initialized && Arc::strong_count(&self.presence) == 1 {
            *initialized = false;
            // Nobody is left to be told.
            let _ = self.functions.finalize();
        }
    }

    /// The module said CKR_CRYPTOKI_NOT_INITIALIZED to a session of `generation`: the next [`Module::initialize`] does it again.
    pub(super) fn lost(&self, generation: u64) {
        let mut initialized = self.initialized.lock().unwrap_or_else(PoisonError::into_inner);
        if self.generation() == generation {
            *initialized = false;
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }
}

/// A session that closes itself, but only as long as its handle is its own.
pub(super) struct OpenSession {
    pub(super) module: Arc<Module>,
    pub(super) generation: u64,
    /// `None` once it must not be closed any more.
    session: Option<Session>,
    handle: CK_SESSION_HANDLE,
    _presence: Arc<()>,
}

impl OpenSession {
    pub(super) fn open(module: &Arc<Module>, generation: u64, slot: Slot) -> Result<OpenSession, CallError> {
        // Read-only: xksd never writes to a token. Session objects (the test key) may be made in it.
        let session = module.pkcs11.open_ro_session_no_drop(slot).map_err(|error| CallError::from_cryptoki(Call::OpenSession, &error))?;
        let handle = session.handle();
        Ok(OpenSession { module: module.clone(), generation, session: Some(session), handle, _presence: module.enter() })
    }

    pub(super) fn handle(&self) -> CK_SESSION_HANDLE {
        self.handle
    }

    /// The crate's session, for calls off the hot path.
    pub(super) fn set_up(&self, call: Call) -> Result<&Session, CallError> {
        self.session.as_ref().ok_or(CallError { call, code: CKR_SESSION_CLOSED })
    }

    /// Whether the module has been initialised anew since this session was opened.
    pub(super) fn is_stale(&self) -> bool {
        self.module.generation() != self.generation
    }

    pub(super) fn is_logged_in(&self) -> Result<bool, CallError> {
        let info = self
            .set_up(Call::GetSessionInfo)?
            .get_session_info()
            .map_err(|error| CallError::from_cryptoki(Call::GetSessionInfo, &error))?;
        Ok(matches!(info.session_state(), SessionState::RoUser | SessionState::RwUser))
    }

    /// The module does not know the handle any more. It may give the number to the next session, which closing this one would end.
    pub(super) fn forget_if_gone(&mut self, error: &CallError) {
        if matches!(error.code, CKR_SESSION_HANDLE_INVALID | CKR_SESSION_CLOSED) {
            self.session = None;
        }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && !self.is_stale()
        {
            // Nobody is left to be told; a session that cannot be closed is gone or goes with the process.
            let _ = session.close();
        }
    }
}
