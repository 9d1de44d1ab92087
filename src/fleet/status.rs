//! The fleet as it is shown, and where its instances differ.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::summary::Summary;

/// An instance that is or was part of the fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its name, or where it is asked.
    pub name: String,
    /// What it said last; nothing where it has not been heard.
    pub summary: Option<Summary>,
    /// Whether it is there now: its lease holds, or it answers.
    pub present: bool,
    /// How old that is, by the clock here, milliseconds.
    pub age_ms: Option<u64>,
    /// Its clock less the clock here, when it was heard, milliseconds.
    pub clock_ms: Option<i64>,
    /// Why it is not there.
    pub problem: Option<String>,
}

/// All that an instance knows of its fleet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// `etcd` or `peers`.
    pub by: String,
    /// Name of the instance that was asked.
    pub asked: String,
    /// Whether etcd answers it.
    pub connected: bool,
    /// For how long it has not heard from etcd, seconds.
    pub age_seconds: Option<f64>,
    /// What is wrong with the way to etcd.
    pub problem: Option<String>,
    /// All that are known, by name.
    pub members: Vec<Member>,
    /// Sequence of each document that it holds; 0 where it was removed.
    pub documents: BTreeMap<String, u64>,
    /// Values in etcd that it refuses, by key, and why.
    pub refused: BTreeMap<String, String>,
}

/// Which of these are not what most say. Where no value is in the majority, all but the first of
/// the most frequent are.
pub fn odd_ones<T: Eq + std::hash::Hash>(values: &[T]) -> Vec<bool> {
    let mut counts: HashMap<&T, (usize, usize)> = HashMap::new();
    for (at, value) in values.iter().enumerate() {
        counts.entry(value).or_insert((0, at)).0 += 1;
    }
    let usual = counts.into_iter().max_by_key(|(_, (count, at))| (*count, usize::MAX - at));
    let usual = usual.map(|(value, _)| value);
    values.iter().map(|value| Some(value) != usual).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odd_one_stands_out() {
        assert_eq!(odd_ones::<u8>(&[]), [false; 0]);
        assert_eq!(odd_ones(&[1]), [false]);
        assert_eq!(odd_ones(&[1, 1, 1]), [false; 3]);
        assert_eq!(odd_ones(&[2, 1, 1]), [true, false, false]);
        assert_eq!(odd_ones(&[1, 2]), [false, true]);
    }
}
