//! What is said at the start and by a reload, what waits for a start, and what must not be left
//! out.

use super::*;
use crate::config::difference::{Certificates, at_reload, at_start};
use crate::config::difference::{keep_running, omissions, only_key_versions, weakened};
use crate::config::keys;
use crate::config::table::InForce;
use crate::tls::{Certificate, Name};

const NO_CERTIFICATES: Certificates<'_> = Certificates { server: &[], trust_anchors: &[] };

pub(super) fn certificate(subject: &str, serial: &str) -> Certificate {
    let name = Name { shown: format!("CN={subject}"), parts: vec![subject.to_owned()] };
    Certificate {
        subject: subject.to_owned(),
        serial: serial.to_owned(),
        not_after: time::OffsetDateTime::UNIX_EPOCH,
        subject_name: name.clone(),
        issuer_name: name,
        common_names: vec![subject.to_owned()],
        dns_names: Vec::new(),
        fingerprint: format!("{serial}:FF"),
    }
}

/// `text` after these replacements, of which each must find its place.
pub(super) fn replaced(text: &str, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from:?}");
        text.replacen(from, to, 1)
    })
}

/// What a reload says of a change, besides who may connect.
fn told_of(old: &str, new: &str) -> Vec<String> {
    told_of_configs(&read(old).expect("valid"), &read(new).expect("valid"))
}

fn told_of_configs(old: &Config, new: &Config) -> Vec<String> {
    let mut told = at_reload((old, NO_CERTIFICATES), (new, NO_CERTIFICATES));
    told.retain(|line| !line.contains("may connect"));
    told
}

/// What a reload says of `SMALL` after these replacements.
fn told(edits: &[(&str, &str)]) -> Vec<String> {
    told_of(SMALL, &replaced(SMALL, edits))
}

#[test]
fn all_is_said_at_the_start() {
    let certificates = [certificate("xks.example.com", "0A")];
    let certificates = Certificates { server: &certificates, trust_anchors: &[] };
    assert_eq!(
        at_start(&read(SMALL).expect("valid"), certificates),
        [
            "server certificate is \"xks.example.com\", serial 0A, valid until 1970-01-01 \
             00:00:00 UTC",
            "any client may connect: no client certificate is asked for",
            "server: listen is 0.0.0.0:443, shards is 0, request_budget_ms is 200, regions is \
             [\"us-east-1\"], shutdown_delay_ms is 5000, shutdown_ms is 10000, instances is 1, \
             watch_files is true, log is \"auto\", log_level is \"info\", log_output is \"stderr\", otlp_sample_one_in is 100, state_directory is /etc/xksd/state, require_state is false, control_socket is \
             /etc/xksd/state/control.sock",
            "tls: certificate_chain is /etc/xksd/chain.pem, private_key is /keys/key.pem",
            "key manager \"hsm-a\": kind is \"pkcs11\", module is /usr/lib/p11.so, token is \
             \"xks\", profile is \"generic\", sessions is 16, verify_encryptions is true, \
             read_write_sessions is false",
            "key store \"/a\": key_manager is [\"hsm-a\"], enabled, accept_foreign_ciphertext is \
             [], weight is 1, invocation_budget is \"warn\"",
            "key store \"/a\": credential ABCDEFGHIJKLMNOPQR27",
            "key store \"/a\": key \"foo\": label is \"foo\", enabled",
        ]
    );
    let said = at_start(&read(FULL).expect("valid"), NO_CERTIFICATES).join("\n");
    for words in ["admin: listen is 127.0.0.1:9180", "environment sets A", "disabled", "slot is 2"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains(SECRET) && !said.contains("\"p\""), "{said}");
}

#[test]
fn what_stays_is_not_said() {
    assert_eq!(told(&[]), [""; 0]);
    let (small, full) = (read(SMALL).expect("valid"), read(FULL).expect("valid"));
    let same = |config| at_reload((config, NO_CERTIFICATES), (config, NO_CERTIFICATES));
    assert_eq!(same(&small), [""; 0]);
    assert_eq!(same(&full), [""; 0]);
}

#[test]
fn another_certificate_is_said() {
    let config = read(SMALL).expect("valid");
    let before = [certificate("a", "01"), certificate("CA", "02")];
    let said = |own, above| {
        let now = [certificate("a", own), certificate("CA", above)];
        let of = |server| Certificates { server, trust_anchors: &[] };
        at_reload((&config, of(&before)), (&config, of(&now)))
    };
    assert_eq!(said("01", "02"), [""; 0]);
    let until = "valid until 1970-01-01 00:00:00 UTC";
    for (own, above) in [("03", "02"), ("01", "03")] {
        let expected = format!(
            "server certificate is \"a\", serial {own}, {until}; above it \"CA\", serial {above}, \
             {until}"
        );
        assert_eq!(said(own, above), [expected]);
    }
}

#[test]
fn who_may_connect_is_said_with_the_authorities_where_one_of_them_changed() {
    let config = read(FULL).expect("valid");
    let said = |anchors: &[Certificate]| {
        let now = Certificates { server: &[], trust_anchors: anchors };
        assert_eq!(at_reload((&config, now), (&config, now)), [""; 0]);
        at_reload((&config, NO_CERTIFICATES), (&config, now))
    };
    let anchors = [certificate("Root 1", "01"), certificate("Root \u{1b}2", "02")];
    let expected = [
        "clients may connect with a certificate of the subject CN \
         \"cks.kms.us-east-1.amazonaws.com\" from one of 2 authorities",
        "trust anchor of clients: \"CN=Root 1\", SHA-256 01:FF",
        "trust anchor of clients: \"CN=Root \\u{1b}2\", SHA-256 02:FF",
    ];
    assert_eq!(said(&anchors), expected);
    let many: Vec<Certificate> = (0..21).map(|i| certificate("R", &format!("{i:02X}"))).collect();
    assert_eq!(said(&many[..20]).len(), 21);
    assert_eq!(said(&many).len(), 22);
    assert_eq!(said(&many)[21], "and 1 more trust anchors of clients");

    // The last one is none of those that are said, and counts.
    let mut others = many.clone();
    others[20] = certificate("R", "FF");
    let of = |trust_anchors| Certificates { server: &[], trust_anchors };
    assert_eq!(at_reload((&config, of(&many)), (&config, of(&others))).len(), 22);
}

#[test]
fn who_is_cut_off_and_who_comes_in_is_said() {
    let store = "key_manager = [\"hsm-a\"]\n[[keystore.credential]]";
    let disabled = store.replace('\n', "\nenabled = false\n");
    assert_eq!(told(&[(store, &disabled)]), ["key store \"/a\": disabled"]);
    assert_eq!(
        told(&[("id = \"foo\"", "id = \"foo\"\nenabled = false")]),
        ["key store \"/a\": key \"foo\": disabled"]
    );
    assert_eq!(
        told(&[("ABCDEFGHIJKLMNOPQR27", "BBCDEFGHIJKLMNOPQR27")]),
        [
            "key store \"/a\": credential BBCDEFGHIJKLMNOPQR27 added",
            "key store \"/a\": credential ABCDEFGHIJKLMNOPQR27 removed"
        ]
    );
    assert_eq!(
        told(&[("id = \"foo\"", "id = \"bar\"")]),
        [
            "key store \"/a\": key \"bar\" added: label is \"bar\", enabled",
            "key store \"/a\": key \"foo\" removed"
        ]
    );
    assert_eq!(
        told(&[("id = \"foo\"", "id = \"foo\"\nlabel = \"other\"")]),
        ["key store \"/a\": key \"foo\": label is \"other\", was \"foo\""]
    );
    assert_eq!(
        told(&[("\"/a\"", "\"/b\""), ("id = \"foo\"", "id = \"foo\"\nlabel = \"other\"")]),
        [
            "key store \"/b\" added: key_manager is [\"hsm-a\"], enabled, \
             accept_foreign_ciphertext is [], weight is 1, invocation_budget is \"warn\"",
            "key store \"/b\": credential ABCDEFGHIJKLMNOPQR27 added",
            "key store \"/b\": key \"foo\" added: label is \"other\", enabled",
            "key store \"/a\" removed"
        ]
    );
    let foreign = store.replace('\n', "\naccept_foreign_ciphertext = [\"aws-sample\"]\n");
    assert_eq!(
        told(&[(store, &foreign)]),
        ["key store \"/a\": accept_foreign_ciphertext is [\"aws-sample\"], was []"]
    );
}

#[test]
fn another_secret_is_said_and_not_shown() {
    let secret = "z".repeat(43);
    let told = told(&[("{ file = \"secrets/key\" }", &format!("{{ value = \"{secret}\" }}"))]);
    assert_eq!(
        told,
        ["key store \"/a\": credential ABCDEFGHIJKLMNOPQR27: secret_access_key changed"]
    );
}

/// (key, replaced in `FULL`, by what): the key has another value.
#[rustfmt::skip]
const EDITS: &[(&str, &str, &str)] = &[
    ("server", "shutdown_delay_ms = 0\n", ""),
    ("server.listen", "[::]:8443", "[::]:443"),
    ("server.shards", "shards = 4", "shards = 5"),
    ("server.request_budget_ms", "request_budget_ms = 150", "request_budget_ms = 151"),
    ("server.regions", "\"us-gov-west-1\", ", ""),
    ("server.shutdown_delay_ms", "shutdown_delay_ms = 0", "shutdown_delay_ms = 1"),
    ("server.shutdown_ms", "shutdown_ms = 5000", "shutdown_ms = 5001"),
    ("server.instances", "log = \"json\"", "log = \"json\"\ninstances = 3"),
    ("server.watch_files", "log = \"json\"", "log = \"json\"\nwatch_files = false"),
    ("server.log", "log = \"json\"", "log = \"text\""),
    ("server.log_level", "log = \"json\"", "log = \"json\"\nlog_level = \"warn\""),
    ("server.log_output", "log = \"json\"", "log = \"json\"\nlog_output = \"journal\""),
    ("server.otlp_endpoint", "log = \"json\"", "log = \"json\"\notlp_endpoint = \"http://127.0.0.1:4318\""),
    ("server.otlp_trust_anchors", "log = \"json\"", "log = \"json\"\notlp_endpoint = \"https://127.0.0.1:4318\"\notlp_trust_anchors = \"o\""),
    ("server.otlp_sample_one_in", "log = \"json\"", "log = \"json\"\notlp_sample_one_in = 1"),
    ("server.state_directory", "log = \"json\"", "log = \"json\"\nstate_directory = \"/s\""),
    ("server.require_state", "log = \"json\"", "log = \"json\"\nrequire_state = true"),
    ("server.proxy_protocol", "log = \"json\"", "log = \"json\"\nproxy_protocol = [{ networks = [\"10.0.0.0/8\"] }]"),
    ("server.proxy_protocol.networks", "log = \"json\"", "log = \"json\"\nproxy_protocol = [{ networks = [\"10.0.0.0/9\"] }]"),
    ("server.control_socket", "log = \"json\"", "log = \"json\"\ncontrol_socket = \"/c\""),
    ("tls", "certificate_chain = \"c\"", "certificate_chain = \"d\""),
    ("tls.certificate_chain", "certificate_chain = \"c\"", "certificate_chain = \"d\""),
    ("tls.private_key", "private_key = \"k\"", "private_key = \"l\""),
    ("tls.client_authentication", "client_authentication = \"required\"\n", ""),
    ("tls.client", "client_authentication = \"required\"\n[tls.client]\ntrust_anchors = \"t\"\nsubject_common_names = [\"cks.kms.us-east-1.amazonaws.com\"]\nrequire_client_auth_eku = false\n", ""),
    ("tls.client.trust_anchors", "trust_anchors = \"t\"", "trust_anchors = \"u\""),
    ("tls.client.subject_common_names", "[\"cks.kms.us-east-1.amazonaws.com\"]", "[\"a\", \"b\"]"),
    ("tls.client.require_client_auth_eku", "require_client_auth_eku = false", "require_client_auth_eku = true"),
    ("admin", "[admin]\nlisten = \"127.0.0.1:9180\"\nhosts = [\"xksd-1.example.com\"]\n", ""),
    ("admin.listen", "127.0.0.1:9180", "127.0.0.1:9181"),
    ("admin.hosts", "hosts = [\"xksd-1.example.com\"]", "hosts = [\"xksd-2.example.com\"]"),
    ("audit", "retention_days = 7\n", ""),
    ("audit.directory", "directory = \"audit\"", "directory = \"other\""),
    ("audit.signing_key", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ("audit.origin", "a.example/b", "a.example/c"),
    ("audit.previous_verifier_keys", "origin =", "previous_verifier_keys = [\"a.example/b+2e10d46c+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"]\norigin ="),
    ("audit.durability", "durability = \"interval\"\ninterval_ms = 100\n", ""),
    ("audit.interval_ms", "interval_ms = 100", "interval_ms = 101"),
    ("audit.when_unwritable", "when_unwritable = \"continue\"", "when_unwritable = \"refuse\""),
    ("audit.retention_days", "retention_days = 7", "retention_days = 8"),
    ("audit.syslog", "origin =", "syslog = \"/dev/log\"\norigin ="),
    ("audit.witness", "[[audit.witness]]\nurl = \"http://10.0.0.2:9182\"\nverifier_key = \"w.example/a+52ea87ed+BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"\n", ""),
    ("audit.witness.url", "http://10.0.0.2:9182", "http://10.0.0.3:9182/prefix"),
    ("audit.witness.verifier_key", "w.example/a+52ea87ed+BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "w.example/c+8bb840ac+BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
    ("witness", "[witness]\nlisten = \"127.0.0.1:9182\"\nname = \"w.example/b\"\nsigning_key = { value = \"BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\" }\nverifier_keys = [\"a.example/b+2e10d46c+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"]\n", ""),
    ("witness.listen", "127.0.0.1:9182", "127.0.0.1:9183"),
    ("witness.name", "w.example/b", "w.example/c"),
    ("witness.signing_key", "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "CAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ("witness.verifier_keys", "verifier_keys = [\"a.example/b+2e10d46c+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"]", "verifier_keys = [\"a.example/d+84058c09+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"]"),
    ("include", "[server]", "include = [\"more-local.toml\"]\n[server]"),
    ("fleet", "name = \"site-a\"\n", "name = \"site-b\"\n"),
    ("fleet.name", "name = \"site-a\"\n", ""),
    ("fleet.secret", "DAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "EAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    ("fleet.trust_anchors", "etcd-ca.pem", "other-ca.pem"),
    ("fleet.peers", "10.0.0.2:9181", "10.0.0.3:9181"),
    ("fleet.etcd", "/xksd/bank", "/xksd/other"),
    ("fleet.etcd.endpoints", ", \"https://[fd00::1]:2379\"", ""),
    ("fleet.etcd.prefix", "/xksd/bank", "/xksd/other"),
    ("fleet.etcd.user", "user = \"xksd\"", "user = \"other\""),
    ("fleet.etcd.password", "value = \"pw\"", "value = \"px\""),
    ("fleet.etcd.client_certificate", "\"etcd.pem\"", "\"etcd-2.pem\""),
    ("fleet.etcd.client_private_key", "etcd-key.pem", "etcd-key-2.pem"),
    ("key_manager", "sessions = 3", "sessions = 4"),
    ("key_manager.name", "name = \"local\"", "name = \"other\""),
    ("key_manager.kind", "kind = \"local\"\nkey_file = \"keys.json\"", "kind = \"pkcs11\"\nmodule = \"m2\"\nslot = 1\npin = { value = \"p\" }"),
    ("key_manager.key_file", "keys.json", "other.json"),
    ("key_manager.folder", "folder = \"keys\"", "folder = \"others\""),
    ("key_manager.unseal_with", "unseal_with = [\"nss\"]", "unseal_with = [\"nss\", \"nss-2\"]"),
    ("key_manager.master", "master = \"m\"", "master = \"n\""),
    ("key_manager.recheck_s", "master = \"m\"", "master = \"m\"\nrecheck_s = 11"),
    ("key_manager.hsm_absent_max_s", "master = \"m\"", "master = \"m\"\nhsm_absent_max_s = 0"),
    ("key_manager.secret_memory", "master = \"m\"", "master = \"m\"\nsecret_memory = \"require\""),
    ("key_manager.min_epoch", "master = \"m\"", "master = \"m\"\nmin_epoch = { foo = 2 }"),
    ("key_manager.module", "module = \"m\"", "module = \"n\""),
    ("key_manager.token", "slot = 2", "token = \"2\""),
    ("key_manager.serial", "slot = 2", "serial = \"2\""),
    ("key_manager.slot", "slot = 2", "slot = 3"),
    ("key_manager.pin", "{ value = \"p\" }", "{ value = \"q\" }"),
    ("key_manager.profile", "profile = \"nss\"", "profile = \"generic\""),
    ("key_manager.sessions", "sessions = 3", "sessions = 4"),
    ("key_manager.initialize_parameters", "sql:/x", "sql:/y"),
    ("key_manager.environment", "{ A = \"b\" }", "{ A = \"c\" }"),
    ("key_manager.verify_encryptions", "sessions = 3", "sessions = 3\nverify_encryptions = false"),
    ("key_manager.read_write_sessions", "sessions = 3", "sessions = 3\nread_write_sessions = true"),
    ("keystore", "path_prefix = \"\"", "path_prefix = \"/b\""),
    ("keystore.path_prefix", "path_prefix = \"\"", "path_prefix = \"/b\""),
    ("keystore.key_manager", "[\"nss\", \"local\"]", "[\"nss\"]"),
    ("keystore.enabled", "enabled = false\naccept", "enabled = true\naccept"),
    ("keystore.credential", "QR27", "QR26"),
    ("keystore.key", "id = \"foo\"", "id = \"bar\""),
    ("keystore.accept_foreign_ciphertext", "accept_foreign_ciphertext = [\"aws-sample\"]\n", ""),
    ("keystore.weight", "enabled = false\naccept", "enabled = false\nweight = 7\naccept"),
    ("keystore.invocation_budget", "enabled = false\naccept", "enabled = false\ninvocation_budget = \"refuse\"\naccept"),
    ("keystore.credential.access_key_id", "QR27", "QR26"),
    ("keystore.credential.secret_access_key", "{ env = \"KEY\" }", "{ value = \"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz\" }"),
    ("keystore.key.id", "id = \"foo\"", "id = \"bar\""),
    ("keystore.key.label", "label = \"a label\"", "label = \"another\""),
    ("keystore.key.enabled", "label = \"a label\"\nenabled = false", "label = \"a label\"\nenabled = true"),
    ("keystore.quota", "quota = { requests_per_second = 1800, burst = 3600, concurrent = 500 }\n", ""),
    ("keystore.quota.requests_per_second", "requests_per_second = 1800", "requests_per_second = 1801"),
    ("keystore.quota.burst", "burst = 3600", "burst = 3601"),
    ("keystore.quota.concurrent", "concurrent = 500", "concurrent = 501"),
    ("keystore.policy", "mode = \"dry-run\"", "mode = \"off\""),
    ("keystore.policy.files", "files = [\"all.cedar\"]", "files = [\"none.cedar\"]"),
    ("keystore.policy.entities", "[\"groups.json\"]", "[\"groups-2.json\"]"),
    ("keystore.policy.mode", "mode = \"dry-run\"", "mode = \"enforce\""),
    ("keystore.policy.ids_in_errors", "ids_in_errors = true", "ids_in_errors = false"),
    ("keystore.key.version", "label = \"a label\"", "version = [{ number = 7, label = \"a\", state = \"primary\" }]"),
    ("keystore.key.version.number", "label = \"a label\"", "version = [{ number = 7, label = \"a\", state = \"primary\" }]"),
    ("keystore.key.version.label", "label = \"a label\"", "version = [{ number = 7, label = \"a\", state = \"primary\" }]"),
    ("keystore.key.version.state", "label = \"a label\"", "version = [{ number = 7, label = \"a\", state = \"primary\" }]"),
    ("keystore.key.version.promoted", "label = \"a label\"", "version = [{ number = 0, label = \"a label\", state = \"primary\", promoted = 2026-11-28T12:00:00Z }]"),
    ("keystore.key.quota", "quota = { requests_per_second = 18, burst = 36, concurrent = 5 }\n", ""),
    ("keystore.key.quota.requests_per_second", "requests_per_second = 18,", "requests_per_second = 19,"),
    ("keystore.key.quota.burst", "burst = 36,", "burst = 37,"),
    ("keystore.key.quota.concurrent", "concurrent = 5 }", "concurrent = 6 }"),
];

/// `FULL` with peers in place of etcd.
fn with_peers() -> String {
    let etcd = &FULL[FULL.find("secret = { value = \"DAA").expect("there")..];
    let etcd = &etcd[..etcd.find("\n[[key_manager]]").expect("the next section")];
    let peers = "trust_anchors = \"etcd-ca.pem\"\npeers = [\"https://10.0.0.2:9181\"]\n";
    FULL.replacen(etcd, peers, 1)
}

#[test]
fn no_key_is_forgotten_by_a_reload() {
    let mut named: Vec<&str> = EDITS.iter().map(|(key, ..)| *key).collect();
    let all = keys::all();
    let mut expected: Vec<&str> = all.iter().map(|(path, _)| path.as_str()).collect();
    named.sort_unstable();
    expected.sort_unstable();
    assert_eq!(named, expected, "each key of the tables, with a change of it");

    let with_peers = with_peers();
    for (key, from, to) in EDITS {
        let full = if *key == "fleet.peers" { &with_peers } else { FULL };
        let old = read(full).expect("valid");
        let mut text = replaced(full, &[(from, to)]);
        if *key == "key_manager.name" {
            text = replaced(&text, &[("\"nss\", \"local\"", "\"nss\", \"other\"")]);
        }
        let mut new = read(&text).unwrap_or_else(|problems| panic!("{key}: {problems}"));
        let in_force = all.iter().find(|(path, _)| path == key).expect("there").1;
        let waiting = keep_running(&mut new, &old).concat();
        let mut said: Vec<String> = omissions(&old, &new).iter().map(ToString::to_string).collect();
        said.extend(at_reload((&old, NO_CERTIFICATES), (&new, NO_CERTIFICATES)));
        let name = key.rsplit('.').next().unwrap_or_default();
        match in_force {
            InForce::Start => assert!(!waiting.is_empty(), "{key}"),
            InForce::Reload => assert!(!said.is_empty(), "{key}"),
        }
        let told = format!("{waiting}{}", said.concat());
        let by_its_name =
            all.iter().filter(|(path, _)| path.starts_with(&format!("{key}."))).count() == 0;
        let in_words =
            ["enabled", "id", "access_key_id", "path_prefix", "name", "include"].contains(&name);
        assert!(!by_its_name || in_words || told.contains(name), "{key}: {told}");
    }
}

#[test]
fn what_waits_for_a_start_is_told_at_each_reload_until_it_is_taken_back() {
    let running = read(SMALL).expect("valid");
    // As each reload does, over what the one before has left in force.
    let mut in_force = running.clone();
    let mut told = |text: &str| {
        let mut new = read(text).expect("valid");
        let waiting = keep_running(&mut new, &in_force);
        assert_eq!(new.server, running.server);
        in_force = new;
        waiting
    };
    let other = "listen = \"0.0.0.0:8443\"\nshards = 3\nrequire_state = true";
    let changed = SMALL.replace("listen = \"0.0.0.0:443\"", other);
    for _ in 0..2 {
        assert_eq!(
            told(&changed),
            [
                "server.listen is 0.0.0.0:8443, was 0.0.0.0:443: in force from the next start only",
                "server.shards is 3, was 0: in force from the next start only",
                "server.require_state is true, was false: in force from the next start only",
            ]
        );
    }
    assert!(told(SMALL).is_empty());
}

/// An audit trail and a witness, as strict as they can be.
const WATCHED: &str = "[audit]
directory = \"audit\"
signing_key = { value = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\" }
origin = \"a.example/b\"
syslog = \"/dev/log\"
[[audit.witness]]
url = \"http://10.0.0.2:9182\"
verifier_key = \"w.example/a+52ea87ed+BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"
[witness]
listen = \"127.0.0.1:9182\"
name = \"w.example/b\"
signing_key = { value = \"BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\" }
verifier_keys = [\"a.example/b+2e10d46c+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"]
[[key_manager]]";

#[test]
fn a_trail_that_runs_keeps_its_name_and_place_and_takes_over_the_rest() {
    let with = |section: &str| read(&replaced(SMALL, &[("[[key_manager]]", section)]));
    let (none, running) = (with("[[key_manager]]").expect("valid"), with(WATCHED).expect("valid"));
    let mut begins = running.clone();
    assert_eq!(keep_running(&mut begins, &none), [""; 0], "one can begin");
    assert_eq!(begins, running);

    let edits = [
        ("directory = \"audit\"", "directory = \"other\"\ndurability = \"interval\""),
        ("a.example/b\"\nsyslog = \"/dev/log\"", "a.example/c\""),
    ];
    let mut other = with(&replaced(WATCHED, &edits)).expect("valid");
    assert_eq!(
        keep_running(&mut other, &running),
        [
            "audit.directory is /etc/xksd/other, was /etc/xksd/audit: in force from the next \
             start only",
            "audit.origin is \"a.example/c\", was \"a.example/b\": in force from the next start \
             only"
        ]
    );
    let (other, running_trail) = (other.audit.expect("there"), running.audit.clone());
    let running_trail = running_trail.expect("there");
    assert_eq!(other.origin, running_trail.origin);
    assert_eq!(other.directory, running_trail.directory);
    assert!(other.syslog.is_none() && other.durability != running_trail.durability);

    let mut ends = none.clone();
    assert!(keep_running(&mut ends, &running).len() > 2);
    assert_eq!(ends.audit, running.audit, "until the next start");
}

#[test]
fn what_weakens_the_audit_is_known_as_such() {
    let with =
        |section: &str| read(&replaced(SMALL, &[("[[key_manager]]", section)])).expect("valid");
    let running = with(WATCHED);
    let of_witness = &WATCHED[WATCHED.find("[[audit.witness]]").expect("there")..];
    let (asked, cosigns) = of_witness.split_at(of_witness.find("[witness]").expect("there"));
    let cosigns = cosigns.strip_suffix("[[key_manager]]").expect("there");
    let origin = "origin = \"a.example/b\"";
    for (from, to, key) in [
        (origin, "durability = \"interval\"", "audit.durability is"),
        (origin, "when_unwritable = \"continue\"", "audit.when_unwritable is"),
        (origin, "retention_days = 7", "audit.retention_days is"),
        ("syslog = \"/dev/log\"\n", "", "audit.syslog is left out"),
        (asked, "", "audit.witness is left out"),
        (cosigns, "", "witness.listen is left out"),
    ] {
        let to = if from == origin { format!("{origin}\n{to}") } else { to.to_owned() };
        let weaker = with(&replaced(WATCHED, &[(from, &to)]));
        let told = weakened(&running, &weaker);
        assert!(told.iter().any(|line| line.starts_with(key)), "{key}: {told:?}");
        let all = at_reload((&running, NO_CERTIFICATES), (&weaker, NO_CERTIFICATES));
        assert!(told.iter().all(|line| all.contains(line)), "{key}: {told:?}");
        assert_eq!(weakened(&weaker, &running), [""; 0], "{key}: back again");
    }
    let interval = |ms: u32| {
        let trail = format!("{origin}\ndurability = \"interval\"\ninterval_ms = {ms}");
        with(&replaced(WATCHED, &[(origin, &trail)]))
    };
    assert_eq!(weakened(&interval(10), &interval(20)), ["audit.interval_ms is 20, was 10"]);
    assert_eq!(weakened(&interval(20), &interval(10)), [""; 0]);
}

#[test]
fn of_the_fleet_a_reload_brings_how_it_is_reached_and_not_which_it_is() {
    let (etcd, peers) = (read(FULL).expect("valid"), read(&with_peers()).expect("valid"));
    let none = Config { fleet: None, ..etcd.clone() };
    let mut new = peers.clone();
    assert_eq!((keep_running(&mut new, &none), new.fleet), (Vec::new(), peers.fleet.clone()));
    assert!(told_of_configs(&none, &peers).iter().any(|line| line.starts_with("fleet.peers is")));
    for (running, new) in [(&etcd, &peers), (&peers, &etcd), (&etcd, &none)] {
        let mut kept = new.clone();
        let waiting = keep_running(&mut kept, running);
        assert!(waiting.iter().any(|line| line.starts_with("fleet.")), "{waiting:?}");
        assert_eq!(kept.fleet, running.fleet);
        assert_eq!(told_of_configs(running, &kept), [""; 0]);
    }
    // What the fleet has blocked would be forgotten.
    let missing = |running, new| omissions(running, new).into_iter().map(|p| p.key);
    for new in [&peers, &none] {
        assert!(missing(&etcd, new).eq(["fleet.etcd"]));
        assert!(missing(new, &etcd).chain(missing(&peers, new)).eq([""; 0]));
    }
    let edits = [("/xksd/bank", "/b"), ("\"site-a\"", "\"b\""), ("\"xksd\"", "\"u\"")];
    let mut new = read(&replaced(FULL, &edits)).expect("valid");
    let waiting = keep_running(&mut new, &etcd).join("\n");
    assert_eq!(waiting.lines().count(), 2, "{waiting}");
    assert!(waiting.contains("fleet.name is \"b\"") && waiting.contains("fleet.etcd.prefix is"));
    let running = new.fleet.as_ref().and_then(|fleet| fleet.etcd()).expect("etcd");
    assert_eq!(running.prefix, "/xksd/bank");
    assert_eq!(told_of_configs(&etcd, &new), ["fleet.etcd.user is \"u\", was \"xksd\""]);
}

#[test]
fn a_certificate_of_the_fleet_that_was_renewed_is_said() {
    let old = read(FULL).expect("valid");
    let mut new = old.clone();
    let path = old.fleet.as_ref().expect("one").files()[1].1.to_owned();
    let digest = crate::config::files::digest_of(b"another");
    assert_ne!(new.files.insert(path.clone(), digest.clone()), Some(digest));
    let said = format!("fleet.etcd.client_certificate: {} has changed", path.display());
    assert_eq!(told_of_configs(&old, &new), [said]);
}

#[test]
fn nobody_is_let_in_by_what_is_left_out() {
    let client = "[tls.client]\ntrust_anchors = \"t\"\nsubject_common_names = [\"kms\"]\n\
        [[key_manager]]";
    let guarded = replaced(
        SMALL,
        &[
            ("[[key_manager]]", client),
            ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-a\"]\nenabled = false"),
            ("id = \"foo\"", "id = \"foo\"\nenabled = false"),
        ],
    );
    let missing = |text: &str| {
        let problems = omissions(&read(&guarded).expect("valid"), &read(text).expect("valid"));
        problems.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
    };
    assert_eq!(missing(&guarded), [""; 0]);
    assert_eq!(missing(SMALL), ["tls.client", "keystore[0].enabled", "keystore[0].key[0].enabled"]);
    // Said, and not left out.
    let said = replaced(
        SMALL,
        &[
            ("[tls]", "[tls]\nclient_authentication = \"none\""),
            ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-a\"]\nenabled = true"),
            ("id = \"foo\"", "id = \"foo\"\nenabled = true"),
        ],
    );
    assert_eq!(missing(&said), [""; 0]);
    // Gone, or another one: nobody comes in by that.
    let other = replaced(&said, &[("id = \"foo\"\nenabled = true", "id = \"bar\"")]);
    assert_eq!(missing(&other), [""; 0]);
    let other = replaced(&other, &[("\"/a\"", "\"/b\""), ("\nenabled = true", "")]);
    assert_eq!(missing(&other), [""; 0]);
    // Cut short, at any byte that leaves something valid.
    for end in (0..guarded.len()).filter(|&end| guarded.is_char_boundary(end)) {
        let (Ok(running), Ok(cut)) = (read(&guarded), read(&guarded[..end])) else { continue };
        let open = |config: &Config| {
            config.tls.client.is_none()
                || config.keystores.iter().any(|s| s.enabled || s.keys.iter().any(|k| k.enabled))
        };
        assert!(!open(&cut) || !omissions(&running, &cut).is_empty(), "cut at {end}");
    }
}

#[test]
fn a_quota_is_not_given_up_by_what_is_left_out() {
    let quota = |of_store: &str, of_key: &str| {
        let (store, key) = ("key_manager = [\"hsm-a\"]", "id = \"foo\"");
        let text = replaced(SMALL, &[(store, &format!("{store}{of_store}"))]);
        read(&replaced(&text, &[(key, &format!("{key}{of_key}"))])).expect("valid")
    };
    let bounds = "\nquota = { concurrent = 5 }";
    let running = quota(bounds, bounds);
    let missing = |of_store: &str, of_key: &str| {
        let problems = omissions(&running, &quota(of_store, of_key));
        problems.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
    };
    assert_eq!(missing("", ""), ["keystore[0].quota", "keystore[0].key[0].quota"]);
    let (other, none) = ("\nquota = { concurrent = 6 }", "\nquota = \"unlimited\"");
    assert_eq!(missing(other, none), [""; 0]);
    assert_eq!(missing(none, other), [""; 0]);
    assert_eq!(omissions(&quota("", ""), &quota("", "")), []);
}

#[test]
fn what_is_stated_of_client_certificates_must_be_so() {
    let client = "[tls.client]\ntrust_anchors = \"t\"\nsubject_common_names = [\"kms\"]\n\
        [[key_manager]]";
    let stated = |word: &str, client: &str| {
        let tls = format!("[tls]\nclient_authentication = \"{word}\"");
        problems(&replaced(SMALL, &[("[tls]", &tls), ("[[key_manager]]", client)]))
    };
    for (word, client, key) in [
        ("required", client, None),
        ("required", "[[key_manager]]", Some("tls")),
        ("none", "[[key_manager]]", None),
        ("none", client, Some("tls.client")),
        ("optional", client, Some("tls.client_authentication")),
    ] {
        let found = stated(word, client);
        let keys: Vec<&str> = found.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(keys, Vec::from_iter(key), "{word}");
    }
}

#[test]
fn a_change_of_versions_only_is_known_as_such() {
    let versions = |second: &str| {
        let first = "[[keystore.key.version]]\nnumber = 0\nlabel = \"foo\"\nstate = ";
        format!(
            "{SMALL}{first}\"{second}\"\n[[keystore.key.version]]\nnumber = 1\nlabel = \"b\"\nstate = \"primary\"\n"
        )
    };
    let running = read(SMALL).expect("valid");
    let only = |text: &str| only_key_versions(&running, &read(text).expect("valid"));
    assert!(only(&versions("decrypt_only")));
    assert!(!only(SMALL), "nothing differs");
    assert!(!only(
        &versions("decrypt_only")
            .replace("shards = 0", "shards = 1")
            .replace("regions = [\"us-east-1\"]", "regions = [\"us-east-2\"]")
    ));
    assert!(!only(&format!("{}[[keystore.key]]\nid = \"bar\"\n", versions("disabled"))));
}
