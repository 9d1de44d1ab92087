//! Any bytes as a record of the trail and as a CloudTrail export: no panic.
//!
//! Input: the export, an empty line, records.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xksd::audit::search::{Comparison, parse};

fuzz_target!(|input: &[u8]| {
    let at = input.windows(2).position(|pair| pair == b"\n\n").unwrap_or(input.len());
    let (export, records) = input.split_at(at);
    let mut comparison = Comparison::read(export, &["arn".to_owned()]).unwrap_or_default();
    for record in records.split(|byte| *byte == b'\n').filter_map(parse) {
        comparison.look(&record);
        let _ = record.is_of(Some("a"));
    }
    let _ = comparison.only_there();
});
