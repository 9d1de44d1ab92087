use std::borrow::Cow;

use zeroize::Zeroizing;

use super::*;
use crate::target::KeyStore;

fn target() -> Target {
    let keystore = |prefix: &str| KeyStore {
        prefix: prefix.into(),
        access_key_id: "ABCDEFGHIJKLMNOPQR27".into(),
        secret: Zeroizing::new("secret".into()),
    };
    Target {
        name: "localhost".into(),
        host: "localhost".into(),
        address: ([127, 0, 0, 1], 443).into(),
        ca: "ca.pem".into(),
        client: None,
        region: "us-east-1".into(),
        keystores: vec![keystore("/a"), keystore("/b")],
        keys: vec!["k1".into(), "k2".into()],
        admin: Vec::new(),
        proxy_pids: Vec::new(),
        proxy_listen: None,
        balancer: None,
    }
}

fn workload(mix: &str, cdiv: f64) -> Workload {
    let sizes = Sizes { from: 1, to: 40 };
    let shape = Shape {
        mix: Mix::parse(mix).unwrap(),
        plaintext: sizes,
        aad: sizes,
        cdiv,
        fresh: false,
        principals: 1,
        verify: true,
    };
    Workload::new(&target(), &shape, 1, 0).unwrap()
}

fn answer(status: u16, body: &str) -> Answer<'_> {
    Answer { status, body: Cow::Borrowed(body.as_bytes()), length: 0, close: false }
}

#[test]
fn mixes() {
    assert_eq!(Mix::parse("encrypt=80,decrypt=18,metadata=1,health=1").unwrap().0, [80, 18, 1, 1]);
    assert_eq!(Mix::parse("decrypt=5").unwrap().text(), "decrypt=5");
    for wrong in
        ["", "encrypt", "encrypt=-1", "sign=1", "encrypt=0", "encrypt=1,,", "encrypt=99999999"]
    {
        assert!(Mix::parse(wrong).is_err(), "{wrong}");
    }
    let mut workload = workload("encrypt=3,metadata=1", 1.0);
    let drawn: Vec<Call> = (0..4000).map(|_| workload.draw()).collect();
    let encrypts = drawn.iter().filter(|c| **c == Call::Encrypt).count();
    assert!((2800..3200).contains(&encrypts), "{encrypts}");
    assert!(drawn.iter().all(|c| matches!(c, Call::Encrypt | Call::Metadata)));
}

#[test]
fn every_key_of_every_key_store_is_asked() {
    let mut workload = workload("encrypt=1", 0.5);
    let mut out = Vec::new();
    let paths: std::collections::BTreeSet<String> = (0..8)
        .map(|_| {
            out.clear();
            workload.write(Call::Encrypt, &mut out);
            String::from_utf8(out.clone()).unwrap().split(' ').nth(1).unwrap().to_owned()
        })
        .collect();
    let expected = [
        "/a/kms/xks/v1/keys/k1/encrypt",
        "/a/kms/xks/v1/keys/k2/encrypt",
        "/b/kms/xks/v1/keys/k1/encrypt",
        "/b/kms/xks/v1/keys/k2/encrypt",
    ];
    assert!(paths.iter().eq(expected.iter()), "{paths:?}");
}

#[test]
fn the_share_of_cdiv_is_kept() {
    for (share, count) in [(0.0, 0), (0.25, DISTINCT_REQUESTS / 4), (1.0, DISTINCT_REQUESTS)] {
        let workload = workload("encrypt=1", share);
        assert_eq!(workload.plaintexts.iter().filter(|s| s.cdiv).count(), count, "{share}");
    }
}

#[test]
fn a_decrypt_must_give_back_what_its_encrypt_was_given() {
    let mut workload = workload("decrypt=1", 0.0);
    let mut out = Vec::new();
    let first = workload.write(Call::Decrypt, &mut out);
    assert_eq!(first.call, Call::Encrypt, "nothing to decrypt yet");
    let plaintext = &workload.plaintexts[0];
    let (plaintext, bytes) = (plaintext.base64.clone(), plaintext.bytes);
    let ciphertext = BASE64_STANDARD.encode(vec![7; bytes]);
    let body = format!(
        r#"{{"ciphertext":"{ciphertext}","initializationVector":"HMrlRw85cAJUd5Ax","authenticationTag":"vBxN2ncH1oEkR8WVXpmyYQ=="}}"#
    );
    assert_eq!(workload.check(&first, &answer(200, &body)), Outcome::Right);
    let second = workload.write(Call::Decrypt, &mut out);
    assert_eq!(second.call, Call::Decrypt);
    assert!(String::from_utf8(out.clone()).unwrap().contains(&ciphertext));
    assert_eq!(
        workload.check(&second, &answer(200, &format!(r#"{{"plaintext":"{plaintext}"}}"#))),
        Outcome::Right
    );
    let Outcome::Wrong(why) = workload.check(&second, &answer(200, r#"{"plaintext":"AAAA"}"#))
    else {
        panic!("not noticed")
    };
    assert!(
        why.contains("another plaintext") && why.contains("kmsRequestId 00000001-0000-"),
        "{why}"
    );
    assert!(!why.contains(&*plaintext));
    let error =
        workload.check(&second, &answer(503, r#"{"errorName":"DependencyTimeoutException"}"#));
    assert_eq!(error, Outcome::Error("DependencyTimeoutException (503)".into()));
}
