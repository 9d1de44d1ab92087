//! Two HSMs behind one key store.

use std::time::Duration;

use super::server::{PATIENCE, Place, eventually, key_manager, key_store};

/// One is dead: the other serves. Health tells each.
#[test]
fn one_of_two_replicas_is_enough() {
    let place = Place::new();
    let (a, b) = (place.hsm("a", ""), place.hsm("b", ""));
    a.import_key("only-a", 9);
    let with_both = key_store("/s", &["a", "b"]) + "[[keystore.key]]\nid = \"only-a\"\n";
    let server = place.serve(&[key_manager(&a, 4), key_manager(&b, 4), with_both]);
    server.wait_for_sessions("a", 4);
    server.wait_for_sessions("b", 4);
    let mut client = server.client("/s");
    let fleet_is = |client: &mut super::client::Client, a: &str, b: &str| {
        eventually(&format!("a {a}, b {b}"), PATIENCE, || {
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
    load.serves(20, PATIENCE);
    for (dead, other, fault) in [
        (&a, "b", "hang = \"*\""),
        (&a, "b", "token_removed = true"),
        (&b, "a", "token_removed = true"),
        (&a, "b", "error = { call = \"C_Encrypt\", code = \"CKR_DEVICE_ERROR\" }"),
    ] {
        dead.control(fault);
        let told = load.told_in(Duration::from_millis(500));
        println!("{} {fault}: {told:?}", dead.name);
        let taken_over = load.serves(30, PATIENCE);
        println!("{other} has taken over after another {taken_over:?}");
        fleet_is(
            &mut client,
            if dead.name == "a" { "UNAVAILABLE" } else { "ACTIVE" },
            if other == "b" { "ACTIVE" } else { "UNAVAILABLE" },
        );
        assert!(server.is_ready());
        let told = load.told_in(Duration::from_millis(300));
        assert!(told.failed() * 20 <= told.good, "{other} serves alone: {told:?}");
        dead.heal();
        fleet_is(&mut client, "ACTIVE", "ACTIVE");
        load.serves(20, PATIENCE);
    }
    load.end();
    server.kept_the_budget();
}

/// One is slow, though it serves: it is spared until it is fast again.
#[test]
fn a_slow_replica_gets_little_until_it_is_fast_again() {
    let place = Place::new();
    let (a, b) = (place.hsm("a", ""), place.hsm("b", ""));
    let server =
        place.serve(&[key_manager(&a, 4), key_manager(&b, 4), key_store("/s", &["a", "b"])]);
    server.wait_for_sessions("a", 4);
    server.wait_for_sessions("b", 4);
    server.wait_until_ready();
    let load = server.load("/s", 2);
    load.serves(20, PATIENCE);
    // Of the last so many requests, those that the first replica answered.
    let share = || {
        let requests = server.requests();
        let last = &requests[requests.len().saturating_sub(100)..];
        (last.iter().filter(|line| line["key_manager"] == "a").count(), last.len())
    };
    eventually("the first serves all", PATIENCE, || share() == (100, 100));
    // 80 ms for an encryption, some fifty times the usual: within the budget, and no fault.
    a.control(
        "stall = { call = [\"C_EncryptInit\", \"C_Encrypt\", \"C_DecryptInit\", \
        \"C_Decrypt\"], ms = 20 }",
    );
    let spared = eventually("the slow one is spared", PATIENCE, || share().0 <= 5);
    a.heal();
    let back = eventually("a probe or two tell that it has its share again", PATIENCE * 3, || {
        share().0 >= 95
    });
    println!("spared after {spared:?}, back after {back:?}");
    assert_eq!(load.end().failed(), 0);
    server.kept_the_budget();
}
