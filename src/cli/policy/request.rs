//! A request as a person describes it, on the command line or in a file of cases.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::OfKeyStore;
use crate::policy::cedar::{Action, Question};

/// What is known of a request; the names in a file of cases are those of the log.
#[derive(Clone, Debug, Default, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub(super) struct Described {
    /// path_prefix of the key store [default: the only one that has policies]
    #[arg(long, value_name = "PREFIX")]
    pub(super) key_store: Option<String>,
    /// encrypt, decrypt or metadata
    #[arg(long, value_name = "NAME")]
    operation: Option<String>,
    /// External key id
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// awsPrincipalArn: who called KMS
    #[arg(long, value_name = "ARN")]
    principal: Option<String>,
    /// The KMS call behind it [default: that of the operation]
    #[serde(rename = "kmsOperation")]
    #[arg(long, value_name = "NAME")]
    kms_operation: Option<String>,
    /// ARN of the KMS key
    #[serde(rename = "kmsKeyArn")]
    #[arg(long, value_name = "ARN")]
    kms_key_arn: Option<String>,
    /// The AWS service that called KMS, as s3.eu-west-1.amazonaws.com
    #[serde(rename = "kmsViaService")]
    #[arg(long, value_name = "NAME")]
    kms_via_service: Option<String>,
    /// VPC of the caller
    #[serde(rename = "awsSourceVpc")]
    #[arg(long, value_name = "ID")]
    aws_source_vpc: Option<String>,
    /// VPC endpoint of the caller
    #[serde(rename = "awsSourceVpce")]
    #[arg(long, value_name = "ID")]
    aws_source_vpce: Option<String>,
    /// VPC endpoint through which KMS is connected
    #[serde(rename = "connectionVpce")]
    #[arg(long, value_name = "ID")]
    connection_vpce: Option<String>,
    /// Subject CN of KMS's client certificate
    #[serde(rename = "clientCommonName")]
    #[arg(long, value_name = "NAME")]
    client_common_name: Option<String>,
    /// Access key id that signed [default: the first of the key store]
    #[serde(rename = "access_key_id")]
    #[arg(long, value_name = "ID")]
    access_key_id: Option<String>,
    /// AWS region of the signature [default: the first of server.regions]
    #[arg(long, value_name = "NAME")]
    region: Option<String>,
    /// When it arrives, as 2026-11-28T10:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    time: Option<String>,
}

impl Described {
    /// The question to the policies of a key store.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub(super) fn question<'a>(
        &'a self,
        of: &'a OfKeyStore<'_>,
        regions: &'a [String],
    ) -> Result<Question<'a>, String> {
        let operation = self.operation.as_deref().ok_or("operation is missing")?;
        let action = action(operation).ok_or_else(|| {
            format!("operation {operation:?}: encrypt, decrypt or metadata is expected")
        })?;
        let key = self.key.as_deref().ok_or("key is missing")?;
        if !of.store.keys.iter().any(|known| known.id == key) {
            let prefix = &of.store.path_prefix;
            return Err(format!("key store {prefix:?} has no key {key:?}"));
        }
        let first = |given: &'a Option<String>, default: Option<&'a str>| {
            given.as_deref().or(default).unwrap_or_default()
        };
        let credential = of.store.credentials.first().map(|one| one.access_key_id.as_str());
        Ok(Question {
            action,
            key,
            principal: self.principal.as_deref().ok_or("principal is missing")?,
            kms_operation: first(&self.kms_operation, Some(default_kms_operation(action))),
            credential: first(&self.access_key_id, credential),
            region: first(&self.region, regions.first().map(String::as_str)),
            kms_key_arn: self.kms_key_arn.as_deref(),
            via_service: self.kms_via_service.as_deref(),
            source_vpc: self.aws_source_vpc.as_deref(),
            source_vpce: self.aws_source_vpce.as_deref(),
            connection_vpce: self.connection_vpce.as_deref(),
            client_common_name: self.client_common_name.as_deref(),
            time: self.seconds()?,
        })
    }

    fn seconds(&self) -> Result<i64, String> {
        let Some(text) = &self.time else {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            return Ok(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        };
        OffsetDateTime::parse(text, &Rfc3339)
            .map(OffsetDateTime::unix_timestamp)
            .map_err(|_| format!("time {text:?}: a time is meant as in 2026-11-28T10:00:00Z"))
    }
}

/// By the log's name or by the one that policies use.
fn action(name: &str) -> Option<Action> {
    match name {
        "encrypt" => Some(Action::Encrypt),
        "decrypt" => Some(Action::Decrypt),
        "metadata" => Some(Action::GetKeyMetadata),
        _ => Action::parse(name),
    }
}

fn default_kms_operation(action: Action) -> &'static str {
    match action {
        Action::Encrypt => "Encrypt",
        Action::Decrypt => "Decrypt",
        Action::GetKeyMetadata => "DescribeKey",
    }
}
