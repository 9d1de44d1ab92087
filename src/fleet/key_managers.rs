//! The key managers of a fleet: what each instance says of its own, and what AWS KMS is shown of
//! the others'.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::limits::{
    EKM_FLEET_MAX, FLEET_KEY_MANAGER_TEXT_CHARS_MAX, FLEET_KEY_MANAGERS_MAX, FLEET_KEY_STORES_MAX,
    KEY_MANAGER_NAME_CHARS_MAX,
};

/// A key manager, as the instance says that has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyManager {
    /// Name in its configuration.
    pub name: String,
    /// Which HSM it is: model, token and serial number. Empty where it was never reached.
    pub hsm: String,
    /// The same with its versions, as AWS KMS is shown it.
    pub model: String,
    /// As that instance sees it.
    pub health: Health,
    /// Path prefixes of the key stores that it serves.
    pub key_stores: Vec<String>,
}

/// How a key manager does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All is well.
    Active,
    /// It serves, and not as it should.
    Degraded,
    /// It does not serve, or says what this xksd does not know.
    #[default]
    #[serde(other)]
    Unavailable,
}

/// A key manager that another instance has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Name in that instance's configuration.
    pub name: String,
    /// The same with the instance's: unique also where several have the name.
    pub qualified_name: String,
    /// Which HSM it is; empty where nobody knows.
    pub hsm: String,
    /// The same with its versions.
    pub model: String,
    /// As the others see it.
    pub health: Health,
}

/// Key managers of the others, by the path prefix of the key store.
pub type Others = HashMap<String, Vec<Other>>;

/// Whether a key manager can have this name.
pub fn is_name(name: &str) -> bool {
    (1..=KEY_MANAGER_NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Whether these are one HSM: of one name, and nothing says that they are two.
pub fn is_same((name, hsm): (&str, &str), (other_name, other_hsm): (&str, &str)) -> bool {
    name == other_name && (hsm == other_hsm || hsm.is_empty() || other_hsm.is_empty())
}

/// What these instances have, for the key stores that are served here: of each HSM one, of each key
/// store as many as AWS KMS is shown.
///
/// Of peers nobody has sealed what they say: what is too long or too much is left out, and so is
/// what no configuration can say.
pub fn of_others<'a>(
    instances: impl Iterator<Item = (&'a str, &'a [KeyManager])>,
    is_served: impl Fn(&str) -> bool,
) -> Others {
    let mut others = Others::new();
    for (instance, said) in instances {
        for said in said.iter().take(FLEET_KEY_MANAGERS_MAX) {
            if !is_name(&said.name) {
                continue;
            }
            let stores = said.key_stores.iter().take(FLEET_KEY_STORES_MAX);
            for key_store in stores.filter(|key_store| is_served(key_store)) {
                add(others.entry(key_store.clone()).or_default(), instance, said);
            }
        }
    }
    others
}

fn add(seen: &mut Vec<Other>, instance: &str, said: &KeyManager) {
    let bounded = |text: &str| text.chars().take(FLEET_KEY_MANAGER_TEXT_CHARS_MAX).collect();
    let (name, hsm): (_, String) = (&said.name, bounded(&said.hsm));
    let same = seen.iter_mut().find(|seen| is_same((&seen.name, &seen.hsm), (name, &hsm)));
    if let Some(same) = same {
        if same.health != said.health {
            // Some reach it and others do not: it can serve.
            same.health = Health::Degraded;
        }
        if same.hsm.is_empty() {
            (same.hsm, same.model) = (hsm, bounded(&said.model));
        }
        return;
    }
    // No instance has two of one name.
    let qualified_name = format!("{name}@{instance}");
    let is_taken = seen.iter().any(|seen| seen.qualified_name == qualified_name);
    if seen.len() < EKM_FLEET_MAX && !is_taken {
        seen.push(Other {
            name: name.clone(),
            qualified_name,
            model: bounded(&said.model),
            hsm,
            health: said.health,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, hsm: &str, health: Health, key_stores: &[&str]) -> KeyManager {
        KeyManager {
            name: name.into(),
            hsm: hsm.into(),
            model: format!("{hsm}, firmware 7"),
            health,
            key_stores: key_stores.iter().map(|store| (*store).to_owned()).collect(),
        }
    }

    fn others(all: &[(&str, Vec<KeyManager>)]) -> Others {
        let all = all.iter().map(|(name, said)| (*name, &said[..]));
        of_others(all, |store| store.starts_with("/s"))
    }

    fn shown(others: &Others, key_store: &str) -> Vec<String> {
        let all = others.get(key_store).map_or(&[][..], Vec::as_slice);
        all.iter().map(|other| format!("{} {:?}", other.qualified_name, other.health)).collect()
    }

    #[test]
    fn each_hsm_is_there_once_and_two_of_one_name_are_two() {
        use Health::{Active, Degraded, Unavailable};
        let seen = others(&[
            ("b", vec![of("x", "Luna, 1", Active, &["/s"]), of("y", "Luna, 2", Active, &["/s"])]),
            ("c", vec![of("x", "Luna, 1", Active, &["/s"]), of("y", "Luna, 3", Degraded, &["/s"])]),
            ("d", vec![of("x", "", Unavailable, &["/s"]), of("y", "Luna, 2", Active, &["/s"])]),
        ]);
        assert_eq!(shown(&seen, "/s"), ["x@b Degraded", "y@b Active", "y@c Degraded"]);
        assert_eq!(seen["/s"][0].model, "Luna, 1, firmware 7");
        let seen = others(&[
            ("b", vec![of("x", "", Unavailable, &["/s"])]),
            ("c", vec![of("x", "1", Unavailable, &["/s"])]),
        ]);
        assert_eq!(shown(&seen, "/s"), ["x@b Unavailable"]);
        assert_eq!(seen["/s"][0].model, "1, firmware 7", "who knows says which it is");
    }

    #[test]
    fn a_key_store_has_its_own_and_as_many_as_are_shown() {
        let many = |count: usize| {
            let one = |at| of(&format!("m{at}"), "h", Health::Active, &["/s"]);
            (0..count).map(one).collect::<Vec<_>>()
        };
        let one = of("x", "h", Health::Active, &["/s2", "/elsewhere"]);
        let seen = others(&[("b", [many(EKM_FLEET_MAX), vec![one]].concat())]);
        assert_eq!(seen["/s"].len(), EKM_FLEET_MAX);
        assert_eq!((shown(&seen, "/s2"), seen.len()), (vec!["x@b Active".to_owned()], 2));
        let seen = others(&[("b", many(EKM_FLEET_MAX)), ("c", many(EKM_FLEET_MAX + 1))]);
        assert_eq!(seen["/s"].len(), EKM_FLEET_MAX);
    }

    #[test]
    fn what_is_too_long_or_too_much_is_left_out() {
        let long = "x".repeat(KEY_MANAGER_NAME_CHARS_MAX);
        let text = "ä".repeat(FLEET_KEY_MANAGER_TEXT_CHARS_MAX + 1);
        let managers = vec![
            of("", "h", Health::Active, &["/s"]),
            of("x\u{202e}y", "h", Health::Active, &["/s"]),
            of("x@b", "h", Health::Active, &["/s"]),
            of("x\n", "h", Health::Active, &["/s"]),
            of(&format!("{long}x"), "h", Health::Active, &["/s"]),
            of(&long, &text, Health::Active, &["/s"]),
        ];
        let seen = &others(&[("b", managers)])["/s"];
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].model.chars().count(), FLEET_KEY_MANAGER_TEXT_CHARS_MAX);
        let unused = of("m", "h", Health::Active, &[]);
        let behind =
            |count| vec![vec![unused.clone(); count], vec![of("l", "", Health::Active, &["/s"])]];
        let seen = |count| others(&[("b", behind(count).concat())]).len();
        assert_eq!((seen(FLEET_KEY_MANAGERS_MAX - 1), seen(FLEET_KEY_MANAGERS_MAX)), (1, 0));
        let stores = |count| [vec!["/"; count], vec!["/s"]].concat();
        let seen =
            |count| others(&[("b", vec![of("m", "h", Health::Active, &stores(count))])]).len();
        assert_eq!((seen(FLEET_KEY_STORES_MAX - 1), seen(FLEET_KEY_STORES_MAX)), (1, 0));
    }

    #[test]
    fn an_instance_has_one_of_a_name() {
        let twice = || vec!["1", "2"].into_iter().map(|hsm| of("x", hsm, Health::Active, &["/s"]));
        let seen = others(&[("b", twice().collect())]);
        assert_eq!(shown(&seen, "/s"), ["x@b Active"]);
        let one = |hsm| vec![of("x", hsm, Health::Active, &["/s"])];
        let seen = others(&[("b", one("1")), ("b", one("2")), ("c", one("3"))]);
        assert_eq!(shown(&seen, "/s"), ["x@b Active", "x@c Active"], "two instances of one name");
    }

    #[test]
    fn another_version_may_say_more_or_less() {
        let read = |text: &str| serde_json::from_str::<KeyManager>(text).expect("read");
        assert_eq!(read("{\"name\":\"a\",\"health\":\"active\"}").health, Health::Active);
        assert_eq!(read("{\"health\":\"asleep\",\"new\":[1]}").health, Health::Unavailable);
        assert_eq!(serde_json::to_string(&Health::Degraded).expect("text"), "\"degraded\"");
    }
}
