//! AWS's XKS proxy test client against the real server, over TLS and SoftHSM. The client is not
//! part of this repository: get `aws-samples/aws-kms-xksproxy-test-client`, and name its directory
//! in XKSD_XKS_TEST_CLIENT_DIR. It needs bash, curl (7.75 or later), jq, uuidgen and xxd (Debian:
//! curl jq uuid-runtime xxd). What it covers is covered by the other end-to-end tests too.

use std::io::Write;
use std::process::Command;

use cryptoki::object::Attribute;
use test_harness::own_process::in_own_process;
use test_harness::token::PIN;
use test_harness::{A, Config, Installation};
use test_harness::{softhsm, test_path};

const CLIENT: &str = "XKSD_XKS_TEST_CLIENT_DIR";

#[test]
fn aws_test_client() {
    let Some(client) = std::env::var_os(CLIENT) else {
        tell(&format!(
            "NOT RUN: {CLIENT} does not name a directory with AWS's XKS proxy test client"
        ));
        return;
    };
    // The client reads its settings and files from its own directory, which stays as it is.
    in_own_process(test_path!("aws_test_client"), |directory| {
        let token = softhsm::new_token(&softhsm::load(), "xks");
        token.make_key("foo", 32, &[]);
        token.make_key("encrypt_only_key", 32, &[Attribute::Decrypt(false)]);
        token.make_key("decrypt_only_key", 32, &[Attribute::Encrypt(false)]);
        token.make_key("impotent_key", 32, &[Attribute::Encrypt(false), Attribute::Decrypt(false)]);
        let module = softhsm::module();
        let manager = format!(
            "module = \"{}\"\ntoken = \"xks\"\npin = {{ file = \"pin\" }}\nprofile = \
             \"softhsm\"\nsessions = 4",
            module.display()
        );
        let mut config =
            Config::hsm(&manager, &["foo", "encrypt_only_key", "decrypt_only_key", "impotent_key"]);
        config.key_stores = config.key_stores.replace("\"/one\"", "\"/example/uri/path/prefix\"");
        let installation = Installation::new(&config);
        installation.write("pin", PIN);
        let server = installation.start();

        let output = Command::new("bash")
            .args(["./test-xks-proxy", "-a"])
            .current_dir(&client)
            .env("XKS_PROXY_HOST", server.host())
            .env("URI_PREFIX", "example/uri/path/prefix")
            .env("SIGV4_ACCESS_KEY_ID", A.id)
            .env("SIGV4_SECRET_ACCESS_KEY", A.secret)
            .env("SECURE", format!("--cacert {}", installation.path().join("ca.pem").display()))
            .env("ANSI_ESCAPE", "0")
            .env("TMPDIR", directory)
            .output()
            .expect("bash");
        let told = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && told.contains("All 49 tests PASSED"), "{told}");
    });
    tell("AWS's XKS proxy test client: all 49 tests passed");
}

/// Past the test runner, which keeps what passing tests print to itself.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
