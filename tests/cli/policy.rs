//! `xksd policy`, and the policies in `deploy/policies`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use test_harness::{Config, Installation};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/policies");

/// An installation whose key store `/one` has these files of policies.
fn installation(files: &[&str]) -> Installation {
    let installation = Installation::default();
    let mut config = Config::default();
    let section = format!("[keystore.policy]\nfiles = {files:?}\nmode = \"dry-run\"\n");
    let first = "[[keystore.credential]]";
    config.key_stores = config.key_stores.replacen(first, &format!("{section}{first}"), 1);
    installation.configure(&config);
    installation
}

fn policy(installation: &Installation, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xksd"))
        .arg("policy")
        .args(arguments)
        .arg("--config")
        .arg(installation.config_file())
        .current_dir(installation.path())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

const TWO: &str = "
@id(\"all\") permit(principal, action, resource);
@id(\"no-bob\") forbid(principal, action, resource) when { principal.name == \"bob\" };
@id(\"other\") forbid(principal, action == XKS::Action::\"Decrypt\", resource);
";

fn with_two() -> Installation {
    let installation = installation(&["two.cedar"]);
    installation.write("two.cedar", TWO);
    installation
}

/// The files that an example's cases say it is used with.
fn files_of(cases: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(cases).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("# files = ")).expect("a line");
    let names: Vec<String> = serde_json::from_str(line).expect("an array of strings");
    names.iter().map(|name| format!("{EXAMPLES}/{name}")).collect()
}

#[test]
fn each_example_does_what_its_cases_say() {
    let of = |ending: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(EXAMPLES).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.to_str().unwrap().ends_with(ending)).collect()
    };
    let all_cases = of(".cases.toml");
    let mut tested: Vec<String> = all_cases.iter().flat_map(|cases| files_of(cases)).collect();
    for file in of(".cedar") {
        assert!(tested.contains(&file.display().to_string()), "{}: no cases", file.display());
    }
    for cases in &all_cases {
        let files = files_of(cases);
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let output = policy(&installation(&files), &["test", cases.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
        assert!(text(&output.stdout).ends_with(" 0 failed\n"));
    }
    // And all together.
    tested.sort();
    tested.dedup();
    let files: Vec<&str> = tested.iter().map(String::as_str).collect();
    let output = policy(&installation(&files), &["check"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
}

#[test]
fn a_case_that_is_decided_otherwise_is_named() {
    let installation = with_two();
    let cases = "
        [defaults]
        key = \"foo\"
        operation = \"encrypt\"
        principal = \"arn:aws:iam::111122223333:user/alice\"
        [[case]]
        name = \"alice may\"
        expect = \"allow\"
        policy = \"all\"
        [[case]]
        name = \"alice may not\"
        expect = \"deny\"
        [[case]]
        principal = \"arn:aws:iam::111122223333:user/bob\"
        expect = \"deny\"
        policy = \"other\"
        [[case]]
        name = \"both\"
        operation = \"Decrypt\"
        principal = \"arn:aws:iam::111122223333:user/bob\"
        time = 2026-11-28T10:00:00Z
        expect = \"deny\"
        policy = \"no-bob,other\"";
    installation.write("cases.toml", cases);
    let output = policy(&installation, &["test", "cases.toml"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), "2 of 4 cases failed\n"));
    assert_eq!(
        text(&output.stdout),
        "ok      alice may\n\
         FAILED  alice may not: expected deny, found allow: policies permit it, and none forbids \
         it (all)\n\
         FAILED  case 3: expected deny by other, found deny: a policy forbids it (no-bob)\n\
         ok      both\n\
         4 cases, 2 failed\n"
    );
    let output = policy(&installation, &["test", "cases.toml", "--json"]);
    let told = json_of(&output);
    assert_eq!((output.status.code(), &told["passed"]), (Some(1), &json!(false)));
    assert_eq!(told["cases"][1]["passed"], false);
    assert_eq!(told["cases"][1]["name"], "alice may not");
}

#[test]
fn wrong_cases_are_named() {
    let installation = with_two();
    let least = "operation = \"encrypt\"\nkey = \"foo\"\nprincipal = \"a\"\nexpect = \"deny\"";
    for (cases, why) in [
        (String::new(), "there is no [[case]]"),
        ("[[case]]\nname = \"x\"".to_owned(), "x: expect: \"allow\" or \"deny\""),
        (format!("[[case]]\n{least}\nprinzipal = \"b\""), "case 1: unknown field `prinzipal`"),
        (format!("[[case]]\n{}", least.replace("foo", "fooo")), "has no key \"fooo\""),
        (format!("[[case]]\n{}", least.replace("encrypt", "sign")), "operation \"sign\""),
        (format!("[[case]]\n{least}\ntime = \"noon\""), "time \"noon\""),
        (format!("[[case]]\n{least}\nkey_store = \"/x\""), "no policies of a key store \"/x\""),
        (format!("[[case]]\n{}", least.replace("principal", "#")), "principal is missing"),
        ("[[cases]]".to_owned(), "unknown field `cases`"),
    ] {
        installation.write("cases.toml", &cases);
        let output = policy(&installation, &["test", "cases.toml"]);
        assert_eq!(output.status.code(), Some(2), "{cases}");
        assert!(text(&output.stderr).contains(why), "{cases}: {}", text(&output.stderr));
    }
}

#[test]
fn a_decision_is_explained_policy_by_policy() {
    let installation = with_two();
    let bob = "arn:aws:iam::111122223333:user/bob";
    let asked = ["explain", "--key", "foo", "--operation", "encrypt", "--principal", bob];
    let output = policy(&installation, &asked);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "deny: a policy forbids it (no-bob)\n  \
         permit all: matches\n  \
         forbid no-bob: matches\n  \
         forbid other: is for other keys or operations\n"
    );
    let told = json_of(&policy(&installation, &[&asked[..], &["--json"]].concat()));
    assert_eq!((&told["decision"], &told["policies"]), (&json!("deny"), &json!(["no-bob"])));
    assert_eq!(told["considered"][2]["outcome"], "elsewhere");

    let asked = ["explain", "--key", "foo", "--operation", "metadata", "--principal", "bob"];
    let output = policy(&installation, &asked);
    assert!(text(&output.stdout).starts_with("deny: awsPrincipalArn has a form that is not known"));

    installation.write(
        "two.cedar",
        &format!(
            "{TWO}@id(\"late\") forbid(principal, action, resource)
            when {{ context.time * 9223372036854775807 > 0 }};"
        ),
    );
    let asked = ["explain", "--key", "foo", "--operation", "metadata", "--principal", bob];
    let output = policy(&installation, &asked);
    let told = text(&output.stdout);
    assert!(told.starts_with("deny: the evaluation of a policy failed: "), "{told}");
    assert!(told.contains("forbid late: fails: ") && told.contains("overflow"), "{told}");
}

#[test]
fn policies_are_checked() {
    let installation = with_two();
    let output = policy(&installation, &["check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "key store \"/one\": 3 policies are valid, mode dry-run\n");
    let told = json_of(&policy(&installation, &["check", "--json"]));
    assert_eq!(told["key_stores"][0]["policies"], json!(["all", "no-bob", "other"]));

    installation.write("two.cedar", &TWO.replace("principal.name", "principal.nmae"));
    for json in [false, true] {
        let more: &[&str] = if json { &["--json"] } else { &[] };
        let output = policy(&installation, &[&["check"], more].concat());
        assert_eq!(output.status.code(), Some(2));
        let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
        let escaped = if json {
            "two.cedar:3: policy \\\"no-bob\\\""
        } else {
            "two.cedar:3: policy \"no-bob\""
        };
        assert!(told.contains(escaped), "{told}");
    }
    let without = Installation::default();
    let output = policy(&without, &["check"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("has no section [keystore.policy]"));
}
