//! A token on another machine, which p11-kit's server gives away and its client module reaches.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use test_harness::hsm_sim::KEY;
use test_harness::token::PIN;
use test_harness::{Installation, eventually, programs, softhsm};

use crate::client::Load;
use crate::proxy::{Proxy, key_store};

const SESSIONS: usize = 4;

/// `p11-kit server` with SoftHSM behind it. It makes a process for each client, which ends with it.
struct Remote {
    directory: PathBuf,
    server: Child,
}

impl Remote {
    fn start(directory: &Path) -> Remote {
        let socket = socket(directory);
        let _ = std::fs::remove_file(&socket);
        let server = programs::p11_kit("p11-kit-server");
        let beside = server.parent().expect("a folder");
        let path = std::env::var("PATH").expect("a PATH");
        let server = Command::new(&server)
            .args(["--foreground", "--provider"])
            .arg(softhsm::module())
            .arg("--name")
            .arg(&socket)
            .arg("pkcs11:token=hsm")
            .env("SOFTHSM2_CONF", directory.join("softhsm2.conf"))
            .env("PATH", format!("{}:{path}", beside.display()))
            .env("P11_KIT_PRIVATEDIR", beside)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("runs");
        eventually("a remote token", || socket.exists());
        Remote { directory: directory.to_owned(), server }
    }

    /// To the server and its processes.
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.server.id()).expect("a pid")).expect("a pid");
        kill_process_group(pid, signal).expect("they live");
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.server.wait().expect("ended");
    }

    fn restart(&mut self) {
        *self = Remote::start(&self.directory.clone());
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if self.server.try_wait().expect("waits").is_none() {
            self.kill();
        }
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("remote.sock")
}

fn place() -> (Remote, Proxy) {
    let (installation, remote, manager) = parts();
    let server = Proxy::start(installation, &[manager, key_store("/s", &["remote"])]);
    server.wait_until_ready();
    server.wait_for_sessions("remote", SESSIONS as u64);
    (remote, server)
}

/// An installation, its token on another machine, and the key manager that reaches it.
fn parts() -> (Installation, Remote, String) {
    let installation = Installation::default();
    // For its token; the simulator in front of it is left out.
    let token = installation.hsm("hsm", "").name.clone();
    let remote = Remote::start(installation.path());
    let manager = format!(
        "[[key_manager]]\nname = \"remote\"\nkind = \"pkcs11\"\nmodule = {:?}\ntoken = {token:?}\npin \
         = {{ value = {PIN:?} }}\nsessions = {SESSIONS}\nenvironment = {{ P11_KIT_SERVER_ADDRESS = \
         \"unix:path={}\" }}\n",
        programs::p11_kit("p11-kit-client.so"),
        socket(installation.path()).display()
    );
    (installation, remote, manager)
}

/// All clients are answered, with nothing but faults once what was under way has ended.
fn is_told(load: &Load) {
    eventually("faults, and no silence", || {
        let tally = load.tally_during(Duration::from_millis(300));
        println!("{tally:?}");
        tally.good == 0 && tally.failed() > 0
    });
}

#[test]
fn a_remote_token_that_is_killed_comes_back_without_a_restart() {
    let (mut remote, mut server) = place();
    let load = server.load("/s", 3);
    load.serves(20);
    for _ in 0..3 {
        remote.kill();
        is_told(&load);
        assert_eq!(server.client("/s").fleet()["remote"], "UNAVAILABLE");
        remote.restart();
        println!("killed and back: serves after {:?}", load.serves(20));
    }
    // So quickly that hardly a call is made meanwhile.
    for _ in 0..3 {
        remote.kill();
        remote.restart();
        println!("restarted: serves after {:?}", load.serves(20));
    }
    server.wait_for_sessions("remote", SESSIONS as u64);
    load.end();
    assert!(server.is_running());
    server.kept_the_budget();
}

#[test]
fn a_remote_token_that_hangs_serves_again_when_it_goes_on() {
    let (remote, mut server) = place();
    let load = server.load("/s", 3);
    load.serves(20);
    for pause in [Duration::from_millis(500), Duration::from_secs(5)] {
        remote.signal(Signal::STOP);
        is_told(&load);
        std::thread::sleep(pause);
        remote.signal(Signal::CONT);
        println!("hung for {pause:?}: serves after {:?}", load.serves(20));
    }
    server.wait_for_sessions("remote", SESSIONS as u64);
    load.end();
    assert!(server.is_running());
    server.kept_the_budget();
}

/// A hang that ends with the death of what hangs.
#[test]
fn a_remote_token_that_hangs_and_is_killed_comes_back_without_a_restart() {
    let (mut remote, mut server) = place();
    let load = server.load("/s", 3);
    load.serves(20);
    remote.signal(Signal::STOP);
    is_told(&load);
    std::thread::sleep(Duration::from_secs(3));
    remote.kill();
    remote.restart();
    println!("hung and killed: serves after {:?}", load.serves(20));
    load.end();
    assert!(server.is_running());
    server.kept_the_budget();
}

/// The token only opens key files.
#[test]
fn keys_that_a_remote_token_has_opened_are_used_while_it_is_away_and_come_back_with_it() {
    let (installation, mut remote, manager) = parts();
    let near = format!(
        "[[key_manager]]\nname = \"near\"\nkind = \"wrapped\"\nfolder = \"keys\"\nunseal_with = \
         [\"remote\"]\nmaster = {KEY:?}\nrecheck_s = 1\nhsm_absent_max_s = 5\n"
    );
    let server = Proxy::start(installation, &[manager, near, key_store("/s", &["near"])]);
    let create = ["key", "create", "--key-manager", "near", "--label", KEY];
    let (code, told) = server.xksd(&create);
    assert_eq!(code, 0, "{told}");
    server.wait_event(&[&format!("key {KEY:?}"), "epoch 1 is in use"]);
    server.wait_until_ready();
    let near = || server.status()["wrapped_key_managers"][0].clone();
    let load = server.load("/s", 3);
    load.serves(20);
    remote.kill();
    eventually("it is noticed", || near()["hsm_absent_seconds"].is_u64());
    assert_eq!(near()["state"], "open");
    load.serves(20);
    eventually("it was away for too long", || near()["state"] == "hsm_away");
    is_told(&load);
    remote.restart();
    println!("killed and back: serves after {:?}", load.serves(20));
    // Away for so short that nobody is told anything but answers.
    remote.kill();
    remote.restart();
    load.serves(20);
    load.end();
    server.kept_the_budget();
}
