//! Start, run, reload, drain, stop: the life of `xksd serve`, on the main thread.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam::channel::bounded;
use rustix::stdio::stderr;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::config::{Config, LogFormat};
use super::service::Service;
use super::{admin, probes, reload, system};
use crate::keystore::Backend;
use crate::shard::nudge::{self, Nudge};
use crate::shard::{ShardSeed, ShardThread, Stop};
use crate::telemetry::{Level, Log, log};
use crate::tls;

/// The main thread looks at signals, shards and hung lanes this often.
const TICK: Duration = Duration::from_millis(50);
/// A shard that has not moved for this many ticks is dead: 10 s of this thread's own running time, so that a paused process is not
/// taken for a dead one.
const STILL_TICKS_MAX: u32 = 200;
/// For the log's last lines.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// How serving ended.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is wrong: every problem, a line each.
    Configuration(String),
    /// Something else: a sentence.
    Other(String),
}

/// Serves until a signal says stop. `serving` is called once requests are answered, with the listener's address.
///
/// # Errors
/// When it could not start, or a shard died.
pub fn serve(config_file: &Path, serving: impl FnOnce(std::net::SocketAddr)) -> Result<(), Failure> {
    system::forbid_core_dumps();
    let config = Config::load(config_file).map_err(|invalid| Failure::Configuration(invalid.to_string()))?;
    let settings = reload::tls_settings(&config);
    let checked = tls::check(&settings);
    let tls_config = tls::server(&settings).map_err(|problems| Failure::Configuration(reload::told(config_file, &problems)))?;

    system::raise_limits();
    system::check_io_uring().map_err(Failure::Other)?;
    let cores = system::allowed_cores().map_err(Failure::Other)?;
    let placed = system::place(config.server.shards, &cores);

    let format = match config.server.log {
        LogFormat::Json => log::Format::Json,
        LogFormat::Text => log::Format::Text,
        LogFormat::Auto if rustix::termios::isatty(stderr()) => log::Format::Text,
        LogFormat::Auto => log::Format::Json,
    };
    // Signals are blocked out of the other threads' way before there are any.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|e| Failure::Other(format!("cannot watch signals: {e}")))?;
    let (log, _writer) = Log::start(format, std::io::stderr()).map_err(|e| Failure::Other(format!("cannot start the log: {e}")))?;
    for warning in config.warnings.iter().cloned().chain(checked.warnings.iter().map(ToString::to_string)) {
        log.event(Level::Warn, warning);
    }
    reload::warn_of_local_keys(&config, &log);

    let (listen, admin_listen, shutdown_time) = (config.server.listen, config.admin, config.server.shutdown_time);
    let service = Service::build(config_file.to_path_buf(), config, tls_config, placed.len(), log.clone()).map_err(Failure::Other)?;
    let service = Arc::new(service);
    let result = run(&service, &placed, listen, admin_listen, &mut signals, serving);
    // From here on a second signal ends at once.
    service.draining.store(true, Ordering::Release);
    let result = result.and_then(|running| drain(&service, running, shutdown_time, &mut signals));
    log.flush(FLUSH_TIME);
    result.map_err(Failure::Other)
}

/// What has to be ended.
struct Running {
    shards: Vec<(ShardThread, Arc<Stop>)>,
    stop_probes: crossbeam::channel::Sender<()>,
    probes: Vec<std::thread::JoinHandle<()>>,
}

fn run(
    service: &Arc<Service>,
    placed: &[usize],
    listen: std::net::SocketAddr,
    admin_listen: Option<std::net::SocketAddr>,
    signals: &mut Signals,
    serving: impl FnOnce(std::net::SocketAddr),
) -> Result<Running, String> {
    let (started, starts) = bounded(placed.len());
    let mut shards = Vec::new();
    let nudges: Vec<Arc<Nudge>> = placed.iter().map(|_| Arc::default()).collect();
    nudge::start(nudges.iter().map(Arc::downgrade).collect()).map_err(|e| format!("cannot start a thread: {e}"))?;
    let mut listen = listen;
    for (index, &core) in placed.iter().enumerate() {
        let stop = Arc::new(Stop::default());
        let seed = ShardSeed {
            index,
            core,
            listen,
            stores: service.stores.clone(),
            tls: service.tls.clone(),
            mailbox: service.mailboxes[index].clone(),
            metrics: service.metrics[index].clone(),
            log: service.log.clone(),
            stop: stop.clone(),
            beats: Arc::default(),
            nudge: nudges[index].clone(),
        };
        let started = started.clone();
        let shard = seed.start(move |result| drop(started.send(result))).map_err(|e| system::explain(&e))?;
        // One after the other: where the port is 0, the others take the one that the first was given.
        match starts.recv_timeout(Duration::from_secs(10)) {
            Ok(Ok(address)) => listen = address,
            Ok(Err(error)) => return Err(format!("server.listen: {error}")),
            Err(_) => return Err(format!("shard {index} did not start: {}", shard.join().err().unwrap_or_default())),
        }
        shards.push((shard, stop));
    }
    // Each shard holds its own for as long as it runs.
    drop(nudges);
    if let Some(address) = admin_listen {
        let address = admin::start(service, address)?;
        service.log.event(Level::Info, format!("admin listener on http://{address}: /livez /readyz /ping /metrics /status"));
    }
    let (stop_probes, probes_stopped) = bounded(0);
    let probes = probes::start(service, &probes_stopped).map_err(|e| format!("cannot start a probe: {e}"))?;
    service.log.event(
        Level::Info,
        format!("xksd {} serves on {listen} with {} shards on cores {placed:?}", env!("CARGO_PKG_VERSION"), placed.len()),
    );
    serving(listen);

    let running = Running { shards, stop_probes, probes };
    let mut still: Vec<(u64, u32)> = vec![(0, 0); placed.len()];
    loop {
        std::thread::sleep(TICK);
        for signal in signals.pending() {
            if signal == SIGHUP {
                reload::reload(service);
            } else {
                let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
                service.log.event(Level::Info, format!("{name}: stopping"));
                return Ok(running);
            }
        }
        tick_pools(service);
        for (index, ((shard, _), (beats, ticks))) in running.shards.iter().zip(&mut still).enumerate() {
            (*beats, *ticks) = if shard.beats() == *beats { (*beats, *ticks + 1) } else { (shard.beats(), 0) };
            if shard.is_finished() || *ticks > STILL_TICKS_MAX {
                // Without it a share of all connections would hang: better to be started anew as a whole.
                return Err(format!("shard {index} died or is stuck: this is a defect of xksd, please report it"));
            }
        }
    }
}

fn tick_pools(service: &Service) {
    let now = Instant::now();
    for manager in &service.managers {
        if let Backend::Pool(pool) = &manager.backend {
            pool.tick(now);
        }
    }
}

/// Readiness is off already; listeners close, requests in flight are answered, idle connections end, sessions close.
fn drain(service: &Arc<Service>, running: Running, shutdown_time: Duration, signals: &mut Signals) -> Result<(), String> {
    let deadline = Instant::now() + shutdown_time;
    let Running { mut shards, stop_probes, probes } = running;
    for (_, stop) in &shards {
        stop.request();
    }
    drop(stop_probes);
    while shards.iter().any(|(shard, _)| !shard.is_finished()) && Instant::now() < deadline {
        if signals.pending().any(|signal| signal != SIGHUP) {
            service.log.event(Level::Warn, "second signal: ending at once");
            return Err("ended by a second signal".into());
        }
        tick_pools(service);
        std::thread::sleep(TICK / 5);
    }
    let open: u64 = service.metrics.iter().map(|m| m.connections_open.load(Ordering::Relaxed)).sum();
    if shards.iter().all(|(shard, _)| shard.is_finished()) {
        for (shard, _) in shards.drain(..) {
            shard.join()?;
        }
    } else {
        service.log.event(Level::Warn, format!("{open} connections were still open after {} ms", shutdown_time.as_millis()));
    }
    // Sessions even then get a moment: an HSM counts the ones that were not closed.
    let patience = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(500));
    if !service.stop_lanes(patience) {
        service.log.event(Level::Warn, "a call into a key manager's module still hangs; its session is left open");
    }
    for probe in probes.into_iter().filter(std::thread::JoinHandle::is_finished) {
        let _ = probe.join();
    }
    service.log.event(Level::Info, "stopped");
    Ok(())
}
