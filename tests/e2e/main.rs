//! The real server, seen from outside.

mod conformance;

mod admin;
mod admin_host;
mod any_module;
mod audit;
mod blocks;
mod budgets;
mod calls;
mod file_watch;
mod fleet;
mod haproxy;
mod hostile;
mod http;
mod key_versions;
mod keys;
mod log;
mod memory;
mod nss;
mod p11_kit;
mod page;
mod policy;
mod proxy_protocol;
mod quotas;
mod reload;
mod reload_key_managers;
mod requests;
mod service_manager;
mod sigv4;
mod sigv4_clients;
mod softhsm;
mod stop;
mod tls;
mod witness;
mod wrapped;
mod xks_test_client;
