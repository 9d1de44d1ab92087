//! Files that are not to be believed, while the server runs and at its start.

use std::fs;

use serde_json::json;
use test_harness::api::{encrypt_body, name};
use test_harness::eventually;

use super::{Place, near, refused, wait_for_epoch, wait_for_refusal};

#[test]
fn a_file_that_is_not_to_be_believed_changes_nothing_and_the_others_serve() {
    let place = Place::with_foo("");
    place.key("create", "bar", &[]);
    let server = place.start();
    let mut api = place.api(&server);
    let file = place.file("foo");
    let first = fs::read(&file).unwrap();
    place.key("rotate", "foo", &[]);
    wait_for_epoch(&server, "foo", 2);
    let good = fs::read(&file).unwrap();

    let mut flipped = good.clone();
    // Another second in which a version was made.
    let at = good.windows(2).position(|two| two == b"Z\"").expect("there") - 1;
    flipped[at] ^= 1;
    let spaced = [&good[..], b" "].concat();
    let swapped = String::from_utf8(good.clone()).unwrap().replace("staged", "decrypt_only");
    let bar = fs::read(place.file("bar")).unwrap();
    for (content, words) in [
        (&flipped[..], "seal does not fit"),
        (&spaced, "it was edited"),
        (swapped.as_bytes(), "seal does not fit"),
        (&first, "an old file was put back"),
        (&bar, "it was renamed"),
        (b"{}", "is not a key file"),
        (b"", "is not a key file"),
    ] {
        fs::write(&file, content).unwrap();
        wait_for_refusal(&server, "foo", words);
        api.round_trip("foo");
        api.round_trip("bar");
    }
    assert_eq!(
        server.metric("xksd_wrapped_key_files{key_manager=\"near\",state=\"refused\"}"),
        1.0
    );
    fs::write(&file, &good).unwrap();
    eventually("believed again", || refused(&server, "foo").is_none());

    // At a start nothing is known that could go on.
    fs::write(&file, &first).unwrap();
    drop(server);
    let server = place.start();
    wait_for_refusal(&server, "foo", "an old file was put back");
    let mut api = place.api(&server);
    api.round_trip("bar");
    let encrypt = encrypt_body(b"text", &json!({}));
    assert_eq!(api.error("keys/foo/encrypt", &encrypt), name(500, "InternalException"));
    fs::write(&file, &good).unwrap();
    wait_for_epoch(&server, "foo", 2);
    api.round_trip("foo");
}

#[test]
fn two_histories_of_one_key_are_told_apart() {
    let place = Place::with_foo("");
    let server = place.start();
    let before = fs::read(place.file("foo")).unwrap();
    place.key("rotate", "foo", &[]);
    wait_for_epoch(&server, "foo", 2);
    fs::write(place.file("foo"), before).unwrap();
    place.key("rotate", "foo", &[]);
    wait_for_refusal(&server, "foo", "the key was changed in two places");
}

#[test]
fn a_file_that_goes_retires_its_key_and_one_that_comes_is_served() {
    let place = Place::with_foo("");
    let server = place.start();
    let mut api = place.api(&server);
    let encrypt = encrypt_body(b"text", &json!({}));
    assert_eq!(api.error("keys/bar/encrypt", &encrypt).1, "KeyNotFoundException");
    place.key("create", "bar", &[]);
    wait_for_epoch(&server, "bar", 1);
    api.round_trip("bar");
    fs::remove_file(place.file("foo")).unwrap();
    eventually("retired", || api.call("keys/foo/encrypt", &encrypt).status != 200);
    assert_eq!(api.error("keys/foo/encrypt", &encrypt).1, "KeyNotFoundException");
    api.round_trip("bar");
}

#[test]
fn a_folder_that_is_exchanged_as_a_whole_is_taken_over() {
    let place = Place::with_foo("");
    // As Kubernetes does: a link to a link, and the inner one is replaced.
    let (keys, data) = (place.path("keys"), |n: u8| place.path(&format!("data-{n}")));
    fs::rename(&keys, data(1)).unwrap();
    std::os::unix::fs::symlink("data-1", place.path("now")).unwrap();
    std::os::unix::fs::symlink("now", &keys).unwrap();
    let server = place.start();
    fs::create_dir(data(2)).unwrap();
    fs::copy(data(1).join("foo.json"), data(2).join("foo.json")).unwrap();
    std::os::unix::fs::symlink("data-2", place.path("next")).unwrap();
    fs::rename(place.path("next"), place.path("now")).unwrap();
    place.key("rotate", "foo", &[]);
    wait_for_epoch(&server, "foo", 2);
    assert_eq!(near(&server)["state"], "open");
    place.api(&server).round_trip("foo");
}

#[test]
fn a_host_that_never_saw_the_key_believes_what_min_epoch_allows() {
    let place = Place::with_foo("min_epoch = { foo = 2 }");
    place.key("create", "bar", &[]);
    let server = place.start();
    wait_for_refusal(&server, "foo", "min_epoch in the configuration is 2");
    place.key("rotate", "foo", &[]);
    wait_for_epoch(&server, "foo", 2);
    place.api(&server).round_trip("foo");
}

#[test]
fn what_the_state_directory_says_of_key_files_must_be_readable() {
    let place = Place::with_foo("");
    drop(place.start());
    fs::write(place.path("state/key-files.json"), "{").unwrap();
    let output = place.xksd(&["serve"]);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && why.contains("key-files.json"), "{why}");
    assert!(why.contains("does not start without it"), "{why}");
}
