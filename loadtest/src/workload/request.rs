//! Requests, made once and signed again in place: what changes (date, signature, request id)
//! has a fixed length.

use std::rc::Rc;

use base64::prelude::{BASE64_STANDARD, Engine};

use super::sign::{DATE_CHARS, DAY_CHARS, Date, HEX_CHARS, Hex, Signer, sha256_hex};

/// The four calls of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `…/keys/<id>/encrypt`
    Encrypt,
    /// `…/keys/<id>/decrypt`
    Decrypt,
    /// `…/keys/<id>/metadata`
    Metadata,
    /// `…/health`
    Health,
}

impl Call {
    /// All of them, in the order of their index.
    pub const ALL: [Call; 4] = [Call::Encrypt, Call::Decrypt, Call::Metadata, Call::Health];

    /// As in the mix and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Call::Encrypt => "encrypt",
            Call::Decrypt => "decrypt",
            Call::Metadata => "metadata",
            Call::Health => "health",
        }
    }

    /// The `kmsOperation` that leads to it most often.
    fn kms_operation(self) -> &'static str {
        match self {
            Call::Encrypt => "GenerateDataKey",
            Call::Decrypt => "Decrypt",
            Call::Metadata => "DescribeKey",
            Call::Health => "KmsHealthCheck",
        }
    }
}

/// Where a request goes.
pub struct Route {
    /// Index of the key store, which is that of its signer.
    pub keystore: usize,
    /// External key id.
    pub key: String,
    /// Host field.
    pub host: String,
    /// Path up to and with `/kms/xks/v1`.
    pub base: String,
}

impl Route {
    fn path(&self, call: Call) -> String {
        match call {
            Call::Health => format!("{}/health", self.base),
            _ => format!("{}/keys/{}/{}", self.base, self.key, call.name()),
        }
    }
}

/// The `kmsRequestId`s of a worker: `rrrrrrrr-wwww-4000-8000-nnnnnnnnnnnn`.
pub struct RequestIds {
    run: u32,
    worker: u16,
    next: u64,
}

/// Length of a `kmsRequestId`.
const REQUEST_ID_CHARS: usize = 36;

impl RequestIds {
    /// Ids of one worker in one run.
    pub fn new(run: u32, worker: usize) -> RequestIds {
        RequestIds { run, worker: worker as u16, next: 0 }
    }

    /// The id with this number.
    pub fn text(&self, number: u64) -> String {
        format!("{:08x}-{:04x}-4000-8000-{number:012x}", self.run, self.worker)
    }

    /// Writes the next id and gives its number.
    fn write(&mut self, place: &mut [u8]) -> u64 {
        self.next += 1;
        write_hex(&mut place[..8], u64::from(self.run));
        write_hex(&mut place[9..13], u64::from(self.worker));
        write_hex(&mut place[24..], self.next);
        self.next
    }
}

/// Fills `place` with the low digits of `value`.
fn write_hex(place: &mut [u8], mut value: u64) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for digit in place.iter_mut().rev() {
        *digit = DIGITS[(value & 15) as usize];
        value >>= 4;
    }
}

const NO_REQUEST_ID: &str = "00000000-0000-4000-8000-000000000000";

const PRINCIPAL: &str = r#"{"awsPrincipalArn":"arn:aws:iam::123456789012:role/xksd-load-"#;
/// Digits of a principal's number.
const PRINCIPAL_CHARS: usize = 6;

/// A request as it goes over the wire.
pub struct Request {
    bytes: Vec<u8>,
    route: Rc<Route>,
    path: String,
    body_at: usize,
    date_at: usize,
    day_at: usize,
    signature_at: usize,
    request_id_at: usize,
    /// Where the number of its principal stands; none in a health request.
    principal_at: Option<usize>,
    /// Second of the signature.
    signed: i64,
    /// Number of its request id.
    number: u64,
}

impl Request {
    /// A request that is not signed yet. `fields` stand behind the request metadata:
    /// `,"plaintext":"…"`.
    pub fn new(call: Call, route: &Rc<Route>, signer: &Signer, fields: &str) -> Request {
        let path = route.path(call);
        let operation = call.kms_operation();
        let metadata = match call {
            Call::Health => format!(r#"{{"kmsOperation":"{operation}","kmsRequestId":""#),
            _ => format!(
                r#"{PRINCIPAL}{:0PRINCIPAL_CHARS$}","kmsKeyArn":"arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab","kmsOperation":"{operation}","kmsRequestId":""#,
                0
            ),
        };
        let body = format!(r#"{{"requestMetadata":{metadata}{NO_REQUEST_ID}"}}{fields}}}"#);
        let (before_day, after_day) = signer.authorization();
        let mut bytes = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nX-Amz-Date: ",
            route.host
        )
        .into_bytes();
        let date_at = bytes.len();
        bytes.extend_from_slice(&[b'0'; DATE_CHARS]);
        bytes.extend_from_slice(
            format!("\r\nContent-Length: {}\r\nAuthorization: {before_day}", body.len()).as_bytes(),
        );
        let day_at = bytes.len();
        bytes.extend_from_slice(&[b'0'; DAY_CHARS]);
        bytes.extend_from_slice(after_day.as_bytes());
        let signature_at = bytes.len();
        bytes.extend_from_slice(&[b'0'; HEX_CHARS]);
        bytes.extend_from_slice(b"\r\n\r\n");
        let body_at = bytes.len();
        let metadata_at = body_at + r#"{"requestMetadata":"#.len();
        let request_id_at = metadata_at + metadata.len();
        let principal_at = (call != Call::Health).then_some(metadata_at + PRINCIPAL.len());
        bytes.extend_from_slice(body.as_bytes());
        Request {
            bytes,
            route: route.clone(),
            path,
            body_at,
            date_at,
            day_at,
            signature_at,
            request_id_at,
            principal_at,
            signed: i64::MIN,
            number: 0,
        }
    }

    /// The key store whose credential signs it.
    pub fn keystore(&self) -> usize {
        self.route.keystore
    }

    /// Where it goes.
    pub fn route(&self) -> &Rc<Route> {
        &self.route
    }

    /// When it was signed, Unix seconds.
    pub fn signed(&self) -> i64 {
        self.signed
    }

    /// Gives it a new request id, date and signature, and the next of so many principals.
    pub fn sign(
        &mut self,
        signer: &mut Signer,
        ids: &mut RequestIds,
        date: &Date,
        principals: u32,
    ) {
        let (head, body) = self.bytes.split_at_mut(self.body_at);
        let id_at = self.request_id_at - self.body_at;
        self.number = ids.write(&mut body[id_at..id_at + REQUEST_ID_CHARS]);
        if let Some(at) = self.principal_at.map(|at| at - self.body_at) {
            write_hex(&mut body[at..at + PRINCIPAL_CHARS], self.number % u64::from(principals));
        }
        let hash: Hex = sha256_hex(body);
        let signature = signer.sign(&self.route.host, &self.path, &hash, date);
        head[self.date_at..self.date_at + DATE_CHARS].copy_from_slice(date.text());
        head[self.day_at..self.day_at + DAY_CHARS].copy_from_slice(date.day());
        head[self.signature_at..self.signature_at + HEX_CHARS].copy_from_slice(&signature);
        self.signed = date.second;
    }

    /// What to send.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of its `kmsRequestId`.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// The JSON fields of an encrypt.
pub fn encrypt_fields(plaintext: &[u8], aad: &[u8], cdiv: bool) -> String {
    let mut fields = format!(
        r#","plaintext":"{}","encryptionAlgorithm":"AES_GCM""#,
        BASE64_STANDARD.encode(plaintext)
    );
    push_aad(&mut fields, aad);
    if cdiv {
        fields.push_str(r#","ciphertextDataIntegrityValueAlgorithm":"SHA_256""#);
    }
    fields
}

/// The JSON fields of a decrypt of what an encrypt answered, all in base64 but the AAD.
pub fn decrypt_fields(
    ciphertext: &str,
    iv: &str,
    tag: &str,
    metadata: Option<&str>,
    aad: &[u8],
) -> String {
    let mut fields = format!(
        r#","ciphertext":"{ciphertext}","initializationVector":"{iv}","authenticationTag":"{tag}","encryptionAlgorithm":"AES_GCM""#
    );
    if let Some(metadata) = metadata {
        fields.push_str(&format!(r#","ciphertextMetadata":"{metadata}""#));
    }
    push_aad(&mut fields, aad);
    fields
}

/// Absent fields are left out: the specification has no `null`.
fn push_aad(fields: &mut String, aad: &[u8]) {
    if !aad.is_empty() {
        fields.push_str(&format!(
            r#","additionalAuthenticatedData":"{}""#,
            BASE64_STANDARD.encode(aad)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Rc<Route> {
        Rc::new(Route {
            keystore: 0,
            key: "k".into(),
            host: "h:1".into(),
            base: "/a/kms/xks/v1".into(),
        })
    }

    #[test]
    fn a_request_is_whole_and_signed_over_what_it_says() {
        let mut signer = Signer::new("ID", "secret", "us-east-1");
        let mut ids = RequestIds::new(0xabcd, 7);
        let fields = encrypt_fields(b"plain", b"aad", true);
        let mut request = Request::new(Call::Encrypt, &route(), &signer, &fields);
        let date = Date::at(1_767_225_600).unwrap();
        request.sign(&mut signer, &mut ids, &date, 1);
        let first = request.bytes().to_vec();
        let text = String::from_utf8(first.clone()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("POST /a/kms/xks/v1/keys/k/encrypt HTTP/1.1\r\nHost: h:1\r\n"),
            "{head}"
        );
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(
            head.contains("X-Amz-Date: 20260101T000000Z")
                && head.contains("Credential=ID/20260101/us-east-1/"),
            "{head}"
        );
        let signature =
            signer.sign("h:1", "/a/kms/xks/v1/keys/k/encrypt", &sha256_hex(body.as_bytes()), &date);
        assert!(head.ends_with(std::str::from_utf8(&signature).unwrap()));
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(json["requestMetadata"]["kmsRequestId"], "0000abcd-0007-4000-8000-000000000001");
        assert_eq!(ids.text(request.number()), "0000abcd-0007-4000-8000-000000000001");
        assert_eq!(
            (&json["plaintext"], &json["additionalAuthenticatedData"]),
            (&"cGxhaW4=".into(), &"YWFk".into())
        );
        assert_eq!(json["ciphertextDataIntegrityValueAlgorithm"], "SHA_256");
        // Signed again: another id, and so another signature, of the same length.
        request.sign(&mut signer, &mut ids, &date, 1);
        assert_eq!(request.bytes().len(), first.len());
        assert_ne!(request.bytes(), first);
    }

    #[test]
    fn principals_are_named_in_turn() {
        let mut signer = Signer::new("ID", "secret", "us-east-1");
        let (mut ids, date) = (RequestIds::new(1, 1), Date::at(1_767_225_600).unwrap());
        let mut request = Request::new(Call::Metadata, &route(), &signer, "");
        let named = [3, 3, 3, 3, 1].map(|principals| {
            request.sign(&mut signer, &mut ids, &date, principals);
            let body = &request.bytes()[request.body_at..];
            let json: serde_json::Value = serde_json::from_slice(body).unwrap();
            json["requestMetadata"]["awsPrincipalArn"].as_str().unwrap().to_owned()
        });
        assert_eq!(named[0], "arn:aws:iam::123456789012:role/xksd-load-000001");
        assert!(named[1].ends_with("-000002") && named[2].ends_with("-000000"), "{named:?}");
        assert!(named[3] == named[0] && named[4] == named[2], "{named:?}");
    }

    #[test]
    fn absent_fields_are_left_out() {
        let fields = encrypt_fields(b"", b"", false);
        assert_eq!(fields, r#","plaintext":"","encryptionAlgorithm":"AES_GCM""#);
        let fields = decrypt_fields("", "iv", "tag", None, b"");
        assert!(
            !fields.contains("ciphertextMetadata") && !fields.contains("additional"),
            "{fields}"
        );
    }

    #[test]
    fn health_carries_what_it_may() {
        let signer = Signer::new("ID", "secret", "us-east-1");
        let request = Request::new(Call::Health, &route(), &signer, "");
        let body = String::from_utf8(request.bytes()[request.body_at..].to_vec()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        let names: Vec<_> =
            json["requestMetadata"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["kmsOperation", "kmsRequestId"]);
        assert!(request.bytes().starts_with(b"POST /a/kms/xks/v1/health HTTP/1.1\r\n"));
    }
}
