//! Modules: what they decide, what is refused before they are asked, and how those end that would not.

use serde_json::{Value as Json, json};

use super::*;
use crate::ids::TenantId;
use crate::policy::{Bundle, BundleRefused};

const FRAUD: &str = include_str!("../../../../tests/data/policies/fraud.yaml");
const FRAUD_TESTS: &str = include_str!("../../../../tests/data/policies/fraud_test.rego");

fn module(rules: &str) -> String {
    format!("package trailhouse\nimport rego.v1\n{rules}\n")
}

fn rego(rules: &str) -> Rego {
    Rego::parse(&module(rules), false).expect(rules)
}

async fn ask(rules: &str, input: Json) -> Result<Obligations, Refusal> {
    let tenant = TenantId::parse("acme").unwrap();
    Judge::new()
        .ask(&tenant, &std::sync::Arc::new(rego(rules)), input)
        .await
}

fn wants(profile: Option<&str>, rows: &[&str]) -> Result<Obligations, Refusal> {
    Ok(Obligations {
        masking_profile: profile.map(str::to_owned),
        row_policies: rows.iter().map(|name| (*name).to_owned()).collect(),
    })
}

#[tokio::test]
async fn what_is_not_allowed_is_denied() {
    let read = || json!({ "operation": "Read", "roles": ["Reader"], "purpose": "fraud" });
    for (rules, wanted) in [
        ("allow := true", wants(None, &[])),
        ("allow if input.operation == \"Read\"", wants(None, &[])),
        ("allow if \"Reader\" in input.roles", wants(None, &[])),
        ("default allow := false", Err(Refusal::Denies)),
        ("allow if input.nosuch == 1", Err(Refusal::Denies)),
        ("allow := false", Err(Refusal::Denies)),
        ("allow := 1", Err(Refusal::Denies)),
        ("allow := \"true\"", Err(Refusal::Denies)),
        ("allow contains \"x\"", Err(Refusal::Denies)),
        (
            "allow := true\nmasking_profile := \"p\" if input.purpose == \"fraud\"",
            wants(Some("p"), &[]),
        ),
        (
            "allow := true\nmasking_profile := \"p\" if input.purpose == \"x\"",
            wants(None, &[]),
        ),
        (
            "allow := true\nrow_policies contains \"a\"\nrow_policies contains \"b\"",
            wants(None, &["a", "b"]),
        ),
        (
            "allow := true\nrow_policies := [\"b\", \"a\"]",
            wants(None, &["a", "b"]),
        ),
        ("allow := true\nrow_policies := \"a\"", wants(None, &["a"])),
        // What is not understood, and what fails.
        ("allow := true\nrow_policies := [1]", Err(Refusal::Fails)),
        (
            "allow := true\nrow_policies := {\"a\": 1}",
            Err(Refusal::Fails),
        ),
        ("allow := true\nmasking_profile := 7", Err(Refusal::Fails)),
        (
            "allow := true\nmasking_profile := [\"a\", \"b\"]",
            Err(Refusal::Fails),
        ),
        (
            "allow := true\nmasking_profile := \"a\" if input.operation\nmasking_profile := \"b\" if input.operation",
            Err(Refusal::Fails),
        ),
        (
            "allow := true if input.operation\nallow := false if input.operation",
            Err(Refusal::Fails),
        ),
        ("allow if lower(7) == \"7\"", Err(Refusal::Fails)),
        (
            "allow := true\nrow_policies := [x | some x in names]\nnames := split_names\nsplit_names := [sum([a, b]) | some a in [1, 2, 3, 4, 5, 6, 7, 8, 9]; some b in [1, 2, 3, 4, 5, 6, 7, 8]]",
            Err(Refusal::Fails),
        ),
    ] {
        assert_eq!(ask(rules, read()).await, wanted, "{rules}");
    }
}

/// Whether it goes on for long or keeps what it makes: the request is answered, and with a denial.
#[tokio::test]
async fn a_module_that_does_not_end_denies() {
    let numbers: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let list = format!("xs := [{}]", numbers.join(", "));
    let all = "some a in xs; some b in xs; some c in xs; some d in xs; some e in xs";
    for rules in [
        format!("{list}\nallow if count([1 | {all}]) > 0"),
        format!("{list}\nallow if count({{[a, b, c, d, e] | {all}}}) > 0"),
        format!("{list}\nallow if count([xs | {all}]) > 0"),
        format!("{list}\nallow if {{ {all}; a + b + c + d + e < 0 }}"),
    ] {
        let asked = ask(&rules, json!({})).await;
        assert!(
            matches!(asked, Err(Refusal::Fails | Refusal::Busy)),
            "{rules}: {asked:?}"
        );
    }
}

#[tokio::test]
async fn a_chain_of_all_the_rules_there_can_be_is_evaluated() {
    let mut rules = "allow if f0(1)\n".to_owned();
    for number in 0..RULES_MAX - 2 {
        rules.push_str(&format!("f{number}(x) := f{}(x)\n", number + 1));
    }
    rules.push_str(&format!("f{}(x) := true", RULES_MAX - 2));
    assert_eq!(ask(&rules, json!({})).await, wants(None, &[]));
}

/// A name of a rule that is only a field of something else is none.
#[tokio::test]
async fn rules_may_be_named_like_fields() {
    let rules =
        "default purpose := \"none\"\npurpose := input.purpose\nallow if purpose == input.allow";
    let input = json!({ "purpose": "x", "allow": "x" });
    assert_eq!(ask(rules, input).await, wants(None, &[]));
}

#[tokio::test]
async fn what_is_nested_as_deep_as_a_module_can_be_is_evaluated_or_denied() {
    for rules in [
        format!("allow if input{}", ".a".repeat(2000)),
        format!("allow if input{}", "[0]".repeat(1300)),
        format!("allow if 0 == 0{}", "\n + 0".repeat(1500)),
        format!("allow if not false{}", "\n    not false".repeat(1500)),
        format!("allow if {}1{}", "(".repeat(1500), ")".repeat(1500)),
        format!("allow if {}1{}", "[".repeat(1500), "]".repeat(1500)),
        format!("allow if false{}", "\nelse := false".repeat(900)),
        format!("allow if {{ {} }}", "some x in [1]; ".repeat(500)),
    ] {
        match Rego::parse(&module(&rules), false) {
            Err(reasons) => assert!(!reasons.is_empty()),
            Ok(_) => drop(ask(&rules, json!({})).await),
        }
    }
}

#[tokio::test]
async fn an_input_that_is_too_large_denies() {
    let input = json!({ "subject": "x".repeat(INPUT_BYTES_MAX) });
    assert_eq!(ask("allow := true", input).await, Err(Refusal::Fails));
}

/// Modules, and a reason why they are refused.
const REFUSED: &[(&str, &str)] = &[
    (
        "allow if count(numbers.range(1, 1000000000000)) > 1",
        "numbers.range",
    ),
    (
        "allow if concat(\"\", [x, x]) == \"\"\nx := \"a\"",
        "the function concat",
    ),
    ("allow if sprintf(\"%1000000000d\", [1]) == \"\"", "sprintf"),
    ("allow if replace(\"a\", \"\", \"aaaa\") == \"\"", "replace"),
    ("allow if bits.lsh(1, 1000000000) > 1", "bits.lsh"),
    ("allow if array.concat([1], [2]) == []", "array.concat"),
    ("allow if rand.intn(\"a\", 2) == 1", "rand.intn"),
    ("allow if time.now_ns() > 1", "time.now_ns"),
    ("allow if http.send({}).status == 1", "http.send"),
    ("allow if opa.runtime().env.PATH", "opa.runtime"),
    ("allow if regex.match(\"a\", \"b\")", "regex.match"),
    ("allow if walk(input, [p, v])", "unsafe"),
    ("allow if data.other.allow", "data other than"),
    ("allow if data[input.x]", "data other than"),
    ("allow if data.trailhouse[input.x](1)", "data other than"),
    ("allow if input.f(1)", "the function input.f"),
    ("allow if input[\"f\"](1)", "not called by its name"),
    ("import data.other\nallow := true", "an import other than"),
    ("allow := true with input as {}", "`with`"),
    ("allow if input.x == 1e999999999", "number"),
    (
        "allow if input.x == 11111111111111111111111111",
        "a number of more than",
    ),
    ("other := true", "no rule `allow`"),
    (
        "allow if f(1)\nf(x) := g(x)\ng(x) := f(x)",
        "depends on itself",
    ),
    (
        "allow if f(1)\nf(x) := f(x + 1)",
        "the rule f depends on itself",
    ),
    (
        "allow if f(1)\nf(x) := data.trailhouse.f(x)",
        "the rule f depends on itself",
    ),
    (
        "allow if f(1)\nf(0) := 1\nf(x) := y if { y := f(x - 1) }",
        "the rule f depends on itself",
    ),
    ("allow if not deny\ndeny if not allow", "depends on itself"),
    (
        "allow if count(xs) > 0\nxs contains x if some x in xs",
        "the rule xs depends on itself",
    ),
    (
        "default allow := false\nallow := true if {\n  input.a\n} else := allow",
        "the rule allow depends on itself",
    ),
    ("allow if {", "error"),
];

#[track_caller]
fn refused(module: &str, reason: &str) {
    let Err(reasons) = Rego::parse(module, false) else {
        panic!("{module}: taken")
    };
    assert!(
        reasons.iter().any(|found| found.contains(reason)),
        "{module}: {reasons:?}"
    );
}

#[test]
fn what_makes_much_out_of_little_is_refused_with_every_reason() {
    for (rules, reason) in REFUSED {
        refused(&module(rules), reason);
    }
    let text = "x".repeat(300);
    let many: String = (0..=RULES_MAX).map(|n| format!("r{n} := 1\n")).collect();
    for (rules, reason) in [
        (
            format!("allow if input.x == \"{text}\""),
            "a text of more than",
        ),
        (format!("allow := true\n{many}"), "more than 200 rules"),
        (format!("allow := true\n{}", "#x\n".repeat(8000)), "bytes"),
    ] {
        refused(&module(&rules), reason);
    }
    for (package, reason) in [
        ("package other\nallow := true", "of the package trailhouse"),
        (
            "package trailhouse.more\nallow := true",
            "of the package trailhouse",
        ),
        ("allow := true", "package"),
    ] {
        refused(package, reason);
    }
    let two = module("allow if concat(\"\", [])\nother if http.send({})");
    assert_eq!(Rego::parse(&two, false).unwrap_err().len(), 2);
}

#[test]
fn a_bundle_with_a_module_that_cannot_be_is_refused() {
    let bad = FRAUD.replace("default fraud := false", "x := http.send({})");
    let refused = Bundle::parse(bad.as_bytes(), &TenantId::parse("acme").unwrap());
    let BundleRefused { reasons } = refused.unwrap_err();
    assert!(
        reasons[0].starts_with("rego.module: line 3: the function http.send"),
        "{reasons:?}"
    );
}

#[test]
fn the_examples_own_tests_pass_and_notice_a_hole() {
    let outcomes = suite::run(FRAUD.as_bytes(), Some(FRAUD_TESTS)).unwrap();
    assert_eq!(outcomes.len(), 6, "{outcomes:?}");
    for outcome in outcomes {
        assert_eq!(outcome.fault, None, "{}", outcome.test);
    }
    let hole = FRAUD.replace("input.purpose == \"fraud\"", "input.operation == \"Read\"");
    let outcomes = suite::run(hole.as_bytes(), Some(FRAUD_TESTS)).unwrap();
    let failed: Vec<_> = outcomes
        .iter()
        .filter(|outcome| outcome.fault.is_some())
        .map(|outcome| outcome.test.as_str())
        .collect();
    assert_eq!(
        failed,
        [
            "test_for_another_purpose_they_do_not",
            "test_without_a_purpose_they_do_not"
        ]
    );
}

#[test]
fn tests_are_held_to_the_same_rules() {
    for (tests, reason) in [
        (
            "package trailhouse_test\ntest_a if http.send({})",
            "http.send",
        ),
        ("package other\ntest_a := true", "package trailhouse"),
        (
            "package trailhouse_test\nimport data.other\ntest_a := true",
            "an import",
        ),
        ("package trailhouse_test\ntest_a if {", "error"),
        (
            "package trailhouse_test\ntest_a if f(1)\nf(x) := f(x)",
            "depends on itself",
        ),
        (
            "package trailhouse\ntest_a if allow\nfraud if data.trailhouse.masking_profile",
            "depends on itself",
        ),
    ] {
        let BundleRefused { reasons } = suite::run(FRAUD.as_bytes(), Some(tests)).unwrap_err();
        assert!(
            reasons.iter().any(|found| found.contains(reason)),
            "{tests}: {reasons:?}"
        );
    }
    let without = "tenant: a\nversion: 1\n";
    assert!(suite::run(without.as_bytes(), None).is_err());
}
