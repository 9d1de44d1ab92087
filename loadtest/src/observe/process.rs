//! CPU time of a process and its threads, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

/// One process on this machine or several that are looked at as one: the workers of a server, the
/// servers behind a load balancer.
pub struct Process {
    /// Their ids, ascending; at least one.
    pids: Vec<u32>,
}

/// CPU time used so far.
pub struct CpuTimes {
    /// Of all threads, also of those that ended.
    pub total: Duration,
    /// Cores the process may use.
    pub cores: usize,
    threads: BTreeMap<u32, (String, Duration)>,
}

impl CpuTimes {
    /// The thread that ran most since an earlier reading, and for how long.
    pub fn busiest_since(&self, before: &CpuTimes) -> (String, Duration) {
        let ran = |(id, (name, time)): (&u32, &(String, Duration))| {
            (
                name.clone(),
                time.saturating_sub(before.threads.get(id).map_or(Duration::ZERO, |t| t.1)),
            )
        };
        self.threads.iter().map(ran).max_by_key(|(_, time)| *time).unwrap_or_default()
    }
}

impl Process {
    /// This one.
    pub fn own() -> Process {
        Process { pids: vec![std::process::id()] }
    }

    /// The given processes.
    ///
    /// # Errors
    /// When one of them does not exist.
    pub fn of(pids: &[u32]) -> Result<Process, String> {
        match pids.iter().find(|pid| cpu_time_of(**pid).is_none()) {
            Some(pid) => Err(format!("there is no process {pid} on this machine")),
            None => Ok(Process { pids: pids.to_vec() }),
        }
    }

    /// Those that listen on this address. Another user's sockets cannot be seen: then there is
    /// none.
    pub fn listening_on(address: SocketAddr) -> Option<Process> {
        if !address.ip().to_canonical().is_loopback() {
            return None;
        }
        let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .flat_map(|file| {
                listeners(&fs::read_to_string(file).unwrap_or_default(), address.port())
            })
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        let holds_one = |pid: &u32| {
            let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
            let mut links = files.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
            links.find(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str()))
        };
        let processes = fs::read_dir("/proc")
            .ok()?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut pids: Vec<u32> = processes.filter(|pid| holds_one(pid).is_some()).collect();
        pids.sort_unstable();
        (!pids.is_empty()).then_some(Process { pids })
    }

    /// Their ids.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// Name of the first: a parent's id is usually the smallest.
    pub fn name(&self) -> String {
        let name = self.pids.first().and_then(|pid| cpu_time_of(*pid));
        name.map(|(name, _)| name).unwrap_or_default()
    }

    /// Resident memory now, bytes; `None` when the process is gone.
    pub fn resident_bytes(&self) -> Option<u64> {
        let resident = |pid: u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            // "VmRSS:	   12345 kB"
            let kilobytes = status
                .lines()
                .find_map(|line| line.strip_prefix("VmRSS:"))?
                .trim()
                .strip_suffix("kB")?
                .trim();
            Some(kilobytes.parse::<u64>().ok()? * 1024)
        };
        self.pids.iter().copied().map(resident).sum()
    }

    /// CPU times up to now; `None` when the process is gone.
    pub fn times(&self) -> Option<CpuTimes> {
        let (mut total, mut threads) = (Duration::ZERO, BTreeMap::new());
        for &pid in &self.pids {
            total += add_threads(pid, &mut threads)?;
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.pids.first()?)).ok()?;
        let cores = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .map_or(0, |list| count_cores(list.trim()));
        Some(CpuTimes { total, cores, threads })
    }
}

/// Time of all threads of a process, and of each.
fn add_threads(pid: u32, threads: &mut BTreeMap<u32, (String, Duration)>) -> Option<Duration> {
    let dir = format!("/proc/{pid}");
    let (_, total) = cpu_time_of(pid)?;
    for entry in fs::read_dir(format!("{dir}/task")).ok()?.flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let times =
            fs::read_to_string(entry.path().join("stat")).ok().and_then(|stat| cpu_time(&stat));
        if let (Some(id), Some(times)) = (id, times) {
            threads.insert(id, times);
        }
    }
    Some(total)
}

/// Name of a process, and the time of all its threads, also of those that ended.
fn cpu_time_of(pid: u32) -> Option<(String, Duration)> {
    cpu_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Time of all cores of this machine, clock ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineTimes {
    total: u64,
    idle: u64,
}

/// What a machine's cores did for a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Machine {
    /// The share of the time that they were busy.
    pub busy: f64,
    /// Of the time that they were busy, the share that was not of the processes that are watched:
    /// that of other processes, and of other machines on the same hardware (steal).
    pub others: f64,
}

impl MachineTimes {
    /// What was done since an earlier reading; `watched` is the CPU time of the processes that are
    /// watched.
    pub fn since(self, before: MachineTimes, watched: Duration) -> Machine {
        let (total, idle) =
            (self.total.saturating_sub(before.total), self.idle.saturating_sub(before.idle));
        let busy = total.saturating_sub(idle) as f64;
        let share = |ticks: f64, of: f64| if of > 0.0 { (ticks / of).clamp(0.0, 1.0) } else { 0.0 };
        let watched = watched.as_secs_f64() * rustix::param::clock_ticks_per_second() as f64;
        Machine { busy: share(busy, total as f64), others: share(busy - watched, busy) }
    }

    fn parse(stat: &str) -> Option<MachineTimes> {
        let times = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // user nice system idle iowait irq softirq steal, and two that are contained in the first.
        let times: Vec<u64> =
            times.split_ascii_whitespace().take(8).map_while(|time| time.parse().ok()).collect();
        Some(MachineTimes { total: times.iter().sum(), idle: times.get(3)? + times.get(4)? })
    }
}

/// Times of this machine's cores up to now.
pub fn machine_times() -> Option<MachineTimes> {
    MachineTimes::parse(&fs::read_to_string("/proc/stat").ok()?)
}

/// Inodes of the sockets that listen on a port, from `/proc/net/tcp`.
fn listeners(table: &str, port: u16) -> Vec<String> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let local_port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        // 0A: LISTEN.
        (*state == "0A" && local_port == port).then(|| (*inode).to_owned())
    };
    table.lines().filter_map(inode).collect()
}

/// Name, and user and system time, from a `stat` file. The name stands in parentheses and may
/// itself hold any character.
fn cpu_time(stat: &str) -> Option<(String, Duration)> {
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    // utime and stime are fields 14 and 15; the first one behind the name is field 3.
    let mut fields = after.split_ascii_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some((name, Duration::from_secs_f64(ticks as f64 / per_second as f64)))
}

/// Cores in a list such as `0-3,8`.
fn count_cores(list: &str) -> usize {
    let count = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.parse::<usize>().ok()?, to.parse::<usize>().ok()?);
        Some((to + 1).saturating_sub(from))
    };
    list.split(',').filter_map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_lists() {
        assert_eq!((count_cores("0-3,8"), count_cores("5"), count_cores("")), (5, 1, 0));
    }

    #[test]
    fn the_machine_is_as_busy_as_it_was_not_idle() {
        let at =
            |line: &str| MachineTimes::parse(&format!("{line}\ncpu0 1 2 3\nintr 5\n")).unwrap();
        let (before, after) =
            (at("cpu  100 0 100 700 100 0 0 0 50 0"), at("cpu  250 10 120 710 100 5 5 0 90 0"));
        let ticks = |n: u64| {
            Duration::from_secs_f64(n as f64 / rustix::param::clock_ticks_per_second() as f64)
        };
        // 190 of 200 were not idle.
        let machine = after.since(before, ticks(38));
        assert!(
            (machine.busy - 0.95).abs() < 1e-9 && (machine.others - 0.8).abs() < 1e-9,
            "{machine:?}"
        );
        assert_eq!(after.since(before, ticks(1000)).others, 0.0, "two clocks may differ by a tick");
        assert_eq!(after.since(after, ticks(1)), Machine::default());
        assert!(MachineTimes::parse("cpu  1 2 3").is_none() && machine_times().is_some());
    }

    #[test]
    fn names_with_parentheses_do_not_shift_the_fields() {
        let (name, time) = cpu_time("7 (a) b (c) S 1 1 1 0 -1 4 1 0 0 0 150 50 0 0 20 0").unwrap();
        assert_eq!(name, "a) b (c");
        assert_eq!(
            time,
            Duration::from_secs_f64(200.0 / rustix::param::clock_ticks_per_second() as f64)
        );
        assert!(cpu_time("7 (a").is_none());
    }

    #[test]
    fn a_listener_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let process = Process::listening_on(listener.local_addr().unwrap())
            .expect("this process listens there");
        assert_eq!(process.pids(), [std::process::id()]);
        let times = process.times().unwrap();
        assert!(times.cores > 0 && !process.name().is_empty());
        assert!(process.resident_bytes().unwrap() > 100 * 1024);
        let gone = Process { pids: vec![u32::MAX] };
        assert!(gone.times().is_none() && gone.resident_bytes().is_none());
        assert!(Process::listening_on("192.0.2.1:443".parse().unwrap()).is_none());
    }

    #[test]
    fn processes_that_are_named_must_be_there() {
        let own = std::process::id();
        assert_eq!(Process::of(&[own]).unwrap().pids(), [own]);
        assert!(Process::of(&[own, u32::MAX]).err().unwrap().contains("no process 4294967295"));
    }
}
