//! Inbox, pool and lanes together, on threads, with sessions that behave as the test says.

use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::*;
use crate::key_manager::{
    Answer, Concurrency, Engine, Fault, Job, KeyRef, ManagerInfo, Outcome, Plaintext, Session, Task,
};

/// What the session does with a job is said by the job's label.
#[derive(Default)]
struct Behaviour {
    down: AtomicBool,
    concurrency: Option<Concurrency>,
    opened: AtomicUsize,
    closed: AtomicUsize,
    executed: AtomicUsize,
    probes: AtomicUsize,
    probe_fails: AtomicBool,
    /// Sessions opened up to this one are lost and nobody has noticed.
    lost: AtomicUsize,
    /// Jobs labelled `hang` wait for their test here.
    release: Mutex<Option<mpsc::Receiver<()>>>,
    /// Told when a job hangs.
    hanging: AtomicUsize,
}

struct TestEngine(Arc<Behaviour>);
struct TestSession(Arc<Behaviour>, bool, usize);

impl Engine for TestEngine {
    fn open(&self) -> Result<Box<dyn Session>, Fault> {
        if self.0.down.load(Ordering::SeqCst) {
            return Err(Fault::Device {
                detail: "C_OpenSession: CKR_TOKEN_NOT_PRESENT".to_owned(),
            });
        }
        let number = 1 + self.0.opened.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(TestSession(self.0.clone(), true, number)))
    }
    fn info(&self) -> Result<ManagerInfo, Fault> {
        Ok(ManagerInfo::default())
    }
    fn concurrency(&self) -> Concurrency {
        self.0.concurrency.unwrap_or(Concurrency::PerSession)
    }
}

impl Session for TestSession {
    fn execute(&mut self, job: Job) -> Outcome {
        self.0.executed.fetch_add(1, Ordering::SeqCst);
        if self.0.down.load(Ordering::SeqCst) {
            self.1 = false;
            return Err(Fault::Device {
                detail: "C_Decrypt: CKR_SESSION_HANDLE_INVALID".to_owned(),
            });
        }
        match &*job.key.label {
            "hang" => {
                let release = self.0.release.lock().unwrap().take();
                self.0.hanging.fetch_add(1, Ordering::SeqCst);
                if let Some(release) = release {
                    let _ = release.recv();
                }
            }
            "panic" => panic!("a session panics, as this test asks"),
            "fault" => {
                return Err(Fault::Device { detail: "C_Decrypt: CKR_DEVICE_ERROR".to_owned() });
            }
            "slow" => thread::sleep(Duration::from_millis(2)),
            _ => {}
        }
        match job.task {
            Task::Decrypt { ciphertext, .. } => Ok(Answer::Decrypted(Plaintext(ciphertext.into()))),
            _ => Err(Fault::KeyUsage),
        }
    }
    fn probe(&mut self) -> Result<(), Fault> {
        self.0.probes.fetch_add(1, Ordering::SeqCst);
        match self.0.probe_fails.load(Ordering::SeqCst) {
            true => Err(Fault::Device { detail: "probe".to_owned() }),
            false => Ok(()),
        }
    }
    fn check(&mut self) -> bool {
        self.1 && self.0.lost.load(Ordering::SeqCst) < self.2
    }
    fn is_usable(&self) -> bool {
        self.1
    }
}

impl Drop for TestSession {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::SeqCst);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs `future` and, beside it, the inbox's delivery and expiry, as a shard does.
fn block_on<T>(inbox: &Rc<Inbox>, future: impl Future<Output = T>) -> T {
    let (mut future, mut deliver) = (pin!(future), pin!(inbox.deliver()));
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    loop {
        let Poll::Pending = deliver.as_mut().poll(&mut cx);
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        thread::park_timeout(crate::limits::DEADLINE_TICK);
        inbox.expire(Instant::now());
    }
}

const LONG: Duration = Duration::from_secs(60);

fn job(label: &str, number: u32, within: Duration) -> Job {
    let task = Task::Decrypt {
        ciphertext: number.to_be_bytes().to_vec(),
        iv: Vec::new(),
        tag: [0; 16],
        aad: Vec::new(),
    };
    Job { key: KeyRef::first(label), task, deadline: Instant::now() + within }
}

fn number(delivered: &Delivered) -> Option<u32> {
    match &delivered.outcome {
        Ok(Answer::Decrypted(plaintext)) => {
            Some(u32::from_be_bytes(plaintext.0[..].try_into().unwrap()))
        }
        _ => None,
    }
}

struct Rig {
    behaviour: Arc<Behaviour>,
    pool: Arc<Pool>,
    inbox: Rc<Inbox>,
}

impl Rig {
    fn start(lanes: usize, behaviour: Behaviour) -> Rig {
        let behaviour = Arc::new(behaviour);
        let mailbox = Mailbox::new();
        let pool = start(lanes, &behaviour, vec![mailbox.clone()]);
        Rig { behaviour, pool, inbox: Inbox::new(0, mailbox) }
    }

    fn served(&self, label: &str, n: u32) {
        assert_eq!(number(&self.run(job(label, n, LONG))), Some(n));
    }

    fn run(&self, job: Job) -> Delivered {
        block_on(&self.inbox, self.inbox.submit(&self.pool, Share::OWN, job).unwrap())
    }

    fn serves(&self) -> bool {
        self.pool.stats().lanes_open > 0
    }

    /// Ticks as the control thread does until it holds.
    fn until(&self, what: &str, holds: impl Fn(&Rig) -> bool) {
        let end = Instant::now() + LONG;
        while !holds(self) {
            assert!(Instant::now() < end, "never: {what}; {:?}", self.pool.stats());
            self.pool.tick(Instant::now());
            self.inbox.expire(Instant::now());
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn stop(self) {
        assert!(self.pool.stop(Instant::now() + LONG));
        assert_eq!(
            self.behaviour.opened.load(Ordering::SeqCst),
            self.behaviour.closed.load(Ordering::SeqCst)
        );
    }
}

fn start(lanes: usize, behaviour: &Arc<Behaviour>, mailboxes: Vec<Arc<Mailbox>>) -> Arc<Pool> {
    let settings = PoolSettings {
        name: "test".to_owned(),
        lanes,
        shards: mailboxes.len(),
        hang_after: Duration::from_millis(100),
        open_hang_after: LONG,
    };
    Pool::start(settings, Arc::new(TestEngine(behaviour.clone())), mailboxes)
}

#[test]
fn ten_thousand_jobs_of_two_shards_are_each_answered_once() {
    let behaviour = Arc::new(Behaviour::default());
    let mailboxes = vec![Mailbox::new(), Mailbox::new()];
    let pool = start(4, &behaviour, mailboxes.clone());
    let shards: Vec<_> = (mailboxes.into_iter().enumerate())
        .map(|(shard, mailbox)| {
            let pool = pool.clone();
            thread::spawn(move || {
                let inbox = Inbox::new(shard, mailbox);
                for round in 0..50 {
                    let submit =
                        |n| (n, inbox.submit(&pool, Share::OWN, job("k", n, LONG)).unwrap());
                    let pending_jobs: Vec<_> =
                        (round * 100..round * 100 + 100).map(submit).collect();
                    block_on(&inbox, async {
                        for (n, pending_job) in pending_jobs {
                            assert_eq!(number(&pending_job.await), Some(n));
                        }
                    });
                }
                assert_eq!(inbox.pending(), 0);
            })
        })
        .collect();
    shards.into_iter().for_each(|shard| shard.join().unwrap());
    assert_eq!(behaviour.executed.load(Ordering::SeqCst), 10_000);
    let stats = pool.stats();
    assert_eq!((stats.jobs_total, stats.late_total, stats.queued), (10_000, 0, vec![0, 0]));
    assert!(stats.service_time_ewma.is_some());
    assert!(pool.stop(Instant::now() + LONG));
    assert_eq!(behaviour.opened.load(Ordering::SeqCst), behaviour.closed.load(Ordering::SeqCst));
}

#[test]
fn a_hung_session_is_answered_for_left_behind_and_replaced() {
    let (release, hang) = mpsc::channel();
    let rig = Rig::start(1, Behaviour { release: Mutex::new(Some(hang)), ..Behaviour::default() });
    rig.until("open", Rig::serves);
    let delivered = rig.run(job("hang", 1, Duration::from_millis(500)));
    assert!(delivered.hsm_time > delivered.queue_wait, "it was in the session: {delivered:?}");
    assert_eq!(delivered.outcome.unwrap_err(), Fault::Timeout);
    assert_eq!(rig.inbox.pending(), 0);
    rig.until("a replacement", |rig| rig.pool.stats().abandoned_total == 1 && rig.serves());
    rig.served("k", 2);
    assert_eq!(rig.pool.stats().lanes_hung, 1);
    assert!(!rig.pool.stop(Instant::now()), "a thread is still inside the module");
    release.send(()).unwrap();
    rig.until("the hung call returned", |rig| rig.pool.stats().lanes_hung == 0);
    rig.stop();
}

#[test]
fn a_late_outcome_never_reaches_the_next_pending_job_of_its_slot() {
    let (release, hang) = mpsc::channel();
    let rig = Rig::start(1, Behaviour { release: Mutex::new(Some(hang)), ..Behaviour::default() });
    rig.until("open", Rig::serves);
    assert_eq!(
        rig.run(job("hang", 1, Duration::from_millis(500))).outcome.unwrap_err(),
        Fault::Timeout
    );
    assert_eq!(rig.behaviour.hanging.load(Ordering::SeqCst), 1);
    // Not abandoned: the same lane answers late, and serves the next job, which has the first one's
    // slot.
    let next = rig.inbox.submit(&rig.pool, Share::OWN, job("k", 2, LONG)).unwrap();
    release.send(()).unwrap();
    assert_eq!(number(&block_on(&rig.inbox, next)), Some(2));
    rig.stop();
}

#[test]
fn what_nobody_waits_for_is_not_begun() {
    let (release, hang) = mpsc::channel();
    let rig = Rig::start(1, Behaviour { release: Mutex::new(Some(hang)), ..Behaviour::default() });
    let first = rig.inbox.submit(&rig.pool, Share::OWN, job("hang", 1, LONG)).unwrap();
    rig.until("the lane is busy", |rig| rig.behaviour.hanging.load(Ordering::SeqCst) == 1);
    let cancelled: Vec<_> = (10..20)
        .map(|n| rig.inbox.submit(&rig.pool, Share::OWN, job("k", n, LONG)).unwrap())
        .collect();
    drop(cancelled);
    let late =
        rig.inbox.submit(&rig.pool, Share::OWN, job("k", 30, Duration::from_millis(5))).unwrap();
    let last = rig.inbox.submit(&rig.pool, Share::OWN, job("k", 2, LONG)).unwrap();
    assert_eq!(rig.inbox.pending(), 3);
    let late = block_on(&rig.inbox, late);
    assert_eq!(late.hsm_time, Duration::ZERO, "no session had it: {late:?}");
    assert_eq!(late.outcome.unwrap_err(), Fault::Timeout);
    release.send(()).unwrap();
    assert_eq!(number(&block_on(&rig.inbox, first)), Some(1));
    assert_eq!(number(&block_on(&rig.inbox, last)), Some(2));
    assert_eq!(rig.behaviour.executed.load(Ordering::SeqCst), 2);
    rig.stop();
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_shard_is_woken_once_until_it_has_looked_and_not_after_it_is_gone() {
    let mailbox = Mailbox::new();
    let inbox = Inbox::new(0, mailbox.clone());
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut deliver = Box::pin(inbox.deliver());
    for looked in 1..4 {
        assert!(deliver.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        (0..5).for_each(|_| mailbox.wake());
        assert_eq!(count.0.load(Ordering::SeqCst), looked);
    }
    assert!(deliver.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(deliver);
    mailbox.wake();
    assert_eq!(count.0.load(Ordering::SeqCst), 3);
    drop(waker);
    assert_eq!(Arc::strong_count(&count), 1, "lanes hold no waker of a shard that is gone");
}

#[test]
fn a_busy_shard_finds_outcomes_before_its_executor_looks_for_wake_ups() {
    let rig = Rig::start(1, Behaviour::default());
    let mut pending_job =
        pin!(rig.inbox.submit(&rig.pool, Share::OWN, job("key", 7, LONG)).unwrap());
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(count.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(pending_job.as_mut().poll(&mut cx).is_pending());
    rig.until("is woken for its outcome", |rig| {
        rig.inbox.look();
        count.0.load(Ordering::SeqCst) == 1
    });
    let Poll::Ready(delivered) = pending_job.as_mut().poll(&mut cx) else {
        panic!("woken without a reason")
    };
    assert_eq!(number(&delivered), Some(7));
}

#[test]
fn a_panic_costs_its_job_and_session_alone() {
    let rig = Rig::start(1, Behaviour::default());
    let Err(Fault::Device { detail }) = rig.run(job("panic", 1, LONG)).outcome else {
        panic!("must be a device fault")
    };
    assert!(detail.contains("panicked"));
    rig.served("k", 2);
    assert_eq!(rig.behaviour.opened.load(Ordering::SeqCst), 2);
    assert_eq!(rig.pool.stats().sessions_reopened_total, 1);
    rig.stop();
}

/// Why a job was not taken.
fn refused(submitted: Result<PendingJob, Box<(Refused, Job)>>) -> Option<Refused> {
    submitted.err().map(|returned| returned.0)
}

#[test]
fn all_sessions_lost_and_back() {
    let rig = Rig::start(2, Behaviour::default());
    rig.served("k", 1);
    rig.until("both open", |rig| rig.pool.stats().lanes_open == 2);
    rig.behaviour.down.store(true, Ordering::SeqCst);
    rig.until("refused at once, with the fault", |rig| {
        match refused(rig.inbox.submit(&rig.pool, Share::OWN, job("k", 2, LONG))) {
            Some(Refused::NoSession(fault)) => fault.is_some_and(|fault| fault.contains("CKR_")),
            _ => false,
        }
    });
    assert!(!rig.serves());
    assert!(rig.pool.stats().last_fault.is_some());
    rig.behaviour.down.store(false, Ordering::SeqCst);
    rig.until("healed", |rig| rig.pool.stats().lanes_open == 2);
    rig.served("k", 3);
    rig.stop();
}

#[test]
fn a_session_found_lost_fails_no_job() {
    let rig = Rig::start(2, Behaviour::default());
    rig.until("both open", |rig| rig.pool.stats().lanes_open == 2);
    rig.behaviour.lost.store(2, Ordering::SeqCst);
    (0..10).for_each(|n| rig.served("k", n));
    assert_eq!(rig.behaviour.executed.load(Ordering::SeqCst), 10);
    assert!(rig.behaviour.opened.load(Ordering::SeqCst) > 2);
    rig.stop();
}

#[test]
fn a_session_that_fails_is_tried_on_the_test_key_and_kept_or_closed() {
    let rig = Rig::start(1, Behaviour::default());
    let probes = |rig: &Rig| rig.behaviour.probes.load(Ordering::SeqCst);
    let fail = |rig: &Rig| {
        assert!(matches!(rig.run(job("fault", 1, LONG)).outcome, Err(Fault::Device { .. })))
    };
    (0..2).for_each(|_| fail(&rig));
    rig.served("k", 1);
    (0..2).for_each(|_| fail(&rig));
    rig.served("k", 1);
    assert_eq!(probes(&rig), 0, "not in a row");
    (0..3).for_each(|_| fail(&rig));
    rig.served("k", 2);
    assert_eq!(
        (probes(&rig), rig.behaviour.opened.load(Ordering::SeqCst)),
        (1, 1),
        "the session is well: a key is not"
    );
    rig.behaviour.probe_fails.store(true, Ordering::SeqCst);
    (0..3).for_each(|_| fail(&rig));
    rig.served("k", 3);
    assert_eq!((probes(&rig), rig.behaviour.opened.load(Ordering::SeqCst)), (2, 2));
    assert!(rig.pool.stats().service_time_ewma.is_some());
    rig.stop();
}

#[test]
fn in_process_engines_get_no_more_lanes_than_do_any_good() {
    let cores = thread::available_parallelism().unwrap().get();
    for (concurrency, lanes) in [
        (Concurrency::PerSession, 500),
        (Concurrency::PerCore, cores.min(500)),
        (Concurrency::Single, 1),
    ] {
        let rig =
            Rig::start(500, Behaviour { concurrency: Some(concurrency), ..Behaviour::default() });
        assert_eq!(rig.pool.lanes(), lanes);
        rig.stop();
    }
}

#[test]
fn stop_serves_what_is_queued_and_admits_nothing() {
    let rig = Rig::start(2, Behaviour::default());
    rig.served("k", 0);
    let pending_jobs: Vec<_> = (1..50)
        .map(|n| (n, rig.inbox.submit(&rig.pool, Share::OWN, job("slow", n, LONG)).unwrap()))
        .collect();
    assert!(rig.pool.stop(Instant::now() + LONG));
    assert!(matches!(
        refused(rig.inbox.submit(&rig.pool, Share::OWN, job("k", 99, LONG))),
        Some(Refused::NoSession(_))
    ));
    block_on(&rig.inbox, async {
        for (n, pending_job) in pending_jobs {
            assert_eq!(number(&pending_job.await), Some(n));
        }
    });
    rig.stop();
}

#[test]
fn a_pool_that_is_dropped_ends_its_lanes() {
    let Rig { behaviour, pool, inbox } = Rig::start(2, Behaviour::default());
    assert_eq!(
        number(&block_on(&inbox, inbox.submit(&pool, Share::OWN, job("k", 1, LONG)).unwrap())),
        Some(1)
    );
    drop(pool);
    let end = Instant::now() + LONG;
    while behaviour.opened.load(Ordering::SeqCst) != behaviour.closed.load(Ordering::SeqCst) {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_inbox_is_bounded_and_frees_what_was_refused() {
    let rig = Rig::start(1, Behaviour { down: AtomicBool::new(true), ..Behaviour::default() });
    rig.until("no lanes", |rig| {
        matches!(
            refused(rig.inbox.submit(&rig.pool, Share::OWN, job("k", 1, LONG))),
            Some(Refused::NoSession(_))
        )
    });
    assert_eq!(rig.inbox.pending(), 0);
    let past = rig.inbox.submit(&rig.pool, Share::OWN, job("k", 1, Duration::ZERO));
    assert!(past.is_err());
    rig.behaviour.down.store(false, Ordering::SeqCst);
    rig.until("open", Rig::serves);
    let (release, hang) = mpsc::channel();
    *rig.behaviour.release.lock().unwrap() = Some(hang);
    let hung = rig.inbox.submit(&rig.pool, Share::OWN, job("hang", 0, LONG)).unwrap();
    while rig.behaviour.hanging.load(Ordering::SeqCst) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let max = crate::limits::QUEUE_JOBS_A_SHARD_MAX as u32;
    let pending_jobs: Vec<_> = (0..max)
        .map(|n| rig.inbox.submit(&rig.pool, Share::OWN, job("k", n, LONG)).unwrap())
        .collect();
    assert_eq!(
        refused(rig.inbox.submit(&rig.pool, Share::OWN, job("k", 0, LONG))),
        Some(Refused::QueueFull)
    );
    assert_eq!(rig.inbox.pending(), pending_jobs.len() + 1);
    drop(pending_jobs);
    release.send(()).unwrap();
    assert_eq!(number(&block_on(&rig.inbox, hung)), Some(0));
    rig.until("the cancelled ones are gone", |rig| rig.pool.stats().queued == [0]);
    assert_eq!(rig.behaviour.executed.load(Ordering::SeqCst), 1);
    rig.served("k", 5);
    rig.stop();
}
