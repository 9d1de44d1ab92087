//! `xksd key list` and `xksd key describe`: what key files say. The HSM is not asked.

use std::fmt::Write as _;

use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::{Failure, print};
use super::{Of, OfKey};
use crate::key_manager::wrapped::key_file::{FileVersion, KeyFile};
use crate::key_manager::wrapped::{Folder, edit};

/// List the keys of a folder. The HSM is not asked: `xksd key backup-check` does
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    of: Of,
}

/// Show one key with its versions. The HSM is not asked
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    #[command(flatten)]
    key: OfKey,
}

pub(super) fn list(args: &ListArgs) -> Result<(), Failure> {
    let config = args.of.load()?;
    let folder = Folder::new(&args.of.wrapped(&config)?.folder);
    let (mut text, mut all, mut wrong) = (String::new(), Vec::new(), Vec::new());
    for label in folder.scan().map_err(Failure::Failed)?.into_keys() {
        match folder.read(&label) {
            Ok(Some(file)) => {
                let KeyFile { epoch, primary, versions, .. } = &file;
                let count = versions.len();
                let versions = if count == 1 { "version" } else { "versions" };
                let _ = writeln!(
                    text,
                    "{label}: epoch {epoch}, {count} {versions}, {primary} encrypts"
                );
                all.push(described(&file));
            }
            Ok(None) => {}
            Err(why) => wrong.push(why),
        }
    }
    if all.is_empty() && wrong.is_empty() {
        text = format!("no key files in {}\n", folder.path().display());
    }
    let of_all = json!({ "keys": all, "wrong": wrong });
    print(&if args.of.json { format!("{of_all}\n") } else { text })?;
    if wrong.is_empty() { Ok(()) } else { Err(Failure::Failed(wrong.join("\n"))) }
}

pub(super) fn describe(args: &DescribeArgs) -> Result<(), Failure> {
    let OfKey { of, label } = &args.key;
    let config = of.load()?;
    let folder = Folder::new(&of.wrapped(&config)?.folder);
    let file = folder.read(label).map_err(Failure::Failed)?;
    let Some(file) = file else {
        let at = folder.file(label);
        return Err(Failure::Failed(format!("there is no key file {}", at.display())));
    };
    if of.json {
        return print(&format!("{}\n", described(&file)));
    }
    let mut text = format!(
        "key {label}\n  set {}, epoch {}, wrapped under {}\n",
        file.set,
        file.epoch,
        edit::masters(&file).join(", ")
    );
    for version in &file.versions {
        let _ = write!(
            text,
            "  version {}: {}, cipher {}, created {}",
            version.version,
            state(version),
            version.cipher,
            version.created
        );
        for (what, at) in
            [("promoted", &version.promoted), ("to be destroyed after", &version.destroy_after)]
        {
            if let Some(at) = at {
                let _ = write!(text, ", {what} {at}");
            }
        }
        text.push('\n');
    }
    print(&text)
}

fn described(file: &KeyFile) -> Value {
    let version = |version: &FileVersion| {
        json!({
            "version": version.version,
            "state": state(version),
            "cipher": version.cipher,
            "created": version.created,
            "promoted": version.promoted,
            "destroy_after": version.destroy_after,
        })
    };
    json!({
        "label": file.label,
        "set": file.set,
        "epoch": file.epoch,
        "primary": file.primary,
        "masters": edit::masters(file),
        "versions": file.versions.iter().map(version).collect::<Vec<_>>(),
    })
}

fn state(version: &FileVersion) -> &'static str {
    version.state_at(OffsetDateTime::now_utc()).name()
}
