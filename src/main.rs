//! The `xksd` command.

use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    xksd::shard::preempt_with(xksd_syscall::preempt_if_due);
    xksd::cli::run(xksd::cli::Cli::parse())
}
