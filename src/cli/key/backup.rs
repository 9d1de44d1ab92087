//! `xksd key backup-check`

use std::path::PathBuf;

use secret_memory::{Arena, Wanted};
use time::OffsetDateTime;

use super::super::{Failure, print};
use super::Of;
use super::hsms::Hsms;
use crate::key_manager::wrapped::key_file::FileVersion;
use crate::key_manager::wrapped::{self, Folder};

/// Have the HSM open every key file of a folder: whether a backup could be used
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    of: Of,
    /// Folder with the files to be checked [default: that of the key manager]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let config = args.of.load()?;
    config.set_environment().map_err(Failure::Failed)?;
    let wrapped = args.of.wrapped(&config)?;
    let folder = Folder::new(args.folder.as_ref().unwrap_or(&wrapped.folder));
    let mut hsms = Hsms::open(&config, wrapped)?;
    let arena = Arena::new(Wanted::Prefer).map_err(|e| Failure::Failed(e.to_string()))?;
    let (mut good, mut wrong) = (Vec::new(), Vec::new());
    for label in folder.scan().map_err(Failure::Failed)?.into_keys() {
        let file = match folder.read(&label) {
            Ok(Some(file)) => file,
            Ok(None) => continue,
            Err(why) => {
                wrong.push(why);
                continue;
            }
        };
        let now = OffsetDateTime::now_utc();
        match wrapped::load(&file, &mut hsms.hsms, &arena, None, now) {
            Ok(_) => good.push((label, file.epoch, usable(&file.versions, now))),
            Err(why) => wrong.push(format!("key file {}: {why}", folder.file(&label).display())),
        }
    }
    if args.of.json {
        let keys: Vec<_> = good
            .iter()
            .map(|(label, epoch, versions)| {
                serde_json::json!({ "label": label, "epoch": epoch, "versions": versions })
            })
            .collect();
        print(&format!("{}\n", serde_json::json!({ "good": keys, "wrong": wrong })))?;
    } else {
        for (label, epoch, versions) in &good {
            print(&format!("{label}: epoch {epoch}, versions {versions:?} open\n"))?;
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::Failed(wrong.join("\n"))) }
}

fn usable(versions: &[FileVersion], now: OffsetDateTime) -> Vec<u16> {
    let usable = versions.iter().filter(|version| version.state_at(now).decrypts());
    usable.map(|version| version.version).collect()
}
