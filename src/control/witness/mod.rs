//! Instances that cosign each other's checkpoints: [`client`] has those of this trail cosigned,
//! [`listener`] cosigns those of others. C2SP tlog-witness.

pub mod client;
pub mod listener;
