//! The `xksd` command.

use std::process::ExitCode;

use clap::Parser;
use xksd_syscall as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    xksd::cli::run(xksd::cli::Cli::parse())
}
