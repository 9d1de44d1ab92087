//! AWS Signature Version 4 as AWS KMS uses it (spec: Appendix A), pure: bytes and the time go in,
//! [`Authenticated`] or the reason comes out. No sockets, no clock.
//!
//! [`precheck`] says before the body is read whether the request can be authenticated at all;
//! [`authenticate`] says afterwards whether it is.

mod authorization;
mod canonical;
mod credential;
mod date;
mod error;
mod signing_key;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ring::digest;

pub use credential::{AccessKeyId, Credential, CredentialError, CredentialSet, SecretAccessKey};
pub use error::{AuthError, Excerpt};
pub use signing_key::SigningKeys;

use crate::http1::Request;
use crate::limits::CLOCK_SKEW_SECONDS_MAX;
use authorization::{Authorization, decode_lower_hex};
use date::Timestamp;
use signing_key::Scope;

/// spec: "The service indicator is the name of the service receiving the request and we use
/// `kms-xks-proxy` for this specification".
const SERVICE: &str = "kms-xks-proxy";

/// Proof that a request carries a valid signature of a credential of its key store. Only
/// [`authenticate`] makes one.
#[derive(Debug)]
pub struct Authenticated<'a> {
    access_key_id: Arc<str>,
    region: &'a str,
}

impl<'a> Authenticated<'a> {
    /// The access key id under which the request was signed.
    pub fn access_key_id(&self) -> &Arc<str> {
        &self.access_key_id
    }

    /// The region in the scope of the signature.
    pub fn region(&self) -> &'a str {
        self.region
    }
}

/// Everything that can be checked before the body is read: form, scope, access key id, time. What
/// fails here need not be read further.
///
/// `credentials` are those of the key store in the request's path, `regions` the accepted ones,
/// `now` is in Unix seconds.
pub fn precheck(
    request: &Request<'_>,
    credentials: &CredentialSet,
    regions: &[String],
    now: i64,
) -> Result<(), AuthError> {
    present(request, SERVICE, credentials, regions, now).map(drop)
}

/// Authenticates a request with its whole body (chunked framing removed).
///
/// Checks again all that [`precheck`] checks, which is cheap, so that nothing needs to be kept
/// while the body is read. Give both the same `now`, the time at which the head was read: then a
/// slow body does not turn into a clock skew.
pub fn authenticate<'a>(
    request: &Request<'a>,
    body: &[u8],
    credentials: &'a CredentialSet,
    regions: &[String],
    now: i64,
    keys: &mut SigningKeys,
) -> Result<Authenticated<'a>, AuthError> {
    present(request, SERVICE, credentials, regions, now)?.verify(request, body, now, keys)
}

/// A request that is in form, in scope and in time, of a known access key id; its signature is not
/// yet verified.
struct Presented<'a> {
    authorization: Authorization<'a>,
    timestamp: Timestamp<'a>,
    credential: &'a Credential,
    scope: Scope<'a>,
    /// The body's hash as a signed header says it.
    declared_payload_hash: Option<[u8; 32]>,
}

fn present<'a>(
    request: &Request<'a>,
    service: &'static str,
    credentials: &'a CredentialSet,
    regions: &[String],
    now: i64,
) -> Result<Presented<'a>, AuthError> {
    if is_presigned(request.query) {
        return Err(AuthError::PresignedQuery);
    }
    let mut values = request.values("authorization");
    let authorization = match (values.next(), values.next()) {
        (Some(value), None) => Authorization::parse(value)?,
        (Some(_), Some(_)) => return Err(AuthError::DuplicateAuthorization),
        (None, _) => return Err(AuthError::MissingAuthorization),
    };
    canonical::check(request, authorization.signed_headers)?;

    let mut values = request.values("x-amz-date");
    let timestamp = match (values.next(), values.next()) {
        (Some(value), None) => Timestamp::parse(value).ok_or(AuthError::MalformedDate)?,
        (Some(_), Some(_)) => return Err(AuthError::DuplicateDate),
        (None, _) => {
            return Err(AuthError::SignedHeaderMissing { name: Excerpt::of("x-amz-date") });
        }
    };
    if authorization.date != timestamp.date() {
        return Err(AuthError::ScopeDateMismatch);
    }
    if authorization.service != service {
        return Err(AuthError::WrongService { service: Excerpt::of(authorization.service) });
    }
    if !regions.iter().any(|region| region == authorization.region) {
        return Err(AuthError::WrongRegion { region: Excerpt::of(authorization.region) });
    }
    let id = authorization.access_key_id;
    let Some(credential) = credentials.get(id) else {
        return Err(match AccessKeyId::new(id) {
            Ok(_) => AuthError::UnknownAccessKeyId { access_key_id: Excerpt::of(id) },
            Err(_) => AuthError::MalformedAccessKeyId,
        });
    };
    // spec: "Any requests more than 5 minutes in the past (or future, due to clock drift) SHOULD
    // fail authentication".
    let skew = timestamp.unix_seconds.saturating_sub(now);
    if !(-CLOCK_SKEW_SECONDS_MAX..=CLOCK_SKEW_SECONDS_MAX).contains(&skew) {
        return Err(AuthError::ClockSkew { seconds: skew });
    }

    let scope = Scope {
        date: timestamp.date(),
        day: date::day(timestamp.unix_seconds),
        region: authorization.region,
        service,
    };
    let declared_payload_hash = declared_payload_hash(request, &authorization)?;
    Ok(Presented { authorization, timestamp, credential, scope, declared_payload_hash })
}

/// Whether a query has parameters with which a presigned URL carries what belongs into the
/// `Authorization` header.
pub fn is_presigned(query: &str) -> bool {
    query.split('&').any(|parameter| {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature"]
            .iter()
            .any(|presigned| name.eq_ignore_ascii_case(presigned))
    })
}

/// spec: "A hex encoding of the SHA-256 hash of the request payload [...] forms the final part of
/// the CanonicalRequest". A signed `x-amz-content-sha256` may repeat that hash, but not put
/// anything else in its place. Unsigned, it says nothing and is ignored.
fn declared_payload_hash(
    request: &Request<'_>,
    authorization: &Authorization<'_>,
) -> Result<Option<[u8; 32]>, AuthError> {
    const NAME: &str = "x-amz-content-sha256";
    if !authorization.signed_headers.contains(NAME) {
        return Ok(None);
    }
    let mut values = request.values(NAME);
    match (values.next().and_then(decode_lower_hex), values.next()) {
        (Some(hash), None) => Ok(Some(hash)),
        _ => Err(AuthError::UnsignedPayload),
    }
}

impl<'a> Presented<'a> {
    fn verify(
        self,
        request: &Request<'_>,
        body: &[u8],
        now: i64,
        keys: &mut SigningKeys,
    ) -> Result<Authenticated<'a>, AuthError> {
        let payload_hash = bytes_of(digest::digest(&digest::SHA256, body));
        if self.declared_payload_hash.is_some_and(|declared| declared != payload_hash) {
            return Err(AuthError::PayloadHashMismatch);
        }
        let mut context = digest::Context::new(&digest::SHA256);
        canonical::write(request, self.authorization.signed_headers, &payload_hash, &mut |piece| {
            context.update(piece)
        });
        let canonical_request_hash = bytes_of(context.finish());

        let access_key_id = self.credential.access_key_id().shared().clone();
        let signature = &self.authorization.signature;
        match keys.verify(
            self.credential,
            &self.scope,
            self.timestamp.text,
            &canonical_request_hash,
            signature,
            now,
        ) {
            true => Ok(Authenticated { access_key_id, region: self.scope.region }),
            false => Err(AuthError::SignatureMismatch { access_key_id }),
        }
    }
}

fn bytes_of(sha256: digest::Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(sha256.as_ref());
    bytes
}
