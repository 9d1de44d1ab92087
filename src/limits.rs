//! Every bound of xksd, in one place. The unit stands in the name; relations between bounds are
//! asserted at compile time below. "spec" is the AWS KMS External Key Store Proxy API
//! Specification, version 1.0.3.

mod fleet;

use std::time::Duration;

pub use fleet::*;

// ---- HTTP/1.1 -----------------------------------------------------------------------------------

/// Request line and headers together, bytes. KMS sends under 1 KiB.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Empty lines skipped before a request line. RFC 9112, 2.2: "SHOULD ignore at least one empty line
/// (CRLF)".
pub const LEADING_EMPTY_LINES_MAX: usize = 4;
/// Number of header fields in one request.
pub const HEADERS_MAX: usize = 64;
/// Request target, bytes. spec: "the total URI length MUST NOT exceed 256 characters"; this leaves
/// room for an absolute-form target with a long host name.
pub const TARGET_BYTES_MAX: usize = 1024;
/// Request body after removal of chunked framing, bytes. The largest request of the API is about 32
/// KiB: plaintext and AAD in base64 and five ARN-sized fields.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Framing overhead allowed to a chunked body, bytes (sizes, extensions, trailers).
pub const CHUNKED_OVERHEAD_BYTES_MAX: usize = 8 * 1024;
/// One chunk-size line with its extensions, bytes.
pub const CHUNK_LINE_BYTES_MAX: usize = 256;
/// Read from a connection at once, bytes: a usual request is under 2 KiB, and 10,000 idle
/// connections keep a buffer of this size each.
pub const READ_BYTES: usize = 4 * 1024;
/// Reads of one connection that find something, one after the other, before other connections have
/// their turn: 16 KiB, a TLS record.
pub const READS_IN_A_ROW_MAX: u32 = 4;
/// A connection's buffer is given back to the allocator above this size, bytes, when a request is
/// done.
pub const BUFFER_KEPT_BYTES_MAX: usize = 24 * 1024;

/// TLS handshake, from accept to established.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// A connection that a stop finds without a request may still send its first one for so long after
/// accept: its client has just connected, and to cut it off would be a failed call.
pub const FIRST_REQUEST_TIME_MAX: Duration = Duration::from_secs(1);
/// A PROXY protocol header with its TLVs, bytes. Balancers send under 300; one that forwards the
/// name of a client's certificate, or an id of its own, stays far below this.
pub const PROXY_HEADER_BYTES_MAX: usize = 2 * 1024;
/// A VPC endpoint's id in it, characters. AWS's have 22.
pub const VPC_ENDPOINT_ID_CHARS_MAX: usize = 64;
/// A ClientHello that has waited longer than this for its turn is not answered: its client has
/// given up (AWS KMS after 250 ms), and while it is answered others wait.
pub const CLIENT_HELLO_WAIT_MAX: Duration = Duration::from_secs(1);
/// A ClientHello, bytes. Usual ones have 200 to 2,000; a resumed session's ticket with a client's
/// certificate chain in it can make it several thousand.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;
/// From a request's first byte to the end of its head.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// From the end of a request's head to the end of its body.
pub const BODY_TIME_MAX: Duration = Duration::from_secs(5);
/// Keep-alive connection without a request. KMS keeps connections open; load balancers close at 350
/// s (NLB).
pub const IDLE_TIME_MAX: Duration = Duration::from_secs(400);
/// The same for a connection over which neither a signed request nor a client certificate was
/// seen. KMS sends its first request at once.
pub const UNAUTHENTICATED_IDLE_TIME_MAX: Duration = Duration::from_secs(30);
/// Writing one response to a client that does not read.
pub const WRITE_TIME_MAX: Duration = Duration::from_secs(5);
/// What a client still sends after a refusal is thrown away up to this, bytes, so that it can read
/// the refusal.
pub const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// And for this long.
pub const LINGER_TIME_MAX: Duration = Duration::from_secs(2);
/// Connections in a socket that was passed wait so long at a start until a key manager serves.
pub const OPENING_WAIT_MAX: Duration = Duration::from_secs(3);
/// After it the service manager is told that a start is done. systemd ends one after 90 s.
pub const STARTED_TIME_MAX: Duration = Duration::from_secs(10);
/// Connections of one shard that the kernel holds until they are accepted, less where
/// `net.core.somaxconn` is. One that finds no place tries again after a second: of 10,000 that came
/// at once to a queue of 1,024, seven in ten were answered later than that, of 16,384 none.
pub const LISTEN_BACKLOG: i32 = 16_384;
/// Connections open at once on one shard, or fewer where the limit of descriptors is low. A further
/// one takes the place of one that has not authenticated, or is closed at accept; both are
/// counted.
pub const CONNECTIONS_A_SHARD_MAX: usize = 20_000;
/// Connections beyond it, while those that were evicted are being closed.
pub const EVICTED_CONNECTIONS_MAX: usize = 16;
/// Connections looked at for one that can be evicted.
pub const EVICTION_PROBES_MAX: usize = 64;
/// With fewer, xksd does not start.
pub const CONNECTIONS_A_SHARD_MIN: usize = 16;
/// Descriptors that no connection to the XKS API may take: the admin listener's connections, files
/// read by a reload, libraries, standard streams.
pub const DESCRIPTORS_RESERVED: u64 = 2 * ADMIN_CONNECTIONS_MAX as u64 + 64;
/// The same for each shard: listener, rings, wake-ups, connections that are being closed.
pub const DESCRIPTORS_A_SHARD: u64 = 16 + EVICTED_CONNECTIONS_MAX as u64;
/// The same for each PKCS#11 session: a connection to the HSM, and one that takes the place of it.
pub const DESCRIPTORS_A_SESSION: u64 = 2;
/// Connections open at once on the admin listener. A further one takes the place of the oldest.
pub const ADMIN_CONNECTIONS_MAX: usize = 64;
/// Read and write time limit of the admin listener.
pub const ADMIN_TIME_MAX: Duration = Duration::from_secs(5);

// ---- TLS ----------------------------------------------------------------------------------------

/// A PEM file (chain, key or trust anchors), bytes. Every root of the Mozilla programme together
/// takes about 220 KiB.
pub const PEM_FILE_BYTES_MAX: usize = 1024 * 1024;
/// `xksd check` warns of a certificate that expires sooner than this.
pub const CERTIFICATE_EXPIRY_WARNING: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Tickets sent after each TLS 1.3 handshake. A client spends one for each resumption; a second one
/// lets a connection pool reopen two connections instead of one.
pub const TLS13_TICKETS: usize = 2;

/// Certificates that a client may send: its own, and those of the authorities above it. The
/// longest chain of Amazon's, with the cross-signed roots, has four.
pub const CLIENT_CHAIN_CERTIFICATES_MAX: usize = 6;
/// Signatures checked to find a chain among them. A chain to a known anchor takes one for each
/// certificate, and one more for each further anchor of the same name; certificates of the
/// same name can be put together in hundreds of ways. One under a P-384 key costs up to 2 ms.
pub const CLIENT_CHAIN_SIGNATURES_MAX: usize = 8;
/// What is logged of why a handshake failed, characters; of a client certificate's common name,
/// [`COMMON_NAME_CHARS_MAX`].
pub const HANDSHAKE_DETAIL_CHARS_MAX: usize = 256;
/// Failed handshakes that a shard logs of one reason within [`UNAUTHENTICATED_LOG_INTERVAL`]; of
/// the others their number.
pub const HANDSHAKE_LOG_LINES_MAX: u32 = 5;
/// The same of refused requests without a valid signature, by errorName.
pub const UNAUTHENTICATED_LOG_LINES_MAX: u32 = 20;
/// See [`HANDSHAKE_LOG_LINES_MAX`].
pub const UNAUTHENTICATED_LOG_INTERVAL: Duration = Duration::from_secs(1);

// ---- XKS API ------------------------------------------------------------------------------------

/// spec: "The proxy MUST support the ability to process up to 4300 bytes of plaintext data".
pub const PLAINTEXT_BYTES_MAX: usize = 4300;
/// spec: "The XKS Proxy MUST be able to handle AAD values up to 8192 bytes in length".
pub const AAD_BYTES_MAX: usize = 8192;
/// spec: "the size of the field MUST NOT exceed 20 bytes".
pub const CIPHERTEXT_METADATA_BYTES_MAX: usize = 20;
/// AES-GCM authentication tag, bytes. spec: "Authentication tag size MUST be 16 bytes".
pub const TAG_BYTES: usize = 16;
/// IVs that xksd makes, bytes. spec allows 12 or 16 on decrypt.
pub const IV_BYTES: usize = 12;
/// The longest IV the specification allows, bytes.
pub const IV_BYTES_MAX: usize = 16;
/// spec: "total length of the XksProxyUriPath MUST NOT exceed 128 characters" (with `/kms/xks/v1`).
pub const URI_PATH_CHARS_MAX: usize = 128;
/// spec: "the total URI length MUST NOT exceed 256 characters". For `xksd check`: KMS keeps to it.
pub const URI_CHARS_MAX: usize = 256;
/// spec: "the length of an externalKeyId MUST NOT exceed 128 characters".
pub const EXTERNAL_KEY_ID_CHARS_MAX: usize = 128;
/// spec: errorMessage "MUST be less than 512 characters in length".
pub const ERROR_MESSAGE_CHARS_MAX: usize = 511;
/// spec: ARNs of up to 2048 characters; every other metadata string is held to the same.
pub const METADATA_FIELD_BYTES_MAX: usize = 2048;

// ---- SigV4 --------------------------------------------------------------------------------------

/// Access key ids: 20 to 30 of `[A-Z2-7]`.
pub const ACCESS_KEY_ID_CHARS: std::ops::RangeInclusive<usize> = 20..=30;
/// Secret access keys: 43 to 64 of `[A-Za-z0-9/+=]`.
pub const SECRET_ACCESS_KEY_CHARS: std::ops::RangeInclusive<usize> = 43..=64;
/// Clock skew accepted either way, seconds. spec: 5 minutes.
pub const CLOCK_SKEW_SECONDS_MAX: i64 = 300;
/// Names in `SignedHeaders`.
pub const SIGNED_HEADERS_MAX: usize = HEADERS_MAX;
/// Derived signing keys a shard keeps (credential × day × region).
pub const SIGNING_KEYS_CACHED_MAX: usize = 1024;

// ---- io_uring -----------------------------------------------------------------------------------

/// Memory for registered buffers of each executor, bytes. Networking uses none; by itself glommio
/// would lock 30 MiB a shard.
pub const IO_MEMORY_BYTES: usize = 64 * 1024;
/// Entries of each of a shard's three rings. The kernel sizes by it the table in which it finds
/// what is cancelled: with the executor's 128 and 5,000 idle connections a shard every request paid
/// 31 µs of CPU for the search, with this nothing that could be measured. Some 400 KiB a ring.
pub const RING_DEPTH: usize = 4096;
/// glommio refuses to start an executor below this limit of locked memory, bytes.
pub const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// What the kernel may count of a shard against the limit of locked memory of its user, bytes:
/// rings of [`RING_DEPTH`] and the registered buffers, 1,219 KiB on Linux 6.18. Not every version
/// counts the rings: io_uring_mlock_size(3) says that from 5.12 on none does, 6.18 does again.
pub const MEMLOCK_BYTES_A_SHARD: u64 = 1280 * 1024;

// ---- HSM ----------------------------------------------------------------------------------------

/// Files of a wrapped key manager's folder.
pub const KEY_FILES_MAX: usize = 20_000;
/// One of them: with as many versions and masters as it may have it takes less.
pub const WRAPPED_KEY_FILE_BYTES_MAX: usize = 256 * 1024;
/// Label of one of them, bytes: it is the file's name, too.
pub const KEY_FILE_LABEL_BYTES_MAX: usize = 64;
/// Keys of HSMs under which one of them is wrapped.
pub const KEY_FILE_MASTERS_MAX: usize = 4;
/// `recheck_s` of a wrapped key manager.
pub const RECHECK_SECONDS: std::ops::RangeInclusive<u64> = 1..=3600;
/// `hsm_absent_max_s`: a week.
pub const HSM_ABSENT_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;
/// An HSM that has not opened the key files yet is asked again after so long.
pub const UNSEAL_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How often the folder of key files is looked at.
pub const KEY_FOLDER_INTERVAL: Duration = Duration::from_secs(1);
/// How long an HSM may take for one step of opening key files.
pub const UNSEAL_CALL_TIME: Duration = Duration::from_secs(5);
/// Key files of one key manager that are opened at a time.
pub const KEY_OPENERS_MAX: usize = 16;
/// What the state directory says of key files, bytes: [`KEY_FILES_MAX`] of them, in several
/// folders.
pub const EPOCHS_FILE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Jobs waiting for one key manager, over all lanes, from one shard.
pub const QUEUE_JOBS_A_SHARD_MAX: usize = 4096;
/// Jobs a lane takes at once when the key manager is fast.
pub const BATCH_JOBS_MAX: usize = 16;
/// PKCS#11 sessions of one key manager.
pub const SESSIONS_MAX: usize = 1024;
/// Hung lanes left behind before no more are replaced, as a multiple of the configured sessions.
pub const ABANDONED_LANES_PER_SESSION_MAX: usize = 2;
/// Sessions of one key manager being opened at once.
pub const SESSION_OPENINGS_MAX: usize = 4;
/// Jobs one shard waits for at once, over all key managers.
pub const PENDING_JOBS_A_SHARD_MAX: usize = 64 * 1024;
/// IVs drawn with one C_GenerateRandom.
pub const IV_BLOCK: usize = 256;
/// IV blocks remembered for all sessions of one key manager, so that a generator that repeats
/// itself is noticed: a million IVs.
pub const IV_BLOCKS_REMEMBERED: usize = 4096;
/// IVs that the HSM made, remembered for all sessions of one key manager.
pub const MADE_IVS_REMEMBERED: usize = 64 * 1024;
/// How often a decryption must be refused by the code that means bad ciphertext and nothing else,
/// of an HSM that was not caught misusing it: p² where a fault hits the share p, until it is
/// caught. Bad ciphertext costs four calls.
pub const REFUSALS_UNAMBIGUOUS: u32 = 2;
/// How often a decryption must be refused, and one of what is known to be good succeed before the
/// last refusal, until a code that can also mean a failing HSM is reported as bad ciphertext. If a
/// fault hits the share p of C_Decrypt, good ciphertext is called bad with probability p³(1 − p):
/// at 1% once in a million times. Bad ciphertext costs ten calls.
pub const REFUSALS_AMBIGUOUS: u32 = 3;
/// The same of an HSM that was caught at it less than [`HSM_FAULT_REMEMBERED_TIME`] ago, or whose
/// code means too much work: with what is known to be good before each repetition, p⁶(1 − p)⁵. At
/// 20% once in 50,000 times, at worst (p = 6/11) once in 2,000. Bad ciphertext costs 24 calls.
pub const REFUSALS_DOUBTED: u32 = 6;
/// How often fresh ciphertext must be refused by a code that can mean too much work, and another
/// encryption succeed, until the HSM is caught: p¹²(1 − p)¹², at worst once in 17 million times.
pub const REFUSALS_PERHAPS_BUSY: u32 = 12;
/// An HSM that refused something good as bad ciphertext is doubted for so long.
pub const HSM_FAULT_REMEMBERED_TIME: Duration = Duration::from_secs(60);
/// A token that had keys, and shows none to a freshly initialised library, counts as empty for so
/// long.
pub const EMPTY_TOKEN_BELIEVED: Duration = Duration::from_secs(60);
/// A PKCS#11 key's attributes are read again (one call) when older, so that changed dates and
/// usages are noticed.
pub const KEY_ATTRIBUTES_AGE_MAX: Duration = Duration::from_secs(60);
/// The same before a key's attributes are the reason for a refusal.
pub const KEY_REFUSAL_AGE_MAX: Duration = Duration::from_secs(1);
/// Slots with a token that are looked at for the one that is wanted.
pub const SLOTS_MAX: usize = 4096;
/// Mechanisms of a token that are looked through for AES-GCM.
pub const MECHANISMS_MAX: usize = 4096;
/// Handles asked for with one C_FindObjects.
pub const OBJECTS_A_CALL: usize = 256;
/// Secret keys of one token. A module that gives handles without end takes 8 bytes of memory for
/// each of so many, and no more.
pub const TOKEN_KEYS_MAX: usize = 100_000;
/// Keys of one label that are counted; two are too many already.
pub const KEYS_OF_A_LABEL_MAX: usize = 16;
/// Looking after the keys of a token takes one in so many parts of the time of one session, and
/// waits for the others: the HSM and the module's locks are the requests'. The first time it does
/// not wait.
pub const INVENTORY_SHARE: u32 = 8;
/// Waited at once, once so much is due.
pub const INVENTORY_PAUSE: Duration = Duration::from_millis(5);
/// Of a longer wait at once: how soon it is noticed that the session is wanted back.
pub const INVENTORY_PAUSE_MAX: Duration = Duration::from_millis(250);
/// Keys that are searched for by their labels in one look at all of them. Where more are missed,
/// the whole token is listed.
pub const INVENTORY_SEARCHES_MAX: usize = 8;
/// The whole token is listed again after so long, so that a second key of a label is noticed.
pub const LISTING_INTERVAL: Duration = Duration::from_secs(600);
/// And no sooner than this for each of its keys.
pub const LISTING_INTERVAL_A_KEY: Duration = Duration::from_millis(60);
/// An instance is not ready until its key managers' tokens were listed once, but waits no longer.
pub const FIRST_LISTING_WAIT_MAX: Duration = Duration::from_secs(30);
/// Labels without a key that are remembered for [`KEY_REFUSAL_AGE_MAX`], so that asking for them
/// does not load the HSM with searches.
pub const MISSING_KEYS_REMEMBERED: usize = 1024;
/// No session is asked of a token for this long after it said that it has none left.
pub const SESSION_COUNT_BACKOFF: Duration = Duration::from_millis(500);
/// After a C_Initialize that failed the next one waits for so long, however many lanes want a
/// session: it logs in to the HSM's network, and an HSM that is coming back is not helped by tens
/// of them a second.
pub const INITIALIZE_INTERVAL: Duration = Duration::from_millis(500);
/// How long an opening session waits for another thread's C_Initialize, from its beginning.
pub const INITIALIZE_WAIT_MAX: Duration = Duration::from_secs(1);
/// Round trips of an HSM that gave a wrong result, all of them right and over all sessions, before
/// its results are used again: its self-test. One that is wrong in a tenth of its decryptions
/// passes once in 29 times, in a third once in 430,000.
pub const SELF_TEST_ROUND_TRIPS: usize = 32;
/// From the beginning of one such self-test to that of the next.
pub const SELF_TEST_INTERVAL: Duration = Duration::from_secs(1);
/// Ciphertext that equals so many bytes of plaintext was not encrypted: by chance it does once in
/// 2¹²⁸ times. Bytes.
pub const ECHO_BYTES_MIN: usize = 16;
/// Round trips under a key whose ciphertext did not decrypt that must fail, and under another one
/// that must be right, in turn, before the key and not the HSM is to blame. An HSM that spoils half
/// of what it encrypts passes for one with a bad key once in 256 times.
pub const INTEGRITY_COMPARISONS: u32 = 4;
/// Failures in a row of a key where other keys work, after which no more calls are spent on it for
/// a while. An HSM that fails in a tenth of all calls does that to one key by chance once in 5
/// million jobs.
pub const KEY_FAILURES_MAX: u32 = 6;
/// So long after the last one, failures of a key are no row any more.
pub const KEY_FAILURE_AGE_MAX: Duration = Duration::from_secs(60);
/// For so long no call is spent on a key that the module refuses; twice as long each time that the
/// one job after it is refused as well, up to [`KEY_PAUSE_MAX`].
pub const KEY_PAUSE_MIN: Duration = Duration::from_secs(2);
/// See [`KEY_PAUSE_MIN`]: a key that was mended serves again after this at the latest.
pub const KEY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Keys of one key manager whose failures are remembered.
pub const KEY_BREAKERS_MAX: usize = 1024;
/// Sessions lost in a row during jobs of one key, and of no other, before the key is to blame.
pub const SESSIONS_LOST_TO_A_KEY_MAX: u32 = 5;
/// Jobs of other keys that must have succeeded meanwhile. Where an HSM loses sessions in a tenth of
/// all calls, whoever calls, 20 jobs in a row go well once in 4,000 times.
pub const OTHERS_SERVED_MIN: u32 = 20;
/// Keys of the token that are tried where the module makes no session test key.
pub const WITNESSES_MAX: usize = 2;
/// Openings in a row that fail as if the library had lost its HSM, before it is finalised and
/// initialised again.
pub const REINITIALIZE_FAILURES: u32 = 8;
/// From one such attempt to the next.
pub const REINITIALIZE_INTERVAL: Duration = Duration::from_secs(5);
/// After a C_Login that failed the next one waits for so long, however many lanes want a session.
pub const LOGIN_INTERVAL: Duration = Duration::from_millis(250);
/// How long an opening session waits for another's C_Login.
pub const LOGIN_WAIT_MAX: Duration = Duration::from_secs(5);
/// What C_Encrypt and C_Decrypt may write beyond the text, bytes: tag, an appended IV, and a block
/// of padding nobody should need.
pub const HSM_OUTPUT_SPARE_BYTES: usize = 48;
/// Key file of a local key manager, bytes.
pub const KEY_FILE_BYTES_MAX: usize = 1024 * 1024;
/// A shard looks for jobs past their deadline this often.
pub const DEADLINE_TICK: Duration = Duration::from_millis(5);
/// Of a file that the configuration names, to see whether it has changed. Longer ones are not
/// watched.
pub const WATCHED_FILE_BYTES_MAX: usize = CONFIG_BYTES_MAX;
/// Files that have changed are read once nothing has happened to them for so long.
pub const FILES_SETTLE_TIME: Duration = Duration::from_millis(500);
/// They are looked at this often where the kernel tells of no change.
pub const FILES_POLL_INTERVAL: Duration = Duration::from_secs(30);
/// A key manager that a reload brings must serve within this, or the one before it stays.
pub const ACTIVATION_TIME_MAX: Duration = Duration::from_secs(20);
/// For its last sessions it is waited no longer than this, if it serves without them.
pub const LAST_SESSIONS_WAIT: Duration = Duration::from_secs(5);
/// A key manager that is no longer used closes its sessions this long after the last request could
/// have come to it.
pub const RETIREMENT_TIME: Duration = Duration::from_secs(1);
/// Clients that a PKCS#11 key manager has beside those of its configuration: so many can open
/// wrapped keys with it before a reload has to open new sessions for them.
pub const SPARE_CLIENTS: usize = 2 * (1 + KEY_OPENERS_MAX);
/// Health probe of each key manager.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// And this soon again after one that failed.
pub const PROBE_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// A call into a module that takes longer than this hangs: its session is left behind and replaced.
pub const HUNG_CALL_TIME: Duration = Duration::from_secs(2);
/// As [`HUNG_CALL_TIME`], of opening a session with its login: some HSMs take seconds for a login.
pub const HUNG_OPEN_TIME: Duration = Duration::from_secs(10);
/// A probe's result is not reported when older. spec: "never older than one minute"; ours is
/// stricter.
pub const PROBE_AGE_MAX: Duration = Duration::from_secs(30);
/// No key manager has served for so long, and one of them cannot be had back in this process: it
/// ends, for its supervisor to start it again.
pub const BEYOND_HELP_TIME: Duration = Duration::from_secs(60);
/// Key managers in `ekmFleetDetails`. spec: 1 to 10.
pub const EKM_FLEET_MAX: usize = 10;

// ---- Policy -------------------------------------------------------------------------------------

/// A file of policies or of entities, bytes.
pub const POLICY_FILE_BYTES_MAX: usize = 1024 * 1024;
/// Files of policies, and of entities, of one key store.
pub const POLICY_FILES_MAX: usize = 64;
/// Policies of one key store.
pub const POLICIES_MAX: usize = 2_000;
/// `xksd check` warns of more policies than this for one key and action: each takes some
/// microseconds of a decision that is made, and the shard serves nobody else meanwhile.
pub const POLICIES_FOR_A_KEY_WARNING: usize = 100;
/// The `@id` of a policy, characters.
pub const POLICY_ID_CHARS_MAX: usize = 64;
/// Levels of brackets in a policy, and four times as many of `if`, `!` and `-`. Cedar's reader
/// calls itself for each: with 2 MiB of stack, unoptimised, 100 levels of brackets still pass.
pub const POLICY_NESTING_MAX: usize = 32;
/// Operators in a policy, which Cedar's reader strings together; 3,200 still pass.
pub const POLICY_OPERATORS_MAX: usize = 1_000;
/// Decisions that a shard keeps for requests that ask the same again, and the bytes of what they
/// are found by: some 300 each, up to 14 KiB.
pub const DECISIONS_MAX: usize = 16_384;
/// See [`DECISIONS_MAX`].
pub const DECISIONS_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Different policies by which denials are counted; those of further ones are counted together.
pub const DENYING_POLICIES_COUNTED_MAX: usize = 1_000;
/// Keys, in the order of the configuration, whose requests are counted each; those of further ones
/// are counted together.
pub const KEYS_COUNTED_MAX: usize = 1_000;
/// Counters of requests by key that a shard keeps: also keys that reloads have taken away.
pub const KEY_COUNTERS_MAX: usize = 20_000;

/// Keys and key stores that can be blocked at the same time.
pub const BLOCKS_MAX: usize = 10_000;
/// Why something is blocked, in the operator's words, bytes.
pub const BLOCK_REASON_BYTES_MAX: usize = 500;
/// `requests_per_second` of a quota.
pub const QUOTA_REQUESTS_PER_SECOND: std::ops::RangeInclusive<u64> = 1..=1_000_000;
/// `burst` of a quota, requests.
pub const QUOTA_BURST: std::ops::RangeInclusive<u64> = 1..=10_000_000;
/// NIST SP 800-38D, section 8.3: "The total number of invocations of the authenticated encryption
/// function shall not exceed 2^32" under one key, where IVs are random.
pub const INVOCATIONS_A_KEY_MAX: u64 = 1 << 32;
/// A key's encryptions are reserved on disk in blocks of so many, before the first is made. A crash
/// counts at most one block too many for each key: small where a key is used little, so that a
/// process that is killed again and again spends no key's budget; large where it is used much, so
/// that a fleet's fastest key is written every few seconds.
pub const BUDGET_BLOCK_ENCRYPTIONS: std::ops::RangeInclusive<u64> = 1 << 16..=1 << 20;
/// A block that was half used within this was too small; one that lasted twice as long and more,
/// too large.
pub const BUDGET_BLOCK_TIME: Duration = Duration::from_secs(10);
/// What is left of the blocks is looked at this often. At 100,000 encryptions a second half of the
/// smallest block is used in 320 ms.
pub const BUDGET_TICK: Duration = Duration::from_millis(50);
/// A reload waits so long for the first block of a key that is new.
pub const BUDGET_RELOAD_PATIENCE: Duration = Duration::from_secs(1);
/// The file with the encryptions of each key, bytes: more keys than a configuration can name.
pub const BUDGETS_FILE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Keys with a sample of their own in `/metrics`: those that have used most.
pub const BUDGETS_SHOWN_MAX: usize = 100;
/// `server.instances`.
pub const INSTANCES: std::ops::RangeInclusive<u64> = 1..=1_000;

/// `concurrent` of a quota, requests.
pub const QUOTA_CONCURRENT: std::ops::RangeInclusive<u64> = 1..=1_000_000;

// ---- Control socket and state directory ---------------------------------------------------------

/// A request at the control socket, bytes.
pub const CONTROL_REQUEST_BYTES_MAX: usize = 512 * 1024;
/// A request at the control socket is read, and its answer written, within this.
pub const CONTROL_TIME_MAX: Duration = Duration::from_secs(2);
/// Requests at the control socket that are served at the same time; further ones are closed.
pub const CONTROL_CONNECTIONS_MAX: usize = 32;
/// The block list's file, bytes: [`BLOCKS_MAX`] of the longest.
pub const BLOCKS_FILE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A file of the state directory that could not be written is tried again this often.
pub const STATE_RETRY_INTERVAL: Duration = Duration::from_secs(5);

// ---- Telemetry ----------------------------------------------------------------------------------

/// Log lines waiting for the writer; further ones are dropped and counted.
pub const LOG_QUEUE_LINES: usize = 16 * 1024;
/// Records of requests kept for further ones once they are written: some more than are on their way
/// to the writer at 50,000 requests/s. Each keeps the memory of the longest texts it has held, 30
/// KiB at the most.
pub const LOG_RECORDS_KEPT_MAX: usize = 512;
/// Spans that wait for the collector, about a KiB each; further ones are dropped and counted.
pub const SPAN_QUEUE_MAX: usize = 4 * 1024;
/// Spans posted at once.
pub const SPAN_BATCH_MAX: usize = 512;
/// `server.otlp_sample_one_in`.
pub const OTLP_SAMPLE_ONE_IN: std::ops::RangeInclusive<u64> = 1..=1_000_000;

// ---- Audit trail --------------------------------------------------------------------------------

/// One record, bytes: the six fields of a request's metadata, each of which JSON may escape to six
/// times its length, and what xksd adds.
pub const AUDIT_RECORD_BYTES_MAX: usize = 96 * 1024;
/// Records that wait to be written, bytes together: 100,000 of them. What does not fit is refused
/// or counted, as the configuration says.
pub const AUDIT_BUFFER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A file of records is sealed, and the next one begun, at this size, bytes.
pub const AUDIT_FILE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// A log's origin, bytes: the name of a verifier key.
pub const AUDIT_ORIGIN_BYTES_MAX: usize = 255;
/// A signed checkpoint with the signatures of witnesses, bytes. Signed-note: verifiers "MUST accept
/// at least up to 16 signatures", of which post-quantum ones "can be up to nearly 5kB".
pub const AUDIT_CHECKPOINT_BYTES_MAX: usize = 128 * 1024;
/// A checkpoint is signed this often while records come, and at the end.
pub const AUDIT_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);
/// Requests with a wrong signature that a shard records within [`AUDIT_UNAUTHENTICATED_INTERVAL`];
/// of the others their number. Who has no credential can have some 10 MB a day written so.
pub const AUDIT_UNAUTHENTICATED_RECORDS_MAX: u32 = 20;
/// See [`AUDIT_UNAUTHENTICATED_RECORDS_MAX`].
pub const AUDIT_UNAUTHENTICATED_INTERVAL: Duration = Duration::from_secs(60);
/// A write that failed is tried again this soon.
pub const AUDIT_RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// `audit.retention_days`; 0: nothing is deleted.
pub const AUDIT_RETENTION_DAYS: std::ops::RangeInclusive<u64> = 0..=36_500;
/// `audit.interval_ms`.
pub const AUDIT_INTERVAL_MS: std::ops::RangeInclusive<u64> = 10..=60_000;

/// Witnesses of one audit trail: each adds a line to a checkpoint.
pub const AUDIT_WITNESSES_MAX: usize = 16;
/// A checkpoint is sent to the witnesses this often at most.
pub const WITNESS_INTERVAL: Duration = Duration::from_secs(10);
/// To connect to a witness, and to read its answer.
pub const WITNESS_TIME_MAX: Duration = Duration::from_secs(3);
/// A witness's answer with its head, bytes.
pub const WITNESS_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Trails that one witness cosigns.
pub const WITNESS_TRAILS_MAX: usize = 64;
/// What a witness has seen, bytes: a checkpoint of each trail.
pub const WITNESS_FILE_BYTES_MAX: usize = 2 * WITNESS_TRAILS_MAX * BODY_BYTES_MAX;

// ---- Configuration ------------------------------------------------------------------------------

/// The configuration file, bytes: some ten thousand keys.
pub const CONFIG_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Files that a configuration includes.
pub const CONFIG_INCLUDES_MAX: usize = 64;
/// A file that holds one secret, bytes.
pub const SECRET_FILE_BYTES_MAX: usize = 4 * 1024;
/// `keystore.weight`.
pub const KEY_STORE_WEIGHT: std::ops::RangeInclusive<u64> = 1..=100;
/// `server.shards`; 0 asks for one a core.
pub const SHARDS: std::ops::RangeInclusive<u64> = 0..=1024;
/// `server.request_budget_ms`. KMS gives up after 250 ms; 10 ms stay for the way back.
pub const REQUEST_BUDGET_MS: std::ops::RangeInclusive<u64> = 10..=240;
/// `server.shutdown_delay_ms`.
pub const SHUTDOWN_DELAY_MS: std::ops::RangeInclusive<u64> = 0..=300_000;
/// `server.shutdown_ms`.
pub const SHUTDOWN_MS: std::ops::RangeInclusive<u64> = 100..=300_000;
/// Names of key managers, characters: they stand in metrics and in health answers.
pub const KEY_MANAGER_NAME_CHARS_MAX: usize = 64;
/// `key_manager.environment`: variables of one key manager, their names in characters and their
/// values in bytes.
pub const ENVIRONMENT_VARIABLES_MAX: usize = 32;
/// See [`ENVIRONMENT_VARIABLES_MAX`].
pub const ENVIRONMENT_NAME_CHARS_MAX: usize = 128;
/// See [`ENVIRONMENT_VARIABLES_MAX`].
pub const ENVIRONMENT_VALUE_BYTES_MAX: usize = 4096;
/// Of a name in `admin.hosts` (RFC 1035, 2.3.4).
pub const HOST_NAME_CHARS_MAX: usize = 253;
/// Region names, characters.
pub const REGION_CHARS_MAX: usize = 32;
/// X.520 `ub-common-name`, characters.
pub const COMMON_NAME_CHARS_MAX: usize = 64;
/// `CK_TOKEN_INFO.label`, bytes.
pub const TOKEN_LABEL_BYTES_MAX: usize = 32;
/// `CK_TOKEN_INFO.serialNumber`, bytes.
pub const TOKEN_SERIAL_BYTES_MAX: usize = 16;
/// CKA_LABEL of a key, bytes.
pub const KEY_LABEL_BYTES_MAX: usize = 255;
/// Versions of one key, with those that are destroyed. At one a month, 21 years.
pub const KEY_VERSIONS_MAX: usize = 256;
/// The configuration is read again for a key version that is not known at most this often.
pub const VERSION_REREAD_INTERVAL: Duration = Duration::from_secs(10);

// ---- Relations ----------------------------------------------------------------------------------

/// Bytes of base64 text for `n` bytes.
const fn base64_bytes(n: usize) -> usize {
    n.div_ceil(3) * 4
}

const _: () = {
    // The largest legitimate request fits in the body bound: both payloads, six metadata fields
    // whose every byte may be a six-byte JSON escape is not legitimate, but unescaped ones with the
    // field names are.
    assert!(
        base64_bytes(PLAINTEXT_BYTES_MAX)
            + base64_bytes(AAD_BYTES_MAX)
            + 7 * METADATA_FIELD_BYTES_MAX
            + 1024
            <= BODY_BYTES_MAX
    );
    // AAD's length goes to the HSM as u16, the metadata's as u8.
    assert!(AAD_BYTES_MAX <= u16::MAX as usize);
    assert!(CIPHERTEXT_METADATA_BYTES_MAX <= u8::MAX as usize);
    // Three rings: an entry to submit has 64 bytes and an index of 4, and there are two of 16 bytes
    // to complete for each.
    assert!((3 * RING_DEPTH * (64 + 4 + 2 * 16) + IO_MEMORY_BYTES) as u64 <= MEMLOCK_BYTES_A_SHARD);
    assert!(IV_BYTES <= IV_BYTES_MAX);
    assert!(TAG_BYTES + IV_BYTES_MAX + 16 <= HSM_OUTPUT_SPARE_BYTES);
    // As many as may open at once wait for a login each, one after the other.
    assert!(
        LOGIN_INTERVAL.as_millis() * SESSION_OPENINGS_MAX as u128 <= LOGIN_WAIT_MAX.as_millis()
    );
    assert!(KEY_REFUSAL_AGE_MAX.as_millis() <= KEY_ATTRIBUTES_AGE_MAX.as_millis());
    assert!(KEY_PAUSE_MIN.as_millis() <= KEY_PAUSE_MAX.as_millis());
    // What is remembered of a key outlives its pause.
    assert!(KEY_PAUSE_MAX.as_millis() < KEY_FAILURE_AGE_MAX.as_millis());
    // A probe must run at least twice within the age at which it stops counting.
    assert!(PROBE_INTERVAL.as_millis() * 2 <= PROBE_AGE_MAX.as_millis());
    assert!(TARGET_BYTES_MAX < HEAD_BYTES_MAX);
    assert!(UNAUTHENTICATED_IDLE_TIME_MAX.as_millis() < IDLE_TIME_MAX.as_millis());
    // A full queue of one key manager leaves pending jobs for the others.
    assert!(QUEUE_JOBS_A_SHARD_MAX * 2 <= PENDING_JOBS_A_SHARD_MAX);
    // KMS is answered before it gives up.
    assert!(*REQUEST_BUDGET_MS.end() < 250);
};
