//! One key that the module refuses, or that fails, takes nothing from the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use cryptoki::mechanism::MechanismType;
use cryptoki::object::Attribute;
use cryptoki_sys::*;
use test_harness::{Token, own_process, raw, softhsm};
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile, Settings};
use xksd::key_manager::{Engine, Fault, KeyUsage};
use xksd::limits::{KEY_FAILURES_MAX, KEY_PAUSE_MIN, SESSIONS_LOST_TO_A_KEY_MAX};

use crate::engines::{engine, settings};
use crate::jobs::*;

fn make_keys(token: &Token) {
    token.make_key("good", 32, &[]);
    token.make_key("bad", 32, &[Attribute::AllowedMechanisms(vec![MechanismType::AES_CBC])]);
}

own_process! {
    fn a_key_without_the_mechanism_is_refused_and_serves_again_once_it_is_mended(_directory) {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        make_keys(&token);
        let engine = engine();
        let mut session = engine.open().expect("opens");
        let sealed = encrypt(&mut *session, "good", b"text", b"").expect("encrypts");
        let refused = |outcome: Option<Fault>, call: &str| {
            let Some(Fault::KeyRefused { detail }) = outcome else { panic!("{outcome:?}") };
            assert_eq!(detail, format!("key \"bad\": {call}: CKR_MECHANISM_INVALID"));
        };
        assert!(describe(&mut *session, "bad").expect("there").usage.contains(KeyUsage::Encrypt));
        for _ in 0..3 {
            refused(encrypt(&mut *session, "bad", b"text", b"").err(), "C_EncryptInit");
            refused(decrypt(&mut *session, "bad", &sealed, b"").err(), "C_DecryptInit");
            assert!(session.is_usable());
            assert_eq!(decrypt(&mut *session, "good", &sealed, b""), Ok(b"text".to_vec()));
        }
        let [named] = &engine.refused_keys()[..] else { panic!("one key") };
        assert_eq!((&*named.label, named.why.as_str()), ("bad", "key \"bad\": C_EncryptInit: CKR_MECHANISM_INVALID"));
        // KMS asks what a key may do before it makes one of its own of it.
        assert!(!describe(&mut *session, "bad").expect("there").usage.contains(KeyUsage::Encrypt));

        token.delete_key("bad");
        token.make_key("bad", 32, &[]);
        // Twice: a decryption was refused, too.
        std::thread::sleep(KEY_PAUSE_MIN + Duration::from_millis(50));
        encrypt(&mut *session, "bad", b"text", b"").expect("mended");
        assert_eq!(engine.refused_keys(), []);
        assert!(describe(&mut *session, "bad").expect("there").usage.contains(KeyUsage::Decrypt));
    }
}

static OWN: OnceLock<CK_FUNCTION_LIST> = OnceLock::new();
/// The call that returns a code where it is about the key.
static FAULT: Mutex<Option<(&str, CK_RV, CK_OBJECT_HANDLE)>> = Mutex::new(None);
/// The key that a session's operation was begun with.
static BEGUN: Mutex<Option<HashMap<CK_SESSION_HANDLE, CK_OBJECT_HANDLE>>> = Mutex::new(None);
/// Calls on the bad key and under it.
static CALLS: AtomicUsize = AtomicUsize::new(0);

fn own() -> &'static CK_FUNCTION_LIST {
    OWN.get().expect("intercepted")
}

fn fault(call: &str, key: CK_OBJECT_HANDLE) -> Option<CK_RV> {
    let fault = *FAULT.lock().expect("not poisoned");
    let (which, code, _) = fault.filter(|(.., bad)| *bad == key)?;
    CALLS.fetch_add(1, SeqCst);
    (which == call).then_some(code)
}

fn begin(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) {
    BEGUN.lock().expect("not poisoned").get_or_insert_default().insert(session, key);
}

fn begun(session: CK_SESSION_HANDLE) -> CK_OBJECT_HANDLE {
    let mut begun = BEGUN.lock().expect("not poisoned");
    begun.get_or_insert_default().get(&session).copied().unwrap_or(0)
}

// SAFETY, of all that follow: PKCS#11 functions, called with what xksd gives the module and handing
// it on to the module's own.

unsafe extern "C" fn c_encrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    begin(session, key);
    // SAFETY: see above.
    fault("EncryptInit", key)
        .unwrap_or_else(|| unsafe { own().C_EncryptInit.expect("there")(session, mechanism, key) })
}

unsafe extern "C" fn c_decrypt_init(
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_PTR,
    key: CK_OBJECT_HANDLE,
) -> CK_RV {
    begin(session, key);
    // SAFETY: see above.
    fault("DecryptInit", key)
        .unwrap_or_else(|| unsafe { own().C_DecryptInit.expect("there")(session, mechanism, key) })
}

unsafe extern "C" fn c_encrypt(
    session: CK_SESSION_HANDLE,
    data: *mut u8,
    length: CK_ULONG,
    out: *mut u8,
    room: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: see above. The operation is over whatever is returned.
    let code = unsafe { own().C_Encrypt.expect("there")(session, data, length, out, room) };
    fault("Encrypt", begun(session)).unwrap_or(code)
}

unsafe extern "C" fn c_decrypt(
    session: CK_SESSION_HANDLE,
    data: *mut u8,
    length: CK_ULONG,
    out: *mut u8,
    room: *mut CK_ULONG,
) -> CK_RV {
    // SAFETY: as in `c_encrypt`.
    let code = unsafe { own().C_Decrypt.expect("there")(session, data, length, out, room) };
    fault("Decrypt", begun(session)).unwrap_or(code)
}

unsafe extern "C" fn c_get_attribute_value(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    length: CK_ULONG,
) -> CK_RV {
    // SAFETY: see above.
    fault("GetAttributeValue", object).unwrap_or_else(|| unsafe {
        own().C_GetAttributeValue.expect("there")(session, object, template, length)
    })
}

/// Codes of a session that is gone: nothing can be tried in it any more.
const SESSION_GONE: &[CK_RV] = &[
    CKR_SESSION_HANDLE_INVALID,
    CKR_SESSION_CLOSED,
    CKR_DEVICE_REMOVED,
    CKR_TOKEN_NOT_PRESENT,
    CKR_TOKEN_NOT_RECOGNIZED,
    CKR_CRYPTOKI_NOT_INITIALIZED,
    CKR_SLOT_ID_INVALID,
];

/// All others that a module may come up with.
const CODES: &[CK_RV] = &[
    CKR_HOST_MEMORY,
    CKR_GENERAL_ERROR,
    CKR_FUNCTION_FAILED,
    CKR_ARGUMENTS_BAD,
    CKR_ATTRIBUTE_READ_ONLY,
    CKR_ATTRIBUTE_VALUE_INVALID,
    CKR_ACTION_PROHIBITED,
    CKR_DATA_INVALID,
    CKR_DATA_LEN_RANGE,
    CKR_DEVICE_ERROR,
    CKR_DEVICE_MEMORY,
    CKR_ENCRYPTED_DATA_INVALID,
    CKR_ENCRYPTED_DATA_LEN_RANGE,
    CKR_AEAD_DECRYPT_FAILED,
    CKR_FUNCTION_CANCELED,
    CKR_FUNCTION_NOT_SUPPORTED,
    CKR_FUNCTION_REJECTED,
    CKR_KEY_HANDLE_INVALID,
    CKR_OBJECT_HANDLE_INVALID,
    CKR_KEY_SIZE_RANGE,
    CKR_KEY_TYPE_INCONSISTENT,
    CKR_KEY_FUNCTION_NOT_PERMITTED,
    CKR_KEY_EXHAUSTED,
    CKR_MECHANISM_INVALID,
    CKR_MECHANISM_PARAM_INVALID,
    CKR_OPERATION_ACTIVE,
    CKR_OPERATION_NOT_INITIALIZED,
    CKR_PIN_EXPIRED,
    CKR_SIGNATURE_INVALID,
    CKR_TEMPLATE_INCONSISTENT,
    CKR_TOKEN_WRITE_PROTECTED,
    CKR_TOKEN_RESOURCE_EXCEEDED,
    CKR_USER_NOT_LOGGED_IN,
    CKR_BUFFER_TOO_SMALL,
    CKR_VENDOR_DEFINED + 0x123,
    0x4321,
];

/// xorshift64, by which jobs follow each other at random.
fn below(state: &mut u64, n: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % n
}

own_process! {
    fn whatever_a_module_says_of_one_key_the_others_are_served(_directory) {
        let functions = raw::intercept(&softhsm::module(), |list| {
            list.C_EncryptInit = Some(c_encrypt_init);
            list.C_Encrypt = Some(c_encrypt);
            list.C_DecryptInit = Some(c_decrypt_init);
            list.C_Decrypt = Some(c_decrypt);
            list.C_GetAttributeValue = Some(c_get_attribute_value);
        });
        assert!(OWN.set(functions).is_ok());
        let token = softhsm::new_token(&softhsm::load(), "xks");
        for label in ["good", "bad"] {
            token.make_key(label, 32, &[]);
        }
        let keys = token.session();
        let handle = |label: &[u8]| keys.find_objects(&[Attribute::Label(label.to_vec())]).expect("a search")[0];
        let bad = handle(b"bad").handle();
        let mut seed = 1;
        for profile in [Profile::Generic, Profile::SoftHsm, Profile::Nss] {
            for call in ["EncryptInit", "Encrypt", "DecryptInit", "Decrypt", "GetAttributeValue"] {
                for code in CODES.iter().chain(SESSION_GONE) {
                    seed += 1;
                    one_key_fails(profile, (call, *code, bad), seed);
                }
            }
        }
    }
}

/// Jobs for both keys while calls about the bad one return a code.
fn one_key_fails(profile: Profile, fault: (&'static str, CK_RV, CK_OBJECT_HANDLE), seed: u64) {
    let (call, code, _) = fault;
    let told = format!("{profile:?}, {call}, {code:#x}, seed {seed}");
    let engine = Pkcs11Engine::new(Settings { profile, ..settings() }).expect("made");
    let mut session = engine.open().expect("opens");
    let mut sealed = |label: &str| encrypt(&mut *session, label, b"text", b"").expect("encrypts");
    let (good, bad) = (sealed("good"), sealed("bad"));
    *FAULT.lock().expect("not poisoned") = Some(fault);
    // Attributes are read again when a session was lost.
    if call == "GetAttributeValue" {
        drop(session);
        session = Pkcs11Engine::new(Settings { profile, ..settings() })
            .expect("made")
            .open()
            .expect("opens");
    }
    CALLS.store(0, SeqCst);
    let (mut random, mut lost) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, 0);
    for _ in 0..120 {
        match below(&mut random, 6) {
            0 => drop(encrypt(&mut *session, "bad", b"text", b"")),
            1 => drop(encrypt_checked(&mut *session, "bad", b"text", b"", b"")),
            2 => drop(decrypt(&mut *session, "bad", &bad, b"")),
            3 => {
                encrypt_checked(&mut *session, "good", b"text", b"", b"").expect(&told);
            }
            _ => assert_eq!(
                decrypt(&mut *session, "good", &good, b""),
                Ok(b"text".to_vec()),
                "{told}"
            ),
        }
        if !session.is_usable() {
            lost += 1;
            session = engine.open().expect("opens");
        }
    }
    *FAULT.lock().expect("not poisoned") = None;
    let gone = SESSION_GONE.contains(&code);
    // Of each direction.
    let sessions_max = if gone { 8 * SESSIONS_LOST_TO_A_KEY_MAX } else { 0 };
    assert!(lost <= sessions_max, "{told}: {lost} sessions lost");
    // Two breakers; a failure costs some calls to see whose fault it is.
    let calls = CALLS.load(SeqCst);
    let busy = code == CKR_TOKEN_RESOURCE_EXCEEDED;
    let bound = if gone || busy { 1000 } else { 2 * 20 * KEY_FAILURES_MAX as usize };
    assert!(calls <= bound, "{told}: {calls} calls");
}
