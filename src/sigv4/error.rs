//! Why a request is not authenticated: one variant a reason, for the metrics' label and for the
//! answer's `errorMessage`.

use std::fmt;
use std::sync::Arc;

use crate::limits::CLOCK_SKEW_SECONDS_MAX;

/// Untrusted text longer than this is cut before it is shown, characters.
const EXCERPT_CHARS_MAX: usize = 48;

/// Text out of a request that is safe to show: printable ASCII only, and short. Made in this
/// module only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt(String);

impl Excerpt {
    pub(super) fn of(untrusted: &str) -> Self {
        let mut shown: String = untrusted
            .chars()
            .take(EXCERPT_CHARS_MAX)
            .map(|c| if matches!(c, ' '..='~') { c } else { '?' })
            .collect();
        if untrusted.chars().nth(EXCERPT_CHARS_MAX).is_some() {
            shown.push_str("...");
        }
        Self(shown)
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a request is not authenticated.
///
/// `Display` is meant for the operator who reads it in CloudWatch Logs or in xksd's own log:
/// printable ASCII, below `ERROR_MESSAGE_CHARS_MAX`. It never shows a secret, an expected signature
/// or a canonical request, and it shows what came in only where that cannot be a secret put into
/// the wrong field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// No `Authorization` header.
    MissingAuthorization,
    /// More than one `Authorization` header.
    DuplicateAuthorization,
    /// Signed in the query string instead of in the header.
    PresignedQuery,
    /// `Authorization` names another algorithm or scheme.
    UnsupportedAlgorithm,
    /// `Authorization` is not the three parameters, each once.
    MalformedAuthorization {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `Credential` is not `<id>/<yyyymmdd>/<region>/<service>/aws4_request`.
    MalformedCredential {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `SignedHeaders` is not a sorted list of distinct lower-case names.
    MalformedSignedHeaders {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// `Signature` is not 64 lower-case hexadecimal digits.
    MalformedSignature,
    /// A header that must be signed is not in `SignedHeaders`.
    HeaderNotSigned {
        /// `host` or `x-amz-date`.
        name: &'static str,
    },
    /// A header in `SignedHeaders` is not in the request.
    SignedHeaderMissing {
        /// Its name.
        name: Excerpt,
    },
    /// More than one `x-amz-date` header.
    DuplicateDate,
    /// `x-amz-date` is not a real date and time in ISO 8601 basic form.
    MalformedDate,
    /// The day in `Credential` is not the day of `x-amz-date`.
    ScopeDateMismatch,
    /// Signed for another service.
    WrongService {
        /// The service in `Credential`.
        service: Excerpt,
    },
    /// Signed for a region that the configuration does not accept.
    WrongRegion {
        /// The region in `Credential`.
        region: Excerpt,
    },
    /// The access key id cannot be one: wrong length or characters. Not shown, as it may be a
    /// secret in the wrong field.
    MalformedAccessKeyId,
    /// The access key id is not one of this key store.
    UnknownAccessKeyId {
        /// The id as sent.
        access_key_id: Excerpt,
    },
    /// `x-amz-date` is too far from this host's clock.
    ClockSkew {
        /// Seconds by which the request is ahead of this host's clock; negative: behind.
        seconds: i64,
    },
    /// Two different requests would have the same canonical form.
    AmbiguousRequest {
        /// What is ambiguous.
        problem: &'static str,
    },
    /// A signed `x-amz-content-sha256` that is no hash, such as `UNSIGNED-PAYLOAD`.
    UnsignedPayload,
    /// A signed `x-amz-content-sha256` that is not the hash of the body.
    PayloadHashMismatch,
    /// All is in form, and the signature is not the one that the secret access key makes.
    SignatureMismatch {
        /// The (known) id under which the request was signed.
        access_key_id: Arc<str>,
    },
}

impl AuthError {
    /// The reason as a label for metrics and logs: one for each variant, `[a-z_]` only.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MissingAuthorization => "missing_authorization",
            Self::DuplicateAuthorization => "duplicate_authorization",
            Self::PresignedQuery => "presigned_query",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::MalformedAuthorization { .. } => "malformed_authorization",
            Self::MalformedCredential { .. } => "malformed_credential",
            Self::MalformedSignedHeaders { .. } => "malformed_signed_headers",
            Self::MalformedSignature => "malformed_signature",
            Self::HeaderNotSigned { .. } => "header_not_signed",
            Self::SignedHeaderMissing { .. } => "signed_header_missing",
            Self::DuplicateDate => "duplicate_date",
            Self::MalformedDate => "malformed_date",
            Self::ScopeDateMismatch => "scope_date_mismatch",
            Self::WrongService { .. } => "wrong_service",
            Self::WrongRegion { .. } => "wrong_region",
            Self::MalformedAccessKeyId => "malformed_access_key_id",
            Self::UnknownAccessKeyId { .. } => "unknown_access_key_id",
            Self::ClockSkew { .. } => "clock_skew",
            Self::AmbiguousRequest { .. } => "ambiguous_request",
            Self::UnsignedPayload => "unsigned_payload",
            Self::PayloadHashMismatch => "payload_hash_mismatch",
            Self::SignatureMismatch { .. } => "signature_mismatch",
        }
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MissingAuthorization => {
                "the request is not signed: it has no Authorization header"
            }
            Self::DuplicateAuthorization => "the request has more than one Authorization header",
            Self::PresignedQuery => {
                "the request is signed in its query string; sign it in the Authorization header"
            }
            Self::UnsupportedAlgorithm => {
                "the Authorization header does not start with AWS4-HMAC-SHA256"
            }
            Self::MalformedAuthorization { problem } => {
                return write!(f, "the Authorization header is malformed: {problem}");
            }
            Self::MalformedCredential { problem } => {
                return write!(f, "Credential in the Authorization header is malformed: {problem}");
            }
            Self::MalformedSignedHeaders { problem } => {
                return write!(
                    f,
                    "SignedHeaders in the Authorization header is malformed: {problem}"
                );
            }
            Self::MalformedSignature => {
                "Signature in the Authorization header is not 64 lower-case hexadecimal digits"
            }
            Self::HeaderNotSigned { name } => {
                return write!(f, "the header {name} must be signed, and is not in SignedHeaders");
            }
            Self::SignedHeaderMissing { name } => return write_missing_header(name, f),
            Self::DuplicateDate => "the request has more than one x-amz-date header",
            Self::MalformedDate => "x-amz-date is not a date and time of the form YYYYMMDDTHHMMSSZ",
            Self::ScopeDateMismatch => "the date in Credential is not the day of x-amz-date",
            Self::WrongService { service } => {
                return write!(f, "signed for the service '{service}' instead of kms-xks-proxy");
            }
            Self::WrongRegion { region } => return write_wrong_region(region, f),
            Self::MalformedAccessKeyId => MALFORMED_ACCESS_KEY_ID,
            Self::UnknownAccessKeyId { access_key_id } => return write_unknown(access_key_id, f),
            Self::ClockSkew { seconds } => return write_clock_skew(*seconds, f),
            Self::AmbiguousRequest { problem } => {
                return write!(f, "the request cannot be verified without ambiguity: {problem}");
            }
            Self::UnsignedPayload => {
                "x-amz-content-sha256 is not a SHA-256 hash; the body must be signed"
            }
            Self::PayloadHashMismatch => {
                "x-amz-content-sha256 is not the hash of the body: the body was changed on its way"
            }
            Self::SignatureMismatch { access_key_id } => return write_mismatch(access_key_id, f),
        })
    }
}

const MALFORMED_ACCESS_KEY_ID: &str = "the access key id in Credential is not 20 to 30 characters \
    out of A-Z and 2-7: is it the secret access key?";

fn write_missing_header(name: &Excerpt, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "the header '{name}' is in SignedHeaders but not in the request: the signer did not send \
         it, or something in between took it away"
    )
}

fn write_wrong_region(region: &Excerpt, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "signed for the region '{region}', which is not one of the regions that this proxy is \
         configured to accept"
    )
}

fn write_unknown(access_key_id: &Excerpt, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "the access key id {access_key_id} is not one of this key store: compare the credential \
         that AWS KMS has with the one configured here"
    )
}

fn write_clock_skew(seconds: i64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let direction = if seconds < 0 { "behind" } else { "ahead of" };
    write!(
        f,
        "x-amz-date is {} s {direction} this proxy's clock; up to {CLOCK_SKEW_SECONDS_MAX} s are \
         accepted: check the time synchronisation of this host",
        seconds.unsigned_abs()
    )
}

fn write_mismatch(access_key_id: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        f,
        "the signature does not match for access key id {access_key_id}: the signer has another \
         secret access key than the one configured here, or the request was changed on its way"
    )
}

impl std::error::Error for AuthError {}
