//! A whole shard over a connection: TLS, HTTP, the pipeline, and the executor that runs them.

use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::{Arc, Weak, mpsc};
use std::task::Poll;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use xksd::audit::recording::Recording;
use xksd::sched::Mailbox;
use xksd::shard::{Listen, ShardSeed, ShardThread, Stop};
use xksd::telemetry::log::Format;
use xksd::telemetry::{Log, ShardMetrics};
use xksd::tls;

use super::counter::Counter;
use super::fixture;
use test_harness::pki;

/// A shard with the key store of the fixture over keys in this process, and a client's connection
/// to it.
pub struct Site {
    pub client: StreamOwned<ClientConnection, TcpStream>,
    pub counter: &'static Counter,
    pub log: Log,
    stop: Arc<Stop>,
    thread: Option<ShardThread>,
}

impl Site {
    pub fn start() -> Site {
        let dir = tempfile::tempdir().expect("a directory");
        let ca = pki::Ca::root("Test CA");
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = ca.issue(&pki::Leaf::server(), &key);
        let settings = tls::Settings {
            certificate_chain: pki::write(dir.path(), "chain.pem", &certificate.pem()),
            private_key: pki::write(dir.path(), "key.pem", &key.serialize_pem()),
            client: None,
        };
        let (log, _) = Log::start(Format::Json, std::io::sink()).expect("a thread");
        let stop = Arc::new(Stop::default());
        let seed = ShardSeed {
            index: 0,
            core: *xksd::control::system::allowed_cores()
                .expect("an affinity")
                .first()
                .expect("a core"),
            listen: Listen::On(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            connections_max: 16,
            stores: fixture::key_stores(fixture::in_process()),
            blocks: Arc::default(),
            tls: Arc::new(ArcSwap::from_pointee(tls::server(&settings).expect("TLS"))),
            balancers: Arc::default(),
            mailbox: Mailbox::new(),
            metrics: Arc::new(ShardMetrics::default()),
            log: log.clone(),
            audit: Arc::new(Recording::new(1)),
            stop: stop.clone(),
            heartbeat: Arc::default(),
        };
        let (counter, site) = (Counter::new(), Arc::downgrade(&stop));
        let (started, listening) = mpsc::channel();
        let thread = seed.start(move |result| {
            counter.enlist();
            wake_now_and_then(site);
            started.send(result).expect("the test waits");
        });
        let address = listening.recv().expect("the shard tells").expect("it listens");
        let client = connect(address, &ca.pem());
        Site { client, counter, log, stop, thread: Some(thread.expect("a shard")) }
    }

    /// Sends a request and waits for its answer, whose status comes back.
    pub fn call(&mut self, request: &[u8]) -> u16 {
        self.client.write_all(request).expect("sent");
        self.client.flush().expect("sent");
        let mut answer = [0; 4096];
        let mut filled = 0;
        loop {
            filled += self.client.read(&mut answer[filled..]).expect("an answer");
            let text = std::str::from_utf8(&answer[..filled]).expect("text");
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length: usize = head
                    .split_once("Content-Length: ")
                    .and_then(|(_, rest)| rest.lines().next())
                    .expect("a length")
                    .parse()
                    .expect("a number");
                if body.len() == length {
                    return head[9..12].parse().expect("a status");
                }
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.request();
        let _ = self.client.sock.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The executor of the calling thread may sleep over a task that is ready (glommio/glommio#53).
/// What ends such a sleep in `xksd` is linked into that program alone (`crates/syscall`): here a
/// thread does, for as long as the site stands.
fn wake_now_and_then(site: Weak<Stop>) {
    let mut site = Some(site);
    let wait = poll_fn(move |cx| {
        if let Some(site) = site.take() {
            let waker = cx.waker().clone();
            std::thread::spawn(move || {
                while site.strong_count() > 0 {
                    std::thread::sleep(Duration::from_millis(2));
                    waker.wake_by_ref();
                }
            });
        }
        Poll::<()>::Pending
    });
    glommio::spawn_local(wait).detach();
}

fn connect(address: SocketAddr, ca: &str) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("a root");
    let config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
    let client = ClientConnection::new(
        Arc::new(config),
        ServerName::try_from(pki::SERVER_NAME).expect("a name"),
    )
    .expect("a client");
    let socket = TcpStream::connect(address).expect("connected");
    socket.set_nodelay(true).expect("set");
    StreamOwned::new(client, socket)
}
