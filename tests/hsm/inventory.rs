//! What the configured keys are, found out beside the requests: by one listing of the token, and by
//! handles afterwards.

use std::sync::Arc;

use cryptoki::object::Attribute;
use test_harness::{Token, eventually, own_process};
use xksd::key_manager::pkcs11::{Pkcs11Engine, Profile};
use xksd::key_manager::{Answer, Engine, Fault, KeyRef, KeySpec, Outcome, Session};
use xksd::limits::INVENTORY_SEARCHES_MAX;

use crate::jobs::*;
use crate::simulator::{Simulator, simulator};

const KEYS: usize = 3 * INVENTORY_SEARCHES_MAX;

fn name(n: usize) -> String {
    format!("key-{n}")
}

/// A token with the keys foo and key-0 to key-23, and an open session that serves.
struct Place {
    hsm: Simulator,
    token: Token,
    engine: Arc<Pkcs11Engine>,
    session: Box<dyn Session>,
}

fn place(directory: &std::path::Path) -> Place {
    let hsm = simulator(directory, "");
    let token = hsm.token();
    for n in 0..KEYS {
        token.make_key(&name(n), 32, &[]);
    }
    let engine = hsm.engine(Profile::SoftHsm);
    let session = engine.open().expect("opens");
    Place { hsm, token, engine, session }
}

impl Place {
    fn describe(&self, labels: &[String]) -> Result<Vec<Outcome>, Fault> {
        let keys: Vec<_> = labels.iter().map(|label| KeyRef::first(label.as_str())).collect();
        self.engine.describe_keys(&keys).map(|outcomes| outcomes.expect("a session for it"))
    }

    /// What `what` costs: searches, and readings of attributes.
    fn cost<T>(&self, what: impl FnOnce() -> T) -> (u64, u64, T) {
        let calls =
            || ["C_FindObjectsInit", "C_GetAttributeValue"].map(|name| self.hsm.calls(name));
        let [searches, readings] = calls();
        let result = what();
        let [searches_now, readings_now] = calls();
        (searches_now - searches, readings_now - readings, result)
    }
}

fn all() -> Vec<String> {
    (0..KEYS).map(name).collect()
}

fn missing(outcome: &Outcome) -> bool {
    matches!(outcome, Err(Fault::KeyNotFound { .. }))
}

own_process! {
    fn one_search_and_one_reading_a_key_and_then_none(directory) {
        let mut place = place(directory);
        let (searches, readings, outcomes) = place.cost(|| place.describe(&all()).expect("described"));
        assert_eq!((searches, readings), (1, KEYS as u64 + 1), "the token has one more");
        for outcome in outcomes {
            assert!(matches!(&outcome, Ok(Answer::Described(key)) if key.spec == KeySpec::AES_256), "{outcome:?}");
        }
        // What was read a moment ago is not read again, by nobody.
        let (searches, readings, _) = place.cost(|| place.describe(&all()).expect("described"));
        assert_eq!((searches, readings), (0, 0));
        let session = &mut place.session;
        for label in all() {
            encrypt(&mut **session, &label, b"text", b"").expect("encrypts");
        }
        let (searches, ..) = place.cost(|| ());
        assert_eq!(searches, 0);
        // A session was lent for it, and is back: nothing leaks.
        let open = place.hsm.settled_stats()["sessions"]["open"].as_u64();
        (0..5).for_each(|_| drop(place.describe(&all()).expect("described")));
        assert_eq!(place.hsm.settled_stats()["sessions"]["open"].as_u64(), open);
    }
}

own_process! {
    fn keys_that_are_none_are_named_however_many_there_are(directory) {
        let place = place(directory);
        place.token.make_key("twin", 32, &[Attribute::Id(vec![1])]);
        place.token.make_key("twin", 32, &[Attribute::Id(vec![2])]);
        place.token.make_key("small", 16, &[]);
        // SoftHSM 2.6 cannot read the dates of private keys.
        let date = cryptoki::types::Date::new_from_str_slice("2020", "01", "31").expect("a date");
        place.token.make_key("unreadable", 32, &[Attribute::EndDate(date)]);
        let mut labels = ["twin", "small", "unreadable", "foo"].map(str::to_owned).to_vec();
        labels.extend((0..100).map(|n| format!("nobody-{n}")));
        let (searches, _, outcomes) = place.cost(|| place.describe(&labels).expect("described"));
        assert!(searches <= 1 + INVENTORY_SEARCHES_MAX as u64, "{searches}");
        assert!(matches!(&outcomes[0], Err(Fault::KeyNotFound { detail }) if detail.starts_with("2 secret keys")));
        assert_eq!(outcomes[1].as_ref().map(|_| ()), Ok(()));
        assert!(matches!(&outcomes[2], Err(Fault::Device { detail }) if detail.contains("CKR_GENERAL_ERROR")), "{:?}", outcomes[2]);
        assert!(outcomes[3].is_ok());
        assert!(outcomes[4..].iter().all(missing));
        // And looked for again, some of them: one that was made meanwhile is found.
        place.token.make_key("nobody-0", 32, &[]);
        let found = place.describe(&["nobody-0".to_owned()]).expect("described");
        assert!(found[0].is_ok());
    }
}

own_process! {
    fn keys_that_are_not_where_they_were_are_searched_for_or_listed(directory) {
        let place = place(directory);
        place.describe(&all()).expect("described");
        // All handles are asked again after a loss.
        place.hsm.control("sessions_lost = 1\n");
        let lost = place.describe(&all());
        assert!(lost.is_ok() || matches!(lost, Err(Fault::Device { .. })), "{lost:?}");
        let session = place.engine.open().expect("opens");
        place.token.delete_key(&name(0));
        place.token.delete_key(&name(1));
        place.token.make_key(&name(1), 32, &[]);
        eventually("the keys as they are", || {
            let Ok(outcomes) = place.describe(&all()) else { return false };
            missing(&outcomes[0]) && outcomes[1..].iter().all(|outcome| outcome.is_ok())
        });
        // More than are searched for one by one.
        for n in 2..KEYS {
            place.token.delete_key(&name(n));
        }
        drop(session);
        place.hsm.control("sessions_lost = 2\n");
        let _ = place.describe(&all());
        let _session = place.engine.open().expect("opens");
        eventually("all of them named", || {
            place.describe(&all()).is_ok_and(|outcomes| outcomes.iter().filter(|outcome| missing(outcome)).count() == KEYS - 1)
        });
    }
}

own_process! {
    fn a_token_that_is_out_of_sight_says_nothing_of_keys(directory) {
        let place = place(directory);
        place.describe(&all()).expect("described");
        // Until the login is back, private keys are hidden, and calls succeed.
        place.token.session().logout().expect("out");
        let outcomes = place.describe(&all());
        let told = |outcome: &Outcome| !missing(outcome);
        assert!(outcomes.as_ref().map_or(true, |outcomes| outcomes.iter().all(told)), "{outcomes:?}");
    }
}

own_process! {
    fn a_full_token_leaves_it_to_the_lanes_and_a_closed_engine_ends_it(directory) {
        let hsm = simulator(directory, "sessions_max = 2");
        let token = hsm.token();
        let engine = hsm.engine(Profile::SoftHsm);
        // The test's own, and the only one that serves.
        let own = token.session();
        let session = engine.open().expect("opens");
        let keys = [KeyRef::first("foo")];
        assert!(engine.describe_keys(&keys).expect("no fault").is_none());
        drop(own);
        assert!(engine.describe_keys(&keys).expect("no fault").expect("a session")[0].is_ok());
        drop(session);
        engine.close();
        assert!(engine.describe_keys(&keys).is_err());
    }
}
