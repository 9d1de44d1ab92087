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

/// The private key of a PKCS#8 file of P-256.
fn scalar(pem: &str) -> [u8; 32] {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let der = STANDARD.decode(body).expect("base64");
    let at = der.windows(2).position(|bytes| bytes == [0x04, 32]).expect("an octet string of 32");
    der[at + 2..at + 34].try_into().expect("32")
}

/// A number below P-256's order times 2^256, modulo that order, lowest byte first: how ring holds
/// a private key.
fn montgomery(number: [u8; 32]) -> [u8; 32] {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut value = number;
    for _ in 0..256 {
        let overflows = value[0] & 0x80 != 0;
        let mut carry = 0;
        for byte in value.iter_mut().rev() {
            (*byte, carry) = ((*byte << 1) | carry, *byte >> 7);
        }
        if overflows || value >= ORDER {
            let mut borrow = 0;
            for (byte, less) in value.iter_mut().zip(ORDER).rev() {
                let left = i16::from(*byte) - i16::from(less) - borrow;
                (*byte, borrow) = (left.rem_euclid(256) as u8, i16::from(left < 0));
            }
        }
    }
    value.reverse();
    value
}

/// In the form in which they are used, too.
#[test]
fn keys_that_sign_are_there_once_at_most() {
    let installation = Installation::default();
    let audit_key = installation.path().join("secrets/audit-key");
    let made = Command::new(env!("CARGO_BIN_EXE_xksd"))
        .args(["audit", "key", "new", "--origin", "xks.example/a", "--write-secret"])
        .arg(&audit_key)
        .output();
    assert!(made.expect("runs").status.success());
    let audit = "[audit]\ndirectory = \"audit\"\norigin = \"xks.example/a\"\n\
        signing_key = { file = \"secrets/audit-key\" }\n";
    let text = [&*Config::default().text(), audit].concat();
    installation.write("xksd.toml", &text);

    let read = |path| std::fs::read_to_string(path).expect("a file");
    let (pem, seed_text) = (read(installation.path().join("tls/key.pem")), read(audit_key));
    let seed = STANDARD.decode(seed_text.trim()).expect("base64");
    let (plain, in_use) = (scalar(&pem), montgomery(scalar(&pem)));
    // Of an Ed25519 key ring keeps the hash of the seed (RFC 8032, 5.1.6).
    let hash = ring::digest::digest(&ring::digest::SHA512, &seed);
    let secrets: [&[u8]; 5] =
        [&in_use, &hash.as_ref()[32..], &plain, &seed, seed_text.trim().as_bytes()];
    let changes: [fn(&mut Command); 2] = [|_| (), without_memfd_secret];
    for change in changes {
        let server = Server::start(&installation, &[], change);
        Api::new(&installation, &server).round_trip("foo");
        server.reload();
        Api::new(&installation, &server).round_trip("foo");
        let Some(found) = look(&server, &secrets) else { return };
        let copies: Vec<usize> = found.copies.iter().map(|copies| copies.len()).collect();
        // The last is the configuration's own.
        let expected = if found.met_secret_memory() { [0; 5] } else { [1, 1, 0, 0, 1] };
        assert_eq!(copies, expected, "{found:#?}");
    }
}
