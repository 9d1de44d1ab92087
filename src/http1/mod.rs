//! HTTP/1.1, pure: bytes → request, response → bytes. No sockets, no clocks.

/// One header field as received: name in the case it came, value without surrounding white space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Field name, a valid token; compare with `eq_ignore_ascii_case`.
    pub name: &'a str,
    /// Field value, optional white space around it removed.
    pub value: &'a [u8],
}

/// What a request says of itself before its body: all that routing and authentication need.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Method as sent, case-sensitive: `POST`.
    pub method: &'a str,
    /// Path of the target as sent (still percent-encoded), without query. Starts with `/`, also for absolute-form targets.
    pub path: &'a str,
    /// Query without the `?`; empty where there is none.
    pub query: &'a str,
    /// All header fields in the order received.
    pub headers: &'a [Header<'a>],
}

impl<'a> Request<'a> {
    /// Values of all fields called `name` (compared without case), in the order received.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
    }
}
