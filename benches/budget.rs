//! One encryption counted towards the invocation budget of its key.

use criterion::Criterion;
use xksd::policy::budget::{Budget, Exhausted, ShardBudget};

pub fn benches(c: &mut Criterion) {
    let budget = Budget::new(0);
    budget.set_reserved(u64::MAX);
    let shard = ShardBudget::new(budget, Exhausted::Refuse);
    assert!(shard.take().is_ok());
    c.bench_function("budget/one count", |b| b.iter(|| shard.take()));
}
