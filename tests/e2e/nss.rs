//! The real server over NSS softokn.

use crate::conformance;
use cryptoki::object::Attribute;
use test_harness::nss::{TOKEN, initialize, new_database, parameters, softokn, token};
use test_harness::own_process;
use test_harness::token::PIN;
use test_harness::{Api, Config, Installation, aad};

own_process! {
    fn the_four_calls_and_a_restart(directory) {
        new_database(directory);
        initialize(directory);
        let token = token();
        token.make_key("foo", 32, &[]);
        token.make_key("encrypt-only", 32, &[Attribute::Decrypt(false)]);
        token.make_key("decrypt-only", 32, &[Attribute::Encrypt(false)]);
        token.make_key("impotent", 32, &[Attribute::Encrypt(false), Attribute::Decrypt(false)]);
        let manager = format!(
            "module = \"{}\"\ntoken = \"{TOKEN}\"\npin = {{ env = \"XKSD_TEST_PIN\" }}\nprofile = \
             \"nss\"\nsessions = 4\ninitialize_parameters = \"{}\"",
            softokn().display(),
            parameters(directory)
        );
        let installation = Installation::new(&Config::hsm(&manager, &["foo", "encrypt-only", "decrypt-only", "impotent"]));
        let start = || test_harness::Server::start(&installation, &[], |command| {
            command.env("XKSD_TEST_PIN", PIN);
        });
        let server = start();
        let mut api = Api::new(&installation, &server);
        conformance::all(&mut api);
        conformance::limited_keys(&mut api, "encrypt-only", "decrypt-only", "impotent");
        let health = api.health();
        assert!(health["ekmVendor"].as_str().is_some_and(|vendor| vendor.contains("Mozilla")), "{health}");
        let answer = api.encrypt("foo", b"kept", &aad("a=b"));
        let (code, log) = server.stop();
        assert_eq!(code, Some(0));
        assert!(!log.iter().any(|line| line.contains(PIN)));
        let server = start();
        assert_eq!(Api::new(&installation, &server).decrypt("foo", &answer, &aad("a=b")), b"kept");
    }
}
