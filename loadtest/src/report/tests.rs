use super::step::{bottleneck, deciding, knee, one_for_each_rate};
use super::subject::{Description, Note};
use super::*;
use crate::criteria::Criteria;
use crate::generator::stats::{PhaseStats, latency, record};
use crate::observe::cpu::Cpu;
use crate::observe::host::Host;
use crate::observe::key_manager::KeyManager;
use crate::workload::identity::{Hsm, Identity};

fn slas() -> Vec<Sla> {
    vec![Sla::parse("p99.9=250ms").unwrap()]
}

fn subject() -> Subject {
    let model = "SoftHSM v2, token <xks>, library 2.6".to_owned();
    Subject {
        described: Description {
            tested_by: Some("A. Tester, Example & Co".into()),
            notes: vec![Note { name: "network".into(), text: "loopback <only>".into() }],
            ..Description::default()
        },
        identity: Some(Identity {
            proxy_vendor: "xksd".into(),
            proxy_model: "xksd 0.1.0".into(),
            hsm_vendor: "SoftHSM project".into(),
            hsms: vec![Hsm { id: "a".into(), model, health: "ACTIVE".into() }],
        }),
        balancer: Some("127.0.0.1:8444".into()),
        proxy_on_this_host: true,
        host: Host {
            name: "bench-1".into(),
            system: "Debian GNU/Linux 12".into(),
            kernel: "Linux 6.18.0 x86_64".into(),
            cpu: "Some CPU @ 3 GHz".into(),
            cores: 2,
            memory_bytes: 8 << 30,
            is_virtual: true,
        },
        command: "xksd-load run --note 'network=loopback <only>'".into(),
    }
}

/// A report with something in every part.
pub(crate) fn sample() -> Report {
    let mut histogram = latency();
    for n in 0..10_000_u64 {
        record(
            &mut histogram,
            std::time::Duration::from_micros(200 + n % 100 + if n % 200 == 0 { 20_000 } else { 0 }),
        );
    }
    let step = |rate: f64, throughput: f64, p99: u64, passed| Step {
        offered_rate: rate,
        throughput,
        seconds: 10.0,
        offered: (rate * 10.0) as u64,
        right: (throughput * 10.0) as u64,
        errors: ((rate - throughput) * 10.0) as u64,
        p50: p99 / 3,
        p99,
        p999: p99 * 2,
        max: p99 * 4,
        at_slas: vec![p99 * 2],
        hsm_mean_us: Some(2000.0),
        bottleneck: Some(Bottleneck::Hsm),
        served: passed,
        passed,
    };
    let point = |second: u64| Point {
        second,
        offered: 1800,
        right: 1790,
        errors: second % 3,
        p50: 220,
        p99: 900 + second * 100,
        p999: 2000,
        max: 9000,
        at_slas: vec![2000],
    };
    Report {
        format: FORMAT,
        version: "0.1.0".into(),
        started: "2026-01-31T12:00:00Z".into(),
        subject: subject(),
        settings: Settings {
            target: "<localhost> & \"friends\"".into(),
            load: "1,800 requests/s".into(),
            ..Settings::default()
        },
        seconds: 40.0,
        offered: 10_000,
        right: 9_990,
        errors: 10,
        errors_by_name: [("ThrottlingException (429)".to_owned(), 10)].into(),
        wrong: 1,
        wrong_examples: vec!["decrypt <gave> back another".into()],
        throughput: 1799.0,
        latency: Percentiles::of(&histogram, &slas()),
        answers: Answers { latest_us: 1_203_000, none: 3, unsent: 1, after_end: 2 },
        first_error_unix_ms: Some(1_769_860_800_250),
        last_error_unix_ms: Some(1_769_860_812_750),
        calls: vec![CallReport {
            call: "encrypt".into(),
            latency: Percentiles::of(&histogram, &slas()),
        }],
        steps: vec![
            step(500.0, 500.0, 600, true),
            step(1000.0, 1000.0, 900, true),
            step(2000.0, 1990.0, 4000, true),
            step(4000.0, 2600.0, 900_000, false),
        ],
        timeline: (0..40).map(point).collect(),
        tls: Tls {
            protocol: "TLSv1_3 TLS13_AES_256_GCM_SHA384".into(),
            handshakes: 64,
            ..Tls::default()
        },
        generator: Generator {
            cpu_us_per_request: Some(9.5),
            busiest_worker: Some(0.4),
            ..Generator::default()
        },
        proxy: Proxy {
            cpu: Some(Cpu {
                name: "xksd".into(),
                pids: vec![1],
                us_per_request: Some(20.0),
                cores_used: 0.5,
                cores_allowed: 2,
                busiest_thread: 0.4,
                busiest_thread_name: "xksd-shard".into(),
            }),
            key_manager: Some(KeyManager {
                sessions_open: 16,
                sessions_busy: 4.0,
                sessions_needed: Some(6),
                hsm_mean_us: 2000.0,
                queue_mean_us: 10.0,
            }),
        },
        balancer: Some(Cpu {
            name: "haproxy".into(),
            pids: vec![2],
            us_per_request: Some(12.0),
            cores_used: 0.3,
            cores_allowed: 2,
            busiest_thread: 0.3,
            busiest_thread_name: "haproxy".into(),
        }),
        idle: Some(IdleReport {
            asked: 100,
            opened: 99,
            closed: 2,
            refused: Some("connection <refused>".into()),
            memory: Some(crate::generator::idle::Memory {
                before_bytes: 10 << 20,
                after_bytes: 12 << 20,
                bytes_a_connection: 21_183.0,
            }),
        }),
        bottleneck: Bottleneck::Hsm,
        slas: slas(),
        checks: crate::criteria::judge(&Criteria::new(slas(), Some(0)), &histogram, 10, Some(1)),
        warnings: vec!["a warning with <angle brackets>".into()],
        capacity: None,
    }
}

#[test]
fn the_knee_is_the_highest_step_that_passed() {
    let report = sample();
    assert_eq!(knee(&report.steps).unwrap().offered_rate, 2000.0);
    assert_eq!(knee(&report.steps[..3]), None, "never reached");
    assert_eq!(knee(&report.steps[3..]), None, "below the lowest step");
    let decided = |steps| deciding(steps).map(|step| step.offered_rate);
    assert_eq!(
        (decided(&report.steps), decided(&report.steps[..3]), decided(&[])),
        (Some(4000.0), Some(2000.0), None)
    );
}

#[test]
fn an_hsm_that_slows_down_with_the_load_is_the_limit_while_sessions_are_free() {
    let step = |rate: f64, hsm_mean_us, passed, bottleneck| Step {
        offered_rate: rate,
        hsm_mean_us,
        passed,
        bottleneck: Some(bottleneck),
        ..Step::default()
    };
    let steps = |slow: f64, last| {
        [step(100.0, Some(2000.0), true, Bottleneck::Unknown), step(900.0, Some(slow), false, last)]
    };
    assert_eq!(bottleneck(&steps(4000.0, Bottleneck::Unknown)), Bottleneck::HsmUnits);
    assert_eq!(bottleneck(&steps(3900.0, Bottleneck::Unknown)), Bottleneck::Unknown);
    assert_eq!(
        bottleneck(&steps(4000.0, Bottleneck::ProxyCpu)),
        Bottleneck::ProxyCpu,
        "what is seen goes before what is concluded"
    );
    assert_eq!(
        bottleneck(&[
            step(1.0, Some(9.0), true, Bottleneck::Unknown),
            step(2.0, Some(90.0), true, Bottleneck::Unknown)
        ]),
        Bottleneck::Unknown,
        "passed"
    );
    assert_eq!(bottleneck(&[]), Bottleneck::Unknown);
}

#[test]
fn a_step_must_answer_what_is_offered_within_its_bounds() {
    let criteria = |max_errors| Criteria::new(vec![Sla::parse("p99=1ms").unwrap()], max_errors);
    let passes =
        |phase: &PhaseStats, max_errors| Step::of(phase, 1.0, &criteria(max_errors)).passed;
    let mut phase =
        PhaseStats { offered: 1000, right: 1000, throughput: 1000, ..PhaseStats::new() };
    (0..1000).for_each(|_| phase.latency.record(1000).unwrap());
    assert!(passes(&phase, None));
    assert!(!passes(&PhaseStats { throughput: 979, ..phase.clone() }, None));
    assert!(passes(&PhaseStats { throughput: 980, ..phase.clone() }, None));
    // Of few requests some may be on their way at the end.
    let few = |offered, throughput| {
        Step::of(&PhaseStats { offered, throughput, ..phase.clone() }, 1.0, &criteria(None)).served
    };
    assert!(few(21, 18) && !few(21, 17));
    assert!(few(151, 148) && !few(151, 147), "3 are 2 % of 150");
    assert!(
        !Step::of(&PhaseStats { offered: 2, ..PhaseStats::new() }, 1.0, &Criteria::default())
            .served,
        "nothing was answered"
    );
    let failing = |errors| PhaseStats { errors, ..phase.clone() };
    assert!(!passes(&failing(1), None) && !passes(&failing(1), Some(0)));
    assert!(passes(&failing(3), Some(3)) && !passes(&failing(4), Some(3)));
    assert!(!Step::of(&failing(1), 1.0, &Criteria::default()).served, "nobody accepted one");
    (0..20).for_each(|_| phase.latency.record(2000).unwrap());
    let late = Step::of(&phase, 1.0, &criteria(None));
    assert!(!late.passed && late.served);
}

#[test]
fn a_load_is_sustained_that_is_answered_right_in_its_time() {
    let carried = |offered: u64, right, throughput: u64| {
        let phase =
            PhaseStats { offered, right, throughput, errors: offered - right, ..PhaseStats::new() };
        Step::of(&phase, 3.0, &Criteria::default()).is_sustained()
    };
    assert!(carried(1000, 1000, 981) && !carried(1000, 1000, 979), "right, and late");
    assert!(carried(1000, 981, 981) && !carried(1000, 979, 990), "refused");
}

#[test]
fn the_curve_goes_as_far_as_there_are_requests() {
    let percentiles = Percentiles::of(
        &{
            let mut histogram = latency();
            (1..=1000).for_each(|us| histogram.record(us).unwrap());
            histogram
        },
        &[],
    );
    assert!(percentiles.curve.is_sorted());
    let (quantile, us) = *percentiles.curve.last().unwrap();
    assert!((quantile - 0.999).abs() < 1e-9 && us >= 999, "{quantile} {us}");
    assert!(Percentiles::of(&latency(), &[]).curve.is_empty());
}

#[test]
fn a_rate_that_was_tried_several_times_counts_once() {
    let step = |offered_rate: f64, seconds: f64, passed, max| Step {
        offered_rate,
        seconds,
        passed,
        max,
        ..Step::default()
    };
    let steps = [
        step(100.0, 5.0, true, 1),
        step(200.0, 5.0, false, 2),
        step(200.0, 5.0, true, 3),
        step(400.0, 5.0, false, 4),
        step(400.0, 5.0, false, 5),
        step(300.0, 5.0, true, 6),
        step(300.0, 20.0, false, 7),
        step(200.0, 20.0, true, 8),
        step(100.0, 5.0, false, 9),
    ];
    let kept: Vec<u64> = one_for_each_rate(&steps).iter().map(|step| step.max).collect();
    assert_eq!(kept, [1, 8, 7, 5]);
    assert!(one_for_each_rate(&[]).is_empty());
}
