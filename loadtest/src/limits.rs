//! Every bound of the tool, units in the names. "spec" is the AWS KMS External Key Store Proxy API
//! Specification, version 1.0.3.

use std::time::Duration;

/// What AWS recommends that a proxy sustains, requests a second: "up to 1800 requests per second".
pub const AWS_RATE: f64 = 1800.0;
/// When AWS KMS gives up on a request.
pub const KMS_TIMEOUT: Duration = Duration::from_millis(250);
/// A run, warm-up included: nobody forgets a load generator for longer.
pub const RUN_TIME_MAX: Duration = Duration::from_secs(3600);
/// Offered load, requests a second.
pub const RATE_MAX: f64 = 10_000_000.0;
/// Threads.
pub const WORKERS_MAX: usize = 256;
/// Connections over all workers.
pub const CONNECTIONS_MAX: usize = 100_000;
/// Connections that do nothing.
pub const IDLE_CONNECTIONS_MAX: usize = 100_000;
/// Opening them takes at most this; those that are not open by then are missing.
pub const IDLE_SETUP_TIME_MAX: Duration = Duration::from_secs(120);
/// Before the proxy's memory is read: it may still be busy with the connections opened last.
pub const IDLE_SETTLE_TIME: Duration = Duration::from_millis(300);
/// Descriptors of a worker besides its connections: an executor's rings and its event descriptor,
/// four; the connection before and after the run; and some for connections that are being closed
/// while others are opened in their place.
pub const DESCRIPTORS_A_WORKER: usize = 8;
/// Descriptors of the process besides: what it was started with, the proxy's `/proc` files and
/// metrics, reports.
pub const DESCRIPTORS_BESIDES: usize = 64;
/// Requests in flight on one connection.
pub const DEPTH_MAX: usize = 64;
/// Steps of one run.
pub const STEPS_MAX: usize = 64;
/// Parts in which a ramp is reported.
pub const RAMP_PARTS: usize = 20;
/// spec: "The proxy MUST support the ability to process up to 4300 bytes of plaintext data".
pub const PLAINTEXT_BYTES_MAX: usize = 4300;
/// spec: "The XKS Proxy MUST be able to handle AAD values up to 8192 bytes in length".
pub const AAD_BYTES_MAX: usize = 8192;
/// spec: ciphertextMetadata "MUST NOT exceed 20 bytes".
pub const CIPHERTEXT_METADATA_BYTES_MAX: usize = 20;
/// One answer, head and body, bytes: an answer to 4,300 bytes has about 6 KiB.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Header fields of an answer.
pub const ANSWER_HEADERS_MAX: usize = 64;
/// spec: errorMessage "MUST be less than 512 characters in length".
pub const ERROR_MESSAGE_CHARS_MAX: usize = 511;
/// Of each thing that a proxy says of itself in the answer to `health`, characters.
pub const IDENTITY_CHARS_MAX: usize = 200;
/// HSMs that a report names. spec: ekmFleetDetails has at most 10.
pub const HSMS_REPORTED: usize = 10;
/// What the command line says of the test for its report, each text, characters.
pub const NOTE_CHARS_MAX: usize = 500;
/// Such notes of a report.
pub const NOTES_MAX: usize = 32;
/// Requests of each call that differ from each other, a worker.
pub const DISTINCT_REQUESTS: usize = 256;
/// Ciphertexts a worker makes before the run, so that there is something to decrypt.
pub const PRIMED_CIPHERTEXTS: usize = 16;
/// IVs a worker remembers to notice one that comes again; a power of two.
pub const IVS_REMEMBERED: usize = 4096;
/// Requests that are due and wait for a free connection, a worker. Further ones are given up as
/// unsent.
pub const BACKLOG_MAX: usize = 200_000;
/// Handshakes a worker has under way at once when it starts.
pub const CONNECTING_AT_ONCE: usize = 32;
/// Wrong answers told in full; all are counted.
pub const WRONG_ANSWERS_REPORTED: usize = 20;
/// Connecting, and the answers before and after the run, take at most this.
pub const SETUP_TIME_MAX: Duration = Duration::from_secs(10);
/// A pause after a connection could not be made.
pub const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// Requests that come due within this time are handed out together, so that a fast schedule does
/// not drown in timers.
pub const PACING_GRAIN: Duration = Duration::from_micros(50);
/// How often a worker looks for answers that are overdue.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(20);
/// Latencies are reported from 1 µs up to this, microseconds; longer ones count as this long.
pub const LATENCY_MAX_US: u64 = 60_000_000;
/// Memory for registered buffers of an executor, bytes: networking uses none.
pub const IO_MEMORY_BYTES: usize = 64 * 1024;
/// A check of io_uring that only sleeps for a millisecond, on a machine that is busy.
pub const URING_CHECK_TIME_MAX: Duration = Duration::from_secs(5);
/// A file that is read whole (configuration, secret, report), bytes.
pub const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// `/metrics` text, bytes.
pub const METRICS_BYTES_MAX: u64 = 16 * 1024 * 1024;

const _: () = {
    assert!(IVS_REMEMBERED.is_power_of_two());
    assert!(PRIMED_CIPHERTEXTS <= DISTINCT_REQUESTS);
};
