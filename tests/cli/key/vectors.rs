//! A program that is not ours, and knows the documented formats only, opens what xksd wrote.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use test_harness::api::bytes;
use test_harness::{Api, b64, own_process};

use super::{MASTER, Site, Told};

/// How much the script opens of these files.
fn opened(files: &[&Path]) -> Result<usize, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/wrapped_vectors.py");
    let output = Command::new("python3").arg(script).args(files).output();
    let told = Told::of(&output.expect("python3 is installed by scripts/test"));
    match told.code {
        0 => Ok(told.out.trim().parse().expect("a number")),
        _ => Err(told.err),
    }
}

#[test]
fn the_test_vectors_open() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = root.join("docs/wrapped-keys-vectors.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let vectors: Value = serde_json::from_str(&text).unwrap();
    let count = |name: &str| vectors[name].as_array().map_or(0, Vec::len);
    assert!(count("keys") > 1 && count("messages") > 1);
    assert_eq!(opened(&[&file]), Ok(count("keys") + count("messages")));
    // It does look.
    let directory = tempfile::tempdir().unwrap();
    let wrong = directory.path().join("wrong.json");
    for pointer in ["/master", "/keys/0", "/messages/0/aad", "/messages/1/metadata"] {
        let mut changed = vectors.clone();
        let text = changed.pointer(pointer).and_then(Value::as_str).unwrap();
        let other = if text.starts_with('A') { "B" } else { "A" };
        *changed.pointer_mut(pointer).unwrap() = json!(format!("{other}{}", &text[1..]));
        std::fs::write(&wrong, changed.to_string()).unwrap();
        assert!(opened(&[&wrong]).is_err(), "{pointer}");
    }
}

/// What a server encrypted, as the script reads it.
fn message(api: &mut Api, plaintext: &str) -> Value {
    let aad = b"encryption context";
    let made = api.encrypt("foo", plaintext.as_bytes(), &json!({
        "additionalAuthenticatedData": b64(aad), "ciphertextDataIntegrityValueAlgorithm": "SHA_256"
    }));
    let metadata = bytes(&made, "ciphertextMetadata");
    let lengths = ((aad.len() as u16).to_be_bytes(), [metadata.len() as u8]);
    json!({
        "metadata": b64(&metadata),
        "aad": b64([&lengths.0[..], aad, &lengths.1, &metadata].concat()),
        "iv": made["initializationVector"],
        "ciphertext": made["ciphertext"],
        "tag": made["authenticationTag"],
        "plaintext": plaintext,
    })
}

own_process! {
    fn what_the_commands_and_the_server_made_opens_with_the_masters_bytes(_directory) {
        let site = Site::with_foo();
        let master = site.path("master");
        std::fs::write(&master, MASTER).expect("written");
        std::fs::remove_file(site.file("foo")).expect("removed");
        site.installation.write("raw", &b64([9; 32]));
        site.done("import", "foo", &["--file", "raw"]);
        let server = site.installation.start();
        let mut api = Api::new(&site.installation, &server);
        let mut messages = vec![message(&mut api, "by the key itself")];
        site.done("rotate", "foo", &[]);
        site.done("promote", "foo", &[]);
        server.wait_event(&["key \"foo\"", "epoch 3 is in use"]);
        messages.push(message(&mut api, "by a key of its own"));
        site.done("rotate", "foo", &[]);
        site.done("disable", "foo", &["--version", "2"]);
        assert_eq!(opened(&[&site.file("foo"), &master]), Ok(3));
        let all = json!({
            "master": b64(MASTER), "key_file": site.text("foo"), "messages": messages,
        });
        let vectors = site.path("vectors.json");
        std::fs::write(&vectors, all.to_string()).expect("written");
        assert_eq!(opened(&[&vectors]), Ok(5));
        // Another master does not.
        std::fs::write(&master, [1; 32]).expect("written");
        assert!(opened(&[&site.file("foo"), &master]).is_err());
    }
}
