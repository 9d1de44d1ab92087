//! What `tls::check` says of certificate chains, keys and trust anchors that are wrong in each of
//! the known ways.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SerialNumber};
use tempfile::TempDir;
use test_harness::pki::{
    Ca, KMS_NAME, Leaf, SERVER_NAME, openssl, rsa_key, rsa_key_pem, text, write,
};
use time::{Duration, OffsetDateTime};
use xksd::tls::{Certificate, ClientSettings, Report, Settings, check, server};

const CHAIN: &str = "tls.certificate_chain";
const KEY: &str = "tls.private_key";
const ANCHORS: &str = "tls.client.trust_anchors";
const NAMES: &str = "tls.client.subject_common_names";

/// A directory with `chain.pem` and `key.pem`, right until a test changes one.
struct Files {
    directory: TempDir,
    root: Ca,
    intermediate: Ca,
    key: KeyPair,
    leaf: String,
}

impl Files {
    fn new() -> Self {
        Self::with(&Leaf::server(), KeyPair::generate().unwrap())
    }

    fn with(leaf: &Leaf, key: KeyPair) -> Self {
        let root = Ca::root("Test Root");
        let intermediate = root.intermediate("Test Intermediate");
        let leaf = intermediate.issue(leaf, &key).pem();
        let files = Self { directory: tempfile::tempdir().unwrap(), root, intermediate, key, leaf };
        files.chain(&[&files.leaf, &files.intermediate.pem()]);
        files.private_key(&files.key.serialize_pem());
        files
    }

    fn chain(&self, certificates: &[&str]) -> PathBuf {
        write(self.directory.path(), "chain.pem", &certificates.concat())
    }

    fn private_key(&self, text: &str) -> PathBuf {
        write(self.directory.path(), "key.pem", text)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn settings(&self) -> Settings {
        Settings {
            certificate_chain: self.path("chain.pem"),
            private_key: self.path("key.pem"),
            client: None,
        }
    }

    /// The report; `server` must agree with it.
    fn report(&self) -> Report {
        report(&self.settings())
    }
}

fn report(settings: &Settings) -> Report {
    let report = check(settings);
    match server(settings) {
        Ok(_) => assert_eq!(report.problems, []),
        Err(problems) => assert_eq!(report.problems, problems),
    }
    report
}

#[track_caller]
fn assert_good(report: &Report) {
    assert_eq!(*report, Report::default());
}

/// One problem, of that key, that says all of `words`, and no warnings.
#[track_caller]
fn assert_problem(report: &Report, key: &str, words: &[&str]) {
    assert_eq!((report.problems.len(), report.warnings.len()), (1, 0), "{report:#?}");
    assert_eq!(report.problems[0].key, key);
    for word in words {
        assert!(report.problems[0].message.contains(word), "{word:?} is missing: {report:#?}");
    }
}

/// One warning, of that key, that says all of `words`, and no problems.
#[track_caller]
fn assert_warning(report: &Report, key: &str, words: &[&str]) {
    assert_eq!((report.problems.len(), report.warnings.len()), (0, 1), "{report:#?}");
    assert_eq!(report.warnings[0].key, key);
    for word in words {
        assert!(report.warnings[0].message.contains(word), "{word:?} is missing: {report:#?}");
    }
}

#[test]
fn complete_chains_are_good() {
    let files = Files::new();
    assert_good(&files.report());
    files.chain(&[&files.leaf, &files.intermediate.pem(), &files.root.pem()]);
    assert_good(&files.report());
    files.chain(&[
        "A comment, as openssl s_client -showcerts writes it\n",
        &files.leaf,
        "\n\n",
        &files.intermediate.pem(),
    ]);
    assert_good(&files.report());
}

#[test]
fn chain_and_key_may_share_a_file() {
    let files = Files::new();
    let path = files.private_key(
        &[files.leaf.as_str(), &files.intermediate.pem(), &files.key.serialize_pem()].concat(),
    );
    assert_good(&report(&Settings { certificate_chain: path, ..files.settings() }));
}

#[test]
fn missing_files_are_named_all_at_once() {
    let files = Files::new();
    std::fs::remove_file(files.path("chain.pem")).unwrap();
    std::fs::remove_file(files.path("key.pem")).unwrap();
    let client = ClientSettings {
        trust_anchors: files.path("anchors.pem"),
        subject_common_names: vec![],
        require_client_auth_eku: true,
    };
    let report = report(&Settings { client: Some(client), ..files.settings() });
    let mut keys: Vec<_> = report.problems.iter().map(|problem| problem.key).collect();
    keys.sort_unstable();
    assert_eq!(keys, [CHAIN, NAMES, ANCHORS, KEY]);
    for problem in report.problems.iter().filter(|problem| problem.key != NAMES) {
        assert!(problem.message.ends_with(".pem does not exist"), "{problem}");
    }
}

#[test]
fn what_is_not_a_file_is_not_opened() {
    let files = Files::new();
    let settings = Settings { private_key: files.directory.path().to_owned(), ..files.settings() };
    assert_problem(&report(&settings), KEY, &["not a regular file"]);
    // A FIFO would block the process; a device would never end.
    let fifo = files.path("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for path in [fifo, "/dev/zero".into()] {
        let settings = Settings { private_key: path, ..files.settings() };
        assert_problem(&report(&settings), KEY, &["not a regular file"]);
    }
}

#[test]
fn file_size_is_bounded() {
    let files = Files::new();
    let chain = [files.leaf.as_str(), &files.intermediate.pem()].concat();
    let max = xksd::limits::PEM_FILE_BYTES_MAX;
    files.chain(&[&chain, &"\n".repeat(max - chain.len())]);
    assert_good(&files.report());
    files.chain(&[&chain, &"\n".repeat(max + 1 - chain.len())]);
    assert_problem(&files.report(), CHAIN, &["chain.pem is longer than 1048576 bytes"]);
}

#[test]
fn empty_and_garbage_files() {
    let files = Files::new();
    for text in ["", "garbage", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
        files.chain(&[text]);
        assert_problem(&files.report(), CHAIN, &["chain.pem", "holds no certificate"]);
    }
    files.chain(&[&files.leaf, &files.intermediate.pem()]);
    for text in ["", "garbage", &files.leaf] {
        files.private_key(text);
        assert_problem(&files.report(), KEY, &["key.pem", "holds no private key"]);
    }
}

#[test]
fn broken_pem_is_told_without_its_bytes() {
    let files = Files::new();
    let pem = files.key.serialize_pem();
    let line = pem.lines().nth(1).unwrap();
    for (text, word) in [
        (pem.replace("-----END", "END"), "cut off"),
        (pem.replace(line, &format!("{line}!")), "base64"),
        (format!("-----BEGIN {line}"), "hyphens"),
        // Well-formed base64 of something that is no key.
        (pem.replace(line, &line.to_lowercase()), "not a key this server can use"),
    ] {
        files.private_key(&text);
        let report = files.report();
        assert_problem(&report, KEY, &["key.pem", word]);
        assert!(!format!("{report:?}").contains(&line[..16]));
    }
    files.private_key(&pem);
    files.chain(&["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]);
    assert_problem(&files.report(), CHAIN, &["certificate 1", "not a valid X.509 certificate"]);
}

#[test]
fn der_files_are_recognised() {
    let files = Files::new();
    openssl(&[
        "x509",
        "-in",
        files.path("chain.pem").to_str().unwrap(),
        "-outform",
        "DER",
        "-out",
        files.path("chain.der").to_str().unwrap(),
    ]);
    let settings = Settings { certificate_chain: files.path("chain.der"), ..files.settings() };
    assert_problem(&report(&settings), CHAIN, &["looks like DER", "openssl x509 -inform DER"]);
}

#[test]
fn encrypted_keys_are_recognised_in_each_encoding() {
    let files = Files::new();
    let plain = files.path("key.pem");
    let plain = plain.to_str().unwrap();
    let pkcs8 = openssl(&["pkey", "-in", plain, "-aes256", "-passout", "pass:secret"]);
    let sec1 = openssl(&["ec", "-in", plain, "-aes256", "-passout", "pass:secret"]);
    for (pem, marker) in [(pkcs8, "BEGIN ENCRYPTED PRIVATE KEY"), (sec1, "Proc-Type: 4,ENCRYPTED")]
    {
        let pem = String::from_utf8(pem).unwrap();
        assert!(pem.contains(marker), "{pem}");
        files.private_key(&pem);
        assert_problem(&files.report(), KEY, &["key.pem", "encrypted", "openssl pkey -in"]);
    }
}

#[test]
fn keys_that_cannot_serve() {
    let files = Files::new();
    files.private_key(&KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_pem());
    assert_problem(&files.report(), KEY, &["Ed25519"]);
    files.private_key(
        &String::from_utf8(openssl(&[
            "genpkey",
            "-quiet",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-521",
        ]))
        .unwrap(),
    );
    assert_problem(&files.report(), KEY, &["ECDSA P-256 or P-384"]);
    files.private_key(
        &[files.key.serialize_pem(), KeyPair::generate().unwrap().serialize_pem()].concat(),
    );
    assert_problem(&files.report(), KEY, &["more than one private key"]);
}

#[test]
fn p384_keys_are_good() {
    assert_good(
        &Files::with(&Leaf::server(), KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap())
            .report(),
    );
}

#[test]
fn rsa_keys_of_2048_to_4096_bits_are_good() {
    for bits in [2048, 4096] {
        assert_good(
            &Files::with(&Leaf::server(), KeyPair::from_pem(&rsa_key_pem(bits)).unwrap()).report(),
        );
    }
    let files = Files::new();
    for (bits, word) in [(2040, "fewer than 2048 bits"), (4104, "more than 4096 bits")] {
        let pem = rsa_key_pem(bits);
        files.private_key(&pem);
        assert_problem(&files.report(), KEY, &[word]);
        let pkcs1 = openssl(&["pkey", "-traditional", "-in", &text(&files.path("key.pem"))]);
        files.private_key(&String::from_utf8(pkcs1).unwrap());
        assert_problem(&files.report(), KEY, &[word]);
    }
}

#[test]
fn key_of_another_certificate() {
    let files = Files::new();
    for other in [KeyPair::generate().unwrap(), rsa_key()] {
        files.private_key(&other.serialize_pem());
        assert_problem(
            &files.report(),
            KEY,
            &["does not match", "key.pem", "chain.pem", SERVER_NAME],
        );
    }
}

#[test]
fn key_open_to_others() {
    let files = Files::new();
    let set = |mode| {
        std::fs::set_permissions(files.path("key.pem"), std::fs::Permissions::from_mode(mode))
            .unwrap()
    };
    for mode in [0o400, 0o600, 0o440, 0o640] {
        set(mode);
        assert_good(&files.report());
    }
    for mode in [0o604, 0o644, 0o602, 0o601] {
        set(mode);
        assert_problem(
            &files.report(),
            KEY,
            &["every user", &format!("{mode:04o}"), "`chmod o-rwx", "key.pem"],
        );
    }
}

#[test]
fn chain_out_of_order() {
    let files = Files::new();
    let (intermediate, root) = (files.intermediate.pem(), files.root.pem());
    files.chain(&[&files.leaf, &root, &intermediate]);
    let told = files.report();
    assert_eq!(told.problems.len(), 2, "{told:#?}");
    assert!(told.problems[0].message.contains("out of order: certificate 1 of"), "{told:#?}");
    assert!(
        told.problems[0]
            .message
            .contains("was issued by certificate 3, which must stand directly after it"),
        "{told:#?}"
    );
    assert!(
        told.problems[1].message.contains("certificate 2 of")
            && told.problems[1].message.contains("is self-signed"),
        "{told:#?}"
    );

    files.chain(&[&intermediate, &files.leaf]);
    let told = files.report();
    assert!(
        told.problems
            .iter()
            .any(|p| p.key == CHAIN && p.message.contains("belongs to certificate 2")),
        "{told:#?}"
    );
}

#[test]
fn chain_with_a_missing_intermediate() {
    let files = Files::new();
    files.chain(&[&files.leaf, &files.root.pem()]);
    assert_problem(
        &files.report(),
        CHAIN,
        &["incomplete", "CN=Test Intermediate", "missing", "CN=Test Root follows"],
    );
}

#[test]
fn leaf_alone_is_a_warning() {
    let files = Files::new();
    files.chain(&[&files.leaf]);
    assert_warning(&files.report(), CHAIN, &["is the only one", "CN=Test Intermediate"]);
    // Issued by a private root directly: nothing tells it from the case above.
    files.chain(&[&files.root.issue(&Leaf::server(), &files.key).pem()]);
    assert_warning(&files.report(), CHAIN, &["is the only one", "CN=Test Root"]);
    files.chain(&[&Leaf::server().params().self_signed(&files.key).unwrap().pem()]);
    assert_warning(&files.report(), CHAIN, &["self-signed", "public CAs"]);
}

#[test]
fn issuer_of_the_same_name_with_another_key() {
    let files = Files::new();
    let namesake = files.root.intermediate("Test Intermediate");
    files.chain(&[&files.leaf, &namesake.pem()]);
    assert_problem(
        &files.report(),
        CHAIN,
        &["certificate 1", "not signed with the key of certificate 2"],
    );
}

#[test]
fn issuer_that_is_no_ca() {
    let files = Files::new();
    let impostor = files.root.impostor("Impostor");
    files.chain(&[&impostor.issue(&Leaf::server(), &files.key).pem(), &impostor.pem()]);
    assert_problem(&files.report(), CHAIN, &["certificate 2", "CN=Impostor", "is not a CA"]);
}

#[test]
fn dates() {
    let now = OffsetDateTime::now_utc();
    let expired = Leaf {
        not_before: now - 3 * Duration::DAY,
        not_after: now - Duration::DAY,
        ..Leaf::server()
    };
    let date = |instant: OffsetDateTime| instant.date().to_string();
    let told = Files::with(&expired, KeyPair::generate().unwrap()).report();
    assert_problem(&told, CHAIN, &["certificate 1", "expired on", &date(expired.not_after)]);
    let early = Leaf { not_before: now + Duration::DAY, ..Leaf::server() };
    let told = Files::with(&early, KeyPair::generate().unwrap()).report();
    assert_problem(&told, CHAIN, &["certificate 1", "not valid before", &date(early.not_before)]);
    let soon = Leaf { not_after: now + 10 * Duration::DAY, ..Leaf::server() };
    let told = Files::with(&soon, KeyPair::generate().unwrap()).report();
    assert_warning(&told, CHAIN, &["certificate 1", "expires on", &date(soon.not_after)]);
}

#[test]
fn names_and_purposes_of_the_leaf() {
    let nameless = Leaf { dns_names: vec![], ..Leaf::server() };
    assert_warning(
        &Files::with(&nameless, KeyPair::generate().unwrap()).report(),
        CHAIN,
        &["no DNS name"],
    );
    let address = Leaf { dns_names: vec!["127.0.0.1".to_owned()], ..Leaf::server() };
    assert_warning(
        &Files::with(&address, KeyPair::generate().unwrap()).report(),
        CHAIN,
        &["no DNS name"],
    );
    let client = Leaf { purposes: vec![ExtendedKeyUsagePurpose::ClientAuth], ..Leaf::server() };
    assert_problem(
        &Files::with(&client, KeyPair::generate().unwrap()).report(),
        CHAIN,
        &["not for servers", "serverAuth"],
    );
    for purposes in [
        vec![],
        vec![ExtendedKeyUsagePurpose::Any],
        vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
    ] {
        assert_good(
            &Files::with(&Leaf { purposes, ..Leaf::server() }, KeyPair::generate().unwrap())
                .report(),
        );
    }
}

#[test]
fn client_settings() {
    let files = Files::new();
    let anchors = write(
        files.directory.path(),
        "anchors.pem",
        &[files.root.pem(), files.intermediate.pem()].concat(),
    );
    let with = |anchors: &PathBuf, names: &[&str]| {
        let subject_common_names = names.iter().map(|&name| name.to_owned()).collect();
        let client = ClientSettings {
            trust_anchors: anchors.clone(),
            subject_common_names,
            require_client_auth_eku: true,
        };
        report(&Settings { client: Some(client), ..files.settings() })
    };
    assert_good(&with(&anchors, &[KMS_NAME, "other"]));
    assert_problem(&with(&anchors, &[]), NAMES, &["cks.kms.REGION.amazonaws.com"]);
    assert_problem(&with(&anchors, &[""]), NAMES, &["empty"]);
    assert_problem(&with(&anchors, &["name "]), NAMES, &["white space"]);
    assert_problem(
        &with(&files.path("missing.pem"), &[KMS_NAME]),
        ANCHORS,
        &["missing.pem does not exist"],
    );
    let empty = write(files.directory.path(), "empty.pem", "");
    assert_problem(&with(&empty, &[KMS_NAME]), ANCHORS, &["holds no certificate", "empty.pem"]);
    let garbage = write(
        files.directory.path(),
        "garbage.pem",
        &[
            files.root.pem().as_str(),
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ]
        .concat(),
    );
    assert_problem(&with(&garbage, &[KMS_NAME]), ANCHORS, &["certificate 2 of", "garbage.pem"]);
}

#[test]
fn certificates_are_told_by_name_serial_number_and_end() {
    let files = Files::new();
    let told = || server(&files.settings()).unwrap().certificates().to_vec();
    let subjects = |told: &[Certificate]| {
        told.iter().map(|certificate| certificate.subject.clone()).collect::<Vec<_>>()
    };
    assert_eq!(subjects(&told()), [SERVER_NAME, "Test Intermediate"]);

    let leaf = Leaf::server();
    let nameless = Leaf {
        common_names: Vec::new(),
        dns_names: vec!["first.test".to_owned(), "second.test".to_owned()],
        ..Leaf::server()
    };
    let neither = Leaf { dns_names: Vec::new(), ..nameless.clone() };
    // Zeros before it are DER's, as those that keep a number from being negative.
    for (leaf, subject, serial) in [
        (&leaf, SERVER_NAME, &[0x0a, 0x1b][..]),
        (&nameless, "first.test", &[0x8f, 0, 1]),
        (&neither, "", &[0, 0x7f]),
    ] {
        let mut params = leaf.params();
        params.serial_number = Some(SerialNumber::from_slice(serial));
        let chain = files.chain(&[&params.self_signed(&files.key).unwrap().pem()]);
        let [certificate] = &told()[..] else { panic!("one certificate") };
        assert_eq!(
            (&*certificate.subject, certificate.not_after.unix_timestamp()),
            (subject, leaf.not_after.unix_timestamp())
        );
        let shown = openssl(&["x509", "-noout", "-serial", "-in", chain.to_str().unwrap()]);
        assert_eq!(
            format!("serial={}", certificate.serial),
            String::from_utf8(shown).unwrap().trim()
        );
    }
}
