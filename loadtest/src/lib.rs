//! Load and SLA validation for any proxy that speaks the AWS KMS External Key Store (XKS) Proxy
//! API.
//!
//! From the outside in: [`cli`] reads what is wanted, [`target`] says whom to ask, [`schedule`]
//! when each request is due, [`run`] starts [`worker`]s which send them and check every answer with
//! [`answer`], [`report`] tells what came of it. Nothing of the server is used here.

#![forbid(unsafe_code)]

pub mod answer;
pub mod capacity;
pub mod cli;
pub mod compare;
pub mod descriptors;
pub mod idle;
pub mod limits;
pub mod live;
pub mod observe;
pub mod report;
pub mod request;
pub mod run;
pub mod schedule;
pub mod sign;
pub mod sla;
pub mod stats;
pub mod target;
pub mod tls;
pub mod units;
pub mod uring;
pub mod worker;
pub mod workload;
