//! Bounds of what the instances of a fleet share.

use std::time::Duration;

use super::INSTANCES;

/// Name of a file of the fleet, or of an instance, bytes.
pub const FLEET_FILE_NAME_BYTES_MAX: usize = 100;
/// One file of the fleet, bytes. etcd takes requests of 1.5 MiB.
pub const FLEET_FILE_BYTES_MAX: usize = 256 * 1024;
/// Documents of the fleet, those that were removed among them.
pub const FLEET_DOCUMENTS_MAX: usize = 256;
/// One document of the fleet as it is sealed, bytes: a file, or the block list.
pub const FLEET_DOCUMENT_BYTES_MAX: usize = 1024 * 1024;
/// Instances of a fleet that are looked at.
pub const FLEET_INSTANCES_MAX: usize = *INSTANCES.end() as usize;
/// Keys whose primary version an instance tells the others.
pub const FLEET_KEY_VERSIONS_MAX: usize = 100;
/// Key managers that an instance tells the others.
pub const FLEET_KEY_MANAGERS_MAX: usize = 32;
/// Key stores that it tells with them, each counted with each of its key managers.
pub const FLEET_KEY_STORES_MAX: usize = 256;
/// What a key manager of another instance is, characters.
pub const FLEET_KEY_MANAGER_TEXT_CHARS_MAX: usize = 256;
/// What another instance said of its key managers is shown for so long. AWS KMS wants nothing that
/// is older than a minute.
pub const FLEET_HEALTH_AGE_MAX: Duration = Duration::from_secs(30);
/// Peers are asked this often.
pub const FLEET_PEERS_INTERVAL: Duration = Duration::from_secs(10);
/// One instance's summary as it is sealed, bytes.
pub const FLEET_SUMMARY_BYTES_MAX: usize = 64 * 1024;
/// etcd endpoints, or peers.
pub const FLEET_ENDPOINTS_MAX: usize = 32;
/// Key prefix in etcd, bytes.
pub const FLEET_PREFIX_BYTES_MAX: usize = 200;
/// Connecting to etcd or a peer, with the TLS handshake.
pub const FLEET_CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// One call to etcd or a peer, the connection included.
pub const FLEET_CALL_TIME_MAX: Duration = Duration::from_secs(2);
/// Members of etcd that one call tries.
pub const FLEET_MEMBERS_A_CALL_MAX: usize = 3;
/// An answer of etcd or a peer, bytes: a page of documents in base64 and JSON.
pub const FLEET_ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Documents asked for at once. etcd's gateway passes on 4 MiB.
pub const FLEET_DOCUMENTS_A_PAGE: usize = 2;
/// Instances asked for at once.
pub const FLEET_INSTANCES_A_PAGE: usize = 32;
/// An instance that has not renewed its lease for so long is gone.
pub const FLEET_LEASE: Duration = Duration::from_secs(10);
/// The lease is renewed this often, which also shows that etcd still answers.
pub const FLEET_KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// An instance says how it is this often, and at once when it has taken over a document.
pub const FLEET_SUMMARY_INTERVAL: Duration = Duration::from_secs(4);
/// All is read again this often, whatever was heard of changes.
pub const FLEET_RESYNC_INTERVAL: Duration = Duration::from_secs(60);
/// From one try to reach etcd to the next.
pub const FLEET_RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// The fleet's thread looks around this often while it waits for changes.
pub const FLEET_TICK: Duration = Duration::from_millis(100);
/// A command waits this long for all instances to confirm.
pub const FLEET_CONFIRM_TIME_MAX: Duration = Duration::from_secs(5);
/// And asks this often.
pub const FLEET_CONFIRM_INTERVAL: Duration = Duration::from_millis(50);
/// An instance is not ready before it has seen the fleet's state, or so long after its start.
pub const FLEET_START_TIME_MAX: Duration = Duration::from_secs(3);
/// A change that meets another one is tried again so often.
pub const FLEET_CHANGE_TRIES: usize = 8;
