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
}

impl std::fmt::Display for NotLoaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NotLoaded::File(why) | NotLoaded::Memory(why) => f.write_str(why),
            NotLoaded::Hsm(fault) => fault.fmt(f),
        }
    }
}

impl From<secret_memory::Error> for NotLoaded {
    fn from(error: secret_memory::Error) -> NotLoaded {
        NotLoaded::Memory(error.to_string())
    }
}
