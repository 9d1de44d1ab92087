//! Any values in a request: a decision, never a panic; a kept decision is the one that would be
//! made, and who cannot be read is denied.
//!
//! Input: lines of principal, key, kmsOperation, region, kmsKeyArn, kmsViaService, awsSourceVpc,
//! awsSourceVpce, clientCommonName, time; a line that is missing is left out of the request.
#![no_main]

use std::cell::RefCell;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use xksd::policy::cedar::{
    Action, Decisions, Policies, Principal, Question, Reason, Revision, Source, Sources, load,
};

/// Every attribute is read, and arithmetic can overflow.
const POLICIES: &str = r#"
@id("permit") permit(principal, action, resource);
@id("attributes") forbid(principal, action, resource)
when { principal.account like "9*" || principal.name like "*evil*" || principal.path like "/x/*"
       || (principal has session && principal.session == "s") || principal.kind == "root" };
@id("context") forbid(principal, action == XKS::Action::"Decrypt", resource)
when { context.kmsOperation == "" || context.region like "cn-*"
       || (context has kmsKeyAccount && context.kmsKeyAccount != principal.account)
       || (context has kmsViaService && !(context.kmsViaService like "s3.*"))
       || (context has awsSourceVpc && context.awsSourceVpc like "vpc-*-*")
       || (context has clientCommonName && context.clientCommonName == "") };
@id("time") forbid(principal, action == XKS::Action::"GetKeyMetadata", resource)
when { context.time * 3 > 9000 };
"#;

static LOADED: LazyLock<Policies> = LazyLock::new(|| {
    let policies = &[Source { name: "policies".to_owned(), text: POLICIES.to_owned() }];
    let keys = &["foo", "bar"];
    load(&Sources { policies, entities: &[], key_store: "/one", keys }).expect("valid").0
});

thread_local! {
    static KEPT: RefCell<Decisions> = RefCell::default();
}

fuzz_target!(|text: &str| {
    let mut lines = text.split('\n');
    let mut next = || lines.next();
    let (principal, key) = (next().unwrap_or_default(), next().unwrap_or("foo"));
    let question = Question {
        action: Action::Encrypt,
        principal,
        key,
        kms_operation: next().unwrap_or_default(),
        credential: "AAAAAAAAAAAAAAAAAAAA",
        region: next().unwrap_or_default(),
        kms_key_arn: next(),
        via_service: next(),
        source_vpc: next(),
        source_vpce: next(),
        connection_vpce: None,
        client_common_name: next(),
        time: next().and_then(|text| text.parse().ok()).unwrap_or(1_700_000_000),
    };
    for action in Action::ALL {
        let question = Question { action, ..question };
        let verdict = LOADED.decide(&question);
        let kept =
            KEPT.with_borrow_mut(|kept| kept.decide(Revision::default(), &LOADED, &question));
        assert_eq!(*kept, verdict);
        if verdict.permits() {
            assert!(Principal::parse(principal).is_some(), "nobody is permitted nothing");
        }
        let panicked = matches!(&verdict.reason, Reason::Failed(why) if why.contains("panicked"));
        assert!(!panicked, "the policy engine panicked");
        // What is told of a denial is of the policies, not of the request.
        assert!(verdict.why_denied().is_ascii());
    }
});
