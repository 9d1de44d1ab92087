//! `xksd block`, `xksd unblock`, `xksd blocks`: the kill switch.

use super::Failure;
use super::service::Service;
use crate::control::commands::{Request, Target};

/// Cut a key or a whole key store off, at once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every call with the key is answered InvalidStateException from now on, also on open connections, \
and the HSM is not asked.
The block survives restarts, and holds until `xksd unblock`, or for the time given with --for.

Examples:
  xksd block --config xksd.toml --key-store /example --reason \"incident 4711\"
  xksd block --config xksd.toml --fleet --key-store /example --reason \"incident 4711\"
  xksd block --config xksd.toml --key-store /example --key foo --for 2h --reason \"a test\"")]
pub struct BlockArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// For how long, for example 90s, 30m, 2h or 7d [default: until it is unblocked]
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    for_seconds: Option<u32>,
    /// On all instances of the fleet: waits until each has confirmed, names those that have not,
    /// and ends with exit code 1 then
    #[arg(long)]
    fleet: bool,
    #[command(flatten)]
    service: Service,
}

/// Take a block away
#[derive(Debug, clap::Args)]
pub struct UnblockArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// What was blocked with --fleet
    #[arg(long)]
    fleet: bool,
    #[command(flatten)]
    service: Service,
}

/// List what is blocked
#[derive(Debug, clap::Args)]
pub struct BlocksArgs {
    #[command(flatten)]
    service: Service,
}

#[derive(Debug, clap::Args)]
struct TargetArgs {
    /// path_prefix of the key store, as it stands in the configuration
    #[arg(long, value_name = "PREFIX")]
    key_store: String,
    /// External key id [default: the whole key store]
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// Why: it stands in the log, the audit trail and the status
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl TargetArgs {
    fn target(&self) -> Target {
        Target { key_store: self.key_store.clone(), key: self.key.clone() }
    }
}

pub(super) fn block(args: &BlockArgs) -> Result<(), Failure> {
    let (target, reason) = (args.target.target(), args.target.reason.clone());
    let BlockArgs { for_seconds, fleet, .. } = *args;
    args.service.ask(&Request::Block { target, reason, for_seconds, fleet })
}

pub(super) fn unblock(args: &UnblockArgs) -> Result<(), Failure> {
    let (target, reason) = (args.target.target(), args.target.reason.clone());
    args.service.ask(&Request::Unblock { target, reason, fleet: args.fleet })
}

pub(super) fn blocks(args: &BlocksArgs) -> Result<(), Failure> {
    args.service.ask(&Request::Blocks {})
}

/// `2h` as seconds.
pub(super) fn seconds(text: &str) -> Result<u32, String> {
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 60 * 60,
        Some(b'd') => 24 * 60 * 60,
        _ => return Err("a number and a unit are meant: 90s, 30m, 2h or 7d".to_owned()),
    };
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| "not a number".to_owned())?;
    let seconds = count.checked_mul(unit).filter(|&seconds| seconds > 0);
    seconds.ok_or_else(|| "a time above 0 and below 100 years is meant".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("2h"), Ok(7200));
        assert_eq!(seconds("7d"), Ok(604_800));
        for wrong in ["", "2", "h", "0m", "-1h", "1.5h", "4294967295m", "2 h", "é"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
