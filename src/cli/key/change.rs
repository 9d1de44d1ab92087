//! The commands that change a key file.

use std::fs::{DirBuilder, File};
use std::io::{BufRead, ErrorKind, IsTerminal};
use std::os::unix::fs::DirBuilderExt;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use secret_memory::{Arena, Wanted};
use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::super::instance::Instance;
use super::super::{Failure, block, print, tell};
use super::hsms::{Hsms, random};
use super::instances;
use super::{Of, OfKey};
use crate::config::Wrapped;
use crate::file::shell_word;
use crate::hex::hex;
use crate::key_manager::Cipher;
use crate::key_manager::wrapped::key_file::{KeyFile, SET_BYTES};
use crate::key_manager::wrapped::{self, Folder, edit};

/// Make a new key
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The key is random: the HSM's generator XOR the system's. It is wrapped by the HSM before it is \
written,
and read back through the HSM.")]
pub struct CreateArgs {
    #[command(flatten)]
    pub(super) key: OfKey,
    /// 2: a key of its own for each message, without a limit to their number. 1: the key itself,
    /// for at most 2^32 messages, as other proxies do
    #[arg(long, value_name = "1|2", default_value = "2", value_parser = cipher)]
    cipher: Cipher,
}

/// Add a version to a key. It decrypts, and does not encrypt yet: promote it
#[derive(Debug, clap::Args)]
pub struct RotateArgs {
    #[command(flatten)]
    key: OfKey,
    /// As for `xksd key create`
    #[arg(long, value_name = "1|2", default_value = "2", value_parser = cipher)]
    cipher: Cipher,
}

/// Encrypt with another version from now on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Give every other instance with --instance: one that does not have the version yet could not \
decrypt what
the others encrypt. Nothing is changed then.")]
pub struct PromoteArgs {
    #[command(flatten)]
    key: OfKey,
    /// Number of the version [default: the staged one]
    #[arg(long, value_name = "N")]
    version: Option<u16>,
    /// Admin listener of an instance that must have the version already, for example
    /// http://10.0.0.2:9180; may be given several times
    #[arg(long = "instance", value_name = "URL", value_parser = Instance::parse)]
    instances: Vec<Instance>,
    /// No other instance uses the key: ask none, although the configuration has several
    #[arg(long, conflicts_with = "instances")]
    only_instance: bool,
}

/// Stop using a version: what it encrypted is answered InvalidStateException
#[derive(Debug, clap::Args)]
pub struct DisableArgs {
    #[command(flatten)]
    version: OfVersion,
}

/// Have a disabled version decrypt again
#[derive(Debug, clap::Args)]
pub struct EnableArgs {
    #[command(flatten)]
    version: OfVersion,
}

/// Disable a version, and take its material out of the file after some time
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What the version encrypted can never be decrypted again. Until the time is over, `xksd key \
cancel-destroy`
takes it back; when it is, run `xksd key destroy` once more to take the material away.
Backups of the file still hold it: only the destruction of the master in the HSM shreds those.")]
pub struct DestroyArgs {
    #[command(flatten)]
    version: OfVersion,
    /// When: for example 7d, 30d; at least a day
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = days)]
    after: u32,
    /// The label once more, in place of the question
    #[arg(long, value_name = "LABEL")]
    confirm: Option<String>,
}

/// Take back `xksd key destroy`; the version stays disabled
#[derive(Debug, clap::Args)]
pub struct CancelDestroyArgs {
    #[command(flatten)]
    version: OfVersion,
}

/// Wrap a key under another master as well, or take a master away
#[derive(Debug, clap::Args)]
#[command(after_help = "\
To change the master without a gap:
  xksd key rewrap … --master NEW     and copy the files to all instances
  master = \"NEW\" in the configuration of each instance, and restart them one by one
  xksd key rewrap … --drop OLD       and copy the files again")]
#[group(required = true, multiple = true, id = "what", args = ["master", "drop"])]
pub struct RewrapArgs {
    #[command(flatten)]
    key: OfKey,
    /// Label of the key in the HSM to wrap under
    #[arg(long, value_name = "LABEL")]
    master: Option<String>,
    /// Label of the master whose wraps are taken away
    #[arg(long, value_name = "LABEL")]
    drop: Option<String>,
}

#[derive(Debug, clap::Args)]
struct OfVersion {
    #[command(flatten)]
    key: OfKey,
    /// Number of the version
    #[arg(long, value_name = "N")]
    version: u16,
}

pub(super) fn create(args: &CreateArgs) -> Result<(), Failure> {
    create_with(&args.key, args.cipher, |hsms| hsms.new_key())
}

/// Makes a key file with the key that `key` gives.
pub(super) fn create_with(
    of: &OfKey,
    cipher: Cipher,
    key: impl FnOnce(&mut Hsms) -> Result<edit::RawKey, Failure>,
) -> Result<(), Failure> {
    let label = &of.label;
    let config = of.of.load()?;
    config.set_environment().map_err(Failure::Failed)?;
    let wrapped = of.of.wrapped(&config)?;
    make_folder(wrapped)?;
    let folder = Folder::new(&wrapped.folder);
    let _lock = lock(&folder)?;
    if folder.file(label).exists() {
        let at = folder.file(label);
        return Err(Failure::Failed(format!("{} exists already", at.display())));
    }
    let known = set_of(&folder)?;
    let mut hsms = open_hsms(&config, wrapped)?;
    // Once; from then on the service's log and `xksd keys` say it.
    if known.is_none() {
        hsms.warn_of_usage(&wrapped.master);
    }
    let set = known.map_or_else(new_set, Ok)?;
    let raw = key(&mut hsms)?;
    let names = (set.as_str(), label.as_str(), wrapped.master.as_str());
    let now = OffsetDateTime::now_utc();
    let file = edit::create(&mut hsms.hsms, names, (cipher, &raw), now)
        .map_err(|fault| Failure::Failed(format!("the master {:?}: {fault}", wrapped.master)))?;
    finish(of, &folder, file, &mut hsms, &format!("key {label:?} is made; version 0 encrypts"))
}

fn make_folder(wrapped: &Wrapped) -> Result<(), Failure> {
    let at = wrapped.folder.display();
    match DirBuilder::new().mode(0o750).create(&wrapped.folder) {
        Ok(()) => tell(&format!(
            "folder {at} is new. Its group reads the keys; for a service of another user: chgrp \
             xksd {}",
            shell_word(&wrapped.folder)
        )),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => {
            return Err(Failure::Failed(format!("folder {at} cannot be made: {error}")));
        }
    }
    Ok(())
}

pub(super) fn rotate(args: &RotateArgs) -> Result<(), Failure> {
    let label = &args.key.label;
    change(&args.key, |file, hsms, now| {
        let raw = hsms.new_key()?;
        let number =
            edit::stage(file, &mut hsms.hsms, (args.cipher, &raw), now).map_err(Failure::Failed)?;
        Ok(format!(
            "key {label:?}: version {number} is staged: it decrypts and does not encrypt yet. When \
             all instances have the file: xksd key promote"
        ))
    })
}

pub(super) fn promote(args: &PromoteArgs) -> Result<(), Failure> {
    let label = &args.key.label;
    let config = args.key.of.load()?;
    let has_others = config.server.instances > 1 || config.fleet.is_some();
    if has_others && args.instances.is_empty() && !args.only_instance {
        return Err(Failure::Usage(
            "the configuration has several instances, and one that does not have the version yet \
             could not decrypt: give each other one with --instance, or say --only-instance. \
             Nothing was changed"
                .to_owned(),
        ));
    }
    change(&args.key, |file, _, now| {
        let number = edit::promote(file, args.version, now).map_err(Failure::Failed)?;
        instances::refuse_without(&args.instances, label, number)?;
        Ok(format!("key {label:?}: version {number} encrypts from now on"))
    })
}

pub(super) fn disable(args: &DisableArgs) -> Result<(), Failure> {
    let OfVersion { key, version } = &args.version;
    change(key, |file, _, _| {
        edit::disable(file, *version).map_err(Failure::Failed)?;
        let label = &key.label;
        Ok(format!("key {label:?}: version {version} is disabled; nothing it encrypted opens now"))
    })
}

pub(super) fn enable(args: &EnableArgs) -> Result<(), Failure> {
    let OfVersion { key, version } = &args.version;
    change(key, |file, _, _| {
        edit::enable(file, *version).map_err(Failure::Failed)?;
        Ok(format!("key {:?}: version {version} decrypts again", key.label))
    })
}

pub(super) fn destroy(args: &DestroyArgs) -> Result<(), Failure> {
    let OfVersion { key, version } = &args.version;
    change(key, |file, _, now| {
        let label = &key.label;
        if edit::bury(file, *version, now) {
            return Ok(format!(
                "key {label:?}: version {version} is destroyed: this file no longer has its \
                 material. Backups do, until the master is destroyed in the HSM"
            ));
        }
        edit::destroy(file, *version, Duration::seconds(args.after.into()), now)
            .map_err(Failure::Failed)?;
        confirm(label, *version, args.confirm.as_deref())?;
        let at = file.versions.iter().find(|v| v.version == *version);
        let at = at.and_then(|version| version.destroy_after.as_deref()).unwrap_or_default();
        Ok(format!(
            "key {label:?}: version {version} is disabled, and is to be destroyed after {at}: run \
             this command once more then. Backups of the file keep it: only the destruction of \
             the master shreds those"
        ))
    })
}

pub(super) fn cancel_destroy(args: &CancelDestroyArgs) -> Result<(), Failure> {
    let OfVersion { key, version } = &args.version;
    change(key, |file, _, _| {
        edit::cancel_destroy(file, *version).map_err(Failure::Failed)?;
        Ok(format!("key {:?}: version {version} stays, disabled", key.label))
    })
}

pub(super) fn rewrap(args: &RewrapArgs) -> Result<(), Failure> {
    change(&args.key, |file, hsms, _| {
        if let Some(master) = &args.master {
            hsms.warn_of_usage(master);
            edit::rewrap(file, &mut hsms.hsms, master).map_err(Failure::Failed)?;
        }
        if let Some(master) = &args.drop {
            edit::drop_master(file, master).map_err(Failure::Failed)?;
        }
        let masters = edit::masters(file).join(", ");
        Ok(format!("key {:?}: wrapped under {masters}", args.key.label))
    })?;
    let Of { key_manager, config, .. } = &args.key.of;
    let configured = args.key.of.load()?;
    let master = &args.key.of.wrapped(&configured)?.master;
    if args.drop.as_ref() == Some(master) {
        tell(&format!(
            "warning: {master:?} is still the `master` of key manager {key_manager:?} in {}, and \
             new keys are wrapped under it. Set `master` to the new one there, on every instance",
            config.display()
        ));
    }
    Ok(())
}

/// Opens a key's file through the HSM, has it edited, and puts it in the old one's place.
fn change(
    of: &OfKey,
    edit: impl FnOnce(&mut KeyFile, &mut Hsms, OffsetDateTime) -> Result<String, Failure>,
) -> Result<(), Failure> {
    let config = of.of.load()?;
    config.set_environment().map_err(Failure::Failed)?;
    let wrapped = of.of.wrapped(&config)?;
    let folder = Folder::new(&wrapped.folder);
    let _lock = lock(&folder)?;
    let mut file = folder.read(&of.label).map_err(Failure::Failed)?.ok_or_else(|| {
        Failure::Failed(format!("there is no key file {}", folder.file(&of.label).display()))
    })?;
    let mut hsms = open_hsms(&config, wrapped)?;
    // What was changed by another hand is not to get a new seal.
    verify(&file, &mut hsms).map_err(|why| {
        Failure::Failed(format!("key file {}: {why}", folder.file(&of.label).display()))
    })?;
    let done = edit(&mut file, &mut hsms, OffsetDateTime::now_utc()).map_err(|failure| {
        let named = |why| format!("key {:?}: {why}", of.label);
        match failure {
            Failure::Failed(why) => Failure::Failed(named(why)),
            Failure::Usage(why) => Failure::Usage(named(why)),
        }
    })?;
    finish(of, &folder, file, &mut hsms, &done)
}

/// Seals the file, writes it and says what was done.
fn finish(
    of: &OfKey,
    folder: &Folder,
    mut file: KeyFile,
    hsms: &mut Hsms,
    done: &str,
) -> Result<(), Failure> {
    edit::seal(&mut file, &mut hsms.hsms, &mut random).map_err(Failure::Failed)?;
    folder.write(&file, |written| verify(written, hsms)).map_err(Failure::Failed)?;
    if of.of.json {
        let (path, epoch) = (folder.file(&file.label), file.epoch);
        let said = json!({ "done": done, "file": path, "epoch": epoch, "primary": file.primary });
        return print(&format!("{said}\n"));
    }
    print(&format!("{done}\n  {} has epoch {}\n", folder.file(&file.label).display(), file.epoch))
}

fn verify(file: &KeyFile, hsms: &mut Hsms) -> Result<(), String> {
    let arena = Arena::new(Wanted::Prefer).map_err(|error| error.to_string())?;
    let now = OffsetDateTime::now_utc();
    wrapped::load_first(file, &mut hsms.hsms, &arena, now).map(drop).map_err(|e| e.to_string())
}

fn open_hsms(config: &crate::config::Config, wrapped: &Wrapped) -> Result<Hsms, Failure> {
    let hsms = Hsms::open(config, wrapped)?;
    hsms.unopened.iter().for_each(|why| tell(&format!("warning: {why}")));
    Ok(hsms)
}

/// One command at a time changes a folder.
fn lock(folder: &Folder) -> Result<File, Failure> {
    let failed = |error: std::io::Error| {
        Failure::Failed(format!("folder {}: {error}", folder.path().display()))
    };
    let lock = File::open(folder.path()).map_err(failed)?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
        let at = folder.path().display();
        tell(&format!("another xksd key command is at work in folder {at}; waiting for it"));
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    }
    Ok(lock)
}

/// The set of the keys in a folder; `None` in an empty folder.
fn set_of(folder: &Folder) -> Result<Option<String>, Failure> {
    let mut wrong = None;
    for label in folder.scan().map_err(Failure::Failed)?.into_keys() {
        match folder.read(&label) {
            Ok(Some(file)) => return Ok(Some(file.set)),
            Ok(None) => {}
            Err(why) => wrong = Some(why),
        }
    }
    // Of a set of which nothing can be read, no other one may be made.
    wrong.map_or(Ok(None), |why| Err(Failure::Failed(why)))
}

fn new_set() -> Result<String, Failure> {
    let mut set = [0; SET_BYTES];
    random(&mut set).map_err(Failure::Failed)?;
    Ok(hex(&set))
}

/// Asks for the label, unless it was given.
fn confirm(label: &str, version: u16, given: Option<&str>) -> Result<(), Failure> {
    let typed = match given {
        Some(given) => given.to_owned(),
        None if !std::io::stdin().is_terminal() => {
            return Err(Failure::Usage(
                "standard input is not a terminal: give the label with --confirm".to_owned(),
            ));
        }
        None => {
            tell(&format!(
                "What version {version} of {label:?} encrypted will never be decrypted again.\n\
                 Type the label to go on:"
            ));
            let mut line = String::new();
            let _ = std::io::stdin().lock().read_line(&mut line);
            line.trim().to_owned()
        }
    };
    if typed == label {
        return Ok(());
    }
    Err(Failure::Failed(format!("{typed:?} is not the label {label:?}: nothing was changed")))
}

fn cipher(text: &str) -> Result<Cipher, String> {
    match text {
        "1" => Ok(Cipher::Direct),
        "2" => Ok(Cipher::Derived),
        _ => Err("1 or 2".to_owned()),
    }
}

fn days(text: &str) -> Result<u32, String> {
    let seconds = block::seconds(text)?;
    if seconds < 86_400 { Err("at least a day: 1d".to_owned()) } else { Ok(seconds) }
}
