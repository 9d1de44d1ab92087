//! Any text as a file of policies, or of entities: policies or problems, never a panic, and a stack
//! that suffices. What is read decides.
//!
//! Input: the policies; behind a line `---`, the entities.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xksd::policy::cedar::{Action, Question, Source, Sources, load};

fuzz_target!(|text: &str| {
    let (policies, entities) = text.split_once("\n---\n").unwrap_or((text, ""));
    let source = |name: &str, text: &str| vec![Source { name: name.into(), text: text.into() }];
    let policies = source("p", policies);
    let entities = if entities.is_empty() { Vec::new() } else { source("e", entities) };
    let sources =
        Sources { policies: &policies, entities: &entities, key_store: "/one", keys: &["foo"] };
    match load(&sources) {
        Err(problems) => assert!(!problems.is_empty()),
        Ok((policies, _)) => {
            for action in Action::ALL {
                let question = Question {
                    action,
                    key: "foo",
                    principal: "arn:aws:iam::111122223333:role/A",
                    kms_operation: "Encrypt",
                    credential: "AAAAAAAAAAAAAAAAAAAA",
                    region: "eu-west-1",
                    kms_key_arn: Some("arn:aws:kms:eu-west-1:111122223333:key/1"),
                    via_service: Some("s3.eu-west-1.amazonaws.com"),
                    source_vpc: None,
                    source_vpce: None,
                    connection_vpce: None,
                    client_common_name: None,
                    time: 1_700_000_000,
                };
                let explained = policies.explain(&question);
                assert_eq!(explained.considered.len(), policies.list().len());
            }
        }
    }
});
