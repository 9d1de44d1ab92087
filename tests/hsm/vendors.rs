//! The profiles of network HSMs against hsm-sim, which has their habits as far as they are known.
//! Not against the devices.

use crate::jobs::*;
use crate::simulator::simulator;
use test_harness::own_process;
use xksd::key_manager::pkcs11::Profile;
use xksd::key_manager::{Concurrency, Engine, Fault};

/// What the profile must do with an HSM of these habits: IVs of its own, 12 or 16 bytes, and one
/// code for a tag that does not match.
fn serves(directory: &std::path::Path, profile: Profile, config: &str, iv_bytes: usize) {
    let hsm = simulator(directory, config);
    let _token = hsm.token();
    let engine = hsm.engine(profile);
    let mut session = engine.open().expect("opens");
    good_and_bad_ciphertexts_with_iv(&mut *session, "foo", iv_bytes);
    assert_eq!(engine.concurrency(), Concurrency::PerSession);
    // A second session opens what the first has sealed.
    let sealed = encrypt_checked(&mut *session, "foo", b"text", b"aad", b"").expect("encrypts");
    assert_eq!(
        decrypt(&mut *engine.open().expect("opens"), "foo", &sealed, b"aad"),
        Ok(b"text".to_vec())
    );
    // Four calls, and none for an IV.
    let names = ["C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt", "C_GenerateRandom"];
    let count = || names.map(|name| hsm.calls(name));
    let before = count();
    for _ in 0..10 {
        encrypt_checked(&mut *session, "foo", b"text", b"aad", b"").expect("encrypts");
    }
    let after = count();
    assert_eq!(std::array::from_fn(|n| after[n] - before[n]), [10, 10, 10, 10, 0]);
}

own_process! {
    fn luna_appends_an_iv_of_16_bytes(directory) {
        serves(directory, Profile::Luna, "[gcm]\niv = \"append\"\nbad_tag = \
            \"CKR_ENCRYPTED_DATA_INVALID\"", 16);
    }
}

own_process! {
    fn luna_whatever_its_code_for_a_bad_tag(directory) {
        serves(directory, Profile::Luna, "[gcm]\niv = \"append\"\nbad_tag = \
            \"CKR_SIGNATURE_INVALID\"", 16);
    }
}

own_process! {
    fn nshield_fills_in_its_iv(directory) {
        serves(directory, Profile::NShield, "[gcm]\niv = \"fill\"\nbad_tag = \
            \"CKR_FUNCTION_FAILED\"", 12);
    }
}

own_process! {
    fn cloudhsm_fills_in_its_iv_at_the_end(directory) {
        let config = "[gcm]\niv = \"fill\"\niv_written = \"encrypt\"\nbad_tag = \
            \"CKR_FUNCTION_FAILED\"";
        serves(directory, Profile::CloudHsm, config, 12);
    }
}

own_process! {
    fn cloudhsm_with_another_code_for_a_bad_tag(directory) {
        serves(directory, Profile::CloudHsm, "[gcm]\niv = \"fill\"\nbad_tag = \
            \"CKR_GENERAL_ERROR\"", 12);
    }
}

/// What an encryption with this profile says on an HSM of that kind.
fn refusal(directory: &std::path::Path, profiles: &[Profile], config: &str, says: &[&str]) {
    let hsm = simulator(directory, config);
    let _token = hsm.token();
    for profile in profiles {
        let engine = hsm.engine(*profile);
        for checked in [true, false] {
            let mut session = engine.open().expect("opens");
            let fault = match checked {
                true => encrypt_checked(&mut *session, "foo", b"text", b"aad", b""),
                false => encrypt(&mut *session, "foo", b"text", b"aad"),
            }
            .expect_err("refused");
            assert!(
                matches!(fault, Fault::Device { .. })
                    && says.iter().any(|says| detail(&fault).contains(says)),
                "{profile:?}: {fault:?}"
            );
            assert!(!session.is_usable());
        }
    }
}

own_process! {
    fn an_iv_of_zeros_never_leaves(directory) {
        // It takes the zeros for the caller's IV.
        refusal(directory, &[Profile::NShield, Profile::CloudHsm], "", &["C_Encrypt: an IV of zeros: wrong profile?"]);
    }
}

own_process! {
    fn a_module_that_wants_an_iv_does_not_get_the_profile_of_one_that_makes_it(directory) {
        refusal(directory, &[Profile::Luna], "", &["C_EncryptInit: CKR_", "wrong profile?"]);
    }
}

own_process! {
    fn the_profile_of_a_module_that_fills_in_does_not_fit_one_that_appends(directory) {
        refusal(directory, &[Profile::CloudHsm, Profile::Generic], "[gcm]\niv = \"append\"", &["CKR_MECHANISM_PARAM_INVALID"]);
    }
}

own_process! {
    fn a_module_that_makes_ivs_does_not_take_xksds(directory) {
        refusal(directory, &[Profile::Generic, Profile::Luna], "[gcm]\niv = \"fill\"", &["CKR_MECHANISM_PARAM_INVALID"]);
    }
}

own_process! {
    fn a_throttled_decryption_is_no_bad_ciphertext(directory) {
        let hsm = simulator(directory, "seed = 7\n[gcm]\niv = \"fill\"\nbad_tag = \
            \"CKR_FUNCTION_FAILED\"");
        let _token = hsm.token();
        let engine = hsm.engine(Profile::CloudHsm);
        let mut session = engine.open().expect("opens");
        session.probe().expect("healthy");
        let sealed = encrypt_checked(&mut *session, "foo", b"text", b"aad", b"").expect("encrypts");
        hsm.control("error = { call = [\"C_EncryptInit\", \"C_Encrypt\", \"C_DecryptInit\", \
            \"C_Decrypt\"], code = \"CKR_FUNCTION_FAILED\", probability = 0.3 }");
        let (mut served, mut busy) = (0, 0);
        for _ in 0..200 {
            match decrypt(&mut *session, "foo", &sealed, b"aad") {
                Ok(text) => {
                    assert_eq!(text, b"text");
                    served += 1;
                }
                Err(Fault::Busy) => busy += 1,
                Err(other) => panic!("{other:?}"),
            }
            match encrypt_checked(&mut *session, "foo", b"text", b"aad", b"") {
                Ok(_) | Err(Fault::Busy) => {}
                Err(other) => panic!("{other:?}"),
            }
            assert!(session.is_usable());
        }
        assert!(served > 20 && busy > 20, "{served} served, {busy} busy");
        hsm.control("");
        let mut wrong = sealed.clone();
        wrong.tag[0] ^= 1;
        assert_eq!(decrypt(&mut *session, "foo", &wrong, b"aad"), Err(Fault::BadCiphertext));
        assert_eq!(decrypt(&mut *session, "foo", &sealed, b"aad"), Ok(b"text".to_vec()));
    }
}

own_process! {
    fn ciphertext_that_the_hsm_spoils_is_its_fault_and_not_its_being_busy(directory) {
        // One code for too much work and for a tag that does not match.
        let hsm = simulator(directory, "seed = 5\n[gcm]\niv = \"fill\"\nbad_tag = \
            \"CKR_FUNCTION_FAILED\"");
        let _token = hsm.token();
        let mut session = hsm.engine(Profile::CloudHsm).open().expect("opens");
        encrypt_checked(&mut *session, "foo", b"text", b"aad", b"").expect("encrypts");
        for (share, least) in [("1", 20), ("0.5", 3)] {
            hsm.control(&format!("corrupt_ciphertext = {share}"));
            let mut spoiled = 0;
            for _ in 0..20 {
                match encrypt_checked(&mut *session, "foo", b"text", b"aad", b"") {
                    Ok(_) => {}
                    Err(Fault::Device { detail }) => {
                        assert!(detail.contains("integrity check") && !session.is_usable(), "{detail}");
                        // Another engine, which has not caught the HSM.
                        session = hsm.engine(Profile::CloudHsm).open().expect("opens");
                        spoiled += 1;
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            assert!(spoiled >= least, "{spoiled} spoiled of {share}");
        }
        // And a throttled decryption in the check is no corruption.
        hsm.control("error = { call = \"C_Decrypt\", code = \"CKR_FUNCTION_FAILED\", probability = \
            0.2 }");
        let (mut busy, mut good) = (0, 0);
        for _ in 0..100 {
            match encrypt_checked(&mut *session, "foo", b"text", b"aad", b"") {
                Ok(_) => good += 1,
                Err(Fault::Busy) => busy += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(good == 100 && busy == 0, "{good} good, {busy} busy");
    }
}

own_process! {
    fn an_hsm_with_too_much_work_is_busy_and_does_not_lose_its_trust(directory) {
        let hsm = simulator(directory, "seed = 11\n[gcm]\niv = \"fill\"\nbad_tag = \
            \"CKR_FUNCTION_FAILED\"");
        let _token = hsm.token();
        let mut session = hsm.engine(Profile::CloudHsm).open().expect("opens");
        encrypt_checked(&mut *session, "foo", b"text", b"aad", b"").expect("encrypts");
        for share in ["0.5", "0.8"] {
            hsm.control(&format!("error = {{ call = [\"C_Encrypt\", \"C_Decrypt\"], \
                code = \"CKR_FUNCTION_FAILED\", probability = {share} }}"));
            let (mut busy, mut good) = (0, 0);
            for _ in 0..3000 {
                match encrypt_checked(&mut *session, "foo", b"text", b"aad", b"") {
                    Ok(_) => good += 1,
                    Err(Fault::Busy) => busy += 1,
                    Err(other) => panic!("{share}: {other:?}"),
                }
            }
            assert!(good > 10 && busy > 1000, "{share}: {good} good, {busy} busy");
        }
    }
}

own_process! {
    fn a_passing_fault_is_no_bad_ciphertext(directory) {
        let hsm = simulator(directory, "seed = 3\n[gcm]\niv = \"fill\"\nbad_tag = \
            \"CKR_FUNCTION_FAILED\"");
        let _token = hsm.token();
        let engine = hsm.engine(Profile::NShield);
        let mut session = engine.open().expect("opens");
        let sealed = encrypt(&mut *session, "foo", b"text", b"aad").expect("encrypts");
        hsm.control("error = { call = \"C_Decrypt\", code = \"CKR_FUNCTION_FAILED\", probability = \
            0.2 }");
        let mut served = 0;
        for _ in 0..50 {
            match decrypt(&mut *session, "foo", &sealed, b"aad") {
                Ok(text) => {
                    assert_eq!(text, b"text");
                    served += 1;
                }
                Err(Fault::Device { .. }) => session = engine.open().expect("opens"),
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(served > 40, "{served}");
        assert!(hsm.settled_stats()["errors"]["CKR_FUNCTION_FAILED"].as_u64() > Some(5));
    }
}
