//! Takes part in the fleet: registers this instance, takes over what changes, and puts back what
//! etcd has lost. One thread, which no request waits for.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Builder;
use std::time::{Duration, Instant};

use super::files;
use crate::control::changed_files;
use crate::control::fleet::view;
use crate::control::fleet::{Fleet, Joined, Reach};
use crate::control::instance::summary;
use crate::control::state::State;
use crate::fleet::Summary;
use crate::limits::{
    FLEET_HEALTH_AGE_MAX, FLEET_KEEP_ALIVE_INTERVAL, FLEET_LEASE, FLEET_RESYNC_INTERVAL,
    FLEET_RETRY_INTERVAL, FLEET_SUMMARY_INTERVAL, FLEET_TICK,
};
use crate::telemetry::Level;

/// What was lost is put back this often at the most, and AWS KMS is shown what was heard.
const RESTORE_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the thread, where there is an etcd.
///
/// # Errors
/// When there is no thread.
pub(super) fn start(state: &Arc<State>, fleet: &Arc<Fleet>) -> io::Result<()> {
    if fleet.joined().is_none() {
        return Ok(());
    }
    let fleet = fleet.clone();
    let (state, of_thread) = (state.clone(), fleet.clone());
    let run = move || {
        let Some(joined) = fleet.joined() else { return };
        while !is_draining(&state) {
            // Also while etcd is away: at the start, and when what could not be written is.
            if changed_files::are_refused(&state) {
                joined.documents.look_again();
            }
            take_over_files(&state, joined);
            let pause = match Session::begin(&state, &fleet, joined) {
                // A member that goes is none of the operator's matter while another one answers.
                Ok(session) => match session.run() {
                    Ok(()) => return,
                    Err(_) => FLEET_TICK,
                },
                Err(why) => {
                    lost(&state, joined, &why);
                    show(&state, &fleet, joined);
                    FLEET_RETRY_INTERVAL
                }
            };
            joined.etcd.next_endpoint();
            joined.documents.tick(Instant::now());
            std::thread::sleep(pause);
        }
    };
    let thread = Builder::new().name("xksd-fleet".into()).spawn(run)?;
    let _ = of_thread.thread.set(thread);
    Ok(())
}

fn lost(state: &State, joined: &Joined, why: &str) {
    if joined.members.lost(why) {
        let message =
            format!("fleet: etcd does not answer: {why}. What is in force stays in force");
        state.log.event(Level::Error, message);
    }
}

/// Key managers of the others, for AWS KMS.
fn show(state: &State, fleet: &Fleet, joined: &Joined) {
    let (view, served) = (&state.fleet_view, state.stores.load());
    let see = |others: &[(&str, &Summary)]| view::heard(view, &served, others);
    joined.members.of_others(&fleet.name, FLEET_HEALTH_AGE_MAX, see);
}

/// Files that have changed come into force.
fn take_over_files(state: &Arc<State>, joined: &Joined) {
    if joined.documents.files_changed() {
        // What is to be said of it stands in the log, and in the summary.
        let _ = files::take_over(state, joined, "the fleet's files");
    }
}

fn is_draining(state: &State) -> bool {
    state.draining.load(Ordering::Acquire)
}

/// Documents in force and not in force, whether it is ready, and with which configuration.
type News = (BTreeMap<String, u64>, BTreeMap<String, String>, bool, String);

/// As long as one member of etcd answers and the lease holds.
struct Session<'a> {
    state: &'a Arc<State>,
    fleet: &'a Fleet,
    joined: &'a Joined,
    lease: u64,
    /// How etcd was reached when it began.
    reach: Arc<Reach>,
    /// From where changes are watched.
    revision: u64,
    renewed: Instant,
    summarised: Instant,
    synced: Instant,
    restored: Instant,
    /// What this instance said last that others wait for.
    said: Option<News>,
}

impl<'a> Session<'a> {
    fn begin(
        state: &'a Arc<State>,
        fleet: &'a Fleet,
        joined: &'a Joined,
    ) -> Result<Session<'a>, String> {
        let reach = joined.etcd.reach();
        let lease = joined.etcd.grant(FLEET_LEASE)?;
        let revision = joined.sync()?;
        joined.join(&fleet.name)?;
        let now = Instant::now();
        let mut session = Session {
            state,
            fleet,
            joined,
            lease,
            reach,
            revision,
            renewed: now,
            summarised: now,
            synced: now,
            restored: now,
            said: None,
        };
        session.take_over();
        session.say()?;
        if !joined.members.connection().connected {
            let (name, endpoint) = (&fleet.name, joined.etcd.endpoint());
            let message = format!("fleet: {name:?} is registered in etcd at {endpoint}");
            state.log.event(Level::Info, message);
        }
        joined.members.contact();
        Ok(session)
    }

    /// Until this instance stops.
    fn run(mut self) -> Result<(), String> {
        let mut watch = self.joined.etcd.watch(self.joined.prefix(), self.revision + 1)?;
        loop {
            if is_draining(self.state) {
                return self.end();
            }
            if !Arc::ptr_eq(&self.reach, &self.joined.etcd.reach()) {
                return Err("a reload has brought another way to etcd".to_owned());
            }
            for change in watch.changes(FLEET_TICK)? {
                self.joined.changed(&change, true);
            }
            self.take_over();
            self.refuse_a_second_of_its_name();
            let now = Instant::now();
            if self.said.as_ref() != Some(&self.news())
                || now >= self.summarised + FLEET_SUMMARY_INTERVAL
            {
                self.say()?;
            }
            if now >= self.renewed + FLEET_KEEP_ALIVE_INTERVAL {
                if !self.joined.etcd.keep_alive(self.lease)? {
                    return Err("the lease has ended".to_owned());
                }
                self.renewed = now;
                self.joined.members.contact();
            }
            if now >= self.synced + FLEET_RESYNC_INTERVAL {
                self.joined.sync()?;
                self.synced = now;
            }
            if now >= self.restored + RESTORE_INTERVAL {
                self.joined.restore()?;
                self.restored = now;
                show(self.state, self.fleet, self.joined);
                if changed_files::are_refused(self.state) {
                    self.joined.documents.look_again();
                }
            }
            self.joined.documents.tick(now);
        }
    }

    /// It leaves by itself: nobody waits for its confirmation.
    fn end(&self) -> Result<(), String> {
        self.joined.leave(&self.fleet.name)?;
        self.joined.etcd.revoke(self.lease)
    }

    fn take_over(&mut self) {
        take_over_files(self.state, self.joined);
        view::registered(&self.state.fleet_view, self.joined.members.registered());
    }

    fn news(&self) -> News {
        let documents = &self.joined.documents;
        let config_sha256 = self.state.config.load().sha256.clone();
        (documents.applied(), documents.not_applied(), self.state.is_ready(), config_sha256)
    }

    fn say(&mut self) -> Result<(), String> {
        // Before the summary: what changes in between is said once more.
        self.said = Some(self.news());
        let summary = summary(self.state);
        self.joined.register(&summary, self.lease)?;
        self.joined.members.heard(summary, None);
        self.summarised = Instant::now();
        Ok(())
    }

    /// Two processes of one name would confirm for each other.
    fn refuse_a_second_of_its_name(&self) {
        let Fleet { name, run, .. } = self.fleet;
        let other = self.joined.members.run_of(name).filter(|other| other != run);
        let key = format!("instances/{name}");
        if other.is_none() {
            return self.joined.members.accepted(&key);
        }
        let why = "another instance has this name: give each its own fleet.name";
        if self.joined.members.refused(&key, why) {
            self.state.log.event(Level::Error, format!("fleet: {name:?}: {why}"));
        }
    }
}
