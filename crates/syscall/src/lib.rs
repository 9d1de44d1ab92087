//! Some of the executor's system calls, as a program with many sockets and cores needs them.
//!
//! glommio-ng 0.12.0 offers no setting for them, so the linker leads `syscall(2)` of what is linked
//! into the program here (`ld --wrap`, in the program's `build.rs`): of the standard library and
//! the crates, not of libc itself nor of a shared library. Each goes when the executor has it.

mod entry;
mod executor;
mod held;
mod ring;

use std::ffi::c_long;
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use ring::Parameters;

/// Without it the kernel interrupts the core of a thread that runs as often as one of its sockets
/// becomes readable on another core; with it completions are run "at any kernel/user transition"
/// (io_uring_setup(2); since Linux 5.19). A busy shard makes a system call for each request, and
/// its preemption timer interrupts the core that it is pinned to.
const IORING_SETUP_COOP_TASKRUN: u32 = 1 << 8;
#[cfg(target_arch = "x86_64")]
const MEMBARRIER_CMD_PRIVATE_EXPEDITED: u32 = 1 << 3;

const IORING_ENTER_GETEVENTS: u32 = 1 << 0;
const IORING_ENTER_EXT_ARG: u32 = 1 << 3;
const IORING_FEAT_EXT_ARG: u32 = 1 << 8;

/// io_uring's `struct io_uring_getevents_arg`: the fifth argument of io_uring_enter(2) with
/// `IORING_ENTER_EXT_ARG` (since Linux 5.11).
#[repr(C)]
struct WaitArguments {
    signal_mask: u64,
    signal_mask_bytes: u32,
    padding: u32,
    /// Of a `struct __kernel_timespec`: seconds and nanoseconds, 64 bits each.
    time_out: *const [i64; 2],
}

/// The longest sleep: work that the executor sleeps over waits for so long. A small part of a
/// request's budget.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// How often a submission is tried again; each time others may run, who may free memory.
const SUBMISSION_TRIES: u32 = 100;

unsafe extern "C" {
    /// libc's.
    fn __real_syscall(
        number: c_long,
        a: c_long,
        b: c_long,
        c: c_long,
        d: c_long,
        e: c_long,
        f: c_long,
    ) -> c_long;
}

/// A system call with the six registers that the kernel may look at.
struct Call {
    number: c_long,
    arguments: [c_long; 6],
}

impl Call {
    /// An argument that the kernel takes as a 32-bit number. Callers that pass one leave the upper
    /// half of the register as it is.
    fn number_at(&self, index: usize) -> u32 {
        self.arguments[index] as u32
    }

    fn make(&self) -> c_long {
        #[cfg(test)]
        MADE.with(|made| made.set(made.get() + 1));
        let [a, b, c, d, e, f] = self.arguments;
        // SAFETY: the caller's arguments, but for what the functions below put in their places.
        unsafe { __real_syscall(self.number, a, b, c, d, e, f) }
    }
}

/// What the linker puts in the place of libc's. That one takes as many arguments as the call has
/// and hands six registers to the kernel, whatever is in them: so does this.
#[unsafe(no_mangle)]
extern "C" fn __wrap_syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    let call = Call { number, arguments: [a, b, c, d, e, f] };
    match number {
        libc::SYS_io_uring_setup if b != 0 => set_up(&call),
        libc::SYS_io_uring_enter => match (call.number_at(2), call.number_at(3), e) {
            (1, IORING_ENTER_GETEVENTS, 0) => executor::sleep(&call).unwrap_or_else(|| sleep(call)),
            (0, 0, 0) => executor::hold(&call).unwrap_or_else(|| submit(&call)),
            (0, _, _) => submit(&call),
            _ => call.make(),
        },
        // Before each sleep the executor says "I sleep" and looks once more for wakes, with a
        // barrier between that interrupts every core on which a thread of this process runs, so all
        // other shards. It spares those who wake their own barrier; but they have one: a wake is
        // queued, then announced by a compare-exchange, on x86-64 a locked instruction that nothing
        // passes. So the sleeper's own fence is enough. Other architectures promise less: there it
        // stays.
        #[cfg(target_arch = "x86_64")]
        libc::SYS_membarrier if call.number_at(0) == MEMBARRIER_CMD_PRIVATE_EXPEDITED => {
            fence(Ordering::SeqCst);
            0
        }
        _ => call.make(),
    }
}

/// A ring without interrupts, on a kernel that lets a sleep have a time limit.
fn set_up(call: &Call) -> c_long {
    let parameters = call.arguments[1] as *mut Parameters;
    // SAFETY: io_uring_setup(2) takes a pointer to parameters that the kernel writes to as well;
    // nobody else has them meanwhile.
    let flags = unsafe { &raw mut (*parameters).flags };
    // SAFETY: as above.
    let asked = unsafe { flags.read() };
    // SAFETY: as above.
    unsafe { flags.write(asked | IORING_SETUP_COOP_TASKRUN) };
    let mut made = call.make();
    if made < 0 {
        // A kernel that does not know the flag, or a ring of a kind that cannot have it.
        // SAFETY: as above.
        unsafe { flags.write(asked) };
        made = call.make();
    }
    // SAFETY: as above.
    if made >= 0 && unsafe { (*parameters).features } & IORING_FEAT_EXT_ARG == 0 {
        // SAFETY: the descriptor just made, which nobody else knows.
        unsafe { libc::close(made as i32) };
        return fail(libc::ENOSYS);
    }
    if made >= 0 {
        // SAFETY: as above; the kernel has filled them.
        executor::made(made, unsafe { &*parameters });
    }
    made
}

/// A sleep with a time limit.
///
/// glommio-ng 0.12.0 goes to sleep with tasks ready to run when its preemption timer fires before
/// the first of them is run: it takes "preempted" for "nothing to do" (glommio/glommio#53, fixed
/// after that release). Nothing ends that sleep, for the executor's timers have fired already. A
/// machine with other work to do is enough for it to happen.
fn sleep(call: Call) -> c_long {
    let entered = wait(call, SLEEP_MAX);
    // As a signal would have ended it, which the executor expects.
    if entered < 0 && last_error() == libc::ETIME { fail(libc::EINTR) } else { entered }
}

/// A call of io_uring_enter(2) that waits for completions, for so long at the most.
fn wait(mut call: Call, longest: Duration) -> c_long {
    let time_out = [longest.as_secs() as i64, i64::from(longest.subsec_nanos())];
    // The kernel only reads it, and only during the call.
    let wait = WaitArguments {
        signal_mask: 0,
        signal_mask_bytes: 0,
        padding: 0,
        time_out: &raw const time_out,
    };
    call.arguments[3] = c_long::from(IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG);
    call.arguments[4] = (&raw const wait) as c_long;
    call.arguments[5] = size_of::<WaitArguments>() as c_long;
    call.make()
}

/// Tries again a submission that the kernel had no memory for at that moment, or that was
/// interrupted: nothing of it was taken. The executor takes that as "none submitted" in most
/// places, and for its own defect in some, where it ends with all of the shard.
fn submit(call: &Call) -> c_long {
    let mut entered = call.make();
    for _ in 0..SUBMISSION_TRIES {
        if entered >= 0 || ![libc::EAGAIN, libc::EINTR].contains(&last_error()) {
            break;
        }
        std::thread::yield_now();
        entered = call.make();
    }
    entered
}

/// To be called now and then by what runs on an executor: ends the turn of a task whose time is
/// over. Without it a turn ends when there is nothing left to run.
pub fn preempt_if_due() {
    executor::preempt_if_due();
}

fn last_error() -> i32 {
    // SAFETY: this thread's errno.
    unsafe { *libc::__errno_location() }
}

fn fail(error: i32) -> c_long {
    // SAFETY: this thread's errno.
    unsafe { *libc::__errno_location() = error };
    -1
}

#[cfg(test)]
thread_local! {
    /// Calls that this thread made, of those that were led here.
    static MADE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Poll;
    use std::time::Instant;

    use futures_util::task::AtomicWaker;
    use glommio::{LocalExecutorBuilder, Placement};

    use super::*;

    const IORING_SETUP_SQPOLL: u32 = 1 << 1;

    /// `struct io_uring_params`: 120 bytes.
    type Parameters = [u32; 30];

    /// To be closed by the caller.
    fn ring(parameters: &mut Parameters) -> c_long {
        // SAFETY: io_uring_setup(2) with room for its parameters.
        let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
        assert!(ring >= 0, "{}", std::io::Error::last_os_error());
        ring
    }

    fn close(ring: c_long) {
        // SAFETY: a descriptor of `ring`, closed once.
        unsafe { libc::close(ring as i32) };
    }

    fn set_up(flags: u32) -> u32 {
        let mut parameters: Parameters = [0; 30];
        parameters[2] = flags;
        close(ring(&mut parameters));
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
        let (waker, asked, told) = (
            Arc::new(AtomicWaker::new()),
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
        );
        let (sleeper, question, answer) = (waker.clone(), asked.clone(), told.clone());
        let executor = LocalExecutorBuilder::new(Placement::Fixed(0)).io_memory(1 << 16).spawn(
            move || async move {
                for round in 1..=WAKES {
                    poll_fn(|cx| {
                        sleeper.register(cx.waker());
                        if question.load(Ordering::Acquire) < round {
                            Poll::Pending
                        } else {
                            Poll::Ready(())
                        }
                    })
                    .await;
                    answer.store(round, Ordering::Release);
                }
            },
        );
        let executor = executor.unwrap();
        for round in 1..=WAKES {
            asked.store(round, Ordering::Release);
            waker.wake();
            let since = Instant::now();
            while told.load(Ordering::Acquire) < round {
                assert!(
                    since.elapsed() < Duration::from_secs(20),
                    "the wake of round {round} is lost"
                );
                std::hint::spin_loop();
            }
        }
        executor.join().unwrap();
    }

    const ANSWERS: u64 = 2_000;

    /// An executor that answers one byte with one byte, and sleeps between: the whole of it, apart
    /// from the socket's own calls, which are libc's.
    #[test]
    fn an_answer_takes_one_call() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let executor = LocalExecutorBuilder::new(Placement::Fixed(0)).io_memory(1 << 16).spawn(
            move || async move {
                use futures_util::{AsyncReadExt, AsyncWriteExt};
                let mut client = glommio::net::TcpStream::connect(address).await.unwrap();
                client.set_nodelay(true).unwrap();
                let before = MADE.get();
                for _ in 0..ANSWERS {
                    let mut byte = [0];
                    client.read_exact(&mut byte).await.unwrap();
                    client.write_all(&byte).await.unwrap();
                }
                MADE.get() - before
            },
        );
        let (mut server, _) = listener.accept().unwrap();
        server.set_nodelay(true).unwrap();
        for _ in 0..ANSWERS {
            server.write_all(&[7]).unwrap();
            server.read_exact(&mut [0]).unwrap();
        }
        let made = executor.unwrap().join().unwrap();
        // A sleep that ends at its time limit is one more; fewer where the next byte was there.
        assert!(made <= ANSWERS * 12 / 10, "{made} calls for {ANSWERS} answers");
    }

    /// Connections are opened in the latency ring, and complete in the main ring, of which the
    /// executor counts what is under way.
    #[test]
    fn many_connections_may_fail_at_once() {
        let executor =
            LocalExecutorBuilder::new(Placement::Fixed(0)).io_memory(1 << 16).spawn(|| async {
                let connect = |_| glommio::net::TcpStream::connect("127.0.0.1:1");
                let all = futures_util::future::join_all((0..50).map(connect)).await;
                all.iter().filter(|connected| connected.is_err()).count()
            });
        assert_eq!(executor.unwrap().join().unwrap(), 50);
    }

    /// A connection that never waits keeps no other waiting: what is held is submitted.
    #[test]
    fn what_is_submitted_does_not_wait_for_a_sleep() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let executor = LocalExecutorBuilder::new(Placement::Fixed(0))
            .io_memory(1 << 16)
            .preempt_timer(Duration::from_millis(1))
            .spawn(move || async move {
                use futures_util::AsyncReadExt;
                let mut client = glommio::net::TcpStream::connect(address).await.unwrap();
                let busy = glommio::spawn_local(async {
                    loop {
                        preempt_if_due();
                        glommio::executor().yield_task_queue_now().await;
                    }
                })
                .detach();
                client.read_exact(&mut [0; 2]).await.unwrap();
                busy.cancel();
            });
        let (mut server, _) = listener.accept().unwrap();
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(50));
            server.write_all(&[7]).unwrap();
        }
        executor.unwrap().join().unwrap();
    }

    #[test]
    fn a_turn_ends_when_its_time_is_over() {
        let executor = LocalExecutorBuilder::new(Placement::Fixed(0))
            .io_memory(1 << 16)
            .preempt_timer(Duration::from_millis(1));
        let stopped = executor.spawn(|| async move {
            // The first one may have been set before this task began.
            glommio::executor().yield_task_queue_now().await;
            let since = Instant::now(); // the clock is read without one
            while !glommio::executor().need_preempt() {
                preempt_if_due();
                assert!(since.elapsed() < Duration::from_secs(20), "not stopped");
            }
        });
        stopped.unwrap().join().unwrap();
    }

    /// A caller's 32-bit number in a register whose upper half has held something else.
    fn register(number: c_long) -> c_long {
        number | 0x5eed << 32
    }

    #[test]
    fn no_sleep_is_without_end() {
        for passed in [|number| number, register as fn(c_long) -> c_long] {
            let (ended, end) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let ring = ring(&mut [0; 30]);
                let flags = c_long::from(IORING_ENTER_GETEVENTS);
                for _ in 0..3 {
                    // SAFETY: nothing is submitted, and there is no memory for the kernel to read.
                    let entered = unsafe {
                        libc::syscall(
                            libc::SYS_io_uring_enter,
                            passed(ring),
                            passed(0),
                            passed(1),
                            passed(flags),
                            0,
                            0,
                        )
                    };
                    ended.send((entered, std::io::Error::last_os_error().raw_os_error())).unwrap();
                }
                close(ring);
            });
            for _ in 0..3 {
                assert_eq!(end.recv_timeout(Duration::from_secs(20)), Ok((-1, Some(libc::EINTR))));
            }
        }
    }

    /// With a timer that mostly fires before the first task is run the executor sleeps over its
    /// tasks again and again (glommio/glommio#53).
    #[test]
    fn an_executor_that_sleeps_over_its_tasks_goes_on() {
        const TURNS: u64 = 100;
        let turns = Arc::new(AtomicU64::new(0));
        let counted = turns.clone();
        let executor = LocalExecutorBuilder::new(Placement::Fixed(0))
            .io_memory(1 << 16)
            .preempt_timer(Duration::from_micros(25));
        let executor = executor.spawn(move || async move {
            for _ in 0..TURNS {
                glommio::executor().yield_task_queue_now().await;
                counted.fetch_add(1, Ordering::Release);
            }
        });
        let (executor, since) = (executor.unwrap(), Instant::now());
        while turns.load(Ordering::Acquire) < TURNS {
            assert!(
                since.elapsed() < Duration::from_secs(60),
                "asleep after {} turns",
                turns.load(Ordering::Acquire)
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        executor.join().unwrap();
    }
}
