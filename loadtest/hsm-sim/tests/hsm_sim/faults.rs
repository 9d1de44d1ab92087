//! The HSM in its bad days: each fault switched on and off while calls go on.

use std::ptr;
use std::time::{Duration, Instant};

use crate::hsm::*;
use cryptoki_sys::*;
use hsm_sim::real;
use test_harness::test_path;

#[test]
fn errors_come_with_their_code_and_end_the_operation() {
    isolated(test_path!("errors_come_with_their_code_and_end_the_operation"), "", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        hsm.control(
            "error = { call = \"C_Encrypt\", code = \"CKR_DEVICE_ERROR\", probability = 1.0 }",
        );
        for _ in 0..3 {
            assert_eq!(hsm.encrypt_init(&session, key, &mut [1; 12]), "CKR_OK");
            assert_eq!(hsm.encrypt(&session, 64).0, "CKR_DEVICE_ERROR");
        }
        hsm.control("error = { call = \"C_Decrypt\", code = 0x80000042 }");
        let encrypted = hsm.encrypted(&session, key, &mut [1; 12]);
        assert_eq!(hsm.decrypted(&session, key, &mut [1; 12], &encrypted).0, "0x80000042");
        hsm.control("");
        assert_eq!(hsm.decrypted(&session, key, &mut [1; 12], &encrypted).1, DATA);
        let stats = hsm.stats_when(|stats| stats["faults"]["error"] == 4);
        assert_eq!(stats["errors_by_call"]["C_Encrypt"]["CKR_DEVICE_ERROR"], 3);
        assert_eq!(stats["errors"]["0x80000042"], 1);
    });
}

#[test]
fn a_session_whose_handle_is_called_invalid_is_gone() {
    isolated(
        test_path!("a_session_whose_handle_is_called_invalid_is_gone"),
        "sessions_max = 2",
        |directory| {
            let hsm = Hsm::start(directory);
            let (session, key) = hsm.session_and_key();
            let other = hsm.open();
            hsm.control(
                "error = { call = \"C_EncryptInit\", code = \"CKR_SESSION_HANDLE_INVALID\" }",
            );
            assert_eq!(hsm.encrypt_init(&session, key, &mut [1; 12]), "CKR_SESSION_HANDLE_INVALID");
            hsm.control("");
            assert_eq!(hsm.encrypt_init(&session, key, &mut [1; 12]), "CKR_SESSION_HANDLE_INVALID");
            // The other one lives, and there is room again.
            let _third = hsm.open();
            assert_eq!(hsm.encrypt_init(&other, key, &mut [1; 12]), "CKR_OK");
        },
    );
}

#[test]
fn an_error_can_leave_the_session_with_its_operation() {
    isolated(test_path!("an_error_can_leave_the_session_with_its_operation"), "", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        hsm.control(
            "error = { call = \"C_Encrypt\", code = \"CKR_DEVICE_ERROR\", leaves_operation \
            = true }",
        );
        assert_eq!(hsm.encrypt_init(&session, key, &mut [1; 12]), "CKR_OK");
        assert_eq!(hsm.encrypt(&session, 64).0, "CKR_DEVICE_ERROR");
        hsm.control("");
        assert_eq!(hsm.encrypt_init(&session, key, &mut [1; 12]), "CKR_OPERATION_ACTIVE");
        let other = hsm.open();
        hsm.encrypted(&other, key, &mut [1; 12]);
    });
}

/// Which of 64 calls with a new session fail, with a probability of a half.
fn failures(hsm: &Hsm) -> Vec<bool> {
    let session = hsm.open();
    let draw = || raw!(hsm.functions, C_GenerateRandom, session.handle(), [0u8; 8].as_mut_ptr(), 8);
    (0..64).map(|_| draw() != "CKR_OK").collect()
}

#[test]
fn the_same_seed_deals_the_same_errors() {
    isolated(test_path!("the_same_seed_deals_the_same_errors"), "seed = 11", |directory| {
        let rule = "error = { call = \"C_GenerateRandom\", code = \"CKR_DEVICE_ERROR\", \
            probability = 0.5 }";
        std::fs::write(directory.join("control.toml"), rule).unwrap();
        let hsm = Hsm::start(directory);
        let (first, second) = (failures(&hsm), failures(&hsm));
        assert!(first.contains(&true) && first.contains(&false));
        assert_ne!(first, second);
        // Ordinals begin again with each C_Initialize.
        let again = |hsm: &Hsm| {
            assert_eq!(raw!(hsm.functions, C_Finalize, ptr::null_mut()), "CKR_OK");
            assert_eq!(initialize(hsm.functions), "CKR_OK");
        };
        again(&hsm);
        assert_eq!((failures(&hsm), failures(&hsm)), (first.clone(), second));
        let config = std::fs::read_to_string(directory.join("hsm-sim.toml")).unwrap();
        std::fs::write(directory.join("hsm-sim.toml"), config.replace("seed = 11", "seed = 12"))
            .unwrap();
        again(&hsm);
        assert_ne!(failures(&hsm), first);
    });
}

#[test]
fn sessions_are_lost_and_the_login_with_them() {
    isolated(
        test_path!("sessions_are_lost_and_the_login_with_them"),
        "sessions_max = 2",
        |directory| {
            let hsm = Hsm::start(directory);
            let (session, key) = hsm.session_and_key();
            let other = hsm.open();
            assert_eq!(hsm.encrypt_init(&other, key, &mut [1; 12]), "CKR_OK");
            hsm.control("sessions_lost = 1");
            assert_eq!(hsm.encrypt_init(&session, key, &mut [1; 12]), "CKR_SESSION_HANDLE_INVALID");
            assert_eq!(hsm.encrypt(&other, 64).0, "CKR_SESSION_HANDLE_INVALID");
            // Their places are free, and nobody is logged in.
            let (first, second) = (hsm.open(), hsm.open());
            assert_ne!(hsm.encrypt_init(&first, key, &mut [1; 12]), "CKR_OK");
            assert_eq!(hsm.login(&first), "CKR_OK");
            let found = second
                .find_objects(&[cryptoki::object::Attribute::Label(b"key".to_vec())])
                .unwrap();
            hsm.encrypted(&second, found[0], &mut [1; 12]);
            // The same number again, no number, and the same number after none, change nothing.
            hsm.control("sessions_lost = 1\ncorrupt_ciphertext = 0.0");
            hsm.control("");
            hsm.control("sessions_lost = 1");
            hsm.encrypted(&second, found[0], &mut [1; 12]);
            hsm.control("sessions_lost = 2");
            assert_eq!(
                hsm.encrypt_init(&second, found[0], &mut [1; 12]),
                "CKR_SESSION_HANDLE_INVALID"
            );
            hsm.stats_when(|stats| stats["sessions"]["open"] == 0);
        },
    );
}

#[test]
fn the_token_is_removed_and_comes_back() {
    isolated(test_path!("the_token_is_removed_and_comes_back"), "", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        hsm.control("token_removed = true");
        assert_eq!(hsm.encrypt_init(&session, key, &mut [1; 12]), "CKR_DEVICE_REMOVED");
        assert!(hsm.pkcs11.get_slots_with_token().unwrap().is_empty());
        assert!(!hsm.pkcs11.get_slot_info(hsm.slot).unwrap().token_present());
        let mut handle = 0;
        let code = raw!(
            hsm.functions,
            C_OpenSession,
            hsm.slot.id(),
            CKF_SERIAL_SESSION,
            ptr::null_mut(),
            None,
            &mut handle
        );
        assert_eq!(code, "CKR_TOKEN_NOT_PRESENT");
        let mut info = CK_TOKEN_INFO::default();
        assert_eq!(
            raw!(hsm.functions, C_GetTokenInfo, hsm.slot.id(), &mut info),
            "CKR_TOKEN_NOT_PRESENT"
        );
        hsm.control("token_removed = false");
        assert_eq!(hsm.encrypt_init(&session, key, &mut [1; 12]), "CKR_SESSION_HANDLE_INVALID");
        assert!(hsm.pkcs11.get_slots_with_token().unwrap().contains(&hsm.slot));
        let session = hsm.open();
        assert_eq!(hsm.login(&session), "CKR_OK");
    });
}

#[test]
fn a_hanging_call_is_released() {
    isolated(test_path!("a_hanging_call_is_released"), "", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        let other = hsm.open();
        hsm.control("hang = \"C_EncryptInit\"");
        let (session, key) = (session.handle(), key.handle());
        let hung = std::thread::spawn(move || hsm_encrypt_init(session, key));
        hsm.stats_when(|stats| stats["hung"] == 1);
        assert!(!hung.is_finished());
        // The others go on, and another rule beside it does not end it.
        other.generate_random_vec(8).unwrap();
        hsm.control("hang = [\"C_EncryptInit\", \"C_Sign\"]");
        assert!(!hung.is_finished());
        hsm.control("");
        assert_eq!(hung.join().unwrap(), "CKR_OK");
        let stats = hsm.stats_when(|stats| stats["hung"] == 0);
        assert_eq!(stats["faults"]["hang"], 1);
    });
}

/// A `Session` of the crate cannot be lent to another thread; its handle can.
fn hsm_encrypt_init(session: CK_SESSION_HANDLE, key: CK_OBJECT_HANDLE) -> String {
    let mut iv = [1u8; 12];
    let mut parameters = CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: 12,
        ulIvBits: 96,
        pAAD: ptr::null_mut(),
        ulAADLen: 0,
        ulTagBits: 128,
    };
    let mut mechanism = CK_MECHANISM {
        mechanism: CKM_AES_GCM,
        pParameter: (&raw mut parameters).cast(),
        ulParameterLen: size_of::<CK_GCM_PARAMS>() as CK_ULONG,
    };
    raw!(real::load(&module()).unwrap(), C_EncryptInit, session, &mut mechanism, key)
}

#[test]
fn a_call_that_hangs_over_the_end_does_not_reach_the_next_instance() {
    isolated(
        test_path!("a_call_that_hangs_over_the_end_does_not_reach_the_next_instance"),
        "",
        |directory| {
            let hsm = Hsm::start(directory);
            let (session, key) = hsm.session_and_key();
            hsm.control("hang = \"C_EncryptInit\"");
            let (session, key) = (session.handle(), key.handle());
            let hung = std::thread::spawn(move || hsm_encrypt_init(session, key));
            hsm.stats_when(|stats| stats["hung"] == 1);
            assert_eq!(raw!(hsm.functions, C_Finalize, ptr::null_mut()), "CKR_OK");
            assert_eq!(initialize(hsm.functions), "CKR_OK");
            assert!(!hung.is_finished());
            std::fs::remove_file(directory.join("control.toml")).unwrap();
            assert_eq!(hung.join().unwrap(), "CKR_CRYPTOKI_NOT_INITIALIZED");
            let stats = hsm.stats_when(|stats| stats["hung"] == 0);
            assert_eq!(stats["finalized_while_busy"], 1);
        },
    );
}

#[test]
fn a_session_that_is_lost_while_its_call_hangs_is_told_so() {
    isolated(
        test_path!("a_session_that_is_lost_while_its_call_hangs_is_told_so"),
        "",
        |directory| {
            let hsm = Hsm::start(directory);
            let (session, key) = hsm.session_and_key();
            hsm.control("hang = \"*\"");
            let (session, key) = (session.handle(), key.handle());
            let hung = std::thread::spawn(move || hsm_encrypt_init(session, key));
            hsm.stats_when(|stats| stats["hung"] == 1);
            hsm.control("sessions_lost = 1");
            assert_eq!(hung.join().unwrap(), "CKR_SESSION_HANDLE_INVALID");
            let session = hsm.open();
            hsm.control("hang = \"*\"");
            let session = session.handle();
            let hung = std::thread::spawn(move || hsm_encrypt_init(session, key));
            hsm.stats_when(|stats| stats["hung"] == 1);
            hsm.control("token_removed = true");
            assert_eq!(hung.join().unwrap(), "CKR_DEVICE_REMOVED");
        },
    );
}

#[test]
fn stalls_and_slow_starts_are_waited() {
    isolated(test_path!("stalls_and_slow_starts_are_waited"), "", |directory| {
        std::fs::write(
            directory.join("control.toml"),
            "slow_start = { initialize_ms = 30, calls = 2, ms = 20 }",
        )
        .unwrap();
        let start = Instant::now();
        let hsm = Hsm::start(directory);
        assert!(start.elapsed() >= Duration::from_millis(30));
        let start = Instant::now();
        let session = hsm.open();
        session.generate_random_vec(8).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(40));
        session.generate_random_vec(8).unwrap();
        let stats = hsm.stats_when(|stats| stats["calls"]["C_GenerateRandom"] == 2);
        assert_eq!(stats["faults"]["slow_start"], 3);
        hsm.control("stall = { call = \"C_GenerateRandom\", ms = 50 }");
        let start = Instant::now();
        session.generate_random_vec(8).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(50));
        hsm.stats_when(|stats| stats["faults"]["stall"] == 1);
    });
}

#[test]
fn corrupted_ciphertext_does_not_decrypt() {
    isolated(test_path!("corrupted_ciphertext_does_not_decrypt"), "", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        let whole = hsm.encrypted(&session, key, &mut [1; 12]);
        hsm.control("corrupt_ciphertext = 1.0");
        for _ in 0..20 {
            let corrupt = hsm.encrypted(&session, key, &mut [1; 12]);
            let bits: u32 = whole.iter().zip(&corrupt).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(bits, 1);
            assert_ne!(hsm.decrypted(&session, key, &mut [1; 12], &corrupt).0, "CKR_OK");
        }
        hsm.control("wrong_plaintext = 1.0");
        let (code, plain) = hsm.decrypted(&session, key, &mut [1; 12], &whole);
        assert_eq!(code, "CKR_OK");
        assert_eq!(plain.len(), DATA.len());
        assert_ne!(plain, DATA);
        hsm.control("");
        assert_eq!(hsm.decrypted(&session, key, &mut [1; 12], &whole).1, DATA);
        let stats = hsm.stats_when(|stats| stats["faults"]["wrong_plaintext"] == 1);
        assert_eq!(stats["faults"]["corrupt_ciphertext"], 20);
    });
}

#[test]
fn initialisation_and_login_fail() {
    isolated(test_path!("initialisation_and_login_fail"), "", |directory| {
        let functions = real::load(&module()).unwrap();
        std::fs::write(directory.join("control.toml"), "initialize_fails = \"CKR_DEVICE_ERROR\"")
            .unwrap();
        assert_eq!(initialize(functions), "CKR_DEVICE_ERROR");
        std::fs::write(directory.join("control.toml"), "login_fails = \"CKR_PIN_LOCKED\"").unwrap();
        let hsm = Hsm::start(directory);
        let session = hsm.open();
        assert_eq!(hsm.login(&session), "CKR_PIN_LOCKED");
        hsm.control("");
        assert_eq!(hsm.login(&session), "CKR_OK");
    });
}

#[test]
fn a_control_file_that_is_not_understood_changes_nothing() {
    isolated(
        test_path!("a_control_file_that_is_not_understood_changes_nothing"),
        "",
        |directory| {
            let hsm = Hsm::start(directory);
            let session = hsm.open();
            hsm.control("error = { call = \"C_GenerateRandom\", code = \"CKR_DEVICE_ERROR\" }");
            hsm.prepare("error = { call = \"C_GenerateRandom\", code = \"CKR_NO_SUCH_CODE\" }");
            hsm.stats_when(|stats| stats["control"]["refused"] == 1);
            assert_eq!(
                raw!(hsm.functions, C_GenerateRandom, session.handle(), [0u8; 8].as_mut_ptr(), 8),
                "CKR_DEVICE_ERROR"
            );
        },
    );
}

#[test]
fn many_threads_lose_their_sessions_and_go_on() {
    isolated(
        test_path!("many_threads_lose_their_sessions_and_go_on"),
        "sessions_max = 16",
        |directory| {
            let hsm = Hsm::start(directory);
            let slot = hsm.slot.id();
            let end = std::sync::atomic::AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..16 {
                    scope.spawn(|| {
                        let functions = real::load(&module()).unwrap();
                        while !end.load(std::sync::atomic::Ordering::Relaxed) {
                            let mut session = 0;
                            let code = raw!(
                                functions,
                                C_OpenSession,
                                slot,
                                CKF_SERIAL_SESSION,
                                ptr::null_mut(),
                                None,
                                &mut session
                            );
                            assert_eq!(code, "CKR_OK");
                            for _ in 0..100 {
                                let code = raw!(
                                    functions,
                                    C_GenerateRandom,
                                    session,
                                    [0u8; 16].as_mut_ptr(),
                                    16
                                );
                                assert!(
                                    code == "CKR_OK" || code == "CKR_SESSION_HANDLE_INVALID",
                                    "{code}"
                                );
                            }
                            let code = raw!(functions, C_CloseSession, session);
                            assert!(
                                code == "CKR_OK" || code == "CKR_SESSION_HANDLE_INVALID",
                                "{code}"
                            );
                        }
                    });
                }
                for number in 1..10 {
                    hsm.control(&format!("sessions_lost = {number}"));
                }
                end.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            hsm.stats_when(|stats| stats["sessions"]["open"] == 0);
        },
    );
}
