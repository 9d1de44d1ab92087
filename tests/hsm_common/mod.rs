//! What the tests of real PKCS#11 modules share: a process of its own for each test, a token, keys
//! on it, and jobs.
//!
//! A PKCS#11 module is initialised once a process and SoftHSM reads its configuration from the
//! environment, so each test runs its own binary again for itself alone.

// Each test binary uses its part of this.
#![allow(dead_code)]

pub mod nss;
#[path = "../../loadtest/hsm-sim/tests/common/remote.rs"]
pub mod remote;
pub mod simulator;
pub mod softhsm;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use ring::digest;
use xksd::key_manager::{Answer, Fault, Job, KeyDescription, KeyRef, Outcome, Task};
use zeroize::Zeroizing;

pub const PIN: &str = "12345678";
/// Names the test's directory to the test's own process.
const DIRECTORY: &str = "XKSD_TEST_DIRECTORY";

/// Runs `test` in a process of its own, with an empty directory and SoftHSM's configuration in it.
pub fn in_own_process(name: &str, test: impl FnOnce(&Path)) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return test(Path::new(&directory));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let tokens = directory.path().join("tokens");
    std::fs::create_dir(&tokens).expect("made");
    let configuration = directory.path().join("softhsm2.conf");
    std::fs::write(
        &configuration,
        format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        ),
    )
    .expect("written");
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args([name, "--exact", "--nocapture", "--include-ignored"])
        .env(DIRECTORY, directory.path())
        .env("SOFTHSM2_CONF", &configuration)
        .output()
        .expect("runs again");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "in its own process:\n{out}\n{err}");
    assert!(out.contains("1 passed"), "{name} is not the name of one test:\n{out}");
}

/// A test that [`in_own_process`] runs.
#[macro_export]
macro_rules! own_process {
    ($(#[$meta:meta])* fn $name:ident($directory:ident) $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            $crate::hsm_common::in_own_process(stringify!($name), |$directory| $body);
        }
    };
}

/// The first that is there. These tests do not skip.
pub fn module(candidates: &[&str]) -> PathBuf {
    let found = candidates.iter().map(PathBuf::from).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("none of {candidates:?} is installed: run scripts/test"))
}

/// The test's own way to the token, beside xksd's.
pub struct Beside {
    pub pkcs11: Pkcs11,
    pub slot: Slot,
}

impl Beside {
    /// A session that is logged in (for as long as there is one, if nobody else has one).
    pub fn session(&self) -> Session {
        let session = self.pkcs11.open_rw_session(self.slot).expect("a session");
        match session.login(UserType::User, Some(&AuthPin::new(PIN.into()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => session,
            Err(error) => panic!("{error}"),
        }
    }

    /// An AES key on the token; `more` goes after and over the usual attributes.
    pub fn make_key(&self, label: &str, bytes: u64, more: &[Attribute]) {
        let usual = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::ValueLen(bytes.into()),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Id(label.as_bytes().to_vec()),
        ];
        let kept = usual
            .iter()
            .filter(|one| more.iter().all(|other| other.attribute_type() != one.attribute_type()));
        let template: Vec<Attribute> = kept.chain(more).cloned().collect();
        self.session().generate_key(&Mechanism::AesKeyGen, &template).expect("a key");
    }

    /// Creates a key of any kind out of its bytes.
    pub fn import_key(&self, label: &str, kind: KeyType, value: &[u8], more: &[Attribute]) {
        let mut template = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(kind),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Value(value.to_vec()),
        ];
        template.extend_from_slice(more);
        self.session().create_object(&template).expect("a key");
    }

    pub fn delete_key(&self, label: &str) {
        let session = self.session();
        let keys =
            session.find_objects(&[Attribute::Label(label.as_bytes().to_vec())]).expect("a search");
        assert!(!keys.is_empty());
        for key in keys {
            session.destroy_object(key).expect("deleted");
        }
    }
}

/// Calls that the `cryptoki` crate does not offer, made on the module that the process already has.
pub mod raw {
    use super::*;
    use cryptoki_sys::{CK_FUNCTION_LIST, CK_MECHANISM, CKM_SHA256, CKR_OK};

    fn functions(module: &Path) -> CK_FUNCTION_LIST {
        // SAFETY: the library is loaded already and stays so; this only finds its functions again.
        let library = unsafe { cryptoki_sys::Pkcs11::new(module) }.expect("loaded");
        let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
        // SAFETY: `list` is valid for the write of one pointer, and valid to read once the module
        // has answered CKR_OK.
        unsafe {
            assert_eq!(library.C_GetFunctionList(&mut list), CKR_OK);
            *list
        }
    }

    /// Puts functions in front of the module's own, for whoever loads it after this; gives the
    /// module's own.
    pub fn intercept(
        module: &Path,
        change: impl FnOnce(&mut CK_FUNCTION_LIST),
    ) -> CK_FUNCTION_LIST {
        // SAFETY: the library is loaded now and stays so (its handle is not dropped).
        let library = std::mem::ManuallyDrop::new(
            unsafe { cryptoki_sys::Pkcs11::new(module) }.expect("loads"),
        );
        let mut list: *mut CK_FUNCTION_LIST = std::ptr::null_mut();
        // SAFETY: as in `functions`; SoftHSM keeps its list in writable memory, and nobody else
        // reads it yet.
        unsafe {
            assert_eq!(library.C_GetFunctionList(&mut list), CKR_OK);
            let own = *list;
            change(&mut *list);
            own
        }
    }

    /// C_CloseAllSessions: what a token that goes away does to its sessions.
    pub fn close_all_sessions(module: &Path, slot: Slot) {
        let close = functions(module).C_CloseAllSessions.expect("a function");
        // SAFETY: takes a number; sessions in use elsewhere become invalid, which is the purpose.
        let code = unsafe { close(slot.into()) };
        assert_eq!(code, CKR_OK);
    }

    /// Leaves every session there is with an operation that is not finished.
    pub fn begin_a_digest_in_every_session(module: &Path) {
        let begin = functions(module).C_DigestInit.expect("a function");
        let mut mechanism = CK_MECHANISM {
            mechanism: CKM_SHA256,
            pParameter: std::ptr::null_mut(),
            ulParameterLen: 0,
        };
        // SAFETY: the mechanism lives through the calls; handles that are none are refused.
        let begun =
            (1..100).filter(|session| unsafe { begin(*session, &mut mechanism) } == CKR_OK).count();
        assert!(begun > 0);
    }
}

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
    session: &mut dyn xksd::key_manager::Session,
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
    session: &mut dyn xksd::key_manager::Session,
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
    session: &mut dyn xksd::key_manager::Session,
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

pub fn describe(
    session: &mut dyn xksd::key_manager::Session,
    label: &str,
) -> Result<KeyDescription, Fault> {
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
pub fn good_and_bad_ciphertexts(session: &mut dyn xksd::key_manager::Session, label: &str) {
    good_and_bad_ciphertexts_with_iv(session, label, 12);
}

/// The same with IVs of this length.
pub fn good_and_bad_ciphertexts_with_iv(
    session: &mut dyn xksd::key_manager::Session,
    label: &str,
    iv_bytes: usize,
) {
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
