//! The life of `xksd serve`, on the main thread: start, run, reload; how it ends stands in `drain`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGUSR1};
use socket2::Socket;

use super::admin_hooks::AdminHooks;
use super::attendants::Gone;
use super::attending::attend;
use super::awaited_pins::AwaitedPins;
use super::budget_keeper::Keeper;
use super::movable_listener::Bound;
use super::reload::Accepted;
use super::shards::Shards;
use super::sharing::Sharing;
use super::signals::Signals;
use super::socket::SocketKeeper;
pub use super::start::Failure;
use super::start::{Prepared, prepare};
use super::state::State;
use super::version_reread::VersionReread;
use super::watchdog::Watchdog;
use super::{commands, drain, file_watch, reload, socket, system};
use crate::config::difference;
use crate::limits::OPENING_WAIT_MAX;
use crate::telemetry::Level;

/// The main thread looks at signals, shards and hung lanes this often.
const TICK: Duration = Duration::from_millis(50);
/// Key managers that open are looked at this often: requests wait for them.
const OPENING_TICK: Duration = Duration::from_millis(2);

/// Serves until a signal says stop. `serving` is called once requests are answered; a key manager
/// may still be opening.
///
/// # Errors
/// When it could not start, or a shard died.
pub fn serve(
    config_file: &Path,
    hooks: AdminHooks,
    serving: impl FnOnce(&Arc<State>),
) -> Result<(), Failure> {
    system::forbid_core_dumps();
    // Before anything else: a reload that is asked for while this starts must not end it, which is
    // what SIGHUP does where nobody watches for it.
    let mut signals =
        Signals::watch().map_err(|e| Failure::Other(format!("cannot watch signals: {e}")))?;
    let Prepared { state, cores, listen, admin, witness, control } = prepare(config_file)?;
    attend_all(&state).map_err(|e| Failure::Other(format!("cannot start a probe: {e}")))?;
    // Before the first request can come: what is served can be blocked.
    let path = state.config.load().server.control_socket.clone();
    let socket_keeper = SocketKeeper::new(&path, &control)
        .and_then(|keeper| socket::start(&state, hooks, control).map(|()| keeper))
        .map_err(|e| Failure::Other(format!("cannot start the control socket: {e}")))?;
    state.witness.start(witness, &state.log).map_err(Failure::Other)?;
    file_watch::start(&state)
        .map_err(|e| Failure::Other(format!("cannot start to watch files: {e}")))?;
    let mut sharing = Sharing::default();
    sharing.look(&state).map_err(Failure::Other)?;
    let keeper = Keeper::start(&state)
        .map_err(|e| Failure::Other(format!("cannot start counting encryptions: {e}")))?;
    let served = start_shards(&state, &cores, listen, (hooks, admin)).and_then(|shards| {
        serving(&state);
        run(&state, shards, &mut signals, (socket_keeper, hooks, sharing))
    });
    drain::end(&state, served, keeper, &mut signals).map_err(Failure::Other)
}

/// Starts to look after all key managers.
fn attend_all(state: &Arc<State>) -> std::io::Result<()> {
    let unsealing = state.unsealing.load();
    state.managers.load().iter().try_for_each(|manager| {
        let of_manager = unsealing.iter().find(|unsealing| *unsealing.name == *manager.name);
        attend(state, manager, of_manager)
    })
}

/// Answers on the admin listener, then on the shards' port.
fn start_shards(
    state: &Arc<State>,
    cores: &[usize],
    listen: Vec<Arc<Socket>>,
    (hooks, admin): (AdminHooks, Option<Bound>),
) -> Result<Shards, String> {
    let answer = (hooks.answer)(state).map_err(|error| format!("admin.listen: {error}"))?;
    state.admin.start(answer, admin, &state.log)?;
    if !listen.is_empty() {
        wait_for_key_manager(state);
    }
    let (listen, shards) = Shards::start(state, cores, &listen)?;
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
    for warning in reload::blocks_of_nothing(state, &state.config.load()) {
        state.log.event(Level::Warn, warning);
    }
    // From here on, and with the lines of reloads, the log says who could use which key when.
    let reported = difference::at_start(&state.config.load(), (&**state.tls.load()).into());
    reported.into_iter().for_each(|line| state.log.event(Level::Info, format!("start: {line}")));
    Ok(shards)
}

/// Connections wait in sockets that were passed, and in an upgrade they come all the time: they are
/// taken once they can be served. Without such sockets they would be refused meanwhile, which is no
/// better than an error.
fn wait_for_key_manager(state: &State) {
    let end = Instant::now() + OPENING_WAIT_MAX;
    while !state.has_key_manager() && Instant::now() < end {
        std::thread::sleep(OPENING_TICK);
    }
}

/// Until a signal says stop and load balancers have seen it.
fn run(
    state: &Arc<State>,
    mut shards: Shards,
    signals: &mut Signals,
    (mut keeper, hooks, mut sharing): (SocketKeeper, AdminHooks, Sharing),
) -> Result<Shards, String> {
    let mut close_at: Option<Instant> = None;
    let (mut watchdog, mut versions) = (Watchdog::default(), VersionReread::default());
    let mut pins = AwaitedPins::default();
    loop {
        std::thread::sleep(TICK);
        let now = Instant::now();
        for name in signals.take_back() {
            let message = format!("a PKCS#11 module has taken {name}: taken back");
            state.log.event(Level::Warn, message);
        }
        for signal in signals.pending() {
            if signal == SIGHUP {
                reload_beside(state);
            } else if signal == SIGUSR1 {
                state.log.reopen();
            } else if close_at.is_some() {
                return Err(drain::SECOND_SIGNAL.into());
            } else {
                let delay = drain::begin(state, signal, watchdog.unready_time(now));
                close_at = Some(Instant::now() + delay);
            }
        }
        if close_at.is_some_and(|at| at <= Instant::now()) {
            return Ok(shards);
        }
        tell_gone(state, state.attendants.tick(now));
        commands::tick(state);
        keeper.look(state, hooks);
        if let Err(why) = sharing.look(state) {
            state.log.event(Level::Error, why);
        }
        versions.look(state);
        pins.look(state);
        if let Some(why) = watchdog.look(state) {
            return Err(why);
        }
        shards.look()?;
        state.notify.starting(|| state.is_ready(), state.started.elapsed());
        if shards.are_moving() {
            state.notify.alive(now, || state.summary());
        }
    }
}

/// Reloads on another thread: key managers that it opens take their time.
fn reload_beside(state: &Arc<State>) {
    let beside = state.clone();
    let run = move || {
        // What is to be said of it stands in the log.
        let _ = reload::reload(&beside, "SIGHUP", Accepted::default());
    };
    if let Err(error) = std::thread::Builder::new().name("xksd-reload".into()).spawn(run) {
        state.log.event(Level::Error, format!("not reloaded: no thread for it: {error}"));
    }
}

/// What became of key managers that are no longer used.
fn tell_gone(state: &State, gone: Vec<Gone>) {
    for gone in gone {
        let (level, message) = match gone {
            Gone::Closed(name) => {
                (Level::Info, format!("key manager {name:?} that is no longer used is closed"))
            }
            Gone::Hangs(name) => {
                let message = format!(
                    "key manager {name:?} is no longer used, and a call still hangs in its module: \
                     its session is left open"
                );
                (Level::Warn, message)
            }
        };
        state.log.event(level, message);
    }
}
