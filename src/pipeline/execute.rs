//! A permitted request is done by the key managers of its key store, and its answer written.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::errors;
use super::health;
use super::record::Exchange;
use super::target::Target;
use crate::api::framing::{self, Format, Metadata};
use crate::api::response::{self, Encrypted};
use crate::api::{ApiError, Call, Decrypt, Encrypt, ErrorName, Operation};
use crate::key_manager::{Answer, Cipher, Fault, Job, KeyDescription, KeyRef, Task};
use crate::keystore::{Key, NoVersion, Version, may_pass_elsewhere, time_of_a_try};
use crate::policy::Permit;
use crate::policy::budget::ShardBudget;
use crate::sched::{Delivered, Inbox};

/// Appends the answer's body to `out`. What is encrypted is taken from `budget`.
pub(super) async fn execute(
    inbox: &Rc<Inbox>,
    permit: Permit<Target<'_>>,
    budget: Option<&ShardBudget>,
    exchange: &mut Exchange<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ApiError> {
    let (call, target) = permit.into_parts();
    match call {
        Call::Health => {
            health::write(target.store, Instant::now(), out);
            Ok(())
        }
        Call::Metadata => metadata(inbox, &target, exchange, out).await,
        Call::Encrypt(call) => encrypt(inbox, &target, call, budget, exchange, out).await,
        Call::Decrypt(call) => decrypt(inbox, &target, call, exchange, out).await,
    }
}

async fn metadata(
    inbox: &Rc<Inbox>,
    target: &Target<'_>,
    exchange: &mut Exchange<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ApiError> {
    let key = target.key()?;
    let again = || Some(Task::Describe);
    match run(inbox, target, key.primary().key, Task::Describe, again, None, exchange).await? {
        Answer::Described(described) => {
            let enabled = key.enabled && described.enabled;
            response::metadata(&KeyDescription { enabled, ..described }, out);
            Ok(())
        }
        _ => Err(errors::wrong_answer()),
    }
}

async fn encrypt(
    inbox: &Rc<Inbox>,
    target: &Target<'_>,
    call: Encrypt,
    budget: Option<&ShardBudget>,
    exchange: &mut Exchange<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ApiError> {
    let (key, metadata) = key_to_encrypt_with(target)?;
    let again = || match decode_again(target, Operation::Encrypt)? {
        Call::Encrypt(call) => encryption(call, metadata.as_slice()).ok(),
        _ => None,
    };
    let task = encryption(call, metadata.as_slice())?;
    match run(inbox, target, key, task, again, budget, exchange).await? {
        Answer::Encrypted { iv, ciphertext, tag, integrity } => {
            let (metadata, integrity) = (Some(metadata.as_slice()), integrity.as_ref());
            response::encrypt(
                &Encrypted { ciphertext: &ciphertext, iv: &iv, tag: &tag, metadata, integrity },
                out,
            );
            Ok(())
        }
        _ => Err(errors::wrong_answer()),
    }
}

async fn decrypt(
    inbox: &Rc<Inbox>,
    target: &Target<'_>,
    call: Decrypt,
    exchange: &mut Exchange<'_>,
    out: &mut Vec<u8>,
) -> Result<(), ApiError> {
    let key = target.key()?;
    let (mut answer, may_be_foreign) = match ciphertext_key(key, call.metadata.as_deref()) {
        Ok(version) => {
            let answer = decrypt_as(Reading::Own, version, inbox, target, call, exchange).await;
            let is_refused = is_bad_ciphertext(&answer);
            (answer, is_refused)
        }
        Err(why) => {
            exchange.diagnostics.newer_version = matches!(why, NoKey::Version(NoVersion::Newer));
            (Err(why.into()), true)
        }
    };
    // The sample proxy can be configured to send metadata of its own, also some that looks like
    // ours. Whose it is, the tag decides.
    if may_be_foreign
        && target.store.accept_aws_sample
        && let Some(Call::Decrypt(call)) = decode_again(target, Operation::Decrypt)
    {
        let foreign = match key.first() {
            Ok(first) => decrypt_as(Reading::AwsSample, first, inbox, target, call, exchange).await,
            Err(why) => Err(errors::no_version(why)),
        };
        if !is_bad_ciphertext(&foreign) {
            answer = foreign;
        }
    }
    match answer? {
        Answer::Decrypted(plaintext) => {
            response::decrypt(&plaintext.0, out);
            Ok(())
        }
        _ => Err(errors::wrong_answer()),
    }
}

/// The primary version of the request's key, and what its ciphertext will say of it.
fn key_to_encrypt_with(target: &Target<'_>) -> Result<(KeyRef, Metadata), ApiError> {
    let Version { key, cipher, .. } = target.key()?.primary();
    let subkey = match cipher {
        Cipher::Direct => None,
        Cipher::Derived => Some(target.store.messages.fresh().map_err(errors::no_random)?),
    };
    Ok((KeyRef { subkey, ..key }, Metadata::new(key.version, subkey)))
}

fn is_bad_ciphertext(answer: &Result<Answer, ApiError>) -> bool {
    answer.as_ref().is_err_and(|why| why.name() == ErrorName::InvalidCiphertextException)
}

/// The call that the request's body held, once more.
fn decode_again(target: &Target<'_>, operation: Operation) -> Option<Call> {
    crate::api::decode(operation, target.body).ok().map(|valid| valid.into_parts().1)
}

/// The task of an encrypt. `metadata` goes into the ciphertext.
fn encryption(call: Encrypt, metadata: &[u8]) -> Result<Task, ApiError> {
    let aad = call.aad.unwrap_or_default();
    let integrity = call.integrity.then(|| framing::integrity_prefix(&aad, metadata));
    let aad = framing::aad_v1(aad, metadata)?;
    Ok(Task::Encrypt { plaintext: call.plaintext, aad, integrity })
}

/// By which proxy a ciphertext may have been made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Own,
    AwsSample,
}

async fn decrypt_as(
    reading: Reading,
    key: KeyRef,
    inbox: &Rc<Inbox>,
    target: &Target<'_>,
    call: Decrypt,
    exchange: &mut Exchange<'_>,
) -> Result<Answer, ApiError> {
    let again = || match decode_again(target, Operation::Decrypt)? {
        Call::Decrypt(call) => decryption(reading, call).ok(),
        _ => None,
    };
    let task = decryption(reading, call)?;
    run(inbox, target, key, task, again, None, exchange).await
}

/// The task of a decrypt.
fn decryption(reading: Reading, call: Decrypt) -> Result<Task, ApiError> {
    let Decrypt { ciphertext, iv, tag, aad, metadata } = call;
    let metadata = metadata.as_deref().unwrap_or_default();
    let aad = match reading {
        Reading::Own => framing::aad_v1(aad.unwrap_or_default(), metadata)?,
        Reading::AwsSample => framing::aad_aws_sample(aad.as_deref(), metadata)?,
    };
    Ok(Task::Decrypt { ciphertext, iv, tag, aad })
}

/// Why no version of a key is known that made a ciphertext.
#[derive(Debug)]
enum NoKey {
    /// The metadata is none of ours.
    Metadata(ApiError),
    /// It names this version.
    Version(NoVersion),
}

impl From<NoKey> for ApiError {
    fn from(why: NoKey) -> ApiError {
        match why {
            NoKey::Metadata(error) => error,
            NoKey::Version(why) => errors::no_version(why),
        }
    }
}

/// The version of the key that made a ciphertext with this metadata.
fn ciphertext_key(key: &Key, metadata: Option<&[u8]>) -> Result<KeyRef, NoKey> {
    match framing::parse(metadata).map_err(NoKey::Metadata)? {
        Format::V1 { key_version } => key.version(key_version).map_err(NoKey::Version),
        Format::V2 { key_version, subkey } if key.is_managed() => {
            let version = key.version(key_version).map_err(NoKey::Version)?;
            Ok(KeyRef { subkey: Some(subkey), ..version })
        }
        Format::V2 { .. } => Err(NoKey::Metadata(framing::unknown_format())),
        Format::Absent => Err(NoKey::Metadata(ApiError::new(
            ErrorName::InvalidCiphertextException,
            "ciphertextMetadata is missing: this ciphertext was not made by this proxy",
        ))),
    }
}

/// Has a key manager do the task, the healthiest and soonest first; tried once more, on another
/// replica or session, when that may help and there is time for it. The task is made `again` then:
/// a copy for the case would cost every request its allocations, and leave one more copy of
/// plaintext to be wiped. Each try of an encryption is taken from `budget`.
async fn run(
    inbox: &Rc<Inbox>,
    target: &Target<'_>,
    key: KeyRef,
    task: Task,
    again: impl Fn() -> Option<Task>,
    budget: Option<&ShardBudget>,
    exchange: &mut Exchange<'_>,
) -> Result<Answer, ApiError> {
    let Exchange { record, diagnostics } = exchange;
    record.key_version = Some(key.version);
    let mut tries = target.store.tries(Instant::now()).peekable();
    let mut failed = errors::no_manager();
    let mut task = Some(task);
    while let Some(manager) = tries.next() {
        let now = Instant::now();
        if now >= target.deadline {
            break;
        }
        let replica_left = tries.peek().is_some_and(|next| !Arc::ptr_eq(next, manager));
        let left = target.deadline - now;
        let deadline = now + time_of_a_try(left, replica_left);
        let Some(task_now) = task.take().or_else(&again) else { break };
        if let Some(Err(why)) = budget.map(ShardBudget::take) {
            failed = errors::no_budget(why, &mut diagnostics.detail);
            break;
        }
        let job = Job { key: key.clone(), task: task_now, deadline };
        diagnostics.key_manager = manager.name.clone();
        match manager.execute(inbox, target.store.share, job).await {
            Ok(Delivered { outcome, queue_wait, hsm_time }) => {
                diagnostics.spent(queue_wait, hsm_time);
                let fault = match outcome {
                    Ok(answer) => {
                        diagnostics.detail.clear();
                        return Ok(answer);
                    }
                    Err(fault) => fault,
                };
                let may_pass = may_pass_elsewhere(&fault, replica_left);
                let begun = !hsm_time.is_zero();
                // Of a timeout it is not certain that no session began with it at the last moment.
                if let (Fault::Busy, false, Some(budget)) = (&fault, begun, budget) {
                    budget.give_back();
                }
                failed = errors::to_api_error(fault, begun, &mut diagnostics.detail);
                if !may_pass {
                    break;
                }
            }
            Err(returned) => {
                let (refused, job) = *returned;
                budget.inspect(|budget| budget.give_back());
                task = Some(job.task);
                failed = errors::refused(&refused, &mut diagnostics.detail);
                // Refused by this one; the same one would refuse again.
                if !replica_left {
                    break;
                }
            }
        }
    }
    Err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ciphertext_names_the_version_of_its_key() {
        let key = Key::new("foo", true);
        let of =
            |metadata| ciphertext_key(&key, metadata).map_err(|why| ApiError::from(why).name());
        assert_eq!(of(Some(&[1, 0, 0])), Ok(KeyRef::first("foo")));
        let others: [Option<&[u8]>; 5] =
            [None, Some(&[]), Some(&[1, 0, 1]), Some(&[1, 1, 0]), Some(&[2, 0, 0])];
        for other in others {
            assert_eq!(of(other), Err(ErrorName::InvalidCiphertextException), "{other:?}");
        }
    }
}
