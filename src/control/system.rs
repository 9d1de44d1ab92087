//! What xksd asks of the kernel at start: cores, locked memory, io_uring, no core dumps.

use glommio::{LocalExecutorBuilder, Placement};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

use crate::limits::{IO_MEMORY_BYTES, MEMLOCK_BYTES_MIN};

/// Cores this process may use, in ascending order.
///
/// # Errors
/// A sentence for the operator.
pub fn allowed_cores() -> Result<Vec<usize>, String> {
    let set = rustix::thread::sched_getaffinity(None).map_err(|e| format!("cannot read the CPU affinity of this process: {e}"))?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect())
}

/// Core of each shard: the allowed ones in turn. Where `shards` is 0, as many as there are cores, but for those `kept` for key managers that compute
/// in this process.
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

/// Whether an executor can run here.
///
/// # Errors
/// One sentence that says what to set.
pub fn check_io_uring() -> Result<(), String> {
    if let Some(bytes) = getrlimit(Resource::Memlock).current
        && bytes < MEMLOCK_BYTES_MIN
    {
        return Err(format!(
            "locked memory is limited to {} KiB but io_uring needs {} KiB: set LimitMEMLOCK=infinity in the service unit, `ulimit -l` in the shell, or --ulimit memlock=-1 for a container",
            bytes / 1024,
            MEMLOCK_BYTES_MIN / 1024
        ));
    }
    match LocalExecutorBuilder::new(Placement::Unbound).io_memory(IO_MEMORY_BYTES).make() {
        Ok(_) => Ok(()),
        Err(error) => Err(explain(&error.to_string())),
    }
}

/// What an executor's start-up error means and what to set.
pub fn explain(error: &str) -> String {
    let refused = ["os error 1)", "os error 13)", "os error 38)", "ermission denied", "not permitted", "not implemented"];
    let memory = ["os error 12)", "emlock", "annot allocate memory"];
    if refused.iter().any(|sign| error.contains(sign)) {
        format!(
            "io_uring is not available ({error}): it needs Linux 5.8 or later, the sysctl kernel.io_uring_disabled=0, and in a container a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register"
        )
    } else if memory.iter().any(|sign| error.contains(sign)) {
        format!("not enough lockable memory for io_uring ({error}): set LimitMEMLOCK=infinity in the service unit, or `ulimit -l`")
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
    fn what_blocks_io_uring_is_explained() {
        assert!(explain("Operation not permitted (os error 1)").contains("seccomp"));
        assert!(explain("Cannot allocate memory (os error 12)").contains("LimitMEMLOCK"));
    }
}
