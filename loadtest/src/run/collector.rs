//! The workers' seconds, put together while they run.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::criteria::Sla;
use crate::generator::stats::Second;
use crate::present::progress::Progress;
use crate::report::Point;

/// Puts the workers' seconds together.
pub(super) struct Collector {
    seconds: Receiver<Second>,
    workers: usize,
    slas: Vec<Sla>,
    partial: BTreeMap<u64, (usize, Second)>,
    timeline: Vec<Point>,
}

impl Collector {
    pub(super) fn new(seconds: Receiver<Second>, workers: usize, slas: &[Sla]) -> Collector {
        Collector {
            seconds,
            workers,
            slas: slas.to_vec(),
            partial: BTreeMap::new(),
            timeline: Vec::new(),
        }
    }

    fn take(&mut self, second: Second, of: f64, progress: &mut Progress) {
        let number = second.second;
        let (told, sum) = self.partial.entry(number).or_insert_with(|| (0, Second::new(number)));
        *told += 1;
        sum.add(&second);
        if *told == self.workers
            && let Some((_, whole)) = self.partial.remove(&number)
        {
            let point = Point::of(&whole, &self.slas);
            // What comes in after the end is no second of the run; and of a second that the run
            // ends in, only a part was measured, which would look like a loss.
            let is_whole = (number + 1) as f64 <= of + 1e-6;
            if is_whole || (number == 0 && of > 0.0) {
                progress.second(&point, of);
                self.timeline.push(point);
            }
        }
    }

    /// False when all workers have ended.
    pub(super) fn until(&mut self, deadline: Instant, of: f64, progress: &mut Progress) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.seconds.recv_timeout(left) {
                Ok(second) => self.take(second, of, progress),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
                    return false;
                }
            }
        }
    }

    pub(super) fn until_closed(&mut self, of: f64, progress: &mut Progress) {
        while self.until(Instant::now() + Duration::from_secs(1), of, progress) {}
        self.timeline.sort_by_key(|point| point.second);
    }

    /// All seconds of the run.
    pub(super) fn timeline(self) -> Vec<Point> {
        self.timeline
    }
}
