//! How often a secret stands in the memory of a process.
//!
//! All pages that the process can write to and that are in memory or in swap are read through
//! `/proc/PID/mem`. That needs the rights of ptrace(2): root, or one's own process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

/// What is searched for. Masked, so that the searcher has no copy of it.
#[derive(Clone, Debug)]
pub struct Needle(Vec<u8>);

const MASK: u8 = 0xa5;
/// Read at a time.
const CHUNK_BYTES: usize = 1 << 20;
/// In an entry of /proc/PID/pagemap.
const PRESENT_OR_SWAPPED: u64 = 0b11 << 62;

impl Needle {
    /// The caller's copy is the caller's to wipe.
    pub fn new(secret: &[u8]) -> Needle {
        assert!(secret.len() >= 8, "would be found by chance");
        Needle(secret.iter().map(|byte| byte ^ MASK).collect())
    }

    fn is_at(&self, text: &[u8]) -> bool {
        self.0.iter().zip(text).all(|(masked, byte)| masked ^ MASK == *byte)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Scan {
    /// For each needle where it stands: address and name of the mapping.
    pub copies: Vec<BTreeSet<String>>,
    /// Mappings that could not be read, by their line in `/proc/PID/maps`: memfd_secret's, those of
    /// devices, and what was unmapped meanwhile.
    pub unread: Vec<String>,
}

impl Scan {
    /// Whether the process has memory of memfd_secret, and this process could not read it.
    pub fn met_secret_memory(&self) -> bool {
        self.unread.iter().any(|line| line.contains("/secretmem"))
    }
}

/// Searches a process. None if this one may not read it.
pub fn scan(pid: u32, needles: &[Needle]) -> Option<Scan> {
    let open = |name: &str| File::open(format!("/proc/{pid}/{name}"));
    let (memory, pages) = match open("mem").and_then(|memory| Ok((memory, open("pagemap")?))) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return None,
        Err(error) => panic!("process {pid}: {error}"),
    };
    // Another search of this process would find what this one has just read.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let copies = vec![BTreeSet::new(); needles.len()];
    let mut search = Search { needles, scan: Scan { copies, unread: Vec::new() } };
    let mut buffer = vec![0; CHUNK_BYTES];
    // What is found there are copies that were just read, if it is this process that is searched.
    let own = buffer.as_ptr_range();
    let own = if pid == std::process::id() { own.start as u64..own.end as u64 } else { 0..0 };
    let overlap = needles.iter().map(|needle| needle.0.len()).max().unwrap_or(1) as u64 - 1;
    for line in maps.lines() {
        let Some(mapping) = Mapping::parse(line) else { continue };
        for run in mapping.present(&pages) {
            let mut at = run.start;
            while at < run.end {
                let end = run.end.min(at + CHUNK_BYTES as u64);
                let chunk = &mut buffer[..(end - at) as usize];
                match memory.read_exact_at(chunk, at) {
                    Ok(()) => search.look_through(chunk, at, mapping.name, &own),
                    Err(_) => search.scan.unread.push(line.to_owned()),
                }
                at = if end == run.end { end } else { end - overlap };
            }
        }
    }
    std::hint::black_box(&mut buffer).fill(0);
    std::hint::black_box(&buffer);
    Some(search.scan)
}

struct Search<'a> {
    needles: &'a [Needle],
    scan: Scan,
}

impl Search<'_> {
    fn look_through(&mut self, chunk: &[u8], start: u64, name: &str, own: &Range<u64>) {
        for (needle, copies) in self.needles.iter().zip(&mut self.scan.copies) {
            let first = needle.0[0] ^ MASK;
            for at in 0..(chunk.len() + 1).saturating_sub(needle.0.len()) {
                let address = start + at as u64;
                if chunk[at] == first && needle.is_at(&chunk[at..]) && !own.contains(&address) {
                    copies.insert(format!("{address:#x} {name}"));
                }
            }
        }
    }
}

/// A mapping that the process can write to.
struct Mapping<'a> {
    addresses: Range<u64>,
    name: &'a str,
}

impl Mapping<'_> {
    /// Of a line of `/proc/PID/maps`.
    fn parse(line: &str) -> Option<Mapping<'_>> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        words.next().filter(|rights| rights.starts_with("rw"))?;
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let name = words.nth(3).unwrap_or("anonymous");
        Some(Mapping { addresses: address(start)..address(end), name })
    }

    /// Runs of pages that there is something in.
    fn present(&self, pages: &File) -> Vec<Range<u64>> {
        let page = rustix::param::page_size() as u64;
        let Range { start, end } = self.addresses;
        let mut entries = vec![0; ((end - start) / page * 8) as usize];
        if pages.read_exact_at(&mut entries, start / page * 8).is_err() {
            return std::iter::once(start..end).collect();
        }
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (entry, n) in entries.chunks_exact(8).zip(0..) {
            let entry = u64::from_ne_bytes(entry.try_into().expect("8"));
            if entry & PRESENT_OR_SWAPPED == 0 {
                continue;
            }
            let at = start + n * page;
            match runs.last_mut() {
                Some(last) if last.end == at => last.end += page,
                _ => runs.push(at..at + page),
            }
        }
        runs
    }
}

/// Makes memfd_secret fail with `errno` in this thread from now on, and in what it starts. Safe
/// between fork and exec.
pub fn forbid_secret_memory(errno: i32) -> io::Result<()> {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0), // the call's number
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_memfd_secret as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_ptr().cast_mut() };
    // SAFETY: a filter of four instructions, which the kernel copies.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}
