//! An ECDSA key in memory for secrets. rustls' own holds it on the heap, where nobody wipes it.

use std::fmt;
use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair,
};
use rustls::pki_types::{
    AlgorithmIdentifier, PrivateKeyDer, SubjectPublicKeyInfoDer, alg_id::ECDSA_P256,
    alg_id::ECDSA_P384,
};
use rustls::sign::{Signer, SigningKey, public_key_to_spki};
use rustls::{Error, SignatureAlgorithm, SignatureScheme};
use secret_memory::Slot;
use zeroize::Zeroizing;

use crate::secret::arena;

#[derive(Clone, Copy)]
struct Curve {
    scheme: SignatureScheme,
    signing: &'static EcdsaSigningAlgorithm,
    algorithm: AlgorithmIdentifier,
}

const CURVES: [Curve; 2] = [
    Curve {
        scheme: SignatureScheme::ECDSA_NISTP256_SHA256,
        signing: &ECDSA_P256_SHA256_ASN1_SIGNING,
        algorithm: ECDSA_P256,
    },
    Curve {
        scheme: SignatureScheme::ECDSA_NISTP384_SHA384,
        signing: &ECDSA_P384_SHA384_ASN1_SIGNING,
        algorithm: ECDSA_P384,
    },
];

/// Both the key and what signs with it.
#[derive(Clone)]
struct EcdsaKey {
    pair: Arc<Slot<EcdsaKeyPair>>,
    curve: Curve,
}

/// A key of P-256 or P-384 from PKCS#8 or SEC1 (RFC 5915).
///
/// # Errors
/// When it is no such key, or there is no memory for secrets.
pub(super) fn load(der: &PrivateKeyDer<'_>) -> Result<Arc<dyn SigningKey>, String> {
    let mut refused = "neither PKCS#8 nor SEC1".to_owned();
    for curve in CURVES {
        let wrapped = match der {
            PrivateKeyDer::Sec1(key) => pkcs8(&curve.algorithm, key.secret_sec1_der()),
            PrivateKeyDer::Pkcs8(key) => Zeroizing::new(key.secret_pkcs8_der().to_vec()),
            _ => continue,
        };
        let made = arena()?.place(|| {
            EcdsaKeyPair::from_pkcs8(curve.signing, &wrapped, &SystemRandom::new())
                .map_err(|error| error.to_string())
        });
        match made {
            Ok(pair) => return Ok(Arc::new(EcdsaKey { pair: Arc::new(pair), curve })),
            Err(why) => refused = why,
        }
    }
    Err(refused)
}

/// A SEC1 key with its curve around it, as ring reads it (RFC 5958).
fn pkcs8(algorithm: &AlgorithmIdentifier, sec1: &[u8]) -> Zeroizing<Vec<u8>> {
    const INTEGER_0: &[u8] = &[0x02, 0x01, 0x00];
    const OCTET_STRING: u8 = 0x04;
    const SEQUENCE: u8 = 0x30;
    let (curve, key) = (tagged(SEQUENCE, &[algorithm]), tagged(OCTET_STRING, &[sec1]));
    tagged(SEQUENCE, &[INTEGER_0, &curve, &key])
}

/// DER of parts that are below 64 KiB together.
fn tagged(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let [.., high, low] = length.to_be_bytes();
    // Room for all of it at once: growing would leave a copy behind.
    let mut der = Zeroizing::new(Vec::with_capacity(4 + length));
    match (high, low) {
        (0, 0..0x80) => der.extend([tag, low]),
        (0, _) => der.extend([tag, 0x81, low]),
        _ => der.extend([tag, 0x82, high, low]),
    }
    for part in parts {
        der.extend_from_slice(part);
    }
    der
}

impl SigningKey for EcdsaKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.curve.scheme).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(public_key_to_spki(&self.curve.algorithm, self.pair.public_key()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for EcdsaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        signature
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| Error::General("ECDSA: not signed".to_owned()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.curve.scheme
    }
}

impl fmt::Debug for EcdsaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EcdsaKey({:?})", self.curve.scheme)
    }
}
