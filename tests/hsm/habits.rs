//! Modules with habits that SoftHSM does not have: SoftHSM behind a module that gives it them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::engines::settings;
use crate::jobs::*;
use test_harness::{Token, own_process, softhsm};
use xksd::key_manager::pkcs11::{Pkcs11Engine, Settings};
use xksd::key_manager::{Engine, Fault};

/// An engine over a module with these habits, whose token has the key foo.
fn engine(directory: &Path, habits: &str) -> (Token, Arc<Pkcs11Engine>) {
    // SAFETY: the test's own process, which has one thread that reads or writes the environment.
    unsafe { std::env::set_var("HABITS", habits) };
    let path = directory.join("habits.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hsm/habits_module/module.c");
    // The C compiler is there: rustc links with it.
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&path)
        .arg(format!("-DSOFTHSM=\"{}\"", softhsm::module().display()))
        .arg(source)
        .arg("-ldl")
        .output()
        .expect("cc runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let token = softhsm::new_token(&softhsm::load(), "xks");
    token.make_key("foo", 32, &[]);
    (token, Pkcs11Engine::new(Settings { module: path, ..settings() }).expect("made"))
}

own_process! {
    fn a_time_that_is_none_keeps_nobody_out(directory) {
        let (_token, engine) = engine(directory, "no-time");
        let mut session = engine.open().expect("opens");
        good_and_bad_ciphertexts(&mut *session, "foo");
        let info = engine.info().expect("told");
        assert_eq!((info.token.as_str(), info.model.as_str()), ("xks", "SoftHSM v2"));
    }
}

own_process! {
    fn handles_without_end_are_a_fault_and_take_no_memory(directory) {
        let (_token, engine) = engine(directory, "endless");
        let before = resident_bytes();
        let Err(Fault::Device { detail }) = engine.list() else { panic!("believed") };
        assert!(detail.contains("more than 100000 keys"), "{detail}");
        let mut session = engine.open().expect("opens");
        let Err(Fault::KeyNotFound { detail }) = describe(&mut *session, "foo") else { panic!("one key") };
        assert!(detail.contains("16 or more secret keys labelled \"foo\""), "{detail}");
        // 8 bytes for each of 100,000, where there was no end.
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 16 << 20, "{grown} bytes");
        assert!(session.is_usable());
    }
}

own_process! {
    fn a_login_that_shows_keys_late_is_waited_for_by_all(directory) {
        let (token, engine) = engine(directory, "late-keys");
        // The token's own session would keep the login.
        drop(token);
        std::thread::scope(|scope| {
            for delay in [0, 100, 200, 300] {
                let engine = &engine;
                scope.spawn(move || {
                    std::thread::sleep(Duration::from_millis(delay));
                    let mut session = engine.open().expect("opens");
                    assert!(describe(&mut *session, "foo").is_ok(), "{delay}");
                });
            }
        });
    }
}

/// Of this process.
fn resident_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}
