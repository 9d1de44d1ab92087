//! Deep health probes: a thread a key manager has one of its sessions encrypt and decrypt under a
//! session test key, every ten seconds and when sessions were lost.
//!
//! A probe is a job like the others, beside the shards' queues: it needs no extra session,
//! which an HSM that is full would refuse, and one that hangs is left behind as any job is.

mod info;
mod inventory;
mod keys;
mod library;
mod refused_keys;
mod sessions;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::challenges::Challenges;
use super::expected::expected_keys;
use super::state::State;
use crate::audit::record::Record;
use crate::key_manager::replica_check::Challenge;
use crate::key_manager::{Answer, Fault, KeyRef, ManagerInfo, ProbeKey, Task};
use crate::keystore::{BlockingClient, KeyManager, KeyStores, Probe};
use crate::limits::{HUNG_CALL_TIME, PROBE_INTERVAL, PROBE_RETRY_INTERVAL};
use crate::telemetry::Level;

use info::Info;
use inventory::Inventory;
use keys::{Keys, Verdict};
use library::Library;
use refused_keys::RefusedKeys;
use sessions::Sessions;

/// Starts the probes of a key manager; they end when `stop` is disconnected.
///
/// # Errors
/// When no thread can be started.
pub fn start(
    state: &Arc<State>,
    manager: &Arc<KeyManager>,
    challenges: &Arc<Challenges>,
    stop: &Receiver<()>,
) -> std::io::Result<JoinHandle<()>> {
    let (state, manager, stop) = (state.clone(), manager.clone(), stop.clone());
    let challenges = challenges.clone();
    let thread = std::thread::Builder::new().name("xksd-probe".into());
    thread.spawn(move || {
        if let Some(mut prober) = Prober::new(&state, &manager, &challenges) {
            prober.run(&stop);
        }
    })
}

/// Keys that are tried a second at the most, to see whether they work again.
const REFUSED_KEYS_TRIED_MAX: usize = 16;

struct Prober<'a> {
    state: &'a State,
    manager: &'a Arc<KeyManager>,
    challenges: &'a Challenges,
    client: BlockingClient,
    info: Info,
    /// As it was logged last.
    reported: Option<Reported>,
    sessions: Sessions,
    library: Library,
    keys: Keys,
    refused_keys: RefusedKeys,
    inventory: Inventory,
    /// From which the keys that are expected are known.
    stores: Option<Arc<KeyStores>>,
}

impl Prober<'_> {
    /// `None` where another prober has the key manager.
    fn new<'a>(
        state: &'a State,
        manager: &'a Arc<KeyManager>,
        challenges: &'a Challenges,
    ) -> Option<Prober<'a>> {
        let (client, info) = (manager.client()?, Info::new(manager.clone()));
        let (sessions, library, keys, refused_keys, inventory) = Default::default();
        Some(Prober {
            state,
            manager,
            challenges,
            client,
            info,
            reported: None,
            sessions,
            library,
            keys,
            refused_keys,
            inventory,
            stores: None,
        })
    }

    fn run(&mut self, stop: &Receiver<()>) {
        // One whose keys an HSM is to open first is not asked before that can be.
        let pause = if self.manager.is_closed() { PROBE_RETRY_INTERVAL } else { Duration::ZERO };
        let mut next_probe = Instant::now() + pause;
        loop {
            if Instant::now() >= next_probe {
                let serves = self.probe();
                next_probe =
                    Instant::now() + if serves { PROBE_INTERVAL } else { PROBE_RETRY_INTERVAL };
            }
            let serves = self.reported.as_ref().is_some_and(|reported| reported.why_not.is_none());
            if serves {
                self.tell_keys();
            }
            if let Some(stats) = self.manager.sessions() {
                if self.sessions.lost_some(&stats) {
                    next_probe = Instant::now();
                }
                if let Some((level, reported)) = self.sessions.changed(&stats) {
                    self.state
                        .log
                        .event(level, format!("key manager {:?}: {reported}", self.manager.name));
                }
            }
            if stop.recv_timeout(PROBE_RETRY_INTERVAL) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Whether the key manager serves.
    fn probe(&mut self) -> bool {
        // A probe is under no key of a key store.
        let (client, none) = (&self.client, KeyRef::first(""));
        let ask = || match client.execute(&none, Task::Probe, HUNG_CALL_TIME)? {
            (Answer::Probed(key), time) => Ok((time, key)),
            _ => Err(Fault::Device { detail: "it gave an answer of the wrong kind".to_owned() }),
        };
        // Once more: a session that was lost in silence, or one that hangs, says nothing of the
        // others.
        let result = ask().or_else(|_| ask());
        let mut info = if result.is_ok() { self.info.get() } else { self.info.known.clone() };
        let result = result.map_err(|fault| match fault {
            Fault::Timeout => self.why_no_answer(),
            fault => fault.to_string(),
        });
        self.tell_change(&result, &info);
        let serves = result.is_ok();
        self.look_at_library(serves, &mut info);
        self.manager.probe.store(Some(Arc::new(Probe { at: Instant::now(), result, info })));
        serves
    }

    /// Of a probe that was not answered in time: a call that hangs is only one of the reasons.
    fn why_no_answer(&self) -> String {
        let within = format!("no answer to a probe within {} s", HUNG_CALL_TIME.as_secs());
        match self.manager.sessions() {
            Some(stats) if stats.lanes_hung > 0 => format!("it hangs: {within}"),
            Some(stats) if stats.lanes_open == 0 => format!("no session is open: {within}"),
            _ => format!("it is too slow, or has too much to do: {within}"),
        }
    }

    fn look_at_library(&mut self, serves: bool, info: &mut ManagerInfo) {
        let Some(stats) = self.manager.sessions() else { return };
        let now = Instant::now();
        info.library = self.library.look(self.manager.library(), serves, &stats, now);
        for (level, news) in self.library.news(&info.library, now) {
            self.state.log.event(level, format!("key manager {:?}: {news}", self.manager.name));
        }
    }

    /// A line when a key manager comes or goes, or for another reason than before; not one every
    /// probe.
    fn tell_change(&mut self, result: &Result<(Duration, ProbeKey), String>, info: &ManagerInfo) {
        let why_not = result.as_ref().err();
        if let Some(reported) = &self.reported {
            let same_health = reported.why_not.is_some() == why_not.is_some();
            if same_health
                && (reported.why_not.as_ref() == why_not || reported.at.elapsed() < PROBE_INTERVAL)
            {
                return;
            }
        }
        self.reported = Some(Reported { at: Instant::now(), why_not: why_not.cloned() });
        let (name, log) = (&self.manager.name, &self.state.log);
        self.state.audit.record(&Record::KeyManager {
            name,
            state: if why_not.is_none() { "serves" } else { "does not serve" },
            detail: why_not.map_or("", |why| why),
        });
        match result {
            Ok((time, key)) => log.event(
                Level::Info,
                format!(
                    "key manager {name:?} serves: {}, probe {} µs{}",
                    what_it_is(info),
                    time.as_micros(),
                    match key {
                        ProbeKey::Own => "",
                        ProbeKey::InUse => " under keys in use, as it makes none for probes",
                        ProbeKey::None => {
                            ", which shows only that it answers: it makes no key for probes"
                        }
                    }
                ),
            ),
            Err(why) => {
                log.event(Level::Error, format!("key manager {name:?} does not serve: {why}"))
            }
        }
    }

    /// Names every configured key that cannot serve, and replicas that hold different keys; the
    /// rest serves.
    fn tell_keys(&mut self) {
        let (name, now) = (&self.manager.name, Instant::now());
        self.manager.first_listing.begin(now);
        let stores = self.state.stores_of(self.manager);
        if !self.stores.as_ref().is_some_and(|known| Arc::ptr_eq(known, &stores)) {
            self.keys.expect(expected_keys(&stores, self.manager), name, self.challenges);
            self.stores = Some(stores);
        }
        let ask = |key: &KeyRef, task| {
            self.client.execute(key, task, HUNG_CALL_TIME).map(|(answer, _)| answer)
        };
        let refused = self.manager.refused_keys();
        // Answered without a call until it is time to see whether the key works again.
        for key in refused.iter().take(REFUSED_KEYS_TRIED_MAX) {
            let key = KeyRef::first(&*key.label);
            let _ = Challenge::encrypt(|task| ask(&key, task));
        }
        let mut news = self.refused_keys.changes(self.keys.expected(), &refused, name);
        if self.keys.begins(now) {
            self.inventory.discard();
        }
        if !self.keys.is_looking() {
            // None is expected, or each was looked at.
            self.manager.first_listing.end();
        }
        if self.keys.is_looking() && self.inventory.is_taken(self.manager, || self.keys.refs(), now)
        {
            let verdict = |key: &KeyRef| {
                let found_out = self.inventory.verdict(key);
                found_out.unwrap_or_else(|| Verdict::of_lane(ask(key, Task::Describe)))
            };
            news.extend(self.keys.look(name, self.challenges, verdict, ask));
            if !self.keys.is_looking() {
                self.inventory.discard();
            }
        }
        for (level, reported) in news {
            self.state.log.event(level, reported);
        }
        self.keys.count(self.refused_keys.names(), &self.manager.keys);
        if !self.keys.is_looking() {
            self.manager.keys.are_looked_at.store(true, Ordering::Release);
        }
    }
}

/// As it says itself. It may not have answered yet, and a module may leave each of these empty.
fn what_it_is(info: &ManagerInfo) -> String {
    let token = if info.token.is_empty() { "" } else { &*format!("token {:?}", info.token) };
    let words = [&*info.vendor, &*info.model, token];
    let said: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    if said.is_empty() { "vendor and model unknown".to_owned() } else { said.join(" ") }
}

/// What the log said last of a key manager's health.
struct Reported {
    at: Instant,
    why_not: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_leaves_empty_is_left_out() {
        let info = |vendor: &str, model: &str, token: &str| {
            let (vendor, model, token) = (vendor.into(), model.into(), token.into());
            what_it_is(&ManagerInfo { vendor, model, token, ..ManagerInfo::default() })
        };
        assert_eq!(
            info("SoftHSM project", "SoftHSM v2", "xks"),
            "SoftHSM project SoftHSM v2 token \"xks\""
        );
        assert_eq!(info("xksd", "", ""), "xksd");
        assert_eq!(info("", "", "xks"), "token \"xks\"");
        assert_eq!(info("", "", ""), "vendor and model unknown");
    }
}
