//! How many copies of its secrets stand in the memory of a server that has used them.
//!
//! Reading another process's memory is for root, for whom they run in CI. Another user hears that
//! nothing was looked at.

use std::os::unix::process::CommandExt;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use test_harness::config::{FOO, OTHER};
use test_harness::memory_scan::{Needle, Scan, forbid_secret_memory, scan};
use test_harness::token::PIN;
use test_harness::{A, Api, Config, Installation, Server};

/// None, with a word about it, if this user may not look.
fn look(server: &Server, secrets: &[&[u8]]) -> Option<Scan> {
    let needles: Vec<Needle> = secrets.iter().map(|secret| Needle::new(secret)).collect();
    let found = scan(server.pid(), &needles);
    if found.is_none() {
        eprintln!("not looked at: only root may read the memory of a server. Run it as root");
    }
    found
}

/// As on a kernel before 5.14.
fn without_memfd_secret(command: &mut Command) {
    // SAFETY: it makes two system calls and nothing else between fork and exec.
    unsafe { command.pre_exec(|| forbid_secret_memory(libc::ENOSYS)) };
}

#[test]
fn a_local_key_is_there_once_at_most_and_its_text_never() {
    let installation = Installation::default();
    let texts = [FOO, OTHER].map(|key| STANDARD.encode(key));
    let secrets: [&[u8]; 4] = [&FOO, &OTHER, texts[0].as_bytes(), texts[1].as_bytes()];
    let changes: [fn(&mut Command); 2] = [|_| (), without_memfd_secret];
    for (change, is_locked) in changes.into_iter().zip([false, true]) {
        let server = Server::start(&installation, &[], change);
        Api::new(&installation, &server).round_trip("foo");
        // It reads the key file once more, to say what differs.
        server.reload();
        Api::new(&installation, &server).round_trip("foo");

        let Some(found) = look(&server, &secrets) else { return };
        assert!(!(is_locked && found.met_secret_memory()), "{:?}", found.unread);
        let (kind, raw) =
            if found.met_secret_memory() { ("memfd_secret", 0) } else { ("mlock", 1) };
        let said = server.status()["key_managers"][0]["versions"].to_string();
        assert!(said.contains(&format!("keys in memory of {kind}")), "{said}");
        let copies: Vec<usize> = found.copies.iter().map(|copies| copies.len()).collect();
        assert_eq!(copies, [raw, raw, 0, 0], "{found:#?}");
    }
}

/// Those of credentials, and the PIN, which are read from files.
#[test]
fn secrets_of_the_configuration_are_in_secret_memory_only() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    let pin = PIN;
    installation.write("pin", pin);
    let manager =
        hsm.key_manager(1).replace(&format!("{{ value = {PIN:?} }}"), "{ file = \"pin\" }");
    let server = Config::default();
    installation
        .configure(&Config { key_managers: format!("{manager}{}", server.key_managers), ..server });
    let server = Server::start(&installation, &[], |_| ());
    server.wait_for_sessions("hsm", 1);
    Api::new(&installation, &server).round_trip("foo");
    server.reload();
    Api::new(&installation, &server).round_trip("foo");
    let Some(found) = look(&server, &[A.secret.as_bytes(), pin.as_bytes()]) else { return };
    // In locked memory there is one for each key store that has it, and for the configuration.
    if found.met_secret_memory() {
        assert!(found.copies.iter().all(|copies| copies.is_empty()), "{found:#?}");
    }
}
