//! `[tls]`.

use std::path::PathBuf;

use super::reader::{Section, Value};
use crate::limits::COMMON_NAME_CHARS_MAX;
use crate::tls;

/// `[tls]`: what the server shows, and whom it lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM: the server's certificate, then every intermediate one.
    pub certificate_chain: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub private_key: PathBuf,
    /// Mutual TLS; without it any client may connect (and must still sign its requests).
    pub client: Option<TlsClient>,
}

/// `[tls.client]`: the clients that may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsClient {
    /// PEM: certificates of the authorities that client chains must end in.
    pub trust_anchors: PathBuf,
    /// The client certificate's only subject CN must be one of these.
    pub subject_common_names: Vec<String>,
    /// Whether the client certificate must carry the extended key usage clientAuth. Public
    /// authorities stop issuing it.
    pub require_client_auth_eku: bool,
}

pub(super) fn tls(root: &Section<'_>) -> Option<Tls> {
    let section = root
        .required("tls", "a section [tls] with certificate_chain and private_key")?
        .section(&["certificate_chain", "private_key", "client"])?;
    let chain = section.must(
        "certificate_chain",
        "the PEM file with the server's certificate and the intermediate ones",
        Value::file,
    );
    let key = section.must(
        "private_key",
        "the PEM file with the server's private key",
        Value::private_file,
    );
    let client = section.optional("client").map_or(Some(None), |v| client(&v).map(Some));
    let tls = Tls { certificate_chain: chain?, private_key: key?, client: client? };
    let found = section.reader.sources.check_tls(&tls.settings());
    for warning in &found.warnings {
        section.reader.warning(warning.to_string());
    }
    for problem in &found.problems {
        section.problem_at(problem.key, &problem.message);
    }
    found.problems.is_empty().then_some(tls)
}

impl Tls {
    /// The same for the TLS room, which does not know of configurations.
    pub fn settings(&self) -> tls::Settings {
        tls::Settings {
            certificate_chain: self.certificate_chain.clone(),
            private_key: self.private_key.clone(),
            client: self.client.as_ref().map(|client| tls::ClientSettings {
                trust_anchors: client.trust_anchors.clone(),
                subject_common_names: client.subject_common_names.clone(),
                require_client_auth_eku: client.require_client_auth_eku,
            }),
        }
    }
}

fn client(value: &Value<'_>) -> Option<TlsClient> {
    let section =
        value.section(&["trust_anchors", "subject_common_names", "require_client_auth_eku"])?;
    let anchors = section.must(
        "trust_anchors",
        "the PEM file with the certificate authorities of the clients",
        Value::file,
    );
    let what = "the accepted subject CNs, for example [\"cks.kms.us-east-1.amazonaws.com\"]";
    let names = section.must("subject_common_names", what, |v| v.distinct_strings(common_name));
    let require_eku = section.or("require_client_auth_eku", true, Value::boolean);
    Some(TlsClient {
        trust_anchors: anchors?,
        subject_common_names: names?,
        require_client_auth_eku: require_eku?,
    })
}

fn common_name<'r>(value: &Value<'r>) -> Option<&'r str> {
    let accepted = format!(
        "a subject CN has 1 to {COMMON_NAME_CHARS_MAX} characters and no control characters; no \
         wildcards"
    );
    value.string_where(&accepted, |t| {
        (1..=COMMON_NAME_CHARS_MAX).contains(&t.chars().count())
            && !t.chars().any(char::is_control)
            && !t.contains('*')
    })
}
