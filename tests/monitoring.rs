//! What watches xksd from outside: alert rules and the dashboard agree with the metrics and with
//! docs/operations.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use xksd::telemetry::names::{self, Kind};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// The metrics that a PromQL expression names; panics at one that xksd does not show.
fn metrics(expression: &str) -> BTreeSet<&'static str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let words = words.filter(|word| word.starts_with("xksd_") || word.starts_with("process_"));
    words
        .map(|word| {
            let found = names::ALL.iter().find(|metric| match metric.kind {
                Kind::Histogram => ["_bucket", "_sum", "_count"]
                    .iter()
                    .any(|suffix| word.strip_suffix(suffix) == Some(metric.name)),
                Kind::Counter | Kind::Gauge => word == metric.name,
            });
            found.unwrap_or_else(|| panic!("there is no metric {word}: {expression}")).name
        })
        .collect()
}

/// A rule as it stands in the file, without the blanks that YAML ignores.
struct Rule {
    expression: String,
    runbook: String,
}

fn rules() -> BTreeMap<String, Rule> {
    let text = read("deploy/prometheus/rules.yml");
    let mut rules = BTreeMap::new();
    for rule in text.split("- alert: ").skip(1) {
        let (name, rest) = rule.split_once('\n').expect("lines");
        let (_, expression) = rest.split_once("expr:").expect("an expression");
        let ends = ["\n        for:", "\n        labels:"];
        let end = ends.iter().filter_map(|end| expression.find(end)).min().expect("labels");
        let expression = expression[..end].replace(">-", "");
        let (_, runbook) = rest.split_once("runbook: ").expect("a runbook");
        let runbook = runbook.lines().next().expect("a line").to_owned();
        let rule = Rule { expression: squeeze(&expression), runbook };
        assert!(rules.insert(name.to_owned(), rule).is_none(), "twice: {name}");
    }
    rules
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect()
}

#[test]
fn alarms_of_the_document_and_rules_are_the_same() {
    let document = read("docs/operations.md");
    let (_, section) = document.split_once("### Alarms on xksd\n").expect("a section");
    let section = section.split("\n### ").next().expect("a section");
    let documented: BTreeMap<String, String> = section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"))
        .map(|(name, rest)| {
            let condition = rest.split('`').next().expect("a condition");
            (name.to_owned(), squeeze(&condition.replace("\\|", "|")))
        })
        .collect();
    let rules: BTreeMap<String, String> =
        rules().into_iter().map(|(name, rule)| (name, rule.expression)).collect();
    assert_eq!(documented, rules);
    for (name, expression) in rules {
        assert!(name == "XksdDown" || !metrics(&expression).is_empty(), "{name}: {expression}");
    }
}

/// Every metric that docs/metrics.md calls an alarm has a rule, and the reverse.
#[test]
fn metrics_that_are_alarms_have_rules() {
    let document = read("docs/metrics.md");
    let rows = document.lines().filter(|row| row.contains("**Alarm**"));
    let alarms: BTreeSet<&str> =
        rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
    let rules = rules();
    let ruled: BTreeSet<&str> = rules.values().flat_map(|rule| metrics(&rule.expression)).collect();
    assert_eq!(alarms, ruled);
}

#[test]
fn runbooks_are_sections_that_exist() {
    for (name, rule) in rules() {
        let (file, anchor) = rule.runbook.split_once('#').unwrap_or((&rule.runbook, ""));
        let text = read(file);
        let mut headings = text.lines().filter(|line| line.starts_with('#')).map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
            title.replace(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'), "")
        });
        let has = anchor.is_empty() || headings.any(|heading| heading == anchor);
        assert!(has, "{name}: {}", rule.runbook);
    }
}

#[test]
fn the_dashboard_shows_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/xksd.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.len() > 10);
    for panel in panels {
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("text");
            assert!(!metrics(expression).is_empty(), "{}: {expression}", panel["title"]);
        }
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    for arguments in [["check", "rules", "rules.yml"], ["test", "rules", "rules.test.yml"]] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus"))
            .output()
            .expect("promtool, which scripts/install-deps test installs");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    }
}
