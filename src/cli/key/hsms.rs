//! The HSMs of a wrapped key manager, in sessions of this command's own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::super::{Failure, tell};
use crate::config::{Config, Wrapped};
use crate::control::build::{Opened, open};
use crate::key_manager::wrapped::edit::RawKey;
use crate::key_manager::wrapped::wrap::Hsm;
use crate::key_manager::wrapped::{self, Folder};
use crate::key_manager::{Fault, Job, KeyRef, Outcome, Session, Task};

/// A job may take so long: a person waits for it.
const JOB_TIME: Duration = Duration::from_secs(10);

/// Those that could be opened.
pub(super) struct Hsms {
    pub(super) hsms: Vec<Box<dyn Hsm>>,
    /// A session beside them, for random numbers.
    random: Box<dyn Session>,
    /// Why others could not.
    pub(super) unopened: Vec<String>,
}

struct OfSession {
    name: String,
    session: Box<dyn Session>,
}

impl Hsm for OfSession {
    fn name(&self) -> &str {
        &self.name
    }

    fn execute(&mut self, key: &KeyRef, task: Task) -> Outcome {
        let deadline = Instant::now() + JOB_TIME;
        self.session.execute(Job { key: key.clone(), task, deadline })
    }
}

impl Hsms {
    /// Opens those of a key manager. One that can be opened is enough to begin with.
    pub(super) fn open(config: &Config, wrapped: &Wrapped) -> Result<Hsms, Failure> {
        let (mut hsms, mut unopened, mut random) = (Vec::<Box<dyn Hsm>>::new(), Vec::new(), None);
        for name in &wrapped.unseal_with {
            let managers = &config.key_managers;
            let Some(manager) = managers.iter().find(|m| m.name == *name) else { continue };
            let Ok(Opened::Sessions(engine, _)) = open(manager).map_err(|why| unopened.push(why))
            else {
                continue;
            };
            let opened = engine.open().and_then(|session| Ok((session, engine.open()?)));
            match opened {
                Ok((session, second)) => {
                    hsms.push(Box::new(OfSession { name: name.clone(), session }));
                    random.get_or_insert(second);
                }
                Err(fault) => unopened.push(format!("key manager {name}: {fault}")),
            }
        }
        match random {
            Some(random) => Ok(Hsms { hsms, random, unopened }),
            None => Err(Failure::Failed(unopened.join("\n"))),
        }
    }

    /// Says what a master should not be allowed, where an HSM tells.
    pub(super) fn warn_of_usage(&mut self, master: &str) {
        for hsm in &mut self.hsms {
            if let Some(why) = wrapped::needless_usage(&mut **hsm, master) {
                tell(&format!("warning: {why}"));
            }
        }
    }

    /// A new key: from the HSM's generator, XOR that of the operating system. It is as good as the
    /// better one of them.
    pub(super) fn new_key(&mut self) -> Result<RawKey, Failure> {
        let (mut key, mut other) = (Zeroizing::new([0; 32]), Zeroizing::new([0; 32]));
        let failed =
            |fault: Fault| Failure::Failed(format!("the HSM gives no random bytes: {fault}"));
        self.random.random(&mut *key).map_err(failed)?;
        if *key == [0; 32] {
            return Err(Failure::Failed("the HSM's random bytes are all zero".to_owned()));
        }
        random(&mut *other).map_err(Failure::Failed)?;
        for (byte, other) in key.iter_mut().zip(&*other) {
            *byte ^= other;
        }
        Ok(key)
    }
}

/// Random bytes of the operating system.
pub(super) fn random(bytes: &mut [u8]) -> Result<(), String> {
    let failed = |_| "the operating system gives no random bytes".to_owned();
    SystemRandom::new().fill(bytes).map_err(failed)
}

/// Opens all key files of a key manager, as the server does, and gives what is wrong with some.
pub(in crate::cli) fn open_all(
    config: &Config,
    wrapped: &Wrapped,
    keys: &wrapped::Wrapped,
) -> Result<Vec<String>, String> {
    let mut hsms = Hsms::open(config, wrapped).map_err(|failure| match failure {
        Failure::Failed(why) | Failure::Usage(why) => why,
    })?;
    let folder = Folder::new(&wrapped.folder);
    let (mut opened, mut refused, mut wrong) = (HashMap::new(), HashMap::new(), Vec::new());
    for label in folder.scan()?.into_keys() {
        let label: Arc<str> = label.into();
        match open_one(&folder, &label, &mut hsms, keys) {
            Ok(loaded) => drop(opened.insert(label, Arc::new(loaded))),
            Err(why) => {
                wrong.push(why.clone());
                refused.insert(label, wrapped::Refusal { why, by_hsm: false });
            }
        }
    }
    keys.open(opened, refused);
    Ok(wrong)
}

fn open_one(
    folder: &Folder,
    label: &str,
    hsms: &mut Hsms,
    keys: &wrapped::Wrapped,
) -> Result<wrapped::Loaded, String> {
    let file = folder.read(label)?.ok_or("its file is gone")?;
    let now = OffsetDateTime::now_utc();
    wrapped::load_first(&file, &mut hsms.hsms, keys.arena(), now)
        .map_err(|why| format!("key file {}: {why}", folder.file(label).display()))
}
