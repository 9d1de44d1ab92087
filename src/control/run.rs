//! Start, run, reload, drain, stop: the life of `xksd serve`, on the main thread.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, bounded};
use rustix::stdio::stderr;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::service::Service;
use super::{probes, reload, system};
use crate::admin::listener as admin;
use crate::config::difference;
use crate::config::{Config, Invalid, LogFormat, Problem};
use crate::limits::HUNG_CALL_TIME;
use crate::shard::{ShardSeed, ShardThread, Stop};
use crate::telemetry::{Level, Log, log};
use crate::tls;

/// The main thread looks at signals, shards and hung lanes this often.
const TICK: Duration = Duration::from_millis(50);
/// A shard that has not moved for this many ticks is dead: 10 s of this thread's own running time,
/// so that a paused process is not taken for a dead one.
const STILL_TICKS_MAX: u32 = 200;
/// Sessions get this long to close even when the time for stopping is over: an HSM counts the ones
/// that were not closed.
const CLOSE_TIME: Duration = Duration::from_millis(500);
/// A port that is taken is tried again for so long: of a process that was killed, the kernel closes
/// the listeners that io_uring held some time after the process has gone.
const PORT_PATIENCE: Duration = Duration::from_secs(1);
/// For the log's last lines.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// A shard starts within some milliseconds, unless the machine stands still.
const START_TIME: Duration = Duration::from_secs(10);
/// A shard that there is not enough lockable memory for is tried again for so long: the kernel
/// gives back what the rings of a process that has ended had locked some time after it has gone.
const MEMORY_PATIENCE: Duration = Duration::from_secs(1);

const SECOND_SIGNAL: &str = "ended at once by a second signal";

/// How serving ended.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is wrong.
    Configuration(Invalid),
    /// Something else: a sentence.
    Other(String),
}

/// Serves until a signal says stop. `serving` is called once requests are answered; a key manager
/// may still be opening.
///
/// # Errors
/// When it could not start, or a shard died.
pub fn serve(config_file: &Path, serving: impl FnOnce(&Arc<Service>)) -> Result<(), Failure> {
    system::forbid_core_dumps();
    // Before anything else: a reload that is asked for while this starts must not end it, which is
    // what SIGHUP does where nobody watches for it.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| Failure::Other(format!("cannot watch signals: {e}")))?;
    let config =
        Config::load(config_file).map_err(|invalid| wrong(config_file, invalid.problems))?;
    config.set_environment().map_err(Failure::Other)?;
    let tls_config = tls::server(&config.tls.settings()).map_err(|problems| {
        wrong(
            config_file,
            problems
                .into_iter()
                .map(|problem| Problem::of_key(problem.key, problem.message))
                .collect(),
        )
    })?;

    system::raise_limits();
    system::check_io_uring().map_err(Failure::Other)?;
    let cores = system::allowed_cores().map_err(Failure::Other)?;
    let placed = system::place(config.server.shards, cores_kept(&config), &cores);
    let connections_max =
        system::connections_a_shard(placed.len(), sessions(&config)).map_err(Failure::Other)?;

    let format = match config.server.log {
        LogFormat::Json => log::Format::Json,
        LogFormat::Text => log::Format::Text,
        LogFormat::Auto if rustix::termios::isatty(stderr()) => log::Format::Text,
        LogFormat::Auto => log::Format::Json,
    };
    let (log, _writer) = Log::start(format, std::io::stderr())
        .map_err(|e| Failure::Other(format!("cannot start the log: {e}")))?;
    for warning in
        config.warnings.iter().cloned().chain(tls_config.warnings().iter().map(ToString::to_string))
    {
        log.event(Level::Warn, warning);
    }
    reload::warn_of_local_keys(&config, &log);

    let (listen, admin_listen) = (config.server.listen, config.admin);
    // Before any key manager logs in: one that is started again and again on a taken port must not
    // spend the tries of a wrong PIN.
    refuse_taken(listen).map_err(Failure::Other)?;
    let admin = admin_listen.map(admin::bind).transpose().map_err(Failure::Other)?;
    let service = Service::build(
        config_file.to_path_buf(),
        config,
        tls_config,
        placed.len(),
        connections_max,
        log.clone(),
    );
    let service =
        Arc::new(service.map_err(|why| wrong(config_file, vec![Problem::of_key("", why)]))?);
    let (stop_probes, probes_stopped) = bounded(0);
    let probes = probes::start(&service, &probes_stopped)
        .map_err(|e| Failure::Other(format!("cannot start a probe: {e}")))?;
    let result = run(&service, &placed, listen, admin, &mut signals, serving);
    service.draining.store(true, Ordering::Release);
    drop(stop_probes);
    let result = result.and_then(|shards| drain(&service, shards, &mut signals));
    let patience = result.as_ref().map_or(CLOSE_TIME, |left| CLOSE_TIME.max(*left));
    let inside = leave_modules(&service, &probes, patience, &mut signals);
    let left_the_modules = inside.as_ref().is_ok_and(Vec::is_empty);
    let result = result.and(inside);
    match &result {
        Ok(_) if left_the_modules => log.event(Level::Info, "stopped"),
        Ok(inside) => {
            let inside = inside.join(", ");
            log.event(
                Level::Warn,
                format!(
                    "stopped; a call still hangs in the module of {inside}, \
                and its session is left open"
                ),
            );
        }
        // Else it is told by the command.
        Err(why) if !left_the_modules => log.event(Level::Error, why.as_str()),
        Err(_) => {}
    }
    log.flush(FLUSH_TIME);
    if !left_the_modules {
        // A module's destructors would run under the feet of the thread that is still inside.
        signal_hook::low_level::exit(i32::from(result.is_err()));
    }
    result.map(drop).map_err(Failure::Other)
}

/// A configuration that cannot be started with, with all that `xksd check` tells of it: that looks
/// into each file that is named, while the start goes on until the first room refuses what is its
/// own.
///
/// Only then: a start that nothing forbids is not stopped by, say, the missing module of one
/// replica, which may come later.
fn wrong(config_file: &Path, problems: Vec<Problem>) -> Failure {
    // Where that finds nothing, the file was mended in between.
    let all = Config::check(config_file).err();
    Failure::Configuration(
        all.unwrap_or_else(|| Invalid { file: config_file.to_path_buf(), problems }),
    )
}

/// Ends lanes and probes. Gives the key managers in whose modules some still are when `patience` is
/// over, or when for [`HUNG_CALL_TIME`] none has come out: nobody is served by waiting for what
/// hangs, and nothing is until the next start.
fn leave_modules<'a>(
    service: &'a Service,
    probes: &[JoinHandle<()>],
    patience: Duration,
    signals: &mut Signals,
) -> Result<Vec<&'a str>, String> {
    let deadline = Instant::now() + patience;
    let (mut sessions, mut moved) = (Vec::new(), Instant::now());
    loop {
        let mut inside = service.stop_key_managers(Instant::now() + TICK);
        let probed = service.managers.iter().zip(probes).filter(|(_, probe)| !probe.is_finished());
        inside.extend(probed.map(|(manager, _)| &*manager.name));
        inside.sort_unstable();
        inside.dedup();
        let now = Instant::now();
        let sessions_now = service.sessions();
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

/// Shards share the port (SO_REUSEPORT), and so would another xksd of the same user, which would
/// silently get a part of the connections.
fn refuse_taken(listen: SocketAddr) -> Result<(), String> {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let deadline = Instant::now() + PORT_PATIENCE;
    // Trying to bind without the option would tell too, but also fails for a minute after a
    // restart, for old connections' sake.
    while listen.port() != 0
        && TcpStream::connect_timeout(&(ip, listen.port()).into(), TICK).is_ok()
    {
        if Instant::now() >= deadline {
            return Err(format!("server.listen: something listens on {listen} already"));
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// Cores that auto-sized shards leave to key managers that keep one thread of this process busy:
/// with SoftHSM on two cores, one shard answers 1.3 times what two do.
fn cores_kept(config: &Config) -> usize {
    config.key_managers.iter().filter(|manager| manager.kind.keeps_one_thread_busy()).count()
}

/// PKCS#11 sessions of all key managers.
fn sessions(config: &Config) -> usize {
    config.key_managers.iter().map(|manager| manager.kind.sessions()).sum()
}

type Shards = Vec<(ShardThread, Arc<Stop>)>;

fn run(
    service: &Arc<Service>,
    placed: &[usize],
    listen: SocketAddr,
    admin: Option<TcpListener>,
    signals: &mut Signals,
    serving: impl FnOnce(&Arc<Service>),
) -> Result<Shards, String> {
    if let Some(listener) = admin {
        let address = admin::start(service, listener)?;
        service.log.event(
            Level::Info,
            format!("admin listener on http://{address}: /livez /readyz /ping /metrics /status"),
        );
    }
    let mut shards = Vec::new();
    let mut listen = listen;
    for (index, &core) in placed.iter().enumerate() {
        let seed = |stop| ShardSeed {
            index,
            core,
            listen,
            connections_max: service.connections_a_shard,
            stores: service.stores.clone(),
            tls: service.tls.clone(),
            mailbox: service.mailboxes[index].clone(),
            metrics: service.metrics[index].clone(),
            log: service.log.clone(),
            stop,
            heartbeat: Arc::default(),
        };
        // One after the other: where the port is 0, the others take the one that the first was
        // given.
        let (address, shard, stop) =
            start_shard(seed).map_err(|why| format!("shard {index} did not start: {why}"))?;
        listen = address;
        shards.push((shard, stop));
    }
    let _ = service.listening.set(listen);
    service.log.event(
        Level::Info,
        format!(
            "xksd {} serves on {listen} with {} shard{} on cores {placed:?}, up to {} connections \
             each",
            env!("CARGO_PKG_VERSION"),
            placed.len(),
            if placed.len() == 1 { "" } else { "s" },
            service.connections_a_shard
        ),
    );
    // From here on, and with the lines of reloads, the log tells who could use which key when.
    let told = difference::at_start(&service.config.load(), service.tls.load().certificates());
    told.into_iter().for_each(|line| service.log.event(Level::Info, format!("start: {line}")));
    serving(service);

    let mut still: Vec<(u64, u32)> = vec![(0, 0); placed.len()];
    let mut close_at: Option<Instant> = None;
    let mut watchdog = probes::Watchdog::default();
    loop {
        std::thread::sleep(TICK);
        for signal in signals.pending() {
            if signal == SIGHUP {
                reload::reload(service);
            } else if close_at.is_some() {
                return Err(SECOND_SIGNAL.into());
            } else {
                close_at = Some(
                    Instant::now()
                        + begin_to_stop(service, signal, watchdog.unready_time(Instant::now())),
                );
            }
        }
        if close_at.is_some_and(|at| at <= Instant::now()) {
            return Ok(shards);
        }
        tick_key_managers(service);
        if let Some(why) = watchdog.look(service) {
            return Err(why);
        }
        for (index, ((shard, _), (heartbeat, ticks))) in shards.iter().zip(&mut still).enumerate() {
            (*heartbeat, *ticks) = if shard.heartbeat() == *heartbeat {
                (*heartbeat, *ticks + 1)
            } else {
                (shard.heartbeat(), 0)
            };
            if shard.is_finished() || *ticks > STILL_TICKS_MAX {
                // Without it a share of all connections would hang: better to be started anew as a
                // whole.
                return Err(format!(
                    "shard {index} died or is stuck: this is a defect of xksd, please report it"
                ));
            }
        }
    }
}

/// Starts a shard; with the address that it listens on.
fn start_shard(
    seed: impl Fn(Arc<Stop>) -> ShardSeed,
) -> Result<(SocketAddr, ShardThread, Arc<Stop>), String> {
    let patience = Instant::now() + MEMORY_PATIENCE;
    loop {
        let stop = Arc::new(Stop::default());
        let (started, start) = bounded(1);
        let failed = match seed(stop.clone()).start(move |result| drop(started.send(result))) {
            Err(error) => error,
            Ok(shard) => match start.recv_timeout(START_TIME) {
                Ok(Ok(address)) => return Ok((address, shard, stop)),
                Ok(Err(error)) => return Err(format!("server.listen: {error}")),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("not within {} s", START_TIME.as_secs()));
                }
                // It ended before it could say anything.
                Err(RecvTimeoutError::Disconnected) => shard.join().err().unwrap_or_default(),
            },
        };
        if !system::lacks_memory(&failed) || Instant::now() >= patience {
            return Err(system::explain(&failed));
        }
        std::thread::sleep(TICK);
    }
}

/// Turns readiness off and gives how long to serve on, until load balancers have seen that and send
/// no more. `unready_time` is how long they have seen it already: who restarts xksd because its HSM
/// hangs is not to wait for it.
fn begin_to_stop(service: &Service, signal: i32, unready_time: Duration) -> Duration {
    service.draining.store(true, Ordering::Release);
    let config = service.config.load();
    // Without the admin listener nobody can see it. Ctrl-C is a person's, who waits for it.
    let delay = if signal == SIGTERM && config.admin.is_some() {
        config.server.shutdown_delay.saturating_sub(unready_time)
    } else {
        Duration::ZERO
    };
    let name = if signal == SIGTERM { "SIGTERM" } else { "SIGINT" };
    let told = match delay.as_millis() {
        0 => format!("{name}: stopping"),
        ms => format!("{name}: stopping; not ready from now on, serving for {ms} ms more"),
    };
    service.log.event(Level::Info, told);
    delay
}

fn tick_key_managers(service: &Service) {
    let now = Instant::now();
    for manager in &service.managers {
        manager.tick(now);
    }
}

/// Readiness has been off for a while; listeners close, requests in flight are answered, idle
/// connections end, sessions close.
///
/// Gives the time that is left.
fn drain(
    service: &Arc<Service>,
    mut shards: Shards,
    signals: &mut Signals,
) -> Result<Duration, String> {
    let shutdown_time = service.config.load().server.shutdown_time;
    let deadline = Instant::now() + shutdown_time;
    for (_, stop) in &shards {
        stop.request();
    }
    while shards.iter().any(|(shard, _)| !shard.is_finished()) && Instant::now() < deadline {
        heed_second_signal(signals)?;
        tick_key_managers(service);
        std::thread::sleep(TICK / 5);
    }
    if shards.iter().all(|(shard, _)| shard.is_finished()) {
        for (index, (shard, _)) in shards.drain(..).enumerate() {
            shard.join().map_err(|e| format!("shard {index}: {e}"))?;
        }
    } else {
        let open: u64 =
            service.metrics.iter().map(|m| m.connections_open.load(Ordering::Relaxed)).sum();
        service.log.event(
            Level::Warn,
            format!("connections still open after {} ms: {open}", shutdown_time.as_millis()),
        );
    }
    Ok(deadline.saturating_duration_since(Instant::now()))
}

/// An error once another signal to stop has come.
fn heed_second_signal(signals: &mut Signals) -> Result<(), String> {
    if signals.pending().any(|signal| signal != SIGHUP) {
        Err(SECOND_SIGNAL.into())
    } else {
        Ok(())
    }
}
