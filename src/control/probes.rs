//! Deep health probes: a thread a key manager has one of its sessions encrypt and decrypt under a
//! session test key, every ten seconds and when sessions were lost.
//!
//! A probe is a job like the others, beside the shards' queues: it needs no session of its own,
//! which an HSM that is full would refuse, and one that hangs is left behind as any job is.

mod keys;
mod library;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

use super::service::Service;
use crate::key_manager::{Fault, KeyRef, ManagerInfo, Task};
use crate::keystore::{BlockingClient, KeyManager, Probe};
use crate::limits::{HUNG_CALL_TIME, PROBE_INTERVAL, PROBE_RETRY_INTERVAL};
use crate::sched::PoolStats;
use crate::telemetry::Level;

pub use keys::Challenges;
use keys::Keys;
use library::Library;
pub use library::Watchdog;

/// Starts the probes of all key managers; they end when `stop` is disconnected.
///
/// # Errors
/// When no thread can be started.
pub fn start(service: &Arc<Service>, stop: &Receiver<()>) -> std::io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    for manager in &service.managers {
        let (service, manager, stop) = (service.clone(), manager.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("xksd-probe".into());
        let run = move || {
            if let Some(mut prober) = Prober::new(&service, &manager) {
                prober.run(&stop);
            }
        };
        threads.push(thread.spawn(run)?);
    }
    Ok(threads)
}

struct Prober<'a> {
    service: &'a Service,
    manager: &'a Arc<KeyManager>,
    client: BlockingClient<'a>,
    info: Info,
    /// As it was told last.
    told: Option<Told>,
    sessions: Sessions,
    library: Library,
    keys: Keys,
}

impl Prober<'_> {
    /// `None` where another prober has the key manager.
    fn new<'a>(service: &'a Service, manager: &'a Arc<KeyManager>) -> Option<Prober<'a>> {
        let (client, info) = (manager.client()?, Info::new(manager.clone()));
        let (sessions, library, keys) = Default::default();
        Some(Prober { service, manager, client, info, told: None, sessions, library, keys })
    }

    fn run(&mut self, stop: &Receiver<()>) {
        let mut next_probe = Instant::now();
        loop {
            if Instant::now() >= next_probe {
                let serves = self.probe();
                next_probe =
                    Instant::now() + if serves { PROBE_INTERVAL } else { PROBE_RETRY_INTERVAL };
            }
            let serves = self.told.as_ref().is_some_and(|told| told.why_not.is_none());
            let keys_left = serves && self.tell_keys();
            if let Some(stats) = self.manager.sessions() {
                if self.sessions.lost_some(&stats) {
                    next_probe = Instant::now();
                }
                if let Some((level, told)) = self.sessions.changed(&stats) {
                    self.service
                        .log
                        .event(level, format!("key manager {:?}: {told}", self.manager.name));
                }
            }
            let pause = if keys_left { Duration::ZERO } else { PROBE_RETRY_INTERVAL };
            if stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Whether the key manager serves.
    fn probe(&mut self) -> bool {
        // A probe is under no key of a key store.
        let (client, none) = (&self.client, KeyRef::first(""));
        let ask = || client.execute(&none, Task::Probe, HUNG_CALL_TIME).map(|(_, time)| time);
        // Once more: a session that was lost in silence, or one that hangs, says nothing of the
        // others.
        let result = ask().or_else(|_| ask());
        let mut info = if result.is_ok() { self.info.get() } else { self.info.known.clone() };
        let result = result.map_err(|fault| match fault {
            Fault::Timeout => {
                format!("it hangs: no answer to a probe within {} s", HUNG_CALL_TIME.as_secs())
            }
            fault => fault.to_string(),
        });
        self.tell_change(&result, &info);
        let serves = result.is_ok();
        self.look_at_library(serves, &mut info);
        self.manager.probe.store(Some(Arc::new(Probe { at: Instant::now(), result, info })));
        serves
    }

    fn look_at_library(&mut self, serves: bool, info: &mut ManagerInfo) {
        let Some(stats) = self.manager.sessions() else { return };
        let now = Instant::now();
        info.library = self.library.look(self.manager.library(), serves, &stats, now);
        for (level, news) in self.library.news(&info.library, now) {
            self.service.log.event(level, format!("key manager {:?}: {news}", self.manager.name));
        }
    }

    /// A line when a key manager comes or goes, or for another reason than was told; not one every
    /// probe.
    fn tell_change(&mut self, result: &Result<Duration, String>, info: &ManagerInfo) {
        let why_not = result.as_ref().err();
        if let Some(told) = &self.told {
            let same_health = told.why_not.is_some() == why_not.is_some();
            if same_health
                && (told.why_not.as_ref() == why_not || told.at.elapsed() < PROBE_INTERVAL)
            {
                return;
            }
        }
        self.told = Some(Told { at: Instant::now(), why_not: why_not.cloned() });
        let (name, log) = (&self.manager.name, &self.service.log);
        match result {
            Ok(time) => log.event(
                Level::Info,
                format!(
                    "key manager {name:?} serves: {} {}{}, probe {} µs",
                    info.vendor,
                    info.model,
                    if info.token.is_empty() {
                        String::new()
                    } else {
                        format!(" token {:?}", info.token)
                    },
                    time.as_micros()
                ),
            ),
            Err(why) => {
                log.event(Level::Error, format!("key manager {name:?} does not serve: {why}"))
            }
        }
    }

    /// Names every configured key that cannot serve, and replicas that hold different keys; the
    /// rest serves. Whether more is to be looked up at once.
    fn tell_keys(&mut self) -> bool {
        let client = &self.client;
        let ask = |key: &KeyRef, task| {
            client.execute(key, task, HUNG_CALL_TIME).map(|(answer, _)| answer)
        };
        let expected = self.service.expected_keys(self.manager);
        let (news, more) = self.keys.look(
            expected,
            &self.manager.name,
            &self.service.challenges,
            ask,
            Instant::now(),
        );
        for (level, told) in news {
            self.service.log.event(level, told);
        }
        self.keys.count(&self.manager.keys);
        more
    }
}

/// What was last told of a key manager's health.
struct Told {
    at: Instant,
    why_not: Option<String>,
}

/// What the module tells of itself. Asked on threads of their own: these calls may hang too.
struct Info {
    manager: Arc<KeyManager>,
    known: ManagerInfo,
    asked: Option<Receiver<Option<ManagerInfo>>>,
}

impl Info {
    fn new(manager: Arc<KeyManager>) -> Info {
        Info { manager, known: ManagerInfo::default(), asked: None }
    }

    /// What is known last.
    fn get(&mut self) -> ManagerInfo {
        if self.asked.is_none() {
            let (answer, answered) = bounded(1);
            let manager = self.manager.clone();
            let ask = move || drop(answer.send(manager.info().ok()));
            // Without a thread there is nothing new to be known.
            if std::thread::Builder::new().name("xksd-info".into()).spawn(ask).is_ok() {
                self.asked = Some(answered);
            }
        }
        if let Some(answered) = &self.asked {
            match answered.recv_timeout(HUNG_CALL_TIME) {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) | Ok(None) => self.asked = None,
                Ok(Some(info)) => (self.known, self.asked) = (info, None),
            }
        }
        self.known.clone()
    }
}

/// That sessions lack or hang; `None` when none does.
pub(crate) fn sessions_told(stats: &PoolStats) -> Option<String> {
    let PoolStats { lanes_configured: configured, lanes_open: open, lanes_hung: hung, .. } = stats;
    let mut trouble = Vec::new();
    if open < configured {
        let why =
            stats.last_fault.as_deref().map(|fault| format!(" ({fault})")).unwrap_or_default();
        let sessions = if *configured == 1 { "session is" } else { "sessions are" };
        trouble.push(format!("{open} of {configured} {sessions} open{why}"));
    }
    match hung {
        0 => {}
        1 => trouble.push("1 session hangs in a call".to_owned()),
        _ => trouble.push(format!("{hung} sessions hang in a call")),
    }
    (!trouble.is_empty()).then(|| trouble.join(", "))
}

/// What was last told of a key manager's sessions.
#[derive(Default)]
struct Sessions {
    told: Option<String>,
    seen: Option<String>,
    /// Sessions that were open, and all that were ever lost.
    before: (usize, u64),
}

impl Sessions {
    /// Whether sessions were lost or left behind since the last look: health is not to wait for the
    /// next probe then.
    fn lost_some(&mut self, stats: &PoolStats) -> bool {
        let now = (stats.lanes_open, stats.sessions_reopened_total + stats.abandoned_total);
        let before = std::mem::replace(&mut self.before, now);
        now.0 < before.0 || now.1 > before.1
    }

    /// A line when sessions lack or hang, and when none does any more: once it has been so for two
    /// looks, for sessions come and go.
    fn changed(&mut self, stats: &PoolStats) -> Option<(Level, String)> {
        let now = sessions_told(stats);
        let settled = std::mem::replace(&mut self.seen, now.clone()) == now;
        if !settled || self.told == now {
            return None;
        }
        self.told.clone_from(&now);
        Some(match now {
            Some(trouble) => (Level::Warn, trouble),
            None if stats.lanes_configured == 1 => (Level::Info, "its session is open".to_owned()),
            None => (Level::Info, format!("all {} sessions are open", stats.lanes_configured)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(open: usize, hung: usize) -> PoolStats {
        PoolStats {
            lanes_configured: 8,
            lanes_open: open,
            lanes_hung: hung,
            last_fault: Some("why".into()),
            ..PoolStats::default()
        }
    }

    #[test]
    fn a_loss_is_noticed_also_when_the_session_is_back_already() {
        let mut sessions = Sessions::default();
        let mut look = |open, reopened| {
            sessions.lost_some(&PoolStats { sessions_reopened_total: reopened, ..stats(open, 0) })
        };
        assert_eq!((look(3, 0), look(8, 0), look(8, 0)), (false, false, false));
        assert_eq!(
            (look(7, 0), look(7, 0), look(8, 1), look(8, 1), look(8, 2)),
            (true, false, true, false, true)
        );
    }

    #[test]
    fn one_session_is_told_as_one() {
        let mut sessions = Sessions::default();
        let one = |open, hung| PoolStats { lanes_configured: 1, ..stats(open, hung) };
        assert_eq!(
            sessions_told(&one(0, 1)),
            Some("0 of 1 session is open (why), 1 session hangs in a call".into())
        );
        let mut look = |open, hung| sessions.changed(&one(open, hung)).map(|(_, told)| told);
        assert!(look(0, 0).is_none() && look(0, 0).is_some() && look(1, 0).is_none());
        assert_eq!(look(1, 0), Some("its session is open".into()));
    }

    #[test]
    fn sessions_are_told_when_they_lack_for_a_while_and_once() {
        let mut sessions = Sessions::default();
        let mut look = |open, hung| sessions.changed(&stats(open, hung)).map(|(_, told)| told);
        assert_eq!((look(8, 0), look(8, 0)), (None, None));
        assert_eq!(
            (look(7, 0), look(8, 0), look(8, 0)),
            (None, None, None),
            "a session that was lost and is back"
        );
        assert_eq!((look(5, 0), look(5, 0)), (None, Some("5 of 8 sessions are open (why)".into())));
        assert_eq!(look(5, 0), None);
        assert_eq!(
            (look(8, 2), look(8, 2), look(8, 2)),
            (None, Some("2 sessions hang in a call".into()), None)
        );
        assert_eq!(
            (look(8, 0), look(8, 0), look(8, 0)),
            (None, Some("all 8 sessions are open".into()), None)
        );
    }
}
