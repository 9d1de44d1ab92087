//! The `xksd-load` command.

use std::process::ExitCode;

use clap::Parser;
use xksd_syscall as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    xksd_load::cli::main(xksd_load::cli::Cli::parse())
}
