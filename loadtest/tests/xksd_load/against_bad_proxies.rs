//! Proxies that answer wrongly, fail or stall: each must be reported as what it is.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::proxies::{Answer, demo_files, fake_proxy, fake_proxy_that_closes_after, load, told};
use base64::prelude::{BASE64_STANDARD as BASE64, Engine};
use ring::digest;
use serde_json::{Value, json};

static IVS: AtomicU64 = AtomicU64::new(1);

/// A proxy whose cipher does nothing: the ciphertext is the plaintext. All else is as it should be.
fn honest(path: &str, request: &Value) -> Value {
    let bytes = |name: &str| BASE64.decode(request[name].as_str().unwrap_or_default()).unwrap();
    if path.ends_with("/decrypt") {
        return json!({"plaintext": request["ciphertext"]});
    }
    let (ciphertext, tag) = (bytes("plaintext"), [7; 16]);
    let mut iv = [0; 12];
    iv[..8].copy_from_slice(&IVS.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    let all = [&bytes("additionalAuthenticatedData")[..], &iv, &ciphertext, &tag].concat();
    let cdiv = BASE64.encode(digest::digest(&digest::SHA256, &all));
    json!({"ciphertext": BASE64.encode(ciphertext), "initializationVector": BASE64.encode(iv), "authenticationTag": BASE64.encode(tag),
        "ciphertextDataIntegrityValue": cdiv})
}

fn say(body: &Value) -> Answer {
    Answer::Say(200, body.to_string())
}

/// Runs against a proxy; gives exit code, text and report.
fn against(
    dir: &Path,
    more: &[&str],
    answer: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static,
) -> (i32, String, Value) {
    run_against(dir, fake_proxy(dir, answer), more)
}

fn run_against(dir: &Path, address: SocketAddr, more: &[&str]) -> (i32, String, Value) {
    command_against("run", dir, address, more)
}

fn command_against(
    command: &str,
    dir: &Path,
    address: SocketAddr,
    more: &[&str],
) -> (i32, String, Value) {
    let address = address.to_string();
    let (config, json) = (dir.join("xksd.toml"), dir.join("r.json"));
    let _ = std::fs::remove_file(&json);
    let args = [
        command,
        "--config",
        config.to_str().unwrap(),
        "--connect",
        &address,
        "--warmup",
        "0s",
        "--json",
        json.to_str().unwrap(),
    ];
    let (code, text) = told(&load(&[&args[..], more].concat()));
    let report = std::fs::read_to_string(&json)
        .map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
    (code, text, report)
}

const SHORT: &[&str] = &["--rate", "100", "--duration", "1s", "--connections", "2"];

#[test]
fn an_honest_proxy_passes() {
    let dir = demo_files();
    let (code, text, _) = against(dir.path(), SHORT, |path, request| say(&honest(path, request)));
    assert_eq!(code, 0, "{text}");
}

#[test]
fn a_proxy_that_refuses_all_is_told_once_with_its_own_words() {
    let dir = demo_files();
    let message = "the signature does not match\u{1b}[2J";
    let refused =
        json!({"errorName": "AuthenticationFailedException", "errorMessage": message}).to_string();
    let address = fake_proxy(dir.path(), move |_, _| Answer::Say(401, refused.clone()));
    let (code, text, report) =
        run_against(dir.path(), address, &[SHORT, &["--workers", "2"]].concat());
    assert_eq!((code, &report), (2, &Value::Null), "{text}");
    let said = "the first encrypt was answered AuthenticationFailedException (401): the signature \
        does not match?[2J";
    assert_eq!(text, format!("xksd-load: {address}: {said}\n"));
}

#[test]
fn another_plaintext_than_was_encrypted_fails_the_run() {
    let dir = demo_files();
    let decrypts = AtomicU64::new(0);
    // As a decrypt under the wrong key would be, if nothing noticed: right at first, then not.
    let (code, text, report) = against(dir.path(), SHORT, move |path, request| {
        let mut answer = honest(path, request);
        if path.ends_with("/decrypt") && decrypts.fetch_add(1, Ordering::Relaxed) > 20 {
            answer["plaintext"] = BASE64.encode([0; 32]).into();
        }
        say(&answer)
    });
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("WRONG ANSWER: decrypt gave back another plaintext")
            && text.contains("kmsRequestId"),
        "{text}"
    );
    assert!(report["wrong"].as_u64().unwrap() > 0);
}

#[test]
fn a_wrong_cdiv_or_a_repeated_iv_is_told_at_once() {
    let dir = demo_files();
    let (code, text, _) = against(dir.path(), SHORT, |path, request| {
        let mut answer = honest(path, request);
        answer["ciphertextDataIntegrityValue"] = BASE64.encode([1; 32]).into();
        say(&answer)
    });
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("CDIV"), "{text}");
    let (code, text, _) =
        against(dir.path(), &[SHORT, &["--cdiv", "0"]].concat(), |path, request| {
            let mut answer = honest(path, request);
            answer["initializationVector"] = BASE64.encode([0; 12]).into();
            answer.as_object_mut().unwrap().remove("ciphertextDataIntegrityValue");
            say(&answer)
        });
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("same IV twice"), "{text}");
}

#[test]
fn errors_are_counted_by_name_and_judged() {
    let dir = demo_files();
    let throttling = || {
        let calls = AtomicU64::new(0);
        move |path: &str, request: &Value| match calls.fetch_add(1, Ordering::Relaxed) {
            n if n > 40 && n % 10 == 0 => {
                Answer::Say(429, json!({"errorName": "ThrottlingException"}).to_string())
            }
            n if n > 40 && n % 10 == 5 => Answer::HangUp,
            _ => say(&honest(path, request)),
        }
    };
    let (code, text, report) =
        against(dir.path(), &[SHORT, &["--max-errors", "0"]].concat(), throttling());
    assert_eq!(code, 1, "{text}");
    let errors = &report["errors_by_name"];
    assert!(errors["ThrottlingException (429)"].as_u64().unwrap() > 0, "{errors}");
    assert!(errors["connection closed before the answer"].as_u64().unwrap() > 0, "{errors}");
    assert_eq!(
        report["offered"].as_u64().unwrap(),
        report["right"].as_u64().unwrap() + report["steps"][0]["errors"].as_u64().unwrap()
    );
    // A hung up connection is no answer; an error is one.
    assert_eq!(report["answers"]["none"], errors["connection closed before the answer"]);
    let times =
        ["first_error_unix_ms", "last_error_unix_ms"].map(|name| report[name].as_u64().unwrap());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(
        times[0] <= times[1] && times[1] <= now && now - times[0] < 3_600_000,
        "{times:?} at {now}"
    );
    assert_eq!(report["result"], "fail");
    // Nobody gave a criterion for errors.
    let (code, text, report) = against(dir.path(), SHORT, throttling());
    assert_eq!(code, 0, "{text}");
    let errors = report["errors"].as_u64().unwrap();
    assert!(
        errors > 1 && text.contains(&format!("\nNO CRITERIA GIVEN, {errors} errors: ")),
        "{text}"
    );
    assert_eq!(report["result"], "no_criteria");
}

/// Of 300 requests one fails: two in a trial at 600 requests/s, one at half of that.
#[test]
fn a_search_accepts_as_many_errors_a_trial_as_it_is_told() {
    let dir = demo_files();
    let calls = AtomicU64::new(0);
    let address = fake_proxy(dir.path(), move |path, request| {
        match calls.fetch_add(1, Ordering::Relaxed) % 300 {
            150 => Answer::Say(500, json!({"errorName": "InternalException"}).to_string()),
            _ => say(&honest(path, request)),
        }
    });
    let rates = [
        "--from",
        "600",
        "--to",
        "600",
        "--precision",
        "0.5",
        "--trial",
        "1s",
        "--confirm",
        "1s",
        "--arrivals",
        "uniform",
    ];
    for (accepted, rate) in [("2", 600.0), ("1", 300.0)] {
        // Unverified, a trial makes no requests but its own.
        let more = [&rates[..], &["--unverified", "--connections", "2", "--max-errors", accepted]]
            .concat();
        let (code, text, report) = command_against("capacity", dir.path(), address, &more);
        assert_eq!(
            (code, &report["capacity"]["rate"]),
            (0, &rate.into()),
            "--max-errors {accepted}: {text}"
        );
    }
}

#[test]
fn a_request_that_is_never_answered_is_a_time_out() {
    let dir = demo_files();
    let calls = AtomicU64::new(0);
    let more = [SHORT, &["--timeout", "200ms", "--max-errors", "0"]].concat();
    let (code, text, report) = against(dir.path(), &more, move |path, request| {
        if calls.fetch_add(1, Ordering::Relaxed) == 50 {
            std::thread::sleep(Duration::from_secs(30));
        }
        say(&honest(path, request))
    });
    assert_eq!(code, 1, "{text}");
    assert_eq!(report["errors_by_name"]["timeout"], 1, "{text}");
    assert_eq!(report["answers"]["none"], 1, "{text}");
    assert!(text.contains("1 requests never answered"), "{text}");
}

#[test]
fn an_error_that_comes_late_is_the_latest_answer_and_no_latency() {
    let dir = demo_files();
    let calls = AtomicU64::new(0);
    let (code, text, report) =
        against(dir.path(), &[SHORT, &["--timeout", "30s"]].concat(), move |path, request| {
            if calls.fetch_add(1, Ordering::Relaxed) < 60 {
                return say(&honest(path, request));
            }
            std::thread::sleep(Duration::from_millis(700));
            Answer::Say(503, json!({"errorName": "DependencyTimeoutException"}).to_string())
        });
    assert_eq!(code, 0, "{text}");
    assert!(report["answers"]["latest_us"].as_u64().unwrap() >= 700_000, "{text}");
    assert!(report["latency"]["max"].as_u64() < report["answers"]["latest_us"].as_u64(), "{text}");
    assert_eq!(
        (&report["answers"]["none"], &report["answers"]["unsent"]),
        (&0.into(), &0.into()),
        "{text}"
    );
}

#[test]
fn a_static_body_is_measured_unverified_and_told_as_such() {
    let dir = demo_files();
    let nothing = |_: &str, _: &Value| Answer::Say(200, "{}".into());
    let (code, text, report) = against(dir.path(), &[SHORT, &["--unverified"]].concat(), nothing);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("UNVERIFIED") && !text.contains("wrong answers"), "{text}");
    assert_eq!(report["settings"]["unverified"], true);
    let calls: Vec<&str> =
        report["calls"].as_array().unwrap().iter().map(|c| c["call"].as_str().unwrap()).collect();
    assert_eq!(calls, ["encrypt", "decrypt"], "the mix is asked for all the same");
    assert_eq!(report["generator"]["closing_decrypts"], 0);
    // An error is one all the same.
    let refusing = |_: &str, _: &Value| Answer::Say(403, "{}".into());
    let (code, text, report) = against(dir.path(), &[SHORT, &["--unverified"]].concat(), refusing);
    assert_eq!(code, 1, "{text}");
    assert_eq!(
        report["errors_by_name"]["status 403 without errorName"], report["offered"],
        "{text}"
    );
    // Without the word, the first answer ends it.
    let (code, text, _) = against(dir.path(), SHORT, nothing);
    assert_eq!(code, 1, "{text}");
}

#[test]
fn idle_connections_that_the_proxy_closes_are_counted() {
    let dir = demo_files();
    let closing = fake_proxy_that_closes_after(
        dir.path(),
        Some(Duration::from_millis(500)),
        |path, request| say(&honest(path, request)),
    );
    let (code, text, report) =
        run_against(dir.path(), closing, &["--rate", "100", "--duration", "2s", "--idle", "5"]);
    assert_eq!(code, 0, "{text}");
    let idle = &report["idle"];
    assert_eq!(
        (&idle["asked"], &idle["opened"], &idle["closed"]),
        (&5.into(), &5.into(), &5.into()),
        "{text}"
    );
    assert!(text.contains("not all idle connections were held"), "{text}");
}

/// Coordinated omission: a tool that waits for the answer before it sends the next request would
/// see one slow request here, and tell a p90 as if nothing had been. Every request that was due
/// during the stall waited, and must be reported so.
#[test]
fn a_stall_is_told_by_every_request_that_was_due_in_it() {
    let dir = demo_files();
    let calls = AtomicU64::new(0);
    let more = [
        "--rate",
        "500",
        "--duration",
        "2s",
        "--connections",
        "1",
        "--timeout",
        "30s",
        "--arrivals",
        "uniform",
    ];
    let (code, text, report) = against(dir.path(), &more, move |path, request| {
        // Beyond the requests before the run.
        if calls.fetch_add(1, Ordering::Relaxed) == 100 {
            std::thread::sleep(Duration::from_millis(600));
        }
        say(&honest(path, request))
    });
    assert_eq!(code, 0, "{text}");
    assert_eq!(report["offered"], 1000, "the schedule does not care for answers");
    // 300 of 1,000 were due in the stall; half of these waited for 300 ms or more.
    assert!(report["latency"]["p90"].as_u64().unwrap() > 250_000, "{text}");
}
