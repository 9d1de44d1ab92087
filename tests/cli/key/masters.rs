//! `xksd keys`, of masters; and what is said of them when they wrap.

use std::fs;

use cryptoki::object::{Attribute, KeyType};
use test_harness::own_process;

use super::{MASTER, Site, proper_but};

impl Site {
    /// The line of a master, and the exit code of `xksd keys`.
    fn master(&self, label: &str) -> (i32, String) {
        let told = self.run(&["keys"]);
        let begin = format!("  -> master {label:?} of key manager near: ");
        let line = told.out.lines().find_map(|line| line.strip_prefix(&begin));
        (told.code, line.unwrap_or_else(|| panic!("{begin}: {told:#?}")).to_owned())
    }

    fn exchange_master(&self, others: &[Attribute]) {
        self.token.delete_key("m1");
        self.token.import_key("m1", KeyType::AES, &MASTER, &proper_but(others));
    }
}

own_process! {
    fn what_a_master_should_not_allow_is_shown_and_said(_directory) {
        let site = Site::with_foo();
        assert_eq!(site.master("m1"), (0, "opens key files".to_owned()));
        for (others, but) in [
            (
                &[Attribute::Sign(true), Attribute::Verify(true)][..],
                "it can be used for other things (CKA_SIGN, CKA_VERIFY)",
            ),
            (&[Attribute::Wrap(true)], "it can carry other keys out of the HSM (CKA_WRAP)"),
            (&[Attribute::Extractable(true)], "it can leave the HSM (CKA_EXTRACTABLE)"),
            (&[Attribute::Sensitive(false)], "it is not marked secret (not CKA_SENSITIVE)"),
            (&[Attribute::Encrypt(false)], "it cannot wrap new keys (not CKA_ENCRYPT)"),
        ] {
            site.exchange_master(others);
            assert_eq!(site.master("m1"), (0, format!("opens key files, but {but}")));
        }
        // One that only opens: for hosts that only serve.
        assert_eq!(site.all_open().code, 0);
        site.key("create", "bar", &[])
            .refused(1, "the master \"m1\": the key is not an AES-256 key that allows");
        // Said with the first key, and where a key gets another master.
        let others = [Attribute::Sign(true), Attribute::Wrap(true)];
        site.exchange_master(&others);
        fs::remove_file(site.file("foo")).expect("there");
        let warning = |master: &str| {
            format!(
                "warning: the master {master:?} in hsm-a allows more than encrypt and decrypt: \
                 CKA_SIGN, CKA_WRAP\n"
            )
        };
        for (label, said) in [("bar", warning("m1")), ("foo", String::new())] {
            let created = site.key("create", label, &[]);
            assert_eq!((created.code, created.err), (0, said));
        }
        site.token.import_key("m2", KeyType::AES, &MASTER, &proper_but(&others));
        let rewrapped = site.key("rewrap", "foo", &["--master", "m2"]);
        assert_eq!((rewrapped.code, rewrapped.err), (0, warning("m2")));
    }
}

own_process! {
    fn a_master_that_is_missing_or_unfit_is_named(_directory) {
        let site = Site::with_foo();
        let why = "key manager near: no HSM has a master \"m1\" that opens key files";
        site.exchange_master(&[Attribute::Decrypt(false)]);
        assert_eq!(
            site.master("m1"),
            (1, "CANNOT OPEN KEY FILES: it does not allow decryption (CKA_DECRYPT)".to_owned())
        );
        assert!(site.run(&["keys"]).err.contains(why));
        site.token.delete_key("m1");
        assert_eq!(site.master("m1"), (1, "not here".to_owned()));
        assert!(site.run(&["keys"]).err.contains(why));
        site.token.import_key("m1", KeyType::AES, &MASTER[..16], &super::proper());
        assert_eq!(
            site.master("m1"),
            (1, "CANNOT OPEN KEY FILES: it is AES_128 and not AES_256".to_owned())
        );
        site.token.delete_key("m1");
        for id in [1, 2] {
            site.token.import_key(
                "m1",
                KeyType::AES,
                &MASTER,
                &proper_but(&[Attribute::Id(vec![id])]),
            );
        }
        let (code, line) = site.master("m1");
        assert!(
            code == 1 && line.starts_with("CANNOT OPEN KEY FILES: 2 secret keys labelled \"m1\""),
            "{line}"
        );
    }
}

own_process! {
    fn masters_that_only_key_files_name_are_shown_too(_directory) {
        let site = Site::with_foo();
        site.token.make_key("m2", 32, &super::proper());
        site.done("rewrap", "foo", &["--master", "m2"]);
        assert_eq!(site.master("m2"), (0, "opens key files".to_owned()));
        // One master of a file is enough.
        site.token.delete_key("m2");
        assert_eq!(site.master("m2"), (0, "not here".to_owned()));
        let told = site.run(&["keys"]);
        assert!(
            told.out.contains("-> key foo of key store \"/one\" (label \"foo\"): can serve"),
            "{told:?}"
        );
        // No file, and a master all the same.
        fs::remove_file(site.file("foo")).expect("removed");
        assert_eq!(site.master("m1"), (1, "opens key files".to_owned()));
        assert_eq!(site.run(&["keys"]).err, "1 configured key cannot serve\n");
    }
}
