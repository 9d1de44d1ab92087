//! The commands as a person runs them: what they print, where, and their exit codes.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use xksd::config::{Config, Kind};
use xksd::key_manager::pkcs11::TokenSelector;

fn xksd(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xksd")).args(args).current_dir(dir).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A directory with the demo's files in `demo`.
fn demo() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let output = xksd(dir.path(), &["demo", "--files-only"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    dir
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    let here = tempfile::tempdir().unwrap();
    for args in [
        &[][..],
        &["serv"],
        &["check"],
        &["check", "--config"],
        &["credential"],
        &["demo", "--token", "x"],
        &["demo", "--module", "x"],
    ] {
        let output = xksd(here.path(), args);
        assert_eq!((code(&output), stdout(&output)), (2, ""), "{args:?}");
    }
    for args in [
        &["--help"][..],
        &["-V"],
        &["check", "--help"],
        &["credential", "new", "--help"],
        &["keystore", "export", "-h"],
        &["demo", "--help"],
    ] {
        let output = xksd(here.path(), args);
        assert_eq!((code(&output), stderr(&output)), (0, ""), "{args:?}");
    }
    let version = xksd(here.path(), &["-V"]);
    assert!(stdout(&version).starts_with(concat!("xksd ", env!("CARGO_PKG_VERSION"), " (")));
    assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn check_tells_all_problems_and_exits_with_2() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.toml"), "[server]\nlisten = 1\ncolour = 2\n").unwrap();
    let output = xksd(dir.path(), &["check", "--config", "bad.toml"]);
    assert_eq!((code(&output), stdout(&output)), (2, ""));
    for words in [
        "bad.toml:2: server.listen: ",
        "bad.toml:3: server.colour: unknown key",
        "tls: missing",
        "6 problems in bad.toml",
    ] {
        assert!(stderr(&output).contains(words), "{words}: {}", stderr(&output));
    }
    let output = xksd(dir.path(), &["check", "--config", "none.toml"]);
    assert_eq!(
        (code(&output), stderr(&output)),
        (2, "none.toml: does not exist\n1 problem in none.toml\n")
    );
}

#[test]
fn check_of_a_good_configuration_exits_with_0() {
    let dir = demo();
    let output = xksd(dir.path(), &["check", "--config", "demo/xksd.toml"]);
    // A demo is not for AWS KMS.
    let own_ca =
        "demo/xksd.toml:8: warning: tls.certificate_chain: \"CN=xksd demo CA\" is not among";
    let warned = stderr(&output);
    assert!(code(&output) == 0 && warned.starts_with(own_ca), "{warned}");
    assert_eq!(warned.lines().count(), 1, "{warned}");
    for words in [
        "demo/xksd.toml can be used.",
        "127.0.0.1:8443",
        "/demo/kms/xks/v1: 1 key, 1 credential, on demo",
    ] {
        assert!(stdout(&output).contains(words), "{words}: {}", stdout(&output));
    }

    assert!(stdout(&output).contains("client certificates: not asked for\n"));

    let config = dir.path().join("demo/xksd.toml");
    let spare = "\n[[key_manager]]\nname = \"spare\"\nkind = \"local\"\nkey_file = \"keys.json\"\n";
    fs::write(&config, fs::read_to_string(&config).unwrap() + spare).unwrap();
    let output = xksd(dir.path(), &["check", "--config", "demo/xksd.toml"]);
    assert_eq!(code(&output), 0);
    let unused = "demo/xksd.toml:30: warning: key_manager[1]: no key store uses \"spare\"\n";
    assert!(stderr(&output).ends_with(unused), "{}", stderr(&output));

    fs::remove_file(dir.path().join("demo/keys.json")).unwrap();
    assert_eq!(code(&xksd(dir.path(), &["check", "--config", "demo/xksd.toml"])), 2);
}

#[test]
fn the_sessions_that_will_be_opened_and_a_token_that_is_not_there_are_told() {
    let dir = demo();
    let tokens = dir.path().join("softhsm2.conf");
    fs::write(&tokens, format!("directories.tokendir = {}\n", dir.path().display())).unwrap();
    let config = dir.path().join("demo/xksd.toml");
    let text = fs::read_to_string(&config).unwrap();
    let hsm = |more: &str| {
        let hsm = format!(
            "kind = \"pkcs11\"\nmodule = \"/usr/lib/softhsm/libsofthsm2.so\"\ntoken = \
             \"none\"\npin = {{ value = \"1\" }}\n{more}"
        );
        fs::write(
            &config,
            text.replace("kind = \"local\"", &hsm).replace("key_file = \"keys.json\"\n", ""),
        )
        .unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    };
    for (more, told) in [
        ("", "key manager demo: pkcs11, 16 sessions\n"),
        ("sessions = 1\nprofile = \"softhsm\"", "key manager demo: pkcs11, 1 session\n"),
        (
            "profile = \"softhsm\"",
            "key manager demo: pkcs11, 1 session of the 16 that it may have: more do no good",
        ),
    ] {
        hsm(more);
        let output = xksd(dir.path(), &["check", "--config", "demo/xksd.toml"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).contains(told), "{}", stdout(&output));
    }
    // SoftHSM shows a slot for the next token to be made.
    let mut keys = Command::new(env!("CARGO_BIN_EXE_xksd"));
    let output = keys
        .args(["keys", "--config"])
        .arg(&config)
        .env("SOFTHSM2_CONF", &tokens)
        .output()
        .unwrap();
    let told = "token \"none\" not found; the module shows slot 0 (not initialised)\n";
    assert!(code(&output) == 1 && stdout(&output).contains(told), "{}", stdout(&output));
}

#[test]
fn the_version_says_what_it_is_built_from() {
    let here = tempfile::tempdir().unwrap();
    let output = xksd(here.path(), &["--version"]);
    let version = concat!("xksd ", env!("CARGO_PKG_VERSION"), " (");
    let built_from = stdout(&output).trim_end().strip_prefix(version).unwrap();
    assert!(
        built_from == "debug build)"
            || built_from.starts_with("commit ") && built_from.ends_with(')'),
        "{built_from}"
    );
}

/// Whoever can change a file, or the folder that it is in, could make another key store of it.
#[test]
fn what_every_user_can_change_is_refused() {
    let dir = demo();
    let open = |path: &str, mode| {
        fs::set_permissions(dir.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    for (path, closed, refused) in [
        ("demo", 0o755, "demo/xksd.toml: could be changed by another user: "),
        ("demo/xksd.toml", 0o644, "demo/xksd.toml: can be written by every user"),
        ("demo/tls", 0o755, "tls.certificate_chain: demo/tls/chain.pem could be changed by"),
        ("demo/tls/chain.pem", 0o644, "demo/tls/chain.pem can be written by every user"),
        (
            "demo/secrets",
            0o700,
            "secret_access_key.file: demo/secrets/key-store-1 could be changed",
        ),
    ] {
        open(path, 0o777);
        for command in ["check", "serve"] {
            let output = xksd(dir.path(), &[command, "--config", "demo/xksd.toml"]);
            assert_eq!(code(&output), 2, "{command} {path}");
            let told = stderr(&output);
            assert!(told.contains(refused) && told.contains("run: chmod o-w "), "{told}");
        }
        open(path, closed);
    }
    assert_eq!(code(&xksd(dir.path(), &["check", "--config", "demo/xksd.toml"])), 0);
}

/// Its module would run as the user who starts the demo.
#[test]
fn demo_refuses_a_folder_that_others_can_write_to() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("demo");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let output = xksd(dir.path(), &["demo", "--files-only"]);
    let told = stderr(&output);
    assert!(code(&output) == 1 && told.contains("demo can be written by every user"), "{told}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    // Needs root: nobody else can give a folder away.
    if chown(&folder, Some(65_534), None).is_ok() {
        let output = xksd(dir.path(), &["demo", "--files-only"]);
        assert!(code(&output) == 1 && stderr(&output).contains("belongs to another user"));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    }
}

#[test]
fn check_tells_who_is_let_in() {
    let dir = demo();
    let config = dir.path().join("demo/xksd.toml");
    let text = fs::read_to_string(&config).unwrap();
    let client =
        "[tls.client]\ntrust_anchors = \"ca.pem\"\nsubject_common_names = [\"a\", \"b\"]\n[admin]";
    fs::write(&config, text.replace("[admin]", client)).unwrap();
    let output = xksd(dir.path(), &["check", "--config", "demo/xksd.toml"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let told = "client certificates: asked for, with the subject CN \"a\" or \"b\", from the \
        authorities in demo/ca.pem\n";
    assert!(stdout(&output).contains(told), "{}", stdout(&output));

    let admin = "\"127.0.0.1:9180\"";
    assert!(text.contains(admin), "{text}");
    for (address, warned) in [
        ("127.9.9.9:1", false),
        ("[::1]:1", false),
        ("[::ffff:127.0.0.1]:1", false),
        ("0.0.0.0:1", true),
        ("[::]:1", true),
    ] {
        fs::write(&config, text.replace(admin, &format!("\"{address}\""))).unwrap();
        let output = xksd(dir.path(), &["check", "--config", "demo/xksd.toml"]);
        assert_eq!(code(&output), 0);
        assert_eq!(
            stderr(&output).contains("is not loopback, and the admin listener has no TLS"),
            warned,
            "{address}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_new_credential_is_accepted_by_the_configuration() {
    let dir = demo();
    let config = dir.path().join("demo/xksd.toml");
    let printed = xksd(dir.path(), &["credential", "new"]);
    assert_eq!(code(&printed), 0);
    assert!(stderr(&printed).contains("secret"));
    let written = xksd(dir.path(), &["credential", "new", "--write-secret", "my \"secret\""]);
    assert_eq!(code(&written), 0);
    assert!(
        stderr(&written).contains("chown root:xksd"),
        "a service of another user could not read it: {}",
        stderr(&written)
    );
    let file = dir.path().join("my \"secret\"");
    assert_eq!(mode(&file), 0o600);

    // As a person would: below the key store, the last section of the file.
    fs::write(&config, fs::read_to_string(&config).unwrap() + stdout(&printed) + stdout(&written))
        .unwrap();
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    let credentials = Config::load(&config).unwrap().keystores.remove(0).credentials;
    assert_eq!(credentials.len(), 3);
    assert_eq!(credentials[2].secret_access_key.expose(), fs::read_to_string(&file).unwrap());
    for credential in &credentials {
        assert_eq!(credential.access_key_id.len(), 20);
        assert_eq!(STANDARD.decode(credential.secret_access_key.expose()).unwrap().len(), 32);
    }
    assert_ne!(credentials[1].access_key_id, credentials[2].access_key_id);
    assert_ne!(credentials[1].secret_access_key, credentials[2].secret_access_key);
}

#[test]
fn a_secret_is_never_written_over_a_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("there"), "precious").unwrap();
    let output = xksd(dir.path(), &["credential", "new", "--write-secret", "there"]);
    assert_eq!((code(&output), stdout(&output)), (1, ""));
    assert!(
        stderr(&output)
            .contains("there is there already and is not overwritten: name another file"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read_to_string(dir.path().join("there")).unwrap(), "precious");
}

#[test]
fn the_directory_of_a_secret_is_made_and_closed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str| xksd(dir.path(), &["credential", "new", "--write-secret", file]);
    let output = write("secrets/one");
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(stderr(&output).contains("so is its directory, which is new"), "{}", stderr(&output));
    assert_eq!(
        (mode(&dir.path().join("secrets")), mode(&dir.path().join("secrets/one"))),
        (0o700, 0o600)
    );

    // One that is there is left as it is.
    fs::set_permissions(dir.path().join("secrets"), fs::Permissions::from_mode(0o750)).unwrap();
    let output = write("secrets/two");
    assert!(code(&output) == 0 && !stderr(&output).contains("directory"), "{}", stderr(&output));
    assert_eq!(mode(&dir.path().join("secrets")), 0o750);

    for (file, told) in [
        ("no/such/one", "no/such: No such file"),
        ("secrets/one/below", "secrets/one/below: Not a directory"),
    ] {
        let output = write(file);
        assert_eq!((code(&output), stdout(&output)), (1, ""));
        assert!(stderr(&output).contains(told), "{}", stderr(&output));
    }
}

#[test]
fn export_prints_what_the_console_takes() {
    let dir = demo();
    let config = Config::load(&dir.path().join("demo/xksd.toml")).unwrap();
    let credential = &config.keystores[0].credentials[0];
    let output = xksd(
        dir.path(),
        &["keystore", "export", "--config", "demo/xksd.toml", "--prefix", "/demo"],
    );
    assert_eq!(code(&output), 0);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({
        "XksProxyUriPath": "/demo/kms/xks/v1",
        "XksProxyAuthenticationCredential": {
            "AccessKeyId": credential.access_key_id,
            "RawSecretAccessKey": credential.secret_access_key.expose(),
        }
    });
    assert_eq!(told, expected);
    assert!(stderr(&output).contains("holds the secret"));
    assert!(!stderr(&output).contains(credential.secret_access_key.expose()));
}

#[test]
fn export_names_what_there_is_instead() {
    let dir = demo();
    let export = |more: &[&str]| {
        let args = [&["keystore", "export", "--config", "demo/xksd.toml"], more].concat();
        xksd(dir.path(), &args)
    };
    let output = export(&["--prefix", "/other"]);
    assert_eq!((code(&output), stdout(&output)), (2, ""));
    assert!(stderr(&output).contains("there is: \"/demo\""), "{}", stderr(&output));

    let id = Config::load(&dir.path().join("demo/xksd.toml")).unwrap().keystores[0].credentials[0]
        .access_key_id
        .clone();
    let output = export(&["--prefix", "/demo", "--access-key-id", "NONE"]);
    assert_eq!((code(&output), stdout(&output)), (2, ""));
    assert!(stderr(&output).contains(&id), "{}", stderr(&output));
    assert_eq!(code(&export(&["--prefix", "/demo", "--access-key-id", &id])), 0);
}

#[test]
fn demo_makes_everything_once() {
    let dir = demo();
    let files =
        ["ca.pem", "tls/chain.pem", "tls/key.pem", "secrets/key-store-1", "keys.json", "xksd.toml"];
    let content = || files.map(|name| fs::read(dir.path().join("demo").join(name)).unwrap());
    let first = content();
    for name in ["tls/key.pem", "secrets/key-store-1", "keys.json"] {
        assert_eq!(mode(&dir.path().join("demo").join(name)), 0o600, "{name}");
    }
    assert_eq!(mode(&dir.path().join("demo/secrets")), 0o700);
    let keys: serde_json::Value = serde_json::from_slice(&first[4]).unwrap();
    assert_eq!(keys["keys"][0]["label"], "demo");
    assert_eq!(STANDARD.decode(keys["keys"][0]["key"].as_str().unwrap()).unwrap().len(), 32);

    let again = xksd(dir.path(), &["demo", "--files-only"]);
    assert_eq!(code(&again), 0);
    assert!(stdout(&again).starts_with("Using what is in demo."));
    assert_eq!(content(), first);

    // Without its configuration the directory gets a new one, around the keys and the secret that
    // are there.
    fs::remove_file(dir.path().join("demo/xksd.toml")).unwrap();
    assert_eq!(code(&xksd(dir.path(), &["demo", "--files-only"])), 0);
    assert_eq!(content()[..5], first[..5]);
    assert_eq!(code(&xksd(dir.path(), &["check", "--config", "demo/xksd.toml"])), 0);
}

#[test]
fn demo_tells_what_to_try_and_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let output =
        xksd(dir.path(), &["demo", "--files-only", "--dir", "a b", "--listen", "[::]:9443"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for words in [
        "xksd probe --config 'a b/xksd.toml'",
        "--aws-sigv4 \"aws:amz:us-east-1:kms-xks-proxy\"",
        "--cacert 'a b/ca.pem'",
        "https://localhost:9443/demo/kms/xks/v1/health",
    ] {
        assert!(stdout(&output).contains(words), "{words}: {}", stdout(&output));
    }
    let secret = fs::read_to_string(dir.path().join("a b/secrets/key-store-1")).unwrap();
    assert!(!stdout(&output).contains(&secret));
}

#[test]
fn demo_does_not_change_a_configuration() {
    let dir = demo();
    for (args, words) in [
        (&["--listen", "127.0.0.1:9999"][..], "--listen differs from server.listen"),
        (&["--admin", "127.0.0.1:9999"], "--admin differs from admin.listen"),
        (
            &["--module", "m", "--token", "t", "--pin-file", "p"],
            "--module differs from key_manager[0].kind",
        ),
    ] {
        let output = xksd(dir.path(), &[&["demo", "--files-only"], args].concat());
        assert_eq!(code(&output), 2, "{args:?}");
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
    let same = xksd(
        dir.path(),
        &["demo", "--files-only", "--listen", "127.0.0.1:8443", "--admin", "127.0.0.1:9180"],
    );
    assert_eq!(code(&same), 0);
}

#[test]
fn demo_never_overwrites_half_of_a_certificate() {
    let dir = demo();
    fs::remove_file(dir.path().join("demo/xksd.toml")).unwrap();
    fs::remove_file(dir.path().join("demo/ca.pem")).unwrap();
    let key = fs::read(dir.path().join("demo/tls/key.pem")).unwrap();
    let output = xksd(dir.path(), &["demo", "--files-only"]);
    assert_eq!(code(&output), 1);
    assert!(stderr(&output).contains("missing: demo/ca.pem"), "{}", stderr(&output));
    assert_eq!(fs::read(dir.path().join("demo/tls/key.pem")).unwrap(), key);
}

#[test]
fn demo_with_an_hsm_names_it_in_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p11.so"), "").unwrap();
    fs::write(dir.path().join("pin"), "1234\n").unwrap();
    let args = [
        "demo",
        "--files-only",
        "--module",
        "p11.so",
        "--token",
        "my \"token\"",
        "--pin-file",
        "pin",
        "--profile",
        "softhsm",
    ];

    // The PIN file is open to every user: told, and nothing left behind that would fail the next
    // time too.
    fs::set_permissions(dir.path().join("pin"), fs::Permissions::from_mode(0o644)).unwrap();
    let output = xksd(dir.path(), &args);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("chmod o-rwx"), "{}", stderr(&output));
    assert!(!dir.path().join("demo/xksd.toml").exists());

    fs::set_permissions(dir.path().join("pin"), fs::Permissions::from_mode(0o600)).unwrap();
    for _ in 0..2 {
        let output = xksd(dir.path(), &args);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
    }
    assert!(!dir.path().join("demo/keys.json").exists());
    let config = Config::load(&dir.path().join("demo/xksd.toml")).unwrap();
    let Kind::Pkcs11(hsm) = &config.key_managers[0].kind else { panic!("not pkcs11") };
    assert_eq!(hsm.module, fs::canonicalize(dir.path()).unwrap().join("p11.so"));
    assert_eq!(hsm.token, TokenSelector::Label("my \"token\"".to_owned()));
    assert_eq!(hsm.pin.expose(), "1234");

    let mut other = args;
    other[3] = "other.so";
    assert_eq!(code(&xksd(dir.path(), &other)), 2);
}

#[test]
fn check_tells_what_stands_in_the_tls_files_together_with_all_else() {
    let dir = demo();
    let config = dir.path().join("demo/xksd.toml");
    fs::write(dir.path().join("demo/tls/chain.pem"), "no certificate\n").unwrap();
    fs::write(
        &config,
        fs::read_to_string(&config).unwrap().replace("[server]\n", "[server]\ncolour = 1\n"),
    )
    .unwrap();
    let output = xksd(dir.path(), &["check", "--config", "demo/xksd.toml"]);
    assert_eq!(code(&output), 2);
    for words in ["server.colour: unknown key", "tls.certificate_chain: ", "2 problems in"] {
        assert!(stderr(&output).contains(words), "{words}: {}", stderr(&output));
    }
}

#[test]
fn check_looks_into_the_files_with_which_etcd_is_reached() {
    let dir = demo();
    let path = |name: &str| dir.path().join("demo").join(name);
    let text = fs::read_to_string(path("xksd.toml")).unwrap();
    let other_key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let files = [("other-key.pem", &*other_key), ("empty.pem", "nothing\n"), ("xksd.toml", &*text)];
    for (name, content) in files {
        fs::write(path(name), content).unwrap();
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let secret = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let (chain, key, empty) = ("tls/chain.pem", "tls/key.pem", "empty.pem");
    for (anchors, certificate, private, wrong) in [
        (chain, chain, key, None),
        (empty, chain, key, Some("fleet.trust_anchors: ")),
        (chain, empty, key, Some("fleet.etcd.client_certificate: ")),
        (chain, chain, empty, Some("fleet.etcd.client_private_key: ")),
        (chain, chain, "other-key.pem", Some("fleet.etcd.client_private_key: ")),
    ] {
        let fleet = format!(
            "[fleet]\nsecret = {{ value = \"{secret}\" }}\ntrust_anchors = \"{anchors}\"\n\
             [fleet.etcd]\nendpoints = [\"https://127.0.0.1:2379\"]\nprefix = \"/a\"\n\
             client_certificate = \"{certificate}\"\nclient_private_key = \"{private}\"\n"
        );
        fs::write(path("xksd.toml"), text.replacen("[server]", &format!("{fleet}[server]"), 1))
            .unwrap();
        let output = xksd(dir.path(), &["check", "--config", "demo/xksd.toml"]);
        let said = stderr(&output);
        assert_eq!(code(&output), if wrong.is_some() { 2 } else { 0 }, "{said}");
        assert!(said.contains(wrong.unwrap_or_default()), "{said}");
    }
}
