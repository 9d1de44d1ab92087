//! Deep health probes: a thread a key manager encrypts and decrypts under a session test key, on a session of its own, so that
//! probes neither wait in a queue nor take a lane from requests.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};

use super::service::{Service, why_not};
use crate::api::response::HealthStatus;
use crate::hsm::{Answer, Engine, Fault, Job, ManagerInfo, Session, Task};
use crate::keystore::{Backend, Manager, Probe};
use crate::limits::{PROBE_INTERVAL, PROBE_RETRY_INTERVAL};
use crate::telemetry::Level;

/// Starts the probes of all key managers; they end when `stop` is disconnected.
///
/// # Errors
/// When no thread can be started.
pub fn start(service: &Arc<Service>, stop: &Receiver<()>) -> std::io::Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    for manager in &service.managers {
        let engine = service.engines.iter().find(|(known, _)| Arc::ptr_eq(known, manager)).map(|(_, engine)| engine.clone());
        let (service, manager, stop) = (service.clone(), manager.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("xksd-probe".into());
        threads.push(thread.spawn(move || probe_for_ever(&service, &manager, engine.as_deref(), &stop))?);
    }
    Ok(threads)
}

fn probe_for_ever(service: &Service, manager: &Arc<Manager>, engine: Option<&dyn Engine>, stop: &Receiver<()>) {
    let mut session = None;
    let mut told: Option<HealthStatus> = None;
    let mut keys_told: Option<Vec<(Arc<str>, String)>> = None;
    loop {
        let (result, info) = match (&manager.backend, engine) {
            (Backend::Local(local), _) => {
                let start = Instant::now();
                (local.probe().map(|()| start.elapsed()), local.info())
            }
            (Backend::Pool(_), Some(engine)) => probe_once(engine, &mut session),
            (Backend::Pool(_), None) => return,
        };
        let result = result.map_err(|fault| fault.to_string());
        tell_change(service, manager, &result, &info, &mut told);
        let serves = result.is_ok();
        manager.probe.store(Some(Arc::new(Probe { at: Instant::now(), result, info })));
        if serves {
            // Again when a reload changed what is expected.
            let expected = service.expected_keys(manager);
            if keys_told.as_ref() != Some(&expected) {
                tell_keys(service, manager, session.as_deref_mut(), &expected);
                keys_told = Some(expected);
            }
        }
        let pause = if serves { PROBE_INTERVAL } else { PROBE_RETRY_INTERVAL };
        if stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn probe_once(engine: &dyn Engine, session: &mut Option<Box<dyn Session>>) -> (Result<Duration, Fault>, ManagerInfo) {
    let start = Instant::now();
    let result = match session {
        Some(open) => open.probe(),
        None => engine.open().and_then(|opened| session.insert(opened).probe()),
    };
    if result.is_err() && session.as_ref().is_some_and(|session| !session.is_usable()) {
        *session = None;
    }
    let time = start.elapsed();
    let info = engine.info().unwrap_or_default();
    (result.map(|()| time), info)
}

/// A line when a key manager comes or goes, not one every probe.
fn tell_change(
    service: &Service,
    manager: &Manager,
    result: &Result<Duration, String>,
    info: &ManagerInfo,
    told: &mut Option<HealthStatus>,
) {
    let now = if result.is_ok() { HealthStatus::Active } else { HealthStatus::Unavailable };
    if *told == Some(now) {
        return;
    }
    *told = Some(now);
    let name = &manager.name;
    match result {
        Ok(time) => service.log.event(
            Level::Info,
            format!("key manager {name:?} serves: {} {} token {:?}, probe {} µs", info.vendor, info.model, info.token, time.as_micros()),
        ),
        Err(why) => service.log.event(Level::Error, format!("key manager {name:?} does not serve: {why}")),
    }
}

/// Names every configured key that cannot serve; the rest serves.
fn tell_keys(service: &Service, manager: &Manager, session: Option<&mut (dyn Session + 'static)>, expected: &[(Arc<str>, String)]) {
    let mut describe: Box<dyn FnMut(Job) -> Result<Answer, Fault>> = match (&manager.backend, session) {
        (Backend::Local(local), _) => Box::new(|job| local.execute(job)),
        (Backend::Pool(_), Some(session)) => Box::new(|job| session.execute(job)),
        (Backend::Pool(_), None) => return,
    };
    for (label, what) in expected {
        let deadline = Instant::now() + PROBE_INTERVAL;
        if let Some(why) = why_not(describe(Job { label: label.clone(), task: Task::Describe, deadline })) {
            service.log.event(Level::Warn, format!("{what} cannot serve from key manager {:?}: {why}", manager.name));
        }
    }
}
