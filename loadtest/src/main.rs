//! The `xksd-load` command.

use std::process::ExitCode;

use clap::Parser;

// The same executor, so the same system calls: of the server's this file alone, which has nothing
// of what is measured.
#[path = "../../src/syscall.rs"]
mod syscall;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    xksd_load::cli::main(xksd_load::cli::Cli::parse())
}
