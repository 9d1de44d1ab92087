//! Jobs of the control plane: through the lanes like everybody's, waited for on a thread that may
//! block.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::key_manager::{Answer, Fault, Job, Task};
use crate::sched::{Delivered, Inbox, Mailbox, Pool, Refused};

/// How often the answer is looked for: nobody waits for it but a probe.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

/// Asks one key manager's lanes, as a guest beside the shards.
pub struct Asker {
    pool: Arc<Pool>,
    inbox: Rc<Inbox>,
}

impl Asker {
    /// `mailbox` is the pool's one with the index `guest`.
    pub fn new(pool: Arc<Pool>, guest: usize, mailbox: Arc<Mailbox>) -> Asker {
        Asker { pool, inbox: Inbox::new(guest, mailbox) }
    }

    /// Waits for the outcome, no longer than `patience`; also tells how long the key manager was at
    /// it.
    ///
    /// # Errors
    /// As the session says, [`Fault::Timeout`], or why there is none that could.
    pub fn ask(
        &self,
        label: &Arc<str>,
        task: Task,
        patience: Duration,
    ) -> Result<(Answer, Duration), Fault> {
        let deadline = Instant::now() + patience;
        let mut job = Job { label: label.clone(), task, deadline };
        let ticket = loop {
            match self.inbox.submit(&self.pool, job).map_err(|refused| *refused) {
                Ok(ticket) => break ticket,
                // The first sessions are still being opened.
                Err((Refused::NoSession(None), returned)) if Instant::now() < deadline => {
                    job = returned;
                    std::thread::sleep(LOOK_INTERVAL);
                }
                Err((refused, _)) => return Err(no_session(refused)),
            }
        };
        let mut ticket = pin!(ticket);
        loop {
            self.inbox.expire(Instant::now());
            if let Poll::Ready(Delivered { outcome, hsm_time, .. }) =
                ticket.as_mut().poll(&mut Context::from_waker(Waker::noop()))
            {
                return outcome.map(|answer| (answer, hsm_time));
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
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
