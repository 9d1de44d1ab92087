//! Links `xksd-load` so that libc's `syscall` goes through `crates/syscall`. Tells it its
//! commit.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=xksd-load=-Wl,--wrap=syscall");
    build_commit::tell_cargo();
}
