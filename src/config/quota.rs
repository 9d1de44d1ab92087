//! `[keystore.quota]` and `[keystore.key.quota]`.

use super::reader::Value;
use super::table::{InForce, Said, Setting, names};
use crate::limits::{QUOTA_BURST, QUOTA_CONCURRENT, QUOTA_REQUESTS_PER_SECOND};
use crate::policy::quota::{Bounds, Rate};

/// Both sections. A quota is said as a whole, by the section that it stands in.
pub(super) const KEYS: &[Setting<()>] = &[
    Setting::structure("requests_per_second", InForce::Reload),
    Setting::structure("burst", InForce::Reload),
    Setting::structure("concurrent", InForce::Reload),
];

/// In place of a section: no bounds, and that is meant.
const UNLIMITED: &str = "unlimited";

/// `Some(None)`: it is said that there is none.
pub(super) fn quota(value: &Value<'_>) -> Option<Option<Bounds>> {
    if value.is_string() {
        let accepted = "\"unlimited\" is the only word known here; bounds stand in a table";
        return value.string_where(accepted, |text| text == UNLIMITED).map(|_| None);
    }
    let section = value.section(&names(KEYS))?;
    let rate = section.or("requests_per_second", None, |v| {
        v.integer("requests", QUOTA_REQUESTS_PER_SECOND).map(Some)
    });
    let burst = section.or("burst", None, |v| v.integer("requests", QUOTA_BURST).map(Some));
    let concurrent =
        section.or("concurrent", None, |v| v.integer("requests", QUOTA_CONCURRENT).map(Some));
    let (rate, burst, concurrent) = (rate?, burst?, concurrent?);
    if rate.is_none() && burst.is_some() {
        return section.optional("burst")?.refuse("this is a part of requests_per_second, missing");
    }
    if rate.is_none() && concurrent.is_none() {
        return value.refuse("nothing is bounded: give requests_per_second, concurrent, or both");
    }
    let rate = rate.map(|requests_per_second| Rate {
        requests_per_second,
        burst: burst.unwrap_or(requests_per_second),
    });
    Some(Some(Bounds { rate, concurrent }))
}

/// The bounds in words.
pub(super) fn said(quota: Option<Bounds>) -> Said<'static> {
    let Some(Bounds { rate, concurrent }) = quota else { return Said::Nothing };
    let rate = rate.map(|rate| {
        format!("requests_per_second {} with burst {}", rate.requests_per_second, rate.burst)
    });
    let concurrent = concurrent.map(|most| format!("concurrent {most}"));
    let words: Vec<String> = rate.into_iter().chain(concurrent).collect();
    Said::value(format!("({})", words.join(", ")))
}
