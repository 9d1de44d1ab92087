//! Credentials: what is accepted, how refusals name it, and that nothing secret is shown.

use super::*;

#[test]
fn access_key_ids_have_20_to_30_of_their_characters() {
    for (text, is_valid) in [
        ("A".repeat(19), false),
        ("A".repeat(20), true),
        ("7".repeat(30), true),
        ("2".repeat(31), false),
        (String::new(), false),
        (format!("{}1", "A".repeat(20)), false),
        (format!("{}8", "A".repeat(20)), false),
        (format!("{}a", "A".repeat(20)), false),
        (format!("{}\u{e9}", "A".repeat(20)), false),
    ] {
        assert_eq!(AccessKeyId::new(&text).is_ok(), is_valid, "{text}");
    }
}

fn secret(text: &str) -> Result<SecretAccessKey, CredentialError> {
    SecretAccessKey::new(SecretString::new(text).expect("memory"))
}

#[test]
fn secrets_have_43_to_64_of_their_characters() {
    for (text, is_valid) in [
        ("a".repeat(42), false),
        ("a".repeat(43), true),
        ("=".repeat(64), true),
        ("/+".repeat(32), true),
        ("Z".repeat(65), false),
        (String::new(), false),
        (format!("{}-", "a".repeat(43)), false),
        (format!("{}_", "a".repeat(43)), false),
        (format!("{}\u{e9}", "a".repeat(43)), false),
    ] {
        assert_eq!(secret(&text).is_ok(), is_valid, "{text}");
    }
    assert_eq!(
        *secret(SECRET).expect("valid").derivation_key(),
        format!("AWS4{SECRET}").as_bytes()
    );
}

#[test]
fn refusals_name_the_problem_and_not_the_value() {
    let short = "Sup3rSecret".repeat(2);
    assert_eq!(
        secret(&short).expect_err("too short").to_string(),
        "the secret access key has 22 characters; 43 to 64 are allowed"
    );
    assert_eq!(
        secret(&format!("{SECRET}\n")).expect_err("line break").to_string(),
        "character 49 of the secret access key is white space or a line break; only A-Z, a-z, 0-9, \
         '+', '/' and '=' may be used"
    );
    assert_eq!(
        AccessKeyId::new(&SECRET.replace('c', "C")).expect_err("a secret").to_string(),
        "character 4 of the access key id is not allowed; only A-Z and 2-7 may be used"
    );
}

#[test]
fn a_set_has_at_least_one_credential_and_each_id_once() {
    assert_eq!(CredentialSet::new(Vec::new()).expect_err("empty"), CredentialError::NoCredential);
    let twice =
        vec![credential(ID, SECRET), credential(OTHER_ID, SECRET), credential(ID, OTHER_SECRET)];
    assert_eq!(
        CredentialSet::new(twice).expect_err("an id twice").to_string(),
        format!("the access key id {ID} is given twice; an id must identify one secret access key")
    );
    let set = credentials();
    for (id, secret) in [(ID, SECRET), (OTHER_ID, OTHER_SECRET)] {
        assert_eq!(
            *set.get(id).expect("there").secret().derivation_key(),
            format!("AWS4{secret}").as_bytes()
        );
    }
    assert!(
        set.get("").is_none()
            && set.get(&ID[1..]).is_none()
            && set.get(&ID.to_lowercase()).is_none()
    );
}

#[test]
fn debug_shows_no_secret() {
    let shown = format!("{:?}", credentials());
    assert!(shown.contains(ID) && shown.contains("redacted"), "{shown}");
    assert!(!shown.contains(&SECRET[..8]) && !shown.contains(&OTHER_SECRET[..8]), "{shown}");
}
