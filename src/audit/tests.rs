//! Trails as files: written, crashed, opened again, tampered with, verified.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::checkpoint::{Signer, Verifier};
use super::layout::Layout;
use super::record::{Record, write_line};
use super::recovery::{Recovered, open};
use super::report::Report;
use super::store::Store;
use super::trail::{Durability, News, NoPlace, Settings, Trail, Wakers, WhenUnwritable};
use super::tree::Leaves;
use super::verify::verify;

const ORIGIN: &str = "xks.bank.example/site-a";

fn signer(seed: u8) -> Signer {
    Signer::new(&[seed; 32], ORIGIN).unwrap()
}

fn lines(numbers: std::ops::Range<u64>) -> Vec<u8> {
    let mut lines = Vec::new();
    for count in numbers {
        write_line(&Record::Missed { count }, SystemTime::UNIX_EPOCH, &mut lines);
    }
    lines
}

pub(super) fn reopened(directory: &Path) -> Result<(Store, Recovered), String> {
    open(Layout::new(directory), signer(1), &[])
}

/// A trail of ten records, signed after the seventh, with its last three not signed yet.
fn trail(directory: &Path) {
    let (mut store, _) = reopened(directory).unwrap();
    store.append(&lines(0..4)).unwrap();
    store.checkpoint().unwrap().unwrap();
    store.append(&lines(4..7)).unwrap();
    store.checkpoint().unwrap().unwrap();
    store.append(&lines(7..10)).unwrap();
}

pub(super) fn look(directory: &Path, against: Option<&str>) -> Report {
    verify(&Layout::new(directory), &[signer(1).verifier()], &[], against).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

const RECORDS: &str = "records/0000000000.jsonl";

#[test]
fn what_is_written_verifies_and_goes_on_after_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path());
    let found = look(directory.path(), None);
    let expected = Report { records: 10, checkpoints: 3, signed: 7, ..Report::default() };
    assert_eq!(found, expected, "two in the log, one in the file");
    let (mut store, recovered) = reopened(directory.path()).unwrap();
    assert_eq!(recovered, Recovered { removed_bytes: 0, not_yet_signed: 3 });
    store.append(&lines(10..11)).unwrap();
    store.close().unwrap().unwrap();
    assert_eq!(store.close().unwrap(), None, "nothing new to sign");
    drop(store);
    let found = look(directory.path(), None);
    assert_eq!((found.records, found.signed, found.problems), (11, 11, vec![]));
    assert_eq!(reopened(directory.path()).unwrap().1, Recovered::default());
}

#[test]
fn one_process_writes() {
    let directory = tempfile::tempdir().unwrap();
    let _first = reopened(directory.path()).unwrap();
    let refused = reopened(directory.path()).err().unwrap();
    assert!(refused.contains("another process"), "{refused}");
}

#[test]
fn a_record_cut_off_by_a_crash_is_removed_and_a_signed_one_missed() {
    let whole = tempfile::tempdir().unwrap();
    trail(whole.path());
    let length = fs::metadata(whole.path().join(RECORDS)).unwrap().len();
    let signed = lines(0..7).len() as u64;
    for cut in 0..=length {
        let crashed = tempfile::tempdir().unwrap();
        copy(whole.path(), crashed.path());
        let file = fs::File::options().write(true).open(crashed.path().join(RECORDS)).unwrap();
        file.set_len(cut).unwrap();
        // A crash leaves no more hashes than records.
        fs::remove_file(crashed.path().join("hashes")).unwrap();
        match reopened(crashed.path()) {
            Ok((mut store, recovered)) => {
                assert!(cut >= signed, "{cut}: signed records are gone");
                let kept = store.layout.record_file(0);
                let left = fs::read(&kept).unwrap();
                assert_eq!(left.len() as u64 + recovered.removed_bytes, cut);
                assert!(left.last() == Some(&b'\n') && lines(0..10).starts_with(&left));
                store.append(&lines(20..21)).unwrap();
                store.close().unwrap();
                assert_eq!(look(crashed.path(), None).problems, Vec::<String>::new());
            }
            Err(refused) => {
                assert!(cut < signed, "{cut}: {refused}");
                assert!(refused.contains("taken away"), "{refused}");
                assert!(!look(crashed.path(), None).problems.is_empty());
            }
        }
    }
}

#[test]
fn hashes_and_frontier_can_be_made_from_the_records() {
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path());
    let hashes = fs::read(directory.path().join("hashes")).unwrap();
    for damage in [0, 33, 5 * 32, hashes.len()] {
        fs::write(directory.path().join("hashes"), &hashes[..damage]).unwrap();
        fs::write(directory.path().join("frontier"), "nonsense").unwrap();
        reopened(directory.path()).unwrap();
        assert_eq!(fs::read(directory.path().join("hashes")).unwrap(), hashes);
    }
}

#[test]
fn every_byte_that_is_changed_is_found() {
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path());
    reopened(directory.path()).unwrap().0.close().unwrap();
    for file in [RECORDS, "checkpoint", "checkpoints.log"] {
        let path = directory.path().join(file);
        let content = fs::read(&path).unwrap();
        for at in 0..content.len() {
            let mut changed = content.clone();
            changed[at] ^= 0x02;
            fs::write(&path, &changed).unwrap();
            let found = verify(&Layout::new(directory.path()), &[signer(1).verifier()], &[], None);
            // A checkpoint that is no text any more cannot be read at all.
            let seen = found.map_or(true, |found| !found.problems.is_empty());
            assert!(seen, "byte {at} of {file}");
        }
        fs::write(&path, &content).unwrap();
    }
    assert_eq!(look(directory.path(), None).problems, Vec::<String>::new());
}

#[test]
fn a_file_of_checkpoints_that_is_taken_away_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let problems = || look(directory.path(), None).problems;
    let (mut store, _) = reopened(directory.path()).unwrap();
    store.append(&lines(0..4)).unwrap();
    store.checkpoint().unwrap().unwrap();
    let (newest, log) = (store.layout.checkpoint(), store.layout.checkpoints_log());
    // As a crash between the log and the file leaves it, which only the first one can.
    fs::remove_file(&newest).unwrap();
    assert_eq!(problems(), Vec::<String>::new());
    store.append(&lines(4..7)).unwrap();
    store.checkpoint().unwrap().unwrap();
    for file in [newest, log] {
        let content = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let found = problems();
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(found.len() == 1 && found[0].contains(name), "{name}: {found:?}");
        assert!(found[0].contains("taken away"), "{found:?}");
        fs::write(&file, content).unwrap();
        assert_eq!(problems(), Vec::<String>::new());
    }
}

#[test]
fn records_taken_out_put_in_and_in_another_order_are_found() {
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path());
    reopened(directory.path()).unwrap().0.close().unwrap();
    let path = directory.path().join(RECORDS);
    let content = fs::read_to_string(&path).unwrap();
    let good: Vec<&str> = content.lines().collect();
    let mut wrong = Vec::new();
    for at in 0..good.len() {
        let (mut without, mut twice, mut swapped) = (good.clone(), good.clone(), good.clone());
        without.remove(at);
        // Not after the last one: what follows the newest checkpoint is not signed yet.
        twice.insert(at, good[(at + 1) % good.len()]);
        swapped.swap(at, (at + 1) % good.len());
        wrong.extend([without, twice, swapped]);
    }
    for lines in wrong {
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        assert!(!look(directory.path(), None).problems.is_empty(), "{lines:?}");
    }
    // What follows from the first is not a problem each.
    fs::write(&path, good[1..].join("\n") + "\n").unwrap();
    let found = look(directory.path(), None).problems;
    let hashes: Vec<_> = found.iter().filter(|said| said.contains("the hash kept of it")).collect();
    let expected = "record 0 differs from the hash kept of it; the same is wrong 8 more times";
    assert!(hashes.len() == 1 && hashes[0].starts_with(expected), "{found:?}");

    fs::write(&path, &content).unwrap();
    fs::rename(&path, directory.path().join("records/0000000001.jsonl")).unwrap();
    assert!(!look(directory.path(), None).problems.is_empty(), "renamed");
}

#[test]
fn a_trail_brought_back_is_found_by_a_checkpoint_kept_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path());
    let backup = tempfile::tempdir().unwrap();
    copy(directory.path(), backup.path());
    let (mut store, _) = reopened(directory.path()).unwrap();
    store.append(&lines(10..12)).unwrap();
    let kept = store.close().unwrap().unwrap();
    drop(store);
    assert_eq!(look(directory.path(), Some(&kept)).problems, Vec::<String>::new());
    assert_eq!(look(backup.path(), None).problems, Vec::<String>::new(), "as was known");
    let found = look(backup.path(), Some(&kept)).problems;
    assert!(found.iter().any(|problem| problem.contains("kept elsewhere")), "{found:?}");
}

#[test]
fn another_key_goes_on_where_the_one_before_is_named() {
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path());
    let layout = || Layout::new(directory.path());
    let refused = open(layout(), signer(2), &[]).err().unwrap();
    assert!(refused.contains("previous_verifier_keys"), "{refused}");
    let previous: Verifier = signer(1).verifier().clone();
    let (mut store, _) = open(layout(), signer(2), std::slice::from_ref(&previous)).unwrap();
    store.append(&lines(10..11)).unwrap();
    store.close().unwrap();
    let problems = |keys: &[&Verifier]| verify(&layout(), keys, &[], None).unwrap().problems;
    let new = signer(2);
    assert_eq!(problems(&[new.verifier(), &previous]), Vec::<String>::new());
    assert_eq!(problems(&[new.verifier()]).len(), 2, "the two that the first key signed");
}

#[test]
fn old_files_go_and_their_hashes_stay() {
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path());
    let (mut store, _) = reopened(directory.path()).unwrap();
    store.records_bytes = crate::limits::AUDIT_FILE_BYTES_MAX;
    store.append(&lines(10..12)).unwrap();
    let now = SystemTime::now() + Duration::from_secs(100);
    assert_eq!(store.retired(Duration::from_secs(1000), now).unwrap(), None);
    assert_eq!(store.retired(Duration::from_secs(10), now).unwrap(), Some(10));
    assert_eq!(store.delete_before(10).unwrap(), 1);
    assert_eq!(store.retired(Duration::from_secs(10), now).unwrap(), None, "it grows");
    store.checkpoint().unwrap();
    // Nothing says that they were old, or nothing that is signed.
    let missing = |found: &Report| {
        assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
        assert!(found.problems[0].contains("the first 10 records are missing"), "{found:?}");
    };
    missing(&look(directory.path(), None));
    let mut line = Vec::new();
    write_line(&Record::Retired { before: 10, older_than_seconds: 10 }, now, &mut line);
    store.append(&line).unwrap();
    missing(&look(directory.path(), None));
    store.close().unwrap();
    drop(store);
    let found = look(directory.path(), None);
    assert_eq!((found.records, found.deleted, found.problems), (13, 10, vec![]));
    assert_eq!(reopened(directory.path()).unwrap().0.size(), 13);
}

/// A signed trail of two files: ten records, and `second`.
fn two_files(directory: &Path, second: &[u8]) {
    trail(directory);
    let (mut store, _) = reopened(directory).unwrap();
    store.records_bytes = crate::limits::AUDIT_FILE_BYTES_MAX;
    store.append(second).unwrap();
    store.close().unwrap();
}

#[test]
fn a_beginning_that_was_taken_away_is_not_gone_on_with() {
    let retired = |before: u64| {
        let mut line = Vec::new();
        let record = Record::Retired { before, older_than_seconds: 10 };
        write_line(&record, SystemTime::UNIX_EPOCH, &mut line);
        line
    };
    for (second, accepted) in [
        (lines(10..12), false),
        (retired(9), false),
        (retired(10), true),
        ([retired(10), retired(3)].concat(), true),
    ] {
        let directory = tempfile::tempdir().unwrap();
        two_files(directory.path(), &second);
        fs::remove_file(directory.path().join(RECORDS)).unwrap();
        let opened = reopened(directory.path()).err();
        assert_eq!(opened.is_none(), accepted, "{opened:?}");
        assert!(opened.is_none_or(|why| why.contains("first 10 records")));
        assert_eq!(look(directory.path(), None).problems.is_empty(), accepted);
    }
    // One that is not signed, and one put in the place of another that is.
    for forged in [[lines(10..12), retired(10)].concat(), [retired(10), lines(11..12)].concat()] {
        let directory = tempfile::tempdir().unwrap();
        two_files(directory.path(), &lines(10..12));
        fs::remove_file(directory.path().join(RECORDS)).unwrap();
        fs::write(directory.path().join("records/0000000010.jsonl"), forged).unwrap();
        assert!(reopened(directory.path()).err().unwrap().contains("first 10 records"));
    }
}

#[test]
fn a_record_is_proved_by_what_another_program_can_read() {
    use super::proof::{HashFile, export_tiles, prove};
    let directory = tempfile::tempdir().unwrap();
    trail(directory.path());
    let (mut store, _) = reopened(directory.path()).unwrap();
    store.append(&lines(10..600)).unwrap();
    let note = store.close().unwrap().unwrap();
    let layout = Layout::new(directory.path());
    let checkpoint = signer(1).verifier().open(&note).unwrap();
    let leaf = HashFile::open(&layout).unwrap().leaf(5).unwrap();
    let proof = prove(&layout, leaf, 5, &checkpoint, &note).unwrap();
    assert!(proof.starts_with("c2sp.org/tlog-proof@v1\nindex 5\n") && proof.ends_with(&note));
    assert!(prove(&layout, leaf, 6, &checkpoint, &note).is_err());
    let tiles = tempfile::tempdir().unwrap();
    export_tiles(&layout, &checkpoint, &note, tiles.path()).unwrap();
    let size = |path: &str| fs::metadata(tiles.path().join(path)).unwrap().len();
    assert_eq!(size("tile/0/001"), 256 * 32);
    assert_eq!(size("tile/0/002.p/88"), 88 * 32);
    assert_eq!(size("tile/1/000.p/2"), 2 * 32);
    let entries = fs::read(tiles.path().join("tile/entries/002.p/88")).unwrap();
    let first = lines(512..513);
    assert_eq!(entries[..2], (first.len() as u16 - 1).to_be_bytes());
    assert_eq!(entries[2..first.len() + 1], first[..first.len() - 1]);
}

pub(super) fn settings(when_unwritable: WhenUnwritable) -> Settings {
    Settings { durability: Durability::Answer, when_unwritable, retention: None }
}

pub(super) fn wakers() -> Arc<Wakers> {
    Arc::new(Wakers::new(1))
}

pub(super) fn soon(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < Duration::from_secs(20), "not within 20 s");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn threads_append_and_learn_when_it_is_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = reopened(directory.path()).unwrap();
    let (trail, writer) =
        Trail::start(store, settings(WhenUnwritable::Refuse), wakers(), |_| {}).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut scratch = Vec::new();
                for _ in 0..100 {
                    let index = trail.append(&Record::Stop {}, &mut scratch).unwrap();
                    soon(|| trail.is_durable(index));
                }
            });
        }
    });
    trail.stop();
    writer.join().unwrap();
    let found = look(directory.path(), None);
    assert_eq!((found.records, found.signed, found.problems), (400, 400, vec![]));
}

#[test]
fn a_full_disk_is_told_and_what_found_no_place_is_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = reopened(directory.path()).unwrap();
    let good = store.records.try_clone().unwrap();
    store.records = fs::File::options().write(true).open("/dev/full").unwrap();
    let (said, news) = crossbeam::channel::unbounded();
    let tell = move |told| {
        let _ = said.send(told);
    };
    let (trail, writer) =
        Trail::start(store, settings(WhenUnwritable::Refuse), wakers(), tell).unwrap();
    let mut scratch = Vec::new();
    let index = trail.append(&Record::Stop {}, &mut scratch).unwrap();
    let told = news.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(
        matches!(told, News::Unwritable { why, refused: true } if why.contains("No space left"))
    );
    assert!(trail.why_unwritable().unwrap().contains("No space left"));
    assert!(!trail.may_serve() && !trail.is_durable(index));
    let long = "x".repeat(crate::limits::AUDIT_RECORD_BYTES_MAX);
    let record = Record::KeyManager { name: &long, state: "", detail: "" };
    assert_eq!(trail.append(&record, &mut scratch), Err(NoPlace));
    assert_eq!(trail.missed(), 1);
    trail.append(&Record::Stop {}, &mut scratch).unwrap();
    trail.stop();
    writer.join().unwrap();
    drop(good);
    assert_eq!(look(directory.path(), None).records, 0);
}

#[test]
fn settings_change_while_records_wait_and_none_is_left_behind() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = reopened(directory.path()).unwrap();
    let never = Durability::Interval(Duration::from_secs(1_000_000));
    let at_once = settings(WhenUnwritable::Refuse);
    let late = Settings { durability: never, ..settings(WhenUnwritable::Continue) };
    let (trail, writer) = Trail::start(store, late, wakers(), |_| {}).unwrap();
    let append = || trail.append(&Record::Stop {}, &mut Vec::new()).unwrap();
    let first = append();
    assert!(!trail.answers_wait() && trail.may_go_unrecorded() && !trail.is_durable(first));
    // Nothing but the change wakes the writer.
    trail.set(at_once);
    assert!(trail.answers_wait() && !trail.may_go_unrecorded());
    soon(|| trail.is_durable(first));
    let waited_for = append();
    trail.set(late);
    soon(|| trail.is_durable(waited_for));
    append();
    trail.stop();
    writer.join().unwrap();
    let found = look(directory.path(), None);
    assert_eq!((found.records, found.signed, found.problems), (3, 3, vec![]));
}

#[test]
fn settings_change_under_load_and_each_record_gets_to_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = reopened(directory.path()).unwrap();
    let strict = settings(WhenUnwritable::Refuse);
    let late = Settings { durability: Durability::Interval(Duration::from_secs(3600)), ..strict };
    let (trail, writer) = Trail::start(store, late, wakers(), |_| {}).unwrap();
    let ended = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let index = trail.append(&Record::Stop {}, &mut Vec::new()).unwrap();
                    // As an answer does: once it waits, the record comes, whatever is set by then.
                    if trail.answers_wait() {
                        soon(|| trail.is_durable(index));
                    }
                }
                ended.fetch_add(1, Ordering::Release);
            });
        }
        for round in 0.. {
            trail.set(if round % 2 == 0 { strict } else { late });
            std::thread::sleep(Duration::from_micros(200));
            if ended.load(Ordering::Acquire) == 4 {
                break;
            }
        }
    });
    trail.stop();
    writer.join().unwrap();
    let found = look(directory.path(), None);
    assert_eq!((found.records, found.signed, found.problems), (2000, 2000, vec![]));
}
