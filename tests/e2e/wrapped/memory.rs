//! How many copies of its keys stand in the memory of the server.

use std::process::Command;

use serde_json::json;
use test_harness::memory_scan::{Needle, scan};
use test_harness::{b64, eventually};

use super::{Place, wait_for_epoch};

const KEY: [u8; 32] = *b"\x01 wrapped key of the memory te \xfe";

#[test]
fn a_wrapped_key_is_there_once_at_most_and_not_at_all_once_it_is_sealed() {
    let place = Place::new("");
    let text = b64(KEY);
    place.installation.write("raw", &text);
    place.key("import", "foo", &["--file", "raw"]);
    let server = place.start();
    let mut api = place.api(&server);
    for _ in 0..20 {
        api.round_trip("foo");
    }
    // The same key again: out of the HSM, compared, and not put anywhere.
    place.key("rotate", "foo", &[]);
    wait_for_epoch(&server, "foo", 2);
    let look = || scan(server.pid(), &[Needle::new(&KEY), Needle::new(text.as_bytes())]);
    let Some(found) = look() else {
        eprintln!("not looked at: only root may read the memory of a server. Run it as root");
        return;
    };
    let most = if found.met_secret_memory() { 0 } else { 1 };
    assert!(found.copies[0].len() <= most, "{found:#?}");
    assert!(found.copies[1].is_empty(), "{found:#?}");
    assert!(place.seal("seal").status.success());
    let found = look().expect("as before");
    assert!(found.copies.iter().all(std::collections::BTreeSet::is_empty), "{found:#?}");
    let _ = api.call("health", &json!({}));
}

/// Without memfd_secret the key can be found, so that the test above can fail.
#[test]
fn in_locked_memory_it_is_there_once_and_gone_once_it_is_sealed() {
    let place = Place::new("");
    place.installation.write("raw", &b64(KEY));
    place.key("import", "foo", &["--file", "raw"]);
    let forbid = |command: &mut Command| {
        use std::os::unix::process::CommandExt;
        // SAFETY: it makes two system calls and nothing else between fork and exec.
        unsafe {
            command.pre_exec(|| test_harness::memory_scan::forbid_secret_memory(libc::ENOSYS))
        };
    };
    let server = test_harness::Server::start(&place.installation, &[], forbid);
    place.api(&server).round_trip("foo");
    let copies = || Some(scan(server.pid(), &[Needle::new(&KEY)])?.copies[0].len());
    let Some(found) = copies() else { return };
    assert_eq!(found, 1);
    assert!(place.seal("seal").status.success());
    eventually("overwritten", || copies() == Some(0));
}
