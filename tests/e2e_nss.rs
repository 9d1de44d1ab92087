//! The real server over NSS softokn.

mod e2e;
mod hsm_common;

use cryptoki::object::Attribute;
use e2e::{Api, Config, Site, aad, calls};
use hsm_common::PIN;
use hsm_common::nss::{TOKEN, database, parameters, softokn};

own_process! {
    fn the_four_calls_and_a_restart(directory) {
        let (_, beside) = database(directory);
        beside.make_key("foo", 32, &[]);
        beside.make_key("encrypt-only", 32, &[Attribute::Decrypt(false)]);
        beside.make_key("decrypt-only", 32, &[Attribute::Encrypt(false)]);
        beside.make_key("impotent", 32, &[Attribute::Encrypt(false), Attribute::Decrypt(false)]);
        let manager = format!(
            "module = \"{}\"\ntoken = \"{TOKEN}\"\npin = {{ env = \"XKSD_TEST_PIN\" }}\nprofile = \
             \"nss\"\nsessions = 4\ninitialize_parameters = \"{}\"",
            softokn().display(),
            parameters(directory)
        );
        let site = Site::new(&Config::hsm(&manager, &["foo", "encrypt-only", "decrypt-only", "impotent"]));
        let start = || e2e::Server::start(&site, &[], |command| {
            command.env("XKSD_TEST_PIN", PIN);
        });
        let server = start();
        let mut api = Api::new(&site, &server);
        calls::all(&mut api);
        calls::limited_keys(&mut api, "encrypt-only", "decrypt-only", "impotent");
        let health = api.health();
        assert!(health["ekmVendor"].as_str().is_some_and(|vendor| vendor.contains("Mozilla")), "{health}");
        let answer = api.encrypt("foo", b"kept", &aad("a=b"));
        let (code, log) = server.stop();
        assert_eq!(code, Some(0));
        assert!(!log.iter().any(|line| line.contains(PIN)));
        let server = start();
        assert_eq!(Api::new(&site, &server).decrypt("foo", &answer, &aad("a=b")), b"kept");
    }
}
