//! A separate signer for the tests: builds the texts of SigV4 as strings, shares no code with the
//! verifier.

use ring::{digest, hmac};

use crate::http1::{Header, Request};

/// With whose credential, for which scope and when to sign.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    pub(super) access_key_id: String,
    pub(super) secret: String,
    pub(super) timestamp: String,
    pub(super) region: String,
    pub(super) service: String,
}

/// A request that owns its parts, so that a test can change them.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

impl Message {
    pub(super) fn new(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        Self {
            method: method.into(),
            path: path.into(),
            query: query.into(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).into(), value.trim().as_bytes().to_vec()))
                .collect(),
            body: body.into(),
        }
    }

    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Replaces the value of the first header of that name.
    pub(super) fn replace(mut self, name: &str, value: &str) -> Self {
        let header = self
            .headers
            .iter_mut()
            .find(|header| header.0.eq_ignore_ascii_case(name))
            .expect("the header is there");
        header.1 = value.into();
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|header| !header.0.eq_ignore_ascii_case(name));
        self
    }

    pub(super) fn value(&self, name: &str) -> String {
        let header = self
            .headers
            .iter()
            .find(|header| header.0.eq_ignore_ascii_case(name))
            .expect("the header is there");
        String::from_utf8(header.1.clone()).expect("ASCII")
    }

    pub(super) fn with_request<T>(&self, then: impl FnOnce(&Request<'_>) -> T) -> T {
        let headers: Vec<Header<'_>> =
            self.headers.iter().map(|(name, value)| Header { name, value }).collect();
        then(&Request {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            headers: &headers,
        })
    }

    /// Adds `X-Amz-Date` and `Authorization` that signs every header.
    pub(super) fn signed(self, signer: &Signer) -> Self {
        let dated = self.header("X-Amz-Date", &signer.timestamp);
        let mut names: Vec<String> =
            dated.headers.iter().map(|header| header.0.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        let authorization =
            signer.authorization(&dated, &names.join(";"), &hex(sha256(&dated.body)));
        dated.header("Authorization", &authorization)
    }
}

impl Signer {
    pub(super) fn authorization(
        &self,
        message: &Message,
        signed_headers: &str,
        payload: &str,
    ) -> String {
        let mut path = String::new();
        for byte in message.path.bytes() {
            match byte {
                b'/' | b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => {
                    path.push(byte.into())
                }
                _ => path.push_str(&format!("%{byte:02X}")),
            }
        }
        let mut parameters: Vec<(String, String)> = Vec::new();
        for parameter in message.query.split('&').filter(|parameter| !parameter.is_empty()) {
            let mut parts = parameter.splitn(2, '=');
            parameters.push((
                parts.next().unwrap_or_default().into(),
                parts.next().unwrap_or_default().into(),
            ));
        }
        parameters.sort();
        let query = parameters
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join("&");

        let mut request = format!("{}\n{path}\n{query}\n", message.method).into_bytes();
        for name in signed_headers.split(';') {
            let mut values: Vec<Vec<u8>> = Vec::new();
            for header in
                message.headers.iter().filter(|header| header.0.to_ascii_lowercase() == name)
            {
                let mut folded = header.1.trim_ascii().to_vec();
                folded.iter_mut().filter(|byte| **byte == b'\t').for_each(|byte| *byte = b' ');
                folded.dedup_by(|a, b| *a == b' ' && *b == b' ');
                values.push(folded);
            }
            request.extend([name.as_bytes(), b":", &values.join(&b","[..]), b"\n"].concat());
        }
        request.extend(format!("\n{signed_headers}\n{payload}").into_bytes());

        let date = &self.timestamp[..8];
        let scope = format!("{date}/{}/{}/aws4_request", self.region, self.service);
        let text =
            format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", self.timestamp, hex(sha256(&request)));
        let mut key = format!("AWS4{}", self.secret).into_bytes();
        for input in [date, &self.region, &self.service, "aws4_request", &text] {
            key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), input.as_bytes())
                .as_ref()
                .to_vec();
        }
        let signature = hex(key);
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={signed_headers}, \
             Signature={signature}",
            self.access_key_id
        )
    }
}

pub(super) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

pub(super) fn hex(bytes: Vec<u8>) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
