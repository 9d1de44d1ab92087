//! AWS's published SigV4 test vectors, as facts: which request has which signature.
//!
//! All are signed by `AKIDEXAMPLE` at 2015-08-30T12:36:00Z for `us-east-1/service`. The vectors
//! whose path needs normalising or whose query is not encoded do not apply: this verifier refuses
//! such requests (see `canonical`), which is tested at the end.

use std::sync::Arc;

use super::super::signing_key::SigningKeys;
use super::super::{AuthError, Credential, CredentialSet, present};
use super::signer::Message;

const NOW: i64 = 1_440_938_160;
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const UNRESERVED: &str = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Name, method, target, headers besides Host and X-Amz-Date, body, signature.
type Vector<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);

/// The access key id.
fn authenticate(message: &Message, secret: &str, now: i64) -> Result<Arc<str>, AuthError> {
    let credentials = CredentialSet::new(vec![Credential::unchecked("AKIDEXAMPLE", secret)])
        .expect("one credential");
    let regions = ["us-east-1".to_string()];
    message.with_request(|request| {
        present(request, "service", &credentials, &regions, now)?
            .verify(request, &message.body, now, &mut SigningKeys::new())
            .map(|authenticated| authenticated.access_key_id().clone())
    })
}

fn vector(
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &str,
    signature: &str,
) -> Message {
    let message = Message::new(method, target, headers, body)
        .header("Host", "example.amazonaws.com")
        .header("X-Amz-Date", "20150830T123600Z");
    let mut names: Vec<String> =
        message.headers.iter().map(|header| header.0.to_ascii_lowercase()).collect();
    names.sort();
    names.dedup();
    let signed = names.join(";");
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
         SignedHeaders={signed}, Signature={signature}"
    );
    message.header("Authorization", &authorization)
}

#[test]
fn the_signatures_of_the_aws_suite_verify() {
    const TOKEN: &str = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
    const STS_TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
    const FORM: &str = "application/x-www-form-urlencoded";
    const FORM_HASH: &str = "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e";
    let unreserved_path = format!("/{UNRESERVED}");
    let unreserved_query = format!("/?{UNRESERVED}={UNRESERVED}");
    #[rustfmt::skip]
    let vectors: [Vector<'_>; 29] = [
        ("get-vanilla", "GET", "/", &[], "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("post-vanilla", "POST", "/", &[], "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ("get-unreserved", "GET", &unreserved_path, &[], "", "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"),
        ("get-utf8", "GET", "/\u{1234}", &[], "", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
        ("get-space", "GET", "/example space/", &[], "", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"),
        ("get-special-character", "GET", "/example/$delete", &[], "", "a853c9b21b528b19643d00910d35b83a10c366a10833ceefb45edd6c80e40f27"),
        ("get-slash-pointless-dot, normal form", "GET", "/example", &[], "", "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5"),
        ("get-slashes, normal form", "GET", "/example/", &[], "", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"),
        ("get-header-key-duplicate", "GET", "/", &[("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")], "", "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"),
        ("get-header-value-order", "GET", "/", &[("My-Header1", "value4"), ("My-Header1", "value1"), ("My-Header1", "value3"), ("My-Header1", "value2")], "", "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"),
        ("get-header-value-multiline, unfolded", "GET", "/", &[("My-Header1", "value1   value2     value3")], "", "cfd34249e4b1c8d6b91ef74165d41a32e5fab3306300901bb65a51a73575eefd"),
        ("get-header-value-multiline, with tabs", "GET", "/", &[("My-Header1", "\tvalue1\tvalue2 \
            \t value3 ")], "", "cfd34249e4b1c8d6b91ef74165d41a32e5fab3306300901bb65a51a73575eefd"),
        ("get-header-value-trim", "GET", "/", &[("My-Header1", " value1"), ("My-Header2", " \"a   \
            b   c\"")], "", "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"),
        ("get-vanilla-empty-query-key", "GET", "/?Param1=value1", &[], "", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"),
        ("get-vanilla-query-order-key", "GET", "/?Param1=value2&Param1=Value1", &[], "", "eedbc4e291e521cf13422ffca22be7d2eb8146eecf653089df300a15b2382bd1"),
        ("get-vanilla-query-order-value", "GET", "/?Param1=value2&Param1=value1", &[], "", "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694"),
        ("get-vanilla-query-order-key-case", "GET", "/?Param2=value2&Param1=value1", &[], "", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
        ("get-vanilla-query-order-encoded", "GET", "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1", &[], "", "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac"),
        ("get-vanilla-query-unreserved", "GET", &unreserved_query, &[], "", "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"),
        ("get-vanilla-utf8-query, encoded", "GET", "/?%E1%88%B4=bar", &[], "", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
        ("post-vanilla-query", "POST", "/?Param1=value1", &[], "", "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"),
        ("get-vanilla-with-session-token", "GET", "/", &[("X-Amz-Security-Token", TOKEN)], "", "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"),
        ("post-sts-header-before", "POST", "/", &[("X-Amz-Security-Token", STS_TOKEN)], "", "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"),
        ("post-header-key-sort", "POST", "/", &[("My-Header1", "value1")], "", "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"),
        ("post-header-value-case", "POST", "/", &[("My-Header1", "VALUE1")], "", "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"),
        ("post-x-www-form-urlencoded", "POST", "/", &[("Content-Type", FORM)], "Param1=value1", "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
        ("post-x-www-form-urlencoded-parameters", "POST", "/", &[("Content-Type", "application/x-www-form-urlencoded; charset=utf8")], "Param1=value1", "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe"),
        ("post-x-www-form-urlencoded, signed body", "POST", "/", &[("Content-Type", FORM), ("Content-Length", "13"), ("X-Amz-Content-Sha256", FORM_HASH)], "Param1=value1", "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b"),
        ("post-x-www-form-urlencoded-parameters, signed body", "POST", "/", &[("Content-Type", "application/x-www-form-urlencoded; charset=utf-8"), ("Content-Length", "13"), ("X-Amz-Content-Sha256", FORM_HASH)], "Param1=value1", "328d1b9eaadca9f5818ef05e8392801e091653bafec24fcab71e7344e7f51422"),
    ];
    for (name, method, target, headers, body, signature) in vectors {
        let message = vector(method, target, headers, body, signature);
        let outcome = authenticate(&message, SECRET, NOW);
        assert_eq!(outcome.map(|id| id.to_string()), Ok("AKIDEXAMPLE".into()), "{name}");

        // The same under another secret, which shows that the signature is what decides.
        let mut wrong = SECRET.to_string();
        wrong.replace_range(..1, "W");
        let outcome = authenticate(&message, &wrong, NOW).map(drop);
        assert_eq!(
            outcome,
            Err(AuthError::SignatureMismatch { access_key_id: "AKIDEXAMPLE".into() }),
            "{name}"
        );
    }
}

/// AWS's signers encode a path that holds `%3D` a second time.
#[test]
fn a_percent_encoded_path_is_encoded_again() {
    use super::super::canonical;
    let message = vector("POST", "/test/@connections/JBDvjfGEIAMCERw%3D", &[], "", &"0".repeat(64));
    message.with_request(|request| {
        let value = message.value("authorization");
        let authorization =
            super::super::authorization::Authorization::parse(value.as_bytes()).expect("in form");
        let mut text = Vec::new();
        canonical::write(request, authorization.signed_headers, &[0; 32], &mut |piece| {
            text.extend_from_slice(piece)
        });
        let text = String::from_utf8(text).expect("UTF-8");
        assert_eq!(text.lines().nth(1), Some("/test/%40connections/JBDvjfGEIAMCERw%253D"));
    });
}

#[test]
fn vectors_that_normalise_are_refused_even_with_the_right_signature() {
    for (target, signature) in [
        ("/example/..", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        (
            "/example1/example2/../..",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        ("/./", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("//", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("/./example", "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5"),
        ("//example//", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"),
        // The same, signed as they are.
        ("/example/..", "eca7ead57bb5aa5c8e28007acd4ff04e1ff9a0ff3b237ec1554a184887ff9282"),
        ("//example//", "87cca117541a147f6df867677d98a7d80dff226d2bfca9e4ffa899665623c7e5"),
        // A query that is not encoded.
        ("/?\u{1234}=bar", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
    ] {
        let outcome =
            authenticate(&vector("GET", target, &[], "", signature), SECRET, NOW).map(drop);
        assert!(
            matches!(outcome, Err(AuthError::AmbiguousRequest { .. })),
            "{target}: {outcome:?}"
        );
    }
}
