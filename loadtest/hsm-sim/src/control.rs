//! The control file: faults, switched while the program under test runs.

use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::calls::{Call, Calls};
use crate::clock::now_ns;
use crate::codes::Code;
use crate::diagnostics::warn;
use crate::locks::lock;

/// The file is looked at this often at most, nanoseconds.
const LOOK_INTERVAL_NS: u64 = 5_000_000;

/// What is wrong with the HSM just now. Nothing, when the file is empty or absent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Calls that fail.
    #[serde(deserialize_with = "one_or_more")]
    pub error: Vec<ErrorRule>,
    /// Calls that are late.
    #[serde(deserialize_with = "one_or_more")]
    pub stall: Vec<StallRule>,
    /// Calls that do not come back before the rule is gone.
    #[serde(deserialize_with = "one_or_more")]
    pub hang: Vec<HangRule>,
    /// When this number is another than the last one: all sessions are lost, and the login with
    /// them.
    pub sessions_lost: Option<u64>,
    /// No token in any slot; sessions are lost.
    pub token_removed: bool,
    /// Probability that a bit of what C_Encrypt gives is wrong.
    #[serde(deserialize_with = "probability")]
    pub corrupt_ciphertext: f64,
    /// Probability that a bit of what C_Decrypt gives is wrong.
    #[serde(deserialize_with = "probability")]
    pub wrong_plaintext: f64,
    /// The device is slow after its start.
    pub slow_start: SlowStart,
    /// C_Initialize returns this.
    pub initialize_fails: Option<Code>,
    /// C_Initialize sets handlers of the module's own for SIGTERM, SIGINT and SIGHUP, which do
    /// nothing, and resets SIGPIPE.
    pub takes_signals: bool,
    /// C_Login returns this.
    pub login_fails: Option<Code>,
}

/// Calls that fail.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorRule {
    /// Which.
    pub call: Calls,
    /// How.
    pub code: Code,
    /// How many of them.
    #[serde(default = "always", deserialize_with = "probability")]
    pub probability: f64,
    /// The session is left with the operation active, so that its next Init fails with
    /// CKR_OPERATION_ACTIVE.
    #[serde(default)]
    pub leaves_operation: bool,
}

/// Calls that are late.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StallRule {
    /// Which.
    pub call: Calls,
    /// By how much, milliseconds.
    pub ms: u64,
    /// How many of them.
    #[serde(default = "always", deserialize_with = "probability")]
    pub probability: f64,
}

/// Calls that do not come back. In the file also just the name of the call.
#[derive(Clone, Debug, PartialEq)]
pub struct HangRule {
    /// Which.
    pub call: Calls,
    /// How many of them.
    pub probability: f64,
}

/// The device is slow after C_Initialize.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlowStart {
    /// C_Initialize takes this long, milliseconds.
    pub initialize_ms: u64,
    /// That many calls to the device after it are slow.
    pub calls: u64,
    /// Each by this much, milliseconds.
    pub ms: u64,
}

fn always() -> f64 {
    1.0
}

fn probability<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let probability = f64::deserialize(deserializer)?;
    if (0.0..=1.0).contains(&probability) {
        Ok(probability)
    } else {
        Err(de::Error::custom("a probability is 0.0 to 1.0"))
    }
}

impl<'de> Deserialize<'de> for HangRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HangRule, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            call: Calls,
            #[serde(default = "always", deserialize_with = "probability")]
            probability: f64,
        }
        struct HangVisitor;
        impl<'de> Visitor<'de> for HangVisitor {
            type Value = HangRule;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "the name of a PKCS#11 function, \"*\", or a table with call and probability",
                )
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<HangRule, E> {
                let call = Calls::deserialize(de::value::StrDeserializer::new(name))?;
                Ok(HangRule { call, probability: 1.0 })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<HangRule, A::Error> {
                let table = Table::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(HangRule { call: table.call, probability: table.probability })
            }
        }
        deserializer.deserialize_any(HangVisitor)
    }
}

/// A list of rules, or one without the list's brackets.
fn one_or_more<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct RuleVisitor<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for RuleVisitor<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("one rule or a list of rules")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(de::value::StrDeserializer::new(text)).map(|rule| vec![rule])
        }

        fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Vec<T>, A::Error> {
            T::deserialize(de::value::MapAccessDeserializer::new(map)).map(|rule| vec![rule])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut rules: A) -> Result<Vec<T>, A::Error> {
            let mut all = Vec::new();
            while let Some(rule) = rules.next_element()? {
                all.push(rule);
            }
            Ok(all)
        }
    }
    deserializer.deserialize_any(RuleVisitor(PhantomData))
}

impl Faults {
    /// From the file's text.
    fn parse(text: &str) -> Result<Faults, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// Whether some rule lets `call` hang.
    pub fn hangs(&self, call: Call) -> bool {
        self.hang.iter().any(|rule| rule.call.contains(call))
    }
}

/// What tells one version of a file from the next: device, inode, size, time of change.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// The control file and what it says.
pub struct Control {
    path: Option<PathBuf>,
    looked_at_ns: AtomicU64,
    /// Held by the one thread that reads the file and puts it in force; the others go on with what
    /// they have.
    stamp: Mutex<Stamp>,
    current: Mutex<Arc<Faults>>,
    changed: Condvar,
    read: AtomicU64,
    refused: AtomicU64,
}

/// What the file says now, not in force yet. One at a time.
pub struct Change<'a> {
    control: &'a Control,
    /// What it says.
    pub new: Arc<Faults>,
    _turn: MutexGuard<'a, Stamp>,
}

impl Change<'_> {
    /// Puts it in force.
    pub fn commit(self) {
        *lock(&self.control.current) = self.new;
        self.control.changed.notify_all();
        self.control.read.fetch_add(1, Ordering::Relaxed);
    }
}

impl Control {
    /// Reads the file; one that is absent says that nothing is wrong.
    pub fn open(path: Option<PathBuf>) -> Result<Control, String> {
        let control = Control {
            path,
            looked_at_ns: AtomicU64::new(now_ns()),
            stamp: Mutex::new(None),
            current: Mutex::default(),
            changed: Condvar::new(),
            read: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        };
        *lock(&control.stamp) = control.stamp_of_file();
        *lock(&control.current) = Arc::new(control.read_file()?);
        control.read.fetch_add(1, Ordering::Relaxed);
        Ok(control)
    }

    /// What is wrong just now.
    pub fn faults(&self) -> Arc<Faults> {
        lock(&self.current).clone()
    }

    /// How often the file was read and understood, and how often it was not.
    pub fn counts(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    /// Looks at the file, if nobody has within 5 ms; tells when it says something new.
    pub fn poll(&self) -> Option<Change<'_>> {
        self.path.as_ref()?;
        let (now, looked_at) = (now_ns(), self.looked_at_ns.load(Ordering::Relaxed));
        if now.saturating_sub(looked_at) < LOOK_INTERVAL_NS
            || self
                .looked_at_ns
                .compare_exchange(looked_at, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return None;
        }
        let mut known = self.stamp.try_lock().ok()?;
        let stamp = self.stamp_of_file();
        if stamp == *known {
            return None;
        }
        *known = stamp;
        match self.read_file() {
            Ok(faults) => Some(Change { control: self, new: Arc::new(faults), _turn: known }),
            Err(error) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                warn(&format!("{error}\nwhat the control file said before stays in force"));
                None
            }
        }
    }

    /// Sleeps until the file says something new, or a moment.
    pub fn wait_for_change(&self, known: &Arc<Faults>) {
        let current = lock(&self.current);
        if Arc::ptr_eq(&current, known) {
            // A result either way: the caller looks again. A poisoned lock holds an Arc that is
            // whole all the same.
            drop(self.changed.wait_timeout(current, Duration::from_millis(20)));
        }
    }

    fn stamp_of_file(&self) -> Stamp {
        let metadata = std::fs::metadata(self.path.as_ref()?).ok()?;
        Some((
            metadata.dev(),
            metadata.ino(),
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec(),
        ))
    }

    /// Nothing is wrong when there is no file.
    fn read_file(&self) -> Result<Faults, String> {
        let Some(path) = &self.path else { return Ok(Faults::default()) };
        let in_file = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        match std::fs::read_to_string(path) {
            Ok(text) => Faults::parse(&text).map_err(|error| in_file(&error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Faults::default()),
            Err(error) => Err(in_file(&error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki_sys::{CKR_DEVICE_ERROR, CKR_FUNCTION_FAILED};

    #[test]
    fn every_fault_is_understood() {
        let faults = Faults::parse(
            r#"
            error = [
                { call = "C_Encrypt", code = "CKR_DEVICE_ERROR", probability = 0.1 },
                { call = ["C_Decrypt", "C_Sign"], code = 6, leaves_operation = true },
            ]
            stall = { call = "*", ms = 300, probability = 0.01 }
            hang = ["C_EncryptInit", { call = "C_Decrypt", probability = 0.5 }]
            sessions_lost = 3
            token_removed = true
            corrupt_ciphertext = 0.25
            wrong_plaintext = 1
            slow_start = { initialize_ms = 10, calls = 5, ms = 20 }
            initialize_fails = "CKR_DEVICE_ERROR"
            login_fails = "CKR_PIN_LOCKED"
            takes_signals = true
            "#,
        )
        .unwrap();
        assert_eq!(faults.error[0].code, Code(CKR_DEVICE_ERROR));
        assert_eq!(faults.error[0].probability, 0.1);
        assert_eq!(faults.error[1].code, Code(CKR_FUNCTION_FAILED));
        assert_eq!(faults.error[1].probability, 1.0);
        assert!(faults.error[1].call.contains(Call::C_Sign) && faults.error[1].leaves_operation);
        assert!(faults.stall[0].call.contains(Call::C_OpenSession));
        assert!(
            faults.hangs(Call::C_EncryptInit)
                && faults.hangs(Call::C_Decrypt)
                && !faults.hangs(Call::C_Encrypt)
        );
        assert_eq!(faults.hang[1].probability, 0.5);
        assert_eq!(faults.sessions_lost, Some(3));
        assert!(faults.takes_signals);
        assert_eq!(faults.wrong_plaintext, 1.0);
        assert_eq!(faults.slow_start, SlowStart { initialize_ms: 10, calls: 5, ms: 20 });
    }

    #[test]
    fn one_rule_needs_no_brackets() {
        let faults =
            Faults::parse("hang = \"*\"\nerror = { call = \"C_Login\", code = 5 }").unwrap();
        assert!(faults.hangs(Call::C_FindObjects) && !faults.hangs(Call::C_Initialize));
        assert_eq!(faults.error.len(), 1);
        assert_eq!(Faults::parse(""), Ok(Faults::default()));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "hang = 3",
            "hang = \"C_Hang\"",
            "hangs = \"*\"",
            "corrupt_ciphertext = 1.1",
            "corrupt_ciphertext = -0.1",
            "corrupt_ciphertext = nan",
            "error = { call = \"C_Encrypt\" }",
            "error = \"C_Encrypt\"",
            "stall = { call = \"*\", ms = -1 }",
            "sessions_lost = true",
        ] {
            assert!(Faults::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_that_is_not_understood_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.toml");
        std::fs::write(&path, "token_removed = true").unwrap();
        let control = Control::open(Some(path.clone())).unwrap();
        let look = || {
            control.looked_at_ns.store(0, Ordering::Relaxed);
            control.poll().map(Change::commit).is_some()
        };
        assert!(control.faults().token_removed && !look());
        std::fs::write(&path, "token_removed = maybe").unwrap();
        assert!(!look());
        assert!(control.faults().token_removed);
        assert_eq!(control.counts(), (1, 1));
        std::fs::remove_file(&path).unwrap();
        assert!(look());
        assert!(!control.faults().token_removed);
        assert_eq!(control.counts(), (2, 1));
    }

    #[test]
    fn a_first_file_that_is_not_understood_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.toml");
        std::fs::write(&path, "hang =").unwrap();
        assert!(Control::open(Some(path)).is_err());
    }
}
