//! The message interface of PKCS#11 3.0, well behaved and not: with a module made for it out of
//! SoftHSM.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::engines::settings;
use crate::jobs::*;
use test_harness::{own_process, softhsm};
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile, Settings};
use xksd::key_manager::{Engine, Fault, Session};

/// The module, which behaves so, with a token that has the keys foo and bar.
struct Module {
    library: libloading::Library,
    engine: Arc<Pkcs11Engine>,
}

fn module(directory: &Path, behaves: &str) -> Module {
    // SAFETY: the test's own process, which has one thread that reads or writes the environment.
    unsafe { std::env::set_var("MESSAGES", behaves) };
    let path = directory.join("messages.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hsm/messages_module/module.c");
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
    // SAFETY: it runs no code when it is loaded.
    let library = unsafe { libloading::Library::new(&path) }.expect("loads");
    let token = softhsm::new_token(&softhsm::load_from(&path), "xks");
    for label in ["foo", "bar"] {
        token.make_key(label, 32, &[]);
    }
    let engine =
        Pkcs11Engine::new(Settings { module: path, profile: Profile::Kryoptic, ..settings() })
            .expect("made");
    Module { library, engine }
}

impl Module {
    /// Classic calls and calls of the message interface, since it was loaded.
    fn calls(&self) -> [u64; 2] {
        // SAFETY: the module has a variable of this name and type, written by calls of this thread
        // alone.
        unsafe { **self.library.get::<*const [u64; 2]>(b"calls\0").expect("there") }
    }

    fn calls_of(&self, what: impl FnOnce()) -> [u64; 2] {
        let before = self.calls();
        what();
        let after = self.calls();
        [after[0] - before[0], after[1] - before[1]]
    }
}

fn encrypts(session: &mut dyn Session, label: &str, times: usize) {
    for _ in 0..times {
        encrypt_checked(session, label, b"text", b"aad", b"").expect("encrypts");
    }
}

own_process! {
    fn a_checked_encryption_costs_two_calls(directory) {
        let module = module(directory, "good");
        let mut session = module.engine.open().expect("opens");
        encrypts(&mut *session, "foo", 1);
        assert_eq!(module.calls_of(|| encrypts(&mut *session, "foo", 50)), [0, 100]);
        // Another key, now and then: the classic calls. Often: it is begun with that.
        assert_eq!(module.calls_of(|| encrypts(&mut *session, "bar", 1)), [4, 0]);
        assert_eq!(module.calls_of(|| encrypts(&mut *session, "foo", 1)), [0, 2]);
        encrypts(&mut *session, "bar", 6);
        assert_eq!(module.calls_of(|| encrypts(&mut *session, "bar", 50)), [0, 100]);
        good_and_bad_ciphertexts(&mut *session, "foo");
        // What one way made, the other opens.
        let sealed = encrypt(&mut *session, "foo", b"text", b"aad").expect("encrypts");
        assert_eq!(decrypt(&mut *module.engine.open().expect("opens"), "foo", &sealed, b"aad"), Ok(b"text".to_vec()));
        assert!(session.is_usable());
        // What the first session has shown, the next ones need not.
        assert_eq!(module.calls_of(|| drop(module.engine.open().expect("opens"))), [0, 0]);
    }
}

/// Nothing is noticed of the message interface, and nothing of it is used.
fn classic_calls_do(directory: &Path, behaves: &str) {
    let module = module(directory, behaves);
    let mut session = module.engine.open().expect("opens");
    assert_eq!(module.calls_of(|| encrypts(&mut *session, "foo", 10)), [40, 0]);
    good_and_bad_ciphertexts(&mut *session, "foo");
    // And it is not tried again.
    assert_eq!(module.calls_of(|| drop(module.engine.open().expect("opens"))), [0, 0]);
}

own_process! {
    fn a_module_with_one_operation_a_session(directory) {
        classic_calls_do(directory, "one");
    }
}

own_process! {
    fn a_module_that_encrypts_messages_wrongly(directory) {
        classic_calls_do(directory, "wrong");
    }
}

own_process! {
    fn the_interface_of_another_library(directory) {
        classic_calls_do(directory, "foreign");
    }
}

own_process! {
    fn a_module_that_misbehaves_later(directory) {
        let module = module(directory, "tires");
        let mut session = module.engine.open().expect("opens");
        let fault = (0..100).find_map(|_| encrypt_checked(&mut *session, "foo", b"text", b"aad", b"").err()).expect("tires");
        assert!(matches!(&fault, Fault::Device { detail } if detail.ends_with("Message: CKR_OPERATION_NOT_INITIALIZED")), "{fault:?}");
        assert!(!session.is_usable());
        let mut session = module.engine.open().expect("opens");
        assert_eq!(module.calls_of(|| encrypts(&mut *session, "foo", 10)), [40, 0]);
    }
}
