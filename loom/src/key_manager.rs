//! `src/key_manager`, as far as `sched` knows it: a job is a number, and its outcome too.

use std::sync::Arc;
use std::time::Instant;

pub struct Job {
    pub number: u32,
    pub deadline: Instant,
    /// Held until the job is dropped.
    pub alive: Arc<()>,
}

pub type Outcome = Result<u32, Fault>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    KeyNotFound { detail: String },
    KeyRefused { detail: String },
    BadCiphertext,
    Device { detail: String },
    Busy,
    Timeout,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concurrency {
    PerSession,
    PerCore,
    Single,
}

pub trait Engine: Send + Sync + 'static {
    fn open(&self) -> Result<Box<dyn Session>, Fault>;
    fn concurrency(&self) -> Concurrency {
        Concurrency::PerSession
    }
}

pub trait Session {
    fn execute(&mut self, job: Job) -> Outcome;
    fn probe(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    fn check(&mut self) -> bool {
        self.is_usable()
    }
    fn is_usable(&self) -> bool;
}
