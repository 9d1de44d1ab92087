//! Two key stores that both want more than their HSM can do get it by their `weight`.

use std::time::Duration;

use test_harness::config::{A, key, key_store};
use test_harness::hsm_sim::KEY;
use test_harness::{Installation, eventually};

use crate::client::Load;
use crate::proxy::Proxy;

/// Closed loops: what a key store is answered is what it gets of the only session.
const CLIENTS: usize = 8;
const ROUND_TRIPS: u64 = 200;

fn weighted(prefix: &str, weight: u32) -> String {
    let more = format!("key_manager = [\"hsm\"]\nweight = {weight}");
    key_store(prefix, &more, &[&A], &key(KEY, ""))
}

/// Round trips of the two, once there are [`ROUND_TRIPS`] of both together.
fn answered(one: &Load, two: &Load) -> (u64, u64) {
    let mut sum = (0, 0);
    // What was queued before is answered in its own order.
    one.tally_during(Duration::from_millis(300));
    two.tally();
    eventually("answers", || {
        sum = (sum.0 + one.tally().good, sum.1 + two.tally().good);
        sum.0 + sum.1 >= ROUND_TRIPS
    });
    sum
}

#[test]
fn a_key_store_of_four_times_the_weight_gets_the_greater_part_and_a_reload_turns_it_round() {
    let installation = Installation::default();
    let hsm = installation.hsm("hsm", "[wire]\nfixed_us = 1000");
    let sections = |one, two| [hsm.key_manager(1), weighted("/one", one), weighted("/two", two)];
    let proxy = Proxy::start(installation, &sections(4, 1));
    proxy.wait_until_ready();
    let (one, two) = (proxy.load("/one", CLIENTS), proxy.load("/two", CLIENTS));
    let (of_one, of_two) = answered(&one, &two);
    println!("weights 4 and 1: {of_one} and {of_two}");
    assert!(of_one >= 2 * of_two && of_two > 0, "{of_one} and {of_two}");
    proxy.reconfigure(&sections(1, 4));
    assert!(proxy.reload().ends_with("reloaded"));
    let (of_one, of_two) = answered(&one, &two);
    println!("weights 1 and 4: {of_one} and {of_two}");
    assert!(of_two >= 2 * of_one && of_one > 0, "{of_one} and {of_two}");
    one.end();
    two.end();
}
