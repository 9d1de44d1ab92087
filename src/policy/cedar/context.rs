//! One request as policies see it.

use std::collections::HashSet;

use cedar_policy::{Context, Entity, EntityUid, Request, RestrictedExpression};

use super::arn;
use super::principal::Principal;
use super::schema::{Action, types, uid};

/// What is asked of the policies: who wants what, and how the request came.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What is asked for.
    pub action: Action,
    /// External key id.
    pub key: &'a str,
    /// `awsPrincipalArn`.
    pub principal: &'a str,
    /// `kmsOperation`.
    pub kms_operation: &'a str,
    /// The access key id that signed.
    pub credential: &'a str,
    /// The region of the signature.
    pub region: &'a str,
    /// `kmsKeyArn`.
    pub kms_key_arn: Option<&'a str>,
    /// `kmsViaService`.
    pub via_service: Option<&'a str>,
    /// `awsSourceVpc`.
    pub source_vpc: Option<&'a str>,
    /// `awsSourceVpce`.
    pub source_vpce: Option<&'a str>,
    /// The VPC endpoint through which KMS is connected.
    pub connection_vpce: Option<&'a str>,
    /// Subject CN of the client's certificate.
    pub client_common_name: Option<&'a str>,
    /// When the request arrived, seconds since 1970.
    pub time: i64,
}

/// Why a question cannot be put to the policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// `awsPrincipalArn` has none of the known forms.
    Principal,
    /// `kmsKeyArn` is not the ARN of a KMS key.
    KmsKeyArn,
}

/// A question in Cedar's form.
pub(super) struct Asked {
    pub(super) request: Request,
    /// The principal with its attributes; `groups` are its parents.
    pub(super) principal: Entity,
}

impl<'a> Question<'a> {
    /// The optional texts of the context, by their names in it.
    pub(super) fn optional(&self) -> [(&'static str, Option<&'a str>); 6] {
        [
            ("kmsKeyArn", self.kms_key_arn),
            ("kmsViaService", self.via_service),
            ("awsSourceVpc", self.source_vpc),
            ("awsSourceVpce", self.source_vpce),
            ("connectionVpce", self.connection_vpce),
            ("clientCommonName", self.client_common_name),
        ]
    }

    /// Account and region of the KMS key, where there is one.
    fn kms_key(&self) -> Result<Option<(&'a str, &'a str)>, Unreadable> {
        let Some(text) = self.kms_key_arn else { return Ok(None) };
        arn::kms_key(text).map(Some).ok_or(Unreadable::KmsKeyArn)
    }

    /// In Cedar's form; `groups`: those of the principal.
    pub(super) fn ask(&self, groups: HashSet<EntityUid>) -> Result<Asked, AskError> {
        let principal = Principal::parse(self.principal).ok_or(Unreadable::Principal)?;
        let kms_key = self.kms_key()?;
        let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
        let required = [
            ("kmsOperation", self.kms_operation),
            ("credential", self.credential),
            ("region", self.region),
        ];
        let derived = [
            ("kmsKeyAccount", kms_key.map(|(account, _)| account)),
            ("kmsKeyRegion", kms_key.map(|(_, region)| region)),
        ];
        let optional = self.optional().into_iter().chain(derived);
        let pairs = required
            .into_iter()
            .chain(optional.filter_map(|(name, value)| Some((name, value?))))
            .map(|(name, value)| (name.to_owned(), text(value)))
            .chain([("time".to_owned(), RestrictedExpression::new_long(self.time))]);
        let context = Context::from_pairs(pairs).map_err(|error| failed(&error))?;
        let principal = entity(self.principal, &principal, groups)?;
        let resource = uid(&types::KEY, self.key);
        // Not checked against the schema, which a test does: it would cost as much as the decision.
        let request = Request::new(principal.uid(), self.action.uid(), resource, context, None)
            .map_err(|error| failed(&error))?;
        Ok(Asked { request, principal })
    }
}

/// Why there is no [`Asked`].
pub(super) enum AskError {
    Unreadable(Unreadable),
    /// Cedar's words.
    Failed(String),
}

impl From<Unreadable> for AskError {
    fn from(why: Unreadable) -> AskError {
        AskError::Unreadable(why)
    }
}

fn failed(error: &dyn std::error::Error) -> AskError {
    AskError::Failed(error.to_string())
}

fn entity(
    id: &str,
    principal: &Principal<'_>,
    groups: HashSet<EntityUid>,
) -> Result<Entity, AskError> {
    let Principal { account, kind, name, path, session } = *principal;
    let attributes = [
        ("account", Some(account)),
        ("kind", Some(kind.as_str())),
        ("name", Some(name)),
        ("path", Some(path)),
        ("session", session),
    ];
    let attributes = attributes.into_iter().filter_map(|(name, value)| {
        Some((name.to_owned(), RestrictedExpression::new_string(value?.to_owned())))
    });
    Entity::new(uid(&types::PRINCIPAL, id), attributes.collect(), groups)
        .map_err(|error| failed(&error))
}

#[cfg(test)]
pub(super) mod tests {
    use cedar_policy::Entities;
    use proptest::prelude::*;

    use super::super::schema::PARSED;
    use super::*;

    /// An encryption for S3 by a role.
    pub(in crate::policy::cedar) fn question() -> Question<'static> {
        Question {
            action: Action::Encrypt,
            key: "foo",
            principal: "arn:aws:iam::111122223333:role/Admin",
            kms_operation: "GenerateDataKey",
            credential: "AAAAAAAAAAAAAAAAAAAA",
            region: "eu-west-3",
            kms_key_arn: Some("arn:aws:kms:eu-west-3:111122223333:key/1"),
            via_service: Some("s3.eu-west-3.amazonaws.com"),
            source_vpc: Some("vpc-1"),
            source_vpce: Some("vpce-1"),
            connection_vpce: Some("vpce-2"),
            client_common_name: Some("cks.kms.eu-west-3.amazonaws.com"),
            time: 1_700_000_000,
        }
    }

    fn fits_the_schema(question: &Question<'_>) -> Result<(), String> {
        let asked = match question.ask(HashSet::new()) {
            Ok(asked) => asked,
            Err(AskError::Unreadable(_)) => return Ok(()),
            Err(AskError::Failed(why)) => return Err(why),
        };
        let (principal, action) = (asked.principal.uid(), question.action.uid());
        let context = asked.request.context().unwrap().clone();
        Request::new(principal, action, uid(&types::KEY, question.key), context, Some(&PARSED))
            .map_err(|error| error.to_string())?;
        Entities::from_entities([asked.principal], Some(&PARSED)).map_err(|e| e.to_string())?;
        Ok(())
    }

    #[test]
    fn a_question_fits_the_schema_with_and_without_what_is_optional() {
        assert_eq!(fits_the_schema(&question()), Ok(()));
        let least = Question {
            kms_key_arn: None,
            via_service: None,
            source_vpc: None,
            source_vpce: None,
            connection_vpce: None,
            client_common_name: None,
            principal: "arn:aws:sts::111122223333:assumed-role/Admin/i-1",
            ..question()
        };
        for action in Action::ALL {
            assert_eq!(fits_the_schema(&Question { action, ..least }), Ok(()));
        }
    }

    #[test]
    fn what_cannot_be_read_is_no_question() {
        let why = |question: Question<'_>| match question.ask(HashSet::new()) {
            Err(AskError::Unreadable(why)) => Some(why),
            _ => None,
        };
        assert_eq!(why(question()), None);
        assert_eq!(
            why(Question { principal: "arn:aws:iam::1:role/a", ..question() }),
            Some(Unreadable::Principal)
        );
        assert_eq!(
            why(Question { kms_key_arn: Some("arn:aws:kms:x:1:key/1"), ..question() }),
            Some(Unreadable::KmsKeyArn)
        );
    }

    proptest! {
        /// Whatever text KMS sends: no panic, and nothing that the schema does not know.
        #[test]
        fn any_text_fits_the_schema(texts in prop::collection::vec(any::<String>(), 6), time: i64) {
            let question = Question {
                kms_operation: &texts[0],
                region: &texts[1],
                via_service: Some(&texts[2]),
                source_vpc: Some(&texts[3]),
                client_common_name: Some(&texts[4]),
                key: &texts[5],
                time,
                ..question()
            };
            prop_assert_eq!(fits_the_schema(&question), Ok(()));
        }
    }
}
