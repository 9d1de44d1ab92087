//! In its own process: the kernel's barrier must be registered for once in each process, and
//! nothing here does, so that an answer shows who gave it.
#![cfg(target_arch = "x86_64")]

use xksd_syscall as _;

const MEMBARRIER_CMD_PRIVATE_EXPEDITED: i64 = 1 << 3;

#[test]
fn the_barrier_before_a_sleep_interrupts_no_other_core() {
    // As a 32-bit number in a register whose upper half has held something else, too.
    for command in [MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_PRIVATE_EXPEDITED | 1 << 40] {
        // SAFETY: takes numbers only.
        let answer = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
        assert_eq!(answer, 0, "the kernel was asked: {}", std::io::Error::last_os_error());
    }
}
