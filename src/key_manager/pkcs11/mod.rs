//! HSMs behind a PKCS#11 module.
//!
//! The module's functions are called directly (`ffi`), for a request one call for each step.
//! Nothing here needs the HSM to be up until a session is opened.

mod attributes;
mod breaker;
mod errors;
mod ffi;
mod inventory;
mod iv;
mod keep_alive;
mod keys;
mod list;
mod login;
mod messages;
mod module;
mod profile;
mod quarantine;
mod recent_fault;
mod refused_pins;
mod search;
mod session;
mod shared;
mod token;
mod token_keys;

// For a model of failover, beside the replicas.
#[cfg(test)]
pub(crate) use quarantine::{Epoch, Quarantine, SelfTest};

use std::collections::HashMap;
use std::ffi::CString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use cryptoki_sys::{CK_SLOT_ID, CKM_AES_GCM, CKR_CRYPTOKI_NOT_INITIALIZED, CKR_SESSION_COUNT};

pub use errors::{Call, CallError, Reaction};
pub use profile::Profile;
pub use token::TokenSelector;

use super::{
    Concurrency, Engine, Fault, KeyRef, LibraryState, ManagerInfo, Outcome, RefusedKey, Session,
    TokenKeys,
};
use crate::limits::SESSION_COUNT_BACKOFF;
use crate::secret::SecretString;
use errors::LIBRARY_LOST;
use ffi::token::TokenInfo;
use inventory::Inventory;
use keep_alive::KeepAlive;
use login::Login;
use module::{Module, OpenSession, Visit};
use session::HsmSession;
use shared::Shared;
use token::NoToken;
use token_keys::NO_KEYS_ANY_MORE;

/// A key manager of kind `pkcs11`.
#[derive(Clone)]
pub struct Settings {
    /// The key manager's name in the configuration.
    pub name: String,
    /// The PKCS#11 library.
    pub module: PathBuf,
    /// Which of its tokens.
    pub token: TokenSelector,
    /// The user's PIN, until another one is [set](Engine::set_pin).
    pub pin: SecretString,
    /// The make of the HSM.
    pub profile: Profile,
    /// Text for C_Initialize's pReserved, which NSS wants: `configdir='sql:/dir' certPrefix=''
    /// keyPrefix='' secmod='secmod.db' flags=`.
    pub initialize_parameters: Option<String>,
    /// Decrypt and compare what was encrypted also where no integrity value is asked for.
    pub verify_encryptions: bool,
    /// Open read/write sessions from the start, also where the module has others.
    pub read_write_sessions: bool,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("module", &self.module)
            .field("token", &self.token)
            .field("profile", &self.profile)
            .field("initialize_parameters", &self.initialize_parameters)
            .field("verify_encryptions", &self.verify_encryptions)
            .field("read_write_sessions", &self.read_write_sessions)
            .finish_non_exhaustive()
    }
}

/// Opens sessions on one token.
pub struct Pkcs11Engine {
    settings: Settings,
    parameters: Option<CString>,
    module: OnceLock<Arc<Module>>,
    login: Login,
    /// The token asks for a login: without one it hides keys.
    needs_login: AtomicBool,
    /// The [`Module::generation`] in which the token was found to have AES-GCM.
    has_gcm_in: AtomicU64,
    keep_alive: KeepAlive,
    inventory: Inventory,
    /// When the token last said that it has no session left.
    full_at: Mutex<Option<Instant>>,
    shared: Arc<Shared>,
}

/// Told of a token that cannot serve AWS KMS.
const NO_AES_GCM: &str = "the token has no AES-GCM (neither C_GetMechanismInfo nor \
    C_GetMechanismList knows CKM_AES_GCM): AWS KMS needs it";

/// A step of opening that failed.
enum NotOpen {
    Call(CallError),
    /// For the operator: the token cannot be told from what the module shows.
    NoToken(String),
    /// The token is there, and its keys are not shown.
    NoKeys,
    Fault(Fault),
}

impl NotOpen {
    /// As if the library had lost its HSM: no token where there was one, or a code of
    /// [`LIBRARY_LOST`].
    fn may_need_initialization(&self) -> bool {
        match self {
            NotOpen::Call(error) => LIBRARY_LOST.contains(&error.code),
            NotOpen::NoToken(_) | NotOpen::NoKeys => true,
            NotOpen::Fault(_) => false,
        }
    }

    fn fault(self) -> Fault {
        match self {
            NotOpen::Call(error) if error.code == CKR_SESSION_COUNT => Fault::Device {
                detail: format!(
                    "{error}: the token has no session left; configure fewer, or let the HSM give \
                     more"
                ),
            },
            NotOpen::Call(error) => error.fault(),
            NotOpen::NoToken(detail) => Fault::Device { detail },
            NotOpen::NoKeys => Fault::Device { detail: NO_KEYS_ANY_MORE.to_owned() },
            NotOpen::Fault(fault) => fault,
        }
    }
}

impl From<CallError> for NotOpen {
    fn from(error: CallError) -> NotOpen {
        NotOpen::Call(error)
    }
}

impl From<NoToken> for NotOpen {
    fn from(error: NoToken) -> NotOpen {
        match error {
            NoToken::Call(error) => NotOpen::Call(error),
            NoToken::Choice(detail) => NotOpen::NoToken(detail),
        }
    }
}

impl Pkcs11Engine {
    /// Fails only for settings that can never work; module and HSM are first touched by
    /// [`Engine::open`], every time until it succeeds.
    pub fn new(settings: Settings) -> Result<Arc<Pkcs11Engine>, Fault> {
        let parameters =
            settings.initialize_parameters.as_deref().map(CString::new).transpose().map_err(
                |_| Fault::Device {
                    detail: "the initialize parameters hold a NUL character".to_owned(),
                },
            )?;
        let shared = Shared::new(
            settings.profile,
            settings.verify_encryptions,
            settings.read_write_sessions,
        );
        let login = Login::new(settings.pin.clone());
        Ok(Arc::new(Pkcs11Engine {
            settings,
            parameters,
            module: OnceLock::new(),
            login,
            needs_login: AtomicBool::new(false),
            has_gcm_in: AtomicU64::new(0),
            keep_alive: KeepAlive::default(),
            inventory: Inventory::default(),
            full_at: Mutex::new(None),
            shared: Arc::new(shared),
        }))
    }

    /// Fails if its module is in use in this process with other initialize parameters. Loads
    /// nothing.
    ///
    /// # Errors
    /// For the operator.
    pub fn refuse_other_parameters(&self) -> Result<(), Fault> {
        Module::refuse_other_parameters(&self.settings.module, self.parameters.as_ref())
    }

    fn module(&self) -> Result<Arc<Module>, Fault> {
        if let Some(module) = self.module.get() {
            return Ok(module.clone());
        }
        let module = Module::obtain(&self.settings.module, self.parameters.as_ref())?;
        Ok(self.module.get_or_init(|| module).clone())
    }

    /// Finds the token and does `with` it; once more if the module says that it is not initialised
    /// (any more).
    fn with_token<T>(
        &self,
        with: impl Fn(&Visit, CK_SLOT_ID, &TokenInfo) -> Result<T, NotOpen>,
    ) -> Result<T, NotOpen> {
        let module = self.module().map_err(NotOpen::Fault)?;
        let attempt = || {
            let visit = module.enter().map_err(NotOpen::Fault)?;
            let found = token::find(&module.functions, &self.settings.token).map_err(NotOpen::from);
            let result = found.and_then(|(slot, info)| with(&visit, slot, &info));
            if let Err(NotOpen::Call(CallError { code: CKR_CRYPTOKI_NOT_INITIALIZED, .. })) = result
            {
                module.lost(visit.generation);
            }
            result
        };
        match attempt() {
            Err(NotOpen::Call(CallError { code: CKR_CRYPTOKI_NOT_INITIALIZED, .. })) => attempt(),
            result => result,
        }
    }

    /// A session, logged in; and whether the token asks for a login.
    fn session(&self) -> Result<(OpenSession, bool), Fault> {
        self.login.check()?;
        self.check_not_full()?;
        let opened = self.with_token(|visit, slot, info| {
            self.check_mechanism(visit, slot)?;
            let session = OpenSession::open(visit, slot, self.shared.read_write())?;
            let needs_login = info.login_required;
            self.needs_login.store(needs_login, Ordering::Relaxed);
            let newly = needs_login
                && self.login.log_in(&session, &info.identity()).map_err(NotOpen::Fault)?;
            if newly {
                // The login was lost, or never was: with it went every handle.
                self.shared.keys.clear();
            }
            self.look_for_lost_keys(&session)?;
            self.keep_alive.renew(newly, || {
                // Where the token has no session left for it, the login lasts as long as the
                // sessions do.
                OpenSession::open(visit, slot, self.shared.read_write()).ok()
            });
            Ok((session, needs_login))
        });
        let Some(module) = self.module.get() else { return opened.map_err(NotOpen::fault) };
        match &opened {
            Ok(_) => module.opening_succeeded(),
            Err(NotOpen::Call(CallError { code: CKR_SESSION_COUNT, .. })) => {
                *self.full_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            Err(error) if error.may_need_initialization() => {
                // While a session is open, the module is not initialised again.
                if self.shared.token_keys.is_lost() {
                    self.keep_alive.close();
                    module.doubt();
                } else {
                    self.keep_alive.close_if_dead();
                    module.opening_failed();
                }
            }
            Err(_) => {}
        }
        opened.map_err(|error| match error.fault() {
            // What began it: the library says by now that there is no token, or something less
            // telling.
            Fault::Device { detail }
                if self.shared.token_keys.is_lost() && detail != NO_KEYS_ANY_MORE =>
            {
                Fault::Device {
                    detail: format!(
                        "{detail}; before, the token showed no secret key at all, where it had some"
                    ),
                }
            }
            fault => fault,
        })
    }

    /// Where keys are not shown, a session is of use only if it shows them, or that they were
    /// deleted.
    fn look_for_lost_keys(&self, session: &OpenSession) -> Result<(), NotOpen> {
        let token_keys = &self.shared.token_keys;
        if !token_keys.is_lost() {
            return Ok(());
        }
        if search::any(session)? {
            token_keys.shows_keys();
        } else if token_keys.shows_none(session.generation, Instant::now()) {
            return Err(NotOpen::NoKeys);
        }
        Ok(())
    }

    /// A token without AES-GCM (a TPM, say) can serve nobody, and its calls say that with codes
    /// that can mean many things.
    fn check_mechanism(&self, visit: &Visit, slot: CK_SLOT_ID) -> Result<(), NotOpen> {
        if self.has_gcm_in.load(Ordering::Relaxed) == visit.generation {
            return Ok(());
        }
        if visit.module.functions.has_mechanism(slot, CKM_AES_GCM) == Some(false) {
            return Err(NotOpen::Fault(Fault::Device { detail: NO_AES_GCM.to_owned() }));
        }
        self.has_gcm_in.store(visit.generation, Ordering::Relaxed);
        Ok(())
    }

    /// A token without a session left is not asked for one by every lane that would like one.
    fn check_not_full(&self) -> Result<(), Fault> {
        let full_at = *self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        match full_at {
            Some(at) if at.elapsed() < SESSION_COUNT_BACKOFF => {
                Err(NotOpen::Call(CallError { call: Call::OpenSession, code: CKR_SESSION_COUNT })
                    .fault())
            }
            _ => Ok(()),
        }
    }

    /// The session in which keys are listed: the one that keeps the login alive, or another; `None`
    /// where the token has none left.
    fn session_beside(&self) -> Result<Option<OpenSession>, Fault> {
        if let Some(session) = self.keep_alive.lend() {
            return Ok(Some(session));
        }
        let read_write = self.shared.read_write();
        match self.with_token(|visit, slot, _| Ok(OpenSession::open(visit, slot, read_write)?)) {
            Ok(session) => Ok(Some(session)),
            Err(NotOpen::Call(CallError { code: CKR_SESSION_COUNT, .. })) => Ok(None),
            Err(error) => Err(error.fault()),
        }
    }
}

impl Engine for Pkcs11Engine {
    fn open(&self) -> Result<Box<dyn Session>, Fault> {
        let (session, needs_login) = self.session()?;
        let mut session = HsmSession::new(session, needs_login, self.shared.clone());
        if session.try_messages() {
            return Ok(Box::new(session));
        }
        // The attempt may have left an operation in it.
        self.shared.messages_misbehave.store(true, Ordering::Relaxed);
        drop(session);
        let (session, needs_login) = self.session()?;
        Ok(Box::new(HsmSession::new(session, needs_login, self.shared.clone())))
    }

    fn close(&self) {
        self.inventory.end();
        // With its last session a token logs its user out.
        self.keep_alive.close();
        if let Some(module) = self.module.get() {
            module.finalize_if_left();
        }
    }

    fn info(&self) -> Result<ManagerInfo, Fault> {
        self.with_token(|visit, _, token| {
            let version = visit.module.functions.library_version()?;
            Ok(ManagerInfo {
                vendor: token.manufacturer.clone(),
                model: token.model.clone(),
                token: token.label.clone(),
                serial: token.serial.clone(),
                versions: format!(
                    "library {version}, hardware {}, firmware {}",
                    token.hardware, token.firmware
                ),
                library: visit.module.library(Instant::now()),
            })
        })
        .map_err(NotOpen::fault)
    }

    fn describe_keys(&self, keys: &[KeyRef]) -> Result<Option<Vec<Outcome>>, Fault> {
        let labels: Vec<_> = keys.iter().map(|key| key.label.clone()).collect();
        self.inventory.take(
            &self.shared,
            self.needs_login.load(Ordering::Relaxed),
            &labels,
            || self.session_beside(),
            |session| self.keep_alive.give_back(session),
        )
    }

    fn list(&self) -> Result<TokenKeys, Fault> {
        let (session, _) = self.session()?;
        list::of(&session, &self.shared.keys)
    }

    fn library(&self) -> LibraryState {
        self.module.get().map(|module| module.library(Instant::now())).unwrap_or_default()
    }

    fn set_pin(&self, pin: SecretString) {
        self.login.set_pin(pin);
    }

    fn refused_pin(&self) -> Option<String> {
        self.login.refused().map(|fault| fault.to_string())
    }

    fn refused_keys(&self) -> Vec<RefusedKey> {
        self.shared.breakers.open()
    }

    fn unrequested_encryptions(&self) -> HashMap<Arc<str>, u64> {
        self.shared.unrequested.take()
    }

    fn concurrency(&self) -> Concurrency {
        self.settings.profile.row().concurrency
    }
}
