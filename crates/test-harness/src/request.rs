//! Requests as bytes, signed by SigV4 as AWS KMS does it, or wrongly in every way a test wants.

use ring::{digest, hmac};
use serde_json::Value;
use time::macros::format_description;
use time::{Duration, OffsetDateTime};

use crate::Server;

/// An access key id and its secret.
#[derive(Clone, Copy, Debug)]
pub struct Credential {
    pub id: &'static str,
    pub secret: &'static str,
}

/// How the body is sent.
#[derive(Clone, Debug)]
pub enum Delivery {
    Length,
    /// In chunks of so many bytes, the last of which may be shorter.
    Chunked(usize),
}

/// A request; the fields may be changed before [`Request::bytes`].
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    /// As it stands in the request line.
    pub target: String,
    /// As it is signed.
    pub path: String,
    pub version: &'static str,
    pub host: String,
    pub body: Vec<u8>,
    /// Sent instead of `body`, which is signed.
    pub body_sent: Option<Vec<u8>>,
    pub delivery: Delivery,
    pub credential: Credential,
    pub region: &'static str,
    pub service: &'static str,
    /// `x-amz-date` is so far from now.
    pub skew: Duration,
    /// Scope date is so far from `x-amz-date`.
    pub scope_skew: Duration,
    /// Lower-case names in order.
    pub signed: Vec<&'static str>,
    /// More header lines, unsigned unless `signed` names them.
    pub headers: Vec<(&'static str, String)>,
    /// Leave `Authorization` out.
    pub unsigned: bool,
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

impl Request {
    /// `POST path` signed with [`crate::A`]; `path` is whole.
    pub fn new(server: &Server, path: &str, body: &Value) -> Self {
        Self::of_bytes(server, path, body.to_string().into_bytes())
    }

    pub fn of_bytes(server: &Server, path: &str, body: Vec<u8>) -> Self {
        Self::to(&server.host(), path, body)
    }

    /// The same to any host.
    pub fn to(host: &str, path: &str, body: Vec<u8>) -> Self {
        Self {
            method: "POST",
            target: path.to_owned(),
            path: path.to_owned(),
            version: "HTTP/1.1",
            host: host.to_owned(),
            body,
            body_sent: None,
            delivery: Delivery::Length,
            credential: crate::A,
            region: "us-east-1",
            service: "kms-xks-proxy",
            skew: Duration::ZERO,
            scope_skew: Duration::ZERO,
            signed: vec!["host", "x-amz-date"],
            headers: Vec::new(),
            unsigned: false,
        }
    }

    /// A health call of key store `/one` with this kmsRequestId.
    pub fn health(server: &Server, id: &str) -> Self {
        let of_kms = serde_json::json!({"kmsRequestId": id, "kmsOperation": "KmsHealthCheck"});
        let body = serde_json::json!({"requestMetadata": of_kms});
        Self::new(server, "/one/kms/xks/v1/health", &body)
    }

    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// One more header line.
    pub fn header(self, name: &'static str, value: &str) -> Self {
        self.with(|r| r.headers.push((name, value.to_owned())))
    }

    /// Request line and headers, with the empty line.
    pub fn head(&self) -> Vec<u8> {
        let now = OffsetDateTime::now_utc() + self.skew;
        let date = now
            .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
            .expect("a date");
        let day = (now + self.scope_skew)
            .format(format_description!("[year][month][day]"))
            .expect("a date");
        let mut lines = vec![
            ("host", self.host.clone()),
            ("x-amz-date", date.clone()),
            ("content-type", "application/json".to_owned()),
        ];
        lines.extend(self.headers.iter().cloned());
        let canonical_headers: String = self
            .signed
            .iter()
            .filter_map(|name| lines.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)))
            .map(|(name, value)| format!("{}:{}\n", name.to_ascii_lowercase(), value.trim()))
            .collect();
        let signed = self.signed.join(";");
        let canonical = format!(
            "{}\n{}\n\n{canonical_headers}\n{signed}\n{}",
            self.method,
            self.path,
            sha256(&self.body)
        );
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let key = [day.as_str(), self.region, self.service, "aws4_request"]
            .iter()
            .fold(format!("AWS4{}", self.credential.secret).into_bytes(), |key, part| {
                mac(&key, part)
            });
        if !self.unsigned {
            let signature = hex(&mac(&key, &to_sign));
            let value = format!(
                "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed}, \
                 Signature={signature}",
                self.credential.id
            );
            lines.push(("authorization", value));
        }
        match self.delivery {
            Delivery::Length => lines.push(("content-length", self.sent().len().to_string())),
            Delivery::Chunked(_) => lines.push(("transfer-encoding", "chunked".to_owned())),
        }
        let lines: String =
            lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{} {} {}\r\n{lines}\r\n", self.method, self.target, self.version).into_bytes()
    }

    fn sent(&self) -> &[u8] {
        self.body_sent.as_deref().unwrap_or(&self.body)
    }

    /// What follows the head.
    pub fn framed_body(&self) -> Vec<u8> {
        match self.delivery {
            Delivery::Length => self.sent().to_vec(),
            Delivery::Chunked(size) => {
                let mut framed = Vec::new();
                for chunk in self.sent().chunks(size) {
                    framed.extend_from_slice(
                        format!("{:x};extension=\"of; no use\"\r\n", chunk.len()).as_bytes(),
                    );
                    framed.extend_from_slice(chunk);
                    framed.extend_from_slice(b"\r\n");
                }
                framed.extend_from_slice(b"0\r\nx-trailer: ignored\r\n\r\n");
                framed
            }
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        [self.head(), self.framed_body()].concat()
    }
}
