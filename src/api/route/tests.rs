use super::*;
use proptest::prelude::*;

fn refused(path: &str) {
    let error = route(path).expect_err(path);
    assert_eq!((error.status(), error.name()), (404, ErrorName::InvalidUriPathException), "{path}");
}

#[test]
fn the_four_calls_with_and_without_prefix() {
    for prefix in [
        "",
        "/a",
        "/example/uri/path/prefix",
        "/kms/xks/v1",
        "/a/kms/xks/v1/keys/k/encrypt",
        "/A-Z_09",
    ] {
        for operation in Operation::ALL {
            let (path, key_id) = match operation {
                Operation::Health => (format!("{prefix}/kms/xks/v1/health"), ""),
                other => {
                    (format!("{prefix}/kms/xks/v1/keys/Key.1_a-b/{}", other.as_str()), "Key.1_a-b")
                }
            };
            assert_eq!(route(&path), Ok(Route { prefix, operation, key_id }), "{path}");
        }
    }
}

#[test]
fn key_ids_that_look_like_path_words() {
    for key_id in ["keys", "health", "encrypt", "kms", "...", ".a", "a..", "-"] {
        let path = format!("/kms/xks/v1/keys/{key_id}/decrypt");
        assert_eq!(route(&path), Ok(Route { prefix: "", operation: Operation::Decrypt, key_id }));
    }
}

#[test]
fn other_paths_are_refused() {
    for path in [
        "",
        "/",
        "*",
        "health",
        "/health",
        "kms/xks/v1/health",
        "/kms/xks/v1",
        "/kms/xks/v1/",
        "/kms/xks/v1/health/",
        "/kms/xks/v1/Health",
        "/kms/xks/v2/health",
        "/kms/xks/v1//health",
        "//kms/xks/v1/health",
        "/a//kms/xks/v1/health",
        "/a//b/kms/xks/v1/health",
        "/akms/xks/v1/health/x",
        "/prefixkms/xks/v1/keys/k/encrypt",
        "a/kms/xks/v1/health",
        "/a.b/kms/xks/v1/health",
        "/a%2Fb/kms/xks/v1/health",
        "/../kms/xks/v1/health",
        "/kms/xks/v1/keys/k",
        "/kms/xks/v1/keys/k/",
        "/kms/xks/v1/keys/k/encrypt/",
        "/kms/xks/v1/keys/k/sign",
        "/kms/xks/v1/keys/k/health",
        "/kms/xks/v1/keys/encrypt",
        "/kms/xks/v1/keys//encrypt",
        "/kms/xks/v1/keys/a/b/encrypt",
        "/kms/xks/v1/keys/a%2Eb/encrypt",
        "/kms/xks/v1/keys/a+b/encrypt",
        "/kms/xks/v1/keys/\u{e9}/encrypt",
        "/kms/xks/v1/keys/./encrypt",
        "/kms/xks/v1/keys/../encrypt",
        "/kms/xks/v1/health?x",
    ] {
        refused(path);
    }
}

#[test]
fn lengths_on_both_sides() {
    let key_id = "k".repeat(EXTERNAL_KEY_ID_CHARS_MAX);
    let path = format!("/kms/xks/v1/keys/{key_id}/encrypt");
    assert_eq!(route(&path).map(|r| r.key_id.len()), Ok(EXTERNAL_KEY_ID_CHARS_MAX));
    refused(&format!("/kms/xks/v1/keys/{key_id}k/encrypt"));

    let prefix = format!("/{}", "p".repeat(URI_PATH_CHARS_MAX - API_PATH.len() - 1));
    assert_eq!(prefix.len() + API_PATH.len(), 128);
    for tail in ["health", "keys/k/encrypt"] {
        let path = format!("{prefix}/kms/xks/v1/{tail}");
        assert_eq!(route(&path).map(|r| r.prefix), Ok(prefix.as_str()));
        refused(&format!("{prefix}p/kms/xks/v1/{tail}"));
    }
}

#[test]
fn only_post() {
    assert_eq!(check_method("POST"), Ok(()));
    for method in ["GET", "HEAD", "PUT", "post", "OPTIONS", ""] {
        assert_eq!(check_method(method).map_err(|e| e.status()), Err(405), "{method}");
    }
}

#[test]
fn only_the_empty_query() {
    assert_eq!(check_query(""), Ok(()));
    for query in ["a=b", "a", "=", "&", "?", "%"] {
        let refused = check_query(query).map_err(|e| (e.status(), e.name()));
        assert_eq!(refused, Err((404, ErrorName::InvalidUriPathException)), "{query}");
    }
}

#[test]
fn names_of_the_calls() {
    let names: Vec<_> = Operation::ALL.iter().map(|o| (o.as_str(), o.api_name())).collect();
    assert_eq!(
        names,
        [
            ("metadata", "GetKeyMetadata"),
            ("encrypt", "Encrypt"),
            ("decrypt", "Decrypt"),
            ("health", "GetHealthStatus")
        ]
    );
}

proptest! {
    #[test]
    fn what_is_routed_is_put_together_again(path in "(/[a-z.%]{0,3}){0,3}/kms/xks/v1/(health|keys/[a-zA-Z0-9._%/-]{0,6}/(metadata|encrypt|decrypt|sign))") {
        if let Ok(found) = route(&path) {
            let tail = match found.operation {
                Operation::Health => "health".to_owned(),
                other => format!("keys/{}/{}", found.key_id, other.as_str()),
            };
            prop_assert_eq!(path.clone(), format!("{}/kms/xks/v1/{tail}", found.prefix));
            prop_assert!(is_path_prefix(found.prefix));
        }
    }

    #[test]
    fn any_text_is_answered(path in any::<String>()) {
        let _ = route(&path);
    }
}
