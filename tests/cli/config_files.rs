//! The configuration as it stands on disk: files it names, their modes, its own size and encoding.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use xksd::config::{Config, Invalid};

const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:8443"
regions = ["us-east-1"]
[tls]
certificate_chain = "chain.pem"
private_key = "key.pem"
[tls.client]
trust_anchors = "anchors.pem"
subject_common_names = ["cks.kms.us-east-1.amazonaws.com"]
[[key_manager]]
name = "hsm"
kind = "pkcs11"
module = "module.so"
token = "xks"
pin = { file = "pin" }
[[key_manager]]
name = "local"
kind = "local"
key_file = "keys.json"
[[keystore]]
path_prefix = ""
key_manager = ["hsm", "local"]
[[keystore.credential]]
access_key_id = "ABCDEFGHIJKLMNOPQR27"
secret_access_key = { file = "secret" }
[[keystore.key]]
id = "foo"
"#;

/// A directory in which `CONFIG` is right.
struct Site(TempDir);

impl Site {
    fn new() -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        site.write("xksd.toml", CONFIG.as_bytes(), 0o644);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        for name in ["chain.pem", "anchors.pem"] {
            site.write(name, made.cert.pem().as_bytes(), 0o644);
        }
        site.write("key.pem", made.signing_key.serialize_pem().as_bytes(), 0o640);
        site.write("module.so", b"-", 0o644);
        site.write(
            "keys.json",
            br#"{"keys":[{"label":"foo","key":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}]}"#,
            0o640,
        );
        site.write("pin", b"1234\n", 0o600);
        site.write("secret", &[b'a'; 43], 0o640);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &[u8], mode: u32) {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn load(&self) -> Result<Config, Invalid> {
        Config::load(&self.path("xksd.toml"))
    }

    fn check(&self) -> Result<Config, Invalid> {
        Config::check(&self.path("xksd.toml"))
    }
}

/// The only problem, as key and message.
fn only(result: Result<Config, Invalid>) -> (String, String) {
    let mut problems = result.unwrap_err().problems;
    assert_eq!(problems.len(), 1, "{problems:#?}");
    let problem = problems.remove(0);
    (problem.key, problem.message)
}

#[test]
fn relative_paths_begin_at_the_file() {
    let site = Site::new();
    let config = site.check().unwrap();
    assert_eq!(config.tls.certificate_chain, site.path("chain.pem"));
    assert!(
        !config.warnings.iter().any(|warning| warning.message.contains("label")),
        "{:?}",
        config.warnings
    );
}

#[test]
fn every_missing_file_is_told_at_once_with_its_line() {
    let site = Site::new();
    for name in ["chain.pem", "key.pem", "anchors.pem", "module.so", "keys.json", "pin", "secret"] {
        fs::remove_file(site.path(name)).unwrap();
    }
    let told = site.check().unwrap_err();
    let keys: Vec<&str> = told.problems.iter().map(|p| p.key.as_str()).collect();
    assert_eq!(
        keys,
        [
            "tls.certificate_chain",
            "tls.private_key",
            "tls.client.trust_anchors",
            "key_manager[0].module",
            "key_manager[0].pin.file",
            "key_manager[1].key_file",
            "keystore[0].credential[0].secret_access_key.file",
        ]
    );
    assert!(
        told.problems.iter().all(|p| p.line.is_some() && p.message.ends_with("does not exist")),
        "{told}"
    );
    let line = CONFIG.lines().position(|l| l.starts_with("module")).unwrap() + 1;
    assert!(
        told.to_string().contains(&format!("xksd.toml:{line}: key_manager[0].module: ")),
        "{told}"
    );

    // Loading reads the secrets; the other files are for who uses them.
    let told = site.load().unwrap_err();
    assert_eq!(told.problems.len(), 2, "{told}");
}

#[test]
fn secrets_open_to_every_user_are_refused() {
    let site = Site::new();
    for (name, key) in [
        ("pin", "key_manager[0].pin.file"),
        ("secret", "keystore[0].credential[0].secret_access_key.file"),
    ] {
        for (mode, accepted) in [
            (0o400, true),
            (0o600, true),
            (0o640, true),
            (0o660, true),
            (0o604, false),
            (0o602, false),
            (0o644, false),
            (0o601, false),
        ] {
            fs::set_permissions(site.path(name), fs::Permissions::from_mode(mode)).unwrap();
            let result = site.load();
            if accepted {
                assert!(result.is_ok(), "{name} {mode:o}");
                continue;
            }
            let (found, message) = only(result);
            assert_eq!(found, key, "{mode:o}");
            assert!(
                message.contains("is open to every user") && message.contains("chmod o-rwx "),
                "{message}"
            );
        }
        fs::set_permissions(site.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

#[test]
fn keys_open_to_every_user_are_refused() {
    for (name, key) in [("key.pem", "tls.private_key"), ("keys.json", "key_manager[1].key_file")] {
        let site = Site::new();
        fs::set_permissions(site.path(name), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(only(site.check()).0, key);
        // A key file is left to who opens it: a running server does not, and must not be kept from
        // other changes.
        assert_eq!(site.load().is_ok(), name == "keys.json");
    }
}

#[test]
fn a_secret_in_the_configuration_closes_the_configuration() {
    let site = Site::new();
    let text = CONFIG.replace("{ file = \"pin\" }", "{ value = \"hunter2\" }");
    site.write("xksd.toml", text.as_bytes(), 0o640);
    assert!(site.load().is_ok());
    site.write("xksd.toml", text.as_bytes(), 0o644);
    let (key, message) = only(site.load());
    assert_eq!(key, "key_manager[0].pin.value");
    assert!(
        message.contains("a secret stands in this file") && message.contains("chmod o-rwx"),
        "{message}"
    );
    assert!(!message.contains("hunter2"));
}

#[test]
fn a_secret_is_a_regular_file_of_bounded_size() {
    let site = Site::new();
    fs::remove_file(site.path("pin")).unwrap();
    fs::create_dir(site.path("pin")).unwrap();
    assert!(only(site.load()).1.ends_with("is a directory and not a regular file"));

    fs::remove_dir(site.path("pin")).unwrap();
    site.write("pin", &[b'1'; 4096], 0o600);
    assert!(site.load().is_ok());
    site.write("pin", &[b'1'; 4097], 0o600);
    assert!(only(site.load()).1.ends_with("is longer than 4096 bytes"));
}

#[test]
fn the_configuration_itself_is_bounded_and_text() {
    let site = Site::new();
    let max = 4 * 1024 * 1024;
    let padded = |length: usize| {
        let mut text = CONFIG.as_bytes().to_vec();
        text.push(b'#');
        text.resize(length, b'x');
        text
    };
    site.write("xksd.toml", &padded(max), 0o600);
    assert!(site.load().is_ok());
    site.write("xksd.toml", &padded(max + 1), 0o600);
    assert!(only(site.load()).1.contains("is longer than 4194304 bytes"));

    site.write("xksd.toml", b"[server]\n# \xff\n", 0o600);
    assert_eq!(only(site.load()).1, "line 2 holds bytes that are not UTF-8 text");
    assert_eq!(only(Config::load(&site.path("none.toml"))).1, "does not exist");
    // `--config <(…)` in a shell: a FIFO, here one that nobody writes to.
    assert!(Command::new("mkfifo").arg(site.path("fifo")).status().unwrap().success());
    for (path, told) in [
        (site.0.path(), "is a directory and not a regular file: give the file that is in it"),
        (
            &site.path("fifo"),
            "is a pipe and not a regular file: it could not be read again at a reload; give a file",
        ),
    ] {
        for result in [Config::load(path), Config::check(path)] {
            let (key, message) = only(result);
            assert!(key.is_empty() && message.starts_with(told), "{message}");
        }
    }
}

/// docs/configuration.md tells every key that is accepted, and its example is one.
#[test]
fn the_manual_is_complete() {
    let manual = include_str!("../../docs/configuration.md");
    let example =
        manual.split_once("```toml\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
    let site = Site::new();
    fs::create_dir(site.path("secrets")).unwrap();
    for (name, byte) in
        [("pin", b'a'), ("key-store-1", b'b'), ("key-store-2", b'c'), ("key-store-3", b'd')]
    {
        site.write(&format!("secrets/{name}"), &[byte; 43], 0o600);
    }
    fs::create_dir(site.path("policies")).unwrap();
    let policy = b"@id(\"all\") permit(principal, action, resource);";
    site.write("policies/s3-only.cedar", policy, 0o644);
    site.write("policies/groups.json", b"[]", 0o644);
    // In a test the environment cannot be changed without harm to other threads.
    let text = example
        .replace("{ env = \"XKSD_NSS_PIN\" }", "{ file = \"secrets/pin\" }")
        .replace("{ credential = \"fleet-secret\" }", "{ file = \"secrets/fleet\" }");
    site.write("secrets/fleet", format!("{}=", "A".repeat(43)).as_bytes(), 0o600);
    site.write("keys.toml", b"", 0o600);
    site.write("xksd.toml", text.as_bytes(), 0o600);
    let config = site.load().unwrap();
    assert_eq!(config.warnings, []);
    // Who can write a policy can permit anything.
    site.write("policies/groups.json", b"[]", 0o646);
    let (key, told) = only(site.load());
    assert_eq!(key, "keystore[0].policy.entities[0]");
    assert!(told.contains("groups.json can be written by every user (mode 0646)"), "{told}");
    site.write("policies/groups.json", b"[]", 0o644);

    // A wrong key in each table draws the list of the right ones.
    let wrong = example
        .lines()
        .map(|line| format!("{line}\n{}", if line.starts_with('[') { "oops = 1\n" } else { "" }));
    site.write("xksd.toml", format!("oops = 1\n{}", wrong.collect::<String>()).as_bytes(), 0o600);
    let told = site.load().unwrap_err();
    let tables = example.lines().filter(|line| line.starts_with('[')).count() + 1;
    assert_eq!(told.problems.iter().filter(|p| p.key.ends_with("oops")).count(), tables, "{told}");
    for problem in told.problems.iter().filter(|p| p.key.ends_with("oops")) {
        // `keystore[0].key[1].` without the numbers.
        let table: String = problem
            .key
            .trim_end_matches("oops")
            .split(['[', ']'])
            .filter(|part| part.parse::<usize>().is_err())
            .collect();
        for key in problem.message.strip_prefix("unknown key; accepted here: ").unwrap().split(", ")
        {
            let forms = [
                format!("`{table}{key}`"),
                format!("`[{table}{key}]`"),
                format!("`[[{table}{key}]]`"),
            ];
            assert!(
                forms.iter().any(|form| manual.contains(form)),
                "{table}{key} is not in the manual"
            );
        }
    }
}

/// What stands in deploy/ to begin with lacks nothing but the files that it names.
#[test]
fn the_sample_needs_only_its_files() {
    const MODULE: &str = "/opt/hsm/lib/libpkcs11.so";
    let sample = include_str!("../../deploy/xksd.toml");
    let client =
        "#[tls.client]\n#trust_anchors = \"tls/amazon-trust.pem\"\n#subject_common_names = [";
    assert!(sample.contains(MODULE) && sample.contains(client));
    // With mutual TLS taken in as well.
    let stated = "client_authentication = \"none\"";
    assert!(sample.contains(stated));
    let mutual = sample
        .replace(client, &client.replace('#', ""))
        .replace(stated, "client_authentication = \"required\"");
    for text in [sample.to_owned(), mutual] {
        let site = Site(tempfile::tempdir().unwrap());
        let text = text.replace(MODULE, "module.so");
        site.write("xksd.toml", text.as_bytes(), 0o640);
        let problems = site.check().unwrap_err().problems;
        let missing = [
            "tls/chain.pem",
            "tls/key.pem",
            "tls/amazon-trust.pem",
            "module.so",
            "secrets/pin",
            "secrets/key-store-1",
        ];
        let missing = missing
            .iter()
            .filter(|name| text.contains("\n[tls.client]\n") || !name.contains("amazon"));
        let missing: Vec<String> =
            missing.map(|name| format!("{} does not exist", site.path(name).display())).collect();
        assert_eq!(
            problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(),
            missing
        );

        for directory in ["tls", "secrets"] {
            fs::create_dir(site.path(directory)).unwrap();
        }
        let made = rcgen::generate_simple_self_signed(["xks.example.com".to_owned()]).unwrap();
        for name in ["tls/chain.pem", "tls/amazon-trust.pem"] {
            site.write(name, made.cert.pem().as_bytes(), 0o640);
        }
        site.write("tls/key.pem", made.signing_key.serialize_pem().as_bytes(), 0o640);
        site.write("module.so", b"-", 0o644);
        site.write("secrets/pin", b"1234\n", 0o640);
        site.write("secrets/key-store-1", &[b'a'; 43], 0o640);
        assert_eq!(site.check().unwrap().keystores[0].path_prefix, "/key-store-1");
    }
}

/// Deep nesting must not exhaust the stack: neither in the parser nor when the document is dropped.
#[test]
fn deep_nesting_is_a_problem_and_not_a_crash() {
    let site = Site::new();
    let depth = 100_000;
    for text in [
        format!("a = {}", "[".repeat(depth)),
        format!("a = {}", "{a=".repeat(depth)),
        format!("{}a = 1", "a.".repeat(depth)),
        format!("[{}a]", "a.".repeat(depth)),
    ] {
        site.write("xksd.toml", text.as_bytes(), 0o600);
        assert!(!site.load().unwrap_err().problems.is_empty());
    }
}
