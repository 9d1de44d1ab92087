//! The module as an application sees it. Each test runs in its own process, with its own token and
//! configuration: environment variables name both.

#[path = "../../../tests/xksd_load/modules.rs"]
mod modules;

mod hsm;

mod architecture;
mod behaviour;
mod faults;
