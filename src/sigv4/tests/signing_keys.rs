//! The cache of signing keys: never stale, bounded, and closed to those who have no secret.

use super::*;
use crate::limits::SIGNING_KEYS_CACHED_MAX;

fn cached(keys: &SigningKeys) -> usize {
    let shown = format!("{keys:?}");
    let digits: String = shown.chars().filter(char::is_ascii_digit).collect();
    assert_eq!(
        shown,
        format!("SigningKeys({digits} cached)"),
        "Debug shows a number and nothing else"
    );
    digits.parse().expect("a number")
}

fn authenticate_with(
    keys: &mut SigningKeys,
    message: &Message,
    credentials: &CredentialSet,
    now: i64,
) -> bool {
    message.with_request(|request| {
        authenticate(request, &message.body, credentials, &regions(), now, keys).is_ok()
    })
}

#[test]
fn a_key_is_derived_once_for_each_credential_day_and_region() {
    let mut keys = SigningKeys::new();
    let set = credentials();
    for _ in 0..3 {
        assert!(authenticate_with(&mut keys, &signed(), &set, NOW));
        assert_eq!(cached(&keys), 1);
    }
    assert!(authenticate_with(
        &mut keys,
        &unsigned().signed(&Signer { region: "eu-west-1".into(), ..signer() }),
        &set,
        NOW
    ));
    assert_eq!(cached(&keys), 2);
    let other = Signer { access_key_id: OTHER_ID.into(), secret: OTHER_SECRET.into(), ..signer() };
    assert!(authenticate_with(&mut keys, &unsigned().signed(&other), &set, NOW));
    assert_eq!(cached(&keys), 3);
    // A cached key verifies, it does not wave through.
    assert!(!authenticate_with(&mut keys, &replaced("us-east-1", "eu-west-1"), &set, NOW));
}

#[test]
fn a_replaced_secret_is_in_force_at_once() {
    let mut keys = SigningKeys::new();
    let before = CredentialSet::new(vec![credential(ID, SECRET)]).expect("one");
    let after = CredentialSet::new(vec![credential(ID, OTHER_SECRET)]).expect("one");
    let by_old = signed();
    let by_new = unsigned().signed(&Signer { secret: OTHER_SECRET.into(), ..signer() });
    assert!(authenticate_with(&mut keys, &by_old, &before, NOW));
    assert!(!authenticate_with(&mut keys, &by_new, &before, NOW));
    assert!(!authenticate_with(&mut keys, &by_old, &after, NOW));
    assert!(authenticate_with(&mut keys, &by_new, &after, NOW));
    assert!(!authenticate_with(&mut keys, &by_old, &after, NOW));
}

#[test]
fn keys_of_other_days_are_dropped_and_both_sides_of_midnight_kept() {
    let mut keys = SigningKeys::new();
    let set = credentials();
    let day = 86_400;
    let midnight = 1_709_251_200; // 2024-03-01T00:00:00Z
    assert!(authenticate_with(&mut keys, &signed(), &set, NOW));
    let after = unsigned().signed(&Signer { timestamp: "20240301T000001Z".into(), ..signer() });
    assert!(authenticate_with(&mut keys, &after, &set, midnight - 200));
    assert_eq!(cached(&keys), 2);
    let later = unsigned().signed(&Signer { timestamp: "20240302T120000Z".into(), ..signer() });
    assert!(authenticate_with(&mut keys, &later, &set, NOW + 2 * day));
    assert_eq!(cached(&keys), 1);
    // The clock is set back.
    assert!(authenticate_with(&mut keys, &signed(), &set, NOW));
    assert_eq!(cached(&keys), 1);
}

#[test]
fn who_has_no_secret_puts_nothing_into_the_cache() {
    let mut keys = SigningKeys::new();
    let forged = unsigned().signed(&Signer { secret: OTHER_SECRET.into(), ..signer() });
    assert!(!authenticate_with(&mut keys, &forged, &credentials(), NOW));
    assert_eq!(cached(&keys), 0);
}

#[test]
fn the_cache_is_bounded() {
    let ids: Vec<String> = (0..=SIGNING_KEYS_CACHED_MAX)
        .map(|at| {
            format!("{:020}", at)
                .replace('0', "A")
                .replace('1', "B")
                .replace('8', "C")
                .replace('9', "D")
        })
        .collect();
    let set = CredentialSet::new(ids.iter().map(|id| credential(id, SECRET)).collect())
        .expect("distinct ids");
    let mut keys = SigningKeys::new();
    for (at, id) in ids.iter().enumerate() {
        let message = unsigned().signed(&Signer { access_key_id: id.clone(), ..signer() });
        assert!(authenticate_with(&mut keys, &message, &set, NOW));
        assert_eq!(cached(&keys), if at < SIGNING_KEYS_CACHED_MAX { at + 1 } else { 1 });
    }
    // Those that were dropped are derived again.
    assert!(authenticate_with(
        &mut keys,
        &unsigned().signed(&Signer { access_key_id: ids[0].clone(), ..signer() }),
        &set,
        NOW
    ));
    assert_eq!(cached(&keys), 2);
}
