//! A PKCS#11 token, and keys on it.

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

/// The user's PIN of every token.
pub const PIN: &str = "12345678";

/// The test's own way to the token, beside xksd's.
pub struct Token {
    pub pkcs11: Pkcs11,
    pub slot: Slot,
}

impl Token {
    /// A session that is logged in (for as long as there is one, if nobody else has one).
    pub fn session(&self) -> Session {
        let session = self.pkcs11.open_rw_session(self.slot).expect("a session");
        match session.login(UserType::User, Some(&AuthPin::new(PIN.into()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => session,
            Err(error) => panic!("{error}"),
        }
    }

    /// An AES key on the token; `more` goes after and over the usual attributes.
    pub fn make_key(&self, label: &str, bytes: u64, more: &[Attribute]) {
        let usual = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::ValueLen(bytes.into()),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Id(label.as_bytes().to_vec()),
        ];
        let kept = usual
            .iter()
            .filter(|one| more.iter().all(|other| other.attribute_type() != one.attribute_type()));
        let template: Vec<Attribute> = kept.chain(more).cloned().collect();
        self.session().generate_key(&Mechanism::AesKeyGen, &template).expect("a key");
    }

    /// Creates a key of any kind out of its bytes.
    pub fn import_key(&self, label: &str, kind: KeyType, value: &[u8], more: &[Attribute]) {
        let mut template = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(kind),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Label(label.as_bytes().to_vec()),
            Attribute::Value(value.to_vec()),
        ];
        template.extend_from_slice(more);
        self.session().create_object(&template).expect("a key");
    }

    pub fn delete_key(&self, label: &str) {
        let session = self.session();
        let keys =
            session.find_objects(&[Attribute::Label(label.as_bytes().to_vec())]).expect("a search");
        assert!(!keys.is_empty());
        for key in keys {
            session.destroy_object(key).expect("deleted");
        }
    }
}
