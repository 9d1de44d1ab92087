//! What AWS KMS would refuse is warned of, each at its key, and refused by nobody.

use super::difference::{certificate, replaced};
use super::*;
use crate::limits::URI_CHARS_MAX;
use crate::tls::{Certificate, Name};

/// Key paths of what a configuration with this chain is warned of.
fn warned(text: &str, chain: &[Certificate]) -> Vec<String> {
    let sources = Fake { certificates: chain.to_vec(), ..fake() };
    let config = Config::parse(text, Path::new("/etc/xksd/xksd.toml"), &sources).expect("valid");
    config.warnings.into_iter().map(|warning| warning.key).collect()
}

fn name(shown: &str, parts: &[&str]) -> Name {
    Name { shown: shown.to_owned(), parts: parts.iter().map(|part| (*part).to_owned()).collect() }
}

/// A certificate that Amazon Root CA 1 has issued.
fn public(common_name: &str) -> Certificate {
    Certificate {
        issuer_name: name("C=US, O=Amazon, CN=Amazon Root CA 1", &["amazon", "amazon root ca 1"]),
        ..certificate(common_name, "01")
    }
}

#[test]
fn what_kms_takes_is_not_warned_of() {
    let client = "[tls.client]\ntrust_anchors = \"t\"\n\
        subject_common_names = [\"cks.kms.us-east-1.amazonaws.com\"]\n[[key_manager]]";
    let text = replaced(SMALL, &[("[[key_manager]]", client)]);
    assert_eq!(warned(&text, &[public("xks.example.com")]), [""; 0]);
    assert_eq!(warned(&text, &[]), [""; 0]);
}

#[test]
fn regions_are_ones_that_aws_has_and_that_may_connect() {
    let client = "[tls.client]\ntrust_anchors = \"t\"\n\
        subject_common_names = [\"cks.kms.us-east-1.amazonaws.com\", \
        \"cks.kms.eu-west-1.amazonaws.com\", \"own-client\"]\n[[key_manager]]";
    let regions = |text: &str| replaced(SMALL, &[("[\"us-east-1\"]", text)]);
    assert_eq!(warned(&regions("[\"us-east-9\", \"us-west-2\"]"), &[]), ["server.regions[0]"]);
    let both = regions("[\"us-east-1\", \"us-west-2\"]");
    assert_eq!(
        warned(&replaced(&both, &[("[[key_manager]]", client)]), &[]),
        ["server.regions[1]", "tls.client.subject_common_names[1]"]
    );
}

#[test]
fn a_prefix_does_not_end_in_the_path_of_the_api() {
    let text = replaced(SMALL, &[("\"/a\"", "\"/a/kms/xks/v1\"")]);
    assert_eq!(warned(&text, &[]), ["keystore[0].path_prefix"]);
}

#[test]
fn keys_and_credentials_are_not_shared() {
    let keys = "[[keystore.key]]\nid = \"foo\"\n[[keystore.key]]\nid = \"bar\"\nlabel = \"foo\"";
    let text = replaced(SMALL, &[("[[keystore.key]]\nid = \"foo\"", keys)]);
    assert_eq!(warned(&text, &[]), ["keystore[0].key[1].label"]);

    let store = &SMALL[SMALL.find("[[keystore]]").expect("there")..];
    let other = replaced(store, &[("\"/a\"", "\"/b\"")]);
    assert_eq!(
        warned(&format!("{SMALL}\n{other}"), &[]),
        ["keystore[1].credential[0].access_key_id"]
    );
    let id = other.lines().find(|line| line.starts_with("access_key_id")).expect("there");
    let renamed = other.replace(id, "access_key_id = \"ANOTHER2ACCESS3KEY4ID\"");
    assert_eq!(
        warned(&format!("{SMALL}\n{renamed}"), &[]),
        ["keystore[1].credential[0].secret_access_key"]
    );
}

#[test]
fn the_certificate_is_one_that_kms_takes() {
    let chain = |certificate: Certificate| warned(SMALL, &[certificate]).len();
    assert_eq!(chain(Certificate { common_names: Vec::new(), ..public("a.example") }), 1);
    assert_eq!(chain(public("*.example.com")), 1);
    let private = name("CN=Own CA", &["own ca"]);
    assert_eq!(chain(Certificate { issuer_name: private.clone(), ..public("a.example") }), 1);
    // The name of a public authority is not enough where the root itself is in the file.
    let root = |fingerprint: &str| Certificate {
        subject_name: public("a").issuer_name,
        fingerprint: fingerprint.to_owned(),
        ..public("a")
    };
    let below = Certificate { issuer_name: private, ..public("a.example") };
    let amazon = "8E:CD:E6:88:4F:3D:87:B1:12:5B:A3:1A:C3:FC:B1:3D:70:16:DE:7F:57:CC:90:4F:E1:CB:\
        97:C6:AE:98:19:6E";
    assert_eq!(warned(SMALL, &[below.clone(), root(amazon)]).len(), 0);
    assert_eq!(warned(SMALL, &[below, root("FF:FF")]).len(), 1);
}

#[test]
fn a_uri_that_is_too_long_is_named_at_its_key() {
    let others = "https:///a/kms/xks/v1/keys/foo/metadata".len();
    let host = |chars: usize| format!("{}.example", "h".repeat(chars - ".example".len()));
    let longest = public(&host(URI_CHARS_MAX - others));
    assert_eq!(warned(SMALL, &[longest]), [""; 0]);
    let longer = public(&host(URI_CHARS_MAX - others + 1));
    assert_eq!(warned(SMALL, std::slice::from_ref(&longer)), ["keystore[0].key[0].id"]);
    // By another name of the certificate KMS could reach it.
    let dns_names = vec!["x.example".to_owned()];
    assert_eq!(warned(SMALL, &[Certificate { dns_names, ..longer }]), [""; 0]);
}
