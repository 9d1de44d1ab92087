//! The configuration file: how the HSM is in its good days. It is read at each C_Initialize.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::calls::{Call, Calls};
use crate::codes::Code;

/// The environment variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "HSM_SIM_CONFIG";

/// Longest wire or service time, microseconds. Hangs are the control file's.
const TIME_US_MAX: u64 = 60_000_000;

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// The real module.
    pub module: PathBuf,
    /// Handed to the real module's C_Initialize the way NSS takes it.
    pub library_parameters: Option<String>,
    /// Of all that is random but IVs.
    pub seed: u64,
    /// The file that switches faults.
    pub control: Option<PathBuf>,
    /// The file that counters are written to.
    pub stats: Option<PathBuf>,
    /// Sessions open at once over all slots.
    pub sessions_max: Option<u64>,
    /// Calls that fail with CKR_SESSION_READ_ONLY in a read-only session.
    pub read_write_calls: Calls,
    /// The network.
    pub wire: Option<Wire>,
    /// The units that compute.
    pub device: Option<Device>,
    /// What is particular about AES-GCM.
    pub gcm: Gcm,
}

/// The network between client library and device.
#[derive(Debug)]
pub struct Wire {
    /// Of one call, there and back.
    pub time: WireTime,
    /// That take it.
    pub calls: Calls,
}

/// How long one call is on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WireTime {
    /// Always the same.
    Fixed {
        /// Microseconds.
        us: u64,
    },
    /// Lognormal: the usual shape of network and queueing delays, with a tail.
    Lognormal {
        /// Median, microseconds.
        p50_us: f64,
        /// 99th percentile, microseconds.
        p99_us: f64,
    },
}

/// The units that compute.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// That work at once.
    pub units: u32,
    /// Time of one call on a unit, microseconds.
    pub service_us: u64,
    /// That need a unit.
    #[serde(default = "calls_that_compute")]
    pub calls: Calls,
    /// What is refused when the queue is long; without it, calls wait.
    pub throttle: Option<Throttle>,
}

/// How the device refuses what it has no time for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttle {
    /// A call that would wait longer than this for a unit is refused, microseconds.
    pub wait_us_max: u64,
    /// With this code.
    pub code: Code,
}

/// What is particular about AES-GCM.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gcm {
    /// The device does not have it.
    #[serde(default)]
    pub absent: bool,
    /// Who makes the IV of an encryption.
    #[serde(default)]
    pub iv: IvMode,
    /// When mode `fill` writes the IV.
    #[serde(default)]
    pub iv_written: IvWritten,
    /// What a decryption with a tag that does not match returns; the real module's code where left
    /// out.
    pub bad_tag: Option<Code>,
}

/// Who makes the IV of an encryption.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IvMode {
    /// The caller, as in the standard.
    #[default]
    Caller,
    /// The device: the caller gives zeros and finds the IV in their place.
    Fill,
    /// The device: the caller gives none and finds 16 bytes after the tag.
    Append,
}

/// When mode `fill` writes the IV into the caller's buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IvWritten {
    /// In C_EncryptInit.
    #[default]
    Init,
    /// In C_Encrypt or C_EncryptFinal: the caller's buffer must live until then.
    Encrypt,
}

fn calls_that_compute() -> Calls {
    Calls::which(Call::computes)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    module: PathBuf,
    library_parameters: Option<String>,
    #[serde(default)]
    seed: u64,
    control: Option<PathBuf>,
    stats: Option<PathBuf>,
    sessions_max: Option<u64>,
    #[serde(default)]
    read_write_calls: Calls,
    wire: Option<RawWire>,
    device: Option<Device>,
    #[serde(default)]
    gcm: Gcm,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWire {
    fixed_us: Option<u64>,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
    calls: Option<Calls>,
}

impl Config {
    /// From the file `<this module>.toml` beside the module itself, else from the one that
    /// HSM_SIM_CONFIG names. The first makes several HSMs in one process possible: copy the module
    /// under several names.
    pub fn load(this_module: Option<&Path>) -> Result<Config, String> {
        let beside = this_module.map(|module| {
            let mut name = module.as_os_str().to_owned();
            name.push(".toml");
            PathBuf::from(name)
        });
        let path = match (beside.filter(|path| path.is_file()), std::env::var_os(CONFIG_VARIABLE)) {
            (Some(path), _) => path,
            (None, Some(path)) => PathBuf::from(path),
            (None, None) => {
                return Err(format!("{CONFIG_VARIABLE} does not name a configuration file"));
            }
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        Config::parse(&text, path.parent().unwrap_or(Path::new(".")))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// From a file's text; relative paths start at `directory`.
    fn parse(text: &str, directory: &Path) -> Result<Config, String> {
        let raw: RawConfig = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut problems = Vec::new();
        let wire = raw.wire.and_then(|wire| {
            let time = match (wire.fixed_us, wire.p50_us, wire.p99_us) {
                (Some(us), None, None) if us <= TIME_US_MAX => Some(WireTime::Fixed { us }),
                (None, Some(p50_us), Some(p99_us))
                    if p50_us > 0.0 && p50_us <= p99_us && p99_us <= TIME_US_MAX as f64 =>
                {
                    Some(WireTime::Lognormal { p50_us, p99_us })
                }
                _ => {
                    problems.push(
                        "wire: give fixed_us, or p50_us and p99_us with 0 < p50_us <= \
                        p99_us; 60 s at most",
                    );
                    None
                }
            };
            time.map(|time| Wire {
                time,
                calls: wire.calls.unwrap_or_else(|| Calls::which(Call::reaches_device)),
            })
        });
        if let Some(device) = &raw.device {
            if !(1..=65_536).contains(&device.units) {
                problems.push("device.units: 1 to 65536");
            }
            if device.service_us > TIME_US_MAX {
                problems.push("device.service_us: 60 s at most");
            }
        }
        if !problems.is_empty() {
            return Err(problems.join("; "));
        }
        // A bare name is looked for by the dynamic linker, as it always is.
        let module = if raw.module.as_os_str().as_bytes().contains(&b'/') {
            directory.join(raw.module)
        } else {
            raw.module
        };
        Ok(Config {
            module,
            library_parameters: raw.library_parameters,
            seed: raw.seed,
            control: raw.control.map(|path| directory.join(path)),
            stats: raw.stats.map(|path| directory.join(path)),
            sessions_max: raw.sessions_max,
            read_write_calls: raw.read_write_calls,
            wire,
            device: raw.device,
            gcm: raw.gcm,
        })
    }
}

/// The file this module was loaded from.
pub fn this_module() -> Option<PathBuf> {
    // SAFETY: Dl_info is plain pointers, for which zero is a valid value.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: dladdr looks the address up and writes `info`; any address may be asked for.
    let found = unsafe { libc::dladdr(this_module as *const libc::c_void, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr said that dli_fname is the path of a loaded object: a C string that lives as
    // long as the object, which is this code.
    let path = unsafe { std::ffi::CStr::from_ptr(info.dli_fname) };
    Some(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("/etc/hsm"))
    }

    #[test]
    fn a_full_file_is_understood() {
        let config = parse(
            r#"
            module = "softhsm.so"
            seed = 7
            control = "control.toml"
            stats = "/run/stats.json"
            sessions_max = 32
            read_write_calls = "C_GenerateKey"
            [wire]
            p50_us = 800
            p99_us = 4000.5
            calls = ["C_Encrypt", "C_Decrypt"]
            [device]
            units = 16
            service_us = 400
            throttle = { wait_us_max = 5000, code = "CKR_FUNCTION_FAILED" }
            [gcm]
            iv = "fill"
            iv_written = "encrypt"
            bad_tag = 0x80000001
            "#,
        )
        .unwrap();
        assert_eq!(config.module, Path::new("softhsm.so"));
        assert_eq!(config.control.as_deref(), Some(Path::new("/etc/hsm/control.toml")));
        assert_eq!(config.stats.as_deref(), Some(Path::new("/run/stats.json")));
        assert_eq!(config.read_write_calls, Calls::which(|call| call == Call::C_GenerateKey));
        let wire = config.wire.unwrap();
        assert_eq!(wire.time, WireTime::Lognormal { p50_us: 800.0, p99_us: 4000.5 });
        assert!(wire.calls.contains(Call::C_Decrypt) && !wire.calls.contains(Call::C_EncryptInit));
        let device = config.device.unwrap();
        assert!(device.calls.contains(Call::C_Sign) && !device.calls.contains(Call::C_SignInit));
        assert_eq!(config.gcm.iv, IvMode::Fill);
        assert_eq!(config.gcm.iv_written, IvWritten::Encrypt);
        assert_eq!(config.gcm.bad_tag, Some(Code(0x8000_0001)));
    }

    #[test]
    fn the_module_alone_is_enough() {
        let config = parse("module = \"./a.so\"").unwrap();
        assert_eq!(config.module, Path::new("/etc/hsm/./a.so"));
        assert!(config.wire.is_none() && config.device.is_none());
        assert_eq!(config.gcm.iv, IvMode::Caller);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "module = \"a\"\nmodul = 1",
            "module = \"a\"\n[wire]",
            "module = \"a\"\n[wire]\nfixed_us = 1\np50_us = 1\np99_us = 1",
            "module = \"a\"\n[wire]\np50_us = 2\np99_us = 1",
            "module = \"a\"\n[wire]\np50_us = nan\np99_us = 1",
            "module = \"a\"\n[wire]\nfixed_us = 60000001",
            "module = \"a\"\n[wire]\nfixed_us = 1\ncalls = \"C_Crypt\"",
            "module = \"a\"\n[device]\nunits = 0\nservice_us = 1",
            "module = \"a\"\n[device]\nunits = 1\nservice_us = 60000001",
            "module = \"a\"\n[gcm]\niv = \"none\"",
            "module = \"a\"\n[gcm]\nbad_tag = \"CKR_BAD_TAG\"",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(
            parse(
                "module = \"a\"\n[wire]\nfixed_us = 60000000\n[device]\nunits = \
            1\nservice_us = 60000000"
            )
            .is_ok()
        );
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let error =
            parse("module = \"a\"\n[wire]\n[device]\nunits = 0\nservice_us = 1").unwrap_err();
        assert!(error.contains("wire") && error.contains("units"), "{error}");
    }
}
