//! Any bytes as a request to a witness, and as what it has saved: no panic, and nothing is cosigned
//! that its log has not signed.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use xksd::audit::checkpoint::Signer;
use xksd::audit::cosignature::Cosigner;
use xksd::audit::witness::{Answer, Memory, Witness};

fuzz_target!(|input: &[u8]| {
    let cosigner = || Cosigner::new(&[9; 32], "w.example/b").expect("a seed and a name");
    let log = Signer::new(&[7; 32], "a.example/b").expect("a seed and an origin");
    let logs = || vec![log.verifier().clone()];
    let memory = |saved| Memory::new(saved, Box::new(|_: &[u8]| Ok(()))).map(Arc::new);
    let fresh = Witness::new(cosigner(), logs(), memory(None).expect("nothing saved"));
    if let Answer::Cosigned(line) = fresh.add_checkpoint(input, 1) {
        let note = String::from_utf8_lossy(input);
        let note = note.split_once("\n\n").expect("a note").1;
        log.verifier().open(note).expect("signed by the log");
        let cosigned = format!("{note}{line}");
        assert_eq!(cosigner().key().cosigned_at(&cosigned), Ok(1));
    }
    if let Ok(memory) = memory(Some(input)) {
        let _ = Witness::new(cosigner(), logs(), memory).add_checkpoint(input, 1);
    }
});
