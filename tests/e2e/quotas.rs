//! Quotas of the real server.

use serde_json::json;
use test_harness::api::{encrypt_body, name};
use test_harness::config::{key, key_store};
use test_harness::{A, Api, C, Config, Installation};

/// `/one` with this in its `[[keystore]]`, and its key `foo` with this; `/two` without a quota.
fn configuration(of_store: &str, of_key: &str) -> Config {
    let managers = "key_manager = [\"local\"]";
    let keys = [key("foo", of_key), key("other", "")].concat();
    let key_stores = [
        key_store("/one", &format!("{managers}\n{of_store}"), &[&A], &keys),
        key_store("/two", managers, &[&C], &key("foo", "")),
    ];
    Config { key_stores: key_stores.concat(), ..Config::default() }
}

/// How many of `count` encrypts with this key are answered; the others must be throttled.
fn answered(api: &mut Api, key: &str, count: usize) -> usize {
    let body = encrypt_body(b"text", &json!({}));
    let statuses = (0..count).map(|_| api.call(&format!("keys/{key}/encrypt"), &body));
    statuses
        .filter(|response| match response.status {
            200 => true,
            _ => {
                assert_eq!(response.error(), name(429, "ThrottlingException"));
                false
            }
        })
        .count()
}

#[test]
fn a_burst_is_answered_and_what_is_beyond_is_throttled() {
    let quota = "quota = { requests_per_second = 1, burst = 20 }";
    let installation = Installation::new(&configuration(quota, ""));
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    let of_60 = answered(&mut api, "foo", 60);
    // Less by what the shard has leased, more by what the rate gives meanwhile.
    assert!((15..=30).contains(&of_60), "{of_60}");
    let refused = server.metric("xksd_quota_exceeded_total{key_store=\"/one\"}");
    assert_eq!(refused, (60 - of_60) as f64);
    let why = "the quota of this key store is exceeded: requests_per_second";
    server.wait_for("why", |line| line.contains(why).then_some(()));
    assert!(api.health()["ekmFleetDetails"].is_array(), "health is not counted");
    let mut other = Api { prefix: "/two", credential: C, ..Api::new(&installation, &server) };
    assert_eq!(answered(&mut other, "foo", 60), 60, "another key store has its own");
}

#[test]
fn a_key_s_quota_leaves_the_other_keys() {
    let quota = "quota = { requests_per_second = 1, burst = 4 }";
    let installation = Installation::new(&configuration("", quota));
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    assert!(answered(&mut api, "foo", 40) < 20);
    assert_eq!(answered(&mut api, "other", 40), 40);
}

#[test]
fn a_reload_keeps_what_was_counted_unless_the_quota_changes() {
    let quota = |burst: u32| format!("quota = {{ requests_per_second = 1, burst = {burst} }}");
    let installation = Installation::new(&configuration(&quota(10), ""));
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    answered(&mut api, "foo", 40);
    assert!(server.reload().ends_with("reloaded"));
    assert!(answered(&mut api, "foo", 40) < 10, "no new burst");
    installation.configure(&configuration(&quota(30), ""));
    assert!(server.reload().ends_with("reloaded"));
    server.wait_event(&["quota is (requests_per_second 1 with burst 30)"]);
    assert!(answered(&mut api, "foo", 60) >= 20, "the new quota's burst");
    // Left out is not given up.
    installation.configure(&configuration("", ""));
    assert!(server.reload().contains("not reloaded"));
    server.wait_event(&["keystore[0].quota: missing"]);
    installation.configure(&configuration("quota = \"unlimited\"", ""));
    assert!(server.reload().ends_with("reloaded"));
    assert_eq!(answered(&mut api, "foo", 60), 60);
}

#[test]
fn what_a_key_s_quota_refuses_takes_nothing_from_its_key_store() {
    let of_store = "quota = { requests_per_second = 1, burst = 60 }";
    let of_key = "quota = { requests_per_second = 1, burst = 4 }";
    let installation = Installation::new(&configuration(of_store, of_key));
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    assert!(answered(&mut api, "foo", 200) < 20);
    assert!(answered(&mut api, "other", 40) >= 30);
}
