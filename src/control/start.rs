//! From a configuration file to a state whose key managers open their sessions: everything before
//! the first shard.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::movable_listener::{self, Bound};
use super::passed::Passed;
use super::state::State;
use super::witness::listener as witness;
use super::{build, logging, socket, system};
use crate::config::{Config, Invalid, Problem};
use crate::telemetry::{Level, Log};
use crate::tls;

/// A port that is taken is tried again for so long: of a process that was killed, the kernel closes
/// the listeners that io_uring held some time after the process has gone.
const PORT_PATIENCE: Duration = Duration::from_secs(1);
/// From one such try to the next.
const PORT_RETRY: Duration = Duration::from_millis(50);

/// How serving ended.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is wrong.
    Configuration(Invalid),
    /// Something else: a sentence.
    Other(String),
}

/// What is ready for shards to be started.
pub(super) struct Prepared {
    pub(super) state: Arc<State>,
    /// The core of each shard.
    pub(super) cores: Vec<usize>,
    /// Sockets for the shards that were passed to this process.
    pub(super) listen: Vec<Arc<Socket>>,
    /// Bound, and not yet answered.
    pub(super) admin: Option<Bound>,
    /// The same.
    pub(super) witness: Option<Bound>,
    /// The same.
    pub(super) control: UnixListener,
}

/// Reads the configuration, looks at what the kernel allows, and opens log, listener and key
/// managers.
///
/// # Errors
/// When anything is wrong with the configuration or lacks.
pub(super) fn prepare(config_file: &Path) -> Result<Prepared, Failure> {
    let passed = Passed::take().map_err(Failure::Other)?;
    let (config, tls) = load(config_file)?;
    system::raise_limits();
    system::check_io_uring().map_err(Failure::Other)?;
    let allowed = system::allowed_cores().map_err(Failure::Other)?;
    let cores = system::place(config.server.shards, cores_kept(&config), &allowed);
    let connections_max =
        system::connections_a_shard(cores.len(), sessions(&config)).map_err(Failure::Other)?;
    let admin_listen = config.admin.as_ref().map(|admin| admin.listen);
    passed.fits(config.server.listen, admin_listen, cores.len()).map_err(Failure::Other)?;
    let log = start_log(&config, &tls)?;
    // Before any key manager logs in: one that is started again and again on a taken port must not
    // spend the tries of a wrong PIN.
    if passed.xks.is_empty() {
        refuse_taken(config.server.listen).map_err(Failure::Other)?;
    }
    let admin = match (passed.admin, admin_listen) {
        (Some(listener), Some(listen)) => Some(Bound { listen, listener, is_passed: true }),
        (_, listen) => bind("admin.listen", listen)?,
    };
    let witness = bind(witness::LISTEN, config.witness.as_ref().map(|witness| witness.listen))?;
    let file = config_file.to_path_buf();
    let state = build::build(file, config, tls, cores.len(), connections_max, log)
        .map_err(|why| wrong(config_file, vec![Problem::of_key("", why)]))?;
    let control =
        socket::bind(&state.config.load().server.control_socket).map_err(Failure::Other)?;
    Ok(Prepared { state: Arc::new(state), cores, listen: passed.xks, admin, witness, control })
}

fn bind(key: &str, listen: Option<SocketAddr>) -> Result<Option<Bound>, Failure> {
    let bound = listen.map(|listen| movable_listener::bind(key, listen));
    bound.transpose().map_err(Failure::Other)
}

fn load(config_file: &Path) -> Result<(Config, tls::Server), Failure> {
    let config =
        Config::load(config_file).map_err(|invalid| wrong(config_file, invalid.problems))?;
    config.set_environment().map_err(Failure::Other)?;
    let tls = tls::server(&config.tls.settings()).map_err(|problems| {
        let of_key = |problem: tls::Problem| Problem::of_key(problem.key, problem.message);
        wrong(config_file, problems.into_iter().map(of_key).collect())
    })?;
    Ok((config, tls))
}

/// The log, with what is probably not meant in the configuration.
fn start_log(config: &Config, tls: &tls::Server) -> Result<Log, Failure> {
    let log = logging::start(config).map_err(Failure::Other)?;
    let of_tls = tls.warnings().iter().map(ToString::to_string);
    for warning in config.warnings.iter().map(ToString::to_string).chain(of_tls) {
        log.event(Level::Warn, warning);
    }
    warn_of_key_files(config, &log);
    Ok(log)
}

/// Keys in a file are for trying out, and that is said at every start.
fn warn_of_key_files(config: &Config, log: &Log) {
    for manager in &config.key_managers {
        if let Some(key_file) = manager.kind.key_file() {
            log.event(
                Level::Warn,
                format!(
                    "key manager {:?} keeps its keys in the file {}: this is for trying out, not \
                     for keys that matter",
                    manager.name,
                    key_file.display()
                ),
            );
        }
    }
}

/// A configuration that cannot be started with, with all that `xksd check` says of it: that looks
/// into each file that is named, while the start goes on until the first module refuses what is its
/// own.
///
/// Only then: a start that nothing forbids is not stopped by, say, the missing module of one
/// replica, which may come later.
fn wrong(config_file: &Path, problems: Vec<Problem>) -> Failure {
    // Where that finds nothing, the file was changed in between.
    let all = Config::check(config_file).err();
    Failure::Configuration(
        all.unwrap_or_else(|| Invalid { file: config_file.to_path_buf(), problems }),
    )
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
        && TcpStream::connect_timeout(&(ip, listen.port()).into(), PORT_RETRY).is_ok()
    {
        if Instant::now() >= deadline {
            return Err(format!("server.listen: something listens on {listen} already"));
        }
        std::thread::sleep(PORT_RETRY);
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
