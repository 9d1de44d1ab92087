//! A process for one test.
//!
//! A PKCS#11 module is initialised once in a process, and SoftHSM reads its configuration from the
//! environment. So a test that loads a module runs its own binary again, for itself only.

use std::path::Path;
use std::process::Command;

/// Names the test's directory to the test's process.
const DIRECTORY: &str = "XKSD_TEST_DIRECTORY";

/// Runs `test` in its own process, with an empty directory and SoftHSM's configuration in it.
/// `name` is the test's path with the name of its crate, as [`crate::test_path!`] gives it.
pub fn in_own_process(name: &str, test: impl FnOnce(&Path)) {
    in_own_process_with(name, |_, _| (), test);
}

/// The same; `prepare` gets the directory and the command before it starts.
pub fn in_own_process_with(
    name: &str,
    prepare: impl FnOnce(&Path, &mut Command),
    test: impl FnOnce(&Path),
) {
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        return test(Path::new(&directory));
    }
    let name = name.split_once("::").expect("crate::test").1;
    let directory = tempfile::tempdir().expect("a directory");
    let configuration = crate::softhsm::configure(directory.path());
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args([name, "--exact", "--nocapture", "--include-ignored"])
        .env(DIRECTORY, directory.path())
        .env("SOFTHSM2_CONF", &configuration);
    prepare(directory.path(), &mut command);
    let output = command.output().expect("runs again");
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "in its own process:\n{out}\n{err}");
    assert!(out.contains("1 passed"), "{name} is not the name of one test:\n{out}");
}

/// A test's path, for [`in_own_process`].
#[macro_export]
macro_rules! test_path {
    ($name:expr) => {
        concat!(module_path!(), "::", $name)
    };
}

/// A test that [`in_own_process`] runs.
#[macro_export]
macro_rules! own_process {
    ($(#[$meta:meta])* fn $name:ident($directory:ident) $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            $crate::own_process::in_own_process(
                $crate::test_path!(stringify!($name)),
                |$directory| $body,
            );
        }
    };
}
