//! What can be said on the command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::criteria::Sla;
use crate::generator::tls::Versions;
use crate::limits::{AAD_BYTES_MAX, PLAINTEXT_BYTES_MAX};
use crate::report::subject::{Note, described};
use crate::target::TargetArgs;
use crate::units::{self, Sizes};
use crate::workload::Mix;
use crate::workload::schedule::Arrivals;

/// Offer a load for a time and judge what came of it
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  xksd-load run --config demo/xksd.toml --rate 1800 --duration 60s --sla p99.9=250ms
  xksd-load run --config demo/xksd.toml --steps 1000,2000,4000,8000 --html steps.html
  xksd-load run --config demo/xksd.toml --ramp 100..20000 --duration 60s
  xksd-load run --config demo/xksd.toml --closed --duration 10s
  xksd-load run --target xks.example.com --keystore /prefix:ACCESSKEYID:secret.txt --key my-key \
    --rate 100 --i-own-the-target")]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// Constant rate, requests a second [default: 1800, what AWS allows a key store]
    #[arg(long, value_name = "R", group = "load", help_heading = "Load")]
    pub(super) rate: Option<f64>,
    /// Rates, one after the other
    #[arg(
        long,
        value_name = "R,R,…",
        group = "load",
        value_delimiter = ',',
        help_heading = "Load"
    )]
    pub(super) steps: Vec<f64>,
    /// How long each of the steps takes
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = units::duration,
        help_heading = "Load"
    )]
    pub(super) step_time: Duration,
    /// A rate that changes evenly over the duration
    #[arg(long, value_name = "FROM..TO", group = "load", help_heading = "Load")]
    pub(super) ramp: Option<String>,
    /// As fast as it is answered: shows the highest throughput, hides waiting; judge no latency by
    /// it
    #[arg(long, group = "load", help_heading = "Load")]
    pub(super) closed: bool,
    /// Measured time
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = units::duration,
        help_heading = "Load"
    )]
    pub(super) duration: Duration,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Find the highest rate that holds the bounds, and what keeps it from more
#[derive(Args, Debug)]
#[command(after_help = "\
A rate holds when 98 % of what is due is answered right while the trial lasts, without more errors \
than --max-errors
[default: 0], and within every --sla; without --sla, within p99.9=250ms, since KMS gives up a
request after 250 ms.

Example:
  xksd-load capacity --config demo/xksd.toml --sla p99.9=35ms --html capacity.html")]
pub(super) struct CapacityArgs {
    #[command(flatten)]
    pub(super) target: TargetArgs,
    /// First rate to try, requests a second; it is doubled from there
    #[arg(long, value_name = "R", default_value_t = 500.0, help_heading = "Search")]
    pub(super) from: f64,
    /// Try no rate above this
    #[arg(long, value_name = "R", default_value_t = 200_000.0, help_heading = "Search")]
    pub(super) to: f64,
    /// How exactly, as a share of the rate
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, help_heading = "Search")]
    pub(super) precision: f64,
    /// Measured time of each trial
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        value_parser = units::duration,
        help_heading = "Search"
    )]
    pub(super) trial: Duration,
    /// Measured time of the last trial, at the rate that is reported
    #[arg(
        long,
        value_name = "TIME",
        default_value = "20s",
        value_parser = units::duration,
        help_heading = "Search"
    )]
    pub(super) confirm: Duration,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Put two reports side by side
#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    /// A report (--json)
    pub(super) a: PathBuf,
    /// Another
    pub(super) b: PathBuf,
    /// Write a page with pictures
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,
}

/// What a run and a search have in common.
#[derive(Args, Debug)]
pub(super) struct CommonArgs {
    /// Time before it is measured
    #[arg(
        long,
        value_name = "TIME",
        default_value = "2s",
        value_parser = units::duration,
        help_heading = "Load"
    )]
    pub(super) warmup: Duration,
    /// How requests follow each other
    #[arg(long, value_enum, default_value = "poisson", help_heading = "Load")]
    pub(super) arrivals: Arrivals,
    /// Shares of the calls
    #[arg(
        long,
        value_name = "MIX",
        default_value = "encrypt=50,decrypt=50",
        value_parser = Mix::parse,
        help_heading = "Requests"
    )]
    pub(super) mix: Mix,
    /// Plaintexts, bytes, or a range; KMS data keys have 32
    #[arg(
        long,
        value_name = "N|N..M",
        default_value = "32",
        value_parser = |text: &str| units::sizes(text, PLAINTEXT_BYTES_MAX),
        help_heading = "Requests"
    )]
    pub(super) plaintext_bytes: Sizes,
    /// Additional authenticated data (the encryption context), bytes, or a range
    #[arg(
        long,
        value_name = "N|N..M",
        default_value = "64",
        value_parser = |text: &str| units::sizes(text, AAD_BYTES_MAX),
        help_heading = "Requests"
    )]
    pub(super) aad_bytes: Sizes,
    /// Share of encrypts that ask for a ciphertext data integrity value
    #[arg(long, value_name = "SHARE", default_value_t = 1.0, help_heading = "Requests")]
    pub(super) cdiv: f64,
    /// Sign every request with its own id, instead of once a second; costs this tool CPU
    #[arg(long, help_heading = "Requests")]
    pub(super) fresh: bool,
    /// Principals that requests name in turn; with several, every request is signed
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=0x100_0000),
        help_heading = "Requests"
    )]
    pub(super) principals: u32,
    /// Count any answer with status 200 as right and leave out the requests before and after the
    /// run, so that a server with a static body can be measured. Says nothing of an XKS proxy
    #[arg(long, help_heading = "Requests")]
    pub(super) unverified: bool,
    /// Connections, over all workers
    #[arg(long, value_name = "N", default_value_t = 64, help_heading = "Connections")]
    pub(super) connections: usize,
    /// Requests in flight on one connection
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Connections")]
    pub(super) depth: usize,
    /// A request without an answer for this long is an error; KMS gives up after 250ms
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1s",
        value_parser = units::duration,
        help_heading = "Connections"
    )]
    pub(super) timeout: Duration,
    /// TLS versions to offer
    #[arg(long, value_enum, default_value = "any", help_heading = "Connections")]
    pub(super) tls: Versions,
    /// Close and reopen this many connections a second, with full handshakes
    #[arg(long, value_name = "R", default_value_t = 0.0, help_heading = "Connections")]
    pub(super) reconnect_rate: f64,
    /// Close and reopen a connection after this many requests; 1: a handshake for each request
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Connections"
    )]
    pub(super) requests_per_connection: Option<u64>,
    /// Further connections, opened before the load, that do nothing until its end. Not with
    /// `capacity`
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Connections")]
    pub(super) idle: usize,
    /// Resume TLS sessions when reconnecting
    #[arg(long, help_heading = "Connections")]
    pub(super) resume: bool,
    /// Threads of this tool
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "This tool")]
    pub(super) workers: usize,
    /// Cores to pin them to
    #[arg(long, value_name = "N,N,…", value_delimiter = ',', help_heading = "This tool")]
    pub(super) cores: Vec<usize>,
    /// What must hold: p99.9=250ms, p50=5ms, max=1s; may be given several times
    #[arg(long, value_name = "P=TIME", value_parser = Sla::parse, help_heading = "Criteria")]
    pub(super) sla: Vec<Sla>,
    /// Errors that are accepted, with `capacity` in each trial [default: 0 if there is a --sla;
    /// with neither, `run` reports errors, does not judge them, and exits with 0]
    #[arg(long, value_name = "N", help_heading = "Criteria")]
    pub(super) max_errors: Option<u64>,
    /// What the proxy is, for the report [default: what it says itself]
    #[arg(long, value_name = "TEXT", value_parser = described, help_heading = "Report")]
    pub(super) proxy: Option<String>,
    /// What the HSM is, for the report: model, firmware, how many [default: what the proxy says]
    #[arg(long, value_name = "TEXT", value_parser = described, help_heading = "Report")]
    pub(super) hsm: Option<String>,
    /// Who answers for the report: name and organisation
    #[arg(long, value_name = "TEXT", value_parser = described, help_heading = "Report")]
    pub(super) tested_by: Option<String>,
    /// Whatever else the report should say: network="10 Gbit/s, same rack"; may be given several
    /// times
    #[arg(long, value_name = "NAME=TEXT", value_parser = Note::parse, help_heading = "Report")]
    pub(super) note: Vec<Note>,
    /// Write the results as JSON
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(super) json: Option<PathBuf>,
    /// Write a page with pictures
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(super) html: Option<PathBuf>,
}
