//! Any bytes before TLS: no panic, nothing beyond the bounds, and what is read as an endpoint's id
//! cannot forge a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xksd::limits::{PROXY_HEADER_BYTES_MAX, VPC_ENDPOINT_ID_CHARS_MAX};
use xksd::shard::proxy_protocol::{header_length, is_header, look_at_begin, parse};

fuzz_target!(|input: &[u8]| {
    if let Some(prefix) = input.first_chunk()
        && let Ok(length) = header_length(prefix)
    {
        assert!(length <= PROXY_HEADER_BYTES_MAX && is_header(input));
        assert!((0..prefix.len()).all(|end| look_at_begin(&prefix[..end]).is_ok()));
    }
    let Ok(header) = parse(input) else { return };
    assert!(input.len() <= PROXY_HEADER_BYTES_MAX);
    if let Some(id) = header.vpc_endpoint {
        assert!((1..=VPC_ENDPOINT_ID_CHARS_MAX).contains(&id.len()));
        assert!(id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        assert!(header.client.is_some());
    }
});
