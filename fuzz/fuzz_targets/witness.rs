//! Any bytes as a request to a witness, and as what it has saved: no panic, and nothing is cosigned
//! that its log has not signed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xksd::audit::checkpoint::Signer;
use xksd::audit::cosignature::Cosigner;
use xksd::audit::witness::{Answer, Witness};

fuzz_target!(|input: &[u8]| {
    let cosigner = || Cosigner::new(&[9; 32], "w.example/b").expect("a seed and a name");
    let log = Signer::new(&[7; 32], "a.example/b").expect("a seed and an origin");
    let logs = || vec![log.verifier().clone()];
    let forget = || Box::new(|_: &[u8]| Ok(()));
    let fresh = Witness::new(cosigner(), logs(), None, forget()).expect("nothing saved");
    if let Answer::Cosigned(line) = fresh.add_checkpoint(input, 1) {
        let note = String::from_utf8_lossy(input);
        let note = note.split_once("\n\n").expect("a note").1;
        log.verifier().open(note).expect("signed by the log");
        let cosigned = format!("{note}{line}");
        assert_eq!(cosigner().key().cosigned_at(&cosigned), Ok(1));
    }
    if let Ok(witness) = Witness::new(cosigner(), logs(), Some(input), forget()) {
        let _ = witness.add_checkpoint(input, 1);
    }
});
