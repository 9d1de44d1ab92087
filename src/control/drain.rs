//! Draining: from SIGTERM until the process has ended.
//!
//! 1. [`begin`]: not ready any more, and served on until load balancers have seen that.
//! 2. Listeners close, requests in flight are answered, idle connections end.
//! 3. Sessions close and modules are left; a call that hangs is waited for no longer than
//!    [`HUNG_CALL_TIME`].
//! 4. The counts of encryptions, the audit trail and the log end.
//!
//! A second signal ends it at once.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGTERM};

use super::budget_keeper::{Ending, Keeper};
use super::shards::Shards;
use super::signals::Signals;
use super::state::State;
use crate::limits::HUNG_CALL_TIME;
use crate::telemetry::Level;

/// What is to end is looked at this often.
const TICK: Duration = Duration::from_millis(10);
/// Lanes that close their sessions are waited for by this much before probes are looked at.
const CLOSING_TIME: Duration = Duration::from_millis(50);
/// Sessions get this long to close even when the time for stopping is over: an HSM counts the ones
/// that were not closed.
const CLOSE_TIME: Duration = Duration::from_millis(500);
/// For the audit trail's last records and its last checkpoint, on a disk that is slow.
const AUDIT_CLOSE_TIME: Duration = Duration::from_secs(5);
/// For what keys have encrypted, on a disk that is slow.
const STATE_CLOSE_TIME: Duration = Duration::from_secs(1);
/// For etcd to be told that this instance leaves.
const FLEET_LEAVE_TIME: Duration = Duration::from_secs(1);
/// For the log's last lines.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// Why serving ended.
pub(super) const SECOND_SIGNAL: &str = "ended at once by a second signal";

/// Turns readiness off and gives how long to serve on, until load balancers have seen that and send
/// no more. `unready_time` is how long they have seen it already: who restarts xksd because its HSM
/// hangs is not to wait for it.
pub(super) fn begin(state: &State, signal: i32, unready_time: Duration) -> Duration {
    state.draining.store(true, Ordering::Release);
    state.notify.stopping();
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

/// Ends what was served until now: `served` is what still runs, or why nothing does. Does not
/// come back where a call still hangs in a module: the process ends here.
///
/// # Errors
/// Those of `served`, and when it could not be ended in peace.
pub(super) fn end(
    state: &State,
    served: Result<Shards, String>,
    keeper: Keeper,
    signals: &mut Signals,
) -> Result<(), String> {
    state.draining.store(true, Ordering::Release);
    state.attendants.stop();
    let drained = served.and_then(|shards| close_connections(state, shards, signals));
    let patience = drained.as_ref().map_or(CLOSE_TIME, |drained| CLOSE_TIME.max(drained.time_left));
    let inside = leave_modules(state, patience, signals);
    let left_the_modules = inside.as_ref().is_ok_and(Vec::is_empty);
    let nobody_encrypts = left_the_modules && drained.as_ref().is_ok_and(|it| it.shards_finished);
    let ending = if nobody_encrypts { Ending::Settled } else { Ending::Reserved };
    keeper.stop(ending, Instant::now() + STATE_CLOSE_TIME);
    if let Some(fleet) = state.fleet.get() {
        fleet.wait_until_left(FLEET_LEAVE_TIME);
    }
    if !state.audit.close(Instant::now() + AUDIT_CLOSE_TIME) {
        state.log.event(
            Level::Error,
            "the audit trail could not be ended: its last records may be missing",
        );
    }
    let ended = drained.and(inside);
    log_the_end(state, &ended, left_the_modules);
    if !left_the_modules {
        // A module's destructors would run under the feet of the thread that is still inside.
        signal_hook::low_level::exit(i32::from(ended.is_err()));
    }
    ended.map(drop)
}

/// How the shards ended.
struct Drained {
    /// False: some still have connections.
    shards_finished: bool,
    /// Of the time for stopping.
    time_left: Duration,
}

/// Readiness has been off for a while; listeners close, requests in flight are answered, idle
/// connections end, sessions close.
///
/// Whatever comes of it, within the time for stopping.
fn close_connections(
    state: &State,
    shards: Shards,
    signals: &mut Signals,
) -> Result<Drained, String> {
    let shutdown_time = state.config.load().server.shutdown_time;
    let deadline = Instant::now() + shutdown_time;
    shards.request_stop();
    while !shards.are_finished() && Instant::now() < deadline {
        heed_second_signal(signals)?;
        state.attendants.tick(Instant::now());
        std::thread::sleep(TICK);
    }
    let shards_finished = shards.are_finished();
    if shards_finished {
        shards.join()?;
    } else {
        let open: u64 =
            state.metrics.iter().map(|m| m.connections_open.load(Ordering::Relaxed)).sum();
        state.log.event(
            Level::Warn,
            format!("connections still open after {} ms: {open}", shutdown_time.as_millis()),
        );
    }
    let time_left = deadline.saturating_duration_since(Instant::now());
    Ok(Drained { shards_finished, time_left })
}

/// Ends lanes and threads that call into modules. Gives the key managers in whose modules some
/// still are when `patience` is over, or when for [`HUNG_CALL_TIME`] none has come out: nobody is
/// served by waiting for what hangs, and nothing is until the next start.
fn leave_modules(
    state: &State,
    patience: Duration,
    signals: &mut Signals,
) -> Result<Vec<Arc<str>>, String> {
    let deadline = Instant::now() + patience;
    let (mut sessions, mut moved) = (Vec::new(), Instant::now());
    loop {
        let mut inside = state.attendants.close_all(Instant::now() + CLOSING_TIME);
        inside.sort_unstable();
        inside.dedup();
        let now = Instant::now();
        let sessions_now = state.attendants.sessions();
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
        std::thread::sleep(TICK);
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

fn log_the_end(state: &State, ended: &Result<Vec<Arc<str>>, String>, left_the_modules: bool) {
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
