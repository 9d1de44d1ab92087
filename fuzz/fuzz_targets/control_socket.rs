//! Any bytes as a request or an answer at the control socket, and as the state directory's files
//! (block list, encryptions of keys): no panic, and what is read is written in the same form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xksd::control::blocks;
use xksd::control::budgets::file as encryptions;
use xksd::control::commands::{Reply, Request};

fuzz_target!(|input: &[u8]| {
    if let Ok(request) = serde_json::from_slice::<Request>(input) {
        let text = serde_json::to_vec(&request).expect("JSON");
        assert_eq!(serde_json::from_slice::<Request>(&text).expect("the same"), request);
    }
    let _ = serde_json::from_slice::<Reply>(input);
    if let Ok(keys) = encryptions::parse(input) {
        assert_eq!(encryptions::parse(&encryptions::text(keys.clone())), Ok(keys));
    }
    if let Ok(list) = blocks::parse(input) {
        for now in [i64::MIN, 0, i64::MAX] {
            let (active, ended) = (list.active(now).count(), list.ended(now).count());
            let found = list.active(now).all(|block| {
                list.find(&block.key_store, block.key.as_deref().unwrap_or_default(), now).is_some()
            });
            assert!(found, "{active} active, {ended} ended at {now}");
        }
    }
});
