//! Distrust, tried out exhaustively: every order in which two sessions and an HSM that lies and
//! recovers at any moment can act, until the HSM has been caught three times.
//!
//! What runs is [`Quarantine`] itself. Modelled is what a session does around it: it reads the
//! epoch before its first call and after its last, a lie is found out in a verified encryption and
//! in a self-test and never in a decryption. Left out: threads (each step is whole), the choice
//! between replicas and the scheduler (`keystore::replicas::model` has them), and that the last
//! round trips come one by one (here half of a self-test at once).

use std::collections::{HashSet, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use super::*;

const CAUGHT_MAX: u32 = 3;
const STEP: usize = SELF_TEST_ROUND_TRIPS / 2;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Doing {
    Nothing,
    /// A job, that is verified or not, begun after the HSM had been caught so often.
    Job {
        epoch: u64,
        verified: bool,
        caught: u32,
    },
    SelfTest {
        number: u64,
        verified: bool,
    },
}

/// All there is at one moment; `running` and `epoch` are the quarantine's.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    epoch: u64,
    /// Number, half intervals since it began (two and more are alike), right, open.
    running: Option<(u64, u32, usize, bool)>,
    sessions: [Doing; 2],
    lies: bool,
    caught: u32,
    /// What must be true: caught, and no whole self-test passed since.
    distrusted: bool,
    /// Right round trips since it was last caught, all of the self-test with this number.
    proof: Option<(u64, usize)>,
}

impl State {
    /// With the self-test that is current as the first: no session can tell how many there were.
    fn renumbered(mut self) -> State {
        let Some((number, ..)) = self.running else { return self };
        let renumber = |of: &mut u64| *of = u64::from(*of == number);
        for session in &mut self.sessions {
            if let Doing::SelfTest { number, .. } = session {
                renumber(number);
            }
        }
        self.proof = self.proof.filter(|(of, _)| *of == number).map(|(_, right)| (1, right));
        self.running.as_mut().into_iter().for_each(|running| running.0 = 1);
        self
    }
}

/// Now, in every state.
struct Clock(Instant);

impl Clock {
    fn quarantine(&self, state: &State) -> Quarantine {
        let running = state.running.map(|(number, age, right, open)| Running {
            number,
            since: self.0 - SELF_TEST_INTERVAL / 2 * age,
            right,
            open,
        });
        Quarantine {
            self_test: Mutex::new(running),
            epoch: AtomicU64::new(state.epoch),
            reason: Mutex::default(),
        }
    }

    fn store(&self, quarantine: &Quarantine, state: &mut State) {
        let half = SELF_TEST_INTERVAL / 2;
        state.epoch = quarantine.epoch().0;
        state.running = quarantine.self_test().as_ref().map(|running| {
            let age =
                (self.0 - running.since + Duration::from_nanos(1)).as_nanos() / half.as_nanos();
            (running.number, age as u32, running.right, running.open)
        });
    }

    /// Every state that can follow. `answered` counts the answers that are given.
    fn next(&self, state: &State, answered: &mut u32) -> Vec<State> {
        let mut all = vec![State { lies: !state.lies, ..state.clone() }];
        let mut older = state.clone();
        if let Some((_, age, ..)) = &mut older.running {
            *age = (*age + 1).min(2);
        }
        all.push(older);
        for session in 0..2 {
            match state.sessions[session] {
                Doing::Nothing => {
                    for verified in [false, true] {
                        all.push(self.begin(state.clone(), session, verified));
                    }
                }
                Doing::Job { epoch, verified, caught } => {
                    let mut next = state.clone();
                    next.sessions[session] = Doing::Nothing;
                    if verified && state.lies {
                        if state.caught == CAUGHT_MAX {
                            continue;
                        }
                        self.catch(&mut next);
                    } else if epoch == self.quarantine(state).epoch().0 {
                        *answered += 1;
                        assert!(!state.distrusted, "answered while distrusted");
                        assert_eq!(caught, state.caught, "caught while the job was under way");
                    }
                    all.push(next);
                }
                Doing::SelfTest { number, verified } => {
                    all.extend(self.round_trips(state, session, number, verified));
                }
            }
        }
        all
    }

    /// A job comes: it is begun, or leads into the self-test, or is refused.
    fn begin(&self, mut state: State, session: usize, verified: bool) -> State {
        let quarantine = self.quarantine(&state);
        let epoch = quarantine.epoch();
        state.sessions[session] = if !epoch.is_quarantine() {
            Doing::Job { epoch: epoch.0, verified, caught: state.caught }
        } else {
            match quarantine.join_self_test(self.0) {
                Some(SelfTest(number)) => Doing::SelfTest { number, verified },
                None => Doing::Nothing,
            }
        };
        self.store(&quarantine, &mut state);
        state
    }

    fn round_trips(
        &self,
        state: &State,
        session: usize,
        number: u64,
        verified: bool,
    ) -> Vec<State> {
        let quarantine = self.quarantine(state);
        let test = SelfTest(number);
        let mut next = state.clone();
        next.sessions[session] = Doing::Nothing;
        if !quarantine.is_running(test) {
            return vec![self.begin(next, session, verified)];
        }
        if state.lies {
            quarantine.failed(test);
            self.store(&quarantine, &mut next);
            let mut caught = next.clone();
            if state.caught < CAUGHT_MAX {
                self.catch(&mut caught);
            }
            return vec![next, caught];
        }
        (0..STEP).for_each(|_| quarantine.passed_one(test));
        next.sessions[session] = Doing::SelfTest { number, verified };
        let before = next.proof.filter(|(of, _)| *of == number).map_or(0, |(_, right)| right);
        next.proof = Some((number, before + STEP));
        next.distrusted &= before + STEP < SELF_TEST_ROUND_TRIPS;
        self.store(&quarantine, &mut next);
        vec![next]
    }

    fn catch(&self, state: &mut State) {
        let quarantine = self.quarantine(state);
        quarantine.begin("a lie");
        self.store(&quarantine, state);
        (state.caught, state.distrusted, state.proof) = (state.caught + 1, true, None);
    }
}

#[test]
fn nothing_of_a_distrusted_hsm_is_answered() {
    let clock = Clock(Instant::now() + 2 * SELF_TEST_INTERVAL);
    let first = State {
        epoch: 0,
        running: None,
        sessions: [Doing::Nothing; 2],
        lies: false,
        caught: 0,
        distrusted: false,
        proof: None,
    };
    let (mut seen, mut todo) = (HashSet::from([first.clone()]), VecDeque::from([first]));
    let (mut answered, mut trusted_again) = (0, 0);
    while let Some(state) = todo.pop_front() {
        trusted_again += u32::from(state.caught > 0 && !state.distrusted);
        assert_eq!(state.distrusted, state.epoch & 1 == 1, "the oracle and the quarantine differ");
        for next in clock.next(&state, &mut answered).into_iter().map(State::renumbered) {
            if seen.insert(next.clone()) {
                todo.push_back(next);
            }
        }
    }
    // Something was tried: answers, and trust won back.
    assert!(answered > 0 && trusted_again > 0 && seen.len() > 1000, "{} states", seen.len());
}
