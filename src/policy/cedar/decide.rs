//! A question put to the policies.
//!
//! Cedar leaves out a policy whose evaluation fails: a `forbid` that fails would let through what
//! it forbids. Here any failure denies.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cedar_policy::{Authorizer, Decision, Entities, PolicySet, Response};

use super::Policies;
use super::context::{AskError, Asked, Question, Unreadable};

/// What the policies say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why, which says whether.
    pub reason: Reason,
    /// The ids of the policies that decided, in order, with commas between them; of those that
    /// failed where one did. Empty where none decided.
    pub policies: Arc<str>,
}

/// Why it is permitted or denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Permitted by policies, and forbidden by none.
    Permitted,
    /// A policy forbids it.
    Forbidden,
    /// No policy permits it.
    NotPermitted,
    /// An evaluation failed; Cedar's words.
    Failed(Arc<str>),
    /// What the policies would decide by cannot be read.
    Unreadable(Unreadable),
}

impl Verdict {
    fn without_policy(reason: Reason) -> Verdict {
        Verdict { reason, policies: Arc::default() }
    }

    /// Whether the request is permitted.
    pub fn permits(&self) -> bool {
        self.reason == Reason::Permitted
    }

    /// The ids of the policies that decided.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.policies.split(',').filter(|id| !id.is_empty())
    }

    /// Why it is decided so, with Cedar's words where a policy failed.
    pub fn why(&self) -> String {
        match &self.reason {
            Reason::Permitted => "policies permit it, and none forbids it".to_owned(),
            Reason::Failed(why) => format!("{}: {why}", self.why_denied()),
            _ => self.why_denied().to_owned(),
        }
    }

    /// Why it is denied, for log and error. Nothing of the request is in it.
    pub fn why_denied(&self) -> &'static str {
        match &self.reason {
            Reason::Permitted => "permitted",
            Reason::Forbidden => "a policy forbids it",
            Reason::NotPermitted => "no policy permits it",
            Reason::Failed(_) => "the evaluation of a policy failed",
            Reason::Unreadable(Unreadable::Principal) => {
                "awsPrincipalArn has a form that is not known"
            }
            Reason::Unreadable(Unreadable::KmsKeyArn) => "kmsKeyArn is not the ARN of a KMS key",
        }
    }
}

impl Policies {
    /// Decides. Never panics, and denies where anything fails.
    pub fn decide(&self, question: &Question<'_>) -> Verdict {
        // Nothing that is shared is changed inside.
        catch_unwind(AssertUnwindSafe(|| self.evaluate(question))).unwrap_or_else(|_| {
            Verdict::without_policy(Reason::Failed("the policy engine panicked".into()))
        })
    }

    fn evaluate(&self, question: &Question<'_>) -> Verdict {
        // A key that is not of this key store has been refused before.
        let Some(key) = self.keys.get(question.key) else {
            return Verdict::without_policy(Reason::NotPermitted);
        };
        let slice = key.slice(question.action);
        match self.respond(question, &slice.policies) {
            Ok(response) => verdict(&response),
            Err(reason) => Verdict::without_policy(reason),
        }
    }

    /// Cedar's response to a question about these policies.
    pub(super) fn respond(
        &self,
        question: &Question<'_>,
        policies: &PolicySet,
    ) -> Result<Response, Reason> {
        let groups = self.principals.get(question.principal).cloned().unwrap_or_default();
        let Asked { request, principal } = question.ask(groups).map_err(|error| match error {
            AskError::Unreadable(why) => Reason::Unreadable(why),
            AskError::Failed(why) => Reason::Failed(why.into()),
        })?;
        let key = self.keys.get(question.key).map(|key| key.entity.clone());
        let entities = Entities::from_entities([principal].into_iter().chain(key), None)
            .map_err(|error| Reason::Failed(error.to_string().into()))?;
        Ok(Authorizer::new().is_authorized(&request, policies, &entities))
    }
}

fn verdict(response: &Response) -> Verdict {
    let diagnostics = response.diagnostics();
    if let Some(first) = diagnostics.errors().next() {
        let cedar_policy::AuthorizationError::PolicyEvaluationError(_) = first;
        let failed = diagnostics.errors().map(|error| {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            error.policy_id().as_ref()
        });
        let policies = joined(failed);
        return Verdict { reason: Reason::Failed(first.to_string().into()), policies };
    }
    let policies = joined(diagnostics.reason().map(AsRef::as_ref));
    let reason = match response.decision() {
        Decision::Allow => Reason::Permitted,
        Decision::Deny if policies.is_empty() => Reason::NotPermitted,
        Decision::Deny => Reason::Forbidden,
    };
    Verdict { reason, policies }
}

fn joined<'a>(ids: impl Iterator<Item = &'a str>) -> Arc<str> {
    let mut ids: Vec<&str> = ids.collect();
    ids.sort_unstable();
    ids.join(",").into()
}
