//! `[keystore.policy]`: who may do what with the keys of a key store.

use std::fmt;
use std::sync::Arc;

use super::reader::{Section, Value};
use super::table::{InForce, Said, Setting, names};
use crate::limits::POLICY_FILES_MAX;
use crate::policy::Mode;
use crate::policy::cedar::{self, Policies, Source, Sources};

/// `[keystore.policy]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Policies in Cedar, at least one file, valid together.
    pub files: Vec<Source>,
    /// Groups of principals and keys.
    pub entities: Vec<Source>,
    /// What becomes of a request that they do not permit; `None`: they are not asked.
    pub mode: Option<Mode>,
    /// Whether an error tells the client which policy denied.
    pub ids_in_errors: bool,
    /// Made of the files, once.
    pub compiled: Compiled,
}

/// Policies that are ready to decide. What they are made of is compared, not they.
#[derive(Clone)]
pub struct Compiled(pub Arc<Policies>);

impl PartialEq for Compiled {
    fn eq(&self, _: &Compiled) -> bool {
        true
    }
}

impl Eq for Compiled {}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Compiled")
    }
}

/// The section is said as a whole, by the key store.
pub(super) const KEYS: &[Setting<()>] = &[
    Setting::structure("files", InForce::Reload),
    Setting::structure("entities", InForce::Reload),
    Setting::structure("mode", InForce::Reload),
    Setting::structure("ids_in_errors", InForce::Reload),
];

/// `mode` where policies are not asked.
const OFF: &str = "off";

pub(super) fn policy(value: &Value<'_>, key_store: Option<&str>, keys: &[&str]) -> Option<Policy> {
    let section = value.section(&names(KEYS))?;
    let files = section.must("files", "files of policies, for example [\"policy.cedar\"]", |v| {
        v.one_or_more(source).filter(|files| few(v, files))
    });
    let entities =
        section.or("entities", Vec::new(), |v| v.one_or_more(source).filter(|files| few(v, files)));
    let mode = section.or("mode", Some(Mode::Enforce), mode);
    let ids = section.or("ids_in_errors", false, Value::boolean);
    let (files, entities, mode, ids_in_errors) = (files?, entities?, mode?, ids?);
    let sources = Sources { policies: &files, entities: &entities, key_store: key_store?, keys };
    let compiled = compile(&section, &sources)?;
    Some(Policy { files, entities, mode, ids_in_errors, compiled })
}

fn few(value: &Value<'_>, files: &[Source]) -> bool {
    let few = files.len() <= POLICY_FILES_MAX;
    if !few {
        value.refuse::<()>(format!("{} files at most", POLICY_FILES_MAX));
    }
    few
}

fn source(value: &Value<'_>) -> Option<Source> {
    let (name, path) = (value.string()?, value.watched()?);
    match value.reader.sources.policy_file(&path) {
        Ok(text) => Some(Source { name: name.to_owned(), text }),
        Err(why) => value.refuse(format!("{} {why}", path.display())),
    }
}

fn mode(value: &Value<'_>) -> Option<Option<Mode>> {
    let text = value.string_where("\"enforce\", \"dry-run\" or \"off\" is expected", |text| {
        text == OFF || Mode::parse(text).is_some()
    })?;
    Some(Mode::parse(text))
}

/// Tells what is wrong with the policies at the key that names their file.
fn compile(section: &Section<'_>, sources: &Sources<'_>) -> Option<Compiled> {
    let value_of = |problem: &cedar::Problem| {
        let is_policies = sources.policies.iter().any(|file| file.name == problem.file);
        section.optional(if is_policies { "files" } else { "entities" })
    };
    match cedar::load(sources) {
        Ok((policies, warnings)) => {
            for warning in warnings {
                value_of(&warning).inspect(|value| value.warn(warning.to_string()));
            }
            Some(Compiled(Arc::new(policies)))
        }
        Err(problems) => {
            for problem in problems {
                value_of(&problem).and_then(|value| value.refuse::<()>(problem.to_string()));
            }
            None
        }
    }
}

impl Policy {
    /// `mode` as the configuration spells it.
    pub fn mode_name(&self) -> &'static str {
        self.mode.map_or(OFF, Mode::as_str)
    }

    /// What the policies are read from.
    pub fn sources<'a>(&'a self, key_store: &'a str, keys: &'a [&'a str]) -> Sources<'a> {
        Sources { policies: &self.files, entities: &self.entities, key_store, keys }
    }
}

/// The section in words: with what the files hold, since a change of it is one of the policies.
pub(super) fn said(policy: Option<&Policy>) -> Said<'static> {
    let Some(policy) = policy else { return Said::Nothing };
    let Policy { files, entities, ids_in_errors, .. } = policy;
    let list = |files: &[Source]| {
        let one = |file: &Source| {
            let hash = crate::hex::sha256_hex(file.text.as_bytes());
            format!("{:?} with SHA-256 {hash}", file.name)
        };
        files.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let mut words = vec![format!("mode {}", policy.mode_name()), format!("files {}", list(files))];
    if !entities.is_empty() {
        words.push(format!("entities {}", list(entities)));
    }
    if *ids_in_errors {
        words.push("ids_in_errors".to_owned());
    }
    Said::value(format!("({})", words.join(", ")))
}
