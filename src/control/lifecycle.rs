//! Start, run, reload, drain, stop: the life of `xksd serve`, on the main thread.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::key_versions::KeyVersions;
use super::reload::LossOfClientAuth;
use super::shards::Shards;
use super::signals::Signals;
pub use super::start::Failure;
use super::start::{Prepared, prepare};
use super::state::State;
use super::watchdog::Watchdog;
use super::{commands, probes, reload, socket, system};
use crate::admin::listener as admin;
use crate::config::difference;
use crate::limits::HUNG_CALL_TIME;
use crate::telemetry::Level;

/// The main thread looks at signals, shards and hung lanes this often.
const TICK: Duration = Duration::from_millis(50);
/// Sessions get this long to close even when the time for stopping is over: an HSM counts the ones
/// that were not closed.
const CLOSE_TIME: Duration = Duration::from_millis(500);
/// For the audit trail's last records and its last checkpoint, on a disk that is slow.
const AUDIT_CLOSE_TIME: Duration = Duration::from_secs(5);
/// For the log's last lines.
const FLUSH_TIME: Duration = Duration::from_secs(1);

const SECOND_SIGNAL: &str = "ended at once by a second signal";

/// Serves until a signal says stop. `serving` is called once requests are answered; a key manager
/// may still be opening.
///
/// # Errors
/// When it could not start, or a shard died.
pub fn serve(config_file: &Path, serving: impl FnOnce(&Arc<State>)) -> Result<(), Failure> {
    system::forbid_core_dumps();
    // Before anything else: a reload that is asked for while this starts must not end it, which is
    // what SIGHUP does where nobody watches for it.
    let mut signals =
        Signals::watch().map_err(|e| Failure::Other(format!("cannot watch signals: {e}")))?;
    let Prepared { state, cores, admin, control } = prepare(config_file)?;
    let (stop_probes, probes_stopped) = bounded(0);
    let probes = probes::start(&state, &probes_stopped)
        .map_err(|e| Failure::Other(format!("cannot start a probe: {e}")))?;
    // Before the first request can come: what is served can be blocked.
    socket::start(&state, control)
        .map_err(|e| Failure::Other(format!("cannot start the control socket: {e}")))?;
    let served = start_shards(&state, &cores, admin).and_then(|shards| {
        serving(&state);
        run(&state, shards, &mut signals)
    });
    state.draining.store(true, Ordering::Release);
    drop(stop_probes);
    let drained = served.and_then(|shards| drain(&state, shards, &mut signals));
    let patience = drained.as_ref().map_or(CLOSE_TIME, |left| CLOSE_TIME.max(*left));
    let inside = leave_modules(&state, &probes, patience, &mut signals);
    if !state.audit.close(Instant::now() + AUDIT_CLOSE_TIME) {
        state.log.event(
            Level::Error,
            "the audit trail could not be ended: its last records may be missing",
        );
    }
    let left_the_modules = inside.as_ref().is_ok_and(Vec::is_empty);
    let ended = drained.and(inside);
    log_the_end(&state, &ended, left_the_modules);
    if !left_the_modules {
        // A module's destructors would run under the feet of the thread that is still inside.
        signal_hook::low_level::exit(i32::from(ended.is_err()));
    }
    ended.map(drop).map_err(Failure::Other)
}

fn log_the_end(state: &State, ended: &Result<Vec<&str>, String>, left_the_modules: bool) {
    match ended {
        Ok(_) if left_the_modules => state.log.event(Level::Info, "stopped"),
        Ok(inside) => {
            let inside = inside.join(", ");
            let message = format!(
                "stopped; a call still hangs in the module of {inside}, and its session is left \
                 open"
            );
            state.log.event(Level::Warn, message);
        }
        // Else the command prints it.
        Err(why) if !left_the_modules => state.log.event(Level::Error, why.as_str()),
        Err(_) => {}
    }
    state.log.flush(FLUSH_TIME);
}

/// Answers on the admin listener, then on the shards' port.
fn start_shards(
    state: &Arc<State>,
    cores: &[usize],
    admin: Option<TcpListener>,
) -> Result<Shards, String> {
    if let Some(listener) = admin {
        let address = admin::start(state, listener)?;
        state.log.event(
            Level::Info,
            format!("admin listener on http://{address}: /livez /readyz /ping /metrics /status"),
        );
    }
    let listen = state.config.load().server.listen;
    let (listen, shards) = Shards::start(state, cores, listen)?;
    let _ = state.listening.set(listen);
    state.log.event(
        Level::Info,
        format!(
            "xksd {} ({}) serves on {listen} with {} shard{} on cores {cores:?}, up to {} \
             connections each",
            env!("CARGO_PKG_VERSION"),
            env!("BUILT_FROM"),
            cores.len(),
            if cores.len() == 1 { "" } else { "s" },
            state.connections_a_shard
        ),
    );
    // From here on, and with the lines of reloads, the log says who could use which key when.
    let reported = difference::at_start(&state.config.load(), (&**state.tls.load()).into());
    reported.into_iter().for_each(|line| state.log.event(Level::Info, format!("start: {line}")));
    Ok(shards)
}

/// Until a signal says stop and load balancers have seen it.
fn run(state: &Arc<State>, mut shards: Shards, signals: &mut Signals) -> Result<Shards, String> {
    let mut close_at: Option<Instant> = None;
    let (mut watchdog, mut key_versions) = (Watchdog::default(), KeyVersions::default());
    loop {
        std::thread::sleep(TICK);
        let now = Instant::now();
        for name in signals.take_back() {
            let message = format!("a PKCS#11 module has taken {name}: taken back");
            state.log.event(Level::Warn, message);
        }
        for signal in signals.pending() {
            if signal == SIGHUP {
                // What is to be said of it stands in the log.
                let _ = reload::reload(state, "SIGHUP", LossOfClientAuth::Refused);
            } else if close_at.is_some() {
                return Err(SECOND_SIGNAL.into());
            } else {
                let delay = begin_to_stop(state, signal, watchdog.unready_time(now));
                close_at = Some(Instant::now() + delay);
            }
        }
        if close_at.is_some_and(|at| at <= Instant::now()) {
            return Ok(shards);
        }
        tick_key_managers(state);
        commands::tick(state);
        key_versions.look(state);
        if let Some(why) = watchdog.look(state) {
            return Err(why);
        }
        shards.look()?;
    }
}

/// Turns readiness off and gives how long to serve on, until load balancers have seen that and send
/// no more. `unready_time` is how long they have seen it already: who restarts xksd because its HSM
/// hangs is not to wait for it.
fn begin_to_stop(state: &State, signal: i32, unready_time: Duration) -> Duration {
    state.draining.store(true, Ordering::Release);
    let config = state.config.load();
    // Without the admin listener nobody can see it. Ctrl-C is a person's, who waits for it.
    let delay = if signal == SIGTERM && config.admin.is_some() {
        config.server.shutdown_delay.saturating_sub(unready_time)
    } else {
        Duration::ZERO
    };
    let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
    let reported = match delay.as_millis() {
        0 => format!("{name}: stopping"),
        ms => format!("{name}: stopping; not ready from now on, serving for {ms} ms more"),
    };
    state.log.event(Level::Info, reported);
    delay
}

fn tick_key_managers(state: &State) {
    let now = Instant::now();
    for manager in &state.managers {
        manager.tick(now);
    }
}

/// Readiness has been off for a while; listeners close, requests in flight are answered, idle
/// connections end, sessions close.
///
/// Gives the time that is left.
fn drain(state: &State, shards: Shards, signals: &mut Signals) -> Result<Duration, String> {
    let shutdown_time = state.config.load().server.shutdown_time;
    let deadline = Instant::now() + shutdown_time;
    shards.request_stop();
    while !shards.are_finished() && Instant::now() < deadline {
        heed_second_signal(signals)?;
        tick_key_managers(state);
        std::thread::sleep(TICK / 5);
    }
    if shards.are_finished() {
        shards.join()?;
    } else {
        let open: u64 =
            state.metrics.iter().map(|m| m.connections_open.load(Ordering::Relaxed)).sum();
        state.log.event(
            Level::Warn,
            format!("connections still open after {} ms: {open}", shutdown_time.as_millis()),
        );
    }
    Ok(deadline.saturating_duration_since(Instant::now()))
}

/// Ends lanes and probes. Gives the key managers in whose modules some still are when `patience` is
/// over, or when for [`HUNG_CALL_TIME`] none has come out: nobody is served by waiting for what
/// hangs, and nothing is until the next start.
fn leave_modules<'a>(
    state: &'a State,
    probes: &[JoinHandle<()>],
    patience: Duration,
    signals: &mut Signals,
) -> Result<Vec<&'a str>, String> {
    let deadline = Instant::now() + patience;
    let (mut sessions, mut moved) = (Vec::new(), Instant::now());
    loop {
        let mut inside = state.stop_key_managers(Instant::now() + TICK);
        let probed = state.managers.iter().zip(probes).filter(|(_, probe)| !probe.is_finished());
        inside.extend(probed.map(|(manager, _)| &*manager.name));
        inside.sort_unstable();
        inside.dedup();
        let now = Instant::now();
        let sessions_now = state.sessions();
        if sessions_now != sessions {
            (sessions, moved) = (sessions_now, now);
        }
        if inside.is_empty()
            || now >= deadline
            || now.saturating_duration_since(moved) > HUNG_CALL_TIME
        {
            return Ok(inside);
        }
        heed_second_signal(signals)?;
        std::thread::sleep(TICK / 10);
    }
}

/// An error once another signal to stop has come.
fn heed_second_signal(signals: &mut Signals) -> Result<(), String> {
    signals.take_back();
    if signals.pending().any(|signal| signal != SIGHUP) {
        Err(SECOND_SIGNAL.into())
    } else {
        Ok(())
    }
}
