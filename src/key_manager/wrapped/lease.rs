//! For how long keys may be used that an HSM has opened: as long as it goes on opening.
//!
//! Nothing here knows what time it is.

use std::time::{Duration, Instant};

use super::Closed;

/// What an HSM said when it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It opens what it sealed.
    Yes,
    /// It does not, and says so: why.
    No(String),
    /// It does not answer: why.
    Away(String),
}

/// The lease on the HSM.
#[derive(Debug)]
pub struct Lease {
    /// How long an HSM may take to answer, and the pause until it is asked the next time.
    answer_max: Duration,
    /// For how long keys are used while it is away.
    absent_max: Duration,
    standing: Standing,
}

/// How the lease stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was opened yet: why.
    NotOpened(String),
    /// Keys may be used.
    Open {
        /// When the HSM said yes last.
        renewed: Instant,
        /// Why it did not the last time, where it is away.
        away: Option<String>,
    },
    /// They may not: why.
    Closed(Closed),
}

impl Lease {
    /// One that was not given yet. `answer_max`: within this after an answer the next one is there.
    pub fn new(answer_max: Duration, absent_max: Duration) -> Lease {
        let standing = Standing::NotOpened("the HSM was not asked yet".to_owned());
        Lease { answer_max, absent_max, standing }
    }

    /// As in [`Lease::new`], from now on.
    pub fn set_limits(&mut self, answer_max: Duration, absent_max: Duration) {
        (self.answer_max, self.absent_max) = (answer_max, absent_max);
    }

    /// How it stands.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Why keys may not be used; `None` where they may.
    pub fn closed(&self) -> Option<Closed> {
        match &self.standing {
            Standing::NotOpened(why) => Some(Closed::NotOpened(why.clone())),
            Standing::Open { .. } => None,
            Standing::Closed(closed) => Some(closed.clone()),
        }
    }

    /// An HSM was asked. A no must have been confirmed.
    pub fn found(&mut self, finding: Finding, now: Instant) {
        self.standing = match (finding, &self.standing) {
            // Asked before that.
            (_, Standing::Closed(closed @ Closed::Sealed(_))) => Standing::Closed(closed.clone()),
            (Finding::Yes, _) => Standing::Open { renewed: now, away: None },
            (Finding::Away(why), Standing::NotOpened(_)) => Standing::NotOpened(why),
            (Finding::No(why), _) => Standing::Closed(Closed::Refused(why)),
            (Finding::Away(why), Standing::Open { renewed, .. }) => {
                Standing::Open { renewed: *renewed, away: Some(why) }
            }
            (Finding::Away(_), Standing::Closed(closed)) => Standing::Closed(closed.clone()),
        };
        self.expire(now);
    }

    /// To be called often: ends it when the HSM has been away for too long.
    pub fn expire(&mut self, now: Instant) {
        let Standing::Open { renewed, away } = &self.standing else { return };
        let age = now.saturating_duration_since(*renewed);
        let seconds = self.absent_max.as_secs();
        let why = match away {
            Some(_) if age <= self.absent_max => return,
            Some(why) => why.as_str(),
            // Who should ask is held up in a call.
            None if age <= self.absent_max + self.answer_max => return,
            None => "no answer",
        };
        let why = format!("the HSM was away for more than {seconds} s: {why}");
        self.standing = Standing::Closed(Closed::Away(why));
    }

    /// An operator wants nothing to be used.
    pub fn seal(&mut self, why: String) {
        self.standing = Standing::Closed(Closed::Sealed(why));
    }

    /// And again.
    pub fn unseal(&mut self) {
        self.standing = Standing::NotOpened("unsealed: the HSM was not asked yet".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: Duration = Duration::from_secs(20);

    fn open(absent_s: u64, now: Instant) -> Lease {
        let mut lease = Lease::new(ANSWER, Duration::from_secs(absent_s));
        assert!(matches!(lease.closed(), Some(Closed::NotOpened(_))));
        lease.found(Finding::Yes, now);
        assert_eq!(lease.closed(), None);
        lease
    }

    fn away() -> Finding {
        Finding::Away("CKR_DEVICE_REMOVED".to_owned())
    }

    #[test]
    fn an_hsm_that_is_away_is_waited_for_up_to_the_limit() {
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        let mut lease = open(900, now);
        lease.found(away(), at(10));
        lease.expire(at(900));
        assert_eq!(lease.closed(), None);
        lease.found(Finding::Yes, at(900));
        lease.found(away(), at(910));
        lease.expire(at(1800));
        assert_eq!(lease.closed(), None, "counted from the last yes");
        lease.expire(at(1801));
        let Some(Closed::Away(why)) = lease.closed() else { panic!("{lease:?}") };
        assert!(why.contains("900 s") && why.contains("CKR_DEVICE_REMOVED"), "{why}");
        lease.found(away(), at(1802));
        assert!(matches!(lease.closed(), Some(Closed::Away(_))));
        lease.found(Finding::Yes, at(1803));
        assert_eq!(lease.closed(), None, "it comes back by itself");
    }

    #[test]
    fn with_no_limit_to_wait_it_ends_at_once() {
        let now = Instant::now();
        let mut lease = open(0, now);
        lease.found(away(), now + Duration::from_millis(1));
        assert!(matches!(lease.closed(), Some(Closed::Away(_))));
    }

    #[test]
    fn who_asks_and_hangs_does_not_keep_it_open() {
        let now = Instant::now();
        let mut lease = open(5, now);
        lease.expire(now + Duration::from_secs(25));
        assert_eq!(lease.closed(), None);
        lease.expire(now + Duration::from_secs(26));
        assert!(matches!(lease.closed(), Some(Closed::Away(_))));
    }

    #[test]
    fn a_no_ends_it_at_once_and_only_a_yes_gives_it_back() {
        let now = Instant::now();
        let no = || Finding::No("no key \"master\"".to_owned());
        let mut lease = open(900, now);
        lease.found(no(), now);
        lease.found(away(), now);
        assert_eq!(lease.closed(), Some(Closed::Refused("no key \"master\"".to_owned())));
        lease.found(Finding::Yes, now);
        assert_eq!(lease.closed(), None);
        // Whoever destroys the master while nothing runs finds its keys stopped as well.
        let mut lease = Lease::new(ANSWER, ANSWER);
        lease.found(no(), now);
        assert_eq!(lease.closed(), Some(Closed::Refused("no key \"master\"".to_owned())));
    }

    #[test]
    fn a_seal_stays_until_an_operator_takes_it_back() {
        let now = Instant::now();
        let mut lease = open(900, now);
        lease.seal("by uid 0".to_owned());
        assert_eq!(lease.closed(), Some(Closed::Sealed("by uid 0".to_owned())));
        lease.expire(now + Duration::from_secs(10_000));
        lease.found(Finding::Yes, now);
        assert!(matches!(lease.closed(), Some(Closed::Sealed(_))), "asked before that");
        lease.unseal();
        assert!(matches!(lease.closed(), Some(Closed::NotOpened(_))));
    }
}
