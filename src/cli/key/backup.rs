//! `xksd key backup-check`

use std::path::PathBuf;

use secret_memory::{Arena, Wanted};
use time::OffsetDateTime;

use super::super::{Failure, print};
use super::Of;
use super::hsms::Hsms;
use crate::key_manager::Fault;
use crate::key_manager::wrapped::key_file::KeyFile;
use crate::key_manager::wrapped::wrap::{self, first_of};
use crate::key_manager::wrapped::{self, Folder, edit};

/// Have the HSM open every key file of a folder, with all its versions: whether a backup could be
/// used
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
        match open(&file, &mut hsms, &arena) {
            Ok((versions, masters)) => good.push((label, file.epoch, versions, masters)),
            Err(why) => wrong.push(format!("key file {}: {why}", folder.file(&label).display())),
        }
    }
    if args.of.json {
        let keys: Vec<_> = good
            .iter()
            .map(|(label, epoch, versions, masters)| {
                serde_json::json!({
                    "label": label, "epoch": epoch, "versions": versions, "masters": masters,
                })
            })
            .collect();
        print(&format!("{}\n", serde_json::json!({ "good": keys, "wrong": wrong })))?;
    } else {
        for (label, epoch, versions, masters) in &good {
            let versions: Vec<String> = versions.iter().map(u16::to_string).collect();
            let opened = match &versions[..] {
                [one] => format!("version {one} opens"),
                several => format!("versions {} open", several.join(", ")),
            };
            print(&format!("{label}: epoch {epoch}, {opened} under {}\n", masters.join(", ")))?;
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::Failed(wrong.join("\n"))) }
}

/// The versions whose material is there, those that are not used now, too; and the masters that
/// open them: each that some HSM has.
fn open(file: &KeyFile, hsms: &mut Hsms, arena: &Arena) -> Result<(Vec<u16>, Vec<String>), String> {
    let now = OffsetDateTime::now_utc();
    wrapped::load_first(file, &mut hsms.hsms, arena, now).map_err(|why| why.to_string())?;
    let there = || file.versions.iter().filter(|version| !version.wraps.is_empty());
    let mut masters = Vec::new();
    for seal in file.seals() {
        let master = &seal.master;
        let digest = file.digest();
        match first_of(&mut hsms.hsms, |hsm| wrap::verify_seal(hsm, digest, seal)) {
            Ok(()) => {}
            // Perhaps it is one of another place.
            Err(Fault::KeyNotFound { .. }) => continue,
            Err(fault) => return Err(format!("its seal under the master {master:?}: {fault}")),
        }
        for version in there() {
            let mut only = version.clone();
            only.wraps.retain(|wrap| wrap.master == *master);
            edit::raw_key(file, &only, &mut hsms.hsms)
                .map_err(|why| format!("under the master {master:?}: {why}"))?;
        }
        masters.push(master.clone());
    }
    Ok((there().map(|version| version.version).collect(), masters))
}
