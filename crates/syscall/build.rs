//! The tests are programs too: libc's `syscall` goes through this crate in them as well.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg=-Wl,--wrap=syscall");
}
