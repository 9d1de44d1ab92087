//! When a library is initialised again, and what forbids it.

use std::time::Duration;

use super::*;

/// Initialised, and so many openings have failed.
fn failing(failures: u32, since: Instant) -> State {
    State { phase: Phase::Up, failures, failing_since: Some(since), ..State::default() }
}

#[test]
fn the_module_is_finalised_when_openings_fail_and_nobody_is_inside() {
    let now = Instant::now();
    assert!(matches!(State::default().entry(now), Entry::Change { finalize: false }));
    assert!(matches!(failing(REINITIALIZE_FAILURES - 1, now).entry(now), Entry::In));
    assert!(matches!(
        failing(REINITIALIZE_FAILURES, now).entry(now),
        Entry::Change { finalize: true }
    ));
    // A session that lives keeps it from that, whatever it does.
    assert!(matches!(State { sessions: 1, ..failing(u32::MAX, now) }.entry(now), Entry::In));
    // Those that are inside are waited for, but not for ever.
    let visited = State { visits: 1, ..failing(REINITIALIZE_FAILURES, now) };
    assert!(matches!(visited.entry(now), Entry::Refused(_)));
    assert!(matches!(
        visited.entry(now + HUNG_OPEN_TIME - Duration::from_millis(1)),
        Entry::Refused(_)
    ));
    assert!(matches!(visited.entry(now + HUNG_OPEN_TIME), Entry::In));
}

#[test]
fn what_forbids_it_for_long_is_told() {
    let now = Instant::now();
    let later = now + HUNG_OPEN_TIME;
    let hung = State { sessions: 1, ..failing(REINITIALIZE_FAILURES, now) };
    assert_eq!(hung.stuck(later - Duration::from_millis(1)), None);
    let stuck = hung.stuck(later).expect("for long");
    assert!(stuck.why.contains("1 sessions and 0 openings") && stuck.since == now, "{stuck:?}");
    assert!(State { visits: 1, ..failing(REINITIALIZE_FAILURES, now) }.stuck(later).is_some());
    // Nothing is due, or nothing forbids it.
    assert_eq!(State { sessions: 1, ..failing(REINITIALIZE_FAILURES - 1, now) }.stuck(later), None);
    assert_eq!(failing(REINITIALIZE_FAILURES, now).stuck(later), None);
    let changing = State { phase: Phase::Changing { since: now }, ..State::default() };
    assert_eq!(
        (changing.stuck(later - Duration::from_millis(1)), changing.stuck(later).is_some()),
        (None, true)
    );
}

#[test]
fn an_initialisation_that_failed_is_not_tried_again_at_once() {
    let at = Instant::now();
    let fault = Fault::Device { detail: "C_Initialize: CKR_DEVICE_ERROR".to_owned() };
    let state = State { phase: Phase::Failed { at, fault: fault.clone() }, ..State::default() };
    assert!(
        matches!(state.entry(at + INITIALIZE_INTERVAL - Duration::from_millis(1)), Entry::Refused(told) if told == fault)
    );
    assert!(matches!(state.entry(at + INITIALIZE_INTERVAL), Entry::Change { finalize: false }));
}

#[test]
fn not_again_at_once() {
    let now = Instant::now();
    let lately = State { reinitialized_at: Some(now), ..failing(REINITIALIZE_FAILURES, now) };
    assert!(matches!(lately.entry(now), Entry::In));
    assert!(matches!(
        lately.entry(now + REINITIALIZE_INTERVAL - Duration::from_millis(1)),
        Entry::In
    ));
    assert!(matches!(lately.entry(now + REINITIALIZE_INTERVAL), Entry::Change { finalize: true }));
}
