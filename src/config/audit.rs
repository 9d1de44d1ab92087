//! `[audit]`: the provable record of who used which key.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::reader::{Section, Value};
use super::secret::{SecretString, secret};
use super::table::{Said, Setting, names};
use crate::audit::checkpoint::{Verifier, is_origin};
use crate::audit::trail::{Durability, WhenUnwritable};
use crate::limits::{AUDIT_INTERVAL_MS, AUDIT_ORIGIN_BYTES_MAX, AUDIT_RETENTION_DAYS};

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
}

/// `[audit]`, which is kept as a whole until the next start.
pub(super) const KEYS: &[Setting<Option<Audit>>] = &[
    kept("directory", |a| said_of(a, |audit| Said::value(audit.directory.display()))),
    kept("signing_key", |a| said_of(a, |audit| Said::Secret(&audit.signing_key))),
    kept("origin", |a| said_of(a, |audit| Said::text(&audit.origin))),
    kept("previous_verifier_keys", |a| {
        said_of(a, |audit| {
            let keys = audit.previous_verifier_keys.iter().map(ToString::to_string);
            Said::value(format!("{:?}", keys.collect::<Vec<_>>()))
        })
    }),
    kept("durability", |a| {
        said_of(a, |audit| match audit.durability {
            Durability::Answer => Said::text("answer"),
            Durability::Interval(_) => Said::text("interval"),
        })
    }),
    kept("interval_ms", |a| {
        said_of(a, |audit| match audit.durability {
            Durability::Answer => Said::Nothing,
            Durability::Interval(interval) => Said::value(interval.as_millis()),
        })
    }),
    kept("when_unwritable", |a| {
        said_of(a, |audit| match audit.when_unwritable {
            WhenUnwritable::Refuse => Said::text("refuse"),
            WhenUnwritable::Continue => Said::text("continue"),
        })
    }),
    kept("retention_days", |a| {
        said_of(a, |audit| {
            Said::value(audit.retention.map_or(0, |retention| retention.as_secs() / DAY_SECONDS))
        })
    }),
];

const fn kept(
    name: &'static str,
    say: for<'a> fn(&'a Option<Audit>) -> Said<'a>,
) -> Setting<Option<Audit>> {
    Setting::kept(name, say, |new, running| new.clone_from(running))
}

fn said_of<'a>(audit: &'a Option<Audit>, say: fn(&'a Audit) -> Said<'a>) -> Said<'a> {
    audit.as_ref().map_or(Said::Nothing, say)
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
        |value| secret(value, "the base64 of 32 bytes, as `xksd audit key new` makes it", is_seed),
    );
    let origin = section.must(
        "origin",
        "the name of this trail, for example \"xks.bank.example/site-a\"",
        |v| {
            v.string_where(
                &format!("1 to {AUDIT_ORIGIN_BYTES_MAX} bytes without spaces and + are"),
                is_origin,
            )
        },
    );
    let previous = section.or("previous_verifier_keys", Vec::new(), verifier_keys);
    let durability = durability(&section);
    let when = section.or("when_unwritable", WhenUnwritable::Refuse, when_unwritable);
    let retention = section.or("retention_days", None, |value| {
        let days = value.integer("days", AUDIT_RETENTION_DAYS)?;
        Some((days > 0).then(|| Duration::from_secs(days * DAY_SECONDS)))
    });
    Some(Some(Audit {
        directory: directory?,
        signing_key: key?,
        origin: origin?.to_owned(),
        previous_verifier_keys: previous?,
        durability: durability?,
        when_unwritable: when?,
        retention: retention?,
    }))
}

fn is_seed(text: &str) -> bool {
    STANDARD.decode(text).is_ok_and(|seed| seed.len() == SEED_BYTES)
}

fn verifier_keys(value: &Value<'_>) -> Option<Vec<Verifier>> {
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
