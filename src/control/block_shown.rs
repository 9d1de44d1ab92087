//! A block as people and programs see it.

use std::time::SystemTime;

use serde::Serialize;
use time::OffsetDateTime;

use crate::policy::blocklist::Block;
use crate::telemetry::log::timestamp;

/// One block, with times that can be read.
#[derive(Clone, Debug, Serialize)]
pub struct BlockShown {
    key_store: String,
    key: Option<String>,
    reason: String,
    who: String,
    since: String,
    until: Option<String>,
}

impl BlockShown {
    /// With times that can be read.
    pub fn of(block: &Block) -> BlockShown {
        let Block { key_store, key, reason, who, since, .. } = block.clone();
        let (since, until) = (timestamp_of(since), end_of(block));
        BlockShown { key_store, key, reason, who, since, until }
    }
}

/// When it ends by itself.
pub(super) fn end_of(block: &Block) -> Option<String> {
    block.until.map(timestamp_of)
}

/// As the log spells a time.
pub(super) fn timestamp_of(unix_seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(unix_seconds)
        .map_or_else(|_| unix_seconds.to_string(), |time| timestamp(SystemTime::from(time)))
}
