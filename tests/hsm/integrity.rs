//! Modules that do not compute: what they give in place of ciphertext is never answered.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use cryptoki_sys::*;
use test_harness::{Token, own_process, raw, softhsm};
use xksd::key_manager::pkcs11::{Pkcs11Engine, Settings};
use xksd::key_manager::{Engine, Fault, Session};
use xksd::limits::SELF_TEST_INTERVAL;

use crate::engines::settings;
use crate::jobs::*;

/// What the module does in place of encrypting and decrypting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Module {
    /// Computes.
    Honest,
    /// Writes nothing and calls that success.
    Nothing,
    /// Gives what it was given, with a tag of this byte.
    Echo(u8),
    /// Encrypts, and refuses every decryption with the code.
    RefusesDecryptions(CK_RV),
    /// Spoils one of so many ciphertexts.
    SpoilsOneOf(u32),
}

const TAG: CK_ULONG = 16;

static OWN: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();
static MODULE: Mutex<Module> = Mutex::new(Module::Honest);
static ENCRYPTIONS: AtomicU32 = AtomicU32::new(0);

fn module() -> Module {
    *MODULE.lock().expect("not poisoned")
}

fn become_(module: Module) {
    *MODULE.lock().expect("not poisoned") = module;
}

// SAFETY, of both: PKCS#11 functions, called with what xksd gives the module; buffers are touched
// within the lengths that come with them.

unsafe extern "C" fn c_encrypt(
    session: CK_SESSION_HANDLE,
    data: *mut u8,
    length: CK_ULONG,
    out: *mut u8,
    room: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: see above. It is called for its ending the operation.
    unsafe {
        let code =
            OWN.get().expect("there").C_Encrypt.expect("there")(session, data, length, out, room);
        let number = ENCRYPTIONS.fetch_add(1, SeqCst);
        match module() {
            Module::Nothing => std::ptr::write_bytes(out, 0, (length + TAG) as usize),
            Module::Echo(tag) => {
                std::ptr::copy_nonoverlapping(data, out, length as usize);
                std::ptr::write_bytes(out.add(length as usize), tag, TAG as usize);
            }
            Module::SpoilsOneOf(n) if number.is_multiple_of(n) => *out ^= 1,
            _ => {}
        }
        code
    }
}

unsafe extern "C" fn c_decrypt(
    session: CK_SESSION_HANDLE,
    data: *mut u8,
    length: CK_ULONG,
    out: *mut u8,
    room: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: see above.
    unsafe {
        let given = *room;
        let code =
            OWN.get().expect("there").C_Decrypt.expect("there")(session, data, length, out, room);
        match module() {
            Module::Nothing | Module::Echo(_) => {
                assert!(given >= length - TAG);
                *room = length - TAG;
                if module() == Module::Nothing {
                    std::ptr::write_bytes(out, 0, *room as usize);
                } else {
                    std::ptr::copy_nonoverlapping(data, out, *room as usize);
                }
                CKR_OK
            }
            Module::RefusesDecryptions(refusal) => refusal,
            _ => code,
        }
    }
}

/// A token with the key foo, and engines on it.
fn ready() -> Token {
    let functions = raw::intercept(&softhsm::module(), |list| {
        list.C_Encrypt = Some(c_encrypt);
        list.C_Decrypt = Some(c_decrypt);
    });
    assert!(OWN.set(functions).is_ok());
    let token = softhsm::new_token(&softhsm::load(), "xks");
    token.make_key("foo", 32, &[]);
    token
}

fn engine(verify_encryptions: bool) -> Arc<Pkcs11Engine> {
    Pkcs11Engine::new(Settings { verify_encryptions, ..settings() }).expect("made")
}

fn is_integrity_fault(fault: &Fault) -> bool {
    matches!(fault, Fault::Device { detail } if detail.contains("integrity check"))
}

/// Once the module is honest again, and has shown it.
fn serves_again(engine: &Pkcs11Engine, session: &mut Box<dyn Session>) {
    let start = Instant::now();
    while encrypt(&mut **session, "foo", b"text", b"").is_err() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(SELF_TEST_INTERVAL / 10);
        if !session.is_usable() {
            *session = engine.open().expect("opens");
        }
    }
}

own_process! {
    fn what_is_no_ciphertext_is_never_answered(_directory) {
        let _token = ready();
        for fake in [Module::Nothing, Module::Echo(0), Module::Echo(0xa5)] {
            for verify_encryptions in [true, false] {
                for text in [&[0; 32][..], &[7; 32], &[0; 4300], &[7; 16], &[0], &[7], &[7; 15]] {
                    become_(Module::Honest);
                    let engine = engine(verify_encryptions);
                    let mut session = engine.open().expect("opens");
                    encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
                    become_(fake);
                    let told = format!("{fake:?}, {verify_encryptions}, {} bytes", text.len());
                    let fault = encrypt(&mut *session, "foo", text, b"aad").expect_err(&told);
                    assert!(is_integrity_fault(&fault), "{told}: {fault:?}");
                    // From then on nothing else either, in no session.
                    let mut session = engine.open().expect("opens");
                    for _ in 0..20 {
                        assert!(encrypt(&mut *session, "foo", text, b"").is_err(), "{told}");
                        assert!(encrypt_checked(&mut *session, "foo", text, b"", b"").is_err(), "{told}");
                        if !session.is_usable() {
                            session = engine.open().expect("opens");
                        }
                    }
                    assert!(engine.open().expect("opens").probe().is_err(), "{told}");
                }
            }
        }
        become_(Module::Honest);
        let engine = engine(true);
        let mut session = engine.open().expect("opens");
        // A byte encrypts to itself once in 256 times, which says nothing against the HSM.
        for n in 0..3000_u32 {
            encrypt(&mut *session, "foo", &n.to_le_bytes()[..1], b"").expect("honest");
        }
        assert!(session.is_usable());
    }
}

own_process! {
    fn an_hsm_that_does_not_decrypt_what_it_encrypts_is_not_used(_directory) {
        let _token = ready();
        for code in [CKR_GENERAL_ERROR, CKR_ENCRYPTED_DATA_INVALID] {
            become_(Module::Honest);
            let engine = engine(false);
            let mut session = engine.open().expect("opens");
            let kept = encrypt(&mut *session, "foo", b"kept", b"").expect("encrypts");
            become_(Module::RefusesDecryptions(code));
            // Nobody asked for a proof yet, and it was not to be had of each.
            encrypt(&mut *session, "foo", b"lost", b"").expect("encrypts");
            let fault = encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect_err("caught");
            assert!(is_integrity_fault(&fault), "{fault:?}");
            let mut session = engine.open().expect("opens");
            for _ in 0..100 {
                assert!(encrypt(&mut *session, "foo", b"lost", b"").is_err());
                assert!(decrypt(&mut *session, "foo", &kept, b"").is_err());
                if !session.is_usable() {
                    session = engine.open().expect("opens");
                }
            }
            become_(Module::Honest);
            serves_again(&engine, &mut session);
            assert_eq!(decrypt(&mut *session, "foo", &kept, b""), Ok(b"kept".to_vec()));
        }
    }
}

own_process! {
    fn a_ciphertext_that_is_spoiled_is_not_answered_also_without_an_integrity_value(_directory) {
        let _token = ready();
        let engine = engine(true);
        let mut session = engine.open().expect("opens");
        become_(Module::SpoilsOneOf(50));
        let (mut answered, mut refused) = (Vec::new(), 0);
        let start = Instant::now();
        while answered.len() < 150 {
            match encrypt(&mut *session, "foo", b"text", b"") {
                Ok(sealed) => answered.push(sealed),
                Err(_) => {
                    refused += 1;
                    if !session.is_usable() {
                        session = engine.open().expect("opens");
                    }
                    std::thread::sleep(SELF_TEST_INTERVAL / 20);
                }
            }
            assert!(start.elapsed() < Duration::from_secs(120));
        }
        assert!(refused > 0);
        become_(Module::Honest);
        serves_again(&engine, &mut session);
        for sealed in &answered {
            assert_eq!(decrypt(&mut *session, "foo", sealed, b""), Ok(b"text".to_vec()));
        }
    }
}

own_process! {
    fn one_that_was_caught_is_verified_also_where_that_was_not_wanted(_directory) {
        let _token = ready();
        let engine = engine(false);
        let mut session = engine.open().expect("opens");
        become_(Module::SpoilsOneOf(1));
        assert!(encrypt_checked(&mut *session, "foo", b"text", b"", b"").is_err());
        become_(Module::Honest);
        let mut session = engine.open().expect("opens");
        serves_again(&engine, &mut session);
        become_(Module::SpoilsOneOf(1));
        assert!(is_integrity_fault(&encrypt(&mut *session, "foo", b"text", b"").expect_err("verified")));
    }
}
