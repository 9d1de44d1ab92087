//! `xksd probe`: the four calls against any XKS proxy, every answer checked, every phase timed.

pub mod aws;
pub mod balancer;
mod checks;
pub mod client;
pub mod sign;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use self::balancer::Balancer;
use self::checks::Checks;
use self::client::{Client, Target};
use self::sign::Signer;
use super::{Failure, print};
use crate::config::{Config, KeyStore, PATH_PREFIX_FORM, is_path_prefix};
use crate::shard::proxy_protocol::vpc_endpoint_id;
use crate::tls::{self, Certificate};

/// Bundles of public authorities: Debian's, Red Hat's.
const SYSTEM_AUTHORITIES: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

const NEEDED: &str = "give --config xksd.toml, which has all that is needed, or --endpoint, --key \
    and --access-key-id";

/// Check an XKS proxy from the outside: connect, sign and send the four calls, verify every answer,
/// print the time of each phase.
///
/// Works against xksd and any other XKS proxy. It encrypts and decrypts 32 random bytes under the
/// key named.
#[derive(Debug, Default, clap::Args)]
#[command(override_usage = "xksd probe --config <FILE> [OPTIONS]
       xksd probe --endpoint <URL> --key <ID> --access-key-id <ID> [OPTIONS]")]
#[command(after_help = "Examples:
  xksd probe --config demo/xksd.toml
  xksd probe --config /etc/xksd/xksd.toml --connect 10.0.0.5:443
  xksd probe --endpoint https://xks.example.com --prefix /example --key my-key \\
             --access-key-id BETWEEN2TENAND3TENCHARACTERS --secret-file secret

The secret is that of --secret-file, else the configuration's, else the environment variable
XKS_SECRET_ACCESS_KEY.
Exit codes: 0 every check passed, 1 a check failed, 2 wrong usage.")]
pub struct Args {
    /// Take address, prefix, credential and key from this xksd configuration; other options
    /// override
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Endpoint, https://host or https://host:port
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Name that the proxy's certificate must be for, also sent as SNI and Host [default: the
    /// endpoint's host, or with --config the one in the configuration's certificate]
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Host and port to connect to, in place of the endpoint's [default with --config: where the
    /// configuration listens]
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// Path prefix of the key store: the part before /kms/xks/v1, for example /demo [default: none,
    /// or the configuration's first]
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// External key id
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Access key id
    #[arg(long, value_name = "ID")]
    access_key_id: Option<String>,
    /// File holding the secret access key
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// SigV4 region [default: us-east-1, or the configuration's first]
    #[arg(long)]
    region: Option<String>,
    /// PEM file of trusted authorities [default: the system's; with --config the ca.pem beside it,
    /// if there]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Client certificate chain for mutual TLS
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// Private key of the client certificate
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    client_key: Option<PathBuf>,
    /// Send a PROXY protocol header first, as the load balancer in front of this proxy does
    /// [default with --config: where the configuration expects one from here]
    #[arg(long)]
    proxy_protocol: bool,
    /// Say in that header that the connection comes through this VPC endpoint, for policies on
    /// connectionVpce
    #[arg(long, value_name = "ID", value_parser = vpc_endpoint)]
    vpc_endpoint: Option<String>,
}

/// What to probe, put together from options and configuration.
struct Plan {
    target: Target,
    signer: Signer,
    prefix: String,
    key: String,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    probe(plan(args).map_err(|why| Failure::Usage(format!("xksd probe: {why}")))?)
}

/// Probes the server of this configuration on this machine.
pub(super) fn probe_own(config: &Path) -> Result<(), Failure> {
    run(&Args { config: Some(config.to_path_buf()), ..Args::default() })
}

fn probe(plan: Plan) -> Result<(), Failure> {
    let Plan { target, signer, prefix, key } = plan;
    let tls =
        client::tls_config(&target).map_err(|why| Failure::Usage(format!("xksd probe: {why}")))?;
    let mut client = Client::connect(&target, tls)
        .map_err(|why| Failure::Failed(format!("xksd probe: {why}")))?;
    let mut report = Report { failed: 0 };
    let (host, port) = (&target.host, target.port);
    print(&format!("{host}:{port} at {}  {}\n", client.address, client.protocol))?;
    report.line("TCP connection", client.connect, Ok(String::new()))?;
    report.line("TLS handshake", client.handshake, Ok(String::new()))?;
    Checks::new(&mut client, signer, prefix, key).run(&mut report)?;
    match report.failed {
        0 => print("all checks passed\n"),
        1 => Err(Failure::Failed("1 check failed".into())),
        failed => Err(Failure::Failed(format!("{failed} checks failed"))),
    }
}

/// Prints a line a check.
struct Report {
    failed: usize,
}

impl Report {
    /// A check that passed, with a note, or failed, and why.
    fn line(
        &mut self,
        what: &str,
        time: Duration,
        checked: Result<String, String>,
    ) -> Result<(), Failure> {
        let (word, told) = match checked {
            Ok(note) => ("ok", note),
            Err(why) => {
                self.failed += 1;
                ("FAIL", why)
            }
        };
        let line = format!("  {word:<4}  {what:<28} {:>9.3} ms  {told}", time.as_secs_f64() * 1e3);
        print(&format!("{}\n", line.trim_end()))
    }

    /// A check that would have shown nothing.
    fn left_out(&self, what: &str, why: &str) -> Result<(), Failure> {
        print(&format!("  -     {what:<28} left out: {why}\n"))
    }
}

fn plan(args: &Args) -> Result<Plan, String> {
    let config = match &args.config {
        Some(path) => Some(Config::load(path).map_err(|invalid| invalid.to_string())?),
        None => None,
    };
    if let Some(prefix) = args.prefix.as_deref().filter(|prefix| !is_path_prefix(prefix)) {
        return Err(format!("--prefix {prefix:?}: {PATH_PREFIX_FORM}"));
    }
    let store = config.as_ref().map(|config| store(config, args.prefix.as_deref())).transpose()?;
    let Reached { host, port, connect_to } = reached(args, config.as_ref())?;
    let key = match (&args.key, store) {
        (Some(key), _) => key.clone(),
        (None, Some(store)) => store
            .keys
            .first()
            .map(|key| key.id.clone())
            .ok_or("this key store has no key; give --key")?,
        (None, None) => return Err(NEEDED.into()),
    };
    let (access_key_id, secret_access_key) = credential(args, store)?;
    let ca = authorities(args)?;
    let region = args
        .region
        .clone()
        .or_else(|| config.as_ref()?.server.regions.first().cloned())
        .unwrap_or_else(|| "us-east-1".into());
    Ok(Plan {
        target: Target {
            host,
            port,
            connect_to,
            balancer: balancer(args, config.as_ref()),
            ca,
            client: args.client_certificate.clone().zip(args.client_key.clone()),
            client_names: config
                .as_ref()
                .and_then(|config| config.tls.client.as_ref())
                .map_or_else(Vec::new, |client| client.subject_common_names.clone()),
        },
        signer: Signer { access_key_id, secret_access_key, region },
        prefix: args
            .prefix
            .clone()
            .or_else(|| store.map(|store| store.path_prefix.clone()))
            .unwrap_or_default(),
        key,
    })
}

/// Where another address than the configuration's is probed, a load balancer may be in between: it
/// sends the header itself.
fn balancer(args: &Args, config: Option<&Config>) -> Balancer {
    let direct = args.endpoint.is_none() && args.connect.is_none();
    let networks = config.filter(|_| direct).map(|config| config.server.proxy_protocol.clone());
    Balancer {
        wanted: args.proxy_protocol,
        networks: networks.unwrap_or_default(),
        vpc_endpoint: args.vpc_endpoint.clone(),
    }
}

fn vpc_endpoint(id: &str) -> Result<String, String> {
    vpc_endpoint_id(id.as_bytes()).map_err(|_| "an id looks like vpce-0123456789abcdef0".to_owned())
}

/// The file of trusted authorities: named, or beside the configuration, or the system's.
fn authorities(args: &Args) -> Result<PathBuf, String> {
    if let Some(named) = &args.ca {
        return Ok(named.clone());
    }
    let beside = args.config.as_deref().and_then(Path::parent).map(|dir| dir.join("ca.pem"));
    let mut known = beside.into_iter().chain(SYSTEM_AUTHORITIES.map(PathBuf::from));
    known.find(|file| file.exists()).ok_or_else(|| {
        "no trusted authorities are installed here: name those of the proxy's certificate with \
         --ca FILE, or install the package ca-certificates"
            .to_owned()
    })
}

fn store<'a>(config: &'a Config, prefix: Option<&str>) -> Result<&'a KeyStore, String> {
    match prefix {
        None => {
            config.keystores.first().ok_or_else(|| "the configuration has no key store".to_string())
        }
        Some(prefix) => {
            config.keystores.iter().find(|store| store.path_prefix == prefix).ok_or_else(|| {
                let known: Vec<String> = config
                    .keystores
                    .iter()
                    .map(|store| format!("{:?}", store.path_prefix))
                    .collect();
                format!("no key store has the prefix {prefix:?}; there is: {}", known.join(", "))
            })
        }
    }
}

/// Which name the proxy has, and where it is.
struct Reached {
    host: String,
    port: u16,
    connect_to: Option<(String, u16)>,
}

fn reached(args: &Args, config: Option<&Config>) -> Result<Reached, String> {
    let mut reached = match (&args.endpoint, config) {
        (Some(endpoint), _) => {
            let (host, port) = endpoint_parts(endpoint)?;
            Reached { host, port, connect_to: None }
        }
        (None, Some(config)) => {
            let (ip, port) = (config.server.listen.ip(), config.server.listen.port());
            let host = name_of(&tls::chain_of(&config.tls.certificate_chain), &host_of(ip));
            Reached { host, port, connect_to: Some((address_of(ip).to_string(), port)) }
        }
        (None, None) => return Err(NEEDED.into()),
    };
    if let Some(name) = &args.server_name {
        reached.host.clone_from(name);
    }
    if let Some(connect) = &args.connect {
        let parts = host_and_port(connect, reached.port);
        reached.connect_to = Some(parts.map_err(|why| format!("--connect {connect}: {why}"))?);
    }
    Ok(reached)
}

/// The name that clients use for a server with this certificate: its CN where that is among the
/// names they look at, else the first of these. `address` where there is none.
fn name_of(chain: &[Certificate], address: &str) -> String {
    let Some(own) = chain.first() else { return address.to_owned() };
    let common = own.common_names.iter().filter(|name| own.dns_names.contains(name));
    let names: Vec<&String> = common.chain(&own.dns_names).collect();
    match names.iter().find(|name| !name.contains('*')).or_else(|| names.first()) {
        // Any name is right that has one label in place of the star.
        Some(name) => name.replace('*', "xks"),
        None => address.to_owned(),
    }
}

/// Where a client on this machine reaches a server that listens there: a wildcard is no address.
fn address_of(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

/// The name of a server that listens there: certificates are rather for a name.
fn host_of(listen: IpAddr) -> String {
    if listen.is_unspecified() || listen == Ipv4Addr::LOCALHOST {
        "localhost".to_owned()
    } else {
        listen.to_string()
    }
}

fn credential(
    args: &Args,
    store: Option<&KeyStore>,
) -> Result<(String, Zeroizing<String>), String> {
    let known = store.and_then(|store| match &args.access_key_id {
        Some(id) => store.credentials.iter().find(|credential| credential.access_key_id == *id),
        None => store.credentials.first(),
    });
    let secret = match (&args.secret_file, known) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path)
                .map(Zeroizing::new)
                .map_err(|e| format!("--secret-file {}: {e}", path.display()))?;
            Some(Zeroizing::new(text.trim_end().to_string()))
        }
        // Before the environment's, which may be another proxy's.
        (None, Some(credential)) => {
            Some(Zeroizing::new(credential.secret_access_key.expose().to_string()))
        }
        (None, None) => std::env::var("XKS_SECRET_ACCESS_KEY").ok().map(Zeroizing::new),
    };
    let give = "--secret-file or in XKS_SECRET_ACCESS_KEY";
    let Some(id) =
        args.access_key_id.as_ref().or_else(|| known.map(|credential| &credential.access_key_id))
    else {
        return Err(format!("give --access-key-id, and its secret with {give}"));
    };
    let Some(secret) = secret else {
        let unknown = store.map(|store| {
            format!(
                "key store {:?} of the configuration has no credential of this id: ",
                store.path_prefix
            )
        });
        return Err(format!(
            "--access-key-id {id}: {}give its secret with {give}",
            unknown.unwrap_or_default()
        ));
    };
    Ok((id.clone(), secret))
}

fn endpoint_parts(endpoint: &str) -> Result<(String, u16), String> {
    let authority = endpoint
        .strip_prefix("https://")
        .ok_or_else(|| format!("{endpoint}: an endpoint starts with https://"))?
        .trim_end_matches('/');
    if let Some((authority, path)) = authority.split_once('/')
        && !authority.is_empty()
    {
        return Err(format!(
            "{endpoint}: an endpoint has no path: give https://{authority}, and what stands before \
             /kms/xks/v1 of /{path} as --prefix"
        ));
    }
    host_and_port(authority, 443).map_err(|why| format!("{endpoint}: {why}"))
}

/// `host`, `host:port` or `[address]:port`.
fn host_and_port(text: &str, default_port: u16) -> Result<(String, u16), String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().map_err(|_| format!("{port} is no port"))?)
        }
        _ => (text, default_port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains(['/', ' ']) {
        return Err("a host, or host:port, is meant".to_owned());
    }
    Ok((host.to_string(), port))
}

#[cfg(test)]
mod tests {
    use super::{address_of, endpoint_parts, host_of};

    #[test]
    fn the_host_is_where_the_server_listens() {
        for (listen, host, address) in [
            ("0.0.0.0", "localhost", "127.0.0.1"),
            ("::", "localhost", "::1"),
            ("127.0.0.1", "localhost", "127.0.0.1"),
            ("127.0.0.2", "127.0.0.2", "127.0.0.2"),
            ("::1", "::1", "::1"),
        ] {
            let listen = listen.parse().unwrap();
            assert_eq!(
                (host_of(listen), address_of(listen).to_string()),
                (host.into(), address.into())
            );
        }
    }

    #[test]
    fn endpoints() {
        assert_eq!(endpoint_parts("https://xks.example.com"), Ok(("xks.example.com".into(), 443)));
        assert_eq!(endpoint_parts("https://localhost:8443/"), Ok(("localhost".into(), 8443)));
        assert_eq!(endpoint_parts("https://[::1]:8443"), Ok(("::1".into(), 8443)));
        assert!(endpoint_parts("http://localhost").is_err());
        assert!(endpoint_parts("https://localhost:http").is_err());
        assert!(endpoint_parts("https://").is_err() && endpoint_parts("https:///demo").is_err());
        let path = endpoint_parts("https://localhost:8443/demo").unwrap_err();
        assert!(
            path.contains("give https://localhost:8443,") && path.ends_with("of /demo as --prefix"),
            "{path}"
        );
    }
}
