//! The calls a probe makes and what it demands of their answers.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::super::Failure;
use super::Report;
use super::client::{Answer, Client};
use super::sign::Signer;

/// Encryption context as KMS would send it.
const AAD: &[u8] = b"purpose=xksd-probe";
const REFUSED: &str = "refused as it must be";

/// What the checks work with.
pub(super) struct Checks<'a> {
    client: &'a mut Client,
    signer: Signer,
    prefix: String,
    key: String,
    /// How long the last call took, whatever came of it.
    pub(super) time: Duration,
    /// A signature of this credential was accepted: only then does it say something that a wrong
    /// one is refused.
    believed: bool,
    /// GetHealthStatus, which no key is part of, was answered 404: then so is everything else at
    /// this prefix.
    no_such_path: bool,
}

/// What to say of a check: a note where it passed, the reason where it failed.
type Checked = Result<String, String>;

/// The three parts of a ciphertext and what comes with them, base64 as the proxy gave it.
struct Ciphertext {
    fields: Vec<(&'static str, String)>,
    tag: Vec<u8>,
}

impl<'a> Checks<'a> {
    pub(super) fn new(
        client: &'a mut Client,
        signer: Signer,
        prefix: String,
        key: String,
    ) -> Checks<'a> {
        Checks {
            client,
            signer,
            prefix,
            key,
            time: Duration::ZERO,
            believed: false,
            no_such_path: false,
        }
    }

    pub(super) fn run(&mut self, report: &mut Report) -> Result<(), Failure> {
        let health = self.health();
        self.line(report, "GetHealthStatus", health)?;
        let metadata = self.metadata();
        self.line(report, "GetKeyMetadata", metadata)?;

        let mut plaintext = [0; 32];
        SystemRandom::new()
            .fill(&mut plaintext)
            .map_err(|_| Failure::Failed("the system has no random bytes".into()))?;
        let (decrypt, altered) = ("Decrypt", "Decrypt with an altered tag");
        match self.encrypt(&plaintext) {
            Ok(ciphertext) => {
                self.line(report, "Encrypt", Ok("CDIV verified".into()))?;
                let decrypted = self.decrypt(&ciphertext, &plaintext);
                self.line(report, decrypt, decrypted)?;
                let refused = self.decrypt_altered(&ciphertext);
                self.line(report, altered, refused)?;
            }
            Err(why) => {
                self.line(report, "Encrypt", Err(why))?;
                report.left_out(decrypt, "Encrypt failed")?;
                report.left_out(altered, "Encrypt failed")?;
            }
        }
        if self.believed {
            let refused = self.wrong_signature();
            self.line(report, "a wrong signature", refused)?;
        } else {
            report.left_out("a wrong signature", "no right one was accepted")?;
        }
        if self.no_such_path {
            return report.left_out("GET instead of POST", "POST was answered 404");
        }
        let refused = self.get();
        self.line(report, "GET instead of POST", refused)
    }

    /// A line of the report; the last one if the connection was lost, since all others would only
    /// say so again.
    fn line(&self, report: &mut Report, what: &str, checked: Checked) -> Result<(), Failure> {
        report.line(what, self.time, checked)?;
        if self.client.is_lost() {
            return Err(Failure::Failed(
                "the connection is lost: the other checks were left out".into(),
            ));
        }
        Ok(())
    }

    fn post(&mut self, path: &str, body: &Value, spoil: bool) -> Result<Answer, String> {
        let body = body.to_string();
        let path = format!("{}/kms/xks/v1/{path}", self.prefix);
        let signed =
            self.signer.sign(self.client.host(), &path, body.as_bytes(), OffsetDateTime::now_utc());
        let sent = if spoil { body.replace("HealthStatus", "HealthStatuS") } else { body };
        let headers = [
            ("Content-Type", "application/json"),
            ("X-Amz-Date", &signed.date),
            ("Authorization", &signed.authorization),
        ];
        let answer = self.call("POST", &path, &headers, sent.as_bytes())?;
        self.believed |= answer.status == 200;
        Ok(answer)
    }

    fn call(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer, String> {
        let start = Instant::now();
        let answer = self.client.call(method, path, headers, body);
        self.time = answer.as_ref().map_or_else(|_| start.elapsed(), |answer| answer.time);
        answer
    }

    fn key_path(&self, operation: &str) -> String {
        format!("keys/{}/{operation}", self.key)
    }

    pub(super) fn health(&mut self) -> Checked {
        let of_kms = json!({"kmsRequestId": request_id(), "kmsOperation": "KmsHealthCheck"});
        let body = json!({"requestMetadata": of_kms});
        let answer = self.post("health", &body, false)?;
        self.no_such_path = answer.status == 404;
        let json = success(&answer)?;
        if json["xksProxyFleetSize"].as_u64().unwrap_or(0) == 0 {
            return Err("xksProxyFleetSize must be an integer above 0".into());
        }
        for field in ["xksProxyVendor", "xksProxyModel", "ekmVendor"] {
            string(&json, field)?;
        }
        let fleet = json["ekmFleetDetails"]
            .as_array()
            .filter(|fleet| (1..=10).contains(&fleet.len()))
            .ok_or("ekmFleetDetails must have 1 to 10 entries")?;
        let mut states = Vec::new();
        for member in fleet {
            let state = string(member, "healthStatus")?;
            if !["ACTIVE", "DEGRADED", "UNAVAILABLE"].contains(&state) {
                return Err(format!(
                    "healthStatus {state} is none of ACTIVE, DEGRADED, UNAVAILABLE"
                ));
            }
            states.push(format!("{} {state}", string(member, "id")?));
            string(member, "model")?;
        }
        let (vendor, model) = (string(&json, "xksProxyVendor")?, string(&json, "xksProxyModel")?);
        // Many a model's name begins with its vendor's.
        let name =
            if model.starts_with(vendor) { model.to_owned() } else { format!("{vendor} {model}") };
        let note = format!("{name}: {}", states.join(", "));
        if fleet.iter().all(|member| member["healthStatus"] == "UNAVAILABLE") {
            return Err(format!(
                "every key manager is UNAVAILABLE, so KMS will not use this key store ({note})"
            ));
        }
        Ok(note)
    }

    fn metadata(&mut self) -> Checked {
        let body = json!({"requestMetadata": metadata("CreateKey", false)});
        let answer = self.post(&self.key_path("metadata"), &body, false)?;
        let json = success(&answer)?;
        let (spec, status) = (string(&json, "keySpec")?, string(&json, "keyStatus")?);
        let usage: Vec<&str> = json["keyUsage"]
            .as_array()
            .map(|u| u.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let usages = if usage.is_empty() { "no keyUsage".to_owned() } else { usage.join(" ") };
        let note = format!("{spec}, {status}, {usages}");
        // What KMS demands of a key before it makes a KMS key of it.
        if spec != "AES_256"
            || status != "ENABLED"
            || !usage.contains(&"ENCRYPT")
            || !usage.contains(&"DECRYPT")
        {
            return Err(format!("KMS could not use this key: {note}"));
        }
        Ok(note)
    }

    fn encrypt(&mut self, plaintext: &[u8]) -> Result<Ciphertext, String> {
        let body = json!({
            "requestMetadata": metadata("GenerateDataKey", true),
            "plaintext": STANDARD.encode(plaintext),
            "additionalAuthenticatedData": STANDARD.encode(AAD),
            "encryptionAlgorithm": "AES_GCM",
            "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
        });
        let answer = self.post(&self.key_path("encrypt"), &body, false)?;
        let json = success(&answer)?;
        let ciphertext = bytes(&json, "ciphertext")?;
        let iv = bytes(&json, "initializationVector")?;
        let tag = bytes(&json, "authenticationTag")?;
        let metadata = if json.get("ciphertextMetadata").is_some() {
            Some(bytes(&json, "ciphertextMetadata")?)
        } else {
            None
        };
        if ciphertext.len() != plaintext.len() {
            return Err(format!(
                "ciphertext has {} bytes for {} of plaintext",
                ciphertext.len(),
                plaintext.len()
            ));
        }
        if ciphertext == plaintext {
            return Err("the ciphertext is the plaintext".into());
        }
        if ![12, 16].contains(&iv.len())
            || tag.len() != 16
            || metadata.as_ref().is_some_and(|m| m.len() > 20)
        {
            return Err(format!("IV of {}, tag of {} bytes", iv.len(), tag.len()));
        }
        let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
        for part in [AAD, metadata.as_deref().unwrap_or_default(), &iv, &ciphertext, &tag] {
            digest.update(part);
        }
        if bytes(&json, "ciphertextDataIntegrityValue")? != digest.finish().as_ref() {
            return Err("ciphertextDataIntegrityValue is not that of the answer".into());
        }
        let mut fields = vec![];
        for name in ["ciphertext", "initializationVector", "ciphertextMetadata"] {
            if let Some(value) = json[name].as_str() {
                fields.push((name, value.to_string()));
            }
        }
        Ok(Ciphertext { fields, tag })
    }

    fn send_decrypt(&mut self, ciphertext: &Ciphertext, tag: &[u8]) -> Result<Answer, String> {
        let mut body = json!({
            "requestMetadata": metadata("Decrypt", true),
            "additionalAuthenticatedData": STANDARD.encode(AAD),
            "authenticationTag": STANDARD.encode(tag),
            "encryptionAlgorithm": "AES_GCM",
        });
        for (name, value) in &ciphertext.fields {
            body[*name] = json!(value);
        }
        self.post(&self.key_path("decrypt"), &body, false)
    }

    fn decrypt(&mut self, ciphertext: &Ciphertext, plaintext: &[u8]) -> Checked {
        let answer = self.send_decrypt(ciphertext, &ciphertext.tag)?;
        if bytes(&success(&answer)?, "plaintext")? != plaintext {
            return Err("the plaintext is another one than was encrypted".into());
        }
        Ok("plaintext as before".into())
    }

    fn decrypt_altered(&mut self, ciphertext: &Ciphertext) -> Checked {
        let mut tag = ciphertext.tag.clone();
        tag[0] ^= 1;
        let answer = self.send_decrypt(ciphertext, &tag)?;
        refusal(&answer, 400, "InvalidCiphertextException")
    }

    fn wrong_signature(&mut self) -> Checked {
        let of_kms = json!({"kmsRequestId": request_id(), "kmsOperation": "KmsHealthStatus"});
        let body = json!({"requestMetadata": of_kms});
        let answer = self.post("health", &body, true)?;
        refusal(&answer, 401, "AuthenticationFailedException")
    }

    fn get(&mut self) -> Checked {
        let answer = self.call("GET", &format!("{}/kms/xks/v1/health", self.prefix), &[], b"")?;
        if answer.status == 405 {
            Ok(REFUSED.into())
        } else {
            Err(format!("status {} instead of 405", answer.status))
        }
    }
}

fn request_id() -> String {
    format!("xksd-probe-{}", OffsetDateTime::now_utc().unix_timestamp_nanos())
}

fn metadata(operation: &str, with_key: bool) -> Value {
    let mut metadata = json!({
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/xksd-probe",
        "kmsOperation": operation,
        "kmsRequestId": request_id(),
    });
    if with_key {
        metadata["kmsKeyArn"] =
            json!("arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000");
    }
    metadata
}

fn success(answer: &Answer) -> Result<Value, String> {
    if answer.status != 200 {
        return Err(format!("status {}: {}", answer.status, excerpt(&answer.body)));
    }
    if !answer.content_type.to_ascii_lowercase().starts_with("application/json") {
        return Err(format!(
            "Content-Type is {:?} instead of application/json",
            answer.content_type
        ));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|e| format!("not JSON ({e}): {}", excerpt(&answer.body)))
}

fn refusal(answer: &Answer, status: u16, name: &str) -> Checked {
    let found = serde_json::from_slice::<Value>(&answer.body)
        .ok()
        .and_then(|json| json["errorName"].as_str().map(String::from));
    if answer.status == status && found.as_deref() == Some(name) {
        Ok(REFUSED.into())
    } else {
        Err(format!(
            "status {} {} instead of {status} {name}",
            answer.status,
            found.unwrap_or_else(|| "without errorName".into())
        ))
    }
}

/// The start of an answer that is not what it should be, safe for a terminal.
fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(300)])
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

fn string<'a>(json: &'a Value, field: &str) -> Result<&'a str, String> {
    json[field].as_str().ok_or_else(|| format!("{field} must be a string"))
}

fn bytes(json: &Value, field: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(string(json, field)?).map_err(|_| format!("{field} is not base64"))
}
