//! `[fleet]`: the other instances of the same service.

use std::path::{Path, PathBuf};

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
use crate::tls::client::NotUsable;

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

    /// The files that connections are made with, by the key that names each.
    pub fn files(&self) -> Vec<(&'static str, &Path)> {
        let anchors = self.trust_anchors.iter().map(|path| ("trust_anchors", &**path));
        let client = self.etcd().and_then(|etcd| etcd.client.as_ref());
        let client = client.into_iter().flat_map(|(chain, key)| {
            [("etcd.client_certificate", &**chain), ("etcd.client_private_key", &**key)]
        });
        anchors.chain(client).collect()
    }
}

/// `[fleet]`. The end of peers, and etcd in place of them, wait for a start: [`is_of_one_kind`].
/// The end of etcd is refused: `difference::omissions`.
pub(super) const KEYS: &[Setting<Option<Fleet>>] = &[
    Setting::kept(
        "name",
        |f| said_of(f, |f| f.name.as_deref().map_or(Said::Nothing, Said::text)),
        |new, running| {
            if let (Some(new), Some(running)) = (new, running) {
                new.name.clone_from(&running.name);
            }
        },
    ),
    Setting::kept(
        "secret",
        |f| of_etcd(f, |etcd| Said::Secret(&etcd.secret)),
        |new, running| keep_of_etcd(new, running, |etcd| &mut etcd.secret, |etcd| &etcd.secret),
    ),
    Setting::reloaded("trust_anchors", |f| {
        said_of(f, |f| f.trust_anchors.as_deref().map_or(Said::Nothing, said_path))
    }),
    Setting::reloaded("peers", |f| {
        said_of(f, |f| match &f.shared {
            Shared::Peers(peers) => said_urls(peers),
            Shared::Etcd(_) => Said::Nothing,
        })
    }),
    Setting::structure("etcd", InForce::Start),
];

/// `[fleet.etcd]`
pub(super) const ETCD_KEYS: &[Setting<Option<Fleet>>] = &[
    Setting::reloaded("endpoints", |f| of_etcd(f, |etcd| said_urls(&etcd.endpoints))),
    Setting::kept(
        "prefix",
        |f| of_etcd(f, |etcd| Said::text(&etcd.prefix)),
        |new, running| keep_of_etcd(new, running, |etcd| &mut etcd.prefix, |etcd| &etcd.prefix),
    ),
    Setting::reloaded("user", |f| {
        of_etcd(f, |etcd| etcd.user.as_ref().map_or(Said::Nothing, |(user, _)| Said::text(user)))
    }),
    Setting::reloaded("password", |f| {
        of_etcd(f, |etcd| {
            etcd.user.as_ref().map_or(Said::Nothing, |(_, password)| Said::Secret(password))
        })
    }),
    Setting::reloaded("client_certificate", |f| {
        of_etcd(f, |etcd| etcd.client.as_ref().map_or(Said::Nothing, |(chain, _)| said_path(chain)))
    }),
    Setting::reloaded("client_private_key", |f| {
        of_etcd(f, |etcd| etcd.client.as_ref().map_or(Said::Nothing, |(_, key)| said_path(key)))
    }),
];

/// Whether both are left out, or know of the others by the same means: then a reload can bring one
/// in place of the other.
pub(super) fn is_of_one_kind(a: &Option<Fleet>, b: &Option<Fleet>) -> bool {
    let kind = |fleet: &Option<Fleet>| fleet.as_ref().map(|fleet| fleet.etcd().is_some());
    kind(a) == kind(b)
}

fn of_etcd<'a>(fleet: &'a Option<Fleet>, say: fn(&'a Etcd) -> Said<'a>) -> Said<'a> {
    fleet.as_ref().and_then(Fleet::etcd).map_or(Said::Nothing, say)
}

fn keep_of_etcd<T: Clone>(
    new: &mut Option<Fleet>,
    running: &Option<Fleet>,
    of_new: fn(&mut Etcd) -> &mut T,
    of_running: fn(&Etcd) -> &T,
) {
    let running = running.as_ref().and_then(Fleet::etcd);
    if let (Some(Fleet { shared: Shared::Etcd(new), .. }), Some(running)) = (new, running) {
        of_new(new).clone_from(of_running(running));
    }
}

fn said_path(path: &Path) -> Said<'_> {
    Said::value(path.display())
}

fn said_urls(urls: &[Url]) -> Said<'_> {
    Said::value(format!("{:?}", urls.iter().map(ToString::to_string).collect::<Vec<_>>()))
}

/// `Some(None)` where the section is left out.
pub(super) fn fleet(root: &Section<'_>) -> Option<Option<Fleet>> {
    let Some(value) = root.optional("fleet") else { return Some(None) };
    let section = value.section(&names(KEYS))?;
    let name = section.or("name", None, |value| instance_name(value).map(Some));
    let anchors = section.or("trust_anchors", None, |value| value.trust_anchors().map(Some));
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
        (Some(chain), Some(key)) => {
            match section.reader.sources.check_client_certificate((&chain, &key)) {
                Ok(()) => Some((chain, key)),
                Err(NotUsable::Chain(why)) => {
                    return section.optional("client_certificate")?.refuse(why);
                }
                Err(NotUsable::Key(why)) => {
                    return section.optional("client_private_key")?.refuse(why);
                }
            }
        }
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
