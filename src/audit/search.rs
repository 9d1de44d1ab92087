//! Looks records up, and compares them with what AWS's CloudTrail says happened.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The fields of a record that are searched.
#[derive(Debug, Deserialize)]
pub struct Found {
    time: String,
    kind: String,
    #[serde(default, rename = "kmsRequestId")]
    kms_request_id: String,
    #[serde(default)]
    key_store: String,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    operation: String,
    #[serde(default, rename = "kmsOperation")]
    kms_operation: String,
    #[serde(default)]
    principal: String,
    #[serde(default, rename = "kmsKeyArn")]
    kms_key_arn: String,
    #[serde(default)]
    outcome: String,
}

impl Found {
    /// Whether it is the record of this request.
    pub fn is_of(&self, kms_request_id: Option<&str>) -> bool {
        kms_request_id.is_some_and(|wanted| self.kms_request_id == wanted)
    }
}

/// What a record must be to be found; what is left out fits all.
#[derive(Debug, Default)]
pub struct Query {
    /// Exactly.
    pub kms_request_id: Option<String>,
    /// Path prefix, exactly.
    pub key_store: Option<String>,
    /// External key id, exactly.
    pub key: Option<String>,
    /// A part of the principal's ARN.
    pub principal: Option<String>,
    /// As `request` or `block`.
    pub kind: Option<String>,
    /// `success`, or an errorName.
    pub outcome: Option<String>,
    /// Not before.
    pub from: Option<OffsetDateTime>,
    /// Before.
    pub until: Option<OffsetDateTime>,
}

impl Query {
    /// Whether this record is one of those that are looked for.
    pub fn fits(&self, record: &Found) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        let part = |wanted: &Option<String>, is: &str| {
            wanted.as_deref().is_none_or(|wanted| is.contains(wanted))
        };
        same(&self.kms_request_id, &record.kms_request_id)
            && same(&self.key_store, &record.key_store)
            && same(&self.key, record.key.as_deref().unwrap_or_default())
            && part(&self.principal, &record.principal)
            && same(&self.kind, &record.kind)
            && same(&self.outcome, &record.outcome)
            && (self.from.is_none() && self.until.is_none() || self.is_then(&record.time))
    }

    fn is_then(&self, time: &str) -> bool {
        OffsetDateTime::parse(time, &Rfc3339).is_ok_and(|time| {
            self.from.is_none_or(|from| time >= from) && self.until.is_none_or(|end| time < end)
        })
    }
}

/// Reads a record's line; `None` for what is no record.
pub fn parse(line: &[u8]) -> Option<Found> {
    serde_json::from_slice(line).ok()
}

/// An event of a CloudTrail export.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    event_time: String,
    #[serde(default)]
    event_source: String,
    #[serde(default)]
    event_name: String,
    #[serde(default, rename = "requestID")]
    request_id: Option<String>,
    #[serde(default)]
    resources: Option<Vec<Resource>>,
    #[serde(default)]
    error_code: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resource {
    #[serde(default, rename = "ARN", alias = "arn")]
    arn: String,
}

/// CloudTrail's events and the trail's records, side by side by kmsRequestId.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Events by request id.
    events: BTreeMap<String, Event>,
    /// First and last time of the export.
    span: Option<(OffsetDateTime, OffsetDateTime)>,
    /// ARNs of the KMS keys of this key store: those that were named, and those of the trail.
    keys: BTreeSet<String>,
    /// Request ids that both have.
    pub in_both: BTreeSet<String>,
    /// Records that CloudTrail has no event for, a line each.
    pub only_here: Vec<String>,
}

/// KMS calls that use a key of an external key store, and so must have a record here where they
/// succeeded.
const KEY_CALLS: [&str; 7] = [
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyPair",
    "GenerateDataKeyPairWithoutPlaintext",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncrypt",
];

impl Comparison {
    /// Reads an export: an object with `Records`, or a list of events. `keys` are in this key store
    /// even if the trail has never seen them.
    ///
    /// # Errors
    /// Why it is none.
    pub fn read(export: &[u8], keys: &[String]) -> Result<Comparison, serde_json::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Export {
            Object {
                #[serde(rename = "Records", alias = "Events")]
                records: Vec<Event>,
            },
            List(Vec<Event>),
        }
        let events = match serde_json::from_slice(export)? {
            Export::Object { records } | Export::List(records) => records,
        };
        let keys = keys.iter().cloned().collect();
        let mut comparison = Comparison { keys, ..Comparison::default() };
        for (index, event) in events.into_iter().enumerate() {
            if event.event_source != "kms.amazonaws.com" {
                continue;
            }
            if let Ok(time) = OffsetDateTime::parse(&event.event_time, &Rfc3339) {
                let (first, last) = comparison.span.unwrap_or((time, time));
                comparison.span = Some((first.min(time), last.max(time)));
            }
            let id = event.request_id.clone();
            let id = id.unwrap_or_else(|| format!("event {index} of the export has no requestID"));
            comparison.events.insert(id, event);
        }
        Ok(comparison)
    }

    /// Holds a record against the export.
    pub fn look(&mut self, record: &Found) {
        if record.kms_request_id.is_empty() || !matches!(&*record.kind, "request" | "denied") {
            return;
        }
        if !record.kms_key_arn.is_empty() {
            self.keys.insert(record.kms_key_arn.clone());
        }
        if self.events.contains_key(&record.kms_request_id) {
            self.in_both.insert(record.kms_request_id.clone());
            return;
        }
        // Metadata and health are asked for by KMS itself, and CloudTrail has only whole seconds.
        let second = time::Duration::SECOND;
        let covered = self.span.zip(OffsetDateTime::parse(&record.time, &Rfc3339).ok());
        if matches!(&*record.operation, "encrypt" | "decrypt")
            && covered.is_some_and(|((first, last), at)| at >= first && at < last + second)
        {
            self.only_here.push(format!(
                "{} {} {} {} {}",
                record.time,
                record.kms_operation,
                record.kms_request_id,
                record.outcome,
                record.principal
            ));
        }
    }

    /// Events that must have a record here and have none, a line each: successful uses of KMS keys
    /// that are in this key store.
    pub fn only_there(&self) -> Vec<String> {
        self.missing()
            .filter(|(_, event)| self.is_ours(event))
            .map(|(id, event)| format!("{} {} {id}", event.event_time, event.event_name))
            .collect()
    }

    /// How many successful uses of a key have no record here, and may be right: nothing says that
    /// their KMS key is in this key store.
    pub fn of_unknown_keys(&self) -> usize {
        self.missing().filter(|(_, event)| !self.is_ours(event)).count()
    }

    /// Whether any KMS key is known to be in this key store. If not, no event can be missed.
    pub fn knows_a_key(&self) -> bool {
        !self.keys.is_empty()
    }

    fn missing(&self) -> impl Iterator<Item = (&String, &Event)> {
        self.events.iter().filter(|(id, event)| {
            !self.in_both.contains(*id)
                && event.error_code.is_none()
                && KEY_CALLS.contains(&&*event.event_name)
        })
    }

    fn is_ours(&self, event: &Event) -> bool {
        event.resources.iter().flatten().any(|resource| self.keys.contains(&resource.arn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, key: &str, time: &str) -> Found {
        let text = format!(
            r#"{{"time":"{time}","kind":"request","kmsRequestId":"{id}","key_store":"/a",
            "key":"{key}","operation":"decrypt","kmsOperation":"Decrypt","outcome":"success",
            "principal":"arn:aws:iam::123456789012:role/app","kmsKeyArn":"arn:key"}}"#
        );
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn each_part_of_a_query_counts() {
        let found = record("id", "foo", "2026-11-28T10:00:00.000000Z");
        let some = |text: &str| Some(text.to_owned());
        let at = |text: &str| Some(OffsetDateTime::parse(text, &Rfc3339).unwrap());
        let none = Query::default;
        assert!(none().fits(&found));
        for (query, fits) in [
            (Query { kms_request_id: some("id"), ..none() }, true),
            (Query { kms_request_id: some("i"), ..none() }, false),
            (Query { principal: some("role/app"), ..none() }, true),
            (Query { principal: some("role/other"), ..none() }, false),
            (Query { key: some("foo"), key_store: some("/a"), ..none() }, true),
            (Query { key: some("fo"), ..none() }, false),
            (Query { outcome: some("success"), kind: some("request"), ..none() }, true),
            (Query { kind: some("block"), ..none() }, false),
            (Query { from: at("2026-11-28T10:00:00Z"), ..none() }, true),
            (Query { until: at("2026-11-28T10:00:00Z"), ..none() }, false),
            (Query { from: at("2026-11-28T12:00:00+01:00"), ..none() }, false),
        ] {
            assert_eq!(query.fits(&found), fits, "{query:?}");
        }
    }

    #[test]
    fn cloudtrail_and_trail_are_compared_by_request() {
        let event = |id: &str, name: &str, more: &str| {
            format!(
                r#"{{"eventTime":"2026-11-28T10:00:00Z","eventSource":"kms.amazonaws.com",
                "eventName":"{name}","requestID":"{id}","resources":[{{"ARN":"arn:key"}}]{more}}}"#
            )
        };
        let export = format!(
            r#"{{"Records":[{},{},{},{},{{"eventTime":"2026-11-28T10:00:09Z",
            "eventSource":"s3.amazonaws.com"}}]}}"#,
            event("both", "Decrypt", ""),
            event("there", "Decrypt", ""),
            event("failed", "Decrypt", r#","errorCode":"AccessDenied""#),
            event("other", "DescribeKey", ""),
        );
        let mut comparison = Comparison::read(export.as_bytes(), &[]).unwrap();
        comparison.look(&record("both", "foo", "2026-11-28T10:00:00.100000Z"));
        comparison.look(&record("here", "foo", "2026-11-28T10:00:00.500000Z"));
        comparison.look(&record("later", "foo", "2026-11-28T10:00:30.000000Z"));
        assert_eq!(comparison.in_both.iter().collect::<Vec<_>>(), ["both"]);
        assert_eq!(comparison.only_here.len(), 1, "{:?}", comparison.only_here);
        assert!(comparison.only_here[0].contains("here"));
        let there = comparison.only_there();
        assert!(there.len() == 1 && there[0].ends_with("there"), "{there:?}");
        assert_eq!(comparison.of_unknown_keys(), 0);
        assert!(Comparison::read(b"{}", &[]).is_err());
    }

    #[test]
    fn a_trail_without_records_misses_the_uses_of_the_keys_that_are_named() {
        let event = |more: &str| {
            format!(
                r#"{{"eventTime":"2026-11-28T10:00:00Z","eventSource":"kms.amazonaws.com",
                "eventName":"Decrypt"{more}}}"#
            )
        };
        let export = format!(
            "[{},{},{}]",
            event(r#","requestID":"ours","resources":[{"ARN":"arn:key"}]"#),
            event(r#","resources":[{"ARN":"arn:key"}]"#),
            event(r#","requestID":"nobody's""#),
        );
        let unnamed = Comparison::read(export.as_bytes(), &[]).unwrap();
        assert!(!unnamed.knows_a_key() && unnamed.only_there().is_empty());
        assert_eq!(unnamed.of_unknown_keys(), 3);

        let named = Comparison::read(export.as_bytes(), &["arn:key".to_owned()]).unwrap();
        let there = named.only_there();
        assert!(named.knows_a_key() && there.len() == 2, "{there:?}");
        assert!(there.iter().any(|line| line.ends_with("ours")), "{there:?}");
        assert_eq!(named.of_unknown_keys(), 1);
    }
}
