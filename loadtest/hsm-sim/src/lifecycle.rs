//! C_Initialize and C_Finalize, and the thread that runs in between.

use std::ffi::{CString, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use cryptoki_sys::*;

use crate::calls::Call;
use crate::config::{Config, this_module};
use crate::control::Control;
use crate::diagnostics::warn;
use crate::instance::Instance;
use crate::locks::{lock, read, write};
use crate::real;
use crate::stats::STATS;

static CURRENT: RwLock<Option<Arc<Instance>>> = RwLock::new(None);
/// One C_Initialize or C_Finalize at a time; holds the thread of the current instance.
static LIFECYCLE: Mutex<Option<Ticker>> = Mutex::new(None);

/// The control file is looked at this often when no call does.
const TICK: Duration = Duration::from_millis(20);
/// Counters are written every so many ticks: every 100 ms.
const TICKS_A_WRITE: u32 = 5;

/// The HSM that is initialised.
pub fn current() -> Result<Arc<Instance>, CK_RV> {
    read(&CURRENT).clone().ok_or(CKR_CRYPTOKI_NOT_INITIALIZED)
}

/// Reads the configuration, loads and initialises the real module.
///
/// # Safety
/// `arguments` is null or what C_Initialize takes.
pub unsafe fn initialize(arguments: *mut c_void) -> Result<(), CK_RV> {
    if current().is_ok() {
        return Err(CKR_CRYPTOKI_ALREADY_INITIALIZED);
    }
    let instance = match prepare() {
        Ok(instance) => Arc::new(instance),
        Err(problem) => {
            warn(&problem);
            return Err(CKR_GENERAL_ERROR);
        }
    };
    instance.simulate(Call::C_Initialize, None)?;
    if let Some(code) = instance.control.faults().initialize_fails {
        return Err(code.0);
    }
    if instance.control.faults().takes_signals {
        take_signals();
    }
    let mut ticker = lock(&LIFECYCLE);
    if current().is_ok() {
        return Err(CKR_CRYPTOKI_ALREADY_INITIALIZED);
    }
    let parameters = instance.config.library_parameters.as_deref();
    instance.open_gate(|functions| {
        // SAFETY: the caller's arguments, as this function was given them.
        unsafe { real::initialize(functions, arguments, parameters) }
    })?;
    *ticker = instance.needs_ticks().then(|| Ticker::start(&instance)).flatten();
    *write(&CURRENT) = Some(instance);
    Ok(())
}

/// As libraries do that were written for programs of their own.
fn take_signals() {
    extern "C" fn nothing(_: libc::c_int) {}
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: a handler that does nothing, in a module that stays loaded.
        unsafe { libc::signal(signal, nothing as *const () as libc::sighandler_t) };
    }
    // SAFETY: the default handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

fn prepare() -> Result<Instance, String> {
    let module = this_module();
    let config = Config::load(module.as_deref())?;
    let control = Control::open(config.control.clone())?;
    let functions = real::load(&config.module)?;
    if let Some(module) = module {
        stay_loaded(&module);
    }
    Ok(Instance::new(config, control, functions))
}

/// Keeps this module mapped whatever the program does: the ticking thread and calls that hang run
/// in it.
fn stay_loaded(module: &Path) {
    if let Ok(path) = CString::new(module.as_os_str().as_bytes()) {
        // SAFETY: RTLD_NOLOAD runs no code; it finds the module that is loaded already, and
        // RTLD_NODELETE marks it.
        unsafe {
            libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE)
        };
    }
}

/// Finalises the real module and writes the counters.
///
/// # Safety
/// `reserved` is what C_Finalize takes.
pub unsafe fn finalize(reserved: *mut c_void) -> Result<(), CK_RV> {
    // This call is one of those inside.
    if STATS.inside() > 1 {
        STATS.finalized_while_busy.fetch_add(1, Ordering::Relaxed);
    }
    let instance = current()?;
    instance.simulate(Call::C_Finalize, None)?;
    let mut ticker = lock(&LIFECYCLE);
    instance.close_gate(|functions| match functions.C_Finalize {
        // SAFETY: the caller's argument; nobody else is in the real module.
        Some(finalize) => unsafe { finalize(reserved) },
        None => CKR_FUNCTION_NOT_SUPPORTED,
    })?;
    *write(&CURRENT) = None;
    if let Some(ticker) = ticker.take() {
        ticker.stop();
    }
    instance.write_stats();
    Ok(())
}

/// The thread that looks at the control file when no call does, and writes the counters.
struct Ticker {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Ticker {
    fn start(instance: &Arc<Instance>) -> Option<Ticker> {
        let (stop, stopped) = channel();
        let instance = instance.clone();
        let thread = std::thread::Builder::new()
            .name("hsm-sim".to_owned())
            .spawn(move || tick(&instance, &stopped));
        match thread {
            Ok(thread) => Some(Ticker { stop, thread }),
            Err(error) => {
                warn(&format!("no thread for counters and control file: {error}"));
                None
            }
        }
    }

    fn stop(self) {
        drop(self.stop);
        // A panic of the thread was printed when it happened; there is nothing to add.
        let _ = self.thread.join();
    }
}

fn tick(instance: &Instance, stopped: &Receiver<()>) {
    let mut ticks = 0u32;
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(TICK) {
        instance.poll_control();
        ticks = ticks.wrapping_add(1);
        if ticks.is_multiple_of(TICKS_A_WRITE) {
            instance.write_stats();
        }
    }
}
