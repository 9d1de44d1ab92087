//! The XKS proxy API, version 1.0.3 of its specification, pure: path and bytes in, validated
//! request or error out.
//!
//! A request meets the files in this order: [`mod@route`] (its path), [`request`] (its body, once
//! it is authenticated), [`framing`] (what of it the key manager gets as AAD), [`response`] or
//! [`error`] (what goes back).

mod base64;
pub mod error;
mod fields;
pub mod framing;
pub mod request;
pub mod response;
pub mod route;
mod traceparent;

pub use base64::Short;
pub use error::{ApiError, ErrorName};
pub use request::{Call, Decrypt, Encrypt, Rejection, RequestMetadata, ValidRequest, decode};
pub use route::{Operation, Route, check_method, check_query, route};
pub use traceparent::traceparent;
