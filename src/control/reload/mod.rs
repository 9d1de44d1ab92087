//! A reload: all that can be taken over without a restart is read again and swapped whole; what
//! runs on the old ones ends on them.
//!
//! In two steps where key managers have to be opened (`managers`): first everything else is in
//! force, at once, since who cuts AWS off must not wait for an HSM.

mod activation;
mod arrangement;
mod managers;
mod prepared;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::blocks;
use super::last_reload::LastReload;
use super::serving::apply;
use super::state::State;
use crate::audit::record::Record;
use crate::config::difference::{self, Certificates};
use crate::config::{Config, Invalid, Problem};
use crate::policy::blocklist::Block;
use crate::telemetry::Level;
use crate::tls;
use managers::Plan;
use prepared::Prepared;

/// What an operator has said is meant, although it looks like a file that was cut short.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accepted {
    /// `[tls.client]` is missing, and client authentication goes.
    pub loss_of_client_auth: bool,
    /// `[audit]` is missing, and the next start keeps no trail.
    pub loss_of_audit: bool,
    /// Policies that forbid are missing.
    pub loss_of_forbids: bool,
}

/// What is to be said of a reload.
#[derive(Debug)]
pub struct Said {
    /// A line each.
    pub lines: Vec<String>,
    /// How many of them say that something could not be had.
    pub failed: usize,
}

/// A reload's turn: one at a time.
struct Turn<'a> {
    state: &'a State,
    _lock: MutexGuard<'a, ()>,
}

impl<'a> Turn<'a> {
    fn wait(state: &'a State) -> Turn<'a> {
        state.reloads_asked.fetch_add(1, Ordering::AcqRel);
        let lock = state.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        Turn { state, _lock: lock }
    }

    /// `None` while another one has it.
    fn now(state: &'a State) -> Option<Turn<'a>> {
        let lock = state.reloading.try_lock().ok()?;
        state.reloads_asked.fetch_add(1, Ordering::AcqRel);
        Some(Turn { state, _lock: lock })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.state.reloads_asked.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Reads the configuration again, on behalf of `who`, and gives what is to be said of it.
///
/// # Errors
/// What is wrong with it. Then nothing changes.
pub fn reload(state: &Arc<State>, who: &str, accepted: Accepted) -> Result<Said, String> {
    let _turn = Turn::wait(state);
    state.notify.reloading();
    let taken =
        read(state).and_then(|(config, tls)| take_over(state, who, config, Some(tls), accepted));
    let finished = finish(state, who, taken);
    state.notify.reloaded();
    finished
}

/// The configuration as it is on disk, with what its files hold.
fn read(state: &State) -> Result<(Config, tls::Server), String> {
    let config = Config::load(&state.config_file).map_err(|invalid| invalid.to_string())?;
    let tls = tls::server(&config.tls.settings())
        .map_err(|problems| wrong_tls(&state.config_file, problems).to_string())?;
    Ok((config, tls))
}

/// Takes over what files hold now that the configuration in force names. `None` while another
/// reload is at it.
///
/// # Errors
/// As [`reload_files`].
pub(super) fn reload_watched(state: &Arc<State>) -> Option<Result<Said, String>> {
    let _turn = Turn::now(state)?;
    Some(read_files(state, "file watch"))
}

/// As [`reload_watched`], on behalf of `who`, after another reload that is at it.
///
/// # Errors
/// What is wrong with the files. Then nothing changes. Also where the configuration has changed
/// itself: it is not to come into force without a word of the operator's. What the fleet has given
/// to be included came with one.
pub(super) fn reload_files(state: &Arc<State>, who: &str) -> Result<Said, String> {
    let _turn = Turn::wait(state);
    read_files(state, who)
}

fn read_files(state: &Arc<State>, who: &str) -> Result<Said, String> {
    let taken = read(state).and_then(|(config, tls)| match edited(state, &config) {
        None => take_over(state, who, config, Some(tls), Accepted::default()),
        Some(path) => Err(format!(
            "files have changed that the configuration names, and {} has changed, too: reload the \
             configuration to have both",
            path.display()
        )),
    });
    finish(state, who, taken)
}

/// A text of this configuration that is not the one in force, and that the fleet has not given.
fn edited<'a>(state: &State, config: &'a Config) -> Option<&'a Path> {
    let running = state.config.load();
    let joined = state.fleet.get().and_then(|fleet| fleet.joined());
    let is_given = |path: &Path| joined.is_some_and(|joined| joined.documents.is_file(path));
    let differs = |path: &Path, text| running.texts.get(path) != Some(text);
    let mut texts = config.texts.iter();
    texts.find(|(path, text)| differs(path, *text) && !is_given(path)).map(|(path, _)| &**path)
}

/// The files hold again what is in force: nothing is refused any more, unless by somebody else.
pub(super) fn put_back(state: &State, refused: &Arc<LastReload>) {
    let _turn = Turn::wait(state);
    if Arc::ptr_eq(&state.last_reload.load(), refused) {
        let last = LastReload { refused: None, ..LastReload::clone(refused) };
        state.last_reload.store(Arc::new(last));
        let message = "files hold again what is in force: nothing is refused any more";
        state.log.event(Level::Info, message);
    }
}

/// Reads the configuration again because a ciphertext names a newer version of its key than is
/// known. It is taken over if nothing but versions of keys differs: what else an operator has
/// changed there is not to come into force without a word of theirs. False while another reload is
/// at it.
pub(super) fn reread_versions(state: &Arc<State>) -> bool {
    let Some(_turn) = Turn::now(state) else { return false };
    let told = |what: &str| {
        let message =
            format!("a ciphertext names a newer version of its key than is known: {what}");
        state.log.event(Level::Warn, message);
    };
    match Config::load(&state.config_file) {
        Ok(mut config) if difference::only_key_versions(&state.config.load(), &config) => {
            // Of what else has changed in files, nothing is taken over here.
            config.files.clone_from(&state.config.load().files);
            told("the configuration is read again");
            let who = "a newer key version";
            let taken = take_over(state, who, config, None, Accepted::default());
            let _ = finish(state, who, taken);
        }
        Ok(config) if config.sha256 == state.config.load().sha256 => {
            told("the configuration does not have it");
        }
        Ok(_) => told("the configuration has other changes, too: reload it"),
        Err(invalid) => told(&invalid.to_string().replace('\n', "; ")),
    }
    true
}

/// Tells what became of it: the audit trail, `/status`, the log, and who asked.
fn finish(state: &State, who: &str, result: Result<Reloaded, String>) -> Result<Said, String> {
    let Reloaded { changes, weakened, warnings, waiting, failed } = match result {
        Ok(reloaded) => reloaded,
        Err(problems) => return Err(refused(state, who, problems)),
    };
    tell_changes(state, who, &changes, &weakened);
    state.last_reload.store(Arc::new(LastReload::success(waiting.clone(), failed.clone())));
    let file = state.config_file.display();
    state.log.event(Level::Info, format!("configuration {file} reloaded"));
    let told = [(Level::Error, &failed), (Level::Warn, &warnings), (Level::Warn, &waiting)];
    for (level, lines) in told {
        lines.iter().for_each(|line| state.log.event(level, line.as_str()));
    }
    let count = failed.len();
    let lines = [changes, failed, warnings, waiting].concat();
    Ok(Said { lines, failed: count })
}

/// What is in force now, for whoever must prove who could use which key when. The log warns of what
/// is `weakened` by it.
fn tell_changes(state: &State, who: &str, changes: &[String], weakened: &[String]) {
    let config_sha256 = &*state.config.load().sha256;
    state.audit.record(&Record::Reload { who, config_sha256, changes, refused: None });
    for change in changes {
        let level = if weakened.contains(change) { Level::Warn } else { Level::Info };
        state.log.event(level, format!("reload: {change}"));
    }
}

fn refused(state: &State, who: &str, problems: String) -> String {
    let why = problems.as_str();
    let refused = why.lines().next().map(ToOwned::to_owned);
    let last = LastReload { refused, ..LastReload::clone(&state.last_reload.load()) };
    state.last_reload.store(Arc::new(last));
    // One line of the log, in which a line end is not shown as one.
    let why = why.replace('\n', "; ");
    let (changes, refused) = (&[][..], Some(&*why));
    state.audit.record(&Record::Reload { who, config_sha256: "", changes, refused });
    let message = format!("configuration not reloaded, the old one stays in force: {why}");
    state.log.event(Level::Error, message);
    problems
}

/// What a reload brought.
struct Reloaded {
    /// What is in force by it and was not told before.
    changes: Vec<String>,
    /// Those of them that mean less protection.
    weakened: Vec<String>,
    /// What can be used and is probably not meant.
    warnings: Vec<String>,
    /// What has to wait for a restart.
    waiting: Vec<String>,
    /// What could not be had.
    failed: Vec<String>,
}

/// Without `tls`, certificates and trust anchors stay those that run.
fn take_over(
    state: &Arc<State>,
    who: &str,
    mut config: Config,
    tls: Option<tls::Server>,
    accepted: Accepted,
) -> Result<Reloaded, String> {
    let (old, old_tls) = (state.config.load_full(), state.tls.load_full());
    refuse_omissions(state, &old, &config, accepted)?;
    let mut warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    let tls_in_force = tls.as_ref().unwrap_or(&old_tls);
    warnings.extend(tls_in_force.warnings().iter().map(ToString::to_string));
    warnings.extend(blocks_of_nothing(state, &config));
    let waiting = difference::keep_running(&mut config, &old);
    let prepared = Prepared::new(state, &old, &config)?;
    let plan = Plan::new(state, &old, &config);
    let before_opening = plan.before_opening(&config, &old);
    let managers = state.managers.load_full();
    warnings.extend(prepared.take_over(state, &config)?);
    let first = before_opening.as_ref().map(|config| apply(state, config, &managers));
    first.transpose()?;
    let before = (&*old, Certificates::from(&*old_tls));
    // A new configuration brings a new ticket key: what was agreed under the old one cannot be
    // resumed past a changed client check.
    if let Some(tls) = tls {
        state.tls.store(Arc::new(tls));
    }
    let tls = state.tls.load_full();
    let certificates = Certificates::from(&*tls);
    let (config, failed) = match before_opening {
        None => plan.carry_out(state, config, &old)?,
        Some(first) => {
            let changes = difference::at_reload(before, (&first, certificates));
            tell_changes(state, who, &changes, &difference::weakened(&old, &first));
            let message =
                "key managers are being opened; all else of the configuration is in force";
            state.log.event(Level::Info, message);
            let (config, failed) = plan.carry_out(state, config, &first)?;
            let changes = difference::of_key_managers_and_stores(&first, &config);
            return Ok(Reloaded { changes, weakened: Vec::new(), warnings, waiting, failed });
        }
    };
    let changes = difference::at_reload(before, (&config, certificates));
    let weakened = difference::weakened(&old, &config);
    Ok(Reloaded { changes, weakened, warnings, waiting, failed })
}

/// Fails where the new configuration leaves out what must not be given up so.
fn refuse_omissions(
    state: &State,
    old: &Config,
    config: &Config,
    accepted: Accepted,
) -> Result<(), String> {
    let mut omissions = difference::omissions(old, config);
    if accepted.loss_of_client_auth {
        omissions.retain(|problem| problem.key != difference::CLIENT_AUTH);
    }
    if accepted.loss_of_audit {
        omissions.retain(|problem| problem.key != difference::AUDIT);
    }
    if !accepted.loss_of_forbids {
        omissions.extend(difference::lost_forbids(old, config));
    }
    if omissions.is_empty() {
        return Ok(());
    }
    Err(Invalid { file: state.config_file.clone(), problems: omissions }.to_string())
}

/// Blocks that hold for nothing any more: a key store or key that was renamed is not blocked.
pub(super) fn blocks_of_nothing(state: &State, config: &Config) -> Vec<String> {
    let is_there = |block: &&Block| {
        let mut stores = config.keystores.iter();
        stores.find(|store| store.path_prefix == block.key_store).is_some_and(|store| {
            block.key.as_ref().is_none_or(|id| store.keys.iter().any(|key| key.id == *id))
        })
    };
    let active = state.blocks.in_force();
    let gone = active.iter().filter(|block| !is_there(block)).map(|block| {
        format!(
            "{} is blocked and is not in this configuration: where it has another name now, block \
             that",
            blocks::name(&block.key_store, block.key.as_deref())
        )
    });
    gone.collect()
}

/// What is wrong with certificates and keys, with the lines of the configuration that name them:
/// where `xksd check` finds the same, it knows these.
fn wrong_tls(config_file: &Path, problems: Vec<tls::Problem>) -> Invalid {
    let found = Config::check(config_file).err().map_or_else(Vec::new, |invalid| invalid.problems);
    let located = |problem: tls::Problem| {
        let same =
            found.iter().find(|found| found.key == problem.key && found.message == problem.message);
        same.cloned().unwrap_or_else(|| Problem::of_key(problem.key, problem.message))
    };
    Invalid { file: config_file.to_owned(), problems: problems.into_iter().map(located).collect() }
}
