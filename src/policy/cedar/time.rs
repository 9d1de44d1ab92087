//! Whether a policy's decision depends on the time: such a decision is good for a second only.

use cedar_policy::Policy;
use serde_json::Value;

/// Whether this policy may read `context.time`. In doubt it does.
pub(super) fn depends_on_time(policy: &Policy) -> bool {
    policy.to_json().map_or(true, |json| reads_time(&json))
}

/// In Cedar's JSON form the context is `{"Var": "context"}`, and an attribute of it
/// `{".": {"left": {"Var": "context"}, "attr": "time"}}`; `has` has the same form.
fn reads_time(json: &Value) -> bool {
    match json {
        Value::Object(object) => object.iter().any(|(operator, operand)| {
            if matches!(operator.as_str(), "." | "has") && is_context(&operand["left"]) {
                // Another attribute; without a name that could be read it may be any.
                return operand["attr"].as_str().is_none_or(|attribute| attribute == "time");
            }
            // The whole context, which is compared or handed on.
            (operator == "Var" && operand == "context") || reads_time(operand)
        }),
        Value::Array(elements) => elements.iter().any(reads_time),
        _ => false,
    }
}

fn is_context(json: &Value) -> bool {
    json["Var"] == "context"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_found_wherever_it_stands() {
        for (condition, expected) in [
            ("true", false),
            ("context.region == \"time\"", false),
            ("context has kmsViaService && context.kmsViaService like \"s3.*\"", false),
            ("principal.name == \"time\"", false),
            ("context.time < 5", true),
            ("principal.name == \"a\" && !(if context.time > 1 then false else true)", true),
            ("context has time", true),
            ("[context.time].contains(5)", true),
            ("context[\"time\"] == 5", true),
            ("{a: context}.a.time == 5", true),
            ("context == {region: \"a\"}", true),
        ] {
            let text = format!("permit(principal, action, resource) when {{ {condition} }};");
            let policy = Policy::parse(None, &text).unwrap();
            assert_eq!(depends_on_time(&policy), expected, "{condition}");
        }
        let unless = "permit(principal, action, resource) unless { context.time > 5 };";
        assert!(depends_on_time(&Policy::parse(None, unless).unwrap()));
    }
}
