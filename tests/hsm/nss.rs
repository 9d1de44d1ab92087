//! The PKCS#11 key manager with NSS softokn.

use crate::engines::{nss_database, nss_settings, secret};
use crate::jobs::*;
use cryptoki::object::{Attribute, KeyType};
use test_harness::{nss, own_process, raw};
use xksd::key_manager::pkcs11::{Pkcs11Engine, Settings};
use xksd::key_manager::{Concurrency, Engine, Fault, KeySpec};
use xksd::limits::KEY_REFUSAL_AGE_MAX;

own_process! {
    fn encrypts_and_decrypts(directory) {
        let (engine, token) = nss_database(directory);
        token.make_key("foo", 32, &[]);
        let mut session = engine.open().expect("opens");
        good_and_bad_ciphertexts(&mut *session, "foo");
        let info = engine.info().expect("there");
        assert_eq!(info.token, nss::TOKEN);
        assert!(info.vendor.contains("Mozilla") && info.versions.starts_with("library 3."), "{info:?}");
        assert_eq!(engine.concurrency(), Concurrency::PerCore);
    }
}

own_process! {
    fn keys_do_what_their_attributes_allow(directory) {
        let (engine, token) = nss_database(directory);
        token.make_key("encrypt-only", 32, &[Attribute::Decrypt(false)]);
        token.make_key("decrypt-only", 32, &[Attribute::Encrypt(false)]);
        token.make_key("small", 16, &[]);
        token.import_key("secret", KeyType::GENERIC_SECRET, &[7; 32], &[Attribute::Sign(true)]);
        token.make_key("twin", 32, &[Attribute::Id(vec![1])]);
        token.make_key("twin", 32, &[Attribute::Id(vec![2])]);
        let mut session = engine.open().expect("opens");
        let session = &mut *session;
        let sealed = encrypt(session, "encrypt-only", b"text", b"aad").expect("allowed");
        assert_eq!(decrypt(session, "encrypt-only", &sealed, b"aad"), Err(Fault::KeyUsage));
        assert_eq!(encrypt_checked(session, "encrypt-only", b"text", b"aad", b"").err(), Some(Fault::KeyUsage));
        assert_eq!(decrypt(session, "decrypt-only", &sealed, b"aad"), Err(Fault::BadCiphertext));
        for label in ["decrypt-only", "small", "secret"] {
            assert_eq!(encrypt(session, label, b"text", b"aad").err(), Some(Fault::KeyUsage), "{label}");
        }
        for (label, spec) in [("encrypt-only", KeySpec::AES_256), ("small", KeySpec::Aes(Some(128))), ("secret", KeySpec::GenericSecret(Some(256)))] {
            let description = describe(session, label).expect("there");
            assert_eq!((description.spec, description.enabled), (spec, true));
        }
        assert!(detail(&describe(session, "twin").expect_err("two")).starts_with("2 secret keys"));
        assert!(matches!(describe(session, "nope"), Err(Fault::KeyNotFound { .. })));
        assert!(session.is_usable());
        assert_eq!(engine.list().expect("lists").len(), 6);
    }
}

own_process! {
    fn a_wrong_pin_is_refused_and_the_right_one_still_works(directory) {
        let (engine, _token) = nss_database(directory);
        let wrong = Pkcs11Engine::new(Settings { pin: secret("wrong"), ..nss_settings(directory) }).expect("made");
        let first = wrong.open().err().expect("refused");
        assert!(detail(&first).starts_with("C_Login: CKR_PIN_INCORRECT"), "{first:?}");
        let mut session = engine.open().expect("opens");
        session.probe().expect("healthy");
        assert_eq!(wrong.open().err(), Some(first));
    }
}

own_process! {
    fn lost_sessions_and_exchanged_keys(directory) {
        let (engine, token) = nss_database(directory);
        token.make_key("foo", 32, &[]);
        token.make_key("bar", 32, &[]);
        let mut session = engine.open().expect("opens");
        let old = encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
        token.delete_key("foo");
        assert!(matches!(encrypt(&mut *session, "foo", b"text", b""), Err(Fault::KeyNotFound { .. })));
        token.make_key("foo", 32, &[]);
        std::thread::sleep(KEY_REFUSAL_AGE_MAX);
        let new = encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("found");
        assert_eq!(decrypt(&mut *session, "foo", &old, b""), Err(Fault::BadCiphertext));
        raw::close_all_sessions(&nss::softokn(), token.slot);
        assert!(matches!(decrypt(&mut *session, "foo", &new, b""), Err(Fault::Device { .. })));
        assert!(!session.is_usable());
        drop(session);
        let mut session = engine.open().expect("opens and logs in again");
        assert_eq!(decrypt(&mut *session, "foo", &new, b""), Ok(b"text".to_vec()));
    }
}

own_process! {
    fn many_sessions_on_threads(directory) {
        let (engine, token) = nss_database(directory);
        token.make_key("foo", 32, &[]);
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let engine = &engine;
                scope.spawn(move || {
                    let mut session = engine.open().expect("opens");
                    for n in 0..100u8 {
                        let text = vec![thread ^ n; usize::from(n) * 7];
                        let sealed = encrypt_checked(&mut *session, "foo", &text, &[n], b"").expect("encrypts");
                        assert_eq!(decrypt(&mut *session, "foo", &sealed, &[n]), Ok(text));
                    }
                });
            }
        });
    }
}
