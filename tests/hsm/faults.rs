//! The PKCS#11 key manager with a module that misbehaves: SoftHSM, with functions of this test in
//! front of SoftHSM's.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::engines::{engine, secret, settings};
use crate::jobs::*;
use cryptoki::object::Attribute;
use cryptoki_sys::*;
use ring::digest;

use test_harness::{Token, own_process, raw, softhsm};
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile, Settings};
use xksd::key_manager::{Answer, Engine, Fault, Job, KeyRef, Session, Task};
use xksd::limits::{INITIALIZE_INTERVAL, IV_BLOCK, SELF_TEST_INTERVAL, SELF_TEST_ROUND_TRIPS};
use zeroize::Zeroizing;

/// What goes wrong from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trick {
    None,
    /// The call named returns the code without being made.
    Code(&'static str, CK_RV),
    /// C_Decrypt returns the code without being made where its number since the trick began is set
    /// among these bits.
    Decrypts(u64, CK_RV),
    /// The call named is made, and returns the code all the same.
    After(&'static str, CK_RV),
    /// C_Encrypt: ciphertext with a changed bit.
    Ciphertext,
    /// C_Encrypt: tag with a changed bit.
    Tag,
    /// C_Encrypt: says that it appended 16 bytes more.
    Appended,
    /// C_EncryptInit: another IV in the parameters.
    OwnIv,
    /// C_Decrypt: plaintext with a changed bit.
    Plaintext,
    /// C_Decrypt: plaintext short of a byte.
    Short,
    /// C_Decrypt: changes its input, and gives the right plaintext.
    Input,
    /// C_GenerateRandom: the same byte all over.
    Constant(u8),
    /// C_GenerateRandom: what it gave before.
    Again,
    /// C_Encrypt takes longer than the job has.
    Slow,
}

static OWN: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();
static TRICK: Mutex<Trick> = Mutex::new(Trick::None);
static CALLS: AtomicUsize = AtomicUsize::new(0);
/// Of C_Decrypt, since the trick began.
static DECRYPTS: AtomicUsize = AtomicUsize::new(0);
static LOGINS: AtomicUsize = AtomicUsize::new(0);
/// Sessions opened since the test last looked: all, and read/write ones.
static OPENED: AtomicUsize = AtomicUsize::new(0);
static OPENED_READ_WRITE: AtomicUsize = AtomicUsize::new(0);
static RANDOM: AtomicU64 = AtomicU64::new(0);

fn own() -> &'static CK_FUNCTION_LIST {
    OWN.get().expect("intercepted")
}

fn trick() -> Trick {
    *TRICK.lock().expect("not poisoned")
}

fn play(new: Trick) {
    *TRICK.lock().expect("not poisoned") = new;
    DECRYPTS.store(0, SeqCst);
}

/// The code that `call` is to return instead of being made.
fn refused(call: &str) -> Option<CK_RV> {
    CALLS.fetch_add(1, SeqCst);
    match trick() {
        Trick::Code(which, code) if which == call => Some(code),
        _ => None,
    }
}

fn after(call: &str, code: CK_RV) -> CK_RV {
    match trick() {
        Trick::After(which, other) if which == call => other,
        _ => code,
    }
}

// SAFETY, of all that follow: PKCS#11 functions, called with what xksd gives the module and handing
// it on to the module's own; buffers are touched within the lengths that come with them.

unsafe extern "C" fn c_encrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    if let Some(code) = refused("EncryptInit") {
        return code;
    }
    // SAFETY: see above; AES-GCM's parameters are CK_GCM_PARAMS.
    unsafe {
        let code = own().C_EncryptInit.expect("there")(session, mechanism, key);
        if trick() == Trick::OwnIv {
            *(*(*mechanism).pParameter.cast::<CK_GCM_PARAMS>()).pIv ^= 1;
        }
        after("EncryptInit", code)
    }
}

unsafe extern "C" fn c_encrypt(
    session: CK_SESSION_HANDLE,
    data: *mut u8,
    length: CK_ULONG,
    out: *mut u8,
    room: *mut CK_ULONG,
) -> CK_RV {
    if let Some(code) = refused("Encrypt") {
        return code;
    }
    // SAFETY: see above.
    unsafe {
        let code = own().C_Encrypt.expect("there")(session, data, length, out, room);
        match trick() {
            Trick::Ciphertext => *out ^= 1,
            Trick::Tag => *out.add(*room as usize - 1) ^= 1,
            Trick::Appended => *room += 16,
            Trick::Slow => std::thread::sleep(Duration::from_millis(1200)),
            _ => {}
        }
        after("Encrypt", code)
    }
}

unsafe extern "C" fn c_decrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: see above.
    refused("DecryptInit")
        .unwrap_or_else(|| unsafe { own().C_DecryptInit.expect("there")(session, mechanism, key) })
}

unsafe extern "C" fn c_decrypt(
    session: CK_SESSION_HANDLE,
    data: *mut u8,
    length: CK_ULONG,
    out: *mut u8,
    room: *mut CK_ULONG,
) -> CK_RV {
    if let Some(code) = refused("Decrypt") {
        return code;
    }
    let number = DECRYPTS.fetch_add(1, SeqCst);
    if let Trick::Decrypts(failing, code) = trick()
        && failing >> number & 1 == 1
    {
        // As a module does: the operation is over.
        let mut nothing = [0; 4096];
        let mut room = nothing.len() as CK_ULONG;
        // SAFETY: see above; what it decrypts to is thrown away.
        unsafe {
            own().C_Decrypt.expect("there")(session, data, length, nothing.as_mut_ptr(), &mut room)
        };
        return code;
    }
    // SAFETY: see above. xksd's own buffer is changed as a failing memory would.
    unsafe {
        let code = own().C_Decrypt.expect("there")(session, data, length, out, room);
        match trick() {
            Trick::Plaintext => *out ^= 1,
            Trick::Short => *room -= 1,
            Trick::Input => *data ^= 1,
            _ => {}
        }
        after("Decrypt", code)
    }
}

unsafe extern "C" fn c_generate_random(
    session: CK_SESSION_HANDLE,
    out: *mut u8,
    length: CK_ULONG,
) -> CK_RV {
    if let Some(code) = refused("GenerateRandom") {
        return code;
    }
    // SAFETY: see above.
    unsafe {
        match trick() {
            Trick::Constant(byte) => std::ptr::write_bytes(out, byte, length as usize),
            Trick::Again => {
                // A generator that starts from the same state each time it is asked.
                let mut state = RANDOM.load(SeqCst) | 1;
                for n in 0..length as usize {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    *out.add(n) = (state >> 33) as u8;
                }
            }
            _ => return own().C_GenerateRandom.expect("there")(session, out, length),
        }
    }
    CKR_OK
}

unsafe extern "C" fn c_find_objects_init(
    session: CK_SESSION_HANDLE,
    template: *mut CK_ATTRIBUTE,
    length: CK_ULONG,
) -> CK_RV {
    // SAFETY: see above.
    refused("FindObjectsInit").unwrap_or_else(|| unsafe {
        own().C_FindObjectsInit.expect("there")(session, template, length)
    })
}

unsafe extern "C" fn c_get_attribute_value(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    length: CK_ULONG,
) -> CK_RV {
    // SAFETY: see above.
    refused("GetAttributeValue").unwrap_or_else(|| unsafe {
        own().C_GetAttributeValue.expect("there")(session, object, template, length)
    })
}

unsafe extern "C" fn c_generate_key(
    session: CK_SESSION_HANDLE,
    mechanism: *mut CK_MECHANISM,
    template: *mut CK_ATTRIBUTE,
    length: CK_ULONG,
    key: *mut CK_OBJECT_HANDLE,
) -> CK_RV {
    // SAFETY: see above.
    refused("GenerateKey").unwrap_or_else(|| unsafe {
        own().C_GenerateKey.expect("there")(session, mechanism, template, length, key)
    })
}

unsafe extern "C" fn c_login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: *mut u8,
    length: CK_ULONG,
) -> CK_RV {
    LOGINS.fetch_add(1, SeqCst);
    // SAFETY: see above.
    refused("Login")
        .unwrap_or_else(|| unsafe { own().C_Login.expect("there")(session, user, pin, length) })
}

unsafe extern "C" fn c_initialize(args: *mut std::ffi::c_void) -> CK_RV {
    // SAFETY: see above.
    refused("Initialize").unwrap_or_else(|| unsafe { own().C_Initialize.expect("there")(args) })
}

unsafe extern "C" fn c_open_session(
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut std::ffi::c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> CK_RV {
    OPENED.fetch_add(1, SeqCst);
    OPENED_READ_WRITE.fetch_add(usize::from(flags & CKF_RW_SESSION != 0), SeqCst);
    // SAFETY: see above.
    refused("OpenSession").unwrap_or_else(|| unsafe {
        own().C_OpenSession.expect("there")(slot, flags, application, notify, session)
    })
}

/// Before anything else loads SoftHSM.
fn intercept() {
    let functions = raw::intercept(&softhsm::module(), |list| {
        list.C_Initialize = Some(c_initialize);
        list.C_OpenSession = Some(c_open_session);
        list.C_Login = Some(c_login);
        list.C_FindObjectsInit = Some(c_find_objects_init);
        list.C_GetAttributeValue = Some(c_get_attribute_value);
        list.C_GenerateKey = Some(c_generate_key);
        list.C_GenerateRandom = Some(c_generate_random);
        list.C_EncryptInit = Some(c_encrypt_init);
        list.C_Encrypt = Some(c_encrypt);
        list.C_DecryptInit = Some(c_decrypt_init);
        list.C_Decrypt = Some(c_decrypt);
    });
    assert!(OWN.set(functions).is_ok());
}

/// A token with the key foo, and a session that has found it.
fn ready(profile: Profile) -> (Arc<Pkcs11Engine>, Box<dyn Session>, Token) {
    intercept();
    let token = softhsm::new_token(&softhsm::load(), "xks");
    token.make_key("foo", 32, &[]);
    let engine = Pkcs11Engine::new(Settings { profile, ..settings() }).expect("made");
    let mut session = engine.open().expect("opens");
    encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("encrypts");
    (engine, session, token)
}

/// The fault of a CDIV encryption while `new` is played, on a new session; and whether that
/// is usable afterwards.
fn encrypting_with(engine: &Pkcs11Engine, new: Trick) -> (Fault, bool) {
    play(Trick::None);
    let mut session = engine.open().expect("opens");
    encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("encrypts");
    play(new);
    let fault = encrypt_checked(&mut *session, "foo", b"text", b"aad", b"").expect_err("fails");
    play(Trick::None);
    (fault, session.is_usable())
}

own_process! {
    fn what_does_not_decrypt_to_what_it_was_never_gets_an_integrity_value(_directory) {
        let (_engine, _session, _token) = ready(Profile::SoftHsm);
        for (trick, says) in [
            (Trick::Ciphertext, "does not decrypt: C_Decrypt: CKR_GENERAL_ERROR"),
            (Trick::Tag, "does not decrypt: C_Decrypt: CKR_GENERAL_ERROR"),
            (Trick::Plaintext, "decrypts to something else"),
            (Trick::Short, "decrypts to something else"),
            (Trick::Appended, "C_Encrypt: 36 bytes instead of 20"),
            (Trick::OwnIv, "C_Encrypt: the module put in its own IV"),
            (Trick::Code("Decrypt", CKR_ENCRYPTED_DATA_INVALID), "does not decrypt: C_Decrypt: \
                CKR_ENCRYPTED_DATA_INVALID"),
            (Trick::Code("Decrypt", CKR_DEVICE_ERROR), "C_Decrypt: CKR_DEVICE_ERROR"),
        ] {
            // Each its own, which has not caught the HSM yet.
            let engine = Pkcs11Engine::new(Settings { profile: Profile::SoftHsm, ..settings() }).expect("made");
            let (fault, usable) = encrypting_with(&engine, trick);
            assert!(matches!(fault, Fault::Device { .. }) && detail(&fault).contains(says), "{trick:?}: {fault:?}");
            assert!(!usable, "{trick:?}");
        }
    }
}

own_process! {
    fn the_integrity_value_is_computed_before_the_decryption(_directory) {
        let (_engine, mut session, _token) = ready(Profile::SoftHsm);
        play(Trick::Input);
        let task = Task::Encrypt {
            plaintext: Zeroizing::new(b"text".to_vec()),
            aad: vec![],
            integrity: Some(digest::Context::new(&digest::SHA256)),
        };
        let Ok(Answer::Encrypted { iv, mut ciphertext, tag, integrity }) = session.execute(job("foo", task)) else {
            panic!("the module gave the right plaintext");
        };
        // What was changed while it was decrypted does not have that value, and KMS sees it.
        let value = |ciphertext: &[u8]| digest::digest(&digest::SHA256, &[&iv, ciphertext, &tag].concat());
        assert_ne!(integrity.expect("asked for"), value(&ciphertext).as_ref());
        ciphertext[0] ^= 1;
        assert_eq!(integrity.expect("asked for"), value(&ciphertext).as_ref());
    }
}

own_process! {
    fn codes_become_faults(_directory) {
        let (_engine, _session, _token) = ready(Profile::SoftHsm);
        let device = |text: &str| Fault::Device { detail: text.to_owned() };
        for (call, code, fault, usable) in [
            ("EncryptInit", CKR_DEVICE_ERROR, device("C_EncryptInit: CKR_DEVICE_ERROR"), false),
            ("EncryptInit", CKR_OPERATION_ACTIVE, device("C_EncryptInit: CKR_OPERATION_ACTIVE"), false),
            ("EncryptInit", CKR_USER_NOT_LOGGED_IN, device("C_EncryptInit: CKR_USER_NOT_LOGGED_IN"), false),
            ("EncryptInit", CKR_TOKEN_NOT_PRESENT, device("C_EncryptInit: CKR_TOKEN_NOT_PRESENT"), false),
            ("EncryptInit", CKR_KEY_FUNCTION_NOT_PERMITTED, Fault::KeyRefused {
                detail: "key \"foo\": C_EncryptInit: CKR_KEY_FUNCTION_NOT_PERMITTED".to_owned(),
            }, true),
            ("EncryptInit", CKR_MECHANISM_INVALID, device("C_EncryptInit: CKR_MECHANISM_INVALID"), false),
            ("EncryptInit", CKR_KEY_HANDLE_INVALID, device("C_EncryptInit: CKR_KEY_HANDLE_INVALID"), false),
            ("EncryptInit", CKR_TOKEN_RESOURCE_EXCEEDED, Fault::Busy, true),
            ("Encrypt", CKR_DEVICE_REMOVED, device("C_Encrypt: CKR_DEVICE_REMOVED"), false),
            ("Encrypt", CKR_BUFFER_TOO_SMALL, device("C_Encrypt: CKR_BUFFER_TOO_SMALL"), false),
            ("Encrypt", CKR_ENCRYPTED_DATA_INVALID, device("C_Encrypt: CKR_ENCRYPTED_DATA_INVALID"), false),
            ("Encrypt", CKR_VENDOR_DEFINED + 3, device("C_Encrypt: CKR_VENDOR_DEFINED + 0x3"), false),
            ("DecryptInit", CKR_SESSION_CLOSED, device("C_DecryptInit: CKR_SESSION_CLOSED"), false),
        ] {
            // Each its own, which knows nothing of the key yet.
            let engine = Pkcs11Engine::new(Settings { profile: Profile::SoftHsm, ..settings() }).expect("made");
            assert_eq!(encrypting_with(&engine, Trick::Code(call, code)), (fault, usable), "{call} {code:#x}");
        }
    }
}

own_process! {
    fn an_ambiguous_code_is_settled_by_what_is_known_to_be_good(_directory) {
        let (engine, mut session, token) = ready(Profile::Generic);
        // Which has not caught the HSM.
        let fresh = || Pkcs11Engine::new(Settings { profile: Profile::Generic, ..settings() }).expect("made");
        let sealed = encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("encrypts");
        let mut wrong = sealed.clone();
        wrong.tag[0] ^= 1;
        assert_eq!(decrypt(&mut *session, "foo", &wrong, b""), Err(Fault::BadCiphertext));
        // A module that answers every decryption so is broken, whatever the tag.
        for code in [CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED, CKR_DATA_INVALID] {
            let engine = fresh();
            let mut session = engine.open().expect("opens");
            play(Trick::Decrypts(u64::MAX, code));
            let fault = decrypt(&mut *session, "foo", &sealed, b"").expect_err("fails");
            play(Trick::None);
            assert!(detail(&fault).contains("what was encrypted does not decrypt"), "{fault:?}");
            assert!(!session.is_usable());
        }
        // A key that may encrypt is its own witness; for one that may not, it is the session test
        // key or, where the module makes none, another key that is in use. Without any there is no
        // verdict.
        token.make_key("decrypt-only", 32, &[Attribute::Encrypt(false)]);
        play(Trick::Code("GenerateKey", CKR_MECHANISM_INVALID));
        let without = fresh();
        let mut session = without.open().expect("opens");
        let fault = decrypt(&mut *session, "decrypt-only", &wrong, b"").expect_err("fails");
        assert!(detail(&fault).contains("C_GenerateKey: CKR_MECHANISM_INVALID"), "{fault:?}");
        assert!(without.open().expect("opens").probe().is_err());
        let mut session = without.open().expect("opens");
        for label in ["foo", "decrypt-only"] {
            assert_eq!(decrypt(&mut *session, label, &wrong, b""), Err(Fault::BadCiphertext));
        }
        assert_eq!(without.open().expect("opens").probe(), Ok(()));
        play(Trick::None);
        assert_eq!(decrypt(&mut *engine.open().expect("opens"), "decrypt-only", &wrong, b""), Err(Fault::BadCiphertext));
        // And what is no matter of opinion is asked for twice, and not put to the test but where
        // the HSM was caught saying it of something good.
        for code in [CKR_ENCRYPTED_DATA_INVALID, CKR_AEAD_DECRYPT_FAILED] {
            for (failing, outcome) in [(0b1, Ok(b"text".to_vec())), (0b11, Err(Fault::BadCiphertext))] {
                let engine = fresh();
                let mut session = engine.open().expect("opens");
                play(Trick::Decrypts(failing, code));
                assert_eq!(decrypt(&mut *session, "foo", &sealed, b""), outcome);
                assert!(session.is_usable());
            }
            let mut session = fresh().open().expect("opens");
            play(Trick::After("Decrypt", code));
            assert_eq!(decrypt(&mut *session, "foo", &sealed, b""), Err(Fault::BadCiphertext));
            assert!(session.is_usable());
            // Whoever asks for proof finds out, and from then on nobody is told that.
            assert!(encrypt_checked(&mut *session, "foo", b"text", b"", b"").is_err());
            assert!(!session.is_usable());
            // Said of something good once, which passes.
            let engine = fresh();
            let mut session = engine.open().expect("opens");
            play(Trick::Decrypts(0b1, code));
            encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("the second time");
            play(Trick::After("Decrypt", code));
            let fault = decrypt(&mut *session, "foo", &sealed, b"").expect_err("fails");
            assert!(detail(&fault).contains("what was encrypted does not decrypt"), "{fault:?}");
            let engine = fresh();
            let mut session = engine.open().expect("opens");
            play(Trick::Decrypts(0b1, code));
            encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("the second time");
            play(Trick::Decrypts(0b101, code));
            assert_eq!(decrypt(&mut *session, "foo", &sealed, b""), Ok(b"text".to_vec()));
            play(Trick::None);
            assert_eq!(decrypt(&mut *session, "foo", &wrong, b""), Err(Fault::BadCiphertext));
        }
    }
}

own_process! {
    fn a_verdict_costs_ten_calls_and_more_where_the_hsm_was_caught(_directory) {
        let (_, session, _token) = ready(Profile::Generic);
        drop(session);
        let code = CKR_GENERAL_ERROR;
        // A new engine trusts the HSM; its session has the key, and IVs.
        let fresh = || {
            let engine = Pkcs11Engine::new(Settings { profile: Profile::Generic, ..settings() }).expect("made");
            let mut session = engine.open().expect("opens");
            let sealed = encrypt_checked(&mut *session, "foo", b"text", b"aad", b"").expect("encrypts");
            (engine, session, sealed)
        };
        let asked = |session: &mut dyn Session, sealed: &Sealed, failing| {
            play(Trick::Decrypts(failing, code));
            let before = CALLS.load(SeqCst);
            let outcome = decrypt(session, "foo", sealed, b"aad");
            play(Trick::None);
            (outcome, CALLS.load(SeqCst) - before)
        };
        // Refused twice, then what is known to be good, then refused once more.
        let (_engine, mut session, sealed) = fresh();
        let mut wrong = sealed.clone();
        wrong.tag[0] ^= 1;
        for _ in 0..3 {
            assert_eq!(asked(&mut *session, &wrong, 0), (Err(Fault::BadCiphertext), 10));
        }
        // Faults that pass, and the calls until then.
        for (failing, calls) in [(0b1, 4), (0b11, 10)] {
            let (_engine, mut session, sealed) = fresh();
            assert_eq!(asked(&mut *session, &sealed, failing), (Ok(b"text".to_vec()), calls));
            assert!(session.is_usable());
            // From now on it is doubted: each repetition is preceded by what is known to be good.
            assert_eq!(asked(&mut *session, &wrong, 0), (Err(Fault::BadCiphertext), 24));
        }
        // What is known to be good fails, whatever the ciphertext.
        for ciphertext in [&sealed, &wrong] {
            let (_engine, mut session, _) = fresh();
            let (outcome, calls) = asked(&mut *session, ciphertext, 0b111);
            // A round trip after it is well: the session stays.
            assert!(matches!(outcome, Err(Fault::Device { .. })) && calls == 12 && session.is_usable(), "{outcome:?}, {calls} calls");
        }
        // Whatever fails of a doubted one, five of six do not make the ciphertext bad, nor does one
        // in between that should not fail.
        let (engine, mut session, sealed) = fresh();
        assert_eq!(asked(&mut *session, &sealed, 0b1).0, Ok(b"text".to_vec()));
        for failing in 0..1u64 << 11 {
            // The first is the client's, every second one after it is known to be good.
            let refused = (failing & 0b101_0101_0101).count_ones();
            let outcome = asked(&mut *session, &sealed, failing).0;
            match outcome {
                Ok(text) => assert_eq!(text, b"text"),
                Err(Fault::Device { .. }) => session = engine.open().expect("opens"),
                Err(Fault::BadCiphertext) => assert_eq!((refused, failing & 0b010_1010_1010), (6, 0), "{failing:b}"),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

own_process! {
    fn a_generator_that_is_not_one_encrypts_nothing(_directory) {
        let (engine, session, _token) = ready(Profile::SoftHsm);
        drop(session);
        let first = |trick| {
            play(trick);
            let mut session = engine.open().expect("opens");
            let result = encrypt(&mut *session, "foo", b"text", b"");
            (result, session)
        };
        for (trick, says) in [(Trick::Constant(0), "an IV of zeros"), (Trick::Constant(7), "the \
            same IV twice")] {
            let (result, session) = first(trick);
            assert_eq!(detail(&result.expect_err("refused")), format!("C_GenerateRandom: {says}"));
            assert!(!session.is_usable());
        }
        // The same block to two sessions.
        let (result, mut session) = first(Trick::Again);
        result.expect("first time");
        let (result, _) = first(Trick::Again);
        assert_eq!(detail(&result.expect_err("refused")), "C_GenerateRandom: an IV that was drawn \
            before");
        // And to the same session.
        for _ in 1..IV_BLOCK {
            encrypt(&mut *session, "foo", b"text", b"").expect("the rest of the block");
        }
        assert_eq!(detail(&encrypt(&mut *session, "foo", b"text", b"").expect_err("refused")), "C_GenerateRandom: an IV that was drawn before");
        let (result, _) = first(Trick::Code("GenerateRandom", CKR_RANDOM_NO_RNG));
        assert_eq!(detail(&result.expect_err("refused")), "C_GenerateRandom: CKR_RANDOM_NO_RNG");
    }
}

own_process! {
    fn a_checked_encryption_costs_four_calls(_directory) {
        let (_engine, mut session, _token) = ready(Profile::SoftHsm);
        // One IV is used up.
        let left = IV_BLOCK - 1;
        let before = CALLS.load(SeqCst);
        for _ in 0..left {
            encrypt_checked(&mut *session, "foo", b"text", b"aad", b"").expect("encrypts");
        }
        assert_eq!(CALLS.load(SeqCst) - before, 4 * left);
        encrypt_checked(&mut *session, "foo", b"text", b"aad", b"").expect("encrypts");
        assert_eq!(CALLS.load(SeqCst) - before, 4 * left + 5, "one C_GenerateRandom for a block");
    }
}

own_process! {
    fn a_lost_session_costs_the_others_one_call_a_key(_directory) {
        let (engine, mut session, token) = ready(Profile::SoftHsm);
        let lose = || {
            play(Trick::None);
            let mut other = engine.open().expect("opens");
            play(Trick::Code("DecryptInit", CKR_SESSION_HANDLE_INVALID));
            assert!(encrypt_checked(&mut *other, "foo", b"text", b"", b"").is_err() && !other.is_usable());
            play(Trick::None);
        };
        lose();
        // No search: it would fail.
        play(Trick::Code("FindObjectsInit", CKR_GENERAL_ERROR));
        let mut replaced = engine.open().expect("opens");
        for (session, calls) in [(&mut session, 5), (&mut replaced, 5)] {
            let before = CALLS.load(SeqCst);
            assert!(session.check());
            encrypt_checked(&mut **session, "foo", b"text", b"aad", b"").expect("encrypts");
            // The first one reads the key's attributes for all, the new one draws IVs.
            assert_eq!(CALLS.load(SeqCst) - before, calls);
        }
        // A handle that is void by now, or another key's, is found out by the reading.
        lose();
        token.delete_key("foo");
        token.make_key("foo", 32, &[]);
        let sealed = encrypt_checked(&mut *session, "foo", b"the second key", b"", b"").expect("searched for");
        lose();
        let keys = token.session();
        let second = keys.find_objects(&[Attribute::Label(b"foo".to_vec())]).expect("a search")[0];
        keys.update_attributes(second, &[Attribute::Label(b"bar".to_vec())]).expect("renamed");
        token.make_key("foo", 32, &[]);
        assert_eq!(decrypt(&mut *session, "foo", &sealed, b""), Err(Fault::BadCiphertext));
        assert_eq!(decrypt(&mut *session, "bar", &sealed, b""), Ok(b"the second key".to_vec()));
        // Attributes that cannot be read say nothing for ever.
        lose();
        play(Trick::Code("GetAttributeValue", CKR_GENERAL_ERROR));
        assert!(decrypt(&mut *session, "bar", &sealed, b"").is_err() && session.is_usable());
        play(Trick::None);
        assert_eq!(decrypt(&mut *session, "bar", &sealed, b""), Ok(b"the second key".to_vec()));
    }
}

own_process! {
    fn a_quarantine_ends_with_a_self_test_of_many_round_trips_and_there_is_one_a_second(_directory) {
        let (engine, mut session, _token) = ready(Profile::SoftHsm);
        let caught = || {
            let (fault, _) = encrypting_with(&engine, Trick::Plaintext);
            assert!(detail(&fault).contains("decrypts to something else"), "{fault:?}");
        };
        let refused = |session: &mut dyn Session| {
            let before = CALLS.load(SeqCst);
            let fault = encrypt(session, "foo", b"text", b"").expect_err("quarantined");
            assert!(detail(&fault).contains("until it has passed a self-test"), "{fault:?}");
            assert_eq!(CALLS.load(SeqCst), before);
        };
        let sealed = encrypt(&mut *session, "foo", b"text", b"aad").expect("encrypts");
        caught();
        // At once; the job that came is done after it.
        let before = CALLS.load(SeqCst);
        let began = Instant::now();
        assert_eq!(decrypt(&mut *session, "foo", &sealed, b"aad"), Ok(b"text".to_vec()));
        assert!(CALLS.load(SeqCst) - before >= 4 * SELF_TEST_ROUND_TRIPS);
        // Caught again: not at once.
        play(Trick::Plaintext);
        assert!(encrypt_checked(&mut *engine.open().expect("opens"), "foo", b"text", b"", b"").is_err());
        play(Trick::None);
        if began.elapsed() < SELF_TEST_INTERVAL / 2 {
            refused(&mut *session);
        }
        std::thread::sleep(SELF_TEST_INTERVAL);
        // One that fails: neither the job nor those of the next second.
        play(Trick::Decrypts(1 << (SELF_TEST_ROUND_TRIPS - 1), CKR_DEVICE_ERROR));
        let began = Instant::now();
        let fault = decrypt(&mut *session, "foo", &sealed, b"aad").expect_err("the last round trip fails");
        assert_eq!(detail(&fault), "C_Decrypt: CKR_DEVICE_ERROR");
        play(Trick::None);
        let mut session = engine.open().expect("opens");
        if began.elapsed() < SELF_TEST_INTERVAL / 2 {
            refused(&mut *session);
        }
        std::thread::sleep(SELF_TEST_INTERVAL);
        assert_eq!(decrypt(&mut *session, "foo", &sealed, b"aad"), Ok(b"text".to_vec()));
    }
}

own_process! {
    fn a_pin_is_given_once(_directory) {
        intercept();
        let _token = softhsm::new_token(&softhsm::load(), "xks");
        let engine_with = |pin: &str| Pkcs11Engine::new(Settings { pin: secret(pin), ..settings() }).expect("made");
        for code in [CKR_PIN_INCORRECT, CKR_PIN_INVALID, CKR_PIN_LEN_RANGE, CKR_PIN_EXPIRED, CKR_PIN_LOCKED] {
            play(Trick::Code("Login", code));
            let pin = format!("{code}");
            let (engine, before) = (engine_with(&pin), LOGINS.load(SeqCst));
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| (0..3).for_each(|_| assert!(engine.open().is_err())));
                }
            });
            assert!(engine.list().is_err());
            play(Trick::None);
            assert!(engine.open().is_err(), "not even where it would be right by now");
            assert!(engine_with(&pin).open().is_err(), "nor by another engine");
            assert_eq!(LOGINS.load(SeqCst) - before, 1, "{code:#x}");
        }
        let (engine, before) = (engine(), LOGINS.load(SeqCst));
        // A device that fails has not refused the PIN.
        play(Trick::Code("Login", CKR_DEVICE_ERROR));
        assert_eq!(detail(&engine.open().err().expect("fails")), "C_Login: CKR_DEVICE_ERROR");
        play(Trick::None);
        let sessions: Vec<_> = (0..5).map(|_| engine.open().expect("opens")).collect();
        assert_eq!(LOGINS.load(SeqCst) - before, 2, "one login for the token");
        drop(sessions);
        engine.open().expect("opens");
        assert_eq!(LOGINS.load(SeqCst) - before, 2, "which lasts");
    }
}

own_process! {
    fn an_hsm_that_is_down_heals(_directory) {
        intercept();
        play(Trick::Code("Initialize", CKR_DEVICE_ERROR));
        let engine = engine();
        for _ in 0..2 {
            assert_eq!(detail(&engine.open().err().expect("down")), "C_Initialize: CKR_DEVICE_ERROR");
        }
        play(Trick::None);
        // Until then the failure is told without a call.
        std::thread::sleep(INITIALIZE_INTERVAL);
        assert!(detail(&engine.open().err().expect("no token")).contains("not found"));
        let token = softhsm::new_token(&cryptoki::context::Pkcs11::new(softhsm::module()).expect("loads"), "xks");
        token.make_key("foo", 32, &[]);
        for code in [CKR_DEVICE_REMOVED, CKR_TOKEN_NOT_PRESENT] {
            play(Trick::Code("OpenSession", code));
            assert!(detail(&engine.open().err().expect("down")).starts_with("C_OpenSession: CKR_"));
        }
        play(Trick::None);
        encrypt(&mut *engine.open().expect("opens"), "foo", b"text", b"").expect("encrypts");
    }
}

own_process! {
    fn a_job_that_is_late_between_two_calls_leaves_the_session_in_order(_directory) {
        let (_engine, mut session, _token) = ready(Profile::SoftHsm);
        play(Trick::Slow);
        let task = Task::Encrypt {
            plaintext: Zeroizing::new(b"text".to_vec()),
            aad: vec![],
            integrity: Some(digest::Context::new(&digest::SHA256)),
        };
        let before = CALLS.load(SeqCst);
        let outcome = session.execute(Job { key: KeyRef::first("foo"), task, deadline: Instant::now() + Duration::from_secs(1) });
        assert_eq!(outcome.err(), Some(Fault::Timeout));
        assert_eq!(CALLS.load(SeqCst) - before, 2, "the decryption was left out, not the \
            encryption unfinished");
        play(Trick::None);
        assert!(session.is_usable());
        encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("encrypts");
    }
}

own_process! {
    fn an_iv_that_the_hsm_made_before_is_refused_in_every_session(_directory) {
        intercept();
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        // What comes out of this does not decrypt with the IV.
        let settings = Settings { profile: Profile::NShield, verify_encryptions: false, ..settings() };
        let engine = Pkcs11Engine::new(settings).expect("made");
        play(Trick::OwnIv);
        // The same each time.
        let mut session = engine.open().expect("opens");
        assert_eq!(encrypt(&mut *session, "foo", b"text", b"").expect("the first").iv, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for mut session in [session, engine.open().expect("opens")] {
            let fault = encrypt(&mut *session, "foo", b"text", b"").expect_err("refused");
            assert_eq!(detail(&fault), "C_Encrypt: the HSM made an IV that it had made before");
            assert!(!session.is_usable());
        }
        // Left as it was.
        play(Trick::None);
        let fault = encrypt(&mut *engine.open().expect("opens"), "foo", b"text", b"").expect_err("refused");
        assert_eq!(detail(&fault), "C_Encrypt: an IV of zeros: wrong profile?");
    }
}

own_process! {
    fn sessions_are_read_only_where_the_module_has_such(_directory) {
        intercept();
        let _token = softhsm::new_token(&softhsm::load(), "xks");
        for (profile, read_write) in [(Profile::Generic, false), (Profile::Luna, false), (Profile::NShield, false), (Profile::CloudHsm, true)] {
            let engine = Pkcs11Engine::new(Settings { profile, read_write_sessions: profile.has_read_write_sessions_only(), ..settings() }).expect("made");
            let before = (OPENED.load(SeqCst), OPENED_READ_WRITE.load(SeqCst));
            engine.open().expect("opens");
            let opened = OPENED.load(SeqCst) - before.0;
            // The session, and the one that keeps the login.
            assert_eq!((opened, OPENED_READ_WRITE.load(SeqCst) - before.1), (2, if read_write { 2 } else { 0 }), "{profile:?}");
        }
    }
}
