use std::sync::Arc;

use super::*;
use crate::audit::checkpoint::Signer;
use crate::audit::consistency::consistency_proof;
use crate::audit::tree::{Frontier, Leaves, leaf_hash};

const ORIGIN: &str = "a.example/log";

fn cosigner() -> Cosigner {
    Cosigner::new(&[9; 32], "witness.example/w1").unwrap()
}

fn signer(seed: u8) -> Signer {
    Signer::new(&[seed; 32], ORIGIN).unwrap()
}

/// A witness, and the file in which it saves.
fn witness(saved: Option<&[u8]>) -> (Witness, Arc<Mutex<Vec<u8>>>) {
    let file = Arc::new(Mutex::new(Vec::new()));
    let save = {
        let file = file.clone();
        move |bytes: &[u8]| {
            *file.lock().unwrap() = bytes.to_vec();
            Ok(())
        }
    };
    let logs = vec![signer(1).verifier().clone(), signer(2).verifier().clone()];
    let memory = Memory::new(saved, Box::new(save)).unwrap();
    (Witness::new(cosigner(), logs, Arc::new(memory)), file)
}

struct All;

impl Leaves for All {
    type Error = std::convert::Infallible;
    fn leaf(&mut self, index: u64) -> Result<Hash, Self::Error> {
        Ok(leaf_hash(&index.to_be_bytes()))
    }
}

fn tree(size: u64) -> Frontier {
    let mut tree = Frontier::default();
    (0..size).for_each(|index| tree.append(leaf_hash(&index.to_be_bytes())));
    tree
}

fn note(size: u64) -> String {
    signer(1).sign(size, tree(size).root())
}

fn request(old: u64, size: u64) -> String {
    let proof = consistency_proof(&tree(old), &mut All, size).unwrap().unwrap_or_default();
    write_request(old, &proof, &note(size))
}

fn is_cosigned(answer: &Answer, note: &str) -> bool {
    let Answer::Cosigned(line) = answer else { return false };
    cosigner().key().cosigned_at(&format!("{note}{line}")) == Ok(77)
}

#[test]
fn what_goes_on_is_cosigned_and_what_goes_back_is_not() {
    let (witness, file) = witness(None);
    let ask = |body: &str| witness.add_checkpoint(body.as_bytes(), 77);
    assert_eq!(ask(&request(3, 5)), Answer::Conflict(0));
    assert!(is_cosigned(&ask(&request(0, 5)), &note(5)));
    assert!(is_cosigned(&ask(&request(5, 12)), &note(12)));
    assert!(is_cosigned(&ask(&request(12, 12)), &note(12)), "once more");
    assert_eq!(ask(&request(5, 13)), Answer::Conflict(12));
    assert_eq!(ask(&request(5, 9)), Answer::Conflict(12), "back");
    let malformed = |answer: Answer| matches!(answer, Answer::Malformed(_));
    assert!(malformed(ask(&request(12, 9))), "the old size is above");
    let other = signer(1).sign(12, [1; 32]);
    assert_eq!(ask(&write_request(12, &[], &other)), Answer::Inconsistent, "another tree");
    let other = signer(1).sign(20, [1; 32]);
    let proof = consistency_proof(&tree(12), &mut All, 20).unwrap().unwrap();
    assert_eq!(ask(&write_request(12, &proof, &other)), Answer::Inconsistent);
    assert_eq!(ask(&write_request(12, &[], &note(20))), Answer::Inconsistent, "no proof");
    // After a restart it knows what it has seen.
    let saved = file.lock().unwrap().clone();
    let (again, _) = super::tests::witness(Some(&saved));
    assert_eq!(again.add_checkpoint(request(0, 5).as_bytes(), 77), Answer::Conflict(12));
    let hash = hex_sha256(ORIGIN);
    let shown = again.checkpoint(&hash).unwrap();
    assert!(cosigner().key().cosigned_at(&shown).is_ok() && shown.starts_with(&note(12)));
    assert_eq!(again.checkpoint("00"), None);
}

#[test]
fn only_known_logs_and_right_signatures_are_cosigned() {
    let (witness, file) = witness(None);
    let ask = |note: &str| witness.add_checkpoint(write_request(0, &[], note).as_bytes(), 77);
    let root = tree(4).root();
    let stranger = Signer::new(&[1; 32], "b.example/log").unwrap().sign(4, root);
    assert_eq!(ask(&stranger), Answer::UnknownLog);
    assert_eq!(ask(&signer(3).sign(4, root)), Answer::NotSigned);
    let second = signer(2).sign(4, root);
    let wrong = format!("{}{}", note(4), second.lines().last().unwrap().replace('A', "B") + "\n");
    assert_ne!(wrong.lines().last(), second.lines().last());
    assert!(!matches!(ask(&wrong), Answer::Cosigned(_)), "one right and one wrong");
    assert!(file.lock().unwrap().is_empty(), "nothing was saved");
    assert!(matches!(ask(&second), Answer::Cosigned(_)), "the key after it");
    for wrong in ["", "old 0", "old 00\n\n", "old -1\n\n", "new 0\n\n", "old 0\nAA==\n\n", "\n\n"] {
        let answer = witness.add_checkpoint((wrong.to_owned() + &note(4)).as_bytes(), 77);
        assert!(matches!(answer, Answer::Malformed(_)), "{wrong:?}: {answer:?}");
    }
    let many = write_request(0, &vec![[0; 32]; PROOF_HASHES_MAX + 1], &note(4));
    assert!(matches!(witness.add_checkpoint(many.as_bytes(), 77), Answer::Malformed(_)));
    let empty = |root| witness.add_checkpoint(signed_empty(root).as_bytes(), 77);
    assert_eq!(empty([0; 32]), Answer::Conflict(4));
}

fn signed_empty(root: Hash) -> String {
    write_request(0, &[], &signer(1).sign(0, root))
}

#[test]
fn a_tree_of_no_records_has_one_root() {
    let (witness, _) = witness(None);
    let ask = |root| witness.add_checkpoint(signed_empty(root).as_bytes(), 77);
    assert_eq!(ask([0; 32]), Answer::Inconsistent);
    assert!(matches!(ask(empty_root()), Answer::Cosigned(_)));
}

#[test]
fn what_cannot_be_saved_is_not_cosigned_and_what_cannot_be_read_is_not_forgotten() {
    let full = |_: &[u8]| Err("No space left".to_owned());
    let logs = vec![signer(1).verifier().clone()];
    let memory = Memory::new(None, Box::new(full)).unwrap();
    let witness = Witness::new(cosigner(), logs, Arc::new(memory));
    let answer = witness.add_checkpoint(request(0, 5).as_bytes(), 77);
    assert_eq!(answer, Answer::NotSaved("No space left".to_owned()));
    assert_eq!(witness.add_checkpoint(request(5, 6).as_bytes(), 77), Answer::Conflict(0));
    for wrong in [
        "",
        "{}",
        "{\"version\":2,\"checkpoints\":{}}",
        "{\"version\":1,\"checkpoints\":{\"a\":\"b\"}}",
    ] {
        assert!(parse_saved(wrong.as_bytes()).is_err(), "{wrong}");
    }
}

#[test]
fn another_witness_with_the_same_memory_goes_on_from_it() {
    let (before, file) = witness(None);
    assert!(is_cosigned(&before.add_checkpoint(request(0, 5).as_bytes(), 77), &note(5)));
    let logs = vec![signer(1).verifier().clone()];
    let renamed = Cosigner::new(&[8; 32], "witness.example/w2").unwrap();
    let after = Witness::new(renamed, logs, before.memory.clone());
    assert_eq!(after.add_checkpoint(request(0, 5).as_bytes(), 77), Answer::Conflict(5));
    // Of a request that came before.
    assert!(is_cosigned(&before.add_checkpoint(request(5, 9).as_bytes(), 77), &note(9)));
    let Answer::Cosigned(line) = after.add_checkpoint(request(9, 12).as_bytes(), 77) else {
        panic!("not cosigned");
    };
    assert_eq!(after.key().cosigned_at(&format!("{}{line}", note(12))), Ok(77));
    let saved = parse_saved(&file.lock().unwrap()).unwrap();
    assert!(saved[ORIGIN].starts_with(&note(12)), "{saved:?}");
}
