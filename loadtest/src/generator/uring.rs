//! Whether this machine lets the workers' executors run, tried before they are started: what a
//! worker meets too late is a panic of its own.

use std::sync::mpsc::channel;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};

use crate::limits::{IO_MEMORY_BYTES, URING_CHECK_TIME_MAX};

/// Long enough that the executor goes to sleep: no other call has all that a filter may refuse.
const CHECK_SLEEP: Duration = Duration::from_millis(1);

/// Runs an executor until it has slept once.
///
/// # Errors
/// One sentence that says what to set.
pub fn check() -> Result<(), String> {
    let (result, results) = channel();
    let panicked = result.clone();
    let hook = std::panic::take_hook();
    // A call that fails later than in `make` is a panic of the executor's. It is caught here: after
    // it the executor may wait for ever for that call.
    std::panic::set_hook(Box::new(move |panic| {
        drop(panicked.send(Err(panic.payload_as_str().unwrap_or_default().to_owned())))
    }));
    let thread = std::thread::Builder::new()
        .name("io_uring check".into())
        .spawn(move || drop(result.send(run())));
    let ran = match thread {
        Ok(_) => results.recv_timeout(URING_CHECK_TIME_MAX).unwrap_or_else(|_| {
            Err(format!("a sleep of 1 ms did not end within {} s", URING_CHECK_TIME_MAX.as_secs()))
        }),
        Err(error) => Err(format!("no thread: {error}")),
    };
    std::panic::set_hook(hook);
    ran.map_err(|error| explain(&error))
}

fn run() -> Result<(), String> {
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(IO_MEMORY_BYTES)
        .make()
        .map_err(|error| error.to_string())?;
    executor.run(glommio::timer::sleep(CHECK_SLEEP));
    Ok(())
}

/// What an executor's error means, and what to set.
pub fn explain(error: &str) -> String {
    let memory = ["os error 12)", "emlock", "annot allocate memory"];
    let set = if memory.iter().any(|sign| error.contains(sign)) {
        "this tool needs 512 KiB of locked memory for each worker: raise `ulimit -l`, \
         LimitMEMLOCK= in a service unit, --ulimit memlock=-1 for a container"
    } else {
        "this tool needs Linux 5.11 or later, the sysctl kernel.io_uring_disabled=0, and in a \
         container a seccomp profile that allows io_uring_setup, io_uring_enter and \
         io_uring_register"
    };
    format!("io_uring cannot be used ({error}): {set}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_io_uring_from_running_is_explained() {
        assert!(
            explain("Operation not permitted (os error 1)")
                .contains("os error 1)): this tool needs Linux 5.11")
        );
        assert!(explain("Cannot allocate memory (os error 12)").contains("ulimit -l"));
    }
}
