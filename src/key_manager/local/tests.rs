use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use proptest::prelude::*;
use ring::digest;

use super::*;
use crate::key_manager::replica_check::differences;
use crate::key_manager::{KeySpec, KeyUsage};
use crate::limits::{
    AAD_BYTES_MAX, IV_BLOCK, IV_BYTES, KEY_FILE_BYTES_MAX, PLAINTEXT_BYTES_MAX, TAG_BYTES,
};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn job(label: &str, task: Task) -> Job {
    Job { key: KeyRef::first(label), task, deadline: Instant::now() + Duration::from_secs(60) }
}

fn write(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys.json");
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("mode set");
    (dir, path)
}

fn load(text: &str) -> Result<Local, String> {
    let (_dir, path) = write(text, 0o600);
    Local::load(&path)
}

fn foo() -> Local {
    load(&format!(
        r#"{{"keys":[{{"label":"foo","key":"{KEY}"}},{{"label":"bar","key":"{}"}}]}}"#,
        KEY.replace("AAEC", "BBEC")
    ))
    .expect("loads")
}

fn encrypt(
    local: &Local,
    plaintext: &[u8],
    aad: &[u8],
    integrity: Option<&[u8]>,
) -> (Vec<u8>, Vec<u8>, [u8; TAG_BYTES], Option<[u8; 32]>) {
    let integrity = integrity.map(|before| {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(before);
        context
    });
    let task = Task::Encrypt {
        plaintext: Zeroizing::new(plaintext.to_vec()),
        aad: aad.to_vec(),
        integrity,
    };
    match local.execute(job("foo", task)).expect("encrypts") {
        Answer::Encrypted { iv, ciphertext, tag, integrity } => (iv, ciphertext, tag, integrity),
        other => panic!("{other:?}"),
    }
}

fn decrypt(
    local: &Local,
    label: &str,
    ciphertext: &[u8],
    iv: &[u8],
    tag: [u8; TAG_BYTES],
    aad: &[u8],
) -> Result<Vec<u8>, Fault> {
    let task =
        Task::Decrypt { ciphertext: ciphertext.to_vec(), iv: iv.to_vec(), tag, aad: aad.to_vec() };
    local.execute(job(label, task)).map(|answer| match answer {
        Answer::Decrypted(text) => text.0.to_vec(),
        other => panic!("{other:?}"),
    })
}

#[test]
fn round_trip_at_both_ends_of_the_limits() {
    let local = foo();
    for (text, aad) in
        [(0, 0), (0, 3), (1, AAD_BYTES_MAX), (PLAINTEXT_BYTES_MAX, AAD_BYTES_MAX + 23)]
    {
        let (text, aad) = (vec![7; text], vec![9; aad]);
        let (iv, ciphertext, tag, integrity) = encrypt(&local, &text, &aad, Some(b"before"));
        assert_eq!((iv.len(), ciphertext.len()), (IV_BYTES, text.len()));
        assert_eq!(decrypt(&local, "foo", &ciphertext, &iv, tag, &aad), Ok(text));
        let digest =
            digest::digest(&digest::SHA256, &[&b"before"[..], &iv, &ciphertext, &tag].concat());
        assert_eq!(integrity.expect("asked for"), digest.as_ref());
    }
}

#[test]
fn every_change_is_bad_ciphertext() {
    let local = foo();
    let (iv, ciphertext, tag, integrity) = encrypt(&local, b"plaintext", b"aad", None);
    assert_eq!(integrity, None);
    let changed = |bytes: &[u8]| {
        bytes.iter().enumerate().map(|(n, b)| if n == 0 { b ^ 1 } else { *b }).collect::<Vec<_>>()
    };
    let changed_tag = std::array::from_fn(|n| tag[n] ^ u8::from(n == 15));
    assert_eq!(
        decrypt(&local, "foo", &changed(&ciphertext), &iv, tag, b"aad"),
        Err(Fault::BadCiphertext)
    );
    assert_eq!(
        decrypt(&local, "foo", &ciphertext[1..], &iv, tag, b"aad"),
        Err(Fault::BadCiphertext)
    );
    assert_eq!(
        decrypt(&local, "foo", &ciphertext, &changed(&iv), tag, b"aad"),
        Err(Fault::BadCiphertext)
    );
    assert_eq!(
        decrypt(&local, "foo", &ciphertext, &iv, changed_tag, b"aad"),
        Err(Fault::BadCiphertext)
    );
    assert_eq!(decrypt(&local, "foo", &ciphertext, &iv, tag, b"Aad"), Err(Fault::BadCiphertext));
    assert_eq!(
        decrypt(&local, "foo", &ciphertext, &[&iv[..], &[0; 4]].concat(), tag, b"aad"),
        Err(Fault::BadCiphertext)
    );
    assert_eq!(decrypt(&local, "bar", &ciphertext, &iv, tag, b"aad"), Err(Fault::BadCiphertext));
    assert_eq!(decrypt(&local, "foo", &ciphertext, &iv, tag, b"aad"), Ok(b"plaintext".to_vec()));
}

/// NIST's GCM specification, test case 14: key, IV and plaintext of zeros, 16 bytes.
#[test]
fn known_answer() {
    let local = load(&format!(r#"{{"keys":[{{"label":"foo","key":"{}="}}]}}"#, "A".repeat(43)))
        .expect("loads");
    let ciphertext = [
        0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e, 0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3, 0x9d,
        0x18,
    ];
    let tag = [
        0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0, 0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a, 0xb9,
        0x19,
    ];
    assert_eq!(decrypt(&local, "foo", &ciphertext, &[0; 12], tag, b""), Ok(vec![0; 16]));
}

#[test]
fn ivs_differ() {
    let local = foo();
    let ivs: std::collections::HashSet<_> =
        (0..1000).map(|_| encrypt(&local, b"", b"", None).0).collect();
    assert_eq!(ivs.len(), 1000);
}

#[test]
fn describes_unknown_and_late() {
    let local = foo();
    let described = local.execute(job("foo", Task::Describe)).expect("there");
    assert!(
        matches!(described, Answer::Described(k) if k.spec == KeySpec::AES_256 && k.usage.iter().eq([KeyUsage::Encrypt, KeyUsage::Decrypt]) && k.enabled)
    );
    assert!(matches!(local.execute(job("nope", Task::Describe)), Err(Fault::KeyNotFound { .. })));
    let late = Job { key: KeyRef::first("foo"), task: Task::Describe, deadline: Instant::now() };
    assert_eq!(local.execute(late).map(|_| ()), Err(Fault::Timeout));
    assert!(matches!(local.execute(job("", Task::Probe)), Ok(Answer::Probed(ProbeKey::Own))));
    assert_eq!(local.labels(), ["bar", "foo"]);
    let shown = format!("{local:?}");
    assert_eq!(shown, r#"Local { labels: ["bar", "foo"], .. }"#);
}

#[test]
fn what_create_makes_load_reads() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("keys.json");
    Local::create(&path, &["one", "zwei \"2\"\n"]).expect("made");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o7777, 0o600);
    assert_eq!(Local::load(&path).expect("loads").labels(), ["one", "zwei \"2\"\n"]);
    let before = fs::read(&path).expect("readable");
    assert!(Local::create(&path, &["other"]).expect_err("is there").contains("exists"));
    assert_eq!(fs::read(&path).expect("readable"), before);
    let other = dir.path().join("other.json");
    Local::create(&other, &["one", "zwei \"2\"\n"]).expect("made");
    assert_ne!(fs::read(&other).expect("readable"), before, "keys are random");
    let none = dir.path().join("none.json");
    assert!(Local::create(&none, &["a", "a"]).is_err() && Local::create(&none, &[""]).is_err());
    assert!(!none.exists());
    Local::create(&none, &[]).expect("made");
    assert!(Local::load(&none).expect("loads").labels().is_empty());
}

#[test]
fn keys_are_compared_by_label_and_value() {
    let (one, two) = (KEY, KEY.replace("AAEC", "BBEC"));
    let of = |keys: &[(&str, &str)]| {
        let entries: Vec<String> = keys
            .iter()
            .map(|(label, key)| format!(r#"{{"label":"{label}","key":"{key}"}}"#))
            .collect();
        load(&format!("{{\"keys\":[\n{}\n]}}", entries.join(","))).expect("loads")
    };
    let running = of(&[("a", one), ("b", &two), ("c", one)]);
    assert_eq!(
        differences(&running, &of(&[("c", one), ("b", &two), ("a", one)])),
        [""; 0],
        "the order does not matter"
    );
    let edited = of(&[("d", one), ("c", &two), ("b", &two)]);
    assert_eq!(differences(&running, &edited), ["a", "c", "d"]);
    assert_eq!(differences(&edited, &running), ["a", "c", "d"]);
    assert_eq!(differences(&running, &of(&[])), ["a", "b", "c"]);
}

#[test]
fn mode_is_held_on_both_sides() {
    let text = format!(r#"{{"keys":[{{"label":"foo","key":"{KEY}"}}]}}"#);
    for (mode, good) in [
        (0o600, true),
        (0o400, true),
        (0o640, true),
        (0o660, true),
        (0o604, false),
        (0o602, false),
        (0o601, false),
        (0o644, false),
    ] {
        let (_dir, path) = write(&text, mode);
        let result = Local::load(&path);
        assert_eq!(result.is_ok(), good, "{mode:o}");
        if let Err(why) = result {
            assert!(why.contains(&format!("mode {mode:04o}")), "{why}");
        }
    }
}

#[test]
fn what_is_not_a_key_file_is_named_without_its_keys() {
    let secret = KEY;
    for (text, named) in [
        (
            format!(
                r#"{{"keys":[{{"label":"foo","key":"{secret}"}},{{"label":"foo","key":"{secret}"}}]}}"#
            ),
            "twice",
        ),
        (format!(r#"{{"keys":[{{"label":"foo","key":"{secret}","note":1}}]}}"#), "line 1, column"),
        (format!(r#"{{"keys":[{{"label":"foo","key":"{secret}"}}],"more":1}}"#), "line 1, column"),
        (format!(r#"{{"keys":"{secret}"}}"#), "line 1, column"),
        (format!(r#"{{"keys":[{{"label":"","key":"{secret}"}}]}}"#), "without a label"),
        (r#"{"keys":[{"label":"foo"}]}"#.to_owned(), "line 1, column"),
        (
            format!(r#"{{"keys":[{{"label":"foo","key":"{}"}}]}}"#, &secret[4..]),
            "key \"foo\" is not 32 bytes",
        ),
        (
            format!(r#"{{"keys":[{{"label":"foo","key":"AAAA{secret}"}}]}}"#),
            "key \"foo\" is not 32 bytes",
        ),
        (
            format!(r#"{{"keys":[{{"label":"foo","key":"{}"}}]}}"#, secret.replace('=', "")),
            "key \"foo\" is not 32 bytes",
        ),
        (secret.to_owned(), "not JSON"),
        (String::new(), "not JSON"),
    ] {
        let why = load(&text).expect_err(&text);
        assert!(why.contains(named), "{why}");
        assert!(!why.contains(&secret[4..20]), "{why}");
    }
    assert!(
        Local::load(Path::new("/nonexistent/keys.json"))
            .expect_err("is not there")
            .contains("/nonexistent/keys.json")
    );
    assert!(Local::load(Path::new("/")).expect_err("a directory").contains("not a regular file"));
}

#[test]
fn size_is_held_on_both_sides() {
    let max = KEY_FILE_BYTES_MAX;
    assert!(load(&format!(r#"{{"keys":[]{}}}"#, " ".repeat(max - 11))).is_ok());
    assert!(
        load(&format!(r#"{{"keys":[]{}}}"#, " ".repeat(max - 10)))
            .expect_err("too large")
            .contains("longer")
    );
}

proptest! {
    #[test]
    fn any_text_and_aad(text in prop::collection::vec(any::<u8>(), 0..300), aad in prop::collection::vec(any::<u8>(), 0..300)) {
        let local = foo();
        let (iv, ciphertext, tag, integrity) = encrypt(&local, &text, &aad, Some(b""));
        prop_assert!(integrity.is_some());
        prop_assert_eq!(decrypt(&local, "foo", &ciphertext, &iv, tag, &aad), Ok(text));
    }
}

#[test]
fn each_iv_is_given_once_also_from_one_block_to_the_next() {
    let local = foo();
    let given: std::collections::HashSet<_> =
        (0..=2 * IV_BLOCK).map(|_| local.ivs.fresh().expect("random")).collect();
    assert_eq!(given.len(), 2 * IV_BLOCK + 1);
}
