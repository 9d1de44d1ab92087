//! The log of the real server where it cannot be written: nothing stops, and what is lost is
//! counted and said.

use std::fs::{self, File, OpenOptions};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use test_harness::api::request_id;
use test_harness::{
    Api, Config, Installation, Request, Server, Wire, eventually, free_port, programs,
};

/// An installation whose server listens on ports that are known before.
struct Known {
    installation: Installation,
    port: u16,
    admin: u16,
}

impl Known {
    fn new() -> Self {
        Known::with("")
    }

    /// `more`: lines of `[server]`.
    fn with(more: &str) -> Self {
        let [port, admin] = [(); 2].map(|()| free_port());
        let mut config = Config::default();
        config.server = config.server.replace("127.0.0.1:0", &format!("127.0.0.1:{port}"));
        config.server += more;
        config.admin = config.admin.replace("127.0.0.1:0", &format!("127.0.0.1:{admin}"));
        Self { installation: Installation::new(&config), port, admin }
    }

    /// `wrapper… xksd serve`, with this standard error.
    fn serve(&self, wrapper: &[&str], stderr: impl Into<std::process::Stdio>) -> Server {
        let xksd = programs::xksd();
        let mut words = wrapper.iter().map(|word| word.to_string());
        let mut command = match words.next() {
            Some(program) => Command::new(program),
            None => Command::new(&xksd),
        };
        command.args(words);
        if !wrapper.is_empty() {
            command.arg(&xksd);
        }
        command.arg("serve").arg("--config").arg(self.installation.config_file());
        Server::run_unread(command.stderr(stderr), self.port, self.admin)
    }
}

const UNWRITABLE: &str = "xksd_log_lines_dropped_total{reason=\"unwritable\"}";

/// Serves, and counts each of these requests' lines.
fn serves_and_counts(known: &Known, server: &Server, why: &str) {
    let mut api = Api::new(&known.installation, server);
    let before = server.metric(UNWRITABLE);
    // Two calls each.
    (0..20).for_each(|_| api.round_trip("foo"));
    eventually("counted", || server.metric(UNWRITABLE) >= before + 40.0);
    let log = &server.status()["log"];
    assert!(log["lines_unwritable"].as_u64() >= Some(40), "{log}");
    assert!(log["write_error"].as_str().is_some_and(|error| error.contains(why)), "{log}");
    assert!(server.is_ready());
}

#[test]
fn a_full_disk_costs_lines_that_are_counted() {
    let known = Known::new();
    let full = OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
    let server = known.serve(&[], full);
    serves_and_counts(&known, &server, "No space left on device");
}

#[test]
fn a_reader_that_has_gone_costs_lines_that_are_counted() {
    let known = Known::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let server = known.serve(&[], writer);
    drop(reader);
    serves_and_counts(&known, &server, "Broken pipe");
}

/// A limit of the file's size stands for the disk: it can be freed.
#[test]
fn what_was_lost_is_said_once_lines_can_be_written_again() {
    const LIMIT_BYTES: u64 = 16 * 1024;
    let known = Known::new();
    let path = known.installation.path().join("log");
    let open = || OpenOptions::new().create(true).append(true).open(&path).expect("a file");
    let server = known.serve(&["prlimit", &format!("--fsize={LIMIT_BYTES}")], open());
    let mut api = Api::new(&known.installation, &server);
    eventually("a full log", || {
        api.round_trip("foo");
        server.metric(UNWRITABLE) > 0.0
    });
    assert_eq!(fs::metadata(&path).expect("there").len(), LIMIT_BYTES);
    File::options().write(true).open(&path).expect("a file").set_len(0).expect("freed");
    // Also while no request comes.
    let log = || fs::read_to_string(&path).expect("text");
    eventually("said", || log().contains("lines of this log are lost"));
    let (lost, log) = (server.metric(UNWRITABLE), log());
    let messages = log.lines().filter(|line| !line.is_empty()).map(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("torn: {line}"));
        line["message"].as_str().unwrap_or_default().to_owned()
    });
    let said: Vec<String> = messages.filter(|message| message.contains("are lost")).collect();
    assert_eq!(
        said,
        [format!(
            "{lost} lines of this log are lost: they could not be written (File too large (os \
             error 27))"
        )]
    );
    assert_eq!(server.status()["log"]["write_error"], Value::Null);
}

#[test]
fn a_log_in_a_file_is_opened_again_by_a_signal_and_its_level_changes_by_a_reload() {
    let known = Known::with("\nlog_output = \"./xksd.log\"\n");
    let server = known.serve(&[], std::process::Stdio::null());
    let mut api = Api::new(&known.installation, &server);
    let at = |name: &str| known.installation.path().join(name);
    let read = |name: &str| fs::read_to_string(at(name)).unwrap_or_default();
    let round_trips = |text: &str| text.matches("\"operation\":\"encrypt\"").count();
    api.round_trip("foo");
    eventually("written", || round_trips(&read("xksd.log")) == 1);
    fs::rename(at("xksd.log"), at("xksd.log.1")).expect("renamed");
    api.round_trip("foo");
    eventually("the old one", || round_trips(&read("xksd.log.1")) == 2);
    server.signal(rustix::process::Signal::USR1);
    let mut sent = 2;
    eventually("opened again", || {
        api.round_trip("foo");
        sent += 1;
        round_trips(&read("xksd.log")) > 0
    });
    let both = || round_trips(&read("xksd.log.1")) + round_trips(&read("xksd.log"));
    eventually("all written", || both() == sent);
    let config = known.installation.config_file();
    let text = fs::read_to_string(&config).expect("there");
    known
        .installation
        .write("xksd.toml", &text.replace("log_output", "log_level = \"warn\"\nlog_output"));
    let xksd = |words: &[&str]| {
        let done = Command::new(programs::xksd()).args(words).arg("--config").arg(&config).output();
        assert!(done.as_ref().is_ok_and(|done| done.status.success()), "{done:?}");
    };
    xksd(&["reload"]);
    let before = round_trips(&read("xksd.log"));
    api.round_trip("foo");
    let _ = api.error(
        "keys/nobody/encrypt",
        &test_harness::api::encrypt_body(b"", &serde_json::json!({})),
    );
    eventually("only what failed", || read("xksd.log").contains("KeyNotFoundException"));
    assert_eq!(round_trips(&read("xksd.log")), before + 1);
}

/// The place of the log, its form, and where the test finds it.
const PLACES: [(&str, &str, &str); 3] =
    [("./a.log", "json", "a.log"), ("stderr", "text", "stderr.log"), ("./b.log", "json", "b.log")];

#[test]
fn a_reload_moves_the_log_under_load_and_no_line_is_lost_or_doubled() {
    let known = Known::new();
    let stderr = File::create(known.installation.path().join("stderr.log")).expect("a file");
    let mut server = known.serve(&[], stderr);
    let text = fs::read_to_string(known.installation.config_file()).expect("there");
    let place = |output: &str, format: &str| {
        let keys = format!("log = \"{format}\"\nlog_output = \"{output}\"\nregions");
        known.installation.write("xksd.toml", &text.replacen("regions", &keys, 1));
        known.installation.reload(&[])
    };
    let done = AtomicBool::new(false);
    let client = || {
        let (mut wire, mut sent) = (Wire::connect(&known.installation, &server), Vec::new());
        while !done.load(Ordering::Relaxed) {
            let id = request_id();
            assert_eq!(wire.call(&Request::health(&server, &id)).status, 200);
            sent.push(id);
        }
        sent
    };
    let sent: Vec<String> = std::thread::scope(|scope| {
        let clients = [0; 2].map(|_| scope.spawn(client));
        for (output, format, _) in PLACES.iter().cycle().take(7) {
            let (code, said) = place(output, format);
            assert_eq!(code, Some(0), "{said}");
        }
        done.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
    });
    let refused = place("./nowhere/xksd.log", "json");
    assert_eq!(refused.0, Some(1));
    for words in ["server.log_output: ", "nowhere/xksd.log cannot be opened: No such file"] {
        assert!(refused.1.contains(words), "{}", refused.1);
    }
    let refused = place("./xksd.toml", "json");
    assert!(
        refused.0 == Some(1) && refused.1.contains("reads its configuration from"),
        "{refused:?}"
    );
    let dropped = ["behind", "unwritable"]
        .map(|why| server.metric(&format!("xksd_log_lines_dropped_total{{reason=\"{why}\"}}")));
    assert_eq!(dropped, [0.0; 2]);
    server.terminate();
    assert!(server.wait().success());
    let logs = PLACES.map(|(_, _, name)| {
        fs::read_to_string(known.installation.path().join(name)).expect("a log")
    });
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let ids = |log: &'_ String| -> Vec<String> {
        let words = log.split(|c| !is_of_word(c)).filter(|word| word.starts_with("request-"));
        words.map(ToOwned::to_owned).collect()
    };
    let written = logs.each_ref().map(ids);
    assert!(written.iter().all(|ids| !ids.is_empty()), "each had some");
    let (mut written, mut sent) = (written.concat(), sent);
    written.sort_unstable();
    sent.sort_unstable();
    assert_eq!(written, sent);
    assert!(logs[0].contains("not reloaded"), "it goes on where it was");
    assert!(logs[1].contains("the log goes on in"));
}
