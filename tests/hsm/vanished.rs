//! Keys that are out of sight: SoftHSM whose token directory is moved away and put back, and keys
//! that were deleted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::engines::engine;
use crate::jobs::*;
use test_harness::{Token, own_process, softhsm};
use xksd::key_manager::pkcs11::Pkcs11Engine;
use xksd::key_manager::{Engine, Fault, Session, Task};
use xksd::limits::KEY_REFUSAL_AGE_MAX;

const PATIENCE: Duration = Duration::from_secs(60);

/// The one token's own directory.
fn token_directory(directory: &Path) -> PathBuf {
    let mut entries = std::fs::read_dir(directory.join("tokens")).expect("there");
    entries.next().expect("a token").expect("readable").path()
}

/// The fault of a description that must fail, and not for want of the key.
fn out_of_sight(session: &mut dyn Session, label: &str) -> String {
    match describe(session, label) {
        Err(Fault::Device { detail }) => detail,
        other => panic!("{other:?}"),
    }
}

/// Opens until it works.
fn open_at_last(engine: &Pkcs11Engine) -> Box<dyn Session> {
    let start = Instant::now();
    loop {
        match engine.open() {
            Ok(session) => return session,
            Err(fault) => assert!(
                matches!(fault, Fault::Device { .. }) && start.elapsed() < PATIENCE,
                "{fault:?}"
            ),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// While `path` is away, keys are out of sight and never missing; once it is back, they are found
/// without a restart.
fn heals_after(directory: &Path, path: fn(&Path) -> PathBuf) {
    let token = softhsm::new_token(&softhsm::load(), "xks");
    token.make_key("foo", 32, &[]);
    let engine = engine();
    let mut sessions = [engine.open().expect("opens"), engine.open().expect("opens")];
    let sealed = encrypt_checked(&mut *sessions[0], "foo", b"text", b"aad", b"").expect("encrypts");
    let (path, away) = (path(directory), directory.join("away"));
    for round in 0..2 {
        std::fs::rename(&path, &away).expect("moved away");
        let fault = encrypt_checked(&mut *sessions[0], "foo", b"text", b"aad", b"")
            .expect_err("its key is away");
        assert!(
            detail(&fault).contains("the token shows no secret key at all, where it had some"),
            "{fault:?}"
        );
        // The other one need not find it out for itself, and one that was never asked for is as
        // much out of sight.
        let other = &mut *sessions[1];
        assert!(!other.check() && !sessions[0].is_usable());
        assert!(out_of_sight(&mut *sessions[1], "foo").contains("no secret key at all"));
        assert!(out_of_sight(&mut *sessions[1], "bar").contains("no secret key at all"));
        if round == 0 {
            // A session that lives keeps the library as it is: others get the same answer.
            let fault = engine.open().err().expect("no use");
            assert!(
                detail(&fault).contains("no secret key at all, where it had some"),
                "{fault:?}"
            );
        }
        drop(sessions);
        // By now the library is initialised again, and does not find the token.
        let deadline = Instant::now() + Duration::from_secs(7);
        while Instant::now() < deadline {
            assert!(matches!(engine.open().err(), Some(Fault::Device { .. })));
            std::thread::sleep(Duration::from_millis(50));
        }
        std::fs::rename(&away, &path).expect("put back");
        let mut session = open_at_last(&engine);
        assert_eq!(
            decrypt(&mut *session, "foo", &sealed, b"aad"),
            Ok(b"text".to_vec()),
            "round {round}"
        );
        encrypt_checked(&mut *session, "foo", b"text", b"aad", b"").expect("encrypts");
        session.execute(job("", Task::Probe)).expect("healthy");
        assert!(matches!(describe(&mut *session, "bar"), Err(Fault::KeyNotFound { .. })));
        sessions = [session, engine.open().expect("opens")];
    }
}

own_process! {
    fn a_token_directory_that_was_away_is_found_again(directory) {
        heals_after(directory, token_directory);
    }
}

own_process! {
    fn so_is_the_directory_of_all_tokens(directory) {
        heals_after(directory, |directory| directory.join("tokens"));
    }
}

own_process! {
    fn a_token_that_was_away_while_nobody_looked_is_found_at_once(directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        let sealed = encrypt(&mut *session, "foo", b"text", b"aad").expect("encrypts");
        let (path, away) = (token_directory(directory), directory.join("away"));
        // A probe looks for keys, whatever it can do with its own.
        std::fs::rename(&path, &away).expect("moved away");
        let fault = session.execute(job("", Task::Probe)).expect_err("no keys");
        assert!(detail(&fault).contains("no secret key at all") && !session.is_usable(), "{fault:?}");
        std::fs::rename(&away, &path).expect("put back");
        drop(session);
        let mut session = open_at_last(&engine);
        assert_eq!(decrypt(&mut *session, "foo", &sealed, b"aad"), Ok(b"text".to_vec()));
    }
}

own_process! {
    fn one_key_of_several_that_is_missing_was_deleted(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        token.make_key("bar", 32, &[]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        for label in ["foo", "bar"] {
            encrypt(&mut *session, label, b"text", b"").expect("encrypts");
        }
        token.delete_key("foo");
        for _ in 0..3 {
            let fault = encrypt(&mut *session, "foo", b"text", b"").expect_err("deleted");
            assert!(matches!(fault, Fault::KeyNotFound { .. }) && session.is_usable(), "{fault:?}");
            encrypt(&mut *session, "bar", b"text", b"").expect("is still there");
            session.execute(job("", Task::Probe)).expect("healthy");
        }
    }
}

own_process! {
    fn the_only_key_is_believed_to_be_deleted_once_a_fresh_library_says_so(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
        token.delete_key("foo");
        assert!(out_of_sight(&mut *session, "foo").contains("no secret key at all"));
        drop(session);
        let mut session = open_at_last(&engine);
        for _ in 0..3 {
            let fault = encrypt(&mut *session, "foo", b"text", b"").expect_err("deleted");
            assert!(matches!(fault, Fault::KeyNotFound { .. }) && session.is_usable(), "{fault:?}");
            session.execute(job("", Task::Probe)).expect("healthy");
        }
        // By the first initialisation that it lives through, SoftHSM gives a token another slot.
        let slot = token.pkcs11.get_slots_with_initialized_token().expect("slots")[0];
        Token { slot, ..token }.make_key("foo", 32, &[]);
        std::thread::sleep(KEY_REFUSAL_AGE_MAX);
        encrypt(&mut *session, "foo", b"text", b"").expect("is there again");
    }
}

own_process! {
    fn a_token_that_never_had_keys_has_none(_directory) {
        let _token = softhsm::new_token(&softhsm::load(), "xks");
        let engine = engine();
        let mut session = engine.open().expect("opens");
        for _ in 0..3 {
            let fault = encrypt(&mut *session, "foo", b"text", b"").expect_err("there is none");
            assert!(detail(&fault).starts_with("no secret key labelled \"foo\"") && matches!(fault, Fault::KeyNotFound { .. }), "{fault:?}");
            session.execute(job("", Task::Probe)).expect("healthy");
        }
        assert!(session.is_usable());
    }
}

own_process! {
    fn a_token_beside_keeps_the_library_and_serves_on(directory) {
        let pkcs11 = softhsm::load();
        let one = softhsm::new_token(&pkcs11, "xks");
        let path = token_directory(directory);
        one.make_key("foo", 32, &[]);
        let other = softhsm::new_token(&pkcs11, "other");
        other.make_key("foo", 32, &[]);
        let label = xksd::key_manager::pkcs11::TokenSelector::Label("other".to_owned());
        let token = Pkcs11Engine::new(xksd::key_manager::pkcs11::Settings { token: label, ..crate::engines::settings() }).expect("made");
        let engine = engine();
        let (mut session, mut well) = (engine.open().expect("opens"), token.open().expect("opens"));
        for session in [&mut session, &mut well] {
            encrypt(&mut **session, "foo", b"text", b"").expect("encrypts");
        }
        let away = directory.join("away");
        std::fs::rename(&path, &away).expect("moved away");
        out_of_sight(&mut *session, "foo");
        drop(session);
        for _ in 0..20 {
            assert!(matches!(engine.open().err(), Some(Fault::Device { .. })));
            encrypt(&mut *well, "foo", b"text", b"").expect("serves on");
        }
        std::fs::rename(&away, &path).expect("put back");
        drop((well, token));
        let mut session = open_at_last(&engine);
        encrypt(&mut *session, "foo", b"text", b"").expect("is there again");
    }
}
