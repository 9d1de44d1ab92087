//! Memory for secrets: an arena of slots that are locked, lie between pages without access, are in
//! no core file, and are overwritten when they are given back.
//!
//! With [`Protection::SecretFd`] the kernel itself has no mapping of the pages: root reads them
//! neither through `/proc/PID/mem` nor `/dev/mem`. They count against RLIMIT_MEMLOCK, as those of
//! [`Protection::Locked`] do: 64 KiB at a time, and 5,376 KiB for 10,000 of ring's AES keys (544
//! bytes each). A child after fork(2) finds secret pages missing and locked ones zeroed.

mod error;
mod region;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, compiler_fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use error::Error;
use region::{REGION_BYTES, Region};

/// Every slot begins at a multiple of it, and is a multiple of it long.
const SLOT_ALIGN: usize = 16;
/// How much of the stack [`burn_stack`] overwrites. Decoding a key, a module's C_Decrypt and ring's
/// key expansion need a few KiB.
const STACK_BYTES: usize = 64 * 1024;
/// How much [`on_wiped_stack`] does. ring's HKDF, key expansion and AES-GCM of a message need 2 KiB
/// when they are optimised, and some 6 KiB in a debug build.
const SHORT_STACK_BYTES: usize = 16 * 1024;

/// How much is asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// memfd_secret where the kernel has it, locked memory elsewhere.
    Prefer,
    /// memfd_secret, or nothing.
    Require,
}

/// What an arena's memory is protected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// memfd_secret: locked, in no core file, unreadable from outside the process.
    SecretFd,
    /// mlock, MADV_DONTDUMP and MADV_WIPEONFORK.
    Locked,
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protection::SecretFd => "memfd_secret",
            Protection::Locked => "mlock",
        })
    }
}

/// Where slots come from. Clones share their memory, which goes with the last of them and of their
/// slots.
#[derive(Clone)]
pub struct Arena(Arc<Shared>);

struct Shared {
    protection: Protection,
    space: Mutex<Space>,
}

/// Regions and what is free in them. Memory that was a slot becomes one of the same size again.
struct Space {
    regions: Vec<Region>,
    /// The first byte of the last region that was never in a slot.
    next: usize,
    free: HashMap<usize, Vec<Free>>,
    slots: usize,
}

/// The address of a slot that nobody has.
struct Free(NonNull<u8>);

// SAFETY: an address of memory that belongs to the process.
unsafe impl Send for Free {}

impl Arena {
    /// An arena with one region. The error says what the kernel refused, and what to set.
    pub fn new(wanted: Wanted) -> Result<Arena, Error> {
        let secret = Region::new(Protection::SecretFd).map(|r| (Protection::SecretFd, r));
        let (protection, region) = match wanted {
            Wanted::Require => secret?,
            Wanted::Prefer => match secret {
                Ok(got) => got,
                Err(_) => (Protection::Locked, Region::new(Protection::Locked)?),
            },
        };
        let space = Space { regions: vec![region], next: 0, free: HashMap::new(), slots: 0 };
        Ok(Arena(Arc::new(Shared { protection, space: Mutex::new(space) })))
    }

    /// What the kernel gave.
    pub fn protection(&self) -> Protection {
        self.0.protection
    }

    /// Makes a value in a slot: the only copy that stays. Afterwards the stack that `make` used is
    /// overwritten, down to 64 KiB. What `make` put on the heap is its own to wipe.
    pub fn place<T, E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<Slot<T>, E>
    where
        T: Send + Sync + 'static,
        E: From<Error>,
    {
        const {
            assert!(align_of::<T>() <= SLOT_ALIGN, "no type of ours has a larger alignment");
            assert!(size_of::<T>() > 0 && size_of::<T>() <= REGION_BYTES);
        }
        let memory = self.take(size_of::<T>().next_multiple_of(SLOT_ALIGN))?;
        let made = fill(memory.at.cast(), make);
        burn_stack();
        // If nothing was made, `memory` is wiped and given back.
        made.map(|()| Slot { memory, value: PhantomData })
    }

    /// Bytes in a slot. The caller's are the caller's to wipe.
    pub fn copy(&self, bytes: &[u8]) -> Result<Bytes, Error> {
        let memory = self.take(bytes.len().next_multiple_of(SLOT_ALIGN).max(SLOT_ALIGN))?;
        // SAFETY: from a slice to a slot of its length at least, which nobody else has.
        unsafe { memory.at.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(Bytes { memory, length: bytes.len() })
    }

    /// How many are in use.
    pub fn slots(&self) -> usize {
        self.0.space().slots
    }

    fn take(&self, bytes: usize) -> Result<Memory, Error> {
        if bytes > REGION_BYTES {
            return Err(Error::too_long(bytes));
        }
        let mut space = self.0.space();
        let at = match space.free.get_mut(&bytes).and_then(Vec::pop) {
            Some(Free(at)) => at,
            None => space.cut(bytes, self.0.protection)?,
        };
        space.slots += 1;
        Ok(Memory { shared: self.0.clone(), at, bytes })
    }
}

impl Shared {
    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Space {
    fn cut(&mut self, bytes: usize, protection: Protection) -> Result<NonNull<u8>, Error> {
        let is_full = self.regions.last().is_none_or(|last| last.bytes - self.next < bytes);
        if is_full {
            self.regions.push(Region::new(protection)?);
            self.next = 0;
        }
        let at = self.regions[self.regions.len() - 1].at(self.next);
        self.next += bytes;
        Ok(at)
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({}, {} slots)", self.protection(), self.slots())
    }
}

/// Not inlined: all that `make` has on the stack is then below the caller's frame, where the caller
/// overwrites it.
#[inline(never)]
fn fill<T, E>(at: NonNull<T>, make: impl FnOnce() -> Result<T, E>) -> Result<(), E> {
    let value = make()?;
    // SAFETY: the memory of a slot: large and aligned enough, and nobody else has it.
    unsafe { at.write(value) };
    Ok(())
}

/// A slot's memory. Dropped: overwritten and given back.
struct Memory {
    shared: Arc<Shared>,
    at: NonNull<u8>,
    bytes: usize,
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `bytes` bytes of a region that `shared` keeps; nobody else has them.
        unsafe { overwrite(self.at.cast(), self.bytes / size_of::<u64>()) };
        let mut space = self.shared.space();
        space.free.entry(self.bytes).or_default().push(Free(self.at));
        space.slots -= 1;
    }
}

/// A value in an [`Arena`]. Dropped: the value is, then every byte of its slot is overwritten, then
/// the slot is free.
pub struct Slot<T> {
    memory: Memory,
    value: PhantomData<T>,
}

// SAFETY: it owns its value, as a Box does; its memory belongs to no thread, and the arena behind
// it is guarded by a mutex.
unsafe impl<T: Send> Send for Slot<T> {}
// SAFETY: as above; what is shared is `&T`.
unsafe impl<T: Sync> Sync for Slot<T> {}

impl<T> Deref for Slot<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `place` has put a value there, which stays until this is dropped.
        unsafe { self.memory.at.cast().as_ref() }
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        // SAFETY: the value that `place` has put there; nobody sees it after this.
        unsafe { self.memory.at.cast::<T>().drop_in_place() };
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot(…)")
    }
}

/// Bytes in an [`Arena`], overwritten when this is dropped.
pub struct Bytes {
    memory: Memory,
    length: usize,
}

// SAFETY: as of `Slot`.
unsafe impl Send for Bytes {}
// SAFETY: as of `Slot`.
unsafe impl Sync for Bytes {}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `copy` has put as many bytes there.
        unsafe { std::slice::from_raw_parts(self.memory.at.as_ptr(), self.length) }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bytes(…)")
    }
}

/// Has `work` use secrets on the stack, then overwrites the 16 KiB of it below the caller: for what
/// is done thousands of times a second, where [`burn_stack`] takes too long. What `work` returns is
/// the caller's.
#[inline(never)]
pub fn on_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    let done = below(work);
    burn::<SHORT_STACK_BYTES>();
    done
}

/// Not inlined: what `work` has on the stack is then below its caller's frame.
#[inline(never)]
fn below<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Overwrites 64 KiB of the stack below the caller: what functions that it has called left there.
pub fn burn_stack() {
    burn::<STACK_BYTES>();
}

/// Not inlined: the bytes are below the caller's frame then.
#[inline(never)]
fn burn<const BYTES: usize>() {
    let mut stack = MaybeUninit::<[u8; BYTES]>::uninit();
    // At once and not word by word, which takes several times as long.
    // SAFETY: the bytes of a local variable.
    unsafe { stack.as_mut_ptr().write_bytes(0, 1) };
    // Whatever this does, it may read them: they are written.
    std::hint::black_box(&mut stack);
    compiler_fence(Ordering::SeqCst);
}

/// With zeros, also where nobody reads them.
///
/// # Safety
///
/// `words` words from `at` on are to be written to, and nobody else's.
unsafe fn overwrite(at: NonNull<u64>, words: usize) {
    for n in 0..words {
        // SAFETY: the caller's promise.
        unsafe { at.add(n).write_volatile(0) };
    }
    compiler_fence(Ordering::SeqCst);
}
