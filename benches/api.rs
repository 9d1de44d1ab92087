//! JSON to a valid request, an answer to JSON.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use xksd::api::response::{self, Encrypted};
use xksd::api::{Operation, decode};

use crate::fixture::encrypt_body;

pub fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("api");
    for (name, body) in [
        ("decode an encrypt, 32 B", encrypt_body(32, 32)),
        ("decode an encrypt, 8 KiB of AAD", encrypt_body(32, 8192)),
        ("decode an encrypt, 4300 B", encrypt_body(4300, 32)),
    ] {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| decode(Operation::Encrypt, black_box(&body)).expect("valid"))
        });
    }

    let mut out = Vec::new();
    for (name, text) in [
        ("encode an encrypt's answer, 32 B", vec![7; 32]),
        ("encode an encrypt's answer, 4300 B", vec![7; 4300]),
    ] {
        let answer = Encrypted {
            ciphertext: &text,
            iv: &[1; 12],
            tag: &[2; 16],
            metadata: Some(&[1, 0, 0]),
            integrity: Some(&[3; 32]),
        };
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                response::encrypt(black_box(&answer), &mut out);
            });
        });
    }
}
