//! The real binary as a child process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{Installation, PATIENCE, eventually, programs};

/// What it has written to standard error, line by line.
#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Log {
    /// Also for a test that failed while it held it.
    fn lock(&self) -> MutexGuard<'_, (Vec<String>, bool)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it is held, nobody reads the child's standard error.
pub type Stall = Arc<Mutex<()>>;

pub struct Server {
    child: Child,
    log: Arc<Log>,
    stall: Stall,
    pub port: u16,
    pub admin: u16,
}

impl Server {
    /// Starts `wrapper… xksd serve` on the installation's configuration and waits until it is
    /// ready.
    pub fn start(
        installation: &Installation,
        wrapper: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let server = Self::spawn(installation, wrapper, change);
        server.wait_until_ready();
        server
    }

    /// Starts it and waits until it listens. The configuration must have an admin listener.
    pub fn spawn(
        installation: &Installation,
        wrapper: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let config = installation.config_file();
        let (xksd, config) = (programs::xksd(), config.as_path());
        let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
        let serve = [&text(&xksd), "serve", "--config", &text(config)];
        let words = [wrapper, &serve].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        if let Some(configuration) = installation.softhsm_configuration() {
            command.env("SOFTHSM2_CONF", configuration);
        }
        command.stdin(Stdio::null());
        change(&mut command);
        Self::run(&mut command)
    }

    /// Runs a command that serves (with an admin listener) and waits until it listens.
    pub fn run(command: &mut Command) -> Self {
        Self::run_child(command).0
    }

    /// As [`Server::run`], with the standard output that the command was given a pipe for.
    pub fn run_with_output(command: &mut Command) -> (Self, ChildStdout) {
        let (server, output) = Self::run_child(command);
        (server, output.expect("piped"))
    }

    /// Runs a command that serves on these ports, with the standard error that it was given: nobody
    /// reads a log.
    pub fn run_unread(command: &mut Command, port: u16, admin: u16) -> Self {
        let child = command.stdin(Stdio::null()).spawn().expect("starts");
        let (log, stall) = (Arc::new(Log::default()), Stall::default());
        let server = Self { child, log, stall, port, admin };
        let answers = || TcpStream::connect(("127.0.0.1", admin)).is_ok() && server.is_ready();
        eventually("ready", answers);
        server
    }

    fn run_child(command: &mut Command) -> (Self, Option<ChildStdout>) {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
        let (log, stall) = (Arc::new(Log::default()), Stall::default());
        let reader = BufReader::new(child.stderr.take().expect("piped"));
        let (shared, gate) = (log.clone(), stall.clone());
        std::thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                shared.lock().0.push(line);
                shared.changed.notify_all();
                drop(gate.lock());
            }
            shared.lock().1 = true;
            shared.changed.notify_all();
        });
        let output = child.stdout.take();
        let mut server = Self { child, log, stall, port: 0, admin: 0 };
        let port = |message: &str, before: &str| {
            let digits =
                message.split_once(before)?.1.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse::<u16>().ok()
        };
        server.admin = server.wait_for("the admin listener", |line| {
            port(line, "admin listener on http://127.0.0.1:")
        });
        server.port = server.wait_for("the listener", |line| port(line, "serves on 127.0.0.1:"));
        (server, output)
    }

    /// The `Host` of requests.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All lines so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().0.clone()
    }

    /// The first line, old or new, of which `pick` gives something.
    pub fn wait_for<T>(&self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        let start = Instant::now();
        let mut lines = self.log.lock();
        let mut seen = 0;
        loop {
            for line in &lines.0[seen..] {
                if let Some(found) = pick(line) {
                    return found;
                }
            }
            seen = lines.0.len();
            assert!(
                !lines.1 && start.elapsed() < PATIENCE,
                "no line says {what}:\n{}",
                lines.0.join("\n")
            );
            lines =
                self.log.changed.wait_timeout(lines, Duration::from_millis(100)).expect("whole").0;
        }
    }

    /// The message of the first event that has all these words.
    pub fn wait_event(&self, words: &[&str]) -> String {
        self.wait_for(&format!("{words:?}"), |line| {
            let json: Value = serde_json::from_str(line).ok()?;
            let message = json["message"].as_str()?;
            words.iter().all(|word| message.contains(word)).then(|| message.to_owned())
        })
    }

    /// The log line of the request with this kmsRequestId.
    pub fn request_line(&self, id: &str) -> Value {
        self.wait_for(id, |line| {
            serde_json::from_str::<Value>(line).ok().filter(|json| json["kmsRequestId"] == id)
        })
    }

    /// From now on nobody reads its standard error, until the guard goes.
    pub fn stall_log(&self) -> Stall {
        self.stall.clone()
    }

    /// GET on the admin listener: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.admin_request(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
    }

    /// Bytes to the admin listener: status and body of the answer.
    pub fn admin_request(&self, request: &str) -> (u16, String) {
        let (head, body) = self.admin_answer(request);
        (head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status"), body)
    }

    /// The same with the whole head.
    pub fn admin_answer(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin)).expect("the admin listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let (head, body) =
            answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
        (head.to_owned(), body.to_owned())
    }

    /// A sample of `/metrics`, by its name and labels as they stand there; 0 where it is not.
    pub fn metric(&self, sample: &str) -> f64 {
        let (status, text) = self.get("/metrics");
        assert_eq!(status, 200);
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// `/status` as JSON.
    pub fn status(&self) -> Value {
        let (status, text) = self.get("/status");
        assert_eq!(status, 200);
        serde_json::from_str(&text).expect("JSON")
    }

    pub fn is_ready(&self) -> bool {
        self.get("/readyz").0 == 200
    }

    pub fn wait_until_ready(&self) -> Duration {
        eventually("ready", || self.is_ready())
    }

    /// What `/status` says of a key manager.
    pub fn key_manager(&self, name: &str) -> Value {
        let status = self.status();
        let all = status["key_managers"].as_array().expect("an array");
        all.iter().find(|one| one["name"] == name).expect("configured").clone()
    }

    /// Sessions of a key manager: open and hung.
    pub fn sessions(&self, name: &str) -> (u64, u64) {
        let sessions = &self.key_manager(name)["sessions"];
        let count = |state: &str| sessions[state].as_u64().expect("a number");
        (count("open"), count("hung"))
    }

    pub fn wait_for_sessions(&self, name: &str, open: u64) -> Duration {
        eventually(&format!("{open} sessions of {name} open, none hung"), || {
            self.sessions(name) == (open, 0)
        })
    }

    fn json_log(&self) -> impl Iterator<Item = Value> {
        // What a module writes to standard error is no line of the log.
        self.log().into_iter().filter_map(|line| serde_json::from_str(&line).ok())
    }

    /// Messages of the events so far.
    pub fn messages(&self) -> Vec<String> {
        self.json_log().filter_map(|line| Some(line["message"].as_str()?.to_owned())).collect()
    }

    /// Log lines of the requests so far.
    pub fn requests(&self) -> Vec<Value> {
        self.json_log().filter(|line| line["event"] == "request").collect()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("it lives");
    }

    /// SIGHUP, and the event that says what became of it.
    pub fn reload(&self) -> String {
        let told = |lines: &[String]| lines.iter().filter(|line| line.contains("reloaded")).count();
        // Lines of a reload before this one may still gather, for 50 ms.
        std::thread::sleep(Duration::from_millis(100));
        let before = told(&self.log());
        self.signal(Signal::HUP);
        eventually("a reload", || told(&self.log()) > before);
        let lines = self.log();
        let line = lines.iter().rfind(|line| line.contains("reloaded")).expect("told");
        serde_json::from_str::<Value>(line).expect("JSON")["message"]
            .as_str()
            .expect("a message")
            .to_owned()
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("its end", || {
            status = self.child.try_wait().expect("waits");
            status.is_some()
        });
        status.expect("ended")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("waits").is_none()
    }

    /// SIGKILL, and its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGTERM, and its end: exit code and log.
    pub fn stop(mut self) -> (Option<i32>, Vec<String>) {
        self.terminate();
        let code = self.wait().code();
        eventually("the log's end", || self.log.lock().1);
        (code, self.log())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let (requests, events): (Vec<_>, Vec<_>) =
                self.log().into_iter().partition(|line| line.contains("\"event\":\"request\""));
            let last = |lines: &[String], n| lines[lines.len().saturating_sub(n)..].join("\n");
            eprintln!("log of xksd:\n{}", last(&events, 60));
            eprintln!("its last requests:\n{}", last(&requests, 12));
        }
    }
}
