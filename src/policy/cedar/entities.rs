//! Files of entities: which principals and keys are in which groups.
//!
//! The form is Cedar's JSON. Attributes are not taken from a file: what a request says of its
//! principal decides.

use std::collections::{HashMap, HashSet};

use cedar_policy::EntityUid;
use serde::Deserialize;

use super::Source;
use super::principal::Principal;
use super::problem::Problem;
use super::schema::{types, uid};

/// Members by their id, with their groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) principals: HashMap<String, HashSet<EntityUid>>,
    pub(super) keys: HashMap<String, HashSet<EntityUid>>,
    /// Every group that is named.
    pub(super) known: HashSet<EntityUid>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    uid: Uid,
    #[serde(default)]
    attrs: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    parents: Vec<Uid>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Uid {
    r#type: String,
    id: String,
}

/// Reads all files; problems go to `problems`.
pub(super) fn read(files: &[Source], problems: &mut Vec<Problem>) -> Groups {
    let mut groups = Groups::default();
    for file in files {
        let mut refuse = |line, message| {
            let file = file.name.clone();
            problems.push(Problem { file, line, policy: None, message });
        };
        match serde_json::from_str::<Vec<Listed>>(&file.text) {
            Err(error) => refuse(Some(error.line()), error.to_string()),
            Ok(listed) => {
                for entity in listed {
                    let name = format!("{}::{:?}", entity.uid.r#type, entity.uid.id);
                    if let Err(why) = add(&mut groups, entity) {
                        refuse(None, format!("{name}: {why}"));
                    }
                }
            }
        }
    }
    groups
}

fn add(groups: &mut Groups, entity: Listed) -> Result<(), String> {
    let Uid { r#type, id } = entity.uid;
    if !entity.attrs.is_empty() {
        return Err("attributes come from the request; leave attrs empty".to_owned());
    }
    let (members, group) = match r#type.as_str() {
        "XKS::Principal" if Principal::parse(&id).is_none() => {
            return Err("this is no principal's ARN that AWS KMS sends".to_owned());
        }
        "XKS::Principal" => (&mut groups.principals, &types::PRINCIPAL_GROUP),
        "XKS::Key" => (&mut groups.keys, &types::KEY_GROUP),
        "XKS::PrincipalGroup" | "XKS::KeyGroup" if !entity.parents.is_empty() => {
            return Err("a group cannot be in another".to_owned());
        }
        "XKS::PrincipalGroup" => {
            groups.known.insert(uid(&types::PRINCIPAL_GROUP, &id));
            return Ok(());
        }
        "XKS::KeyGroup" => {
            groups.known.insert(uid(&types::KEY_GROUP, &id));
            return Ok(());
        }
        _ => {
            let known = "XKS::Principal, XKS::PrincipalGroup, XKS::Key and XKS::KeyGroup";
            return Err(format!("only {known} can stand here"));
        }
    };
    let mut parents = HashSet::new();
    for parent in entity.parents {
        if parent.r#type != group.to_string() {
            return Err(format!("its parents are of the type {}, not {}", **group, parent.r#type));
        }
        parents.insert(uid(group, &parent.id));
    }
    groups.known.extend(parents.iter().cloned());
    match members.insert(id, parents) {
        Some(_) => Err("stands here twice".to_owned()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(text: &str) -> (Groups, Vec<String>) {
        let mut problems = Vec::new();
        let groups = read(&[Source { name: "e.json".into(), text: text.into() }], &mut problems);
        (groups, problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn groups_are_read() {
        let (groups, problems) = read_one(
            r#"[
                {"uid": {"type": "XKS::Principal", "id": "arn:aws:iam::111122223333:role/A"},
                 "attrs": {}, "parents": [{"type": "XKS::PrincipalGroup", "id": "ops"}]},
                {"uid": {"type": "XKS::Key", "id": "foo"},
                 "parents": [{"type": "XKS::KeyGroup", "id": "payments"}]},
                {"uid": {"type": "XKS::KeyGroup", "id": "empty"}}
            ]"#,
        );
        assert_eq!(problems, [""; 0]);
        let (ops, payments) =
            (uid(&types::PRINCIPAL_GROUP, "ops"), uid(&types::KEY_GROUP, "payments"));
        assert!(groups.principals["arn:aws:iam::111122223333:role/A"].contains(&ops));
        assert!(groups.keys["foo"].contains(&payments));
        assert_eq!(groups.known.len(), 3);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("[\n{]", "e.json:2: "),
            (r#"[{"uid": {"type": "XKS::Role", "id": "a"}}]"#, "XKS::Role::\"a\": only XKS::P"),
            (
                r#"[{"uid": {"type": "XKS::Principal", "id": "a"}}]"#,
                "XKS::Principal::\"a\": this is no principal's ARN",
            ),
            (
                r#"[{"uid": {"type": "XKS::Key", "id": "a"}, "attrs": {"b": 1}}]"#,
                "attributes come from the request",
            ),
            (
                r#"[{"uid": {"type": "XKS::Key", "id": "a"},
                     "parents": [{"type": "XKS::PrincipalGroup", "id": "b"}]}]"#,
                "its parents are of the type XKS::KeyGroup, not XKS::PrincipalGroup",
            ),
            (
                r#"[{"uid": {"type": "XKS::KeyGroup", "id": "a"},
                     "parents": [{"type": "XKS::KeyGroup", "id": "b"}]}]"#,
                "a group cannot be in another",
            ),
            (
                r#"[{"uid": {"type": "XKS::Key", "id": "a"}},
                    {"uid": {"type": "XKS::Key", "id": "a"}}]"#,
                "stands here twice",
            ),
            (r#"[{"uid": {"type": "XKS::Key", "id": "a"}, "tags": {}}]"#, "unknown field `tags`"),
        ] {
            let problems = read_one(text).1;
            assert!(problems.len() == 1 && problems[0].contains(why), "{text}: {problems:?}");
        }
    }
}
