//! What the log says of a key manager's library: that it was initialised again, or that only a
//! restart of the process can bring it back.

use std::time::{Duration, Instant};

use crate::key_manager::{LibraryState, Stuck};
use crate::limits::{ABANDONED_LANES_PER_SESSION_MAX, BEYOND_HELP_TIME};
use crate::sched::PoolStats;
use crate::telemetry::Level;

/// An HSM that is away for hours has its library initialised every few seconds; the log says
/// it this often.
const LOGGED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The library of one key manager, as it was last seen and logged.
#[derive(Default)]
pub(super) struct Library {
    hang_since: Option<Instant>,
    reported: LibraryState,
    told_at: Option<Instant>,
}

impl Library {
    /// How the library fares, by what the engine says and what has become of its sessions.
    pub(super) fn look(
        &mut self,
        mut state: LibraryState,
        serves: bool,
        stats: &PoolStats,
        now: Instant,
    ) -> LibraryState {
        // So many times all sessions have been left behind, and every one in their places that
        // opened hangs as well.
        let all_hang =
            |times| stats.lanes_open + stats.lanes_configured * times <= stats.lanes_hung;
        if serves || !all_hang(1) {
            self.hang_since = None;
        } else {
            let since = *self.hang_since.get_or_insert(now);
            let and = if all_hang(ABANDONED_LANES_PER_SESSION_MAX) {
                Some("no more are risked".to_owned())
            } else if now.saturating_duration_since(since) >= BEYOND_HELP_TIME {
                // Openings that hang are left behind after ten seconds and few at a time: with many
                // sessions the bound is minutes away.
                Some(format!(
                    "none could be opened in their place for {} s",
                    BEYOND_HELP_TIME.as_secs()
                ))
            } else {
                None
            };
            let why = and.map(|and| {
                format!("{} sessions hang in calls into its library, and {and}", stats.lanes_hung)
            });
            state.stuck = state.stuck.or_else(|| why.map(|why| Stuck { why, since }));
        }
        if serves {
            // Another key manager's trouble with the same library.
            state.stuck = None;
        }
        state
    }

    /// What is new for the log.
    pub(super) fn news(&mut self, state: &LibraryState, now: Instant) -> Vec<(Level, String)> {
        let mut news = Vec::new();
        let rested =
            self.told_at.is_none_or(|at| now.saturating_duration_since(at) >= LOGGED_AGAIN_AFTER);
        if state.initializations > self.reported.initializations && rested {
            // The first time is its start.
            if state.initializations > 1 {
                let times = match state.initializations - 1 {
                    1 => "once".to_owned(),
                    times => format!("{times} times"),
                };
                news.push((
                    Level::Warn,
                    format!("its library was initialised again, {times} since the start"),
                ));
                self.told_at = Some(now);
            }
            self.reported.initializations = state.initializations;
        }
        if let Some(stuck) = &state.stuck
            && self.reported.stuck.is_none()
        {
            news.push((
                Level::Error,
                format!("only a restart of xksd can bring it back: {}", stuck.why),
            ));
        }
        self.reported.stuck.clone_from(&state.stuck);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(open: usize, hung: usize) -> PoolStats {
        PoolStats {
            lanes_configured: 4,
            lanes_open: open,
            lanes_hung: hung,
            ..PoolStats::default()
        }
    }

    fn stuck(why: &str, since: Instant) -> LibraryState {
        LibraryState { initializations: 1, stuck: Some(Stuck { why: why.to_owned(), since }) }
    }

    #[test]
    fn stuck_is_what_serves_nobody_and_cannot_be_helped() {
        let (mut library, now) = (Library::default(), Instant::now());
        let since = |state: LibraryState| state.stuck.map(|stuck| stuck.since);
        let mut look = |state, serves, open, hung, now| {
            since(library.look(state, serves, &stats(open, hung), now))
        };
        let well = LibraryState::default;
        assert_eq!(look(well(), false, 0, 7, now), None, "one more may be tried");
        assert_eq!(look(well(), false, 1, 8, now), None);
        assert_eq!(look(well(), false, 4, 11, now), None, "one may serve");
        assert_eq!(look(well(), false, 4, 12, now), Some(now));
        assert_eq!(look(well(), false, 4, 11, now), None);
        assert_eq!(look(well(), false, 0, 8, now), Some(now));
        let later = now + Duration::from_secs(1);
        assert_eq!(look(well(), false, 0, 9, later), Some(now));
        assert_eq!(look(well(), true, 0, 8, later), None);
        assert_eq!(look(well(), false, 0, 8, later), Some(later));
        // Those that were to replace them are being opened, and that hangs.
        let (begins, minute) =
            (later + Duration::from_secs(1), later + Duration::from_secs(1) + BEYOND_HELP_TIME);
        let almost = minute - Duration::from_millis(1);
        assert_eq!(
            (look(well(), false, 0, 3, later), look(well(), false, 0, 4, begins)),
            (None, None)
        );
        assert_eq!(
            (look(well(), false, 0, 7, almost), look(well(), false, 0, 7, minute)),
            (None, Some(begins))
        );
        assert_eq!(look(well(), false, 1, 4, minute), None, "one may serve");
        assert_eq!(look(well(), false, 0, 4, minute), None, "and the minute begins again");
        // What the engine says.
        assert_eq!(look(stuck("inside", now), false, 3, 1, later), Some(now));
        assert_eq!(look(stuck("inside", now), true, 3, 1, later), None);
    }

    #[test]
    fn news_are_told_once_and_not_for_ever() {
        let (mut library, now) = (Library::default(), Instant::now());
        let times = |n| LibraryState { initializations: n, stuck: None };
        let mut news = |state: LibraryState, now| {
            library.news(&state, now).into_iter().map(|(_, reported)| reported).collect::<Vec<_>>()
        };
        assert_eq!((news(times(0), now), news(times(1), now)), (vec![], vec![]));
        assert_eq!(
            news(times(2), now),
            ["its library was initialised again, once since the start"]
        );
        assert_eq!(news(times(4), now + LOGGED_AGAIN_AFTER - Duration::from_millis(1)), [""; 0]);
        assert_eq!(
            news(times(5), now + LOGGED_AGAIN_AFTER),
            ["its library was initialised again, 4 times since the start"]
        );
        assert_eq!(news(stuck("why", now), now), ["only a restart of xksd can bring it back: why"]);
        assert_eq!(news(stuck("why", now), now), [""; 0]);
        assert_eq!((news(times(5), now), news(stuck("why", now), now).len()), (vec![], 1));
    }
}
