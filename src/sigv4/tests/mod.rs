//! Each reason why a request is not authenticated, every limit on both sides.

mod credentials;
mod properties;
mod signer;
mod signing_keys;
mod vectors;

use super::*;
use crate::limits::ERROR_MESSAGE_CHARS_MAX;
use crate::secret::SecretString;
use signer::{Message, Signer, hex, sha256};

const ID: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA==";
const OTHER_ID: &str = "22222222222222222222";
const OTHER_SECRET: &str = "b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI=";
/// 2024-02-29T12:00:00Z.
const NOW: i64 = 1_709_208_000;

fn signer() -> Signer {
    Signer {
        access_key_id: ID.into(),
        secret: SECRET.into(),
        timestamp: "20240229T120000Z".into(),
        region: "us-east-1".into(),
        service: "kms-xks-proxy".into(),
    }
}

fn credential(id: &str, secret: &str) -> Credential {
    Credential::new(
        AccessKeyId::new(id).expect("valid id"),
        SecretAccessKey::new(SecretString::new(secret).expect("memory")).expect("valid secret"),
    )
}

fn credentials() -> CredentialSet {
    CredentialSet::new(vec![credential(ID, SECRET), credential(OTHER_ID, OTHER_SECRET)])
        .expect("two credentials")
}

fn regions() -> [String; 2] {
    ["us-east-1".into(), "eu-west-1".into()]
}

fn unsigned() -> Message {
    let headers = [("Host", "xks.example.com"), ("Content-Type", "application/json")];
    Message::new(
        "POST",
        "/example/uri/path/prefix/kms/xks/v1/keys/foo/encrypt",
        &headers,
        r#"{"requestMetadata":{}}"#,
    )
}

fn signed() -> Message {
    unsigned().signed(&signer())
}

fn precheck_at(message: &Message, now: i64) -> Result<(), AuthError> {
    message.with_request(|request| precheck(request, &credentials(), &regions(), now))
}

/// The access key id.
fn authenticate_at(message: &Message, now: i64) -> Result<Arc<str>, AuthError> {
    message.with_request(|request| {
        let credentials = credentials();
        let authenticated = authenticate(
            request,
            &message.body,
            &credentials,
            &regions(),
            now,
            &mut SigningKeys::new(),
        )?;
        assert!(regions().iter().any(|region| region == authenticated.region()));
        Ok(authenticated.access_key_id().clone())
    })
}

/// The reason for which `message` is refused, at [`NOW`]. What `precheck` refuses, `authenticate`
/// refuses for the same reason.
fn refusal(message: &Message) -> AuthError {
    let refused = authenticate_at(message, NOW).map(drop).expect_err("refused");
    match precheck_at(message, NOW) {
        Err(early) => assert_eq!(early, refused),
        Ok(()) => assert!(
            matches!(refused, AuthError::SignatureMismatch { .. } | AuthError::PayloadHashMismatch),
            "{refused:?}"
        ),
    }
    refused
}

/// The signed message with its `Authorization` changed.
fn with_authorization(change: impl FnOnce(&str) -> String) -> Message {
    let message = signed();
    let changed = change(&message.value("authorization"));
    message.replace("authorization", &changed)
}

fn replaced(from: &str, to: &str) -> Message {
    with_authorization(|value| {
        assert!(value.contains(from), "{value}");
        value.replacen(from, to, 1)
    })
}

#[test]
fn a_signed_request_is_authenticated_under_its_access_key_id() {
    assert_eq!(precheck_at(&signed(), NOW), Ok(()));
    assert_eq!(&*authenticate_at(&signed(), NOW).expect("authentic"), ID);
    let other = Signer {
        access_key_id: OTHER_ID.into(),
        secret: OTHER_SECRET.into(),
        region: "eu-west-1".into(),
        ..signer()
    };
    assert_eq!(&*authenticate_at(&unsigned().signed(&other), NOW).expect("authentic"), OTHER_ID);
}

#[test]
fn spacing_and_order_of_the_parameters_are_free() {
    let authentic = |message: &Message| authenticate_at(message, NOW).is_ok();
    assert!(authentic(&with_authorization(|value| value.replace(", ", ","))));
    assert!(authentic(&with_authorization(|value| value.replace(", ", "  ,  "))));
    assert!(authentic(&with_authorization(|value| {
        let (algorithm, parameters) = value.split_once(' ').expect("a space");
        let reversed: Vec<&str> = parameters.rsplit(", ").collect();
        format!("{algorithm} {}", reversed.join(", "))
    })));
}

#[test]
fn exactly_one_authorization_header() {
    assert_eq!(refusal(&unsigned()), AuthError::MissingAuthorization);
    let value = signed().value("authorization");
    assert_eq!(
        refusal(&signed().header("authorization", &value)),
        AuthError::DuplicateAuthorization
    );
}

#[test]
fn presigned_queries_are_refused_with_or_without_the_header() {
    for query in ["X-Amz-Signature=00", "a=b&X-Amz-Credential=c", "x-amz-algorithm"] {
        for mut message in [unsigned(), signed()] {
            message.query = query.into();
            assert_eq!(refusal(&message), AuthError::PresignedQuery, "{query}");
        }
    }
}

#[test]
fn other_algorithms_are_refused() {
    for other in [
        "AWS4-HMAC-SHA256-PAYLOAD",
        "AWS4-ECDSA-P256-SHA256",
        "aws4-hmac-sha256",
        "Bearer",
        "AWS4-HMAC-SHA256,",
    ] {
        assert_eq!(
            refusal(&replaced("AWS4-HMAC-SHA256", other)),
            AuthError::UnsupportedAlgorithm,
            "{other}"
        );
    }
    assert_eq!(refusal(&with_authorization(|_| String::new())), AuthError::UnsupportedAlgorithm);
}

#[test]
fn a_malformed_authorization_header_is_refused() {
    for message in [
        with_authorization(|_| "AWS4-HMAC-SHA256".into()),
        with_authorization(|_| "AWS4-HMAC-SHA256 ".into()),
        with_authorization(|value| format!("{value},")),
        with_authorization(|value| format!("{value}, Signature={}", "0".repeat(64))),
        with_authorization(|value| format!("{value}, Extra=1")),
        replaced("Credential=", "credential="),
        replaced("Credential=", "Credential"),
        replaced(", SignedHeaders", " SignedHeaders"),
        replaced("SignedHeaders=", "SignedHeaders=\t"),
        replaced("us-east-1", "us-east-1\u{e9}"),
        with_authorization(|value| value.split(", Signature=").next().unwrap_or_default().into()),
    ] {
        let refused = refusal(&message);
        // Where a comma is gone, the parameter before takes in the next one.
        let is_expected = matches!(
            refused,
            AuthError::MalformedAuthorization { .. } | AuthError::MalformedCredential { .. }
        );
        assert!(is_expected, "{refused:?} for {:?}", message.value("authorization"));
    }
    let mut message = signed();
    message.headers.last_mut().expect("headers").1.push(0xff);
    assert!(matches!(refusal(&message), AuthError::MalformedAuthorization { .. }));
}

#[test]
fn a_malformed_credential_is_refused() {
    for to in ["aws4_reques", "aws4_request/", "AWS4_REQUEST", ""] {
        assert!(
            matches!(refusal(&replaced("aws4_request", to)), AuthError::MalformedCredential { .. }),
            "{to}"
        );
    }
    assert!(matches!(
        refusal(&replaced(&format!("{ID}/"), "")),
        AuthError::MalformedCredential { .. }
    ));
    assert!(matches!(
        refusal(&replaced(&format!("{ID}/20240229/us-east-1/kms-xks-proxy/"), "")),
        AuthError::MalformedCredential { .. }
    ));
}

#[test]
fn scope_must_agree_with_the_date_and_be_accepted_here() {
    assert_eq!(refusal(&replaced("/20240229/", "/20240228/")), AuthError::ScopeDateMismatch);
    assert_eq!(refusal(&replaced("/20240229/", "/2024022/")), AuthError::ScopeDateMismatch);
    assert_eq!(refusal(&replaced("/20240229/", "//")), AuthError::ScopeDateMismatch);
    let refused = refusal(&unsigned().signed(&Signer { service: "kms".into(), ..signer() }));
    assert_eq!(refused, AuthError::WrongService { service: Excerpt::of("kms") });
    let refused = refusal(&unsigned().signed(&Signer { region: "ap-south-1".into(), ..signer() }));
    assert_eq!(refused, AuthError::WrongRegion { region: Excerpt::of("ap-south-1") });
    assert!(matches!(refusal(&replaced("us-east-1", "")), AuthError::WrongRegion { .. }));
    // An accepted region, but not the one that was signed.
    assert!(matches!(
        refusal(&replaced("us-east-1", "eu-west-1")),
        AuthError::SignatureMismatch { .. }
    ));
}

#[test]
fn an_unknown_access_key_id_is_named_and_a_secret_in_its_place_is_not() {
    let unknown = "33333333333333333333";
    let refused = refusal(&replaced(ID, unknown));
    assert_eq!(refused.reason(), "unknown_access_key_id");
    assert!(refused.to_string().contains(unknown));

    for secret in [SECRET, "a/20240229/us-east-1/b+sTillThe/Secret=", "", "ABCDEFGHIJKLMNOPQRS"] {
        let refused = refusal(&replaced(ID, secret));
        assert_eq!(refused, AuthError::MalformedAccessKeyId);
    }
    // Known, but another one's.
    assert!(matches!(refusal(&replaced(ID, OTHER_ID)), AuthError::SignatureMismatch { .. }));
}

#[test]
fn host_and_date_must_be_signed() {
    let message = unsigned().header("x-amz-date", "20240229T120000Z");
    for (signed_headers, missing) in
        [("content-type;x-amz-date", "host"), ("content-type;host", "x-amz-date"), ("date", "host")]
    {
        let value = signer().authorization(&message, signed_headers, &hex(sha256(&message.body)));
        assert_eq!(
            refusal(&message.clone().header("authorization", &value)),
            AuthError::HeaderNotSigned { name: missing }
        );
    }
    // They are enough.
    let value = signer().authorization(&message, "host;x-amz-date", &hex(sha256(&message.body)));
    assert!(authenticate_at(&message.header("authorization", &value), NOW).is_ok());
}

#[test]
fn signed_headers_are_sorted_distinct_lower_case_names_that_are_there() {
    let message = unsigned().header("x-amz-date", "20240229T120000Z");
    for list in [
        "",
        ";host;x-amz-date",
        "host;x-amz-date;",
        "host;;x-amz-date",
        "host;host;x-amz-date",
        "x-amz-date;host",
        "Host;x-amz-date",
        "host;x-amz date;x-amz-date",
        "host;x:y;x-amz-date",
    ] {
        let value = signer().authorization(&message, list, &hex(sha256(&message.body)));
        let refused = refusal(&message.clone().header("authorization", &value));
        assert!(
            matches!(refused, AuthError::MalformedSignedHeaders { .. }),
            "{list:?}: {refused:?}"
        );
    }
    let value =
        signer().authorization(&message, "host;x-absent;x-amz-date", &hex(sha256(&message.body)));
    let refused = refusal(&message.clone().header("authorization", &value));
    assert_eq!(refused, AuthError::SignedHeaderMissing { name: Excerpt::of("x-absent") });
    // Taken away after signing.
    assert!(matches!(
        refusal(&signed().without("x-amz-date")),
        AuthError::SignedHeaderMissing { .. }
    ));
    assert!(matches!(refusal(&signed().without("host")), AuthError::SignedHeaderMissing { .. }));
}

#[test]
fn as_many_signed_headers_as_a_request_may_have_and_no_more() {
    use crate::limits::SIGNED_HEADERS_MAX;
    let with = |count: usize| {
        // host, content-type, x-amz-date are there already.
        let message = (3..count)
            .fold(unsigned(), |message, at| message.header(&format!("x-many-{at:03}"), "v"));
        authenticate_at(&message.signed(&signer()), NOW).map(drop)
    };
    assert_eq!(with(SIGNED_HEADERS_MAX), Ok(()));
    assert!(matches!(with(SIGNED_HEADERS_MAX + 1), Err(AuthError::MalformedSignedHeaders { .. })));
}

#[test]
fn exactly_one_date_in_basic_form() {
    assert_eq!(
        refusal(&signed().header("x-amz-date", "20240229T120000Z")),
        AuthError::DuplicateDate
    );
    for value in [
        "",
        "20240230T120000Z",
        "2024-02-29T12:00:00Z",
        "20240229T120000Z,20240229T120000Z",
        "Thu, 29 Feb 2024 12:00:00 GMT",
    ] {
        assert_eq!(
            refusal(&signed().replace("x-amz-date", value)),
            AuthError::MalformedDate,
            "{value}"
        );
    }
}

#[test]
fn the_clock_may_be_off_by_five_minutes_either_way() {
    for (offset, outcome) in [
        (0, Ok(())),
        (300, Ok(())),
        (-300, Ok(())),
        (301, Err(AuthError::ClockSkew { seconds: -301 })),
        (-301, Err(AuthError::ClockSkew { seconds: 301 })),
        (31_536_000, Err(AuthError::ClockSkew { seconds: -31_536_000 })),
    ] {
        assert_eq!(precheck_at(&signed(), NOW + offset), outcome, "{offset}");
        assert_eq!(authenticate_at(&signed(), NOW + offset).map(drop), outcome, "{offset}");
    }
    // No clock value makes it overflow.
    for now in [i64::MIN, i64::MAX] {
        assert!(matches!(precheck_at(&signed(), now), Err(AuthError::ClockSkew { .. })));
    }
    assert_eq!(
        AuthError::ClockSkew { seconds: -412 }.to_string(),
        "x-amz-date is 412 s behind this proxy's clock; up to 300 s are accepted: check the time \
         synchronisation of this host"
    );
}

#[test]
fn the_skew_may_cross_midnight() {
    let midnight = 1_709_251_200; // 2024-03-01T00:00:00Z
    let before = unsigned().signed(&Signer { timestamp: "20240229T235959Z".into(), ..signer() });
    assert!(authenticate_at(&before, midnight + 200).is_ok());
    let after = unsigned().signed(&Signer { timestamp: "20240301T000001Z".into(), ..signer() });
    assert!(authenticate_at(&after, midnight - 200).is_ok());
}

#[test]
fn the_signature_is_64_lower_case_digits_and_the_right_one() {
    let signature =
        |to: String| with_authorization(|value| format!("{}{to}", &value[..value.len() - 64]));
    let right =
        signed().value("authorization")[signed().value("authorization").len() - 64..].to_string();
    assert!(authenticate_at(&signature(right.clone()), NOW).is_ok());
    for malformed in [
        right.to_uppercase(),
        right[1..].into(),
        format!("{right}0"),
        String::new(),
        format!("{}g", &right[1..]),
    ] {
        assert_eq!(refusal(&signature(malformed)), AuthError::MalformedSignature);
    }
    assert_eq!(
        refusal(&signature("0".repeat(64))),
        AuthError::SignatureMismatch { access_key_id: ID.into() }
    );
    let foreign = unsigned().signed(&Signer { secret: OTHER_SECRET.into(), ..signer() });
    assert_eq!(refusal(&foreign), AuthError::SignatureMismatch { access_key_id: ID.into() });
}

#[test]
fn a_signed_payload_header_must_be_the_hash_of_the_body() {
    let hash = hex(sha256(&unsigned().body));
    let with = |value: &str| unsigned().header("X-Amz-Content-SHA256", value).signed(&signer());
    assert!(authenticate_at(&with(&hash), NOW).is_ok());
    assert_eq!(refusal(&with(&hex(sha256(b"other")))), AuthError::PayloadHashMismatch);
    for value in ["UNSIGNED-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "", &hash[1..]] {
        assert_eq!(refusal(&with(value)), AuthError::UnsignedPayload, "{value}");
    }
    let twice = unsigned()
        .header("X-Amz-Content-SHA256", &hash)
        .header("X-Amz-Content-SHA256", &hash)
        .signed(&signer());
    assert_eq!(refusal(&twice), AuthError::UnsignedPayload);

    // As S3's clients do it: the header's text instead of the hash.
    let message = unsigned()
        .header("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        .header("x-amz-date", "20240229T120000Z");
    for list in ["host;x-amz-content-sha256;x-amz-date", "host;x-amz-date"] {
        let value = signer().authorization(&message, list, "UNSIGNED-PAYLOAD");
        let reason = refusal(&message.clone().header("authorization", &value)).reason();
        assert_eq!(
            reason,
            if list.contains("sha256") { "unsigned_payload" } else { "signature_mismatch" }
        );
    }
    // Unsigned, it says nothing.
    assert!(
        authenticate_at(&signed().header("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), NOW).is_ok()
    );
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_although_rightly_signed() {
    let refused = |change: fn(&mut Message)| {
        let mut message = unsigned();
        change(&mut message);
        let refused = refusal(&message.signed(&signer()));
        assert!(matches!(refused, AuthError::AmbiguousRequest { .. }), "{refused:?}");
    };
    for path in ["", "kms", "//", "/a//b", "/./a", "/a/.", "/a/../b", "/..", "/a//"] {
        let mut message = unsigned();
        message.path = path.into();
        let refused = refusal(&message.signed(&signer()));
        assert!(matches!(refused, AuthError::AmbiguousRequest { .. }), "{path}: {refused:?}");
    }
    for query in [
        "&",
        "a&&b",
        "=b",
        "a=b=c",
        "a=%41",
        "a=%2f",
        "a=%2",
        "a=%",
        "a=b+c",
        "a=b/c",
        "a= ",
        "a=b&",
        "\u{1234}=b",
    ] {
        let mut message = unsigned();
        message.query = query.into();
        let refused = refusal(&message.signed(&signer()));
        assert!(matches!(refused, AuthError::AmbiguousRequest { .. }), "{query}: {refused:?}");
    }
    refused(|message| message.method.clear());
    refused(|message| message.method = "POST\n/".into());
    refused(|message| message.headers.push(("Host".into(), b"xks.example.com".to_vec())));
    refused(|message| message.headers.push(("x-a".into(), b"1\nx-b:2".to_vec())));
    refused(|message| message.headers.push(("x-a".into(), b"1\x002".to_vec())));

    for path in ["/", "/a", "/a/", "/a.b/..c/...", "/%2e%2e/a%2Fb"] {
        let mut message = unsigned();
        message.path = path.into();
        assert!(authenticate_at(&message.signed(&signer()), NOW).is_ok(), "{path}");
    }
    for query in ["a", "a=", "a=b&a=a", "b=%2F&a=%3D", "a=b&c"] {
        let mut message = unsigned();
        message.query = query.into();
        assert!(authenticate_at(&message.signed(&signer()), NOW).is_ok(), "{query}");
    }
}

#[test]
fn reasons_are_distinct_and_messages_short_and_printable() {
    let hostile = Excerpt::of(&"\u{7}\"\r\n\u{1234}x".repeat(1000));
    let problem = "it is not <access key id>/<yyyymmdd>/<region>/<service>/aws4_request";
    let all = [
        AuthError::MissingAuthorization,
        AuthError::DuplicateAuthorization,
        AuthError::PresignedQuery,
        AuthError::UnsupportedAlgorithm,
        AuthError::MalformedAuthorization { problem },
        AuthError::MalformedCredential { problem },
        AuthError::MalformedSignedHeaders { problem },
        AuthError::MalformedSignature,
        AuthError::HeaderNotSigned { name: "x-amz-date" },
        AuthError::SignedHeaderMissing { name: hostile.clone() },
        AuthError::DuplicateDate,
        AuthError::MalformedDate,
        AuthError::ScopeDateMismatch,
        AuthError::WrongService { service: hostile.clone() },
        AuthError::WrongRegion { region: hostile.clone() },
        AuthError::MalformedAccessKeyId,
        AuthError::UnknownAccessKeyId { access_key_id: hostile },
        AuthError::ClockSkew { seconds: i64::MIN },
        AuthError::AmbiguousRequest { problem },
        AuthError::UnsignedPayload,
        AuthError::PayloadHashMismatch,
        AuthError::SignatureMismatch { access_key_id: "A".repeat(30).into() },
    ];
    let mut reasons: Vec<&str> = all.iter().map(AuthError::reason).collect();
    assert!(
        reasons
            .iter()
            .all(|reason| reason.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
    );
    reasons.sort_unstable();
    reasons.dedup();
    assert_eq!(reasons.len(), all.len());
    for error in all {
        let message = error.to_string();
        assert!(
            message.len() <= ERROR_MESSAGE_CHARS_MAX
                && message.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{message:?}"
        );
    }
}

#[test]
fn excerpts_are_cut_at_48_characters() {
    assert_eq!(Excerpt::of(&"a".repeat(48)).to_string(), "a".repeat(48));
    assert_eq!(Excerpt::of(&"\u{1234}".repeat(49)).to_string(), format!("{}...", "?".repeat(48)));
}
