//! The request's way, on one page: route → authenticate → decode → key → key manager → encode. One
//! [`Pipeline`] a shard.

mod faults;
pub mod health;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use crate::api::framing::{self, Format};
use crate::api::response::{self, Encrypted, KeyMetadata};
use crate::api::{ApiError, Call, Decrypt, Encrypt, ErrorName, Operation, RequestMetadata, Route};
use crate::http1::{Reject, Request};
use crate::key_manager::{Answer, Job, KeyRef, Task};
use crate::keystore::{Key, KeyStore, KeyStores};
use crate::limits::{STRANGERS_LOG_INTERVAL, STRANGERS_LOG_LINES_MAX};
use crate::sched::{Delivered, Inbox};
use crate::sigv4::{self, SigningKeys};
use crate::telemetry::{Level, Log, RequestKey, RequestRecord, ShardMetrics, Shares};

/// Everything a shard needs to answer requests.
pub struct Pipeline {
    shard: usize,
    stores: Arc<ArcSwap<KeyStores>>,
    inbox: Rc<Inbox>,
    signing_keys: RefCell<SigningKeys>,
    metrics: Arc<ShardMetrics>,
    log: Log,
    /// Lines of the log that requests without a valid signature may have, by errorName.
    strangers: RefCell<Shares>,
}

/// When and from where a request came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Its first byte: the budget counts from here.
    pub first_byte: Instant,
    /// When its head was read; signatures are judged by this.
    pub head_read: SystemTime,
    /// The peer.
    pub client: SocketAddr,
}

impl Arrival {
    fn unix_seconds(&self) -> i64 {
        self.head_read
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
    }
}

/// A request that may go to the key managers of its key store.
struct Admitted<'a> {
    store: &'a KeyStore,
    key: &'a Key,
    /// As it was decoded before.
    body: &'a [u8],
    deadline: Instant,
}

impl Admitted<'_> {
    fn decode(&self, operation: Operation) -> Option<Call> {
        crate::api::decode(operation, self.body).ok().map(|valid| valid.into_parts().1)
    }
}

/// What is learned of a request on its way, for the log and the counters.
struct Story {
    record: Box<RequestRecord>,
    hsm: Option<(Duration, Duration)>,
}

impl Pipeline {
    /// The pipeline of shard `shard`.
    pub fn new(
        shard: usize,
        stores: Arc<ArcSwap<KeyStores>>,
        inbox: Rc<Inbox>,
        metrics: Arc<ShardMetrics>,
        log: Log,
    ) -> Pipeline {
        let strangers = RefCell::new(Shares::new(STRANGERS_LOG_LINES_MAX, STRANGERS_LOG_INTERVAL));
        Pipeline {
            shard,
            stores,
            inbox,
            signing_keys: RefCell::new(SigningKeys::new()),
            metrics,
            log,
            strangers,
        }
    }

    /// Whether a request is worth reading its body: false when its path, method or what it says of
    /// its signature already fails. [`Pipeline::on_request`] then answers it without its body.
    pub fn wants_body(&self, request: &Request<'_>, arrival: &Arrival) -> bool {
        let stores = self.stores.load();
        self.route(&stores, request).is_ok_and(|(_, store)| {
            sigv4::precheck(request, &store.credentials, &stores.regions, arrival.unix_seconds())
                .is_ok()
        })
    }

    /// Answers a request: appends the JSON body to `out` and gives the status. `body` is the whole
    /// body.
    pub async fn on_request(
        &self,
        request: &Request<'_>,
        body: &[u8],
        arrival: &Arrival,
        out: &mut Vec<u8>,
    ) -> u16 {
        self.inbox.look();
        let mut story = self.story();
        let result = self.serve(request, body, arrival, out, &mut story).await;
        self.inbox.look();
        self.finish(result, arrival, out, story)
    }

    /// Answers what is no HTTP request that could be read.
    pub fn on_reject(&self, reject: &Reject, arrival: &Arrival, out: &mut Vec<u8>) -> u16 {
        self.finish(
            Err(ApiError::transport(reject.status, reject.reason)),
            arrival,
            out,
            self.story(),
        )
    }

    fn story(&self) -> Story {
        let mut record = self.log.record();
        record.operation = "none";
        Story { record, hsm: None }
    }

    async fn serve(
        &self,
        request: &Request<'_>,
        body: &[u8],
        arrival: &Arrival,
        out: &mut Vec<u8>,
        story: &mut Story,
    ) -> Result<(), ApiError> {
        let stores = self.stores.load_full();
        let (route, store) = self.route(&stores, request).inspect_err(|error| {
            // What stands before xksd may have rewritten the prefix: only here can that be seen.
            // Nothing else of the path, which may be anything.
            if let Ok(route) = crate::api::route(request.path) {
                story.record.detail = format!("{}: {}", error.message(), route.prefix);
            }
        })?;
        story.record.key_store = store.prefix.clone();
        story.record.operation = route.operation.as_str();
        story.record.key.push_str(route.key_id);
        self.authenticate(&stores, store, request, body, arrival, story)?;

        let (metadata, call) = match crate::api::decode(route.operation, body) {
            Ok(valid) => valid.into_parts(),
            Err(rejection) => {
                story.tell(rejection.metadata);
                return Err(rejection.error);
            }
        };
        story.tell(metadata);
        if !store.enabled {
            return Err(ApiError::new(
                ErrorName::InvalidStateException,
                "this key store is disabled in the proxy's configuration",
            ));
        }
        let deadline = arrival.first_byte + stores.request_budget;
        if Instant::now() >= deadline {
            let message = "the request took longer to arrive than it may take to answer";
            return Err(ApiError::new(ErrorName::DependencyTimeoutException, message));
        }
        let of = |key| Admitted { store, key, body, deadline };
        match call {
            Call::Health => {
                health::write(store, Instant::now(), out);
                Ok(())
            }
            Call::Metadata => self.metadata(&of(find_key(store, &route)?), out, story).await,
            Call::Encrypt(encrypt) => {
                self.encrypt(&of(find_enabled_key(store, &route)?), encrypt, out, story).await
            }
            Call::Decrypt(decrypt) => {
                self.decrypt(&of(find_enabled_key(store, &route)?), decrypt, out, story).await
            }
        }
    }

    fn route<'s, 'r>(
        &self,
        stores: &'s KeyStores,
        request: &Request<'r>,
    ) -> Result<(Route<'r>, &'s Arc<KeyStore>), ApiError> {
        let route = crate::api::route(request.path)?;
        let store = stores.by_prefix.get(route.prefix).ok_or_else(|| {
            ApiError::new(ErrorName::InvalidUriPathException, "no key store has this path prefix")
        })?;
        crate::api::check_method(request.method)?;
        // A presigned URL has its signature in the wrong place, and is told so by `auth`.
        if !sigv4::is_presigned(request.query) {
            crate::api::check_query(request.query)?;
        }
        Ok((route, store))
    }

    fn authenticate(
        &self,
        stores: &KeyStores,
        store: &KeyStore,
        request: &Request<'_>,
        body: &[u8],
        arrival: &Arrival,
        story: &mut Story,
    ) -> Result<(), ApiError> {
        let mut keys = self.signing_keys.borrow_mut();
        match sigv4::authenticate(
            request,
            body,
            &store.credentials,
            &stores.regions,
            arrival.unix_seconds(),
            &mut keys,
        ) {
            Ok(authenticated) => {
                story.record.access_key_id = authenticated.access_key_id().clone();
                Ok(())
            }
            Err(error) => {
                self.metrics.unauthenticated(error.reason());
                Err(ApiError::new(ErrorName::AuthenticationFailedException, error.to_string()))
            }
        }
    }

    async fn metadata(
        &self,
        admitted: &Admitted<'_>,
        out: &mut Vec<u8>,
        story: &mut Story,
    ) -> Result<(), ApiError> {
        let (key, task) = (admitted.key.primary(), Task::Describe);
        match self.execute(admitted, key, task, || Some(Task::Describe), story).await? {
            Answer::Described(described) => {
                let enabled = admitted.key.enabled && described.enabled;
                response::metadata(
                    &KeyMetadata { spec: &described.spec, usage: &described.usage, enabled },
                    out,
                );
                Ok(())
            }
            _ => Err(faults::wrong_answer()),
        }
    }

    async fn encrypt(
        &self,
        admitted: &Admitted<'_>,
        encrypt: Encrypt,
        out: &mut Vec<u8>,
        story: &mut Story,
    ) -> Result<(), ApiError> {
        let key = admitted.key.primary();
        let metadata = framing::encode_metadata(key.version);
        let task = |encrypt: Encrypt| {
            let aad = encrypt.aad.unwrap_or_default();
            let integrity = encrypt.integrity.then(|| framing::integrity_prefix(&aad, &metadata));
            Ok(Task::Encrypt {
                plaintext: encrypt.plaintext,
                aad: framing::aad_v1(aad, &metadata)?,
                integrity,
            })
        };
        let again = || match admitted.decode(Operation::Encrypt)? {
            Call::Encrypt(encrypt) => task(encrypt).ok(),
            _ => None,
        };
        match self.execute(admitted, key, task(encrypt)?, again, story).await? {
            Answer::Encrypted { iv, ciphertext, tag, integrity } => {
                let (metadata, integrity) = (Some(metadata.as_slice()), integrity.as_ref());
                response::encrypt(
                    &Encrypted { ciphertext: &ciphertext, iv: &iv, tag: &tag, metadata, integrity },
                    out,
                );
                Ok(())
            }
            _ => Err(faults::wrong_answer()),
        }
    }

    async fn decrypt(
        &self,
        admitted: &Admitted<'_>,
        decrypt: Decrypt,
        out: &mut Vec<u8>,
        story: &mut Story,
    ) -> Result<(), ApiError> {
        let task = |decrypt: Decrypt| {
            let (aad, metadata) = (decrypt.aad, decrypt.metadata.as_deref());
            let (key, framed) = match ciphertext_key(admitted.key, metadata) {
                Ok(key) => {
                    (key, framing::aad_v1(aad.unwrap_or_default(), metadata.unwrap_or_default())?)
                }
                // The sample proxy can be configured to send metadata of its own; whether it is
                // genuine, the tag decides.
                Err(_) if admitted.store.accept_aws_sample => (
                    admitted.key.first(),
                    framing::aad_aws_sample(aad.as_deref(), metadata.unwrap_or_default())?,
                ),
                Err(error) => return Err(error),
            };
            let Decrypt { ciphertext, iv, tag, .. } = decrypt;
            Ok((key, Task::Decrypt { ciphertext, iv, tag, aad: framed }))
        };
        let (key, first) = task(decrypt)?;
        let again = || match admitted.decode(Operation::Decrypt)? {
            Call::Decrypt(decrypt) => task(decrypt).ok().map(|(_, task)| task),
            _ => None,
        };
        match self.execute(admitted, key, first, again, story).await? {
            Answer::Decrypted(plaintext) => {
                response::decrypt(&plaintext.0, out);
                Ok(())
            }
            _ => Err(faults::wrong_answer()),
        }
    }

    /// Has a key manager do the task, the healthiest and soonest first; tried once more, on another
    /// replica or session, when that may help and there is time for it. The task is made `again`
    /// then: a copy for the case would cost every request its allocations, and leave one more copy
    /// of plaintext to be wiped.
    async fn execute(
        &self,
        admitted: &Admitted<'_>,
        key: KeyRef,
        task: Task,
        again: impl Fn() -> Option<Task>,
        story: &mut Story,
    ) -> Result<Answer, ApiError> {
        let Admitted { store, deadline, .. } = *admitted;
        let mut tries = store.tries(Instant::now()).peekable();
        let mut failed = Err(faults::no_manager());
        let mut task = Some(task);
        while let Some(manager) = tries.next() {
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            let replica_left = tries.peek().is_some_and(|next| !Arc::ptr_eq(next, manager));
            // A replica that hangs must leave time for the other one.
            let deadline = if replica_left { now + (deadline - now) / 2 } else { deadline };
            let Some(task_now) = task.take().or_else(&again) else { break };
            let job = Job { key: key.clone(), task: task_now, deadline };
            story.record.key_manager = manager.name.clone();
            let delivered = match manager.execute(&self.inbox, job).await {
                Ok(delivered) => delivered,
                Err(returned) => {
                    let (refused, job) = *returned;
                    task = Some(job.task);
                    failed = Err(faults::refused(&refused, &mut story.record.detail));
                    // Refused by this one; the same one would refuse again.
                    if replica_left { continue } else { break }
                }
            };
            let Delivered { outcome, queue_wait, hsm_time } = delivered;
            story.spent(queue_wait, hsm_time);
            let begun = !hsm_time.is_zero();
            match outcome {
                Ok(answer) => {
                    story.record.detail.clear();
                    return Ok(answer);
                }
                Err(fault) => {
                    let again = faults::may_pass_elsewhere(&fault, replica_left);
                    failed = Err(faults::to_api_error(fault, begun, &mut story.record.detail));
                    if !again {
                        break;
                    }
                }
            }
        }
        failed
    }

    /// Writes an error's body, logs and counts.
    fn finish(
        &self,
        result: Result<(), ApiError>,
        arrival: &Arrival,
        out: &mut Vec<u8>,
        story: Story,
    ) -> u16 {
        let Story { mut record, hsm } = story;
        (record.status, record.error) = match &result {
            Ok(()) => (200, "none"),
            Err(error) => {
                out.clear();
                error.write_body(out);
                if record.detail.is_empty() {
                    record.detail.push_str(error.message());
                }
                (error.status(), error.name().as_str())
            }
        };
        let total = arrival.first_byte.elapsed();
        let key = RequestKey {
            key_store: record.key_store.clone(),
            operation: record.operation,
            error: record.error,
        };
        self.metrics.request(&key, total, hsm);
        let (queue, hsm) = hsm.unwrap_or_default();
        (record.total_us, record.queue_us, record.hsm_us) =
            (total.as_micros() as u64, queue.as_micros() as u64, hsm.as_micros() as u64);
        record.client = Some(arrival.client);
        record.shard = self.shard;
        let status = record.status;
        // What a credential stands behind is told in any number; it is the record of who used which
        // key.
        if !record.access_key_id.is_empty() || self.may_tell_of_stranger(record.error) {
            self.log.request(record);
        }
        status
    }

    fn may_tell_of_stranger(&self, error: &'static str) -> bool {
        let now = Instant::now();
        self.sweep(now);
        self.strangers.borrow_mut().take(error, now)
    }

    /// Logs how many refused requests were left out of the log, once their interval is over. To be
    /// called now and then.
    pub fn sweep(&self, now: Instant) {
        self.strangers.borrow_mut().sweep(now, |error, left_out| {
            self.log.event(
                Level::Warn,
                format!("{left_out} more requests without a valid signature were refused: {error}"),
            );
        });
    }
}

impl Story {
    /// Adds up what all tries took.
    fn spent(&mut self, queue: Duration, hsm: Duration) {
        let (queue_before, hsm_before) = self.hsm.unwrap_or_default();
        self.hsm = Some((queue_before + queue, hsm_before + hsm));
    }

    fn tell(&mut self, metadata: RequestMetadata<'_>) {
        let record = &mut *self.record;
        for (told, field) in [
            (&mut record.kms_request_id, metadata.kms_request_id),
            (&mut record.kms_operation, metadata.kms_operation),
            (&mut record.principal, metadata.principal),
            (&mut record.kms_key_arn, metadata.kms_key_arn),
            (&mut record.kms_via_service, metadata.via_service),
            (&mut record.source_vpc, metadata.vpc),
            (&mut record.source_vpce, metadata.vpce),
        ] {
            told.push_str(field.as_deref().unwrap_or_default());
        }
    }
}

/// The version of the key that made a ciphertext with this metadata.
fn ciphertext_key(key: &Key, metadata: Option<&[u8]>) -> Result<KeyRef, ApiError> {
    let invalid = |message| ApiError::new(ErrorName::InvalidCiphertextException, message);
    match framing::parse(metadata)? {
        Format::V1 { key_version } => key
            .version(key_version)
            .ok_or_else(|| invalid("ciphertextMetadata names a key version that does not exist")),
        Format::Absent => Err(invalid(
            "ciphertextMetadata is missing: this ciphertext was not made by this proxy",
        )),
    }
}

fn find_key<'s>(store: &'s KeyStore, route: &Route<'_>) -> Result<&'s Key, ApiError> {
    debug_assert_ne!(route.operation, Operation::Health);
    store.keys.get(route.key_id).ok_or_else(|| {
        ApiError::new(ErrorName::KeyNotFoundException, "this key store has no such external key")
    })
}

fn find_enabled_key<'s>(store: &'s KeyStore, route: &Route<'_>) -> Result<&'s Key, ApiError> {
    let key = find_key(store, route)?;
    if key.enabled {
        Ok(key)
    } else {
        Err(ApiError::new(
            ErrorName::InvalidStateException,
            "this external key is disabled in the proxy's configuration",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ciphertext_names_the_version_of_its_key() {
        let key = Key::new("foo", true);
        let of = |metadata| ciphertext_key(&key, metadata).map_err(|error| error.name());
        assert_eq!(of(Some(&[1, 0, 0])), Ok(KeyRef::first("foo")));
        let others: [Option<&[u8]>; 5] =
            [None, Some(&[]), Some(&[1, 0, 1]), Some(&[1, 1, 0]), Some(&[2, 0, 0])];
        for other in others {
            assert_eq!(of(other), Err(ErrorName::InvalidCiphertextException), "{other:?}");
        }
    }
}
