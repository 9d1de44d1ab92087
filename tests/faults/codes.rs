//! What a code of the HSM becomes for KMS, and results that are wrong.

use crate::proxy::{Proxy, key_store};
use std::time::Duration;
use test_harness::hsm_sim::KEY;
use test_harness::{Installation, eventually};

use super::client::{Client, Reply};

const INTERNAL: (u16, &str) = (500, "InternalException");

/// A request that succeeds again, with all sessions.
fn recovered(server: &Proxy, client: &mut Client, sessions: u64) {
    server.wait_for_sessions("hsm", sessions);
    eventually("serves again", || client.round_trip(b"as before").is_ok());
}

#[test]
fn a_code_becomes_the_error_that_it_means() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    let server = Proxy::start(installation, &[hsm.key_manager(2), key_store("/s", &["hsm"])]);
    server.wait_for_sessions("hsm", 2);
    let mut client = server.client("/s");
    let sealed = client.encrypt(b"made in good days");
    assert!(sealed.is_ok());
    type Ask = fn(&mut Client, &Reply) -> Reply;
    let encrypt: Ask = |client, _| client.encrypt(b"text");
    let decrypt: Ask = |client, sealed| client.decrypt(sealed);
    let spoiled: Ask = |client, sealed| client.decrypt_spoiled(sealed);
    let metadata: Ask = |client, _| client.metadata();

    // Nothing wrong with the HSM: only what is really bad is called so.
    assert_eq!(decrypt(&mut client, &sealed).bytes("plaintext"), b"made in good days");
    spoiled(&mut client, &sealed).must_be(400, "InvalidCiphertextException");
    for (call, code, ask, expected) in [
        ("C_EncryptInit", "CKR_DEVICE_ERROR", encrypt, INTERNAL),
        ("C_EncryptInit", "CKR_SESSION_HANDLE_INVALID", encrypt, INTERNAL),
        ("C_EncryptInit", "CKR_USER_NOT_LOGGED_IN", encrypt, INTERNAL),
        ("C_EncryptInit", "CKR_KEY_HANDLE_INVALID", encrypt, INTERNAL),
        ("C_EncryptInit", "CKR_OPERATION_ACTIVE", encrypt, INTERNAL),
        (
            "C_EncryptInit",
            "CKR_KEY_FUNCTION_NOT_PERMITTED",
            encrypt,
            (400, "InvalidKeyUsageException"),
        ),
        ("C_Encrypt", "CKR_DEVICE_REMOVED", encrypt, INTERNAL),
        ("C_Encrypt", "CKR_HOST_MEMORY", encrypt, INTERNAL),
        ("C_Encrypt", "CKR_GENERAL_ERROR", encrypt, INTERNAL),
        // What it would mean for a decryption it does not mean here.
        ("C_Encrypt", "CKR_ENCRYPTED_DATA_INVALID", encrypt, INTERNAL),
        ("C_Encrypt", "CKR_TOKEN_RESOURCE_EXCEEDED", encrypt, (429, "ThrottlingException")),
        ("C_Encrypt", "0x80000123", encrypt, INTERNAL),
        // Of the verifying decryption: the ciphertext was made a moment ago.
        ("C_Decrypt", "CKR_ENCRYPTED_DATA_INVALID", encrypt, INTERNAL),
        ("C_Decrypt", "CKR_GENERAL_ERROR", encrypt, INTERNAL),
        ("C_DecryptInit", "CKR_DEVICE_ERROR", decrypt, INTERNAL),
        ("C_Decrypt", "CKR_DEVICE_ERROR", decrypt, INTERNAL),
        ("C_Decrypt", "CKR_DEVICE_MEMORY", decrypt, INTERNAL),
        // SoftHSM's and nShield's codes for a bad tag: the test key shows that it is the HSM,
        // whatever the ciphertext.
        ("C_Decrypt", "CKR_GENERAL_ERROR", decrypt, INTERNAL),
        ("C_Decrypt", "CKR_GENERAL_ERROR", spoiled, INTERNAL),
        ("C_Decrypt", "CKR_FUNCTION_FAILED", decrypt, INTERNAL),
        ("C_Decrypt", "CKR_FUNCTION_FAILED", spoiled, INTERNAL),
        ("C_GetAttributeValue", "CKR_DEVICE_ERROR", metadata, INTERNAL),
    ] {
        let quoted = if code.starts_with("0x") { code.to_owned() } else { format!("{code:?}") };
        hsm.control(&format!("error = {{ call = {call:?}, code = {quoted} }}"));
        let reply = ask(&mut client, &sealed);
        assert_eq!((reply.status, &*reply.error), expected, "{call} {code}: {}", reply.json);
        // The operator learns which call and code; KMS, whose customer reads it, does not.
        assert!(!reply.json.to_string().contains("CKR_"), "{}", reply.json);
        if expected == INTERNAL {
            let code = if code.starts_with("0x") { "CKR_VENDOR_DEFINED + 0x123" } else { code };
            eventually(&format!("{code} in the log"), || {
                server.requests().last().is_some_and(|line| {
                    line["detail"].as_str().is_some_and(|detail| detail.contains(code))
                })
            });
        }
        hsm.heal();
        recovered(&server, &mut client, 2);
    }
    spoiled(&mut client, &sealed).must_be(400, "InvalidCiphertextException");

    // A session that such an error poisons is not used again.
    hsm.control(
        "error = { call = \"C_Encrypt\", code = \"CKR_DEVICE_ERROR\", leaves_operation = true }",
    );
    client.encrypt(b"poison").must_be(500, "InternalException");
    hsm.heal();
    for _ in 0..6 {
        client.round_trip(b"clean").unwrap();
    }
    server.kept_the_budget();
}

/// A key that could not be searched for is not reported as missing.
#[test]
fn a_search_that_fails_is_a_fault() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    hsm.prepare("error = { call = \"C_FindObjectsInit\", code = \"CKR_DEVICE_ERROR\" }");
    let server = Proxy::start(installation, &[hsm.key_manager(2), key_store("/s", &["hsm"])]);
    server.wait_for_sessions("hsm", 2);
    let mut client = server.client("/s");
    client.metadata().must_be(500, "InternalException");
    client.encrypt(b"text").must_be(500, "InternalException");
    eventually("its code in the log", || {
        server.requests().last().is_some_and(|line| {
            line["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("C_FindObjects: CKR_DEVICE_ERROR"))
        })
    });
    hsm.heal();
    recovered(&server, &mut client, 2);
    assert!(client.metadata().is_ok());
}

/// A transient error with the code of a bad tag is not reported as bad ciphertext.
#[test]
fn a_passing_fault_is_not_reported_as_bad_ciphertext() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "seed = 3");
    let server = Proxy::start(installation, &[hsm.key_manager(2), key_store("/s", &["hsm"])]);
    server.wait_for_sessions("hsm", 2);
    let mut client = server.client("/s");
    let sealed = client.encrypt(b"in good order");
    hsm.control(
        "error = { call = \"C_Decrypt\", code = \"CKR_GENERAL_ERROR\", probability = 0.02 }",
    );
    for _ in 0..300 {
        let reply = client.decrypt(&sealed);
        assert_ne!(reply.error, "InvalidCiphertextException");
    }
    let dealt = hsm.settled_stats();
    assert!(dealt["faults"]["error"].as_u64() > Some(0), "{dealt}");
    hsm.heal();
    client.decrypt_spoiled(&sealed).must_be(400, "InvalidCiphertextException");
}

/// Wrong results of the HSM: with a CDIV, not one leaves.
#[test]
fn a_wrong_result_never_leaves_with_an_integrity_value() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    let server = Proxy::start(installation, &[hsm.key_manager(3), key_store("/s", &["hsm"])]);
    server.wait_for_sessions("hsm", 3);
    server.wait_until_ready();
    let mut client = server.client("/s");
    for fault in ["corrupt_ciphertext = 1", "wrong_plaintext = 1"] {
        hsm.control(fault);
        for _ in 0..20 {
            client.encrypt(b"to be spoiled").must_be_a_fault();
        }
        eventually("the probe finds it too", || !server.is_ready());
        hsm.heal();
        recovered(&server, &mut client, 3);
        server.wait_until_ready();
    }
    // Caught by an encryption, such an HSM does not answer a decryption either, of which nobody
    // could tell that it is wrong.
    let kept = client.encrypt(b"kept");
    assert!(kept.is_ok());
    hsm.control("wrong_plaintext = 1");
    client.encrypt(b"to be spoiled").must_be_a_fault();
    for _ in 0..50 {
        client.decrypt(&kept).must_be_a_fault();
        client.encrypt_with(KEY, b"nobody would know", false).must_be_a_fault();
    }
    hsm.heal();
    recovered(&server, &mut client, 3);
    assert_eq!(client.decrypt(&kept).bytes("plaintext"), b"kept");
    server.wait_until_ready();
    let load = server.load("/s", 3);
    hsm.control("corrupt_ciphertext = 0.3");
    // A round trip with a CDIV that ends otherwise than well or with an error by name fails the
    // test.
    let tally = load.tally_during(Duration::from_secs(1));
    assert!(tally.failed() > 0, "{tally:?}");
    println!("30% of ciphertexts corrupted: {tally:?}");
    hsm.heal();
    load.serves(20);
    load.end();
    let dealt = hsm.settled_stats();
    assert!(dealt["faults"]["corrupt_ciphertext"].as_u64() > Some(20), "{dealt:#}");
    assert!(dealt["faults"]["wrong_plaintext"].as_u64() >= Some(1), "{dealt:#}");
    server.kept_the_budget();
}
