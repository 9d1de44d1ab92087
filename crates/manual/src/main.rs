//! Writes the manual pages and shell completions of xksd into a directory:
//! `manual DIRECTORY`. For `scripts/release`.

use std::path::Path;
use std::process::ExitCode;
use std::{env, fs, io};

use clap::CommandFactory;
use clap_complete::Shell;

fn main() -> ExitCode {
    let Some(directory) = env::args_os().nth(1) else {
        eprintln!("usage: manual DIRECTORY");
        return ExitCode::from(2);
    };
    match write(Path::new(&directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", Path::new(&directory).display());
            ExitCode::FAILURE
        }
    }
}

fn write(directory: &Path) -> io::Result<()> {
    let mut xksd = xksd::cli::Cli::command().disable_help_subcommand(true);
    let pages = directory.join("man1");
    fs::create_dir_all(&pages)?;
    // A page for each command: xksd-key-create.1.
    clap_mangen::generate_to(xksd.clone(), &pages)?;
    let completions = directory.join("completions");
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut xksd, "xksd", &completions)?;
    }
    Ok(())
}
