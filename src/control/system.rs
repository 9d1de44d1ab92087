//! What xksd asks of the kernel at start: cores, locked memory, io_uring, no core dumps.

use std::time::Duration;

use glommio::timer::sleep;
use glommio::{LocalExecutorBuilder, Placement};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

use crate::limits::{
    CONNECTIONS_A_SHARD_MAX, CONNECTIONS_A_SHARD_MIN, DESCRIPTORS_A_SESSION, DESCRIPTORS_A_SHARD,
    DESCRIPTORS_RESERVED, IO_MEMORY_BYTES, MEMLOCK_BYTES_A_SHARD, MEMLOCK_BYTES_MIN,
};

/// Cores this process may use, in ascending order.
///
/// # Errors
/// A sentence for the operator.
pub fn allowed_cores() -> Result<Vec<usize>, String> {
    let set = rustix::thread::sched_getaffinity(None)
        .map_err(|e| format!("cannot read the CPU affinity of this process: {e}"))?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// Core of each shard: the allowed ones in turn. Where `shards` is 0, as many as there are cores,
/// but for those `kept` for key managers that compute in this process.
pub fn place(shards: usize, kept: usize, cores: &[usize]) -> Vec<usize> {
    let count = if shards == 0 { cores.len().saturating_sub(kept).max(1) } else { shards };
    cores.iter().copied().cycle().take(count).collect()
}

/// Keys and plaintext must not reach a core file or a debugger of the same user.
pub fn forbid_core_dumps() {
    // Both may fail only under a seccomp filter, and then there is nothing to be done about it.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let hard = getrlimit(Resource::Core).maximum;
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: hard });
}

/// Raises the soft limits of descriptors and locked memory to the hard ones, as servers do.
pub fn raise_limits() {
    for resource in [Resource::Nofile, Resource::Memlock] {
        let limit = getrlimit(resource);
        let _ = setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum });
    }
}

/// Connections that each shard may have open, so that descriptors are left for the admin listener,
/// reloads and HSMs however many clients come.
///
/// # Errors
/// One sentence that says what to set.
pub fn connections_a_shard(shards: usize, sessions: usize) -> Result<usize, String> {
    share_descriptors(getrlimit(Resource::Nofile).current, shards, sessions)
}

/// `limit`: none where there is none.
fn share_descriptors(limit: Option<u64>, shards: usize, sessions: usize) -> Result<usize, String> {
    let (shards, sessions) = (shards as u64, sessions as u64);
    let reserved =
        DESCRIPTORS_RESERVED + shards * DESCRIPTORS_A_SHARD + sessions * DESCRIPTORS_A_SESSION;
    let Some(limit) = limit else { return Ok(CONNECTIONS_A_SHARD_MAX) };
    let connections = (limit.saturating_sub(reserved) / shards.max(1)) as usize;
    if connections < CONNECTIONS_A_SHARD_MIN {
        let needed = reserved + shards * CONNECTIONS_A_SHARD_MIN as u64;
        return Err(format!(
            "descriptors are limited to {limit} but {shards} shards and {sessions} sessions need \
             {needed}, and one more for each further connection: \
             set LimitNOFILE in the service unit, `ulimit -n` in the shell, or --ulimit nofile for \
             a container"
        ));
    }
    Ok(connections.min(CONNECTIONS_A_SHARD_MAX))
}

/// Whether an executor can run here.
///
/// # Errors
/// One sentence that says what to set.
pub fn check_io_uring() -> Result<(), String> {
    if let Some(bytes) = getrlimit(Resource::Memlock).current
        && bytes < MEMLOCK_BYTES_MIN
    {
        return Err(format!(
            "locked memory is limited to {} KiB but io_uring needs {} KiB, and up to {} KiB for \
             each shard: {SET_MEMLOCK}",
            bytes / 1024,
            MEMLOCK_BYTES_MIN / 1024,
            MEMLOCK_BYTES_A_SHARD / 1024
        ));
    }
    try_executor().map_err(|error| explain(&error))
}

/// Runs an executor with small rings, since the kernel gives back what they locked only a while
/// after them.
fn try_executor() -> Result<(), String> {
    let run = || {
        let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY_BYTES);
        // Asleep once: that takes a system call that the rest does not.
        builder
            .make()
            .map(|executor| executor.run(sleep(Duration::from_millis(1))))
            .map_err(|error| error.to_string())
    };
    // A system call that fails later than in `make` is a panic of the executor's.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let ran = std::panic::catch_unwind(run);
    std::panic::set_hook(hook);
    ran.unwrap_or_else(|panic| Err(panic.downcast_ref::<String>().cloned().unwrap_or_default()))
}

const SET_MEMLOCK: &str = "set LimitMEMLOCK=infinity in the service unit, `ulimit -l` in the \
    shell, or --ulimit memlock=-1 for a container";

/// Whether an executor could not start for want of memory that may be locked.
pub fn lacks_memory(error: &str) -> bool {
    ["os error 12)", "emlock", "annot allocate memory"].iter().any(|sign| error.contains(sign))
}

/// What an executor's start-up error means and what to set.
pub fn explain(error: &str) -> String {
    let refused = [
        "os error 1)",
        "os error 13)",
        "os error 38)",
        "ermission denied",
        "PermissionDenied",
        "not permitted",
        "not implemented",
        "nvalid argument",
    ];
    if refused.iter().any(|sign| error.contains(sign)) {
        format!(
            "io_uring is not available ({error}): it needs Linux 5.11 or later, the sysctl \
             kernel.io_uring_disabled=0, and in a container a seccomp profile that allows \
             io_uring_setup, io_uring_enter and io_uring_register"
        )
    } else if lacks_memory(error) {
        let limit = getrlimit(Resource::Memlock)
            .current
            .map_or("not limited".to_owned(), |bytes| format!("limited to {} KiB", bytes / 1024));
        format!(
            "not enough lockable memory for io_uring ({error}): it is {limit} for all processes of \
             this user, and each shard may need {} KiB: {SET_MEMLOCK}",
            MEMLOCK_BYTES_A_SHARD / 1024
        )
    } else {
        format!("io_uring cannot be used: {error}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_follow_the_allowed_cores() {
        assert_eq!(place(0, 0, &[2, 5]), [2, 5]);
        assert_eq!(place(1, 0, &[2, 5]), [2]);
        assert_eq!(place(3, 1, &[2, 5]), [2, 5, 2]);
        assert_eq!(place(0, 1, &[2, 5]), [2]);
        assert_eq!(place(0, 2, &[2, 5]), [2]);
    }

    #[test]
    fn connections_get_the_descriptors_that_others_do_not_need() {
        let fixed = DESCRIPTORS_RESERVED + 2 * DESCRIPTORS_A_SHARD + 10 * DESCRIPTORS_A_SESSION;
        let of = |left: u64| share_descriptors(Some(fixed + left), 2, 10);
        assert_eq!(of(1001), Ok(500));
        let (min, max) = (2 * CONNECTIONS_A_SHARD_MIN as u64, 2 * CONNECTIONS_A_SHARD_MAX as u64);
        assert_eq!(of(min), Ok(CONNECTIONS_A_SHARD_MIN));
        let refused = of(min - 1).unwrap_err();
        assert!(
            refused.contains(&format!("limited to {} but", fixed + min - 1))
                && refused.contains(&format!("need {}", fixed + min))
        );
        assert!(share_descriptors(Some(0), 2, 10).is_err());
        assert_eq!(
            (of(max - 1), of(max)),
            (Ok(CONNECTIONS_A_SHARD_MAX - 1), Ok(CONNECTIONS_A_SHARD_MAX))
        );
        assert_eq!(
            (of(max + 2), share_descriptors(None, 2, 10)),
            (Ok(CONNECTIONS_A_SHARD_MAX), Ok(CONNECTIONS_A_SHARD_MAX))
        );
    }

    #[test]
    fn what_blocks_io_uring_is_explained() {
        assert!(explain("Operation not permitted (os error 1)").contains("seccomp"));
        assert!(explain("Cannot allocate memory (os error 12)").contains("LimitMEMLOCK"));
    }
}
