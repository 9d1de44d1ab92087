//! The page on the admin listener, by what is answered; and `/metrics` as promtool reads it.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use test_harness::{Api, Installation};

/// The script's and the style's text, as the page has them.
fn element<'p>(page: &'p str, name: &str) -> &'p str {
    let (_, rest) = page.split_once(&format!("<{name}>")).expect("an element");
    rest.split_once(&format!("</{name}>")).expect("its end").0
}

fn sha256(text: &str) -> String {
    let run = "openssl dgst -sha256 -binary | openssl base64 -A";
    let mut shell = Command::new("sh");
    let shell = shell.args(["-c", run]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = shell.spawn().expect("openssl");
    shell.stdin.take().expect("piped").write_all(text.as_bytes()).expect("written");
    let output = shell.wait_with_output().expect("ended");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_page_lets_the_browser_run_its_own_script_and_style_only() {
    let installation = Installation::default();
    let server = installation.start();
    let (head, page) = server.admin_answer("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(head.contains("Content-Type: text/html; charset=utf-8"), "{head}");
    let policy = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Security-Policy: "))
        .expect("a policy");
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    for name in ["script", "style"] {
        let hash = format!("{name}-src 'sha256-{}'", sha256(element(&page, name)));
        assert!(policy.contains(&hash), "{hash} in {policy}");
    }
    let foreign = "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n";
    assert_eq!(server.admin_request(foreign).0, 421);
}

/// Every field of `/status` that the page reads is there.
#[test]
fn the_status_has_the_fields_that_the_page_reads() {
    let installation = Installation::default();
    let server = installation.start();
    let (_, page) = server.get("/");
    let status = server.status();
    let mut seen = 0;
    for rest in element(&page, "script").split("status.").skip(1) {
        let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_' || c == '.'));
        let mut value = &status;
        for field in rest[..end.expect("an end")].split('.').filter(|field| !field.is_empty()) {
            let is_of_the_language = matches!(field, "map" | "length" | "reduce" | "flat" | "some");
            if is_of_the_language || value.is_null() {
                break;
            }
            value = value.get(field).unwrap_or_else(|| panic!("no {field}: status.{rest:.60}"));
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
    let history: Value = serde_json::from_str(&server.get("/history").1).expect("JSON");
    assert!(history["samples"].is_array() && history["interval_seconds"] == 10, "{history}");
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let installation = Installation::default();
    let server = installation.start();
    let (_, metrics) = server.get("/metrics");
    for name in ["resident_memory_bytes", "open_fds", "start_time_seconds"] {
        assert!(server.metric(&format!("process_{name}")) > 0.0, "process_{name}");
    }
    // It counts in steps of 10 ms, and a start takes less.
    assert!(server.metric("process_cpu_seconds_total") >= 0.0);
    let mut promtool = Command::new("promtool");
    let promtool = promtool.args(["check", "metrics"]).stdin(Stdio::piped());
    let promtool = promtool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut promtool = promtool.expect("promtool, which scripts/install-deps test installs");
    promtool.stdin.take().expect("piped").write_all(metrics.as_bytes()).expect("written");
    let output = promtool.wait_with_output().expect("ended");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

/// The same in a terminal.
#[test]
fn xksd_top_shows_it_and_fails_where_nobody_answers() {
    let installation = Installation::default();
    let server = installation.start();
    Api::new(&installation, &server).round_trip("foo");
    let top = |url: &str, more: &[&str]| {
        let mut command = std::process::Command::new(test_harness::programs::xksd());
        command.args(["top", "--instance", url]).args(more).output().expect("runs")
    };
    let url = format!("http://127.0.0.1:{}", server.admin);
    let shown = top(&url, &["--once"]);
    let text = String::from_utf8(shown.stdout).expect("UTF-8");
    assert!(shown.status.success() && text.starts_with("xksd "), "{text}");
    for words in ["ready", "key manager", "ACTIVE", "key store", "certificate"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let json: serde_json::Value =
        serde_json::from_slice(&top(&url, &["--once", "--json"]).stdout).expect("JSON");
    assert_eq!(json["status"]["ready"], true);
    assert!(json["history"]["samples"].is_array());
    let address = server.admin;
    drop(server);
    let gone = top(&format!("http://127.0.0.1:{address}"), &[]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    let none = top("10.0.0.1", &[]);
    assert_eq!(none.status.code(), Some(2), "{none:?}");
}
