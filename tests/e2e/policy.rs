//! Policies in the real server: who is denied, where it is said, and what a reload does.

use std::process::Command;

use serde_json::{Value, json};
use test_harness::api::{decrypt_body, encrypt_body, envelope, name, request_id};
use test_harness::pki::{Ca, KMS_NAME, Leaf};
use test_harness::{Api, B, Config, Installation, Server, Wire, programs};

use crate::tls::client;

const ROLES: &str = r#"
@id("roles") permit(principal, action, resource)
when { principal.kind == "role" && principal.name like "app-*" };
@id("no-decrypt-outside") forbid(principal, action == XKS::Action::"Decrypt", resource)
unless { context has awsSourceVpce && context.awsSourceVpce == "vpce-bank" };
"#;

const ORIGIN: &str = "xks.bank.example/policies";

const ADMIN: &str = "arn:aws:iam::111122223333:role/app-admin";

/// Key store `/one` with these policies.
fn config(more: &str) -> Config {
    let mut config = Config::default();
    let section = format!("[keystore.policy]\nfiles = [\"roles.cedar\"]\n{more}\n");
    let first = "[[keystore.credential]]";
    config.key_stores = config.key_stores.replacen(first, &format!("{section}{first}"), 1);
    config
}

fn installation(more: &str) -> Installation {
    let installation = Installation::default();
    installation.write("roles.cedar", ROLES);
    installation.configure(&config(more));
    installation
}

/// `body` of this principal through this endpoint, with another kmsRequestId.
fn of(mut body: Value, principal: &str, vpce: &str) -> (Value, String) {
    let id = request_id();
    let metadata = &mut body["requestMetadata"];
    metadata["awsPrincipalArn"] = json!(principal);
    metadata["awsSourceVpce"] = json!(vpce);
    metadata["kmsRequestId"] = json!(id);
    (body, id)
}

fn encryption(principal: &str) -> (Value, String) {
    of(encrypt_body(b"text", &json!({})), principal, "vpce-other")
}

#[test]
fn who_is_not_permitted_is_denied_and_the_log_tells_by_which_policy() {
    let installation = installation("");
    let server = installation.start();
    let mut api = Api::new(&installation, &server);

    let (body, id) = encryption(ADMIN);
    let encrypted = api.ok("keys/foo/encrypt", &body);
    assert_eq!(server.request_line(&id)["policy"], "roles");

    for principal in ["arn:aws:iam::111122223333:role/other", "ec2.amazonaws.com"] {
        let (body, id) = encryption(principal);
        assert_eq!(api.error("keys/foo/encrypt", &body), name(403, "AccessDeniedException"));
        let line = server.request_line(&id);
        assert_eq!(line["detail"], "no policy permits it");
        assert!(line["policy"].is_null() && line["dry_run"].is_null(), "{line}");
    }
    let (body, id) = encryption("arn:aws:iam::1:role/app-x");
    assert_eq!(api.error("keys/foo/encrypt", &body).0, 403);
    assert_eq!(server.request_line(&id)["detail"], "awsPrincipalArn has a form that is not known");

    let decryption = decrypt_body(&encrypted, &json!({}));
    let (body, id) = of(decryption.clone(), ADMIN, "vpce-other");
    let answer = api.call("keys/foo/decrypt", &body);
    assert_eq!(answer.error(), name(403, "AccessDeniedException"));
    let message = answer.json()["errorMessage"].to_string();
    assert!(!message.contains("no-decrypt"), "by a setting only: {message}");
    let denied = server.request_line(&id);
    assert_eq!(denied["policy"], "no-decrypt-outside");
    assert_eq!(denied["detail"], "a policy forbids it");
    api.ok("keys/foo/decrypt", &of(decryption, ADMIN, "vpce-bank").0);

    api.ok("keys/foo/metadata", &of(envelope("DescribeKey", &json!({})), ADMIN, "vpce-other").0);
    // The specification exempts health.
    api.health();
    let denials = server.metric(
        "xksd_policy_denials_total{key_store=\"/one\",policy=\"no-decrypt-outside\",\
         mode=\"enforce\"}",
    );
    assert_eq!(denials, 1.0);
}

#[test]
fn an_error_names_the_policy_where_it_may() {
    let installation = installation("ids_in_errors = true");
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let encrypted = api.ok("keys/foo/encrypt", &encryption(ADMIN).0);
    let decryption = decrypt_body(&encrypted, &json!({}));
    let answer = api.call("keys/foo/decrypt", &of(decryption, ADMIN, "vpce-other").0);
    assert_eq!(
        answer.json()["errorMessage"],
        "the policies of the proxy do not permit this request: no-decrypt-outside"
    );
}

#[test]
fn a_dry_run_answers_and_tells_what_it_would_have_denied() {
    let installation = installation("mode = \"dry-run\"");
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let (body, id) = encryption("arn:aws:iam::111122223333:role/other");
    let encrypted = api.ok("keys/foo/encrypt", &body);
    let told = server.request_line(&id);
    assert_eq!((&told["dry_run"], &told["status"]), (&json!("no policy permits it"), &json!(200)));
    let (body, id) = of(decrypt_body(&encrypted, &json!({})), ADMIN, "vpce-other");
    api.ok("keys/foo/decrypt", &body);
    let told = server.request_line(&id);
    assert_eq!(
        (&told["dry_run"], &told["policy"]),
        (&json!("a policy forbids it"), &json!("no-decrypt-outside"))
    );
    let (body, id) = encryption(ADMIN);
    api.ok("keys/foo/encrypt", &body);
    assert!(server.request_line(&id)["dry_run"].is_null());
    let denials = server.metric(
        "xksd_policy_denials_total{key_store=\"/one\",policy=\"no-decrypt-outside\",\
         mode=\"dry-run\"}",
    );
    assert_eq!(denials, 1.0);
}

#[test]
fn a_reload_changes_policies_at_once_and_a_wrong_one_changes_nothing() {
    let installation = installation("");
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let other = "arn:aws:iam::111122223333:role/other";
    assert_eq!(api.error("keys/foo/encrypt", &encryption(other).0).0, 403);

    installation
        .write("roles.cedar", &format!("{ROLES}\n@id(\"typo\") permit(principal, action);"));
    let refused = server.reload();
    assert!(refused.contains("not reloaded") && refused.contains("roles.cedar:7: "), "{refused}");
    installation.write("roles.cedar", &ROLES.replace("principal.name", "principal.nmae"));
    let refused = server.reload();
    assert!(refused.contains("roles.cedar:3: policy \"roles\": attribute"), "{refused}");
    assert_eq!(api.error("keys/foo/encrypt", &encryption(other).0).0, 403);
    api.ok("keys/foo/encrypt", &encryption(ADMIN).0);

    // Not by leaving it out.
    installation.configure(&Config::default());
    let refused = server.reload();
    assert!(
        refused.contains("keystore[0].policy: missing, and policies are in force"),
        "{refused}"
    );

    installation.write("roles.cedar", &ROLES.replace("app-*", "o*"));
    installation.configure(&config(""));
    assert!(server.reload().ends_with("reloaded"));
    api.ok("keys/foo/encrypt", &encryption(other).0);
    assert_eq!(api.error("keys/foo/encrypt", &encryption(ADMIN).0).0, 403, "not a kept decision");

    let mode = |server: &Server| server.status()["key_stores"][0]["policy"].clone();
    assert_eq!(mode(&server), "enforce");
    installation.configure(&config("mode = \"off\""));
    assert!(server.reload().ends_with("reloaded"));
    assert_eq!(mode(&server), "off");
    let denials = server.status()["policy_denials"][0].clone();
    assert_eq!((&denials["policy"], &denials["mode"]), (&json!(""), &json!("enforce")));
    api.ok("keys/foo/encrypt", &encryption(ADMIN).0);
}

#[test]
fn the_audit_trail_names_the_deciding_policies() {
    for (mode, outcome) in [("enforce", "AccessDeniedException"), ("dry-run", "success")] {
        let installation = installation("");
        let key = installation.path().join("secrets/audit-key");
        let made = Command::new(programs::xksd())
            .args(["audit", "key", "new", "--origin", ORIGIN, "--write-secret"])
            .arg(&key)
            .output()
            .expect("runs");
        assert!(made.status.success(), "{made:?}");
        let section = format!(
            "[audit]\ndirectory = \"audit\"\norigin = \"{ORIGIN}\"\n\
             signing_key = {{ file = \"secrets/audit-key\" }}"
        );
        let config = config(&format!("mode = \"{mode}\""));
        let admin = format!("{}\n\n{section}", config.admin);
        installation.configure(&Config { admin, ..config });
        let server = installation.start();
        let mut api = Api::new(&installation, &server);
        let encrypted = api.ok("keys/foo/encrypt", &encryption(ADMIN).0);
        let decryption = decrypt_body(&encrypted, &json!({}));
        let (body, id) = of(decryption, ADMIN, "vpce-other");
        api.call("keys/foo/decrypt", &body);
        assert_eq!(server.stop().0, Some(0));

        let file = installation.path().join("audit/records/0000000000.jsonl");
        let text = std::fs::read_to_string(file).expect("records");
        let records: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let of = |key: &str, value: &str| {
            records.iter().find(|record| record[key] == value).expect("a record").clone()
        };
        let encrypted = of("operation", "encrypt");
        assert_eq!(encrypted["policy"], "roles");
        assert!(encrypted["dry_run"].is_null());
        let decrypted = of("kmsRequestId", &id);
        assert_eq!(
            (&decrypted["policy"], &decrypted["outcome"]),
            (&json!("no-decrypt-outside"), &json!(outcome))
        );
        let is_dry = mode == "dry-run";
        assert_eq!(decrypted["kind"], if is_dry { "request" } else { "denied" });
        assert_eq!(decrypted["dry_run"] == "a policy forbids it", is_dry);
    }
}

/// What KMS does not state: who signed, under which region, and with which certificate.
#[test]
fn policies_see_certificate_credential_and_region() {
    let installation = installation("");
    installation.write(
        "roles.cedar",
        &format!(
            "@id(\"seen\") permit(principal, action, resource) when {{
                context has clientCommonName && context.clientCommonName == \"{KMS_NAME}\"
                && context.credential == \"{}\" && context.region == \"us-east-1\"
                && !(context has connectionVpce) }};",
            test_harness::A.id
        ),
    );
    let ca = Ca::root("Client Root");
    installation.write("anchors.pem", &ca.pem());
    let mut config = config("");
    config.tls += &format!(
        "\n[tls.client]\ntrust_anchors = \"anchors.pem\"\n\
         subject_common_names = [\"{KMS_NAME}\", \"another.name\"]"
    );
    installation.configure(&config);
    let server = installation.start();
    let connect = |tls: &_| Api {
        host: server.host(),
        wire: Wire::connect_with(tls, &server).expect("let in"),
        prefix: "/one",
        credential: test_harness::A,
    };
    let body = encryption(ADMIN).0;
    let kms = client(&installation, &ca, &Leaf::client(KMS_NAME));
    let mut first = connect(&kms);
    first.ok("keys/foo/encrypt", &body);
    let mut resumed = connect(&kms);
    resumed.ok("keys/foo/encrypt", &body);
    assert!(resumed.wire.resumed(), "the certificate is the session's");
    resumed.credential = B;
    assert_eq!(resumed.error("keys/foo/encrypt", &body).0, 403);
    let mut another = connect(&client(&installation, &ca, &Leaf::client("another.name")));
    assert_eq!(another.error("keys/foo/encrypt", &body).0, 403);
    let elsewhere = first.request("keys/foo/encrypt", &body).with(|r| r.region = "eu-west-3");
    assert_eq!(first.wire.call(&elsewhere).status, 403);
}

/// Which of two denials go missing when the file is cut behind the first policy.
#[test]
fn a_forbid_that_is_cut_off_is_not_given_up_unless_that_is_said() {
    let forbid = |id: &str| {
        format!(
            "@id(\"{id}\") forbid(principal == XKS::Principal::\"arn:aws:iam::1:role/{id}\", \
             action, resource);\n"
        )
    };
    let installation = installation("");
    let all = format!("{ROLES}{}{}", forbid("first"), forbid("second"));
    installation.write("roles.cedar", &all);
    let server = installation.start();
    installation.write("roles.cedar", &format!("{ROLES}{}", forbid("first")));
    assert!(server.reload().contains("not reloaded"));
    server.wait_event(&["keystore[0].policy: forbids less: \"second\""]);
    let accepted = installation.reload(&["--accept-loss-of-forbids"]);
    assert_eq!(accepted.0, Some(0), "{accepted:?}");
    // Neither by hiding it behind another one of its name that permits.
    let permits = forbid("first").replace("forbid(", "permit(");
    installation.write("roles.cedar", &format!("{ROLES}{permits}"));
    assert!(server.reload().contains("not reloaded"));
    // Another order, and one more, is no loss.
    installation.write("roles.cedar", &format!("{}{}{ROLES}", forbid("third"), forbid("first")));
    assert!(server.reload().ends_with("reloaded"));
    // Nor is what is said to be watched only.
    installation.configure(&config("mode = \"dry-run\""));
    installation.write("roles.cedar", ROLES);
    assert!(server.reload().ends_with("reloaded"));
}
