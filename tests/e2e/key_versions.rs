//! Versions of a key: rotation behind a fixed external key id.

use serde_json::{Value, json};
use test_harness::api::{bytes, decrypt_body, name};
use test_harness::config::{key, key_store};
use test_harness::{A, Api, Config, Installation, eventually};

/// Key `foo` with these versions: number, label and state.
fn with_versions(versions: &[(u16, &str, &str)]) -> Config {
    let one = |(number, label, state): &(u16, &str, &str)| {
        let label = match *label {
            "" => String::new(),
            label => format!("label = \"{label}\"\n"),
        };
        format!("[[keystore.key.version]]\nnumber = {number}\nstate = \"{state}\"\n{label}")
    };
    let versions: String = versions.iter().map(one).collect();
    let key_stores = key_store("/one", "key_manager = [\"local\"]", &[&A], &key("foo", &versions));
    Config { key_stores, ..Config::default() }
}

fn unversioned() -> Config {
    let key_stores = key_store("/one", "key_manager = [\"local\"]", &[&A], &key("foo", ""));
    Config { key_stores, ..Config::default() }
}

fn encrypt(api: &mut Api) -> Value {
    api.encrypt("foo", b"text", &json!({}))
}

#[test]
fn a_key_is_rotated_and_what_it_had_encrypted_opens() {
    let installation = Installation::new(&unversioned());
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let old = encrypt(&mut api);
    assert_eq!(bytes(&old, "ciphertextMetadata"), [1, 0, 0]);
    let shown = || {
        let mut key = server.status()["key_stores"][0]["key_versions"][0].take();
        for version in key["versions"].as_array_mut().expect("versions") {
            let version = version.as_object_mut().expect("an object");
            assert_eq!(version.remove("budget").expect("there")["share"], 1u64 << 32);
        }
        key
    };
    let only = json!({"number": 0, "label": "foo", "state": "primary"});
    assert_eq!(shown(), json!({"key": "foo", "versions": [only]}));

    let take = |versions: &[(u16, &str, &str)]| {
        installation.configure(&with_versions(versions));
        assert!(server.reload().ends_with("reloaded"));
    };
    take(&[(0, "foo", "primary"), (1, "other", "staged")]);
    assert_eq!(bytes(&encrypt(&mut api), "ciphertextMetadata"), [1, 0, 0]);
    take(&[(0, "foo", "decrypt_only"), (1, "other", "primary")]);
    server.wait_event(&["key \"foo\": version is (number 0 label \"foo\" state decrypt_only"]);
    let new = encrypt(&mut api);
    assert_eq!(bytes(&new, "ciphertextMetadata"), [1, 0, 1]);
    for ciphertext in [&old, &new] {
        assert_eq!(api.decrypt("foo", ciphertext, &json!({})), b"text");
    }
    let swapped = json!({"ciphertextMetadata": old["ciphertextMetadata"]});
    assert_eq!(
        api.decrypt_error("foo", &new, &swapped),
        name(400, "InvalidCiphertextException"),
        "the version is authenticated"
    );
    let other = json!({"number": 1, "label": "other", "state": "primary"});
    assert_eq!(shown()["versions"][1], other);

    take(&[(0, "foo", "disabled"), (1, "other", "primary")]);
    assert_eq!(api.decrypt_error("foo", &old, &json!({})), name(400, "InvalidStateException"));
    take(&[(0, "", "destroyed"), (1, "other", "primary")]);
    assert_eq!(api.decrypt_error("foo", &old, &json!({})), name(400, "InvalidStateException"));
    assert_eq!(api.decrypt("foo", &new, &json!({})), b"text");
}

#[test]
fn a_newer_version_is_never_called_bad_ciphertext_and_is_read_again() {
    let installation =
        Installation::new(&with_versions(&[(0, "foo", "decrypt_only"), (1, "other", "primary")]));
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let made = encrypt(&mut api);
    let older = with_versions(&[(0, "foo", "primary"), (2, "third", "disabled")]);
    installation.configure(&older);
    assert!(server.reload().ends_with("reloaded"));
    // Between those that are known: nobody makes it any more.
    assert_eq!(api.decrypt_error("foo", &made, &json!({})).1, "InvalidCiphertextException");

    let newer = json!({"ciphertextMetadata": test_harness::api::b64([1, 0, 3])});
    assert_eq!(api.decrypt_error("foo", &made, &newer), name(500, "InternalException"));
    server.wait_event(&["a newer version of its key than is known: the configuration does not"]);
    assert_eq!(server.metric("xksd_newer_key_versions_total"), 1.0);
}

#[test]
fn an_instance_that_was_not_reloaded_reads_a_new_version_by_itself() {
    let before = with_versions(&[(0, "foo", "decrypt_only"), (1, "third", "primary")]);
    let after = with_versions(&[
        (0, "foo", "decrypt_only"),
        (1, "third", "decrypt_only"),
        (2, "other", "primary"),
    ]);
    let installation = Installation::new(&after);
    let first = installation.start();
    let made = encrypt(&mut Api::new(&installation, &first));
    drop(first);
    installation.configure(&before);
    let server = installation.start();
    installation.configure(&after);
    let mut api = Api::new(&installation, &server);
    let body = decrypt_body(&made, &json!({}));
    let status = api.call("keys/foo/decrypt", &body).status;
    assert!([200, 500].contains(&status), "{status}");
    eventually("the new version", || api.call("keys/foo/decrypt", &body).status == 200);
    server.wait_event(&["a newer version of its key than is known: the configuration is read"]);

    // What else was changed waits for a word of the operator's.
    installation.configure(&after.clone().server("request_budget_ms = 150"));
    let newer = json!({"ciphertextMetadata": test_harness::api::b64([1, 0, 9])});
    eventually("a look", || {
        assert_eq!(api.decrypt_error("foo", &made, &newer).0, 500);
        server.messages().iter().any(|message| message.contains("has other changes, too"))
    });
}
