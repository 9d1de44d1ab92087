//! A client that holds every answer to what must always be true of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_harness::api::{cdiv, decrypt_body, encrypt_body, request_id};
use test_harness::hsm_sim::KEY;
use test_harness::{Api, Installation, Server, aad, b64, envelope, eventually, with};

/// Of all requests.
const AAD: &str = "project=nile,department=marketing";
/// Well above the budget: an answer that comes later than this was none. The machine may be busy
/// with other things; the server's own clock is held to the budget.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// errorName, empty when there is none.
    pub error: String,
    pub json: Value,
}

impl Reply {
    pub fn is_ok(&self) -> bool {
        self.status == 200
    }

    /// Fails the test unless the answer is this one.
    pub fn must_be(&self, status: u16, error: &str) {
        assert_eq!((self.status, self.error.as_str()), (status, error), "{}", self.json);
    }

    /// KMS retries these three errors; nothing else may come of a fault of the HSM.
    pub fn must_be_a_fault(&self) {
        let faults = [
            (500, "InternalException"),
            (503, "DependencyTimeoutException"),
            (429, "ThrottlingException"),
        ];
        assert!(faults.contains(&(self.status, &self.error)), "{} {}", self.status, self.json);
    }

    pub fn bytes(&self, field: &str) -> Vec<u8> {
        test_harness::bytes(&self.json, field)
    }
}

/// One connection.
pub struct Client {
    api: Api,
}

impl Client {
    pub fn connect(installation: &Installation, server: &Server, prefix: &'static str) -> Client {
        Client { api: Api { prefix, ..Api::new(installation, server) } }
    }

    fn call(&mut self, call: &str, body: &Value) -> Reply {
        let request = self.api.request(call, body);
        let start = Instant::now();
        self.api.wire.send(&request.bytes());
        let response = self.api.wire.try_response().expect("silence is never an answer");
        let (time, json) = (start.elapsed(), response.json());
        assert!(time < ANSWERED_WITHIN, "{call} answered after {time:?}: {json}");
        let error = json["errorName"].as_str().unwrap_or_default().to_owned();
        assert_eq!(response.status == 200, error.is_empty(), "{json}");
        Reply { status: response.status, error, json }
    }

    pub fn health(&mut self) -> Reply {
        let metadata = json!({"kmsRequestId": request_id(), "kmsOperation": "KmsHealthCheck"});
        self.call("health", &json!({"requestMetadata": metadata}))
    }

    /// `healthStatus` by key manager.
    pub fn fleet(&mut self) -> BTreeMap<String, String> {
        let reply = self.health();
        assert!(reply.is_ok(), "{}", reply.json);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        reply.json["ekmFleetDetails"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| (text(&one["id"]), text(&one["healthStatus"])))
            .collect()
    }

    pub fn metadata(&mut self) -> Reply {
        self.call(&format!("keys/{KEY}/metadata"), &envelope("DescribeKey", &json!({})))
    }

    /// Encrypts with a CDIV, which is checked if there is an answer.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Reply {
        self.encrypt_with(KEY, plaintext, true)
    }

    pub fn encrypt_with(&mut self, key: &str, plaintext: &[u8], integrity: bool) -> Reply {
        let algorithm = if integrity { json!("SHA_256") } else { Value::Null };
        let fields = with(&aad(AAD), &json!({"ciphertextDataIntegrityValueAlgorithm": algorithm}));
        let reply = self.call(&format!("keys/{key}/encrypt"), &encrypt_body(plaintext, &fields));
        if reply.is_ok() && integrity {
            let expected = cdiv(AAD.as_bytes(), &reply.json);
            assert_eq!(reply.json["ciphertextDataIntegrityValue"], expected);
        }
        reply
    }

    /// Decrypts what an encryption answered.
    pub fn decrypt(&mut self, encrypted: &Reply) -> Reply {
        self.call(&format!("keys/{KEY}/decrypt"), &decrypt_body(&encrypted.json, &aad(AAD)))
    }

    /// As [`Client::decrypt`], with one bit of the tag changed.
    pub fn decrypt_spoiled(&mut self, encrypted: &Reply) -> Reply {
        let mut spoiled = encrypted.clone();
        let mut tag = encrypted.bytes("authenticationTag");
        tag[3] ^= 0x10;
        spoiled.json["authenticationTag"] = json!(b64(tag));
        self.decrypt(&spoiled)
    }

    /// Encrypt and decrypt give back what was given, all else is an error by name. Gives the error.
    pub fn round_trip(&mut self, plaintext: &[u8]) -> Result<(), Reply> {
        let encrypted = self.encrypt(plaintext);
        if !encrypted.is_ok() {
            return Err(encrypted);
        }
        let decrypted = self.decrypt(&encrypted);
        if !decrypted.is_ok() {
            return Err(decrypted);
        }
        assert_eq!(decrypted.bytes("plaintext"), plaintext, "a wrong answer");
        Ok(())
    }
}

/// The answers that clients had during a while.
#[derive(Debug, Default)]
pub struct Tally {
    pub good: u64,
    /// By name.
    pub errors: BTreeMap<String, u64>,
    pub latest: Duration,
}

impl Tally {
    fn note(&mut self, reply: Result<(), Reply>, time: Duration) {
        self.latest = self.latest.max(time);
        match reply {
            Ok(()) => self.good += 1,
            Err(reply) => {
                reply.must_be_a_fault();
                *self.errors.entry(reply.error).or_default() += 1;
            }
        }
    }

    pub fn failed(&self) -> u64 {
        self.errors.values().sum()
    }
}

/// Clients that make round trips, each on its connection, one after the other.
pub struct Load {
    stop: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(mut clients: Vec<Client>) -> Load {
        let (stop, tally) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Tally::default())));
        let threads = clients
            .drain(..)
            .enumerate()
            .map(|(n, mut client)| {
                let (stop, tally) = (stop.clone(), tally.clone());
                std::thread::spawn(move || {
                    let mut plaintext = [n as u8; 32];
                    while !stop.load(Relaxed) {
                        plaintext[0] = plaintext[0].wrapping_add(1);
                        let start = Instant::now();
                        let reply = client.round_trip(&plaintext);
                        tally.lock().unwrap().note(reply, start.elapsed());
                        // Some load, not all that the machine can take.
                        std::thread::sleep(Duration::from_millis(2));
                    }
                })
            })
            .collect();
        Load { stop, tally, threads }
    }

    /// The answers since the last time.
    pub fn tally(&self) -> Tally {
        std::mem::take(&mut self.tally.lock().unwrap())
    }

    /// The answers during the next while.
    pub fn tally_during(&self, time: Duration) -> Tally {
        self.tally();
        std::thread::sleep(time);
        self.tally()
    }

    /// Waits until `count` round trips in a row are good.
    pub fn serves(&self, count: u64) -> Duration {
        let mut good = 0;
        eventually("serves again", || {
            let tally = self.tally();
            good = if tally.failed() == 0 { good + tally.good } else { 0 };
            good >= count
        })
    }

    /// Ends; fails when a client was not content.
    pub fn end(self) -> Tally {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("a client that was answered well");
        }
        std::mem::take(&mut self.tally.lock().unwrap())
    }
}
