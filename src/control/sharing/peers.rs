//! Hears from peers now and then what key managers they have. One thread, which no request waits
//! for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::Builder;
use std::time::Instant;

use crate::control::fleet::{Fleet, Way, view};
use crate::control::state::State;
use crate::limits::{FLEET_PEERS_INTERVAL, FLEET_TICK};

/// Starts the thread, where there are peers.
///
/// # Errors
/// When there is no thread.
pub(super) fn start(state: &Arc<State>, fleet: &Arc<Fleet>) -> io::Result<()> {
    if !matches!(fleet.way, Way::Peers(_)) {
        return Ok(());
    }
    let (state, fleet) = (state.clone(), fleet.clone());
    let run = move || {
        let Way::Peers(peers) = &fleet.way else { return };
        let (mut next, mut reach) = (Instant::now(), peers.reach());
        while !state.draining.load(Ordering::Acquire) {
            // A reload may have brought other peers.
            let before = std::mem::replace(&mut reach, peers.reach());
            if Instant::now() >= next || !Arc::ptr_eq(&before, &reach) {
                let members = peers.ask();
                let others = members.iter().filter(|member| member.name != fleet.name);
                let others: Vec<_> = others
                    .filter_map(|member| Some((&*member.name, member.summary.as_ref()?)))
                    .collect();
                view::heard(&state.fleet_view, &state.stores.load(), &others);
                next = Instant::now() + FLEET_PEERS_INTERVAL;
            }
            std::thread::sleep(FLEET_TICK);
        }
    };
    Builder::new().name("xksd-peers".into()).spawn(run).map(drop)
}
