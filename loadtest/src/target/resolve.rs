//! From the command line to a target.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use super::balancer::Balancer;
use super::key_store::{KeyStore, is_word};
use super::xksd_toml;

/// Certificates of the usual authorities, as Debian and its relatives keep them.
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What the command line says of the target.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Target")]
pub struct TargetArgs {
    /// Read everything from a configuration of xksd: its first key store, credential and key
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The proxy, as in its certificate
    #[arg(long, value_name = "HOST[:PORT]")]
    pub target: Option<String>,
    /// Connect here in place of what the host's name resolves to
    #[arg(long, value_name = "ADDR:PORT")]
    pub connect: Option<SocketAddr>,
    /// Authorities to trust, PEM [default: those of the system, or ca.pem beside --config]
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// A key store: path prefix (may be empty), access key id, file with the secret access key; may
    /// be given several times
    #[arg(long, value_name = "PREFIX:ID:SECRETFILE")]
    pub keystore: Vec<String>,
    /// External key id, of every key store; may be given several times
    #[arg(long, value_name = "ID")]
    pub key: Vec<String>,
    /// SigV4 region [default: us-east-1, or the first of --config]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Client certificate chain for mutual TLS, PEM
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_certificate: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    pub client_key: Option<PathBuf>,
    /// Admin listener of xksd, for what its /metrics tell: http://ADDR:PORT; once for each proxy
    /// behind a load balancer [default: that of --config]
    #[arg(long, value_name = "URL")]
    pub admin: Vec<String>,
    /// Process id of the proxy, for its CPU time; once for each proxy behind a load balancer
    /// [default: what listens on this machine where --config or the target says]
    #[arg(long, value_name = "PID")]
    pub pid: Vec<u32>,
    /// The load balancer that the load goes through: its process id or the address where it listens
    /// on this machine, for its CPU time; or its name, for the report [default: what listens at
    /// --connect where --config has another port]
    #[arg(long, value_name = "PID|ADDR:PORT|NAME", value_parser = Balancer::parse)]
    pub balancer: Option<Balancer>,
    /// Load a target that is not on this machine. Only do it to a proxy you answer for
    #[arg(long)]
    pub i_own_the_target: bool,
}

/// A target that can be asked.
#[derive(Clone)]
pub struct Target {
    /// Name in the certificate.
    pub name: String,
    /// The Host field.
    pub host: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Authorities.
    pub ca: PathBuf,
    /// Certificate chain and key for mutual TLS.
    pub client: Option<(PathBuf, PathBuf)>,
    /// SigV4 region.
    pub region: String,
    /// One or more.
    pub keystores: Vec<KeyStore>,
    /// One or more.
    pub keys: Vec<String>,
    /// Admin listeners.
    pub admin: Vec<SocketAddr>,
    /// Processes of the proxy, where they were named.
    pub proxy_pids: Vec<u32>,
    /// Where the proxy itself listens on this machine, as far as that is known.
    pub proxy_listen: Option<SocketAddr>,
    /// What stands before it.
    pub balancer: Option<Balancer>,
}

/// What is not said of whom to load. A configuration says all of it, and is the way for who has
/// one: it must be named.
fn missing(args: &TargetArgs) -> String {
    let options = [
        ("--target HOST[:PORT]", args.target.is_some()),
        ("--keystore PREFIX:ID:SECRETFILE", !args.keystore.is_empty()),
        ("--key ID", !args.key.is_empty()),
    ];
    let missing: Vec<&str> =
        options.into_iter().filter(|(_, given)| !given).map(|(option, _)| option).collect();
    format!(
        "whom to load? Give --config xksd.toml (for an xksd on this machine that alone would do), \
         or for any proxy {} (see --help)",
        missing.join(" and ")
    )
}

impl Target {
    /// Reads files, resolves names.
    ///
    /// # Errors
    /// A sentence for the operator.
    pub fn resolve(args: &TargetArgs) -> Result<Target, String> {
        let from_file = args.config.as_deref().map(xksd_toml::read).transpose()?;
        let file = from_file.as_ref();
        if file.is_none() && (args.keystore.is_empty() || args.key.is_empty()) {
            return Err(missing(args));
        }
        let (name, port) = match (&args.target, file) {
            (Some(target), _) => host_and_port(target)?,
            (None, Some(file)) => (file.listen.ip().to_string(), file.listen.port()),
            (None, None) => return Err(missing(args)),
        };
        let address = match (args.connect, &args.target, file) {
            (Some(address), _, _) => address,
            (None, None, Some(file)) => file.listen,
            _ => look_up(&name, port)?,
        };
        allow(address, args.i_own_the_target)?;
        let mut keystores = args
            .keystore
            .iter()
            .map(|text| KeyStore::parse(text))
            .collect::<Result<Vec<_>, _>>()?;
        if keystores.is_empty() {
            keystores.extend(file.map(|f| f.keystore.clone()));
        }
        let keys = match (args.key.is_empty(), file) {
            (true, Some(file)) => vec![file.key.clone()],
            _ => args.key.clone(),
        };
        if let Some(key) =
            keys.iter().find(|k| !is_word(k, b"._-") || k.is_empty() || k.len() > 128)
        {
            return Err(format!(
                "--key {key:?}: an external key id has 1 to 128 of A-Z a-z 0-9 . _ -"
            ));
        }
        let admin = match (args.admin.as_slice(), file) {
            ([], Some(file)) => file.admin.into_iter().collect(),
            (urls, _) => urls.iter().map(|url| admin_address(url)).collect::<Result<_, _>>()?,
        };
        let (proxy_listen, balancer) =
            proxy_and_balancer(address, file.map(|f| f.listen), args.balancer.clone());
        let host = if port == 443 { name.clone() } else { format!("{}:{port}", bracketed(&name)) };
        Ok(Target {
            host,
            name,
            address,
            ca: args
                .ca
                .clone()
                .or_else(|| file.and_then(|f| f.ca.clone()))
                .unwrap_or_else(|| SYSTEM_CA.into()),
            client: args.client_certificate.clone().zip(args.client_key.clone()),
            region: args
                .region
                .clone()
                .or_else(|| file.map(|f| f.region.clone()))
                .unwrap_or_else(|| "us-east-1".into()),
            keystores,
            keys,
            admin,
            proxy_pids: args.pid.clone(),
            proxy_listen,
            balancer,
        })
    }
}

/// Where the proxy listens on this machine, and what stands before it: of the address that is
/// asked, that where the configuration says that the proxy listens, and the load balancer that was
/// named.
fn proxy_and_balancer(
    asked: SocketAddr,
    configured: Option<SocketAddr>,
    named: Option<Balancer>,
) -> (Option<SocketAddr>, Option<Balancer>) {
    if !is_local(asked) {
        return (None, named);
    }
    match configured {
        Some(listen) if listen.port() != asked.port() => {
            (Some(listen), Some(named.unwrap_or_else(|| Balancer::at(asked))))
        }
        Some(listen) => (Some(listen), named),
        None if named.is_some() => (None, named),
        None => (Some(asked), None),
    }
}

fn is_local(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// A load generator in the wrong hands, or with a slip in its address, is an attack.
fn allow(address: SocketAddr, owned: bool) -> Result<(), String> {
    if owned || is_local(address) {
        Ok(())
    } else {
        Err(format!(
            "{address} is not on this machine: add --i-own-the-target if you answer for it and for \
             what stands behind it"
        ))
    }
}

fn host_and_port(target: &str) -> Result<(String, u16), String> {
    let wrong =
        || format!("--target {target:?}: HOST or HOST:PORT, as in xks.example.com or [::1]:8443");
    let target = target.strip_prefix("https://").unwrap_or(target).trim_end_matches('/');
    if let Ok(address) = target.parse::<SocketAddr>() {
        return Ok((address.ip().to_string(), address.port()));
    }
    let (host, port) = match target.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
        None => (target, 443),
    };
    if host.is_empty() || !is_word(host, b".-") {
        Err(wrong())
    } else {
        Ok((host.to_owned(), port))
    }
}

fn look_up(name: &str, port: u16) -> Result<SocketAddr, String> {
    let addresses: Vec<SocketAddr> =
        (name, port).to_socket_addrs().map_err(|e| format!("looking up {name}: {e}"))?.collect();
    // KMS connects over IPv4 only.
    addresses
        .iter()
        .find(|a| a.is_ipv4())
        .or(addresses.first())
        .copied()
        .ok_or_else(|| format!("{name} has no address"))
}

fn bracketed(name: &str) -> String {
    if name.contains(':') { format!("[{name}]") } else { name.to_owned() }
}

fn admin_address(url: &str) -> Result<SocketAddr, String> {
    let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let found = address.to_socket_addrs().map_err(|e| format!("--admin {url:?}: {e}"))?.next();
    found.ok_or_else(|| format!("--admin {url:?} has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_without_a_word() {
        for own in ["127.0.0.1:443", "[::1]:443", "127.8.9.1:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(allow(own.parse().unwrap(), false), Ok(()), "{own}");
        }
        for other in ["10.0.0.1:443", "0.0.0.0:443", "[fe80::1]:443", "192.0.2.1:443"] {
            assert!(
                allow(other.parse().unwrap(), false).unwrap_err().contains("--i-own-the-target"),
                "{other}"
            );
            assert_eq!(allow(other.parse().unwrap(), true), Ok(()));
        }
    }

    #[test]
    fn what_is_asked_is_the_proxy_or_what_stands_before_it() {
        let [asked, proxy, away] =
            ["127.0.0.1:443", "127.0.0.1:8443", "192.0.2.1:443"].map(|a| a.parse().unwrap());
        let named = || Balancer::parse("127.0.0.1:443").ok();
        assert_eq!(proxy_and_balancer(asked, None, None), (Some(asked), None));
        assert_eq!(proxy_and_balancer(asked, Some(asked), None), (Some(asked), None));
        assert_eq!(proxy_and_balancer(asked, Some(proxy), None), (Some(proxy), named()));
        assert_eq!(proxy_and_balancer(asked, Some(asked), named()), (Some(asked), named()));
        assert_eq!(proxy_and_balancer(asked, None, named()), (None, named()));
        assert_eq!(proxy_and_balancer(away, Some(proxy), None), (None, None));
    }

    #[test]
    fn what_is_missing_is_named_beside_the_configuration_that_would_do() {
        let given = |target: Option<&str>, keystore: &[&str], key: &[&str]| TargetArgs {
            target: target.map(Into::into),
            keystore: keystore.iter().map(|&s| s.into()).collect(),
            key: key.iter().map(|&s| s.into()).collect(),
            ..TargetArgs::default()
        };
        let all = ["--target HOST", "--keystore PREFIX", "--key ID"];
        for (args, missing) in [
            (given(None, &[], &[]), &all[..]),
            (given(Some("localhost"), &[], &[]), &all[1..]),
            (given(Some("localhost"), &["/a:B:f"], &[]), &all[2..]),
            (given(None, &["/a:B:f"], &["k"]), &all[..1]),
        ] {
            let told = Target::resolve(&args).err().unwrap();
            assert!(told.contains("--config xksd.toml"), "{told}");
            for option in all {
                assert_eq!(told.contains(option), missing.contains(&option), "{told}");
            }
        }
    }

    #[test]
    fn targets() {
        assert_eq!(host_and_port("xks.example.com"), Ok(("xks.example.com".into(), 443)));
        assert_eq!(
            host_and_port("https://xks.example.com:8443/"),
            Ok(("xks.example.com".into(), 8443))
        );
        assert_eq!(host_and_port("[::1]:8443"), Ok(("::1".into(), 8443)));
        assert_eq!(bracketed("::1"), "[::1]");
        for wrong in ["", ":443", "a:b", "a:70000", "a b:1", "http://a/b", "a\r\nx"] {
            assert!(host_and_port(wrong).is_err(), "{wrong:?}");
        }
    }
}
