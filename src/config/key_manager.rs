//! `[[key_manager]]`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use super::environment::{Environment, environment};
use super::problem::quoted;
use super::reader::{Section, Value, all, distinct};
use super::secret::{Late, PIN_FORM, is_pin, late_secret};
use super::table::{InForce, Said, Setting, names};
use super::wrapped::{self, Wrapped};
use crate::fleet::key_managers::is_name;
use crate::key_manager::Concurrency;
use crate::key_manager::pkcs11::{Profile, TokenSelector};
use crate::limits::{
    KEY_MANAGER_NAME_CHARS_MAX, SESSIONS_MAX, TOKEN_LABEL_BYTES_MAX, TOKEN_SERIAL_BYTES_MAX,
};
use crate::secret::SecretString;

/// One `[[key_manager]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyManager {
    /// Unique; key stores refer to it, metrics and health answers show it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// `kind` of a key manager with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// AES-256-GCM in this process, for trying out.
    Local {
        /// JSON file with the keys.
        key_file: PathBuf,
    },
    /// An HSM behind a PKCS#11 module.
    Pkcs11(Pkcs11),
    /// AES-256-GCM in this process, with keys that an HSM has wrapped.
    Wrapped(Wrapped),
}

impl KeyManager {
    /// What belongs to `kind = "pkcs11"`.
    pub fn pkcs11(&self) -> Option<&Pkcs11> {
        match &self.kind {
            Kind::Pkcs11(pkcs11) => Some(pkcs11),
            Kind::Local { .. } | Kind::Wrapped(_) => None,
        }
    }

    /// What belongs to `kind = "wrapped"`.
    pub fn wrapped(&self) -> Option<&Wrapped> {
        match &self.kind {
            Kind::Wrapped(wrapped) => Some(wrapped),
            Kind::Local { .. } | Kind::Pkcs11(_) => None,
        }
    }
}

impl Kind {
    /// As the configuration has it.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Local { .. } => "local",
            Kind::Pkcs11(_) => "pkcs11",
            Kind::Wrapped(_) => "wrapped",
        }
    }

    /// The file with keys that nobody has wrapped.
    pub fn key_file(&self) -> Option<&Path> {
        match self {
            Kind::Local { key_file } => Some(key_file),
            Kind::Pkcs11(_) | Kind::Wrapped(_) => None,
        }
    }

    /// Sessions over all shards; 0 for a kind that has none.
    pub fn sessions(&self) -> usize {
        match self {
            Kind::Local { .. } | Kind::Wrapped(_) => 0,
            Kind::Pkcs11(pkcs11) => pkcs11.sessions,
        }
    }

    /// The token of a kind that has one.
    pub fn token(&self) -> Option<&TokenSelector> {
        match self {
            Kind::Local { .. } | Kind::Wrapped(_) => None,
            Kind::Pkcs11(pkcs11) => Some(&pkcs11.token),
        }
    }

    /// Whether it computes on one thread of this process, beside the shards.
    pub fn keeps_one_thread_busy(&self) -> bool {
        match self {
            Kind::Local { .. } | Kind::Wrapped(_) => false,
            Kind::Pkcs11(pkcs11) => pkcs11.profile.concurrency() == Concurrency::Single,
        }
    }
}

/// A key manager of `kind = "pkcs11"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11 {
    /// The module, a shared object.
    pub module: PathBuf,
    /// Which of the module's tokens.
    pub token: TokenSelector,
    /// The user PIN.
    pub pin: SecretString,
    /// The file that the PIN will come in; the PIN is empty until then, which none is.
    pub awaited_pin: Option<PathBuf>,
    /// How the module differs from the standard.
    pub profile: Profile,
    /// Sessions over all shards.
    pub sessions: usize,
    /// Given to C_Initialize as `pReserved`; NSS takes its database's place so.
    pub initialize_parameters: Option<String>,
    /// Set in the environment of this process before the module is loaded.
    pub environment: Environment,
    /// Decrypt and compare what was encrypted also where no integrity value is asked for.
    pub verify_encryptions: bool,
    /// Open read/write sessions.
    pub read_write_sessions: bool,
}

impl Pkcs11 {
    /// Variables that it asks for and that this process does not have so.
    pub fn variables_not_set(&self) -> Vec<&str> {
        let lacks = |(name, text): &(&String, &String)| {
            std::env::var_os(name).is_none_or(|now| now != text.as_str())
        };
        self.environment.iter().filter(lacks).map(|(name, _)| name.as_str()).collect()
    }
}

/// `[[key_manager]]`.
pub(super) const KEYS: &[Setting<KeyManager>] = &[
    Setting::structure("name", InForce::Reload),
    Setting::reloaded("kind", |manager| Said::text(manager.kind.name())),
];

/// Of any kind.
pub(super) const ALL_KEYS: [&[Setting<KeyManager>]; 4] =
    [KEYS, LOCAL_KEYS, PKCS11_KEYS, WRAPPED_KEYS];

/// Of `kind = "local"`.
pub(super) const LOCAL_KEYS: &[Setting<KeyManager>] = &[Setting::reloaded("key_file", |manager| {
    manager.kind.key_file().map_or(Said::Nothing, |file| Said::value(file.display()))
})];

/// Of `kind = "pkcs11"`.
pub(super) const PKCS11_KEYS: &[Setting<KeyManager>] = &[
    Setting::reloaded("module", |m| said_of(m, |hsm| Said::value(hsm.module.display()))),
    Setting::reloaded("token", |m| {
        said_of(m, |hsm| match &hsm.token {
            TokenSelector::Label(label) => Said::text(label),
            _ => Said::Nothing,
        })
    }),
    Setting::reloaded("serial", |m| {
        said_of(m, |hsm| match &hsm.token {
            TokenSelector::Serial(serial) => Said::text(serial),
            _ => Said::Nothing,
        })
    }),
    Setting::reloaded("slot", |m| {
        said_of(m, |hsm| match &hsm.token {
            TokenSelector::Slot(slot) => Said::value(slot),
            _ => Said::Nothing,
        })
    }),
    Setting::reloaded("pin", |m| said_of(m, |hsm| Said::Secret(&hsm.pin))),
    Setting::reloaded("profile", |m| said_of(m, |hsm| Said::text(hsm.profile.name()))),
    Setting::reloaded("sessions", |m| said_of(m, |hsm| Said::value(hsm.sessions))),
    Setting::kept(
        "initialize_parameters",
        |m| {
            said_of(m, |hsm| hsm.initialize_parameters.as_deref().map_or(Said::Nothing, Said::text))
        },
        |new, running| {
            keep(new, running, |new, running| {
                new.initialize_parameters.clone_from(&running.initialize_parameters);
            })
        },
    ),
    Setting::kept(
        "environment",
        |m| said_of(m, |hsm| Said::Variables(&hsm.environment)),
        |new, running| {
            keep(new, running, |new, running| {
                new.environment.clone_from(&running.environment);
            })
        },
    ),
    Setting::reloaded("verify_encryptions", |m| {
        said_of(m, |hsm| Said::value(hsm.verify_encryptions))
    }),
    Setting::reloaded("read_write_sessions", |m| {
        said_of(m, |hsm| Said::value(hsm.read_write_sessions))
    }),
];

/// Of `kind = "wrapped"`.
pub(super) const WRAPPED_KEYS: &[Setting<KeyManager>] = &[
    Setting::reloaded("folder", |m| {
        said_of_wrapped(m, |wrapped| Said::value(wrapped.folder.display()))
    }),
    Setting::reloaded("unseal_with", |m| {
        said_of_wrapped(m, |wrapped| Said::value(format!("{:?}", wrapped.unseal_with)))
    }),
    Setting::reloaded("master", |m| said_of_wrapped(m, |wrapped| Said::text(&wrapped.master))),
    Setting::reloaded("recheck_s", |m| {
        said_of_wrapped(m, |wrapped| Said::value(wrapped.recheck.as_secs()))
    }),
    Setting::reloaded("hsm_absent_max_s", |m| {
        said_of_wrapped(m, |wrapped| Said::value(wrapped.hsm_absent_max.as_secs()))
    }),
    Setting::reloaded("secret_memory", |m| {
        said_of_wrapped(m, |wrapped| Said::text(wrapped::word(wrapped.memory)))
    }),
    Setting::reloaded("min_epoch", |m| {
        said_of_wrapped(m, |Wrapped { min_epoch, .. }| match min_epoch.is_empty() {
            true => Said::Nothing,
            false => Said::value(format!("{min_epoch:?}")),
        })
    }),
];

fn said_of_wrapped<'a>(manager: &'a KeyManager, say: fn(&'a Wrapped) -> Said<'a>) -> Said<'a> {
    manager.wrapped().map_or(Said::Nothing, say)
}

fn keep(new: &mut KeyManager, running: &KeyManager, keep: fn(&mut Pkcs11, &Pkcs11)) {
    if let (Kind::Pkcs11(new), Some(running)) = (&mut new.kind, running.pkcs11()) {
        keep(new, running);
    }
}

fn said_of<'a>(manager: &'a KeyManager, say: fn(&'a Pkcs11) -> Said<'a>) -> Said<'a> {
    manager.pkcs11().map_or(Said::Nothing, say)
}

pub(super) fn key_managers(root: &Section<'_>) -> Option<Vec<KeyManager>> {
    let value = root.required("key_manager", "at least one [[key_manager]]")?;
    let elements = value.elements()?;
    if elements.is_empty() {
        return value.refuse("at least one [[key_manager]] is needed");
    }
    let distinct = distinct(&elements, "name");
    let managers = all(elements.iter().map(key_manager))?;
    let good = [compare(&elements, &managers), one_environment(&elements, &managers), distinct];
    good.iter().all(|good| *good).then_some(managers)
}

/// A process has one environment: a variable that two key managers set must be the same in both.
/// One that is set already is replaced, with a warning.
fn one_environment(elements: &[Value<'_>], managers: &[KeyManager]) -> bool {
    let mut good = true;
    let mut set: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for (value, manager) in elements.iter().zip(managers) {
        let Some(Pkcs11 { environment, .. }) = manager.pkcs11() else { continue };
        for (name, text) in environment {
            let key = format!("{}.environment.{name}", value.path);
            let span = value.span_of("environment");
            match set.entry(name) {
                Entry::Occupied(first) if first.get().1 != text => {
                    let message = format!(
                        "a process has one environment: it must be the same as in {}, which sets \
                         it too",
                        first.get().0
                    );
                    value.reader.problem(&key, &span, message);
                    good = false;
                }
                Entry::Occupied(_) => {}
                Entry::Vacant(free) => {
                    free.insert((&value.path, text));
                    let now = value.reader.sources.variable(name);
                    if now.is_some_and(|now| now != text.as_str()) {
                        let message = "takes the place of another value in the environment that \
                            xksd was started with";
                        value.reader.warning(&key, &span, message);
                    }
                }
            }
        }
    }
    good
}

/// What must or should hold between key managers that use the same module.
fn compare(elements: &[Value<'_>], managers: &[KeyManager]) -> bool {
    let mut good = true;
    for (i, (value, manager)) in elements.iter().zip(managers).enumerate() {
        let Kind::Pkcs11(this) = &manager.kind else { continue };
        let earlier = managers[..i].iter().enumerate().filter_map(|(j, m)| match &m.kind {
            Kind::Pkcs11(other) if other.module == this.module => Some((j, other)),
            _ => None,
        });
        for (j, other) in earlier {
            if this.initialize_parameters != other.initialize_parameters {
                let message = format!(
                    "a module is initialised once: it must be the same as of key_manager[{j}], \
                     which has the same module"
                );
                value.problem_of("initialize_parameters", message);
                good = false;
                break;
            }
            if this.token == other.token {
                value.warn(format!("the same token as key_manager[{j}]; it is no replica of it"));
                break;
            }
        }
    }
    good
}

fn key_manager(value: &Value<'_>) -> Option<KeyManager> {
    // Keys that are misplaced under a kind are reported as such; without a kind nothing can be said
    // of them.
    let (local, pkcs11_keys, wrapped_keys) =
        (names(LOCAL_KEYS), names(PKCS11_KEYS), names(WRAPPED_KEYS));
    let of_kind = match value.peek("kind") {
        Some("local") => local,
        Some("pkcs11") => pkcs11_keys,
        Some("wrapped") => wrapped_keys,
        _ => [local, pkcs11_keys, wrapped_keys].concat(),
    };
    let section = value.section(&[names(KEYS), of_kind].concat())?;
    let name = section.must("name", "a name that key stores refer to", |v| {
        let accepted = format!("a name has 1 to {KEY_MANAGER_NAME_CHARS_MAX} of A-Z a-z 0-9 . _ -");
        v.string_where(&accepted, is_name)
    });
    let kind = section.must("kind", KINDS, |v| {
        match v.string_where(KINDS, |t| matches!(t, "pkcs11" | "local" | "wrapped"))? {
            "wrapped" => wrapped::wrapped(&section).map(Kind::Wrapped),
            "local" => section
                .must("key_file", "the JSON file that holds the keys", key_file)
                .map(|key_file| Kind::Local { key_file }),
            _ => pkcs11(&section).map(Kind::Pkcs11),
        }
    });
    Some(KeyManager { name: name?.to_owned(), kind: kind? })
}

const KINDS: &str = "\"pkcs11\", \"wrapped\" or \"local\"";

/// Looked into by `check` alone. Who opens the key manager refuses what is wrong with the file, and
/// a reload, which does not open it, only tells that.
fn key_file(value: &Value<'_>) -> Option<PathBuf> {
    let path = value.watched()?;
    match value.reader.sources.key_file_labels(&path) {
        Ok(_) => Some(path),
        Err(why) => value.refuse(why),
    }
}

fn pkcs11(section: &Section<'_>) -> Option<Pkcs11> {
    let module =
        section.must("module", "the vendor's PKCS#11 library, a shared object", Value::library);
    let token = token(section);
    let pin = section.must("pin", "the user PIN, for example { file = \"secrets/pin\" }", |v| {
        late_secret(v, PIN_FORM, is_pin)
    });
    let profile = section.or("profile", Profile::Generic, profile);
    let sessions =
        section.or("sessions", None, |v| v.integer("sessions", 1..=SESSIONS_MAX as u64).map(Some));
    let parameters = section.or("initialize_parameters", None, |v| {
        v.string_where("C_Initialize's parameters are not empty and have no NUL", |t| {
            !t.is_empty() && !t.contains('\0')
        })
        .map(|t| Some(t.to_owned()))
    });
    let environment = section.or("environment", Environment::new(), environment);
    let verify_encryptions = section.or("verify_encryptions", true, Value::boolean);
    let read_write = section.or("read_write_sessions", None, |v| v.boolean().map(Some));
    let (pin, awaited_pin) = match pin? {
        Late::There(pin) => (pin, None),
        Late::Awaited(file) => match SecretString::new("") {
            Ok(none) => (none, Some(file)),
            Err(why) => return section.refuse(why.to_string()),
        },
    };
    Some(Pkcs11 {
        module: module?,
        token: token?,
        pin,
        awaited_pin,
        profile: profile?,
        sessions: sessions?
            .map_or(Some(profile?.default_sessions()), |sessions| usize::try_from(sessions).ok())?,
        initialize_parameters: parameters?,
        environment: environment?,
        verify_encryptions: verify_encryptions?,
        read_write_sessions: read_write?.unwrap_or(profile?.has_read_write_sessions_only()),
    })
}

fn token(section: &Section<'_>) -> Option<TokenSelector> {
    let text = |value: &Value<'_>, bytes_max: usize| {
        let accepted =
            format!("1 to {bytes_max} bytes, as PKCS#11 has room for, without control characters");
        value
            .string_where(&accepted, |t| {
                (1..=bytes_max).contains(&t.len()) && !t.chars().any(char::is_control)
            })
            .map(ToOwned::to_owned)
    };
    let mut given: Vec<Option<TokenSelector>> = Vec::new();
    if let Some(value) = section.optional("token") {
        given.push(text(&value, TOKEN_LABEL_BYTES_MAX).map(TokenSelector::Label));
    }
    if let Some(value) = section.optional("serial") {
        given.push(text(&value, TOKEN_SERIAL_BYTES_MAX).map(TokenSelector::Serial));
    }
    if let Some(value) = section.optional("slot") {
        given.push(value.integer("", 0..=u64::MAX).map(TokenSelector::Slot));
    }
    if given.len() != 1 {
        let count = if given.is_empty() { "none" } else { "several" };
        return section.refuse(format!(
            "{count} of token, serial and slot are given; exactly one must say which token: its \
             label, its serial number or its slot"
        ));
    }
    given.pop()?
}

fn profile(value: &Value<'_>) -> Option<Profile> {
    let name = value.string()?;
    let names: Vec<&str> = Profile::names().collect();
    match Profile::from_name(name) {
        Some(profile) => Some(profile),
        None => value.refuse(format!(
            "{} is not accepted: a profile is one of {}",
            quoted(name),
            names.join(", ")
        )),
    }
}
