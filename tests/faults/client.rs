//! A client that signs as KMS does and holds every answer to what must always be true of it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use serde_json::{Value, json};
use time::OffsetDateTime;
use xksd::cli::probe::client::{Client as Connection, Target, tls_config};
use xksd::cli::probe::sign::Signer;
use zeroize::Zeroizing;

use super::hsm::KEY;
use super::server::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY};

/// Of all requests.
const AAD: &[u8] = b"project=nile,department=marketing";
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
        STANDARD
            .decode(self.json[field].as_str().unwrap_or_else(|| panic!("{field}: {}", self.json)))
            .unwrap()
    }
}

/// One connection.
pub struct Client {
    connection: Connection,
    signer: Signer,
    prefix: String,
}

impl Client {
    pub fn connect(target: &Target, prefix: &str) -> Client {
        let signer = Signer {
            access_key_id: ACCESS_KEY_ID.to_owned(),
            secret_access_key: Zeroizing::new(SECRET_ACCESS_KEY.to_owned()),
            region: REGION.to_owned(),
        };
        Client {
            connection: Connection::connect(target, tls_config(target).unwrap()).unwrap(),
            signer,
            prefix: prefix.to_owned(),
        }
    }

    fn call(&mut self, path: &str, body: &Value) -> Reply {
        let path = format!("{}/kms/xks/v1/{path}", self.prefix);
        let body = body.to_string();
        let signed = self.signer.sign(
            self.connection.host(),
            &path,
            body.as_bytes(),
            OffsetDateTime::now_utc(),
        );
        let headers = [
            ("Content-Type", "application/json"),
            ("X-Amz-Date", &*signed.date),
            ("Authorization", &*signed.authorization),
        ];
        let answer = self
            .connection
            .call("POST", &path, &headers, body.as_bytes())
            .expect("silence is never an answer");
        let json: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert!(answer.time < ANSWERED_WITHIN, "{path} answered after {:?}: {json}", answer.time);
        let error = json["errorName"].as_str().unwrap_or_default().to_owned();
        assert_eq!(answer.status == 200, error.is_empty(), "{json}");
        Reply { status: answer.status, error, json }
    }

    pub fn health(&mut self) -> Reply {
        self.call("health", &json!({"requestMetadata": {"kmsRequestId": "health", "kmsOperation": "KmsHealthCheck"}}))
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
        self.call(
            &format!("keys/{KEY}/metadata"),
            &json!({"requestMetadata": request_metadata("DescribeKey")}),
        )
    }

    /// Encrypts with a CDIV, which is checked if there is an answer.
    pub fn encrypt(&mut self, plaintext: &[u8]) -> Reply {
        self.encrypt_with(KEY, plaintext, true)
    }

    pub fn encrypt_with(&mut self, key: &str, plaintext: &[u8], integrity: bool) -> Reply {
        let mut body = json!({
            "requestMetadata": request_metadata("GenerateDataKey"),
            "plaintext": STANDARD.encode(plaintext),
            "additionalAuthenticatedData": STANDARD.encode(AAD),
            "encryptionAlgorithm": "AES_GCM",
        });
        if integrity {
            body["ciphertextDataIntegrityValueAlgorithm"] = json!("SHA_256");
        }
        let reply = self.call(&format!("keys/{key}/encrypt"), &body);
        if reply.is_ok() && integrity {
            let parts =
                ["ciphertextMetadata", "initializationVector", "ciphertext", "authenticationTag"]
                    .map(|field| reply.bytes(field));
            let expected = digest::digest(&digest::SHA256, &[AAD, &parts.concat()].concat());
            assert_eq!(reply.bytes("ciphertextDataIntegrityValue"), expected.as_ref());
        }
        reply
    }

    /// Decrypts what an encryption answered.
    pub fn decrypt(&mut self, encrypted: &Reply) -> Reply {
        let mut body = json!({
            "requestMetadata": request_metadata("Decrypt"),
            "additionalAuthenticatedData": STANDARD.encode(AAD),
            "encryptionAlgorithm": "AES_GCM",
        });
        for field in
            ["ciphertext", "initializationVector", "ciphertextMetadata", "authenticationTag"]
        {
            body[field] = encrypted.json[field].clone();
        }
        self.call(&format!("keys/{KEY}/decrypt"), &body)
    }

    /// As [`Client::decrypt`], with one bit of the tag changed.
    pub fn decrypt_spoiled(&mut self, encrypted: &Reply) -> Reply {
        let mut spoiled = encrypted.clone();
        let mut tag = encrypted.bytes("authenticationTag");
        tag[3] ^= 0x10;
        spoiled.json["authenticationTag"] = json!(STANDARD.encode(tag));
        self.decrypt(&spoiled)
    }

    /// Encrypt and decrypt give back what was given, all else is an error by name. Tells the
    /// errors.
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

fn request_metadata(operation: &str) -> Value {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    json!({
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsOperation": operation,
        "kmsRequestId": format!("request-{}", NEXT.fetch_add(1, Relaxed)),
        "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    })
}

/// What clients were told during a while.
#[derive(Debug, Default)]
pub struct Told {
    pub good: u64,
    /// By name.
    pub errors: BTreeMap<String, u64>,
    pub latest: Duration,
}

impl Told {
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
    told: Arc<Mutex<Told>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(mut clients: Vec<Client>) -> Load {
        let (stop, told) =
            (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Told::default())));
        let threads = clients
            .drain(..)
            .enumerate()
            .map(|(n, mut client)| {
                let (stop, told) = (stop.clone(), told.clone());
                std::thread::spawn(move || {
                    let mut plaintext = [n as u8; 32];
                    while !stop.load(Relaxed) {
                        plaintext[0] = plaintext[0].wrapping_add(1);
                        let start = Instant::now();
                        let reply = client.round_trip(&plaintext);
                        told.lock().unwrap().note(reply, start.elapsed());
                        // Some load, not all that the machine can take.
                        std::thread::sleep(Duration::from_millis(2));
                    }
                })
            })
            .collect();
        Load { stop, told, threads }
    }

    /// What was told since the last time.
    pub fn told(&self) -> Told {
        std::mem::take(&mut self.told.lock().unwrap())
    }

    /// What was told during the next while.
    pub fn told_in(&self, while_: Duration) -> Told {
        self.told();
        std::thread::sleep(while_);
        self.told()
    }

    /// Waits until `count` round trips in a row are good.
    pub fn serves(&self, count: u64, patience: Duration) -> Duration {
        let start = Instant::now();
        let mut good = 0;
        while good < count {
            assert!(start.elapsed() < patience, "does not serve again within {patience:?}");
            std::thread::sleep(Duration::from_millis(10));
            let told = self.told();
            good = if told.failed() == 0 { good + told.good } else { 0 };
        }
        start.elapsed()
    }

    /// Ends; fails when a client was not content.
    pub fn end(self) -> Told {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("a client that was answered well");
        }
        std::mem::take(&mut self.told.lock().unwrap())
    }
}
