use super::*;

use KeyUse::{Decrypt, Encrypt};

const BOTH: &[KeyUse] = &[Encrypt, Decrypt];

fn refused() -> Fault {
    Fault::KeyRefused { detail: "key \"bad\": C_EncryptInit: CKR_MECHANISM_INVALID".to_owned() }
}

fn lost() -> Fault {
    Fault::Device { detail: "C_Encrypt: CKR_SESSION_CLOSED".to_owned() }
}

fn label(text: &str) -> Arc<str> {
    text.into()
}

#[test]
fn a_key_that_is_refused_costs_one_call_a_pause_and_is_back_when_it_works() {
    let (breakers, bad, start) = (KeyBreakers::default(), label("bad"), Instant::now());
    assert_eq!(breakers.admit(&bad, BOTH, start), Ok(()));
    breakers.refused(&bad, Encrypt, refused(), start);
    let (mut now, mut pause) = (start, KEY_PAUSE_MIN);
    for _ in 0..8 {
        assert_eq!(
            breakers.admit(&bad, BOTH, now + pause - Duration::from_nanos(1)),
            Err(refused())
        );
        now += pause;
        // One, and no second one beside it.
        assert_eq!(breakers.admit(&bad, BOTH, now), Ok(()));
        assert_eq!(breakers.admit(&bad, BOTH, now), Err(refused()));
        breakers.refused(&bad, Encrypt, refused(), now);
        // What was under way before counts once.
        breakers.refused(&bad, Encrypt, refused(), now);
        pause = (pause * 2).min(KEY_PAUSE_MAX);
    }
    assert_eq!(
        breakers.open(),
        [RefusedKey { label: bad.clone(), why: refused().to_string(), since: start }]
    );
    now += pause;
    assert_eq!(breakers.admit(&bad, BOTH, now), Ok(()));
    breakers.succeeded(&bad, BOTH, now);
    assert_eq!(breakers.admit(&bad, BOTH, now), Ok(()));
    assert_eq!((breakers.open(), breakers.is_watching()), (vec![], false));
    // Refused again, it begins with the short pause.
    breakers.refused(&bad, Encrypt, refused(), now);
    assert_eq!(breakers.admit(&bad, BOTH, now + KEY_PAUSE_MIN), Ok(()));
}

#[test]
fn a_job_that_was_let_through_and_never_ended_is_followed_by_another() {
    let (breakers, bad, now) = (KeyBreakers::default(), label("bad"), Instant::now());
    breakers.refused(&bad, Encrypt, refused(), now);
    for n in 1..5 {
        assert_eq!(breakers.admit(&bad, BOTH, now + KEY_PAUSE_MIN * n), Ok(()));
        assert_eq!(breakers.admit(&bad, BOTH, now + KEY_PAUSE_MIN * n), Err(refused()));
    }
}

#[test]
fn decryption_goes_on_where_encryption_is_refused() {
    let (breakers, bad, now) = (KeyBreakers::default(), label("bad"), Instant::now());
    breakers.refused(&bad, Encrypt, refused(), now);
    assert_eq!(breakers.admit(&bad, &[Decrypt], now), Ok(()));
    breakers.succeeded(&bad, &[Decrypt], now);
    assert_eq!(breakers.admit(&bad, BOTH, now), Err(refused()));
    assert!(breakers.refuses(&bad, Encrypt) && !breakers.refuses(&bad, Decrypt));
    assert!(!breakers.refuses("good", Encrypt));
    // What looks at the key and does not use it always may.
    assert_eq!(breakers.admit(&bad, &[], now), Ok(()));
}

#[test]
fn failures_in_a_row_open_it_and_a_success_begins_a_new_row() {
    let (breakers, bad, now) = (KeyBreakers::default(), label("bad"), Instant::now());
    for _ in 0..2 {
        for _ in 1..KEY_FAILURES_MAX {
            breakers.failed(&bad, Encrypt, lost(), now);
        }
        assert_eq!(breakers.admit(&bad, BOTH, now), Ok(()));
        breakers.succeeded(&bad, BOTH, now);
    }
    for _ in 0..KEY_FAILURES_MAX {
        breakers.failed(&bad, Encrypt, lost(), now);
    }
    assert_eq!(breakers.admit(&bad, BOTH, now), Err(lost()));
    assert!(!breakers.refuses(&bad, Encrypt), "a fault says nothing of what the key may do");
}

#[test]
fn sessions_lost_are_a_key_s_fault_where_only_it_loses_them() {
    let (bad, now) = (label("bad"), Instant::now());
    let lose = |breakers: &KeyBreakers| breakers.session_lost(&bad, Encrypt, lost(), now);
    let others = |breakers: &KeyBreakers, count| {
        (0..count).for_each(|_| breakers.succeeded("good", BOTH, now));
    };
    let blamed = |breakers: &KeyBreakers| breakers.admit(&bad, BOTH, now).is_err();

    let breakers = KeyBreakers::default();
    for _ in 1..SESSIONS_LOST_TO_A_KEY_MAX {
        lose(&breakers);
    }
    others(&breakers, OTHERS_SERVED_MIN);
    assert!(!blamed(&breakers));
    lose(&breakers);
    assert!(blamed(&breakers));

    // An HSM that nobody gets anything from.
    let breakers = KeyBreakers::default();
    for _ in 0..10 * SESSIONS_LOST_TO_A_KEY_MAX {
        lose(&breakers);
    }
    others(&breakers, OTHERS_SERVED_MIN - 1);
    lose(&breakers);
    assert!(!blamed(&breakers));

    // One that loses the sessions of others as well; and a key that works in between.
    let spoils: [fn(&KeyBreakers, Instant); 2] = [
        |breakers, now| breakers.session_lost(&label("good"), Encrypt, lost(), now),
        |breakers, now| breakers.succeeded("bad", BOTH, now),
    ];
    for spoil in spoils {
        let breakers = KeyBreakers::default();
        for _ in 0..10 {
            for _ in 1..SESSIONS_LOST_TO_A_KEY_MAX {
                lose(&breakers);
                others(&breakers, OTHERS_SERVED_MIN);
            }
            spoil(&breakers, now);
        }
        assert!(!blamed(&breakers));
    }
}

#[test]
fn memory_is_bounded_and_what_is_old_is_forgotten() {
    let (breakers, now) = (KeyBreakers::default(), Instant::now());
    for n in 0..KEY_BREAKERS_MAX + 10 {
        breakers.failed(&label(&n.to_string()), Encrypt, lost(), now);
    }
    assert_eq!(breakers.inner().keys.len(), KEY_BREAKERS_MAX);
    breakers.failed(&label("late"), Encrypt, lost(), now + KEY_FAILURE_AGE_MAX);
    assert_eq!(breakers.inner().keys.len(), 1);
    // Nothing is left to look at, however the key has done.
    breakers.session_lost(&label("late"), Encrypt, lost(), now + KEY_FAILURE_AGE_MAX);
    breakers.succeeded("good", BOTH, now + KEY_FAILURE_AGE_MAX);
    assert!(breakers.is_watching());
    breakers.succeeded("good", BOTH, now + 2 * KEY_FAILURE_AGE_MAX);
    assert!(!breakers.is_watching());
    // But of one that is refused, however long ago.
    breakers.refused(&label("bad"), Encrypt, refused(), now);
    breakers.succeeded("good", BOTH, now + 100 * KEY_FAILURE_AGE_MAX);
    assert_eq!(breakers.open().len(), 1);
}

/// How a key of the simulation is just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaves {
    Well,
    Refused,
    Fails,
    LosesSessions,
}

/// xorshift64: a simulation that fails is run again by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Keys that behave well, badly and in turns, asked for at random: none that behaves well and did
/// so for a while is refused, whatever the others do, and a bad one costs a bounded number of
/// calls.
#[test]
fn no_sequence_of_requests_for_one_key_takes_anything_from_another() {
    for seed in 1..=200 {
        simulate(seed);
    }
}

fn simulate(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (breakers, start) = (KeyBreakers::default(), Instant::now());
    let keys: Vec<Arc<str>> = (0..4).map(|n| label(&n.to_string())).collect();
    // The last one is well all the time.
    let mut behaves = [Behaves::Well; 4];
    let mut since = [start; 4];
    let mut calls = [0u32; 4];
    let mut now = start;
    for step in 0..20_000 {
        now += Duration::from_millis(random.below(40));
        if random.below(2000) == 0 {
            let key = random.below(3) as usize;
            let modes = [Behaves::Well, Behaves::Refused, Behaves::Fails, Behaves::LosesSessions];
            behaves[key] = modes[random.below(4) as usize];
            (since[key], calls[key]) = (now, 0);
        }
        let key = random.below(4) as usize;
        let told = || format!("seed {seed}, step {step}: key {key} {:?}", behaves[key]);
        let label = &keys[key];
        if breakers.admit(label, BOTH, now).is_err() {
            // Of a key that was mended, until the last pause is over and it was asked for again.
            let mended = now - since[key] > KEY_PAUSE_MAX + Duration::from_secs(1);
            assert!(behaves[key] != Behaves::Well || (key < 3 && !mended), "{}", told());
            continue;
        }
        calls[key] += 1;
        match behaves[key] {
            Behaves::Well => breakers.succeeded(label, BOTH, now),
            Behaves::Refused => breakers.refused(label, Encrypt, refused(), now),
            Behaves::Fails => breakers.failed(label, Decrypt, lost(), now),
            Behaves::LosesSessions => breakers.session_lost(label, Encrypt, lost(), now),
        }
        let seconds = (now - since[key]).as_secs() as u32;
        let retries = seconds / KEY_PAUSE_MIN.as_secs() as u32 + 1;
        let bound = match behaves[key] {
            Behaves::Well => u32::MAX,
            Behaves::Refused | Behaves::Fails => KEY_FAILURES_MAX + retries,
            // Until others were served often enough; two such keys clear each other.
            Behaves::LosesSessions
                if behaves.iter().filter(|one| **one == Behaves::LosesSessions).count() > 1 =>
            {
                calls[key] = 0;
                u32::MAX
            }
            Behaves::LosesSessions => 4 * OTHERS_SERVED_MIN + retries,
        };
        assert!(calls[key] <= bound, "{}: {} calls in {seconds} s", told(), calls[key]);
    }
}
