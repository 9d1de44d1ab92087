//! `xksd policy check`

use std::fmt::Write;

use serde_json::json;

use super::{Common, OfKeyStore, Opened};
use crate::cli::{Failure, print, tell};
use crate::config::{Config, Invalid};

/// Read and validate the policies of every key store
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every problem is told with file, line and @id. `xksd check` finds the same, among all others.

Exit codes: 0 all policies are valid, 2 they are not.

Example:
  xksd policy check --config xksd.toml")]
pub struct Args {
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let file = &args.common.config;
    if args.common.json
        && let Err(Invalid { problems, .. }) = Config::load(file)
    {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        print(&format!("{}\n", json!({"valid": false, "problems": problems})))?;
        return Err(Failure::Usage(format!("{} cannot be used", file.display())));
    }
    let opened = Opened::load(file)?;
    let all = opened.all()?;
    if args.common.json {
        let key_stores: Vec<_> = all.iter().map(as_json).collect();
        return print(&format!("{}\n", json!({"valid": true, "key_stores": key_stores})));
    }
    let mut text = String::new();
    for of in &all {
        of.warnings.iter().for_each(|warning| tell(&format!("warning: {warning}")));
        let count = of.policies.list().len();
        let _ = writeln!(
            text,
            "key store {:?}: {count} polic{} valid, mode {}",
            of.store.path_prefix,
            if count == 1 { "y is" } else { "ies are" },
            of.configured.mode_name()
        );
    }
    print(&text)
}

fn as_json(of: &OfKeyStore<'_>) -> serde_json::Value {
    let ids: Vec<&str> = of.policies.list().iter().map(|listed| &*listed.id).collect();
    let warnings: Vec<String> = of.warnings.iter().map(ToString::to_string).collect();
    json!({
        "key_store": of.store.path_prefix,
        "mode": of.configured.mode_name(),
        "policies": ids,
        "warnings": warnings,
    })
}
