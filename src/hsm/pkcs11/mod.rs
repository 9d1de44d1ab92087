//! HSMs behind a PKCS#11 module.
//!
//! Set-up (slots, login, key search) goes through the `cryptoki` crate; what happens for every request goes straight to the module's
//! functions, one call each ([`ffi`]). Nothing here needs the HSM to be up until a session is opened.

mod attributes;
mod errors;
mod ffi;
mod iv;
mod keys;
mod list;
mod login;
mod module;
mod profile;
mod session;
mod token;

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use cryptoki::slot::{Slot, TokenInfo};
use cryptoki_sys::CKR_CRYPTOKI_NOT_INITIALIZED;
use zeroize::Zeroizing;

pub use errors::{Call, CallError, Reaction};
pub use list::{KeyListing, list_keys};
pub use profile::Profile;
pub use token::TokenSelector;

use super::{Engine, Fault, ManagerInfo, Session};
use iv::IvWatch;
use keys::KeyCache;
use login::Login;
use module::{Module, OpenSession};
use session::HsmSession;
use token::NoToken;

/// A key manager of kind `pkcs11`.
#[derive(Clone)]
pub struct Settings {
    /// The key manager's name in the configuration.
    pub name: String,
    /// The PKCS#11 library.
    pub module: PathBuf,
    /// Which of its tokens.
    pub token: TokenSelector,
    /// The user's PIN.
    pub pin: Zeroizing<String>,
    /// The make of the HSM.
    pub profile: Profile,
    /// Text for C_Initialize's pReserved, which NSS wants: `configdir='sql:/dir' certPrefix='' keyPrefix='' secmod='secmod.db' flags=`.
    pub initialize_parameters: Option<String>,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("module", &self.module)
            .field("token", &self.token)
            .field("profile", &self.profile)
            .field("initialize_parameters", &self.initialize_parameters)
            .finish_non_exhaustive()
    }
}

/// Opens sessions on one token.
pub struct Pkcs11Engine {
    settings: Settings,
    parameters: Option<CString>,
    module: OnceLock<Arc<Module>>,
    login: Login,
    /// Open for as long as the engine lives: a token logs its user out when the last session is closed.
    anchor: Mutex<Option<OpenSession>>,
    shared: Arc<Shared>,
}

/// What the sessions of an engine have in common.
struct Shared {
    profile: Profile,
    keys: KeyCache,
    iv_watch: IvWatch,
}

/// A step of opening that failed.
enum NotOpen {
    Call(CallError),
    Fault(Fault),
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
            NoToken::Choice(detail) => NotOpen::Fault(Fault::Device { detail }),
        }
    }
}

impl Pkcs11Engine {
    /// Fails only for settings that can never work; module and HSM are first touched by [`Engine::open`], each time anew until it succeeds.
    pub fn new(settings: Settings) -> Result<Arc<Pkcs11Engine>, Fault> {
        let parameters = settings
            .initialize_parameters
            .as_deref()
            .map(CString::new)
            .transpose()
            .map_err(|_| Fault::Device { detail: "the initialize parameters hold a NUL character".to_owned() })?;
        let shared = Arc::new(Shared { profile: settings.profile, keys: KeyCache::default(), iv_watch: IvWatch::default() });
        Ok(Arc::new(Pkcs11Engine {
            settings,
            parameters,
            module: OnceLock::new(),
            login: Login::default(),
            anchor: Mutex::new(None),
            shared,
        }))
    }

    /// What the token holds.
    pub fn list_keys(&self) -> Result<Vec<KeyListing>, Fault> {
        let (session, _) = self.session()?;
        list::of(&session)
    }

    fn module(&self) -> Result<Arc<Module>, Fault> {
        if let Some(module) = self.module.get() {
            return Ok(module.clone());
        }
        let module = Module::obtain(&self.settings.module, self.parameters.as_ref())?;
        Ok(self.module.get_or_init(|| module).clone())
    }

    /// Finds the token and does `with` it; once more if the module says that it is not initialised (any more).
    fn with_token<T>(&self, with: impl Fn(&Arc<Module>, u64, Slot, &TokenInfo) -> Result<T, NotOpen>) -> Result<T, Fault> {
        let module = self.module()?;
        let _presence = module.enter();
        let attempt = |generation| {
            let (slot, info) = token::find(&module.pkcs11, &self.settings.token)?;
            with(&module, generation, slot, &info)
        };
        let generation = module.initialize().map_err(|error| error.fault())?;
        let result = match attempt(generation) {
            Err(NotOpen::Call(CallError { code: CKR_CRYPTOKI_NOT_INITIALIZED, .. })) => {
                module.lost(generation);
                attempt(module.initialize().map_err(|error| error.fault())?)
            }
            result => result,
        };
        result.map_err(|error| match error {
            NotOpen::Call(error) => error.fault(),
            NotOpen::Fault(fault) => fault,
        })
    }

    /// A session, logged in; and whether the token asks for a login.
    fn session(&self) -> Result<(OpenSession, bool), Fault> {
        self.login.check()?;
        self.with_token(|module, generation, slot, info| {
            let session = OpenSession::open(module, generation, slot)?;
            let needs_login = info.login_required();
            let newly = needs_login && self.login.log_in(&session, &self.settings.pin).map_err(NotOpen::Fault)?;
            if newly {
                // The login was lost, or never was: with it went every handle.
                self.shared.keys.clear();
            }
            self.hold_anchor(&session, slot, newly);
            Ok((session, needs_login))
        })
    }

    fn hold_anchor(&self, session: &OpenSession, slot: Slot, newly_logged_in: bool) {
        // Not waited for: whoever holds it is doing the same, or hangs.
        let Ok(mut anchor) = self.anchor.try_lock() else { return };
        let good = anchor.as_mut().is_some_and(|anchor| {
            !anchor.is_stale()
                && (!newly_logged_in
                    || match anchor.is_logged_in() {
                        Ok(_) => true,
                        Err(error) => {
                            anchor.forget_if_gone(&error);
                            false
                        }
                    })
        });
        if !good {
            // Where the token has no session left for it, the login lasts as long as the sessions do.
            *anchor = OpenSession::open(&session.module, session.generation, slot).ok();
        }
    }
}

impl Engine for Pkcs11Engine {
    fn open(&self) -> Result<Box<dyn Session>, Fault> {
        let (session, needs_login) = self.session()?;
        Ok(Box::new(HsmSession::new(session, needs_login, self.shared.clone())))
    }

    fn close(&self) {
        // With its last session a token logs its user out. Whoever holds the anchor hangs in the module.
        if let Ok(mut anchor) = self.anchor.try_lock() {
            *anchor = None;
        }
        if let Some(module) = self.module.get() {
            module.finalize_if_left();
        }
    }

    fn info(&self) -> Result<ManagerInfo, Fault> {
        self.with_token(|module, _, _, token| {
            let library = module.pkcs11.get_library_info().map_err(|error| CallError::from_cryptoki(Call::GetInfo, &error))?;
            let (hardware, firmware) = (token.hardware_version(), token.firmware_version());
            Ok(ManagerInfo {
                vendor: token.manufacturer_id().to_owned(),
                model: token.model().to_owned(),
                token: token.label().to_owned(),
                serial: token.serial_number().to_owned(),
                versions: format!("library {}, hardware {hardware}, firmware {firmware}", library.library_version()),
            })
        })
    }

    fn in_process(&self) -> bool {
        self.settings.profile.row().in_process
    }
}
