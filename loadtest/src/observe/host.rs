//! This machine, as a report names it.

use std::fs;

use serde::{Deserialize, Serialize};

/// The machine that the load came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Name and version of the operating system.
    pub system: String,
    /// Name, release and architecture of the kernel.
    pub kernel: String,
    /// Model of the processor; empty where the kernel does not say.
    pub cpu: String,
    /// Cores that run.
    pub cores: usize,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Whether a hypervisor says that it is one: a virtual machine shares its cores with others.
    pub is_virtual: bool,
}

impl Host {
    /// This machine.
    pub fn own() -> Host {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let cpu = read("/proc/cpuinfo");
        let kilobytes = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.strip_suffix("kB")?.trim().parse::<u64>().ok());
        let system = field(&read("/etc/os-release"), "PRETTY_NAME");
        Host {
            name: text(uname.nodename()),
            system: system.unwrap_or_default().trim_matches('"').to_owned(),
            kernel: format!(
                "{} {} {}",
                text(uname.sysname()),
                text(uname.release()),
                text(uname.machine())
            ),
            cores: field_count(&cpu, "processor"),
            is_virtual: field(&cpu, "flags").is_some_and(|flags| has_word(&flags, "hypervisor")),
            cpu: field(&cpu, "model name").unwrap_or_default(),
            memory_bytes: kilobytes.unwrap_or_default() * 1024,
        }
    }
}

/// Name and value of a line, which `:` or `=` parts.
fn parts(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once([':', '='])?;
    Some((name.trim(), value.trim()))
}

fn field(text: &str, name: &str) -> Option<String> {
    let (_, value) = text.lines().filter_map(parts).find(|(found, _)| *found == name)?;
    Some(value.to_owned())
}

fn field_count(text: &str, name: &str) -> usize {
    text.lines().filter_map(parts).filter(|(found, _)| *found == name).count()
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_ascii_whitespace().any(|found| found == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_name_and_cores() {
        let host = Host::own();
        assert!(!host.name.is_empty() && host.kernel.starts_with("Linux "), "{host:?}");
        assert!(host.cores > 0 && host.memory_bytes > 1 << 20, "{host:?}");
    }

    #[test]
    fn fields_of_proc_and_of_os_release() {
        let cpu = "processor\t: 0\nmodel name\t: A: B\nflags\t\t: a hypervisor\n\nprocessor\t: 1\n";
        assert_eq!(field(cpu, "model name").as_deref(), Some("A: B"));
        assert_eq!((field_count(cpu, "processor"), field(cpu, "model")), (2, None));
        assert!(has_word("a hypervisor", "hypervisor") && !has_word("hypervisors", "hypervisor"));
        assert_eq!(field("PRETTY_NAME=\"Debian\"", "PRETTY_NAME").as_deref(), Some("\"Debian\""));
    }
}
