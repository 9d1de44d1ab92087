//! Load and SLA validation for any proxy that speaks the AWS KMS External Key Store (XKS) Proxy
//! API.
//!
//! The folders, each of which uses only those before it: [`target`] says whom to ask, [`workload`]
//! what and when, [`generator`] asks and checks every answer, [`criteria`] says what must hold,
//! [`observe`] what proxy and machine did meanwhile, [`report`] is what came of it as data,
//! [`present`] shows it to people, [`run`] puts all of that together, [`cli`] reads what is wanted.
//! Nothing of a server is used here: a client that shares code with the server shares its mistakes.

#![forbid(unsafe_code)]

pub mod cli;
pub mod criteria;
pub mod generator;
pub mod limits;
pub mod observe;
pub mod present;
pub mod report;
pub mod run;
pub mod target;
pub mod units;
pub mod workload;
