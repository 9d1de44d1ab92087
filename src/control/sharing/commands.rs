//! What operators ask of the fleet, at the control socket of any instance.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::files;
use crate::control::blocks;
use crate::control::fleet::documents::block_list;
use crate::control::fleet::{Fleet, Joined, Way};
use crate::control::instance::summary;
use crate::control::state::State;
use crate::fleet::document::{BLOCKS, file_of, is_name, of_file};
use crate::fleet::status::{Member, Status};
use crate::fleet::{Content, Document};
use crate::limits::{FLEET_CONFIRM_INTERVAL, FLEET_CONFIRM_TIME_MAX, FLEET_FILE_NAME_BYTES_MAX};
use crate::policy::blocklist::{Block, BlockList};
use crate::telemetry::Level;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fleet", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// All that is known of it.
    Status {},
    /// Give a file to all instances.
    Put {
        /// Its name.
        name: String,
        /// Base64.
        content: String,
    },
    /// What a file holds.
    Get {
        /// Its name.
        name: String,
    },
    /// The files.
    List {},
    /// Take a file from all instances.
    Remove {
        /// Its name.
        name: String,
    },
    /// An instance that is away does not come back.
    Forget {
        /// Its name.
        name: String,
    },
}

/// What became of it.
pub struct Told {
    /// False: some instance has not confirmed.
    pub ok: bool,
    /// For a person.
    pub message: String,
    /// For a program.
    pub data: Value,
}

impl Told {
    fn done(message: String, data: Value) -> Told {
        Told { ok: true, message, data }
    }
}

/// Does what is asked, on behalf of `who`.
pub fn run(state: &Arc<State>, request: Request, who: &str) -> Result<Told, String> {
    let fleet = fleet(state)?;
    match request {
        Request::Status {} => {
            let status = serde_json::to_value(status(state, fleet)).unwrap_or_default();
            Ok(Told::done(String::new(), status))
        }
        Request::Put { name, content } => put(state, fleet, &name, &content, who),
        Request::Get { name } => get(joined(fleet)?, &name),
        Request::List {} => Ok(list(joined(fleet)?)),
        Request::Remove { name } => remove(state, fleet, &name, who),
        Request::Forget { name } => forget(state, fleet, &name, who),
    }
}

fn fleet(state: &State) -> Result<&Fleet, String> {
    state.fleet.get().map(|fleet| &**fleet).ok_or_else(|| {
        "this instance has no [fleet] in its configuration: docs/fleet.md".to_owned()
    })
}

fn joined(fleet: &Fleet) -> Result<&Joined, String> {
    fleet.joined().ok_or_else(|| {
        "this fleet has peers and no etcd, which would carry it. Bring files and `enabled = false` \
         to all instances with your configuration management"
            .to_owned()
    })
}

/// All that is known of the fleet: from etcd, or by asking the others.
fn status(state: &State, fleet: &Fleet) -> Status {
    let asked = fleet.name.clone();
    match &fleet.way {
        Way::Etcd(_) => known(fleet).unwrap_or_default(),
        Way::Peers(peers) => {
            let mut members = peers.ask();
            members.push(Member {
                name: asked.clone(),
                summary: Some(summary(state)),
                present: true,
                age_ms: Some(0),
                clock_ms: Some(0),
                problem: None,
            });
            members.sort_by(|a, b| a.name.cmp(&b.name));
            let connected = members.iter().all(|member| member.present);
            Status { by: "peers".into(), asked, connected, members, ..Status::default() }
        }
    }
}

/// What is known without asking; `None` where others would have to be asked.
pub fn known(fleet: &Fleet) -> Option<Status> {
    let joined = fleet.joined()?;
    let connection = joined.members.connection();
    Some(Status {
        by: "etcd".into(),
        asked: fleet.name.clone(),
        connected: connection.connected,
        age_seconds: connection.age.map(|age| age.as_secs_f64()),
        problem: connection.problem,
        members: joined.members.all(),
        documents: joined.documents.applied(),
        refused: joined.members.all_refused(),
    })
}

/// Blocks on all instances; in force here when this returns.
///
/// # Errors
/// When it could not be written: then it is in force nowhere.
pub fn block(state: &State, block: &Block) -> Result<Told, String> {
    let fleet = fleet(state)?;
    let joined = joined(fleet)?;
    let document = joined.change(BLOCKS, |content| {
        let list = block_list(content)?;
        let list = list.with(block.clone(), block.since);
        let list = list.map_err(|_| "the block list of the fleet is full: block the key store")?;
        Ok(content_of(&list, block.since))
    })?;
    Ok(confirmed(fleet, joined, BLOCKS, &document))
}

/// Takes a block from all instances.
///
/// # Errors
/// When there is no such block in the fleet, or it could not be written.
pub fn unblock(state: &State, key_store: &str, key: Option<&str>) -> Result<Told, String> {
    let fleet = fleet(state)?;
    let joined = joined(fleet)?;
    let now = blocks::unix_seconds();
    let document = joined.change(BLOCKS, |content| {
        let list = block_list(content)?.without(key_store, key, now);
        Ok(content_of(&list.ok_or("it is not blocked in the fleet")?, now))
    })?;
    Ok(confirmed(fleet, joined, BLOCKS, &document))
}

fn content_of(list: &BlockList, now: i64) -> Content {
    Content::Present(Zeroizing::new(blocks::text(list.active(now))))
}

fn put(
    state: &Arc<State>,
    fleet: &Fleet,
    name: &str,
    content: &str,
    who: &str,
) -> Result<Told, String> {
    let joined = joined(fleet)?;
    refuse_name(name)?;
    let bytes = STANDARD.decode(content).map_err(|_| "the content is not base64")?;
    let content = Content::Present(Zeroizing::new(bytes));
    let document = joined.change(&of_file(name), |_| Ok(content.clone()))?;
    let path = joined.documents.path_of(name);
    let done = format!("{name} is given to the fleet, as {}", path.display());
    Ok(file_changed(state, fleet, joined, (name, &document), (done, who)))
}

fn remove(state: &Arc<State>, fleet: &Fleet, name: &str, who: &str) -> Result<Told, String> {
    let joined = joined(fleet)?;
    refuse_name(name)?;
    let document = joined.change(&of_file(name), |content| match content {
        Content::Removed => Err(format!("the fleet has no file {name:?}")),
        Content::Present(_) => Ok(Content::Removed),
    })?;
    let done = format!("{name} is taken from the fleet");
    Ok(file_changed(state, fleet, joined, (name, &document), (done, who)))
}

/// Reloads here, and waits for the others.
fn file_changed(
    state: &Arc<State>,
    fleet: &Fleet,
    joined: &Joined,
    (name, document): (&str, &Document),
    (done, who): (String, &str),
) -> Told {
    state.log.event(Level::Warn, format!("fleet: {done}, by {who}"));
    // The thread may have done so, or not yet: what it says is wanted here.
    let reloaded = files::take_over(state, joined, who);
    let told = confirmed(fleet, joined, &of_file(name), document);
    let message = format!("{done}. {}", told.message);
    match reloaded {
        Ok(_) => Told { message, ..told },
        Err(why) => {
            let message =
                format!("{message}\nnot reloaded here, the old one stays in force: {why}");
            Told { ok: false, message, ..told }
        }
    }
}

fn get(joined: &Joined, name: &str) -> Result<Told, String> {
    match joined.documents.get(&of_file(name)).map(|document| document.content) {
        Some(Content::Present(bytes)) => {
            Ok(Told::done(String::new(), json!({ "content": STANDARD.encode(&*bytes) })))
        }
        _ => Err(format!("the fleet has no file {name:?}")),
    }
}

fn list(joined: &Joined) -> Told {
    let mut files = Vec::new();
    for document in joined.documents.names() {
        let held = joined.documents.get(&document);
        let (Some(name), Some(held)) = (file_of(&document), held) else { continue };
        if let Content::Present(bytes) = &held.content {
            let path = joined.documents.path_of(name);
            let (sequence, length) = (held.sequence, bytes.len());
            let file = json!({ "name": name, "bytes": length, "sequence": sequence, "path": path });
            files.push((format!("{name}, {length} bytes, {}\n", path.display()), file));
        }
    }
    let mut message: String = files.iter().map(|(line, _)| line.as_str()).collect();
    if files.is_empty() {
        message.push_str("the fleet has no files\n");
    }
    Told::done(message, files.into_iter().map(|(_, file)| file).collect())
}

fn forget(state: &State, fleet: &Fleet, name: &str, who: &str) -> Result<Told, String> {
    let joined = joined(fleet)?;
    let members = joined.members.all();
    let member = members.iter().find(|member| member.name == name);
    match member {
        None => return Err(format!("the fleet knows no instance {name:?}")),
        Some(member) if member.present => {
            return Err(format!("{name:?} is there: stop it, and it leaves by itself"));
        }
        Some(_) => joined.leave(name)?,
    }
    state.log.event(Level::Warn, format!("fleet: instance {name:?} is forgotten, by {who}"));
    Ok(Told::done(format!("instance {name:?} is forgotten"), Value::Null))
}

fn refuse_name(name: &str) -> Result<(), String> {
    if is_name(name) {
        return Ok(());
    }
    Err(format!(
        "{name:?} cannot be the name of a file: 1 to {FLEET_FILE_NAME_BYTES_MAX} letters, digits, \
         . _ and -, not with a dot in front"
    ))
}

/// Waits until every instance has it in force, and says which have not.
fn confirmed(fleet: &Fleet, joined: &Joined, name: &str, document: &Document) -> Told {
    let end = Instant::now() + FLEET_CONFIRM_TIME_MAX;
    loop {
        let mut members = joined.members.all();
        // Before it has registered itself it may not have read who the others are.
        let is_there = members.iter().any(|member| member.name == fleet.name && member.present);
        members.retain(|member| member.name != fleet.name);
        if !is_there && Instant::now() < end {
            std::thread::sleep(FLEET_CONFIRM_INTERVAL);
            continue;
        }
        if !is_there {
            return unknown(document.sequence);
        }
        let open: Vec<_> = members
            .iter()
            .filter_map(|member| Some((&*member.name, missing(member, name, document.sequence)?)))
            .collect();
        // Who is not there will not confirm.
        let hopeless = members.iter().all(|m| !m.present || confirms(m, name, document.sequence));
        if open.is_empty() {
            let all: Vec<&str> = members.iter().map(|member| &*member.name).collect();
            let data = json!({ "sequence": document.sequence, "confirmed": all, "missing": {} });
            let count = members.len() + 1;
            let s = if count == 1 { " instance has" } else { " instances have" };
            return Told::done(format!("{count}{s} confirmed"), data);
        }
        if hopeless || Instant::now() >= end {
            return unconfirmed(&members, &open, document.sequence);
        }
        std::thread::sleep(FLEET_CONFIRM_INTERVAL);
    }
}

fn unknown(sequence: u64) -> Told {
    let message =
        "it is not known who has confirmed: this instance is not registered in etcd. Run \
                   xksd fleet status on another one"
            .to_owned();
    Told { ok: false, message, data: json!({ "sequence": sequence }) }
}

fn unconfirmed(members: &[Member], open: &[(&str, String)], sequence: u64) -> Told {
    let is_open = |name: &str| open.iter().any(|(other, _)| *other == name);
    let confirmed: Vec<&str> =
        members.iter().map(|member| &*member.name).filter(|name| !is_open(name)).collect();
    let missing: serde_json::Map<String, Value> =
        open.iter().map(|(name, why)| ((*name).to_owned(), json!(why))).collect();
    let mut message =
        format!("{} of {} instances have confirmed", confirmed.len() + 1, members.len() + 1);
    for (name, why) in open {
        message.push_str(&format!("\nNOT CONFIRMED: {name}: {why}"));
    }
    let data = json!({ "sequence": sequence, "confirmed": confirmed, "missing": missing });
    Told { ok: false, message, data }
}

fn confirms(member: &Member, name: &str, sequence: u64) -> bool {
    let summary = member.summary.as_ref();
    summary.and_then(|summary| summary.documents.get(name)).is_some_and(|has| *has >= sequence)
}

/// Why an instance has not confirmed.
fn missing(member: &Member, name: &str, sequence: u64) -> Option<String> {
    if !member.present {
        let age = member.age_ms.map_or("it was never heard".to_owned(), |age| {
            format!("it was heard {} s ago", age / 1_000)
        });
        return Some(format!(
            "it is not there, {age}; it takes this over before it is ready again. If it does not \
             come back: xksd fleet forget {}",
            member.name
        ));
    }
    if confirms(member, name, sequence) {
        let summary = member.summary.as_ref()?;
        let refused = summary.reload_refused.as_ref().filter(|_| file_of(name).is_some());
        return refused.map(|why| format!("it has the file, and its reload was refused: {why}"));
    }
    let why = member.summary.as_ref().and_then(|summary| summary.not_applied.get(name));
    Some(why.cloned().unwrap_or_else(|| "no answer in time".to_owned()))
}
