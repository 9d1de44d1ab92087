//! Any text as a checkpoint, a file of checkpoints or a verifier key: no panic, and nothing is
//! accepted that was not signed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use xksd::audit::checkpoint::{Signer, Verifier};
use xksd::audit::note::notes;

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let signer = Signer::new(&[7; 32], "a.example/b").expect("a seed and an origin");
    signer.verifier().clone()
});

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let mut length = 0;
    for note in notes(text) {
        assert!(VERIFIER.open(note).is_err(), "accepted without its key");
        length += note.len();
    }
    assert!(length <= text.len());
    assert!(VERIFIER.open(text).is_err());
    if let Some(verifier) = Verifier::parse(text) {
        assert_eq!(Verifier::parse(&verifier.to_string()), Some(verifier));
    }
});
