//! Measures proposals and linearizable reads of three nodes in one process, over real sockets with real fsync.
//!
//! `cargo run -p portolan-raft --features testing --example throughput [proposers] [seconds] [append depth]
//! [append messages]`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use raft::testing::{Cluster, add};

static DEPTH: AtomicUsize = AtomicUsize::new(1);
static MESSAGES: AtomicUsize = AtomicUsize::new(2);

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<usize>().expect("a number"));
    let proposers = numbers.next().unwrap_or(64);
    let seconds = numbers.next().unwrap_or(5) as u64;
    DEPTH.store(numbers.next().unwrap_or(1), Ordering::Relaxed);
    MESSAGES.store(numbers.next().unwrap_or(2), Ordering::Relaxed);
    let cluster = Cluster::start(3, |config| {
        config.limits.append_depth = DEPTH.load(Ordering::Relaxed);
        config.limits.append_messages = MESSAGES.load(Ordering::Relaxed);
    })
    .await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    for (name, at) in [("proposals on the leader", leader), ("proposals on a follower", follower)] {
        let group = cluster.group(at).clone();
        let payload = add(&"x".repeat(1000), 1);
        measure(name, proposers, seconds, move || {
            let (group, payload) = (group.clone(), payload.clone());
            async move { group.propose(payload, Duration::from_secs(10)).await.is_ok() }
        })
        .await;
    }
    for (name, at) in [("reads on the leader", leader), ("reads on a follower", follower)] {
        let group = cluster.group(at).clone();
        measure(name, proposers * 4, seconds, move || {
            let group = group.clone();
            async move { group.linearize(Duration::from_secs(10)).await.is_ok() }
        })
        .await;
    }
    cluster.converge().await;
}

async fn measure<F>(name: &str, tasks: usize, seconds: u64, act: impl Fn() -> F + Clone + Send + 'static)
where
    F: Future<Output = bool> + Send + 'static,
{
    let done = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|_| {
            let (done, act) = (done.clone(), act.clone());
            tokio::spawn(async move {
                let (mut took, mut failed) = (Vec::new(), 0_usize);
                while !done.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    if act().await {
                        took.push(began.elapsed());
                    } else {
                        failed += 1;
                    }
                }
                (took, failed)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    done.store(true, Ordering::Relaxed);
    let (mut all, mut failures) = (Vec::new(), 0);
    for task in running {
        let (took, failed) = task.await.expect("no panic");
        all.extend(took);
        failures += failed;
    }
    let rate = all.len() as f64 / began.elapsed().as_secs_f64();
    all.sort_unstable();
    let at = |share: f64| all.get((all.len() as f64 * share) as usize).copied().unwrap_or_default();
    println!("{name}: {rate:.0}/s with {tasks} tasks, p50 {:?}, p99 {:?}, failed {failures}", at(0.5), at(0.99));
}
