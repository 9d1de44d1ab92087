//! `[witness]`: cosigns the checkpoints of other audit trails.

use std::net::SocketAddr;

use super::audit::{origin_name, signing_key, verifier_keys};
use super::reader::Section;
use super::server::socket_address;
use super::table::{Said, Setting, names, said_of};
use crate::audit::checkpoint::Verifier;
use crate::limits::WITNESS_TRAILS_MAX;
use crate::secret::SecretString;

/// `[witness]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// Where it is asked, plain HTTP.
    pub listen: SocketAddr,
    /// Of its key.
    pub name: String,
    /// Ed25519 seed, base64: signs the cosignatures.
    pub signing_key: SecretString,
    /// Keys of the trails that it cosigns; each one's name is the trail's origin.
    pub verifier_keys: Vec<Verifier>,
}

/// `[witness]`
pub(super) const KEYS: &[Setting<Option<Witness>>] = &[
    Setting::reloaded("listen", |w: &Option<Witness>| {
        said_of(w, |witness| Said::value(witness.listen))
    })
    .weaker_if(|running, new| running.is_some() && new.is_none()),
    Setting::reloaded("name", |w| said_of(w, |witness| Said::text(&witness.name))),
    Setting::reloaded("signing_key", |w| said_of(w, |witness| Said::Secret(&witness.signing_key))),
    Setting::reloaded("verifier_keys", |w: &Option<Witness>| {
        said_of(w, |witness| {
            let keys = witness.verifier_keys.iter().map(ToString::to_string);
            Said::value(format!("{:?}", keys.collect::<Vec<_>>()))
        })
    })
    .weaker_if(|running: &Option<Witness>, new| {
        let keys = |w: &Option<Witness>| w.clone().map_or_else(Vec::new, |w| w.verifier_keys);
        let now = keys(new);
        keys(running).iter().any(|key| !now.contains(key))
    }),
];

/// `Some(None)` where the section is left out.
pub(super) fn witness(root: &Section<'_>) -> Option<Option<Witness>> {
    let Some(value) = root.optional("witness") else { return Some(None) };
    let section = value.section(&names(KEYS))?;
    let listen = section.must(
        "listen",
        "address and port of the witness, for example \"10.0.0.2:9182\"",
        socket_address,
    );
    let name = section.must(
        "name",
        "the name of this witness, for example \"xks.bank.example/witness-b\"",
        origin_name,
    );
    let key = section.must(
        "signing_key",
        "the key that cosigns; `xksd audit key new --witness` makes one",
        signing_key,
    );
    let keys = section.must(
        "verifier_keys",
        "the verifier keys of the trails that it cosigns, as `xksd audit key new` prints them",
        |value| {
            let keys = verifier_keys(value)?;
            if keys.len() > WITNESS_TRAILS_MAX {
                return value.refuse(format!("{WITNESS_TRAILS_MAX} trails at most"));
            }
            Some(keys)
        },
    );
    Some(Some(Witness {
        listen: listen?,
        name: name?.to_owned(),
        signing_key: key?,
        verifier_keys: keys?,
    }))
}
