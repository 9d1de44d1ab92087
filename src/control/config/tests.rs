use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::hsm::pkcs11::{Profile, TokenSelector};

use super::*;

/// Files and variables in a map.
#[derive(Default)]
struct Fake {
    files: HashMap<PathBuf, Vec<u8>>,
    variables: HashMap<String, OsString>,
}

impl Sources for Fake {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.variables.get(name).cloned()
    }

    fn secret_file(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
        self.files.get(path).map(|content| Zeroizing::new(content.clone())).ok_or_else(|| "does not exist".to_owned())
    }

    fn check_file(&self, _: &Path, _: Exposure) -> Result<(), String> {
        Ok(())
    }
}

const SECRET: &str = "Wlrnb7UMsTnhZcrBGwpXpTkkFtZ3dUMWXJ2Pn1Kmg5fA";

fn fake() -> Fake {
    let file = |name: &str, content: &[u8]| (PathBuf::from("/etc/xksd").join(name), content.to_vec());
    Fake {
        files: HashMap::from([
            file("secrets/pin", b"1234\n"),
            file("secrets/key", format!("{SECRET}\n").as_bytes()),
            file("secrets/crlf", format!("{SECRET}\r\n").as_bytes()),
            file("secrets/two-lines", format!("{SECRET}\n\n").as_bytes()),
            file("secrets/empty", b""),
            file("secrets/newline", b"\n"),
            file("secrets/binary", b"\xff\xfe"),
        ]),
        variables: HashMap::from([
            ("KEY".to_owned(), SECRET.into()),
            ("EMPTY".to_owned(), OsString::new()),
            ("BINARY".to_owned(), OsString::from_vec(vec![0xff])),
        ]),
    }
}

fn read(text: &str) -> Result<Config, Invalid> {
    Config::parse(text, Path::new("/etc/xksd/xksd.toml"), &fake())
}

/// A valid document with everything left out that may be left out.
const SMALL: &str = r#"
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
            shutdown_time: Duration::from_secs(10),
            log: LogFormat::Auto,
        }
    );
    assert_eq!(config.tls.certificate_chain, Path::new("/etc/xksd/chain.pem"));
    assert_eq!(config.tls.private_key, Path::new("/keys/key.pem"));
    assert_eq!(config.tls.client, None);
    assert_eq!(config.admin, None);
    assert_eq!(config.key_managers.len(), 1);
    let Kind::Pkcs11(hsm) = &config.key_managers[0].kind else { panic!("not pkcs11") };
    assert_eq!((hsm.profile, hsm.sessions), (Profile::Generic, 16));
    assert_eq!((&hsm.initialize_parameters, &hsm.token), (&None, &TokenSelector::Label("xks".to_owned())));
    assert_eq!(hsm.pin.expose(), "1234");
    let store = &config.keystores[0];
    assert_eq!(store.uri_path(), "/a/kms/xks/v1");
    assert_eq!((store.enabled, store.key_managers.as_slice()), (true, &[0][..]));
    assert_eq!(store.credentials[0].secret_access_key.expose(), SECRET);
    assert_eq!(store.keys, [Key { id: "foo".to_owned(), label: "foo".to_owned(), enabled: true }]);
    assert_eq!(store.accept_foreign_ciphertext, []);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn everything_given() {
    let text = r#"
[server]
listen = "[::]:8443"
shards = 4
request_budget_ms = 150
regions = ["us-gov-west-1", "eusc-de-east-1"]
shutdown_ms = 5000
log = "json"
[tls]
certificate_chain = "c"
private_key = "k"
[tls.client]
trust_anchors = "t"
subject_common_names = ["cks.kms.us-east-1.amazonaws.com"]
require_client_auth_eku = false
[admin]
listen = "127.0.0.1:9180"
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
[[keystore]]
path_prefix = ""
key_manager = ["nss", "local"]
enabled = false
accept_foreign_ciphertext = ["aws-sample"]
[[keystore.credential]]
access_key_id = "ABCDEFGHIJKLMNOPQR27"
secret_access_key = { env = "KEY" }
[[keystore.key]]
id = "foo"
label = "a label"
enabled = false
"#;
    let config = read(text).unwrap();
    assert_eq!((config.server.shards, config.server.log), (4, LogFormat::Json));
    assert_eq!((config.server.request_budget.as_millis(), config.server.shutdown_time.as_millis()), (150, 5000));
    let client = config.tls.client.unwrap();
    assert_eq!(client.trust_anchors, Path::new("/etc/xksd/t"));
    assert!(!client.require_client_auth_eku);
    assert_eq!(config.admin, Some("127.0.0.1:9180".parse().unwrap()));
    assert_eq!(config.key_managers[0].kind, Kind::Local { key_file: "/etc/xksd/keys.json".into() });
    let Kind::Pkcs11(nss) = &config.key_managers[1].kind else { panic!("not pkcs11") };
    assert_eq!((nss.profile, nss.sessions, &nss.token), (Profile::Nss, 3, &TokenSelector::Slot(2)));
    assert_eq!(nss.initialize_parameters.as_deref(), Some("configdir='sql:/x'"));
    let store = &config.keystores[0];
    assert_eq!((store.uri_path().as_str(), store.enabled, store.key_managers.as_slice()), ("/kms/xks/v1", false, &[1, 0][..]));
    assert_eq!(store.accept_foreign_ciphertext, [ForeignCiphertext::AwsSample]);
    assert_eq!(store.keys, [Key { id: "foo".to_owned(), label: "a label".to_owned(), enabled: false }]);
}

/// (replaced in SMALL, by what, path of the problem, words of its message): exactly one problem each.
#[rustfmt::skip]
const REFUSED: &[(&str, &str, &str, &str)] = &[
    ("[server]", "oops = 1\n[server]", "oops", "unknown key; accepted here: server, tls, admin, key_manager, keystore"),
    ("[server]", "[server]\nport = 443", "server.port", "unknown key; accepted here: listen, shards"),
    ("[server]", "[server]\n\"a b\" = 443", "server.\"a b\"", "unknown key"),
    ("\"0.0.0.0:443\"", "\"localhost:443\"", "server.listen", "\"localhost:443\" is not accepted: an IP address"),
    ("\"0.0.0.0:443\"", "443", "server.listen", "a string is expected here, not an integer"),
    ("listen = \"0.0.0.0:443\"", "", "server.listen", "missing: address and port"),
    ("[server]", "[server]\nshards = 1025", "server.shards", "1025 is out of bounds: 0 to 1024"),
    ("[server]", "[server]\nshards = -1", "server.shards", "-1 is out of bounds"),
    ("[server]", "[server]\nshards = 99999999999999999999", "server.shards", "out of bounds"),
    ("[server]", "[server]\nshards = 1.0", "server.shards", "an integer is expected here, not a float"),
    ("[server]", "[server]\nrequest_budget_ms = 9", "server.request_budget_ms", "10 to 240 milliseconds"),
    ("[server]", "[server]\nrequest_budget_ms = 241", "server.request_budget_ms", "10 to 240 milliseconds"),
    ("[server]", "[server]\nshutdown_ms = 99", "server.shutdown_ms", "100 to 300000 milliseconds"),
    ("[server]", "[server]\nshutdown_ms = 300001", "server.shutdown_ms", "100 to 300000 milliseconds"),
    ("[server]", "[server]\nlog = \"xml\"", "server.log", "\"auto\", \"json\" or \"text\""),
    ("[\"us-east-1\"]", "[]", "server.regions", "at least one"),
    ("[\"us-east-1\"]", "\"us-east-1\"", "server.regions", "an array is expected here, not a string"),
    ("[\"us-east-1\"]", "[\"us-east-1\", \"us-east-1\"]", "server.regions[1]", "stands here twice"),
    ("[\"us-east-1\"]", "[\"useast1\"]", "server.regions[0]", "an AWS region is meant"),
    ("[\"us-east-1\"]", "[\"US-EAST-1\"]", "server.regions[0]", "an AWS region is meant"),
    ("[\"us-east-1\"]", "[\"us-east-100\"]", "server.regions[0]", "an AWS region is meant"),
    ("[tls]", "[admin]\nlisten = \"127.0.0.1:443\"\n[tls]", "admin", "listens on the port of server.listen"),
    ("[tls]", "[admin]\n[tls]", "admin.listen", "missing"),
    ("[tls]", "[tls.client]\nsubject_common_names = [\"a\"]\n[tls]", "tls.client.trust_anchors", "missing"),
    ("[tls]", "[tls.client]\ntrust_anchors = \"t\"\n[tls]", "tls.client.subject_common_names", "missing"),
    ("[tls]", "[tls.client]\ntrust_anchors = \"t\"\nsubject_common_names = [\"*.amazonaws.com\"]\n[tls]", "tls.client.subject_common_names[0]", "no wildcards"),
    ("[tls]", "[tls.client]\ntrust_anchors = \"t\"\nsubject_common_names = [\"a\"]\nrequire_client_auth_eku = 1\n[tls]", "tls.client.require_client_auth_eku", "true or false is expected here, not an integer"),
    ("\"chain.pem\"", "\"\"", "tls.certificate_chain", "a path is not empty"),
    ("\"chain.pem\"", "\"a\\u0000b\"", "tls.certificate_chain", "no NUL"),
    ("kind = \"pkcs11\"", "kind = \"kmip\"", "key_manager[0].kind", "\"pkcs11\" or \"local\""),
    ("kind = \"pkcs11\"", "", "key_manager[0].kind", "missing: \"pkcs11\" or \"local\""),
    ("kind = \"pkcs11\"", "kind = \"pkcs11\"\nkey_file = \"k\"", "key_manager[0].key_file", "unknown key; accepted here: name, kind, module"),
    ("module = \"/usr/lib/p11.so\"", "", "key_manager[0].module", "missing"),
    ("token = \"xks\"", "", "key_manager[0]", "none of token, serial and slot"),
    ("token = \"xks\"", "token = \"xks\"\nslot = 0", "key_manager[0]", "several of token, serial and slot"),
    ("token = \"xks\"", "slot = -1", "key_manager[0].slot", "out of bounds"),
    ("token = \"xks\"", "serial = \"12345678901234567\"", "key_manager[0].serial", "1 to 16 bytes"),
    ("token = \"xks\"", "token = \"\"", "key_manager[0].token", "1 to 32 bytes"),
    ("token = \"xks\"", "token = \"xks\"\nsessions = 0", "key_manager[0].sessions", "1 to 1024 sessions"),
    ("token = \"xks\"", "token = \"xks\"\nsessions = 1025", "key_manager[0].sessions", "1 to 1024 sessions"),
    ("token = \"xks\"", "token = \"xks\"\nprofile = \"acme\"", "key_manager[0].profile", "generic, softhsm, nss, kryoptic"),
    ("token = \"xks\"", "token = \"xks\"\nprofile = \"luna\"", "key_manager[0].profile", "not available yet in this version"),
    ("token = \"xks\"", "token = \"xks\"\ninitialize_parameters = \"\"", "key_manager[0].initialize_parameters", "not empty"),
    ("pin = { file = \"secrets/pin\" }", "", "key_manager[0].pin", "missing"),
    ("{ file = \"secrets/pin\" }", "\"1234\"", "key_manager[0].pin", "a secret is one of"),
    ("{ file = \"secrets/pin\" }", "{}", "key_manager[0].pin", "none of them are given"),
    ("{ file = \"secrets/pin\" }", "{ value = \"a\", env = \"KEY\" }", "key_manager[0].pin", "several of them are given"),
    ("{ file = \"secrets/pin\" }", "{ flie = \"a\", value = \"1\" }", "key_manager[0].pin.flie", "unknown key; accepted here: file, env, value"),
    ("{ file = \"secrets/pin\" }", "{ file = \"none\" }", "key_manager[0].pin.file", "/etc/xksd/none does not exist"),
    ("{ file = \"secrets/pin\" }", "{ file = \"secrets/empty\" }", "key_manager[0].pin", "secrets/empty is empty"),
    ("{ file = \"secrets/pin\" }", "{ file = \"secrets/newline\" }", "key_manager[0].pin", "secrets/newline is empty"),
    ("{ file = \"secrets/pin\" }", "{ file = \"secrets/binary\" }", "key_manager[0].pin.file", "not UTF-8"),
    ("{ file = \"secrets/pin\" }", "{ file = \"secrets/two-lines\" }", "key_manager[0].pin", "no line end"),
    ("{ file = \"secrets/pin\" }", "{ env = \"NONE\" }", "key_manager[0].pin.env", "\"NONE\" is not set"),
    ("{ file = \"secrets/pin\" }", "{ env = \"EMPTY\" }", "key_manager[0].pin", "\"EMPTY\" is empty"),
    ("{ file = \"secrets/pin\" }", "{ env = \"BINARY\" }", "key_manager[0].pin.env", "not UTF-8"),
    ("{ file = \"secrets/pin\" }", "{ env = \"A=B\" }", "key_manager[0].pin.env", "name of an environment variable"),
    ("{ file = \"secrets/pin\" }", "{ value = \"\" }", "key_manager[0].pin", "the value is empty"),
    ("path_prefix = \"/a\"", "", "keystore[0].path_prefix", "missing"),
    ("path_prefix = \"/a\"", "path_prefix = \"a\"", "keystore[0].path_prefix", "begins with /"),
    ("path_prefix = \"/a\"", "path_prefix = \"/\"", "keystore[0].path_prefix", "does not end with /"),
    ("path_prefix = \"/a\"", "path_prefix = \"/a/\"", "keystore[0].path_prefix", "does not end with /"),
    ("path_prefix = \"/a\"", "path_prefix = \"/a//b\"", "keystore[0].path_prefix", "no empty part"),
    ("path_prefix = \"/a\"", "path_prefix = \"/a.b\"", "keystore[0].path_prefix", "A-Z a-z 0-9 / _ -"),
    ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-b\"]", "keystore[0].key_manager[0]", "there is no key manager \"hsm-b\"; there is: \"hsm-a\""),
    ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-a\", \"hsm-a\"]", "keystore[0].key_manager[1]", "twice"),
    ("key_manager = [\"hsm-a\"]", "key_manager = []", "keystore[0].key_manager", "at least one"),
    ("key_manager = [\"hsm-a\"]", "", "keystore[0].key_manager", "missing"),
    ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-a\"]\nenabled = \"no\"", "keystore[0].enabled", "true or false"),
    ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-a\"]\naccept_foreign_ciphertext = [\"x\"]", "keystore[0].accept_foreign_ciphertext[0]", "aws-sample"),
    ("QR27\"", "QR28\"", "keystore[0].credential[0].access_key_id", "20 to 30 of A-Z 2-7"),
    ("{ file = \"secrets/key\" }", "{ file = \"secrets/pin\" }", "keystore[0].credential[0].secret_access_key", "secrets/pin (4 characters) is not accepted: a secret access key has 43 to 64"),
    ("{ file = \"secrets/key\" }", "{ file = \"secrets/two-lines\" }", "keystore[0].credential[0].secret_access_key", "(45 characters)"),
    ("id = \"foo\"", "id = \"f/o\"", "keystore[0].key[0].id", "1 to 128 of"),
    ("id = \"foo\"", "label = \"foo\"", "keystore[0].key[0].id", "missing"),
    ("id = \"foo\"", "id = \"foo\"\nlabel = \"\"", "keystore[0].key[0].label", "1 to 255 bytes"),
    ("id = \"foo\"", "id = \"foo\"\nlable = \"x\"", "keystore[0].key[0].lable", "unknown key"),
    ("id = \"foo\"", "id = \"foo\"\n[[keystore.key]]\nid = \"foo\"", "keystore[0].key[1].id", "\"foo\" is taken: keystore[0].key[0] has it too"),
];

#[test]
fn each_problem_is_named() {
    for (from, to, key, words) in REFUSED {
        let found = problems(&edited(from, to));
        assert_eq!(found.len(), 1, "{to:?}: {found:#?}");
        assert_eq!(found[0].key, *key, "{to:?}: {}", found[0].message);
        assert!(found[0].message.contains(words), "{to:?}: {}", found[0].message);
        assert!(found[0].line.is_some(), "{to:?}");
    }
}

/// (replaced in SMALL, by what): valid.
#[rustfmt::skip]
const ACCEPTED: &[(&str, &str)] = &[
    ("[server]", "[server]\nshards = 1024"),
    ("[server]", "[server]\nshards = 0x10"),
    ("[server]", "[server]\nrequest_budget_ms = 10"),
    ("[server]", "[server]\nrequest_budget_ms = 240"),
    ("[server]", "[server]\nshutdown_ms = 100"),
    ("[server]", "[server]\nshutdown_ms = 300_000"),
    ("[\"us-east-1\"]", "[\"us-east-1\", \"ap-southeast-2\", \"us-iso-east-1\", \"us-east-10\"]"),
    ("[tls]", "[admin]\nlisten = \"127.0.0.1:444\"\n[tls]"),
    ("token = \"xks\"", "serial = \"1234567890123456\""),
    ("token = \"xks\"", "slot = 0"),
    ("token = \"xks\"", "token = \"xks\"\nsessions = 1"),
    ("token = \"xks\"", "token = \"xks\"\nsessions = 1024"),
    ("{ file = \"secrets/pin\" }", "{ value = \"crypto-user:pass word\" }"),
    ("{ file = \"secrets/key\" }", "{ file = \"secrets/crlf\" }"),
    ("{ file = \"secrets/key\" }", "{ file = \"/etc/xksd/secrets/key\" }"),
    ("path_prefix = \"/a\"", "path_prefix = \"\""),
    ("path_prefix = \"/a\"", "path_prefix = \"/a/B_9-/c\""),
];

#[test]
fn accepted() {
    for (from, to) in ACCEPTED {
        let found = problems(&edited(from, to));
        assert!(found.is_empty(), "{to:?}: {found:#?}");
    }
}

/// (replaced in SMALL, one filling character, longest accepted, around it `{}`)
#[test]
fn lengths_on_both_sides() {
    let cases: &[(&str, &str, &str, usize)] = &[
        // 128 characters with "/kms/xks/v1", the "/" before the filling.
        ("path_prefix = \"/a\"", "path_prefix = \"/{}\"", "a", 116),
        ("ABCDEFGHIJKLMNOPQR27", "{}", "A", 30),
        ("id = \"foo\"", "id = \"{}\"", "a", 128),
        ("id = \"foo\"", "id = \"foo\"\nlabel = \"{}\"", "é", 127),
        ("{ file = \"secrets/key\" }", "{ value = \"{}\" }", "=", 64),
        ("token = \"xks\"", "token = \"{}\"", "x", 32),
        ("[tls]", "[tls.client]\ntrust_anchors = \"t\"\nsubject_common_names = [\"{}\"]\n[tls]", "é", 64),
        ("[\"us-east-1\"]", "[\"us-{}-1\"]", "a", 27),
    ];
    for (from, to, filling, max) in cases {
        let of = |length: usize| edited(from, &to.replace("{}", &filling.repeat(length)));
        assert!(problems(&of(*max)).is_empty(), "{to:?}: {:#?}", problems(&of(*max)));
        assert_eq!(problems(&of(max + 1)).len(), 1, "{to:?}");
    }
    for (from, to, filling, min) in [("ABCDEFGHIJKLMNOPQR27", "{}", "2", 20), ("{ file = \"secrets/key\" }", "{ value = \"{}\" }", "/", 43)]
    {
        let of = |length: usize| edited(from, &to.replace("{}", &filling.repeat(length)));
        assert!(problems(&of(min)).is_empty(), "{to:?}");
        assert_eq!(problems(&of(min - 1)).len(), 1, "{to:?}");
    }
    let named = |length: usize| SMALL.replace("hsm-a", &"n".repeat(length));
    assert!(problems(&named(64)).is_empty());
    assert_eq!(problems(&named(65)).len(), 1);
    assert_eq!(problems(&SMALL.replace("hsm-a", "hsm a"))[0].key, "key_manager[0].name");
}

#[test]
fn key_managers_of_one_key_store_on_both_sides() {
    let with = |count: usize| {
        let names: Vec<String> = (0..count).map(|i| format!("m{i}")).collect();
        let managers: String =
            names.iter().map(|n| format!("[[key_manager]]\nname = \"{n}\"\nkind = \"local\"\nkey_file = \"{n}.json\"\n")).collect();
        let text = edited("[[keystore]]", &format!("{managers}[[keystore]]"));
        text.replace("key_manager = [\"hsm-a\"]", &format!("key_manager = {names:?}"))
    };
    assert!(problems(&with(10)).is_empty());
    let found = problems(&with(11));
    assert_eq!((found.len(), found[0].key.as_str()), (1, "keystore[0].key_manager"));
    assert!(found[0].message.contains("10 key managers at most"));
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
    let found: Vec<(String, Option<usize>)> = problems(text).into_iter().map(|p| (p.key, p.line)).collect();
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
    let mut found: Vec<(&str, usize)> = found.iter().map(|(key, line)| (key.as_str(), line.unwrap())).collect();
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
    assert!(found.iter().any(|p| p.key == "key_manager" && p.message.contains("double brackets")), "{found:#?}");
}

#[test]
fn the_same_credential_may_serve_two_key_stores() {
    let second = r#"
[[keystore]]
path_prefix = "/b"
key_manager = ["hsm-a"]
[[keystore.credential]]
access_key_id = "ABCDEFGHIJKLMNOPQR27"
secret_access_key = { file = "secrets/key" }
[[keystore.key]]
id = "foo"
"#;
    assert_eq!(read(&format!("{SMALL}{second}")).unwrap().keystores.len(), 2);
    let found = problems(&format!("{SMALL}{}", second.replace("/b", "/a")));
    assert_eq!((found.len(), found[0].key.as_str()), (1, "keystore[1].path_prefix"));
    assert!(found[0].message.contains("keystore[0] has it too"));
}

#[test]
fn one_module_is_initialised_with_one_set_of_parameters() {
    let second = |more: &str| {
        let block = format!(
            "[[key_manager]]\nname = \"hsm-b\"\nkind = \"pkcs11\"\nmodule = \"/usr/lib/p11.so\"\n{more}\npin = {{ file = \"secrets/pin\" }}\n"
        );
        edited("[[keystore]]", &format!("{block}[[keystore]]")).replace("[\"hsm-a\"]", "[\"hsm-a\", \"hsm-b\"]")
    };
    let good = read(&second("token = \"other\"")).unwrap();
    assert_eq!(good.warnings, Vec::<String>::new());
    let same = read(&second("token = \"xks\"")).unwrap();
    assert_eq!(same.warnings, ["key_manager[1]: the same token as key_manager[0]; it is no replica of it"]);
    let found = problems(&second("token = \"other\"\ninitialize_parameters = \"x\""));
    assert_eq!((found.len(), found[0].key.as_str()), (1, "key_manager[1].initialize_parameters"));
}

#[test]
fn warnings_tell_what_is_probably_not_meant() {
    let spare = "[[key_manager]]\nname = \"spare\"\nkind = \"local\"\nkey_file = \"k\"\n[[keystore]]";
    let config = read(&edited("[[keystore]]", spare).replace("[[keystore.key]]\nid = \"foo\"", "")).unwrap();
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert!(config.warnings.iter().any(|w| w.contains("keystore[0]: no [[keystore.key]]")), "{:?}", config.warnings);
    assert!(config.warnings.iter().any(|w| w == "key_manager[1]: no key store uses \"spare\""), "{:?}", config.warnings);
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
    assert_eq!((invalid.problems[0].line, invalid.problems[0].column), (Some(2), Some(8)), "{invalid}");
}

#[test]
fn many_syntax_errors_are_cut() {
    let invalid = read(&"= 1\n".repeat(1000)).unwrap_err();
    assert_eq!(invalid.problems.len(), SYNTAX_ERRORS_TOLD_MAX);
}

#[test]
fn secrets_are_never_shown() {
    let config = read(&edited("{ file = \"secrets/pin\" }", "{ value = \"hunter2hunter2\" }")).unwrap();
    let shown = format!("{config:?} {config:#?}");
    assert!(!shown.contains("hunter2") && !shown.contains(SECRET), "{shown}");

    // A secret of the wrong form or in the wrong type.
    for wrong in
        ["{ value = \"hunter2 hunter2\" }", "\"hunter2 hunter2\"", "[\"hunter2\"]", "{ value = [\"hunter2\"] }", "{ value = 'hunter2"]
    {
        let invalid = read(&edited("{ file = \"secrets/key\" }", wrong)).unwrap_err();
        assert!(!invalid.to_string().contains("hunter2"), "{invalid}");
    }
}

#[test]
fn long_and_strange_text_is_cut_and_escaped_in_messages() {
    let invalid = read(&edited("\"0.0.0.0:443\"", &format!("\"\\u001b[31m{}\"", "é".repeat(5000)))).unwrap_err();
    assert!(invalid.to_string().len() < 500, "{}", invalid.to_string().len());
    assert!(!invalid.to_string().contains('\u{1b}'));
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of configurations, so that the text gets past the parser of TOML.
    fn piece() -> impl Strategy<Value = String> {
        const LINE: &str = concat!(
            r"(listen|shards|regions|kind|name|token|slot|pin|path_prefix|key_manager|credential|key|id|label|enabled|file|value) = ",
            r#"(0|-1|1e9|true|"us-east-1"|"/a"|"local"|"pkcs11"|\["a"\]|\{ value = "x" \}|\{\}|\[\]|\[\[\]\]|1979-05-27)"#,
            "\n"
        );
        prop_oneof![
            "\\[{1,2}(server|tls|tls.client|admin|key_manager|keystore|keystore.credential|keystore.key)\\]{1,2}\n",
            LINE,
            "\\PC{0,8}\n",
        ]
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".*") {
            let _ = read(&text);
        }

        #[test]
        fn arbitrary_documents_never_panic(pieces in proptest::collection::vec(piece(), 0..40)) {
            let text = pieces.concat();
            let told = read(&text).map_err(|invalid| {
                assert!(!invalid.problems.is_empty());
                let lines = text.lines().count().max(1) + 1;
                assert!(invalid.problems.iter().all(|p| p.line.is_some_and(|l| (1..=lines).contains(&l))), "{invalid}");
                invalid.to_string()
            });
            let _ = told;
        }

        /// One byte changed in a valid document: it is valid or has a problem with a place, and no secret is told.
        #[test]
        fn a_changed_byte_is_survived(at in 0..SMALL.len(), byte in 0u8..128) {
            let mut text = SMALL.as_bytes().to_vec();
            text[at] = byte;
            let text = String::from_utf8(text).unwrap();
            if let Err(invalid) = read(&text) {
                prop_assert!(!invalid.problems.is_empty());
                prop_assert!(!invalid.to_string().contains(SECRET));
            }
        }
    }
}
