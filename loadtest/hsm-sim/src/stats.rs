//! Counters of the process, and the file they are written to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cryptoki_sys::{CK_RV, CKR_OK};
use serde_json::{Map, Value, json};

use crate::calls::Call;
use crate::codes;
use crate::diagnostics::warn;
use crate::locks::lock;

/// Counted since the process started, over every C_Initialize.
pub static STATS: Stats = Stats::new();

/// A fault that was injected.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub enum InjectedFault {
    Error,
    Stall,
    Hang,
    SlowStart,
    Throttle,
    SessionCount,
    CorruptCiphertext,
    WrongPlaintext,
}

const FAULT_NAMES: [&str; 8] = [
    "error",
    "stall",
    "hang",
    "slow_start",
    "throttle",
    "session_count",
    "corrupt_ciphertext",
    "wrong_plaintext",
];

/// Counters.
pub struct Stats {
    calls: [AtomicU64; Call::ALL.len()],
    errors: Mutex<BTreeMap<(Call, CK_RV), u64>>,
    injected: [AtomicU64; FAULT_NAMES.len()],
    /// Calls that are in this module now.
    inside: AtomicU64,
    /// Calls that hang now.
    pub hung: AtomicU64,
    /// C_Finalize was called while other calls were in the module: the caller's mistake.
    pub finalized_while_busy: AtomicU64,
    /// Sessions open now.
    pub sessions_open: AtomicU64,
    /// Most sessions open at once.
    pub sessions_peak: AtomicU64,
    /// Sessions ever opened.
    pub sessions_opened: AtomicU64,
}

impl Stats {
    const fn new() -> Stats {
        Stats {
            calls: [const { AtomicU64::new(0) }; Call::ALL.len()],
            errors: Mutex::new(BTreeMap::new()),
            injected: [const { AtomicU64::new(0) }; FAULT_NAMES.len()],
            inside: AtomicU64::new(0),
            hung: AtomicU64::new(0),
            finalized_while_busy: AtomicU64::new(0),
            sessions_open: AtomicU64::new(0),
            sessions_peak: AtomicU64::new(0),
            sessions_opened: AtomicU64::new(0),
        }
    }

    /// A call comes in.
    pub fn enter(&self, call: Call) {
        self.calls[call as usize].fetch_add(1, Relaxed);
        self.inside.fetch_add(1, Relaxed);
    }

    /// A call goes out.
    pub fn leave(&self, call: Call, code: CK_RV) {
        self.inside.fetch_sub(1, Relaxed);
        if code != CKR_OK {
            *lock(&self.errors).entry((call, code)).or_insert(0) += 1;
        }
    }

    /// Calls that are in this module now.
    pub fn inside(&self) -> u64 {
        self.inside.load(Relaxed)
    }

    /// A fault was injected.
    pub fn injected(&self, what: InjectedFault) {
        self.injected[what as usize].fetch_add(1, Relaxed);
    }

    /// All of it as JSON. `units_busy_peak`: of the device; `control`: readings of the control file
    /// that were understood, and not.
    pub fn to_json(&self, units_busy_peak: u64, control: (u64, u64)) -> String {
        let calls: Map<String, Value> = Call::ALL
            .iter()
            .map(|call| (call.name().to_owned(), self.calls[*call as usize].load(Relaxed)))
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name, count.into()))
            .collect();
        let mut errors: BTreeMap<String, u64> = BTreeMap::new();
        let mut errors_by_call: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
        for ((call, code), count) in lock(&self.errors).iter() {
            let name = codes::name(*code);
            *errors.entry(name.clone()).or_insert(0) += count;
            errors_by_call.entry(call.name()).or_default().insert(name, *count);
        }
        let faults: Map<String, Value> = FAULT_NAMES
            .iter()
            .zip(&self.injected)
            .map(|(name, count)| ((*name).to_owned(), count.load(Relaxed).into()))
            .collect();
        let json = json!({
            "pid": std::process::id(),
            "calls": calls,
            "errors": errors,
            "errors_by_call": errors_by_call,
            "faults": faults,
            "sessions": {
                "open": self.sessions_open.load(Relaxed),
                "peak": self.sessions_peak.load(Relaxed),
                "opened": self.sessions_opened.load(Relaxed),
            },
            "units": { "busy_peak": units_busy_peak },
            "hung": self.hung.load(Relaxed),
            "finalized_while_busy": self.finalized_while_busy.load(Relaxed),
            "control": { "read": control.0, "refused": control.1 },
        });
        format!("{json:#}\n")
    }
}

/// The file that the counters are written to.
pub struct StatsFile {
    path: PathBuf,
    /// What it holds.
    written: Mutex<String>,
}

impl StatsFile {
    /// Nothing is written yet.
    pub fn new(path: PathBuf) -> StatsFile {
        StatsFile { path, written: Mutex::new(String::new()) }
    }

    /// Replaces the file, as a whole, if there is anything new.
    pub fn write(&self, text: String) {
        let mut written = lock(&self.written);
        if *written == text {
            return;
        }
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(format!(".{}", std::process::id()));
        let replaced = std::fs::write(&temporary, &text)
            .and_then(|()| std::fs::rename(&temporary, &self.path));
        if let Err(error) = replaced {
            warn(&format!("{}: {error}", self.path.display()));
        }
        *written = text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki_sys::CKR_DEVICE_ERROR;

    #[test]
    fn calls_and_errors_are_counted_by_name() {
        let stats = Stats::new();
        for code in [CKR_OK, CKR_OK, CKR_DEVICE_ERROR] {
            stats.enter(Call::C_Encrypt);
            stats.leave(Call::C_Encrypt, code);
        }
        stats.injected(InjectedFault::WrongPlaintext);
        let json: Value = serde_json::from_str(&stats.to_json(4, (1, 2))).unwrap();
        assert_eq!(json["calls"], json!({ "C_Encrypt": 3 }));
        assert_eq!(json["errors"], json!({ "CKR_DEVICE_ERROR": 1 }));
        assert_eq!(json["errors_by_call"], json!({ "C_Encrypt": { "CKR_DEVICE_ERROR": 1 } }));
        assert_eq!(json["faults"]["wrong_plaintext"], 1);
        assert_eq!(json["units"]["busy_peak"], 4);
        assert_eq!(json["control"], json!({ "read": 1, "refused": 2 }));
        assert_eq!(stats.inside(), 0);
    }

    #[test]
    fn the_file_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stats.json");
        let file = StatsFile::new(path.clone());
        file.write("1".to_owned());
        file.write("2".to_owned());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "2");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
