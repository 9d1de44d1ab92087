//! Keys are made, rotated, promoted and retired.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use test_harness::api::{bytes, name};
use test_harness::{Api, b64};

use super::{Place, wait_for_epoch};
use crate::conformance;

#[test]
fn a_key_encrypts_in_both_formats_and_opens_what_it_encrypted_after_a_restart() {
    let place = Place::new("");
    place.key("create", "foo", &[]);
    place.key("create", "bar", &["--cipher", "1"]);
    let server = place.start();
    let mut api = place.api(&server);
    let cdiv = json!({"ciphertextDataIntegrityValueAlgorithm": "SHA_256"});
    let made = ["foo", "bar"].map(|key| api.encrypt(key, b"text", &cdiv));
    let metadata = made.each_ref().map(|made| bytes(made, "ciphertextMetadata"));
    assert_eq!((metadata[0].len(), &metadata[0][..3]), (15, &[2, 0, 0][..]));
    assert_eq!(metadata[1], [1, 0, 0]);
    let another = bytes(&api.encrypt("foo", b"text", &cdiv), "ciphertextMetadata");
    assert_ne!(another, metadata[0], "each message has a key of its own");
    drop(server);
    let server = place.start();
    let mut api = place.api(&server);
    for (key, made) in ["foo", "bar"].iter().zip(&made) {
        assert_eq!(api.decrypt(key, made, &json!({})), b"text");
        // Each byte of the metadata is authentic.
        let metadata = bytes(made, "ciphertextMetadata");
        for at in 0..metadata.len() {
            let mut wrong = metadata.clone();
            wrong[at] ^= 4;
            let wrong = json!({"ciphertextMetadata": b64(wrong)});
            let (status, error) = api.decrypt_error(key, made, &wrong);
            // Of a version above those that are known, the file may be on its way.
            let expected = if (1..3).contains(&at) {
                name(500, "InternalException")
            } else {
                name(400, "InvalidCiphertextException")
            };
            assert_eq!((status, error), expected, "{key}, byte {at}");
        }
    }
}

#[test]
fn the_four_calls_do_what_they_do_over_any_key_manager() {
    let place = Place::new("");
    place.key("create", "foo", &["--cipher", "1"]);
    let server = place.start();
    let mut api = place.api(&server);
    conformance::metadata(&mut api);
    conformance::round_trips(&mut api);
    conformance::integrity(&mut api);
    conformance::sizes(&mut api);
    conformance::other_keys(&mut api);
    conformance::health(&mut api);
    // And in the other format, to which the key is rotated.
    place.key("rotate", "foo", &[]);
    place.key("promote", "foo", &[]);
    wait_for_epoch(&server, "foo", 3);
    conformance::metadata(&mut api);
    conformance::integrity(&mut api);
    conformance::sizes(&mut api);
    let address = format!("127.0.0.1:{}", server.port);
    let probed = place.xksd(&["probe", "--connect", &address]);
    assert!(probed.status.success(), "{probed:?}");
}

#[test]
fn what_each_state_allows_and_what_the_commands_refuse() {
    let place = Place::with_foo("");
    let server = place.start();
    let mut api = place.api(&server);
    let old = api.encrypt("foo", b"old", &json!({}));
    assert!(place.try_key("promote", "foo", &[]).unwrap_err().contains("no version is staged"));
    place.key("rotate", "foo", &[]);
    wait_for_epoch(&server, "foo", 2);
    assert_eq!(bytes(&api.encrypt("foo", b"", &json!({})), "ciphertextMetadata")[..3], [2, 0, 0]);
    place.key("promote", "foo", &["--instance", &format!("http://127.0.0.1:{}", server.admin)]);
    wait_for_epoch(&server, "foo", 3);
    let new = api.encrypt("foo", b"new", &json!({}));
    assert_eq!(bytes(&new, "ciphertextMetadata")[..3], [2, 0, 1]);
    assert_eq!(api.decrypt("foo", &old, &json!({})), b"old");
    let of_version = |command, more: &[&str]| {
        place.try_key(command, "foo", &[&["--version", "0"], more].concat())
    };
    of_version("disable", &[]).unwrap();
    wait_for_epoch(&server, "foo", 4);
    assert_eq!(api.decrypt_error("foo", &old, &json!({})), name(400, "InvalidStateException"));
    of_version("enable", &[]).unwrap();
    wait_for_epoch(&server, "foo", 5);
    assert_eq!(api.decrypt("foo", &old, &json!({})), b"old");
    let destroy = |label| of_version("destroy", &["--after", "1d", "--confirm", label]);
    assert!(destroy("bar").unwrap_err().contains("nothing was changed"));
    destroy("foo").unwrap();
    wait_for_epoch(&server, "foo", 6);
    assert_eq!(api.decrypt_error("foo", &old, &json!({})), name(400, "InvalidStateException"));
    let primary = ["--version", "1", "--after", "1d", "--confirm", "foo"];
    assert!(place.try_key("destroy", "foo", &primary).unwrap_err().contains("promote another"));
    of_version("cancel-destroy", &[]).unwrap();
    of_version("enable", &[]).unwrap();
    wait_for_epoch(&server, "foo", 8);
    assert_eq!(api.decrypt("foo", &old, &json!({})), b"old");
    assert_eq!(api.decrypt("foo", &new, &json!({})), b"new");
}

#[test]
fn a_key_of_another_proxy_is_taken_over_rotated_and_its_old_ciphertext_opens() {
    let place = Place::new("");
    place.installation.write("raw", &b64([9; 32]));
    place.key("import", "foo", &["--file", "raw"]);
    let server = place.start();
    let mut api = place.api(&server);
    let old = api.encrypt("foo", b"old", &json!({}));
    assert_eq!(bytes(&old, "ciphertextMetadata"), [1, 0, 0]);
    place.key("rotate", "foo", &[]);
    wait_for_epoch(&server, "foo", 2);
    place.key("promote", "foo", &[]);
    wait_for_epoch(&server, "foo", 3);
    let new = api.encrypt("foo", b"new", &json!({}));
    assert_eq!(bytes(&new, "ciphertextMetadata")[..3], [2, 0, 1]);
    assert_eq!(api.decrypt("foo", &old, &json!({})), b"old");
    for wrong in ["", "AAAA", &"A".repeat(48)] {
        place.installation.write("raw", wrong);
        let why = place.try_key("import", "bar", &["--file", "raw"]).unwrap_err();
        assert!(why.contains("32 bytes in Base64"), "{why}");
    }
}

/// Three instances, each with an HSM that holds the same master.
#[test]
fn three_instances_rotate_under_load_and_no_request_fails() {
    let places = [(); 3].map(|()| Place::new(""));
    places[0].key("create", "foo", &[]);
    let copy = |to: usize| {
        let (from, to) = (places[0].file("foo"), places[to].file("foo"));
        let beside = to.with_extension("part");
        fs::copy(from, &beside).unwrap();
        fs::rename(beside, to).unwrap();
    };
    (1..3).for_each(copy);
    let servers = places.each_ref().map(Place::start);
    let instances = |numbers: &[usize]| -> Vec<String> {
        let of = |n: &usize| {
            ["--instance".to_owned(), format!("http://127.0.0.1:{}", servers[*n].admin)]
        };
        numbers.iter().flat_map(of).collect()
    };
    let promote = |numbers: &[usize]| {
        let instances = instances(numbers);
        let words: Vec<&str> = instances.iter().map(String::as_str).collect();
        places[0].try_key("promote", "foo", &words)
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (places, servers, stop) = (&places, &servers, &stop);
        // What one encrypts, the next one decrypts.
        let load = |n: usize| {
            let mut apis = [n, (n + 1) % 3].map(|n| places[n].api(&servers[n]));
            let mut done = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let made = apis[0].encrypt("foo", b"text", &json!({}));
                assert_eq!(apis[1].decrypt("foo", &made, &json!({})), b"text");
                done += 1;
            }
            done
        };
        let loads: Vec<_> = (0..3).map(|n| scope.spawn(move || load(n))).collect();
        places[0].key("rotate", "foo", &[]);
        wait_for_epoch(&servers[0], "foo", 2);
        copy(1);
        wait_for_epoch(&servers[1], "foo", 2);
        let refused = promote(&[0, 1, 2]).unwrap_err();
        assert!(refused.contains(&format!(":{}: it does not have version 1", servers[2].admin)));
        assert!(!refused.contains(&servers[1].admin.to_string()), "{refused}");
        copy(2);
        wait_for_epoch(&servers[2], "foo", 2);
        promote(&[0, 1, 2]).unwrap();
        (1..3).for_each(copy);
        servers.iter().for_each(|server| wait_for_epoch(server, "foo", 3));
        stop.store(true, Ordering::Relaxed);
        for load in loads {
            assert!(load.join().expect("no request failed") > 0);
        }
    });
}

#[test]
fn a_version_that_an_instance_has_not_got_yet_is_never_called_bad_ciphertext() {
    let places = [(); 2].map(|()| Place::new(""));
    places[0].key("create", "foo", &[]);
    fs::copy(places[0].file("foo"), places[1].file("foo")).unwrap();
    let servers = places.each_ref().map(Place::start);
    places[0].key("rotate", "foo", &[]);
    places[0].key("promote", "foo", &[]);
    wait_for_epoch(&servers[0], "foo", 3);
    let made: Value = places[0].api(&servers[0]).encrypt("foo", b"text", &json!({}));
    let mut late: Api = places[1].api(&servers[1]);
    assert_eq!(late.decrypt_error("foo", &made, &json!({})), name(500, "InternalException"));
    fs::copy(places[0].file("foo"), places[1].file("foo")).unwrap();
    wait_for_epoch(&servers[1], "foo", 3);
    assert_eq!(late.decrypt("foo", &made, &json!({})), b"text");
}
