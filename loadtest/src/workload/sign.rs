//! SigV4 as AWS KMS signs its requests to an XKS proxy: `host;x-amz-date`, service `kms-xks-proxy`,
//! hash over the whole body.

use ring::{digest, hmac};
use zeroize::Zeroizing;

/// Length of `x-amz-date`: `20260131T235959Z`.
pub const DATE_CHARS: usize = 16;
/// Of it, the day.
pub const DAY_CHARS: usize = 8;
/// A SHA-256 in hexadecimal.
pub const HEX_CHARS: usize = 64;

/// A SHA-256 in hexadecimal.
pub type Hex = [u8; HEX_CHARS];

/// The time of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Unix time, seconds.
    pub second: i64,
    text: [u8; DATE_CHARS],
}

impl Date {
    /// A Unix time; `None` beyond the year 9999.
    pub fn at(second: i64) -> Option<Date> {
        let time = time::OffsetDateTime::from_unix_timestamp(second).ok()?;
        let text = time
            .format(time::macros::format_description!("[year][month][day]T[hour][minute][second]Z"))
            .ok()?;
        Some(Date { second, text: text.as_bytes().try_into().ok()? })
    }

    /// As in `x-amz-date`.
    pub fn text(&self) -> &[u8; DATE_CHARS] {
        &self.text
    }

    /// As in the credential scope.
    pub fn day(&self) -> &[u8] {
        &self.text[..DAY_CHARS]
    }
}

/// Signs with one credential.
pub struct Signer {
    access_key_id: String,
    /// `AWS4` and the secret.
    secret: Zeroizing<Vec<u8>>,
    region: String,
    /// Derived key with the day it is for.
    key: Option<([u8; DAY_CHARS], hmac::Key)>,
    scratch: Vec<u8>,
}

impl Signer {
    /// A signer for one credential and region.
    pub fn new(access_key_id: &str, secret: &str, region: &str) -> Signer {
        Signer {
            access_key_id: access_key_id.to_owned(),
            secret: Zeroizing::new([b"AWS4", secret.as_bytes()].concat()),
            region: region.to_owned(),
            key: None,
            scratch: Vec::with_capacity(1024),
        }
    }

    /// The `Authorization` up to the day of the scope, and from there up to the signature.
    pub fn authorization(&self) -> (String, String) {
        (
            format!("AWS4-HMAC-SHA256 Credential={}/", self.access_key_id),
            format!(
                "/{}/kms-xks-proxy/aws4_request, SignedHeaders=host;x-amz-date, Signature=",
                self.region
            ),
        )
    }

    /// The signature of `POST path` with a body of this hash. The path needs no percent-encoding,
    /// as those of the API never do.
    pub fn sign(&mut self, host: &str, path: &str, body: &Hex, date: &Date) -> Hex {
        let scratch = &mut self.scratch;
        scratch.clear();
        for part in [
            b"POST\n",
            path.as_bytes(),
            b"\n\nhost:",
            host.as_bytes(),
            b"\nx-amz-date:",
            date.text(),
            b"\n\nhost;x-amz-date\n",
            body.as_slice(),
        ] {
            scratch.extend_from_slice(part);
        }
        let canonical = sha256_hex(scratch);
        scratch.clear();
        let scope_end = b"/kms-xks-proxy/aws4_request\n";
        for part in [
            b"AWS4-HMAC-SHA256\n",
            date.text().as_slice(),
            b"\n",
            date.day(),
            b"/",
            self.region.as_bytes(),
            scope_end,
            &canonical,
        ] {
            scratch.extend_from_slice(part);
        }
        if self.key.as_ref().is_none_or(|(day, _)| day != date.day()) {
            let derived = derive(&self.secret, date.day(), &self.region);
            let mut day = [0; DAY_CHARS];
            day.copy_from_slice(date.day());
            self.key = Some((day, derived));
        }
        match &self.key {
            Some((_, key)) => hex(hmac::sign(key, &self.scratch).as_ref()),
            None => [b'0'; HEX_CHARS],
        }
    }
}

fn derive(secret: &[u8], day: &[u8], region: &str) -> hmac::Key {
    let step = |key: &[u8], data: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    let mut key = step(secret, day);
    for data in [region.as_bytes(), b"kms-xks-proxy", b"aws4_request"] {
        key = step(key.as_ref(), data);
    }
    hmac::Key::new(hmac::HMAC_SHA256, key.as_ref())
}

/// SHA-256 in hexadecimal.
pub fn sha256_hex(bytes: &[u8]) -> Hex {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> Hex {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; HEX_CHARS];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn dates() {
        let date = Date::at(1_767_225_599).unwrap();
        assert_eq!(date.text(), b"20251231T235959Z");
        assert_eq!(date.day(), b"20251231");
        assert!(Date::at(i64::MAX).is_none());
    }

    /// botocore is what AWS signs with; it is asked about the same requests, over a change of day.
    #[test]
    fn signatures_are_those_of_botocore() {
        let script = r#"
import sys, json, datetime
import botocore.auth, botocore.credentials, botocore.awsrequest
for line in sys.stdin:
    c = json.loads(line)
    now = datetime.datetime.fromtimestamp(c["at"], datetime.timezone.utc).replace(tzinfo=None)
    class Frozen(datetime.datetime):
        @classmethod
        def utcnow(cls): return now
        @classmethod
        def now(cls, tz=None): return now
    if hasattr(botocore.auth, "get_current_datetime"):
        botocore.auth.get_current_datetime = lambda remove_tzinfo=True: now
    class Module: datetime = Frozen
    botocore.auth.datetime = Module
    credentials = botocore.credentials.Credentials(c["id"], c["secret"])
    auth = botocore.auth.SigV4Auth(credentials, "kms-xks-proxy", c["region"])
    url, headers = "https://" + c["host"] + c["path"], {"Host": c["host"]}
    request = botocore.awsrequest.AWSRequest("POST", url, headers=headers, data=c["body"].encode())
    auth.add_auth(request)
    print(request.headers["Authorization"])
"#;
        let mut signer = Signer::new(
            "ABCDEFGHIJKLMNOPQR27",
            "c2VjcmV0IGFjY2VzcyBrZXkgb2YgNDMgY2hhcmFjdGVycw+/",
            "eu-central-1",
        );
        let (host, path) = ("xks.example.com:8443", "/a/kms/xks/v1/keys/k-1_x.y/encrypt");
        let cases = [(1_767_225_599, "{}"), (1_767_225_600, "{\"a\":1}"), (1_767_225_601, "")];
        let mut lines = String::new();
        for (at, body) in cases {
            let case = serde_json::json!({
                "at": at,
                "id": "ABCDEFGHIJKLMNOPQR27",
                "secret": "c2VjcmV0IGFjY2VzcyBrZXkgb2YgNDMgY2hhcmFjdGVycw+/",
                "region": "eu-central-1", "host": host, "path": path, "body": body});
            lines.push_str(&format!("{case}\n"));
        }
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 with botocore: scripts/install-deps test");
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let theirs: Vec<&str> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
        assert_eq!(theirs.len(), cases.len(), "botocore gave no answer: scripts/install-deps test");
        for ((at, body), theirs) in cases.into_iter().zip(theirs) {
            let date = Date::at(at).unwrap();
            let signature = signer.sign(host, path, &sha256_hex(body.as_bytes()), &date);
            let (before, after) = signer.authorization();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert_eq!(format!("{before}{}{after}{}", text(date.day()), text(&signature)), theirs);
        }
    }
}
