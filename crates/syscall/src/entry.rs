//! An entry of a submission queue.

use std::time::Duration;

const IORING_OP_NOP: u8 = 0;
const IORING_OP_POLL_ADD: u8 = 6;
const IORING_OP_TIMEOUT: u8 = 11;
const IORING_OP_ASYNC_CANCEL: u8 = 14;
const IOSQE_IO_LINK: u8 = 1 << 2;

/// io_uring's `struct io_uring_sqe`: 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Entry {
    operation: u8,
    flags: u8,
    priority: u16,
    descriptor: i32,
    /// Of a timeout: after how many completions it ends, beside its time.
    offset: u64,
    /// Of a timeout: its `struct __kernel_timespec`. Of a cancellation: whose, by user data.
    address: u64,
    length: u32,
    operation_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

impl Entry {
    /// Completes at once, in the name of an operation that is not wanted any more.
    pub(crate) fn nothing(user_data: u64) -> Entry {
        Entry { operation: IORING_OP_NOP, descriptor: -1, user_data, ..Entry::default() }
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.operation == IORING_OP_NOP
    }

    pub(crate) fn user_data(&self) -> u64 {
        self.user_data
    }

    /// The next entry begins when this one is done.
    pub(crate) fn is_linked(&self) -> bool {
        self.flags & IOSQE_IO_LINK != 0
    }

    pub(crate) fn is_timeout(&self) -> bool {
        self.operation == IORING_OP_TIMEOUT
    }

    /// Of a timeout that nothing but its time ends.
    pub(crate) fn duration(&self) -> Option<Duration> {
        if !self.is_timeout() || self.offset != 0 {
            return None;
        }
        // SAFETY: io_uring_enter(2) takes a pointer to a timespec there, and whoever submits keeps
        // it until the operation completes.
        let [seconds, nanoseconds] = unsafe { (self.address as *const [i64; 2]).read() };
        Some(Duration::new(seconds.try_into().ok()?, nanoseconds.try_into().ok()?))
    }

    /// Waits for that descriptor to become readable.
    pub(crate) fn polls(&self, descriptor: i64) -> bool {
        self.operation == IORING_OP_POLL_ADD && i64::from(self.descriptor) == descriptor
    }

    /// Whose operation it cancels.
    pub(crate) fn cancelled(&self) -> Option<u64> {
        (self.operation == IORING_OP_ASYNC_CANCEL).then_some(self.address)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn timeout(user_data: u64, completions: u64, time: &[i64; 2]) -> Entry {
        Entry {
            operation: IORING_OP_TIMEOUT,
            offset: completions,
            address: std::ptr::from_ref(time) as u64,
            length: 1,
            user_data,
            ..Entry::default()
        }
    }

    pub(crate) fn linked(entry: Entry) -> Entry {
        Entry { flags: IOSQE_IO_LINK, ..entry }
    }

    pub(crate) fn poll(user_data: u64, descriptor: i32) -> Entry {
        Entry { operation: IORING_OP_POLL_ADD, descriptor, user_data, ..Entry::default() }
    }

    pub(crate) fn cancel(whose: u64) -> Entry {
        Entry { operation: IORING_OP_ASYNC_CANCEL, address: whose, ..Entry::default() }
    }

    #[test]
    fn is_as_large_as_the_kernels() {
        assert_eq!(size_of::<Entry>(), 64);
    }

    #[test]
    fn a_timeout_says_how_long_it_is_unless_completions_end_it() {
        let time = [3, 5];
        assert_eq!(timeout(1, 0, &time).duration(), Some(Duration::new(3, 5)));
        assert_eq!(timeout(1, 7, &time).duration(), None);
        assert_eq!(timeout(1, 0, &[-1, 0]).duration(), None);
        assert_eq!(poll(1, 2).duration(), None);
    }
}
