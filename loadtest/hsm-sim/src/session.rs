//! An open session.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use cryptoki_sys::{CK_SESSION_HANDLE, CK_SLOT_ID};

use crate::locks::lock;
use crate::random::Streams;

/// An open session.
pub struct Session {
    /// The real module's handle.
    pub real: CK_SESSION_HANDLE,
    /// What it draws from.
    pub streams: Streams,
    /// An AES-GCM encryption whose IV is ours.
    pub pending: Mutex<Option<PendingEncryption>>,
    /// The decryption that was begun last is AES-GCM.
    pub decrypts_gcm: AtomicBool,
    /// The slot that it is open on.
    pub slot: CK_SLOT_ID,
    /// Opened for reading and writing.
    pub read_write: bool,
    /// Cleared, behind the gate of the instance, when the session is closed or lost.
    pub alive: AtomicBool,
}

/// An AES-GCM encryption whose IV this module made.
#[derive(Clone)]
pub struct PendingEncryption {
    /// The IV.
    pub iv: Vec<u8>,
    /// Length of the tag, bytes.
    pub tag_bytes: usize,
    /// Where the IV is to be written at the end (mode `fill` with `iv_written = "encrypt"`): the
    /// caller's address.
    pub write_to: Option<usize>,
    /// The IV goes after the tag.
    pub append: bool,
}

impl Session {
    /// A new one.
    pub fn new(
        real: CK_SESSION_HANDLE,
        slot: CK_SLOT_ID,
        read_write: bool,
        streams: Streams,
    ) -> Session {
        Session {
            real,
            streams,
            pending: Mutex::new(None),
            decrypts_gcm: AtomicBool::new(false),
            slot,
            read_write,
            alive: AtomicBool::new(true),
        }
    }

    /// The encryption is over: its IV is not ours to hand out any more.
    pub fn end_encryption(&self) {
        lock(&self.pending).take();
    }
}
