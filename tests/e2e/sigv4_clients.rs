//! What real signers send is authenticated: curl over a socket, and botocore, AWS's own.
//!
//! Needs Debian's `curl` (7.75 or later) and `python3-botocore`; `scripts/test` installs both.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use xksd::http1::{Header, Request};
use xksd::secret::SecretString;
use xksd::sigv4::{
    AccessKeyId, AuthError, Credential, CredentialSet, SecretAccessKey, SigningKeys, authenticate,
    precheck,
};

const ID: &str = "ABCDEFGHIJKLMNOPQRST";
/// With all the characters that a shell, a URL or a `user:password` might trip over.
const SECRET: &str = "a+b/c=d+e/f=g+h/i=j+k/l=m+n/o=p+q/r=s+t/u=v+w/x=";
const OTHER_SECRET: &str = "OtherOtherOtherOtherOtherOtherOtherOtherOther";
const REGION: &str = "eu-central-1";
const PATH: &str = "/example/uri/path/prefix/kms/xks/v1/keys/foo.bar_baz-1/encrypt";
const BODY: &str = r#"{"requestMetadata":{"kmsOperation":"Encrypt","kmsRequestId":"4112f4d6"},"plaintext":"SGVsbG8="}"#;
/// Nothing here takes longer; a client that hangs fails the test instead of stopping it.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request as it arrived.
struct Received {
    method: String,
    path: String,
    query: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Received {
    /// The access key id.
    fn verify(&self, secret: &str) -> Result<Arc<str>, AuthError> {
        let id = AccessKeyId::new(ID).expect("valid id");
        let secret =
            SecretAccessKey::new(SecretString::new(secret).expect("memory")).expect("valid secret");
        let credentials =
            CredentialSet::new(vec![Credential::new(id, secret)]).expect("one credential");
        let regions = [REGION.to_string()];
        let now =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
        let now = i64::try_from(now).expect("before the year 292277026596");
        let headers: Vec<Header<'_>> =
            self.headers.iter().map(|(name, value)| Header { name, value }).collect();
        let request = Request {
            method: &self.method,
            path: &self.path,
            query: &self.query,
            headers: &headers,
        };
        precheck(&request, &credentials, &regions, now)?;
        authenticate(&request, &self.body, &credentials, &regions, now, &mut SigningKeys::new())
            .map(|authenticated| authenticated.access_key_id().clone())
    }

    fn is_signed(&self, name: &str) -> bool {
        let authorization =
            self.headers.iter().find(|header| header.0.eq_ignore_ascii_case("authorization"));
        let value = String::from_utf8(authorization.expect("signed").1.clone()).expect("ASCII");
        let (_, list) = value.split_once("SignedHeaders=").expect("SignedHeaders");
        list.split([';', ',']).any(|signed| signed == name)
    }

    /// Authentic under the secret; not under another, nor when the body or the path is another.
    #[track_caller]
    fn must_be_authentic(mut self, case: &str) {
        let id = self.verify(SECRET).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(&*id, ID, "{case}");
        assert!(
            matches!(self.verify(OTHER_SECRET), Err(AuthError::SignatureMismatch { .. })),
            "{case}"
        );
        self.body.push(b' ');
        assert!(self.verify(SECRET).is_err(), "{case}: another body");
        self.body.pop();
        self.path.push('x');
        assert!(self.verify(SECRET).is_err(), "{case}: another path");
    }
}

/// Reads one request with a Content-Length, if any, and answers it.
fn receive(stream: &mut TcpStream) -> Received {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let mut slots = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut slots);
        if let httparse::Status::Complete(head_bytes) = head.parse(&bytes).expect("HTTP") {
            let headers: Vec<(String, Vec<u8>)> =
                head.headers.iter().map(|each| (each.name.into(), each.value.into())).collect();
            let length =
                headers.iter().find(|header| header.0.eq_ignore_ascii_case("content-length"));
            let length = length
                .map_or(0, |header| String::from_utf8_lossy(&header.1).parse().expect("a length"));
            if bytes.len() >= head_bytes + length {
                let (path, query) = split_target(head.path.expect("a target"));
                let method = head.method.expect("a method").into();
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .expect("answered");
                return Received {
                    method,
                    path,
                    query,
                    headers,
                    body: bytes.split_off(head_bytes),
                };
            }
        }
        let count = stream.read(&mut chunk).expect("readable");
        assert!(
            count > 0,
            "the client closed within its request: {}",
            String::from_utf8_lossy(&bytes)
        );
        bytes.extend_from_slice(&chunk[..count]);
    }
}

fn split_target(target: &str) -> (String, String) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    (path.into(), query.into())
}

/// What curl sends when asked for `target` with these further arguments.
fn curl(target: &str, arguments: &[&str]) -> Received {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}{target}", listener.local_addr().expect("an address"));
    let mut child = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--disable",
            "--noproxy",
            "*",
            "--path-as-is",
            "--http1.1",
            "--max-time",
            "15",
        ])
        .args([
            "--aws-sigv4",
            &format!("aws:amz:{REGION}:kms-xks-proxy"),
            "--user",
            &format!("{ID}:{SECRET}"),
        ])
        .args(arguments)
        .arg(url)
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("curl does not start ({error}): run scripts/test, which installs it")
        });
    let mut stream = accept(&listener, &mut child);
    let received = receive(&mut stream);
    assert!(child.wait().expect("ended").success(), "curl failed");
    received
}

/// Waits for curl's connection, not longer than curl lives: one that is too old for `--aws-sigv4`
/// never connects.
fn accept(listener: &TcpListener, child: &mut std::process::Child) -> TcpStream {
    listener.set_nonblocking(true).expect("non-blocking");
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("blocking");
                return stream;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                let ended = child.try_wait().expect("a child");
                assert!(
                    ended.is_none(),
                    "curl ended without connecting ({ended:?}); it must know --aws-sigv4 (7.75 or \
                     later): run scripts/test"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => panic!("accept: {error}"),
        }
    }
}

#[test]
fn what_curl_signs_is_authentic() {
    let json = ["--header", "Content-Type:application/json"];
    let post = ["--request", "POST", "--data-binary", BODY];
    curl(PATH, &[&json[..], &post].concat())
        .must_be_authentic("as in appendix D of the specification");
    curl("/kms/xks/v1/health", &post).must_be_authentic("no prefix");
    curl(PATH, &["--request", "POST", "--data-binary", ""]).must_be_authentic("an empty body");
    curl(PATH, &[]).must_be_authentic("GET");
    let large = "x".repeat(20_000);
    curl(PATH, &["--data-binary", &large]).must_be_authentic("a large body");
    let received = curl(PATH, &[&post[..], &["--header", "X-Amz-Meta: a value"]].concat());
    assert!(received.is_signed("host") && received.is_signed("x-amz-date"));
    received.must_be_authentic("a further header");
}

/// Method, target, further headers, body.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

/// What botocore sends for these requests.
fn botocore(requests: &[Case<'_>]) -> Vec<Received> {
    let job = json!({
        "access_key_id": ID, "secret_access_key": SECRET, "region": REGION,
        "requests": requests.iter().map(|(method, target, headers, body)| json!({
            "method": method, "url": format!("https://xks.example.com{target}"), "headers": headers, "body": body,
        })).collect::<Vec<_>>(),
    });
    // Debian's python3, for which python3-botocore is installed, whatever else is called python3.
    let mut child = Command::new("/usr/bin/python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/botocore_sign.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("/usr/bin/python3 does not start ({error}): run scripts/test, which installs it")
        });
    // A script that fails to import botocore does not read: what counts is how it ends.
    let _ = child.stdin.take().expect("piped").write_all(job.to_string().as_bytes());
    let output = child.wait_with_output().expect("ended");
    assert!(
        output.status.success(),
        "botocore_sign.py failed, see above; is python3-botocore missing? run scripts/test, which \
         installs it"
    );
    let signed: Value = serde_json::from_slice(&output.stdout).expect("JSON");

    let text = |value: &Value| value.as_str().expect("text").to_string();
    let signed = signed.as_array().expect("a list");
    assert_eq!(signed.len(), requests.len());
    let received = |((method, target, _, body), headers): (&Case<'_>, &Value)| {
        let (path, query) = split_target(target);
        let headers = headers
            .as_array()
            .expect("a list")
            .iter()
            .map(|pair| (text(&pair[0]), text(&pair[1]).trim().as_bytes().to_vec()));
        // botocore signs the host of the URL and leaves the header to the HTTP client.
        let mut headers: Vec<_> =
            headers.filter(|header| !header.0.eq_ignore_ascii_case("host")).collect();
        headers.push(("Host".into(), b"xks.example.com".to_vec()));
        Received {
            method: method.to_string(),
            path,
            query,
            headers,
            body: body.as_bytes().to_vec(),
        }
    };
    requests.iter().zip(signed).map(received).collect()
}

#[test]
fn what_botocore_signs_is_authentic() {
    let cases: [Case<'_>; 8] = [
        ("POST", PATH, &[("Content-Type", "application/json")], BODY),
        ("POST", "/kms/xks/v1/health", &[], BODY),
        ("POST", "/kms/xks/v1/health", &[], ""),
        ("GET", PATH, &[], ""),
        (
            "POST",
            PATH,
            &[("X-Spaces", "  a   b \t c  "), ("x-amz-meta", "v"), ("X-A-B", "1"), ("X-A", "2")],
            BODY,
        ),
        ("POST", "/a%20b/%C3%A9/$x@y:z/", &[], BODY),
        ("POST", "/kms/xks/v1/health?b=2&a=1&b=1&a-b=3&c", &[], BODY),
        (
            "POST",
            PATH,
            &[(
                "X-Amz-Content-SHA256",
                "0000000000000000000000000000000000000000000000000000000000000000",
            )],
            BODY,
        ),
    ];
    let mut received = botocore(&cases);
    let declared = received.pop().expect("the last one");
    assert!(
        matches!(declared.verify(SECRET), Err(AuthError::PayloadHashMismatch)),
        "a hash that is not the body's"
    );
    for (received, case) in received.into_iter().zip(cases) {
        received.must_be_authentic(&format!("{case:?}"));
    }
}
