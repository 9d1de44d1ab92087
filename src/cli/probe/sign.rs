//! SigV4 signing, the client's side. Deliberately not the server's canonicalisation: the probe must
//! notice when that is wrong.

use ring::hmac;
use time::OffsetDateTime;
use time::macros::format_description;
use zeroize::Zeroizing;

use crate::hex::{hex, sha256_hex};

/// Who signs, and for where.
pub struct Signer {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: Zeroizing<String>,
    /// SigV4 region.
    pub region: String,
}

/// The header values that make a request a signed one.
pub struct Signed {
    /// `x-amz-date`.
    pub date: String,
    /// `Authorization`.
    pub authorization: String,
}

fn mac(key: &[u8], data: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data.as_bytes())
}

impl Signer {
    /// Signs `POST path` with `body`; the path must need no percent-encoding, as the API's never
    /// does.
    pub fn sign(&self, host: &str, path: &str, body: &[u8], now: OffsetDateTime) -> Signed {
        let date = now
            .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
            .expect("a UTC time has all parts");
        let day = &date[..8];
        let canonical = format!(
            "POST\n{path}\n\ncontent-type:application/json\nhost:{host}\nx-amz-date:{date}\n\n\
             content-type;host;x-amz-date\n{}",
            sha256_hex(body)
        );
        let scope = format!("{day}/{}/kms-xks-proxy/aws4_request", self.region);
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
        let secret = Zeroizing::new(format!("AWS4{}", self.secret_access_key.as_str()));
        let key = mac(
            mac(mac(mac(secret.as_bytes(), day).as_ref(), &self.region).as_ref(), "kms-xks-proxy")
                .as_ref(),
            "aws4_request",
        );
        let signature = hex(mac(key.as_ref(), &to_sign).as_ref());
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders=content-type;host;x-amz-date, \
             Signature={signature}",
            self.access_key_id
        );
        Signed { date, authorization }
    }
}
