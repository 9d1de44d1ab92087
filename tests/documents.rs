//! The documents: links that lead somewhere, paths that exist, lines and paragraphs of a length
//! that can be read, and none of the phrases that make a sentence hard to understand.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use xksd::telemetry::names::{self, Metric};

/// Characters of a line, but in tables, code and lines that are one link.
const LINE_CHARS_MAX: usize = 100;
/// Words of a paragraph or list item.
const PARAGRAPH_WORDS_MAX: usize = 100;

/// Phrases that we do not use, in lower case. Instead: says, shows, reports; again; only; own.
const PHRASES: &[&str] = &[
    " is told",
    " are told",
    " was told",
    " were told",
    "told as",
    " anew",
    " alone",
    "of its own",
    "believed in",
    "for nothing",
    "neither time",
    "bear it",
    "in its sight",
    "caught lying",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file of the repository with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() {
                // `demo` is what scripts/demo makes.
                if !name.starts_with('.') && name != "target" && name != "demo" {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                let text = fs::read_to_string(&path).expect("a text");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 10, "where are the documents?");
    found.sort();
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Lines with their number that are no code.
fn text_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().zip(1..).filter_map(move |(line, number)| {
        let fence = line.trim_start().starts_with("```");
        is_code ^= fence;
        (!is_code && !fence).then_some((number, line))
    })
}

/// Anchors that GitHub makes of the headings.
fn anchors(text: &str) -> HashSet<String> {
    text_lines(text)
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

/// What stands between each `open` and the next `close`.
fn between<'t>(line: &'t str, open: &str, close: char) -> Vec<&'t str> {
    line.split(open).skip(1).filter_map(|rest| rest.split_once(close)).map(|(it, _)| it).collect()
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for (path, text) in documents() {
        for (number, line) in text_lines(&text) {
            for link in between(line, "](", ')') {
                if link.contains("://") {
                    continue;
                }
                let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = match file {
                    "" => path.clone(),
                    file => path.parent().expect("a folder").join(file),
                };
                let has_anchor = || {
                    anchor.is_empty()
                        || fs::read_to_string(&target)
                            .is_ok_and(|text| anchors(&text).contains(anchor))
                };
                if !target.exists() || !has_anchor() {
                    dead.push(format!("{}:{number}: {link}", shown(&path)));
                }
            }
        }
    }
    assert!(dead.is_empty(), "links to nothing:\n{}", dead.join("\n"));
}

/// A link to a Rust file whose text is code names a test in it.
#[test]
fn tests_that_are_named_exist() {
    let mut missing = Vec::new();
    let mut seen = 0;
    for (path, text) in documents() {
        for (number, line) in text_lines(&text) {
            for link in between(line, "[`", ')') {
                let Some((name, file)) = link.split_once("`](") else { continue };
                let is_name =
                    name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit());
                if !file.ends_with(".rs") || !is_name {
                    continue;
                }
                let target = path.parent().expect("a folder").join(file);
                let code = fs::read_to_string(target).unwrap_or_default();
                seen += 1;
                if !code.contains(&format!("fn {name}(")) {
                    missing.push(format!("{}:{number}: {name} in {file}", shown(&path)));
                }
            }
        }
    }
    assert!(seen > 50, "where are the tests that documents name?");
    assert!(missing.is_empty(), "tests that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn paths_of_this_repository_exist() {
    let folders = ["src/", "tests/", "docs/", "scripts/", "deploy/", "crates/", "loom/", "fuzz/"];
    let mut missing = Vec::new();
    // The changelog speaks of what was.
    for (path, text) in documents().into_iter().filter(|(path, _)| !path.ends_with("CHANGELOG.md"))
    {
        for (number, line) in text_lines(&text) {
            for code in line.split('`').skip(1).step_by(2) {
                let name = code.split(|c: char| c == ':' || c.is_whitespace()).next();
                let name = name.unwrap_or_default();
                let is_pattern = name.contains(['*', '<', '…', '{']);
                if folders.iter().any(|folder| name.starts_with(folder))
                    && !is_pattern
                    && !root().join(name).exists()
                {
                    missing.push(format!("{}:{number}: {name}", shown(&path)));
                }
            }
        }
    }
    assert!(missing.is_empty(), "paths that do not exist:\n{}", missing.join("\n"));
}

#[test]
fn lines_fit_a_screen() {
    let mut long = Vec::new();
    for (path, text) in documents() {
        for (number, line) in text_lines(&text) {
            let is_link = line.contains("](") || line.contains("://");
            let chars = line.chars().count();
            if chars > LINE_CHARS_MAX && !line.starts_with('|') && !is_link {
                long.push(format!("{}:{number}: {chars} characters", shown(&path)));
            }
        }
    }
    assert!(long.is_empty(), "lines above {LINE_CHARS_MAX}:\n{}", long.join("\n"));
}

#[test]
fn paragraphs_are_short() {
    let mut long = Vec::new();
    for (path, text) in documents() {
        let (mut words, mut begun) = (0, 0);
        for (number, line) in text_lines(&text).chain([(0, "")]) {
            let item = line.trim_start();
            let begins = item.starts_with("- ")
                || item.starts_with("* ")
                || item.split_once(". ").is_some_and(|(n, _)| n.parse::<u32>().is_ok());
            let is_prose = !item.is_empty() && !item.starts_with(['|', '#']);
            if begins || !is_prose {
                if words > PARAGRAPH_WORDS_MAX {
                    long.push(format!("{}:{begun}: {words} words", shown(&path)));
                }
                (words, begun) = (0, number);
            }
            if is_prose {
                words += line.split_whitespace().count();
            }
        }
    }
    assert!(long.is_empty(), "paragraphs above {PARAGRAPH_WORDS_MAX} words:\n{}", long.join("\n"));
}

#[test]
fn words_are_plain() {
    let mut found = Vec::new();
    for (path, text) in documents() {
        for (number, line) in text_lines(&text) {
            let line = line.to_lowercase();
            for phrase in PHRASES.iter().filter(|phrase| line.contains(**phrase)) {
                found.push(format!("{}:{number}: {:?}", shown(&path), phrase.trim()));
            }
        }
    }
    assert!(found.is_empty(), "say it more simply:\n{}", found.join("\n"));
}

/// Rows of `docs/metrics.md`: name, then type and labels.
fn documented_metrics() -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join("docs/metrics.md")).expect("a text");
    let rows =
        text.lines().filter(|line| line.starts_with("| `xksd_") || line.starts_with("| `process_"));
    rows.map(|row| {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let mut cell = || cells.next().expect("a cell").replace('`', "");
        (cell(), cell())
    })
    .collect()
}

#[test]
fn each_metric_is_documented() {
    let shown = |metric: &&Metric| {
        let kind = metric.kind.as_str();
        let words = [kind].iter().chain(metric.labels).copied().collect::<Vec<_>>();
        (metric.name.to_owned(), words.join(" "))
    };
    assert_eq!(documented_metrics(), names::ALL.iter().map(shown).collect::<Vec<_>>());
}

#[test]
fn every_scenario_has_its_place_for_figures() {
    let document = fs::read_to_string(root().join("docs/performance.md")).expect("a text");
    let mut scenarios = 0;
    for entry in fs::read_dir(root().join("loadtest/scenarios")).expect("a folder") {
        let file = entry.expect("an entry").file_name().into_string().expect("a name");
        let name = file.strip_suffix(".sh").expect("scripts only");
        if name == "common" {
            continue;
        }
        scenarios += 1;
        let mark = format!("\n<!-- scripts/performance {name} -->\n");
        let place = document.split_once(&mark).map(|(_, rest)| rest);
        assert!(place.is_some_and(|rest| rest.contains("\n<!-- end -->\n")), "no place: {name}");
        assert!(document.contains(&format!("| [`{name}")), "not in the list of scenarios: {name}");
    }
    assert!(scenarios > 10, "where are the scenarios?");
}
