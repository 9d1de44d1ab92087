//! `docs/configuration.md` has every key of the tables and no other, with how a change comes into
//! force.

use std::collections::BTreeSet;

use crate::config::keys;
use crate::config::table::InForce;

const PAGE: &str = include_str!("../../../docs/configuration.md");

#[test]
fn the_page_has_every_key_and_no_other() {
    let expected: BTreeSet<String> = keys::all()
        .into_iter()
        .map(|(path, in_force)| {
            let word = match in_force {
                InForce::Reload => "reload",
                InForce::Start => "restart",
            };
            format!("{path} {word}")
        })
        .collect();
    // `### `key``, and the next line that is not empty: `type · default · reload`. Sections that
    // have a heading of the second level say it in a sentence: `server`: section · … · reload.
    let mut found = BTreeSet::new();
    let mut key = None;
    for line in PAGE.lines().filter(|line| !line.is_empty()) {
        if let Some(key) = key.take() {
            let word = line.rsplit(" · ").next().unwrap_or_default();
            found.insert(format!("{key} {word}"));
        }
        key = line.strip_prefix("### `").and_then(|rest| rest.strip_suffix('`'));
        if let Some((before, after)) = line.split_once("`: ")
            && after.contains(" · ")
            && let Some((_, section)) = before.rsplit_once('`')
        {
            let word = line.rsplit(" · ").next().unwrap_or_default();
            found.insert(format!("{section} {word}"));
        }
    }
    assert_eq!(found, expected);
}
