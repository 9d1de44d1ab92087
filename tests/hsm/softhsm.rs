//! The PKCS#11 key manager with SoftHSM.

use std::time::Instant;

use crate::engines::{engine, secret, settings};
use crate::jobs::*;
use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, KeyType};
use cryptoki::types::Date;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use test_harness::token::PIN;
use test_harness::{Token, own_process, raw, softhsm};
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile, Settings, TokenSelector};
use xksd::key_manager::{Concurrency, Engine, Fault, Job, KeyRef, KeySpec, KeyUsage, Task};
use xksd::limits::KEY_REFUSAL_AGE_MAX;
use zeroize::Zeroizing;

fn date(text: &str) -> Date {
    Date::new_from_str_slice(&text[..4], &text[4..6], &text[6..]).expect("a date")
}

/// A day from today, as YYYYMMDD.
fn day(offset: i64) -> String {
    let day = time::OffsetDateTime::now_utc().date() + time::Duration::days(offset);
    format!("{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day())
}

own_process! {
    fn encrypts_and_decrypts(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        let engine = engine();
        assert_eq!(engine.concurrency(), Concurrency::Single);
        let mut session = engine.open().expect("opens");
        good_and_bad_ciphertexts(&mut *session, "foo");
        // More encryptions than one block has IVs; no IV twice.
        let ivs: std::collections::HashSet<_> = (0..600).map(|_| encrypt(&mut *session, "foo", b"x", b"y").expect("encrypts").iv).collect();
        assert_eq!(ivs.len(), 600);
        assert!(!ivs.contains(&vec![0; 12]));
    }
}

/// The words of the command in docs/hsm-vendors.md, for this file and label.
fn documented_import(file: &std::path::Path, label: &str) -> Vec<String> {
    let manual = include_str!("../../docs/hsm-vendors.md");
    let line = manual
        .lines()
        .find(|line| line.starts_with("pkcs11-tool") && line.contains("--write-object"));
    let said = |word: &str| match word {
        "MODULE" => softhsm::module().display().to_string(),
        "TOKEN" => "xks".to_owned(),
        "FILE" => file.display().to_string(),
        "foo" => label.to_owned(),
        word => word.to_owned(),
    };
    line.expect("there").split_whitespace().skip(1).map(said).collect()
}

own_process! {
    fn the_documented_import_takes_keys_of_any_bytes(directory) {
        let _token = softhsm::new_token(&softhsm::load(), "xks");
        let mut keys = [[0; 32], [b'\n'; 32], [7; 32], std::array::from_fn(|i| i as u8)];
        (keys[2][1], keys[2][31]) = (b'\n', 0);
        for (n, key) in keys.iter().enumerate() {
            let file = directory.join("key");
            std::fs::write(&file, key).expect("written");
            let mut tool = std::process::Command::new("pkcs11-tool");
            tool.args(documented_import(&file, &format!("key-{n}"))).args(["--pin", PIN]);
            let output = tool.output().expect("pkcs11-tool");
            assert!(output.status.success(), "{output:?}");
        }
        let mut session = engine().open().expect("opens");
        for (n, key) in keys.iter().enumerate() {
            let sealed = encrypt(&mut *session, &format!("key-{n}"), b"text", b"aad").expect("encrypts");
            let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes"));
            let iv = Nonce::try_assume_unique_for_key(&sealed.iv).expect("12 bytes");
            let mut text = [sealed.ciphertext, sealed.tag.to_vec()].concat();
            let opened = key.open_in_place(iv, Aad::from(b"aad"), &mut text);
            assert_eq!(opened.map(|text| &*text), Ok(&b"text"[..]), "key {n}");
        }
    }
}

own_process! {
    fn says_bad_ciphertext_with_the_generic_profile_too(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        let engine = Pkcs11Engine::new(Settings { profile: Profile::Generic, ..settings() }).expect("made");
        good_and_bad_ciphertexts(&mut *engine.open().expect("opens"), "foo");
    }
}

own_process! {
    fn a_code_that_is_not_ambiguous_in_the_profile_is_a_device_fault(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        // NSS never says CKR_GENERAL_ERROR for a wrong tag, so with its profile SoftHSM's answer
        // must not be reported as bad ciphertext.
        let engine = Pkcs11Engine::new(Settings { profile: Profile::Nss, ..settings() }).expect("made");
        let mut session = engine.open().expect("opens");
        let mut sealed = encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
        sealed.tag[0] ^= 1;
        let fault = decrypt(&mut *session, "foo", &sealed, b"").expect_err("a wrong tag");
        assert_eq!(detail(&fault), "C_Decrypt: CKR_GENERAL_ERROR");
        // The key does what it should with another text: nothing is wrong with the session.
        assert!(session.is_usable());
        assert_eq!(session.probe(), Ok(()));
    }
}

own_process! {
    fn keys_do_what_their_attributes_allow(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        let (off, on) = (|| Attribute::Encrypt(false), || Attribute::Encrypt(true));
        token.make_key("encrypt-only", 32, &[on(), Attribute::Decrypt(false)]);
        token.make_key("decrypt-only", 32, &[off(), Attribute::Decrypt(true)]);
        token.make_key("impotent", 32, &[off(), Attribute::Decrypt(false), Attribute::Sign(true), Attribute::Derive(true)]);
        token.make_key("small", 16, &[]);
        token.import_key("secret", KeyType::GENERIC_SECRET, &[7; 32], &[Attribute::Sign(true), Attribute::Verify(true)]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        let session = &mut *session;

        let sealed = encrypt(session, "encrypt-only", b"text", b"aad").expect("allowed");
        assert_eq!(decrypt(session, "encrypt-only", &sealed, b"aad"), Err(Fault::KeyUsage));
        assert_eq!(encrypt_checked(session, "encrypt-only", b"text", b"aad", b"").err(), Some(Fault::KeyUsage));
        for label in ["decrypt-only", "impotent", "small", "secret"] {
            assert_eq!(encrypt(session, label, b"text", b"aad").err(), Some(Fault::KeyUsage), "{label}");
            assert_eq!(encrypt_checked(session, label, b"text", b"aad", b"").err(), Some(Fault::KeyUsage), "{label}");
        }
        assert_eq!(decrypt(session, "decrypt-only", &sealed, b"aad"), Err(Fault::BadCiphertext));
        for label in ["impotent", "small", "secret"] {
            assert_eq!(decrypt(session, label, &sealed, b"aad"), Err(Fault::KeyUsage), "{label}");
        }
        assert!(session.is_usable());

        let described = |session: &mut dyn xksd::key_manager::Session, label| describe(session, label).expect("there");
        assert_eq!(described(session, "encrypt-only").usage.iter().next(), Some(KeyUsage::Encrypt));
        assert!(!described(session, "encrypt-only").usage.contains(KeyUsage::Decrypt));
        let impotent = described(session, "impotent");
        assert!(impotent.enabled && impotent.usage.contains(KeyUsage::Sign) && impotent.usage.contains(KeyUsage::Derive));
        assert!(!impotent.usage.contains(KeyUsage::Encrypt));
        assert_eq!(described(session, "encrypt-only").spec, KeySpec::AES_256);
        assert_eq!(described(session, "small").spec, KeySpec::Aes(Some(128)));
        assert_eq!(described(session, "secret").spec, KeySpec::GenericSecret(Some(256)));
    }
}

own_process! {
    fn a_label_names_one_key_or_none(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("twin", 32, &[Attribute::Id(vec![1])]);
        token.make_key("twin", 32, &[Attribute::Id(vec![2])]);
        token.make_key("xksd-probe", 32, &[]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        let fault = encrypt(&mut *session, "twin", b"", b"").expect_err("two keys");
        assert!(matches!(fault, Fault::KeyNotFound { .. }) && detail(&fault).starts_with("2 secret \
            keys labelled \"twin\""), "{fault:?}");
        let fault = describe(&mut *session, "nope").expect_err("no key");
        assert!(matches!(fault, Fault::KeyNotFound { .. }) && detail(&fault).starts_with("no \
            secret key labelled \"nope\""), "{fault:?}");
        // The session test key has this label too, and must not be taken for the customer's.
        session.probe().expect("healthy");
        good_and_bad_ciphertexts(&mut *session, "xksd-probe");
        assert_eq!(engine.list().expect("lists").len(), 3);
    }
}

own_process! {
    fn dates_are_kept(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        // SoftHSM 2.6 cannot read the dates of private keys.
        let public = || Attribute::Private(false);
        let (start, end) = (|n| Attribute::StartDate(date(&day(n))), |n| Attribute::EndDate(date(&day(n))));
        token.make_key("expired", 32, &[end(-1), public()]);
        token.make_key("future", 32, &[start(2), public()]);
        token.make_key("current", 32, &[start(-1), end(1), public()]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        for (label, enabled) in [("expired", false), ("future", false), ("current", true)] {
            assert_eq!(describe(&mut *session, label).expect("there").enabled, enabled, "{label}");
            let expected = (!enabled).then_some(Fault::KeyDisabled);
            assert_eq!(encrypt(&mut *session, label, b"text", b"").err(), expected, "{label}");
        }
        let listed = engine.list().expect("lists");
        let shown: Vec<_> = listed.iter().map(|key| (key.label.as_str(), key.description.enabled, key.end_date.is_some())).collect();
        assert_eq!(shown, [("current", true, true), ("expired", false, true), ("future", false, false)]);
        assert_eq!((listed[0].id.as_str(), listed[0].description.spec), ("63757272656e74", KeySpec::AES_256));
    }
}

own_process! {
    fn dates_that_the_module_cannot_read_are_a_device_fault(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("private", 32, &[Attribute::EndDate(date(&day(1)))]);
        token.make_key("foo", 32, &[]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        let fault = encrypt(&mut *session, "private", b"text", b"").expect_err("not readable");
        assert_eq!(detail(&fault), "key \"private\": C_GetAttributeValue: CKR_GENERAL_ERROR, and other keys work");
        assert_eq!(describe(&mut *session, "private").err(), Some(fault));
        // It is that key's trouble alone.
        assert!(session.is_usable());
        encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
        let listed = engine.list().expect("lists");
        let shown: Vec<_> = listed.iter().map(|key| (key.label.as_str(), key.description.enabled, key.end_date.as_deref())).collect();
        assert_eq!(shown, [("foo", true, None), ("private", false, Some("not readable"))]);
    }
}

own_process! {
    fn a_wrong_pin_is_tried_once(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        let flags = || token.pkcs11.get_token_info(token.slot).expect("a token");
        let wrong = Pkcs11Engine::new(Settings { pin: secret("00000000"), ..settings() }).expect("made");
        assert!(!flags().user_pin_count_low());
        let first = wrong.open().err().expect("refused");
        assert!(detail(&first).starts_with("C_Login: CKR_PIN_INCORRECT"), "{first:?}");
        assert!(!format!("{first:?}").contains("00000000"));
        assert!(flags().user_pin_count_low());
        // The right PIN resets SoftHSM's flag: a further C_Login with the wrong one would set it
        // again.
        drop(token.session());
        assert!(!flags().user_pin_count_low());
        for _ in 0..10 {
            assert_eq!(wrong.open().err(), Some(first.clone()));
        }
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(wrong.open().err(), Some(first.clone())));
            }
        });
        assert!(!flags().user_pin_count_low() && !flags().user_pin_locked());
        engine().open().expect("the right PIN still works");
    }
}

own_process! {
    fn lost_sessions_are_noticed_and_opened_anew(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        let engine = engine();
        let (mut one, mut two) = (engine.open().expect("opens"), engine.open().expect("opens"));
        let sealed = encrypt(&mut *one, "foo", b"text", b"").expect("encrypts");
        assert!(decrypt(&mut *two, "foo", &sealed, b"").is_ok());
        raw::close_all_sessions(&softhsm::module(), token.slot);
        for session in [&mut one, &mut two] {
            let fault = decrypt(&mut **session, "foo", &sealed, b"").expect_err("lost");
            assert!(detail(&fault).ends_with(": CKR_SESSION_HANDLE_INVALID"), "{fault:?}");
            assert!(!session.is_usable());
        }
        drop(one);
        let mut again = engine.open().expect("opens and logs in again");
        drop(two);
        assert_eq!(decrypt(&mut *again, "foo", &sealed, b""), Ok(b"text".to_vec()));
        again.probe().expect("healthy");
    }
}

own_process! {
    fn a_lost_login_is_not_told_as_a_missing_key(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        let sealed = encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
        token.pkcs11.open_ro_session(token.slot).expect("a session").logout().expect("logs \
            everybody out");
        // Known key, and one to be searched for.
        for label in ["foo", "bar"] {
            let mut session = engine.open().expect("opens");
            token.pkcs11.open_ro_session(token.slot).expect("a session").logout().expect("logs \
                everybody out");
            assert!(matches!(decrypt(&mut *session, label, &sealed, b""), Err(Fault::Device { .. })), "{label}");
            assert!(!session.is_usable());
        }
        assert!(matches!(decrypt(&mut *session, "foo", &sealed, b""), Err(Fault::Device { .. })));
        let mut session = engine.open().expect("opens and logs in again");
        assert_eq!(decrypt(&mut *session, "foo", &sealed, b""), Ok(b"text".to_vec()));
        assert!(matches!(describe(&mut *session, "bar"), Err(Fault::KeyNotFound { .. })));
    }
}

own_process! {
    fn a_module_that_was_finalised_is_initialised_again(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        let mut other = engine.open().expect("opens");
        let sealed = encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
        token.pkcs11.clone().finalize().expect("ends");
        assert_eq!(detail(&decrypt(&mut *session, "foo", &sealed, b"").expect_err("ended")), "C_DecryptInit: CKR_CRYPTOKI_NOT_INITIALIZED");
        assert!(!session.is_usable());
        let mut again = engine.open().expect("initialises again");
        assert_eq!(decrypt(&mut *again, "foo", &sealed, b""), Ok(b"text".to_vec()));
        // SoftHSM gives the same handles anew: the old session neither works with them nor closes
        // them.
        assert!(!other.is_usable());
        assert!(detail(&encrypt(&mut *other, "foo", b"text", b"").expect_err("stale")).contains("initialised again"));
        let mut namesakes: Vec<_> = (0..20).map(|_| engine.open().expect("opens")).collect();
        drop(other);
        drop(session);
        for session in namesakes.iter_mut().chain([&mut again]) {
            assert_eq!(decrypt(&mut **session, "foo", &sealed, b""), Ok(b"text".to_vec()));
        }
    }
}

own_process! {
    fn a_key_made_anew_under_its_label_is_found(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        token.make_key("bar", 32, &[]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        let old = encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
        token.delete_key("foo");
        assert!(matches!(encrypt(&mut *session, "foo", b"text", b""), Err(Fault::KeyNotFound { .. })));
        token.make_key("foo", 32, &[]);
        // For a moment it is taken for granted that there is none.
        assert!(matches!(describe(&mut *engine.open().expect("opens"), "foo"), Err(Fault::KeyNotFound { .. })));
        std::thread::sleep(KEY_REFUSAL_AGE_MAX);
        let new = encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("found");
        assert_eq!(decrypt(&mut *session, "foo", &new, b""), Ok(b"text".to_vec()));
        // Replaced between two jobs: the same job finds the new one.
        token.delete_key("foo");
        token.make_key("foo", 32, &[]);
        assert_eq!(decrypt(&mut *session, "foo", &old, b""), Err(Fault::BadCiphertext));
        encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("found");
        assert!(session.is_usable());
    }
}

own_process! {
    fn changed_dates_are_noticed_by_describe(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[Attribute::Modifiable(true), Attribute::Private(false)]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        encrypt(&mut *session, "foo", b"text", b"").expect("enabled");
        let own = token.session();
        let key = own.find_objects(&[Attribute::Label(b"foo".to_vec())]).expect("a search")[0];
        own.update_attributes(key, &[Attribute::EndDate(date(&day(-2)))]).expect("set");
        assert!(!describe(&mut *session, "foo").expect("there").enabled);
        assert_eq!(encrypt(&mut *session, "foo", b"text", b"").err(), Some(Fault::KeyDisabled));
        // A refusal is looked at again after a second: nobody has to ask for a description first.
        own.update_attributes(key, &[Attribute::EndDate(date(&day(2)))]).expect("set");
        std::thread::sleep(xksd::limits::KEY_REFUSAL_AGE_MAX + std::time::Duration::from_millis(50));
        encrypt(&mut *session, "foo", b"text", b"").expect("enabled again");
    }
}

own_process! {
    fn a_late_job_stops_before_the_hsm(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        let sealed = encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
        let Sealed { iv, ciphertext, tag, .. } = sealed.clone();
        for task in [
            Task::Describe,
            Task::Encrypt { plaintext: Zeroizing::new(vec![1]), aad: vec![], integrity: None },
            Task::Decrypt { ciphertext, iv, tag, aad: vec![] },
        ] {
            let late = Job { key: KeyRef::first("foo"), task, deadline: Instant::now() };
            assert_eq!(session.execute(late).err(), Some(Fault::Timeout));
        }
        assert!(session.is_usable());
        assert_eq!(decrypt(&mut *session, "foo", &sealed, b""), Ok(b"text".to_vec()));
    }
}

own_process! {
    fn a_session_with_an_operation_begun_elsewhere_is_given_up(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
        raw::begin_a_digest_in_every_session(&softhsm::module());
        let fault = encrypt(&mut *session, "foo", b"text", b"").expect_err("busy with another operation");
        assert_eq!(detail(&fault), "C_EncryptInit: CKR_OPERATION_ACTIVE");
        assert!(!session.is_usable());
        drop(session);
        encrypt(&mut *engine.open().expect("opens"), "foo", b"text", b"").expect("encrypts");
    }
}

own_process! {
    fn many_sessions_on_threads(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        token.make_key("bar", 32, &[]);
        let engine = engine();
        std::thread::scope(|scope| {
            for thread in 0..16u8 {
                let engine = &engine;
                scope.spawn(move || {
                    let mut session = engine.open().expect("opens");
                    let label = if thread % 2 == 0 { "foo" } else { "bar" };
                    for n in 0..40u8 {
                        let text = vec![thread ^ n; usize::from(n) * 7];
                        let sealed = encrypt_checked(&mut *session, label, &text, &[n], b"").expect("encrypts");
                        assert_eq!(decrypt(&mut *session, label, &sealed, &[n]), Ok(text));
                    }
                });
            }
        });
    }
}

own_process! {
    fn tokens_are_chosen_by_label_serial_or_slot(_directory) {
        let pkcs11 = softhsm::load();
        let (one, two, other) = (softhsm::new_token(&pkcs11, "xks"), softhsm::new_token(&pkcs11, "xks"), softhsm::new_token(&pkcs11, "other"));
        one.make_key("one", 32, &[]);
        two.make_key("two", 32, &[]);
        other.make_key("three", 32, &[]);
        let serial = |token: &Token| pkcs11.get_token_info(token.slot).expect("a token").serial_number().to_owned();
        let open = |token| Pkcs11Engine::new(Settings { token, ..settings() }).expect("made").list();
        let labels = |token| open(token).expect("opens").iter().map(|key| key.label.clone()).collect::<Vec<_>>();
        let ambiguous = open(TokenSelector::Label("xks".to_owned())).expect_err("two of them");
        assert!(detail(&ambiguous).contains("ambiguous") && detail(&ambiguous).contains(&serial(&one)), "{ambiguous:?}");
        assert!(detail(&ambiguous).contains(&serial(&two)) && !detail(&ambiguous).contains(&serial(&other)), "{ambiguous:?}");
        assert_eq!(labels(TokenSelector::Label("other".to_owned())), ["three"]);
        assert_eq!(labels(TokenSelector::Serial(serial(&one))), ["one"]);
        assert_eq!(labels(TokenSelector::Slot(two.slot.id())), ["two"]);
        let missing = open(TokenSelector::Label("nope".to_owned())).expect_err("none");
        assert!(detail(&missing).starts_with("token \"nope\" not found; the module shows \""), "{missing:?}");
        assert!(detail(&open(TokenSelector::Slot(4711)).expect_err("none")).contains("CKR_SLOT_ID_INVALID"));
    }
}

own_process! {
    fn two_engines_share_a_token(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        let (one, two) = (engine(), engine());
        let mut first = one.open().expect("opens");
        let sealed = encrypt(&mut *first, "foo", b"text", b"").expect("encrypts");
        let mut second = two.open().expect("opens");
        drop(first);
        drop(one);
        assert_eq!(decrypt(&mut *second, "foo", &sealed, b""), Ok(b"text".to_vec()));
        let clash = Settings { initialize_parameters: Some("other".to_owned()), ..settings() };
        assert!(detail(&Pkcs11Engine::new(clash).expect("made").open().err().expect("a clash")).contains("other initialize_parameters"));
    }
}

own_process! {
    fn an_hsm_that_is_not_there_at_first_is_found_later(directory) {
        // A path that appears later.
        let module = directory.join("module.so");
        let engine = Pkcs11Engine::new(Settings { module: module.clone(), ..settings() }).expect("made");
        assert!(detail(&engine.open().err().expect("no module")).contains("module.so"));
        assert!(engine.info().is_err());
        // Not a library at all, and a library that is no PKCS#11 module.
        std::fs::write(&module, "text").expect("written");
        assert!(engine.open().is_err());
        std::fs::remove_file(&module).expect("removed");
        std::os::unix::fs::symlink(softhsm::module(), &module).expect("linked");
        // The module is there, the token is not.
        assert!(detail(&engine.open().err().expect("no token")).contains("token \"xks\" not found"));
        let token = softhsm::new_token(&Pkcs11::new(softhsm::module()).expect("loads"), "xks");
        token.make_key("foo", 32, &[]);
        encrypt(&mut *engine.open().expect("opens"), "foo", b"text", b"").expect("encrypts");
        let info = engine.info().expect("there");
        assert_eq!((info.vendor.as_str(), info.token.as_str()), ("SoftHSM project", "xks"));
        assert!(info.model.contains("SoftHSM") && !info.serial.is_empty() && info.versions.starts_with("library 2."), "{info:?}");
    }
}

#[test]
fn settings_do_not_show_the_pin() {
    assert!(!format!("{:?}", settings()).contains(PIN));
    let nul = Settings { initialize_parameters: Some("a\0b".to_owned()), ..settings() };
    assert!(Pkcs11Engine::new(nul).is_err());
}
