//! `xksd check --aws`: what AWS KMS will look at before it takes a key store, seen from where this
//! runs. By name, as KMS does it; what the configuration itself shows, `xksd check` says before.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::checks::Checks;
use super::client::Client;
use super::{Args, Failure, Plan, Report, client, plan};
use crate::config::{AUTHORITIES_PUBLISHED, unknown_root};
use crate::tls::Certificate;

/// KMS gives up after so long.
const KMS_PATIENCE: Duration = Duration::from_millis(250);
/// AWS's metric XksProxyCertificateDaysToExpire is watched from here on.
const DAYS_LEFT_MIN: i64 = 10;
/// Calls that are timed, one after the other on one connection.
const SAMPLES: usize = 100;
/// Of XksProxyUriEndpoint, characters (API reference of CreateCustomKeyStore).
const ENDPOINT_CHARS_MAX: usize = 128;
const SUITES: [&str; 6] = [
    "TLS13_AES_256_GCM_SHA384",
    "TLS13_CHACHA20_POLY1305_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
];

/// How KMS's CreateCustomKeyStore fails where a check does.
const VALIDATION: &str = "ValidationException";
const UNREACHABLE: &str = "XksProxyUriUnreachableException";
const INVALID_CONFIGURATION: &str = "XksProxyInvalidConfigurationException";
const INVALID_RESPONSE: &str = "XksProxyInvalidResponseException";
const WRONG_CREDENTIAL: &str = "XksProxyIncorrectAuthenticationCredentialException";

/// Where KMS will connect to.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Look at the key store as AWS KMS will, over the network: name, certificate, TLS, credential,
    /// health and times
    #[arg(long)]
    aws: bool,
    /// XksProxyUriEndpoint of the key store: `https://` and a name [default: that of the
    /// certificate]
    #[arg(long, value_name = "URL", requires = "aws")]
    url: Option<String>,
    /// Host and port to connect to in place of the endpoint's, while its name does not exist yet
    #[arg(long, value_name = "HOST:PORT", requires = "aws")]
    connect: Option<String>,
    /// Path prefix of the key store [default: the first]
    #[arg(long, value_name = "PREFIX", requires = "aws")]
    prefix: Option<String>,
}

impl Options {
    /// Whether it was asked for.
    pub fn is_wanted(&self) -> bool {
        self.aws
    }

    /// Does it, for the key stores of this configuration.
    ///
    /// # Errors
    /// When a check failed.
    pub(in super::super) fn run(&self, file: PathBuf, own: &[Certificate]) -> Result<(), Failure> {
        let url = self.url.clone().or_else(|| {
            let name = own.first()?.common_names.first()?;
            Some(format!("https://{name}"))
        });
        let url = url.ok_or_else(|| Failure::Usage("xksd check: give --url".to_owned()))?;
        let args = Args {
            config: Some(file),
            endpoint: Some(url.clone()),
            connect: self.connect.clone(),
            prefix: self.prefix.clone(),
            ..Args::default()
        };
        let plan = plan(&args).map_err(|why| Failure::Usage(format!("xksd check: {why}")))?;
        check(&url, plan)
    }
}

fn check(url: &str, plan: Plan) -> Result<(), Failure> {
    let mut report = Report { failed: 0 };
    let none = Duration::ZERO;
    report.line("name of the endpoint", none, told(VALIDATION, endpoint(url)))?;
    let path = format!("{}{}", plan.prefix, crate::config::API_PATH);
    let note = format!("XksProxyUriPath {path}");
    report.line("path", none, Ok(note))?;
    let tls = client::tls_config(&plan.target)
        .map_err(|why| Failure::Usage(format!("xksd check: {why}")))?;
    let start = Instant::now();
    let mut client = match Client::connect(&plan.target, tls) {
        Ok(client) => client,
        Err(why) => {
            let error = if why.contains("TLS") { INVALID_CONFIGURATION } else { UNREACHABLE };
            report.line("connection", start.elapsed(), told(error, Err(why)))?;
            return Err(Failure::Failed("not reached: the other checks were left out".to_owned()));
        }
    };
    report.line("TCP connection", client.connect, told(UNREACHABLE, ipv4(&client)))?;
    let suite = told(INVALID_CONFIGURATION, suite(&client.protocol));
    report.line("TLS handshake", client.handshake, suite)?;
    let chain = client.certificates();
    let certificate = certificate(&chain, &plan.target.host);
    report.line("certificate", none, told(INVALID_CONFIGURATION, certificate))?;
    report.line("its authority", none, told(INVALID_CONFIGURATION, authority(&chain)))?;

    let opened = client.connect + client.handshake;
    let mut checks = Checks::new(&mut client, plan.signer, plan.prefix, plan.key);
    let health = checks.health();
    let first = checks.time;
    let error = match &health {
        Err(why) if why.contains("AuthenticationFailed") => WRONG_CREDENTIAL,
        Err(why) if why.contains("UNAVAILABLE") || why.contains("404") => UNREACHABLE,
        _ => INVALID_RESPONSE,
    };
    let serves = health.is_ok();
    report.line("GetHealthStatus", first, told(error, health))?;
    if serves {
        report.line("all of a first call", opened + first, in_time(opened + first))?;
        let p99 = p99(&mut checks).map_err(Failure::Failed)?;
        report.line("p99 of 100 further calls", p99, in_time(p99))?;
    }
    match report.failed {
        0 => super::print("AWS KMS should take this key store\n"),
        failed => Err(Failure::Failed(format!("{failed} of the checks failed"))),
    }
}

/// With the name of KMS's error.
fn told(error: &str, checked: Result<String, String>) -> Result<String, String> {
    checked.map_err(|why| format!("{error}: {why}"))
}

fn endpoint(url: &str) -> Result<String, String> {
    let name = url.strip_prefix("https://").unwrap_or_default().trim_end_matches('/');
    let is_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    if name.contains(':') {
        return Err("KMS connects to port 443, and takes an endpoint without a port".to_owned());
    }
    if !name.chars().all(is_char) || !name.contains('.') || name.parse::<std::net::IpAddr>().is_ok()
    {
        return Err(format!("{url} is not https:// and a public DNS name"));
    }
    if url.len() > ENDPOINT_CHARS_MAX {
        return Err(format!("{} characters, and {ENDPOINT_CHARS_MAX} are the most", url.len()));
    }
    Ok(url.to_owned())
}

fn ipv4(client: &Client) -> Result<String, String> {
    let address = client.address;
    if address.is_ipv4() {
        return Ok(address.to_string());
    }
    Err(format!("{address}: the name has no IPv4 address, and KMS connects over IPv4 only"))
}

fn suite(protocol: &str) -> Result<String, String> {
    if SUITES.iter().any(|suite| protocol.ends_with(suite)) {
        return Ok(protocol.to_owned());
    }
    Err(format!("{protocol} is none of the cipher suites of the XKS specification"))
}

fn certificate(chain: &[Certificate], host: &str) -> Result<String, String> {
    let own = chain.first().ok_or("no certificate that can be read")?;
    let (first, rest) = host.split_once('.').unwrap_or((host, ""));
    let fits = |name: &String| match name.strip_prefix("*.") {
        Some(domain) => !first.is_empty() && domain.eq_ignore_ascii_case(rest),
        None => name.eq_ignore_ascii_case(host),
    };
    if !own.common_names.iter().any(fits) {
        return Err(format!(
            "its subject CN is {:?}, and not the name of the endpoint",
            own.common_names
        ));
    }
    let days = (own.not_after - time::OffsetDateTime::now_utc()).whole_days();
    if days < DAYS_LEFT_MIN {
        return Err(format!("it is valid for {days} days more"));
    }
    Ok(format!("{host}, valid for {days} days more"))
}

fn authority(chain: &[Certificate]) -> Result<String, String> {
    match unknown_root(chain) {
        None => Ok(chain.last().map_or(String::new(), |top| top.issuer_name.shown.clone())),
        Some(root) => Err(format!(
            "{root} is not among the authorities that AWS published on {AUTHORITIES_PUBLISHED}; \
             look at today's list, TrustedCertificateAuthorities of \
             github.com/aws/aws-kms-xksproxy-api-spec"
        )),
    }
}

fn in_time(time: Duration) -> Result<String, String> {
    if time <= KMS_PATIENCE {
        return Ok(String::new());
    }
    Err("KMS waits for 250 ms: from here it would give up".to_owned())
}

/// Of [`SAMPLES`] health calls on one connection.
fn p99(checks: &mut Checks<'_>) -> Result<Duration, String> {
    let mut times = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        checks.health()?;
        times.push(checks.time);
    }
    times.sort_unstable();
    Ok(times[SAMPLES * 99 / 100 - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_name_without_a_port() {
        assert!(endpoint("https://xks.example.com").is_ok());
        let longest = format!("https://{}.com", "a".repeat(ENDPOINT_CHARS_MAX - 12));
        assert!(endpoint(&longest).is_ok() && endpoint(&format!("{longest}m")).is_err());
        for wrong in [
            "http://xks.example.com",
            "https://xks.example.com:443",
            "https://10.0.0.1",
            "https://localhost",
            "https://xks_1.example.com",
        ] {
            assert!(endpoint(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_the_suites_of_the_specification_are_right() {
        assert!(suite("TLSv1_3 TLS13_AES_256_GCM_SHA384").is_ok());
        assert!(suite("TLSv1_2 TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384").is_ok());
        assert!(suite("TLSv1_3 TLS13_AES_128_GCM_SHA256").is_err());
    }
}
