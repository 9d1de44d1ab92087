//! Links `xksd` so that libc's `syscall` goes through `src/syscall.rs`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bin=xksd=-Wl,--wrap=syscall");
}
