//! Jobs from shards to lanes and outcomes back. In every order of the threads' steps each pending_job is
//! answered exactly once and with its own outcome, no job is done twice, nobody sleeps for ever
//! (which loom calls a deadlock), and nothing is left at the end.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use loom::sync::{Condvar, Mutex};
use loom::thread;
use xksd_loom::key_manager::{Engine, Fault, Job, Outcome, Session};
use xksd_loom::sched::{Delivered, Inbox, Mailbox, PendingJob, Pool, PoolSettings, Refused, Share};
use xksd_loom::sync::{advance, now};

const HANG_AFTER: Duration = Duration::from_secs(2);
/// Of every job. Later than a look at the clock that gives up a lane: here jobs wait for the lane
/// in its place.
const DEADLINE: Duration = Duration::from_secs(100);
/// Job that hangs until [`Hsm::release`].
const HANGS: u32 = 90;
/// Job at which the session is lost.
const LOSES: u32 = 91;

/// Counters are the standard library's: they watch, and are no part of what is tried.
struct Hsm {
    executed: [AtomicUsize; 100],
    sessions: AtomicUsize,
    jobs: Arc<()>,
    /// How many hang, and whether they may return.
    hanging: Mutex<(u32, bool)>,
    changed: Condvar,
}

struct TestEngine(Arc<Hsm>);
struct TestSession {
    hsm: Arc<Hsm>,
    usable: bool,
}

impl Engine for TestEngine {
    fn open(&self) -> Result<Box<dyn Session>, Fault> {
        self.0.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(TestSession { hsm: self.0.clone(), usable: true }))
    }
}

impl Session for TestSession {
    fn execute(&mut self, job: Job) -> Outcome {
        self.hsm.executed[job.number as usize].fetch_add(1, Ordering::Relaxed);
        match job.number {
            HANGS => {
                let mut hanging = self.hsm.hanging.lock().unwrap();
                hanging.0 += 1;
                self.hsm.changed.notify_all();
                while !hanging.1 {
                    hanging = self.hsm.changed.wait(hanging).unwrap();
                }
            }
            LOSES => {
                self.usable = false;
                return Err(Fault::Device { detail: "lost".to_owned() });
            }
            _ => {}
        }
        Ok(job.number)
    }

    fn is_usable(&self) -> bool {
        self.usable
    }
}

impl Drop for TestSession {
    fn drop(&mut self) {
        self.hsm.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hsm {
    fn new() -> Arc<Hsm> {
        Arc::new(Hsm {
            executed: [const { AtomicUsize::new(0) }; 100],
            sessions: AtomicUsize::new(0),
            jobs: Arc::new(()),
            hanging: Mutex::new((0, false)),
            changed: Condvar::new(),
        })
    }

    fn executed(&self, number: u32) -> usize {
        self.executed[number as usize].load(Ordering::Relaxed)
    }

    fn wait_until_it_hangs(&self) {
        let mut hanging = self.hanging.lock().unwrap();
        while hanging.0 == 0 {
            hanging = self.changed.wait(hanging).unwrap();
        }
    }

    fn release(&self) {
        self.hanging.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    fn pool(self: &Arc<Hsm>, lanes: usize, mailboxes: &[Arc<Mailbox>]) -> Arc<Pool> {
        let settings = PoolSettings {
            name: "model".to_owned(),
            lanes,
            shards: mailboxes.len(),
            hang_after: HANG_AFTER,
            open_hang_after: HANG_AFTER * 100,
        };
        Pool::start(settings, Arc::new(TestEngine(self.clone())), mailboxes.to_vec())
    }

    fn submit(&self, inbox: &Rc<Inbox>, pool: &Pool, number: u32) -> Result<PendingJob, Refused> {
        let job = Job { number, deadline: now() + DEADLINE, alive: self.jobs.clone() };
        inbox.submit(pool, Share::OWN, job).map_err(|returned| returned.0)
    }

    /// All ends, and nothing is left.
    fn end(self: Arc<Hsm>, pool: Arc<Pool>) {
        assert!(pool.stop(now() + DEADLINE), "a lane is left");
        assert_eq!(self.sessions.load(Ordering::Relaxed), 0, "sessions are left open");
        // With what it admitted and had no session for.
        assert_eq!(Arc::into_inner(pool).map(drop), Some(()));
        assert_eq!(Arc::strong_count(&self.jobs), 1, "jobs are left");
    }
}

/// A shard's executor, as far as it sleeps and is woken.
#[derive(Default)]
struct Executor {
    woken: Mutex<bool>,
    wake: Condvar,
}

impl Wake for Executor {
    fn wake(self: Arc<Self>) {
        *self.woken.lock().unwrap() = true;
        self.wake.notify_one();
    }
}

impl Executor {
    fn sleep(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.wake.wait(woken).unwrap();
        }
        *woken = false;
    }
}

/// Waits as a task of a shard does, with the delivery beside it.
fn wait(inbox: &Rc<Inbox>, pending_job: PendingJob) -> Delivered {
    let executor = Arc::new(Executor::default());
    let waker = Waker::from(executor.clone());
    let mut cx = Context::from_waker(&waker);
    let (mut deliver, mut pending_job) = (pin!(inbox.deliver()), pin!(pending_job));
    loop {
        let Poll::Pending = deliver.as_mut().poll(&mut cx);
        if let Poll::Ready(delivered) = pending_job.as_mut().poll(&mut cx) {
            return delivered;
        }
        executor.sleep();
    }
}

/// One shard, on the model's own thread.
fn shard(hsm: &Arc<Hsm>, lanes: usize) -> (Arc<Pool>, Rc<Inbox>) {
    let mailbox = Mailbox::new();
    (hsm.pool(lanes, &[mailbox.clone()]), Inbox::new(0, mailbox))
}

/// A job that was quick: from now on lanes take batches.
fn warm_up(hsm: &Hsm, pool: &Pool, inbox: &Rc<Inbox>) {
    assert_eq!(wait(inbox, hsm.submit(inbox, pool, 0).unwrap()).outcome, Ok(0));
}

/// Every order with up to so many preemptions: enough for all faults that were planted here, and
/// seconds. `LOOM_MAX_PREEMPTIONS` for more.
fn model(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 10_000;
    let start = std::time::Instant::now();
    let orders = Arc::new(AtomicUsize::new(0));
    let counted = orders.clone();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        run();
    });
    println!("{} orders in {:?}", orders.load(Ordering::Relaxed), start.elapsed());
}

#[test]
fn jobs_are_answered_each_once() {
    model(4, || {
        let hsm = Hsm::new();
        let (pool, inbox) = shard(&hsm, 1);
        let pending_jobs = [1, 2].map(|n| (n, hsm.submit(&inbox, &pool, n).unwrap()));
        inbox.look();
        for (n, pending_job) in pending_jobs {
            assert_eq!(wait(&inbox, pending_job).outcome, Ok(n));
            assert_eq!(hsm.executed(n), 1);
        }
        assert_eq!(inbox.pending(), 0);
        hsm.end(pool);
    });
}

#[test]
fn two_lanes_and_two_shards_find_each_other() {
    model(2, || {
        let hsm = Hsm::new();
        let mailboxes = [Mailbox::new(), Mailbox::new()];
        let pool = hsm.pool(2, &mailboxes);
        let [first, second] = mailboxes;
        let other = {
            let (hsm, pool) = (hsm.clone(), pool.clone());
            thread::spawn(move || {
                let inbox = Inbox::new(1, second);
                let pending_job = hsm.submit(&inbox, &pool, 2).unwrap();
                assert_eq!(wait(&inbox, pending_job).outcome, Ok(2));
            })
        };
        let inbox = Inbox::new(0, first);
        let pending_job = hsm.submit(&inbox, &pool, 1).unwrap();
        assert_eq!(wait(&inbox, pending_job).outcome, Ok(1));
        other.join().unwrap();
        hsm.end(pool);
    });
}

#[test]
fn a_dropped_pending_job_leaves_its_slot_to_the_next() {
    model(4, || {
        let hsm = Hsm::new();
        let (pool, inbox) = shard(&hsm, 1);
        drop(hsm.submit(&inbox, &pool, 1).unwrap());
        let next = hsm.submit(&inbox, &pool, 2).unwrap();
        assert_eq!(wait(&inbox, next).outcome, Ok(2), "the slot's earlier owner's outcome");
        assert!(hsm.executed(1) <= 1);
        hsm.end(pool);
    });
}

#[test]
fn an_expired_pending_job_is_answered_once_and_its_outcome_goes_nowhere() {
    model(4, || {
        let hsm = Hsm::new();
        let (pool, inbox) = shard(&hsm, 1);
        let pending_job = hsm.submit(&inbox, &pool, 1).unwrap();
        inbox.expire(now() + DEADLINE);
        assert_eq!(inbox.pending(), 0);
        let outcome = wait(&inbox, pending_job).outcome;
        assert!(outcome == Ok(1) || outcome == Err(Fault::Timeout), "{outcome:?}");
        let next = hsm.submit(&inbox, &pool, 2).unwrap();
        assert_eq!(wait(&inbox, next).outcome, Ok(2), "the slot's earlier owner's outcome");
        hsm.end(pool);
    });
}

#[test]
fn a_stop_meets_a_submission_and_both_end() {
    model(4, || {
        let hsm = Hsm::new();
        let (pool, inbox) = shard(&hsm, 1);
        let stopping = {
            let pool = pool.clone();
            thread::spawn(move || assert!(pool.stop(now() + DEADLINE)))
        };
        let submitted = hsm.submit(&inbox, &pool, 1);
        stopping.join().unwrap();
        match submitted {
            Ok(pending_job) => {
                // A pool that stops before it has a session leaves what it admitted to the
                // deadline.
                inbox.expire(now() + DEADLINE);
                let expected = if hsm.executed(1) == 1 { Ok(1) } else { Err(Fault::Timeout) };
                assert_eq!(wait(&inbox, pending_job).outcome, expected);
            }
            Err(refused) => assert!(matches!(refused, Refused::NoSession(_)), "{refused:?}"),
        }
        hsm.end(pool);
    });
}

#[test]
fn a_lost_session_loses_no_other_job() {
    model(4, || {
        let hsm = Hsm::new();
        let (pool, inbox) = shard(&hsm, 1);
        let pending_jobs = [1, LOSES, 2].map(|n| (n, hsm.submit(&inbox, &pool, n).unwrap()));
        for (n, pending_job) in pending_jobs {
            let outcome = wait(&inbox, pending_job).outcome;
            assert_eq!(outcome.is_ok(), n != LOSES);
            assert_eq!(hsm.executed(n), 1, "job {n}");
        }
        hsm.end(pool);
    });
}

/// The lane hangs with the rest of its batch in its hands; what it has not begun goes to the one in
/// its place.
#[test]
fn a_hung_lane_keeps_nobody_elses_job() {
    model(2, || {
        let hsm = Hsm::new();
        let (pool, inbox) = shard(&hsm, 1);
        warm_up(&hsm, &pool, &inbox);
        let (hung, next) =
            (hsm.submit(&inbox, &pool, HANGS).unwrap(), hsm.submit(&inbox, &pool, 2).unwrap());
        hsm.wait_until_it_hangs();
        advance(HANG_AFTER * 2);
        pool.tick(now());
        assert_eq!(wait(&inbox, next).outcome, Ok(2));
        hsm.release();
        assert_eq!(wait(&inbox, hung).outcome, Ok(HANGS), "late, but it is awaited");
        assert_eq!((hsm.executed(HANGS), hsm.executed(2)), (1, 1));
        hsm.end(pool);
    });
}

/// A look at the clock long after, at any moment: the lane is given up while it is at work, and
/// works on.
#[test]
fn a_lane_given_up_at_any_moment_does_no_job_twice() {
    model(2, || {
        let hsm = Hsm::new();
        let (pool, inbox) = shard(&hsm, 1);
        warm_up(&hsm, &pool, &inbox);
        let pending_jobs = [1, 2].map(|n| (n, hsm.submit(&inbox, &pool, n).unwrap()));
        advance(HANG_AFTER * 2);
        pool.tick(now());
        for (n, pending_job) in pending_jobs {
            assert!(matches!(wait(&inbox, pending_job).outcome, Ok(answer) if answer == n));
            assert_eq!(hsm.executed(n), 1);
        }
        hsm.end(pool);
    });
}

#[test]
fn a_shard_that_ends_is_woken_no_more() {
    model(4, || {
        let hsm = Hsm::new();
        let (pool, inbox) = shard(&hsm, 1);
        let executor = Arc::new(Executor::default());
        {
            let waker = Waker::from(executor.clone());
            let mut cx = Context::from_waker(&waker);
            let mut pending_job = pin!(hsm.submit(&inbox, &pool, 1).unwrap());
            let mut deliver = pin!(inbox.deliver());
            let Poll::Pending = deliver.as_mut().poll(&mut cx);
            if let Poll::Ready(delivered) = pending_job.as_mut().poll(&mut cx) {
                assert_eq!(delivered.outcome, Ok(1));
            }
        }
        hsm.end(pool);
        assert_eq!(Arc::strong_count(&executor), 1, "a waker is left behind");
    });
}
