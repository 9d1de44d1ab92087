//! The tool through a load balancer: what it sees of the balancer and of the proxies behind it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use test_harness::eventually;

use crate::proxies::{Demo, load, told};

/// HAProxy that hands TCP connections through, in turn. It ends with the value.
struct HaProxy {
    child: Child,
    address: SocketAddr,
}

impl HaProxy {
    fn start(demos: &[&Demo]) -> HaProxy {
        // HAProxy does not say which port it took where any would do.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let servers: Vec<String> = demos
            .iter()
            .enumerate()
            .map(|(n, demo)| format!(" server s{n} {}\n", demo.address()))
            .collect();
        let config = format!(
            "global\n nbthread 1\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n \
             timeout server 1m\nlisten proxies\n bind {address}\n{}",
            servers.concat()
        );
        let file = demos[0].file("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("haproxy")
            .args(["-db", "-f", &file])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("haproxy is missing: run scripts/test");
        eventually("haproxy listens", || TcpStream::connect(address).is_ok());
        HaProxy { child, address }
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(demo: &Demo, more: &[&str]) -> (i32, String, Value) {
    let (config, json) = (demo.config(), demo.file("r.json"));
    let base = [
        "run",
        "--config",
        &config,
        "--rate",
        "200",
        "--duration",
        "1s",
        "--warmup",
        "200ms",
        "--timeout",
        "20s",
        "--connections",
        "4",
        "--max-errors",
        "0",
        "--json",
        &json,
    ];
    let (code, text) = told(&load(&[&base[..], more].concat()));
    let report = std::fs::read_to_string(&json)
        .map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
    (code, text, report)
}

#[test]
fn the_balancer_and_the_proxy_behind_it_are_told_apart() {
    let demo = Demo::start();
    let balancer = HaProxy::start(&[&demo]);
    let (address, pid) = (balancer.address.to_string(), balancer.child.id());
    // Not named: what listens where the configuration does not say is a load balancer.
    for more in [&[][..], &["--balancer", &pid.to_string()], &["--balancer", &address]] {
        let (code, text, report) = run(&demo, &[&["--connect", &address], more].concat());
        assert_eq!(code, 0, "{text}");
        assert_eq!(report["proxy"]["cpu"]["pids"], json!([demo.pid()]), "{text}");
        assert_eq!(report["balancer"]["pids"], json!([pid]), "{text}");
        assert_eq!(report["balancer"]["name"], "haproxy", "{text}");
        assert!(report["balancer"]["cores_used"].is_number(), "{text}");
        assert!(text.contains("balancer CPU"), "{text}");
    }
    let (_, text, report) = run(&demo, &["--connect", &address, "--balancer", "NLB of zone b"]);
    assert_eq!(report["subject"]["balancer"], "NLB of zone b", "{text}");
    assert!(report["balancer"].is_null() && text.contains("not seen"), "{text}");
    // No load balancer where the proxy itself is asked.
    let (_, text, report) = run(&demo, &[]);
    assert!(report["balancer"].is_null() && !text.contains("balancer CPU"), "{text}");
    // A process that is not there is a slip in the command, and found before the load.
    let (code, text, _) = run(&demo, &["--balancer", "4294967294"]);
    assert!(code == 2 && text.contains("there is no process 4294967294"), "{text}");
}

#[test]
fn the_proxies_behind_a_balancer_are_looked_at_as_one() {
    let one = Demo::start();
    let other = one.beside();
    let balancer = HaProxy::start(&[&one, &other]);
    let pids = [&one, &other].map(|demo| demo.pid().to_string());
    let (one_admin, other_admin) = (one.admin(), other.admin());
    let more = [
        "--connect",
        &balancer.address.to_string(),
        "--pid",
        &pids[0],
        "--pid",
        &pids[1],
        "--admin",
        &one_admin,
        "--admin",
        &other_admin,
    ];
    let (code, text, report) = run(&one, &more);
    assert_eq!(code, 0, "{text}");
    assert_eq!(report["proxy"]["cpu"]["pids"], json!([one.pid(), other.pid()]), "{text}");
    assert!(report["proxy"]["key_manager"]["hsm_mean_us"].is_number(), "{text}");
    assert_eq!(report["balancer"]["pids"], json!([balancer.child.id()]), "{text}");
}
