//! A request's whole way without sockets, over keys in this process: from the parsed head to the
//! answer's body, with the log line handed to its thread.

use criterion::Criterion;
use serde_json::json;

use crate::fixture::{Proxy, Received, body, decrypt_body, encrypt_body};

pub fn benches(c: &mut Criterion) {
    let mut proxy = Proxy::local();
    let encrypt = Received::new("encrypt", &encrypt_body(32, 64));
    assert_eq!(proxy.answer(&encrypt), 200);
    let decrypt = Received::new("decrypt", &decrypt_body(&proxy.answered, 64));
    let requests = [
        ("encrypt, 32 B with integrity value", encrypt),
        ("encrypt, 32 B with 8 KiB of AAD", Received::new("encrypt", &encrypt_body(32, 8192))),
        ("decrypt, 32 B", decrypt),
        ("metadata", Received::new("metadata", &body("DescribeKey", json!({})))),
        ("health", Received::new("health", &body("KmsHealthCheck", json!({})))),
    ];
    let mut group = c.benchmark_group("pipeline");
    for (name, received) in &requests {
        assert_eq!(proxy.answer(received), 200, "{name}");
        group.bench_function(*name, |b| b.iter(|| proxy.answer(received)));
    }
}
