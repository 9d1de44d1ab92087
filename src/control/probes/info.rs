//! What a module says of itself. Asked on separate threads: these calls may hang too.

use std::sync::Arc;

use crossbeam::channel::{Receiver, RecvTimeoutError, bounded};

use crate::key_manager::ManagerInfo;
use crate::keystore::KeyManager;
use crate::limits::HUNG_CALL_TIME;

/// What the module of one key manager says of itself.
pub(super) struct Info {
    manager: Arc<KeyManager>,
    /// What it said last.
    pub(super) known: ManagerInfo,
    asked: Option<Receiver<Option<ManagerInfo>>>,
}

impl Info {
    pub(super) fn new(manager: Arc<KeyManager>) -> Info {
        Info { manager, known: ManagerInfo::default(), asked: None }
    }

    /// Asks for it, and gives what is known by now.
    pub(super) fn get(&mut self) -> ManagerInfo {
        if self.asked.is_none() {
            let (answer, answered) = bounded(1);
            let manager = self.manager.clone();
            let ask = move || drop(answer.send(manager.info().ok()));
            // Without a thread there is nothing new to be known.
            if std::thread::Builder::new().name("xksd-info".into()).spawn(ask).is_ok() {
                self.asked = Some(answered);
            }
        }
        if let Some(answered) = &self.asked {
            match answered.recv_timeout(HUNG_CALL_TIME) {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) | Ok(None) => self.asked = None,
                Ok(Some(info)) => (self.known, self.asked) = (info, None),
            }
        }
        self.known.clone()
    }
}
