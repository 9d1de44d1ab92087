use std::io::Write;
use std::path::Path;

use super::line::is_harmful;
use super::*;

fn written(format: Format, fill: impl FnOnce(&Log)) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (log, _writer) = Log::start(format, file.reopen().unwrap()).unwrap();
    fill(&log);
    log.flush(Duration::from_secs(10));
    std::fs::read_to_string(file.path()).unwrap()
}

const HOSTILE: &str = "é\n{\"forged\": true}\u{1b}[2J\u{9b}2J\u{2028}\u{202e}\u{2066}";

fn hostile() -> Box<RequestLine> {
    Box::new(RequestLine {
        kms_request_id: HOSTILE.into(),
        operation: "encrypt",
        error: "none",
        status: 200,
        ..RequestLine::default()
    })
}

#[test]
fn a_json_line_stays_one_line_and_parses() {
    let text = written(Format::Json, |log| log.request(hostile()));
    assert_eq!(text.lines().count(), 1, "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["kmsRequestId"], HOSTILE);
    assert!(text.contains("é") && !text.trim_end().contains(is_harmful), "{text}");
    assert_eq!(json["event"], "request");
}

#[test]
fn a_text_line_cannot_be_forged_or_steer_the_terminal() {
    let text = written(Format::Text, |log| {
        log.request(hostile());
        log.event(Level::Warn, "two\nlines");
    });
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!text.replace('\n', "").contains(is_harmful), "{text}");
}

#[test]
fn a_record_comes_back_as_new() {
    let (log, _writer) = Log::start(Format::Json, std::io::sink()).unwrap();
    let mut record = log.line();
    let new = format!("{record:?}");
    let filled = RequestLine {
        kms_request_id: "id".into(),
        key_store: "/a".into(),
        key: "foo".into(),
        operation: "encrypt",
        kms_operation: "Encrypt".into(),
        principal: "arn:principal".into(),
        kms_key_arn: "arn:key".into(),
        kms_via_service: "ebs".into(),
        source_vpc: "vpc".into(),
        source_vpce: "vpce".into(),
        connection_vpce: Some("vpce".into()),
        traceparent: "00-0af7".into(),
        access_key_id: "ID".into(),
        policy: "s3-only".into(),
        dry_run: "a policy forbids it",
        client: Some(([127, 0, 0, 1], 1).into()),
        status: 200,
        error: "none",
        detail: "why".into(),
        key_manager: "hsm-a".into(),
        total_us: 1,
        queue_us: 2,
        hsm_us: 3,
        shard: 4,
    };
    *record = filled;
    let text = record.principal.as_ptr();
    log.request(record);
    log.flush(Duration::from_secs(10));
    let again = log.line();
    assert_eq!(format!("{again:?}"), new);
    assert_eq!(
        (again.principal.as_ptr(), again.principal.capacity()),
        (text, "arn:principal".len()),
        "in the same memory"
    );
    assert_ne!(log.line().principal.as_ptr(), text, "there was one");
}

#[test]
fn a_stalled_reader_costs_lines_that_are_counted_and_told_and_no_time() {
    struct Stalled(Receiver<()>, std::fs::File);
    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            self.1.write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let (release, stall) = bounded(0);
    let (log, writer) = Log::start(Format::Text, Stalled(stall, file.reopen().unwrap())).unwrap();
    let long = "x".repeat(100);
    for _ in 0..3 * LOG_QUEUE_LINES {
        log.event(Level::Info, long.as_str());
    }
    let dropped = log.lost().behind();
    assert!(dropped >= LOG_QUEUE_LINES as u64, "{dropped}");
    drop(release);
    drop(log);
    writer.join().unwrap();
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert_eq!(text.matches(&long).count() as u64 + dropped, 3 * LOG_QUEUE_LINES as u64);
    let told: Vec<&str> =
        text.lines().filter(|line| line.contains("lines of this log are lost")).collect();
    assert!(matches!(told[..], [line] if line.contains(&format!("{dropped} lines"))), "{told:?}");
}

#[test]
fn a_panic_is_a_line_without_what_it_was_about() {
    let text = written(Format::Json, |log| {
        let hook = std::panic::take_hook();
        log_panics(log, Format::Json);
        let panics = |name: &str, panics: fn()| {
            let thread = std::thread::Builder::new().name(name.into()).spawn(panics).unwrap();
            assert!(thread.join().is_err());
        };
        panics("panics-literally", || panic!("the reason"));
        panics("panics-with-a-secret", || {
            // Says the whole text.
            let text = "secret \u{fc}";
            let _ = &text[..std::hint::black_box(8)];
        });
        panics("panics-with-numbers", || {
            let empty: &[u8] = &[];
            let _ = empty[std::hint::black_box(7)];
        });
        std::panic::set_hook(hook);
    });
    let line = |thread: &str| {
        let line = text.lines().find(|line| line.contains(thread)).expect(thread);
        let json: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!((&json["level"], &json["event"]), (&"error".into(), &"message".into()));
        json["message"].as_str().unwrap().to_owned()
    };
    let literally = line("panics-literally");
    assert!(literally.contains("src/telemetry/log/tests.rs:"), "{literally}");
    assert!(literally.contains(": the reason. This is a defect"), "{literally}");
    assert!(line("panics-with-a-secret").contains("it is not shown"));
    assert!(line("panics-with-numbers").contains("the len is 0 but the index is 7"));
    assert!(!text.contains("secret \u{fc}"), "{text}");
}

#[test]
fn lines_gather_for_longer_where_few_come() {
    let second = Duration::from_secs(1);
    assert_eq!(gather_time(second, 300), GATHER_TIME_MAX);
    assert_eq!(gather_time(second, 10_240), Duration::from_millis(25));
    assert_eq!(gather_time(second, 1_000_000), GATHER_TIME_MIN);
    assert_eq!(gather_time(1_000_000 * second, 1), GATHER_TIME_MAX);
    assert_eq!(gather_time(Duration::ZERO, 0), GATHER_TIME_MIN);
}

#[test]
fn a_request_without_a_line_may_have_a_span() {
    let (queue, spans) = bounded(8);
    let text = written(Format::Json, |log| {
        log.set_level(Level::Warn);
        log.request(hostile());
        log.set_spans(Some(Spans::new(1, queue, Arc::default())));
        log.request(hostile());
    });
    assert_eq!(text, "");
    assert_eq!(spans.len(), 1);
}

#[test]
fn a_log_is_diverted_between_two_lines() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    let read = |path| std::fs::read_to_string(path).unwrap();
    let log = Log::open(Format::Json, Destination::File(one.clone())).unwrap();
    log.event(Level::Info, "first");
    let there = |format, path: &Path| log.prepare(format, Destination::File(path.into())).unwrap();
    assert!(there(Format::Json, &one).is_none(), "it is there already");
    let opened = there(Format::Text, &other).unwrap();
    log.event(Level::Info, "second");
    assert_eq!(log.divert(opened, Duration::from_secs(10)), Diverted::Now);
    // A reload that is refused after this can put it back.
    assert!(there(Format::Text, &other).is_none() && there(Format::Json, &one).is_some());
    assert!(!log.is_moving());
    log.event(Level::Info, "third");
    log.flush(Duration::from_secs(10));
    let (one, other) = (read(&one), read(&other));
    assert!(one.lines().count() == 2 && one.contains("first") && one.contains("second"), "{one}");
    assert!(other.ends_with(" info third\n") && other.lines().count() == 1, "{other}");
    let nowhere = Destination::File(dir.path().join("none/xksd.log"));
    assert!(log.prepare(Format::Json, nowhere).is_err());
}

#[test]
fn a_log_that_stands_still_is_diverted_once_it_goes_on_or_not_at_all() {
    struct Stalled(Receiver<()>);
    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, patience) = (dir.path().join("log"), Duration::from_millis(10));
    let opened = |log: &Log, path: &Path| {
        log.prepare(Format::Text, Destination::File(path.into())).unwrap().unwrap()
    };
    let (release, stall) = bounded(0);
    let (log, _writer) = Log::start(Format::Text, Stalled(stall)).unwrap();
    log.event(Level::Info, "before");
    assert_eq!(log.divert(opened(&log, &path), patience), Diverted::Later);
    assert!(log.is_moving());
    log.event(Level::Info, "after");
    (0..LOG_QUEUE_LINES).for_each(|_| log.event(Level::Info, "more"));
    assert!(log.lost().behind() > 0, "it is full");
    assert_eq!(log.divert(opened(&log, &dir.path().join("other")), patience), Diverted::Never);
    drop(release);
    log.flush(Duration::from_secs(10));
    assert!(!log.is_moving());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.lines().next().is_some_and(|line| line.ends_with("after")), "{text}");
}
