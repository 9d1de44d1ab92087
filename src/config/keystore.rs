//! `[[keystore]]`.

use std::collections::HashMap;

use super::Config;
use super::key_version::{self, KeyVersion, label};
use super::policy::{self, Policy};
use super::problem::quoted;
use super::quota;
use super::reader::{Section, Value, all, distinct};
use super::secret::secret;
use super::table::{InForce, Said, Setting, names};
use crate::api::route::is_key_id;
use crate::limits::{
    ACCESS_KEY_ID_CHARS, EKM_FLEET_MAX, EXTERNAL_KEY_ID_CHARS_MAX, KEY_STORE_WEIGHT,
    SECRET_ACCESS_KEY_CHARS, URI_PATH_CHARS_MAX,
};
use crate::policy::Mode;
use crate::policy::budget::Exhausted;
use crate::policy::quota::Bounds;
use crate::secret::SecretString;

/// What follows the prefix in every path of the API.
pub const API_PATH: &str = "/kms/xks/v1";

/// One `[[keystore]]`: what AWS KMS calls a custom key store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStore {
    /// Empty, or begins with `/` and does not end with it. Unique.
    pub path_prefix: String,
    /// Indices into [`super::Config::key_managers`], in the order given: replicas of the same keys.
    /// At least one.
    pub key_managers: Vec<usize>,
    /// False: every key call is answered InvalidStateException.
    pub enabled: bool,
    /// Whether the file says so, or leaves it out.
    pub enabled_is_stated: bool,
    /// At least one; ids are unique within the key store.
    pub credentials: Vec<Credential>,
    /// Ids are unique within the key store.
    pub keys: Vec<Key>,
    /// Ciphertext of other proxies that Decrypt opens.
    pub accept_foreign_ciphertext: Vec<ForeignCiphertext>,
    /// Its part of a key manager's time while other key stores wait for it too: in proportion to
    /// their weights.
    pub weight: u32,
    /// How many requests it may have.
    pub quota: Option<Bounds>,
    /// Whether the configuration says something of a quota.
    pub quota_is_stated: bool,
    /// What becomes of an encryption beyond the invocation budget of its key.
    pub invocation_budget: Exhausted,
    /// Who may do what with its keys.
    pub policy: Option<Policy>,
}

impl Key {
    /// Of the key in its key manager, where that keeps the versions: the label of the only one that
    /// the configuration has then.
    pub fn label(&self) -> &str {
        self.versions.first().map_or("", |version| &version.label)
    }

    /// The versions that may be used.
    pub fn usable(&self) -> impl Iterator<Item = &KeyVersion> {
        self.versions.iter().filter(|version| version.state.decrypts())
    }
}

impl KeyStore {
    /// The name of its first key manager.
    pub fn first_key_manager<'c>(&self, config: &'c Config) -> Option<&'c str> {
        let first = config.key_managers.get(*self.key_managers.first()?)?;
        Some(&first.name)
    }

    /// The whole path that AWS calls `XksProxyUriPath`.
    pub fn uri_path(&self) -> String {
        format!("{}{API_PATH}", self.path_prefix)
    }
}

/// One `[[keystore.credential]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Not secret.
    pub access_key_id: String,
    /// Signs requests.
    pub secret_access_key: SecretString,
}

/// One `[[keystore.key]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The external key id that KMS uses.
    pub id: String,
    /// At least one, of which one is primary; a single one of number 0 where none is given.
    pub versions: Vec<KeyVersion>,
    /// Whether the file gives versions.
    pub versions_are_stated: bool,
    /// False: calls with this key are answered InvalidStateException.
    pub enabled: bool,
    /// Whether the file says so, or leaves it out.
    pub enabled_is_stated: bool,
    /// How many requests it may have, within those of its key store.
    pub quota: Option<Bounds>,
    /// Whether the configuration says something of a quota.
    pub quota_is_stated: bool,
}

/// A format of ciphertext that is not xksd's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignCiphertext {
    /// AWS's sample proxy.
    AwsSample,
}

/// `[[keystore]]`.
pub(super) const KEYS: &[Setting<KeyStore>] = &[
    Setting::structure("path_prefix", InForce::Reload),
    // Said by who knows the key managers' names.
    Setting::structure("key_manager", InForce::Reload),
    Setting::reloaded("enabled", |store: &KeyStore| switched(store.enabled)).guarded(
        |running, new| !running.enabled && new.enabled && !new.enabled_is_stated,
        "missing, and the key store is disabled now: say enabled = true to enable it",
    ),
    Setting::structure("credential", InForce::Reload),
    Setting::structure("key", InForce::Reload),
    Setting::reloaded("accept_foreign_ciphertext", |store| {
        let formats: Vec<&str> = store.accept_foreign_ciphertext.iter().map(|f| f.name()).collect();
        Said::value(format!("{formats:?}"))
    }),
    Setting::reloaded("quota", |store: &KeyStore| quota::said(store.quota)).guarded(
        |running, new| running.quota.is_some() && !new.quota_is_stated,
        "missing, and a quota is in force now: say quota = \"unlimited\" to give it up",
    ),
    Setting::reloaded("policy", |store: &KeyStore| policy::said(store.policy.as_ref())).guarded(
        |running, new| {
            let denies = |policy: &Policy| policy.mode == Some(Mode::Enforce);
            running.policy.as_ref().is_some_and(denies) && new.policy.is_none()
        },
        "missing, and policies are in force now: say mode = \"off\" in [keystore.policy] to give \
         them up",
    ),
    Setting::reloaded("weight", |store| Said::value(store.weight)),
    Setting::reloaded("invocation_budget", |store| Said::text(store.invocation_budget.as_str())),
];

/// `[[keystore.credential]]`.
pub(super) const CREDENTIAL_KEYS: &[Setting<Credential>] = &[
    Setting::structure("access_key_id", InForce::Reload),
    Setting::reloaded("secret_access_key", |credential| {
        Said::Secret(&credential.secret_access_key)
    }),
];

/// `[[keystore.key]]`.
pub(super) const KEY_KEYS: &[Setting<Key>] = &[
    Setting::structure("id", InForce::Reload),
    Setting::reloaded("label", |key: &Key| match &key.versions[..] {
        [only] if !key.versions_are_stated => Said::text(&only.label),
        _ => Said::Nothing,
    }),
    Setting::reloaded("version", |key: &Key| match key.versions_are_stated {
        true => key_version::said(&key.versions),
        false => Said::Nothing,
    }),
    Setting::reloaded("enabled", |key: &Key| switched(key.enabled)).guarded(
        |running, new| !running.enabled && new.enabled && !new.enabled_is_stated,
        "missing, and the key is disabled now: say enabled = true to enable it",
    ),
    Setting::reloaded("quota", |key: &Key| quota::said(key.quota)).guarded(
        |running, new| running.quota.is_some() && !new.quota_is_stated,
        "missing, and a quota is in force now: say quota = \"unlimited\" to give it up",
    ),
];

fn switched(enabled: bool) -> Said<'static> {
    Said::Words(if enabled { "enabled" } else { "disabled" })
}

impl ForeignCiphertext {
    fn name(self) -> &'static str {
        match self {
            Self::AwsSample => "aws-sample",
        }
    }
}

/// `managers`: the name of each key manager, by its index.
pub(super) fn keystores(
    root: &Section<'_>,
    managers: &HashMap<&str, usize>,
) -> Option<Vec<KeyStore>> {
    let value = root.required("keystore", "at least one [[keystore]]")?;
    let elements = value.elements()?;
    if elements.is_empty() {
        return value.refuse("at least one [[keystore]] is needed");
    }
    let distinct = distinct(&elements, "path_prefix");
    all(elements.iter().map(|v| keystore(v, managers))).filter(|_| distinct)
}

fn keystore(value: &Value<'_>, managers: &HashMap<&str, usize>) -> Option<KeyStore> {
    let section = value.section(&names(KEYS))?;
    let prefix = section.must(
        "path_prefix",
        "what stands before /kms/xks/v1 in this key store's paths; \"\" for nothing",
        path_prefix,
    );
    let key_managers =
        section.must("key_manager", "names of key managers, for example [\"hsm-a\"]", |v| {
            references(v, managers)
        });
    let enabled = section.or("enabled", true, Value::boolean);
    let credentials = section.must("credential", "at least one [[keystore.credential]]", |v| {
        let distinct = distinct(&v.elements()?, "access_key_id");
        v.one_or_more(credential).filter(|_| distinct)
    });
    let keys = section.or("key", Vec::new(), |v| {
        let elements = v.elements()?;
        let distinct = distinct(&elements, "id");
        all(elements.iter().map(key)).filter(|_| distinct)
    });
    let foreign = section.or("accept_foreign_ciphertext", Vec::new(), |v| {
        all(v.elements()?.iter().map(foreign_ciphertext))
    });
    let quota = section.or("quota", None, quota::quota);
    let budget = section.or("invocation_budget", Exhausted::default(), exhausted);
    let policy = section.or("policy", None, |v| {
        let ids = keys.iter().flatten().map(|key| key.id.as_str());
        policy::policy(v, prefix, &ids.collect::<Vec<_>>()).map(Some)
    });
    let weight = section.or("weight", 1, |v| v.integer("", KEY_STORE_WEIGHT).map(|n| n as u32));
    if keys.as_ref().is_some_and(Vec::is_empty) {
        value.warn("no [[keystore.key]]: every key call will be answered KeyNotFoundException");
    }
    Some(KeyStore {
        path_prefix: prefix?.to_owned(),
        key_managers: key_managers?,
        enabled: enabled?,
        enabled_is_stated: section.has("enabled"),
        credentials: credentials?,
        keys: keys?,
        accept_foreign_ciphertext: foreign?,
        quota: quota?,
        quota_is_stated: section.has("quota"),
        invocation_budget: budget?,
        policy: policy?,
        weight: weight?,
    })
}

/// What [`is_path_prefix`] asks for.
pub(crate) const PATH_PREFIX_FORM: &str = "a prefix is \"\" or begins with /, does not end with /, \
    has no empty part, and is made of A-Z a-z 0-9 / _ -";

/// Whether this can stand before [`API_PATH`]; its length is another matter.
pub(crate) fn is_path_prefix(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    text.is_empty() || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_part))
}

fn path_prefix<'r>(value: &Value<'r>) -> Option<&'r str> {
    let prefix = value.string_where(PATH_PREFIX_FORM, is_path_prefix)?;
    // spec: "total length of the XksProxyUriPath MUST NOT exceed 128 characters"
    let chars_max = URI_PATH_CHARS_MAX - API_PATH.len();
    if prefix.len() > chars_max {
        return value.refuse(format!(
            "{} characters are too many: {chars_max} at most, so that with {API_PATH} there are no \
             more than {URI_PATH_CHARS_MAX}",
            prefix.len()
        ));
    }
    Some(prefix)
}

/// Indices of the key managers that `value` names.
fn references(value: &Value<'_>, managers: &HashMap<&str, usize>) -> Option<Vec<usize>> {
    let names = value.distinct_strings(|v| {
        let name = v.string()?;
        if managers.contains_key(name) {
            return Some(name);
        }
        let mut known: Vec<String> = managers.keys().map(|name| quoted(name)).collect();
        known.sort_unstable();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        v.refuse(format!("there is no key manager {}; there is: {known}", quoted(name)))
    })?;
    // spec: ekmFleetDetails has 1 to 10 elements.
    if names.len() > EKM_FLEET_MAX {
        return value.refuse(format!(
            "{} are too many: a key store has {EKM_FLEET_MAX} key managers at most",
            names.len()
        ));
    }
    names.iter().map(|name| managers.get(name.as_str()).copied()).collect()
}

fn credential(value: &Value<'_>) -> Option<Credential> {
    let section = value.section(&names(CREDENTIAL_KEYS))?;
    let id = section.must("access_key_id", "make one with: xksd credential new", |v| {
        let accepted = format!(
            "an access key id has {} to {} of A-Z 2-7",
            ACCESS_KEY_ID_CHARS.start(),
            ACCESS_KEY_ID_CHARS.end()
        );
        v.string_where(&accepted, |t| {
            ACCESS_KEY_ID_CHARS.contains(&t.len())
                && t.bytes().all(|b| matches!(b, b'A'..=b'Z' | b'2'..=b'7'))
        })
    });
    let secret_access_key =
        section.must("secret_access_key", "make one with: xksd credential new", |v| {
            let accepted = format!(
                "a secret access key has {} to {} of A-Z a-z 0-9 / + =",
                SECRET_ACCESS_KEY_CHARS.start(),
                SECRET_ACCESS_KEY_CHARS.end()
            );
            secret(v, &accepted, |t| {
                SECRET_ACCESS_KEY_CHARS.contains(&t.len())
                    && t.bytes().all(|b| b.is_ascii_alphanumeric() || b"/+=".contains(&b))
            })
        });
    Some(Credential { access_key_id: id?.to_owned(), secret_access_key: secret_access_key? })
}

fn key(value: &Value<'_>) -> Option<Key> {
    let section = value.section(&names(KEY_KEYS))?;
    let id = section.must("id", "the external key id that KMS uses", |v| {
        let accepted = format!(
            "an external key id has 1 to {EXTERNAL_KEY_ID_CHARS_MAX} of A-Z a-z 0-9 . _ -, and is \
             not . or .. alone: these have a meaning of their own in the path of a URI"
        );
        v.string_where(&accepted, is_key_id)
    });
    let versions = match (section.optional("version"), section.optional("label")) {
        (Some(versions), None) => key_version::versions(&versions),
        (Some(_), Some(label)) => label.refuse("each version has a label of its own"),
        (None, label) => {
            let label = label.map_or(Some(id.unwrap_or_default()), |v| self::label(&v));
            label.map(|label| vec![KeyVersion::first(label)])
        }
    };
    let enabled = section.or("enabled", true, Value::boolean);
    let quota = section.or("quota", None, quota::quota);
    Some(Key {
        id: id?.to_owned(),
        versions: versions?,
        versions_are_stated: section.has("version"),
        enabled: enabled?,
        enabled_is_stated: section.has("enabled"),
        quota: quota?,
        quota_is_stated: section.has("quota"),
    })
}

fn exhausted(value: &Value<'_>) -> Option<Exhausted> {
    let of_name = |name: &str| Exhausted::ALL.into_iter().find(|it| it.as_str() == name);
    of_name(value.string_where("\"warn\" or \"refuse\"", |text| of_name(text).is_some())?)
}

fn foreign_ciphertext(value: &Value<'_>) -> Option<ForeignCiphertext> {
    value
        .string_where("\"aws-sample\" is the only foreign format known", |t| {
            t == ForeignCiphertext::AwsSample.name()
        })
        .map(|_| ForeignCiphertext::AwsSample)
}
