//! The four calls as KMS makes them, over one connection that is kept.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest;
use serde_json::{Value, json};

use crate::{Installation, Request, Response, Server, Wire};

pub fn b64(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// A Base64 field of an answer.
pub fn bytes(json: &Value, field: &str) -> Vec<u8> {
    STANDARD
        .decode(json[field].as_str().unwrap_or_else(|| panic!("no {field} in {json}")))
        .expect("Base64")
}

/// A kmsRequestId nobody else has in this test.
pub fn request_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("request-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A body with full requestMetadata and these fields.
pub fn envelope(kms_operation: &str, fields: &Value) -> Value {
    let metadata = json!({
        "awsPrincipalArn": "arn:aws:iam::210987654321:role/Backup",
        "kmsKeyArn": "arn:aws:kms:us-east-1:210987654321:key/11111111-2222-3333-4444-555555555555",
        "kmsOperation": kms_operation,
        "kmsRequestId": request_id(),
        "kmsViaService": "ebs.us-east-1.amazonaws.com",
    });
    with(&json!({"requestMetadata": metadata}), fields)
}

/// `body` with `fields` put over its own; a null takes the field away.
pub fn with(body: &Value, fields: &Value) -> Value {
    let mut body = body.clone();
    for (name, value) in fields.as_object().expect("an object") {
        if value.is_null() {
            body.as_object_mut().expect("an object").remove(name);
        } else {
            body[name] = value.clone();
        }
    }
    body
}

/// `additionalAuthenticatedData` as a field.
pub fn aad(text: &str) -> Value {
    json!({"additionalAuthenticatedData": b64(text)})
}

pub fn encrypt_body(plaintext: &[u8], more: &Value) -> Value {
    with(
        &envelope(
            "GenerateDataKey",
            &json!({"plaintext": b64(plaintext), "encryptionAlgorithm": "AES_GCM"}),
        ),
        more,
    )
}

/// What a decrypt call needs, out of an encrypt answer.
pub fn decrypt_body(encrypted: &Value, more: &Value) -> Value {
    let mut body = envelope("Decrypt", &json!({"encryptionAlgorithm": "AES_GCM"}));
    for name in ["ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata"] {
        if let Some(value) = encrypted.get(name) {
            body[name] = value.clone();
        }
    }
    with(&body, more)
}

/// The integrity value by the specification's formula.
pub fn cdiv(aad: &[u8], answer: &Value) -> String {
    let metadata = if answer.get("ciphertextMetadata").is_some() {
        bytes(answer, "ciphertextMetadata")
    } else {
        Vec::new()
    };
    let parts = [
        &metadata,
        &bytes(answer, "initializationVector"),
        &bytes(answer, "ciphertext"),
        &bytes(answer, "authenticationTag"),
    ];
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(aad);
    parts.iter().for_each(|part| context.update(part));
    b64(context.finish())
}

/// One key store over one connection.
pub struct Api {
    /// The `Host` of its requests.
    pub host: String,
    pub wire: Wire,
    pub prefix: &'static str,
    pub credential: crate::Credential,
}

impl Api {
    /// Key store `/one` with its first credential.
    pub fn new(installation: &Installation, server: &Server) -> Self {
        Self {
            host: server.host(),
            wire: Wire::connect(installation, server),
            prefix: "/one",
            credential: crate::A,
        }
    }

    pub fn request(&self, call: &str, body: &Value) -> Request {
        let path = format!("{}/kms/xks/v1/{call}", self.prefix);
        Request::to(&self.host, &path, body.to_string().into_bytes())
            .with(|r| r.credential = self.credential)
    }

    /// Sends a call, for example `keys/foo/encrypt`. The connection must stay open.
    pub fn call(&mut self, call: &str, body: &Value) -> Response {
        let response = self.wire.call(&self.request(call, body));
        assert!(!response.closes(), "{call}: {response:?}");
        response
    }

    /// As [`Api::call`]; must be answered 200.
    pub fn ok(&mut self, call: &str, body: &Value) -> Value {
        let response = self.call(call, body);
        assert_eq!(response.status, 200, "{call} {body}: {response:?}");
        response.json()
    }

    /// As [`Api::call`]; status and errorName.
    pub fn error(&mut self, call: &str, body: &Value) -> (u16, String) {
        self.call(call, body).error()
    }

    pub fn encrypt(&mut self, key: &str, plaintext: &[u8], more: &Value) -> Value {
        self.ok(&format!("keys/{key}/encrypt"), &encrypt_body(plaintext, more))
    }

    pub fn decrypt(&mut self, key: &str, encrypted: &Value, more: &Value) -> Vec<u8> {
        bytes(&self.ok(&format!("keys/{key}/decrypt"), &decrypt_body(encrypted, more)), "plaintext")
    }

    pub fn decrypt_error(&mut self, key: &str, encrypted: &Value, more: &Value) -> (u16, String) {
        self.error(&format!("keys/{key}/decrypt"), &decrypt_body(encrypted, more))
    }

    pub fn health(&mut self) -> Value {
        let of_kms = json!({"kmsRequestId": request_id(), "kmsOperation": "KmsHealthCheck"});
        let body = json!({"requestMetadata": of_kms});
        self.ok("health", &body)
    }

    /// Encrypts and decrypts once: the server serves.
    pub fn round_trip(&mut self, key: &str) {
        let encrypted = self.encrypt(key, b"round trip", &aad("of a test"));
        assert_eq!(self.decrypt(key, &encrypted, &aad("of a test")), b"round trip");
    }
}

/// The server still answers, on a new connection.
pub fn still_serves(installation: &Installation, server: &Server) {
    Api::new(installation, server).round_trip("foo");
}

/// Short for a status and an errorName.
pub fn name(status: u16, name: &str) -> (u16, String) {
    (status, name.to_owned())
}
