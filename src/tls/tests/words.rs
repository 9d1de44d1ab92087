//! What the log says of client certificates that are refused.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, GeneralSubtree, IsCa,
    NameConstraints, SanType,
};
use rustls::{CertificateError, Error, OtherError};
use test_harness::pki;
use time::macros::datetime;

use super::super::failure::tls_failure_words;
use super::*;

type Issuer = CertifiedIssuer<'static, KeyPair>;
type Change<'a> = &'a dyn Fn(&mut CertificateParams);

/// An authority, with `change` made to its usual parameters; below `issuer` if there is one.
fn authority(name: &str, issuer: Option<&Issuer>, change: Change<'_>) -> Issuer {
    let mut params = Leaf::new(&[name]).params();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    match issuer {
        Some(issuer) => CertifiedIssuer::signed_by(params, key, issuer),
        None => CertifiedIssuer::self_signed(params, key),
    }
    .unwrap()
}

#[test]
fn each_certificate_that_is_refused_is_told_why() {
    let mut world = World::new(&Leaf::server());
    let as_it_is: Change<'_> = &|_| {};
    let root = authority("Words CA", None, as_it_is);
    write(world.directory.path(), "anchors.pem", &root.pem());
    // What is said of a leaf for KMS, changed by `change`, that came with these authorities, the
    // one which issued it first.
    let said = |world: &World, chain: &[&Issuer], change: Change<'_>| {
        let mut params = Leaf::client(KMS_NAME).params();
        change(&mut params);
        let leaf = params
            .signed_by(&KeyPair::generate().unwrap(), *chain.first().unwrap_or(&&root))
            .unwrap();
        let sent: Vec<CertificateDer<'_>> =
            chain.iter().map(|issuer| issuer.der().clone()).collect();
        world
            .judge(leaf.der(), &sent)
            .map_or_else(|error| tls_failure_words(&error), |()| "accepted".to_owned())
    };
    assert_eq!(said(&world, &[], as_it_is), "accepted");

    let an_authority: Change<'_> =
        &|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let old: Change<'_> = &|params| {
        (params.not_before, params.not_after) =
            (datetime!(2024-03-01 12:00 UTC), datetime!(2025-03-01 12:00 UTC))
    };
    let unborn: Change<'_> = &|params| {
        (params.not_before, params.not_after) =
            (datetime!(2048-03-01 12:00 UTC), datetime!(2049-03-01 12:00 UTC))
    };
    let backwards: Change<'_> = &|params| {
        (params.not_before, params.not_after) =
            (datetime!(2025-03-01 12:00 UTC), datetime!(2024-03-01 12:00 UTC))
    };
    let for_servers: Change<'_> =
        &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let odd: Change<'_> = &|params| {
        let mut extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    };
    let elsewhere: Change<'_> =
        &|params| params.subject_alt_names = vec![SanType::DnsName(KMS_NAME.try_into().unwrap())];
    let impostor = authority("Impostor", Some(&root), &|params| params.is_ca = IsCa::NoCa);
    let last = authority("Last", Some(&root), &|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))
    });
    let below_last = authority("Below", Some(&last), as_it_is);
    let narrow = authority("Narrow", Some(&root), &|params| {
        let permitted_subtrees = vec![GeneralSubtree::DnsName("example.com".to_owned())];
        params.name_constraints =
            Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    });
    let (namesake, stranger) =
        (authority("Words CA", None, as_it_is), authority("Stranger", None, as_it_is));
    for (chain, change, words) in [
        (
            &[][..],
            an_authority,
            "the client's certificate is that of an authority (basic constraints: CA)",
        ),
        (&[], old, "a certificate of the chain expired on 2025-03-01 12:00:00 UTC"),
        (&[], unborn, "a certificate of the chain is not valid before 2048-03-01 12:00:00 UTC"),
        (&[], backwards, "a certificate of the chain has a validity that ends before it begins"),
        (
            &[],
            for_servers,
            "the extended key usage of a certificate of the chain does not allow TLS clients",
        ),
        (&[], odd, "a certificate of the chain has a critical extension that is not known here"),
        (
            &[&impostor],
            as_it_is,
            "a certificate of the chain has issued the one before it and is not",
        ),
        (
            &[&below_last, &last],
            as_it_is,
            "an authority in the chain may not have so many authorities below it",
        ),
        (
            &[&narrow],
            elsewhere,
            "an authority in the chain may not issue certificates for such a name",
        ),
        (&[&namesake], as_it_is, "a signature is wrong"),
        (
            &[&stranger],
            as_it_is,
            "the chain does not end in an authority of tls.client.trust_anchors",
        ),
    ] {
        let found = said(&world, chain, change);
        assert!(found.starts_with(words), "{words}: {found}");
    }

    let unread = world.judge(&CertificateDer::from_slice(b"\x30\x03abc"), &[]).unwrap_err();
    assert_eq!(
        tls_failure_words(&unread),
        "a certificate of the chain cannot be read: it is not X.509 in DER"
    );
    world.settings.client.as_mut().unwrap().subject_common_names = vec!["another.name".to_owned()];
    assert!(said(&world, &[], as_it_is).ends_with("is not in tls.client.subject_common_names"));
}

/// rcgen does not sign with SHA-1; the openssl command does.
#[test]
fn an_algorithm_that_is_not_supported() {
    let world = World::new(&Leaf::server());
    let file = |name: &str| pki::text(&world.directory.path().join(name));
    let (ca_key, ca, key, request, pem) =
        (file("ca.key"), file("anchors.pem"), file("sha1.key"), file("sha1.csr"), file("sha1.pem"));
    for key in ["ca.key", "sha1.key"] {
        write(world.directory.path(), key, &pki::rsa_key_pem(2048));
    }
    pki::openssl(&["req", "-x509", "-key", &ca_key, "-subj", "/CN=Authority", "-out", &ca]);
    pki::openssl(&[
        "req",
        "-new",
        "-key",
        &key,
        "-subj",
        "/CN=Leaf",
        "-addext",
        "basicConstraints=CA:FALSE",
        "-out",
        &request,
    ]);
    pki::openssl(&[
        "x509",
        "-req",
        "-sha1",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-copy_extensions",
        "copy",
        "-out",
        &pem,
    ]);
    let refused = world.judge(&CertificateDer::from_pem_file(&pem).unwrap(), &[]).unwrap_err();
    assert_eq!(
        tls_failure_words(&refused),
        "a certificate of the chain is signed with an algorithm that is not supported"
    );
}

#[test]
fn what_cannot_be_made_here_has_words_too() {
    use webpki::Error as E;
    let of_webpki = [
        E::EmptyEkuExtension,
        E::ExtensionValueInvalid,
        E::InvalidCertValidity,
        E::InvalidNetworkMaskConstraint,
        E::InvalidSerialNumber,
        E::MalformedDnsIdentifier,
        E::MalformedExtensions,
        E::MalformedNameConstraint,
        E::MaximumNameConstraintComparisonsExceeded,
        E::MaximumPathBuildCallsExceeded,
        E::MaximumPathDepthExceeded,
        E::MaximumSignatureChecksExceeded,
        E::SignatureAlgorithmMismatch,
        E::UnsupportedCertVersion,
        E::UnsupportedNameType,
    ]
    .map(|error| CertificateError::Other(OtherError(Arc::new(error))));
    let (signature_algorithm_id, public_key_algorithm_id) = (vec![1], vec![2]);
    let of_rustls = [
        CertificateError::Expired,
        CertificateError::NotValidYet,
        CertificateError::UnhandledCriticalExtension,
        CertificateError::InvalidPurpose,
        CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: signature_algorithm_id.clone(),
            supported_algorithms: Vec::new(),
        },
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id,
            public_key_algorithm_id,
        },
    ];
    for error in of_rustls.into_iter().chain(of_webpki) {
        let words = tls_failure_words(&Error::InvalidCertificate(error.clone()));
        assert!(
            !words.starts_with("the client's certificate was refused: "),
            "no words for {error:?}: {words}"
        );
        assert!(
            words.len() > 20 && words.len() <= crate::limits::HANDSHAKE_DETAIL_CHARS_MAX,
            "{error:?}: {words}"
        );
    }
    // What has none is told as it calls itself.
    let unknown = Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(
        io::Error::other("a reason"),
    ))));
    assert_eq!(tls_failure_words(&unknown), "the client's certificate was refused: a reason");
}
