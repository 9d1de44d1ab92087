//! Policies out of their texts: read, validated, and sorted by what they can apply to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cedar_policy::{
    ActionConstraint, Effect, Entity, EntityUid, Policy, PolicyId, PolicySet, ResourceConstraint,
    ValidationMode, Validator,
};

use super::entities::{self, Groups};
use super::nesting;
use super::problem::{Problem, line_of, place, words};
use super::schema::{Action, PARSED, types, uid};
use super::time::depends_on_time;
use super::{KeyPolicies, Listed, Policies, Slice, Source};
use crate::limits::{POLICIES_FOR_A_KEY_WARNING, POLICIES_MAX, POLICY_ID_CHARS_MAX};

/// The files of one key store's policies, and what they are for.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// Files of policies.
    pub policies: &'a [Source],
    /// Files of entities.
    pub entities: &'a [Source],
    /// Path prefix.
    pub key_store: &'a str,
    /// External key ids.
    pub keys: &'a [&'a str],
}

/// Policies that are right, and what is probably not meant in them.
pub type Loaded = (Policies, Vec<Problem>);

/// Reads and validates policies.
///
/// # Errors
/// Everything that is wrong.
pub fn load(sources: &Sources<'_>) -> Result<Loaded, Vec<Problem>> {
    let (mut problems, mut warnings) = (Vec::new(), Vec::new());
    let groups = entities::read(sources.entities, &mut problems);
    let mut policies: Vec<Policy> = Vec::new();
    let mut ids = HashSet::new();
    for file in sources.policies {
        let read = read(file, &mut ids, &mut problems);
        validate(file, &read, &mut problems, &mut warnings);
        warn_of_strangers(file, &read, sources, &groups, &mut warnings);
        policies.extend(read);
    }
    let in_first = |message: String| {
        let file = sources.policies.first().map(|file| file.name.clone()).unwrap_or_default();
        Problem { file, line: None, policy: None, message }
    };
    if policies.len() > POLICIES_MAX {
        problems.push(in_first(format!(
            "{} policies are too many for a key store: {POLICIES_MAX} at most",
            policies.len()
        )));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    if !policies.iter().any(|policy| policy.effect() == Effect::Permit) {
        warnings.push(in_first("no policy permits anything: every request is denied".to_owned()));
    }
    let sorted = sorted(sources, &policies, groups);
    warnings.extend(many(&sorted).map(in_first));
    Ok((sorted, warnings))
}

/// Warns where many policies are asked for one request.
fn many(policies: &Policies) -> Option<String> {
    let slices = policies.keys.iter().flat_map(|(key, of_key)| {
        let sizes = of_key.slices.iter().map(|slice| slice.policies.num_of_policies());
        sizes.zip(Action::ALL).rev().map(move |(size, action)| (size, key, action))
    });
    let (size, key, action) = slices.max_by(|a, b| (a.0, b.1).cmp(&(b.0, a.1)))?;
    (size > POLICIES_FOR_A_KEY_WARNING).then(|| {
        format!(
            "{size} policies can apply to {} with key {key:?}: a decision takes long, and others \
             wait for it. Name resources and actions in their scope, or use patterns and groups",
            action.as_str()
        )
    })
}

/// The policies of a file under the names that they give themselves.
fn read(file: &Source, ids: &mut HashSet<String>, problems: &mut Vec<Problem>) -> Vec<Policy> {
    let mut refuse = |byte: Option<usize>, policy: Option<&str>, message: String| {
        let line = byte.map(|byte| line_of(&file.text, byte));
        let (file, policy) = (file.name.clone(), policy.map(str::to_owned));
        problems.push(Problem { file, line, policy, message });
    };
    // Cedar's reader calls itself for each level, and its stack has an end.
    if let Some((byte, why)) = nesting::too_deep(&file.text) {
        refuse(Some(byte), None, why);
        return Vec::new();
    }
    let set: PolicySet = match file.text.parse() {
        Ok(set) => set,
        Err(errors) => {
            let errors: cedar_policy::ParseErrors = errors;
            errors.iter().for_each(|error| refuse(place(error), None, words(error)));
            return Vec::new();
        }
    };
    for template in set.templates() {
        let at = template.as_ref().loc().map(|loc| loc.start());
        refuse(at, template.annotation("id"), "templates are not used: name what is meant".into());
    }
    let mut read: Vec<(Option<usize>, &Policy)> = set
        .policies()
        .map(|policy| (policy.as_ref().loc().map(|loc| loc.start()), policy))
        .collect();
    read.sort_by_key(|(at, _)| *at);
    let named = read.into_iter().filter_map(|(at, policy)| match policy.annotation("id") {
        None => {
            let what = "a policy without @id(\"…\"): the log tells by it what decided";
            refuse(at, None, what.to_owned());
            None
        }
        Some(id) if !is_id(id) => {
            let form = format!("1 to {POLICY_ID_CHARS_MAX} of A-Z a-z 0-9 . _ : / -");
            refuse(at, Some(id), format!("an @id has {form}"));
            None
        }
        Some(id) if !ids.insert(id.to_owned()) => {
            refuse(at, Some(id), "another policy of this key store has this @id".to_owned());
            None
        }
        Some(id) => Some(policy.new_id(PolicyId::new(id))),
    });
    named.collect()
}

fn is_id(text: &str) -> bool {
    (1..=POLICY_ID_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/-".contains(&b))
}

/// Against the schema, strictly: what passes cannot fail for its types when it is evaluated.
fn validate(
    file: &Source,
    policies: &[Policy],
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Problem>,
) {
    let Ok(set) = PolicySet::from_policies(policies.iter().cloned()) else { return };
    let result = Validator::new(PARSED.clone()).validate(&set, ValidationMode::Strict);
    let problem = |id: &PolicyId, error: &dyn miette::Diagnostic| {
        let of_policy = || set.policy(id)?.as_ref().loc().map(|loc| loc.start());
        let line = place(error).or_else(of_policy).map(|byte| line_of(&file.text, byte));
        let policy = Some(AsRef::<str>::as_ref(id).to_owned());
        Problem { file: file.name.clone(), line, policy, message: words(error) }
    };
    problems.extend(result.validation_errors().map(|error| problem(error.policy_id(), error)));
    warnings.extend(result.validation_warnings().map(|error| problem(error.policy_id(), error)));
}

/// Warns of keys and groups that are not there: a policy that forbids something to a misspelled
/// key forbids nothing.
fn warn_of_strangers(
    file: &Source,
    policies: &[Policy],
    sources: &Sources<'_>,
    groups: &Groups,
    warnings: &mut Vec<Problem>,
) {
    for policy in policies {
        for named in policy.entity_literals() {
            let (kind, id) = (named.type_name(), named.id().unescaped());
            let missing = if *kind == *types::KEY {
                !sources.keys.contains(&id)
            } else if *kind == *types::KEY_STORE {
                id != sources.key_store
            } else {
                (*kind == *types::KEY_GROUP || *kind == *types::PRINCIPAL_GROUP)
                    && !groups.known.contains(&named)
            };
            if missing {
                let line = policy.as_ref().loc().map(|loc| line_of(&file.text, loc.start()));
                let id: &str = policy.id().as_ref();
                let message = format!("names {named}, which this key store does not have");
                let (file, policy) = (file.name.clone(), Some(id.to_owned()));
                warnings.push(Problem { file, line, policy, message });
            }
        }
    }
}

/// For each key and action those that can apply: what is evaluated for a request must not grow with
/// the policies of other keys.
fn sorted(sources: &Sources<'_>, policies: &[Policy], groups: Groups) -> Policies {
    let constraints: Vec<_> =
        policies.iter().map(|p| (p.action_constraint(), p.resource_constraint())).collect();
    let times: Vec<bool> = policies.iter().map(depends_on_time).collect();
    let mut slices: HashMap<Vec<usize>, Arc<Slice>> = HashMap::new();
    let key_store = uid(&types::KEY_STORE, sources.key_store);
    let actions = Action::ALL.map(Action::uid);
    let mut keys = HashMap::new();
    for key in sources.keys {
        let mut parents = groups.keys.get(*key).cloned().unwrap_or_default();
        parents.insert(key_store.clone());
        let resource = uid(&types::KEY, key);
        let slices = actions.each_ref().map(|action| {
            let applies = |(by_action, by_resource): &(ActionConstraint, ResourceConstraint)| {
                action_fits(by_action, action) && resource_fits(by_resource, &resource, &parents)
            };
            let which: Vec<usize> =
                (0..policies.len()).filter(|&index| applies(&constraints[index])).collect();
            let slice = |which: &Vec<usize>| {
                let chosen = which.iter().map(|&index| policies[index].clone());
                // Their ids are distinct, or they had been refused.
                let policies = PolicySet::from_policies(chosen).unwrap_or_default();
                let by_time = which.iter().any(|&index| times[index]);
                Arc::new(Slice { policies, by_time })
            };
            slices.entry(which.clone()).or_insert_with(|| slice(&which)).clone()
        });
        let entity = Entity::new_no_attrs(resource, parents);
        keys.insert((*key).to_owned(), KeyPolicies { entity, slices });
    }
    let listed = policies.iter().map(|policy| Listed {
        id: AsRef::<str>::as_ref(policy.id()).to_owned(),
        forbids: policy.effect() == Effect::Forbid,
    });
    let listed = listed.collect();
    let key_store = sources.key_store.into();
    Policies { key_store, keys, principals: groups.principals, listed }
}

fn action_fits(constraint: &ActionConstraint, action: &EntityUid) -> bool {
    match constraint {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(one) => one == action,
        // The schema has no groups of actions.
        ActionConstraint::In(some) => some.contains(action),
    }
}

fn resource_fits(
    constraint: &ResourceConstraint,
    key: &EntityUid,
    parents: &HashSet<EntityUid>,
) -> bool {
    let is_in = |one: &EntityUid| one == key || parents.contains(one);
    match constraint {
        ResourceConstraint::Any => true,
        ResourceConstraint::Eq(one) => one == key,
        ResourceConstraint::In(one) => is_in(one),
        ResourceConstraint::Is(kind) => kind == key.type_name(),
        ResourceConstraint::IsIn(kind, one) => kind == key.type_name() && is_in(one),
    }
}
