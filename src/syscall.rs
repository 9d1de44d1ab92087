//! Two of the executor's system calls, as a program with many sockets and cores needs them: `xksd`, and `xksd-load` as well.
//!
//! glommio-ng 0.12.0 offers no setting for either, so `build.rs` has the linker lead `syscall(2)` of what is linked into this program here (`ld
//! --wrap`): of the standard library and the crates, not of libc itself nor of a PKCS#11 module. `docs/performance.md` has what each is worth.
//! Either goes when the executor has it.

use std::ffi::c_long;
use std::sync::atomic::{Ordering, fence};

/// Without it the kernel interrupts the core of a thread that runs as often as one of its sockets becomes readable on another core; with it completions
/// are run "at any kernel/user transition" (io_uring_setup(2); since Linux 5.19). A busy shard makes a system call for each request, and its preemption timer
/// interrupts the core that it is pinned to.
const IORING_SETUP_COOP_TASKRUN: u32 = 1 << 8;
const MEMBARRIER_CMD_PRIVATE_EXPEDITED: c_long = 1 << 3;

/// The beginning of io_uring's `struct io_uring_params`.
#[repr(C)]
struct RingParameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
}

unsafe extern "C" {
    /// libc's.
    fn __real_syscall(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long;
}

/// What the linker puts in the place of libc's. That one takes as many arguments as the call has and hands six registers to the kernel, whatever
/// is in them: so does this.
#[unsafe(no_mangle)]
extern "C" fn __wrap_syscall(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long {
    // SAFETY: the caller's arguments, as the caller gave them but for the ring's flags below.
    let call = || unsafe { __real_syscall(number, a, b, c, d, e, f) };
    match number {
        libc::SYS_io_uring_setup if b != 0 => {
            // SAFETY: io_uring_setup(2) takes a pointer to parameters that the kernel writes to as well; nobody else has them meanwhile.
            let flags = unsafe { &raw mut (*(b as *mut RingParameters)).flags };
            // SAFETY: as above.
            let asked = unsafe { flags.read() };
            // SAFETY: as above.
            unsafe { flags.write(asked | IORING_SETUP_COOP_TASKRUN) };
            let made = call();
            if made >= 0 {
                return made;
            }
            // A kernel that does not know the flag, or a ring of a kind that cannot have it.
            // SAFETY: as above.
            unsafe { flags.write(asked) };
            call()
        }
        // Before each sleep the executor says "I sleep" and looks once more for wakes, with a barrier between that interrupts every core on which
        // a thread of this process runs, so all other shards. It spares those who wake a barrier of their own; but they have one: a wake is
        // queued, then told by a compare-exchange, on x86-64 a locked instruction that nothing passes. So a fence of the sleeper's own is enough. Other
        // architectures promise less: there it stays.
        #[cfg(target_arch = "x86_64")]
        libc::SYS_membarrier if a & 0xffff_ffff == MEMBARRIER_CMD_PRIVATE_EXPEDITED => {
            fence(Ordering::SeqCst);
            0
        }
        _ => call(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::task::Poll;
    use std::time::{Duration, Instant};

    use futures_util::task::AtomicWaker;
    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;

    const IORING_SETUP_SQPOLL: u32 = 1 << 1;

    /// `struct io_uring_params` is 120 bytes.
    fn set_up(flags: u32) -> u32 {
        let mut parameters = [0_u32; 30];
        parameters[2] = flags;
        // SAFETY: io_uring_setup(2) with room for its parameters.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
        assert!(ring >= 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the descriptor made above, closed once.
        unsafe { libc::close(ring as i32) };
        parameters[2]
    }

    #[test]
    fn rings_are_made_without_interrupts() {
        assert_eq!(set_up(0), IORING_SETUP_COOP_TASKRUN);
    }

    /// As one of a kernel that does not know the flag.
    #[test]
    fn a_ring_that_cannot_have_the_flag_is_made_without() {
        assert_eq!(set_up(IORING_SETUP_SQPOLL), IORING_SETUP_SQPOLL);
    }

    #[test]
    fn errors_are_the_kernels() {
        // SAFETY: no parameters for the kernel to read.
        assert_eq!(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, 0) }, -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn other_calls_are_passed_on() {
        // SAFETY: takes nothing and cannot fail.
        assert_eq!(unsafe { libc::syscall(libc::SYS_getpid) }, c_long::from(std::process::id()));
    }

    /// Rounds of a wake each, most of which meet the shard on its way to sleep or asleep.
    const WAKES: u64 = 200_000;

    #[test]
    fn no_wake_is_lost_on_a_shard_that_goes_to_sleep() {
        let (waker, asked, told) = (Arc::new(AtomicWaker::new()), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (sleeper, question, answer) = (waker.clone(), asked.clone(), told.clone());
        let executor = LocalExecutorBuilder::new(Placement::Fixed(0)).io_memory(1 << 16).spawn(move || async move {
            for round in 1..=WAKES {
                poll_fn(|cx| {
                    sleeper.register(cx.waker());
                    if question.load(Ordering::Acquire) < round { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
                answer.store(round, Ordering::Release);
            }
        });
        let executor = executor.unwrap();
        for round in 1..=WAKES {
            asked.store(round, Ordering::Release);
            waker.wake();
            let since = Instant::now();
            while told.load(Ordering::Acquire) < round {
                assert!(since.elapsed() < Duration::from_secs(20), "the wake of round {round} is lost");
                std::hint::spin_loop();
            }
        }
        executor.join().unwrap();
    }

    /// A shard that makes no system call for a while is stopped by its timer all the same.
    #[test]
    fn the_preemption_timer_needs_no_system_call() {
        let executor = LocalExecutorBuilder::new(Placement::Fixed(0)).io_memory(1 << 16).preempt_timer(Duration::from_millis(1));
        let stopped = executor.spawn(|| async move {
            // The first one may have been set before this task began.
            glommio::executor().yield_task_queue_now().await;
            let since = Instant::now(); // the clock is read without one
            while !glommio::executor().need_preempt() {
                assert!(since.elapsed() < Duration::from_secs(20), "not stopped");
            }
        });
        stopped.unwrap().join().unwrap();
    }
}
