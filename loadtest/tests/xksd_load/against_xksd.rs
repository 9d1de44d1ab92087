//! The tool against xksd itself, small loads over loopback. No figure is asserted, only that all of
//! them are there and consistent.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::proxies::{Demo, load, told};
use serde_json::Value;

fn report(demo: &Demo, name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(demo.file(name)).unwrap()).unwrap()
}

#[test]
fn loads_are_run_judged_reported_and_compared() {
    let demo = Demo::start();
    let (json, html) = (demo.file("a.json"), demo.file("a.html"));
    let mix = "encrypt=60,decrypt=30,metadata=5,health=5";
    let base = [
        "run",
        "--config",
        &demo.config(),
        "--warmup",
        "200ms",
        "--timeout",
        "20s",
        "--connections",
        "4",
    ]
    .map(str::to_owned);
    let run = |more: &[&str]| {
        let all: Vec<&str> = base.iter().map(String::as_str).chain(more.iter().copied()).collect();
        told(&load(&all))
    };

    // Steps, every size, every call, a promise that is kept.
    let more = [
        "--steps",
        "50,100",
        "--step-time",
        "1s",
        "--mix",
        mix,
        "--plaintext-bytes",
        "0..4300",
        "--aad-bytes",
        "0..8192",
        "--cdiv",
        "0.5",
    ];
    let criteria = ["--sla", "p50=20s", "--max-errors", "0", "--json", &json, "--html", &html];
    let (code, text) = run(&[&more[..], &criteria[..]].concat());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("\nPASS\n") && !text.contains("FAIL"), "{text}");
    let a = report(&demo, "a.json");
    assert_eq!(a["result"], "pass");
    let calls: Vec<&str> =
        a["calls"].as_array().unwrap().iter().map(|c| c["call"].as_str().unwrap()).collect();
    assert_eq!(calls, ["encrypt", "decrypt", "metadata", "health"]);
    assert_eq!((&a["errors"], &a["wrong"], &a["offered"]), (&0.into(), &0.into(), &a["right"]));
    assert_eq!(a["steps"].as_array().unwrap().len(), 2);
    assert!(a["offered"].as_u64().unwrap() > 50, "{}", a["offered"]);
    // What is seen of the server: its process was found, its metrics were read.
    assert_eq!(a["proxy"]["cpu"]["pids"], serde_json::json!([demo.pid()]));
    // Who answered, and where the load came from.
    let subject = &a["subject"];
    assert_eq!(subject["identity"]["proxy_vendor"], "xksd", "{subject}");
    assert!(subject["command"].as_str().unwrap().starts_with("xksd-load run --config "));
    assert!(subject["host"]["cores"].as_u64().unwrap() > 0 && subject["balancer"].is_null());
    let thread = a["proxy"]["cpu"]["busiest_thread_name"].as_str().unwrap();
    assert!(!thread.is_empty() && !thread.starts_with("xksd-shard-"), "{thread}");
    assert!(a["proxy"]["key_manager"]["hsm_mean_us"].as_f64().unwrap() > 0.0);
    assert!(a["generator"]["closing_decrypts"].as_u64().unwrap() > 0);
    assert!(std::fs::read_to_string(&html).unwrap().contains("<svg"));

    // A promise that nothing can keep.
    let (code, text) = run(&["--rate", "50", "--duration", "1s", "--sla", "p50=1us"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("\nFAIL\n"), "{text}");

    // Closed loop, pipelined, two workers, every request signed, connections replaced with and
    // without resumption.
    let b = demo.file("b.json");
    for (tls, resume) in [("1.2", None), ("1.3", Some("--resume"))] {
        let mut more = vec![
            "--closed",
            "--duration",
            "1s",
            "--depth",
            "3",
            "--workers",
            "2",
            "--fresh",
            "--reconnect-rate",
            "20",
            "--tls",
            tls,
        ];
        more.extend(resume);
        more.extend(["--max-errors", "0", "--json", &b]);
        let (code, text) = run(&more);
        assert_eq!(code, 0, "{text}");
        let b = report(&demo, "b.json");
        assert!(b["tls"]["handshakes"].as_u64().unwrap() > 12, "{}", b["tls"]);
        assert_eq!(b["tls"]["resumed"].as_u64().unwrap() > 0, resume.is_some(), "{}", b["tls"]);
        assert!(
            b["tls"]["protocol"].as_str().unwrap().contains(&tls.replace('.', "_")),
            "{}",
            b["tls"]
        );
    }

    // A handshake for each request, and connections beside them that are held.
    for resume in [None, Some("--resume")] {
        let mut more = vec![
            "--closed",
            "--duration",
            "1s",
            "--requests-per-connection",
            "1",
            "--idle",
            "20",
            "--json",
            &b,
        ];
        more.extend(resume);
        let (code, text) = run(&[&more[..], &["--max-errors", "0"]].concat());
        assert_eq!(code, 0, "{text}");
        let b = report(&demo, "b.json");
        // Preflight and closing decrypts have a connection each.
        let (handshakes, resumed) =
            (b["tls"]["handshakes"].as_u64().unwrap(), b["tls"]["resumed"].as_u64().unwrap());
        assert!(
            handshakes >= b["right"].as_u64().unwrap()
                && b["tls"]["handshakes_per_second"].as_f64().unwrap() > 0.0,
            "{text}"
        );
        // The first handshake of each of the four, and the one before the run, had nothing to
        // resume.
        assert_eq!(resumed, if resume.is_some() { handshakes - 5 } else { 0 }, "{text}");
        let idle = &b["idle"];
        assert_eq!(
            (&idle["opened"], &idle["closed"], &idle["refused"]),
            (&20.into(), &0.into(), &Value::Null),
            "{text}"
        );
        assert!(idle["memory"]["after_bytes"].as_u64().unwrap() > 0);
    }
    let (code, text) = run(&[
        "--rate",
        "100",
        "--duration",
        "1s",
        "--requests-per-connection",
        "7",
        "--max-errors",
        "0",
        "--json",
        &b,
    ]);
    assert_eq!(code, 0, "{text}");
    let few = report(&demo, "b.json");
    let (handshakes, right) =
        (few["tls"]["handshakes"].as_u64().unwrap(), few["right"].as_u64().unwrap());
    assert!(
        handshakes > right / 7 && handshakes < right / 2,
        "{handshakes} handshakes for {right} requests"
    );

    let page = demo.file("compare.html");
    let (code, text) = told(&load(&["compare", &json, &b, "--html", &page]));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("throughput") && text.contains("not asked the same: mix"), "{text}");
    assert!(std::fs::read_to_string(&page).unwrap().contains("<svg"));
}

/// Out of descriptors it could not even see the proxy's process, and would blame the proxy for the
/// rest.
#[test]
fn a_run_that_needs_more_descriptors_than_there_may_be_is_refused() {
    let demo = Demo::start();
    let (config, json) = (demo.config(), demo.file("n.json"));
    let run = |limit: &str, more: &[&str]| {
        let base = [
            limit,
            env!("CARGO_BIN_EXE_xksd-load"),
            "run",
            "--config",
            &config,
            "--warmup",
            "0s",
            "--duration",
            "1s",
            "--json",
            &json,
        ];
        told(
            &Command::new("prlimit")
                .args([&base[..], more].concat())
                .stdin(Stdio::null())
                .output()
                .unwrap(),
        )
    };
    let asked = ["--connections", "40", "--idle", "30", "--timeout", "20s", "--max-errors", "0"];
    // 40 and 30, 8 for the worker and 64 besides. The soft limit is raised.
    let (code, text) = run(
        "--nofile=50:142",
        &[&asked[..], &["--closed", "--requests-per-connection", "1"]].concat(),
    );
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("proxy CPU") && text.contains("key manager"), "{text}");
    let n = report(&demo, "n.json");
    assert_eq!((&n["idle"]["opened"], &n["idle"]["refused"]), (&30.into(), &Value::Null), "{text}");
    assert!(
        n["generator"]["cpu_us_per_request"].is_number()
            && n["generator"]["busiest_worker"].is_number(),
        "{text}"
    );
    for (limit, more, needed) in [
        (
            "--nofile=50:141",
            &asked[..],
            "--connections 40 --idle 30: this tool needs 142 open files",
        ),
        (
            "--nofile=200:200",
            &["--connections", "500"],
            "--connections 500: this tool needs 572 open files",
        ),
    ] {
        let (code, text) = run(limit, more);
        assert_eq!(code, 2, "{text}");
        assert!(
            text.starts_with(&format!("xksd-load: {needed}"))
                && text.contains("ulimit -n")
                && text.lines().count() == 1,
            "{text}"
        );
    }
}

/// With all connections lost and none to be had, there is still an end, and every request that was
/// due is told.
#[test]
fn a_proxy_that_dies_during_the_run_ends_it_with_errors() {
    let mut demo = Demo::start();
    let (config, json) = (demo.config(), demo.file("d.json"));
    let run = std::thread::spawn({
        let json = json.clone();
        move || {
            let args = [
                "run",
                "--config",
                &config,
                "--rate",
                "100",
                "--duration",
                "4s",
                "--warmup",
                "0s",
                "--connections",
                "4",
            ];
            told(&load(&[&args[..], &["--timeout", "500ms", "--json", &json]].concat()))
        }
    });
    std::thread::sleep(Duration::from_millis(1500));
    demo.kill();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !run.is_finished() {
        assert!(Instant::now() < deadline, "the run does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
    let (_, text) = run.join().unwrap();
    let d = report(&demo, "d.json");
    let (offered, right, lost) = (
        d["offered"].as_u64().unwrap(),
        d["right"].as_u64().unwrap(),
        d["steps"][0]["errors"].as_u64().unwrap(),
    );
    assert_eq!(offered, right + lost, "{text}");
    assert!(right > 0 && d["answers"]["unsent"].as_u64().unwrap() > 0, "{text}");
    assert!(text.contains("Connection refused"), "{text}");
}

#[test]
fn a_search_ends_with_a_rate_and_its_bottleneck() {
    let demo = Demo::start();
    let json = demo.file("c.json");
    let args = [
        "capacity",
        "--config",
        &demo.config(),
        "--from",
        "20",
        "--to",
        "40",
        "--trial",
        "1s",
        "--confirm",
        "1s",
        "--warmup",
        "200ms",
    ];
    let more = ["--connections", "4", "--timeout", "20s", "--sla", "p50=20s", "--json", &json];
    let (code, text) = told(&load(&[&args[..], &more[..]].concat()));
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("CAPACITY 40.0 requests/s") && text.contains("no limit found"), "{text}");
    assert!(report(&demo, "c.json")["capacity"]["trials"].as_array().unwrap().len() >= 3);
}

#[test]
fn what_cannot_be_judged_exits_with_2() {
    let demo = Demo::start();
    let config = demo.config();
    let (code, text) =
        told(&load(&["run", "--config", &config, "--key", "no-such-key", "--duration", "1s"]));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("KeyNotFoundException (404)"), "{text}");
    // A secret that is not the key store's.
    let secret = demo.file("other");
    std::fs::write(&secret, "b3RoZXIgc2VjcmV0IG90aGVyIHNlY3JldCBvdGhlciBzZWNyZXQ=").unwrap();
    let store = format!("/demo:ABCDEFGHIJKLMNOPQR27:{secret}");
    let (code, text) =
        told(&load(&["run", "--config", &config, "--keystore", &store, "--duration", "1s"]));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("AuthenticationFailedException (401)"), "{text}");
    // An authority that is not the certificate's.
    let (code, text) = told(&load(&[
        "run",
        "--config",
        &config,
        "--ca",
        &demo.file("tls/key.pem"),
        "--duration",
        "1s",
    ]));
    assert_eq!(code, 2, "{text}");
    // Not this machine.
    let (code, text) = told(&load(&[
        "run",
        "--config",
        &config,
        "--connect",
        "192.0.2.1:443",
        "--duration",
        "1s",
    ]));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("--i-own-the-target"), "{text}");
    // Told before a load of 30 s, not after it; the other file was tried, and is not left behind.
    for (command, option) in [("run", "--html"), ("capacity", "--json")] {
        let other = if option == "--html" { "--json" } else { "--html" };
        let began = Instant::now();
        let (wrong, right) = (demo.file("nowhere/report"), demo.file("report"));
        let (code, text) =
            told(&load(&[command, "--config", &config, option, &wrong, other, &right]));
        assert_eq!(code, 2, "{text}");
        assert_eq!(
            text,
            format!(
                "xksd-load: {option} {wrong}: there is no directory {}\n",
                demo.file("nowhere")
            )
        );
        assert!(
            began.elapsed() < Duration::from_secs(15) && !std::path::Path::new(&right).exists()
        );
    }
    // Nobody listens there.
    let (code, text) =
        told(&load(&["run", "--config", &config, "--connect", "127.0.0.1:1", "--duration", "1s"]));
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("cannot connect"), "{text}");
}
