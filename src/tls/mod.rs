//! TLS: the server's certificate and key, the four cipher suites of the specification, client
//! certificates.
//!
//! [`check`] reads what [`Settings`] names and returns everything that is wrong with it. [`server`]
//! does the same and makes a [`Server`], one generation of TLS for all shards. A reload makes a new
//! generation, never changes one.
//!
//! Resumption: a resumed handshake does not run the client verifier, so two fences stand around it.
//! Each generation has its own ticketer: a ticket given under another CA or another list of names
//! opens to nothing and the handshake is a full one. Within a generation, [`Server::confirm`]
//! verifies the certificate that came out of a ticket again, so that one which has expired
//! meanwhile is refused as it would be in a full handshake.
//!
//! Open connections: one that an earlier generation accepted is held against the new one before its
//! next request is answered ([`Server::readmit`]).

mod accept;
mod certificate;
pub mod client;
mod client_auth;
mod ecdsa_key;
mod failure;
mod handshake_failure;
mod hello;
mod identity;
mod name_constraints;
pub mod pem_file;
mod provider;
mod server;
mod server_chain;
mod settings;
mod signature_budget;
#[cfg(test)]
mod tests;

pub use certificate::{Certificate, Name};
pub use client_auth::{SubjectRefused, client_common_name};
pub use failure::{handshake_failure_label, tls_failure_label};
pub use handshake_failure::HandshakeFailure;
pub use hello::{Hello, ReadAhead};
pub use identity::{chain_of, describe_chain};
pub use server::{Server, check, server};
pub use settings::{ClientSettings, Problem, Report, Settings};
