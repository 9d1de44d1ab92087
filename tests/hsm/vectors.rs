//! Wycheproof's vectors for AES-256-GCM with a 96-bit IV and a 128-bit tag, through each kind of
//! key manager. An encryption takes no IV from its caller, so the vectors are decrypted; each key
//! also encrypts, and decrypts that.

use std::collections::BTreeMap;
use std::os::unix::fs::OpenOptionsExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cryptoki::object::{Attribute, KeyType};
use test_harness::{own_process, softhsm};
use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};
use xksd::key_manager::local::Local;
use xksd::key_manager::{Answer, Engine as _, Fault, InProcess as _, Job, Outcome, Task};
use zeroize::Zeroizing;

use crate::engines::engine;
use crate::jobs::job;
use crate::wrapped::imported;

struct Vector {
    number: usize,
    label: String,
    sealed: Task,
    aad: Vec<u8>,
    /// `None`: to be refused.
    text: Option<Vec<u8>>,
}

/// The vectors, and their keys by label.
fn vectors() -> (Vec<Vector>, BTreeMap<String, Vec<u8>>) {
    let set = TestSet::load(TestName::AesGcm).expect("carried by the crate");
    let (mut vectors, mut keys) = (Vec::new(), BTreeMap::new());
    let fit = set
        .test_groups
        .iter()
        .filter(|group| (group.key_size, group.nonce_size, group.tag_size) == (256, 96, 128));
    for test in fit.flat_map(|group| &group.tests) {
        let label = format!("vector-{}", test.tc_id);
        keys.insert(label.clone(), test.key.to_vec());
        vectors.push(Vector {
            number: test.tc_id,
            label,
            sealed: Task::Decrypt {
                ciphertext: test.ct.to_vec(),
                iv: test.nonce.to_vec(),
                tag: test.tag[..].try_into().expect("128 bits"),
                aad: test.aad.to_vec(),
            },
            aad: test.aad.to_vec(),
            text: match test.result {
                TestResult::Valid => Some(test.pt.to_vec()),
                TestResult::Invalid => None,
                TestResult::Acceptable => panic!("{}: neither good nor bad", test.tc_id),
            },
        });
    }
    (vectors, keys)
}

fn text(outcome: Outcome) -> Result<Vec<u8>, Fault> {
    outcome.map(|answer| match answer {
        Answer::Decrypted(text) => text.0.to_vec(),
        other => panic!("{other:?}"),
    })
}

/// Valid ones decrypt, the others are bad ciphertext and nothing else.
fn run(vectors: Vec<Vector>, mut execute: impl FnMut(Job) -> Outcome) {
    let count = |valid| vectors.iter().filter(|v| v.text.is_some() == valid).count();
    assert!(count(true) >= 20 && count(false) >= 20, "{} valid, {} not", count(true), count(false));
    for Vector { number, label, sealed, aad, text: expected } in vectors {
        let opened = text(execute(job(&label, sealed)));
        assert_eq!(opened, expected.clone().ok_or(Fault::BadCiphertext), "vector {number}");
        let plaintext = expected.unwrap_or_default();
        let task = Task::Encrypt {
            plaintext: Zeroizing::new(plaintext.clone()),
            aad: aad.clone(),
            integrity: None,
        };
        let Ok(Answer::Encrypted { iv, ciphertext, tag, .. }) = execute(job(&label, task)) else {
            panic!("vector {number} is not encrypted")
        };
        let back = Task::Decrypt { ciphertext, iv, tag, aad };
        assert_eq!(text(execute(job(&label, back))), Ok(plaintext), "vector {number}");
    }
}

own_process! {
    fn wycheproofs_vectors_in_softhsm(_directory) {
        let (vectors, keys) = vectors();
        let token = softhsm::new_token(&softhsm::load(), "xks");
        for (label, key) in keys {
            let may = [Attribute::Encrypt(true), Attribute::Decrypt(true)];
            token.import_key(&label, KeyType::AES, &key, &may);
        }
        let mut session = engine().open().expect("opens");
        run(vectors, |job| session.execute(job));
        assert!(session.is_usable());
    }
}

own_process! {
    fn wycheproofs_vectors_in_a_local_key_manager(directory) {
        let (vectors, keys) = vectors();
        let keys: Vec<_> = keys
            .iter()
            .map(|(label, key)| serde_json::json!({ "label": label, "key": STANDARD.encode(key) }))
            .collect();
        let file = directory.join("keys.json");
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file);
        serde_json::to_writer(made.expect("made"), &serde_json::json!({ "keys": keys }))
            .expect("written");
        let local = Local::load(&file).expect("a key file");
        run(vectors, |job| local.execute(job));
    }
}

own_process! {
    fn wycheproofs_vectors_in_wrapped_keys(_directory) {
        let (vectors, keys) = vectors();
        let wrapped = imported(&keys);
        run(vectors, |job| wrapped.execute(job));
    }
}
