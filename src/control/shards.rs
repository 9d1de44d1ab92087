//! The threads of the shards: started, watched, drained.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{RecvTimeoutError, bounded};
use socket2::Socket;

use super::state::State;
use super::system;
use crate::shard::{Listen, ShardSeed, ShardThread, Stop};

/// A shard that has not moved for so many looks is dead: at one look in 50 ms of the main thread's
/// own running time, 10 s, so that a paused process is not taken for a dead one.
const STILL_LOOKS_MAX: u32 = 200;
/// Of one that has not moved for so many looks, a second, the service manager is not told that all
/// is well.
const STILL_LOOKS_NOTED: u32 = 20;
/// A shard starts within some milliseconds, unless the machine stands still.
const START_TIME: Duration = Duration::from_secs(10);
/// A shard that there is not enough lockable memory for is tried again for so long: the kernel
/// gives back what the rings of a process that has ended had locked some time after it has gone.
const MEMORY_PATIENCE: Duration = Duration::from_secs(1);
/// From one such try to the next.
const MEMORY_RETRY: Duration = Duration::from_millis(50);

/// All shards.
pub(super) struct Shards(Vec<Running>);

struct Running {
    thread: ShardThread,
    stop: Arc<Stop>,
    /// Its turns at the last look, and at how many looks there were no more.
    heartbeat: u64,
    still: u32,
}

impl Shards {
    /// Starts one on each of `cores`, on the sockets that were passed or else on one that it opens;
    /// with the address on which they listen.
    ///
    /// # Errors
    /// When one does not start.
    pub(super) fn start(
        state: &State,
        cores: &[usize],
        passed: &[Arc<Socket>],
    ) -> Result<(SocketAddr, Shards), String> {
        let mut shards = Vec::new();
        let mut address = state.config.load().server.listen;
        // Shards that have no socket of their own share one: each that is idle may accept from it.
        let mut sockets = passed.iter().cycle();
        for (index, &core) in cores.iter().enumerate() {
            let socket = sockets.next();
            let listen = || match socket {
                Some(socket) => Listen::Passed(socket.clone()),
                None => Listen::On(address),
            };
            let seed = |stop| ShardSeed {
                index,
                core,
                listen: listen(),
                connections_max: state.connections_a_shard,
                stores: state.stores.clone(),
                blocks: state.blocks.list(),
                tls: state.tls.clone(),
                balancers: state.balancers.clone(),
                mailbox: state.mailboxes[index].clone(),
                metrics: state.metrics[index].clone(),
                log: state.log.clone(),
                audit: state.audit.recording(),
                stop,
                heartbeat: Arc::default(),
            };
            // One after the other: where the port is 0, the others take the one that the first was
            // given.
            let (bound, thread, stop) =
                start_shard(seed).map_err(|why| format!("shard {index} did not start: {why}"))?;
            address = bound;
            shards.push(Running { thread, stop, heartbeat: 0, still: 0 });
        }
        Ok((address, Shards(shards)))
    }

    /// To be called every 50 ms.
    ///
    /// # Errors
    /// When a shard has ended, or does not move any more. Without it a share of all connections
    /// would hang: better to be started again as a whole.
    pub(super) fn look(&mut self) -> Result<(), String> {
        for (index, shard) in self.0.iter_mut().enumerate() {
            let heartbeat = shard.thread.heartbeat();
            shard.still = if heartbeat == shard.heartbeat { shard.still + 1 } else { 0 };
            shard.heartbeat = heartbeat;
            if shard.thread.is_finished() || shard.still > STILL_LOOKS_MAX {
                return Err(format!(
                    "shard {index} died or is stuck: this is a defect of xksd, please report it"
                ));
            }
        }
        Ok(())
    }

    /// Whether none has stood still for a second or more.
    pub(super) fn are_moving(&self) -> bool {
        self.0.iter().all(|shard| shard.still <= STILL_LOOKS_NOTED)
    }

    /// Asks all of them to close their listeners, answer what is in flight and end.
    pub(super) fn request_stop(&self) {
        self.0.iter().for_each(|shard| shard.stop.request());
    }

    /// Whether all have ended.
    pub(super) fn are_finished(&self) -> bool {
        self.0.iter().all(|shard| shard.thread.is_finished())
    }

    /// Joins threads that have ended.
    ///
    /// # Errors
    /// How one ended that did not end well.
    pub(super) fn join(self) -> Result<(), String> {
        for (index, shard) in self.0.into_iter().enumerate() {
            shard.thread.join().map_err(|e| format!("shard {index}: {e}"))?;
        }
        Ok(())
    }
}

/// Starts a shard; with the address that it listens on.
fn start_shard(
    seed: impl Fn(Arc<Stop>) -> ShardSeed,
) -> Result<(SocketAddr, ShardThread, Arc<Stop>), String> {
    let patience = Instant::now() + MEMORY_PATIENCE;
    loop {
        let stop = Arc::new(Stop::default());
        let (started, start) = bounded(1);
        let failed = match seed(stop.clone()).start(move |result| drop(started.send(result))) {
            Err(error) => error,
            Ok(shard) => match start.recv_timeout(START_TIME) {
                Ok(Ok(address)) => return Ok((address, shard, stop)),
                Ok(Err(error)) => return Err(format!("server.listen: {error}")),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("not within {} s", START_TIME.as_secs()));
                }
                // It ended before it could say anything.
                Err(RecvTimeoutError::Disconnected) => shard.join().err().unwrap_or_default(),
            },
        };
        if !system::lacks_memory(&failed) || Instant::now() >= patience {
            return Err(system::explain(&failed));
        }
        std::thread::sleep(MEMORY_RETRY);
    }
}
