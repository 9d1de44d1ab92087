//! The `xksd` command.

fn main() {}
