//! Jobs from a thread that may block: through the lanes like those of the shards, and waited for.

use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::key_manager::unrequested::Unrequested;
use crate::key_manager::{Answer, Fault, InProcess, Job, KeyRef, Task};
use crate::sched::{Delivered, Inbox, Mailbox, Pool, Refused, Share};

/// How often it looks whether its time is over, or a session has opened.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Asks one key manager, and blocks until it has answered.
pub struct BlockingClient {
    access: Access,
    unrequested: Arc<Unrequested>,
}

enum Access {
    InProcess(Arc<dyn InProcess>),
    /// As a guest beside the shards.
    Lanes {
        pool: Arc<Pool>,
        inbox: Rc<Inbox>,
        _seat: Seat,
    },
}

/// Places from which jobs are submitted to a pool beside the shards, that nobody has taken.
pub(super) type FreeGuests = Arc<Mutex<Vec<Guest>>>;

/// A place from which jobs are submitted to a pool beside the shards.
pub(super) struct Guest {
    /// Index of its mailbox.
    pub(super) index: usize,
    pub(super) mailbox: Arc<Mailbox>,
}

/// A guest's place, given back when the client is dropped.
struct Seat(Option<Guest>, FreeGuests);

impl Drop for Seat {
    fn drop(&mut self) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).extend(self.0.take());
    }
}

impl BlockingClient {
    pub(super) fn in_process(
        keys: Arc<dyn InProcess>,
        unrequested: Arc<Unrequested>,
    ) -> BlockingClient {
        BlockingClient { access: Access::InProcess(keys), unrequested }
    }

    /// `None` where no guest is free.
    pub(super) fn of_pool(
        pool: Arc<Pool>,
        guests: &FreeGuests,
        unrequested: Arc<Unrequested>,
    ) -> Option<BlockingClient> {
        let guest = guests.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        let inbox = Inbox::new(guest.index, guest.mailbox.clone());
        let seat = Seat(Some(guest), guests.clone());
        Some(BlockingClient { access: Access::Lanes { pool, inbox, _seat: seat }, unrequested })
    }

    /// Waits for the outcome, no longer than `patience`; also returns how long the key manager
    /// took.
    ///
    /// # Errors
    /// As the key manager says, [`Fault::Timeout`], or why no session could do it.
    pub fn execute(
        &self,
        key: &KeyRef,
        task: Task,
        patience: Duration,
    ) -> Result<(Answer, Duration), Fault> {
        let job = Job { key: key.clone(), task, deadline: Instant::now() + patience };
        if let Task::Encrypt { .. } = job.task {
            self.unrequested.count(&key.label);
        }
        match &self.access {
            Access::InProcess(keys) => {
                let start = Instant::now();
                keys.execute(job).map(|answer| (answer, start.elapsed()))
            }
            Access::Lanes { pool, inbox, .. } => {
                let Delivered { outcome, hsm_time, .. } = wait(pool, inbox, job)?;
                outcome.map(|answer| (answer, hsm_time))
            }
        }
    }
}

fn wait(pool: &Pool, inbox: &Rc<Inbox>, mut job: Job) -> Result<Delivered, Fault> {
    let deadline = job.deadline;
    let ticket = loop {
        match inbox.submit(pool, Share::OWN, job).map_err(|refused| *refused) {
            Ok(ticket) => break ticket,
            // The first sessions are still being opened.
            Err((Refused::NoSession(None), returned)) if Instant::now() < deadline => {
                job = returned;
                std::thread::sleep(LOOK_INTERVAL);
            }
            Err((refused, _)) => return Err(no_session(refused)),
        }
    };
    let (mut ticket, mut deliver) = (pin!(ticket), pin!(inbox.deliver()));
    let waker = Waker::from(Arc::new(Waiting(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        // Never ready: from here on an answer wakes this thread.
        let _ = deliver.as_mut().poll(&mut context);
        inbox.expire(Instant::now());
        if let Poll::Ready(delivered) = ticket.as_mut().poll(&mut context) {
            return Ok(delivered);
        }
        std::thread::park_timeout(LOOK_INTERVAL);
    }
}

/// A thread that waits for an answer.
struct Waiting(Thread);

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn no_session(refused: Refused) -> Fault {
    let detail = match refused {
        Refused::NoSession(Some(last_fault)) => last_fault.to_string(),
        Refused::NoSession(None) => "no session is open yet".to_owned(),
        Refused::Hung => return Fault::Timeout,
        Refused::QueueFull | Refused::DeadlineUnreachable => return Fault::Busy,
    };
    Fault::Device { detail }
}
