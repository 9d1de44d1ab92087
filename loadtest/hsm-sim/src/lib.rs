//! A PKCS#11 module that behaves like a network HSM and forwards to a real one. `README.md` says
//! how to use it.
//!
//! A call's way: [`ffi`] (the function list) → [`boundary`] (counting, panics) → [`lifecycle`] (is
//! it initialised) → [`instance`] (session, faults, waiting) → [`gcm`] where AES-GCM differs
//! between makers → [`real`], the real module.

pub mod boundary;
pub mod calls;
pub mod clock;
pub mod codes;
pub mod config;
pub mod control;
pub mod device;
pub mod diagnostics;
pub mod ffi;
pub mod gcm;
pub mod instance;
pub mod lifecycle;
pub mod locks;
pub mod mechanism;
pub mod random;
pub mod raw_calls;
pub mod real;
pub mod session;
pub mod stats;
