//! Time and sleeping.

use std::cell::Cell;

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to be written; CLOCK_MONOTONIC always exists on Linux, so
    // the result needs no look.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

/// Timer slack of threads that wait here, nanoseconds. The default of 50 µs would lengthen every
/// call by about that much.
const TIMER_SLACK_NS: libc::c_ulong = 1_000;

thread_local! {
    static SLACK_IS_SET: Cell<bool> = const { Cell::new(false) };
}

/// Sleeps until the instant, which is absolute so that an interrupted or late start does not add
/// up. The calling thread keeps a timer slack of 1 µs from then on.
pub fn sleep_until(deadline_ns: u64) {
    if deadline_ns <= now_ns() {
        return;
    }
    SLACK_IS_SET.with(|set| {
        if !set.replace(true) {
            // SAFETY: PR_SET_TIMERSLACK takes one integer and changes nothing but how the kernel
            // groups this thread's timers.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, TIMER_SLACK_NS) };
        }
    });
    let time = libc::timespec {
        tv_sec: (deadline_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (deadline_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: `time` is a valid timespec; with TIMER_ABSTIME the remainder pointer may be null.
    // EINTR: a signal came, sleep on.
    while unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &time,
            std::ptr::null_mut(),
        )
    } == libc::EINTR
    {}
}

/// Sleeps this long from now.
pub fn sleep_ms(ms: u64) {
    sleep_until(now_ns().saturating_add(ms.saturating_mul(1_000_000)));
}
