//! What the parts of a request's way cost, each by itself. See `README.md` beside this file.

mod api;
mod budget;
mod fixture;
mod http1;
mod pipeline;
mod policy;
mod sched;
mod sigv4;
mod tls;
mod wake;
mod wrapped;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As long as it takes for the middle half of the samples to lie within a few percent on a quiet
/// machine; all benches together about two minutes.
fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .without_plots()
}

criterion_group! {
    name = parts;
    config = criterion();
    targets = http1::benches, sigv4::benches, api::benches, pipeline::benches,
        policy::benches, sched::benches, wake::benches, tls::benches, budget::benches,
        wrapped::benches
}
criterion_main!(parts);
