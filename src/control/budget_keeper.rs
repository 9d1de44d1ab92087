//! The thread that reserves blocks ahead of need, and tells the operator how far budgets are used.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};

use super::budgets::{Reached, Shown};
use super::state::State;
use crate::audit::record::{KeyBudget, Record};
use crate::limits::{BUDGET_TICK, STATE_RETRY_INTERVAL};
use crate::telemetry::Level;

/// Thresholds, and encryptions that no request asked for, are looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// External keys that a line of the log names.
const KEYS_TOLD_MAX: usize = 3;
/// From this threshold on a line of the log is an error.
const ERROR_PERCENT: u8 = 90;

/// What becomes of what is reserved and not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// No key encrypts any more: it is given back.
    Settled,
    /// Some may: it stays reserved, as after a crash.
    Reserved,
}

/// The running thread.
pub struct Keeper {
    thread: JoinHandle<()>,
    /// How it is to end.
    stop: Sender<Ending>,
}

impl Keeper {
    /// Reserves the first blocks, and starts the thread. To be called before the first request can
    /// come.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(state: &Arc<State>) -> std::io::Result<Keeper> {
        let (stop, stopped) = bounded(1);
        let mut looks = Looks::default();
        looks.reserve(state, Instant::now());
        let state = state.clone();
        let run = move || looks.run(&state, &stopped);
        let thread = std::thread::Builder::new().name("xksd-budgets".into()).spawn(run)?;
        Ok(Keeper { thread, stop })
    }

    /// Ends the thread. Does not wait beyond `deadline` for a disk that hangs: then, too many are
    /// counted.
    pub fn stop(self, ending: Ending, deadline: Instant) {
        let _ = self.stop.send(ending);
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(BUDGET_TICK / 10);
        }
    }
}

/// What was seen and told.
#[derive(Default)]
struct Looks {
    /// Why the file cannot be written, and when to try again.
    unwritable: Option<(String, Instant)>,
    /// That keys encrypt beyond what is reserved.
    told_beyond: bool,
    looked_at: Option<Instant>,
}

impl Looks {
    fn run(&mut self, state: &State, stopped: &Receiver<Ending>) {
        loop {
            let asked = state.budgets.next_ask(BUDGET_TICK);
            match stopped.try_recv() {
                Ok(Ending::Settled) => return settle(state),
                Ok(Ending::Reserved) => return,
                Err(_) => {}
            }
            let now = Instant::now();
            if self.looked_at.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_INTERVAL) {
                self.looked_at = Some(now);
                count_unrequested(state);
                tell_thresholds(state);
            }
            self.reserve(state, now);
            if let Some(done) = asked {
                let _ = done.send(());
            }
        }
    }

    /// Reserves blocks where half of one is used.
    fn reserve(&mut self, state: &State, now: Instant) {
        let budgets = &state.budgets;
        budgets.limit(state.config.load().server.instances);
        if !budgets.need_blocks() {
            return;
        }
        if self.unwritable.as_ref().is_none_or(|(_, again)| *again <= now) {
            match budgets.reserve() {
                Ok(()) => self.written(state),
                Err(why) => self.not_written(state, why, now),
            }
        }
        // What was taken in the time of a write is not beyond.
        if self.unwritable.is_some() {
            self.tell_beyond(state);
        }
    }

    fn written(&mut self, state: &State) {
        state.budgets.set_unsaved(false);
        self.told_beyond = false;
        if self.unwritable.take().is_some() {
            state.log.event(Level::Info, "the encryptions of keys can be saved again");
        }
    }

    fn not_written(&mut self, state: &State, why: String, now: Instant) {
        state.budgets.set_unsaved(true);
        if self.unwritable.as_ref().is_none_or(|(before, _)| *before != why) {
            let message = format!(
                "the encryptions of keys cannot be saved: {why}. Keys encrypt with what is \
                 reserved. Beyond that, key stores with invocation_budget = \"refuse\" refuse, and \
                 others go on, but a crash would count too few"
            );
            state.log.event(Level::Error, message);
        }
        self.unwritable = Some((why, now + STATE_RETRY_INTERVAL));
    }

    fn tell_beyond(&mut self, state: &State) {
        let beyond = state.budgets.count_beyond();
        if beyond == 0 || self.told_beyond {
            return;
        }
        self.told_beyond = true;
        let keys = if beyond == 1 { "1 key has".to_owned() } else { format!("{beyond} keys have") };
        let message = format!(
            "{keys} encrypted more than the state directory says: after a crash too few would be \
             counted"
        );
        state.log.event(Level::Error, message);
    }
}

/// Gives back what is reserved.
fn settle(state: &State) {
    count_unrequested(state);
    if let Err(why) = state.budgets.settle() {
        let message =
            format!("the encryptions of keys cannot be saved, too many stay counted: {why}");
        state.log.event(Level::Warn, message);
    }
}

/// Encryptions that key managers have made of their own accord count as well.
fn count_unrequested(state: &State) {
    let config = state.config.load();
    let is_counted = |name: &str| config.key_managers.iter().any(|manager| manager.name == name);
    for (manager, counts) in state.attendants.take_unrequested(is_counted) {
        for (label, count) in counts {
            state.budgets.add(&manager, &label, count);
        }
    }
}

/// A line and a record for each threshold, once.
fn tell_thresholds(state: &State) {
    for Reached { percent, shown, keys } in state.budgets.reached(&state.config.load()) {
        let keys = named(&keys);
        let level = if percent >= ERROR_PERCENT { Level::Error } else { Level::Warn };
        let Shown { name, key_managers, share, used, .. } = &shown;
        let used = used.encryptions;
        let message = format!(
            "{percent} % of the invocation budget of the key {name} in {key_managers:?} is \
             used: {used} encryptions of {share}. It is the primary version of {keys}: rotate it"
        );
        state.log.event(level, message);
        let (label, key_version, share) = (&*name.label, name.version, *share);
        let record =
            KeyBudget { label, key_version, key_managers, percent, encryptions: used, share };
        state.audit.record(&Record::KeyBudget(record));
    }
}

fn named(keys: &[String]) -> String {
    let more = keys.len().saturating_sub(KEYS_TOLD_MAX);
    let named = keys[..keys.len() - more].join(", ");
    if more == 0 { named } else { format!("{named} and {more} more") }
}
