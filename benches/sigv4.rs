//! Verifying a SigV4 signature whose signing key is known, as it is for all but a day's first
//! request.

use std::hint::black_box;
use std::time::UNIX_EPOCH;

use criterion::{Criterion, Throughput};
use xksd::http1::Header;
use xksd::limits::HEADERS_MAX;
use xksd::sigv4::{SigningKeys, authenticate};

use crate::fixture::{REGION, Received, credentials, encrypt_body};

pub fn benches(c: &mut Criterion) {
    let (credentials, regions) = (credentials(), vec![REGION.to_owned()]);
    let mut group = c.benchmark_group("sigv4");
    for (name, aad_bytes) in [("verify, 32 B of AAD", 32), ("verify, 8 KiB of AAD", 8192)] {
        let received = Received::new("encrypt", &encrypt_body(32, aad_bytes));
        let mut room = [Header::EMPTY; HEADERS_MAX];
        let request = received.request(&mut room);
        let now = received.at.duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64;
        let mut keys = SigningKeys::new();
        group.throughput(Throughput::Bytes(received.bytes.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                authenticate(
                    black_box(&request),
                    received.body(),
                    &credentials,
                    &regions,
                    now,
                    &mut keys,
                )
                .expect("authentic")
            });
        });
    }
}
