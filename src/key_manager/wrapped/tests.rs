use std::time::Duration;

use proptest::prelude::*;
use time::OffsetDateTime;

use super::key_file::{Base64, KeyFile};
use super::wrap::Hsm;
use super::*;
use crate::key_manager::local::Local;
use crate::key_manager::{Cipher, VersionState};

/// AES-256-GCM in this process in place of an HSM: with the masters `m1` and `m2`.
struct Software(Local);

impl Hsm for Software {
    fn name(&self) -> &str {
        "software"
    }

    fn execute(&mut self, key: &KeyRef, task: Task) -> Outcome {
        self.0.execute(job(key.clone(), task))
    }
}

fn job(key: KeyRef, task: Task) -> Job {
    Job { key, task, deadline: Instant::now() + Duration::from_secs(60) }
}

pub(crate) fn hsms() -> Vec<Box<dyn Hsm>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    Local::create(&path, &["m1", "m2"]).unwrap();
    vec![Box::new(Software(Local::load(&path).unwrap()))]
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn random(bytes: &mut [u8]) -> Result<(), String> {
    SystemRandom::new().fill(bytes).map_err(|_| NO_RANDOM.to_owned())
}

fn key(byte: u8) -> edit::RawKey {
    Zeroizing::new([byte; KEY_BYTES])
}

const SET: &str = "000102030405060708090a0b0c0d0e0f";

/// The key `foo` with a version of each cipher: 0 decrypts, 1 encrypts, 2 is staged.
pub(crate) fn rotated(hsms: &mut [Box<dyn Hsm>]) -> KeyFile {
    let names = (SET, "foo", "m1");
    let mut file = edit::create(hsms, names, (Cipher::Direct, &key(1)), now()).unwrap();
    edit::seal(&mut file, hsms, &mut random).unwrap();
    assert_eq!(edit::stage(&mut file, hsms, (Cipher::Derived, &key(2)), now()), Ok(1));
    assert_eq!(edit::promote(&mut file, None, now()), Ok(1));
    edit::stage(&mut file, hsms, (Cipher::Derived, &key(3)), now()).unwrap();
    edit::seal(&mut file, hsms, &mut random).unwrap();
    assert_eq!((file.epoch, file.primary), (2, 1));
    file
}

fn loaded(file: &KeyFile, hsms: &mut [Box<dyn Hsm>]) -> Result<Loaded, NotLoaded> {
    load_first(file, hsms, &Arena::new(Wanted::Prefer).unwrap(), now())
}

fn opened(file: &KeyFile, hsms: &mut [Box<dyn Hsm>]) -> Wrapped {
    let wrapped = Wrapped::new(Wanted::Prefer).unwrap();
    let key = load_first(file, hsms, wrapped.arena(), now()).unwrap();
    wrapped.open([(file.label.as_str().into(), Arc::new(key))].into(), HashMap::new());
    wrapped
}

fn of(version: u16, subkey: Option<[u8; 12]>) -> KeyRef {
    KeyRef { version, subkey, ..KeyRef::first("foo") }
}

fn encrypt(wrapped: &Wrapped, key: KeyRef, text: &[u8], aad: &[u8]) -> Result<Task, Fault> {
    let (plaintext, aad) = (Zeroizing::new(text.to_vec()), aad.to_vec());
    let task = Task::Encrypt { plaintext, aad: aad.clone(), integrity: None };
    match wrapped.execute(job(key, task))? {
        Answer::Encrypted { iv, ciphertext, tag, .. } => {
            Ok(Task::Decrypt { ciphertext, iv, tag, aad })
        }
        other => panic!("{other:?}"),
    }
}

fn decrypt(wrapped: &Wrapped, key: KeyRef, task: &Task) -> Result<Vec<u8>, Fault> {
    match wrapped.execute(job(key, task.clone()))? {
        Answer::Decrypted(text) => Ok(text.0.to_vec()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_version_decrypts_what_it_encrypted_and_no_other_does() {
    let mut hsms = hsms();
    let wrapped = opened(&rotated(&mut hsms), &mut hsms);
    let keys = [of(0, None), of(1, Some([7; 12])), of(1, Some([8; 12])), of(2, Some([7; 12]))];
    for one in &keys {
        let sealed = encrypt(&wrapped, one.clone(), b"text", b"aad").unwrap();
        for other in &keys {
            let opened = decrypt(&wrapped, other.clone(), &sealed);
            let expected =
                if one == other { Ok(b"text".to_vec()) } else { Err(Fault::BadCiphertext) };
            assert_eq!(opened, expected, "{one:?} {other:?}");
        }
    }
    // Metadata of the other format, and a version that is not there.
    for wrong in [of(0, Some([7; 12])), of(1, None)] {
        assert_eq!(encrypt(&wrapped, wrong, b"", b"").err(), Some(Fault::BadCiphertext));
    }
    assert!(matches!(encrypt(&wrapped, of(9, None), b"", b""), Err(Fault::Device { .. })));
}

/// The stack of a shard is used for long, and is no secret memory.
#[test]
fn the_key_of_a_message_does_not_stay_on_the_stack() {
    use test_harness::memory_scan::{Needle, scan};
    let mut hsms = hsms();
    let wrapped = opened(&rotated(&mut hsms), &mut hsms);
    let message = *b"of one test!";
    fn subkey(message: &[u8]) -> Needle {
        // HKDF-Expand for one block: HMAC(key, info ‖ 1).
        let base = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &*key(2));
        Needle::new(ring::hmac::sign(&base, &[b"foo", message, &[1]].concat()).as_ref())
    }
    let needle = subkey(&message);
    secret_memory::burn_stack();
    let turn = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let key = of(1, Some(message));
            let sealed = encrypt(&wrapped, key.clone(), b"text", b"aad").unwrap();
            assert_eq!(decrypt(&wrapped, key, &sealed), Ok(b"text".to_vec()));
            turn.wait();
            turn.wait();
        });
        turn.wait();
        let found = scan(std::process::id(), &[needle]).expect("its own memory");
        turn.wait();
        assert!(found.copies[0].is_empty(), "{found:#?}");
    });
}

/// One of its masters is in an HSM that is not here.
#[test]
fn a_wrap_that_is_missing_under_one_of_two_masters_is_seen_without_its_hsm() {
    let mut hsms = hsms();
    let mut file = rotated(&mut hsms);
    edit::rewrap(&mut file, &mut hsms, "m2").unwrap();
    edit::seal(&mut file, &mut hsms, &mut random).unwrap();
    assert_eq!(KeyFile::parse(&file.to_text()).as_ref(), Ok(&file));
    for at in 0..2 {
        let mut without = file.clone();
        without.versions[1].wraps.remove(at);
        let why = KeyFile::parse(&without.to_text()).unwrap_err();
        assert!(why.contains("versions[1].wraps: not under the masters"), "{why}");
    }
    file.other_seals.clear();
    assert!(KeyFile::parse(&file.to_text()).unwrap_err().contains("masters of the seals"));
}

/// What a reader of these bytes comes to.
fn read(text: &[u8], hsms: &mut [Box<dyn Hsm>], arena: &Arena) -> Result<Loaded, String> {
    let file = KeyFile::parse(text)?;
    load_first(&file, hsms, arena, now()).map_err(|why| why.to_string())
}

#[test]
fn a_file_is_read_as_it_was_written_and_any_change_of_it_is_refused() {
    let mut hsms = hsms();
    let arena = Arena::new(Wanted::Prefer).unwrap();
    let file = rotated(&mut hsms);
    let text = file.to_text();
    assert_eq!(KeyFile::parse(&text).as_ref(), Ok(&file));
    assert!(read(&text, &mut hsms, &arena).is_ok());
    let mut refused = |changed: &[u8], what: &dyn std::fmt::Display| {
        assert!(read(changed, &mut hsms, &arena).is_err(), "{what}");
    };
    let mut changed = text.clone();
    for at in 0..text.len() {
        // Each bit everywhere, and every other byte at some places.
        let every = (1..=255).filter(|mask: &u8| at % 23 == 0 || mask.is_power_of_two());
        for mask in every {
            changed[at] = text[at] ^ mask;
            refused(&changed, &format_args!("byte {at}, {mask:02x}"));
        }
        changed[at] = text[at];
        refused(&text[..at], &format_args!("cut at {at}"));
        refused(&[&text[..at], &text[at + 1..]].concat(), &format_args!("without byte {at}"));
        refused(&[&text[..at], b" ", &text[at..]].concat(), &format_args!("a space at {at}"));
    }
    refused(&[&text[..], b"\n"].concat(), &"a further line end");
    assert_eq!(changed, text);
}

/// Each value of a JSON text, by its path.
fn paths(value: &serde_json::Value) -> Vec<String> {
    let children: Vec<(String, &serde_json::Value)> = match value {
        serde_json::Value::Object(all) => all.iter().map(|(name, v)| (name.clone(), v)).collect(),
        serde_json::Value::Array(all) => {
            all.iter().enumerate().map(|(n, v)| (n.to_string(), v)).collect()
        }
        _ => Vec::new(),
    };
    let below = children.into_iter().flat_map(|(name, child)| {
        let deeper = paths(child).into_iter().map(move |path| format!("/{name}{path}"));
        deeper.collect::<Vec<_>>()
    });
    std::iter::once(String::new()).chain(below).collect()
}

#[test]
fn no_part_of_a_file_can_come_from_another_key_version_or_time() {
    let mut hsms = hsms();
    let arena = Arena::new(Wanted::Prefer).unwrap();
    let file = rotated(&mut hsms);
    let mut other = edit::create(&mut hsms, (SET, "bar", "m1"), (Cipher::Direct, &key(4)), now());
    let other = other.as_mut().unwrap();
    for byte in [5, 6] {
        edit::stage(other, &mut hsms, (Cipher::Derived, &key(byte)), now()).unwrap();
        edit::promote(other, None, now() + time::Duration::days(1)).unwrap();
    }
    edit::seal(other, &mut hsms, &mut random).unwrap();
    let mut later = file.clone();
    edit::promote(&mut later, None, now() + time::Duration::days(1)).unwrap();
    edit::disable(&mut later, 0).unwrap();
    edit::seal(&mut later, &mut hsms, &mut random).unwrap();
    let json = |file: &KeyFile| serde_json::to_value(file).unwrap();
    let (this, others) = (json(&file), [json(other), json(&later)]);
    let mut tried = 0;
    let mut refused = |changed: serde_json::Value, what: &dyn std::fmt::Display| {
        // What can be no file at all is refused before it could be written.
        let Ok(changed) = serde_json::from_value::<KeyFile>(changed) else { return };
        if changed != file {
            tried += 1;
            assert!(read(&changed.to_text(), &mut hsms, &arena).is_err(), "{what}");
        }
    };
    for path in paths(&this).iter().filter(|path| !path.is_empty()) {
        for other in &others {
            if let Some(part) = other.pointer(path) {
                let mut changed = this.clone();
                *changed.pointer_mut(path).unwrap() = part.clone();
                refused(changed, path);
            }
        }
        // Between the versions of the key, too.
        for (n, m) in [(0, 1), (1, 2), (2, 0)] {
            let Some(rest) = path.strip_prefix(&format!("/versions/{n}")) else { continue };
            let there = format!("/versions/{m}{rest}");
            let (Some(a), Some(b)) = (this.pointer(path), this.pointer(&there)) else { continue };
            let mut changed = this.clone();
            *changed.pointer_mut(path).unwrap() = b.clone();
            refused(changed.clone(), &format_args!("{path} from version {m}"));
            *changed.pointer_mut(&there).unwrap() = a.clone();
            refused(changed, &format_args!("{path} exchanged with version {m}"));
        }
    }
    assert!(tried > 80, "{tried}");
}

#[test]
fn what_is_said_in_a_file_is_refused_when_somebody_else_says_it() {
    type Change = fn(&mut KeyFile);
    let changes: [(&str, Change); 9] = [
        ("epoch", |file| file.epoch += 1),
        ("set", |file| file.set = SET.replace("00", "11")),
        ("label", |file| file.label = "bar".to_owned()),
        ("state", |file| file.versions[2].state = VersionState::DecryptOnly),
        ("cipher", |file| file.versions[2].cipher = 1),
        ("created", |file| file.versions[0].created = "2020-01-01T00:00:00Z".to_owned()),
        ("check", |file| file.versions[0].check = file.versions[1].check.clone()),
        ("wraps", |file| file.versions[0].wraps = file.versions[1].wraps.clone()),
        ("seal", |file| file.seal.iv = Base64(vec![0; 12])),
    ];
    let mut hsms = hsms();
    let file = rotated(&mut hsms);
    assert!(loaded(&file, &mut hsms).is_ok());
    for (what, change) in changes {
        let mut changed = file.clone();
        change(&mut changed);
        let changed = KeyFile::parse(&changed.to_text()).unwrap();
        let refused = loaded(&changed, &mut hsms).err().unwrap();
        assert!(matches!(refused, NotLoaded::File(_)), "{what}: {refused}");
        // Also where who did it could have it sealed again: each wrap has its own AAD.
        if matches!(what, "set" | "label" | "cipher" | "created" | "check" | "wraps") {
            let mut sealed = changed;
            edit::seal(&mut sealed, &mut hsms, &mut random).unwrap();
            assert!(loaded(&sealed, &mut hsms).is_err(), "{what}");
        }
    }
}

#[test]
fn two_masters_open_a_file_each_and_one_can_be_dropped() {
    let mut hsms = hsms();
    let mut file = rotated(&mut hsms);
    assert!(edit::rewrap(&mut file, &mut hsms, "m1").is_err(), "it is already");
    edit::rewrap(&mut file, &mut hsms, "m2").unwrap();
    edit::seal(&mut file, &mut hsms, &mut random).unwrap();
    assert_eq!(edit::masters(&file), ["m1", "m2"]);
    assert_eq!(KeyFile::parse(&file.to_text()).as_ref(), Ok(&file));
    let only = |kept: &str| {
        let mut file = file.clone();
        for version in &mut file.versions {
            version.wraps.iter_mut().filter(|w| w.master != kept).for_each(|w| w.tag.0[0] ^= 1);
        }
        file
    };
    // What the other HSM cannot open does not matter; but it is under the seal.
    assert!(loaded(&only("m1"), &mut hsms).is_err());
    assert!(loaded(&file, &mut hsms).is_ok());
    edit::drop_master(&mut file, "m1").unwrap();
    edit::seal(&mut file, &mut hsms, &mut random).unwrap();
    assert_eq!(edit::masters(&file), ["m2"]);
    assert!(loaded(&file, &mut hsms).is_ok());
    assert!(edit::drop_master(&mut file, "m2").is_err(), "the only one");
    assert!(edit::drop_master(&mut file, "m1").is_err(), "gone");
}

#[test]
fn a_version_goes_from_state_to_state_and_never_back_from_the_last() {
    let mut hsms = hsms();
    let mut file = rotated(&mut hsms);
    let later = now() + time::Duration::days(31);
    assert!(edit::stage(&mut file, &mut hsms, (Cipher::Derived, &key(4)), now()).is_err());
    assert!(edit::disable(&mut file, 1).is_err(), "primary");
    assert!(edit::destroy(&mut file, 1, time::Duration::days(1), now()).is_err(), "primary");
    assert!(edit::enable(&mut file, 0).is_err(), "it is not disabled");
    edit::disable(&mut file, 0).unwrap();
    assert!(edit::promote(&mut file, Some(0), now()).is_err(), "disabled");
    edit::enable(&mut file, 0).unwrap();
    edit::destroy(&mut file, 0, time::Duration::days(30), now()).unwrap();
    assert!(edit::enable(&mut file, 0).is_err(), "to be destroyed");
    assert!(!edit::bury(&mut file, 0, now()), "not yet");
    let again = edit::destroy(&mut file, 0, time::Duration::days(90), now()).unwrap_err();
    assert!(again.contains("not that time yet"), "{again}");
    edit::cancel_destroy(&mut file, 0).unwrap();
    assert!(edit::cancel_destroy(&mut file, 0).is_err());
    edit::destroy(&mut file, 0, time::Duration::days(30), now()).unwrap();
    assert!(!edit::bury(&mut file, 2, later) && !edit::bury(&mut file, 9, later));
    assert!(edit::bury(&mut file, 0, later));
    assert!(!edit::bury(&mut file, 0, later), "again");
    for change in [edit::disable, edit::enable, edit::cancel_destroy] {
        assert!(change(&mut file, 0).is_err());
    }
    assert!(edit::promote(&mut file, Some(0), now()).is_err());
    edit::seal(&mut file, &mut hsms, &mut random).unwrap();
    assert_eq!(KeyFile::parse(&file.to_text()).as_ref(), Ok(&file));
    let wrapped = opened(&file, &mut hsms);
    assert!(encrypt(&wrapped, of(0, None), b"", b"").is_err());
    let states: Vec<_> = wrapped.versions("foo").unwrap().iter().map(|v| v.state).collect();
    use VersionState::{Destroyed, Primary, Staged};
    assert_eq!(states, [Destroyed, Primary, Staged]);
    // Its number is never used again.
    edit::promote(&mut file, None, now()).unwrap();
    assert_eq!(edit::stage(&mut file, &mut hsms, (Cipher::Derived, &key(4)), now()), Ok(3));
}

#[test]
fn nothing_is_used_while_it_is_closed_and_keys_leave_the_memory() {
    let mut hsms = hsms();
    let wrapped = opened(&rotated(&mut hsms), &mut hsms);
    assert_eq!(wrapped.arena().slots(), 4, "three versions and the test key");
    assert!(wrapped.serves());
    for (closed, sealed_by_hsm) in [
        (Closed::NotOpened("x".to_owned()), None),
        (Closed::Away("x".to_owned()), None),
        (Closed::Refused("x".to_owned()), Some(true)),
        (Closed::Sealed("x".to_owned()), Some(false)),
    ] {
        wrapped.close(closed);
        assert_eq!((wrapped.serves(), wrapped.arena().slots()), (false, 1));
        let tasks = [Task::Describe, Task::Probe];
        for fault in tasks.map(|task| wrapped.execute(job(of(0, None), task)).unwrap_err()) {
            let detail = "x".to_owned();
            let expected = match sealed_by_hsm {
                Some(by_hsm) => Fault::Sealed { detail, by_hsm },
                None => Fault::Device { detail },
            };
            assert_eq!(fault, expected);
        }
    }
}

#[test]
fn a_key_that_stays_the_same_is_not_asked_for_again() {
    struct Counting<'a>(&'a mut dyn Hsm, &'a std::cell::Cell<usize>);
    impl Hsm for Counting<'_> {
        fn name(&self) -> &str {
            self.0.name()
        }
        fn execute(&mut self, key: &KeyRef, task: Task) -> Outcome {
            self.1.set(self.1.get() + 1);
            self.0.execute(key, task)
        }
    }
    let mut hsms = hsms();
    let mut file = rotated(&mut hsms);
    let arena = Arena::new(Wanted::Prefer).unwrap();
    let first = Arc::new(load_first(&file, &mut hsms, &arena, now()).unwrap());
    let before = Arc::downgrade(&first);
    edit::promote(&mut file, None, now()).unwrap();
    edit::seal(&mut file, &mut hsms, &mut random).unwrap();
    let asked = std::cell::Cell::new(0);
    let opening = Opening::default();
    let (round, before) = (opening.round(), Some(&before));
    let to = To { arena: &arena, opening: &opening, round, before };
    let mut counting: Vec<Box<dyn Hsm>> = vec![Box::new(Counting(&mut *hsms[0], &asked))];
    let second = load(&file, &mut counting, to, now()).unwrap();
    assert_eq!((asked.get(), arena.slots()), (1, 3), "the seal, and nothing else");
    assert_ne!(second.epoch, first.epoch);
}

/// A seal does not wait until the HSM has opened the last version.
#[test]
fn what_is_half_opened_can_be_taken_away_while_the_hsm_is_asked() {
    struct Sealing<'a>(&'a mut dyn Hsm, &'a Opening, &'a Arena, usize);
    impl Hsm for Sealing<'_> {
        fn name(&self) -> &str {
            self.0.name()
        }
        fn execute(&mut self, key: &KeyRef, task: Task) -> Outcome {
            // The seal, and then each version.
            self.3 += 1;
            assert_eq!(self.2.slots(), self.3.saturating_sub(2));
            if self.3 == 4 {
                self.1.clear();
                assert_eq!(self.2.slots(), 0, "overwritten, and not only forgotten");
            }
            self.0.execute(key, task)
        }
    }
    let mut hsms = hsms();
    let file = rotated(&mut hsms);
    let (arena, opening) = (Arena::new(Wanted::Prefer).unwrap(), Opening::default());
    let to = To { arena: &arena, opening: &opening, round: opening.round(), before: None };
    let mut sealing: Vec<Box<dyn Hsm>> =
        vec![Box::new(Sealing(&mut *hsms[0], &opening, &arena, 0))];
    let loaded = load(&file, &mut sealing, to, now());
    assert!(matches!(loaded, Err(NotLoaded::TakenAway)));
    assert_eq!(arena.slots(), 0);
    drop(sealing);
    let key = load_first(&file, &mut hsms, &arena, now()).unwrap();
    assert_eq!(opening.insert(to.round, "foo".into(), key), Err(TakenAway));
    assert_eq!(arena.slots(), 0);
}

/// Written for ever. docs/wrapped-keys.md says the same, and a script that is not ours finds it,
/// too: tests/e2e/wrapped_vectors.py.
const VECTORS: &str = include_str!("../../../docs/wrapped-keys-vectors.json");

#[derive(serde::Deserialize)]
struct Vectors {
    master: Base64,
    key_file: String,
    keys: Vec<Base64>,
    messages: Vec<Message>,
}

#[derive(serde::Deserialize)]
struct Message {
    version: u16,
    metadata: Base64,
    aad: Base64,
    iv: Base64,
    ciphertext: Base64,
    tag: Base64,
    plaintext: String,
}

#[test]
fn vectors_open() {
    let vectors: Vectors = serde_json::from_str(VECTORS).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.json");
    let master = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, &vectors.master.0);
    let text = format!(r#"{{"keys":[{{"label":"master","key":"{master}"}}]}}"#);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut hsms: Vec<Box<dyn Hsm>> = vec![Box::new(Software(Local::load(&path).unwrap()))];
    let file = KeyFile::parse(vectors.key_file.as_bytes()).unwrap();
    for (version, key) in file.versions.iter().zip(&vectors.keys) {
        assert_eq!(edit::raw_key(&file, version, &mut hsms).unwrap().as_slice(), key.0);
    }
    let wrapped = opened(&file, &mut hsms);
    for message in vectors.messages {
        let subkey = message.metadata.0.get(3..).and_then(|bytes| bytes.try_into().ok());
        let tag = message.tag.0.try_into().unwrap();
        let (ciphertext, iv, aad) = (message.ciphertext.0, message.iv.0, message.aad.0);
        let task = Task::Decrypt { ciphertext, iv, tag, aad };
        let text = decrypt(&wrapped, of(message.version, subkey), &task);
        assert_eq!(text, Ok(message.plaintext.into_bytes()));
    }
}

proptest! {
    #[test]
    fn no_text_stops_the_parser(text in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = KeyFile::parse(&text);
    }
}
