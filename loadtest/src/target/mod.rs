//! Whom to ask: address, certificates, key stores with their credentials, keys.

mod balancer;
mod file;
mod key_store;
mod resolve;
mod xksd_toml;

pub use self::balancer::Balancer;
pub use self::file::read_text;
pub use self::key_store::KeyStore;
pub use self::resolve::{Target, TargetArgs};
