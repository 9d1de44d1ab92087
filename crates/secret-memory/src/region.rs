//! One mapping for slots, with a page without access before and behind it.

use std::ffi::c_void;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::{NonNull, null_mut};

use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mlock, mmap, mmap_anonymous, mprotect,
    munmap,
};

use crate::{Error, Protection};

/// Of a region, rounded up to pages. Small, because each arena locks one at least.
pub(crate) const REGION_BYTES: usize = 64 * 1024;

/// Readable and writable memory, all zeros at first.
pub(crate) struct Region {
    whole: *mut c_void,
    whole_bytes: usize,
    start: NonNull<u8>,
    pub(crate) bytes: usize,
}

impl Region {
    pub(crate) fn new(protection: Protection) -> Result<Region, Error> {
        let page = rustix::param::page_size();
        let bytes = REGION_BYTES.next_multiple_of(page);
        let failed = |step: &'static str| move |why: Errno| Error::of(step, bytes, why);

        let whole_bytes = bytes + 2 * page;
        // SAFETY: a new mapping where the kernel likes; it replaces none.
        let whole = unsafe {
            mmap_anonymous(null_mut(), whole_bytes, ProtFlags::empty(), MapFlags::PRIVATE)
        }
        .map_err(failed("mmap"))?;
        // SAFETY: one page into a mapping of more than two.
        let start = unsafe { whole.byte_add(page) };
        let region = Region {
            whole,
            whole_bytes,
            start: NonNull::new(start.cast()).expect("no mapping is at 0"),
            bytes,
        };
        match protection {
            Protection::SecretFd => region.map_secret()?,
            Protection::Locked => region.lock()?,
        }
        Ok(region)
    }

    /// Puts pages of memfd_secret between the guard pages: taken out of the kernel's own mapping of
    /// memory, locked and in no core file without being asked.
    fn map_secret(&self) -> Result<(), Error> {
        let failed = |step: &'static str| move |why: Errno| Error::of(step, self.bytes, why);
        // SAFETY: makes a descriptor, and reads no memory.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(|| {
            let why = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::ENOSYS);
            Error::of("memfd_secret", self.bytes, Errno::from_raw_os_error(why))
        })?;
        // SAFETY: a descriptor that was just made, and is nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        rustix::fs::ftruncate(&fd, self.bytes as u64).map_err(failed("ftruncate"))?;
        let (readable, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
        // SAFETY: replaces pages of this region's own mapping, which nobody uses yet.
        unsafe { mmap(self.start.as_ptr().cast(), self.bytes, readable, flags, &fd, 0) }
            .map_err(failed("mmap of memfd_secret"))?;
        // Shared memory, so a child would have it; MADV_WIPEONFORK is for private memory only.
        self.advise(Advice::LinuxDontFork).map_err(failed("madvise(MADV_DONTFORK)"))?;
        // Takes the pages now: a machine without memory is to say so here, and not at the first
        // key. (MADV_POPULATE_WRITE refuses secret memory.)
        for offset in (0..self.bytes).step_by(rustix::param::page_size()) {
            // SAFETY: within the region, which is mapped to be written to.
            unsafe { self.start.add(offset).write_volatile(0) };
        }
        Ok(())
    }

    fn lock(&self) -> Result<(), Error> {
        let failed = |step: &'static str| move |why: Errno| Error::of(step, self.bytes, why);
        let at = self.start.as_ptr().cast();
        // SAFETY: this region's own mapping, which nobody uses yet.
        unsafe { mprotect(at, self.bytes, MprotectFlags::READ | MprotectFlags::WRITE) }
            .map_err(failed("mprotect"))?;
        // Before any page is there.
        self.advise(Advice::LinuxDontDump).map_err(failed("madvise(MADV_DONTDUMP)"))?;
        self.advise(Advice::LinuxWipeOnFork).map_err(failed("madvise(MADV_WIPEONFORK)"))?;
        // SAFETY: this region's own mapping. Takes all of its pages.
        unsafe { mlock(at, self.bytes) }.map_err(failed("mlock"))
    }

    fn advise(&self, advice: Advice) -> Result<(), Errno> {
        // SAFETY: this region's own mapping, and advice that leaves what is in it to this process.
        unsafe { madvise(self.start.as_ptr().cast(), self.bytes, advice) }
    }

    /// The address at `offset`, which is within the region.
    pub(crate) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.bytes);
        // SAFETY: within the region.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made. Its slots are all given back: each holds the arena.
        let unmapped = unsafe { munmap(self.whole, self.whole_bytes) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

// SAFETY: addresses of memory that belongs to the process; nothing in it belongs to a thread.
unsafe impl Send for Region {}
