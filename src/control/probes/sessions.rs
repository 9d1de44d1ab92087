//! What is logged of a key manager's sessions: that some are not open or hang.

use crate::keystore::missing_sessions;
use crate::sched::PoolStats;
use crate::telemetry::Level;

/// What the log said last of a key manager's sessions.
#[derive(Default)]
pub(super) struct Sessions {
    reported: Option<String>,
    seen: Option<String>,
    /// Sessions that were open, and all that were ever lost.
    before: (usize, u64),
}

impl Sessions {
    /// Whether sessions were lost or left behind since the last look: health is not to wait for the
    /// next probe then.
    pub(super) fn lost_some(&mut self, stats: &PoolStats) -> bool {
        let now = (stats.lanes_open, stats.sessions_reopened_total + stats.abandoned_total);
        let before = std::mem::replace(&mut self.before, now);
        now.0 < before.0 || now.1 > before.1
    }

    /// A line when sessions lack or hang, and when none does any more: once it has been so for two
    /// looks, for sessions come and go.
    pub(super) fn changed(&mut self, stats: &PoolStats) -> Option<(Level, String)> {
        let now = missing_sessions(stats);
        let settled = std::mem::replace(&mut self.seen, now.clone()) == now;
        if !settled || self.reported == now {
            return None;
        }
        self.reported.clone_from(&now);
        Some(match now {
            Some(trouble) => (Level::Warn, trouble),
            None if stats.lanes_configured == 1 => (Level::Info, "its session is open".to_owned()),
            None => (Level::Info, format!("all {} sessions are open", stats.lanes_configured)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(open: usize, hung: usize) -> PoolStats {
        PoolStats {
            lanes_configured: 8,
            lanes_open: open,
            lanes_hung: hung,
            last_fault: Some("why".into()),
            ..PoolStats::default()
        }
    }

    #[test]
    fn a_loss_is_noticed_also_when_the_session_is_back_already() {
        let mut sessions = Sessions::default();
        let mut look = |open, reopened| {
            sessions.lost_some(&PoolStats { sessions_reopened_total: reopened, ..stats(open, 0) })
        };
        assert_eq!((look(3, 0), look(8, 0), look(8, 0)), (false, false, false));
        assert_eq!(
            (look(7, 0), look(7, 0), look(8, 1), look(8, 1), look(8, 2)),
            (true, false, true, false, true)
        );
    }

    #[test]
    fn one_session_is_told_as_one() {
        let mut sessions = Sessions::default();
        let one = |open, hung| PoolStats { lanes_configured: 1, ..stats(open, hung) };
        assert_eq!(
            missing_sessions(&one(0, 1)),
            Some("0 of 1 session is open (why), 1 session hangs in a call".into())
        );
        let mut look =
            |open, hung| sessions.changed(&one(open, hung)).map(|(_, reported)| reported);
        assert!(look(0, 0).is_none() && look(0, 0).is_some() && look(1, 0).is_none());
        assert_eq!(look(1, 0), Some("its session is open".into()));
    }

    #[test]
    fn sessions_are_told_when_they_lack_for_a_while_and_once() {
        let mut sessions = Sessions::default();
        let mut look =
            |open, hung| sessions.changed(&stats(open, hung)).map(|(_, reported)| reported);
        assert_eq!((look(8, 0), look(8, 0)), (None, None));
        assert_eq!(
            (look(7, 0), look(8, 0), look(8, 0)),
            (None, None, None),
            "a session that was lost and is back"
        );
        assert_eq!((look(5, 0), look(5, 0)), (None, Some("5 of 8 sessions are open (why)".into())));
        assert_eq!(look(5, 0), None);
        assert_eq!(
            (look(8, 2), look(8, 2), look(8, 2)),
            (None, Some("2 sessions hang in a call".into()), None)
        );
        assert_eq!(
            (look(8, 0), look(8, 0), look(8, 0)),
            (None, Some("all 8 sessions are open".into()), None)
        );
    }
}
