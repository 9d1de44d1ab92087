//! A fleet without etcd: each instance asks the admin listeners of the others.

use std::sync::Arc;
use std::thread::Builder;
use std::time::Instant;

use arc_swap::ArcSwap;
use serde_json::Value;

use super::reach::Reach;
use super::{BOUNDS, unix_ms};
use crate::config::Url;
use crate::control::http_client::{self, Request};
use crate::fleet::Summary;
use crate::fleet::document::is_name;
use crate::fleet::status::Member;
use crate::limits::FLEET_SUMMARY_BYTES_MAX;

/// The others.
pub struct Peers {
    reach: Arc<ArcSwap<Reach>>,
}

impl Peers {
    /// Behind their admin listeners.
    pub fn new(reach: Arc<ArcSwap<Reach>>) -> Peers {
        Peers { reach }
    }

    /// How they are reached now.
    pub fn reach(&self) -> Arc<Reach> {
        self.reach.load_full()
    }

    /// Asks all at once: one that does not answer must not keep the others' answers away.
    pub fn ask(&self) -> Vec<Member> {
        let reach = &self.reach();
        std::thread::scope(|scope| {
            let ask = |url| {
                let thread = Builder::new().name("xksd-peer".into());
                (url, thread.spawn_scoped(scope, move || reach.ask(url)))
            };
            let asked: Vec<_> = reach.urls.iter().map(ask).collect();
            let member = |(url, thread): (&Url, std::io::Result<_>)| {
                let heard: Result<Member, String> = match thread {
                    Ok(thread) => std::thread::ScopedJoinHandle::join(thread)
                        .unwrap_or_else(|_| Err("the question failed".to_owned())),
                    Err(error) => Err(error.to_string()),
                };
                heard.unwrap_or_else(|why| Member {
                    name: url.to_string(),
                    problem: Some(why),
                    ..Member::default()
                })
            };
            asked.into_iter().map(member).collect()
        })
    }
}

impl Reach {
    fn ask(&self, url: &Url) -> Result<Member, String> {
        let start = Instant::now();
        let answer = http_client::send(url, self.tls.as_ref(), Request::get("/status"), BOUNDS)?;
        if answer.status != 200 {
            return Err(format!("{url}/status answered {}", answer.status));
        }
        let status: Value = serde_json::from_slice(&answer.body()?)
            .map_err(|error| format!("{url}/status: {error}"))?;
        // It was said somewhere between question and answer.
        let middle = unix_ms().saturating_sub(start.elapsed().as_millis() as u64 / 2);
        let instance = &status["instance"];
        // As in etcd. Nobody has sealed it.
        if instance.to_string().len() > FLEET_SUMMARY_BYTES_MAX {
            return Err(format!("{url}/status says more of its instance than any xksd does"));
        }
        let summary: Summary = serde_json::from_value(instance.clone())
            .map_err(|_| format!("{url}/status says nothing of its instance: an older xksd?"))?;
        if !summary.name.is_empty() && !is_name(&summary.name) {
            return Err(format!("{url}/status names its instance as no configuration can"));
        }
        // It has no [fleet].
        let is_nameless = summary.name.is_empty();
        Ok(Member {
            name: if is_nameless { url.to_string() } else { summary.name.clone() },
            clock_ms: Some(summary.clock_ms(middle)),
            summary: Some(summary),
            present: true,
            age_ms: Some(0),
            problem: None,
        })
    }
}
