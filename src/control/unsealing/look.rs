//! Asks the HSMs whether they would still open the key files.

use super::hsm::InNewSession;
use super::{Means, Unsealing};
use crate::key_manager::wrapped::wrap::Hsm;
use crate::key_manager::wrapped::{Canary, Finding, Folder, look_at_hsm};

/// So many files of the same masters are tried where none is in use yet: some of them may be
/// damaged.
const CANARIES_MAX: usize = 3;

/// What the HSMs say.
pub struct Look {
    /// Of the lease.
    pub finding: Finding,
    /// Masters of files that no HSM opens any more, while it opens others; and why.
    pub refused: Vec<(Vec<String>, String)>,
}

/// Files that are sealed under the same masters: an HSM opens all of them or none.
struct Group {
    masters: Vec<String>,
    canaries: Vec<Canary>,
}

/// Whether some HSM opens what it sealed. One that does is enough; a no of one counts where
/// none does.
pub fn look(
    unsealing: &Unsealing,
    means: &Means,
    hsms: &mut [Box<dyn Hsm>],
    folder: &Folder,
) -> Look {
    let table = unsealing.keys.table();
    let is_open = table.closed().is_none();
    // Without a hold on the keys, which are to go at once when time is over.
    let mut groups = groups(table.keys().map(|(_, key)| key.canary().clone()), 1);
    drop(table);
    let is_in_use = !groups.is_empty();
    if !is_in_use {
        // What lies there to be opened.
        let labels = folder.scan().unwrap_or_default().into_keys();
        let files = labels.filter_map(|label| folder.read(&label).ok()?);
        groups = self::groups(files.map(|file| Canary::of(&file)), CANARIES_MAX);
    }
    let mut of_canary = |canary: Option<&Canary>| finding_of(means, hsms, is_open, canary);
    if groups.is_empty() {
        return Look { finding: of_canary(None), refused: Vec::new() };
    }
    let (mut yes, mut away, mut refused) = (false, None, Vec::new());
    for Group { masters, canaries } in groups {
        let mut found = Finding::No(String::new());
        for canary in &canaries {
            found = of_canary(Some(canary));
            if !matches!(found, Finding::No(_)) {
                break;
            }
        }
        match found {
            Finding::Yes => yes = true,
            Finding::No(why) => refused.push((masters, why)),
            Finding::Away(why) => away = Some(why),
        }
        if yes && !is_in_use {
            // Those that it does not open are refused one by one.
            break;
        }
    }
    let finding = match (away, yes) {
        // Keys whose HSM is away are not to be used for longer because another one is there.
        (Some(why), _) if is_in_use || !yes => Finding::Away(why),
        (_, true) => Finding::Yes,
        (_, false) => Finding::No(refused.first().map_or_else(String::new, |(_, w)| w.clone())),
    };
    Look { finding, refused }
}

/// By their masters, so many of each.
fn groups(canaries: impl Iterator<Item = Canary>, most: usize) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for canary in canaries {
        match groups.iter_mut().find(|group| group.masters == canary.masters()) {
            Some(group) if group.canaries.len() >= most => {}
            Some(group) => group.canaries.push(canary),
            None => {
                let masters = canary.masters().into_iter().map(str::to_owned).collect();
                groups.push(Group { masters, canaries: vec![canary] });
            }
        }
    }
    groups
}

/// What the HSMs say of one key's file.
fn finding_of(
    means: &Means,
    hsms: &mut [Box<dyn Hsm>],
    is_open: bool,
    canary: Option<&Canary>,
) -> Finding {
    let master = &means.settings.master;
    let mut finding = None;
    for (hsm, manager) in hsms.iter_mut().zip(&means.hsms) {
        let mut found = look_at_hsm(&mut **hsm, master, canary);
        if is_open && matches!(found, Finding::No(_)) {
            // Keys are in use: once more, by a session that nothing of the others can mislead.
            found = match look_at_hsm(&mut InNewSession(manager), master, canary) {
                // It gives no further session, perhaps.
                Finding::Away(_) => look_at_hsm(&mut **hsm, master, canary),
                found => found,
            };
        }
        let named = |why: String| format!("{}: {why}", manager.name);
        finding = match (found, finding) {
            (Finding::Yes, _) => return Finding::Yes,
            (Finding::No(why), _) => Some(Finding::No(named(why))),
            (Finding::Away(_), Some(before)) => Some(before),
            (Finding::Away(why), None) => Some(Finding::Away(named(why))),
        };
    }
    finding.unwrap_or_else(|| Finding::Away("no HSM is configured".to_owned()))
}
