//! The hand-over between a glommio executor and lanes: outcomes come back to the shard, deadlines
//! are kept while the HSM hangs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, timer};
use xksd::key_manager::{
    Answer, Concurrency, Engine, Fault, Job, KeyRef, ManagerInfo, Outcome, Session, Task,
};
use xksd::limits::DEADLINE_TICK;
use xksd::sched::{Inbox, Mailbox, Pool, PoolSettings, Share};

struct TestEngine;
struct TestSession;

impl Engine for TestEngine {
    fn open(&self) -> Result<Box<dyn Session>, Fault> {
        Ok(Box::new(TestSession))
    }
    fn info(&self) -> Result<ManagerInfo, Fault> {
        Ok(ManagerInfo::default())
    }
    fn concurrency(&self) -> Concurrency {
        Concurrency::PerSession
    }
}

impl Session for TestSession {
    fn execute(&mut self, job: Job) -> Outcome {
        if &*job.key.label == "hang" {
            std::thread::sleep(Duration::from_millis(300));
        }
        match job.task {
            Task::Encrypt { plaintext, .. } => Ok(Answer::Encrypted {
                iv: vec![0; 12],
                ciphertext: plaintext.to_vec(),
                tag: [0; 16],
                integrity: None,
            }),
            _ => Err(Fault::KeyUsage),
        }
    }
    fn probe(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    fn is_usable(&self) -> bool {
        true
    }
}

fn job(label: &str, number: u32, within: Duration) -> Job {
    let task = Task::Encrypt {
        plaintext: number.to_be_bytes().to_vec().into(),
        aad: Vec::new(),
        integrity: None,
    };
    Job { key: KeyRef::first(label), task, deadline: Instant::now() + within }
}

#[test]
fn jobs_go_from_glommio_to_lanes_and_back() {
    let mailboxes = vec![Mailbox::new(), Mailbox::new()];
    let times = (Duration::from_millis(100), Duration::from_secs(10));
    let settings = PoolSettings {
        name: "hsm-a".to_owned(),
        lanes: 4,
        shards: mailboxes.len(),
        hang_after: times.0,
        open_hang_after: times.1,
    };
    let pool = Pool::start(settings, Arc::new(TestEngine), mailboxes.clone());
    let shards: Vec<_> = (mailboxes.into_iter().enumerate())
        .map(|(shard, mailbox)| {
            let pool = pool.clone();
            let builder = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 * 1024);
            builder
                .spawn(move || async move { run_shard(Inbox::new(shard, mailbox), pool).await })
                .unwrap()
        })
        .collect();
    for shard in shards {
        shard.join().unwrap();
    }
    assert_eq!(pool.stats().jobs_total, 2 * 2001);
    assert!(pool.stop(Instant::now() + Duration::from_secs(60)));
}

async fn run_shard(inbox: std::rc::Rc<Inbox>, pool: Arc<Pool>) {
    let latency = Latency::Matters(Duration::from_micros(200));
    let queue = glommio::executor().create_task_queue(Shares::default(), latency, "hsm");
    let deliver = glommio::spawn_local_into(inbox.deliver(), queue).unwrap();
    let expiring = inbox.clone();
    let expire = glommio::spawn_local(async move {
        loop {
            timer::sleep(DEADLINE_TICK).await;
            expiring.expire(Instant::now());
        }
    });
    let mut connections = Vec::new();
    for connection in 0..20 {
        let (inbox, pool) = (inbox.clone(), pool.clone());
        let serve = async move {
            for n in connection * 100..connection * 100 + 100 {
                let delivered = inbox
                    .submit(&pool, Share::OWN, job("k", n, Duration::from_secs(60)))
                    .unwrap()
                    .await;
                let Ok(Answer::Encrypted { ciphertext, .. }) = delivered.outcome else {
                    panic!("must be encrypted")
                };
                assert_eq!(ciphertext, n.to_be_bytes());
            }
        };
        connections.push(glommio::spawn_local_into(serve, queue).unwrap());
    }
    for connection in connections {
        connection.await;
    }
    let hung =
        inbox.submit(&pool, Share::OWN, job("hang", 0, Duration::from_millis(20))).unwrap().await;
    assert_eq!(hung.outcome.unwrap_err(), Fault::Timeout);
    assert_eq!(inbox.pending(), 0);
    expire.cancel().await;
    deliver.cancel().await;
}
