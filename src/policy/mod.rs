//! Whether a request that is authenticated and valid is permitted. Pure: what it decides by is
//! passed in, the time too.
//!
//! [`Permit`] is the only thing that the pipeline executes, and only [`decide`] makes one.

pub mod blocklist;
pub mod budget;
pub mod cedar;
pub mod quota;

use std::sync::Arc;

use crate::api::{Call, RequestMetadata, ValidRequest};
use crate::sigv4::Authenticated;
use cedar::{Action, Decisions, Policies, Question, Revision, Verdict};

/// What becomes of a request that policies do not permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// It is denied.
    Enforce,
    /// It is answered, and told that it would be denied.
    DryRun,
}

impl Mode {
    /// As the configuration spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::DryRun => "dry-run",
        }
    }

    /// The one of this name.
    pub fn parse(text: &str) -> Option<Mode> {
        [Self::Enforce, Self::DryRun].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// The policies of a key store in force.
#[derive(Debug)]
pub struct Policy {
    /// Who may do what.
    pub policies: Arc<Policies>,
    /// What becomes of the others.
    pub mode: Mode,
    /// Whether an error tells the client which policy denied.
    pub ids_in_errors: bool,
    /// The configuration that it is of.
    pub revision: Revision,
}

/// What a decision needs besides what was proved of the request.
#[derive(Debug)]
pub struct Inquiry<'a> {
    /// The key store's policies.
    pub policy: &'a Policy,
    /// Decisions of this shard.
    pub decisions: &'a mut Decisions,
    /// External key id.
    pub key: &'a str,
    /// The VPC endpoint through which KMS is connected.
    pub connection_vpce: Option<&'a str>,
    /// Subject CN of the client's certificate.
    pub client_common_name: Option<&'a str>,
    /// When the request arrived, seconds since 1970.
    pub time: i64,
}

/// A request that is authenticated, valid and permitted, and what it is for.
#[derive(Debug)]
pub struct Permit<T> {
    call: Call,
    target: T,
    verdict: Option<Arc<Verdict>>,
}

impl<T> Permit<T> {
    /// What the policies said; `None` where none were asked. In a dry run they may have denied.
    pub fn verdict(&self) -> Option<&Arc<Verdict>> {
        self.verdict.as_ref()
    }

    /// Taken apart, to be executed.
    pub fn into_parts(self) -> (Call, T) {
        (self.call, self.target)
    }
}

/// Decides on a request for `target`. Without an inquiry, as for a key store without policies, what
/// is authenticated and valid is permitted; so is health, which the specification exempts.
///
/// # Errors
/// The verdict that denies.
pub fn decide<T>(
    authenticated: &Authenticated<'_>,
    request: ValidRequest<'_>,
    target: T,
    inquiry: Option<Inquiry<'_>>,
) -> Result<Permit<T>, Arc<Verdict>> {
    let (metadata, call) = request.into_parts();
    let verdict = match (inquiry, action(&call)) {
        (Some(inquiry), Some(action)) => Some(inquiry.ask(authenticated, &metadata, action)?),
        (None, _) | (_, None) => None,
    };
    Ok(Permit { call, target, verdict })
}

fn action(call: &Call) -> Option<Action> {
    match call {
        Call::Metadata => Some(Action::GetKeyMetadata),
        Call::Encrypt(_) => Some(Action::Encrypt),
        Call::Decrypt(_) => Some(Action::Decrypt),
        Call::Health => None,
    }
}

impl Inquiry<'_> {
    /// The verdict, as an error where it denies.
    fn ask(
        self,
        authenticated: &Authenticated<'_>,
        metadata: &RequestMetadata<'_>,
        action: Action,
    ) -> Result<Arc<Verdict>, Arc<Verdict>> {
        let question = Question {
            action,
            key: self.key,
            principal: metadata.principal.as_deref().unwrap_or_default(),
            kms_operation: metadata.kms_operation.as_deref().unwrap_or_default(),
            credential: authenticated.access_key_id(),
            region: authenticated.region(),
            kms_key_arn: metadata.kms_key_arn.as_deref(),
            via_service: metadata.via_service.as_deref(),
            source_vpc: metadata.vpc.as_deref(),
            source_vpce: metadata.vpce.as_deref(),
            connection_vpce: self.connection_vpce,
            client_common_name: self.client_common_name,
            time: self.time,
        };
        let Policy { policies, mode, revision, .. } = self.policy;
        let verdict = self.decisions.decide(*revision, policies, &question);
        if verdict.permits() || *mode == Mode::DryRun { Ok(verdict) } else { Err(verdict) }
    }
}
