//! One HTTPS connection, blocking, with the time of each phase.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, InconsistentKeys,
    InvalidMessage, StreamOwned,
};

use super::balancer::Balancer;
use crate::tls::pem_file::certificates_once;
use crate::tls::{self, Certificate, client};

/// A probe waits this long for anything: well beyond KMS's 250 ms, so that a slow answer is
/// reported with its time.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer of the API is a few KiB; more is not one.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// Where and how to connect.
pub struct Target {
    /// Host name or address, as in the certificate and the Host field.
    pub host: String,
    /// TCP port of the endpoint.
    pub port: u16,
    /// Host name or address, and port, to connect to; those of the endpoint where it is left out.
    pub connect_to: Option<(String, u16)>,
    /// What is sent before TLS, as a load balancer does.
    pub balancer: Balancer,
    /// PEM file of the authorities trusted for the server's certificate.
    pub ca: PathBuf,
    /// Client certificate chain and key, for mutual TLS.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Subject CNs that the proxy accepts of clients, where its configuration is known.
    pub client_names: Vec<String>,
}

/// An open connection.
pub struct Client {
    stream: StreamOwned<ClientConnection, TcpStream>,
    host: String,
    /// What it is connected to.
    pub address: SocketAddr,
    /// Name look-up and TCP connection.
    pub connect: Duration,
    hints: Hints,
    lost: bool,
    /// TLS handshake.
    pub handshake: Duration,
    /// For example `TLSv1.3 TLS13_AES_256_GCM_SHA384`.
    pub protocol: String,
}

/// An answer.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body, without transfer coding.
    pub body: Vec<u8>,
    /// `Content-Type`.
    pub content_type: String,
    /// From the first byte sent to the last byte received.
    pub time: Duration,
}

impl Client {
    /// Connects and finishes the handshake; `config` is the target's [`tls_config`].
    ///
    /// # Errors
    /// A sentence naming the step that failed.
    pub fn connect(target: &Target, config: ClientConfig) -> Result<Client, String> {
        let hints = Hints {
            ca: target.ca.clone(),
            host: target.host.clone(),
            has_certificate: target.client.is_some(),
            client_names: target.client_names.clone(),
        };
        let name = ServerName::try_from(target.host.clone())
            .map_err(|e| format!("{}: {e}", target.host))?;
        let start = Instant::now();
        let (host, port) = match &target.connect_to {
            Some((host, port)) => (host, *port),
            None => (&target.host, target.port),
        };
        let mut addresses = (host.as_str(), port)
            .to_socket_addrs()
            .map_err(|e| format!("looking up {host}: {e}"))?;
        // KMS connects over IPv4 only.
        let address = addresses
            .clone()
            .find(|a| a.is_ipv4())
            .or_else(|| addresses.next())
            .ok_or(format!("{host} has no address"))?;
        let mut socket = TcpStream::connect_timeout(&address, PATIENCE)
            .map_err(|e| format!("connecting to {address}: {e}"))?;
        socket
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| socket.set_write_timeout(Some(PATIENCE)))
            .and_then(|()| socket.set_nodelay(true))
            .map_err(|e| format!("{address}: {e}"))?;
        let connect = start.elapsed();
        announce(&mut socket, &target.balancer).map_err(|e| format!("{address}: {e}"))?;
        let mut tls =
            ClientConnection::new(Arc::new(config), name).map_err(|e| format!("TLS: {e}"))?;
        let start = Instant::now();
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)
                .map_err(|e| format!("TLS handshake with {address}: {}", hints.explain(&e)))?;
        }
        let handshake = start.elapsed();
        let protocol = format!(
            "{} {}",
            tls.protocol_version().and_then(|v| v.as_str()).unwrap_or("?"),
            tls.negotiated_cipher_suite().and_then(|s| s.suite().as_str()).unwrap_or("?")
        );
        let host = host_field(&target.host, target.port);
        Ok(Client {
            stream: StreamOwned::new(tls, socket),
            host,
            address,
            connect,
            hints,
            lost: false,
            handshake,
            protocol,
        })
    }

    /// What goes into the Host field.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// What the server has shown: its own certificate, then those above it.
    pub fn certificates(&self) -> Vec<Certificate> {
        tls::describe_chain(self.stream.conn.peer_certificates().unwrap_or_default())
    }

    /// A call failed: whatever comes next on this connection would say nothing about the proxy.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// A sentence saying what is wrong with the connection or the answer.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, String> {
        let result = self.exchange(method, path, headers, body);
        self.lost = result.is_err();
        result
    }

    fn exchange(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, String> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n",
            self.host,
            body.len()
        );
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        let start = Instant::now();
        if let Err(error) = self.stream.write_all(&bytes).and_then(|()| self.stream.flush()) {
            // In TLS 1.3 a client hears of its certificate's refusal only now: the alert tells more
            // than the closed connection.
            let error = self.stream.read(&mut [0]).err().filter(is_tls).unwrap_or(error);
            return Err(format!("sending {method} {path}: {}", self.hints.explain(&error)));
        }
        let (status, content_type, body) =
            self.read_answer().map_err(|e| format!("answer to {method} {path}: {e}"))?;
        Ok(Answer { status, body, content_type, time: start.elapsed() })
    }

    fn read_answer(&mut self) -> Result<(u16, String, Vec<u8>), String> {
        let mut bytes = Vec::new();
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut fields);
            if let httparse::Status::Complete(head) =
                response.parse(&bytes).map_err(|e| e.to_string())?
            {
                let status = response.code.unwrap_or(0);
                let field = |name: &str| {
                    let value =
                        response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name))?.value;
                    Some(String::from_utf8_lossy(value).into_owned())
                };
                let content_type = field("content-type").unwrap_or_default();
                let chunked = field("transfer-encoding")
                    .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
                let length = field("content-length");
                bytes.drain(..head);
                let body = match (chunked, length) {
                    (true, _) => self.read_chunked(bytes)?,
                    (false, Some(length)) => {
                        let length =
                            length.parse().map_err(|_| format!("Content-Length {length}"))?;
                        self.read_until(&mut bytes, length)?;
                        bytes.truncate(length);
                        bytes
                    }
                    (false, None) => return Err("neither Content-Length nor chunked".into()),
                };
                return Ok((status, content_type, body));
            }
            let have = bytes.len();
            self.read_until(&mut bytes, have + 1)?;
        }
    }

    fn read_until(&mut self, bytes: &mut Vec<u8>, length: usize) -> Result<(), String> {
        if length > ANSWER_BYTES_MAX {
            return Err(format!("larger than {ANSWER_BYTES_MAX} bytes"));
        }
        let mut chunk = [0; 4096];
        while bytes.len() < length {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("the connection was closed before its end".into()),
                Ok(n) => bytes.extend_from_slice(&chunk[..n]),
                Err(e) => return Err(self.hints.explain(&e)),
            }
        }
        Ok(())
    }

    fn read_chunked(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        let (mut body, mut at) = (Vec::new(), 0);
        loop {
            let (line, size) = loop {
                match httparse::parse_chunk_size(&bytes[at..])
                    .map_err(|_| "bad chunk size".to_string())?
                {
                    httparse::Status::Complete((line, size)) => break (line, size),
                    httparse::Status::Partial => {
                        let have = bytes.len();
                        self.read_until(&mut bytes, have + 1)?;
                    }
                }
            };
            let size = usize::try_from(size)
                .ok()
                .filter(|&n| n <= ANSWER_BYTES_MAX)
                .ok_or("chunk too large")?;
            self.read_until(&mut bytes, at + line + size + 2)?;
            body.extend_from_slice(&bytes[at + line..at + line + size]);
            at += line + size + 2;
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// Says whose connection it is, where the proxy expects that.
fn announce(socket: &mut TcpStream, balancer: &Balancer) -> io::Result<()> {
    match balancer.header(socket.local_addr()?, socket.peer_addr()?) {
        Some(header) => socket.write_all(&header),
        None => Ok(()),
    }
}

/// RFC 9110, 7.2, and RFC 3986, 3.2.2: an IPv6 address stands in brackets.
fn host_field(host: &str, port: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    if port == 443 { host } else { format!("{host}:{port}") }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// Which option would help, where a TLS failure says so.
struct Hints {
    ca: PathBuf,
    host: String,
    has_certificate: bool,
    client_names: Vec<String>,
}

impl Hints {
    /// The error, with a hint behind it.
    fn explain(&self, error: &io::Error) -> String {
        match error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .and_then(|tls| self.hint(tls))
        {
            Some(hint) => format!("{error}; {hint}"),
            None => error.to_string(),
        }
    }

    /// With mutual TLS for KMS only, nobody else has a certificate that is let in.
    fn how_to_show_a_certificate(&self) -> String {
        let give = "give --client-certificate and --client-key";
        if self.client_names.is_empty() {
            return format!("does the proxy want a client certificate? {give}");
        }
        format!(
            "the proxy lets in clients with the subject CN {:?} only: {give}. To probe without \
             KMS's certificate, make one of an authority of yours, add the authority to \
             tls.client.trust_anchors and its CN to subject_common_names, and reload",
            self.client_names
        )
    }

    fn hint(&self, error: &rustls::Error) -> Option<String> {
        use AlertDescription::{
            AccessDenied, BadCertificate, CertificateExpired, CertificateRequired,
            CertificateRevoked, CertificateUnknown, DecryptError, HandshakeFailure, UnknownCA,
            UnsupportedCertificate,
        };
        match error {
            // BadSignature: one of the same name, but another key.
            rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => Some(format!(
                "no authority in {} has issued the proxy's certificate: give --ca FILE, or have \
                 the proxy send its intermediate certificates",
                self.ca.display()
            )),
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => Some(format!(
                "the certificate is not for {:?}: give the name that clients use as --server-name",
                self.host
            )),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                Some("no TLS there: is this the port of the XKS API?".to_owned())
            }
            rustls::Error::AlertReceived(
                CertificateRequired | BadCertificate | UnknownCA | HandshakeFailure,
            ) if !self.has_certificate => Some(self.how_to_show_a_certificate()),
            rustls::Error::AlertReceived(
                BadCertificate
                | UnknownCA
                | UnsupportedCertificate
                | CertificateRevoked
                | CertificateExpired
                | CertificateUnknown
                | AccessDenied
                | DecryptError,
            ) if self.has_certificate => Some(
                "the proxy refuses the certificate of --client-certificate: its issuer, subject \
                 common name, purpose or dates"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

/// Trust and client certificate, from the files that the target names.
///
/// # Errors
/// A sentence with the file or the option that cannot be used.
pub fn tls_config(target: &Target) -> Result<ClientConfig, String> {
    let builder = client::trusting(certificates_once(&target.ca)?)
        .map_err(|why| format!("{}: {why}", target.ca.display()))?;
    let mut config = match &target.client {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let certificates = certificates_once(chain)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| format!("{}: {error}", key.display()))?;
            builder.with_client_auth_cert(certificates, key).map_err(|e| match e {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    "--client-key does not belong to --client-certificate".to_owned()
                }
                e => format!("{}: {e}", chain.display()),
            })?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::host_field;

    #[test]
    fn the_host_field_has_the_port_that_is_not_the_usual_one() {
        assert_eq!(host_field("xks.example.com", 443), "xks.example.com");
        assert_eq!(host_field("xks.example.com", 8443), "xks.example.com:8443");
        assert_eq!(
            (host_field("::1", 443), host_field("::1", 8443)),
            ("[::1]".to_owned(), "[::1]:8443".to_owned())
        );
    }
}
