//! `xksd top`: the page of the admin listener, in a terminal.

mod problems;
mod view;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use rustix::termios::tcgetwinsize;
use serde_json::{Value, json};

use super::instance::Instance;
use super::{Failure, print};
use crate::config;
use view::{Size, frame};

/// Of a terminal that does not say, and of what is no terminal.
const USUAL: Size = Size { columns: 100, rows: usize::MAX };
/// Home; what is written then overwrites line by line, without a flicker.
const HOME: &str = "\x1b[H";
/// The rest of the screen.
const CLEAR_REST: &str = "\x1b[J";

/// Watch a running xksd: what is wrong, requests, key managers, keys
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It asks the admin listener every two seconds. Ctrl-C ends it.
Where standard output is no terminal it prints once.")]
pub struct Args {
    /// Configuration file (TOML) of the running xksd: its admin listener is found there
    #[arg(long, value_name = "FILE", required_unless_present = "instance")]
    config: Option<PathBuf>,
    /// Admin listener of another instance, for example http://10.0.0.2:9180
    #[arg(long, value_name = "URL", value_parser = Instance::parse)]
    instance: Option<Instance>,
    /// Seconds between two looks
    #[arg(long, value_name = "N", default_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    /// Print it once
    #[arg(long)]
    once: bool,
    /// Print JSON, a line for each look: what /status and /history of the admin listener say
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let instance = instance(args)?;
    let is_terminal = std::io::stdout().is_terminal();
    let once = args.once || !(is_terminal || args.json);
    let mut before = None;
    loop {
        let look = look(&instance);
        let text = match (&look, args.json) {
            (Ok((status, history)), true) => {
                format!("{}\n", json!({ "status": status, "history": history }))
            }
            (Ok((status, history)), false) => {
                let lines = frame(status, before.as_ref(), history, size(is_terminal));
                if once { lines.join("\n") + "\n" } else { screen(&lines) }
            }
            // It may be back soon: a restart is watched, too.
            (Err(why), false) if !once && before.is_some() => {
                screen(&[format!("{}: {why}", instance.url)])
            }
            (Err(why), _) => return Err(Failure::Failed(format!("{}: {why}", instance.url))),
        };
        print(&text)?;
        if once {
            return Ok(());
        }
        before = look.ok().map(|(status, _)| status).or(before);
        std::thread::sleep(Duration::from_secs(args.interval));
    }
}

fn instance(args: &Args) -> Result<Instance, Failure> {
    if let Some(instance) = &args.instance {
        return Ok(instance.clone());
    }
    // clap asks for one of the two.
    let file = args.config.clone().unwrap_or_default();
    let admin = config::reachable(&file)?.admin;
    admin.map(Instance::of).ok_or_else(|| {
        let file = file.display();
        Failure::Usage(format!("{file} has no [admin] with listen, which this command asks"))
    })
}

fn look(instance: &Instance) -> Result<(Value, Value), String> {
    Ok((instance.get("/status")?, instance.get("/history")?))
}

/// The whole screen again.
fn screen(lines: &[String]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\x1b[K\r\n")).collect();
    format!("{HOME}{lines}{CLEAR_REST}")
}

fn size(is_terminal: bool) -> Size {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if is_terminal && size.ws_col > 0 && size.ws_row > 1 => {
            // One row for the cursor.
            Size { columns: size.ws_col.into(), rows: usize::from(size.ws_row) - 1 }
        }
        _ => USUAL,
    }
}
