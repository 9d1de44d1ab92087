//! `[audit]`: the provable record of who used which key.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::reader::{Section, Value, all, distinct};
use super::secret::secret;
use super::table::{InForce, Said, Setting, names, said_of};
use super::url::Url;
use crate::audit::checkpoint::{Verifier, is_origin};
use crate::audit::cosignature::CosignerKey;
use crate::audit::trail::{Durability, WhenUnwritable};
use crate::limits::{
    AUDIT_INTERVAL_MS, AUDIT_ORIGIN_BYTES_MAX, AUDIT_RETENTION_DAYS, AUDIT_WITNESSES_MAX,
};
use crate::secret::SecretString;

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Where the trail is.
    pub directory: PathBuf,
    /// Ed25519 seed, base64: signs the checkpoints.
    pub signing_key: SecretString,
    /// First line of the checkpoints.
    pub origin: String,
    /// Keys that signed before this one, and are still right for what they signed.
    pub previous_verifier_keys: Vec<Verifier>,
    /// When an answer may leave.
    pub durability: Durability,
    /// What happens while records cannot be written.
    pub when_unwritable: WhenUnwritable,
    /// Files of records older than this are deleted; never where it is left out.
    pub retention: Option<Duration>,
    /// The socket of the syslog daemon that gets checkpoints.
    pub syslog: Option<PathBuf>,
    /// Who cosigns the checkpoints.
    pub witnesses: Vec<AuditWitness>,
}

/// `[[audit.witness]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditWitness {
    /// Where it is asked.
    pub url: Url,
    /// Verifies its cosignatures.
    pub verifier_key: CosignerKey,
}

/// `[audit]`. A trail that runs goes on under its name, where it is; without the section it goes on
/// until the next start.
pub(super) const KEYS: &[Setting<Option<Audit>>] = &[
    Setting::kept(
        "directory",
        |a| said_of(a, |audit| Said::value(audit.directory.display())),
        |new, running| keep(new, running, |new, old| new.directory.clone_from(&old.directory)),
    ),
    Setting::kept(
        "signing_key",
        |a| said_of(a, |audit| Said::Secret(&audit.signing_key)),
        |new, running| keep(new, running, |new, old| new.signing_key = old.signing_key.clone()),
    ),
    Setting::kept(
        "origin",
        |a| said_of(a, |audit| Said::text(&audit.origin)),
        |new, running| keep(new, running, |new, old| new.origin.clone_from(&old.origin)),
    ),
    Setting::reloaded("previous_verifier_keys", |a| {
        said_of(a, |audit| {
            let keys = audit.previous_verifier_keys.iter().map(ToString::to_string);
            Said::value(format!("{:?}", keys.collect::<Vec<_>>()))
        })
    }),
    Setting::reloaded("durability", |a: &Option<Audit>| {
        said_of(a, |audit| match audit.durability {
            Durability::Answer => Said::text("answer"),
            Durability::Interval(_) => Said::text("interval"),
        })
    })
    .weaker_if(|running, new| {
        both(running, new, |old, new| {
            old.durability == Durability::Answer && new.durability != Durability::Answer
        })
    }),
    Setting::reloaded("interval_ms", |a: &Option<Audit>| {
        said_of(a, |audit| match audit.durability {
            Durability::Answer => Said::Nothing,
            Durability::Interval(interval) => Said::value(interval.as_millis()),
        })
    })
    .weaker_if(|running, new| {
        both(running, new, |old, new| match (old.durability, new.durability) {
            (Durability::Interval(old), Durability::Interval(new)) => new > old,
            _ => false,
        })
    }),
    Setting::reloaded("when_unwritable", |a: &Option<Audit>| {
        said_of(a, |audit| match audit.when_unwritable {
            WhenUnwritable::Refuse => Said::text("refuse"),
            WhenUnwritable::Continue => Said::text("continue"),
        })
    })
    .weaker_if(|running, new| {
        both(running, new, |old, new| {
            (old.when_unwritable, new.when_unwritable)
                == (WhenUnwritable::Refuse, WhenUnwritable::Continue)
        })
    }),
    Setting::reloaded("retention_days", |a: &Option<Audit>| {
        said_of(a, |audit| {
            Said::value(audit.retention.map_or(0, |retention| retention.as_secs() / DAY_SECONDS))
        })
    })
    .weaker_if(|running, new| {
        both(running, new, |old, new| {
            new.retention.is_some_and(|days| old.retention.is_none_or(|before| days < before))
        })
    }),
    Setting::reloaded("syslog", |a: &Option<Audit>| {
        said_of(a, |audit| {
            audit.syslog.as_ref().map_or(Said::Nothing, |path| Said::value(path.display()))
        })
    })
    .weaker_if(|running, new| {
        both(running, new, |old, new| old.syslog.is_some() && new.syslog.is_none())
    }),
    Setting::reloaded("witness", |a: &Option<Audit>| {
        said_of(a, |audit| {
            let one = |w: &AuditWitness| format!("url {} verifier_key {}", w.url, w.verifier_key);
            let all: Vec<String> = audit.witnesses.iter().map(one).collect();
            if all.is_empty() { Said::Nothing } else { Said::value(format!("{all:?}")) }
        })
    })
    .weaker_if(|running, new| {
        both(running, new, |old, new| {
            let key = |witness: &AuditWitness| witness.verifier_key.clone();
            old.witnesses.iter().any(|old| !new.witnesses.iter().any(|new| key(new) == key(old)))
        })
    }),
];

/// `[[audit.witness]]`; said as a whole, by `audit`.
pub(super) const WITNESS_KEYS: &[Setting<()>] = &[
    Setting::structure("url", InForce::Reload),
    Setting::structure("verifier_key", InForce::Reload),
];

/// Keeps what `copy` copies of a trail that runs.
fn keep(new: &mut Option<Audit>, running: &Option<Audit>, copy: fn(&mut Audit, &Audit)) {
    match (new, running) {
        (Some(new), Some(running)) => copy(new, running),
        (new, running) => new.clone_from(running),
    }
}

/// Whether it is so of a trail that goes on.
fn both(old: &Option<Audit>, new: &Option<Audit>, so: fn(&Audit, &Audit) -> bool) -> bool {
    matches!((old, new), (Some(old), Some(new)) if so(old, new))
}

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// An Ed25519 seed, bytes.
const SEED_BYTES: usize = 32;

/// `Some(None)` where the section is left out.
pub(super) fn audit(root: &Section<'_>) -> Option<Option<Audit>> {
    let Some(value) = root.optional("audit") else { return Some(None) };
    let section = value.section(&names(KEYS))?;
    let directory = section.must("directory", "where the records are written", Value::path);
    let key = section.must(
        "signing_key",
        "the key that signs the checkpoints; `xksd audit key new` makes one",
        signing_key,
    );
    let origin = section.must(
        "origin",
        "the name of this trail, for example \"xks.bank.example/site-a\"",
        origin_name,
    );
    let previous = section.or("previous_verifier_keys", Vec::new(), verifier_keys);
    let durability = durability(&section);
    let when = section.or("when_unwritable", WhenUnwritable::Refuse, when_unwritable);
    let retention = section.or("retention_days", None, |value| {
        let days = value.integer("days", AUDIT_RETENTION_DAYS)?;
        Some((days > 0).then(|| Duration::from_secs(days * DAY_SECONDS)))
    });
    let syslog = section.or("syslog", None, |v| v.path().map(Some));
    let witnesses = section.or("witness", Vec::new(), witnesses);
    Some(Some(Audit {
        directory: directory?,
        signing_key: key?,
        origin: origin?.to_owned(),
        previous_verifier_keys: previous?,
        durability: durability?,
        when_unwritable: when?,
        retention: retention?,
        syslog: syslog?,
        witnesses: witnesses?,
    }))
}

/// An Ed25519 seed.
pub(super) fn signing_key(value: &Value<'_>) -> Option<SecretString> {
    secret(value, "the base64 of 32 bytes, as `xksd audit key new` makes it", is_seed)
}

/// The name of a verifier key.
pub(super) fn origin_name<'r>(value: &Value<'r>) -> Option<&'r str> {
    let accepted = format!("1 to {AUDIT_ORIGIN_BYTES_MAX} bytes without spaces and + are");
    value.string_where(&accepted, is_origin)
}

fn witnesses(value: &Value<'_>) -> Option<Vec<AuditWitness>> {
    let elements = value.elements()?;
    if elements.len() > AUDIT_WITNESSES_MAX {
        return value.refuse(format!("{AUDIT_WITNESSES_MAX} witnesses at most"));
    }
    let distinct = distinct(&elements, "verifier_key");
    all(elements.iter().map(witness)).filter(|_| distinct)
}

fn witness(value: &Value<'_>) -> Option<AuditWitness> {
    let section = value.section(&names(WITNESS_KEYS))?;
    let url = section.must("url", "where the witness is asked", |value| {
        let accepted = "http://, a host, a port where it is not 80, and a path where there is one, \
                        as in \"http://10.0.0.2:9182\"";
        Url::parse_plain(value.string_where(accepted, |text| Url::parse_plain(text).is_some())?)
    });
    let key = section.must("verifier_key", "the key that verifies its cosignatures", |value| {
        let accepted = "a witness's verifier key is meant, as `xksd audit key new --witness` \
                        prints it: name+id+key";
        let text = value.string_where(accepted, |text| CosignerKey::parse(text).is_some())?;
        CosignerKey::parse(text)
    });
    Some(AuditWitness { url: url?, verifier_key: key? })
}

fn is_seed(text: &str) -> bool {
    STANDARD.decode(text).map(Zeroizing::new).is_ok_and(|seed| seed.len() == SEED_BYTES)
}

pub(super) fn verifier_keys(value: &Value<'_>) -> Option<Vec<Verifier>> {
    value.one_or_more(|key| {
        let text = key.string_where(
            "a verifier key is meant, as `xksd audit key new` prints it: name+id+key",
            |text| Verifier::parse(text).is_some(),
        )?;
        Verifier::parse(text)
    })
}

fn durability(section: &Section<'_>) -> Option<Durability> {
    let interval = section.or("interval_ms", None, |value| {
        value.integer("milliseconds", AUDIT_INTERVAL_MS).map(Some)
    })?;
    let kinds = ["answer", "interval"];
    let kind = section.or("durability", "answer", |value| {
        value.string_where("\"answer\" or \"interval\"", |text| kinds.contains(&text))
    })?;
    match (kind, interval) {
        ("answer", Some(_)) => section.optional("interval_ms")?.refuse(
            "this is for durability = \"interval\"; with \"answer\" every record is on disk before \
             its answer leaves",
        ),
        ("answer", None) => Some(Durability::Answer),
        (_, interval) => {
            Some(Durability::Interval(Duration::from_millis(interval.unwrap_or(INTERVAL_MS))))
        }
    }
}

/// `audit.interval_ms` where it is left out.
const INTERVAL_MS: u64 = 200;

fn when_unwritable(value: &Value<'_>) -> Option<WhenUnwritable> {
    let text = value.string_where("\"refuse\" or \"continue\"", |text| {
        ["refuse", "continue"].contains(&text)
    })?;
    Some(if text == "refuse" { WhenUnwritable::Refuse } else { WhenUnwritable::Continue })
}
