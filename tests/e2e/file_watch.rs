//! Files come into force by themselves, once they are whole and valid, also where they are exchanged
//! as Kubernetes does it.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use test_harness::api::encrypt_body;
use test_harness::{A, Api, Config, Installation, Server, eventually};

const TAKEN: &str = "xksd_file_changes_total{result=\"taken\"}";
const REFUSED: &str = "xksd_file_changes_total{result=\"refused\"}";

fn watching() -> Config {
    let config = Config::default();
    Config { server: config.server.replace("watch_files = false\n", ""), ..config }
}

fn serial(server: &Server) -> Value {
    server.status()["tls"]["certificates"][0]["serial"].clone()
}

#[test]
fn a_certificate_and_a_key_file_come_into_force_when_they_are_whole() {
    let installation = Installation::new(&watching());
    let server = installation.start();
    let (before, wrote) = (serial(&server), server.metric(TAKEN));

    // Half a key file is refused, once, and what serves serves on.
    let keys = std::fs::read_to_string(installation.path().join("keys.json")).expect("keys");
    let key = std::fs::read_to_string(installation.path().join("tls/key.pem")).expect("key");
    installation.write("tls/key.pem", "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw");
    eventually("it is refused", || server.metric(REFUSED) > 0.0);
    let refused = server.status()["config_last_reload"]["refused"].clone();
    assert!(refused.as_str().is_some_and(|why| why.contains("tls.private_key")), "{refused}");
    assert_eq!((serial(&server), server.metric(TAKEN)), (before.clone(), wrote));
    Api::new(&installation, &server).round_trip("foo");

    // Put back, it is as if nothing had been.
    installation.write("tls/key.pem", &key);
    eventually("nothing is refused any more", || {
        server.status()["config_last_reload"]["refused"] == Value::Null
    });
    assert_eq!(serial(&server), before);

    installation.new_certificate();
    eventually("it is in force", || serial(&server) != before);
    assert_eq!(server.status()["config_last_reload"]["refused"], Value::Null);
    Api::new(&installation, &server).round_trip("foo");

    let mut more: Value = serde_json::from_str(&keys).expect("JSON");
    let foo = more["keys"][0]["key"].clone();
    more["keys"].as_array_mut().expect("keys").push(json!({ "label": "absent", "key": foo }));
    installation.write("keys.json", &more.to_string());
    let mut api = Api::new(&installation, &server);
    eventually("the new key serves", || server.metric(TAKEN) > wrote + 1.0);
    api.round_trip("absent");
}

#[test]
fn an_edited_configuration_does_not_come_into_force_by_a_file() {
    let installation = Installation::new(&watching());
    let server = installation.start();
    let before = serial(&server);
    let config = watching();
    let shut = config.key_stores.replacen(
        "\n[[keystore.credential]]",
        "\nenabled = false\n[[keystore.credential]]",
        1,
    );
    installation.configure(&Config { key_stores: shut, ..config });
    installation.new_certificate();
    eventually("it is refused", || server.metric(REFUSED) > 0.0);
    server.wait_event(&["not reloaded", "files have changed that the configuration names"]);
    assert_eq!(serial(&server), before);
    assert_eq!(server.status()["key_stores"][0]["enabled"], json!(true));
    assert!(server.reload().ends_with("reloaded"));
    assert_ne!(serial(&server), before);
    assert_eq!(server.status()["key_stores"][0]["enabled"], json!(false));
}

/// A file that is included is a part of the configuration: others wait while it differs, and no
/// longer.
#[test]
fn an_edit_of_an_included_file_that_is_undone_stops_no_renewal() {
    let installation = Installation::default();
    let config = watching();
    let (text, edited) = (config.key_stores.clone(), format!("{}\n# more\n", config.key_stores));
    installation.write("stores.toml", &text);
    let without = Config { key_stores: String::new(), ..config };
    installation.write("xksd.toml", &format!("include = [\"stores.toml\"]\n{}", without.text()));
    let server = installation.start();
    let before = serial(&server);

    installation.write("stores.toml", &edited);
    installation.new_certificate();
    server.wait_event(&["not reloaded", "files have changed that the configuration names"]);
    assert_eq!(serial(&server), before);
    installation.write("stores.toml", &text);
    eventually("the certificate is in force", || serial(&server) != before);
    Api::new(&installation, &server).round_trip("foo");
}

/// Writes a volume of files as kubelet does: into a new folder, to which `..data` leads then.
fn publish(volume: &Path, version: &str, files: &[(&str, &str)]) {
    let folder = volume.join(version);
    std::fs::create_dir(&folder).expect("made");
    for (name, text) in files {
        test_harness::pki::write(&folder, name, text);
    }
    let next = volume.join("..data_tmp");
    symlink(version, &next).expect("a link");
    std::fs::rename(&next, volume.join("..data")).expect("renamed");
    for (name, _) in files {
        let _ = symlink(Path::new("..data").join(name), volume.join(name));
    }
}

#[test]
fn a_volume_of_kubernetes_is_taken_over_each_time_it_is_exchanged() {
    let installation = Installation::default();
    let volume = installation.path().join("volume");
    std::fs::create_dir(&volume).expect("made");
    let wrong = "w".repeat(A.secret.len());
    publish(&volume, "..2026_11_29_1", &[("key", &wrong)]);
    let config = watching();
    let named = format!("secrets/{}", A.id);
    let key_stores = config.key_stores.replace(&named, "volume/key");
    installation.configure(&Config { key_stores, ..config });
    let server = installation.start();
    let answered = || {
        let mut api = Api::new(&installation, &server);
        let request = api.request("keys/foo/encrypt", &encrypt_body(b"text", &json!({})));
        api.wire.call(&request).status
    };
    assert_eq!(answered(), 401);
    for (version, secret, status) in [
        ("..2026_11_29_2", A.secret, 200),
        ("..2026_11_29_3", &wrong, 401),
        ("..2026_11_29_4", A.secret, 200),
    ] {
        let old = std::fs::read_link(volume.join("..data")).expect("a link");
        publish(&volume, version, &[("key", secret)]);
        std::fs::remove_dir_all(volume.join(old)).expect("removed");
        eventually("the secret is in force", || answered() == status);
    }
    server.wait_event(&["reload: key store \"/one\": credential", "secret_access_key changed"]);
}
