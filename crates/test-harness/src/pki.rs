//! A throw-away PKI for tests: CAs and certificates by rcgen, RSA keys and other PEM encodings by
//! the openssl command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    DnValue, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

/// The name in every server certificate made here.
pub const SERVER_NAME: &str = "xks.test";
/// The name AWS KMS presents in one region.
pub const KMS_NAME: &str = "cks.kms.us-east-1.amazonaws.com";

/// Runs openssl and gives its standard output; fails the test if it is missing.
pub fn openssl(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is missing: run scripts/test");
    assert!(
        output.status.success(),
        "openssl {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// A certificate authority, root or intermediate.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    /// A self-signed root.
    pub fn root(name: &str) -> Self {
        Self {
            issuer: CertifiedIssuer::self_signed(Self::params(name), KeyPair::generate().unwrap())
                .unwrap(),
        }
    }

    /// A CA issued by this one.
    pub fn intermediate(&self, name: &str) -> Self {
        Self {
            issuer: CertifiedIssuer::signed_by(
                Self::params(name),
                KeyPair::generate().unwrap(),
                &self.issuer,
            )
            .unwrap(),
        }
    }

    /// A certificate issued by this CA that signs others without being a CA itself.
    pub fn impostor(&self, name: &str) -> Self {
        Self {
            issuer: CertifiedIssuer::signed_by(
                Leaf::new(&[name]).params(),
                KeyPair::generate().unwrap(),
                &self.issuer,
            )
            .unwrap(),
        }
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for `key`.
    pub fn issue(&self, leaf: &Leaf, key: &KeyPair) -> Certificate {
        leaf.params().signed_by(key, &self.issuer).unwrap()
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = Leaf::new(&[name]).params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }
}

/// What a certificate says.
#[derive(Clone)]
pub struct Leaf {
    pub common_names: Vec<DnValue>,
    pub dns_names: Vec<String>,
    pub purposes: Vec<ExtendedKeyUsagePurpose>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

impl Leaf {
    /// Valid from yesterday for a year, without names in the SAN and without extended key usage.
    pub fn new(common_names: &[&str]) -> Self {
        let now = OffsetDateTime::now_utc();
        Self {
            common_names: common_names.iter().map(|&name| DnValue::from(name)).collect(),
            dns_names: Vec::new(),
            purposes: Vec::new(),
            not_before: now - Duration::DAY,
            not_after: now + 365 * Duration::DAY,
        }
    }

    /// A server certificate for [`SERVER_NAME`].
    pub fn server() -> Self {
        Self {
            dns_names: vec![SERVER_NAME.to_owned()],
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth],
            ..Self::new(&[SERVER_NAME])
        }
    }

    /// A client certificate as KMS presents it, with another name where given.
    pub fn client(common_name: &str) -> Self {
        Self { purposes: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Self::new(&[common_name]) }
    }

    /// The parameters for rcgen.
    pub fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::new(self.dns_names.clone()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        // rcgen keeps one value an attribute type, but takes a spelled-out 2.5.4.3 for another type
        // than CommonName: two common names are all it takes for the tests.
        let types = [DnType::CommonName, DnType::CustomDnType(vec![2, 5, 4, 3])];
        assert!(self.common_names.len() <= types.len());
        for (dn_type, name) in types.into_iter().zip(&self.common_names) {
            params.distinguished_name.push(dn_type, name.clone());
        }
        params.extended_key_usages = self.purposes.clone();
        params.not_before = self.not_before;
        params.not_after = self.not_after;
        params
    }
}

/// An RSA key of 2048 bits, a kind which rcgen does not make with ring.
pub fn rsa_key() -> KeyPair {
    KeyPair::from_pem(&rsa_key_pem(2048)).unwrap()
}

/// An RSA key of so many bits, PKCS#8.
pub fn rsa_key_pem(bits: u32) -> String {
    let size = format!("rsa_keygen_bits:{bits}");
    String::from_utf8(openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", &size]))
        .unwrap()
}

/// Writes a file with mode 0600.
pub fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = directory.join(name);
    let _ = std::fs::remove_file(&path);
    std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    path
}

/// A path as a command's argument.
pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
