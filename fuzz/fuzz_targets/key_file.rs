//! Any bytes as a file of wrapped keys, and as what the state directory knows of them: no panic,
//! and a file is accepted only in the one form in which it would be written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use xksd::control::unsealing::parse_key_files;
use xksd::key_manager::wrapped::key_file::KeyFile;
use xksd::key_manager::wrapped::wrap::wrap_aad;

fuzz_target!(|input: &[u8]| {
    if let Ok(file) = KeyFile::parse(input) {
        assert_eq!(file.to_text(), input);
        let primaries = file.versions.iter().filter(|v| v.state.name() == "primary").count();
        assert_eq!(primaries, 1);
        let mut aads: Vec<Vec<u8>> = Vec::new();
        for version in &file.versions {
            for wrap in &version.wraps {
                aads.push(wrap_aad(&file.set, &file.label, version, &wrap.master));
            }
        }
        let count = aads.len();
        aads.sort_unstable();
        aads.dedup();
        assert_eq!(aads.len(), count, "two wraps with one AAD");
    }
    let _ = parse_key_files(input);
});
