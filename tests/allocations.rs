//! Heap allocations that a request costs its shard once everything has its size. Those that stay
//! are explained in `docs/performance.md`, section "Allocations"; where another number is found,
//! the test tells where each one is made.
//!
//! The fixture's key store has policies: a decision that the shard has made before allocates
//! nothing.

#[path = "allocations/counter.rs"]
mod counter;
#[path = "../benches/fixture.rs"]
mod fixture;
#[path = "allocations/shard.rs"]
mod shard;

use std::time::Duration;

use counter::{Counter, Owner};
use fixture::{Proxy, Received, body, decrypt_body, encrypt_body};
use serde_json::json;
use shard::Site;

/// Requests before it is counted: maps, buffers and queues get their sizes.
const WARM_UP: usize = 50;
/// Requests counted.
const COUNTED: u64 = 20;

/// Each request allocates this often on the thread that answers it.
fn assert_allocations(proxy: &mut Proxy, call: &str, body: &[u8], expected: u64) {
    let received = Received::new(call, body);
    let counter = Counter::new();
    let mut answer = || {
        assert_eq!(
            counter.count(|| proxy.answer(&received)),
            200,
            "{}",
            String::from_utf8_lossy(&proxy.answered)
        );
        // The log's writer is through with it, and has given the record back.
        proxy.log.flush(Duration::from_secs(10));
    };
    (0..WARM_UP).for_each(|_| answer());
    let before = counter.total();
    (0..COUNTED).for_each(|_| answer());
    let found = counter.total() - before;
    counter.set_tracing(true);
    answer();
    assert_eq!(
        found,
        expected * COUNTED,
        "{call}: {COUNTED} requests, of which each allocates\n{}",
        counter.places()
    );
}

#[test]
fn encrypt_with_integrity_value() {
    assert_allocations(&mut Proxy::local(), "encrypt", &encrypt_body(32, 0), 5);
    assert_allocations(&mut Proxy::local(), "encrypt", &encrypt_body(4300, 8192), 5);
}

#[test]
fn decrypt() {
    let mut proxy = Proxy::local();
    assert_eq!(proxy.answer(&Received::new("encrypt", &encrypt_body(32, 64))), 200);
    let body = decrypt_body(&proxy.answered, 64);
    assert_allocations(&mut proxy, "decrypt", &body, 4);
}

#[test]
fn metadata_and_health() {
    let mut proxy = Proxy::local();
    assert_allocations(&mut proxy, "metadata", &body("DescribeKey", json!({})), 0);
    assert_allocations(&mut proxy, "health", &body("KmsHealthCheck", json!({})), 5);
}

/// As with an HSM: what the lane allocates, it allocates on its own thread.
#[test]
fn through_a_lane() {
    let mut proxy = Proxy::lane();
    assert_allocations(&mut proxy, "encrypt", &encrypt_body(32, 64), 2);
    let body = decrypt_body(&proxy.answered, 64);
    assert_allocations(&mut proxy, "decrypt", &body, 3);
}

/// The pipeline's as above, those of TLS, and none between them.
#[test]
fn whole_shard() {
    let mut site = Site::start();
    let request = Received::new("encrypt", &encrypt_body(32, 64)).bytes;
    let call = |site: &mut Site| {
        assert_eq!(site.call(&request), 200);
        site.log.flush(Duration::from_secs(10));
    };
    (0..WARM_UP).for_each(|_| call(&mut site));
    site.counter.set_tracing(true);
    (0..COUNTED).for_each(|_| call(&mut site));
    site.counter.set_tracing(false);
    let found = [Owner::Xksd, Owner::Tls].map(|owner| site.counter.traced(owner));
    assert_eq!(found, [5 * COUNTED, 2 * COUNTED], "{COUNTED} requests:\n{}", site.counter.places());
    // How often the executor allocates depends on how often it sleeps and wakes, which is no
    // property of a request.
    eprintln!(
        "the executor's own: {:.1} a request",
        site.counter.traced(Owner::Executor) as f64 / COUNTED as f64
    );
}
