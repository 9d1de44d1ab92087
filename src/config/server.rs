//! `[server]` and `[admin]`.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::log::{self, LogFormat, LogLevel, LogOutput};
use super::otlp::{self, Otlp};
use super::problem::quoted;
use super::reader::{Section, Value, all};
use super::table::{InForce, Said, Setting, names};
use crate::limits::{
    HOST_NAME_CHARS_MAX, INSTANCES, REGION_CHARS_MAX, REQUEST_BUDGET_MS, SHARDS, SHUTDOWN_DELAY_MS,
    SHUTDOWN_MS,
};
use crate::network::{Network, NetworkError};

/// `[server]`: the XKS API's listener and what holds for all key stores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where KMS connects to.
    pub listen: SocketAddr,
    /// Number of shards; 0: one for each core this process may use.
    pub shards: usize,
    /// Every request is answered by then, counted from its first byte.
    pub request_budget: Duration,
    /// SigV4 regions accepted, at least one.
    pub regions: Vec<String>,
    /// After SIGTERM it still serves for so long, while readiness is off already.
    pub shutdown_delay: Duration,
    /// Then requests in flight have this long.
    pub shutdown_time: Duration,
    /// How many xksd use the same keys, this one among them: each has its part of what a key may
    /// encrypt.
    pub instances: u64,
    /// Form of the log lines.
    pub log: LogFormat,
    /// Lighter lines are not written.
    pub log_level: LogLevel,
    /// Where they go.
    pub log_output: LogOutput,
    /// Requests as spans.
    pub otlp: Otlp,
    /// Whether files that the configuration names come into force by themselves.
    pub watch_files: bool,
    /// What must survive a restart, as the block list. It is made where it does not exist.
    pub state_directory: PathBuf,
    /// Whether a state directory without a state is refused: its volume may not be mounted.
    pub require_state: bool,
    /// Networks of the load balancers whose connections begin with a PROXY protocol header.
    pub proxy_protocol: Vec<Network>,
    /// Where `xksd block`, `reload` and the like reach the running process.
    pub control_socket: PathBuf,
}

/// `[server]`.
pub(super) const KEYS: &[Setting<Server>] = &[
    Setting::kept("listen", |s| Said::value(s.listen), |new, running| new.listen = running.listen),
    Setting::kept("shards", |s| Said::value(s.shards), |new, running| new.shards = running.shards),
    Setting::reloaded("request_budget_ms", |s| Said::value(s.request_budget.as_millis())),
    Setting::reloaded("regions", |s| Said::value(format!("{:?}", s.regions))),
    Setting::reloaded("shutdown_delay_ms", |s| Said::value(s.shutdown_delay.as_millis())),
    Setting::reloaded("shutdown_ms", |s| Said::value(s.shutdown_time.as_millis())),
    Setting::reloaded("instances", |s| Said::value(s.instances)),
    Setting::reloaded("watch_files", |s| Said::value(s.watch_files)),
    Setting::reloaded("log", |s| Said::text(s.log.name())),
    Setting::reloaded("log_level", |s| Said::text(s.log_level.name())),
    Setting::reloaded("log_output", |s| Said::text(&s.log_output.shown())),
    Setting::reloaded(otlp::ENDPOINT, |s| {
        s.otlp.endpoint.as_ref().map_or(Said::Nothing, Said::value)
    }),
    Setting::reloaded(otlp::TRUST_ANCHORS, |s| {
        s.otlp.trust_anchors.as_ref().map_or(Said::Nothing, |path| Said::value(path.display()))
    }),
    Setting::reloaded(otlp::SAMPLE_ONE_IN, |s| Said::value(s.otlp.sample_one_in)),
    Setting::kept(
        "state_directory",
        |s| Said::value(s.state_directory.display()),
        |new, running| new.state_directory.clone_from(&running.state_directory),
    ),
    Setting::kept(
        "require_state",
        |s| Said::value(s.require_state),
        |new, running| new.require_state = running.require_state,
    ),
    Setting::reloaded("proxy_protocol", |s| {
        let networks: Vec<String> = s.proxy_protocol.iter().map(ToString::to_string).collect();
        if networks.is_empty() {
            return Said::Nothing;
        }
        Said::value(format!("(networks {})", networks.join(", ")))
    }),
    Setting::kept(
        "control_socket",
        |s| Said::value(s.control_socket.display()),
        |new, running| new.control_socket.clone_from(&running.control_socket),
    ),
];

/// `[[server.proxy_protocol]]`, said as a whole in `[server]`.
pub(super) const PROXY_PROTOCOL_KEYS: &[Setting<()>] =
    &[Setting::structure("networks", InForce::Reload)];

/// `[admin]`: where the service is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where load balancers, Prometheus and people connect to.
    pub listen: SocketAddr,
    /// Names that they may call it by, beside its addresses and `localhost`.
    pub hosts: Vec<String>,
}

/// `[admin]`.
pub(super) const ADMIN_KEYS: &[Setting<Option<Admin>>] = &[
    Setting::reloaded("listen", |admin| {
        admin.as_ref().map_or(Said::Nothing, |admin| Said::value(admin.listen))
    }),
    Setting::reloaded("hosts", |admin| match admin {
        Some(admin) if !admin.hosts.is_empty() => Said::value(format!("{:?}", admin.hosts)),
        _ => Said::Nothing,
    }),
];

pub(super) fn server(root: &Section<'_>) -> Option<Server> {
    let section = root
        .required("server", "a section [server] with at least listen and regions")?
        .section(&names(KEYS))?;
    let listen = section.must(
        "listen",
        "address and port to listen on, for example \"0.0.0.0:443\"",
        socket_address,
    );
    let shards = section.or("shards", 0, |v| v.integer("shards", SHARDS));
    let budget =
        section.or("request_budget_ms", 200, |v| v.integer("milliseconds", REQUEST_BUDGET_MS));
    let regions = section.must(
        "regions",
        "the AWS regions whose KMS may call, for example [\"us-east-1\"]",
        |v| v.distinct_strings(region),
    );
    let delay =
        section.or("shutdown_delay_ms", 5_000, |v| v.integer("milliseconds", SHUTDOWN_DELAY_MS));
    let shutdown = section.or("shutdown_ms", 10_000, |v| v.integer("milliseconds", SHUTDOWN_MS));
    let instances = section.or("instances", 1, |v| v.integer("instances", INSTANCES));
    let log = section.or("log", LogFormat::Auto, log::format);
    let log_level = section.or("log_level", LogLevel::Info, log::level);
    let log_output = section.or("log_output", LogOutput::Stderr, log::output);
    let otlp = otlp::otlp(&section);
    let watch_files = section.or("watch_files", true, Value::boolean);
    let state = section.or("state_directory", root.reader.beside(STATE_DIRECTORY), Value::path);
    let require_state = section.or("require_state", false, Value::boolean);
    let balancers = section.or("proxy_protocol", Vec::new(), proxy_protocol);
    let socket = section.or("control_socket", None, |v| v.path().map(Some));
    let state = state?;
    Some(Server {
        listen: listen?,
        shards: usize::try_from(shards?).ok()?,
        request_budget: Duration::from_millis(budget?),
        regions: regions?,
        shutdown_delay: Duration::from_millis(delay?),
        shutdown_time: Duration::from_millis(shutdown?),
        instances: instances?,
        log: log?,
        log_level: log_level?,
        log_output: log_output?,
        otlp: otlp?,
        watch_files: watch_files?,
        control_socket: socket?.unwrap_or_else(|| state.join(CONTROL_SOCKET)),
        state_directory: state,
        require_state: require_state?,
        proxy_protocol: balancers?,
    })
}

/// The networks of all its sections, of which none overlaps another.
fn proxy_protocol(value: &Value<'_>) -> Option<Vec<Network>> {
    let known = RefCell::new(Vec::new());
    let of_section = |section: &Value<'_>| {
        section.section(&names(PROXY_PROTOCOL_KEYS))?.must(
            "networks",
            "the networks of the load balancers, for example [\"10.0.0.0/8\"]",
            |networks| networks.one_or_more(|value| network(value, &mut known.borrow_mut())),
        )
    };
    let sections = all(value.elements()?.iter().map(of_section))?;
    Some(sections.concat())
}

fn network(value: &Value<'_>, known: &mut Vec<Network>) -> Option<Network> {
    let text = value.string()?;
    let network: Network = match text.parse() {
        Ok(network) => network,
        Err(NetworkError::HostBits(meant)) => {
            return value.refuse(format!(
                "{} is not accepted: the address has bits behind the prefix; the network is \
                 \"{meant}\"",
                quoted(text)
            ));
        }
        Err(NetworkError::Form) => {
            return value.refuse(format!(
                "{} is not accepted: a network is meant, address and length of the prefix, as in \
                 \"10.0.0.0/8\", \"192.0.2.7/32\" or \"2001:db8::/32\"",
                quoted(text)
            ));
        }
    };
    if let Some(other) = known.iter().find(|other| other.overlaps(&network)) {
        return value.refuse(format!("{} is in {other}, or the reverse", quoted(text)));
    }
    known.push(network);
    Some(network)
}

/// `server.state_directory` where it is left out.
pub(super) const STATE_DIRECTORY: &str = "state";
/// `server.control_socket` where it is left out: this, in the state directory.
pub(super) const CONTROL_SOCKET: &str = "control.sock";

/// `Some(None)` where the section is left out.
pub(super) fn admin(root: &Section<'_>) -> Option<Option<Admin>> {
    let Some(value) = root.optional("admin") else { return Some(None) };
    let section = value.section(&names(ADMIN_KEYS))?;
    let listen = section.must(
        "listen",
        "address and port of the admin listener, for example \"127.0.0.1:9180\"",
        socket_address,
    );
    let hosts = section.or("hosts", Vec::new(), |v| v.distinct_strings(host));
    Some(Some(Admin { listen: listen?, hosts: hosts? }))
}

fn host<'r>(value: &Value<'r>) -> Option<&'r str> {
    let accepted = "a host name without a port, as in \"xksd-1.example.com\" (addresses and \
        \"localhost\" are always accepted)";
    value.string_where(accepted, |text| text.parse::<IpAddr>().is_err() && is_host_name(text))
}

/// Words of letters, digits, `-` and `_`, joined by dots.
fn is_host_name(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text.len() <= HOST_NAME_CHARS_MAX && text.split('.').all(is_word)
}

/// Two listeners cannot share a port on addresses that overlap.
pub(super) fn collision(server: SocketAddr, admin: SocketAddr) -> bool {
    let overlap =
        server.ip() == admin.ip() || server.ip().is_unspecified() || admin.ip().is_unspecified();
    server.port() != 0 && server.port() == admin.port() && overlap
}

pub(super) fn socket_address(value: &Value<'_>) -> Option<SocketAddr> {
    let accepted = "an IP address (not a name, nor multicast or broadcast) and a port, as in \
        \"0.0.0.0:443\" or \"[::]:443\"";
    value
        .string_where(accepted, |text| text.parse().is_ok_and(|address| can_listen(&address)))?
        .parse()
        .ok()
}

/// The kernel lets a socket listen on a multicast address, and no connection ever comes.
fn can_listen(address: &SocketAddr) -> bool {
    !address.ip().is_multicast() && address.ip() != IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn region<'r>(value: &Value<'r>) -> Option<&'r str> {
    value.string_where("an AWS region is meant, as in \"us-east-1\"", is_region)
}

/// `us-east-1`, `us-gov-west-1`, `eusc-de-east-1`: words of small letters and a number, joined by
/// `-`.
fn is_region(text: &str) -> bool {
    let mut words: Vec<&str> = text.split('-').collect();
    let Some(number) = words.pop() else { return false };
    text.len() <= REGION_CHARS_MAX
        && words.len() >= 2
        && words.iter().all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase()))
        && (1..=2).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
}
