//! Whatever the signer signs verifies; whatever is changed afterwards does not.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn message() -> impl Strategy<Value = Message> {
    let segment = prop_oneof![4 => "[A-Za-z0-9_-]{1,12}", 1 => "[ -.0-~]{1,8}".prop_filter("not \
        dots alone", |s| s != "." && s != "..")];
    let parameter = "([A-Za-z0-9._~-]|%2F|%E1|%3D){1,5}(=([A-Za-z0-9._~-]|%20|%25){0,5})?"
        .prop_filter("not presigned", |parameter| !is_presigned(parameter));
    let header = (
        "[Xx]-[a-eA-E-]{1,4}",
        proptest::collection::vec(
            prop_oneof![8 => 0x21..=0x7e_u8, 3 => Just(b' '), 1 => Just(b'\t'), 1 => 0x80..=0xff_u8],
            0..16,
        ),
    );
    (
        "(POST|GET|PUT|[A-Z]{1,7})",
        proptest::collection::vec(segment, 0..6),
        proptest::collection::vec(parameter, 0..4),
        proptest::collection::vec(header, 0..6),
        proptest::collection::vec(any::<u8>(), 0..200),
        "[a-z0-9.:-]{1,20}",
    )
        .prop_map(|(method, segments, parameters, headers, body, host)| {
            let mut headers = headers;
            headers.insert(headers.len() / 2, ("Host".into(), host.into_bytes()));
            Message {
                method,
                path: format!("/{}", segments.join("/")),
                query: parameters.join("&"),
                headers,
                body,
            }
        })
}

/// Replaces one byte of `bytes` by another one.
fn change(bytes: &mut [u8], at: Index, to: u8) -> Option<(u8, u8)> {
    if bytes.is_empty() {
        return None;
    }
    let byte = &mut bytes[at.index(bytes.len())];
    let from = std::mem::replace(byte, to);
    (from != to).then_some((from, to))
}

fn change_text(text: &mut String, at: Index, to: u8) -> bool {
    let mut bytes = std::mem::take(text).into_bytes();
    let changed = change(&mut bytes, at, to & 0x7f).is_some();
    *text = String::from_utf8(bytes).expect("ASCII");
    changed
}

fn is_blank(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

proptest! {
    #[test]
    fn what_is_signed_is_authentic(message in message()) {
        let outcome = authenticate_at(&message.signed(&signer()), NOW).map(drop);
        prop_assert_eq!(outcome, Ok(()));
    }

    #[test]
    fn unsigned_headers_and_their_order_do_not_matter(message in message(), extra in "[a-zA-Z0-9 \
        ,;=]{0,20}") {
        let mut signed = message.signed(&signer()).header("z-unsigned", &extra);
        signed.headers.rotate_right(1);
        prop_assert!(authenticate_at(&signed, NOW).is_ok());
    }

    #[test]
    fn a_changed_byte_of_method_path_or_query_is_noticed(message in message(), which in 0..3, at: Index, to: u8) {
        let mut signed = message.signed(&signer());
        let text = match which { 0 => &mut signed.method, 1 => &mut signed.path, _ => &mut signed.query };
        let is_changed = change_text(text, at, to); // not if it is empty or the byte is the same
        prop_assert_eq!(authenticate_at(&signed, NOW).is_err(), is_changed);
    }

    #[test]
    fn a_changed_byte_of_the_body_is_noticed(message in message(), at: Index, to: u8) {
        let mut signed = message.signed(&signer());
        let is_changed = change(&mut signed.body, at, to).is_some();
        prop_assert_eq!(authenticate_at(&signed, NOW).is_err(), is_changed);
    }

    #[test]
    fn a_longer_or_shorter_body_is_noticed(message in message(), more: u8) {
        let mut signed = message.signed(&signer());
        signed.body.push(more);
        prop_assert!(authenticate_at(&signed, NOW).is_err());
        signed.body.pop();
        if signed.body.pop().is_some() {
            prop_assert!(authenticate_at(&signed, NOW).is_err());
        }
    }

    /// All headers are signed, `Authorization` but for itself: there every byte counts too.
    #[test]
    fn a_changed_byte_of_a_header_value_is_noticed(message in message(), header: Index, at: Index, to: u8) {
        let mut signed = message.signed(&signer());
        let header = header.index(signed.headers.len());
        // Runs of blanks fold into one space: one kind for the other makes no difference to the
        // signer either.
        let folds = signed.headers[header].0 != "Authorization";
        let is_noticed =
            change(&mut signed.headers[header].1, at, to).is_some_and(|(from, to)| !(folds && is_blank(from) && is_blank(to)));
        prop_assert_eq!(authenticate_at(&signed, NOW).is_err(), is_noticed);
    }

    #[test]
    fn every_byte_of_authorization_counts(at: Index, to: u8) {
        let mut signed = signed();
        let authorization = signed.headers.last_mut().expect("headers");
        let is_changed = change(&mut authorization.1, at, to).is_some();
        prop_assert_eq!(authenticate_at(&signed, NOW).is_err(), is_changed);
    }

    #[test]
    fn every_byte_of_the_date_counts(at: Index, to: u8, seconds in -300..=300_i64) {
        let mut signed = signed();
        let date = signed.headers.iter_mut().find(|header| header.0 == "X-Amz-Date").expect("the \
            date");
        let is_changed = change(&mut date.1, at, to).is_some();
        prop_assert_eq!(authenticate_at(&signed, NOW + seconds).is_err(), is_changed);
    }

    #[test]
    fn a_header_that_is_renamed_removed_or_added_twice_is_noticed(message in message(), header: Index) {
        let signed = message.signed(&signer());
        let header = header.index(signed.headers.len());
        let mut renamed = signed.clone();
        renamed.headers[header].0.push('q');
        prop_assert!(authenticate_at(&renamed, NOW).is_err());
        let mut removed = signed.clone();
        removed.headers.remove(header);
        prop_assert!(authenticate_at(&removed, NOW).is_err());
        let mut twice = signed;
        let copy = twice.headers[header].clone();
        twice.headers.insert(header, copy);
        prop_assert!(authenticate_at(&twice, NOW).is_err());
    }

    #[test]
    fn no_bytes_panic_or_pass(value in proptest::collection::vec(any::<u8>(), 0..200), date in "[0-9TZ]{0,17}", path in ".{0,30}", query in ".{0,30}") {
        let mut message = unsigned().header("x-amz-date", &date);
        message.path = path;
        message.query = query;
        message.headers.push(("authorization".into(), value));
        let refused = authenticate_at(&message, NOW).map(drop).expect_err("nothing is signed here");
        prop_assert!(refused.to_string().len() <= ERROR_MESSAGE_CHARS_MAX);
    }
}
