//! Spans for OpenTelemetry: the keys `otlp_…` of `[server]`.

use std::path::PathBuf;

use super::reader::{Section, Value};
use super::url::Url;
use crate::limits::OTLP_SAMPLE_ONE_IN;

pub(super) const ENDPOINT: &str = "otlp_endpoint";
pub(super) const TRUST_ANCHORS: &str = "otlp_trust_anchors";
pub(super) const SAMPLE_ONE_IN: &str = "otlp_sample_one_in";

/// Where requests are told as spans, and which of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Otlp {
    /// The collector of OpenTelemetry.
    pub endpoint: Option<Url>,
    /// PEM file of the authorities of its certificate; there with https, and only then.
    pub trust_anchors: Option<PathBuf>,
    /// One in so many requests becomes a span, where it is part of no trace.
    pub sample_one_in: u64,
}

pub(super) fn otlp(server: &Section<'_>) -> Option<Otlp> {
    let endpoint = server.or(ENDPOINT, None, |value| collector(value).map(Some));
    let anchors = server.or(TRUST_ANCHORS, None, |value| value.trust_anchors().map(Some));
    let one_in = server.or(SAMPLE_ONE_IN, 100, |v| v.integer("requests", OTLP_SAMPLE_ONE_IN));
    let (endpoint, trust_anchors, sample_one_in) = (endpoint?, anchors?, one_in?);
    let is_https = endpoint.as_ref().is_some_and(|url| url.tls);
    if is_https && trust_anchors.is_none() {
        server.required(
            TRUST_ANCHORS,
            "the PEM file of the authorities of the collector's certificate, which https needs; \
             with a public one, for example \"/etc/ssl/certs/ca-certificates.crt\"",
        )?;
    }
    if !is_https && let Some(anchors) = server.optional(TRUST_ANCHORS) {
        return anchors.refuse("has no use without https:// in otlp_endpoint");
    }
    Some(Otlp { endpoint, trust_anchors, sample_one_in })
}

fn collector(value: &Value<'_>) -> Option<Url> {
    let accepted = "https:// or http://, a host, a port and a path where there is one, as in \
                    \"https://otel.example.com:4318\" or \"http://127.0.0.1:4318\"";
    Url::parse(value.string_where(accepted, |text| Url::parse(text).is_some())?)
}
