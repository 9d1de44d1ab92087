//! Whether the key managers of a key store hold the same keys.

use super::{Failure, Holder, Tally, job, print};
use crate::config::KeyStore;
use crate::key_manager::Fault;
use crate::key_manager::replica_check::Challenge;

/// Prints what each key manager of the key store can decrypt of what the others encrypt.
pub(super) fn tell(
    store: &KeyStore,
    holders: &mut [Holder],
    tally: &mut Tally,
) -> Result<(), Failure> {
    let names: Vec<&str> =
        store.key_managers.iter().map(|&index| holders[index].name.as_str()).collect();
    print(&format!("key store {:?}: replicas in {}\n", store.path_prefix, names.join(", ")))?;
    for &index in store.key_managers.iter().filter(|&&index| holders[index].execute.is_none()) {
        print(&format!(
            "  {} could not be opened, and is left out of what follows\n",
            holders[index].name
        ))?;
    }
    let versions = store.keys.iter().flat_map(|key| key.usable().map(|version| (&key.id, version)));
    for (id, version) in versions {
        let serving: Vec<usize> = store
            .key_managers
            .iter()
            .copied()
            .filter(|&index| holders[index].serves.contains(&version.label))
            .collect();
        let told = if serving.len() < 2 {
            vec!["not compared: no two of them can serve it".to_owned()]
        } else {
            let Compared { same, different, faults } = compare(&version.label, &serving, holders);
            tally.different += usize::from(!different.is_empty());
            tally.uncompared += usize::from(different.is_empty() && !faults.is_empty());
            let same = (different.is_empty() && faults.is_empty())
                .then(|| format!("the same key in {}", same.join(", ")));
            same.into_iter().chain(different).chain(faults).collect()
        };
        for told in told {
            print(&format!("  -> key {} (label {:?}): {told}\n", id, version.label))?;
        }
    }
    Ok(())
}

struct Compared {
    /// Names of those that were compared.
    same: Vec<String>,
    different: Vec<String>,
    faults: Vec<String>,
}

/// Has each of the `serving` encrypt, and each other one decrypt that.
fn compare(label: &str, serving: &[usize], holders: &mut [Holder]) -> Compared {
    let mut ask = |index: usize, task| match &mut holders[index].execute {
        Some(execute) => execute(job(label, task)),
        None => Err(Fault::Timeout),
    };
    let challenges: Vec<Result<Challenge, Fault>> =
        serving.iter().map(|&index| Challenge::encrypt(|task| ask(index, task))).collect();
    // By place in `serving`.
    let mut decrypts = |other: usize, one: usize| match &challenges[one] {
        Ok(challenge) => challenge.is_decrypted(|task| ask(serving[other], task)),
        Err(fault) => Err(fault.clone()),
    };
    let mut pairs = Vec::new();
    for a in 0..serving.len() {
        for b in a + 1..serving.len() {
            pairs.push((a, b, decrypts(b, a), decrypts(a, b)));
        }
    }
    let name = |place: usize| holders[serving[place]].name.clone();
    let mut compared = Compared {
        same: (0..serving.len()).map(name).collect(),
        different: Vec::new(),
        faults: Vec::new(),
    };
    for (a, b, b_decrypts, a_decrypts) in pairs {
        let (a, b) = (name(a), name(b));
        let one_way = |one: &str, other: &str| {
            format!("DIFFERENT KEYS: what {one} encrypts, {other} cannot decrypt")
        };
        match (&b_decrypts, &a_decrypts) {
            (Ok(false), Ok(false)) => compared.different.push(format!(
                "DIFFERENT KEYS: {a} and {b} hold different keys: what one encrypts, \
                    the other cannot decrypt"
            )),
            (Ok(false), _) => compared.different.push(one_way(&a, &b)),
            (_, Ok(false)) => compared.different.push(one_way(&b, &a)),
            _ => {}
        }
        if let Some(fault) = b_decrypts.err().or(a_decrypts.err()) {
            compared.faults.push(format!("NOT COMPARED in {a} and {b}: {fault}"));
        }
    }
    compared
}
