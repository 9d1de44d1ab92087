//! Any bytes as a value of a fleet in etcd or on disk: no panic, and none opens that was not
//! sealed. As what was sealed: an instance's summary and a block list are read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xksd::control::blocks;
use xksd::fleet::sealed::NONCE_BYTES;
use xksd::fleet::{Content, Document, FleetKey, Summary};

fuzz_target!(|input: &[u8]| {
    let key = FleetKey::new(&[7; 32], "/xksd/fuzz").expect("32 bytes");
    assert!(Document::open(&key, "blocks", input).is_none());
    assert!(Summary::open(&key, "a", input).is_none());
    let sealed = key.seal("documents/blocks", 7, [1; NONCE_BYTES], input);
    if let Some(document) = Document::open(&key, "blocks", &sealed) {
        let same = Document::seal(&key, "blocks", 7, [1; NONCE_BYTES], document.content.clone());
        assert!(same == document);
        if let Content::Present(text) = &document.content {
            let _ = blocks::parse(text);
        }
    }
    let sealed = key.seal("instances/a", 7, [1; NONCE_BYTES], input);
    if let Some(summary) = Summary::open(&key, "a", &sealed) {
        assert_eq!(summary.name, "a");
        let again = summary.seal(&key, [2; NONCE_BYTES]);
        assert!(Summary::open(&key, "a", &again).is_some());
    }
});
