//! An HSM that opens key files, asked through the sessions that it has for requests, too.

use std::sync::Arc;
use std::time::Instant;

use crate::key_manager::wrapped::wrap::Hsm;
use crate::key_manager::{Fault, Job, KeyRef, Outcome, Task};
use crate::keystore::{BlockingClient, KeyManager};
use crate::limits::UNSEAL_CALL_TIME;

/// Asked through its lanes.
pub struct OfLanes {
    /// Which.
    pub manager: Arc<KeyManager>,
    /// One that nobody else has.
    pub client: BlockingClient,
}

impl Hsm for OfLanes {
    fn name(&self) -> &str {
        &self.manager.name
    }

    fn execute(&mut self, key: &KeyRef, task: Task) -> Outcome {
        match self.client.execute(key, task, UNSEAL_CALL_TIME) {
            Ok((answer, _)) => Ok(answer),
            // It is there, and says no to whoever comes.
            Err(Fault::Device { detail }) => Err(match self.manager.refused_pin() {
                Some(why) => Fault::KeyRefused { detail: why },
                None => Fault::Device { detail },
            }),
            Err(fault) => Err(fault),
        }
    }
}

/// Asked in a session that has nothing to do with the others.
pub struct InNewSession<'a>(pub &'a KeyManager);

impl Hsm for InNewSession<'_> {
    fn name(&self) -> &str {
        &self.0.name
    }

    fn execute(&mut self, key: &KeyRef, task: Task) -> Outcome {
        let deadline = Instant::now() + UNSEAL_CALL_TIME;
        self.0.execute_in_new_session(Job { key: key.clone(), task, deadline })
    }
}
