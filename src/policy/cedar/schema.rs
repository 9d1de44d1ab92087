//! The schema that policies are validated against, and the names in it.

use std::sync::LazyLock;

use cedar_policy::{EntityId, EntityTypeName, EntityUid, Schema};

/// What policies can speak of, in Cedar's own words.
pub const SCHEMA: &str = include_str!("../../../deploy/policies/xks.cedarschema");

/// [`SCHEMA`], read.
pub(super) static PARSED: LazyLock<Schema> = LazyLock::new(|| {
    let (schema, _) = Schema::from_cedarschema_str(SCHEMA).expect("tested: the schema is valid");
    schema
});

/// Types of entities.
pub(super) mod types {
    use super::{EntityTypeName, LazyLock};

    macro_rules! types {
        ($($name:ident = $text:literal;)*) => {
            $(pub(in crate::policy::cedar) static $name: LazyLock<EntityTypeName> =
                LazyLock::new(|| $text.parse().expect("a constant"));)*
        };
    }

    types! {
        PRINCIPAL = "XKS::Principal";
        PRINCIPAL_GROUP = "XKS::PrincipalGroup";
        KEY = "XKS::Key";
        KEY_GROUP = "XKS::KeyGroup";
        KEY_STORE = "XKS::KeyStore";
        ACTION = "XKS::Action";
    }
}

/// The entity of this type and id.
pub(super) fn uid(type_name: &EntityTypeName, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(type_name.clone(), EntityId::new(id))
}

/// What is asked for; health is exempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Encrypt.
    Encrypt,
    /// Decrypt.
    Decrypt,
    /// GetKeyMetadata.
    GetKeyMetadata,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 3] = [Self::Encrypt, Self::Decrypt, Self::GetKeyMetadata];

    /// As policies spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
            Self::GetKeyMetadata => "GetKeyMetadata",
        }
    }

    /// The one of this name.
    pub fn parse(text: &str) -> Option<Action> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }

    pub(super) fn uid(self) -> EntityUid {
        uid(&types::ACTION, self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_valid_and_names_what_the_code_names() {
        let (_, warnings) = Schema::from_cedarschema_str(SCHEMA).unwrap();
        assert_eq!(warnings.count(), 0);
        let actions: Vec<_> = PARSED.actions().collect();
        assert_eq!(actions.len(), Action::ALL.len());
        for action in Action::ALL {
            assert!(actions.contains(&&action.uid()), "{action:?}");
            assert_eq!(Action::parse(action.as_str()), Some(action));
        }
        let declared: Vec<_> = PARSED.entity_types().collect();
        for name in [
            &*types::PRINCIPAL,
            &types::PRINCIPAL_GROUP,
            &types::KEY,
            &types::KEY_GROUP,
            &types::KEY_STORE,
        ] {
            assert!(declared.contains(&name), "{name}");
        }
    }
}
