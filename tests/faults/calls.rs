//! What a request costs the HSM, and the IVs that leave.

use crate::proxy::{Proxy, key_store};
use std::collections::HashSet;
use test_harness::Installation;
use test_harness::hsm_sim::KEY;

use xksd::limits::IV_BLOCK;

const CLIENTS: usize = 4;
const ENCRYPTS: usize = 10_240;

/// A CDIV encrypt costs four calls and 1/256 of a C_GenerateRandom. No two have the same IV.
#[test]
fn an_encrypt_costs_four_calls_and_has_an_iv_of_its_own() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "");
    // One session, so that it is known when a block of IVs is used up.
    let server = Proxy::start(installation, &[hsm.key_manager(1), key_store("/s", &["hsm"])]);
    server.wait_until_ready();
    let mut warm = server.client("/s");
    // The key is looked up, and half a block of IVs is used up.
    (0..IV_BLOCK / 2).for_each(|_| assert!(warm.encrypt(b"warm-up").is_ok()));
    let before = hsm.settled_stats()["calls"].clone();
    let threads: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut client = server.client("/s");
            std::thread::spawn(move || {
                let encrypt =
                    |_| client.encrypt_with(KEY, &[0x5a; 32], true).bytes("initializationVector");
                (0..ENCRYPTS / CLIENTS).map(encrypt).collect::<Vec<_>>()
            })
        })
        .collect();
    let ivs: Vec<Vec<u8>> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let after = hsm.settled_stats()["calls"].clone();

    assert_eq!(ivs.len(), ENCRYPTS);
    assert!(ivs.iter().all(|iv| iv.len() == 12));
    assert_eq!(ivs.iter().collect::<HashSet<_>>().len(), ENCRYPTS);

    let count = |calls: &serde_json::Value, name: &str| calls[name].as_u64().unwrap_or(0);
    let made = |name: &str| count(&after, name) - count(&before, name);
    // Probes come every ten seconds beside the requests.
    let probes = made("C_EncryptInit") - ENCRYPTS as u64;
    assert!(probes <= 6, "{probes} calls too many");
    for name in ["C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt"] {
        assert_eq!(made(name), ENCRYPTS as u64 + probes, "{name}");
    }
    assert_eq!(made("C_GenerateRandom"), (ENCRYPTS / IV_BLOCK) as u64);
    let per_request =
        ["C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt", "C_GenerateRandom"];
    for (name, _) in
        after.as_object().unwrap().iter().filter(|(name, _)| !per_request.contains(&name.as_str()))
    {
        assert!(made(name) <= 2 * probes + 2, "{name} was called {} times beside", made(name));
    }
}
