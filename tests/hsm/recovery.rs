//! What the PKCS#11 key manager does when the HSM goes away and comes back, has too few sessions,
//! or is asked for keys it does not have: against hsm-sim.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::jobs::*;
use crate::simulator::simulator;
use test_harness::own_process;
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile, Settings, TokenSelector};
use xksd::key_manager::{Engine, Fault};
use xksd::limits::{
    HUNG_OPEN_TIME, INITIALIZE_INTERVAL, INITIALIZE_WAIT_MAX, KEY_REFUSAL_AGE_MAX,
    REINITIALIZE_FAILURES, SELF_TEST_ROUND_TRIPS, SESSION_COUNT_BACKOFF,
};

/// Far less than what hangs here, and more than a loaded machine makes of "at once".
const AT_ONCE: Duration = Duration::from_secs(8);

own_process! {
    fn a_token_without_sessions_left_gives_what_it_has(directory) {
        let hsm = simulator(directory, "sessions_max = 5");
        let _token = hsm.token();
        let engine = hsm.engine(Profile::Generic);
        // One is the engine's own: it keeps the login.
        let mut sessions: Vec<_> = (0..4).map(|_| engine.open().expect("there are as many")).collect();
        let fault = engine.open().err().expect("no more");
        assert!(detail(&fault).starts_with("C_OpenSession: CKR_SESSION_COUNT: the token has no \
            session left"), "{fault:?}");
        let before = hsm.calls("C_OpenSession");
        let start = Instant::now();
        std::thread::sleep(SESSION_COUNT_BACKOFF);
        assert!(engine.open().is_err());
        let mut tries = 0;
        while start.elapsed() < SESSION_COUNT_BACKOFF * 3 {
            assert_eq!(engine.open().err(), Some(fault.clone()));
            tries += 1;
        }
        assert!(tries > 100 && hsm.calls("C_OpenSession") - before <= 4, "{tries} tries went to \
            the HSM");
        for session in &mut sessions {
            encrypt_checked(&mut **session, "foo", b"text", b"", b"").expect("serves");
        }
        sessions.pop();
        std::thread::sleep(SESSION_COUNT_BACKOFF);
        encrypt_checked(&mut *engine.open().expect("there is one again"), "foo", b"text", b"", b"").expect("serves");
        // Never was it taken for an HSM that is lost.
        assert_eq!(hsm.calls("C_Finalize"), 0);
    }
}

own_process! {
    fn keys_that_are_not_there_are_not_searched_for_each_time(directory) {
        let hsm = simulator(directory, "");
        let token = hsm.token();
        let engine = hsm.engine(Profile::Generic);
        let mut sessions = [engine.open().expect("opens"), engine.open().expect("opens")];
        let before = hsm.calls("C_FindObjectsInit");
        let start = Instant::now();
        for n in 0..100 {
            let session = &mut *sessions[n % 2];
            assert!(detail(&encrypt(session, "nope", b"text", b"").expect_err("none")).starts_with("no secret key labelled \"nope\""));
            assert!(matches!(describe(session, "nope"), Err(Fault::KeyNotFound { .. })));
        }
        let seconds = start.elapsed().as_secs();
        assert!(hsm.calls("C_FindObjectsInit") - before <= 1 + seconds);
        token.make_key("nope", 32, &[]);
        std::thread::sleep(KEY_REFUSAL_AGE_MAX);
        encrypt_checked(&mut *sessions[0], "nope", b"text", b"", b"").expect("there by now");
        assert!(describe(&mut *sessions[1], "nope").is_ok());
    }
}

own_process! {
    fn all_sessions_take_part_in_the_trial_of_an_hsm_that_lied(directory) {
        const SESSIONS: usize = 4;
        let hsm = simulator(directory, "[wire]\nfixed_us = 5000");
        let _token = hsm.token();
        let engine = hsm.engine(Profile::Generic);
        let (open, healed) = (Barrier::new(SESSIONS + 1), Barrier::new(SESSIONS + 1));
        std::thread::scope(|scope| {
            for _ in 0..SESSIONS {
                scope.spawn(|| {
                    let mut session = engine.open().expect("opens");
                    open.wait();
                    healed.wait();
                    encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("done after \
                        the trial");
                });
            }
            open.wait();
            hsm.control("wrong_plaintext = 1");
            assert!(encrypt_checked(&mut *engine.open().expect("opens"), "foo", b"text", b"", b"").is_err());
            hsm.control("");
            let before = hsm.calls("C_Decrypt");
            healed.wait();
            // Each had a round trip under way, at the most, when the last one that was needed was
            // right; and each did its job.
            let most = before as usize + SELF_TEST_ROUND_TRIPS + SESSIONS - 1 + SESSIONS;
            hsm.stats_when(|stats| stats["calls"]["C_Decrypt"].as_u64() >= Some(before + (SELF_TEST_ROUND_TRIPS + SESSIONS) as u64));
            std::thread::sleep(Duration::from_millis(200));
            assert!(hsm.calls("C_Decrypt") as usize <= most);
        });
    }
}

/// Opens until it works.
fn open_at_last(engine: &Pkcs11Engine) -> Box<dyn xksd::key_manager::Session> {
    let start = Instant::now();
    loop {
        match engine.open() {
            Ok(session) => return session,
            Err(fault) => assert!(start.elapsed() < Duration::from_secs(60), "{fault:?}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

own_process! {
    fn a_lost_library_is_initialised_anew_when_nobody_is_inside(directory) {
        let hsm = simulator(directory, "[wire]\nfixed_us = 2000");
        let _token = hsm.token();
        let engine = hsm.engine(Profile::Luna);
        let (open, removed) = (Barrier::new(9), Barrier::new(9));
        let opens = AtomicUsize::new(0);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut session = Some(engine.open().expect("opens"));
                    open.wait();
                    removed.wait();
                    while !done.load(SeqCst) {
                        match &mut session {
                            Some(open) => {
                                assert!(matches!(encrypt(&mut **open, "foo", b"text", b""), Err(Fault::Device { .. })));
                                if !open.is_usable() {
                                    session = None;
                                }
                            }
                            None => {
                                opens.fetch_add(1, SeqCst);
                                assert!(matches!(engine.open().err(), Some(Fault::Device { .. })));
                            }
                        }
                    }
                });
            }
            open.wait();
            hsm.control("token_removed = true");
            removed.wait();
            hsm.stats_when(|stats| stats["calls"]["C_Finalize"].as_u64() >= Some(1));
            done.store(true, SeqCst);
        });
        assert!(opens.load(SeqCst) >= REINITIALIZE_FAILURES as usize);
        hsm.prepare("");
        let mut session = open_at_last(&engine);
        // It is Luna's profile on a module that takes IVs; what matters is that there is a session
        // that works.
        assert!(describe(&mut *session, "foo").is_ok());
        let stats = hsm.settled_stats();
        assert_eq!(stats["finalized_while_busy"], 0, "{stats:#}");
        // At most one each five seconds, however many try.
        assert!(stats["calls"]["C_Finalize"].as_u64() <= Some(13), "{stats:#}");
    }
}

own_process! {
    fn a_call_that_hangs_forbids_it_and_is_told(directory) {
        let hsm = simulator(directory, "");
        let _token = hsm.token();
        let engine = hsm.engine(Profile::Generic);
        let mut session = engine.open().expect("opens");
        encrypt(&mut *session, "foo", b"text", b"").expect("encrypts");
        hsm.control("hang = \"C_Encrypt\"");
        let (hung, hangs) = (AtomicBool::new(false), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // A session is its thread's own.
                let mut session = engine.open().expect("opens");
                hangs.wait();
                assert!(encrypt(&mut *session, "foo", b"text", b"").is_err());
                hung.store(true, SeqCst);
            });
            hangs.wait();
            hsm.stats_when(|stats| stats["hung"].as_u64() >= Some(1));
            drop(session);
            assert_eq!(engine.library().stuck, None);
            hsm.control("hang = \"C_Encrypt\"\ntoken_removed = true");
            let start = Instant::now();
            while start.elapsed() < HUNG_OPEN_TIME + Duration::from_secs(1) {
                assert!(matches!(engine.open().err(), Some(Fault::Device { .. })));
                std::thread::sleep(Duration::from_millis(50));
            }
            let stuck = engine.library().stuck.expect("told");
            assert!(stuck.why.contains("its library must be initialised again, which 1 sessions"), "{stuck:?}");
            assert_eq!((hsm.calls("C_Finalize"), hung.load(SeqCst)), (0, false));
            hsm.control("");
        });
        encrypt(&mut *open_at_last(&engine), "foo", b"text", b"").expect("encrypts");
        assert_eq!(engine.library().stuck, None);
        assert_eq!(hsm.settled_stats()["finalized_while_busy"], 0);
    }
}

own_process! {
    fn a_library_that_serves_somebody_is_left_as_it_is(directory) {
        let hsm = simulator(directory, "");
        let _token = hsm.token();
        let engine = hsm.engine(Profile::Generic);
        let mut session = engine.open().expect("opens");
        let nope = TokenSelector::Label("nope".to_owned());
        let other = Pkcs11Engine::new(Settings { token: nope, ..hsm.settings(Profile::Generic) }).expect("made");
        for _ in 0..4 * REINITIALIZE_FAILURES {
            assert!(detail(&other.open().err().expect("no such token")).contains("not found"));
            encrypt_checked(&mut *session, "foo", b"text", b"", b"").expect("serves");
        }
        assert_eq!(hsm.calls("C_Finalize"), 0);
    }
}

own_process! {
    fn an_initialisation_that_hangs_or_fails_holds_nobody_up(directory) {
        let hsm = simulator(directory, "");
        let token = hsm.token();
        token.pkcs11.finalize().expect("down");
        let engine = hsm.engine(Profile::Generic);
        hsm.prepare("initialize_fails = \"CKR_DEVICE_ERROR\"");
        for _ in 0..3 {
            assert_eq!(detail(&engine.open().err().expect("down")), "C_Initialize: CKR_DEVICE_ERROR");
        }
        hsm.prepare("hang = \"C_Initialize\"");
        // Until then the failure is told without a call.
        std::thread::sleep(INITIALIZE_INTERVAL);
        std::thread::scope(|scope| {
            let hung = scope.spawn(|| engine.open().map(drop));
            std::thread::sleep(INITIALIZE_WAIT_MAX + Duration::from_millis(200));
            let start = Instant::now();
            for _ in 0..100 {
                assert_eq!(detail(&engine.open().err().expect("down")), "C_Initialize: another \
                    thread is still waiting for it");
                assert!(engine.info().is_err());
            }
            assert!(start.elapsed() < AT_ONCE);
            hsm.prepare("");
            assert_eq!(hung.join().expect("ends"), Ok(()));
        });
        encrypt_checked(&mut *engine.open().expect("opens"), "foo", b"text", b"", b"").expect("serves");
        assert_eq!(hsm.settled_stats()["finalized_while_busy"], 0);
    }
}
