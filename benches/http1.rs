//! Bytes to a request's head and body, an answer to bytes.

use std::hint::black_box;

use criterion::Criterion;
use xksd::http1::{Body, Framing, RequestHead, Response, Version};

use crate::fixture::{Received, encrypt_body};

pub fn benches(c: &mut Criterion) {
    let received = Received::new("encrypt", &encrypt_body(32, 64));
    let mut head = RequestHead::new();
    c.bench_function("http1/head", |b| {
        b.iter(|| {
            head.clear();
            head.parse(black_box(&received.bytes)).expect("a head")
        });
    });

    let chunks: Vec<u8> =
        received.body().chunks(256).flat_map(chunk).chain(*b"0\r\n\r\n").collect();
    let mut buffer = Vec::new();
    c.bench_function("http1/chunked body", |b| {
        b.iter(|| {
            buffer.clear();
            buffer.extend_from_slice(black_box(&chunks));
            Body::new(0, Framing::Chunked).advance(&mut buffer).expect("a body")
        });
    });

    let mut out = Vec::new();
    c.bench_function("http1/response", |b| {
        b.iter(|| {
            out.clear();
            Response {
                status: 200,
                version: Version::Http11,
                keep_alive: true,
                without_body: false,
                body: black_box(&[b'a'; 280]),
            }
            .write(&mut out);
        });
    });
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}
