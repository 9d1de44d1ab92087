//! Key managers that a reload opens: each has its sessions and its keys before a request comes to
//! it, or it is closed again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::arrangement::arrange;
use crate::config::Config;
use crate::control::attending::attend;
use crate::control::build::{self, Opened};
use crate::control::state::State;
use crate::control::unsealing::{self, Unsealing};
use crate::key_manager::Health;
use crate::keystore::{KeyManager, missing_sessions};
use crate::limits::{ACTIVATION_TIME_MAX, LAST_SESSIONS_WAIT};

/// Between two looks at how they do.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// One that is being opened.
pub(super) struct Candidate {
    /// Its place in the configuration that is wanted.
    at: usize,
    pub(super) manager: Arc<KeyManager>,
    pub(super) unsealing: Option<Arc<Unsealing>>,
    /// Whose place it takes.
    before: Option<Arc<KeyManager>>,
    /// What ended the wait for it.
    failed: Option<String>,
}

/// How one does.
enum Standing {
    Serves,
    Waits(String),
    Fails(String),
}

/// Starts those that were `opened`, each at its place, and puts them into `chosen`.
pub(super) fn start(
    state: &Arc<State>,
    wanted: &Config,
    before: &Config,
    chosen: &mut [Option<Arc<KeyManager>>],
    opened: Vec<(usize, Opened)>,
) -> Vec<Candidate> {
    let running = state.managers.load();
    let mut keys = Vec::new();
    for (at, opened) in opened {
        let configured = &wanted.key_managers[at];
        keys.push((at, opened.wrapped()));
        chosen[at] = Some(build::start(wanted, configured, opened, &state.mailboxes));
    }
    // What opens wrapped keys may be new, too.
    let arranged = arrange(wanted.clone(), before, &running, chosen);
    let mut candidates = Vec::new();
    for (at, keys) in keys {
        let (configured, Some(manager)) = (&wanted.key_managers[at], chosen[at].clone()) else {
            continue;
        };
        let unsealing = keys.and_then(|keys| {
            let (files, log) = (&state.key_files, &state.log);
            unsealing::of((wanted, configured), keys, &arranged.managers, files, log)
        });
        let place = before.key_managers.iter().position(|before| before.name == configured.name);
        let before = place.and_then(|place| running.get(place).cloned());
        candidates.push(Candidate { at, manager, unsealing, before, failed: None });
    }
    let (shards, budgets) = (state.metrics.len(), &state.budgets);
    let stores = build::key_stores(
        &arranged.config,
        &arranged.managers,
        shards,
        budgets,
        (None, &state.fleet_view),
    )
    .ok();
    state.candidate.store(stores.map(Arc::new));
    for candidate in &mut candidates {
        let unsealing = candidate.unsealing.as_ref();
        if let Err(error) = attend(state, &candidate.manager, unsealing) {
            candidate.failed = Some(format!("no thread for it: {error}"));
        }
    }
    candidates
}

/// Waits until each serves or is known not to. Leaves those that serve; gives the places of the
/// others, which are closed, and why.
pub(super) fn wait(state: &State, candidates: &mut Vec<Candidate>) -> Vec<(usize, String)> {
    let start = Instant::now();
    loop {
        let now = Instant::now();
        let waited = now.saturating_duration_since(start);
        let mut waits = false;
        for candidate in candidates.iter_mut().filter(|candidate| candidate.failed.is_none()) {
            let why = match candidate.standing(waited, now) {
                Standing::Serves => continue,
                Standing::Fails(why) => why,
                Standing::Waits(why) if waited >= ACTIVATION_TIME_MAX => {
                    format!("it does not serve within {} s: {why}", ACTIVATION_TIME_MAX.as_secs())
                }
                Standing::Waits(why) => match is_interrupted(state) {
                    Some(by) => format!("{by} before it served: {why}"),
                    None => {
                        waits = true;
                        continue;
                    }
                },
            };
            candidate.failed = Some(why);
        }
        if !waits {
            break;
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
    let mut failed = Vec::new();
    candidates.retain(|candidate| {
        let Some(why) = &candidate.failed else { return true };
        state.attendants.dismiss(&candidate.manager, Duration::ZERO);
        failed.push((candidate.at, why.clone()));
        false
    });
    failed
}

/// Who waits for this reload must not wait for an HSM: they may have to cut AWS off.
fn is_interrupted(state: &State) -> Option<&'static str> {
    if state.draining.load(Ordering::Acquire) {
        Some("xksd stops")
    } else if state.reloads_asked.load(Ordering::Acquire) > 1 {
        Some("another reload was asked for")
    } else {
        None
    }
}

impl Candidate {
    fn standing(&self, waited: Duration, now: Instant) -> Standing {
        let manager = &self.manager;
        if let Some(why) = manager.refused_pin() {
            return Standing::Fails(why);
        }
        if manager.health(now) != Health::Active {
            return Standing::Waits(manager.health_reason(now).unwrap_or_default());
        }
        let cannot = manager.keys.cannot_serve.load(Ordering::Relaxed);
        let before = self.before.as_ref();
        let before = before.map(|before| before.keys.cannot_serve.load(Ordering::Relaxed));
        if before.is_some_and(|before| cannot > before) {
            return Standing::Fails(format!(
                "{cannot} keys of key stores cannot serve from it: the log names them"
            ));
        }
        // It serves, and that is enough where its keys or its last sessions take long.
        if waited >= ACTIVATION_TIME_MAX {
            return Standing::Serves;
        }
        if !manager.keys.are_looked_at.load(Ordering::Acquire) {
            return Standing::Waits("its keys are being listed".to_owned());
        }
        match manager.sessions().and_then(|stats| missing_sessions(&stats)) {
            Some(why) if waited < LAST_SESSIONS_WAIT => Standing::Waits(why),
            _ => Standing::Serves,
        }
    }
}
