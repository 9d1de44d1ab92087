//! Seen from outside: the admin listener and the log.

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use test_harness::api::{encrypt_body, name};
use test_harness::config::{FOO, OTHER};
use test_harness::{
    A, Api, B, C, Config, Installation, Request, Server, Wire, aad, b64, envelope, eventually,
    free_port, with,
};

fn requests(server: &Server, key_store: &str, operation: &str, error: &str) -> f64 {
    server.metric(&format!("xksd_requests_total{{key_store=\"{key_store}\",operation=\"{operation}\",error=\"{error}\"}}"))
}

#[test]
fn every_page_of_the_admin_listener() {
    let installation = Installation::default();
    let server = installation.start();
    assert_eq!(server.get("/livez"), (200, "ok\n".to_owned()));
    assert_eq!(server.get("/ping"), (200, "ok\n".to_owned()));
    assert_eq!(server.get("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(server.get("/metrics").0, 200);
    assert_eq!(server.get("/readyz?verbose").0, 200);
    for path in
        ["//", "/index.html", "/readyz/", "/one/kms/xks/v1/health", "/config", "/%2e%2e/metrics"]
    {
        assert_eq!(server.get(path).0, 404, "{path}");
    }
    for method in ["POST", "head", "PUT"] {
        let (status, _) =
            server.admin_request(&format!("{method} /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"));
        assert_eq!(status, 405, "{method}");
    }
    for path in ["/", "/livez", "/ping", "/readyz", "/metrics", "/status", "/history", "/nowhere"] {
        let ask = |method: &str| {
            server.admin_answer(&format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
        };
        let ((get, body), (head, nothing)) = (ask("GET"), ask("HEAD"));
        let status = if path == "/nowhere" { "404" } else { "200" };
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")) && nothing.is_empty(),
            "{path}: {head} {nothing}"
        );
        assert!(get.contains(&format!("Content-Length: {}", body.len())), "{path}: {get}");
        // The figures of /metrics and /status move on meanwhile.
        let lines = |head: &str| {
            head.lines()
                .filter(|line| !line.starts_with("Content-Length: "))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(lines(&head), lines(&get), "{path}");
        assert!(
            head.contains("Content-Length: ") && !head.contains("Content-Length: 0"),
            "{path}: {head}"
        );
    }
    assert_eq!(server.admin_request("GET /livez HTTP/1.0\r\n\r\n").0, 200);
    let long = "x".repeat(20_000);
    for (status, rest) in [
        (400, "/livez\r\n\r\n".to_owned()),
        (400, "/livez HTTP/1.1\r\n\r\n".to_owned()),
        (505, "/livez HTTP/3.0\r\nHost: a\r\n\r\n".to_owned()),
        (414, format!("/{long} HTTP/1.1\r\nHost: a\r\n\r\n")),
        (431, format!("/livez HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n")),
    ] {
        let ((get, body), (head, nothing)) = (
            server.admin_answer(&format!("GET {rest}")),
            server.admin_answer(&format!("\r\nHEAD {rest}")),
        );
        assert!(
            get.starts_with(&format!("HTTP/1.1 {status} ")) && !body.is_empty(),
            "{get} {body}"
        );
        assert_eq!((head, nothing.as_str()), (get, ""));
    }

    let status = server.status();
    assert_eq!((&status["ready"], &status["draining"]), (&json!(true), &json!(false)));
    assert_eq!(status["unready_reason"], json!(null));
    assert_eq!(status["listen"], format!("127.0.0.1:{}", server.port));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["tls"].get("client_certificates"), Some(&Value::Null));
    assert_eq!(status["key_managers"][0]["name"], "local");
    assert_eq!(status["key_managers"][0]["health"], "ACTIVE");
    assert_eq!(status["key_stores"][0]["path_prefix"], "/one");
    assert_eq!(status["key_stores"][0]["access_key_ids"], json!([A.id, B.id]));
    assert_eq!(status["key_stores"][2]["enabled"], false);
}

#[test]
fn the_status_names_the_configuration_by_its_whole_path() {
    let installation = Installation::default();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xksd"));
    let server = Server::run(
        command.args(["serve", "--config", "xksd.toml"]).current_dir(installation.path()),
    );
    let file = server.status()["config_file"].as_str().map(std::fs::canonicalize);
    assert_eq!(
        file.expect("text").expect("there"),
        installation.config_file().canonicalize().expect("there")
    );
    assert!(
        std::path::Path::new(server.status()["config_file"].as_str().expect("text")).is_absolute()
    );
}

#[test]
fn a_key_manager_that_does_not_serve_tells_why_and_since_when_and_which_token_it_wants() {
    let installation = Installation::new(&Config::hsm(
        "module = \"/nowhere/p11.so\"\ntoken = \"xks\"\npin = { file = \"pin\" }\nprofile = \
         \"generic\"",
        &["foo"],
    ));
    installation.write("pin", "1234");
    let server = Server::spawn(&installation, &[], |_| {});
    server.wait_event(&["key manager \"hsm\" does not serve", "/nowhere/p11.so"]);
    eventually("probed", || server.status()["key_managers"][0]["probe_error"].is_string());
    let manager = server.status()["key_managers"][0].clone();
    assert_eq!(
        (&manager["health"], &manager["configured_token"]),
        (&json!("UNAVAILABLE"), &json!("token \"xks\"")),
        "{manager}"
    );
    assert_eq!(manager["health_reason"], manager["probe_error"], "{manager}");
    assert!(
        manager["last_fault"].as_str().is_some_and(|fault| fault.contains("/nowhere/p11.so")),
        "{manager}"
    );
    // It is tried again and again.
    assert!(manager["last_fault_age_ms"].as_u64() < Some(60_000), "{manager}");
    assert_eq!(
        Installation::default().start().status()["key_managers"][0]["health_reason"],
        Value::Null
    );
}

#[test]
fn a_reload_tells_what_waits_for_a_restart_and_no_more_when_it_is_taken_back() {
    let installation = Installation::default();
    let server = installation.start();
    let told = "server.shards is 2, was 1: in force from the next start only";
    let text = Config::default().text();
    for text in [text.replace("shards = 1", "shards = 2"), text] {
        installation.write("xksd.toml", &text);
        for _ in 0..2 {
            assert!(server.reload().ends_with("reloaded"));
        }
    }
    let (_, log) = server.stop();
    assert_eq!(log.iter().filter(|line| line.contains(told)).count(), 2, "{log:?}");
}

#[test]
fn a_reload_takes_a_key_file_over_and_one_that_is_damaged_does_not_hold_up_the_rest() {
    let installation = Installation::default();
    let server = installation.start();
    let file = installation.path().join("keys.json");
    let good = std::fs::read_to_string(&file).expect("there");
    let warnings = |words: &str| {
        let told = |line: &&String| {
            line.contains("\"error\"")
                && line.contains("\"key manager \\\"local\\\" does not take over")
                && line.contains(words)
        };
        server.log().iter().filter(told).count()
    };
    assert!(server.reload().ends_with("reloaded"));
    // Another order of the same keys is no change.
    let same =
        json!({"keys": [{"label": "other", "key": b64(OTHER)}, {"label": "foo", "key": b64(FOO)}]})
            .to_string();
    installation.write("keys.json", &same);
    assert!(server.reload().ends_with("reloaded"));

    // A key that is new in the file.
    let mut api = Api::new(&installation, &server);
    assert_eq!(api.error("keys/absent/encrypt", &encrypt_body(b"text", &json!({}))).0, 404);
    let added = json!({"keys": [{"label": "foo", "key": b64(FOO)}, {"label": "other", "key": b64(OTHER)}, {"label": "absent", "key": b64(FOO)}]});
    installation.write("keys.json", &added.to_string());
    assert!(server.reload().ends_with("reloaded"));
    api.round_trip("absent");

    // Whatever is wrong with the file, who is to be cut off is.
    let config = Config::default();
    let mut told = 0;
    assert_eq!(warnings(""), told);
    for (mode, content, words) in [
        ("600", Some(&good[..good.len() - 1]), "keys.json: line 1, column"),
        ("644", Some(good.as_str()), "keys.json: mode 0644"),
        ("600", None, "keys.json does not exist"),
    ] {
        let a = format!(
            "[[keystore.credential]]\naccess_key_id = \"{0}\"\nsecret_access_key = {{ file = \
             \"secrets/{0}\" }}\n",
            A.id
        );
        for (key_stores, status) in
            [(config.key_stores.replacen(&a, "", 1), 401), (config.key_stores.clone(), 200)]
        {
            installation.configure(&Config { key_stores, ..config.clone() });
            let _ = std::fs::remove_file(&file);
            if let Some(content) = content {
                installation.write("keys.json", content);
                assert!(
                    std::process::Command::new("chmod")
                        .arg(mode)
                        .arg(&file)
                        .status()
                        .expect("chmod")
                        .success()
                );
            }
            assert!(server.reload().ends_with("reloaded"), "{words}");
            told += 1;
            eventually("a warning", || warnings("the one before it serves on") == told);
            assert!(warnings(words) > 0, "{words}");
            assert_eq!(
                api.wire
                    .call(&api.request("keys/foo/encrypt", &encrypt_body(b"text", &json!({}))))
                    .status,
                status,
                "{words}"
            );
        }
    }
    // A pipe, which nobody ever writes to, holds nothing up.
    assert!(
        std::process::Command::new("mkfifo")
            .arg("-m600")
            .arg(&file)
            .status()
            .expect("mkfifo")
            .success()
    );
    assert!(server.reload().ends_with("reloaded"));
    eventually("a warning", || warnings("keys.json is a pipe and not a regular file") == 1);

    // Nothing more is said when it is taken back.
    std::fs::remove_file(&file).expect("there");
    installation.write("keys.json", &added.to_string());
    assert!(server.reload().ends_with("reloaded"));
    api.round_trip("foo");
    assert_eq!(warnings(""), told + 1);
    assert!(!server.log().iter().any(|line| line.contains(&b64(FOO)[..20])));
}

#[test]
fn the_admin_listener_bears_a_crowd_and_a_silent_one() {
    let installation = Installation::default();
    let server = installation.start();
    let silent: Vec<TcpStream> = (0..60)
        .map(|_| TcpStream::connect(("127.0.0.1", server.admin)).expect("connects"))
        .collect();
    assert_eq!(server.get("/livez").0, 200);
    // Beyond the bound the oldest are cut; who comes last is answered, and the XKS API does not
    // notice.
    let crowd: Vec<TcpStream> = (0..60)
        .map(|_| TcpStream::connect(("127.0.0.1", server.admin)).expect("connects"))
        .collect();
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(server.get(path).0, 200, "{path}");
    }
    let mut first = silent.first().expect("there");
    first.set_read_timeout(Some(test_harness::PATIENCE)).expect("set");
    assert_eq!(first.read(&mut [0]).expect("cut"), 0);
    Api::new(&installation, &server).round_trip("foo");
    drop((silent, crowd));
    assert_eq!(server.get("/livez").0, 200);
}

#[test]
fn requests_are_counted_by_key_store_operation_and_error() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let answer = api.encrypt("foo", b"text", &json!({}));
    for _ in 0..3 {
        api.decrypt("foo", &answer, &json!({}));
    }
    assert_eq!(
        api.decrypt_error("foo", &answer, &aad("another")),
        name(400, "InvalidCiphertextException")
    );
    assert_eq!(api.error("keys/nobody/encrypt", &encrypt_body(b"text", &json!({}))).0, 404);
    assert_eq!(api.error("keys/off/encrypt", &encrypt_body(b"text", &json!({}))).0, 400);
    api.ok("keys/foo/metadata", &envelope("DescribeKey", &json!({})));
    api.health();
    let mut two = Api::new(&installation, &server);
    (two.prefix, two.credential) = ("/two", C);
    two.encrypt("foo", b"text", &json!({}));
    assert_eq!(
        two.wire.call(&two.request("health", &json!({})).with(|r| r.credential = A)).status,
        401
    );
    assert_eq!(
        two.wire.call(&Request::of_bytes(&server, "/nowhere/at/all", Vec::new())).status,
        404
    );
    let mut broken = Wire::connect(&installation, &server);
    broken.send(b"nonsense\r\n\r\n");
    assert_eq!(broken.response().status, 400);

    for (count, key_store, operation, error) in [
        (1.0, "/one", "encrypt", "none"),
        (3.0, "/one", "decrypt", "none"),
        (1.0, "/one", "decrypt", "InvalidCiphertextException"),
        (1.0, "/one", "encrypt", "KeyNotFoundException"),
        (1.0, "/one", "encrypt", "InvalidStateException"),
        (1.0, "/one", "metadata", "none"),
        (1.0, "/one", "health", "none"),
        (1.0, "/two", "encrypt", "none"),
        (1.0, "/two", "health", "AuthenticationFailedException"),
        (1.0, "", "none", "InvalidUriPathException"),
        (1.0, "", "none", "ValidationException"),
    ] {
        assert_eq!(
            requests(&server, key_store, operation, error),
            count,
            "{key_store} {operation} {error}"
        );
        let all = server.status();
        let entry = json!({"key_store": key_store, "operation": operation, "error": error, "count": count as u64});
        assert!(all["requests"].as_array().expect("an array").contains(&entry), "{entry}: {all}");
    }
    for (operation, count) in [("encrypt", 4.0), ("decrypt", 4.0), ("health", 2.0)] {
        assert_eq!(
            server.metric(&format!(
                "xksd_request_duration_seconds_count{{operation=\"{operation}\"}}"
            )),
            count
        );
        assert_eq!(
            server.metric(&format!(
                "xksd_request_duration_seconds_bucket{{operation=\"{operation}\",le=\"+Inf\"}}"
            )),
            count
        );
    }
    assert_eq!(server.metric("xksd_hsm_duration_seconds_count{operation=\"decrypt\"}"), 4.0);
    assert_eq!(server.metric("xksd_tls_handshakes_total"), 3.0);
    assert_eq!(server.metric("xksd_connections_open{shard=\"0\"}"), 3.0);
    assert_eq!(server.metric("xksd_ready"), 1.0);
    assert_eq!(server.metric("xksd_log_lines_dropped_total{reason=\"behind\"}"), 0.0);
    assert_eq!(server.metric("xksd_key_manager_health{key_manager=\"local\"}"), 2.0);
    drop((api, two, broken));
    eventually("all closed", || server.metric("xksd_connections_open{shard=\"0\"}") == 0.0);
}

#[test]
fn the_metrics_are_in_the_form_that_prometheus_reads() {
    let installation = Installation::default();
    let server = installation.start();
    Api::new(&installation, &server).round_trip("foo");
    let (_, text) = server.get("/metrics");
    let mut announced = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (metric, kind) = rest.split_once(' ').expect("name and kind");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(!announced.contains(&metric), "{metric} twice");
            assert_eq!(kind == "counter", metric.ends_with("_total"), "{line}");
            announced.push(metric);
        } else if !line.starts_with("# HELP ") {
            let (sample, value) = line.rsplit_once(' ').expect("a sample");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let metric = sample.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| metric.strip_suffix(suffix))
                .unwrap_or(metric);
            assert!(
                announced.last().is_some_and(|last| *last == metric || *last == family),
                "{line}"
            );
        }
    }
    assert!(announced.len() > 15, "{announced:?}");
}

#[test]
fn a_request_leaves_one_line_with_everything_about_it() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let metadata = json!({
        "awsPrincipalArn": "arn:aws:sts::123456789012:assumed-role/Admin/\u{e9}\"quoted\"\nsecond \
         line",
        "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/k",
        "kmsOperation": "ReEncrypt",
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
        "kmsViaService": "s3.us-east-1.amazonaws.com",
        "awsSourceVpc": "vpc-1",
        "awsSourceVpce": "vpce-2",
    });
    let mut body = with(&encrypt_body(b"text", &json!({})), &json!({"requestMetadata": metadata}));
    api.ok("keys/foo/encrypt", &body);
    let line = server.request_line("4112f4d6-db54-4af4-ae30-c55a22a8dfae");
    for (field, value) in [
        ("event", json!("request")),
        ("level", json!("info")),
        ("key_store", json!("/one")),
        ("key", json!("foo")),
        ("operation", json!("encrypt")),
        ("kmsOperation", json!("ReEncrypt")),
        ("principal", metadata["awsPrincipalArn"].clone()),
        ("kmsKeyArn", metadata["kmsKeyArn"].clone()),
        ("kmsViaService", metadata["kmsViaService"].clone()),
        ("awsSourceVpc", json!("vpc-1")),
        ("awsSourceVpce", json!("vpce-2")),
        ("access_key_id", json!(A.id)),
        ("status", json!(200)),
        ("error", json!("none")),
        ("key_manager", json!("local")),
        ("shard", json!(0)),
        ("queue_us", json!(0)),
    ] {
        assert_eq!(line[field], value, "{field}: {line}");
    }
    assert!(
        line["total_us"].as_u64() > Some(0) && line["total_us"].as_u64() >= line["hsm_us"].as_u64(),
        "{line}"
    );
    assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    assert!(
        line["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")),
        "{line}"
    );

    // Of a refused one too, and why.
    body["requestMetadata"]["kmsRequestId"] = json!("refused");
    assert_eq!(api.error("keys/nobody/encrypt", &body).0, 404);
    let line = server.request_line("refused");
    assert_eq!(
        (&line["status"], &line["error"], &line["key"]),
        (&json!(404), &json!("KeyNotFoundException"), &json!("nobody"))
    );
    assert_eq!(
        (&line["level"], line["detail"].as_str().is_some_and(|why| !why.is_empty())),
        (&json!("warn"), true)
    );
    body["requestMetadata"]["kmsRequestId"] = json!("broken");
    body["plaintext"] = json!("no Base64");
    assert_eq!(api.error("keys/foo/encrypt", &body).0, 400);
    assert_eq!(server.request_line("broken")["principal"], metadata["awsPrincipalArn"]);
    // Larger than is supported is the request's fault, not this server's.
    body["requestMetadata"]["kmsRequestId"] = json!("large");
    body["plaintext"] = json!(b64([0; 4301]));
    assert_eq!(api.error("keys/foo/encrypt", &body).0, 501);
    assert_eq!(server.request_line("large")["level"], "warn");
    // What an unsigned one says is not logged.
    body["requestMetadata"]["kmsRequestId"] = json!("forged");
    let request = api.request("keys/foo/encrypt", &body).with(|r| r.credential = C);
    assert_eq!(Wire::connect(&installation, &server).call(&request).status, 401);
    body["requestMetadata"]["kmsRequestId"] = json!("last");
    assert_eq!(api.error("keys/nobody/metadata", &body).0, 404);
    server.request_line("last");
    let log = server.log();
    assert!(!log.iter().any(|line| line.contains("forged")));
    let unsigned: Vec<Value> = log
        .iter()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .filter(|json: &Value| json["status"] == 401)
        .collect();
    assert_eq!(
        (unsigned.len(), &unsigned[0]["access_key_id"], &unsigned[0]["kmsRequestId"]),
        (1, &json!(""), &json!(""))
    );
}

/// The secret itself, in Base64 and in hex.
fn forms(secret: &[u8]) -> Vec<String> {
    vec![
        String::from_utf8_lossy(secret).into_owned(),
        b64(secret).trim_end_matches('=').to_owned(),
        test_harness::request::hex(secret),
    ]
}

#[test]
fn nothing_secret_is_in_the_log_or_on_the_admin_listener() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let plaintext = b"the-plaintext-nobody-may-see-0001";
    let context = "the-encryption-context-of-a-customer";
    let body = with(
        &encrypt_body(plaintext, &aad(context)),
        &json!({"ciphertextDataIntegrityValueAlgorithm": "SHA_256"}),
    );
    let answer = api.ok("keys/foo/encrypt", &body);
    api.decrypt("foo", &answer, &aad(context));
    // And where things go wrong with it: each field broken in turn, unsigned, cut off, refused by
    // its size.
    for field in
        ["plaintext", "additionalAuthenticatedData", "encryptionAlgorithm", "requestMetadata"]
    {
        let value = format!("{}*", body[field].as_str().unwrap_or_default());
        api.error("keys/foo/encrypt", &with(&body, &json!({field: value})));
    }
    api.decrypt_error("foo", &answer, &aad("the-encryption-context-of-a-customer-2"));
    let request = api.request("keys/foo/encrypt", &body);
    api.wire
        .call(&request.clone().with(|r| r.body_sent = Some(r.body[..r.body.len() - 9].to_vec())));
    api.wire.call(
        &request.clone().with(|r| r.credential = test_harness::Credential { id: A.secret, ..A }),
    );
    api.wire.call(&request.clone().with(|r| r.target += &format!("?secret={}", b64(plaintext))));
    api.wire.call(&Request::of_bytes(
        &server,
        &format!("/one/kms/xks/v1/keys/foo/{}", b64(plaintext)),
        Vec::new(),
    ));
    let mut cut = Wire::connect(&installation, &server);
    cut.send(&request.bytes()[..request.bytes().len() - 30]);
    drop(cut);
    let mut broken = Wire::connect(&installation, &server);
    broken.send(&[b"\0", &request.bytes()[..]].concat());
    broken.response();
    server.reload();

    let mut seen = vec![server.get("/status").1, server.get("/metrics").1];
    let key = std::fs::read_to_string(installation.path().join("tls/key.pem")).expect("there");
    let (_, log) = server.stop();
    assert!(log.len() > 10);
    seen.extend(log);
    let secrets: Vec<&[u8]> = vec![
        plaintext,
        context.as_bytes(),
        A.secret.as_bytes(),
        B.secret.as_bytes(),
        C.secret.as_bytes(),
        &FOO,
        &OTHER,
        key.lines().nth(1).expect("Base64").as_bytes(),
    ];
    for form in secrets.into_iter().flat_map(forms) {
        for text in &seen {
            assert!(!text.contains(&form), "{form} in {text}");
        }
    }
}

#[test]
fn a_log_that_nobody_reads_does_not_hold_up_requests() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let stall = server.stall_log();
    let stalled = stall.lock().expect("free");
    // Lines of 2 KiB: the pipe (64 KiB) and the writer's own buffer are full after some dozens.
    let request = Request::health(&server, &"x".repeat(2000));
    for _ in 0..300 {
        assert_eq!(api.wire.call(&request).status, 200);
    }
    api.round_trip("foo");
    assert_eq!(server.get("/readyz").0, 200);
    let held = server.log().len();
    assert!(held < 300, "the log was not stalled");
    drop(stalled);
    eventually("the log catches up", || {
        server.log().iter().filter(|line| line.contains("xxxx")).count() == 300
    });
    assert_eq!(server.metric("xksd_log_lines_dropped_total{reason=\"behind\"}"), 0.0);
}

#[test]
fn text_for_people_when_it_is_asked_for() {
    let installation = Installation::new(&Config::default().server("log = \"text\""));
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let body = encrypt_body(b"text", &json!({}));
    let body = with(
        &body,
        &json!({"requestMetadata": with(&body["requestMetadata"], &json!({"kmsRequestId": "a\u{1b}[31m\nforged 200 encrypt"}))}),
    );
    api.ok("keys/foo/encrypt", &body);
    let line =
        server.wait_for("the request", |line| line.contains("forged").then(|| line.to_owned()));
    assert!(line.contains(" 200 encrypt /one key=foo ok ") && !line.contains('\u{1b}'), "{line}");
    assert!(serde_json::from_str::<Value>(&line).is_err());
}

/// What an unknown key is called is not put into the metrics.
#[test]
fn requests_are_counted_by_key() {
    let installation = Installation::default();
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    api.round_trip("foo");
    let _ = api.error("keys/nobody-has-it/encrypt", &encrypt_body(b"text", &json!({})));
    let of_key = |key: &str, operation: &str| {
        let labels = format!("key_store=\"/one\",key=\"{key}\",operation=\"{operation}\"");
        server.metric(&format!("xksd_key_requests_total{{{labels},error=\"none\"}}"))
    };
    assert_eq!((of_key("foo", "encrypt"), of_key("foo", "decrypt")), (1.0, 1.0));
    let (_, metrics) = server.admin_answer("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let told: Vec<&str> = metrics.lines().filter(|line| line.contains("nobody-has-it")).collect();
    assert!(told.is_empty(), "{told:?}");
}

/// Nobody answers there any more.
pub(super) fn is_closed(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err()
}

#[test]
fn a_reload_moves_closes_and_opens_the_admin_listener() {
    let installation = Installation::default();
    let mut server = installation.start();
    let text = Config::default().text();
    let configure = |listen: &str| {
        let listener = "[admin]\nlisten = \"127.0.0.1:0\"";
        assert!(text.contains(listener), "{text}");
        installation.write("xksd.toml", &text.replace(listener, listen));
    };
    let (before, taken) = (server.admin, std::net::TcpListener::bind("127.0.0.1:0").expect("one"));

    // Taken: the old one stays.
    configure(&format!("[admin]\nlisten = \"{}\"", taken.local_addr().expect("bound")));
    server.signal(Signal::HUP);
    server.wait_event(&["not reloaded", "admin.listen: cannot listen on"]);
    assert_eq!(server.get("/readyz").0, 200);

    let now = free_port();
    configure(&format!("[admin]\nlisten = \"127.0.0.1:{now}\""));
    server.reload();
    eventually("the old one is closed", || is_closed(before));
    server.admin = now;
    assert_eq!(server.get("/readyz").0, 200);
    assert!(server.status()["config_last_reload"]["refused"].is_null());

    configure("");
    server.reload();
    eventually("it is closed", || is_closed(now));
    configure(&format!("[admin]\nlisten = \"127.0.0.1:{now}\""));
    server.reload();
    assert_eq!(server.get("/livez").0, 200);
}
