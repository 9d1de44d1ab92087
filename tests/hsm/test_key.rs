//! Modules that make no key for probes in a read-only session, or none at all; and tokens that have
//! no AES-GCM.

use test_harness::own_process;
use xksd::key_manager::pkcs11::Profile;
use xksd::key_manager::{Answer, Engine, Fault, ProbeKey, Session, Task};

use crate::jobs::*;
use crate::simulator::{Simulator, simulator};

fn probe(session: &mut dyn Session) -> Result<ProbeKey, Fault> {
    match session.execute(job("", Task::Probe))? {
        Answer::Probed(key) => Ok(key),
        other => panic!("{other:?}"),
    }
}

/// C_OpenSession so far.
fn opened(hsm: &Simulator) -> u64 {
    hsm.calls("C_OpenSession")
}

own_process! {
    fn a_session_that_makes_no_key_is_exchanged_for_one_that_does(directory) {
        let hsm = simulator(directory, "read_write_calls = \"C_GenerateKey\"");
        let _token = hsm.token();
        let engine = hsm.engine(Profile::Generic);
        let (mut first, mut second) = (engine.open().expect("opens"), engine.open().expect("opens"));
        let sealed = encrypt(&mut *first, "foo", b"text", b"aad").expect("encrypts");
        let before = opened(&hsm);
        for session in [&mut first, &mut second] {
            assert_eq!(probe(&mut **session), Ok(ProbeKey::Own));
            assert!(session.is_usable());
            assert_eq!(decrypt(&mut **session, "foo", &sealed, b"aad"), Ok(b"text".to_vec()));
        }
        assert_eq!(opened(&hsm) - before, 2, "each once");
        // From now on at once.
        let mut third = engine.open().expect("opens");
        assert_eq!(probe(&mut *third), Ok(ProbeKey::Own));
        assert_eq!(opened(&hsm) - before, 3);
        // Nothing is left of those that were exchanged: one of each, and one for the login.
        assert_eq!(hsm.settled_stats()["sessions"]["open"].as_u64(), Some(4));
    }
}

own_process! {
    fn where_there_is_no_room_beside_it_the_session_is_opened_anew(directory) {
        let hsm = simulator(directory, "read_write_calls = \"C_GenerateKey\"\nsessions_max = 1");
        drop(hsm.token());
        let engine = hsm.engine(Profile::Generic);
        let mut session = engine.open().expect("opens");
        assert!(probe(&mut *session).is_err() && !session.is_usable());
        drop(session);
        let mut session = engine.open().expect("opens");
        assert_eq!(probe(&mut *session), Ok(ProbeKey::Own));
        encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
    }
}

own_process! {
    fn where_no_session_makes_one_the_keys_in_use_are_tried(directory) {
        let hsm = simulator(directory, "");
        let _token = hsm.token();
        let engine = hsm.engine(Profile::Generic);
        let mut session = engine.open().expect("opens");
        hsm.control("error = { call = \"C_GenerateKey\", code = \"CKR_FUNCTION_REJECTED\" }\n");
        let before = opened(&hsm);
        assert_eq!(probe(&mut *session), Ok(ProbeKey::None));
        assert_eq!(probe(&mut *session), Ok(ProbeKey::None));
        assert_eq!(opened(&hsm) - before, 1, "tried once in a read/write session");
        encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
        assert_eq!(probe(&mut *session), Ok(ProbeKey::InUse));
        // It is a true one.
        hsm.control(
            "error = [{ call = \"C_GenerateKey\", code = \"CKR_FUNCTION_REJECTED\" }, \
             { call = \"C_Encrypt\", code = \"CKR_DEVICE_ERROR\" }]\n",
        );
        assert!(probe(&mut *session).is_err());
        // And what is a fault is one, whether a key is known or not.
        hsm.control("error = { call = \"C_GenerateKey\", code = \"CKR_DEVICE_ERROR\" }\n");
        let mut fresh = hsm.engine(Profile::Generic).open().expect("opens");
        let Err(Fault::Device { detail }) = probe(&mut *fresh) else { panic!("serves") };
        assert_eq!(detail, "C_GenerateKey: CKR_DEVICE_ERROR");
    }
}

own_process! {
    fn what_is_encrypted_without_a_job_for_it_is_counted(directory) {
        let hsm = simulator(directory, "");
        let _token = hsm.token();
        let engine = hsm.engine(Profile::Generic);
        let mut session = engine.open().expect("opens");
        hsm.control("error = { call = \"C_GenerateKey\", code = \"CKR_FUNCTION_REJECTED\" }\n");
        let mut jobs = 0;
        let mut job = |session: &mut dyn Session, text: &[u8]| {
            jobs += 1;
            encrypt(session, "foo", text, b"aad").expect("encrypts")
        };
        let counted = || engine.unrequested_encryptions().get("foo").copied().unwrap_or(0);
        let mut sealed = job(&mut *session, b"text");
        assert_eq!(counted(), 0);
        assert_eq!(probe(&mut *session), Ok(ProbeKey::InUse));
        assert_eq!(counted(), 1, "a probe under a key in use");
        assert_eq!(counted(), 0, "told once");
        // One byte encrypts to itself once in 256 times: then a longer text shows what the module
        // does.
        (0..2000).for_each(|_| drop(job(&mut *session, b"t")));
        let echoed = counted();
        assert!(echoed > 0);
        // Its code may mean something else: a text is encrypted to find out.
        sealed.tag[0] ^= 1;
        assert_eq!(decrypt(&mut *session, "foo", &sealed, b"aad"), Err(Fault::BadCiphertext));
        let found_out = counted();
        assert!(found_out > 0);
        let all = hsm.calls("C_Encrypt");
        assert_eq!(all, jobs + 1 + echoed + found_out, "each that the HSM has done");
    }
}

own_process! {
    fn a_token_without_aes_gcm_is_told_and_not_opened(directory) {
        let hsm = simulator(directory, "[gcm]\nabsent = true");
        let _token = hsm.token();
        let engine = hsm.engine(Profile::Generic);
        let told = |outcome: Result<(), Fault>| {
            let Err(Fault::Device { detail }) = outcome else { panic!("opens") };
            assert!(detail.starts_with("the token has no AES-GCM"), "{detail}");
        };
        told(engine.open().map(|_| ()));
        told(engine.list().map(|_| ()));
        // No session is left behind by it.
        assert_eq!(hsm.settled_stats()["sessions"]["open"].as_u64(), Some(0));
        engine.info().expect("told all the same");
    }
}
