//! What an administrator or a full disk may do to key files, beyond wrong bytes.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;
use test_harness::api::{encrypt_body, name};
use test_harness::eventually;

use super::{Place, near, refused, wait_for_epoch, wait_for_refusal};

#[test]
fn the_only_file_is_refused_and_told_and_mended() {
    let place = Place::with_foo("");
    let good = fs::read(place.file("foo")).unwrap();
    fs::write(place.file("foo"), [&good[..], b" "].concat()).unwrap();
    let server = place.spawn();
    server.wait_event(&["key \"foo\": refused", "it was edited"]);
    wait_for_refusal(&server, "foo", "it was edited");
    let encrypt = encrypt_body(b"text", &json!({}));
    let error = place.api(&server).error("keys/foo/encrypt", &encrypt);
    assert_eq!(error, name(500, "InternalException"));
    assert!(!server.is_ready());
    fs::write(place.file("foo"), good).unwrap();
    server.wait_until_ready();
    place.api(&server).round_trip("foo");
    let told = server.messages().iter().filter(|message| message.contains("refused: ")).count();
    assert_eq!(told, 1, "not with each look");
}

#[test]
fn a_look_at_another_file_does_not_make_a_refused_one_good() {
    let place = Place::with_foo("");
    place.key("create", "bar", &[]);
    let bar = fs::read(place.file("bar")).unwrap();
    fs::remove_file(place.file("bar")).unwrap();
    let server = place.start();
    let good = fs::read(place.file("foo")).unwrap();
    fs::write(place.file("foo"), &good[1..]).unwrap();
    wait_for_refusal(&server, "foo", "is not a key file");
    fs::write(place.file("bar"), bar).unwrap();
    wait_for_epoch(&server, "bar", 1);
    assert!(refused(&server, "foo").is_some());
    place.api(&server).round_trip("foo");
}

#[test]
fn a_file_that_comes_while_the_hsm_is_away_is_opened_when_it_is_back() {
    let place = Place::with_foo("");
    place.key("create", "bar", &[]);
    let bar = fs::read(place.file("bar")).unwrap();
    fs::remove_file(place.file("bar")).unwrap();
    let server = place.start();
    place.hsm.control("error = { call = \"*\", code = \"CKR_DEVICE_ERROR\" }");
    eventually("it is noticed", || near(&server)["hsm_absent_seconds"].is_u64());
    fs::write(place.file("bar"), bar).unwrap();
    wait_for_refusal(&server, "bar", "the HSM that would open it is away");
    place.api(&server).round_trip("foo");
    // The module may be between C_Finalize and C_Initialize, and look only then.
    place.hsm.prepare("");
    wait_for_epoch(&server, "bar", 1);
    eventually("no longer refused", || refused(&server, "bar").is_none());
    place.api(&server).round_trip("bar");
}

#[test]
fn of_two_folders_in_one_only_the_first_is_believed() {
    let (place, other) = (Place::new(""), Place::with_foo(""));
    place.key("create", "bar", &[]);
    fs::copy(other.file("foo"), place.file("foo")).unwrap();
    let server = place.start();
    wait_for_refusal(&server, "foo", "it is of the set");
    place.api(&server).round_trip("bar");
    // The same with what is remembered.
    drop(server);
    let server = place.start();
    wait_for_refusal(&server, "foo", "it comes from another folder");
    place.api(&server).round_trip("bar");
}

#[test]
fn files_that_are_links_are_exchanged_as_a_config_map_is() {
    let place = Place::with_foo("");
    let keys = place.path("keys");
    let swap = |dir: &str, text: &[u8]| {
        fs::create_dir(keys.join(dir)).unwrap();
        fs::write(keys.join(dir).join("foo.json"), text).unwrap();
        symlink(dir, keys.join("..data_tmp")).unwrap();
        fs::rename(keys.join("..data_tmp"), keys.join("..data")).unwrap();
    };
    let first = fs::read(place.file("foo")).unwrap();
    place.key("rotate", "foo", &[]);
    let second = fs::read(place.file("foo")).unwrap();
    swap("..1", &first);
    fs::remove_file(place.file("foo")).unwrap();
    symlink("..data/foo.json", place.file("foo")).unwrap();
    let server = place.start();
    wait_for_epoch(&server, "foo", 1);
    swap("..2", &second);
    fs::remove_dir_all(keys.join("..1")).unwrap();
    wait_for_epoch(&server, "foo", 2);
    swap("..3", &first);
    wait_for_refusal(&server, "foo", "an old file was put back");
    place.api(&server).round_trip("foo");
}

/// Where nothing can be written, as on a full disk.
#[test]
fn what_the_state_directory_did_not_take_is_written_when_it_does() {
    let place = Place::with_foo("");
    let server = place.start();
    let in_the_way = place.path("state/key-files.new");
    fs::create_dir(&in_the_way).unwrap();
    place.key("rotate", "foo", &[]);
    server.wait_event(&["not remembered over a restart", "key-files.json"]);
    wait_for_epoch(&server, "foo", 2);
    let sealed = place.seal("seal");
    let why = String::from_utf8_lossy(&sealed.stderr).into_owned();
    assert!(!sealed.status.success() && why.contains("would not be after a restart"), "{why}");
    assert_eq!(near(&server)["state"], "sealed");
    fs::remove_dir(&in_the_way).unwrap();
    assert!(place.seal("unseal").status.success());
    let saved = || fs::read_to_string(place.path("state/key-files.json")).unwrap();
    eventually("written", || saved().contains("\"epoch\":2"));
    eventually("open", || near(&server)["state"] == "open");
    place.api(&server).round_trip("foo");
}

#[test]
fn many_files_at_once_and_two_commands_at_once() {
    let place = Place::with_foo("");
    let server = place.start();
    let create = |half: u32| {
        for n in 0..10 {
            place.key("create", &format!("key-{half}-{n}"), &[]);
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| create(0));
        scope.spawn(|| create(1));
    });
    let rotated = std::thread::scope(|scope| {
        let rotate = || scope.spawn(|| place.try_key("rotate", "foo", &[]));
        [rotate(), rotate()].map(|thread| thread.join().unwrap())
    });
    let count = rotated.iter().filter(|done| done.is_ok()).count();
    assert_eq!(count, 1, "{rotated:?}");
    wait_for_epoch(&server, "foo", 2);
    let keys = || near(&server)["keys"].as_array().map(Vec::len);
    eventually("all of them", || keys() == Some(21));
    assert_eq!(near(&server)["refused_files"], json!([]));
    place.api(&server).round_trip("foo");
}
