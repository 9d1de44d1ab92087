//! `[tls]`.

use std::path::PathBuf;

use super::reader::{Section, Value};
use super::table::{InForce, Said, Setting, names};
use crate::limits::COMMON_NAME_CHARS_MAX;
use crate::tls;

/// `[tls]`: what the server shows, and whom it lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM: the server's certificate, then every intermediate one.
    pub certificate_chain: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub private_key: PathBuf,
    /// What the file says of client certificates besides having a section for them.
    pub client_authentication: ClientAuthentication,
    /// Mutual TLS; without it any client may connect (and must still sign its requests).
    pub client: Option<TlsClient>,
}

/// `tls.client_authentication`: a file that was cut short has no section for it and does not say
/// that it should have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// Left out: it depends on whether there is a section.
    Unstated,
    /// Without a section the file is refused.
    Required,
    /// With a section the file is refused.
    None,
}

impl ClientAuthentication {
    fn of_name(name: &str) -> Option<Self> {
        match name {
            "required" => Some(Self::Required),
            "none" => Some(Self::None),
            _ => None,
        }
    }
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

/// `[tls]`.
pub(super) const KEYS: &[Setting<Tls>] = &[
    Setting::reloaded("certificate_chain", |tls| Said::value(tls.certificate_chain.display())),
    Setting::reloaded("private_key", |tls| Said::value(tls.private_key.display())),
    Setting::reloaded("client_authentication", |tls| match tls.client_authentication {
        ClientAuthentication::Unstated => Said::Nothing,
        ClientAuthentication::Required => Said::text("required"),
        ClientAuthentication::None => Said::text("none"),
    }),
    Setting::structure("client", InForce::Reload).guarded(
        |running, new| {
            running.client.is_some()
                && new.client.is_none()
                && new.client_authentication != ClientAuthentication::None
        },
        "missing, and clients must show a certificate now. If any client may connect from now on, \
         run: xksd reload --config FILE --accept-loss-of-client-auth, or say \
         client_authentication = \"none\" in [tls]",
    ),
];

/// `[tls.client]`.
pub(super) const CLIENT_KEYS: &[Setting<TlsClient>] = &[
    Setting::reloaded("trust_anchors", |client| Said::value(client.trust_anchors.display())),
    Setting::reloaded("subject_common_names", |client| {
        Said::value(format!("{:?}", client.subject_common_names))
    }),
    Setting::reloaded("require_client_auth_eku", |client| {
        Said::value(client.require_client_auth_eku)
    }),
];

pub(super) fn tls(root: &Section<'_>) -> Option<Tls> {
    let section = root
        .required("tls", "a section [tls] with certificate_chain and private_key")?
        .section(&names(KEYS))?;
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
    let stated = section.or("client_authentication", ClientAuthentication::Unstated, |v| {
        let accepted = "\"required\" or \"none\"";
        ClientAuthentication::of_name(
            v.string_where(accepted, |t| ClientAuthentication::of_name(t).is_some())?,
        )
    });
    let given = section.optional("client");
    let contradiction = match (stated, &given) {
        (Some(ClientAuthentication::Required), None) => section
            .refuse("client_authentication is \"required\", and there is no section [tls.client]"),
        (Some(ClientAuthentication::None), Some(client)) => {
            client.refuse("this section is here, and client_authentication is \"none\"")
        }
        _ => Some(()),
    };
    let client = given.map_or(Some(None), |v| client(&v).map(Some));
    let (client_authentication, ()) = (stated?, contradiction?);
    let tls = Tls {
        certificate_chain: chain?,
        private_key: key?,
        client_authentication,
        client: client?,
    };
    let found = section.reader.sources.check_tls(&tls.settings());
    for warning in &found.warnings {
        section.warn_at(warning.key, &warning.message);
    }
    for problem in &found.problems {
        section.problem_at(problem.key, &problem.message);
    }
    found.problems.is_empty().then_some(tls)
}

impl Tls {
    /// The same for `tls`, which does not know of configurations.
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
    let section = value.section(&names(CLIENT_KEYS))?;
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
