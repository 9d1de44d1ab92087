//! What is kept of a request for the log and for spans.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

/// What is logged of one request. Never plaintext, ciphertext or secrets.
#[derive(Debug, Default, Serialize)]
pub struct RequestLine {
    /// What CloudTrail shows; empty where the request did not tell it.
    #[serde(rename = "kmsRequestId")]
    pub kms_request_id: String,
    /// Path prefix of the key store.
    pub key_store: Arc<str>,
    /// External key id as in the path.
    pub key: String,
    /// `encrypt`, `decrypt`, `metadata`, `health`, `none`.
    pub operation: &'static str,
    /// The KMS call behind it.
    #[serde(rename = "kmsOperation")]
    pub kms_operation: String,
    /// awsPrincipalArn.
    pub principal: String,
    /// kmsKeyArn.
    #[serde(rename = "kmsKeyArn", skip_serializing_if = "String::is_empty")]
    pub kms_key_arn: String,
    /// kmsViaService.
    #[serde(rename = "kmsViaService", skip_serializing_if = "String::is_empty")]
    pub kms_via_service: String,
    /// awsSourceVpc.
    #[serde(rename = "awsSourceVpc", skip_serializing_if = "String::is_empty")]
    pub source_vpc: String,
    /// awsSourceVpce.
    #[serde(rename = "awsSourceVpce", skip_serializing_if = "String::is_empty")]
    pub source_vpce: String,
    /// The VPC endpoint of the connection, as the load balancer says.
    #[serde(rename = "connectionVpce", skip_serializing_if = "Option::is_none")]
    pub connection_vpce: Option<Arc<str>>,
    /// W3C's `traceparent`, as a proxy or load balancer before xksd sent it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub traceparent: String,
    /// The credential that signed; empty unless authenticated.
    pub access_key_id: Arc<str>,
    /// The ids of the policies that decided.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// Why policies in a dry run would have denied what they let pass.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub dry_run: &'static str,
    /// Peer address.
    pub client: Option<SocketAddr>,
    /// HTTP status.
    pub status: u16,
    /// errorName, or `none`.
    pub error: &'static str,
    /// Why, for the operator: more than the client gets.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Key manager that did it.
    pub key_manager: Arc<str>,
    /// First byte to answer, microseconds.
    pub total_us: u64,
    /// Waiting for a session, microseconds.
    pub queue_us: u64,
    /// In the key manager, microseconds.
    pub hsm_us: u64,
    /// Shard that served it.
    pub shard: usize,
}

impl RequestLine {
    /// As new, but for the memory of its texts. What is not named here is new: nothing of one
    /// request can stand in another one's line.
    pub(super) fn renew(&mut self) {
        fn emptied(text: &mut String) -> String {
            text.clear();
            std::mem::take(text)
        }
        *self = RequestLine {
            kms_request_id: emptied(&mut self.kms_request_id),
            key: emptied(&mut self.key),
            kms_operation: emptied(&mut self.kms_operation),
            principal: emptied(&mut self.principal),
            kms_key_arn: emptied(&mut self.kms_key_arn),
            kms_via_service: emptied(&mut self.kms_via_service),
            source_vpc: emptied(&mut self.source_vpc),
            source_vpce: emptied(&mut self.source_vpce),
            policy: emptied(&mut self.policy),
            traceparent: emptied(&mut self.traceparent),
            ..RequestLine::default()
        };
    }
}
