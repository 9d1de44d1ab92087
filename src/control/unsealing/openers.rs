//! Threads that have an HSM open key files: several at a time, since each file waits for the HSM.

use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::{Receiver, Sender};
use time::OffsetDateTime;

use super::hsm::OfLanes;
use super::{Means, Unsealing};
use crate::config;
use crate::key_manager::wrapped::wrap::Hsm;
use crate::key_manager::wrapped::{Epoch, Folder, NotLoaded, Round, To, load};
use crate::keystore::KeyManager;

/// A file to be opened.
pub struct Job {
    /// Of its key.
    pub label: Arc<str>,
    /// Afterwards nobody wants it.
    pub round: Round,
}

/// One was opened, and its key waits in [`Unsealing::opening`]; or why not.
pub struct Done {
    /// Of its key.
    pub label: Arc<str>,
    /// As in the job.
    pub round: Round,
    /// Which file it was.
    pub result: Result<Epoch, NotOpened>,
}

/// Why a file was not opened.
pub struct NotOpened {
    /// For the operator.
    pub why: String,
    /// It may be opened later as it is.
    pub may_pass: bool,
    /// The HSM did not do it.
    pub by_hsm: bool,
    /// It is there, and says no.
    pub is_refused_by_hsm: bool,
}

/// The HSMs of a key manager, through their lanes. Each call takes further clients.
pub fn hsms(means: &Means) -> Vec<Box<dyn Hsm>> {
    let hsm = |manager: &Arc<KeyManager>| {
        let (manager, client) = (manager.clone(), manager.client()?);
        Some(Box::new(OfLanes { manager, client }) as Box<dyn Hsm>)
    };
    means.hsms.iter().filter_map(hsm).collect()
}

/// Opens files until no more come.
pub fn run(unsealing: &Unsealing, means: &Means, jobs: &Receiver<Job>, done: &Sender<Done>) {
    let mut hsms = hsms(means);
    for Job { label, round } in jobs {
        let result = open(unsealing, &means.settings, &mut hsms, &label, round);
        if result.is_err() {
            unsealing.opening.forget(&label);
        }
        if done.send(Done { label, round, result }).is_err() {
            return;
        }
    }
}

/// Opens the file of a key, if it is to be believed.
fn open(
    unsealing: &Unsealing,
    settings: &config::Wrapped,
    hsms: &mut [Box<dyn Hsm>],
    label: &Arc<str>,
    round: Round,
) -> Result<Epoch, NotOpened> {
    let Unsealing { name, keys, files, opening, .. } = unsealing;
    if opening.round() != round {
        return Err(NotLoaded::TakenAway.into());
    }
    let folder = Folder::new(&settings.folder);
    let file = folder.read(label)?.ok_or("its file is gone".to_owned())?;
    let epoch = Epoch::of(&file);
    let min = settings.min_epoch.get(&**label).copied().unwrap_or(0);
    files.check_age(name, label, &epoch, min)?;
    // On a host that has seen none before.
    let first = opening.look(|keys| keys.values().next().map(|key| key.epoch.set.clone()));
    if let Some(set) = first.filter(|set| *set != file.set) {
        return Err(format!("it is of the set {}, and others are of {set}", file.set).into());
    }
    if unsealing.absence(Instant::now()).is_some() {
        // Each file would wait for it once more.
        let why = "it is new, and the HSM that would open it is away".to_owned();
        return Err(NotOpened { may_pass: true, ..why.into() });
    }
    // No hold on a key while the HSM is asked.
    let before = keys.table().key(label).map(Arc::downgrade);
    let to = To { arena: keys.arena(), opening, round, before: before.as_ref() };
    let loaded = load(&file, hsms, to, OffsetDateTime::now_utc()).map_err(|why| {
        let named = format!("key file {}: {why}", folder.file(label).display());
        NotOpened { why: named, ..why.into() }
    })?;
    // Somebody's edit is one thing, and another administrator's is another.
    files.check_history(name, label, &loaded.epoch)?;
    opening.insert(round, label.clone(), loaded).map_err(NotLoaded::from)?;
    Ok(epoch)
}

impl From<String> for NotOpened {
    /// Of a file that is not believed.
    fn from(why: String) -> NotOpened {
        NotOpened { why, may_pass: false, by_hsm: false, is_refused_by_hsm: false }
    }
}

impl From<NotLoaded> for NotOpened {
    fn from(why: NotLoaded) -> NotOpened {
        let may_pass = !matches!(why, NotLoaded::File(_));
        let (by_hsm, is_refused_by_hsm) =
            (matches!(why, NotLoaded::Hsm(_)), why.is_refused_by_hsm());
        NotOpened { may_pass, by_hsm, is_refused_by_hsm, why: why.to_string() }
    }
}
