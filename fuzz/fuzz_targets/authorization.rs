//! Any head and body: no panic, and without the secret nothing is authenticated.
//!
//! Input: lines of method, path, query and headers (`name: value`), an empty line, the body. The
//! seeds are signed by other secrets.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use xksd::http1::{Header, Request};
use xksd::limits::ERROR_MESSAGE_CHARS_MAX;
use xksd::secret::SecretString;
use xksd::sigv4::{
    AccessKeyId, Credential, CredentialSet, SecretAccessKey, SigningKeys, authenticate, precheck,
};

/// 2024-02-29T12:00:00Z, as in the seeds.
const NOW: i64 = 1_709_208_000;
const SECRET: &str = "NobodyKnowsThisOneNobodyKnowsThisOneNobodyKnows";

static CREDENTIALS: LazyLock<CredentialSet> = LazyLock::new(|| {
    let id = AccessKeyId::new("ABCDEFGHIJKLMNOPQRSTUVWXYZ").expect("valid id");
    let secret = SecretString::new(SECRET).expect("memory");
    let secret = SecretAccessKey::new(secret).expect("valid secret");
    CredentialSet::new(vec![Credential::new(id, secret)]).expect("one credential")
});

fuzz_target!(|input: &[u8]| {
    let (head, body) = match input.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (input, &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut line =
        || lines.next().and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let (method, path, query) = (line(), line(), line());
    let headers: Vec<Header<'_>> = lines
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            Some(Header {
                name: std::str::from_utf8(&line[..colon]).ok()?,
                value: line[colon + 1..].trim_ascii(),
            })
        })
        .collect();
    let request = Request { method, path, query, headers: &headers };
    let regions = ["us-east-1".to_string()];

    let early = precheck(&request, &CREDENTIALS, &regions, NOW);
    let refused =
        match authenticate(&request, body, &CREDENTIALS, &regions, NOW, &mut SigningKeys::new()) {
            Ok(_) => panic!("authenticated without the secret"),
            Err(refused) => refused,
        };
    if let Err(early) = early {
        assert_eq!(early, refused);
    }
    let message = refused.to_string();
    assert!(
        message.len() <= ERROR_MESSAGE_CHARS_MAX
            && message.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    );
    assert!(!message.contains(SECRET));
});
