//! An executor's rings as one.
//!
//! glommio-ng 0.12 has three rings a thread and calls into the kernel for each change of each: a
//! shard with one connection seven times a request. All but one of these calls can wait.
//!
//! - What it submits waits until it sleeps, and goes with that call; if it does not sleep, until it
//!   looks for completions again. Nothing is lost by that: completions are not looked at earlier.
//! - Timers of the executor itself end a turn or a sleep. They are set and cancelled each time, and
//!   hardly ever fire. They are kept here. A sleep gets the next one's time as its time limit; a
//!   turn ends at the next [`preempt_if_due`](crate::preempt_if_due).
//! - What the executor gives to its latency ring goes to the main ring. Both hand completions to
//!   the same sources, and a sleep on one ring needs no poll of the other. The latency ring only
//!   ends turns: a completion there tells the executor to stop running tasks.
//!
//! An operation of this kind that was cancelled, and of which the kernel never knew, is submitted
//! as one that does nothing: the executor keeps its source until there is a completion.

use std::cell::RefCell;
use std::ffi::c_long;
use std::time::Instant;

use crate::entry::Entry;
use crate::held::Held;
use crate::ring::{Parameters, Ring};
use crate::{Call, SLEEP_MAX, fail, last_error, submit, wait};

const IORING_SETUP_IOPOLL: u32 = 1 << 0;
/// As many entries wait at most: a small part of any ring.
const HELD_MAX: usize = 64;

thread_local! {
    static RINGS: RefCell<Rings> = const { RefCell::new(Rings::None) };
}

/// The rings of this thread, as far as the executor has made them: main, poll, latency.
enum Rings {
    None,
    Main(Ring),
    MainAndPoll(Ring),
    All(Executor),
}

/// The rings of an executor, and what it has submitted that the kernel does not have.
struct Executor {
    main: Ring,
    latency: Ring,
    held: Held,
    /// Work is held over which tasks were or will be run.
    is_held_over: bool,
    /// Entries of the latency ring that complete in the main ring, and that the executor does not
    /// know to be there: it counts what each ring took and what it completed.
    moved: u32,
    /// What was put into the main ring; memory that is used again.
    released: Vec<Entry>,
}

/// A ring was made.
pub(crate) fn made(descriptor: c_long, parameters: &Parameters) {
    let _ = RINGS.try_with(|rings| {
        let mut rings = rings.borrow_mut();
        let polls = parameters.flags & IORING_SETUP_IOPOLL != 0;
        *rings = match (std::mem::replace(&mut *rings, Rings::None), polls) {
            (Rings::Main(main), true) => Rings::MainAndPoll(main),
            (Rings::MainAndPoll(main), false) => match Ring::new(descriptor as i32, parameters) {
                Some(latency) => Rings::All(Executor::new(main, latency)),
                None => Rings::None,
            },
            (_, false) => Ring::new(descriptor as i32, parameters).map_or(Rings::None, Rings::Main),
            (_, true) => Rings::None,
        };
    });
}

/// Does something with this thread's executor if `ring` is one of its two rings.
fn with_executor<T>(ring: u32, act: impl FnOnce(&mut Executor) -> T) -> Option<T> {
    let act = |rings: &RefCell<Rings>| match &mut *rings.borrow_mut() {
        Rings::All(executor) if executor.has(ring) => Some(act(executor)),
        _ => None,
    };
    RINGS.try_with(act).ok().flatten()
}

/// A submission without a wait: how many entries were taken; `None` for another ring.
pub(crate) fn hold(call: &Call) -> Option<c_long> {
    with_executor(call.number_at(0), |executor| executor.hold(call))
}

/// A sleep, together with what was held; `None` for another ring.
pub(crate) fn sleep(call: &Call) -> Option<c_long> {
    with_executor(call.number_at(0), Executor::sleep)
}

/// See [`crate::preempt_if_due`].
pub(crate) fn preempt_if_due() {
    let _ = RINGS.try_with(|rings| {
        if let Rings::All(executor) = &mut *rings.borrow_mut() {
            executor.preempt_if_due();
        }
    });
}

impl Executor {
    fn new(main: Ring, latency: Ring) -> Executor {
        Executor {
            main,
            latency,
            held: Held::default(),
            is_held_over: false,
            moved: 0,
            released: Vec::new(),
        }
    }

    fn has(&self, ring: u32) -> bool {
        [&self.main, &self.latency].iter().any(|own| own.descriptor() as u32 == ring)
    }

    fn hold(&mut self, call: &Call) -> c_long {
        let latency = self.latency.descriptor();
        let is_main = self.main.descriptor() as u32 == call.number_at(0);
        let ring = if is_main { &self.main } else { &self.latency };
        let held = &mut self.held;
        let (mut is_turn, mut is_work) = (false, false);
        ring.take(|entry| {
            if entry.polls(latency) {
                // Before a sleep; nothing comes from there. The executor does not cancel it.
                return held.add(Entry::nothing(entry.user_data()), Instant::now);
            }
            is_turn |= entry.is_timeout();
            is_work = true;
            held.add(entry, Instant::now);
        });
        if is_main && is_work {
            if self.is_held_over || self.held.len() > HELD_MAX {
                self.submit();
            }
            // Each turn of the executor sets one timer in the main ring, before its tasks.
            self.is_held_over = is_turn && self.held.has_work();
        }
        let taken = call.number_at(1);
        if !is_main {
            self.moved += taken;
        }
        let moved = if is_main && is_turn { std::mem::take(&mut self.moved) } else { 0 };
        c_long::from(taken + moved)
    }

    /// Submits what is held.
    fn submit(&mut self) {
        loop {
            self.release();
            if self.released.is_empty() {
                return;
            }
            let entered = submit(&enter(&self.main, self.released.len(), 0));
            if !self.take_again() || entered < 0 {
                return;
            }
        }
    }

    /// Puts what is held into the main ring's queue, as much as there is room for; how many of
    /// these do nothing.
    fn release(&mut self) -> u32 {
        self.released.clear();
        self.held.release(&mut self.released);
        let put = self.main.put(&self.released);
        self.held.give_back(&self.released[put..]);
        self.released.truncate(put);
        self.released.iter().filter(|entry| entry.is_nothing()).count() as u32
    }

    /// Takes entries back that the kernel has left; whether there were none.
    fn take_again(&mut self) -> bool {
        self.released.clear();
        let released = &mut self.released;
        self.main.take(|entry| released.push(entry));
        self.held.give_back(&self.released);
        self.released.is_empty()
    }

    fn sleep(&mut self) -> c_long {
        self.is_held_over = false;
        let done = self.release();
        let until_due = self.held.due().map(|due| due.saturating_duration_since(Instant::now()));
        let longest = until_due.map_or(SLEEP_MAX, |until_due| until_due.min(SLEEP_MAX));
        let entered = wait(enter(&self.main, self.released.len(), 1 + done), longest);
        self.take_again();
        if entered < 0 && last_error() != libc::ETIME {
            return entered;
        }
        // The time is over: as a signal would have ended it, which the executor expects.
        if self.main.completions() <= done { fail(libc::EINTR) } else { entered.max(0) }
    }

    fn preempt_if_due(&mut self) {
        let Some(timer) = self.held.expire(Instant::now()) else { return };
        self.latency.put(&[timer]);
        submit(&enter(&self.latency, 1, 0));
        let held = &mut self.held;
        self.latency.take(|entry| held.give_back(&[entry]));
    }
}

/// A call of io_uring_enter(2).
fn enter(ring: &Ring, submissions: usize, completions: u32) -> Call {
    Call {
        number: libc::SYS_io_uring_enter,
        arguments: [ring.descriptor(), submissions as c_long, c_long::from(completions), 0, 0, 0],
    }
}
