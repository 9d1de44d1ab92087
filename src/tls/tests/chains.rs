//! Chains of client certificates: how many certificates, how many signatures, and names that an
//! authority may not issue for.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, GeneralSubtree, IsCa, NameConstraints,
    PKCS_ECDSA_P384_SHA384, SanType,
};

use super::super::failure::tls_failure_words;
use super::*;
use crate::limits::{CLIENT_CHAIN_CERTIFICATES_MAX, CLIENT_CHAIN_SIGNATURES_MAX};

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = Leaf::new(&[name]).params();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn below(issuer: &Issuer, name: &str) -> Issuer {
    CertifiedIssuer::signed_by(authority_params(name), key(), issuer).unwrap()
}

/// A site whose only anchor is the authority given.
fn world_of(anchor: &Issuer) -> World {
    let world = World::new(&Leaf::server());
    write(world.directory.path(), "anchors.pem", &anchor.pem());
    world
}

fn root() -> Issuer {
    CertifiedIssuer::self_signed(authority_params("Root"), key()).unwrap()
}

/// So many authorities, the one that signs the leaf first, the root last.
fn line_of(authorities: usize) -> Vec<Issuer> {
    let mut line = vec![root()];
    for n in 1..authorities {
        line.insert(0, below(&line[0], &format!("Authority {n}")));
    }
    line
}

#[test]
fn a_client_sends_so_many_certificates_and_no_more() {
    // The root is known here; clients may send it all the same.
    let line = line_of(CLIENT_CHAIN_CERTIFICATES_MAX);
    let world = world_of(line.last().unwrap());
    let leaf = Leaf::client(KMS_NAME).params().signed_by(&key(), &line[0]).unwrap();
    let chain: Vec<_> = line.iter().map(|issuer| issuer.der().clone()).collect();
    let (within, beyond) = (&chain[..CLIENT_CHAIN_CERTIFICATES_MAX - 1], &chain[..]);
    assert_eq!(world.verify_der(leaf.der(), within), Ok(()));
    let refused = world.judge(leaf.der(), beyond).unwrap_err();
    assert_eq!(tls_failure_label(&refused), "chain_too_long");
    assert_eq!(
        tls_failure_words(&refused),
        format!(
            "the client sent {} certificates, and at most {CLIENT_CHAIN_CERTIFICATES_MAX} are \
             looked at: its own and those of the authorities above it",
            CLIENT_CHAIN_CERTIFICATES_MAX + 1
        )
    );
}

/// Certificates that all have the anchor's name can be put in any order, and each order is checked
/// against the anchor's key.
#[test]
fn few_signatures_are_checked_for_one_client() {
    let anchor = root();
    let world = world_of(&anchor);
    let impostors: Vec<_> = (0..CLIENT_CHAIN_CERTIFICATES_MAX - 1).map(|_| root()).collect();
    let leaf = Leaf::client(KMS_NAME).params().signed_by(&key(), &impostors[0]).unwrap();
    let chain: Vec<_> = impostors.iter().map(|issuer| issuer.der().clone()).collect();
    let label = |impostors| world.verify_der(leaf.der(), &chain[..impostors]);
    // One for the leaf, one for each of the impostors above it, one for each pair of them.
    let (two, three) = (1 + 2 + 2, 1 + 3 + 6 + 6);
    assert!(two <= CLIENT_CHAIN_SIGNATURES_MAX && three > CLIENT_CHAIN_SIGNATURES_MAX);
    assert_eq!(label(2), Err("bad_signature"));
    assert_eq!(label(3), Err("chain_too_long"));
    assert_eq!(label(chain.len()), Err("chain_too_long"));
    // They do not hide an honest chain that is found before.
    let honest = Leaf::client(KMS_NAME).params().signed_by(&key(), &anchor).unwrap();
    assert_eq!(world.verify_der(honest.der(), &chain), Ok(()));
}

fn dns(names: &[&str]) -> Vec<GeneralSubtree> {
    names.iter().map(|name| GeneralSubtree::DnsName((*name).to_owned())).collect()
}

/// What comes of a client's certificate with this common name, and these names in the SAN, below an
/// authority that may issue for `permitted` and not for `excluded`: an intermediate one, and an
/// anchor.
fn constrained(
    permitted: &[&str],
    excluded: &[&str],
    common_name: &str,
    san: &[&str],
) -> Result<(), &'static str> {
    let mut params = authority_params("Narrow");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: dns(permitted),
        excluded_subtrees: dns(excluded),
    });
    let root = root();
    let intermediate = CertifiedIssuer::signed_by(params.clone(), key(), &root).unwrap();
    let anchor = CertifiedIssuer::self_signed(params, key()).unwrap();
    let mut leaf = Leaf::client(common_name).params();
    leaf.subject_alt_names =
        san.iter().map(|name| SanType::DnsName((*name).try_into().unwrap())).collect();
    let verify = |anchor: &Issuer, issuer: &Issuer, sent: &[CertificateDer<'_>]| {
        let mut world = world_of(anchor);
        world.settings.client.as_mut().unwrap().subject_common_names = vec![common_name.to_owned()];
        let leaf = leaf.clone().signed_by(&key(), issuer).unwrap();
        world.judge(leaf.der(), sent).map_err(|error| {
            assert!(tls_failure_words(&error).ends_with("(name constraints)"), "{error}");
            tls_failure_label(&error)
        })
    };
    let below_an_intermediate = verify(&root, &intermediate, &[intermediate.der().clone()]);
    assert_eq!(below_an_intermediate, verify(&anchor, &anchor, &[]));
    below_an_intermediate
}

#[test]
fn an_authority_vouches_for_common_names_that_it_may_issue_for_and_no_others() {
    let refused = Err("bad_certificate");
    let permits = |base: &str, name: &str| constrained(&[base], &[], name, &[]);
    assert_eq!(permits("amazonaws.com", KMS_NAME), Ok(()));
    assert_eq!(permits("AmazonAWS.com", KMS_NAME), Ok(()));
    assert_eq!(permits(KMS_NAME, KMS_NAME), Ok(()));
    assert_eq!(permits(".amazonaws.com", KMS_NAME), Ok(()));
    assert_eq!(permits("", KMS_NAME), Ok(()));
    assert_eq!(permits("example.com", KMS_NAME), refused);
    assert_eq!(permits("aws.com", KMS_NAME), refused, "whole labels only");
    assert_eq!(permits(".client.example.com", "client.example.com"), refused);
    assert_eq!(permits("example.com", &format!("{KMS_NAME}.")), refused);
    // Not names of the DNS.
    assert_eq!(permits("example.com", "KMS client"), Ok(()));
    assert_eq!(permits("example.com", "client"), Ok(()));

    let excludes = |base: &str| constrained(&[], &[base], KMS_NAME, &[]);
    assert_eq!(excludes("example.com"), Ok(()));
    assert_eq!(excludes("amazonaws.com"), refused);
    assert_eq!(excludes(""), refused);
    assert_eq!(constrained(&["example.com", "amazonaws.com"], &[], KMS_NAME, &[]), Ok(()));
    assert_eq!(
        constrained(&["amazonaws.com"], &["us-east-1.amazonaws.com"], KMS_NAME, &[]),
        refused
    );
    // The name that is looked at here is the common name, whatever stands in the SAN.
    assert_eq!(constrained(&["example.com"], &[], KMS_NAME, &["a.example.com"]), refused);
}
