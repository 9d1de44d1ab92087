//! A request's whole way with a wrapped key: with ciphertext format 0x01, where the key encrypts
//! itself, and with 0x02, where each message has a key made of it. The difference is what 0x02
//! costs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use secret_memory::Wanted;
use time::OffsetDateTime;
use xksd::key_manager::local::Local;
use xksd::key_manager::wrapped::wrap::Hsm;
use xksd::key_manager::wrapped::{Wrapped, edit, load_first};
use xksd::key_manager::{Cipher, InProcess, Job, KeyRef, Outcome, Task};
use xksd::keystore::KeyManager;
use zeroize::Zeroizing;

use crate::fixture::{KEY_ID, KEY_MANAGER, Proxy, Received, decrypt_body, encrypt_body, local};

/// The master's label.
const MASTER: &str = KEY_ID;

/// Has the master in place of an HSM, which is asked before anything is measured.
struct Software(Local);

impl Hsm for Software {
    fn name(&self) -> &str {
        "software"
    }

    fn execute(&mut self, key: &KeyRef, task: Task) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(60);
        self.0.execute(Job { key: key.clone(), task, deadline })
    }
}

/// A key manager whose one key has this cipher.
fn wrapped(cipher: Cipher) -> KeyManager {
    let mut hsms: Vec<Box<dyn Hsm>> = vec![Box::new(Software(local()))];
    let (names, now) = (("set", KEY_ID, MASTER), OffsetDateTime::now_utc());
    let key = Zeroizing::new([7; 32]);
    let mut file = edit::create(&mut hsms, names, (cipher, &key), now).expect("wrapped");
    // What is sealed with is no secret here.
    edit::seal(&mut file, &mut hsms, &mut |_| Ok(())).expect("sealed");
    let keys = Wrapped::new(Wanted::Prefer).expect("memory");
    let loaded = load_first(&file, &mut hsms, keys.arena(), now).expect("opened");
    keys.open(HashMap::from([(KEY_ID.into(), Arc::new(loaded))]), HashMap::new());
    KeyManager::in_process(KEY_MANAGER, Arc::new(keys))
}

pub fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("wrapped");
    for (format, cipher) in [("0x01", Cipher::Direct), ("0x02", Cipher::Derived)] {
        let mut proxy = Proxy::over(wrapped(cipher));
        let encrypt = Received::new("encrypt", &encrypt_body(32, 64));
        assert_eq!(proxy.answer(&encrypt), 200);
        let decrypt = Received::new("decrypt", &decrypt_body(&proxy.answered, 64));
        for (name, received) in [("encrypt", encrypt), ("decrypt", decrypt)] {
            assert_eq!(proxy.answer(&received), 200, "{name}");
            let name = format!("{name}, 32 B, format {format}");
            group.bench_function(name, |b| b.iter(|| proxy.answer(&received)));
        }
    }
}
