//! The `xksd` command.

mod syscall;

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    xksd::cli::run(xksd::cli::Cli::parse())
}
