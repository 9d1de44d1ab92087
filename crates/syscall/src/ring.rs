//! A ring's queues, in the memory that the kernel and the executor share.

use std::ffi::{c_long, c_void};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::entry::Entry;

/// Offsets for mmap(2) of a ring's descriptor (io_uring_setup(2)).
const IORING_OFF_SQ_RING: i64 = 0;
const IORING_OFF_SQES: i64 = 0x1000_0000;

/// io_uring's `struct io_uring_params`: 120 bytes.
#[repr(C)]
pub(crate) struct Parameters {
    pub(crate) sq_entries: u32,
    pub(crate) cq_entries: u32,
    pub(crate) flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    pub(crate) features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: SubmissionOffsets,
    cq: CompletionOffsets,
}

/// `struct io_sqring_offsets`.
#[repr(C)]
struct SubmissionOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    user_address: u64,
}

/// `struct io_cqring_offsets`.
#[repr(C)]
struct CompletionOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    completions: u32,
    flags: u32,
    reserved: u32,
    user_address: u64,
}

/// Memory of a ring, mapped once more beside the executor's own mapping.
struct Mapping {
    address: *mut c_void,
    bytes: usize,
}

impl Mapping {
    fn new(ring: i32, offset: i64, bytes: usize) -> Option<Mapping> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let address =
            unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, ring, offset) };
        (address != libc::MAP_FAILED).then_some(Mapping { address, bytes })
    }

    /// The counter at `offset`.
    fn counter(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel's offsets are inside the mapping and aligned; all who share the
        // memory use it atomically.
        unsafe { &*self.address.byte_add(offset as usize).cast::<AtomicU32>() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: ours, and nothing borrows from it any more.
        unsafe { libc::munmap(self.address, self.bytes) };
    }
}

/// A ring of this thread.
pub(crate) struct Ring {
    descriptor: i32,
    queues: Mapping,
    entries: Mapping,
    offsets: [u32; 4],
    size: u32,
}

impl Ring {
    /// The ring that was just made; `None` when it cannot be looked into.
    pub(crate) fn new(descriptor: i32, made: &Parameters) -> Option<Ring> {
        // The kernel has put both queues into one mapping since Linux 5.4
        // (IORING_FEAT_SINGLE_MMAP).
        let submissions = made.sq.array as usize + 4 * made.sq_entries as usize;
        let completions = made.cq.completions as usize + 16 * made.cq_entries as usize;
        let entries = size_of::<Entry>() * made.sq_entries as usize;
        Some(Ring {
            descriptor,
            queues: Mapping::new(descriptor, IORING_OFF_SQ_RING, submissions.max(completions))?,
            entries: Mapping::new(descriptor, IORING_OFF_SQES, entries)?,
            offsets: [made.sq.head, made.sq.tail, made.cq.head, made.cq.tail],
            size: made.sq_entries,
        })
    }

    pub(crate) fn descriptor(&self) -> c_long {
        c_long::from(self.descriptor)
    }

    fn counter(&self, which: usize) -> &AtomicU32 {
        self.queues.counter(self.offsets[which])
    }

    /// The place of entry number `index`. Entries are used in the order of their numbers.
    fn entry(&self, index: u32) -> *mut Entry {
        let slot = (index & (self.size - 1)) as usize;
        // SAFETY: a power of two of them are mapped.
        unsafe { self.entries.address.cast::<Entry>().add(slot) }
    }

    /// Takes the entries that the kernel has not taken, in their order.
    pub(crate) fn take(&self, mut each: impl FnMut(Entry)) {
        let (head, tail) = (self.counter(0).load(Ordering::Acquire), self.counter(1));
        let end = tail.load(Ordering::Acquire);
        // Counters run on over u32's end.
        for number in 0..end.wrapping_sub(head) {
            // SAFETY: between head and tail the executor has written them, and the kernel reads
            // them only within io_uring_enter(2).
            each(unsafe { self.entry(head.wrapping_add(number)).read() });
        }
        tail.store(head, Ordering::Release);
    }

    /// Puts entries into the empty queue for the kernel, as many as there is room for.
    pub(crate) fn put(&self, entries: &[Entry]) -> usize {
        let tail = self.counter(1);
        let end = tail.load(Ordering::Acquire);
        let put = entries.len().min(self.size as usize);
        for (number, entry) in (0..).zip(&entries[..put]) {
            // SAFETY: behind the tail nobody else writes or reads.
            unsafe { self.entry(end.wrapping_add(number)).write(*entry) };
        }
        tail.store(end.wrapping_add(put as u32), Ordering::Release);
        put
    }

    /// Completions that the executor has not looked at.
    pub(crate) fn completions(&self) -> u32 {
        let (head, tail) = (self.counter(2), self.counter(3));
        tail.load(Ordering::Acquire).wrapping_sub(head.load(Ordering::Acquire))
    }
}
