//! The files that a configuration was read from, and what they held: to be seen when they change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::file;
use crate::limits::WATCHED_FILE_BYTES_MAX;

/// What a file holds, to be compared. It says nothing of it to anybody else: a PIN has few digits.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest([u8; 32]);

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Digest(…)")
    }
}

/// By path; `None` of one that cannot be read.
pub type Files = BTreeMap<PathBuf, Option<Digest>>;

/// Of this process. All zeros where the system has no random bytes: nothing would start then.
static KEY: LazyLock<hmac::Key> = LazyLock::new(|| {
    let mut key = zeroize::Zeroizing::new([0; 32]);
    let _ = SystemRandom::new().fill(&mut *key);
    hmac::Key::new(hmac::HMAC_SHA256, &*key)
});

/// What a file holds now.
pub fn digest(path: &Path) -> Option<Digest> {
    digest_of(&file::read(path, WATCHED_FILE_BYTES_MAX).ok()?.bytes)
}

/// Of what was read.
pub fn digest_of(content: &[u8]) -> Option<Digest> {
    hmac::sign(&KEY, content).as_ref().try_into().ok().map(Digest)
}

/// What all of these hold now.
pub fn on_disk<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Files {
    paths.map(|path| (path.clone(), digest(path))).collect()
}
