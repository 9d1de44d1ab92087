//! `[fleet]`: the other instances of the same service.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::reader::{Section, Value, all};
use super::secret::secret;
use super::table::{InForce, Said, Setting, names, said_of};
use super::url::Url;
use crate::fleet::document::is_name;
use crate::fleet::sealed::SECRET_BYTES;
use crate::limits::{FLEET_ENDPOINTS_MAX, FLEET_FILE_NAME_BYTES_MAX, FLEET_PREFIX_BYTES_MAX};
use crate::secret::SecretString;

/// `[fleet]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    /// Of this instance; the host's where it is left out.
    pub name: Option<String>,
    /// PEM file of the authorities of etcd's, or the peers', certificates.
    pub trust_anchors: Option<PathBuf>,
    /// How it knows of the others.
    pub shared: Shared,
}

/// How the instances know of each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Each asks the admin listeners of the others.
    Peers(Vec<Url>),
    /// All read and write the same etcd.
    Etcd(Etcd),
}

/// `[fleet.etcd]`, and the secret that goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// Members that are asked, one after the other where one does not answer.
    pub endpoints: Vec<Url>,
    /// Before all keys of this fleet, without `/` at the end.
    pub prefix: String,
    /// 32 bytes, base64: seals all that is written there.
    pub secret: SecretString,
    /// User and password.
    pub user: Option<(String, SecretString)>,
    /// Certificate chain and private key, PEM files.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Fleet {
    /// Where all read and write the same etcd.
    pub fn etcd(&self) -> Option<&Etcd> {
        match &self.shared {
            Shared::Etcd(etcd) => Some(etcd),
            Shared::Peers(_) => None,
        }
    }
}

/// `[fleet]`, which is kept as a whole until the next start.
pub(super) const KEYS: &[Setting<Option<Fleet>>] = &[
    Setting::kept_with_section("name", |f| {
        said_of(f, |f| f.name.as_deref().map_or(Said::Nothing, Said::text))
    }),
    Setting::kept_with_section("secret", |f| {
        said_of(f, |f| f.etcd().map_or(Said::Nothing, |e| Said::Secret(&e.secret)))
    }),
    Setting::kept_with_section("trust_anchors", |f| {
        said_of(f, |f| {
            f.trust_anchors.as_ref().map_or(Said::Nothing, |path| Said::value(path.display()))
        })
    }),
    Setting::kept_with_section("peers", |f| {
        said_of(f, |f| match &f.shared {
            Shared::Peers(peers) => Said::value(format!("{:?}", shown(peers))),
            Shared::Etcd(_) => Said::Nothing,
        })
    }),
    Setting::kept_with_section("etcd", |f| {
        said_of(f, |f| {
            f.etcd().map_or(Said::Nothing, |etcd| {
                let client = etcd.client.as_ref().map(|(chain, key)| {
                    let (chain, key) = (chain.display(), key.display());
                    format!(", client_certificate {chain}, client_private_key {key}")
                });
                let user = etcd.user.as_ref().map(|(user, _)| format!(", user {user:?}"));
                Said::value(format!(
                    "endpoints {:?}, prefix {:?}{}{}",
                    shown(&etcd.endpoints),
                    etcd.prefix,
                    user.unwrap_or_default(),
                    client.unwrap_or_default()
                ))
            })
        })
    }),
];

/// `[fleet.etcd]`; said as a whole, by `fleet`.
pub(super) const ETCD_KEYS: &[Setting<Option<Fleet>>] = &[
    Setting::structure("endpoints", InForce::Start),
    Setting::structure("prefix", InForce::Start),
    Setting::structure("user", InForce::Start),
    Setting::kept_with_section("password", |f| {
        said_of(f, |f| {
            let user = f.etcd().and_then(|etcd| etcd.user.as_ref());
            user.map_or(Said::Nothing, |(_, password)| Said::Secret(password))
        })
    }),
    Setting::structure("client_certificate", InForce::Start),
    Setting::structure("client_private_key", InForce::Start),
];

fn shown(urls: &[Url]) -> Vec<String> {
    urls.iter().map(ToString::to_string).collect()
}

/// `Some(None)` where the section is left out.
pub(super) fn fleet(root: &Section<'_>) -> Option<Option<Fleet>> {
    let Some(value) = root.optional("fleet") else { return Some(None) };
    let section = value.section(&names(KEYS))?;
    let name = section.or("name", None, |value| instance_name(value).map(Some));
    let anchors = section.or("trust_anchors", None, |value| value.file().map(Some));
    let key = section.or("secret", None, |value| fleet_secret(value).map(Some));
    let shared = match (section.optional("peers"), section.optional("etcd")) {
        (Some(peers), None) => {
            if let Some(secret) = section.optional("secret") {
                return secret.refuse("this seals what stands in etcd; with peers it has no use");
            }
            urls(&peers).map(Shared::Peers)
        }
        (None, Some(value)) => {
            let etcd = etcd(&value);
            let missing = "the fleet's secret; `xksd fleet secret new` makes one";
            section.required("secret", missing)?;
            let (etcd, secret) = (etcd?, key.clone()??);
            Some(Shared::Etcd(Etcd { secret, ..etcd }))
        }
        (given, _) => section.refuse(format!(
            "{} peers, a list of the others' admin listeners, or etcd, a table with endpoints and \
             prefix",
            if given.is_some() { "not both:" } else { "missing:" }
        )),
    };
    let (name, trust_anchors, shared) = (name?, anchors?, shared?);
    let all = match &shared {
        Shared::Peers(peers) => peers,
        Shared::Etcd(etcd) => &etcd.endpoints,
    };
    if all.iter().any(|url| url.tls) && trust_anchors.is_none() {
        return section.refuse(
            "trust_anchors is missing: the PEM file of the authorities that https needs here",
        );
    }
    Some(Some(Fleet { name, trust_anchors, shared }))
}

/// Without the secret, which stands beside it.
fn etcd(value: &Value<'_>) -> Option<Etcd> {
    let section = value.section(&names(ETCD_KEYS))?;
    let endpoints = section.must(
        "endpoints",
        "the members of etcd, for example [\"https://10.0.0.1:2379\"]",
        urls,
    );
    let prefix =
        section.must("prefix", "what all keys begin with, as in \"/xksd/bank\"", |value| {
            let accepted = format!(
                "/ and words of letters, digits, . _ and -, joined by /; up to \
             {FLEET_PREFIX_BYTES_MAX} bytes, as in \"/xksd/bank\""
            );
            value.string_where(&accepted, is_prefix)
        });
    let user = section.or("user", None, |value| {
        value.string_where("1 to 100 printable characters", is_user).map(Some)
    });
    let password = section.or("password", None, |value| {
        secret(value, "a password of one line", |text| !text.contains('\n')).map(Some)
    });
    let chain = section.or("client_certificate", None, |value| value.file().map(Some));
    let key = section.or("client_private_key", None, |value| value.private_file().map(Some));
    let (endpoints, prefix) = (endpoints?, prefix?);
    let user = match (user?, password?) {
        (Some(user), Some(password)) => Some((user.to_owned(), password)),
        (None, None) => None,
        _ => return section.refuse("user and password go together"),
    };
    let client = match (chain?, key?) {
        (Some(chain), Some(key)) => Some((chain, key)),
        (None, None) => None,
        _ => return section.refuse("client_certificate and client_private_key go together"),
    };
    if let Some(plain) = endpoints.iter().find(|url| !url.tls)
        && user.is_some()
    {
        return section.refuse(format!("the password would be readable on the way to {plain}"));
    }
    // The caller puts the fleet's in.
    let secret = SecretString::new("").ok()?;
    Some(Etcd { endpoints, prefix: prefix.to_owned(), secret, user, client })
}

fn fleet_secret(value: &Value<'_>) -> Option<SecretString> {
    let is_secret = |text: &str| {
        STANDARD.decode(text).map(Zeroizing::new).is_ok_and(|secret| secret.len() == SECRET_BYTES)
    };
    secret(value, "the base64 of 32 bytes, as `xksd fleet secret new` makes it", is_secret)
}

fn instance_name(value: &Value<'_>) -> Option<String> {
    let accepted = format!(
        "1 to {FLEET_FILE_NAME_BYTES_MAX} letters, digits, . _ and -, not with a dot in front"
    );
    value.string_where(&accepted, is_name).map(ToOwned::to_owned)
}

fn urls(value: &Value<'_>) -> Option<Vec<Url>> {
    let elements = value.elements()?;
    if elements.is_empty() || elements.len() > FLEET_ENDPOINTS_MAX {
        return value.refuse(format!("1 to {FLEET_ENDPOINTS_MAX} are accepted"));
    }
    all(elements.iter().map(|element| {
        let accepted = "https:// or http://, a host, a port and a path where there is one, as in \
                        \"https://10.0.0.2:9181\"";
        Url::parse(element.string_where(accepted, |text| Url::parse(text).is_some())?)
    }))
}

fn is_prefix(text: &str) -> bool {
    let words = text.strip_prefix('/').map(|rest| rest.split('/'));
    text.len() <= FLEET_PREFIX_BYTES_MAX && words.is_some_and(|mut words| words.all(is_name))
}

fn is_user(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}
