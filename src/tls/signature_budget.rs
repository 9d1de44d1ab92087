//! A bound on the signatures that are checked to find a chain among a client's certificates.
//!
//! webpki has a bound as well, of 100, which under a P-384 anchor holds a shard for 0.2 s.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};

use crate::limits::CLIENT_CHAIN_SIGNATURES_MAX;

/// Of one client's certificates.
#[derive(Debug, Default)]
pub(super) struct SignatureBudget {
    asked_for: AtomicUsize,
}

impl SignatureBudget {
    /// The same algorithms, for as long as there is budget. After it no signature is right.
    pub(super) fn limit<'a>(
        &'a self,
        algorithms: &'a [&'a dyn SignatureVerificationAlgorithm],
    ) -> Vec<Limited<'a>> {
        algorithms.iter().map(|&algorithm| Limited { algorithm, budget: self }).collect()
    }

    /// Whether more signatures were asked for than were checked.
    pub(super) fn is_exceeded(&self) -> bool {
        self.asked_for.load(Ordering::Relaxed) > CLIENT_CHAIN_SIGNATURES_MAX
    }
}

#[derive(Debug)]
pub(super) struct Limited<'a> {
    algorithm: &'a dyn SignatureVerificationAlgorithm,
    budget: &'a SignatureBudget,
}

impl SignatureVerificationAlgorithm for Limited<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        if self.budget.asked_for.fetch_add(1, Ordering::Relaxed) >= CLIENT_CHAIN_SIGNATURES_MAX {
            return Err(InvalidSignature);
        }
        self.algorithm.verify_signature(public_key, message, signature)
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }
}
