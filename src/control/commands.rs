//! What can be asked at the control socket, and what becomes of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::admin_hooks::AdminHooks;
use super::block_shown::{BlockShown, end_of, timestamp_of};
use super::blocks::{Saving, name, unix_seconds};
use super::reload::{self, Accepted, Said};
use super::sharing::commands::{self as fleet_commands, Told};
use super::state::State;
use super::unsealing::{Seal, Unsealing};
use crate::audit::record::{self, Record};
use crate::limits::BLOCK_REASON_BYTES_MAX;
use crate::policy::blocklist::Block;
use crate::telemetry::Level;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Answer nothing with this key, or with any key of this key store.
    Block {
        /// Which.
        target: Target,
        /// Why.
        reason: String,
        /// For how long, seconds; until it is unblocked where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_seconds: Option<u32>,
        /// On all instances of the fleet.
        #[serde(default, skip_serializing_if = "is_false")]
        fleet: bool,
    },
    /// Take a block away.
    Unblock {
        /// Which.
        target: Target,
        /// Why.
        reason: String,
        /// What was blocked on all instances of the fleet.
        #[serde(default, skip_serializing_if = "is_false")]
        fleet: bool,
    },
    /// All that is blocked.
    Blocks {},
    /// Read the configuration again.
    Reload {
        /// Also if `[tls.client]` is missing and was in force.
        #[serde(default)]
        accept_loss_of_client_auth: bool,
        /// Also if `[audit]` is missing and was in force.
        #[serde(default)]
        accept_loss_of_audit: bool,
        /// Also if policies that forbid are missing and were in force.
        #[serde(default)]
        accept_loss_of_forbids: bool,
    },
    /// Use no key of a wrapped key manager any more.
    Seal {
        /// Its name.
        key_manager: String,
        /// Why.
        reason: String,
    },
    /// Have the HSM open its keys again.
    Unseal {
        /// Its name.
        key_manager: String,
        /// Why.
        reason: String,
    },
    /// As `/status`.
    Status {},
    /// What is asked of the fleet.
    Fleet(fleet_commands::Request),
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A key store, or one key of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Path prefix.
    pub key_store: String,
    /// External key id; the whole key store where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// False: exit code 1.
    pub ok: bool,
    /// For a person.
    pub message: String,
    /// For a program.
    #[serde(default)]
    pub data: Value,
}

impl Reply {
    /// Nothing was done.
    pub fn refused(message: String) -> Reply {
        Reply { ok: false, message, data: Value::Null }
    }

    fn done(message: String, data: &impl Serialize) -> Reply {
        Reply { ok: true, message, data: serde_json::to_value(data).unwrap_or_default() }
    }
}

/// Does what `line` asks for, on behalf of `who`.
pub fn run(state: &Arc<State>, admin: AdminHooks, line: &str, who: &str) -> Reply {
    match serde_json::from_str(line) {
        Ok(Request::Block { target, reason, for_seconds, fleet }) => {
            block(state, target, reason, for_seconds, (fleet, who))
        }
        Ok(Request::Unblock { target, reason, fleet }) => {
            unblock(state, &target, &reason, (fleet, who))
        }
        Ok(Request::Blocks {}) => blocks(state),
        Ok(Request::Reload {
            accept_loss_of_client_auth: loss_of_client_auth,
            accept_loss_of_audit: loss_of_audit,
            accept_loss_of_forbids: loss_of_forbids,
        }) => {
            reloaded(state, who, Accepted { loss_of_client_auth, loss_of_audit, loss_of_forbids })
        }
        Ok(Request::Seal { key_manager, reason }) => seal(state, &key_manager, reason, who),
        Ok(Request::Unseal { key_manager, reason }) => unseal(state, &key_manager, &reason, who),
        Ok(Request::Fleet(request)) => reply(fleet_commands::run(state, request, who)),
        Ok(Request::Status {}) => Reply::done(String::new(), &(admin.status)(state)),
        Err(error) => Reply::refused(format!("this is not a request that xksd knows: {error}")),
    }
}

fn block(
    state: &State,
    target: Target,
    reason: String,
    for_seconds: Option<u32>,
    (fleet, who): (bool, &str),
) -> Reply {
    if let Err(why) = known(state, &target).and_then(|()| refuse_reason(&reason)) {
        return Reply::refused(why);
    }
    if for_seconds == Some(0) {
        return Reply::refused("a block for no time is none".to_owned());
    }
    let since = unix_seconds();
    let Target { key_store, key } = target;
    let until = for_seconds.map(|seconds| since + i64::from(seconds));
    let block = Block { key_store, key, reason, who: who.to_owned(), since, until };
    if fleet {
        return block_fleet(state, &block);
    }
    block_here(state, block)
}

/// Here at once where the fleet cannot be reached: whoever cuts AWS off must not be left with
/// nothing.
fn block_fleet(state: &State, block: &Block) -> Reply {
    let what = format!("{}{}", name(&block.key_store, block.key.as_deref()), end(block));
    // Until it stands in etcd, which may take seconds where members do not answer.
    let is_it = |b: &Block| b.key_store == block.key_store && b.key == block.key;
    let meanwhile =
        !state.blocks.in_force().iter().any(is_it) && state.blocks.block(block.clone()).is_ok();
    match fleet_commands::block(state, block) {
        Ok(told) => {
            let left = meanwhile.then(|| end_meanwhile(state, block)).and_then(Result::err);
            state.audit.record(&Record::Block(audited(block, end_of(block).as_deref())));
            let Block { who, reason, .. } = block;
            let message = format!("{what} is blocked in the fleet by {who}: {reason:?}");
            state.log.event(Level::Warn, message);
            let message = format!("{what} is blocked in the fleet. {}", told.message);
            let Some(why) = left else { return Reply { message, ..reply(Ok(told)) } };
            let left = format!(
                "{what} is blocked on this instance by itself, too: {why}. Run `xksd unblock` \
                 without --fleet as well when it is over"
            );
            state.log.event(Level::Error, left.as_str());
            let message = format!("{message}\n{left}");
            Reply { ok: false, message, ..reply(Ok(told)) }
        }
        Err(why) => {
            let here = block_here(state, block.clone());
            let message = format!(
                "{}, on this instance only: {why}. Run `xksd block` on the others, too",
                here.message
            );
            Reply { ok: false, message, ..here }
        }
    }
}

/// Ends the block here that held until the fleet's did.
///
/// # Errors
/// Why it stays.
fn end_meanwhile(state: &State, block: &Block) -> Result<(), String> {
    let (key_store, key, now) = (&block.key_store, block.key.as_deref(), unix_seconds());
    let ended = state.blocks.unblock(key_store, key, now);
    // Somebody else may have ended it.
    let is_it = |b: &Block| b.key_store == *key_store && b.key.as_deref() == key;
    ended.or_else(|why| match state.blocks.of_instance(now).iter().any(is_it) {
        true => Err(why),
        false => Ok(()),
    })
}

fn reply(told: Result<Told, String>) -> Reply {
    match told {
        Ok(Told { ok, message, data }) => Reply { ok, message, data },
        Err(why) => Reply::refused(why),
    }
}

fn block_here(state: &State, block: Block) -> Reply {
    let who = block.who.clone();
    let Ok(saving) = state.blocks.block(block.clone()) else {
        return Reply::refused(
            "the block list is full. Block the key store, or set enabled = false in the \
             configuration and reload it"
                .to_owned(),
        );
    };
    let what = format!("{}{}", name(&block.key_store, block.key.as_deref()), end(&block));
    state.audit.record(&Record::Block(audited(&block, end_of(&block).as_deref())));
    state.log.event(Level::Warn, format!("{what} is blocked by {who}: {:?}", block.reason));
    match saving {
        Saving::Saved => Reply::done(format!("{what} is blocked"), &BlockShown::of(&block)),
        Saving::NotSaved(why) => {
            let message = format!(
                "{what} is blocked now, but not after a restart: {why}. xksd goes on trying"
            );
            state.log.event(Level::Error, message.as_str());
            Reply { ok: false, ..Reply::done(message, &BlockShown::of(&block)) }
        }
    }
}

fn unblock(state: &State, target: &Target, reason: &str, (fleet, who): (bool, &str)) -> Reply {
    let Target { key_store, key } = target;
    let what = name(key_store, key.as_deref());
    let now = unix_seconds();
    if let Err(why) = refuse_reason(reason) {
        return Reply::refused(why);
    }
    let unblocked = match fleet {
        true => fleet_commands::unblock(state, key_store, key.as_deref()).map(Some),
        false => state.blocks.unblock(key_store, key.as_deref(), now).map(|()| None),
    };
    let told = match unblocked {
        Ok(told) => told,
        Err(why) => return Reply::refused(format!("{what}: {why}{}", hint(state, target, fleet))),
    };
    let key = key.as_deref();
    state.audit.record(&Record::Unblock(record::Block {
        key_store,
        key,
        reason,
        who,
        until: None,
    }));
    let everywhere = if fleet { " in the fleet" } else { "" };
    let done = format!("{what} is no longer blocked{everywhere}");
    state.log.event(Level::Warn, format!("{done}, by {who}: {reason:?}"));
    match told {
        None => Reply::done(done, &Value::Null),
        Some(told) => Reply { message: format!("{done}. {}", told.message), ..reply(Ok(told)) },
    }
}

/// What an operator who unblocks what is not blocked may have meant.
fn hint(state: &State, target: &Target, fleet: bool) -> &'static str {
    let Target { key_store, key } = target;
    let now = unix_seconds();
    let is_it = |block: &Block| block.key_store == *key_store && block.key == *key;
    if !fleet && state.blocks.of_fleet(now).iter().any(is_it) {
        return " here. It is in the fleet: run `xksd unblock --fleet`";
    }
    let of = state.blocks.active(now);
    if fleet && of.iter().any(is_it) {
        return ". It is on this instance: run `xksd unblock` without --fleet";
    }
    let of_keys = of.iter().filter(|b| b.key_store == *key_store && b.key != *key).count();
    match (of_keys, key) {
        (0, _) => "",
        (_, None) => ". Keys of it are, by themselves: see `xksd blocks`",
        (_, Some(_)) => ". Its key store or other keys of it are: see `xksd blocks`",
    }
}

fn blocks(state: &State) -> Reply {
    let (active, of_fleet) = (state.blocks.in_force(), state.blocks.of_fleet(unix_seconds()));
    let line = |block: &Block| {
        let Block { key_store, key, reason, who, since, .. } = block;
        let (what, since) = (name(key_store, key.as_deref()), timestamp_of(*since));
        let fleet = if of_fleet.contains(block) { " in the fleet" } else { "" };
        format!("{what}{fleet}, since {since}{}, by {who}: {reason:?}\n", end(block))
    };
    let mut message: String = active.iter().map(line).collect();
    if active.is_empty() {
        message.push_str("nothing is blocked\n");
    }
    if state.blocks.is_unsaved() {
        message.push_str("the last change is not on disk yet: a restart would lose it\n");
    }
    Reply::done(message, &active.iter().map(BlockShown::of).collect::<Vec<_>>())
}

fn seal(state: &State, name: &str, reason: String, who: &str) -> Reply {
    let all = match wrapped(state, name).and_then(|found| refuse_reason(&reason).map(|()| found)) {
        Ok(found) => found,
        Err(why) => return Reply::refused(why),
    };
    let detail = format!("sealed by {who}: {reason}");
    let seal = Seal { who: who.to_owned(), reason, since: unix_seconds() };
    // Each of them: one that did not take it must not keep another one open.
    let sealed: Vec<_> = all.iter().map(|unsealing| unsealing.seal(seal.clone())).collect();
    let sealed: Result<(), String> = sealed.into_iter().collect();
    state.audit.record(&Record::KeyManager { name, state: "sealed", detail: &detail });
    match sealed {
        Ok(()) => {
            let message = format!("key manager {name:?} is sealed: its keys were overwritten");
            Reply::done(message, &json!({ "key_manager": name, "state": "sealed" }))
        }
        Err(why) => Reply::refused(format!("key manager {name:?}: {why}")),
    }
}

fn unseal(state: &State, name: &str, reason: &str, who: &str) -> Reply {
    let all = match wrapped(state, name).and_then(|found| refuse_reason(reason).map(|()| found)) {
        Ok(found) => found,
        Err(why) => return Reply::refused(why),
    };
    if let Err(why) = all.iter().try_for_each(|unsealing| unsealing.unseal(who)) {
        return Reply::refused(format!("key manager {name:?}: {why}"));
    }
    let detail = format!("unsealed by {who}: {reason}");
    state.audit.record(&Record::KeyManager { name, state: "unsealed", detail: &detail });
    let message = format!("key manager {name:?} is unsealed: the HSM is asked now");
    Reply::done(message, &json!({ "key_manager": name, "state": "unsealed" }))
}

/// The wrapped key managers of a name: more than one while a reload replaces it.
fn wrapped(state: &State, name: &str) -> Result<Vec<Arc<Unsealing>>, String> {
    let found = state.attendants.unsealing(name);
    if !found.is_empty() {
        return Ok(found);
    }
    let wrapped = state.unsealing.load();
    let all: Vec<&str> = wrapped.iter().map(|u| u.name.as_str()).collect();
    let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
    Err(format!("no key manager of kind \"wrapped\" has the name {name:?}; there is: {all}"))
}

fn reloaded(state: &Arc<State>, who: &str, accepted: Accepted) -> Reply {
    match reload::reload(state, who, accepted) {
        Ok(Said { lines, failed }) => {
            let mut message = "the configuration is reloaded\n".to_owned();
            if failed > 0 {
                message = "the configuration is reloaded, but for what failed\n".to_owned();
            }
            lines.iter().for_each(|line| message.push_str(&format!("{line}\n")));
            Reply { ok: failed == 0, ..Reply::done(message, &lines) }
        }
        Err(why) => Reply::refused(format!("not reloaded, the old one stays in force:\n{why}")),
    }
}

/// Called now and then: blocks that have ended are logged.
pub(super) fn tick(state: &State) {
    for block in state.blocks.tick(unix_seconds()) {
        let what = name(&block.key_store, block.key.as_deref());
        let ended = record::Block { who: "its time is over", ..audited(&block, None) };
        state.audit.record(&Record::Unblock(ended));
        state.log.event(Level::Warn, format!("{what} is no longer blocked: its time is over"));
    }
}

/// A block for something that is not there would give false comfort.
fn known(state: &State, target: &Target) -> Result<(), String> {
    let config = state.config.load();
    let Some(store) = config.keystores.iter().find(|s| s.path_prefix == target.key_store) else {
        let all: Vec<String> =
            config.keystores.iter().map(|s| format!("{:?}", s.path_prefix)).collect();
        let (wanted, all) = (&target.key_store, all.join(", "));
        return Err(format!("no key store has the path_prefix {wanted:?}; there is: {all}"));
    };
    match &target.key {
        Some(id) if !store.keys.iter().any(|key| key.id == *id) => {
            Err(format!("key store {:?} has no key {id:?}", store.path_prefix))
        }
        _ => Ok(()),
    }
}

fn refuse_reason(reason: &str) -> Result<(), String> {
    if reason.trim().is_empty() || reason.len() > BLOCK_REASON_BYTES_MAX {
        return Err(format!("a reason of 1 to {BLOCK_REASON_BYTES_MAX} bytes is needed"));
    }
    Ok(())
}

fn audited<'a>(block: &'a Block, until: Option<&'a str>) -> record::Block<'a> {
    let Block { key_store, key, reason, who, .. } = block;
    record::Block { key_store, key: key.as_deref(), reason, who, until }
}

fn end(block: &Block) -> String {
    end_of(block).map_or_else(String::new, |until| format!(" until {until}"))
}
