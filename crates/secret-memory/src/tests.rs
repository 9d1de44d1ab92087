use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ring::hkdf;
use ring::rand::{SecureRandom, SystemRandom};
use test_harness::memory_scan::{Needle, Scan, forbid_secret_memory, scan};
use test_harness::own_process::in_own_process;
use test_harness::test_path;

use super::*;

const KEY_BYTES: usize = 32;

/// The kinds of memory that this machine has.
fn kinds() -> Vec<Protection> {
    match Region::new(Protection::SecretFd) {
        Ok(_) => vec![Protection::Locked, Protection::SecretFd],
        Err(error) => {
            eprintln!("not tried with memfd_secret: {error}");
            vec![Protection::Locked]
        }
    }
}

fn arena(protection: Protection) -> Arena {
    let regions = vec![Region::new(protection).expect("a region")];
    let space = Space { regions, next: 0, free: HashMap::new(), slots: 0 };
    Arena(Arc::new(Shared { protection, space: Mutex::new(space) }))
}

fn put<T: Send + Sync + 'static>(arena: &Arena, value: T) -> Slot<T> {
    arena.place(|| Ok::<T, Error>(value)).expect("room")
}

/// A fresh key, and what to search for to find it.
fn new_key(arena: &Arena) -> (Slot<LessSafeKey>, Needle) {
    let mut needle = None;
    let key = arena.place(|| {
        let mut raw = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut raw).expect("random bytes");
        needle = Some(Needle::new(&raw));
        Ok::<_, Error>(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &raw).expect("a key")))
    });
    (key.expect("room"), needle.expect("made"))
}

fn search(needle: &Needle) -> Scan {
    scan(std::process::id(), std::slice::from_ref(needle)).expect("its own memory")
}

fn encrypt(key: &LessSafeKey) -> Vec<u8> {
    let mut text = b"plaintext".to_vec();
    let nonce = Nonce::assume_unique_for_key([7; 12]);
    key.seal_in_place_append_tag(nonce, Aad::from(b"aad"), &mut text).expect("encrypts");
    text
}

fn bytes_at(at: *const u8, count: usize) -> Vec<u8> {
    // SAFETY: memory of an arena that is still there; bytes of any value are bytes.
    (0..count).map(|n| unsafe { at.add(n).read_volatile() }).collect()
}

/// The line of the mapping in which an address is, and that of its flags, in /proc/self/smaps.
fn mapping_of(at: *const u8) -> (String, String) {
    let (at, maps) = (at as usize, fs::read_to_string("/proc/self/smaps").expect("smaps"));
    let mut lines = maps.lines();
    let head = lines
        .find(|line| {
            let range = line.split(' ').next().and_then(|word| word.split_once('-'));
            range.is_some_and(|(start, end)| {
                let number = |text| usize::from_str_radix(text, 16);
                matches!((number(start), number(end)), (Ok(s), Ok(e)) if (s..e).contains(&at))
            })
        })
        .expect("mapped");
    let flags = lines.find(|line| line.starts_with("VmFlags:")).expect("flags");
    (head.to_owned(), flags.to_owned())
}

/// How a child process ends that does this: by which signal, or with which code.
fn in_a_child(act: impl FnOnce() -> i32) -> Result<i32, i32> {
    // SAFETY: the child calls nothing but system calls and `act`, which only reads memory.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: a limit of this process only, and its end without anything else.
        unsafe {
            libc::setrlimit(libc::RLIMIT_CORE, &none);
            libc::_exit(act());
        }
    }
    let mut status = 0;
    // SAFETY: writes to `status`.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    match libc::WIFSIGNALED(status) {
        true => Err(libc::WTERMSIG(status)),
        false => Ok(libc::WEXITSTATUS(status)),
    }
}

#[test]
fn keys_work_in_their_slots() {
    for kind in kinds() {
        let arena = arena(kind);
        let key = || LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[1; KEY_BYTES]).expect("key"));
        let slot = put(&arena, key());
        assert_eq!(encrypt(&slot), encrypt(&key()), "{kind}");

        let derived = |prk: &hkdf::Prk| {
            let mut bytes = [0; KEY_BYTES];
            let out = prk.expand(&[b"info"], hkdf::HKDF_SHA256).expect("short");
            out.fill(&mut bytes).expect("32 bytes");
            bytes
        };
        let prk = || hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &[2; KEY_BYTES]);
        assert_eq!(derived(&put(&arena, prk())), derived(&prk()), "{kind}");
    }
}

#[test]
fn one_copy_of_a_key_and_none_after_it_was_dropped() {
    let arena = arena(Protection::Locked);
    let (key, needle) = new_key(&arena);
    encrypt(&key);
    let copies = &search(&needle).copies[0];
    let slot = &raw const *key as usize;
    let is_in_slot = |copy: &String| {
        let address = copy.split_once(' ').expect("address, name").0;
        let address = usize::from_str_radix(&address[2..], 16).expect("a number");
        (slot..slot + size_of::<LessSafeKey>()).contains(&address)
    };
    assert!(copies.len() == 1 && copies.iter().all(is_in_slot), "{copies:?}, slot at {slot:#x}");

    drop(key);
    assert_eq!(search(&needle).copies[0], [].into());
}

#[test]
fn secret_memory_cannot_be_read_from_outside() {
    if !kinds().contains(&Protection::SecretFd) {
        return;
    }
    let arena = arena(Protection::SecretFd);
    let (key, needle) = new_key(&arena);
    encrypt(&key);
    let found = search(&needle);
    assert_eq!(found.copies[0], [].into());
    assert!(found.met_secret_memory(), "{found:?}");

    let at = (&raw const *key).cast::<u8>();
    let memory = File::open("/proc/self/mem").expect("opens");
    let read = memory.read_at(&mut [0; KEY_BYTES], at as u64);
    assert_eq!(read.expect_err("is refused").raw_os_error(), Some(libc::EIO));
    let (line, flags) = mapping_of(at);
    assert!(line.contains("/secretmem"), "{line}");
    // lo: locked, dd: in no core file, dc: not in a child.
    assert!(["lo", "dd", "dc"].iter().all(|flag| flags.contains(flag)), "{flags}");
    // Nor by the way of its file, which root finds there.
    let range = line.split(' ').next().expect("addresses");
    assert!(File::open(format!("/proc/self/map_files/{range}")).is_err());
    assert_eq!(in_a_child(|| bytes_at(at, 1)[0].into()), Err(libc::SIGSEGV));
}

#[test]
fn locked_memory_is_locked_and_in_no_core_file_and_in_no_child() {
    let arena = arena(Protection::Locked);
    let slot = put(&arena, [0x5a_u8; 64]);
    let (_, flags) = mapping_of(slot.as_ptr());
    // lo: locked, dd: in no core file, wf: zeros in a child.
    assert!(["lo", "dd", "wf"].iter().all(|flag| flags.contains(flag)), "{flags}");
    assert_eq!(in_a_child(|| slot[63].into()), Ok(0));
    assert_eq!(slot[63], 0x5a);
}

#[test]
fn pages_before_and_behind_a_region_kill() {
    for kind in kinds() {
        let arena = arena(kind);
        let slot = put(&arena, 1_u8);
        let first = &raw const *slot;
        let bytes = arena.0.space().regions[0].bytes;
        let (before, behind) = (first.wrapping_sub(1), first.wrapping_add(bytes));
        for at in [before, behind] {
            assert_eq!(in_a_child(|| bytes_at(at, 1)[0].into()), Err(libc::SIGSEGV), "{kind}");
        }
        if kind == Protection::Locked {
            let last = first.wrapping_add(bytes - 1);
            assert_eq!(in_a_child(|| bytes_at(last, 1)[0].into()), Ok(0));
        }
    }
}

#[test]
fn a_dropped_value_is_dropped_and_its_slot_wiped_and_used_again() {
    struct Counts(&'static AtomicUsize, [u8; 100]);
    impl Drop for Counts {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
        }
    }
    static DROPPED: AtomicUsize = AtomicUsize::new(0);

    for kind in kinds() {
        DROPPED.store(0, SeqCst);
        let arena = arena(kind);
        let slot = put(&arena, Counts(&DROPPED, [0x5a; 100]));
        let other = put(&arena, [0x5a_u8; 100]);
        let at = (&raw const *slot).cast::<u8>();
        assert_eq!((DROPPED.load(SeqCst), arena.slots()), (0, 2));
        assert_eq!(slot.1, [0x5a; 100]);
        drop(slot);
        assert_eq!((DROPPED.load(SeqCst), arena.slots()), (1, 1));
        assert_eq!(bytes_at(at, size_of::<Counts>()), [0; size_of::<Counts>()], "{kind}");
        assert_eq!(*other, [0x5a; 100]);

        let again = put(&arena, Counts(&DROPPED, [1; 100]));
        assert_eq!((&raw const *again).cast::<u8>(), at);
    }
}

#[test]
fn what_was_not_made_takes_no_slot() {
    let arena = arena(Protection::Locked);
    let made = arena.place(|| Err::<u64, String>("no".to_owned()));
    assert_eq!(made.expect_err("not made"), "no");
    let panicked =
        std::panic::catch_unwind(|| arena.place(|| -> Result<u64, Error> { panic!("on the way") }));
    assert!(panicked.is_err());
    assert_eq!(arena.slots(), 0);
}

#[test]
fn ten_thousand_keys_take_84_regions_and_give_them_back() {
    const COUNT: usize = 10_000;
    let arena = arena(Protection::Locked);
    let key = |n: usize| {
        let mut raw = [0; KEY_BYTES];
        raw[..8].copy_from_slice(&n.to_ne_bytes());
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &raw).expect("a key"))
    };
    for _ in 0..2 {
        let keys: Vec<_> = (0..COUNT).map(|n| put(&arena, key(n))).collect();
        assert_eq!(arena.slots(), COUNT);
        assert_eq!(encrypt(&keys[COUNT - 1]), encrypt(&key(COUNT - 1)));
        assert_eq!(encrypt(&keys[0]), encrypt(&key(0)));
    }
    assert_eq!(arena.slots(), 0);
    let regions = arena.0.space().regions.len();
    // As the documents say: 5,376 KiB where a page is 4 KiB.
    assert_eq!((size_of::<LessSafeKey>(), regions), (544, 84));
}

#[test]
fn slots_outlive_their_arena_and_go_from_thread_to_thread() {
    let arena = arena(Protection::Locked);
    let slots: Vec<_> = std::thread::scope(|scope| {
        let make = |n: u8| {
            let arena = arena.clone();
            scope.spawn(move || (0..500).map(|_| put(&arena, [n; 48])).collect::<Vec<_>>())
        };
        let threads: Vec<_> = (0..4).map(make).collect();
        threads.into_iter().map(|thread| thread.join().expect("ends")).collect()
    });
    drop(arena);
    for (made, n) in slots.iter().zip(0_u8..) {
        assert!(made.iter().all(|slot| **slot == [n; 48]));
    }
}

#[test]
fn bytes_of_any_length_are_wiped_after_use() {
    for kind in kinds() {
        let arena = arena(kind);
        for length in [0, 1, 15, 16, 17, REGION_BYTES] {
            let text = vec![0x5a; length];
            let copy = arena.copy(&text).expect("room");
            assert_eq!(*copy, text[..]);
            let at = copy.as_ptr();
            drop(copy);
            assert_eq!(bytes_at(at, length), vec![0; length], "{kind}");
        }
        let error = arena.copy(&vec![0; REGION_BYTES + 1]).expect_err("no room");
        assert!(error.to_string().contains("too long"), "{error}");
        assert_eq!(arena.slots(), 0);
    }
}

#[test]
fn nothing_shows_a_value() {
    let arena = arena(Protection::Locked);
    let (slot, bytes) = (put(&arena, 0x5a5a_u64), arena.copy(b"text").expect("room"));
    assert_eq!(format!("{slot:?} {bytes:?}"), "Slot(…) Bytes(…)");
}

#[test]
fn without_memfd_secret_memory_is_locked_or_the_operator_hears_why_not() {
    for (errno, advice) in
        [(libc::EPERM, "SystemCallFilter="), (libc::ENOSYS, "secretmem.enable=1")]
    {
        let in_thread = move || {
            forbid_secret_memory(errno).expect("a filter");
            let preferred = Arena::new(Wanted::Prefer).expect("mlock is allowed");
            assert_eq!(preferred.protection(), Protection::Locked);
            let error = Arena::new(Wanted::Require).expect_err("is refused").to_string();
            assert!(error.contains("memfd_secret") && error.contains(advice), "{error}");
        };
        std::thread::spawn(in_thread).join().expect("as it should be");
    }
}

#[test]
fn with_memfd_secret_an_arena_takes_it() {
    if kinds().contains(&Protection::SecretFd) {
        for wanted in [Wanted::Prefer, Wanted::Require] {
            let arena = Arena::new(wanted).expect("memory");
            assert_eq!(arena.protection(), Protection::SecretFd);
        }
    }
}

/// As a plain user whose limit does not suffice.
#[test]
fn too_little_lockable_memory_is_said_at_the_start_and_on_the_way() {
    let name = test_path!("too_little_lockable_memory_is_said_at_the_start_and_on_the_way");
    in_own_process(name, |_| {
        let limit = |bytes| {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
            let below = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            // SAFETY: limits of this test's own process. Root may raise them again, others not.
            unsafe {
                if libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) != 0 {
                    assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &below), 0);
                }
            }
        };
        limit(2 * REGION_BYTES as u64);
        // SAFETY: another user for this thread only, without the capability to lock more.
        unsafe { libc::syscall(libc::SYS_setuid, 65_534) };

        let arena = Arena::new(Wanted::Prefer).expect("one region");
        let mut slots = Vec::new();
        let full = loop {
            match arena.place(|| Ok::<_, Error>([1_u8; 4096])) {
                Ok(slot) => slots.push(slot),
                Err(error) => break error.to_string(),
            }
        };
        assert_eq!(slots.len(), 2 * REGION_BYTES / 4096);
        assert!(full.contains("LimitMEMLOCK"), "{full}");
        // What is given back can be had again.
        drop(slots.pop());
        slots.push(put(&arena, [2; 4096]));

        for wanted in [Wanted::Prefer, Wanted::Require] {
            let error = Arena::new(wanted).expect_err("no more").to_string();
            assert!(error.contains("LimitMEMLOCK"), "{error}");
        }
    });
}

#[test]
fn the_stack_below_is_overwritten() {
    #[inline(never)]
    fn leaves(needle: &mut Option<Needle>) -> u8 {
        let mut raw = [0_u8; 2048];
        SystemRandom::new().fill(&mut raw).expect("random bytes");
        *needle = Some(Needle::new(&raw[..64]));
        std::hint::black_box(&mut raw)[0]
    }
    let mut needle = None;
    leaves(&mut needle);
    burn_stack();
    let needle = needle.expect("made");
    assert_eq!(search(&needle).copies[0], [].into());
}

/// So that a scan that finds nothing says something.
#[test]
fn a_scan_finds_what_is_there() {
    let mut raw = vec![0_u8; 64];
    SystemRandom::new().fill(&mut raw).expect("random bytes");
    let needle = Needle::new(&raw);
    assert_eq!(search(&needle).copies[0].len(), 1);
    let second = raw.clone();
    assert_eq!(search(&needle).copies[0].len(), 2);
    drop((raw, second));
}
