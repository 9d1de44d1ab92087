//! What is accepted of each key, on both sides of every bound.

use super::*;

/// (replaced in SMALL, by what, path of the problem, words of its message): exactly one problem
/// each.
#[rustfmt::skip]
const REFUSED: &[(&str, &str, &str, &str)] = &[
    ("[server]", "include = [\"absent.toml\"]\n[server]", "include[0]", "/etc/xksd/absent.toml does not exist"),
    ("[server]", "include = [\"server.toml\"]\n[server]", "include[0]", "only [[keystore]] may be included"),
    ("[server]", "include = \"more.toml\"\n[server]", "include", "an array is expected"),
    ("[server]", "oops = 1\n[server]", "oops", "unknown key; accepted here: include, server, tls, admin, audit, \
        witness, fleet, key_manager, keystore"),
    ("[server]", "[server]\nport = 443", "server.port", "unknown key; accepted here: listen, \
        shards"),
    ("[server]", "[server]\nlissten = \"0.0.0.0:443\"", "server.lissten", "unknown key; did you mean \"listen\"? Accepted here: listen"),
    ("[server]", "[sever]\n[server]", "sever", "unknown key; did you mean \"server\"? Accepted here: include, server, tls"),
    ("[server]", "[fleet]\n[server]", "fleet", "missing: peers"),
    ("[server]", "[fleet]\npeers = []\n[server]", "fleet.peers", "1 to 32 are accepted"),
    ("[server]", "[fleet]\npeers = [\"10.0.0.2\"]\n[server]", "fleet.peers[0]", "https:// or http://"),
    ("[server]", "[fleet]\npeers = [\"https://a\"]\n[server]", "fleet", "trust_anchors is missing"),
    ("[server]", "[fleet]\nname = \".a\"\npeers = [\"http://a\"]\n[server]", "fleet.name", "not with a dot"),
    ("[server]", "[fleet]\nsecret = { value = \"DAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\" }\npeers = [\"http://a\"]\n[server]", "fleet.secret", "with peers it has no use"),
    ("[server]", "[fleet]\netcd = { endpoints = [\"http://a:1\"], prefix = \"/a\" }\n[server]", "fleet.secret", "xksd fleet secret new"),
    ("[server]", "[fleet]\nsecret = { value = \"DAAA\" }\netcd = { endpoints = [\"http://a:1\"], prefix = \"/a\" }\n[server]", "fleet.secret", "base64 of 32 bytes"),
    ("[server]", "[fleet]\npeers = [\"http://a\"]\netcd = { endpoints = [\"http://a:1\"], prefix = \"/a\" }\n[server]", "fleet", "not both"),
    ("[server]", "[fleet]\nsecret = { value = \"DAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\" }\netcd = { endpoints = [\"http://a:1\"], prefix = \"/a/\" }\n[server]", "fleet.etcd.prefix", "joined by /"),
    ("[server]", "[fleet]\nsecret = { value = \"DAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\" }\netcd = { endpoints = [\"http://a:1\"], prefix = \"/a\", user = \"u\" }\n[server]", "fleet.etcd", "go together"),
    ("[server]", "[fleet]\nsecret = { value = \"DAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\" }\netcd = { endpoints = [\"http://a:1\"], prefix = \"/a\", user = \"u\", password = { value = \"p\" } }\n[server]", "fleet.etcd", "readable on the way"),
    ("[server]", "[fleet]\nsecret = { value = \"DAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\" }\netcd = { endpoints = [\"http://a:1\"], prefix = \"/a\", client_certificate = \"c\" }\n[server]", "fleet.etcd", "go together"),
    ("[tls]", "[[key_store]]\n[tls]", "key_store", "unknown key; did you mean \"keystore\"?"),
    ("[tls]", "[tls]\nregions = []", "tls.regions", "unknown key; it belongs to [server]. Accepted here: certificate_chain"),
    ("[tls]", "[client]\n[tls]", "client", "unknown key; it belongs to [tls]. Accepted here"),
    ("[tls]", "[tls]\nlisten = 1", "tls.listen", "it belongs to [server] or [admin]"),
    ("[tls]", "[tls]\nlabel = 1", "tls.label", "it belongs to [[keystore.key]] or [[keystore.key.version]]. Accepted"),
    ("[server]", "[server]\n\"a b\" = 443", "server.\"a b\"", "unknown key"),
    ("\"0.0.0.0:443\"", "\"localhost:443\"", "server.listen", "\"localhost:443\" is not accepted: \
        an IP address"),
    ("\"0.0.0.0:443\"", "\"224.0.0.1:443\"", "server.listen", "nor multicast or broadcast"),
    ("\"0.0.0.0:443\"", "\"[ff02::1]:443\"", "server.listen", "nor multicast or broadcast"),
    ("\"0.0.0.0:443\"", "\"255.255.255.255:443\"", "server.listen", "nor multicast or broadcast"),
    ("[tls]", "[admin]\nlisten = \"239.255.255.255:9180\"\n[tls]", "admin.listen", "nor multicast \
        or broadcast"),
    ("\"0.0.0.0:443\"", "443", "server.listen", "a string is expected here, not an integer"),
    ("listen = \"0.0.0.0:443\"", "", "server.listen", "missing: address and port"),
    ("[server]", "[server]\nshards = 1025", "server.shards", "1025 is out of bounds: 0 to 1024"),
    ("[server]", "[server]\nshards = -1", "server.shards", "-1 is out of bounds"),
    ("[server]", "[server]\nshards = 99999999999999999999", "server.shards", "out of bounds"),
    ("[server]", "[server]\nshards = 0x401", "server.shards", "0x401 is out of bounds"),
    ("[server]", "[server]\nshards = 1.0", "server.shards", "an integer is expected here, not a \
        float"),
    ("[server]", "[server]\nrequest_budget_ms = 9", "server.request_budget_ms", "10 to 240 \
        milliseconds"),
    ("[server]", "[server]\nrequest_budget_ms = 241", "server.request_budget_ms", "10 to 240 \
        milliseconds"),
    ("[server]", "[server]\nshutdown_delay_ms = 300001", "server.shutdown_delay_ms", "0 to 300000 \
        milliseconds"),
    ("[server]", "[server]\nshutdown_delay_ms = -1", "server.shutdown_delay_ms", "0 to 300000 \
        milliseconds"),
    ("[server]", "[server]\nshutdown_ms = 99", "server.shutdown_ms", "100 to 300000 milliseconds"),
    ("[server]", "[server]\nshutdown_ms = 300001", "server.shutdown_ms", "100 to 300000 milliseconds"),
    ("[server]", "[server]\ninstances = 0", "server.instances", "1 to 1000 instances"),
    ("[server]", "[server]\ninstances = 1001", "server.instances", "1 to 1000 instances"),
    ("[server]", "[server]\notlp_endpoint = \"https://127.0.0.1\"", "server.otlp_trust_anchors", "missing: the PEM file"),
    ("[server]", "[server]\notlp_endpoint = \"http://127.0.0.1\"\notlp_trust_anchors = \"o\"", "server.otlp_trust_anchors", "no use without https://"),
    ("[server]", "[server]\notlp_trust_anchors = \"o\"", "server.otlp_trust_anchors", "no use without https://"),
    ("[server]", "[server]\notlp_endpoint = \"127.0.0.1:4317\"", "server.otlp_endpoint", "http://, a host"),
    ("[server]", "[server]\nlog_level = \"debug\"", "server.log_level", "\"info\", \"warn\" or \"error\""),
    ("[server]", "[server]\nlog_output = \"jounral\"", "server.log_output", "\"journal\", \"syslog\""),
    ("[server]", "[server]\nlog = \"xml\"", "server.log", "\"auto\", \"json\" or \"text\""),
    ("[server]", "[server]\nstate_directory = \"\"", "server.state_directory", "a path is not empty"),
    ("[server]", "[server]\ncontrol_socket = 1", "server.control_socket", "a string is expected"),
    ("[tls]", "[[server.proxy_protocol]]\n[tls]", "server.proxy_protocol[0].networks", "missing: the networks of the load balancers"),
    ("[tls]", "[server.proxy_protocol]\nnetworks = [\"10.0.0.0/8\"]\n[tls]", "server.proxy_protocol", "double brackets"),
    ("[tls]", "[[server.proxy_protocol]]\nnetworks = []\n[tls]", "server.proxy_protocol[0].networks", "at least one"),
    ("[tls]", "[[server.proxy_protocol]]\nnetworks = [\"10.0.0.0\"]\n[tls]", "server.proxy_protocol[0].networks[0]", "as in \"10.0.0.0/8\""),
    ("[tls]", "[[server.proxy_protocol]]\nnetworks = [\"10.0.0.0/33\"]\n[tls]", "server.proxy_protocol[0].networks[0]", "length of the prefix"),
    ("[tls]", "[[server.proxy_protocol]]\nnetworks = [\"10.0.0.1/8\"]\n[tls]", "server.proxy_protocol[0].networks[0]", "the network is \"10.0.0.0/8\""),
    ("[tls]", "[[server.proxy_protocol]]\nnetworks = [\"10.0.0.0/8\"]\n[[server.proxy_protocol]]\nnetworks = [\"10.1.0.0/16\"]\n[tls]", "server.proxy_protocol[1].networks[0]", "\"10.1.0.0/16\" is in 10.0.0.0/8"),
    ("[\"us-east-1\"]", "[]", "server.regions", "at least one"),
    ("[\"us-east-1\"]", "\"us-east-1\"", "server.regions", "an array is expected here, not a \
        string"),
    ("[\"us-east-1\"]", "[\"us-east-1\", \"us-east-1\"]", "server.regions[1]", "stands here twice"),
    ("[\"us-east-1\"]", "[\"useast1\"]", "server.regions[0]", "an AWS region is meant"),
    ("[\"us-east-1\"]", "[\"US-EAST-1\"]", "server.regions[0]", "an AWS region is meant"),
    ("[\"us-east-1\"]", "[\"us-east-100\"]", "server.regions[0]", "an AWS region is meant"),
    ("[tls]", "[admin]\nlisten = \"127.0.0.1:443\"\n[tls]", "admin", "listens on the port of \
        server.listen"),
    ("[tls]", "[admin]\n[tls]", "admin.listen", "missing"),
    ("[tls]", "[admin]\nlisten = \"127.0.0.1:444\"\nhosts = [\"a:1\"]\n[tls]", "admin.hosts[0]", "a host name"),
    ("[tls]", "[admin]\nlisten = \"127.0.0.1:444\"\nhosts = [\"::1\"]\n[tls]", "admin.hosts[0]", "a host name"),
    ("[tls]", "[admin]\nlisten = \"127.0.0.1:444\"\nhosts = [\"127.0.0.1\"]\n[tls]", "admin.hosts[0]", "a host name"),
    ("[tls]", "[admin]\nlisten = \"127.0.0.1:444\"\nhosts = [\"*.a\"]\n[tls]", "admin.hosts[0]", "a host name"),
    ("[tls]", "[tls.client]\nsubject_common_names = [\"a\"]\n[tls]", "tls.client.trust_anchors", "missing"),
    ("[tls]", "[tls.client]\ntrust_anchors = \"t\"\n[tls]", "tls.client.subject_common_names", "missing"),
    ("[tls]", "[tls.client]\ntrust_anchors = \"t\"\nsubject_common_names = \
        [\"*.amazonaws.com\"]\n[tls]", "tls.client.subject_common_names[0]", "no wildcards"),
    ("[tls]", "[tls.client]\ntrust_anchors = \"t\"\nsubject_common_names = \
        [\"a\"]\nrequire_client_auth_eku = 1\n[tls]", "tls.client.require_client_auth_eku", "true \
        or false is expected here, not an integer"),
    ("\"chain.pem\"", "\"\"", "tls.certificate_chain", "a path is not empty"),
    ("\"chain.pem\"", "\"a\\u0000b\"", "tls.certificate_chain", "no NUL"),
    ("kind = \"pkcs11\"", "kind = \"kmip\"", "key_manager[0].kind", "\"pkcs11\", \"wrapped\" or \"local\""),
    ("kind = \"pkcs11\"", "", "key_manager[0].kind", "missing: \"pkcs11\", \"wrapped\" or \"local\""),
    ("kind = \"pkcs11\"", "kind = \"pkcs11\"\nkey_file = \"k\"", "key_manager[0].key_file", "unknown key with this kind; accepted here: name, kind, module"),
    ("module = \"/usr/lib/p11.so\"", "", "key_manager[0].module", "missing"),
    ("token = \"xks\"", "", "key_manager[0]", "none of token, serial and slot"),
    ("token = \"xks\"", "token = \"xks\"\nslot = 0", "key_manager[0]", "several of token, serial \
        and slot"),
    ("token = \"xks\"", "slot = -1", "key_manager[0].slot", "out of bounds"),
    ("token = \"xks\"", "serial = \"12345678901234567\"", "key_manager[0].serial", "1 to 16 bytes"),
    ("token = \"xks\"", "token = \"\"", "key_manager[0].token", "1 to 32 bytes"),
    ("token = \"xks\"", "token = \"xks\"\nsessions = 0", "key_manager[0].sessions", "1 to 1024 \
        sessions"),
    ("token = \"xks\"", "token = \"xks\"\nsessions = 1025", "key_manager[0].sessions", "1 to 1024 \
        sessions"),
    ("token = \"xks\"", "token = \"xks\"\nprofile = \"acme\"", "key_manager[0].profile", "generic, \
        softhsm, nss, kryoptic"),
    ("token = \"xks\"", "token = \"xks\"\ninitialize_parameters = \"\"", "key_manager[0].initialize_parameters", "not empty"),
    ("token = \"xks\"", "token = \"xks\"\nenvironment = \"A=b\"", "key_manager[0].environment", "a table is expected here, not a string"),
    ("token = \"xks\"", "token = \"xks\"\nenvironment = { A = 1 }", "key_manager[0].environment.A", "a string is expected here, not an integer"),
    ("token = \"xks\"", "token = \"xks\"\nenvironment = { \"A=B\" = \"c\" }", "key_manager[0].environment.\"A=B\"", "not the name of an environment variable"),
    ("token = \"xks\"", "token = \"xks\"\nenvironment = { 1A = \"c\" }", "key_manager[0].environment.1A", "no digit first"),
    ("token = \"xks\"", "token = \"xks\"\nenvironment = { A = \"b\\u0000\" }", "key_manager[0].environment.A", "no NUL"),
    ("token = \"xks\"", "token = \"xks\"\nenvironment = { A = {} }", "key_manager[0].environment.A.path", "missing: a path"),
    ("token = \"xks\"", "token = \"xks\"\nenvironment = { A = { path = \"\" } }", "key_manager[0].environment.A.path", "a path is not empty"),
    ("pin = { file = \"secrets/pin\" }", "", "key_manager[0].pin", "missing"),
    ("{ file = \"secrets/pin\" }", "\"1234\"", "key_manager[0].pin", "a secret is one of"),
    ("{ file = \"secrets/pin\" }", "{}", "key_manager[0].pin", "none of them are given"),
    ("{ file = \"secrets/pin\" }", "{ value = \"a\", env = \"KEY\" }", "key_manager[0].pin", "several of them are given"),
    ("{ file = \"secrets/pin\" }", "{ flie = \"a\", value = \"1\" }", "key_manager[0].pin.flie", "unknown key; did you mean \"file\"? Accepted here: file, credential, env, value"),
    ("{ file = \"secrets/pin\" }", "{ credential = \"../pin\" }", "key_manager[0].pin.credential", "not the name of a credential"),
    ("{ file = \"secrets/pin\" }", "{ credential = \"pin\" }", "key_manager[0].pin.credential", "$CREDENTIALS_DIRECTORY is not set: "),
    ("{ file = \"secrets/pin\" }", "{ file = \"none\" }", "key_manager[0].pin.file", "/etc/xksd/none does not exist"),
    ("{ file = \"secrets/pin\" }", "{ file = \"secrets/empty\" }", "key_manager[0].pin", "secrets/empty is empty"),
    ("{ file = \"secrets/pin\" }", "{ file = \"secrets/newline\" }", "key_manager[0].pin", "secrets/newline is empty"),
    ("{ file = \"secrets/pin\" }", "{ file = \"secrets/binary\" }", "key_manager[0].pin.file", "not UTF-8"),
    ("{ file = \"secrets/pin\" }", "{ file = \"secrets/two-lines\" }", "key_manager[0].pin", "no \
        line end"),
    ("{ file = \"secrets/pin\" }", "{ env = \"NONE\" }", "key_manager[0].pin.env", "\"NONE\" is \
        not set"),
    ("{ file = \"secrets/pin\" }", "{ env = \"EMPTY\" }", "key_manager[0].pin", "\"EMPTY\" is \
        empty"),
    ("{ file = \"secrets/pin\" }", "{ env = \"BINARY\" }", "key_manager[0].pin.env", "not UTF-8"),
    ("{ file = \"secrets/pin\" }", "{ env = \"A=B\" }", "key_manager[0].pin.env", "not the name of \
        an environment variable"),
    ("{ file = \"secrets/pin\" }", "{ value = \"\" }", "key_manager[0].pin", "the value is empty"),
    ("path_prefix = \"/a\"", "", "keystore[0].path_prefix", "missing"),
    ("path_prefix = \"/a\"", "path_prefix = \"a\"", "keystore[0].path_prefix", "begins with /"),
    ("path_prefix = \"/a\"", "path_prefix = \"/\"", "keystore[0].path_prefix", "does not end with \
        /"),
    ("path_prefix = \"/a\"", "path_prefix = \"/a/\"", "keystore[0].path_prefix", "does not end \
        with /"),
    ("path_prefix = \"/a\"", "path_prefix = \"/a//b\"", "keystore[0].path_prefix", "no empty part"),
    ("path_prefix = \"/a\"", "path_prefix = \"/a.b\"", "keystore[0].path_prefix", "A-Z a-z 0-9 / _ \
        -"),
    ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-b\"]", "keystore[0].key_manager[0]", "there is no key manager \"hsm-b\"; there is: \"hsm-a\""),
    ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-a\", \"hsm-a\"]", "keystore[0].key_manager[1]", "twice"),
    ("key_manager = [\"hsm-a\"]", "key_manager = []", "keystore[0].key_manager", "at least one"),
    ("key_manager = [\"hsm-a\"]", "", "keystore[0].key_manager", "missing"),
    ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-a\"]\nenabled = \"no\"", "keystore[0].enabled", "true or false"),
    ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-a\"]\naccept_foreign_ciphertext = [\"x\"]", "keystore[0].accept_foreign_ciphertext[0]", "aws-sample"),
    ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-a\"]\nweight = 0", "keystore[0].weight", "1 to 100"),
    ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-a\"]\nweight = 101", "keystore[0].weight", "1 to 100"),
    ("QR27\"", "QR28\"", "keystore[0].credential[0].access_key_id", "20 to 30 of A-Z 2-7"),
    ("{ file = \"secrets/key\" }", "{ file = \"secrets/pin\" }", "keystore[0].credential[0].secret_access_key", "secrets/pin (4 characters) is not accepted: a secret access key has 43 to 64"),
    ("{ file = \"secrets/key\" }", "{ file = \"secrets/two-lines\" }", "keystore[0].credential[0].secret_access_key", "(45 characters)"),
    ("id = \"foo\"", "id = \"foo\"\nquota = {}", "keystore[0].key[0].quota", "nothing is bounded"),
    ("id = \"foo\"", "id = \"foo\"\nquota = { burst = 1, concurrent = 1 }", "keystore[0].key[0].quota.burst", "a part of requests_per_second"),
    ("id = \"foo\"", "id = \"foo\"\nquota = { requests_per_second = 0 }", "keystore[0].key[0].quota.requests_per_second", "1 to 1000000 requests"),
    ("id = \"foo\"", "id = \"foo\"\nquota = { requests_per_second = 1000001 }", "keystore[0].key[0].quota.requests_per_second", "1 to 1000000"),
    ("id = \"foo\"", "id = \"foo\"\nquota = { requests_per_second = 1, burst = 0 }", "keystore[0].key[0].quota.burst", "1 to 10000000"),
    ("id = \"foo\"", "id = \"foo\"\nquota = { requests_per_second = 1, burst = 10000001 }", "keystore[0].key[0].quota.burst", "1 to 10000000"),
    ("id = \"foo\"", "id = \"foo\"\nquota = { concurrent = 0 }", "keystore[0].key[0].quota.concurrent", "1 to 1000000"),
    ("id = \"foo\"", "id = \"foo\"\nquota = { concurrent = 1000001 }", "keystore[0].key[0].quota.concurrent", "1 to 1000000"),
    ("path_prefix = \"/a\"", "path_prefix = \"/a\"\nquota = 5", "keystore[0].quota", "a table is expected"),
    ("id = \"foo\"", "id = \"f/o\"", "keystore[0].key[0].id", "1 to 128 of"),
    ("id = \"foo\"", "id = \".\"", "keystore[0].key[0].id", "not . or .. alone"),
    ("id = \"foo\"", "id = \"..\"", "keystore[0].key[0].id", "\"..\" is not accepted"),
    ("id = \"foo\"", "label = \"foo\"", "keystore[0].key[0].id", "missing"),
    ("id = \"foo\"", "id = \"foo\"\nlabel = \"\"", "keystore[0].key[0].label", "1 to 255 bytes"),
    ("id = \"foo\"", "id = \"foo\"\nlable = \"x\"", "keystore[0].key[0].lable", "unknown key; did you mean \"label\"?"),
    ("id = \"foo\"", "id = \"foo\"\n[[keystore.key]]\nid = \"foo\"", "keystore[0].key[1].id", "\"foo\" is taken: keystore[0].key[0] has it too"),
    ("id = \"foo\"", "id = \"foo\"\nversion = [{ number = 0, label = \"a\", state = \"primary\", promoted = 2026-11-28T12:00:00 }]", "keystore[0].key[0].version[0].promoted", "with its offset"),
    ("id = \"foo\"", "id = \"foo\"\nversion = [{ number = 0, label = \"a\", state = \"primary\", promoted = 2026-11-28 }]", "keystore[0].key[0].version[0].promoted", "with its offset"),
    ("id = \"foo\"", "id = \"foo\"\nversion = [{ number = 0, label = \"a\", state = \"primary\", promoted = \"2026-11-28T12:00:00Z\" }]", "keystore[0].key[0].version[0].promoted", "not a string"),
    ("key_manager = [\"hsm-a\"]", "key_manager = [\"hsm-a\"]\ninvocation_budget = \"stop\"", "keystore[0].invocation_budget", "\"warn\" or \"refuse\""),
];

#[test]
fn each_problem_is_named() {
    for (from, to, key, words) in REFUSED {
        let found = problems(&edited(from, to));
        assert_eq!(found.len(), 1, "{to:?}: {found:#?}");
        assert_eq!(found[0].key, *key, "{to:?}: {}", found[0].message);
        assert!(found[0].message.contains(words), "{to:?}: {}", found[0].message);
        assert!(found[0].line.is_some(), "{to:?}");
    }
}

#[test]
fn key_stores_are_included_and_their_problems_are_named_by_file_and_line() {
    let text = replaced_include(&["more.toml"]);
    let config = read(&text).expect("valid");
    let prefixes: Vec<&str> = config.keystores.iter().map(|s| s.path_prefix.as_str()).collect();
    assert_eq!(prefixes, ["/a", "/more"]);
    assert_ne!(config.sha256, read(SMALL).expect("valid").sha256);
    for (file, key, words) in [
        ("broken.toml", "", "/etc/xksd/broken.toml:2: "),
        ("more-wrong.toml", "keystore[1].key_managr", "/etc/xksd/more-wrong.toml:4: unknown key"),
    ] {
        let found = problems(&replaced_include(&["more.toml", file][1..]));
        let problem = found.iter().find(|problem| problem.key == key).expect(file);
        assert!(problem.message.starts_with(words), "{found:#?}");
    }
}

/// `SMALL` with these files included.
fn replaced_include(files: &[&str]) -> String {
    format!("include = {files:?}\n{SMALL}")
}

/// A wrapped key manager behind that of `SMALL`, with further lines.
fn wrapped(lines: &str) -> String {
    let manager = format!(
        "[[key_manager]]\nname = \"near\"\nkind = \"wrapped\"\nmaster = \"m\"\n{lines}\n[[keystore]]"
    );
    edited("[[keystore]]", &manager)
}

#[test]
fn each_problem_of_a_wrapped_key_manager_is_named() {
    const GOOD: &str = "folder = \"keys\"\nunseal_with = [\"hsm-a\"]";
    for (lines, key, words) in [
        ("unseal_with = [\"hsm-a\"]", "folder", "missing: the directory"),
        ("folder = \"keys\"", "unseal_with", "missing: names of pkcs11"),
        (
            "folder = \"keys\"\nunseal_with = [\"b\"]",
            "unseal_with",
            "there is no key manager \"b\"",
        ),
        ("folder = \"keys\"\nunseal_with = [\"near\"]", "unseal_with", "not of kind \"pkcs11\""),
        ("{}\nrecheck_s = 0", "recheck_s", "1 to 3600"),
        ("{}\nrecheck_s = 3601", "recheck_s", "1 to 3600"),
        ("{}\nhsm_absent_max_s = 604801", "hsm_absent_max_s", "0 to 604800"),
        ("{}\nsecret_memory = \"none\"", "secret_memory", "\"prefer\" or \"require\""),
        ("{}\nmin_epoch = { foo = 0 }", "min_epoch.foo", "1 to"),
        ("{}\nmin_epoch = { \".f\" = 1 }", "min_epoch.\".f\"", "does not begin with a dot"),
        ("{}\nsessions = 1", "sessions", "unknown key with this kind"),
    ] {
        let found = problems(&wrapped(&lines.replace("{}", GOOD)));
        assert_eq!(found.len(), 1, "{lines:?}: {found:#?}");
        assert_eq!(found[0].key, format!("key_manager[1].{key}"), "{}", found[0].message);
        assert!(found[0].message.contains(words), "{lines:?}: {}", found[0].message);
        assert!(found[0].line.is_some(), "{lines:?}");
    }
    for lines in [
        "",
        "recheck_s = 1\nhsm_absent_max_s = 0\nsecret_memory = \"require\"",
        "recheck_s = 3600\nhsm_absent_max_s = 604800\nmin_epoch = { foo = 1, b = 9 }",
    ] {
        let text = wrapped(&format!("{GOOD}\n{lines}"));
        assert!(read(&text).is_ok(), "{lines}: {:?}", read(&text));
    }
    let mixed = "key_manager = [\"near\", \"hsm-a\"]";
    let versions = "id = \"foo\"\n[[keystore.key.version]]\nnumber = 0\nlabel = \"a\"\n\
        state = \"primary\"";
    for (edits, key, words) in [
        (&[("key_manager = [\"hsm-a\"]", mixed)][..], "keystore[0].key_manager", "the only one"),
        (
            &[
                ("key_manager = [\"hsm-a\"]", "key_manager = [\"near\"]"),
                ("id = \"foo\"", versions),
            ],
            "keystore[0].key[0].version",
            "stand in its key file",
        ),
    ] {
        let found = problems(&super::difference::replaced(&wrapped(GOOD), edits));
        assert_eq!((found.len(), &*found[0].key), (1, key), "{found:#?}");
        assert!(found[0].message.contains(words) && found[0].line.is_some(), "{found:#?}");
    }
}

/// (replaced in SMALL, by what): valid.
#[rustfmt::skip]
const ACCEPTED: &[(&str, &str)] = &[
    ("id = \"foo\"", "id = \"foo\"\nquota = { requests_per_second = 1000000, burst = 10000000, concurrent = 1000000 }"),
    ("id = \"foo\"", "id = \"foo\"\nquota = { requests_per_second = 1, burst = 1, concurrent = 1 }"),
    ("[server]", "[server]\nshards = 1024"),
    ("[server]", "[server]\nshards = 0x10"),
    ("[server]", "[server]\nrequest_budget_ms = 10"),
    ("[server]", "[server]\nrequest_budget_ms = 240"),
    ("[server]", "[server]\nshutdown_delay_ms = 0"),
    ("[server]", "[server]\nshutdown_delay_ms = 300_000"),
    ("[server]", "[server]\nshutdown_ms = 100"),
    ("[server]", "[server]\nshutdown_ms = 300_000"),
    ("[\"us-east-1\"]", "[\"us-east-1\", \"ap-southeast-2\", \"us-iso-east-1\", \"us-east-10\"]"),
    ("[tls]", "[admin]\nlisten = \"127.0.0.1:444\"\n[tls]"),
    ("\"0.0.0.0:443\"", "\"223.255.255.255:443\""),
    ("\"0.0.0.0:443\"", "\"240.0.0.0:443\""),
    ("\"0.0.0.0:443\"", "\"[fe00::1]:443\""),
    ("token = \"xks\"", "serial = \"1234567890123456\""),
    ("token = \"xks\"", "slot = 0"),
    ("token = \"xks\"", "token = \"xks\"\nsessions = 1"),
    ("token = \"xks\"", "token = \"xks\"\nsessions = 1024"),
    ("token = \"xks\"", "token = \"xks\"\nenvironment = { _A1 = \"\", B = { path = \"b\" } }"),
    ("token = \"xks\"", "token = \"xks\"\nenvironment = {}"),
    ("{ file = \"secrets/pin\" }", "{ value = \"crypto-user:pass word\" }"),
    ("{ file = \"secrets/key\" }", "{ file = \"secrets/crlf\" }"),
    ("{ file = \"secrets/key\" }", "{ file = \"/etc/xksd/secrets/key\" }"),
    ("path_prefix = \"/a\"", "path_prefix = \"\""),
    ("path_prefix = \"/a\"", "path_prefix = \"/a/B_9-/c\""),
];

#[test]
fn accepted() {
    for (from, to) in ACCEPTED {
        let found = problems(&edited(from, to));
        assert!(found.is_empty(), "{to:?}: {found:#?}");
    }
}

/// (replaced in SMALL, one filling character, longest accepted, around it `{}`)
#[test]
fn lengths_on_both_sides() {
    let cases: &[(&str, &str, &str, usize)] = &[
        // 128 characters with "/kms/xks/v1", the "/" before the filling.
        ("path_prefix = \"/a\"", "path_prefix = \"/{}\"", "a", 116),
        ("ABCDEFGHIJKLMNOPQR27", "{}", "A", 30),
        ("id = \"foo\"", "id = \"{}\"", "a", 128),
        ("id = \"foo\"", "id = \"foo\"\nlabel = \"{}\"", "é", 127),
        ("{ file = \"secrets/key\" }", "{ value = \"{}\" }", "=", 64),
        ("token = \"xks\"", "token = \"{}\"", "x", 32),
        (
            "[tls]",
            "[tls.client]\ntrust_anchors = \"t\"\nsubject_common_names = [\"{}\"]\n[tls]",
            "é",
            64,
        ),
        ("[\"us-east-1\"]", "[\"us-{}-1\"]", "a", 27),
        ("token = \"xks\"", "token = \"xks\"\nenvironment = { {} = \"\" }", "A", 128),
        ("token = \"xks\"", "token = \"xks\"\nenvironment = { A = \"{}\" }", "/", 4096),
    ];
    for (from, to, filling, max) in cases {
        let of = |length: usize| edited(from, &to.replace("{}", &filling.repeat(length)));
        assert!(problems(&of(*max)).is_empty(), "{to:?}: {:#?}", problems(&of(*max)));
        assert_eq!(problems(&of(max + 1)).len(), 1, "{to:?}");
    }
    for (from, to, filling, min) in [
        ("ABCDEFGHIJKLMNOPQR27", "{}", "2", 20),
        ("{ file = \"secrets/key\" }", "{ value = \"{}\" }", "/", 43),
    ] {
        let of = |length: usize| edited(from, &to.replace("{}", &filling.repeat(length)));
        assert!(problems(&of(min)).is_empty(), "{to:?}");
        assert_eq!(problems(&of(min - 1)).len(), 1, "{to:?}");
    }
    let named = |length: usize| SMALL.replace("hsm-a", &"n".repeat(length));
    assert!(problems(&named(64)).is_empty());
    assert_eq!(problems(&named(65)).len(), 1);
    assert_eq!(problems(&SMALL.replace("hsm-a", "hsm a"))[0].key, "key_manager[0].name");
}

#[test]
fn key_managers_of_one_key_store_on_both_sides() {
    let with = |count: usize| {
        let names: Vec<String> = (0..count).map(|i| format!("m{i}")).collect();
        let managers: String = names
            .iter()
            .map(|n| {
                format!(
                    "[[key_manager]]\nname = \"{n}\"\nkind = \"local\"\nkey_file = \"{n}.json\"\n"
                )
            })
            .collect();
        let text = edited("[[keystore]]", &format!("{managers}[[keystore]]"));
        text.replace("key_manager = [\"hsm-a\"]", &format!("key_manager = {names:?}"))
    };
    assert!(problems(&with(10)).is_empty());
    let found = problems(&with(11));
    assert_eq!((found.len(), found[0].key.as_str()), (1, "keystore[0].key_manager"));
    assert!(found[0].message.contains("10 key managers at most"));
}

#[test]
fn variables_of_one_key_manager_on_both_sides() {
    let with = |count: usize| {
        let variables: Vec<String> = (0..count).map(|i| format!("A{i} = \"\"")).collect();
        let environment = format!("environment = {{ {} }}", variables.join(", "));
        problems(&edited("token = \"xks\"", &format!("token = \"xks\"\n{environment}")))
    };
    assert!(with(32).is_empty());
    let found = with(33);
    assert_eq!((found.len(), found[0].key.as_str()), (1, "key_manager[0].environment"));
    assert!(found[0].message.contains("32 at most"), "{found:?}");
}
