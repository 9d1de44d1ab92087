//! Whether two key managers hold the same key. Labels may agree where the material does not, and no
//! key manager gives a key out to be compared: what one encrypts, the other must decrypt.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::{Answer, Fault, InProcess, Job, KeyRef, Outcome, Secret, Task, same_bytes};
use crate::limits::TAG_BYTES;

/// Encrypted in a challenge, bytes: as much as a data key of KMS.
const TEXT_BYTES: usize = 32;
/// Not empty: a key manager that leaves the AAD out is no replica of one that does not.
const AAD: &[u8] = b"xksd: the same key?";

/// More than a job of a key manager in this process takes.
const JOB_TIME: Duration = Duration::from_secs(10);

/// Random bytes that one key manager has encrypted, for others to decrypt.
pub struct Challenge {
    text: Secret,
    iv: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: [u8; TAG_BYTES],
}

impl Challenge {
    /// Has the one that `execute` asks encrypt.
    ///
    /// # Errors
    /// As it says.
    pub fn encrypt(execute: impl FnOnce(Task) -> Outcome) -> Result<Challenge, Fault> {
        let mut text = Zeroizing::new(vec![0; TEXT_BYTES]);
        let no_random =
            |_| Fault::Device { detail: "the operating system gives no random bytes".to_owned() };
        SystemRandom::new().fill(&mut text).map_err(no_random)?;
        match execute(Task::Encrypt {
            plaintext: text.clone(),
            aad: AAD.to_vec(),
            integrity: None,
        })? {
            Answer::Encrypted { iv, ciphertext, tag, .. } => {
                Ok(Challenge { text, iv, ciphertext, tag })
            }
            _ => Err(another_question()),
        }
    }

    /// Whether the one that `execute` asks can decrypt it.
    ///
    /// # Errors
    /// Where that says nothing of the key.
    pub fn is_decrypted(&self, execute: impl FnOnce(Task) -> Outcome) -> Result<bool, Fault> {
        let Challenge { iv, ciphertext, tag, .. } = self;
        match execute(Task::Decrypt {
            ciphertext: ciphertext.clone(),
            iv: iv.clone(),
            tag: *tag,
            aad: AAD.to_vec(),
        }) {
            Ok(Answer::Decrypted(text)) => Ok(same_bytes(&text.0, &self.text)),
            Ok(_) => Err(another_question()),
            Err(Fault::BadCiphertext) => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

/// Labels under which `one` has another key than `other`, or that only one of them has, sorted.
pub fn differences(one: &dyn InProcess, other: &dyn InProcess) -> Vec<String> {
    let (ones, others) = (one.labels(), other.labels());
    let labels: BTreeSet<&String> = ones.iter().chain(&others).collect();
    let same = |label: &str| {
        let job =
            |task| Job { key: KeyRef::first(label), task, deadline: Instant::now() + JOB_TIME };
        Challenge::encrypt(|task| one.execute(job(task)))
            .and_then(|challenge| challenge.is_decrypted(|task| other.execute(job(task))))
            .unwrap_or(false)
    };
    labels.into_iter().filter(|label| !same(label)).cloned().collect()
}

fn another_question() -> Fault {
    Fault::Device { detail: "the key manager gave an answer of the wrong kind".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_manager::Plaintext;
    use crate::key_manager::ProbeKey;

    /// A challenge by a key manager that encrypts nothing, and the text it was given.
    fn challenge() -> (Challenge, Secret) {
        let mut given = Zeroizing::new(Vec::new());
        let challenge = Challenge::encrypt(|task| {
            let Task::Encrypt { plaintext, aad, integrity: None } = task else {
                panic!("another task")
            };
            assert!(plaintext.len() == TEXT_BYTES && aad == AAD);
            given = plaintext.clone();
            Ok(Answer::Encrypted {
                iv: vec![1; 16],
                ciphertext: plaintext.to_vec(),
                tag: [2; TAG_BYTES],
                integrity: None,
            })
        });
        (challenge.expect("encrypted"), given)
    }

    #[test]
    fn what_was_encrypted_is_what_is_to_be_decrypted() {
        let (challenge, text) = challenge();
        let same = challenge.is_decrypted(|task| match task {
            Task::Decrypt { ciphertext, iv, tag, aad } => {
                assert_eq!(
                    (&ciphertext, &iv[..], tag, &aad[..]),
                    (&*text, &[1; 16][..], [2; TAG_BYTES], AAD)
                );
                Ok(Answer::Decrypted(Plaintext(Zeroizing::new(ciphertext))))
            }
            _ => panic!("another task"),
        });
        assert_eq!(same, Ok(true));
        let zeros = || Zeroizing::new(vec![0; TEXT_BYTES]);
        assert_eq!(
            challenge.is_decrypted(|_| Ok(Answer::Decrypted(Plaintext(zeros())))),
            Ok(false)
        );
        assert_ne!(*text, *zeros(), "random");
    }

    #[test]
    fn a_fault_is_not_a_difference() {
        let (challenge, _) = challenge();
        assert_eq!(challenge.is_decrypted(|_| Err(Fault::BadCiphertext)), Ok(false));
        for fault in [Fault::Timeout, Fault::Busy, Fault::Device { detail: "why".to_owned() }] {
            assert_eq!(challenge.is_decrypted(|_| Err(fault.clone())), Err(fault.clone()));
            assert_eq!(Challenge::encrypt(|_| Err(fault.clone())).err(), Some(fault));
        }
        assert!(
            challenge.is_decrypted(|_| Ok(Answer::Probed(ProbeKey::Own))).is_err()
                && Challenge::encrypt(|_| Ok(Answer::Probed(ProbeKey::Own))).is_err()
        );
    }
}
