//! What is written of each thing that happened: one JSON object a line.
//!
//! Names of fields are a contract: programs of others read them. Never plaintext, ciphertext or
//! secrets.

use std::net::SocketAddr;
use std::time::SystemTime;

use serde::Serialize;

use crate::telemetry::log::{timestamp, write_json};

/// One thing that happened. Its `kind` stands in the line.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record<'a> {
    /// A signed request, whatever its outcome.
    Request(Request<'a>),
    /// A signed request that the policy denied.
    Denied(Request<'a>),
    /// A request whose signature was refused; of many at once the rest is a number.
    Unauthenticated {
        /// Path prefix, if it is a key store's.
        key_store: &'a str,
        /// Peer.
        client: Option<SocketAddr>,
        /// Why, in a word.
        reason: &'a str,
    },
    /// Requests refused for this reason that have no own record.
    UnauthenticatedMore {
        /// As in the records.
        reason: &'a str,
        /// How many.
        count: u64,
    },
    /// A key or key store was blocked.
    Block(Block<'a>),
    /// And unblocked.
    Unblock(Block<'a>),
    /// Another configuration was taken over, or refused.
    Reload {
        /// Who asked for it: a signal, or the user at the control socket.
        who: &'a str,
        /// SHA-256 of the configuration file, hex; empty where it could not be read.
        config_sha256: &'a str,
        /// What differs, a sentence each.
        changes: &'a [String],
        /// Why it was refused.
        #[serde(skip_serializing_if = "Option::is_none")]
        refused: Option<&'a str>,
    },
    /// The service began.
    Start {
        /// Of xksd.
        version: &'a str,
        /// SHA-256 of the configuration file, hex.
        config_sha256: &'a str,
    },
    /// The service ended in order.
    Stop {},
    /// A key manager came or went.
    KeyManager {
        /// Its name.
        name: &'a str,
        /// `serves` or `does not serve`.
        state: &'a str,
        /// Why.
        detail: &'a str,
    },
    /// A witness cosigns the checkpoints from now on, or does not any more.
    Witness {
        /// Of its key.
        name: &'a str,
        /// `cosigns` or `does not cosign`.
        state: &'a str,
        /// Why.
        detail: &'a str,
    },
    /// A file of a wrapped key was taken over, refused, or has gone.
    KeyFile {
        /// Name of the key manager.
        key_manager: &'a str,
        /// Of the key.
        label: &'a str,
        /// What happened.
        change: &'a str,
    },
    /// A key's invocation budget has been used up to a threshold.
    KeyBudget(KeyBudget<'a>),
    /// The records before this index are going to be deleted, because they are old. What is missing
    /// without such a record was taken away.
    Retired {
        /// Index of the first record that stays.
        before: u64,
        /// `audit.retention_days`, in seconds.
        older_than_seconds: u64,
    },
    /// The answer to a request that has a record did not leave: KMS got an error in its place.
    Withheld {
        /// As in the request's record.
        #[serde(rename = "kmsRequestId")]
        kms_request_id: &'a str,
        /// errorName of what KMS got.
        outcome: &'a str,
    },
    /// Records could not be written for a while, and what they would have said is lost.
    Missed {
        /// How many.
        count: u64,
    },
    /// After a crash: records before this one that no checkpoint covered, and what an unfinished
    /// write had left of one more, which was removed. No answer had left for that one.
    Recovered {
        /// How many the next checkpoint is the first to cover.
        not_yet_signed: u64,
        /// Of the unfinished record.
        removed_bytes: u64,
    },
}

/// Who used which key.
#[derive(Debug, Default, Serialize)]
pub struct Request<'a> {
    /// As in CloudTrail.
    #[serde(rename = "kmsRequestId")]
    pub kms_request_id: &'a str,
    /// Path prefix.
    pub key_store: &'a str,
    /// External key id.
    pub key: &'a str,
    /// Of the key, where one was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_version: Option<u16>,
    /// `encrypt`, `decrypt`, `metadata`.
    pub operation: &'a str,
    /// The KMS call behind it.
    #[serde(rename = "kmsOperation")]
    pub kms_operation: &'a str,
    /// awsPrincipalArn.
    pub principal: &'a str,
    /// Of the KMS key.
    #[serde(rename = "kmsKeyArn", skip_serializing_if = "str::is_empty")]
    pub kms_key_arn: &'a str,
    /// The AWS service that asked.
    #[serde(rename = "kmsViaService", skip_serializing_if = "str::is_empty")]
    pub kms_via_service: &'a str,
    /// Of the caller.
    #[serde(rename = "awsSourceVpc", skip_serializing_if = "str::is_empty")]
    pub source_vpc: &'a str,
    /// Of the caller.
    #[serde(rename = "awsSourceVpce", skip_serializing_if = "str::is_empty")]
    pub source_vpce: &'a str,
    /// The VPC endpoint of the connection, as the load balancer says.
    #[serde(rename = "connectionVpce", skip_serializing_if = "str::is_empty")]
    pub connection_vpce: &'a str,
    /// W3C's, of a proxy or load balancer before xksd: nobody has signed it.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub traceparent: &'a str,
    /// The credential that signed.
    pub access_key_id: &'a str,
    /// Peer, or whom the load balancer names.
    pub client: Option<SocketAddr>,
    /// `success`, or the errorName.
    pub outcome: &'a str,
    /// The deciding policies' ids.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub policy: &'a str,
    /// Why policies in a dry run would have denied what they let pass.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub dry_run: &'a str,
}

/// How far the invocation budget of a key is used on this instance.
#[derive(Debug, Serialize)]
pub struct KeyBudget<'a> {
    /// Of the key in its key managers.
    pub label: &'a str,
    /// Where the key manager keeps versions: which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_version: Option<u16>,
    /// Those that hold it.
    pub key_managers: &'a [String],
    /// The threshold.
    pub percent: u8,
    /// How often it has encrypted, at the most.
    pub encryptions: u64,
    /// How often it may.
    pub share: u64,
}

/// What was blocked, and by whom.
#[derive(Debug, Serialize)]
pub struct Block<'a> {
    /// Path prefix.
    pub key_store: &'a str,
    /// External key id; the whole key store if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    /// In the operator's words.
    pub reason: &'a str,
    /// The user at the control socket.
    pub who: &'a str,
    /// When it ends by itself, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<&'a str>,
}

/// Appends the record's line with its newline.
pub fn write_line(record: &Record<'_>, at: SystemTime, line: &mut Vec<u8>) {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        #[serde(flatten)]
        record: &'a Record<'a>,
    }
    let start = line.len();
    if write_json(line, &Line { time: timestamp(at), record }).is_err() {
        // Writing into memory does not fail; half a line must not stand there if it did.
        line.truncate(start);
        return;
    }
    line.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &Record<'_>) -> (String, serde_json::Value) {
        let mut bytes = Vec::new();
        write_line(record, SystemTime::UNIX_EPOCH, &mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        let json = serde_json::from_str(&text).unwrap();
        (text, json)
    }

    #[test]
    fn a_record_is_one_line_whatever_is_in_it() {
        let request = Request { key: "a\nb\r\u{2028}\"", outcome: "success", ..Request::default() };
        let (text, json) = line(&Record::Request(request));
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
        assert_eq!(json["key"], "a\nb\r\u{2028}\"");
        assert_eq!(
            (&json["kind"], &json["time"]),
            (&"request".into(), &timestamp(SystemTime::UNIX_EPOCH).into())
        );
    }

    #[test]
    fn kinds_have_the_names_of_the_contract() {
        let block = || Block { key_store: "/a", key: None, reason: "r", who: "root", until: None };
        let no_changes: &[String] = &[];
        let budget = KeyBudget {
            label: "l",
            key_version: None,
            key_managers: &[],
            percent: 50,
            encryptions: 1,
            share: 2,
        };
        for (record, kind) in [
            (Record::Denied(Request::default()), "denied"),
            (
                Record::Unauthenticated { key_store: "", client: None, reason: "r" },
                "unauthenticated",
            ),
            (Record::Block(block()), "block"),
            (Record::Unblock(block()), "unblock"),
            (
                Record::Reload { who: "w", config_sha256: "", changes: no_changes, refused: None },
                "reload",
            ),
            (Record::Start { version: "1", config_sha256: "" }, "start"),
            (Record::Stop {}, "stop"),
            (Record::KeyManager { name: "n", state: "serves", detail: "" }, "key_manager"),
            (Record::Missed { count: 1 }, "missed"),
            (Record::KeyBudget(budget), "key_budget"),
        ] {
            assert_eq!(line(&record).1["kind"], kind);
        }
    }
}
