use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::key_manager::VersionState;
use crate::key_manager::pkcs11::{Profile, TokenSelector};
use crate::policy::Mode;
use crate::policy::cedar::Source;
use crate::policy::quota::{Bounds, Rate};

use super::*;

mod aws;
mod bounds;
mod difference;
mod documented;
mod properties;

/// Files and variables in a map.
#[derive(Default)]
struct Fake {
    files: HashMap<PathBuf, Vec<u8>>,
    variables: HashMap<String, OsString>,
    certificates: Vec<crate::tls::Certificate>,
}

impl Sources for Fake {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn secret_file(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        self.files
            .get(path)
            .map(|content| Zeroizing::new(content.clone()))
            .ok_or_else(|| "does not exist".to_owned())
    }

    fn is_missing(&self, path: &Path) -> bool {
        !self.files.contains_key(path)
    }

    fn policy_file(&self, path: &Path) -> Result<String, String> {
        let content = self.files.get(path).ok_or("does not exist")?;
        Ok(String::from_utf8_lossy(content).into_owned())
    }

    fn included_file(&self, path: &Path) -> Result<IncludedFile, String> {
        Ok((self.policy_file(path)?.into(), 0o600))
    }

    fn check_file(&self, _: &Path, _: Exposure) -> Result<(), String> {
        Ok(())
    }

    fn key_file_labels(&self, _: &Path) -> Result<Option<Vec<String>>, String> {
        Ok(None)
    }

    fn check_tls(&self, _: &crate::tls::Settings) -> crate::tls::Report {
        crate::tls::Report::default()
    }

    fn certificates(&self, _: &Path) -> Vec<crate::tls::Certificate> {
        self.certificates.clone()
    }
}

const SECRET: &str = "Wlrnb7UMsTnhZcrBGwpXpTkkFtZ3dUMWXJ2Pn1Kmg5fA";

const ALL: &str = "@id(\"all\") permit(principal, action, resource);";

/// A further key store, as a file that is included.
const MORE: &str = r#"
[[keystore]]
path_prefix = "/more"
key_manager = ["hsm-a"]
[[keystore.credential]]
access_key_id = "MNOPQRSTUVWXMNOPQRST"
secret_access_key = { file = "secrets/key" }
[[keystore.key]]
id = "foo"
"#;

fn fake() -> Fake {
    let file =
        |name: &str, content: &[u8]| (PathBuf::from("/etc/xksd").join(name), content.to_vec());
    Fake {
        certificates: Vec::new(),
        files: HashMap::from([
            file("secrets/pin", b"1234\n"),
            file("secrets/key", format!("{SECRET}\n").as_bytes()),
            file("secrets/crlf", format!("{SECRET}\r\n").as_bytes()),
            file("secrets/two-lines", format!("{SECRET}\n\n").as_bytes()),
            file("secrets/empty", b""),
            file("secrets/newline", b"\n"),
            file("secrets/binary", b"\xff\xfe"),
            file("more.toml", MORE.as_bytes()),
            file("more-local.toml", MORE.replace("hsm-a", "local").as_bytes()),
            file("more-wrong.toml", MORE.replace("key_manager", "key_managr").as_bytes()),
            file("server.toml", b"[server]\nshards = 1"),
            file("broken.toml", b"[[keystore]]\n= 1"),
            file("all.cedar", ALL.as_bytes()),
            file("none.cedar", b"@id(\"none\") forbid(principal, action, resource);"),
            file("wrong.cedar", b"\n@id(\"w\") permit(principal, action, resource == 1);"),
            file("groups.json", b"[]"),
            file("groups-2.json", b"[ ]"),
        ]),
        variables: HashMap::from([
            ("KEY".to_owned(), SECRET.into()),
            ("EMPTY".to_owned(), OsString::new()),
            ("BINARY".to_owned(), OsString::from_vec(vec![0xff])),
        ]),
    }
}

pub(crate) fn read(text: &str) -> Result<Config, Invalid> {
    Config::parse(text, Path::new("/etc/xksd/xksd.toml"), &fake())
}

/// A valid document with everything left out that may be left out.
pub(crate) const SMALL: &str = r#"
[server]
listen = "0.0.0.0:443"
regions = ["us-east-1"]
[tls]
certificate_chain = "chain.pem"
private_key = "/keys/key.pem"
[[key_manager]]
name = "hsm-a"
kind = "pkcs11"
module = "/usr/lib/p11.so"
token = "xks"
pin = { file = "secrets/pin" }
[[keystore]]
path_prefix = "/a"
key_manager = ["hsm-a"]
[[keystore.credential]]
access_key_id = "ABCDEFGHIJKLMNOPQR27"
secret_access_key = { file = "secrets/key" }
[[keystore.key]]
id = "foo"
"#;

/// `SMALL` with `from` (which must be there) replaced.
fn edited(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from:?} is not in the document");
    SMALL.replacen(from, to, 1)
}

/// As the log tells them.
fn warnings(config: &Config) -> Vec<String> {
    config.warnings.iter().map(ToString::to_string).collect()
}

fn key(id: &str, label: &str, enabled: Option<bool>) -> Key {
    Key {
        id: id.to_owned(),
        versions: vec![KeyVersion {
            number: 0,
            label: label.to_owned(),
            state: VersionState::Primary,
            promoted: None,
        }],
        versions_are_stated: false,
        enabled: enabled.unwrap_or(true),
        enabled_is_stated: enabled.is_some(),
        quota: None,
        quota_is_stated: false,
    }
}

fn problems(text: &str) -> Vec<Problem> {
    match read(text) {
        Ok(_) => Vec::new(),
        Err(invalid) => invalid.problems,
    }
}

#[test]
fn defaults() {
    let config = read(SMALL).unwrap();
    assert_eq!(
        config.server,
        Server {
            listen: "0.0.0.0:443".parse().unwrap(),
            shards: 0,
            request_budget: Duration::from_millis(200),
            regions: vec!["us-east-1".to_owned()],
            shutdown_delay: Duration::from_secs(5),
            shutdown_time: Duration::from_secs(10),
            instances: 1,
            watch_files: true,
            log: LogFormat::Auto,
            log_level: LogLevel::Info,
            otlp: Otlp { endpoint: None, trust_anchors: None, sample_one_in: 100 },
            log_output: LogOutput::Stderr,
            require_state: false,
            proxy_protocol: Vec::new(),
            state_directory: "/etc/xksd/state".into(),
            control_socket: "/etc/xksd/state/control.sock".into(),
        }
    );
    assert_eq!(config.tls.certificate_chain, Path::new("/etc/xksd/chain.pem"));
    assert_eq!(config.tls.private_key, Path::new("/keys/key.pem"));
    assert_eq!(config.tls.client, None);
    assert_eq!(config.admin, None);
    assert_eq!(config.key_managers.len(), 1);
    let Kind::Pkcs11(hsm) = &config.key_managers[0].kind else { panic!("not pkcs11") };
    assert_eq!((hsm.profile, hsm.sessions), (Profile::Generic, 16));
    assert_eq!(
        (&hsm.initialize_parameters, &hsm.token),
        (&None, &TokenSelector::Label("xks".to_owned()))
    );
    assert_eq!(hsm.pin.expose(), "1234");
    let store = &config.keystores[0];
    assert_eq!(store.uri_path(), "/a/kms/xks/v1");
    assert_eq!((store.enabled, store.key_managers.as_slice()), (true, &[0][..]));
    assert_eq!(store.credentials[0].secret_access_key.expose(), SECRET);
    assert_eq!(store.keys, [key("foo", "foo", None)]);
    assert_eq!(store.accept_foreign_ciphertext, []);
    assert_eq!(warnings(&config), [""; 0]);
}

#[test]
fn the_control_socket_is_found_in_a_file_that_is_wrong_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("xksd.toml");
    let found = |text: &str| {
        std::fs::write(&file, text).unwrap();
        reachable(&file).unwrap().control_socket
    };
    let below = |path: &str| dir.path().join(path);
    assert_eq!(found("oops"), below("state/control.sock"));
    assert_eq!(found("[server]\nstate_directory = \"s\"\noops = 1"), below("s/control.sock"));
    assert_eq!(found("[server]\ncontrol_socket = \"/run/c\"\n[tls]\nx ="), Path::new("/run/c"));
    std::fs::remove_file(&file).unwrap();
    assert!(reachable(&file).is_err());
}

#[test]
fn a_quota_bounds_a_key_store_or_a_key() {
    let quota = |text: &str| {
        let config = read(&format!("{SMALL}[keystore.quota]\n{text}")).unwrap();
        config.keystores[0].quota
    };
    let rate = |requests_per_second, burst| Some(Rate { requests_per_second, burst });
    let bounds = |rate, concurrent| Some(Bounds { rate, concurrent });
    assert_eq!(quota("requests_per_second = 5"), bounds(rate(5, 5), None));
    assert_eq!(quota("requests_per_second = 5\nburst = 9"), bounds(rate(5, 9), None));
    assert_eq!(quota("concurrent = 500"), bounds(None, Some(500)));
    let of_key = read(&format!("{SMALL}[keystore.key.quota]\nconcurrent = 1")).unwrap();
    assert_eq!(of_key.keystores[0].keys[0].quota, bounds(None, Some(1)));
    assert_eq!((of_key.keystores[0].quota, read(SMALL).unwrap().keystores[0].quota), (None, None));
}

#[test]
fn policies_are_read_and_validated() {
    let policy = |text: &str| {
        let config = read(&format!("{SMALL}[keystore.policy]\n{text}")).unwrap();
        (config.keystores[0].policy.clone().unwrap(), warnings(&config))
    };
    let (policy_read, warned) = policy("files = [\"all.cedar\"]");
    assert_eq!((policy_read.mode, policy_read.ids_in_errors), (Some(Mode::Enforce), false));
    assert_eq!((policy_read.entities.len(), warned.len()), (0, 0));
    assert_eq!(policy("files = [\"all.cedar\"]\nmode = \"off\"").0.mode, None);
    let warned = policy("files = [\"none.cedar\"]").1;
    assert_eq!(
        warned,
        ["keystore[0].policy.files: none.cedar: no policy permits anything: every request is \
             denied"]
    );
    let told = |text: &str| {
        let found = problems(&format!("{SMALL}[keystore.policy]\n{text}"));
        found.iter().map(|p| format!("{}: {p}", p.line.unwrap())).collect::<Vec<_>>().join("\n")
    };
    assert!(told("").contains("keystore[0].policy.files: missing"));
    assert!(told("files = []").contains("at least one"));
    assert!(told("files = [\"no.cedar\"]").ends_with("/etc/xksd/no.cedar does not exist"));
    assert!(told("files = [\"all.cedar\"]\nmode = \"on\"").contains("\"enforce\", \"dry-run\""));
    let wrong = told("mode = \"off\"\nfiles = [\"all.cedar\", \"wrong.cedar\"]");
    assert!(wrong.starts_with("24: keystore[0].policy.files: wrong.cedar:2: "), "{wrong}");
    let twice = told("files = [\"all.cedar\", \"all.cedar\"]");
    assert!(twice.contains("policy \"all\": another policy"), "{twice}");
    let entities = told("files = [\"all.cedar\"]\nentities = [\"all.cedar\"]");
    assert!(entities.contains("all.cedar:1: "), "{entities}");
}

#[test]
fn versions_of_a_key() {
    let version = |number: u16, label: &str, state: &str| {
        let label = if label.is_empty() { String::new() } else { format!("label = \"{label}\"\n") };
        format!("[[keystore.key.version]]\nnumber = {number}\nstate = \"{state}\"\n{label}")
    };
    let text = [
        SMALL,
        &version(0, "", "destroyed"),
        &version(1, "foo-1", "decrypt_only"),
        &version(3, "foo-3", "staged"),
        &version(2, "foo-2", "primary"),
        &version(4, "foo-4", "disabled"),
    ];
    let config = read(&text.concat()).unwrap();
    let key = &config.keystores[0].keys[0];
    let numbers: Vec<u16> = key.usable().map(|version| version.number).collect();
    assert_eq!((key.versions.len(), numbers), (5, vec![1, 3, 2]));
    for (versions, at, words) in [
        (version(0, "a", "staged"), "version", "no version has the state \"primary\""),
        (version(0, "a", "primary") + &version(1, "b", "primary"), "version", "2 versions are"),
        (
            version(0, "a", "primary") + &version(0, "b", "staged"),
            "version[1]",
            "stands here twice",
        ),
        (version(0, "a", "primary") + &version(1, "a", "staged"), "version[1].label", "is taken"),
        (version(0, "a", "retired"), "version[0].state", "\"staged\", \"primary\""),
        (version(0, "", "primary"), "version[0].label", "missing"),
        ("label = \"x\"\n".to_owned() + &version(0, "a", "primary"), "label", "each version has"),
        ("version = []".to_owned(), "version", "0 versions: 1 to 256"),
    ] {
        let found = problems(&format!("{SMALL}{versions}"));
        assert_eq!(found.len(), 1, "{versions}: {found:#?}");
        assert_eq!(found[0].key, format!("keystore[0].key[0].{at}"));
        assert!(found[0].message.contains(words), "{}", found[0].message);
    }
    let many = |count: u16| {
        let first = version(0, "first", "primary");
        let rest = (1..count).map(|number| version(number, &format!("v{number}"), "staged"));
        problems(&[SMALL.to_owned(), first].into_iter().chain(rest).collect::<String>()).len()
    };
    assert_eq!((many(256), many(257)), (0, 1));
}

#[test]
fn sessions_where_none_are_given_are_the_profile_s() {
    let sessions = |more: &str| {
        let config = read(&edited("token = \"xks\"", &format!("token = \"xks\"\n{more}"))).unwrap();
        let Kind::Pkcs11(hsm) = &config.key_managers[0].kind else { panic!("not pkcs11") };
        (hsm.profile, hsm.sessions)
    };
    assert_eq!(sessions("profile = \"luna\""), (Profile::Luna, 32));
    assert_eq!(sessions("profile = \"cloudhsm\"\nsessions = 5"), (Profile::CloudHsm, 5));
    assert_eq!(sessions("profile = \"nshield\""), (Profile::NShield, 32));
}

/// A valid document with everything in it.
const FULL: &str = r#"
[server]
listen = "[::]:8443"
shards = 4
request_budget_ms = 150
regions = ["us-gov-west-1", "eusc-de-east-1"]
shutdown_delay_ms = 0
shutdown_ms = 5000
log = "json"
[tls]
certificate_chain = "c"
private_key = "k"
client_authentication = "required"
[tls.client]
trust_anchors = "t"
subject_common_names = ["cks.kms.us-east-1.amazonaws.com"]
require_client_auth_eku = false
[admin]
listen = "127.0.0.1:9180"
hosts = ["xksd-1.example.com"]
[audit]
directory = "audit"
signing_key = { value = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" }
origin = "a.example/b"
durability = "interval"
interval_ms = 100
when_unwritable = "continue"
retention_days = 7
[[audit.witness]]
url = "http://10.0.0.2:9182"
verifier_key = "w.example/a+52ea87ed+BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
[witness]
listen = "127.0.0.1:9182"
name = "w.example/b"
signing_key = { value = "BAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" }
verifier_keys = ["a.example/b+2e10d46c+AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
[fleet]
name = "site-a"
secret = { value = "DAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=" }
trust_anchors = "etcd-ca.pem"
[fleet.etcd]
endpoints = ["https://10.0.0.1:2379", "https://[fd00::1]:2379"]
prefix = "/xksd/bank"
user = "xksd"
password = { value = "pw" }
client_certificate = "etcd.pem"
client_private_key = "etcd-key.pem"
[[key_manager]]
name = "local"
kind = "local"
key_file = "keys.json"
[[key_manager]]
name = "nss"
kind = "pkcs11"
module = "m"
slot = 2
pin = { value = "p" }
profile = "nss"
sessions = 3
initialize_parameters = "configdir='sql:/x'"
environment = { A = "b" }
[[key_manager]]
name = "nss-2"
kind = "pkcs11"
module = "m2"
slot = 1
pin = { value = "p2" }
[[key_manager]]
name = "near"
kind = "wrapped"
folder = "keys"
unseal_with = ["nss"]
master = "m"
[[keystore]]
path_prefix = ""
key_manager = ["nss", "local"]
enabled = false
accept_foreign_ciphertext = ["aws-sample"]
quota = { requests_per_second = 1800, burst = 3600, concurrent = 500 }
[keystore.policy]
files = ["all.cedar"]
entities = ["groups.json"]
mode = "dry-run"
ids_in_errors = true
[[keystore.credential]]
access_key_id = "ABCDEFGHIJKLMNOPQR27"
secret_access_key = { env = "KEY" }
[[keystore.key]]
id = "foo"
label = "a label"
enabled = false
quota = { requests_per_second = 18, burst = 36, concurrent = 5 }
"#;

#[test]
fn everything_given() {
    let config = read(FULL).unwrap();
    assert_eq!((config.server.shards, config.server.log), (4, LogFormat::Json));
    assert_eq!(
        (config.server.request_budget.as_millis(), config.server.shutdown_time.as_millis()),
        (150, 5000)
    );
    assert_eq!(config.server.shutdown_delay, Duration::ZERO);
    assert_eq!(config.tls.client_authentication, ClientAuthentication::Required);
    let client = config.tls.client.unwrap();
    assert_eq!(client.trust_anchors, Path::new("/etc/xksd/t"));
    assert!(!client.require_client_auth_eku);
    let admin = config.admin.unwrap();
    assert_eq!(admin.listen, "127.0.0.1:9180".parse().unwrap());
    assert_eq!(admin.hosts, ["xksd-1.example.com"]);
    assert_eq!(config.key_managers[0].kind, Kind::Local { key_file: "/etc/xksd/keys.json".into() });
    let Kind::Pkcs11(nss) = &config.key_managers[1].kind else { panic!("not pkcs11") };
    assert_eq!((nss.profile, nss.sessions, &nss.token), (Profile::Nss, 3, &TokenSelector::Slot(2)));
    assert_eq!(nss.initialize_parameters.as_deref(), Some("configdir='sql:/x'"));
    let store = &config.keystores[0];
    assert_eq!(
        (store.uri_path().as_str(), store.enabled, store.key_managers.as_slice()),
        ("/kms/xks/v1", false, &[1, 0][..])
    );
    assert_eq!(store.accept_foreign_ciphertext, [ForeignCiphertext::AwsSample]);
    let rate = |requests_per_second, burst| Some(Rate { requests_per_second, burst });
    assert_eq!(store.quota, Some(Bounds { rate: rate(1800, 3600), concurrent: Some(500) }));
    let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
    let found = store.policy.as_ref().expect("one");
    assert_eq!(found.compiled.0.list().len(), 1);
    let policy = Policy {
        files: vec![source("all.cedar", ALL)],
        entities: vec![source("groups.json", "[]")],
        mode: Some(Mode::DryRun),
        ids_in_errors: true,
        compiled: found.compiled.clone(),
    };
    assert_eq!(found, &policy);
    let quota = Some(Bounds { rate: rate(18, 36), concurrent: Some(5) });
    assert_eq!(
        store.keys,
        [Key { quota, quota_is_stated: true, ..key("foo", "a label", Some(false)) }]
    );
}

#[test]
fn all_problems_at_once_in_the_order_of_the_file() {
    let text = r#"
[server]
listen = "here"
regions = ["nowhere"]
colour = "red"
[[key_manager]]
name = "a"
kind = "local"
[[key_manager]]
name = "a"
kind = "pkcs11"
pin = { value = "x", file = "y" }
[[keystore]]
path_prefix = "/p"
key_manager = ["a", "b"]
[[keystore.credential]]
access_key_id = "short"
secret_access_key = { env = "NONE" }
[[keystore.credential]]
access_key_id = "short"
[[keystore]]
path_prefix = "/p"
"#;
    let found: Vec<(String, Option<usize>)> =
        problems(text).into_iter().map(|p| (p.key, p.line)).collect();
    let expected = [
        ("tls", 1),
        ("server.listen", 3),
        ("server.regions[0]", 4),
        ("server.colour", 5),
        ("key_manager[0].key_file", 6),
        ("key_manager[1]", 9),
        ("key_manager[1].module", 9),
        ("key_manager[1].name", 10),
        ("key_manager[1].pin", 12),
        ("keystore[0].key_manager[1]", 15),
        ("keystore[0].credential[0].access_key_id", 17),
        ("keystore[0].credential[0].secret_access_key.env", 18),
        ("keystore[0].credential[1].secret_access_key", 19),
        ("keystore[0].credential[1].access_key_id", 20),
        ("keystore[0].credential[1].access_key_id", 20),
        ("keystore[1].credential", 21),
        ("keystore[1].key_manager", 21),
        ("keystore[1].path_prefix", 22),
    ];
    let mut found: Vec<(&str, usize)> =
        found.iter().map(|(key, line)| (key.as_str(), line.unwrap())).collect();
    assert!(found.is_sorted_by_key(|(_, line)| *line), "{found:?}");
    found.sort_by_key(|(key, line)| (*line, *key));
    assert_eq!(found, expected);
}

#[test]
fn an_empty_document_names_every_section_that_is_needed() {
    let mut keys: Vec<String> = problems("").into_iter().map(|p| p.key).collect();
    keys.sort();
    assert_eq!(keys, ["key_manager", "keystore", "server", "tls"]);
}

#[test]
fn single_brackets_are_explained() {
    let found = problems(&edited("[[key_manager]]", "[key_manager]"));
    assert!(
        found.iter().any(|p| p.key == "key_manager" && p.message.contains("double brackets")),
        "{found:#?}"
    );
}

#[test]
fn the_same_credential_may_serve_two_key_stores() {
    let second = &SMALL[SMALL.find("[[keystore]]").expect("there")..];
    assert_eq!(read(&format!("{SMALL}{}", second.replace("/a", "/b"))).unwrap().keystores.len(), 2);
    let found = problems(&format!("{SMALL}{second}"));
    assert_eq!((found.len(), found[0].key.as_str()), (1, "keystore[1].path_prefix"));
    assert!(found[0].message.contains("keystore[0] has it too"));
}

#[test]
fn one_module_is_initialised_with_one_set_of_parameters() {
    let second = |more: &str| {
        let block = format!(
            "[[key_manager]]\nname = \"hsm-b\"\nkind = \"pkcs11\"\nmodule = \
             \"/usr/lib/p11.so\"\n{more}\npin = {{ file = \"secrets/pin\" }}\n"
        );
        edited("[[keystore]]", &format!("{block}[[keystore]]"))
            .replace("[\"hsm-a\"]", "[\"hsm-a\", \"hsm-b\"]")
    };
    let good = read(&second("token = \"other\"")).unwrap();
    assert_eq!(warnings(&good), [""; 0]);
    let same = read(&second("token = \"xks\"")).unwrap();
    assert_eq!(
        warnings(&same),
        ["key_manager[1]: the same token as key_manager[0]; it is no replica of it"]
    );
    let found = problems(&second("token = \"other\"\ninitialize_parameters = \"x\""));
    assert_eq!((found.len(), found[0].key.as_str()), (1, "key_manager[1].initialize_parameters"));
}

#[test]
fn warnings_tell_what_is_probably_not_meant() {
    let spare =
        "[[key_manager]]\nname = \"spare\"\nkind = \"local\"\nkey_file = \"k\"\n[[keystore]]";
    let config =
        read(&edited("[[keystore]]", spare).replace("[[keystore.key]]\nid = \"foo\"", "")).unwrap();
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert!(
        warnings(&config).iter().any(|w| w.contains("keystore[0]: no [[keystore.key]]")),
        "{:?}",
        config.warnings
    );
    assert!(
        warnings(&config).iter().any(|w| w == "key_manager[1]: no key store uses \"spare\""),
        "{:?}",
        config.warnings
    );
}

#[test]
fn syntax_errors_name_line_and_column_and_never_the_text() {
    let text = "[server]\nlisten = \"0.0.0.0:443\"\npin = { value = \"hunter2hunter2\n";
    let invalid = read(text).unwrap_err();
    assert_eq!(invalid.problems[0].line, Some(3), "{invalid}");
    assert!(invalid.problems[0].column.is_some());
    assert!(invalid.to_string().starts_with("/etc/xksd/xksd.toml:3:"), "{invalid}");
    assert!(!invalid.to_string().contains("hunter2"), "{invalid}");

    // Columns count characters, not bytes.
    let invalid = read("[server]\n\"éé\" = = 1\n").unwrap_err();
    assert_eq!(
        (invalid.problems[0].line, invalid.problems[0].column),
        (Some(2), Some(8)),
        "{invalid}"
    );
}

#[test]
fn many_syntax_errors_are_cut() {
    let invalid = read(&"= 1\n".repeat(1000)).unwrap_err();
    assert_eq!(invalid.problems.len(), SYNTAX_ERRORS_TOLD_MAX);
}

#[test]
fn secrets_are_never_shown() {
    let config =
        read(&edited("{ file = \"secrets/pin\" }", "{ value = \"hunter2hunter2\" }")).unwrap();
    let shown = format!("{config:?} {config:#?}");
    assert!(!shown.contains("hunter2") && !shown.contains(SECRET), "{shown}");

    // A secret of the wrong form or in the wrong type.
    for wrong in [
        "{ value = \"hunter2 hunter2\" }",
        "\"hunter2 hunter2\"",
        "[\"hunter2\"]",
        "{ value = [\"hunter2\"] }",
        "{ env = \"hunter2+\" }",
        "{ value = 'hunter2",
    ] {
        let invalid = read(&edited("{ file = \"secrets/key\" }", wrong)).unwrap_err();
        assert!(!invalid.to_string().contains("hunter2"), "{invalid}");
    }
}

#[test]
fn long_and_strange_text_is_cut_and_escaped_in_messages() {
    let invalid = read(&edited("\"0.0.0.0:443\"", &format!("\"\\u001b[31m{}\"", "é".repeat(5000))))
        .unwrap_err();
    assert!(invalid.to_string().len() < 500, "{}", invalid.to_string().len());
    assert!(!invalid.to_string().contains('\u{1b}'));
}

/// `SMALL` with a second key manager of another module, each with this environment.
fn with_environments(first: &str, second: &str) -> String {
    let block = |name: &str, environment: &str| {
        format!(
            "[[key_manager]]\nname = \"{name}\"\nkind = \"pkcs11\"\nmodule = \"{name}.so\"\ntoken \
             = \"xks\"\npin = {{ file = \"secrets/pin\" }}\nenvironment = {environment}\n"
        )
    };
    edited("[[keystore]]", &format!("{}{}[[keystore]]", block("b", first), block("c", second)))
        .replace("[\"hsm-a\"]", "[\"hsm-a\", \"b\", \"c\"]")
}

#[test]
fn a_process_has_one_environment() {
    let config = read(&with_environments(
        "{ A = { path = \"a.conf\" }, B = \"\" }",
        "{ A = \"/etc/xksd/a.conf\" }",
    ))
    .unwrap();
    assert_eq!(warnings(&config), [""; 0]);
    let environment = |place: usize| match &config.key_managers[place].kind {
        Kind::Pkcs11(hsm) => hsm.environment.clone().into_iter().collect::<Vec<_>>(),
        other => panic!("{} and not pkcs11", other.name()),
    };
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(environment(0), []);
    assert_eq!(environment(1), [variable("A", "/etc/xksd/a.conf"), variable("B", "")]);
    assert_eq!(environment(2), [variable("A", "/etc/xksd/a.conf")]);

    let found = problems(&with_environments("{ A = \"secret-1\" }", "{ A = \"secret-2\" }"));
    assert_eq!((found.len(), found[0].key.as_str()), (1, "key_manager[2].environment.A"));
    assert!(found[0].message.contains("the same as in key_manager[1]"), "{found:?}");
    assert!(!found[0].message.contains("secret-"), "{found:?}");

    // What is set already is replaced, with a warning.
    let config =
        read(&with_environments("{ KEY = \"x\", EMPTY = \"\" }", "{ KEY = \"x\" }")).unwrap();
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    assert!(
        warnings(&config)[0].starts_with("key_manager[1].environment.KEY: takes the place of"),
        "{:?}",
        config.warnings
    );
}
