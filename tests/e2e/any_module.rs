//! The real server over whatever module there is: run by `loadtest/scenarios/modules.sh`, with
//! XKSD_TEST_KEY_MANAGER naming a file with the lines of a `[[key_manager]]` whose token has the
//! key foo.

use test_harness::{Api, Config, Installation, aad};

use crate::conformance;

#[test]
#[ignore = "needs a module"]
fn the_four_calls() {
    let file = std::env::var_os("XKSD_TEST_KEY_MANAGER").expect("XKSD_TEST_KEY_MANAGER");
    let manager = std::fs::read_to_string(file).expect("read");
    let installation = Installation::new(&Config::hsm(&manager, &["foo"]));
    let server = installation.start();
    let mut api = Api::new(&installation, &server);
    conformance::all(&mut api);
    let answer = api.encrypt("foo", b"kept", &aad("a=b"));
    let (code, _) = server.stop();
    assert_eq!(code, Some(0));
    let server = installation.start();
    assert_eq!(Api::new(&installation, &server).decrypt("foo", &answer, &aad("a=b")), b"kept");
}
