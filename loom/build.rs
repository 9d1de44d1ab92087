//! `cfg(loom)` for this crate only: some dependencies have another meaning for it.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(loom)");
    println!("cargo::rustc-cfg=loom");
}
