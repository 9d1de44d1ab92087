//! `xksd fleet status`: a table of the instances, in which the odd ones stand out.

use std::fmt::Write as _;
use std::io::stdout;

use time::OffsetDateTime;

use crate::cli::service::{Service, print_json};
use crate::cli::{Failure, print};
use crate::control::commands::Request;
use crate::control::sharing::commands as fleet_commands;
use crate::fleet::Summary;
use crate::fleet::key_managers::{Health, KeyManager};
use crate::fleet::status::{Member, Status, odd_ones};
use crate::telemetry::log::Printable;
use crate::telemetry::log::timestamp;

/// A clock that is off by more stands out, milliseconds.
const CLOCK_MS_MAX: u64 = 1_000;
/// A certificate that ends sooner stands out, days. AWS warns at the same.
const CERTIFICATE_DAYS_MIN: i64 = 10;
/// A budget of which more is used stands out.
const BUDGET_PERCENT_MAX: f64 = 80.0;
const DAY_SECONDS: i64 = 24 * 60 * 60;
/// Characters of a digest that are shown.
const DIGEST_CHARS: usize = 12;
/// Characters of a cell that are shown.
const CELL_CHARS_MAX: usize = 256;

const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

pub(super) fn run(service: &Service) -> Result<(), Failure> {
    let reply = service.reply(&Request::Fleet(fleet_commands::Request::Status {}))?;
    if !reply.ok {
        return Err(Failure::Failed(reply.message));
    }
    let status: Status = serde_json::from_value(reply.data.clone())
        .map_err(|error| Failure::Failed(format!("the answer is no status of a fleet: {error}")))?;
    if service.json {
        print_json(&reply.data)?;
    } else {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        print(&text(&status, now, rustix::termios::isatty(stdout())))?;
    }
    let away: Vec<&str> =
        status.members.iter().filter(|member| !member.present).map(|m| &*m.name).collect();
    if !away.is_empty() {
        return Err(Failure::Failed(format!("not there: {}", away.join(", "))));
    }
    match status.refused.len() {
        0 => Ok(()),
        count => Err(Failure::Failed(format!("{count} values in etcd are refused"))),
    }
}

/// A row of the table: what each instance says of one thing, and whether that stands out.
struct Row {
    name: &'static str,
    cells: Vec<(String, bool)>,
}

fn text(status: &Status, now: i64, colour: bool) -> String {
    let mut text = match status.by.as_str() {
        "etcd" if status.connected => {
            format!("etcd answers, seen from {}\n", status.asked)
        }
        "etcd" => {
            let age =
                status.age_seconds.map_or("never".to_owned(), |age| format!("{age:.0} s ago"));
            let why = status.problem.as_deref().unwrap_or("not yet asked");
            let line = format!("* etcd does not answer {} (last: {age}): {why}", status.asked);
            format!("{}\n", painted(&line, colour))
        }
        _ => format!("peers of {}\n", status.asked),
    };
    let mut rows = rows(&status.members, now);
    for (cell, _) in rows.iter_mut().flat_map(|row| &mut row.cells) {
        *cell = cell.chars().take(CELL_CHARS_MAX).collect();
    }
    let mut widths = vec![0; status.members.len() + 1];
    for row in &rows {
        widths[0] = widths[0].max(row.name.chars().count());
        for (at, (cell, odd)) in row.cells.iter().enumerate() {
            widths[at + 1] = widths[at + 1].max(cell.chars().count() + usize::from(*odd) * 2);
        }
    }
    for row in &rows {
        let _ = write!(text, "{:width$}", row.name, width = widths[0]);
        for (at, (cell, odd)) in row.cells.iter().enumerate() {
            let cell = Printable(cell);
            let marked = if *odd { format!("* {cell}") } else { cell.to_string() };
            let padded = format!("{marked:width$}", width = widths[at + 1]);
            let shown = if *odd { painted(&padded, colour) } else { padded };
            let _ = write!(text, "  {shown}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    for (name, why) in problems(status) {
        let line = format!("* {}: {}", Printable(&name), Printable(&why));
        let _ = writeln!(text, "{}", painted(&line, colour));
    }
    text
}

fn painted(text: &str, colour: bool) -> String {
    if colour { format!("{RED}{text}{PLAIN}") } else { text.to_owned() }
}

fn problems(status: &Status) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for member in &status.members {
        all.extend(member.problem.iter().map(|why| (member.name.clone(), why.clone())));
        let Some(summary) = &member.summary else { continue };
        if let Some(why) = &summary.reload_refused {
            all.push((member.name.clone(), format!("its last reload was refused: {why}")));
        }
        let (shares, count) = (summary.budget_shares, status.members.len());
        if shares < count as u64 {
            let why = format!(
                "server.instances is {shares}, and the fleet has {count}: together they may \
                 encrypt more often with a key than is safe"
            );
            all.push((member.name.clone(), why));
        }
        for (document, why) in &summary.not_applied {
            all.push((member.name.clone(), format!("{document}: {why}")));
        }
    }
    let refused = status.refused.iter();
    all.extend(refused.map(|(key, why)| (format!("{key} in etcd"), format!("refused: {why}"))));
    all
}

fn rows(members: &[Member], now: i64) -> Vec<Row> {
    let compared = |name, value: &dyn Fn(&Summary) -> String| {
        let said = |member: &Member| member.summary.as_ref().map_or("?".to_owned(), value);
        let values: Vec<String> = members.iter().map(said).collect();
        let odd = odd_ones(&values);
        Row { name, cells: values.into_iter().zip(odd).collect() }
    };
    let each = |name, value: &dyn Fn(&Member, &Summary) -> (String, bool)| {
        let said = |member: &Member| match &member.summary {
            Some(summary) => value(member, summary),
            None => ("?".to_owned(), true),
        };
        Row { name, cells: members.iter().map(said).collect() }
    };
    let digest = |text: &str| text.chars().take(DIGEST_CHARS).collect::<String>();
    let names = members.iter().map(|member| (member.name.clone(), false)).collect();
    vec![
        Row { name: "instance", cells: names },
        each("state", &|member, summary| match (member.present, summary.ready) {
            (true, true) => ("ready".to_owned(), false),
            (true, false) => ("not ready".to_owned(), true),
            (false, _) => (away(member), true),
        }),
        compared("version", &|summary| summary.version.clone()),
        each("started", &|_, summary| (day(summary.started), false)),
        compared("configuration", &|summary| digest(&summary.config_sha256)),
        compared("key stores", &|summary| digest(&summary.key_stores_sha256)),
        compared("key versions", &|summary| digest(&summary.key_versions_sha256)),
        compared("documents", &|summary| documents(summary)),
        compared("blocks", &|summary| summary.blocks.to_string()),
        each("budget used", &|_, summary| {
            let percent = summary.budget_percent;
            (format!("{percent:.1} %"), percent > BUDGET_PERCENT_MAX)
        }),
        shares(members),
        each("HSMs active", &|_, summary| hsms(&summary.key_managers)),
        each("clock", &|member, _| match member.clock_ms {
            None => ("?".to_owned(), false),
            Some(off) => {
                (format!("{:+.1} s", off as f64 / 1_000.0), off.unsigned_abs() > CLOCK_MS_MAX)
            }
        }),
        each("certificate", &|_, summary| match summary.certificate_not_after {
            None => ("?".to_owned(), true),
            Some(end) => {
                let days = end.saturating_sub(now).div_euclid(DAY_SECONDS);
                (format!("{days} days"), days < CERTIFICATE_DAYS_MIN)
            }
        }),
    ]
}

/// What is not the usual stands out, and what is less than there are instances.
fn shares(members: &[Member]) -> Row {
    let said = |member: &Member| member.summary.as_ref().map(|summary| summary.budget_shares);
    let shares: Vec<Option<u64>> = members.iter().map(said).collect();
    let cell = |(shares, odd): (&Option<u64>, bool)| match shares {
        None => ("?".to_owned(), true),
        Some(shares) => (shares.to_string(), odd || *shares < members.len() as u64),
    };
    Row { name: "budget shares", cells: shares.iter().zip(odd_ones(&shares)).map(cell).collect() }
}

/// An older version says nothing of them.
fn hsms(all: &[KeyManager]) -> (String, bool) {
    let active = all.iter().filter(|one| one.health == Health::Active).count();
    match all.len() {
        0 => ("?".to_owned(), false),
        count => (format!("{active} of {count}"), active < count),
    }
}

fn away(member: &Member) -> String {
    match member.age_ms {
        Some(age) => format!("away, heard {} s ago", age / 1_000),
        None => "away".to_owned(),
    }
}

/// All documents in a word: how many, and a number that differs where they do.
fn documents(summary: &Summary) -> String {
    let newest = summary.documents.values().max().copied().unwrap_or(0);
    match summary.documents.len() {
        0 => "none".to_owned(),
        count => format!("{count}, newest {newest}"),
    }
}

fn day(unix_seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_seconds)
        .map_or_else(|_| "?".to_owned(), |time| timestamp(time.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, version: &str, clock_ms: i64) -> Member {
        let summary = Summary {
            name: name.into(),
            version: version.into(),
            ready: true,
            budget_shares: 3,
            certificate_not_after: Some(100 * DAY_SECONDS),
            ..Summary::default()
        };
        let (summary, clock_ms) = (Some(summary), Some(clock_ms));
        Member { name: name.into(), summary, present: true, clock_ms, ..Member::default() }
    }

    fn status(members: Vec<Member>) -> Status {
        let (by, asked) = ("etcd".into(), "a".into());
        Status { by, asked, connected: true, members, ..Status::default() }
    }

    #[test]
    fn what_is_odd_is_marked_and_red_on_a_terminal_only() {
        let same = status(vec![member("a", "1", 0), member("b", "1", 10)]);
        let shown = text(&same, 0, true);
        assert!(!shown.contains('*') && !shown.contains(RED), "{shown}");
        let odd = status(vec![member("a", "1", 0), member("b", "1", 0), member("c", "2", 5_000)]);
        let shown = text(&odd, 0, false);
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("version 1 1 * 2 ") && words.contains("* +5.0 s "), "{shown}");
        assert!(!shown.contains(RED));
        assert!(text(&odd, 0, true).contains(&format!("{RED}* 2")));
        assert!(text(&odd, 95 * DAY_SECONDS, false).contains("* 5 days"));
        let mut slow = odd.clone();
        let of = |health| KeyManager { health, ..KeyManager::default() };
        let both = vec![of(Health::Active), of(Health::Degraded)];
        slow.members[1].summary.as_mut().expect("there").key_managers = both;
        let shown = text(&slow, 0, false);
        let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains("HSMs active ? * 1 of 2 ? "), "{shown}");
        let mut few = odd.clone();
        few.members[1].summary.as_mut().expect("there").budget_shares = 1;
        let shown = text(&few, 0, false);
        assert!(shown.contains("* b: server.instances is 1, and the fleet has 3"), "{shown}");
        assert!(!shown.contains("* a: server.instances"), "{shown}");
    }

    /// With peers nobody has sealed what an instance says.
    #[test]
    fn what_an_instance_says_cannot_steer_the_terminal() {
        let mut of = status(vec![member("a", "1\x1b[2J", 0), member("b", "1", 0)]);
        of.members[0].problem = Some("gone\x1b]0;title\x07\u{202e}".into());
        let shown = text(&of, 0, false).replace('\n', "");
        assert!(shown.contains("1\u{fffd}[2J") && shown.contains("a: gone\u{fffd}]0;"), "{shown}");
        assert!(!shown.contains(|c: char| c.is_control() || c == '\u{202e}'), "{shown}");
    }

    /// An instance may say anything of itself.
    #[test]
    fn what_is_out_of_bounds_is_shown_all_the_same() {
        for extreme in [i64::MIN, i64::MAX] {
            let mut of = status(vec![member("a", &"1".repeat(70_000), extreme)]);
            let summary = of.members[0].summary.as_mut().expect("there");
            (summary.certificate_not_after, summary.started) = (Some(extreme), extreme);
            (summary.budget_percent, summary.budget_shares) = (f64::MAX, u64::MAX);
            let shown = text(&of, extreme.saturating_neg(), false);
            assert!(shown.contains(" days") && shown.len() < 20_000, "{}", shown.len());
        }
    }

    #[test]
    fn who_is_away_and_what_is_refused_is_said() {
        let away = Member { name: "b".into(), problem: Some("gone".into()), ..Member::default() };
        let mut of = status(vec![member("a", "1", 0), away]);
        of.refused.insert("/f/documents/blocks".into(), "older".into());
        of.connected = false;
        let shown = text(&of, 0, false);
        for words in ["* etcd does not answer a (last: never)", "* b: gone", "refused: older"] {
            assert!(shown.contains(words), "{words}: {shown}");
        }
    }
}
