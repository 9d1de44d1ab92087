//! Jobs for a session of the key manager, and what every module must do with them alike.

use std::time::{Duration, Instant};

use ring::digest;
use xksd::key_manager::{Answer, Fault, Job, KeyDescription, KeyRef, Outcome, Session, Task};
use zeroize::Zeroizing;

/// A job with plenty of time.
pub fn job(label: &str, task: Task) -> Job {
    Job { key: KeyRef::first(label), task, deadline: Instant::now() + Duration::from_secs(60) }
}

/// What an encryption gave.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub iv: Vec<u8>,
    pub ciphertext: Vec<u8>,
    pub tag: [u8; 16],
    pub integrity: Option<[u8; 32]>,
}

pub fn encrypt(
    session: &mut dyn Session,
    label: &str,
    text: &[u8],
    aad: &[u8],
) -> Result<Sealed, Fault> {
    sealed(session.execute(job(
        label,
        Task::Encrypt {
            plaintext: Zeroizing::new(text.to_vec()),
            aad: aad.to_vec(),
            integrity: None,
        },
    )))
}

/// With a CDIV whose digest begins with `before`; checked here.
pub fn encrypt_checked(
    session: &mut dyn Session,
    label: &str,
    text: &[u8],
    aad: &[u8],
    before: &[u8],
) -> Result<Sealed, Fault> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(before);
    let task = Task::Encrypt {
        plaintext: Zeroizing::new(text.to_vec()),
        aad: aad.to_vec(),
        integrity: Some(context),
    };
    let sealed = sealed(session.execute(job(label, task)))?;
    let expected = digest::digest(
        &digest::SHA256,
        &[before, &sealed.iv, &sealed.ciphertext, &sealed.tag].concat(),
    );
    assert_eq!(sealed.integrity.expect("asked for"), expected.as_ref());
    Ok(sealed)
}

fn sealed(outcome: Outcome) -> Result<Sealed, Fault> {
    outcome.map(|answer| match answer {
        Answer::Encrypted { iv, ciphertext, tag, integrity } => {
            Sealed { iv, ciphertext, tag, integrity }
        }
        other => panic!("{other:?}"),
    })
}

pub fn decrypt(
    session: &mut dyn Session,
    label: &str,
    sealed: &Sealed,
    aad: &[u8],
) -> Result<Vec<u8>, Fault> {
    let Sealed { iv, ciphertext, tag, .. } = sealed.clone();
    session.execute(job(label, Task::Decrypt { ciphertext, iv, tag, aad: aad.to_vec() })).map(
        |answer| match answer {
            Answer::Decrypted(text) => text.0.to_vec(),
            other => panic!("{other:?}"),
        },
    )
}

pub fn describe(session: &mut dyn Session, label: &str) -> Result<KeyDescription, Fault> {
    session.execute(job(label, Task::Describe)).map(|answer| match answer {
        Answer::Described(description) => description,
        other => panic!("{other:?}"),
    })
}

pub fn detail(fault: &Fault) -> &str {
    match fault {
        Fault::Device { detail } | Fault::KeyNotFound { detail } => detail,
        other => panic!("{other:?}"),
    }
}

/// What every module must do alike with the key `label`.
pub fn good_and_bad_ciphertexts(session: &mut dyn Session, label: &str) {
    good_and_bad_ciphertexts_with_iv(session, label, 12);
}

/// The same with IVs of this length.
pub fn good_and_bad_ciphertexts_with_iv(session: &mut dyn Session, label: &str, iv_bytes: usize) {
    for (text, aad) in [(0, 3), (1, 0), (32, 44), (4300, 8192 + 23), (4300, 3), (16, 8192 + 3)] {
        let (text, aad) = (vec![0x5a; text], vec![0xa5; aad]);
        let sealed = encrypt(session, label, &text, &aad).expect("encrypts");
        assert_eq!(
            (sealed.iv.len(), sealed.ciphertext.len(), sealed.integrity),
            (iv_bytes, text.len(), None)
        );
        assert_eq!(decrypt(session, label, &sealed, &aad), Ok(text.clone()));
        let checked =
            encrypt_checked(session, label, &text, &aad, b"aad and metadata").expect("encrypts");
        assert_ne!(sealed.iv, checked.iv);
        assert_eq!(decrypt(session, label, &checked, &aad), Ok(text.clone()));

        let bad = |change: fn(&mut Sealed)| {
            let mut changed = sealed.clone();
            change(&mut changed);
            changed
        };
        let mut refused =
            vec![(bad(|s| s.tag[15] ^= 0x80), aad.clone()), (bad(|s| s.iv[0] ^= 1), aad.clone())];
        refused.push((sealed.clone(), [&aad[..], b"x"].concat()));
        refused
            .push((bad(|s| s.iv.resize(if s.iv.len() == 12 { 16 } else { 12 }, 0)), aad.clone()));
        refused.push((bad(|s| s.ciphertext.push(0)), aad.clone()));
        if !text.is_empty() {
            refused.push((bad(|s| s.ciphertext[0] ^= 1), aad.clone()));
            refused.push((bad(|s| s.ciphertext.truncate(s.ciphertext.len() - 1)), aad.clone()));
        }
        for (n, (changed, aad)) in refused.iter().enumerate() {
            assert_eq!(
                decrypt(session, label, changed, aad),
                Err(Fault::BadCiphertext),
                "change {n}, {} bytes",
                text.len()
            );
            assert!(session.is_usable());
        }
        assert_eq!(decrypt(session, label, &sealed, &aad), Ok(text));
    }
    session.probe().expect("healthy");
    session.probe().expect("healthy with the same test key");
}
