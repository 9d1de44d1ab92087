//! How long a call takes: the wire, and the queue in front of the device's units.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::calls::Call;
use crate::clock::{now_ns, sleep_until};
use crate::config::{Device, Wire, WireTime};
use crate::locks::lock;
use crate::random::Streams;
use cryptoki_sys::CK_RV;

/// Wire and device of one configuration.
pub struct Timing {
    wire: Option<Wire>,
    device: Option<(Device, Queue)>,
}

/// Units that serve in the order of arrival. A call reserves its place in time on the unit that is
/// free first and then sleeps until it is done, once and without holding anything: how late the
/// operating system wakes a thread does not cost the device any capacity.
struct Queue {
    /// When each unit will be free, nanoseconds.
    free_at: Mutex<Vec<u64>>,
    busy_peak: AtomicU64,
}

impl Queue {
    /// When a call that arrives at `arrival` is done; none when it would wait longer than
    /// `wait_max` for a unit.
    fn reserve(&self, arrival: u64, service: u64, wait_max: Option<u64>) -> Option<u64> {
        let mut free_at = lock(&self.free_at);
        let unit = free_at.iter_mut().min()?;
        let start = arrival.max(*unit);
        if wait_max.is_some_and(|wait_max| start - arrival > wait_max) {
            return None;
        }
        let done = start.saturating_add(service);
        *unit = done;
        let busy = free_at.iter().filter(|free_at| **free_at > arrival).count() as u64;
        self.busy_peak.fetch_max(busy, Ordering::Relaxed);
        Some(done)
    }
}

impl Timing {
    /// With all units free.
    pub fn new(wire: Option<Wire>, device: Option<Device>) -> Timing {
        let queue = |device: Device| {
            let queue = Queue {
                free_at: Mutex::new(vec![0; device.units as usize]),
                busy_peak: AtomicU64::new(0),
            };
            (device, queue)
        };
        Timing { wire, device: device.map(queue) }
    }

    /// Most units that were busy at once.
    pub fn busy_peak(&self) -> u64 {
        self.device.as_ref().map_or(0, |(_, queue)| queue.busy_peak.load(Ordering::Relaxed))
    }

    /// Sleeps as long as `call` takes. `Err` is the throttle code, after the wire time.
    pub fn wait(&self, call: Call, streams: &Streams) -> Result<(), CK_RV> {
        let mut arrival = now_ns();
        if let Some(wire) = self.wire.as_ref().filter(|wire| wire.calls.contains(call)) {
            arrival = arrival.saturating_add(wire.time.draw(streams));
            // With a wire time that varies calls overtake each other: wait for the arrival, so that
            // places are given in its order. With a fixed one the order is the same already and one
            // sleep does for both.
            if self.device.is_none() || !matches!(wire.time, WireTime::Fixed { .. }) {
                sleep_until(arrival);
            }
        }
        let mut done = arrival;
        let mut throttled = None;
        if let Some((device, queue)) =
            self.device.as_ref().filter(|(device, _)| device.calls.contains(call))
        {
            let wait_max =
                device.throttle.as_ref().map(|throttle| throttle.wait_us_max.saturating_mul(1_000));
            match queue.reserve(arrival, device.service_us.saturating_mul(1_000), wait_max) {
                Some(instant) => done = instant,
                None => throttled = device.throttle.as_ref().map(|throttle| throttle.code.0),
            }
        }
        sleep_until(done);
        throttled.map_or(Ok(()), Err)
    }
}

impl WireTime {
    /// Nanoseconds of one call.
    fn draw(&self, streams: &Streams) -> u64 {
        match *self {
            WireTime::Fixed { us } => us.saturating_mul(1_000),
            WireTime::Lognormal { p50_us, p99_us } => {
                // 2.326: the 99th percentile of the normal distribution.
                let deviation = (p99_us / p50_us).ln() / 2.326_347_9;
                (p50_us * 1_000.0 * (deviation * streams.wire.normal()).exp()) as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(units: usize) -> Queue {
        Queue { free_at: Mutex::new(vec![0; units]), busy_peak: AtomicU64::new(0) }
    }

    #[test]
    fn units_serve_in_order_of_arrival() {
        let queue = queue(2);
        assert_eq!(queue.reserve(100, 10, None), Some(110));
        assert_eq!(queue.reserve(101, 10, None), Some(111));
        assert_eq!(queue.reserve(102, 10, None), Some(120));
        assert_eq!(queue.reserve(103, 10, None), Some(121));
        assert_eq!(queue.reserve(500, 10, None), Some(510));
        assert_eq!(queue.busy_peak.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_call_that_would_wait_too_long_is_refused_and_takes_no_place() {
        let queue = queue(1);
        assert_eq!(queue.reserve(100, 10, Some(10)), Some(110));
        assert_eq!(queue.reserve(100, 10, Some(10)), Some(120));
        assert_eq!(queue.reserve(100, 10, Some(10)), None);
        assert_eq!(queue.reserve(110, 10, Some(10)), Some(130));
    }

    #[test]
    fn lognormal_times_have_the_percentiles_they_were_given() {
        let streams = Streams::new(5, 1);
        let time = WireTime::Lognormal { p50_us: 1_000.0, p99_us: 5_000.0 };
        let mut drawn: Vec<u64> = (0..10_000).map(|_| time.draw(&streams)).collect();
        drawn.sort_unstable();
        assert!((950_000..1_050_000).contains(&drawn[5_000]), "{}", drawn[5_000]);
        assert!((4_500_000..5_600_000).contains(&drawn[9_900]), "{}", drawn[9_900]);
    }
}
