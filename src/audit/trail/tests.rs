//! What the writer owes besides the records.

use std::fs;
use std::time::Duration;

use super::{Durability, News, Settings, Trail, WhenUnwritable};
use crate::audit::record::Record;
use crate::audit::tests::{look, reopened, settings, soon, wakers};
use crate::limits::AUDIT_RECORD_BYTES_MAX;

#[test]
fn what_is_on_disk_is_signed_within_a_second_however_long_the_interval_is() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = reopened(directory.path()).unwrap();
    let at_once = settings(WhenUnwritable::Refuse);
    let never = Durability::Interval(Duration::from_secs(1_000_000));
    let (said, news) = crossbeam::channel::unbounded();
    let tell = move |told| {
        let _ = said.send(told);
    };
    let (trail, writer) = Trail::start(store, at_once, wakers(), tell).unwrap();
    let append = || trail.append(&Record::Stop {}, &mut Vec::new()).unwrap();
    let next = || news.recv_timeout(Duration::from_secs(20));
    append();
    assert!(matches!(next(), Ok(News::Checkpoint { .. })));
    let second = append();
    soon(|| trail.is_durable(second));
    // As a reload does. Only the second that the first checkpoint began is between it and the next.
    trail.set(Settings { durability: never, ..at_once });
    assert!(matches!(next(), Ok(News::Checkpoint { .. })));
    trail.stop();
    writer.join().unwrap();
    assert_eq!(look(directory.path(), None).signed, 2);
}

#[test]
fn checkpoints_that_cannot_be_written_are_told_once_and_shown() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = reopened(directory.path()).unwrap();
    let in_its_way = directory.path().join("checkpoint.new");
    fs::create_dir(&in_its_way).unwrap();
    let (said, news) = crossbeam::channel::unbounded();
    let tell = move |told| {
        let _ = said.send(told);
    };
    let at_once = settings(WhenUnwritable::Refuse);
    let (trail, writer) = Trail::start(store, at_once, wakers(), tell).unwrap();
    let next = || news.recv_timeout(Duration::from_secs(20));
    let record = trail.append(&Record::Stop {}, &mut Vec::new()).unwrap();
    assert!(matches!(next(), Ok(News::Unsigned(why)) if why.contains("no checkpoint: ")));
    assert!(trail.is_durable(record) && trail.may_serve());
    assert!(trail.why_unwritable().unwrap().contains("no checkpoint: "));
    // Another try fails, too, and is not told.
    assert!(news.recv_timeout(Duration::from_millis(1500)).is_err());
    fs::remove_dir(&in_its_way).unwrap();
    assert!(matches!(next(), Ok(News::Signed)));
    assert!(matches!(next(), Ok(News::Checkpoint { .. })));
    assert_eq!(trail.why_unwritable(), None);
    trail.stop();
    writer.join().unwrap();
    assert_eq!(look(directory.path(), None).problems, Vec::<String>::new());
}

#[test]
fn a_trail_proves_that_it_can_be_written_and_leaves_nothing_of_the_proof() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = reopened(directory.path()).unwrap();
    store.append(b"{}\n").unwrap();
    store.prove_writable().unwrap();
    let left = fs::read(directory.path().join("records/0000000000.jsonl")).unwrap();
    assert_eq!(left, b"{}\n");
    assert!(!directory.path().join("checkpoint.new").exists());
    fs::create_dir(directory.path().join("checkpoint.new")).unwrap();
    assert!(store.prove_writable().is_err(), "no checkpoint");
    fs::remove_dir(directory.path().join("checkpoint.new")).unwrap();
    let good = std::mem::replace(
        &mut store.records,
        fs::File::options().write(true).open("/dev/full").unwrap(),
    );
    let full = store.prove_writable().unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    // A crash between: as a record's beginning.
    store.records = good;
    let beginning = vec![b' '; AUDIT_RECORD_BYTES_MAX];
    fs::write(
        directory.path().join("records/0000000000.jsonl"),
        [b"{}\n", &beginning[..]].concat(),
    )
    .unwrap();
    drop(store);
    let (_, recovered) = reopened(directory.path()).unwrap();
    assert_eq!(recovered.removed_bytes, AUDIT_RECORD_BYTES_MAX as u64);
}
