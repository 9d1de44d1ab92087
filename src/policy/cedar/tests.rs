use std::sync::Arc;

use proptest::prelude::*;

use super::context::tests::question;
use super::*;
use crate::limits::{
    DECISIONS_MAX, POLICIES_FOR_A_KEY_WARNING, POLICIES_MAX, POLICY_NESTING_MAX,
    POLICY_OPERATORS_MAX,
};

const KEYS: &[&str] = &["foo", "bar"];

fn source(name: &str, text: &str) -> Source {
    Source { name: name.to_owned(), text: text.to_owned() }
}

fn try_load(policies: &str, entities: &str) -> Result<Loaded, Vec<String>> {
    let entities: Vec<Source> =
        (!entities.is_empty()).then(|| source("e.json", entities)).into_iter().collect();
    let policies = &[source("p.cedar", policies)];
    load(&Sources { policies, entities: &entities, key_store: "/one", keys: KEYS })
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn policies(text: &str) -> Policies {
    try_load(text, "").unwrap().0
}

fn warnings(text: &str) -> Vec<String> {
    try_load(text, "").unwrap().1.iter().map(ToString::to_string).collect()
}

/// Permitted or why not, and by which policies.
fn decided(text: &str, question: &Question<'_>) -> (Reason, String) {
    let Verdict { reason, policies } = policies(text).decide(question);
    (reason, policies.to_string())
}

const ALL: &str = "@id(\"all\") permit(principal, action, resource);";

#[test]
fn nothing_is_permitted_unless_a_policy_says_so_and_a_forbid_decides() {
    assert_eq!(decided("", &question()), (Reason::NotPermitted, String::new()));
    assert_eq!(decided(ALL, &question()), (Reason::Permitted, "all".to_owned()));
    let text = format!("{ALL} @id(\"b\") forbid(principal, action, resource);");
    assert_eq!(decided(&text, &question()), (Reason::Forbidden, "b".to_owned()));
    let both = format!("@id(\"z\") permit(principal, action, resource); {ALL}");
    assert_eq!(decided(&both, &question()), (Reason::Permitted, "all,z".to_owned()));
}

#[test]
fn each_attribute_has_the_value_of_the_request() {
    for condition in [
        "principal.account == \"111122223333\"",
        "principal.kind == \"role\"",
        "principal.name like \"Ad*\"",
        "principal.path == \"/\"",
        "!(principal has session)",
        "principal == XKS::Principal::\"arn:aws:iam::111122223333:role/Admin\"",
        "action == XKS::Action::\"Encrypt\"",
        "resource == XKS::Key::\"foo\" && resource in XKS::KeyStore::\"/one\"",
        "context.kmsOperation == \"GenerateDataKey\"",
        "context.credential == \"AAAAAAAAAAAAAAAAAAAA\"",
        "context.region == \"eu-west-3\"",
        "context has kmsKeyArn && context.kmsKeyArn like \"arn:aws:kms:*:key/1\"",
        "context has kmsKeyAccount && context.kmsKeyAccount == \"111122223333\"",
        "context has kmsKeyRegion && context.kmsKeyRegion == \"eu-west-3\"",
        "context has kmsViaService && context.kmsViaService like \"s3.*.amazonaws.com\"",
        "context has awsSourceVpc && context.awsSourceVpc == \"vpc-1\"",
        "context has awsSourceVpce && context.awsSourceVpce == \"vpce-1\"",
        "context has connectionVpce && context.connectionVpce == \"vpce-2\"",
        "context has clientCommonName && context.clientCommonName like \"cks.kms.*\"",
        "context.time == 1700000000",
    ] {
        let text =
            format!("@id(\"a\") permit(principal, action, resource) when {{ {condition} }};");
        assert_eq!(decided(&text, &question()).0, Reason::Permitted, "{condition}");
        assert_eq!(warnings(&text), [""; 0], "{condition}");
    }
}

#[test]
fn only_policies_of_the_key_and_the_action_are_looked_at() {
    let text = "\
        @id(\"any\") permit(principal, action, resource);
        @id(\"bar\") permit(principal, action, resource == XKS::Key::\"bar\");
        @id(\"foo\") permit(principal, action, resource in XKS::Key::\"foo\");
        @id(\"store\") permit(principal, action, resource in XKS::KeyStore::\"/one\");
        @id(\"other\") permit(principal, action, resource in XKS::KeyStore::\"/two\");
        @id(\"is\") permit(principal, action, resource is XKS::Key in XKS::KeyStore::\"/one\");
        @id(\"enc\") permit(principal, action == XKS::Action::\"Encrypt\", resource);
        @id(\"dec\") permit(principal, action in [XKS::Action::\"Decrypt\"], resource);";
    let policies = policies(text);
    let ids = |key, action| {
        let explanation = policies.explain(&Question { key, action, ..question() });
        let looked_at = explanation.considered.iter().filter(|o| o.outcome != Outcome::Elsewhere);
        looked_at.map(|one| one.id.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids("foo", Action::Encrypt), "any foo store is enc");
    assert_eq!(ids("bar", Action::Decrypt), "any bar store is dec");
    assert_eq!(ids("bar", Action::GetKeyMetadata), "any bar store is");
    assert_eq!(ids("unknown", Action::Encrypt), "");
    let slices = |key: &str| &policies.keys[key].slices;
    assert!(!Arc::ptr_eq(&slices("foo")[0], &slices("bar")[0]));
    // What is left out decides nothing: the same as all policies together.
    for key in KEYS {
        for action in Action::ALL {
            let question = Question { key, action, ..question() };
            let every = policies.respond(&question, &text.parse().unwrap()).unwrap();
            let chosen = policies.decide(&question);
            assert_eq!(every.diagnostics().reason().count(), chosen.policies.split(',').count());
        }
    }
}

#[test]
fn keys_with_the_same_policies_share_them() {
    let policies = policies(ALL);
    let first = &policies.keys["foo"].slices[0];
    let all = policies.keys.values().flat_map(|key| &key.slices);
    assert!(all.clone().count() == 6 && all.into_iter().all(|slice| Arc::ptr_eq(slice, first)));
}

#[test]
fn an_evaluation_that_fails_denies_whatever_the_others_say() {
    let overflow = "@id(\"late\") forbid(principal, action, resource)
        when { context.time * 9223372036854775807 > 0 };";
    let (reason, policies) = decided(&format!("{ALL}{overflow}"), &question());
    assert!(matches!(&reason, Reason::Failed(why) if why.contains("overflow")), "{reason:?}");
    assert_eq!(policies, "late");
    let permit = overflow.replace("forbid", "permit");
    assert!(matches!(decided(&format!("{ALL}{permit}"), &question()).0, Reason::Failed(_)));
}

#[test]
fn who_cannot_be_read_is_denied_by_any_policy() {
    for (question, why) in [
        (Question { principal: "arn:aws:iam::1:role/a", ..question() }, Unreadable::Principal),
        (Question { kms_key_arn: Some("alias/a"), ..question() }, Unreadable::KmsKeyArn),
    ] {
        assert_eq!(decided(ALL, &question), (Reason::Unreadable(why), String::new()));
    }
}

#[test]
fn groups_hold_principals_and_keys() {
    let entities = r#"[
        {"uid": {"type": "XKS::Principal", "id": "arn:aws:iam::111122223333:role/Admin"},
         "parents": [{"type": "XKS::PrincipalGroup", "id": "ops"}]},
        {"uid": {"type": "XKS::Key", "id": "foo"},
         "parents": [{"type": "XKS::KeyGroup", "id": "payments"}]}]"#;
    let text = "@id(\"a\") permit(principal in XKS::PrincipalGroup::\"ops\", action,
        resource in XKS::KeyGroup::\"payments\");";
    let (policies, warnings) = try_load(text, entities).unwrap();
    assert_eq!(warnings, []);
    assert!(policies.decide(&question()).permits());
    assert!(!policies.decide(&Question { key: "bar", ..question() }).permits());
    let other = Question { principal: "arn:aws:iam::111122223333:role/Other", ..question() };
    assert!(!policies.decide(&other).permits());
}

#[test]
fn what_is_wrong_with_a_policy_is_named_with_file_line_and_id() {
    let many = format!("{ALL}\n").repeat(2);
    let deep =
        format!("{ALL}\n@id(\"d\") permit(principal, action, resource) when {}", "(".repeat(99));
    for (text, expected) in [
        ("\n\npermit(principal, action);", "p.cedar:3: "),
        ("\npermit(principal, action, resource);", "p.cedar:2: a policy without @id"),
        (
            "@id(\"a b\") permit(principal, action, resource);",
            "p.cedar:1: policy \"a b\": an @id has 1 to 64",
        ),
        (&many, "p.cedar:2: policy \"all\": another policy of this key store has this @id"),
        (
            "@id(\"a\")\npermit(principal, action, resource)\nwhen { principal.nmae == \"a\" };",
            "p.cedar:3: policy \"a\": attribute `nmae`",
        ),
        (
            "@id(\"a\") forbid(principal, action, resource)\nwhen { context.kmsViaService == \"a\" };",
            "p.cedar:2: policy \"a\": unable to guarantee safety of access to optional attribute",
        ),
        (
            "@id(\"a\") permit(principal, action == XKS::Action::\"Encypt\", resource);",
            "p.cedar:1: policy \"a\": unrecognized action",
        ),
        (
            "@id(\"a\") permit(principal, action, resource) when { context.time == \"1\" };",
            "p.cedar:1: policy \"a\": the types",
        ),
        (
            "@id(\"a\") permit(principal == ?principal, action, resource);",
            "p.cedar:1: policy \"a\": templates are not used",
        ),
        (&deep, "p.cedar:2: more than 32 levels of nesting"),
    ] {
        let problems = try_load(text, "").unwrap_err();
        assert!(problems.iter().any(|p| p.starts_with(expected)), "{text}: {problems:?}");
    }
    let problems = try_load("permit", "[").unwrap_err();
    assert!(problems.iter().any(|p| p.starts_with("e.json:1")), "both are told: {problems:?}");
    let count = POLICIES_MAX + 1;
    let many: String = (0..count).map(|n| ALL.replace("all", &n.to_string())).collect();
    assert!(try_load(&many, "").unwrap_err()[0].contains("are too many"));
}

#[test]
fn what_is_probably_not_meant_is_warned_of() {
    for (text, expected) in [
        ("@id(\"a\") forbid(principal, action, resource);", "no policy permits anything"),
        (
            "\n@id(\"a\") permit(principal, action, resource == XKS::Key::\"fooo\");",
            "p.cedar:2: policy \"a\": names XKS::Key::\"fooo\", which this key store does not have",
        ),
        (
            "@id(\"a\") permit(principal in XKS::PrincipalGroup::\"ops\", action, resource);",
            "names XKS::PrincipalGroup::\"ops\"",
        ),
        (
            "@id(\"a\") permit(principal, action, resource in XKS::KeyStore::\"/two\");",
            "names XKS::KeyStore::\"/two\"",
        ),
        ("@id(\"a\") permit(principal, action, resource) when { principal.name == 1.0 };", ""),
        ("@id(\"a\") permit(principal, action, resource) when { 1 == 2 };", "policy is impossible"),
    ] {
        match try_load(text, "") {
            Ok((_, warnings)) => {
                let told = warnings.iter().any(|warning| warning.to_string().contains(expected));
                assert!(told, "{text}: {warnings:?}");
            }
            Err(problems) => assert!(expected.is_empty(), "{text}: {problems:?}"),
        }
    }
}

#[test]
fn many_policies_for_one_key_are_warned_of() {
    let policies = |count: usize, scope: &str| {
        let one = |n| format!("@id(\"{n}\") permit(principal, action, {scope});");
        (0..count).map(one).collect::<String>()
    };
    let most = POLICIES_FOR_A_KEY_WARNING;
    assert_eq!(warnings(&policies(most, "resource")), [""; 0]);
    let told = warnings(&policies(most + 1, "resource"));
    assert!(told[0].contains("101 policies can apply to Encrypt with key \"bar\""), "{told:?}");
    let more = format!("{ALL}{}", policies(most, "resource == XKS::Key::\"foo\""));
    assert!(warnings(&more)[0].contains("with key \"foo\""));
}

/// What is too deep would abort the test. A shard's stack has this size, the main thread's more.
#[test]
fn no_text_overflows_the_stack() {
    let policy = |condition: String| {
        format!("@id(\"a\") permit(principal, action, resource) when {{ {condition} }};")
    };
    for deep in [
        policy(format!("{}true{}", "(".repeat(100_000), ")".repeat(100_000))),
        policy("[".repeat(100_000)),
        policy("if true then ".repeat(50_000)),
        policy(format!("{}false", "if true then true else ".repeat(40_000))),
        policy(format!("{}true", "! ".repeat(100_000))),
        policy(format!("{}1 == 1", "- ".repeat(100_000))),
        policy(format!("true{}", " && true".repeat(100_000))),
        policy(format!("true{}", " || true".repeat(100_000))),
        policy(format!("1{} == 1", " + 1".repeat(100_000))),
        policy(format!("context{}", ".a".repeat(100_000))),
        policy(format!("context{}", "[\"a\"]".repeat(100_000))),
        // The most of everything at once.
        policy(format!(
            "{}{}{}true{}{}",
            "(".repeat(POLICY_NESTING_MAX - 2),
            "if true then true else ".repeat(POLICY_NESTING_MAX * 4),
            "true && ".repeat(POLICY_OPERATORS_MAX / 2),
            " && true".repeat(POLICY_OPERATORS_MAX / 2),
            ")".repeat(POLICY_NESTING_MAX - 2),
        )),
    ] {
        // Right or wrong, but an answer.
        let shown = deep[..90].to_owned();
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let decides = thread.spawn(move || {
            try_load(&deep, "").map(|(policies, _)| policies.decide(&question()).permits())
        });
        assert!(decides.unwrap().join().is_ok(), "{shown}");
    }
}

#[test]
fn nesting_is_counted_where_it_is_code() {
    let deep = |open: &str| open.repeat(POLICY_NESTING_MAX + 1);
    assert!(nesting::too_deep(&deep("(")).is_some());
    assert!(nesting::too_deep(&format!("// {}", deep("("))).is_none());
    assert!(nesting::too_deep(&format!("\"\\\"{}\"", deep("("))).is_none());
    assert!(nesting::too_deep(&deep("()")).is_none());
    assert!(nesting::too_deep(&"a.b || ".repeat(POLICY_OPERATORS_MAX)).is_some());
    assert!(nesting::too_deep(&"a.b || c;".repeat(POLICY_OPERATORS_MAX)).is_none());
}

// ---- Cache ----

/// Counts decisions by the identity of what is given out.
fn same(a: &Arc<Verdict>, b: &Arc<Verdict>) -> bool {
    Arc::ptr_eq(a, b)
}

#[test]
fn a_decision_is_made_once_and_forgotten_with_a_change() {
    let (policies, revision) = (policies(ALL), Revision::next());
    let mut decisions = Decisions::default();
    let first = decisions.decide(revision, &policies, &question());
    let later = Question { time: question().time + 99, ..question() };
    assert!(same(&first, &decisions.decide(revision, &policies, &later)));
    let next = Revision::next();
    assert_ne!(revision, next);
    assert!(!same(&first, &decisions.decide(next, &policies, &question())));
    assert_eq!(decisions.len(), 1);
}

#[test]
fn a_decision_by_the_time_is_good_for_its_second() {
    let text = "@id(\"until\") permit(principal, action == XKS::Action::\"Encrypt\", resource)
        when { context.time < 1700000001 };
        @id(\"decrypt\") permit(principal, action == XKS::Action::\"Decrypt\", resource);";
    let (policies, revision) = (policies(text), Revision::next());
    let mut decisions = Decisions::default();
    let mut decide = |question| decisions.decide(revision, &policies, &question);
    let first = decide(question());
    assert!(first.permits());
    assert!(same(&first, &decide(question())));
    let next = Question { time: 1_700_000_001, ..question() };
    assert!(!decide(next).permits(), "over");
    assert!(decide(question()).permits(), "an older request comes late");
    // Another action's policies do not read the time.
    let decrypt = |time| Question { action: Action::Decrypt, time, ..question() };
    let first = decide(decrypt(1));
    assert!(same(&first, &decide(decrypt(2))));
}

#[test]
fn each_part_of_a_question_tells_decisions_apart() {
    let (policies, revision) = (policies(ALL), Revision::next());
    let mut decisions = Decisions::default();
    let q = question();
    let different = [
        q,
        Question { action: Action::Decrypt, ..q },
        Question { key: "bar", ..q },
        Question { principal: "arn:aws:iam::111122223333:role/Admi", ..q },
        Question { kms_operation: "Encrypt", ..q },
        Question { credential: "B", ..q },
        Question { region: "us-east-1", ..q },
        Question { kms_key_arn: None, ..q },
        Question { via_service: None, ..q },
        Question { via_service: Some(""), ..q },
        Question { source_vpc: None, ..q },
        Question { source_vpc: None, source_vpce: Some("vpc-1"), ..q },
        Question { source_vpc: Some("vpc-1vpce-1"), source_vpce: Some(""), ..q },
        Question { connection_vpce: None, ..q },
        Question { client_common_name: None, ..q },
    ];
    for question in &different {
        decisions.decide(revision, &policies, question);
    }
    assert_eq!(decisions.len(), different.len());
}

#[test]
fn decisions_are_bounded_and_those_in_use_stay() {
    let (policies, revision) = (policies(ALL), Revision::next());
    let mut decisions = Decisions::default();
    let often = decisions.decide(revision, &policies, &question());
    // Operations are of any text; the principal could not be read.
    for number in 0..DECISIONS_MAX + 100 {
        let operation = format!("Operation{number}");
        let other = Question { principal: "nobody", kms_operation: &operation, ..question() };
        decisions.decide(revision, &policies, &other);
        if number % 1000 == 0 {
            assert!(same(&often, &decisions.decide(revision, &policies, &question())));
        }
        assert!(decisions.len() <= DECISIONS_MAX);
    }
}

proptest! {
    /// With a cache and without: the same, in whatever order requests come.
    #[test]
    fn a_kept_decision_is_the_one_that_would_be_made(
        asked in prop::collection::vec((0usize..3, 0usize..4, 0usize..3, 0i64..4), 1..60),
    ) {
        let text = "
            @id(\"p\") permit(principal, action, resource)
                when { context.time < 2 || principal.name == \"b\" };
            @id(\"f\") forbid(principal, action == XKS::Action::\"Decrypt\", resource)
                unless { context has kmsViaService && context.kmsViaService like \"s3.*\" };
            @id(\"e\") forbid(principal, action == XKS::Action::\"GetKeyMetadata\", resource)
                when { context.time * 4611686018427387904 == 1 };";
        let (policies, revision) = (policies(text), Revision::next());
        let mut decisions = Decisions::default();
        for (action, name, via, time) in asked {
            let principal = format!("arn:aws:iam::111122223333:role/{}", ["a", "b", "c", ""][name]);
            let question = Question {
                action: Action::ALL[action],
                principal: &principal,
                via_service: [None, Some("s3.x"), Some("ec2.x")][via],
                time,
                ..question()
            };
            let kept = decisions.decide(revision, &policies, &question);
            prop_assert_eq!(&*kept, &policies.decide(&question));
        }
    }
}
