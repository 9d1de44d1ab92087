use super::*;

fn now() -> Instant {
    Instant::now()
}

fn us(n: u64) -> Duration {
    Duration::from_micros(n)
}

#[test]
fn unknown_until_measured() {
    let mut s = ServiceTime::default();
    assert_eq!(s.mean(), None);
    assert_eq!(s.batch(), 1);
    s.record(0, us(5), now());
    assert_eq!(s.mean(), None);
    s.record(1, us(1000), now());
    assert_eq!(s.mean(), Some(us(1000)));
}

#[test]
fn first_samples_weigh_alike_and_a_change_is_followed() {
    let mut s = ServiceTime::default();
    s.record(1, us(300), now());
    s.record(1, us(100), now());
    assert_eq!(s.mean(), Some(us(200)));
    for _ in 0..200 {
        s.record(1, us(5000), now());
    }
    let mean = s.mean().unwrap();
    assert!(mean > us(4900) && mean <= us(5000), "{mean:?}");
}

#[test]
fn what_a_job_likely_takes_at_most_follows_the_spread() {
    let mut s = ServiceTime::default();
    assert_eq!(s.likely_most(), Duration::ZERO);
    (0..100).for_each(|_| s.record(1, us(1000), now()));
    assert_eq!(s.likely_most(), us(1000));
    (0..100).for_each(|i| s.record(1, us(if i % 2 == 0 { 800 } else { 1200 }), now()));
    assert!(s.likely_most() > us(1500) && s.likely_most() < us(2000), "{:?}", s.likely_most());
    // After a silence neither average counts any more.
    s.record(1, us(1000), now() + STALE_AFTER);
    assert_eq!(s.likely_most(), us(1000));
}

#[test]
fn one_outlier_moves_it_little() {
    let mut s = ServiceTime::default();
    (0..100).for_each(|_| s.record(1, us(1000), now()));
    s.record(1, Duration::from_secs(60), now());
    assert!(s.mean().unwrap() < us(1500));
}

#[test]
fn batch_is_as_long_as_its_time_and_bounded() {
    let batch = |t| {
        let mut s = ServiceTime::default();
        s.record(1, t, now());
        s.batch()
    };
    assert_eq!(batch(us(1000)), 1);
    assert_eq!(batch(us(101)), 1);
    assert_eq!(batch(us(100)), 2);
    assert_eq!(batch(us(42)), 4);
    assert_eq!(batch(us(12)), BATCH_JOBS_MAX);
    assert_eq!(batch(Duration::ZERO), BATCH_JOBS_MAX);
}

#[test]
fn after_a_silence_one_sample_tells_that_it_is_fast_again() {
    for (silence, enough) in [(STALE_AFTER, true), (STALE_AFTER - us(1), false)] {
        let (mut s, mut at) = (ServiceTime::default(), now());
        (0..100).for_each(|_| s.record(1, us(40_000), at));
        at += silence;
        s.record(1, us(4000), at);
        assert_eq!(s.mean().unwrap() < us(8000), enough, "{:?}", s.mean());
    }
}
