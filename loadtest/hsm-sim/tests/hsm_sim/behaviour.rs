//! The HSM in its good days: forwarding, time, limits, IVs, counters, configuration.

use std::process::Command;
use std::ptr;
use std::time::{Duration, Instant};

use crate::hsm::*;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::Attribute;
use cryptoki_sys::*;
use hsm_sim::real;
use test_harness::test_path;
use test_harness::token::PIN;

#[test]
fn plain_use() {
    isolated(test_path!("plain_use"), "", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        assert_eq!(session.find_objects(&[Attribute::Label(b"key".to_vec())]).unwrap(), [key]);
        let mut iv = [7; 12];
        let encrypted = session
            .encrypt(
                &Mechanism::AesGcm(GcmParams::new(&mut iv, AAD, 128.into()).unwrap()),
                key,
                DATA,
            )
            .unwrap();
        assert_eq!(encrypted.len(), DATA.len() + TAG_BYTES);
        assert_eq!(iv, [7; 12]);
        let gcm = Mechanism::AesGcm(GcmParams::new(&mut iv, AAD, 128.into()).unwrap());
        assert_eq!(session.decrypt(&gcm, key, &encrypted).unwrap(), DATA);
        let info = hsm.pkcs11.get_library_info().unwrap();
        assert_eq!((info.cryptoki_version().major(), info.cryptoki_version().minor()), (2, 40));
    });
}

#[test]
fn only_the_function_list_is_exported() {
    // SAFETY: loading the module runs no code but its constructors, of which it has none.
    let library = unsafe { libloading::Library::new(module()) }.unwrap();
    for (name, exported) in [
        ("C_GetFunctionList", true),
        ("C_GetInterface", false),
        ("C_Initialize", false),
        ("C_Encrypt", false),
    ] {
        // SAFETY: the symbol is looked for and not used.
        let found = unsafe { library.get::<*const ()>(name.as_bytes()) }.is_ok();
        assert_eq!(found, exported, "{name}");
    }
}

#[test]
fn calls_before_and_after_initialisation_are_refused() {
    isolated(test_path!("calls_before_and_after_initialisation_are_refused"), "", |directory| {
        let functions = real::load(&module()).unwrap();
        assert_eq!((functions.version.major, functions.version.minor), (2, 40));
        assert_eq!(
            raw!(functions, C_GetSessionInfo, 1, ptr::null_mut()),
            "CKR_CRYPTOKI_NOT_INITIALIZED"
        );
        let hsm = Hsm::start(directory);
        assert_eq!(initialize(functions), "CKR_CRYPTOKI_ALREADY_INITIALIZED");
        let session = hsm.open();
        assert_eq!(raw!(functions, C_Finalize, ptr::null_mut()), "CKR_OK");
        assert_eq!(
            raw!(functions, C_CloseSession, session.handle()),
            "CKR_CRYPTOKI_NOT_INITIALIZED"
        );
        assert_eq!(initialize(functions), "CKR_OK");
        assert_eq!(raw!(functions, C_CloseSession, session.handle()), "CKR_SESSION_HANDLE_INVALID");
        let stats = hsm.stats_when(|stats| stats["calls"]["C_CloseSession"] == 2);
        assert_eq!(stats["sessions"]["open"], 0);
        assert_eq!(stats["finalized_while_busy"], 0);
    });
}

#[test]
fn wire_and_service_time_are_waited() {
    let config = "[wire]\nfixed_us = 2000\n[device]\nunits = 1\nservice_us = 3000";
    isolated(test_path!("wire_and_service_time_are_waited"), config, |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        let start = Instant::now();
        assert_eq!(hsm.encrypt_init(&session, key, &mut [1; 12]), "CKR_OK");
        assert!(start.elapsed() >= Duration::from_millis(2));
        let start = Instant::now();
        hsm.encrypt(&session, 64);
        assert!(start.elapsed() >= Duration::from_millis(5));
        // One unit: eight calls at once take eight service times.
        let sessions: Vec<_> = (0..8).map(|_| hsm.open()).collect();
        let start = Instant::now();
        std::thread::scope(|scope| {
            for session in sessions {
                scope.spawn(move || {
                    let mut random = [0; 16];
                    assert_eq!(
                        raw!(
                            hsm_functions(),
                            C_GenerateRandom,
                            session.handle(),
                            random.as_mut_ptr(),
                            16
                        ),
                        "CKR_OK"
                    );
                });
            }
        });
        assert!(start.elapsed() >= Duration::from_millis(2 + 8 * 3));
    });
}

fn hsm_functions() -> &'static real::Functions {
    real::load(&module()).unwrap()
}

#[test]
fn the_wire_has_a_tail() {
    isolated(
        test_path!("the_wire_has_a_tail"),
        "seed = 1\n[wire]\np50_us = 1000\np99_us = 4000\ncalls = \"C_GenerateRandom\"",
        |directory| {
            let hsm = Hsm::start(directory);
            let session = hsm.open();
            let start = Instant::now();
            for _ in 0..50 {
                session.generate_random_vec(8).unwrap();
            }
            // The median alone; the tail is tested where it is drawn.
            assert!(start.elapsed() >= Duration::from_millis(25));
        },
    );
}

#[test]
fn a_long_queue_is_throttled() {
    let config = "[device]\nunits = 1\nservice_us = 50000\nthrottle = { wait_us_max = 0, code = \
        \"CKR_FUNCTION_FAILED\" }";
    isolated(test_path!("a_long_queue_is_throttled"), config, |directory| {
        let hsm = Hsm::start(directory);
        let sessions: Vec<_> = (0..8).map(|_| hsm.open()).collect();
        let codes: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = sessions
                .into_iter()
                .map(|session| {
                    scope.spawn(move || {
                        raw!(
                            hsm_functions(),
                            C_GenerateRandom,
                            session.handle(),
                            [0u8; 16].as_mut_ptr(),
                            16
                        )
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(codes.iter().any(|code| code == "CKR_OK"), "{codes:?}");
        assert!(
            codes.iter().all(|code| code == "CKR_OK" || code == "CKR_FUNCTION_FAILED"),
            "{codes:?}"
        );
        let refused = codes.iter().filter(|code| *code != "CKR_OK").count();
        hsm.stats_when(|stats| stats["faults"]["throttle"] == refused);
    });
}

#[test]
fn sessions_are_limited() {
    isolated(test_path!("sessions_are_limited"), "sessions_max = 3", |directory| {
        let hsm = Hsm::start(directory);
        let sessions: Vec<_> = (0..3).map(|_| hsm.open()).collect();
        let open = || {
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
            (code, handle)
        };
        assert_eq!(open().0, "CKR_SESSION_COUNT");
        assert_eq!(raw!(hsm.functions, C_CloseSession, sessions[0].handle()), "CKR_OK");
        let (code, handle) = open();
        assert_eq!(code, "CKR_OK");
        assert!(sessions.iter().all(|session| session.handle() != handle), "a handle came back");
        assert_eq!(open().0, "CKR_SESSION_COUNT");
        assert_eq!(raw!(hsm.functions, C_CloseAllSessions, hsm.slot.id()), "CKR_OK");
        assert_eq!(open().0, "CKR_OK");
        let stats = hsm.stats_when(|stats| stats["sessions"]["opened"] == 5);
        assert_eq!(stats["sessions"]["open"], 1);
        assert_eq!(stats["sessions"]["peak"], 3);
        assert_eq!(stats["errors_by_call"]["C_OpenSession"]["CKR_SESSION_COUNT"], 2);
    });
}

#[test]
fn iv_by_the_caller() {
    isolated(test_path!("iv_by_the_caller"), "", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        let mut iv = [9; 12];
        let encrypted = hsm.encrypted(&session, key, &mut iv);
        assert_eq!(iv, [9; 12]);
        assert_eq!(
            hsm.decrypted(&session, key, &mut iv, &encrypted),
            ("CKR_OK".to_owned(), DATA.to_vec())
        );
    });
}

#[test]
fn iv_filled_in() {
    isolated(test_path!("iv_filled_in"), "[gcm]\niv = \"fill\"", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        let mut seen = Vec::new();
        for _ in 0..3 {
            let mut iv = [0; 12];
            let encrypted = hsm.encrypted(&session, key, &mut iv);
            assert_ne!(iv, [0; 12]);
            assert_eq!(hsm.decrypted(&session, key, &mut iv, &encrypted).1, DATA);
            seen.push(iv);
        }
        assert!(seen[0] != seen[1] && seen[1] != seen[2]);
        let mut not_zero = [0; 12];
        not_zero[11] = 1;
        assert_eq!(hsm.encrypt_init(&session, key, &mut not_zero), "CKR_MECHANISM_PARAM_INVALID");
        assert_eq!(hsm.encrypt_init(&session, key, &mut []), "CKR_MECHANISM_PARAM_INVALID");
        assert_eq!(hsm.encrypt_init(&session, key, &mut [0; 11]), "CKR_MECHANISM_PARAM_INVALID");
    });
}

#[test]
fn iv_filled_in_late() {
    isolated(
        test_path!("iv_filled_in_late"),
        "[gcm]\niv = \"fill\"\niv_written = \"encrypt\"",
        |directory| {
            let hsm = Hsm::start(directory);
            let (session, key) = hsm.session_and_key();
            let mut iv = [0; 12];
            assert_eq!(hsm.encrypt_init(&session, key, &mut iv), "CKR_OK");
            assert_eq!(iv, [0; 12]);
            assert_eq!(hsm.encrypt(&session, 8).0, "CKR_BUFFER_TOO_SMALL");
            assert_eq!(iv, [0; 12]);
            let (code, encrypted) = hsm.encrypt(&session, DATA.len() + TAG_BYTES);
            assert_eq!(code, "CKR_OK");
            assert_ne!(std::hint::black_box(iv), [0; 12]);
            assert_eq!(hsm.decrypted(&session, key, &mut iv, &encrypted).1, DATA);
        },
    );
}

#[test]
fn iv_appended() {
    isolated(test_path!("iv_appended"), "[gcm]\niv = \"append\"", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        let full = DATA.len() + TAG_BYTES + 16;
        assert_eq!(hsm.encrypt_init(&session, key, &mut [0; 12]), "CKR_MECHANISM_PARAM_INVALID");
        assert_eq!(hsm.encrypt_init(&session, key, &mut []), "CKR_OK");
        // The length is asked for, the buffer is too small, and the operation goes on.
        let mut length = 0;
        let asked = raw!(
            hsm.functions,
            C_Encrypt,
            session.handle(),
            DATA.as_ptr().cast_mut(),
            DATA.len() as CK_ULONG,
            ptr::null_mut(),
            &mut length
        );
        assert_eq!((asked.as_str(), length as usize), ("CKR_OK", full));
        let (code, needed) = hsm.encrypt(&session, full - 1);
        assert_eq!((code.as_str(), needed.len()), ("CKR_BUFFER_TOO_SMALL", full));
        let (code, output) = hsm.encrypt(&session, full + 5);
        assert_eq!((code.as_str(), output.len()), ("CKR_OK", full));
        assert_eq!(hsm.encrypt(&session, full).0, "CKR_OPERATION_NOT_INITIALIZED");
        assert_eq!(hsm.encrypt(&session, 0).0, "CKR_OPERATION_NOT_INITIALIZED");
        let (encrypted, iv) = output.split_at(full - 16);
        assert_eq!(hsm.decrypted(&session, key, &mut iv.to_vec(), encrypted).1, DATA);
        assert_eq!(hsm.encrypt_init(&session, key, &mut []), "CKR_OK");
        assert_ne!(hsm.encrypt(&session, full).1[full - 16..], *iv);
    });
}

#[test]
fn iv_appended_to_the_final_part() {
    isolated(test_path!("iv_appended_to_the_final_part"), "[gcm]\niv = \"append\"", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        assert_eq!(hsm.encrypt_init(&session, key, &mut []), "CKR_OK");
        let mut out = [0u8; 128];
        let mut first = out.len() as CK_ULONG;
        let (data, data_len) = (DATA.as_ptr().cast_mut(), DATA.len() as CK_ULONG);
        let code = raw!(
            hsm.functions,
            C_EncryptUpdate,
            session.handle(),
            data,
            data_len,
            out.as_mut_ptr(),
            &mut first
        );
        assert_eq!(code, "CKR_OK");
        let rest = &mut out[first as usize..];
        let mut last = 3;
        assert_eq!(
            raw!(hsm.functions, C_EncryptFinal, session.handle(), rest.as_mut_ptr(), &mut last),
            "CKR_BUFFER_TOO_SMALL"
        );
        assert!(last as usize >= TAG_BYTES + 16);
        last = rest.len() as CK_ULONG;
        assert_eq!(
            raw!(hsm.functions, C_EncryptFinal, session.handle(), rest.as_mut_ptr(), &mut last),
            "CKR_OK"
        );
        let all = (first + last) as usize;
        assert_eq!(all, DATA.len() + TAG_BYTES + 16);
        let (encrypted, iv) = out[..all].split_at(all - 16);
        assert_eq!(hsm.decrypted(&session, key, &mut iv.to_vec(), encrypted).1, DATA);
    });
}

#[test]
fn a_bad_tag_is_told_as_configured() {
    isolated(
        test_path!("a_bad_tag_is_told_as_configured"),
        "[gcm]\nbad_tag = \"CKR_FUNCTION_FAILED\"",
        |directory| {
            let hsm = Hsm::start(directory);
            let (session, key) = hsm.session_and_key();
            let mut encrypted = hsm.encrypted(&session, key, &mut [3; 12]);
            encrypted[0] ^= 1;
            assert_eq!(
                hsm.decrypted(&session, key, &mut [3; 12], &encrypted).0,
                "CKR_FUNCTION_FAILED"
            );
            encrypted[0] ^= 1;
            assert_eq!(hsm.decrypted(&session, key, &mut [3; 12], &encrypted).1, DATA);
        },
    );
}

#[test]
fn every_call_is_counted_once() {
    isolated(test_path!("every_call_is_counted_once"), "", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        for _ in 0..7 {
            let encrypted = hsm.encrypted(&session, key, &mut [5; 12]);
            hsm.decrypted(&session, key, &mut [5; 12], &encrypted);
        }
        assert_eq!(raw!(hsm.functions, C_Finalize, ptr::null_mut()), "CKR_OK");
        // C_Finalize has written them.
        let stats = hsm.stats_when(|_| true);
        for call in ["C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt"] {
            assert_eq!(stats["calls"][call], 7, "{call}");
        }
        assert_eq!(stats["calls"]["C_Login"], 1);
        assert_eq!(stats["errors"], serde_json::json!({}));
    });
}

#[test]
fn wrong_files_are_told_and_no_panic() {
    isolated(test_path!("wrong_files_are_told_and_no_panic"), "", |directory| {
        let functions = real::load(&module()).unwrap();
        let config = directory.join("hsm-sim.toml");
        let good = std::fs::read_to_string(&config).unwrap();
        for bad in [
            "module = 3",
            "modul = \"x\"",
            "module = \"/no/such/module.so\"",
            "module = \"libc.so.6\"",
            "\u{0}",
        ] {
            std::fs::write(&config, bad).unwrap();
            assert_eq!(initialize(functions), "CKR_GENERAL_ERROR", "{bad}");
        }
        std::fs::remove_file(&config).unwrap();
        assert_eq!(initialize(functions), "CKR_GENERAL_ERROR");
        std::fs::write(&config, &good).unwrap();
        std::fs::write(directory.join("control.toml"), "hang = 1").unwrap();
        assert_eq!(initialize(functions), "CKR_GENERAL_ERROR");
        std::fs::remove_file(directory.join("control.toml")).unwrap();
        assert_eq!(initialize(functions), "CKR_OK");
        assert_eq!(raw!(functions, C_GetFunctionList, ptr::null_mut()), "CKR_ARGUMENTS_BAD");
        assert_eq!(raw!(functions, C_Finalize, ptr::null_mut()), "CKR_OK");
    });
}

#[test]
fn a_copy_has_the_configuration_beside_it() {
    isolated(test_path!("a_copy_has_the_configuration_beside_it"), "", |directory| {
        let copy = directory.join("other.so");
        std::fs::copy(module(), &copy).unwrap();
        std::fs::write(directory.join("other.so.toml"), "nonsense").unwrap();
        assert_eq!(initialize(real::load(&copy).unwrap()), "CKR_GENERAL_ERROR");
        assert_eq!(initialize(real::load(&module()).unwrap()), "CKR_OK");
    });
}

#[test]
fn two_hsms_live_in_one_process() {
    isolated(test_path!("two_hsms_live_in_one_process"), "", |directory| {
        let hsms = ["a", "b"].map(|name| {
            let path = |ending: &str| directory.join(format!("{name}{ending}"));
            std::fs::copy(module(), path(".so")).unwrap();
            std::fs::copy(softhsm(), path("-softhsm.so")).unwrap();
            let config =
                format!("module = \"./{name}-softhsm.so\"\ncontrol = \"{name}-control.toml\"");
            std::fs::write(path(".so.toml"), config).unwrap();
            real::load(&path(".so")).unwrap()
        });
        assert_eq!(hsms.map(initialize), ["CKR_OK", "CKR_OK"]);
        std::fs::write(directory.join("a-control.toml"), "token_removed = true").unwrap();
        let slots = |functions: &real::Functions| {
            let mut count = 0;
            assert_eq!(
                raw!(functions, C_GetSlotList, CK_TRUE, ptr::null_mut(), &mut count),
                "CKR_OK"
            );
            count
        };
        while slots(hsms[0]) > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(slots(hsms[1]) > 0);
        assert_eq!(raw!(hsms[0], C_Finalize, ptr::null_mut()), "CKR_OK");
        assert!(slots(hsms[1]) > 0);
    });
}

/// Whether it ended well, its report, and what it complained of.
fn bare_loop(iv: &str) -> (bool, serde_json::Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hsm-loop"))
        .args([
            "--token",
            "test",
            "--pin",
            PIN,
            "--sessions",
            "3",
            "--seconds",
            "1",
            "--iv",
            iv,
            "--module",
        ])
        .arg(module())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or_default(), complaint)
}

#[test]
fn the_bare_loop_counts_operations() {
    isolated(
        test_path!("the_bare_loop_counts_operations"),
        "[gcm]\niv = \"append\"",
        |directory| {
            let (success, report, complaint) = bare_loop("append");
            assert!(success && complaint.is_empty(), "{report} {complaint}");
            assert!(report["operations"].as_u64() > Some(0), "{report}");
            let stats: serde_json::Value =
                serde_json::from_slice(&std::fs::read(directory.join("stats.json")).unwrap())
                    .unwrap();
            assert_eq!(stats["calls"]["C_Decrypt"], report["operations"]);
            assert_eq!(stats["sessions"]["peak"], 3);
            // The module insists on its own IVs.
            let (success, report, complaint) = bare_loop("caller");
            assert!(!success);
            assert_eq!(
                complaint,
                "hsm-loop: 3 of 3 sessions ended early: C_EncryptInit: CKR_MECHANISM_PARAM_INVALID\n"
            );
            assert_eq!(
                report["sessions_ended_by_error"]["C_EncryptInit: CKR_MECHANISM_PARAM_INVALID"], 3,
                "{report}"
            );
        },
    );
}

#[test]
fn the_bare_loop_takes_ivs_that_the_module_fills_in() {
    isolated(
        test_path!("the_bare_loop_takes_ivs_that_the_module_fills_in"),
        "[gcm]\niv = \"fill\"",
        |_| {
            let (success, report, _) = bare_loop("fill");
            assert!(success && report["operations"].as_u64() > Some(0), "{report}");
        },
    );
}

/// This module takes the zeros for the caller's IV, as SoftHSM does, and everything would be
/// encrypted under them.
#[test]
fn the_bare_loop_refuses_an_iv_of_zeros() {
    isolated(test_path!("the_bare_loop_refuses_an_iv_of_zeros"), "", |_| {
        let (success, report, _) = bare_loop("fill");
        assert!(!success);
        assert_eq!(
            report["sessions_ended_by_error"]["--iv fill: the IV is all zeros after C_Encrypt"], 3,
            "{report}"
        );
        assert_eq!(report["operations"], 0);
    });
}

#[test]
fn calls_that_want_a_read_write_session_are_refused_in_others() {
    let config = "read_write_calls = \"C_GenerateRandom\"";
    let path = test_path!("calls_that_want_a_read_write_session_are_refused_in_others");
    isolated(path, config, |directory| {
        let hsm = Hsm::start(directory);
        let random = |session: cryptoki::session::Session| {
            let mut out = [0; 8];
            raw!(hsm.functions, C_GenerateRandom, session.handle(), out.as_mut_ptr(), 8)
        };
        assert_eq!(random(hsm.open()), "CKR_OK");
        let read_only = hsm.pkcs11.open_ro_session(hsm.slot).unwrap();
        assert_eq!(random(read_only), "CKR_SESSION_READ_ONLY");
    });
}

#[test]
fn a_device_without_aes_gcm_neither_shows_nor_does_it() {
    let path = test_path!("a_device_without_aes_gcm_neither_shows_nor_does_it");
    isolated(path, "[gcm]\nabsent = true", |directory| {
        let hsm = Hsm::start(directory);
        let (session, key) = hsm.session_and_key();
        let mechanisms = hsm.pkcs11.get_mechanism_list(hsm.slot).unwrap();
        assert!(!mechanisms.contains(&MechanismType::AES_GCM) && mechanisms.len() > 20);
        assert!(hsm.pkcs11.get_mechanism_info(hsm.slot, MechanismType::AES_GCM).is_err());
        assert_eq!(hsm.encrypt_init(&session, key, &mut [1; 12]), "CKR_MECHANISM_INVALID");
        assert_eq!(hsm.decrypt_init(&session, key, &mut [1; 12]), "CKR_MECHANISM_INVALID");
    });
}
