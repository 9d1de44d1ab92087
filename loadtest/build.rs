//! Links `xksd-load` so that libc's `syscall` goes through `crates/syscall`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=xksd-load=-Wl,--wrap=syscall");
}
