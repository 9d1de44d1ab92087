//! What the benches and `tests/allocations.rs` share: one key store, requests signed as AWS KMS
//! signs them, and a pipeline without sockets.

#![allow(dead_code, reason = "shared by two binaries, neither of which uses everything")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use xksd::audit::recording::Recording;
use xksd::audit::waiter::Waiter;
use xksd::http1::{Header, Progress, Request, RequestHead};
use xksd::key_manager::local::Local;
use xksd::key_manager::{
    Cipher, Concurrency, Engine, Fault, InProcess, Job, KeyRef, ManagerInfo, Nonces, Outcome,
    ProbeKey, Session, Task, VersionState,
};
use xksd::keystore::{Key, KeyManager, KeyStore, KeyStores, Probe, Version};
use xksd::limits::{DEADLINE_TICK, HEADERS_MAX};
use xksd::pipeline::{Arrival, Pipeline};
use xksd::policy::budget::{Budget, Exhausted};
use xksd::policy::cedar::{self, Policies, Revision, Source, Sources};
use xksd::policy::{Mode, Policy};
use xksd::sched::{Inbox, Mailbox, Pool, PoolSettings, Share};
use xksd::secret::SecretString;
use xksd::sigv4::{AccessKeyId, Credential, CredentialSet, SecretAccessKey};
use xksd::telemetry::log::Format;
use xksd::telemetry::{Log, ShardMetrics};

pub const PREFIX: &str = "/example";
pub const KEY_ID: &str = "foo";
pub const KEY_MANAGER: &str = "hsm-a";
pub const REGION: &str = "us-east-1";
const ACCESS_KEY_ID: &str = "BETWEENTWENTYANDTHIRTY";
const SECRET_ACCESS_KEY: &str = "notASecretJustFortyThreeCharactersOrMore0123456789";

/// Path of one of the four calls.
pub fn path(call: &str) -> String {
    match call {
        "health" => format!("{PREFIX}/kms/xks/v1/health"),
        call => format!("{PREFIX}/kms/xks/v1/keys/{KEY_ID}/{call}"),
    }
}

/// The one credential of the key store.
pub fn credentials() -> CredentialSet {
    let id = AccessKeyId::new(ACCESS_KEY_ID).expect("of the right form");
    let secret = SecretAccessKey::new(SecretString::new(SECRET_ACCESS_KEY).expect("memory"))
        .expect("of the right form");
    CredentialSet::new(vec![Credential::new(id, secret)]).expect("one credential")
}

/// A body with everything in `requestMetadata` that KMS sends for a volume's data key.
pub fn body(kms_operation: &str, fields: Value) -> Vec<u8> {
    let mut body = fields;
    body["requestMetadata"] = json!({
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kmsOperation": kms_operation,
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
        "kmsViaService": "ebs.us-east-1.amazonaws.com",
    });
    body.to_string().into_bytes()
}

/// An encrypt of so many bytes with an integrity value; without AAD where `aad_bytes` is 0.
pub fn encrypt_body(plaintext_bytes: usize, aad_bytes: usize) -> Vec<u8> {
    let mut fields = json!({
        "plaintext": STANDARD.encode(vec![0x5a; plaintext_bytes]),
        "encryptionAlgorithm": "AES_GCM",
        "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
    });
    if aad_bytes > 0 {
        fields["additionalAuthenticatedData"] = STANDARD.encode(vec![b'a'; aad_bytes]).into();
    }
    body("GenerateDataKeyWithoutPlaintext", fields)
}

/// The decrypt of what an encrypt answered.
pub fn decrypt_body(encrypted: &[u8], aad_bytes: usize) -> Vec<u8> {
    let answer: Value = serde_json::from_slice(encrypted).expect("an answer is JSON");
    let mut fields = json!({"encryptionAlgorithm": "AES_GCM"});
    for name in ["ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata"] {
        fields[name] = answer[name].clone();
    }
    if aad_bytes > 0 {
        fields["additionalAuthenticatedData"] = STANDARD.encode(vec![b'a'; aad_bytes]).into();
    }
    body("Decrypt", fields)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// One signed request as it comes from a client.
pub fn signed(path: &str, body: &[u8], at: SystemTime) -> Vec<u8> {
    let at = OffsetDateTime::from(at);
    let time = at
        .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
        .expect("a date");
    let day = &time[..8];
    let host = "xks.example.com";
    let canonical = format!(
        "POST\n{path}\n\nhost:{host}\nx-amz-date:{time}\n\nhost;x-amz-date\n{}",
        sha256(body)
    );
    let scope = format!("{day}/{REGION}/kms-xks-proxy/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256(canonical.as_bytes()));
    let sign = |key: &[u8], text: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    let key = [day, REGION, "kms-xks-proxy", "aws4_request"]
        .iter()
        .fold(format!("AWS4{SECRET_ACCESS_KEY}").into_bytes(), |key, part| sign(&key, part));
    let signature = hex(&sign(&key, &to_sign));
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nX-Amz-Date: {time}\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={ACCESS_KEY_ID}/{scope}, \
         SignedHeaders=host;x-amz-date, Signature={signature}\r\n\
         User-Agent: xks-bench\r\nAccept: */*\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A whole request in a connection's buffer, its head parsed.
pub struct Received {
    pub bytes: Vec<u8>,
    pub head: RequestHead,
    pub head_bytes: usize,
    pub at: SystemTime,
}

impl Received {
    /// Signed now.
    pub fn new(call: &str, body: &[u8]) -> Received {
        let at = SystemTime::now();
        let bytes = signed(&path(call), body, at);
        let mut head = RequestHead::new();
        let Ok(Progress::Complete { end }) = head.parse(&bytes) else { panic!("a whole head") };
        Received { bytes, head, head_bytes: end, at }
    }

    pub fn request<'h, 'b: 'h>(&'b self, room: &'h mut [Header<'b>; HEADERS_MAX]) -> Request<'h> {
        self.head.request(&self.bytes, room)
    }

    pub fn body(&self) -> &[u8] {
        &self.bytes[self.head_bytes..]
    }
}

/// A key file with the key store's one key, read.
pub fn local() -> Local {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("keys.json");
    Local::create(&file, &[KEY_ID]).expect("a key file");
    Local::load(&file).expect("the key file")
}

/// The local key manager behind sessions, as an HSM would be.
struct LocalEngine(Arc<Local>);

struct LocalSession(Arc<Local>);

impl Engine for LocalEngine {
    fn open(&self) -> Result<Box<dyn Session>, Fault> {
        Ok(Box::new(LocalSession(self.0.clone())))
    }
    fn info(&self) -> Result<ManagerInfo, Fault> {
        Ok(self.0.info())
    }
    fn concurrency(&self) -> Concurrency {
        Concurrency::Single
    }
}

impl Session for LocalSession {
    fn execute(&mut self, job: Job) -> Outcome {
        self.0.execute(job)
    }
    fn probe(&mut self) -> Result<(), Fault> {
        self.0
            .execute(Job {
                key: KeyRef::first(""),
                task: Task::Probe,
                deadline: Instant::now() + DEADLINE_TICK,
            })
            .map(drop)
    }
    fn is_usable(&self) -> bool {
        true
    }
}

/// A pool of one lane over the local key manager, whose session is open.
pub fn pool(mailbox: &Arc<Mailbox>) -> Arc<Pool> {
    let settings = PoolSettings {
        name: "bench".to_owned(),
        lanes: 1,
        shards: 1,
        hang_after: Duration::from_secs(60),
        open_hang_after: Duration::from_secs(60),
    };
    let pool =
        Pool::start(settings, Arc::new(LocalEngine(Arc::new(local()))), vec![mailbox.clone()]);
    while pool.snapshot(Instant::now()).lanes_open == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    pool
}

/// The key manager of the fixture, in this process.
pub fn in_process() -> KeyManager {
    KeyManager::in_process(KEY_MANAGER, Arc::new(local()))
}

/// The same behind one lane, whose session is open.
fn with_a_lane(mailbox: &Arc<Mailbox>) -> KeyManager {
    let engine = Arc::new(LocalEngine(Arc::new(local())));
    let manager =
        KeyManager::with_sessions(KEY_MANAGER, engine, 1, std::slice::from_ref(mailbox), 1);
    while manager.sessions().expect("it has sessions").lanes_open == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    manager
}

/// Two policies as a bank would have: which services, which accounts.
pub const POLICIES: &str = r#"
    @id("services") permit(principal, action, resource)
    when { context has kmsViaService
           && (context.kmsViaService like "s3.*" || context.kmsViaService like "ebs.*") };
    @id("accounts") forbid(principal, action, resource)
    unless { ["123456789012", "111122223333"].contains(principal.account) };"#;

/// [`POLICIES`] for the one key.
pub fn policies() -> Policies {
    let files = [Source { name: "policies".to_owned(), text: POLICIES.to_owned() }];
    let sources = Sources { policies: &files, entities: &[], key_store: PREFIX, keys: &[KEY_ID] };
    cedar::load(&sources).expect("valid").0
}

/// One whose encryptions are counted.
fn key(manager: &KeyManager) -> Key {
    if manager.keeps_versions() {
        return Key::managed(KEY_ID, manager.versions(KEY_ID), true, |_| Some(Budget::new(0)));
    }
    let (key, budget) = (KeyRef::first(KEY_ID), Some(Budget::new(0)));
    let (state, cipher) = (VersionState::Primary, Cipher::Direct);
    let only = Version { key, state, cipher, budget };
    Key::with_versions(vec![only], true).expect("one is primary")
}

fn policy() -> Option<Policy> {
    Some(Policy {
        policies: policies().into(),
        mode: Mode::Enforce,
        ids_in_errors: false,
        revision: Revision::next(),
    })
}

/// Key stores with one key store, served by `manager`.
pub fn key_stores(manager: KeyManager) -> Arc<ArcSwap<KeyStores>> {
    let info = ManagerInfo {
        vendor: "xksd".to_owned(),
        model: "local".to_owned(),
        token: "bench".to_owned(),
        ..ManagerInfo::default()
    };
    manager.probe.store(Some(Arc::new(Probe {
        at: Instant::now(),
        result: Ok((Duration::from_millis(1), ProbeKey::Own)),
        info,
    })));
    let store = KeyStore {
        messages: Nonces::default(),
        prefix: PREFIX.into(),
        enabled: true,
        credentials: credentials(),
        keys: HashMap::from([(KEY_ID.to_owned(), key(&manager))]),
        managers: vec![Arc::new(manager)],
        share: Share::of_key_store(0, 1),
        accept_aws_sample: false,
        quota: None,
        exhausted: Exhausted::Warn,
        fleet: Arc::default(),
        policy: policy(),
    };
    let by_prefix = HashMap::from([(PREFIX.to_owned(), Arc::new(store))]);
    Arc::new(ArcSwap::from_pointee(KeyStores {
        by_prefix,
        regions: vec![REGION.to_owned()],
        request_budget: Duration::from_secs(10),
    }))
}

/// A shard's pipeline, and the buffer that a connection keeps for answers.
pub struct Proxy {
    pub pipeline: Pipeline,
    pub log: Log,
    pub answered: Vec<u8>,
    inbox: Rc<Inbox>,
    waker: Waker,
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

impl Proxy {
    /// Over keys in this process; the log's lines are made and thrown away.
    pub fn local() -> Proxy {
        Proxy::over(in_process())
    }

    /// The same with another key manager.
    pub fn over(manager: KeyManager) -> Proxy {
        Proxy::new(Mailbox::new(), manager)
    }

    /// Over a lane.
    pub fn lane() -> Proxy {
        let mailbox = Mailbox::new();
        let manager = with_a_lane(&mailbox);
        Proxy::new(mailbox, manager)
    }

    fn new(mailbox: Arc<Mailbox>, manager: KeyManager) -> Proxy {
        let (log, _) = Log::start(Format::Json, std::io::sink()).expect("a thread");
        let inbox = Inbox::new(0, mailbox);
        let pipeline = Pipeline::new(
            0,
            key_stores(manager),
            Arc::default(),
            inbox.clone(),
            Arc::new(ShardMetrics::default()),
            log.clone(),
            Waiter::new(Arc::new(Recording::new(1)), 0),
        );
        Proxy { pipeline, log, answered: Vec::new(), inbox, waker: waker() }
    }

    /// Has a request answered as a connection has it; the body is in `answered`, the status comes
    /// back.
    pub fn answer(&mut self, received: &Received) -> u16 {
        self.answered.clear();
        let mut room = [Header::EMPTY; HEADERS_MAX];
        let request = received.request(&mut room);
        let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000));
        let arrival = Arrival {
            first_byte: Instant::now(),
            set_up: Duration::ZERO,
            head_read: received.at,
            client,
            common_name: None,
            vpce: None,
        };
        let answering =
            self.pipeline.on_request(&request, received.body(), &arrival, &mut self.answered);
        block_on(&self.inbox, &self.waker, answering)
    }
}

/// Wakes the calling thread.
pub fn waker() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

/// Runs `future` and, beside it, the delivery of lanes' outcomes, as a shard does.
pub fn block_on<T>(inbox: &Rc<Inbox>, waker: &Waker, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(waker);
    if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
        return value;
    }
    let mut deliver = pin!(inbox.deliver());
    loop {
        let Poll::Pending = deliver.as_mut().poll(&mut cx);
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        thread::park_timeout(DEADLINE_TICK);
        inbox.expire(Instant::now());
    }
}
