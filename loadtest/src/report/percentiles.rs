//! Latencies as percentiles.

use serde::{Deserialize, Serialize};

use crate::criteria::Sla;
use crate::generator::stats::Latency;

/// Percentiles of latencies, microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Percentiles {
    pub count: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub p9999: u64,
    pub max: u64,
    /// At the percentile of each of the report's `slas`, in their order.
    pub at_slas: Vec<u64>,
    /// Quantile (0 to 1) and latency, as far as there are requests for it.
    pub curve: Vec<(f64, u64)>,
}

impl Percentiles {
    /// Of a histogram, with the percentiles that are judged.
    pub fn of(histogram: &Latency, slas: &[Sla]) -> Percentiles {
        let at = |quantile| histogram.value_at_quantile(quantile);
        let mut curve = Vec::new();
        // Ten points for each nine, until a single request decides.
        for tenth in 0..80 {
            let left = 10_f64.powf(-f64::from(tenth) / 10.0);
            if histogram.is_empty() || left * (histogram.len() as f64) < 1.0 {
                break;
            }
            curve.push((1.0 - left, at(1.0 - left)));
        }
        Percentiles {
            count: histogram.len(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
            at_slas: slas.iter().map(|sla| at(sla.quantile)).collect(),
            curve,
        }
    }
}
