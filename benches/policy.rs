//! A decision of the policies in Cedar: one that the shard has made before, and one that is made.

use std::fmt::Write;
use std::hint::black_box;

use criterion::Criterion;
use xksd::policy::cedar::{Action, Decisions, Policies, Question, Revision, Source, Sources, load};

use crate::fixture::{KEY_ID, POLICIES, PREFIX, REGION};

fn question() -> Question<'static> {
    Question {
        action: Action::Encrypt,
        key: KEY_ID,
        principal: "arn:aws:iam::123456789012:user/Alice",
        kms_operation: "GenerateDataKeyWithoutPlaintext",
        credential: "BETWEENTWENTYANDTHIRTY",
        region: REGION,
        kms_key_arn: Some(
            "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        ),
        via_service: Some("ebs.us-east-1.amazonaws.com"),
        source_vpc: None,
        source_vpce: None,
        connection_vpce: None,
        client_common_name: None,
        time: 1_700_000_000,
    }
}

/// The policies of the fixture, and others.
fn policies(others: &str) -> Policies {
    let text = format!("{POLICIES}{others}");
    let files = [Source { name: "policies".to_owned(), text }];
    let sources =
        Sources { policies: &files, entities: &[], key_store: PREFIX, keys: &[KEY_ID, "bar"] };
    load(&sources).expect("valid").0
}

/// So many that forbid something to this resource.
fn forbidding(count: usize, resource: &str) -> String {
    (0..count).fold(String::new(), |mut text, number| {
        let _ = write!(
            text,
            "@id(\"f{number}\") forbid(principal, action, {resource})
             when {{ principal.name like \"stranger-{number}-*\" }};"
        );
        text
    })
}

pub fn benches(c: &mut Criterion) {
    let question = question();
    let mut group = c.benchmark_group("policy");
    let two = policies("");
    let mut decisions = Decisions::default();
    let revision = Revision::next();
    group.bench_function("kept", |b| {
        b.iter(|| decisions.decide(revision, &two, black_box(&question)).permits());
    });
    let elsewhere = policies(&forbidding(1_000, "resource == XKS::Key::\"bar\""));
    let here = policies(&forbidding(100, "resource"));
    for (name, policies) in [
        ("made, 2 policies", &two),
        ("made, 2 policies and 1,000 of other keys", &elsewhere),
        ("made, 102 policies", &here),
    ] {
        assert!(policies.decide(&question).permits(), "{name}");
        group.bench_function(name, |b| b.iter(|| policies.decide(black_box(&question))));
    }
}
