//! The body of a request: decoded, and checked against everything the specification says of its
//! fields.
//!
//! Three kinds of refusal, since KMS gives its customer another message for each:
//! - ValidationException: the request does not follow the API (a field missing, of a wrong type, no
//!   Base64, an algorithm that is none of the specification's).
//! - UnsupportedOperationException: it follows the API, and is larger than this proxy takes. spec:
//!   "if a parameter value exceeded the maximum size that is currently supported by a specific
//!   implementation".
//! - InvalidCiphertextException: no ciphertext, IV or tag, or an IV or tag of a length that no
//!   ciphertext has. spec: "the specified ciphertext, initialization vector, additional
//!   authenticated data or authentication tag is corrupted, missing, or otherwise invalid". These
//!   come out of the blob that KMS's customer handed in, so the customer must hear that the blob is
//!   bad.

use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroizing;

use super::base64::Short;
use super::error::{ApiError, ErrorName};
use super::fields::{FIELDS_MAX, Field, Object};
use super::framing::AAD_FRAMING_BYTES_MAX;
use super::route::Operation;
use crate::limits::{
    AAD_BYTES_MAX, CIPHERTEXT_METADATA_BYTES_MAX, IV_BYTES, IV_BYTES_MAX, METADATA_FIELD_BYTES_MAX,
    PLAINTEXT_BYTES_MAX, TAG_BYTES,
};

#[cfg(test)]
mod tests;

/// A request that follows the specification. Only [`decode`] makes one.
#[derive(Debug)]
pub struct ValidRequest<'a> {
    metadata: RequestMetadata<'a>,
    call: Call,
}

impl<'a> ValidRequest<'a> {
    /// Who asks, and for what.
    pub fn metadata(&self) -> &RequestMetadata<'a> {
        &self.metadata
    }

    /// Taken apart, for the job and for the log.
    pub fn into_parts(self) -> (RequestMetadata<'a>, Call) {
        (self.metadata, self.call)
    }
}

/// A request that does not.
#[derive(Debug, PartialEq, Eq)]
pub struct Rejection<'a> {
    /// What the client gets.
    pub error: ApiError,
    /// As much as could be read, so that the log of a refused request too has its kmsRequestId.
    pub metadata: RequestMetadata<'a>,
}

/// `requestMetadata`. In a [`ValidRequest`] the fields that the specification requires for the call
/// are there; all values are as KMS sent them, at most [`METADATA_FIELD_BYTES_MAX`] bytes each, and
/// may hold any character.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestMetadata<'a> {
    /// `awsPrincipalArn`: who called KMS. Required but for health.
    pub principal: Option<Cow<'a, str>>,
    /// `kmsOperation`: what was called of KMS. Always required, any value.
    pub kms_operation: Option<Cow<'a, str>>,
    /// `kmsRequestId`: as in CloudTrail. Always required. spec: "MUST treat this as an opaque
    /// string".
    pub kms_request_id: Option<Cow<'a, str>>,
    /// `kmsKeyArn`: required for encrypt and decrypt.
    pub kms_key_arn: Option<Cow<'a, str>>,
    /// `kmsViaService`: the AWS service that called KMS for the customer.
    pub via_service: Option<Cow<'a, str>>,
    /// `awsSourceVpc`.
    pub vpc: Option<Cow<'a, str>>,
    /// `awsSourceVpce`.
    pub vpce: Option<Cow<'a, str>>,
}

impl RequestMetadata<'_> {
    /// The same, no longer bound to the request's bytes.
    pub fn into_owned(self) -> RequestMetadata<'static> {
        let own = |field: Option<Cow<'_, str>>| field.map(|text| Cow::Owned(text.into_owned()));
        RequestMetadata {
            principal: own(self.principal),
            kms_operation: own(self.kms_operation),
            kms_request_id: own(self.kms_request_id),
            kms_key_arn: own(self.kms_key_arn),
            via_service: own(self.via_service),
            vpc: own(self.vpc),
            vpce: own(self.vpce),
        }
    }
}

/// What is asked for.
#[derive(Debug)]
pub enum Call {
    /// GetKeyMetadata.
    Metadata,
    /// Encrypt.
    Encrypt(Encrypt),
    /// Decrypt.
    Decrypt(Decrypt),
    /// GetHealthStatus.
    Health,
}

/// Payload of an encrypt request.
pub struct Encrypt {
    /// At most [`PLAINTEXT_BYTES_MAX`] bytes; may be empty (GCM encrypts nothing to nothing, and a
    /// tag).
    pub plaintext: Zeroizing<Vec<u8>>,
    /// `additionalAuthenticatedData`, at most [`AAD_BYTES_MAX`] bytes. Absent and empty differ in
    /// another proxy's framing.
    pub aad: Option<Vec<u8>>,
    /// `ciphertextDataIntegrityValueAlgorithm` was given: SHA_256.
    pub integrity: bool,
}

/// Only lengths.
impl fmt::Debug for Encrypt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encrypt")
            .field("plaintext_bytes", &self.plaintext.len())
            .field("aad_bytes", &self.aad.as_ref().map(Vec::len))
            .field("integrity", &self.integrity)
            .finish()
    }
}

/// Payload of a decrypt request.
pub struct Decrypt {
    /// At most [`PLAINTEXT_BYTES_MAX`] bytes.
    pub ciphertext: Vec<u8>,
    /// 12 or 16 bytes.
    pub iv: Vec<u8>,
    /// Authentication tag.
    pub tag: [u8; TAG_BYTES],
    /// `additionalAuthenticatedData`, as for [`Encrypt::aad`].
    pub aad: Option<Vec<u8>>,
    /// `ciphertextMetadata`, at most [`CIPHERTEXT_METADATA_BYTES_MAX`] bytes.
    pub metadata: Option<Short>,
}

/// Only lengths.
impl fmt::Debug for Decrypt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decrypt")
            .field("ciphertext_bytes", &self.ciphertext.len())
            .field("iv_bytes", &self.iv.len())
            .field("aad_bytes", &self.aad.as_ref().map(Vec::len))
            .field("metadata_bytes", &self.metadata.as_ref().map(|metadata| metadata.len()))
            .finish()
    }
}

const REQUEST_METADATA: &str = "requestMetadata";
const ENCRYPTION_ALGORITHM: &str = "encryptionAlgorithm";
const INTEGRITY_ALGORITHM: &str = "ciphertextDataIntegrityValueAlgorithm";
const AAD: &str = "additionalAuthenticatedData";
const PLAINTEXT: &str = "plaintext";
const CIPHERTEXT: &str = "ciphertext";
const CIPHERTEXT_METADATA: &str = "ciphertextMetadata";
const IV: &str = "initializationVector";
const TAG: &str = "authenticationTag";

const PRINCIPAL: &str = "awsPrincipalArn";
const KMS_OPERATION: &str = "kmsOperation";
const KMS_REQUEST_ID: &str = "kmsRequestId";
const KMS_KEY_ARN: &str = "kmsKeyArn";
const VIA_SERVICE: &str = "kmsViaService";
const VPC: &str = "awsSourceVpc";
const VPCE: &str = "awsSourceVpce";

const METADATA_FIELDS: &[&str] =
    &[PRINCIPAL, KMS_OPERATION, KMS_REQUEST_ID, KMS_KEY_ARN, VIA_SERVICE, VPC, VPCE];
const PLAIN_FIELDS: &[&str] = &[REQUEST_METADATA];
const ENCRYPT_FIELDS: &[&str] =
    &[REQUEST_METADATA, PLAINTEXT, ENCRYPTION_ALGORITHM, AAD, INTEGRITY_ALGORITHM];
const DECRYPT_FIELDS: &[&str] =
    &[REQUEST_METADATA, CIPHERTEXT, IV, TAG, ENCRYPTION_ALGORITHM, CIPHERTEXT_METADATA, AAD];

const _: () = assert!(
    METADATA_FIELDS.len() <= FIELDS_MAX
        && ENCRYPT_FIELDS.len() <= FIELDS_MAX
        && DECRYPT_FIELDS.len() <= FIELDS_MAX
);

/// Fields of `requestMetadata` that a call cannot do without.
const fn required_metadata(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::Health => &[KMS_OPERATION, KMS_REQUEST_ID],
        Operation::Metadata => &[PRINCIPAL, KMS_OPERATION, KMS_REQUEST_ID],
        Operation::Encrypt | Operation::Decrypt => {
            &[PRINCIPAL, KMS_OPERATION, KMS_REQUEST_ID, KMS_KEY_ARN]
        }
    }
}

/// Reads the body of an authenticated request.
///
/// # Errors
/// The first thing that is wrong, and the request's metadata as far as it could be read.
pub fn decode(operation: Operation, body: &[u8]) -> Result<ValidRequest<'_>, Box<Rejection<'_>>> {
    let fields = match operation {
        Operation::Metadata | Operation::Health => PLAIN_FIELDS,
        Operation::Encrypt => ENCRYPT_FIELDS,
        Operation::Decrypt => DECRYPT_FIELDS,
    };
    let mut object = Object::empty("", fields);
    let whole = object.read(body);
    // Also when the body is broken further on: the log wants to know whose it was.
    let (metadata, metadata_result) = request_metadata(operation, &object);
    let call = whole.and(metadata_result).and_then(|()| match operation {
        Operation::Metadata => Ok(Call::Metadata),
        Operation::Health => Ok(Call::Health),
        Operation::Encrypt => encrypt(&object).map(Call::Encrypt),
        Operation::Decrypt => decrypt(&object).map(Call::Decrypt),
    });
    match call {
        Ok(call) => Ok(ValidRequest { metadata, call }),
        Err(error) => Err(Box::new(Rejection { error, metadata })),
    }
}

/// What could be read, and the first thing wrong with it.
fn request_metadata<'a>(
    operation: Operation,
    body: &Object<'a>,
) -> (RequestMetadata<'a>, Result<(), ApiError>) {
    let mut object = Object::empty("requestMetadata.", METADATA_FIELDS);
    let field = body.field(REQUEST_METADATA);
    let mut result = match field.json() {
        Some(json) => object.read(json.as_bytes()),
        None => Err(field.missing()),
    };
    let mut text = |name| {
        let field = object.field(name);
        match field.text(METADATA_FIELD_BYTES_MAX) {
            Ok(Some(text)) => Some(text),
            Ok(None) => {
                if result.is_ok() && required_metadata(operation).contains(&name) {
                    result = Err(field.missing());
                }
                None
            }
            Err(error) => {
                if result.is_ok() {
                    result = Err(error);
                }
                None
            }
        }
    };
    let metadata = RequestMetadata {
        principal: text(PRINCIPAL),
        kms_operation: text(KMS_OPERATION),
        kms_request_id: text(KMS_REQUEST_ID),
        kms_key_arn: text(KMS_KEY_ARN),
        via_service: text(VIA_SERVICE),
        vpc: text(VPC),
        vpce: text(VPCE),
    };
    (metadata, result)
}

fn encrypt(body: &Object<'_>) -> Result<Encrypt, ApiError> {
    encryption_algorithm(body)?;
    let field = body.field(INTEGRITY_ALGORITHM);
    let integrity = match field.text(METADATA_FIELD_BYTES_MAX)?.as_deref() {
        None => false,
        Some("SHA_256") => true,
        Some(_) => return Err(field.invalid("is not SHA_256")),
    };
    let field = body.field(PLAINTEXT);
    let plaintext = field
        .bytes(PLAINTEXT_BYTES_MAX, ErrorName::UnsupportedOperationException)?
        .ok_or_else(|| field.missing())?;
    Ok(Encrypt { plaintext, aad: aad(body)?, integrity })
}

fn decrypt(body: &Object<'_>) -> Result<Decrypt, ApiError> {
    encryption_algorithm(body)?;
    let field = body.field(CIPHERTEXT);
    let ciphertext = field
        .bytes(PLAINTEXT_BYTES_MAX, ErrorName::UnsupportedOperationException)?
        .ok_or_else(|| no_ciphertext(field))?;

    let field = body.field(IV);
    let iv = field
        .bytes(IV_BYTES_MAX, ErrorName::InvalidCiphertextException)?
        .ok_or_else(|| no_ciphertext(field))?;
    if iv.len() != IV_BYTES && iv.len() != IV_BYTES_MAX {
        let what = format_args!("is neither {IV_BYTES} nor {IV_BYTES_MAX} bytes long");
        return Err(field.refuse(ErrorName::InvalidCiphertextException, what));
    }

    let field = body.field(TAG);
    let tag = field
        .short(TAG_BYTES, ErrorName::InvalidCiphertextException)?
        .ok_or_else(|| no_ciphertext(field))?;
    let tag = <[u8; TAG_BYTES]>::try_from(&*tag).map_err(|_| {
        field.refuse(
            ErrorName::InvalidCiphertextException,
            format_args!("is not {TAG_BYTES} bytes long"),
        )
    })?;

    // More than 20 bytes break a rule of the specification, not a limit of ours: "the size of the
    // field MUST NOT exceed 20 bytes". KMS itself refuses them in an encrypt response, so that no
    // genuine blob holds them.
    let metadata = body
        .field(CIPHERTEXT_METADATA)
        .short(CIPHERTEXT_METADATA_BYTES_MAX, ErrorName::ValidationException)?;
    Ok(Decrypt {
        ciphertext: unwrapped(ciphertext),
        iv: unwrapped(iv),
        tag,
        aad: aad(body)?,
        metadata,
    })
}

fn no_ciphertext(field: Field<'_>) -> ApiError {
    field.refuse(ErrorName::InvalidCiphertextException, "is missing")
}

/// spec: "For the v1 specification, this MUST be AES_GCM. This field is REQUIRED."
fn encryption_algorithm(body: &Object<'_>) -> Result<(), ApiError> {
    let field = body.field(ENCRYPTION_ALGORITHM);
    match field.text(METADATA_FIELD_BYTES_MAX)?.as_deref() {
        Some("AES_GCM") => Ok(()),
        Some(_) => Err(field.invalid("is not AES_GCM")),
        None => Err(field.missing()),
    }
}

fn aad(body: &Object<'_>) -> Result<Option<Vec<u8>>, ApiError> {
    let aad = body.field(AAD).bytes_with_room(
        AAD_BYTES_MAX,
        ErrorName::UnsupportedOperationException,
        AAD_FRAMING_BYTES_MAX,
    )?;
    Ok(aad.map(unwrapped))
}

/// For bytes that are no secret.
fn unwrapped(mut bytes: Zeroizing<Vec<u8>>) -> Vec<u8> {
    std::mem::take(&mut *bytes)
}
