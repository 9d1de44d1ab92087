//! TLS in memory, as xksd speaks it: a request and its answer, and full handshakes.

use std::hint::black_box;
use std::io::{Read, Write};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig,
    ServerConnection, SideData,
};
use xksd::tls::{self, Settings};

use crate::fixture::{Received, encrypt_body};
use test_harness::pki;

pub fn benches(c: &mut Criterion) {
    let (server, client) = configurations();
    let mut group = c.benchmark_group("tls");
    group.bench_function("full handshake, both sides", |b| b.iter(|| handshake(&server, &client)));

    let request = Received::new("encrypt", &encrypt_body(32, 64)).bytes;
    let answer = [b'a'; 400];
    let (mut server, mut client) = handshake(&server, &client);
    let (mut wire, mut text) = (Vec::new(), vec![0; 16 * 1024]);
    group.throughput(Throughput::Bytes((request.len() + answer.len()) as u64));
    group.bench_function("request and answer, both sides", |b| {
        b.iter(|| {
            pass(&mut client, &mut server, black_box(&request), &mut wire, &mut text);
            pass(&mut server, &mut client, black_box(&answer), &mut wire, &mut text);
        });
    });
}

/// Sends `text` as a record from one side to the other, which reads it into `read`.
fn pass<A: SideData, B: SideData>(
    from: &mut impl DerefMut<Target = ConnectionCommon<A>>,
    to: &mut impl DerefMut<Target = ConnectionCommon<B>>,
    text: &[u8],
    wire: &mut Vec<u8>,
    read: &mut [u8],
) {
    from.writer().write_all(text).expect("buffered");
    carry(from, to, wire);
    assert_eq!(to.reader().read(read).expect("read"), text.len());
}

/// Everything that one side has to say goes to the other.
fn carry<A: SideData, B: SideData>(
    from: &mut impl DerefMut<Target = ConnectionCommon<A>>,
    to: &mut impl DerefMut<Target = ConnectionCommon<B>>,
    wire: &mut Vec<u8>,
) {
    wire.clear();
    while from.wants_write() {
        from.write_tls(wire).expect("written");
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).expect("read");
        to.process_new_packets().expect("understood");
    }
}

fn handshake(
    server: &Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> (ServerConnection, ClientConnection) {
    let mut server = ServerConnection::new(server.clone()).expect("a server");
    let name = ServerName::try_from(pki::SERVER_NAME).expect("a name");
    let mut client = ClientConnection::new(client.clone(), name).expect("a client");
    let mut wire = Vec::new();
    while client.deref().is_handshaking()
        || server.deref().is_handshaking()
        || server.deref().wants_write()
    {
        carry(&mut client, &mut server, &mut wire);
        carry(&mut server, &mut client, &mut wire);
    }
    (server, client)
}

/// Of a server with an ECDSA P-256 certificate, and of a client that does not resume.
fn configurations() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = pki::Ca::root("Bench CA");
    let key = rcgen::KeyPair::generate().expect("a key");
    let settings = Settings {
        certificate_chain: pki::write(
            dir.path(),
            "chain.pem",
            &ca.issue(&pki::Leaf::server(), &key).pem(),
        ),
        private_key: pki::write(dir.path(), "key.pem", &key.serialize_pem()),
        client: None,
    };
    let server = tls::server(&settings).expect("TLS").config().clone();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).expect("PEM")).expect("a root");
    let mut client =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();
    (server, Arc::new(client))
}
