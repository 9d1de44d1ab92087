//! `tuning/check`: on this machine, and on trees of files that stand for machines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_harness::Installation;
use xksd::limits::{CONNECTIONS_A_SHARD_MAX, LISTEN_BACKLOG, MEMLOCK_BYTES_A_SHARD};

/// What `tuning/check` told.
struct Told {
    code: i32,
    text: String,
    complaint: String,
}

impl Told {
    /// State of a setting, and the line that tells it.
    fn state(&self, setting: &str) -> (&str, &str) {
        // The last table: after --apply there are two.
        let line = self.text.lines().rev().find(|line| {
            line.get(8..).is_some_and(|rest| rest.starts_with(&format!("{setting} ")))
        });
        let line = line.unwrap_or_else(|| panic!("no line of {setting} in\n{}", self.text));
        (line.split_whitespace().next().unwrap(), line)
    }

    fn advised(&self) -> Vec<&str> {
        self.text.lines().filter(|line| line.starts_with("advise ")).collect()
    }
}

fn check(root: Option<&Path>, arguments: &[&str]) -> Told {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning/check"));
    command.args(arguments).env_remove("TUNING_ROOT");
    if let Some(root) = root {
        command.env("TUNING_ROOT", root);
    }
    let output = command.output().unwrap();
    Told {
        code: output.status.code().unwrap(),
        text: String::from_utf8(output.stdout).unwrap(),
        complaint: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A tree of files that stands for a machine: eight cores on two NUMA nodes, an interface with four
/// queues, xksd with two shards on the cores of the first node, and everything as it should be.
struct Machine(tempfile::TempDir);

const WELL_SET: &[(&str, &str)] = &[
    ("proc/sys/kernel/osrelease", "6.1.0-18-amd64"),
    ("proc/sys/kernel/io_uring_disabled", "0"),
    ("proc/sys/kernel/io_uring_group", "-1"),
    ("proc/sys/fs/nr_open", "1048576"),
    ("proc/sys/net/core/somaxconn", "16384"),
    ("proc/sys/net/ipv4/tcp_syncookies", "1"),
    ("proc/sys/net/ipv4/tcp_abort_on_overflow", "0"),
    ("proc/sys/net/ipv4/tcp_retries2", "8"),
    ("proc/sys/net/ipv4/tcp_syn_retries", "3"),
    ("proc/sys/net/ipv4/tcp_keepalive_time", "300"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "262144"),
    ("proc/swaps", "Filename Type Size Used Priority"),
    ("proc/net/route", "Iface Destination Gateway\neno1 0002000A 00000000\neno1 00000000 0102000A"),
    ("proc/77/comm", "chronyd"),
    ("proc/100/comm", "xksd"),
    ("proc/100/status", "Name:\txksd\nCpus_allowed_list:\t0-3"),
    ("proc/100/cgroup", "0::/system.slice/xksd.service"),
    (
        "proc/100/limits",
        "Max open files            1024     1048576      files\nMax locked memory         \
         unlimited      unlimited       bytes",
    ),
    ("proc/100/task/100/comm", "xksd"),
    ("proc/100/task/101/comm", "xksd-shard-2"),
    ("proc/100/task/102/comm", "xksd-shard-2"),
    ("proc/100/task/103/comm", "xksd-shard-3"),
    ("proc/100/task/104/comm", "xksd-shard-3"),
    // Another command.
    ("proc/99/comm", "xksd"),
    ("proc/99/status", "Name:\txksd\nCpus_allowed_list:\t4"),
    ("proc/99/task/99/comm", "xksd"),
    ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
    ("sys/devices/system/clocksource/clocksource0/available_clocksource", "tsc hpet acpi_pm "),
    ("sys/devices/system/cpu/online", "0-7"),
    ("sys/devices/system/cpu/isolated", ""),
    ("sys/devices/system/node/node0/cpulist", "0-3"),
    ("sys/devices/system/node/node1/cpulist", "4-7"),
    ("sys/class/net/eno1/device/numa_node", "0"),
];

impl Machine {
    fn well_set() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        for (path, text) in WELL_SET {
            machine.set(path, text);
        }
        for at in 0..4 {
            machine.set(&format!("sys/class/net/eno1/device/msi_irqs/{}", 40 + at), "msix");
            machine.set(&format!("proc/irq/{}/smp_affinity_list", 40 + at), &at.to_string());
            machine.set(&format!("sys/class/net/eno1/queues/rx-{at}/rps_cpus"), "00");
            machine.set(
                &format!("sys/class/net/eno1/queues/tx-{at}/xps_cpus"),
                &format!("{:02x}", 1 << at),
            );
            let cpu = format!("sys/devices/system/cpu/cpu{at}");
            machine.set(&format!("{cpu}/cpufreq/scaling_governor"), "performance");
            for (state, (name, exit_us, disabled)) in
                [("POLL", 0, 0), ("C1", 50, 0), ("C6", 51, 1)].into_iter().enumerate()
            {
                machine.set(&format!("{cpu}/cpuidle/state{state}/name"), name);
                machine.set(&format!("{cpu}/cpuidle/state{state}/latency"), &format!("{exit_us}"));
                machine.set(&format!("{cpu}/cpuidle/state{state}/disable"), &format!("{disabled}"));
            }
        }
        machine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn set(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{text}\n")).unwrap();
    }

    fn get(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap().trim_end().to_owned()
    }

    fn check(&self, arguments: &[&str]) -> Told {
        check(Some(self.0.path()), arguments)
    }

    /// Every file below `proc` and `sys`.
    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut todo = vec![self.path("proc"), self.path("sys")];
        while let Some(path) = todo.pop() {
            if path.is_dir() {
                todo.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else {
                found.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
        found
    }

    /// As a machine comes from its maker: every setting wrong that --apply can set.
    fn as_delivered() -> Self {
        let machine = Self::well_set();
        machine.set("proc/sys/fs/nr_open", "65536");
        machine.set("proc/sys/net/core/somaxconn", "128");
        machine.set("proc/sys/net/ipv4/tcp_syncookies", "0");
        machine.set("proc/sys/net/ipv4/tcp_abort_on_overflow", "1");
        machine.set("proc/sys/net/ipv4/tcp_retries2", "15");
        machine.set("proc/sys/net/ipv4/tcp_syn_retries", "6");
        machine.set("proc/sys/net/ipv4/tcp_keepalive_time", "7200");
        machine.set("proc/sys/net/netfilter/nf_conntrack_max", "65536");
        machine.set("sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet");
        for at in 0..4 {
            machine.set(
                &format!("sys/devices/system/cpu/cpu{at}/cpufreq/scaling_governor"),
                "powersave",
            );
            machine.set(&format!("sys/devices/system/cpu/cpu{at}/cpuidle/state2/disable"), "0");
            machine.set(&format!("proc/irq/{}/smp_affinity_list", 40 + at), "0");
            machine.set(&format!("sys/class/net/eno1/queues/rx-{at}/rps_cpus"), "0f");
            machine.set(&format!("sys/class/net/eno1/queues/tx-{at}/xps_cpus"), "00");
        }
        machine
    }
}

#[test]
fn this_machine_can_be_checked_by_anybody() {
    let told = check(None, &[]);
    assert!(matches!(told.code, 0 | 1), "{}", told.complaint);
    assert_eq!(told.code, i32::from(!told.advised().is_empty()), "{}", told.text);
    assert_eq!(told.complaint, "");
    let after_the_heading = told.text.lines().skip_while(|line| !line.starts_with("STATE")).skip(1);
    let states: Vec<&str> = after_the_heading
        .take_while(|line| !line.is_empty())
        .map(|line| line[..7].trim_end())
        .collect();
    assert!(
        states.len() >= 20 && states.iter().all(|state| ["ok", "advise", "n.a."].contains(state)),
        "{}",
        told.text
    );
}

#[test]
fn a_running_xksd_is_seen_with_its_shards() {
    let installation = Installation::default();
    let server = installation.start();
    let told = check(None, &["--pid", &server.pid().to_string()]);
    // The installation has one.
    assert!(
        told.text.contains(&format!("xksd is process {} with 1 shard\n", server.pid())),
        "{}",
        told.text
    );
    assert_ne!(told.state("descriptors").0, "n.a.");
    assert_ne!(told.state("locked memory, KiB").0, "n.a.");
}

#[test]
fn a_machine_that_is_well_set_gets_no_advice_and_is_not_changed() {
    let machine = Machine::well_set();
    let before = machine.files();
    for arguments in [&[][..], &["--apply"]] {
        let told = machine.check(arguments);
        assert_eq!((told.code, told.advised()), (0, vec![]), "{}", told.text);
        assert!(!told.text.contains("n.a."), "the tree has every file: {}", told.text);
    }
    assert_eq!(machine.files(), before);
    assert!(!machine.path("run").exists(), "nothing was to be saved");
}

#[test]
fn every_bound_has_two_sides() {
    let memlock =
        |bytes: u64| format!("Max open files  1 1048576 files\nMax locked memory  1 {bytes} bytes");
    let descriptors = |files: usize| {
        format!("Max open files  1 {files} files\nMax locked memory  1 unlimited bytes")
    };
    // The process has two shards.
    let needed = 2 * CONNECTIONS_A_SHARD_MAX + 1024;
    let sysctl = |name: &str| format!("proc/sys/{name}");
    let cases: Vec<(&str, String, String, String)> = vec![
        ("Linux", sysctl("kernel/osrelease"), "5.19.0".into(), "5.18.19".into()),
        ("kernel.io_uring_disabled", sysctl("kernel/io_uring_disabled"), "0".into(), "1".into()),
        ("kernel.io_uring_disabled", sysctl("kernel/io_uring_disabled"), "0".into(), "2".into()),
        (
            "locked memory, KiB",
            "proc/100/limits".into(),
            memlock(2 * MEMLOCK_BYTES_A_SHARD),
            memlock(2 * MEMLOCK_BYTES_A_SHARD - 1024),
        ),
        ("descriptors", "proc/100/limits".into(), descriptors(needed), descriptors(needed - 1)),
        ("fs.nr_open", sysctl("fs/nr_open"), "1048576".into(), "1048575".into()),
        (
            "net.core.somaxconn",
            sysctl("net/core/somaxconn"),
            LISTEN_BACKLOG.to_string(),
            (LISTEN_BACKLOG - 1).to_string(),
        ),
        ("net.ipv4.tcp_syncookies", sysctl("net/ipv4/tcp_syncookies"), "1".into(), "2".into()),
        ("net.ipv4.tcp_syncookies", sysctl("net/ipv4/tcp_syncookies"), "1".into(), "0".into()),
        ("tcp_abort_on_overflow", sysctl("net/ipv4/tcp_abort_on_overflow"), "0".into(), "1".into()),
        ("net.ipv4.tcp_retries2", sysctl("net/ipv4/tcp_retries2"), "8".into(), "9".into()),
        ("net.ipv4.tcp_syn_retries", sysctl("net/ipv4/tcp_syn_retries"), "3".into(), "4".into()),
        ("tcp_keepalive_time", sysctl("net/ipv4/tcp_keepalive_time"), "300".into(), "301".into()),
        (
            "nf_conntrack_max",
            sysctl("net/netfilter/nf_conntrack_max"),
            "131072".into(),
            "131071".into(),
        ),
        (
            "swap",
            "proc/swaps".into(),
            "Filename Type".into(),
            "Filename Type\n/dev/sda2 partition".into(),
        ),
        (
            "clocksource",
            "sys/devices/system/clocksource/clocksource0/current_clocksource".into(),
            "tsc".into(),
            "acpi_pm".into(),
        ),
        ("clock set by", "proc/77/comm".into(), "ntpd".into(), "cron".into()),
        (
            "frequency governor",
            "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor".into(),
            "performance".into(),
            "powersave".into(),
        ),
        (
            "idle states",
            "sys/devices/system/cpu/cpu3/cpuidle/state1/latency".into(),
            "50".into(),
            "51".into(),
        ),
        (
            "idle states",
            "sys/devices/system/cpu/cpu3/cpuidle/state2/disable".into(),
            "1".into(),
            "0".into(),
        ),
        (
            "isolcpus of xksd's cores",
            "sys/devices/system/cpu/isolated".into(),
            "4-7".into(),
            "3-7".into(),
        ),
        ("NUMA node of xksd", "sys/class/net/eno1/device/numa_node".into(), "0".into(), "1".into()),
        ("interrupts of interface", "proc/irq/43/smp_affinity_list".into(), "7".into(), "2".into()),
        (
            "RPS of interface",
            "sys/class/net/eno1/queues/rx-3/rps_cpus".into(),
            "0,00".into(),
            "0,08".into(),
        ),
    ];
    for (setting, path, good, bad) in cases {
        let machine = Machine::well_set();
        machine.set(&path, &good);
        let told = machine.check(&[]);
        assert_eq!(
            (told.code, told.state(setting).0),
            (0, "ok"),
            "{setting} at {good}: {}",
            told.text
        );
        machine.set(&path, &bad);
        let told = machine.check(&[]);
        assert_eq!(
            (told.code, told.state(setting).0),
            (1, "advise"),
            "{setting} at {bad}: {}",
            told.text
        );
        assert_eq!(told.advised().len(), 1, "{}", told.text);
    }
}

#[test]
fn a_file_that_is_not_there_is_no_advice() {
    let machine = Machine::well_set();
    for (setting, path) in [
        ("nf_conntrack_max", "proc/sys/net/netfilter"),
        ("kernel.io_uring_disabled", "proc/sys/kernel/io_uring_disabled"),
        ("frequency governor", "sys/devices/system/cpu/cpu0/cpufreq"),
        ("idle states", "sys/devices/system/cpu/cpu0/cpuidle"),
        ("clocksource", "sys/devices/system/clocksource"),
        ("interrupts of interface", "sys/class/net/eno1/device/msi_irqs"),
        ("descriptors", "proc/100"),
    ] {
        for cpu in 0..4 {
            let path = machine.path(&path.replace("cpu0", &format!("cpu{cpu}")));
            let _ = std::fs::remove_dir_all(&path);
            let _ = std::fs::remove_file(&path);
        }
        // With the process goes the list of its cores.
        let told = machine.check(&["--cpus", "0-3"]);
        assert_eq!((told.code, told.state(setting).0), (0, "n.a."), "{setting}: {}", told.text);
    }
}

#[test]
fn a_process_that_is_not_serving_can_be_asked_about() {
    let told = Machine::well_set().check(&["--pid", "99", "--cpus", "0-3"]);
    assert_eq!((told.code, told.complaint.as_str()), (0, ""), "{}", told.text);
    assert!(told.text.contains("xksd is process 99 with 0 shards"), "{}", told.text);
}

#[test]
fn one_of_a_thing_is_told_as_one() {
    let machine = Machine::well_set();
    let heading = |cpus| machine.check(&["--cpus", cpus]).text.lines().next().unwrap().to_owned();
    assert_eq!(heading("0-1"), "cores 0-1; interface eno1; xksd is process 100 with 2 shards");
    machine.set("proc/100/task/103/comm", "xksd-shard-2");
    machine.set("proc/100/task/104/comm", "xksd-shard-2");
    assert_eq!(heading("0"), "core 0; interface eno1; xksd is process 100 with 1 shard");
    machine.set("sys/class/net/eno1/queues/rx-0/rps_cpus", "0f");
    for irq in 40..44 {
        machine.set(&format!("proc/irq/{irq}/smp_affinity_list"), "0");
    }
    let told = machine.check(&[]);
    for words in [" on 1 queue  ", " on 1 core  "] {
        assert!(told.text.contains(words), "{words}: {}", told.text);
    }
}

#[test]
fn io_uring_for_one_group_and_swap_that_the_unit_forbids_are_well() {
    let machine = Machine::well_set();
    machine.set("proc/sys/kernel/io_uring_disabled", "1");
    machine.set("proc/sys/kernel/io_uring_group", "998");
    machine.set("proc/swaps", "Filename Type\n/dev/sda2 partition");
    machine.set("sys/fs/cgroup/system.slice/xksd.service/memory.swap.max", "0");
    assert_eq!(machine.check(&[]).code, 0);
    machine.set("sys/fs/cgroup/system.slice/xksd.service/memory.swap.max", "max");
    assert_eq!(machine.check(&[]).state("swap").0, "advise");
}

#[test]
fn what_is_applied_can_be_undone_exactly() {
    let machine = Machine::as_delivered();
    let before = machine.files();
    let told = machine.check(&[]);
    assert_eq!(told.code, 1);
    assert_eq!(machine.files(), before, "looking changes nothing");

    let save = machine.path("saved");
    let told = machine.check(&["--apply", "--save", save.to_str().unwrap()]);
    assert_eq!(told.code, 0, "{}{}", told.text, told.complaint);
    assert_eq!(machine.check(&[]).advised(), Vec::<&str>::new());
    assert_eq!(machine.get("proc/sys/net/ipv4/tcp_retries2"), "8");
    assert_eq!(machine.get("proc/irq/42/smp_affinity_list"), "2");
    assert_eq!(machine.get("sys/class/net/eno1/queues/tx-3/xps_cpus"), "00000008");
    assert_eq!(machine.get("sys/devices/system/cpu/cpu1/cpuidle/state2/disable"), "1");

    let told = machine.check(&["--undo", save.to_str().unwrap()]);
    assert_eq!(told.code, 0, "{}{}", told.text, told.complaint);
    assert_eq!(machine.files(), before);
}

#[test]
fn what_was_saved_is_not_overwritten() {
    let machine = Machine::as_delivered();
    machine.set("saved", "the first one");
    let before = machine.files();
    let told = machine.check(&["--apply", "--save", machine.path("saved").to_str().unwrap()]);
    assert_eq!(told.code, 2);
    assert_eq!(machine.get("saved"), "the first one");
    assert_eq!(machine.files(), before);
}

#[test]
fn what_no_script_should_do_is_told_and_left() {
    let machine = Machine::well_set();
    machine.set("proc/sys/kernel/io_uring_disabled", "2");
    machine.set("sys/devices/system/cpu/isolated", "2-3");
    machine.set("sys/class/net/eno1/device/numa_node", "1");
    let before = machine.files();
    let told = machine.check(&["--apply"]);
    assert_eq!(told.code, 1);
    for word in ["kernel.io_uring_group", "boot parameter isolcpus", "CPUAffinity=4-7"] {
        let by_hand =
            told.text.lines().any(|line| line.starts_with("By hand: ") && line.contains(word));
        assert!(by_hand, "{word}: {}", told.text);
    }
    assert_eq!(machine.files(), before);
}

#[test]
fn undo_writes_only_where_apply_does() {
    let machine = Machine::well_set();
    let before = machine.files();
    for line in [
        "/etc/passwd root",
        "/sys/../etc/passwd x",
        "/proc/sys/net/../../1/mem x",
        "/proc/100/status x",
        "sys/x 1",
        "",
    ] {
        machine.set("saved", &format!("# comment\n/proc/sys/net/core/somaxconn 128\n{line}"));
        let told = machine.check(&["--undo", machine.path("saved").to_str().unwrap()]);
        assert_eq!(told.code, 2, "{line}: {}", told.text);
    }
    assert_eq!(machine.files(), before);
    // What has gone since cannot be put back, the rest is.
    machine.set(
        "saved",
        "/proc/sys/net/core/somaxconn 128\n/sys/class/net/gone0/queues/rx-0/rps_cpus 0f",
    );
    let told = machine.check(&["--undo", machine.path("saved").to_str().unwrap()]);
    assert_eq!(told.code, 1);
    assert_eq!(machine.get("proc/sys/net/core/somaxconn"), "128");
}

#[test]
fn one_receive_queue_for_many_cores_is_spread_by_software() {
    let machine = Machine::well_set();
    for at in 1..4 {
        std::fs::remove_dir_all(machine.path(&format!("sys/class/net/eno1/queues/rx-{at}")))
            .unwrap();
    }
    assert_eq!(machine.check(&[]).state("RPS of interface").0, "advise");
    // Two cores have nothing to share.
    assert_eq!(machine.check(&["--cpus", "0-1"]).state("RPS of interface").0, "ok");
    machine.set("sys/devices/system/cpu/online", "0-39");
    assert_eq!(machine.check(&["--apply", "--cpus", "0-3,32"]).state("RPS of interface").0, "ok");
    assert_eq!(machine.get("sys/class/net/eno1/queues/rx-0/rps_cpus"), "00000001,0000000f");
}

#[test]
fn interrupts_are_judged_by_where_they_really_go() {
    let machine = Machine::well_set();
    for irq in 40..44 {
        machine.set(&format!("proc/irq/{irq}/smp_affinity_list"), "0-3");
        machine.set(&format!("proc/irq/{irq}/effective_affinity_list"), "0");
    }
    assert_eq!(machine.check(&[]).state("interrupts of interface").0, "advise");
}

#[test]
fn the_sysctl_file_sets_what_is_advised() {
    let file = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/sysctl.d/60-xksd.conf"),
    )
    .unwrap();
    let machine = Machine::as_delivered();
    let mut set = 0;
    for line in file.lines().filter(|line| !line.starts_with(['#', ';']) && !line.trim().is_empty())
    {
        let (name, value) = line.split_once('=').unwrap();
        let path = format!("proc/sys/{}", name.trim().trim_start_matches('-').replace('.', "/"));
        assert!(machine.path(&path).exists(), "{path} is not looked at");
        machine.set(&path, value.trim());
        set += 1;
    }
    assert!(set > 0);
    let told = machine.check(&[]);
    for line in told.advised() {
        assert!(
            ["clocksource", "frequency", "idle", "interrupts", "RPS", "XPS"]
                .iter()
                .any(|other| line[8..].starts_with(other)),
            "{line}"
        );
    }
}

#[test]
fn wrong_usage_is_2_and_says_what() {
    let machine = Machine::well_set();
    for (arguments, word) in [
        (&["--wrong"][..], "--wrong"),
        (&["--undo"], "--undo"),
        (&["--undo", "/nowhere"], "/nowhere"),
        (&["--save", ""], "--save"),
        (&["--pid", "4711"], "4711"),
        (&["--interface", "eno2"], "eno2"),
        (&["--interface", "../x"], "../x"),
        (&["--cpus", "a-b"], "a-b"),
        (&["--cpus", "0-8"], "core 8"),
    ] {
        let told = machine.check(arguments);
        assert_eq!(told.code, 2, "{arguments:?}: {}", told.text);
        assert!(told.complaint.contains(word), "{arguments:?}: {}", told.complaint);
    }
    assert_eq!(check(None, &["--help"]).code, 0);
}
