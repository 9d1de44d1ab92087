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
        eventually(&format!("a {a}, b {b}"), PATIENCE, || client.fleet() == [("a".into(), a.into()), ("b".into(), b.into())].into());
    };
    fleet_is(&mut client, "ACTIVE", "ACTIVE");
    // Named is what one of them lacks, and nothing else.
    server.wait_for_message(&["\"only-a\"", "cannot serve from key manager \"b\""]);
    assert!(!server.messages().iter().any(|message| message.contains("cannot serve from key manager \"a\"")));

    let load = server.load("/s", 3);
    load.serves(20, PATIENCE);
    for (dead, other, fault) in [
        (&a, "b", "hang = \"*\""),
        (&a, "b", "token_removed = true"),
        (&b, "a", "token_removed = true"),
        (&a, "b", "error = { call = \"C_Encrypt\", code = \"CKR_DEVICE_ERROR\" }"),
    ] {
        dead.set(fault);
        let told = load.told_in(Duration::from_millis(500));
        println!("{} {fault}: {told:?}", dead.name);
        let taken_over = load.serves(30, PATIENCE);
        println!("{other} has taken over after another {taken_over:?}");
        fleet_is(&mut client, if dead.name == "a" { "UNAVAILABLE" } else { "ACTIVE" }, if other == "b" { "ACTIVE" } else { "UNAVAILABLE" });
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
