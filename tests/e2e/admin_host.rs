//! Which names the admin listener answers to.

use test_harness::{Config, Installation};

/// A page in somebody's browser can have a name of its own lead to this listener; `Host` is then
/// that name.
#[test]
fn a_foreign_host_reads_nothing() {
    let installation = Installation::default();
    let server = installation.start();
    let ask = |path: &str, host: &str| {
        server.admin_request(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    };
    for path in ["/status", "/metrics", "/readyz", "/livez", "/ping", "/nowhere"] {
        for host in ["evil.example", "localhost.evil.example:9180", "127.0.0.1.evil.example"] {
            let (status, text) = ask(path, host);
            assert_eq!(status, 421, "{path} {host}");
            assert!(text.contains("admin.hosts") && text.lines().count() == 1, "{text}");
        }
    }
    let own = format!("127.0.0.1:{}", server.admin);
    for host in [&*own, "localhost", "[::1]:80", "10.1.2.3"] {
        assert_eq!(ask("/status", host).0, 200, "{host}");
    }
    // Who sends none is no browser.
    assert_eq!(server.admin_request("GET /status HTTP/1.0\r\n\r\n").0, 200);

    // A name that is ours, from a reload on.
    assert_eq!(ask("/metrics", "xksd-1.example.com").0, 421);
    let mut config = Config::default();
    config.admin += "\nhosts = [\"xksd-1.example.com\"]";
    installation.configure(&config);
    server.reload();
    assert_eq!(ask("/metrics", "XKSD-1.example.com:9180").0, 200);
    assert_eq!(ask("/metrics", "xksd-2.example.com").0, 421);
    server.wait_event(&["reload: admin.hosts is [\"xksd-1.example.com\"]"]);
}
