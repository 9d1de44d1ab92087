//! The PKCS#11 key manager with kryoptic, which distributions hardly carry: run by hand, with
//! XKSD_TEST_KRYOPTIC naming its module.
//!
//! `XKSD_TEST_KRYOPTIC=/path/libkryoptic_pkcs11.so cargo test --test hsm kryoptic -- --ignored`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::jobs::*;
use cryptoki::context::Pkcs11;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use test_harness::token::PIN;
use test_harness::{Token, own_process, raw};
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile, Settings, TokenSelector};
use xksd::key_manager::{Concurrency, Engine, Fault};

const SO_PIN: &str = "87654321";

fn module() -> PathBuf {
    PathBuf::from(
        std::env::var_os("XKSD_TEST_KRYOPTIC").expect("XKSD_TEST_KRYOPTIC names kryoptic's module"),
    )
}

/// A token in the directory, xksd's engine on it (which initialises kryoptic), and the test's own
/// way in.
pub fn token(directory: &Path) -> (Arc<Pkcs11Engine>, Token) {
    let settings = Settings {
        name: "kryoptic".to_owned(),
        module: module(),
        token: TokenSelector::Label("xks".to_owned()),
        pin: crate::engines::secret(PIN),
        profile: Profile::Kryoptic,
        initialize_parameters: Some(directory.join("token.sql").display().to_string()),
        verify_encryptions: true,
        read_write_sessions: false,
    };
    let engine = Pkcs11Engine::new(settings).expect("made");
    // There is no token yet, but now kryoptic is initialised.
    assert!(engine.open().is_err());
    let pkcs11 = Pkcs11::new(module()).expect("loads");
    let slot = pkcs11.get_all_slots().expect("slots")[0];
    pkcs11.init_token(slot, &AuthPin::new(SO_PIN.into()), "xks").expect("a token");
    let session = pkcs11.open_rw_session(slot).expect("a session");
    session.login(UserType::So, Some(&AuthPin::new(SO_PIN.into()))).expect("the SO");
    session.init_pin(&AuthPin::new(PIN.into())).expect("a PIN");
    session.logout().expect("out");
    (engine, Token { pkcs11, slot })
}

own_process! {
    #[ignore = "needs kryoptic"]
    fn encrypts_and_decrypts(directory) {
        let (engine, token) = token(directory);
        token.make_key("foo", 32, &[]);
        token.make_key("small", 16, &[]);
        let mut session = engine.open().expect("opens");
        good_and_bad_ciphertexts(&mut *session, "foo");
        assert_eq!(encrypt(&mut *session, "small", b"text", b"aad").err(), Some(Fault::KeyUsage));
        assert!(matches!(describe(&mut *session, "nope"), Err(Fault::KeyNotFound { .. })));
        assert!(session.is_usable() && engine.concurrency() == Concurrency::PerCore);
        assert!(engine.info().expect("there").vendor.contains("Kryoptic"));
    }
}

own_process! {
    #[ignore = "needs kryoptic"]
    fn lost_sessions_are_opened_anew(directory) {
        let (engine, token) = token(directory);
        token.make_key("foo", 32, &[]);
        let mut session = engine.open().expect("opens");
        let sealed = encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("encrypts");
        raw::close_all_sessions(&module(), token.slot);
        assert!(matches!(decrypt(&mut *session, "foo", &sealed, b""), Err(Fault::Device { .. })));
        assert!(!session.is_usable());
        drop(session);
        let mut session = engine.open().expect("opens and logs in again");
        assert_eq!(decrypt(&mut *session, "foo", &sealed, b""), Ok(b"text".to_vec()));
    }
}

own_process! {
    #[ignore = "needs kryoptic"]
    fn by_messages_with_keys_in_turn_and_bad_tags_in_between(directory) {
        let (engine, token) = token(directory);
        for label in ["foo", "bar"] {
            token.make_key(label, 32, &[]);
        }
        let mut session = engine.open().expect("opens");
        for n in 0..200u8 {
            let label = if n % 7 < 5 { "foo" } else { "bar" };
            let sealed = encrypt_checked(&mut *session, label, &[n; 40], &[n], b"").expect("encrypts");
            let mut wrong = sealed.clone();
            wrong.tag[3] ^= 1;
            if n % 3 == 0 {
                assert_eq!(decrypt(&mut *session, label, &wrong, &[n]), Err(Fault::BadCiphertext));
            }
            assert_eq!(decrypt(&mut *session, label, &sealed, &[n]), Ok(vec![n; 40]));
            // What the message interface made, another session opens.
            if n % 50 == 0 {
                assert_eq!(decrypt(&mut *engine.open().expect("opens"), label, &sealed, &[n]), Ok(vec![n; 40]));
            }
        }
        assert!(session.is_usable());
    }
}
