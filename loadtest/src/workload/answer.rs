//! Answers: found in what was received, and checked against the request. Nothing is taken on trust.

use std::borrow::Cow;

use base64::prelude::{BASE64_STANDARD, Engine};
use ring::digest;
use serde::Deserialize;

use crate::limits::{
    ANSWER_BYTES_MAX, ANSWER_HEADERS_MAX, CIPHERTEXT_METADATA_BYTES_MAX, ERROR_MESSAGE_CHARS_MAX,
};

/// One answer at the start of what was received.
#[derive(Debug, PartialEq)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// The body, put together where it was chunked.
    pub body: Cow<'a, [u8]>,
    /// Bytes that it took.
    pub length: usize,
    /// The proxy ends the connection with it.
    pub close: bool,
}

/// The answer at the start of `bytes`; `None` while it is not whole.
///
/// # Errors
/// What is wrong with it; the connection cannot be used further.
pub fn first(bytes: &[u8]) -> Result<Option<Answer<'_>>, String> {
    let mut fields = [httparse::EMPTY_HEADER; ANSWER_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) =
        response.parse(bytes).map_err(|e| format!("not HTTP: {e}"))?
    else {
        return if bytes.len() > ANSWER_BYTES_MAX {
            Err("answer too large".into())
        } else {
            Ok(None)
        };
    };
    let status = response.code.unwrap_or_default();
    let (mut content_length, mut chunked, mut close) = (None, false, response.version == Some(0));
    for field in response.headers.iter() {
        match field.name.len() {
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                let value = std::str::from_utf8(field.value)
                    .ok()
                    .and_then(|v| v.trim().parse::<usize>().ok());
                content_length =
                    Some(value.filter(|&n| n <= ANSWER_BYTES_MAX).ok_or("bad Content-Length")?);
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                chunked = field.value.eq_ignore_ascii_case(b"chunked")
            }
            10 if field.name.eq_ignore_ascii_case("connection") => {
                close = field.value.eq_ignore_ascii_case(b"close")
            }
            _ => {}
        }
    }
    let rest = bytes.get(head..).unwrap_or_default();
    if chunked {
        let Some((body, length)) = dechunk(rest)? else { return Ok(None) };
        return Ok(Some(Answer { status, body: Cow::Owned(body), length: head + length, close }));
    }
    let length = content_length.ok_or("neither Content-Length nor chunked")?;
    Ok(rest.get(..length).map(|body| Answer {
        status,
        body: Cow::Borrowed(body),
        length: head + length,
        close,
    }))
}

fn dechunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let httparse::Status::Complete((line, size)) =
            httparse::parse_chunk_size(rest).map_err(|_| "bad chunk size")?
        else {
            return Ok(None);
        };
        let size = usize::try_from(size)
            .ok()
            .filter(|&n| n <= ANSWER_BYTES_MAX)
            .ok_or("chunk too large")?;
        let Some(chunk) = rest.get(line..line + size + 2) else { return Ok(None) };
        if !chunk.ends_with(b"\r\n") {
            // A trailer would stand here behind the last chunk; nothing sends one to a client that
            // has not asked.
            return Err("chunk without its end".into());
        }
        body.extend_from_slice(&chunk[..size]);
        at += line + size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
        if body.len() > ANSWER_BYTES_MAX {
            return Err("answer too large".into());
        }
    }
}

/// How an answer that is not 200 is counted: its errorName and status.
pub fn error_name(status: u16, body: &[u8]) -> String {
    #[derive(Deserialize)]
    #[allow(non_snake_case)]
    struct Error<'a> {
        #[serde(borrow)]
        errorName: Cow<'a, str>,
    }
    match serde_json::from_slice::<Error<'_>>(body) {
        Ok(error)
            if error.errorName.len() <= 64
                && error.errorName.bytes().all(|b| b.is_ascii_alphanumeric()) =>
        {
            format!("{} ({status})", error.errorName)
        }
        _ => format!("status {status} without errorName"),
    }
}

/// What an error's answer says to a person: its first characters, without what a terminal would act
/// on.
pub fn error_message(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[allow(non_snake_case)]
    struct Error<'a> {
        #[serde(borrow)]
        errorMessage: Cow<'a, str>,
    }
    let message = serde_json::from_slice::<Error<'_>>(body).ok()?.errorMessage;
    let shown: String = message
        .chars()
        .take(ERROR_MESSAGE_CHARS_MAX)
        .map(|c| if matches!(c, ' '..='~') { c } else { '?' })
        .collect();
    (!shown.is_empty()).then_some(shown)
}

/// What an encrypt answered, in base64.
#[derive(Debug, Deserialize)]
#[allow(non_snake_case, missing_docs)]
pub struct Encrypted<'a> {
    #[serde(borrow)]
    pub ciphertext: Cow<'a, str>,
    #[serde(borrow)]
    pub initializationVector: Cow<'a, str>,
    #[serde(borrow)]
    pub authenticationTag: Cow<'a, str>,
    #[serde(borrow)]
    pub ciphertextMetadata: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub ciphertextDataIntegrityValue: Option<Cow<'a, str>>,
}

/// What an encrypt asked for.
pub struct EncryptRequest<'a> {
    /// Bytes of plaintext.
    pub plaintext_bytes: usize,
    /// AAD.
    pub aad: &'a [u8],
    /// Whether a CDIV was asked for.
    pub cdiv: bool,
}

fn decode<'b>(what: &str, text: &str, scratch: &'b mut Vec<u8>) -> Result<&'b [u8], String> {
    scratch.clear();
    BASE64_STANDARD.decode_vec(text, scratch).map_err(|e| format!("{what}: {e}"))?;
    Ok(scratch)
}

/// Buffers and the memory of recent IVs.
pub struct Checker {
    scratch: Vec<u8>,
    ivs: Vec<(u64, [u8; 16])>,
}

impl Default for Checker {
    fn default() -> Checker {
        Checker {
            scratch: Vec::with_capacity(1024),
            ivs: vec![(0, [0; 16]); crate::limits::IVS_REMEMBERED],
        }
    }
}

impl Checker {
    /// Checks an encrypt's answer: lengths, the CDIV, and that the IV is not one seen lately under
    /// the same key.
    ///
    /// # Errors
    /// What is wrong.
    pub fn encrypted<'a>(
        &mut self,
        request: &EncryptRequest<'_>,
        key: u64,
        body: &'a [u8],
    ) -> Result<Encrypted<'a>, String> {
        let answer: Encrypted<'a> =
            serde_json::from_slice(body).map_err(|e| format!("encrypt's answer: {e}"))?;
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(request.aad);
        if let Some(metadata) = &answer.ciphertextMetadata {
            let metadata = decode("ciphertextMetadata", metadata, &mut self.scratch)?;
            if metadata.len() > CIPHERTEXT_METADATA_BYTES_MAX {
                return Err(format!("ciphertextMetadata of {} bytes", metadata.len()));
            }
            hash.update(metadata);
        }
        let iv = decode("initializationVector", &answer.initializationVector, &mut self.scratch)?;
        if iv.len() != 12 && iv.len() != 16 {
            return Err(format!("initializationVector of {} bytes", iv.len()));
        }
        hash.update(iv);
        let mut padded = [0; 16];
        padded[..iv.len()].copy_from_slice(iv);
        let ciphertext = decode("ciphertext", &answer.ciphertext, &mut self.scratch)?;
        if ciphertext.len() != request.plaintext_bytes {
            return Err(format!(
                "ciphertext of {} bytes for a plaintext of {}",
                ciphertext.len(),
                request.plaintext_bytes
            ));
        }
        hash.update(ciphertext);
        let tag = decode("authenticationTag", &answer.authenticationTag, &mut self.scratch)?;
        if tag.len() != 16 {
            return Err(format!("authenticationTag of {} bytes", tag.len()));
        }
        hash.update(tag);
        match (&answer.ciphertextDataIntegrityValue, request.cdiv) {
            (Some(told), true) => {
                if decode("ciphertextDataIntegrityValue", told, &mut self.scratch)?
                    != hash.finish().as_ref()
                {
                    return Err("the CDIV is not that of the answer".into());
                }
            }
            (None, false) => {}
            (Some(_), false) => return Err("a CDIV that was not asked for".into()),
            (None, true) => return Err("no CDIV, but one was asked for".into()),
        }
        self.remember(key, padded)?;
        Ok(answer)
    }

    /// A repeated IV under one key breaks AES-GCM. Only the latest are remembered: what this is to
    /// find is a generator that stands still.
    fn remember(&mut self, key: u64, iv: [u8; 16]) -> Result<(), String> {
        let at = usize::from(u16::from_le_bytes([iv[0], iv[11]])) & (self.ivs.len() - 1);
        let Some(place) = self.ivs.get_mut(at) else { return Ok(()) };
        // Keys count from 1, so that an empty place is nobody's.
        if *place == (key + 1, iv) {
            return Err("the same IV twice under one key".into());
        }
        *place = (key + 1, iv);
        Ok(())
    }
}

/// Checks a decrypt's answer against the plaintext in base64.
///
/// # Errors
/// What is wrong; never the plaintext itself.
pub fn decrypted(expected: &str, body: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Decrypted<'a> {
        #[serde(borrow)]
        plaintext: Cow<'a, str>,
    }
    let answer: Decrypted<'_> =
        serde_json::from_slice(body).map_err(|e| format!("decrypt's answer: {e}"))?;
    // Base64 with padding has one text for each sequence of bytes.
    if answer.plaintext == expected {
        Ok(())
    } else {
        Err("decrypt gave back another plaintext than was encrypted".into())
    }
}

/// Checks a metadata answer.
///
/// # Errors
/// What is wrong.
pub fn metadata(body: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    #[allow(non_snake_case)]
    struct Metadata {
        keySpec: String,
        keyUsage: Vec<String>,
        keyStatus: String,
    }
    let answer: Metadata =
        serde_json::from_slice(body).map_err(|e| format!("metadata's answer: {e}"))?;
    let has = |usage: &str| answer.keyUsage.iter().any(|u| u == usage);
    if answer.keySpec != "AES_256" {
        Err(format!("keySpec {:?}", answer.keySpec))
    } else if !has("ENCRYPT") || !has("DECRYPT") {
        Err(format!("keyUsage {:?}", answer.keyUsage))
    } else if answer.keyStatus != "ENABLED" {
        Err(format!("keyStatus {:?}", answer.keyStatus))
    } else {
        Ok(())
    }
}

/// Checks a health answer.
///
/// # Errors
/// What is wrong.
pub fn health(body: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    #[allow(non_snake_case)]
    struct Health {
        xksProxyFleetSize: u64,
        ekmFleetDetails: Vec<Ekm>,
    }
    #[derive(Deserialize)]
    #[allow(non_snake_case)]
    struct Ekm {
        healthStatus: String,
    }
    let answer: Health =
        serde_json::from_slice(body).map_err(|e| format!("health's answer: {e}"))?;
    if answer.xksProxyFleetSize == 0
        || answer.ekmFleetDetails.is_empty()
        || answer.ekmFleetDetails.len() > 10
    {
        return Err("health's answer: an empty fleet, or one of more than 10".into());
    }
    match answer
        .ekmFleetDetails
        .iter()
        .find(|e| !["ACTIVE", "DEGRADED", "UNAVAILABLE"].contains(&e.healthStatus.as_str()))
    {
        Some(ekm) => Err(format!("healthStatus {:?}", ekm.healthStatus)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
