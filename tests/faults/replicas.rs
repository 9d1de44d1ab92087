//! Two HSMs behind one key store.

use crate::proxy::{Proxy, key_store};
use std::time::Duration;
use test_harness::{Installation, PATIENCE, eventually, eventually_within};

/// One is dead: the other serves. Health tells each.
#[test]
fn one_of_two_replicas_is_enough() {
    let installation = Installation::default();
    let (a, b) = (installation.hsm("a", ""), installation.hsm("b", ""));
    a.import_key("only-a", 9);
    let with_both = key_store("/s", &["a", "b"]) + "[[keystore.key]]\nid = \"only-a\"\n";
    let server = Proxy::start(installation, &[a.key_manager(4), b.key_manager(4), with_both]);
    server.wait_for_sessions("a", 4);
    server.wait_for_sessions("b", 4);
    let mut client = server.client("/s");
    let fleet_is = |client: &mut super::client::Client, a: &str, b: &str| {
        eventually(&format!("a {a}, b {b}"), || {
            client.fleet() == [("a".into(), a.into()), ("b".into(), b.into())].into()
        });
    };
    fleet_is(&mut client, "ACTIVE", "ACTIVE");
    // Named is what one of them lacks, and nothing else.
    server.wait_event(&["\"only-a\"", "cannot serve from key manager \"b\""]);
    assert!(
        !server
            .messages()
            .iter()
            .any(|message| message.contains("cannot serve from key manager \"a\""))
    );

    let load = server.load("/s", 3);
    load.serves(20);
    for (dead, other, fault) in [
        (&a, "b", "hang = \"*\""),
        (&a, "b", "token_removed = true"),
        (&b, "a", "token_removed = true"),
        (&a, "b", "error = { call = \"C_Encrypt\", code = \"CKR_DEVICE_ERROR\" }"),
    ] {
        dead.control(fault);
        let tally = load.tally_during(Duration::from_millis(500));
        println!("{} {fault}: {tally:?}", dead.name);
        let taken_over = load.serves(30);
        println!("{other} has taken over after another {taken_over:?}");
        fleet_is(
            &mut client,
            if dead.name == "a" { "UNAVAILABLE" } else { "ACTIVE" },
            if other == "b" { "ACTIVE" } else { "UNAVAILABLE" },
        );
        assert!(server.is_ready());
        let tally = load.tally_during(Duration::from_millis(300));
        assert!(tally.failed() * 20 <= tally.good, "{other} serves alone: {tally:?}");
        dead.heal();
        fleet_is(&mut client, "ACTIVE", "ACTIVE");
        load.serves(20);
    }
    load.end();
    server.kept_the_budget();
}

/// One is slow, though it serves: it is spared until it is fast again.
#[test]
fn a_slow_replica_gets_little_until_it_is_fast_again() {
    let installation = Installation::default();
    let (a, b) = (installation.hsm("a", ""), installation.hsm("b", ""));
    let server = Proxy::start(
        installation,
        &[a.key_manager(4), b.key_manager(4), key_store("/s", &["a", "b"])],
    );
    server.wait_for_sessions("a", 4);
    server.wait_for_sessions("b", 4);
    server.wait_until_ready();
    let load = server.load("/s", 2);
    load.serves(20);
    // Of the last so many requests, those that the first replica answered.
    let share = || {
        let requests = server.requests();
        let last = &requests[requests.len().saturating_sub(100)..];
        (last.iter().filter(|line| line["key_manager"] == "a").count(), last.len())
    };
    eventually("the first serves all", || share() == (100, 100));
    // 80 ms for an encryption, some fifty times the usual: within the budget, and no fault.
    a.control(
        "stall = { call = [\"C_EncryptInit\", \"C_Encrypt\", \"C_DecryptInit\", \
        \"C_Decrypt\"], ms = 20 }",
    );
    let spared = eventually("the slow one is spared", || share().0 <= 5);
    a.heal();
    let back =
        eventually_within(PATIENCE * 2, "it has its share again, after a probe or two", || {
            share().0 >= 95
        });
    println!("spared after {spared:?}, back after {back:?}");
    assert_eq!(load.end().failed(), 0);
    server.kept_the_budget();
}
