//! Why a key file was not opened.

use crate::key_manager::Fault;

/// Why a key file was not opened.
#[derive(Debug)]
pub enum NotLoaded {
    /// Something is wrong with the file.
    File(String),
    /// No HSM could say.
    Hsm(Fault),
    /// There is no memory for secrets left.
    Memory(String),
    /// No key may be used any more.
    TakenAway,
}

impl NotLoaded {
    /// An HSM was asked, and says no.
    pub fn is_refused_by_hsm(&self) -> bool {
        matches!(self, NotLoaded::Hsm(fault) if says_no(fault))
    }
}

/// All keys were taken away while this one was opened.
#[derive(Debug, PartialEq, Eq)]
pub struct TakenAway;

impl std::fmt::Display for NotLoaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotLoaded::File(why) | NotLoaded::Memory(why) => f.write_str(why),
            NotLoaded::Hsm(fault) => fault.fmt(f),
            NotLoaded::TakenAway => f.write_str("no key may be used any more"),
        }
    }
}

impl From<TakenAway> for NotLoaded {
    fn from(_: TakenAway) -> NotLoaded {
        NotLoaded::TakenAway
    }
}

impl From<secret_memory::Error> for NotLoaded {
    fn from(error: secret_memory::Error) -> NotLoaded {
        NotLoaded::Memory(error.to_string())
    }
}

/// Whether an HSM that gives this fault is there, and refuses.
pub(super) fn says_no(fault: &Fault) -> bool {
    match fault {
        Fault::KeyNotFound { .. }
        | Fault::KeyDisabled
        | Fault::KeyUsage
        | Fault::KeyRefused { .. }
        | Fault::Sealed { .. }
        | Fault::BadCiphertext => true,
        Fault::Device { .. } | Fault::Busy | Fault::Timeout => false,
    }
}
