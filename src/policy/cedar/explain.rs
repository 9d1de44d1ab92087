//! Why a question is decided as it is, policy by policy.

use cedar_policy::{Decision, Policy, PolicyId, PolicySet};

use super::Policies;
use super::context::Question;
use super::decide::{Reason, Verdict};

/// A decision with what each policy had to do with it.
#[derive(Debug)]
pub struct Explanation {
    /// The decision.
    pub verdict: Verdict,
    /// Every policy, in the order of the files.
    pub considered: Vec<Considered>,
}

/// One policy and what it says to the question.
#[derive(Debug, PartialEq, Eq)]
pub struct Considered {
    /// `@id`.
    pub id: String,
    /// Whether it is a `forbid`.
    pub forbids: bool,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a policy.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It applies.
    Matches,
    /// It does not.
    DoesNotMatch,
    /// It is for other keys or actions, and was not looked at.
    Elsewhere,
    /// Its evaluation failed; Cedar's words.
    Fails(String),
}

impl Policies {
    /// The decision and each policy's part in it.
    pub fn explain(&self, question: &Question<'_>) -> Explanation {
        let verdict = self.decide(question);
        let slice = self.keys.get(question.key).map(|key| key.slice(question.action));
        let considered = self.listed.iter().map(|listed| {
            let policy = slice.and_then(|slice| slice.policies.policy(&PolicyId::new(&listed.id)));
            let outcome = policy.map_or(Outcome::Elsewhere, |policy| self.alone(question, policy));
            Considered { id: listed.id.clone(), forbids: listed.forbids, outcome }
        });
        Explanation { verdict, considered: considered.collect() }
    }

    /// What one policy says: alone, a `forbid` decides only where it applies.
    fn alone(&self, question: &Question<'_>, policy: &Policy) -> Outcome {
        let Ok(set) = PolicySet::from_policies([policy.clone()]) else {
            return Outcome::Fails("it cannot stand alone".to_owned());
        };
        match self.respond(question, &set) {
            Err(Reason::Failed(why)) => Outcome::Fails(why.to_string()),
            Err(_) => Outcome::DoesNotMatch,
            Ok(response) => {
                let diagnostics = response.diagnostics();
                if let Some(error) = diagnostics.errors().next() {
                    return Outcome::Fails(error.to_string());
                }
                let decides = diagnostics.reason().next().is_some();
                debug_assert!(decides || response.decision() == Decision::Deny);
                if decides { Outcome::Matches } else { Outcome::DoesNotMatch }
            }
        }
    }
}
