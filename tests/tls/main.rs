//! `xksd::tls`: certificates as openssl and rcgen make them, connections as openssl's client opens
//! them.

mod s_client;

mod check;
mod client_certificates;
mod openssl;
