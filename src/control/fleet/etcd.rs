//! What is asked of etcd, by its JSON gateway. Every call is bounded in time and size; numbers are
//! strings there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::BOUNDS;
use super::reach::Reach;
use crate::config::Url;
use crate::control::http_client::{self, Answer, Request};
use crate::limits::FLEET_MEMBERS_A_CALL_MAX;

/// One etcd, over all its members.
pub struct Etcd {
    reach: Arc<ArcSwap<Reach>>,
    /// The member that is asked.
    at: AtomicUsize,
}

/// A value with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The whole key.
    pub key: String,
    /// Nothing where it was deleted.
    pub value: Option<Vec<u8>>,
    /// Of its last change; 0 where there is none.
    pub revision: u64,
}

/// A page of a range.
#[derive(Debug, Default)]
pub struct Page {
    /// In order of keys.
    pub entries: Vec<Entry>,
    /// Of the whole etcd when it was read.
    pub revision: u64,
    /// Whether there is more behind it.
    pub more: bool,
}

/// Changes as they come.
pub struct Watch(Answer);

impl Etcd {
    /// At these members.
    pub fn new(reach: Arc<ArcSwap<Reach>>) -> Etcd {
        Etcd { reach, at: AtomicUsize::new(0) }
    }

    /// How it is reached now.
    pub fn reach(&self) -> Arc<Reach> {
        self.reach.load_full()
    }

    /// From now on the next member is asked.
    pub fn next_endpoint(&self) {
        self.at.fetch_add(1, Ordering::Relaxed);
    }

    /// The member that is asked.
    pub fn endpoint(&self) -> Url {
        self.member(&self.reach()).clone()
    }

    fn member<'r>(&self, reach: &'r Reach) -> &'r Url {
        &reach.urls[self.at.load(Ordering::Relaxed) % reach.urls.len()]
    }

    /// A page of the keys from `first` on that begin with `prefix`.
    ///
    /// # Errors
    /// A sentence for the operator; likewise below.
    pub fn range(&self, prefix: &str, first: &str, limit: usize) -> Result<Page, String> {
        let body = json!({ "key": base64(first), "range_end": end_of(prefix), "limit": limit });
        let answer = self.call("/v3/kv/range", &body)?;
        let entries = answer["kvs"].as_array().map_or(&[][..], Vec::as_slice);
        let more = answer["more"].as_bool().unwrap_or(false);
        let entries: Vec<Entry> = entries.iter().filter_map(entry).collect();
        let more = more && !entries.is_empty();
        Ok(Page { entries, revision: number(&answer["header"]["revision"]), more })
    }

    /// The value of a key; one without a value where there is none.
    ///
    /// # Errors
    /// As above.
    pub fn get(&self, key: &str) -> Result<Entry, String> {
        let answer = self.call("/v3/kv/range", &json!({ "key": base64(key) }))?;
        let found = answer["kvs"].as_array().and_then(|all| entry(all.first()?));
        Ok(found.unwrap_or_else(|| Entry { key: key.to_owned(), value: None, revision: 0 }))
    }

    /// Writes a value if the key was not changed after `revision` (0: is not there); whether it was
    /// written.
    ///
    /// # Errors
    /// As above. Then nobody knows whether it was written.
    pub fn swap(&self, key: &str, revision: u64, value: &[u8]) -> Result<bool, String> {
        let body = json!({
            "compare": [{
                "key": base64(key), "target": "MOD", "result": "EQUAL",
                "mod_revision": revision.to_string(),
            }],
            "success": [{ "request_put": { "key": base64(key), "value": STANDARD.encode(value) } }],
        });
        Ok(self.call("/v3/kv/txn", &body)?["succeeded"].as_bool().unwrap_or(false))
    }

    /// Writes a value that lives as long as the lease; 0: for ever.
    ///
    /// # Errors
    /// As above.
    pub fn put(&self, key: &str, value: &[u8], lease: u64) -> Result<(), String> {
        let value = STANDARD.encode(value);
        let body = json!({ "key": base64(key), "value": value, "lease": lease.to_string() });
        self.call("/v3/kv/put", &body).map(drop)
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// As above.
    pub fn delete(&self, key: &str) -> Result<(), String> {
        self.call("/v3/kv/deleterange", &json!({ "key": base64(key) })).map(drop)
    }

    /// A new lease.
    ///
    /// # Errors
    /// As above.
    pub fn grant(&self, time: Duration) -> Result<u64, String> {
        let answer = self.call("/v3/lease/grant", &json!({ "TTL": time.as_secs().to_string() }))?;
        match number(&answer["ID"]) {
            0 => Err("etcd gave no lease".to_owned()),
            lease => Ok(lease),
        }
    }

    /// Renews a lease; false where it has ended.
    ///
    /// # Errors
    /// As above.
    pub fn keep_alive(&self, lease: u64) -> Result<bool, String> {
        let answer = self.call("/v3/lease/keepalive", &json!({ "ID": lease.to_string() }))?;
        Ok(number(&answer["result"]["TTL"]) > 0)
    }

    /// Ends a lease with all that lives by it.
    ///
    /// # Errors
    /// As above.
    pub fn revoke(&self, lease: u64) -> Result<(), String> {
        self.call("/v3/lease/revoke", &json!({ "ID": lease.to_string() })).map(drop)
    }

    /// All changes of keys that begin with `prefix`, from `revision` on.
    ///
    /// # Errors
    /// As above.
    pub fn watch(&self, prefix: &str, revision: u64) -> Result<Watch, String> {
        let body = json!({ "create_request": {
            "key": base64(prefix), "range_end": end_of(prefix),
            "start_revision": revision.to_string(),
        }});
        let reach = self.reach();
        let token = self.token(&reach)?;
        let answer = self.send(&reach, "/v3/watch", token.as_deref(), &body)?;
        if answer.status != 200 {
            return Err(refused(answer));
        }
        Ok(Watch(answer))
    }

    /// One is asked for each time: it ends after some minutes, and with a change of the user.
    fn token(&self, reach: &Reach) -> Result<Option<String>, String> {
        let Some((user, password)) = &reach.user else { return Ok(None) };
        let body = json!({ "name": user, "password": password.expose() });
        let answer = parsed(self.send(reach, "/v3/auth/authenticate", None, &body)?)?;
        let token = answer["token"]
            .as_str()
            .filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic()));
        token.map(|token| Some(token.to_owned())).ok_or("etcd gave no token".to_owned())
    }

    /// Asks one member after the other, until one answers.
    fn call(&self, path: &str, body: &Value) -> Result<Value, String> {
        let (mut first, reach) = (None, self.reach());
        for _ in 0..reach.urls.len().min(FLEET_MEMBERS_A_CALL_MAX) {
            let token = self.token(&reach);
            let answer = token.and_then(|token| self.send(&reach, path, token.as_deref(), body));
            match answer.and_then(parsed) {
                Ok(answer) => return Ok(answer),
                Err(why) => {
                    first.get_or_insert(why);
                    self.next_endpoint();
                }
            }
        }
        Err(first.unwrap_or_default())
    }

    fn send(
        &self,
        reach: &Reach,
        path: &str,
        authorization: Option<&str>,
        body: &Value,
    ) -> Result<Answer, String> {
        let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
        let (method, content_type) = ("POST", "application/json");
        let request = Request { method, path, authorization, content_type, body: &body };
        http_client::send(self.member(reach), reach.tls.as_ref(), request, BOUNDS)
    }
}

impl Watch {
    /// Changes that have come; none where none comes within `patience`.
    ///
    /// # Errors
    /// When no further one will come: all must be read again.
    pub fn changes(&mut self, patience: Duration) -> Result<Vec<Entry>, String> {
        let Some(line) = self.0.line(patience)? else { return Ok(Vec::new()) };
        let line: Value = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
        let result = &line["result"];
        if !line["error"].is_null() || result["canceled"].as_bool().unwrap_or(false) {
            return Err("etcd has ended the watch".to_owned());
        }
        let events = result["events"].as_array().map_or(&[][..], Vec::as_slice);
        let change = |event: &Value| {
            let entry = entry(&event["kv"])?;
            let deleted = event["type"] == "DELETE";
            Some(if deleted { Entry { value: None, ..entry } } else { entry })
        };
        Ok(events.iter().filter_map(change).collect())
    }
}

fn parsed(answer: Answer) -> Result<Value, String> {
    if answer.status != 200 {
        return Err(refused(answer));
    }
    serde_json::from_slice(&answer.body()?).map_err(|error| format!("etcd's answer: {error}"))
}

fn refused(answer: Answer) -> String {
    const ANSWER_CHARS: usize = 200;
    let status = answer.status;
    let body = match answer.body() {
        Ok(body) => body,
        Err(why) => return format!("etcd answered {status}, and then {why}"),
    };
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = match json["error"].as_str() {
        Some(text) => text.to_owned(),
        None => String::from_utf8_lossy(&body).into_owned(),
    };
    let text: String = text.chars().take(ANSWER_CHARS).collect();
    format!("etcd answered {status}: {}", text.trim_end().escape_debug())
}

fn entry(kv: &Value) -> Option<Entry> {
    let key = STANDARD.decode(kv["key"].as_str()?).ok()?;
    let value = STANDARD.decode(kv["value"].as_str().unwrap_or_default()).ok()?;
    let revision = number(&kv["mod_revision"]);
    Some(Entry { key: String::from_utf8(key).ok()?, value: Some(value), revision })
}

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn base64(key: &str) -> String {
    STANDARD.encode(key)
}

/// The first key that does not begin with `prefix`, which ends in `/`.
fn end_of(prefix: &str) -> String {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    STANDARD.encode(end)
}
